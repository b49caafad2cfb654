//! How targets, sessions and connections end, and what waits for their end.

use block::{Data, Geometry, Instant, limits};

use super::connection::{FINISHING, Numbered, Presence, SILENCE, Stage, Timer};
use super::{ConnectionId, Effect, Export, ExportError, ExportId, ExportStats, Gate, Lun, LunState, Outbox, Target};
use crate::pdu;
use crate::scsi::Sense;
use crate::scsi::pages::Unit;
use crate::scsi::reserve::Reservations;

/// Seconds that an initiator waits before it comes back to a target that has gone.
const COME_BACK: u16 = 2;

impl Target {
    /// Serves a disk.
    pub fn export(&mut self, export: Export) -> Result<ExportId, ExportError> {
        if self.by_name.contains_key(&export.name) {
            return Err(ExportError::Exists(export.name));
        }
        if self.luns.len() >= limits::SUBSYSTEMS {
            return Err(ExportError::Full);
        }
        let Export { name, uuid, product, geometry } = export;
        let unit = Unit {
            target: name.clone(),
            portal_group: self.options.portal_group,
            uuid,
            product,
            revision: self.options.revision.clone(),
            run: self.options.run,
            geometry,
        };
        let lun = Lun {
            unit,
            state: LunState::Serving,
            stats: ExportStats::default(),
            reservations: Reservations::default(),
            gate: Gate::default(),
        };
        let id = ExportId(self.luns.insert(lun) as u32);
        self.by_name.insert(name, id);
        Ok(id)
    }

    /// Serves a disk no longer: initiators get the answers of what is at the disk, then their sessions are ended.
    /// [`Effect::Idle`] says when nothing is left.
    pub fn unexport(&mut self, id: ExportId, out: &mut Outbox) {
        let lun = self.lun(id);
        assert_eq!(lun.state, LunState::Serving, "{} is unexported once", lun.unit.target);
        lun.state = LunState::Retiring;
        let name = lun.unit.target.clone();
        self.by_name.remove(&name);
        for session in self.sessions_of(id) {
            self.finish(session, out);
        }
        self.retire(id, out);
    }

    /// Ends all connections in an orderly way, for the end of the target: they answer what is at the disk, then close.
    pub fn finish_all(&mut self, out: &mut Outbox) {
        for index in self.connections.iter().map(|(index, _)| index).collect::<Vec<_>>() {
            self.finish(ConnectionId(index as u32), out);
        }
    }

    /// The size of a served disk has changed.
    pub fn resize(&mut self, id: ExportId, geometry: Geometry) {
        if self.lun(id).unit.geometry == geometry {
            return;
        }
        self.lun(id).unit.geometry = geometry;
        for session in self.sessions_of(id) {
            self.connection(session).attention(Sense::CAPACITY_CHANGED);
        }
    }

    /// The socket is gone, or is closed at the machine's wish.
    pub fn on_lost(&mut self, id: ConnectionId, out: &mut Outbox) {
        self.close(id, out);
    }

    /// When [`Target::on_time`] is wanted.
    pub fn deadline(&self) -> Option<Instant> {
        let timers = self.connections.iter().filter_map(|(_, c)| match c.timer {
            Timer::Off => None,
            Timer::After(_) => Some(Instant(0)),
            Timer::At(at) => Some(at),
        });
        timers.min()
    }

    /// Tells the time: timers are started, silent initiators are asked, and given up.
    pub fn on_time(&mut self, now: Instant, out: &mut Outbox) {
        let mut late = Vec::new();
        for (index, connection) in self.connections.iter_mut() {
            match connection.timer {
                Timer::After(delay) => connection.timer = Timer::At(now + delay),
                Timer::At(at) if at <= now => late.push(ConnectionId(index as u32)),
                Timer::At(_) | Timer::Off => {}
            }
        }
        for id in late {
            let connection = self.connection(id);
            match (connection.stage, connection.presence) {
                (Stage::Full, Presence::Heard) => connection.presence = Presence::Silent,
                (Stage::Full, Presence::Silent) => {
                    connection.ping();
                    out.push(Effect::Wake(id));
                }
                _ => {
                    self.close(id, out);
                    continue;
                }
            }
            self.connection(id).timer = Timer::At(now + SILENCE);
        }
    }

