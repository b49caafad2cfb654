//! Admin and fabrics commands (Base 5 and 6).

use block::{Buf, Data, Request, limits};

use super::controller::{Controller, State};
use super::pages::{Page, log_len};
use super::slots::{DiskKind, Work};
use super::{ConnectionId, Effect, Outbox, Target};
use crate::Status;
use crate::command::{Sqe, admin, feature};
use crate::fabrics::{ConnectData, ConnectSqe, PropertySqe, VERSION_2_0, cc, kind, property};
use crate::identify::IDENTIFY_BYTES;
use crate::log::{RETAIN_EVENT, page};

/// How an admin command goes on.
pub(super) enum Answer {
    /// It succeeded with that result.
    Done(u64),
    /// It succeeded with data for the host.
    Data(Vec<u8>),
    /// It was answered already, or will be.
    Later,
}

/// CAP (Base 3.1.3.1): MQES, CQR, TO (15 s in units of 500 ms), CSS (NVM); memory pages of 4 KiB.
const CAPABILITIES: u64 = (limits::QUEUE_ENTRIES as u64 - 1) | 1 << 16 | 30 << 24 | 1 << 37;

/// Bytes of data that the command takes from the host.
pub(super) fn data_from_host(sqe: &Sqe) -> usize {
    match sqe.opcode {
        admin::FABRICS if sqe.nsid.get() as u8 == kind::CONNECT => size_of::<ConnectData>(),
        admin::SET_FEATURES if sqe.cdw10.get() as u8 == feature::HOST_IDENTIFIER => 16,
        _ => 0,
    }
}

/// Bytes of data that the command gives to the host.
pub(super) fn data_to_host(sqe: &Sqe) -> Result<usize, Status> {
    match sqe.opcode {
        admin::IDENTIFY => Ok(IDENTIFY_BYTES),
        admin::GET_LOG_PAGE => {
            let len = log_len(sqe);
            if len > limits::TRANSFER_BYTES as u64 {
                Err(Status::INVALID_FIELD.do_not_retry())
            } else {
                Ok(len as usize)
            }
        }
        admin::GET_FEATURES if sqe.cdw10.get() as u8 == feature::HOST_IDENTIFIER => Ok(16),
        _ => Ok(0),
    }
}

impl Target {
    /// Runs an admin or fabrics command whose data is there.
    pub(super) fn run_admin(
        &mut self,
        id: ConnectionId,
        slot: u16,
        sqe: Sqe,
        data: Option<Buf>,
        out: &mut Outbox,
    ) -> Result<(), Status> {
        let answer = if sqe.opcode == admin::FABRICS {
            self.fabrics(id, slot, sqe, data, out)?
        } else {
            self.admin(id, slot, &sqe, data, out)?
        };
        let connection = self.connection(id);
        match answer {
            Answer::Done(result) => connection.answer(slot, result, Status::SUCCESS),
            Answer::Data(bytes) => connection.answer_with(slot, Data::from(Buf::copy_of(&bytes))),
            Answer::Later => {}
        }
        Ok(())
    }

    /// The controller whose admin queue this is.
    fn controller_of(&mut self, id: ConnectionId) -> Result<&mut Controller, Status> {
        let role = self.connections[id.index()].role.filter(|r| r.queue == 0);
        role.and_then(|r| self.controllers.get_mut(&r.controller)).ok_or(Status::SEQUENCE.do_not_retry())
    }

    fn fabrics(
        &mut self,
        id: ConnectionId,
        slot: u16,
        sqe: Sqe,
        data: Option<Buf>,
        out: &mut Outbox,
    ) -> Result<Answer, Status> {
        match sqe.nsid.get() as u8 {
            kind::CONNECT => {
                let data = data.ok_or(Status::SGL_LENGTH)?;
                self.connect(id, slot, bytemuck::cast::<Sqe, ConnectSqe>(sqe), &data, out);
                Ok(Answer::Later)
            }
            kind::PROPERTY_GET => property_get(self.controller_of(id)?, &bytemuck::cast(sqe)),
            kind::PROPERTY_SET => self.property_set(id, slot, &bytemuck::cast(sqe), out),
            _ => Err(Status::INVALID_OPCODE.do_not_retry()),
        }
    }

    fn property_set(
        &mut self,
        id: ConnectionId,
        slot: u16,
        sqe: &PropertySqe,
        out: &mut Outbox,
    ) -> Result<Answer, Status> {
        let controller = self.controller_of(id)?;
        if controller.state == State::Waiting {
            return Err(Status::SEQUENCE);
        }
        // Of the properties that exist here only CC may be written, with four bytes.
        if sqe.offset.get() != property::CC || sqe.attributes & 7 != 0 {
            return Err(Status::INVALID_FIELD.do_not_retry());
        }
        let value = sqe.value.get() as u32;
        let (number, subsystem) = (controller.id, controller.subsystem);
        let enable = value & cc::ENABLE != 0;
        let is_nvm = subsystem.is_some();
        if enable && (value & cc::MUST_BE_ZERO != 0 || is_nvm && value & cc::ENTRY_SIZES_MASK != cc::ENTRY_SIZES) {
            return Err(Status::INVALID_FIELD.do_not_retry());
        }
        let shut_down = value & cc::SHUTDOWN != 0 && controller.cc & cc::SHUTDOWN == 0;
        controller.cc = value;
        match controller.state {
            State::Ready if shut_down => {
                controller.state = State::ShuttingDown;
                match subsystem {
                    // A normal shutdown leaves nothing in volatile caches (Base 3.6.1).
                    Some(subsystem) => self.submit(id, slot, subsystem, DiskKind::Shutdown, [Request::Flush], out),
                    None => {
                        controller.state = State::ShutDown;
                        return Ok(Answer::Done(0));
                    }
                }
                return Ok(Answer::Later);
            }
            State::Disabled if enable => controller.state = State::Ready,
            State::Disabled if shut_down => controller.state = State::ShutDown,
            State::Ready | State::ShuttingDown | State::ShutDown if !enable => self.reset_controller(number, out),
            _ => {}
        }
        Ok(Answer::Done(0))
    }

