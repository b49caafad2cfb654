//! How subsystems, controllers and connections end, and what waits for their end.

use block::probe::{Mutant, mutant};
use block::{Geometry, Instant, limits};

use super::connection::{FINISHING, Stage, TERMINATION, Timer};
use super::controller::State;
use super::{
    ConnectionId, Effect, Export, ExportError, ExportStats, Outbox, Subsystem, SubsystemId, SubsystemState, Target,
};
use crate::Status;
use crate::pdu::Violation;

impl Target {
    /// Serves a namespace.
    pub fn export(&mut self, export: Export, out: &mut Outbox) -> Result<SubsystemId, ExportError> {
        if self.by_nqn.contains_key(&export.nqn) || self.is_discovery(&export.nqn) {
            return Err(ExportError::Exists(export.nqn));
        }
        if self.subsystems.len() >= limits::SUBSYSTEMS {
            return Err(ExportError::Full);
        }
        let Export { nqn, uuid, geometry, reserving } = export;
        let id = SubsystemId(self.subsystems.insert(Subsystem {
            nqn: nqn.clone(),
            uuid,
            geometry,
            reserving,
            state: SubsystemState::Serving,
            stats: ExportStats::default(),
            sessions: super::Sessions::default(),
        }) as u32);
        self.by_nqn.insert(nqn, id);
        self.discovery_changed(out);
        Ok(id)
    }

    /// Serves a namespace no longer: hosts get the answers of what is at the disk, then their connections are closed.
    /// [`Effect::Idle`] says when nothing is left.
    pub fn unexport(&mut self, id: SubsystemId, out: &mut Outbox) {
        let subsystem = &mut self.subsystems[id.0 as usize];
        assert_eq!(subsystem.state, SubsystemState::Serving, "{} is unexported once", subsystem.nqn);
        subsystem.state = SubsystemState::Retiring;
        self.by_nqn.remove(&subsystem.nqn);
        for controller in self.controllers_of(|c| c.subsystem == Some(id)) {
            self.finish_controller(controller, out);
        }
        self.discovery_changed(out);
        self.retire(id, out);
    }

    /// Ends all connections in an orderly way, for the end of the target: they answer what is at the disk, then close.
    pub fn finish_all(&mut self, out: &mut Outbox) {
        for controller in self.controllers_of(|_| true) {
            self.finish_controller(controller, out);
        }
        for index in self.connections.iter().map(|(index, _)| index).collect::<Vec<_>>() {
            self.finish(ConnectionId(index as u32), out);
        }
    }

    /// The size of a served namespace may have changed: hosts that asked for it are told (Base 5.2, Namespace Attribute
    /// Changed).
    pub fn resize(&mut self, id: SubsystemId, geometry: Geometry, out: &mut Outbox) {
        if self.subsystems[id.0 as usize].geometry == geometry {
            return;
        }
        self.subsystems[id.0 as usize].geometry = geometry;
        for controller in self.controllers_of(|c| c.subsystem == Some(id)) {
            if let Some(c) = self.controllers.get_mut(&controller) {
                c.namespace_changed = true;
                c.events.happened();
            }
            self.report_events(controller, out);
        }
    }

    /// The socket is gone, or is closed at the machine's wish.
    pub fn on_lost(&mut self, id: ConnectionId, out: &mut Outbox) {
        self.close(id, out);
    }

    /// When [`Target::on_time`] is wanted.
    pub fn deadline(&self) -> Option<Instant> {
        let connections = self.connections.iter().filter_map(|(_, c)| match c.timer {
            Timer::Off => None,
            Timer::After(_) => Some(Instant(0)),
            Timer::At(at) => Some(at),
        });
        let controllers = self
            .controllers
            .values()
            .filter(|c| c.state != State::Closing)
            .filter_map(|c| c.keep_alive.as_ref().map(|k| k.deadline()));
        connections.chain(controllers).min()
    }

