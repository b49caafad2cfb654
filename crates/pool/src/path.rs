//! The I/O path: requests to a replica become requests to disks, or wait for a place.

use std::rc::Rc;

use block::probe::{Mark, Mutant, mark, mutant};
use block::{BlockRange, Buf, Data, Durability, Fault, Request, Ticket};

use crate::core::{Core, Live, Parked, Phase, State, Then, awaited_ticket};
use crate::flight::Join;
use crate::grace::Grace;
use crate::record::Record;
use crate::route::{Part, Parts};

/// What an answer has to wait for, besides the parts of its request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    Nothing,
    /// The journal records on which the outcome stands are written, so that they survive this process.
    Written,
    /// They are durable.
    Durable,
}

/// What is asked of the blocks.
enum Kind {
    Read,
    Write { data: Buf, durability: Durability },
    Zero { may_unmap: bool, durability: Durability },
}

impl Kind {
    /// The same for some of the blocks.
    fn part(&self, range: BlockRange, bytes: std::ops::Range<usize>) -> Request {
        match self {
            Kind::Read => Request::Read { range },
            Kind::Write { data, durability } => {
                // The common case, all of it in one piece, copies a reference only.
                let data = if bytes.len() == data.len() { data.clone() } else { data.slice(bytes) };
                Request::Write { range, data, durability: *durability }
            }
            Kind::Zero { may_unmap, durability } => {
                Request::WriteZeroes { range, may_unmap: *may_unmap, durability: *durability }
            }
        }
    }
    fn is_durable(&self) -> bool {
        matches!(
            self,
            Kind::Write { durability: Durability::Durable, .. } | Kind::Zero { durability: Durability::Durable, .. }
        )
    }
}

impl Core {
    /// Starts a valid request to a replica.
    pub fn submit(self: &Rc<Core>, id: u32, request: Request, ticket: Ticket) {
        let (range, kind) = match request {
            Request::Read { range } => (range, Kind::Read),
            Request::Write { range, data, durability } => (range, Kind::Write { data, durability }),
            Request::Unmap { range } => (range, Kind::Zero { may_unmap: true, durability: Durability::Volatile }),
            Request::WriteZeroes { range, may_unmap, durability } => (range, Kind::Zero { may_unmap, durability }),
            Request::Flush => return self.flush_replica(id, ticket),
        };
        let (parts, after) = {
            let s = self.state.borrow();
            if s.phase != Phase::Online || !s.live.contains_key(&id) {
                drop(s);
                return ticket.fail(Fault::Gone);
            }
            let shift = self.extent_shift;
            let parts = match kind {
                Kind::Read => s.route_read(id, shift, u64::from(self.label.block_size.bytes()), range),
                Kind::Write { .. } => s.route_write(id, shift, range),
                Kind::Zero { may_unmap, .. } => s.route_zero(id, shift, range, may_unmap),
            };
            let after = s.after(id, &kind, &parts);
            (parts, after)
        };
        let ticket = if after == After::Nothing { ticket } else { self.answer_after(id, after, ticket) };
        self.start(id, range, kind, parts, ticket);
    }

    fn start(self: &Rc<Core>, id: u32, whole: BlockRange, kind: Kind, parts: Parts, ticket: Ticket) {
        let count = parts.len();
        let mut one = None;
        let mut many = Vec::new();
        match count {
            0 => return ticket.done(),
            1 => one = Some(ticket),
            _ => many = Join::split(ticket, count),
        }
        let mut tickets = one.into_iter().chain(many.drain(..));
        let shift = self.label.block_size.shift();
        let mut is_recorded = false;
        for part in parts {
            let ticket = tickets.next().expect("a ticket for each part");
            match part {
                Part::Zeroes(bytes) => ticket.answer(Ok(Data::zeroes(bytes as usize))),
                Part::Disk { disk, range, from } => {
                    let bytes = (from << shift) as usize..((from + range.len.0) << shift) as usize;
                    self.to_disk(disk, kind.part(range, bytes), ticket);
                }
                Part::Park { logical, range } => {
                    let from = (range.start.0 - whole.start.0) << shift;
                    let bytes = from as usize..(from + (range.len.0 << shift)) as usize;
                    self.park(id, logical, Parked { request: kind.part(range, bytes), ticket });
                    is_recorded = true;
                }
                Part::Free { logical, count } => {
                    let record = Record::Unmap { replica: id, logical, count };
                    self.state.borrow_mut().record(&self.grace, record, Then::Answer(ticket));
                    is_recorded = true;
                }
            }
        }
        if is_recorded {
            self.kick_due();
            self.keep_reserve();
        }
    }

