//! Connect (Base 6.3): a connection becomes the admin queue of a new controller, or an I/O queue of one.

use block::probe::{Mark, Mutant, mark, mutant};
use block::{Buf, limits};

use super::connection::{Flow, Role, Stage, Timer};
use super::controller::{Controller, KeepAlive, State};
use super::sessions::Claim;
use super::slots::Work;
use super::{ConnectionId, Effect, Held, Outbox, SubsystemId, Target};
use crate::fabrics::{
    ConnectData, ConnectSqe, DISABLE_SQ_FLOW_CONTROL, DYNAMIC_CONTROLLER, connect_offset, invalid_parameter,
};
use crate::wire::view;
use crate::{Nqn, Status};

/// Controllers of one subsystem.
const CONTROLLERS: usize = 256;
/// The highest CNTLID that may be given out (Base 3.1.1).
const LAST_CONTROLLER: u16 = 0xffef;

/// A Connect that was refused: status and result.
type Refusal = (Status, u64);

fn in_command(offset: u16) -> Refusal {
    (Status::CONNECT_PARAMETERS.do_not_retry(), invalid_parameter(offset, false))
}

// Hosts try again when data is wrong: after a restart of the target a subsystem may be there a little later.
fn in_data(offset: u16) -> Refusal {
    (Status::CONNECT_PARAMETERS, invalid_parameter(offset, true))
}

impl Target {
    /// Answers a Connect, now or (when an older association of the host is still at the disk) later.
    pub(super) fn connect(&mut self, id: ConnectionId, slot: u16, sqe: ConnectSqe, data: &Buf, out: &mut Outbox) {
        let joined = match view::<ConnectData>(data) {
            None => Err((Status::SGL_LENGTH.do_not_retry(), 0)),
            Some(_) if self.connection(id).role.is_some() => Err((Status::SEQUENCE.do_not_retry(), 0)),
            Some(_) if sqe.record_format.get() != 0 => Err((Status::CONNECT_FORMAT.do_not_retry(), 0)),
            Some(data) if sqe.queue_id.get() == 0 => self.connect_admin(id, &sqe, &data, out),
            Some(data) => self.connect_io(id, &sqe, &data),
        };
        let controller = match joined {
            Ok(controller) => controller,
            Err((status, result)) => return self.connection(id).answer(slot, result, status),
        };
        let entries = sqe.queue_size.get().saturating_add(1);
        let connection = self.connection(id);
        connection.stage = Stage::Joined;
        connection.timer = Timer::Off;
        // Linux fills all entries of a queue, so all of them may be outstanding.
        connection.slots.set_limit(entries.into());
        connection.flow = if sqe.attributes & DISABLE_SQ_FLOW_CONTROL != 0 {
            Flow::Disabled
        } else {
            Flow::Controlled { head: 0, entries }
        };
        // Rule: a new association of a host waits until nothing of the old one can land any more.
        if sqe.queue_id.get() == 0 && self.is_blocked(controller) && !mutant(Mutant::GhostsLand) {
            mark(Mark::GhostAwaited);
            self.set_state(controller, State::Waiting);
            self.connection(id).slots.set(slot, Work::Held);
            self.held.push(Held { connection: id, slot, controller });
        } else {
            self.connection(id).answer(slot, u64::from(controller), Status::SUCCESS);
        }
    }

