//! The way of a command: capsule, payload, disk, answer.

use block::{Buf, BufMut, Data, Fault, Outcome, Request, Reservations, limits};

use super::connection::{Connection, Stage};
use super::controller::Controller;
use super::io::{self, IoCommand};
use super::receive::Step;
use super::sessions::Claim;
use super::slots::{DiskKind, DiskWork, NoSlot, Pending, Work};
use super::{ConnectionId, Effect, Outbox, SubsystemId, Target, admin};
use crate::command::{Sgl, Sqe, admin as admin_opcode};
use crate::pdu::{FatalError, Header, Transfer, Violation, offset};
use crate::{Status, fabrics, reservation};

/// The payload that one connection may be asked for at a time; further commands wait for their R2T.
const RECEIVING_BYTES: usize = 16 * limits::TRANSFER_BYTES;

impl Target {
    /// Takes what a socket received: `received` bytes in the buffer of the last [`Target::receive`].
    pub fn on_received(&mut self, id: ConnectionId, buf: BufMut, received: usize, out: &mut Outbox) {
        self.connection(id).give_back(buf, received);
        loop {
            let connection = self.connection(id);
            if !connection.listens() {
                connection.receiver.discard();
                return;
            }
            let done = match connection.receiver.step() {
                Ok(Step::More) => return,
                Ok(step) => self.on_step(id, step, out),
                Err(violation) => Err(violation),
            };
            if let Err(violation) = done {
                self.terminate(id, violation, out);
            }
        }
    }

    fn on_step(&mut self, id: ConnectionId, step: Step, out: &mut Outbox) -> Result<(), Violation> {
        match step {
            Step::More => Ok(()),
            Step::Pdu { header: Header::Command(sqe), data, damaged } => self.on_capsule(id, sqe, data, damaged, out),
            Step::Pdu { header: Header::IcReq { data_alignment, digests, max_r2t: _ }, .. } => {
                // One R2T asks for all data of a command, so any MAXR2T is respected.
                let connection = self.connection(id);
                if connection.stage != Stage::Greeting {
                    return Err(Violation::sequence());
                }
                connection.stage = Stage::Unconnected;
                connection.output.ic_resp(digests, limits::TRANSFER_BYTES as u32);
                connection.output.alignment = data_alignment;
                connection.output.digests = digests;
                connection.receiver.digests = digests;
                Ok(())
            }
            Step::Pdu { header: Header::H2cTerm { .. }, .. } => {
                self.close(id, out);
                Ok(())
            }
            Step::Pdu { .. } => Err(Violation::field(offset::KIND)),
            Step::Data { transfer, is_last } => self.connection(id).on_data(transfer, is_last),
            Step::Staged { slot } => {
                let connection = self.connection(id);
                if let Some(Work::Receiving { buf: Some(buf), .. }) = connection.slots.get_mut(slot) {
                    connection.receiver.copy_into(buf);
                }
                Ok(())
            }
            Step::Received { slot, damaged } => {
                self.on_payload(id, slot, damaged, out);
                Ok(())
            }
        }
    }

    /// A command capsule. Its own mistakes are answered with a status; only what makes the connection useless ends it.
    fn on_capsule(
        &mut self,
        id: ConnectionId,
        sqe: Sqe,
        data: Option<Buf>,
        damaged: bool,
        out: &mut Outbox,
    ) -> Result<(), Violation> {
        let connection = self.connection(id);
        if connection.stage == Stage::Greeting {
            return Err(Violation::sequence());
        }
        let slot = match connection.slots.insert(sqe.cid.get()) {
            Ok(slot) => slot,
            Err(NoSlot::Conflict) => {
                connection.answer_cid(sqe.cid.get(), 0, Status::ID_CONFLICT.do_not_retry());
                return Ok(());
            }
            // The host has more commands outstanding than the queue has entries: it does not keep count.
            Err(NoSlot::Full) => return Err(Violation::sequence()),
        };
        if let Err(status) = self.admit(id, slot, sqe, data, damaged, out) {
            self.connection(id).answer(slot, 0, status);
        }
        Ok(())
    }