    /// The flush of a shutdown has ended.
    pub(super) fn on_shutdown_flushed(&mut self, id: ConnectionId, slot: u16, failure: Option<Status>) {
        if let Ok(controller) = self.controller_of(id)
            && controller.state == State::ShuttingDown
        {
            controller.state = State::ShutDown;
        }
        // A host that may not write has nothing to be flushed.
        let failure = failure.filter(|status| status.without_flags() != Status::RESERVATION_CONFLICT);
        self.connection(id).answer(slot, 0, failure.unwrap_or(Status::SUCCESS));
    }

    fn admin(
        &mut self,
        id: ConnectionId,
        slot: u16,
        sqe: &Sqe,
        data: Option<Buf>,
        out: &mut Outbox,
    ) -> Result<Answer, Status> {
        let controller = self.controller_of(id)?;
        if !controller.is_enabled() {
            return Err(Status::SEQUENCE.do_not_retry());
        }
        let number = controller.id;
        match sqe.opcode {
            admin::KEEP_ALIVE => Ok(Answer::Done(0)),
            admin::ASYNC_EVENT => {
                if !controller.events.add_request(slot) {
                    return Err(Status::EVENT_LIMIT.do_not_retry());
                }
                self.connection(id).slots.set(slot, Work::Event);
                self.report_events(number, out);
                Ok(Answer::Later)
            }
            admin::ABORT => Ok(self.abort(id, sqe, out)),
            admin::GET_FEATURES => controller.get_feature(sqe),
            admin::SET_FEATURES => self.set_feature(number, sqe, data, out),
            admin::IDENTIFY => self.page(number)?.identify(sqe).map(Answer::Data),
            admin::GET_LOG_PAGE => {
                let log = self.page(number)?.log(sqe)?;
                if sqe.cdw10.get() & RETAIN_EVENT == 0 {
                    self.log_was_read(number, sqe.cdw10.get() as u8);
                }
                Ok(Answer::Data(log))
            }
            _ => Err(Status::INVALID_OPCODE.do_not_retry()),
        }
    }

    /// What Identify and Get Log Page need to know.
    fn page(&self, controller: u16) -> Result<Page<'_>, Status> {
        let controller = self.controllers.get(&controller).ok_or(Status::INTERNAL)?;
        let subsystem = controller.subsystem.map(|s| self.subsystem(s));
        Ok(Page { options: &self.options, controller, subsystem, generation: self.generation, served: &self.by_nqn })
    }

    fn log_was_read(&mut self, controller: u16, log: u8) {
        let Some(controller) = self.controllers.get_mut(&controller) else { return };
        match (log, controller.subsystem) {
            (page::CHANGED_NAMESPACES, Some(_)) => {
                controller.namespace_changed = false;
                controller.events.acknowledged();
            }
            (page::DISCOVERY, None) => controller.events.acknowledged(),
            _ => {}
        }
    }

    /// Abort (Base 5.1). What can be aborted: event requests, and commands whose payload was not asked for yet. What the
    /// device works on, or the host is sending data for, ends as it would have. Bit 0 of the result: not aborted. The aborted
    /// command is answered first.
    fn abort(&mut self, id: ConnectionId, sqe: &Sqe, out: &mut Outbox) -> Answer {
        const NOT_ABORTED: u64 = 1;
        let (queue, cid) = (sqe.cdw10.get() as u16, (sqe.cdw10.get() >> 16) as u16);
        let Ok(controller) = self.controller_of(id) else { return Answer::Done(NOT_ABORTED) };
        let Some(theirs) = controller.queues.get(&queue).copied() else { return Answer::Done(NOT_ABORTED) };
        let Some(victim) = self.connection(theirs).slots.find(cid) else { return Answer::Done(NOT_ABORTED) };
        let is_event = queue == 0 && self.controller_of(id).is_ok_and(|c| c.events.remove_request(victim));
        if !is_event && !self.connection(theirs).slots.forget_queued(victim) {
            return Answer::Done(NOT_ABORTED);
        }
        self.connection(theirs).answer(victim, 0, Status::ABORT_REQUESTED);
        if theirs != id {
            out.push(Effect::Wake(theirs));
        }
        Answer::Done(0)
    }
}

fn property_get(controller: &Controller, sqe: &PropertySqe) -> Result<Answer, Status> {
    let value = match (sqe.offset.get(), sqe.attributes & 7) {
        (property::CAP, 1) => CAPABILITIES,
        (property::VS, 0) => u64::from(VERSION_2_0),
        (property::CC, 0) => u64::from(controller.cc),
        (property::CSTS, 0) => u64::from(controller.status()),
        // No subsystem reset: the property reads as zero.
        (property::NSSR, 0) => 0,
        // Tools that list all properties skip those with exactly this status.
        _ => return Err(Status::INVALID_FIELD),
    };
    Ok(Answer::Done(value))
}
