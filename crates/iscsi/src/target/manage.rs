//! Task management (11.5): commands are aborted, and the answer waits until none of them can still have an effect.

use super::tasks::{Fate, Work};
use super::{Aborting, ConnectionId, Effect, ExportId, Outbox, Target};
use crate::pdu::{self, Function, TaskAnswer, TaskRequest};
use crate::scsi::Sense;

impl Target {
    /// A task management request.
    pub(super) fn on_task(&mut self, id: ConnectionId, request: TaskRequest, out: &mut Outbox) {
        let Some(export) = self.connection(id).export() else { return };
        let names_unit = matches!(request.lun, 0 | 0x4000_0000_0000_0000);
        let mine = || vec![id];
        let affected = match request.function {
            Function::AbortTask => return self.abort_one(id, &request, out),
            Function::Reassign => return self.task_reply(id, request.itt, TaskAnswer::NoReassign, out),
            Function::ClearAca | Function::Unknown => {
                return self.task_reply(id, request.itt, TaskAnswer::Unsupported, out);
            }
            Function::AbortTaskSet | Function::ClearTaskSet | Function::LunReset if !names_unit => {
                return self.task_reply(id, request.itt, TaskAnswer::NoLun, out);
            }
            Function::AbortTaskSet => mine(),
            Function::ClearTaskSet => {
                self.attend_others(export, id, Sense::COMMANDS_CLEARED);
                self.sessions_of(export)
            }
            Function::LunReset | Function::WarmReset | Function::ColdReset => {
                self.lun(export).reservations.reset();
                self.attend_others(export, id, Sense::RESET);
                self.connection(id).attention(Sense::RESET);
                self.sessions_of(export)
            }
        };
        let waits_for = affected.into_iter().flat_map(|session| self.abort_session(session, out)).collect();
        self.aborting.push(Aborting { connection: id, itt: request.itt, waits_for });
        self.answer_aborts(out);
        if request.function == Function::ColdReset {
            for session in self.sessions_of(export) {
                self.finish(session, out);
            }
        }
    }

    fn abort_one(&mut self, id: ConnectionId, request: &TaskRequest, out: &mut Outbox) {
        let Some(slot) = self.connection(id).tasks.find(request.referenced) else {
            return self.task_reply(id, request.itt, TaskAnswer::NoTask, out);
        };
        let waits_for = self.abort_task(id, slot, out).then_some((id, slot)).into_iter().collect();
        self.aborting.push(Aborting { connection: id, itt: request.itt, waits_for });
        self.answer_aborts(out);
    }

    /// Aborts the commands of a session. Returns those at the disk, whose end is to be waited for.
    pub(super) fn abort_session(&mut self, id: ConnectionId, out: &mut Outbox) -> Vec<(ConnectionId, u32)> {
        let slots: Vec<u32> = self.connection(id).tasks.iter().map(|(slot, _)| slot).collect();
        slots.into_iter().filter(|slot| self.abort_task(id, *slot, out)).map(|slot| (id, slot)).collect()
    }

    /// Aborts a command; `true` when it is at the disk, and ends when the disk has answered.
    pub(super) fn abort_task(&mut self, id: ConnectionId, slot: u32, out: &mut Outbox) -> bool {
        let connection = self.connection(id);
        let export = connection.export();
        let Some(task) = connection.tasks.get_mut(slot) else { return false };
        if task.is_at_disk() {
            task.fate = Fate::Aborted;
            return true;
        }
        let was_gated = matches!(task.work, Work::Gated(..));
        if connection.receiver.task() == Some(slot) {
            connection.receiver.divert();
        }
        connection.tasks.remove(slot);
        self.ask_for_data(id);
        if let Some(export) = export.filter(|_| was_gated) {
            self.lun(export).gate.waiting.retain(|waiting| *waiting != (id, slot));
            self.open_gate(export, out);
        }
        false
    }

    /// A command at the disk has ended: whoever waited for it goes on.
    pub(super) fn abort_settled(&mut self, id: ConnectionId, slot: u32, out: &mut Outbox) {
        if self.aborting.is_empty() {
            return;
        }
        for aborting in &mut self.aborting {
            aborting.waits_for.retain(|waited| *waited != (id, slot));
        }
        self.answer_aborts(out);
    }

    fn answer_aborts(&mut self, out: &mut Outbox) {
        let (settled, waiting) = std::mem::take(&mut self.aborting).into_iter().partition(|a| a.waits_for.is_empty());
        self.aborting = waiting;
        let settled: Vec<Aborting> = settled;
        for aborting in settled {
            self.task_reply(aborting.connection, aborting.itt, TaskAnswer::Complete, out);
        }
    }

    fn task_reply(&mut self, id: ConnectionId, itt: u32, answer: TaskAnswer, out: &mut Outbox) {
        let mut bhs = pdu::header(pdu::opcode::TASK_RESPONSE, pdu::FINAL, itt);
        bhs[2] = answer as u8;
        self.connection(id).send(bhs, block::Data::empty(), super::connection::Numbered::Status);
        out.push(Effect::Wake(id));
    }

    /// The other sessions of a unit learn of something.
    pub(super) fn attend_others(&mut self, export: ExportId, id: ConnectionId, sense: Sense) {
        for other in self.sessions_of(export).into_iter().filter(|other| *other != id) {
            self.connection(other).attention(sense);
        }
    }
}