    fn admit(
        &mut self,
        id: ConnectionId,
        slot: u16,
        sqe: Sqe,
        data: Option<Buf>,
        damaged: bool,
        out: &mut Outbox,
    ) -> Result<(), Status> {
        // TCP 3.4: SGLs only. Fused commands are not offered.
        if sqe.psdt() != 0b01 || sqe.fuse() != 0 {
            return Err(Status::INVALID_FIELD.do_not_retry());
        }
        let role = self.connections[id.index()].role;
        let is_connect = sqe.opcode == admin_opcode::FABRICS && sqe.nsid.get() as u8 == fabrics::kind::CONNECT;
        if role.is_none() && !is_connect {
            return Err(Status::SEQUENCE.do_not_retry());
        }
        let io_of = role.filter(|r| r.queue > 0 && sqe.opcode != admin_opcode::FABRICS);
        let (pending, from_host, to_host) = match io_of.and_then(|role| role.subsystem) {
            Some(subsystem) => {
                let served = self.subsystem(subsystem);
                let geometry = &served.geometry;
                let command = IoCommand::parse(&sqe, geometry, served.reserving)?;
                let from_host = command.payload_len(geometry, sqe.sgl.len.get() as usize);
                let to_host = if from_host == 0 { command.data_len(geometry) } else { 0 };
                (Pending::Io(command), from_host, to_host)
            }
            None => (Pending::Admin(Box::new(sqe)), admin::data_from_host(&sqe), admin::data_to_host(&sqe)?),
        };
        if damaged {
            return Err(Status::TRANSIENT_TRANSPORT);
        }
        if from_host > 0 {
            return self.take_data(id, slot, pending, &sqe.sgl, from_host, data, out);
        }
        if to_host > 0 && sqe.sgl.kind != Sgl::TRANSPORT {
            return Err(Status::SGL_TYPE.do_not_retry());
        }
        if to_host > 0 && sqe.sgl.len.get() as usize != to_host {
            return Err(Status::SGL_LENGTH.do_not_retry());
        }
        self.run(id, slot, pending, None, out)
    }

    /// Gets the payload of a command: it lies in the capsule, or an R2T asks for it.
    #[allow(clippy::too_many_arguments, reason = "the parts of one capsule")]
    fn take_data(
        &mut self,
        id: ConnectionId,
        slot: u16,
        pending: Pending,
        sgl: &Sgl,
        len: usize,
        data: Option<Buf>,
        out: &mut Outbox,
    ) -> Result<(), Status> {
        if sgl.len.get() as usize != len {
            return Err(Status::SGL_LENGTH.do_not_retry());
        }
        match (sgl.kind, data) {
            (Sgl::IN_CAPSULE, _) if sgl.address.get() != 0 => Err(Status::SGL_OFFSET.do_not_retry()),
            (Sgl::IN_CAPSULE, Some(data)) if data.len() == len => self.run(id, slot, pending, Some(data), out),
            (Sgl::IN_CAPSULE, _) => Err(Status::SGL_LENGTH.do_not_retry()),
            (Sgl::TRANSPORT, None) => {
                let connection = self.connection(id);
                connection.slots.set(slot, Work::Queued { pending, len });
                connection.slots.queued.push_back(slot);
                connection.grant();
                Ok(())
            }
            _ => Err(Status::SGL_TYPE.do_not_retry()),
        }
    }

    /// The data of one H2CData is there; the command runs when it has all.
    fn on_payload(&mut self, id: ConnectionId, slot: u16, pdu_damaged: bool, out: &mut Outbox) {
        let connection = self.connection(id);
        let Some(Work::Receiving { len, got, damaged, .. }) = connection.slots.get_mut(slot) else { return };
        *damaged |= pdu_damaged;
        if got < len {
            return;
        }
        let Work::Receiving { pending, buf, len, damaged, .. } = connection.slots.set(slot, Work::New) else {
            unreachable!("looked at just now");
        };
        connection.slots.receiving -= len;
        let done = if damaged {
            Err(Status::TRANSIENT_TRANSPORT)
        } else {
            self.run(id, slot, pending, buf.map(BufMut::freeze), out)
        };
        let connection = self.connection(id);
        if let Err(status) = done {
            connection.answer(slot, 0, status);
        }
        connection.grant();
    }