    /// Tells the time: timers are started, expired ones end their connection or controller.
    pub fn on_time(&mut self, now: Instant, out: &mut Outbox) {
        let mut late = Vec::new();
        for (index, connection) in self.connections.iter_mut() {
            match connection.timer {
                Timer::After(delay) => connection.timer = Timer::At(now + delay),
                Timer::At(at) if at <= now => late.push(ConnectionId(index as u32)),
                Timer::At(_) | Timer::Off => {}
            }
        }
        late.into_iter().for_each(|id| self.close(id, out));
        let mut dead = Vec::new();
        for controller in self.controllers.values_mut().filter(|c| c.state != State::Closing) {
            let Some(timer) = &mut controller.keep_alive else { continue };
            let mut heard = false;
            for id in controller.queues.values() {
                heard |= std::mem::take(&mut self.connections[id.index()].heard);
            }
            if timer.look(now, heard) {
                dead.push(controller.id);
            }
        }
        dead.into_iter().for_each(|id| self.close_controller(id, out));
    }

    /// Ends a connection because the host broke the protocol.
    pub(super) fn terminate(&mut self, id: ConnectionId, violation: Violation, out: &mut Outbox) {
        let connection = self.connection(id);
        let offending = connection.receiver.offending().to_vec();
        connection.output.termination(violation, &offending);
        self.stop_listening(id, Stage::Terminating, out);
        self.connection(id).timer = Timer::After(TERMINATION);
        out.push(Effect::Timer);
        out.push(Effect::Wake(id));
        self.end_association_of_admin(id, out);
        self.release_held(out);
    }

    /// Closes a connection now.
    pub(super) fn close(&mut self, id: ConnectionId, out: &mut Outbox) {
        if matches!(self.connection(id).stage, Stage::Closed | Stage::Ended) {
            return;
        }
        self.stop_listening(id, Stage::Closed, out);
        let connection = self.connection(id);
        connection.output.clear();
        connection.timer = Timer::Off;
        out.push(Effect::Wake(id));
        self.end_association_of_admin(id, out);
        self.end_if_drained(id, out);
    }

    fn stop_listening(&mut self, id: ConnectionId, stage: Stage, out: &mut Outbox) {
        let connection = self.connection(id);
        connection.stage = stage;
        connection.slots.drop_waiting();
        connection.receiver.discard();
        self.held.retain(|h| h.connection != id);
        out.push(Effect::Timer);
    }

    /// Takes no more commands from a connection, but answers those at the disk.
    fn finish(&mut self, id: ConnectionId, out: &mut Outbox) {
        if self.connection(id).listens() {
            self.stop_listening(id, Stage::Finishing, out);
            self.connection(id).timer = Timer::After(FINISHING);
            out.push(Effect::Wake(id));
        }
    }

    /// The loss of the admin connection is the end of the association.
    fn end_association_of_admin(&mut self, id: ConnectionId, out: &mut Outbox) {
        if let Some(role) = self.connection(id).role.filter(|r| r.queue == 0) {
            self.close_controller(role.controller, out);
        }
    }

    /// Once nothing of a closed connection is at the disk it leaves its controller.
    pub(super) fn end_if_drained(&mut self, id: ConnectionId, out: &mut Outbox) {
        let connection = self.connection(id);
        if connection.slots.at_disk() > 0 {
            return;
        }
        if connection.stage == Stage::Closed {
            connection.stage = Stage::Ended;
            out.push(Effect::Wake(id));
            if let Some(role) = connection.role.take() {
                if let Some(controller) = self.controllers.get_mut(&role.controller) {
                    controller.queues.remove(&role.queue);
                }
                self.settle(role.controller, out);
            }
        } else if let Some(role) = connection.role {
            // The others of the association may have waited for this one.
            let queues = self.controllers.get(&role.controller).into_iter().flat_map(|c| c.queues.values());
            out.extend(queues.map(|id| Effect::Wake(*id)));
        }
        self.release_held(out);
    }

    /// Ends an association: its connections are closed, commands at the disk are waited for.
    pub(super) fn close_controller(&mut self, id: u16, out: &mut Outbox) {
        for connection in self.begin_closing(id) {
            // Those that are being terminated or finished have their own time limit.
            if self.connection(connection).listens() {
                self.close(connection, out);
            }
        }
        self.settle(id, out);
    }

    /// Ends an association that a newer one replaces: nothing more is sent on its connections.
    pub(super) fn supersede_controller(&mut self, id: u16, out: &mut Outbox) {
        self.begin_closing(id).into_iter().for_each(|connection| self.close(connection, out));
        self.settle(id, out);
    }

    fn finish_controller(&mut self, id: u16, out: &mut Outbox) {
        self.begin_closing(id).into_iter().for_each(|connection| self.finish(connection, out));
        self.settle(id, out);
    }