    fn connect_admin(
        &mut self,
        id: ConnectionId,
        sqe: &ConnectSqe,
        data: &ConnectData,
        out: &mut Outbox,
    ) -> Result<u16, Refusal> {
        check_queue_size(sqe, limits::ADMIN_QUEUE_ENTRIES)?;
        if data.controller_id.get() != DYNAMIC_CONTROLLER {
            return Err(in_data(connect_offset::CONTROLLER_ID));
        }
        let host_nqn = Nqn::from_field(&data.host_nqn).map_err(|_| in_data(connect_offset::HOST_NQN))?;
        let nqn = Nqn::from_field(&data.subsystem_nqn).map_err(|_| in_data(connect_offset::SUBSYSTEM_NQN))?;
        let subsystem = self.find_subsystem(&nqn).ok_or(in_data(connect_offset::SUBSYSTEM_NQN))?;
        if let Some(served) = subsystem
            && host_nqn.is_nexus_host()
        {
            if !self.subsystem(served).sessions.admits(&host_nqn, data.host_id) {
                return Err((Status::CONNECT_HOST.do_not_retry(), 0));
            }
            let is_same = |c: &Controller| c.host_nqn == host_nqn && c.host_id == data.host_id;
            for older in self.controllers_of(|c| c.subsystem == Some(served) && is_same(c)) {
                self.supersede_controller(older, out);
            }
        }
        if self.controllers_of(|c| c.subsystem == subsystem).len() >= CONTROLLERS {
            return Err((Status::CONNECT_BUSY, 0));
        }
        let number = self.new_controller_id().ok_or((Status::CONNECT_BUSY, 0))?;
        let mut controller = Controller::new(number, subsystem, nqn, host_nqn, data.host_id);
        controller.keep_alive = KeepAlive::new(sqe.keep_alive_ms.get());
        controller.queues.insert(0, id);
        self.controllers.insert(number, controller);
        self.connection(id).role =
            Some(Role { controller: number, queue: 0, subsystem, host: data.host_id, claim: Claim::None });
        out.push(Effect::Timer);
        Ok(number)
    }

    fn connect_io(&mut self, id: ConnectionId, sqe: &ConnectSqe, data: &ConnectData) -> Result<u16, Refusal> {
        check_queue_size(sqe, limits::QUEUE_ENTRIES)?;
        let number = data.controller_id.get();
        let controller = self.controllers.get_mut(&number).ok_or(in_data(connect_offset::CONTROLLER_ID))?;
        if controller.subsystem_nqn.to_field() != data.subsystem_nqn {
            return Err(in_data(connect_offset::SUBSYSTEM_NQN));
        }
        if controller.host_nqn.to_field() != data.host_nqn {
            return Err(in_data(connect_offset::HOST_NQN));
        }
        if controller.host_id != data.host_id {
            return Err(in_data(connect_offset::HOST_ID));
        }
        if controller.state != State::Ready {
            return Err((Status::SEQUENCE, 0));
        }
        let queue = sqe.queue_id.get();
        if queue > controller.io_queues || controller.queues.contains_key(&queue) {
            return Err(in_command(connect_offset::QUEUE_ID));
        }
        controller.queues.insert(queue, id);
        let (subsystem, claim) = (controller.subsystem, Claim::of(&controller.host_nqn));
        self.connection(id).role = Some(Role { controller: number, queue, subsystem, host: data.host_id, claim });
        Ok(number)
    }

    /// The served subsystem with that name; `Some(None)` for discovery.
    fn find_subsystem(&self, nqn: &Nqn) -> Option<Option<SubsystemId>> {
        if self.is_discovery(nqn) { Some(None) } else { self.by_nqn.get(nqn).copied().map(Some) }
    }

    /// Whether the name is one of the discovery subsystem's.
    pub(super) fn is_discovery(&self, nqn: &Nqn) -> bool {
        nqn.is_discovery() || self.options.discovery_nqn.as_ref() == Some(nqn)
    }

    /// A controller identifier that is free, the one after the last, so that none is used again soon.
    fn new_controller_id(&mut self) -> Option<u16> {
        for _ in 0..LAST_CONTROLLER {
            let id = self.next_controller;
            self.next_controller = if id >= LAST_CONTROLLER { 1 } else { id + 1 };
            if !self.controllers.contains_key(&id) {
                return Some(id);
            }
        }
        None
    }
}

/// SQSIZE is 0's based; a queue has at least two entries.
fn check_queue_size(sqe: &ConnectSqe, most: u16) -> Result<(), Refusal> {
    if (1..most).contains(&sqe.queue_size.get()) { Ok(()) } else { Err(in_command(connect_offset::QUEUE_SIZE)) }
}