    fn run(
        &mut self,
        id: ConnectionId,
        slot: u16,
        pending: Pending,
        data: Option<Buf>,
        out: &mut Outbox,
    ) -> Result<(), Status> {
        match pending {
            Pending::Admin(sqe) => self.run_admin(id, slot, *sqe, data, out),
            Pending::Io(command) => self.run_io(id, slot, command, data, out),
        }
    }

    fn run_io(
        &mut self,
        id: ConnectionId,
        slot: u16,
        command: IoCommand,
        data: Option<Buf>,
        out: &mut Outbox,
    ) -> Result<(), Status> {
        let role = self.connections[id.index()].role.ok_or(Status::SEQUENCE)?;
        let subsystem = role.subsystem.ok_or(Status::SEQUENCE)?;
        let mut kind = DiskKind::Io(command);
        let request = match (command, data) {
            (IoCommand::Read(range), _) => Request::Read { range },
            (IoCommand::Write(range, durability), Some(data)) => Request::Write { range, data, durability },
            (IoCommand::Compare(range), Some(data)) => {
                kind = DiskKind::Compare(command, data);
                Request::Read { range }
            }
            (IoCommand::Flush, _) => Request::Flush,
            (IoCommand::WriteZeroes { range, may_unmap, durability }, _) => {
                Request::WriteZeroes { range, may_unmap, durability }
            }
            (IoCommand::Deallocate(ranges), Some(data)) => {
                let requests = io::unmaps(&data, ranges, &self.subsystem(subsystem).geometry)?;
                self.submit(id, slot, subsystem, kind, requests, out);
                return Ok(());
            }
            (IoCommand::Hints(_), _) => {
                self.connection(id).answer(slot, 0, Status::SUCCESS);
                return Ok(());
            }
            (IoCommand::Reserve { opcode, action, .. }, Some(data)) => {
                return self.run_reserve(id, slot, (opcode, action), &data, out);
            }
            (IoCommand::Report(_), _) => {
                out.push(Effect::Report { connection: id, slot, subsystem });
                self.connection(id).slots.set(slot, Work::AtDisk(DiskWork { kind, pending: 1, failure: None }));
                return Ok(());
            }
            (
                IoCommand::Write(..) | IoCommand::Compare(_) | IoCommand::Deallocate(_) | IoCommand::Reserve { .. },
                None,
            ) => {
                return Err(Status::INTERNAL);
            }
        };
        out.push(Effect::Submit { connection: id, slot, subsystem, host: role.host, request });
        let work = DiskWork { kind, pending: 1, failure: None };
        self.connection(id).slots.set(slot, Work::AtDisk(work));
        Ok(())
    }

    /// Changes the reservation.
    fn run_reserve(
        &mut self,
        id: ConnectionId,
        slot: u16,
        (opcode, action): (u8, u32),
        data: &[u8],
        out: &mut Outbox,
    ) -> Result<(), Status> {
        let role = self.connections[id.index()].role.ok_or(Status::SEQUENCE)?;
        let subsystem = role.subsystem.ok_or(Status::SEQUENCE)?;
        let ask = reservation::parse(opcode, action, data).map_err(|fault| Status::of_fault(fault, false))?;
        out.push(Effect::Reserve { connection: id, slot, subsystem, host: role.host, ask });
        let kind = DiskKind::Io(IoCommand::Reserve { opcode, action, len: data.len() });
        self.connection(id).slots.set(slot, Work::AtDisk(DiskWork { kind, pending: 1, failure: None }));
        Ok(())
    }