    fn begin_closing(&mut self, id: u16) -> Vec<ConnectionId> {
        let Some(controller) = self.controllers.get_mut(&id) else { return Vec::new() };
        controller.state = State::Closing;
        // Their slots are forgotten with the connection's other waiting commands.
        controller.events.reset();
        controller.queues.values().copied().collect()
    }

    /// Clears CC.EN: the I/O queues end, event requests are forgotten; disabled once that is done.
    pub(super) fn reset_controller(&mut self, id: u16, out: &mut Outbox) {
        let Some(controller) = self.controllers.get_mut(&id) else { return };
        controller.state = State::Resetting;
        let events = controller.events.reset();
        let admin = controller.admin();
        let io: Vec<ConnectionId> = controller.queues.range(1..).map(|(_, c)| *c).collect();
        if let Some(admin) = admin {
            for slot in events {
                self.connection(admin).slots.remove(slot);
            }
        }
        io.into_iter().for_each(|connection| self.close(connection, out));
        self.settle(id, out);
    }

    /// Moves a controller on whose connections have ended.
    fn settle(&mut self, id: u16, out: &mut Outbox) {
        let Some(controller) = self.controllers.get_mut(&id) else { return };
        match controller.state {
            State::Resetting if controller.queues.range(1..).next().is_none() => controller.state = State::Disabled,
            State::Closing if controller.queues.is_empty() => {
                let subsystem = controller.subsystem;
                self.controllers.remove(&id);
                if let Some(subsystem) = subsystem {
                    self.retire(subsystem, out);
                }
            }
            _ => {}
        }
    }

    fn retire(&mut self, id: SubsystemId, out: &mut Outbox) {
        let is_retiring = self.subsystems.get(id.0 as usize).is_some_and(|s| s.state == SubsystemState::Retiring);
        if is_retiring && !self.controllers.values().any(|c| c.subsystem == Some(id)) {
            self.subsystems.remove(id.0 as usize);
            out.push(Effect::Idle(id));
        }
    }

    /// Answers the Connects for which no older association has a command at a disk any more.
    pub(super) fn release_held(&mut self, out: &mut Outbox) {
        if self.held.is_empty() {
            return;
        }
        let held = std::mem::take(&mut self.held);
        for h in held {
            if self.is_blocked(h.controller) && !mutant(Mutant::GhostsLand) {
                self.held.push(h);
            } else {
                self.set_state(h.controller, State::Disabled);
                self.connection(h.connection).answer(h.slot, u64::from(h.controller), Status::SUCCESS);
                out.push(Effect::Wake(h.connection));
            }
        }
    }

    pub(super) fn set_state(&mut self, controller: u16, state: State) {
        if let Some(controller) = self.controllers.get_mut(&controller) {
            controller.state = state;
        }
    }

    /// Whether an ended association of the same host and subsystem still has commands at a disk.
    pub(super) fn is_blocked(&self, id: u16) -> bool {
        let Some(mine) = self.controllers.get(&id) else { return false };
        self.controllers
            .values()
            .filter(|c| c.id != id && c.state == State::Closing)
            .filter(|c| c.subsystem == mine.subsystem && c.host_nqn == mine.host_nqn)
            .flat_map(|c| c.queues.values())
            .any(|connection| self.connections[connection.index()].slots.at_disk() > 0)
    }

    pub(super) fn controllers_of(&self, wanted: impl Fn(&super::Controller) -> bool) -> Vec<u16> {
        self.controllers.values().filter(|c| wanted(c)).map(|c| c.id).collect()
    }

    fn discovery_changed(&mut self, out: &mut Outbox) {
        self.generation += 1;
        for id in self.controllers_of(|c| c.subsystem.is_none()) {
            if let Some(controller) = self.controllers.get_mut(&id) {
                controller.events.happened();
            }
            self.report_events(id, out);
        }
    }

    /// Answers an event request of a controller if something has happened.
    pub(super) fn report_events(&mut self, id: u16, out: &mut Outbox) {
        let Some(controller) = self.controllers.get_mut(&id) else { return };
        let Some(admin) = controller.admin() else { return };
        while let Some((slot, result)) = controller.events.due() {
            self.connections[admin.index()].answer(slot, u64::from(result), Status::SUCCESS);
            out.push(Effect::Wake(admin));
        }
    }
}