    /// Takes no more commands from a connection, but answers those at the disk.
    pub(super) fn finish(&mut self, id: ConnectionId, out: &mut Outbox) {
        let connection = self.connection(id);
        match connection.stage {
            Stage::Full if connection.tasks.at_disk() == 0 => {
                // With commands at the disk it comes after their answers.
                connection.send(pdu::async_drop(COME_BACK), Data::empty(), Numbered::Status);
            }
            Stage::Login | Stage::Full | Stage::LoggingOut { .. } => {}
            Stage::Held => return self.close(id, out),
            Stage::Finishing | Stage::Closed | Stage::Ended => return,
        }
        self.stop_listening(id, Stage::Finishing, out);
        self.connection(id).timer = Timer::After(FINISHING);
        out.push(Effect::Wake(id));
    }

    /// Closes a connection now.
    pub(super) fn close(&mut self, id: ConnectionId, out: &mut Outbox) {
        if matches!(self.connection(id).stage, Stage::Closed | Stage::Ended) {
            return;
        }
        self.stop_listening(id, Stage::Closed, out);
        // Nothing more is begun for what is at the disk.
        self.abort_session(id, out);
        let connection = self.connection(id);
        connection.output.clear();
        connection.timer = Timer::Off;
        out.push(Effect::Wake(id));
        self.end_if_drained(id, out);
    }

    /// What is received is not looked at any more; commands that are not at the disk are forgotten.
    pub(super) fn stop_listening(&mut self, id: ConnectionId, stage: Stage, out: &mut Outbox) {
        self.connection(id).stage = stage;
        let slots: Vec<u32> =
            self.connection(id).tasks.iter().filter(|(_, task)| !task.is_at_disk()).map(|(slot, _)| slot).collect();
        for slot in slots {
            self.abort_task(id, slot, out);
        }
        if matches!(stage, Stage::LoggingOut { .. }) {
            // The initiator ends its commands by logging out.
            self.abort_session(id, out);
        }
        self.connection(id).receiver.discard();
        out.push(Effect::Timer);
    }

    /// What happens once nothing of a connection is at the disk.
    pub(super) fn end_if_drained(&mut self, id: ConnectionId, out: &mut Outbox) {
        let connection = self.connection(id);
        if connection.tasks.at_disk() > 0 {
            return;
        }
        match connection.stage {
            Stage::LoggingOut { itt } => {
                connection.logout_reply(itt, 0);
                connection.stage = Stage::Finishing;
                connection.timer = Timer::After(FINISHING);
                out.extend([Effect::Wake(id), Effect::Timer]);
            }
            Stage::Closed => {
                connection.stage = Stage::Ended;
                out.push(Effect::Wake(id));
                let session = connection.session.take();
                self.aborting.retain(|a| a.connection != id);
                if let Some(session) = session
                    && let Some(export) = session.export
                {
                    // The old kind of reservation ends with its session.
                    self.lun(export).reservations.release_old(&session.port);
                    self.retire(export, out);
                }
            }
            Stage::Finishing if connection.session.is_some() => {
                connection.send(pdu::async_drop(COME_BACK), Data::empty(), Numbered::Status);
            }
            Stage::Login | Stage::Held | Stage::Full | Stage::Finishing | Stage::Ended => {}
        }
        self.release_held(out);
    }

    fn retire(&mut self, id: ExportId, out: &mut Outbox) {
        let is_retiring = self.luns.get(id.0 as usize).is_some_and(|l| l.state == LunState::Retiring);
        if is_retiring && self.sessions_of(id).is_empty() {
            self.luns.remove(id.0 as usize);
            out.push(Effect::Idle(id));
        }
    }
}