    /// The answer to [`Effect::Report`].
    pub fn on_reported(&mut self, id: ConnectionId, slot: u16, state: &Reservations, out: &mut Outbox) {
        let subsystem = self.connections[id.index()].role.and_then(|role| role.subsystem);
        let page = reservation::report(state, |host| {
            let of_host = self.controllers.values().filter(|c| c.subsystem == subsystem && c.host_id == host);
            of_host.map(|c| c.id).collect()
        });
        let Some(Work::AtDisk(work)) = self.connections[id.index()].slots.get_mut(slot) else {
            panic!("a report for a command that did not ask for one");
        };
        let DiskKind::Io(IoCommand::Report(len)) = work.kind else {
            panic!("a report for a command that did not ask for one");
        };
        let mut page = page;
        page.resize(len, 0);
        self.on_done(id, slot, Ok(Data::from(Buf::copy_of(&page))), out);
    }

    /// A host has changed the namespace, or reserved it: for one that is a nexus that says that the member is its own. The
    /// opening that had it before loses its connections, and learns from the next why.
    fn claim(&mut self, id: ConnectionId, out: &mut Outbox) {
        let Some(role) = &mut self.connections[id.index()].role else { return };
        let (Claim::Due, Some(subsystem)) = (role.claim, role.subsystem) else { return };
        role.claim = Claim::Made;
        let Some(controller) = self.controllers.get(&role.controller) else { return };
        let host_nqn = controller.host_nqn.clone();
        let sessions = &mut self.subsystems[subsystem.0 as usize].sessions;
        sessions.claim(&host_nqn, controller.host_id);
        let sessions = &self.subsystem(subsystem).sessions;
        let is_out = |c: &Controller| c.host_nqn == host_nqn && !sessions.admits(&c.host_nqn, c.host_id);
        for replaced in self.controllers_of(|c| c.subsystem == Some(subsystem) && is_out(c)) {
            self.supersede_controller(replaced, out);
        }
    }

    /// Gives requests to the disk; the command is answered when all have been.
    pub(super) fn submit(
        &mut self,
        connection: ConnectionId,
        slot: u16,
        subsystem: SubsystemId,
        kind: DiskKind,
        requests: impl IntoIterator<Item = Request>,
        out: &mut Outbox,
    ) {
        let before = out.len();
        let host = self.connections[connection.index()].role.map_or([0; 16], |role| role.host);
        out.extend(requests.into_iter().map(|request| Effect::Submit { connection, slot, subsystem, host, request }));
        let pending = out.len() - before;
        let connection = self.connection(connection);
        if pending == 0 {
            connection.answer(slot, 0, Status::SUCCESS);
        } else {
            connection.slots.set(slot, Work::AtDisk(DiskWork { kind, pending, failure: None }));
        }
    }

    /// The disk has answered a request of [`Effect::Submit`].
    pub fn on_done(&mut self, id: ConnectionId, slot: u16, outcome: Outcome, out: &mut Outbox) {
        let connection = &mut self.connections[id.index()];
        let Some(Work::AtDisk(work)) = connection.slots.get_mut(slot) else {
            panic!("the disk answered a command that it was not given");
        };
        work.pending -= 1;
        let outcome = outcome.and_then(|data| work.kind.check(data));
        if let Err(fault) = &outcome {
            work.failure = work.failure.or(Some(Status::of_fault(*fault, work.kind.is_read())));
        }
        if work.pending > 0 {
            return;
        }
        let Work::AtDisk(DiskWork { kind, failure, .. }) = connection.slots.set(slot, Work::New) else {
            unreachable!("looked at just now");
        };
        let subsystem = connection.role.and_then(|r| r.subsystem);
        if failure.is_none() && matches!(&kind, DiskKind::Io(command) if command.is_claim()) {
            self.claim(id, out);
        }
        if let Some(subsystem) = subsystem.and_then(|s| self.subsystems.get_mut(s.0 as usize)) {
            kind.count(failure, &subsystem.geometry, &mut subsystem.stats);
            if let (DiskKind::Io(command @ IoCommand::Read(_)), Ok(data)) = (&kind, &outcome) {
                assert_eq!(data.len(), command.data_len(&subsystem.geometry), "a disk answers a read in full");
            }
        }
        let connection = self.connection(id);
        match (failure, outcome, kind) {
            (_, _, DiskKind::Shutdown) => self.on_shutdown_flushed(id, slot, failure),
            (Some(status), ..) => connection.answer(slot, 0, status),
            (None, Ok(data), DiskKind::Io(IoCommand::Read(_) | IoCommand::Report(_))) => {
                connection.answer_with(slot, data)
            }
            _ => connection.answer(slot, 0, Status::SUCCESS),
        }
        if !self.connection(id).listens() {
            self.end_if_drained(id, out);
        }
    }
}

