//! A command's way to its data: where it begins, the data that comes unasked, and the data that is asked for.

use block::{BlockRange, BufMut, Bytes, Geometry};

use super::full::{Current, Placed, Violation};
use super::receive::Sink;
use super::tasks::{Fate, Pass, Task, Work};
use super::{ConnectionId, Outbox, Target};
use crate::pdu::{self, Bhs, DataOut, NO_TAG, RejectReason};
use crate::scsi::cdb::{self, Access, Command};
use crate::scsi::{Failure, Sense};

/// Bytes for which R2Ts may be outstanding in one session: more commands wait in order.
const RECEIVING_BYTES: usize = 4 << 20;

/// The only logical unit, as on the wire, in either of the two ways to say it.
const UNIT: [u64; 2] = [0, 0x4000_0000_0000_0000];

impl Target {
    /// The header of a SCSI Command whose number is right.
    pub(super) fn on_command(
        &mut self,
        id: ConnectionId,
        command: &pdu::Command,
        len: usize,
        bhs: &Bhs,
        _out: &mut Outbox,
    ) -> Result<Placed, Violation> {
        let has_unit = UNIT.contains(&command.lun);
        let plan = self.plan(id, command, has_unit);
        let Some(export) = self.connection(id).export() else { return Err(Violation) };
        let geometry = self.lun(export).unit.geometry;
        let connection = self.connection(id);
        let expected = command.expected as usize;
        let unsolicited = (connection.params.first_burst as usize).min(expected);
        // Data without the W bit, more than may come unasked, and the like: the initiator does not know what it does.
        let is_wrong = len > 0 && (!command.writes || !connection.params.immediate_data || len > unsolicited)
            || !command.is_final && (!command.writes || connection.params.initial_r2t);
        if is_wrong {
            return Err(Violation);
        }
        let needed = plan.as_ref().map_or(0, |c| c.data_out(&geometry));
        let plan = plan.and_then(|c| check_lengths(c, command, needed, &geometry));
        let wanted = plan.as_ref().map_or(0, |c| c.data_out(&geometry));
        let task = Task {
            itt: command.itt,
            immediate: command.order.immediate,
            expected: command.expected,
            has_unit,
            plan,
            needed,
            wanted,
            got: len,
            // What comes only when it is asked for gets its memory then.
            buf: (wanted > 0 && (len > 0 || !command.is_final)).then(|| BufMut::new(wanted)),
            data_sn: 0,
            r2ts: 0,
            work: Work::Unsolicited,
            fate: Fate::Answer,
            pass: Pass::None,
        };
        let slot = connection.tasks.insert(task);
        let current = Current::Command { slot, is_final: command.is_final, bhs: *bhs };
        if wanted == 0 || len == 0 {
            return Ok(Placed::dropped(current));
        }
        Ok(Placed { current, sink: Sink::Task(slot), at: 0, keep: wanted })
    }

    /// What a command is, or why it fails.
    fn plan(&mut self, id: ConnectionId, command: &pdu::Command, has_unit: bool) -> Result<Command, Failure> {
        let Some(session) = self.connection(id).session.clone() else { return Err(Sense::NO_LUN.into()) };
        let Some(export) = session.export else { return Err(Sense::NO_LUN.into()) };
        let lun = self.lun(export);
        let plan = cdb::parse(&command.cdb, &lun.unit.geometry);
        if !has_unit {
            return match plan {
                Ok(c @ (Command::Inquiry { .. } | Command::ReportLuns { .. } | Command::RequestSense { .. })) => Ok(c),
                Ok(_) | Err(_) => Err(Sense::NO_LUN.into()),
            };
        }
        let access = plan.as_ref().map_or(Access::Query, Command::access);
        // A RELEASE of somebody else's reservation does nothing, and is no conflict.
        let is_idle_release =
            matches!(plan, Ok(Command::Release)) && lun.reservations.admits(&session.port, Access::Free);
        let admitted = lun.reservations.admits(&session.port, access);
        if access != Access::Free
            && let Some(attention) = self.connection(id).attentions.pop_front()
        {
            return Err(attention.into());
        }
        if admitted || is_idle_release { Ok(plan?) } else { Err(Failure::Conflict) }
    }