    /// Hands a request to a disk. Until its answer nothing that is freed meanwhile is used again: the request might
    /// still be on its way there.
    fn to_disk(self: &Rc<Core>, index: u8, request: Request, ticket: Ticket) {
        let disk = self.state.borrow().disks[usize::from(index)].disk.clone();
        let epoch = self.grace.enter();
        let core = self.clone();
        disk.submit(
            request,
            Ticket::new(move |outcome| {
                core.grace.leave(epoch);
                if matches!(outcome, Err(Fault::Gone)) {
                    core.clone().lost_disk(index);
                }
                ticket.answer(outcome);
            }),
        );
    }

    /// Nothing of this pool is sure to come back: whoever places copies has to know at once, not at the next flush. Told
    /// by an answer, which may come in the middle of a request.
    fn lost_disk(self: Rc<Core>, index: u8) {
        let host = self.host.clone();
        host.spawn(async move {
            let disk = self.state.borrow().disks[usize::from(index)].disk.label();
            self.fault(format!("disk {disk} is gone"));
        });
    }

    /// Lets a request wait until its extent has a place; asks for the place when nobody has yet.
    fn park(self: &Rc<Core>, id: u32, logical: u32, parked: Parked) {
        let refused = self.state.borrow_mut().park(&self.grace, id, logical, parked);
        if let Some(ticket) = refused {
            mark(Mark::PoolFull);
            ticket.fail(Fault::NoSpace);
        }
    }

    /// Flushes the disks of a replica, and the journal when the replica's places are not durable.
    fn flush_replica(self: &Rc<Core>, id: u32, ticket: Ticket) {
        let disks = {
            let s = self.state.borrow();
            match s.live.get(&id) {
                Some(live) if s.phase == Phase::Online => {
                    live.disks | u64::from(live.last_change() > s.journal.durable())
                }
                _ => {
                    drop(s);
                    return ticket.fail(Fault::Gone);
                }
            }
        };
        if disks == 0 {
            return ticket.done();
        }
        let core = self.clone();
        self.host.spawn(async move {
            let flushed = core.flush_disks(disks).await;
            ticket.answer(flushed.map(|()| Data::empty()));
        });
    }

    /// A ticket that answers `ticket` once what its outcome stands on is written, or durable.
    fn answer_after(self: &Rc<Core>, id: u32, after: After, ticket: Ticket) -> Ticket {
        let (inner, outcome) = awaited_ticket();
        let core = self.clone();
        self.host.spawn(async move {
            let mut outcome = outcome.await;
            let change = core.state.borrow().live.get(&id).map_or(0, Live::last_change);
            if outcome.is_ok() {
                let done = match after {
                    After::Nothing => Ok(()),
                    After::Written => core.written(change).await,
                    After::Durable => core.durable(change).await,
                };
                outcome = outcome.and_then(|data| done.map(|()| data).map_err(|_| Fault::Gone));
            }
            ticket.answer(outcome);
        });
        inner
    }
}

impl State {
    /// What an answer has to wait for.
    fn after(&self, id: u32, kind: &Kind, parts: &Parts) -> After {
        let stands_on_unmap = match kind {
            Kind::Read => parts.iter().any(|p| matches!(p, Part::Zeroes(_))),
            Kind::Write { .. } => false,
            Kind::Zero { .. } => true,
        };
        let durable = kind.is_durable();
        if !durable && !stands_on_unmap {
            return After::Nothing;
        }
        let live = &self.live[&id];
        let frees = parts.iter().any(|p| matches!(p, Part::Free { .. }));
        if durable && (frees || live.last_change() > self.journal.durable()) {
            After::Durable
        } else if stands_on_unmap && live.last_unmap > self.journal.written() && !mutant(Mutant::AnswerBeforeUnmap) {
            // Otherwise an answer that says "zeroes" could be taken back by a crash.
            After::Written
        } else {
            After::Nothing
        }
    }

    /// Lets a request wait; returns its ticket when there is no space for it.
    fn park(&mut self, grace: &Grace, id: u32, logical: u32, parked: Parked) -> Option<Ticket> {
        let thin = self.meta.replicas[&id].thin;
        let has_room = !thin || self.has_room();
        let live = self.live.get_mut(&id).expect("the replica was looked up just now");
        if let Some(others) = live.opening.get_mut(&logical) {
            others.push(parked);
            return None;
        }
        if !has_room {
            return Some(parked.ticket);
        }
        live.opening.insert(logical, vec![parked]);
        self.waiting.push_back((id, logical));
        self.waiting_thin += u64::from(thin);
        self.serve_waiting(grace);
        None
    }
}