impl Connection {
    /// Sends R2Ts to the commands that wait longest, as far as there is room.
    fn grant(&mut self) {
        while let Some(slot) = self.slots.queued.front().copied() {
            let Some(Work::Queued { len, .. }) = self.slots.get_mut(slot) else {
                unreachable!("only commands that wait for room are in the queue");
            };
            let len = *len;
            if self.slots.receiving > 0 && self.slots.receiving + len > RECEIVING_BYTES {
                return;
            }
            let Work::Queued { pending, .. } = self.slots.set(slot, Work::New) else {
                unreachable!("looked at just now");
            };
            self.slots.queued.pop_front();
            self.slots.receiving += len;
            let buf = Some(BufMut::new(len));
            self.slots.set(slot, Work::Receiving { pending, buf, len, got: 0, damaged: false });
            let cid = self.slots.cid(slot);
            self.output.r2t(Transfer { cid, tag: slot, offset: 0, len: len as u32 });
        }
    }

    /// The header of an H2CData: it must continue the data of a command that was sent an R2T.
    fn on_data(&mut self, transfer: Transfer, is_last: bool) -> Result<(), Violation> {
        let out_of_range = |info| Violation { error: FatalError::DataOutOfRange, info };
        let is_its_command = self.slots.is(transfer.tag, transfer.cid);
        let (got, len) = match self.slots.get_mut(transfer.tag) {
            Some(Work::Receiving { got, len, .. }) => (got, *len),
            _ => return Err(Violation::field(offset::TAG)),
        };
        if !is_its_command {
            return Err(Violation::field(offset::CID));
        }
        let (start, amount) = (transfer.offset as usize, transfer.len as usize);
        if start != *got {
            return Err(out_of_range(offset::TRANSFER_OFFSET));
        }
        if amount > len - start {
            return Err(out_of_range(offset::TRANSFER_LEN));
        }
        if is_last != (start + amount == len) {
            return Err(Violation::field(offset::FLAGS));
        }
        *got += amount;
        self.receiver.expect(transfer.tag, start, amount);
        Ok(())
    }
}

impl DiskKind {
    fn is_read(&self) -> bool {
        matches!(self, DiskKind::Io(IoCommand::Read(_)) | DiskKind::Compare(..))
    }

    /// Looks at what the disk read, for Compare.
    fn check(&self, data: block::Data) -> Outcome {
        match self {
            DiskKind::Compare(_, expected) if *data.clone().into_buf() != **expected => Err(Fault::Miscompare),
            _ => Ok(data),
        }
    }

    fn count(&self, failure: Option<Status>, geometry: &block::Geometry, stats: &mut super::ExportStats) {
        match self {
            _ if failure.is_some_and(|s| s != Status::COMPARE_FAILURE) => stats.errors += 1,
            DiskKind::Io(command @ IoCommand::Read(_)) | DiskKind::Compare(command, _) => {
                stats.reads += 1;
                stats.read_bytes += command.data_len(geometry) as u64;
            }
            DiskKind::Io(command @ IoCommand::Write(..)) => {
                stats.writes += 1;
                stats.written_bytes += command.data_len(geometry) as u64;
            }
            DiskKind::Io(_) => stats.others += 1,
            DiskKind::Shutdown => {}
        }
    }
}