    /// The header of a Data-Out.
    pub(super) fn on_data_out(
        &mut self,
        id: ConnectionId,
        data: &DataOut,
        len: usize,
        bhs: &Bhs,
    ) -> Result<Placed, Violation> {
        let connection = self.connection(id);
        // Its command was aborted.
        let Some(slot) = connection.tasks.find(data.itt) else { return Ok(Placed::dropped(Current::Ignored)) };
        let first_burst = connection.params.first_burst as usize;
        let Some(task) = connection.tasks.get_mut(slot) else { return Err(Violation) };
        if task.fate == Fate::Aborted {
            return Ok(Placed::dropped(Current::Ignored));
        }
        let most = match task.work {
            Work::Unsolicited if data.ttt == NO_TAG => first_burst.min(task.expected as usize),
            Work::Solicited { ttt, end } if data.ttt == ttt => end,
            _ => return Err(Violation),
        };
        let end = task.got + len;
        if data.offset as usize != task.got || data.data_sn != task.data_sn || end > most {
            return Err(Violation);
        }
        let is_whole = match task.work {
            // What was asked for comes whole.
            Work::Solicited { .. } => (end == most) == data.is_final,
            _ => true,
        };
        if !is_whole {
            return Err(Violation);
        }
        let (at, keep) = (task.got.min(task.wanted), task.wanted.saturating_sub(task.got).min(len));
        task.got = end;
        task.data_sn += 1;
        if matches!(task.work, Work::Solicited { .. }) {
            connection.tasks.receiving -= len;
        }
        let current = Current::Data { slot, is_final: data.is_final, bhs: *bhs };
        if keep == 0 {
            return Ok(Placed::dropped(current));
        }
        Ok(Placed { current, sink: Sink::Task(slot), at, keep })
    }

    /// Data of a command came damaged: the command fails once all of it is there.
    pub(super) fn data_damaged(&mut self, id: ConnectionId, slot: u32, bhs: &Bhs) {
        let connection = self.connection(id);
        if let Some(task) = connection.tasks.get_mut(slot) {
            task.plan = Err(Sense::CRC.into());
        }
        connection.reject(bhs, RejectReason::DataDigest);
    }

    /// A sequence of data has ended: the command runs, or asks for more.
    pub(super) fn data_arrived(&mut self, id: ConnectionId, slot: u32, out: &mut Outbox) {
        let connection = self.connection(id);
        // It may have been aborted while its data came.
        let Some(task) = connection.tasks.get_mut(slot) else { return };
        if task.plan.is_err() || task.got >= task.wanted {
            if let Some(Work::Solicited { .. }) = connection.tasks.set(slot, Work::Unsolicited) {
                self.ask_for_data(id);
            }
            return self.execute(id, slot, out);
        }
        task.data_sn = 0;
        if task.r2ts == 0 {
            connection.tasks.set(slot, Work::Queued);
            connection.tasks.queued.push_back(slot);
        } else {
            connection.send_r2t(slot);
        }
        self.ask_for_data(id);
    }

    /// Sends R2Ts to commands that wait, as far as there is room.
    pub(super) fn ask_for_data(&mut self, id: ConnectionId) {
        let connection = self.connection(id);
        while connection.tasks.receiving < RECEIVING_BYTES
            && let Some(slot) = connection.tasks.queued.pop_front()
        {
            connection.send_r2t(slot);
        }
    }
}

impl super::Connection {
    /// Asks for the next burst of a command's data.
    fn send_r2t(&mut self, slot: u32) {
        let (ttt, burst) = (self.ttt(), self.params.max_burst as usize);
        let Some(task) = self.tasks.get_mut(slot) else { return };
        let end = task.wanted.min(task.got + burst);
        let len = end - task.got;
        let bhs = pdu::r2t(task.itt, ttt, task.r2ts, task.got as u32, len as u32);
        task.r2ts += 1;
        task.buf.get_or_insert_with(|| BufMut::new(task.wanted));
        self.tasks.receiving += len;
        self.tasks.set(slot, Work::Solicited { ttt, end });
        self.send(bhs, block::Data::empty(), super::connection::Numbered::Next);
    }
}

/// What a command does with as much data as the initiator offers: a write is cut to the blocks that are offered, and the
/// residual tells how much was left out; whatever else needs more fails, and so does what must have exactly as much.
fn check_lengths(
    command: Command,
    header: &pdu::Command,
    needed: usize,
    geometry: &Geometry,
) -> Result<Command, Failure> {
    let offered = if header.writes { header.expected as usize } else { 0 };
    let cut = |range: BlockRange| BlockRange { len: geometry.block_size.blocks_in(Bytes(offered as u64)), ..range };
    let is_cut = needed > offered && geometry.block_size.divides(offered as u64);
    match command {
        Command::Write { .. } | Command::WriteVerify { .. } if is_cut && offered == 0 => Ok(Command::Prefetch),
        Command::Write { range, durability } if is_cut => Ok(Command::Write { range: cut(range), durability }),
        Command::WriteVerify { range, compare } if is_cut => Ok(Command::WriteVerify { range: cut(range), compare }),
        Command::CompareAndWrite { .. } if needed == 0 && offered > 0 => Err(Sense::invalid_field(13).into()),
        Command::WriteSame { .. } | Command::CompareAndWrite { .. } if needed != offered => {
            Err(Sense::INVALID_INFORMATION_UNIT.into())
        }
        _ if needed > offered => Err(Sense::INVALID_INFORMATION_UNIT.into()),
        _ => Ok(command),
    }
}
