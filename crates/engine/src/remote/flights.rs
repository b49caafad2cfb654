//! Requests on their way: cut into commands, kept until answered, counted against their deadline. The same for every
//! protocol: what a command is, the protocol says.
//!
//! Pure bookkeeping: nothing here waits, sends, or reads a clock. Time comes as ticks.

use std::collections::VecDeque;

use block::{BlockRange, Blocks, Buf, BufMut, Data, Durability, Fault, Geometry, Outcome, Request, Ticket};
use slab::Slab;
use smallvec::SmallVec;

/// How a device clears blocks that are unmapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clear {
    /// Write Zeroes with DEAC, WRITE SAME with UNMAP: the blocks read as zeroes for certain, and the target may free them.
    WriteZeroes,
    /// Dataset Management: the target says that deallocated blocks read as zeroes.
    Deallocate,
    /// Nothing helps but writing zeroes.
    Write,
}

/// What a device takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) geometry: Geometry,
    /// Blocks in one Read or Write.
    pub(super) transfer: Blocks,
    /// Blocks in one Write Zeroes; `None` when the command is not there.
    pub(super) zeroes: Option<Blocks>,
    pub(super) unmap: Clear,
}

/// One command of a request. It holds all that is needed to send it again.
#[derive(Clone, Debug)]
pub(super) struct Part {
    flight: usize,
    serial: u64,
    /// Which part of the request; orders the data of a read.
    index: u32,
    op: Op,
}

impl Part {
    /// What is to be done.
    pub(super) fn op(&self) -> &Op {
        &self.op
    }
}

/// What is asked of the device, within its limits.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Read(BlockRange),
    Write(BlockRange, Buf, Durability),
    Flush,
    Deallocate(BlockRange),
    WriteZeroes(BlockRange, bool, Durability),
}

/// What the device said to a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// It is done, or failed.
    Done(Result<(), Fault>),
    /// The device could not take it at this moment: it is tried again until its deadline.
    Later,
}

/// A request that is not answered yet.
struct Flight {
    ticket: Ticket,
    /// Distinguishes the flight from later ones in the same place of the slab.
    serial: u64,
    /// The tick at which it was taken, or at which its last part was answered.
    moved: u32,
    parts_left: u32,
    fault: Option<Fault>,
    data: SmallVec<[Option<Buf>; 1]>,
    /// Whether the target may know of it.
    sent: bool,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    /// A read, or a change that is durable when answered.
    Plain,
    /// A change that may sit in the target's cache.
    Volatile,
    /// A flush; it covers the first so many volatile changes.
    Flush(u64),
}

/// Answers that are due. They are given when nothing is borrowed.
pub(super) type Answers = SmallVec<[(Ticket, Outcome); 8]>;

/// All requests on their way.
pub(super) struct Flights {
    limits: Limits,
    flights: Slab<Flight>,
    /// Parts that wait for a slot.
    waiting: VecDeque<Part>,
    /// Parts that the target could not take now; they wait for the next tick.
    put_off: Vec<Part>,
    next_serial: u64,
    now: u32,
    /// Volatile changes that were answered, and how many of them a flush has covered.
    changes: u64,
    flushed: u64,
}

impl Flights {
    pub(super) fn new(limits: Limits) -> Flights {
        Flights {
            limits,
            flights: Slab::new(),
            waiting: VecDeque::new(),
            put_off: Vec::new(),
            next_serial: 0,
            now: 0,
            changes: 0,
            flushed: 0,
        }
    }

    /// What a new association may take; the geometry stays what it was.
    pub(super) fn set_limits(&mut self, limits: Limits) {
        let was = self.limits.geometry;
        let geometry = Geometry { blocks: limits.geometry.blocks.max(was.blocks), ..was };
        self.limits = Limits { geometry, ..limits };
    }

    /// How many answered changes a power cut or crash of the target may have lost.
    pub(super) fn unflushed(&self) -> u64 {
        if self.limits.geometry.features.volatile_cache { self.changes - self.flushed } else { 0 }
    }

    /// Takes a request that was checked against the geometry.
    pub(super) fn add(&mut self, request: Request, ticket: Ticket) {
        let serial = self.next_serial;
        self.next_serial += 1;
        let kind = match &request {
            Request::Flush => Kind::Flush(self.changes),
            Request::Read { .. } => Kind::Plain,
            Request::Write { durability, .. } | Request::WriteZeroes { durability, .. } => match durability {
                Durability::Volatile => Kind::Volatile,
                Durability::Durable => Kind::Plain,
            },
            Request::Unmap { .. } => Kind::Volatile,
        };
        let is_read = matches!(request, Request::Read { .. });
        let entry = self.flights.vacant_entry();
        let flight = entry.key();
        let before = self.waiting.len();
        let mut index = 0;
        split(&self.limits, request, |op| {
            self.waiting.push_back(Part { flight, serial, index, op });
            index += 1;
        });
        assert!(self.waiting.len() > before, "every request has at least one part");
        let data = if is_read { (0..index).map(|_| None).collect() } else { SmallVec::new() };
        entry.insert(Flight {
            ticket,
            serial,
            moved: self.now,
            parts_left: index,
            fault: None,
            data,
            sent: false,
            kind,
        });
    }

    /// The next part to send.
    pub(super) fn next(&mut self) -> Option<Part> {
        loop {
            let part = self.waiting.pop_front()?;
            // A part whose request was given up has nobody to answer.
            let Some(flight) = self.flights.get_mut(part.flight).filter(|f| f.serial == part.serial) else { continue };
            flight.sent = true;
            return Some(part);
        }
    }

    /// Parts whose connection ended before the answer: they are sent again, before all others.
    pub(super) fn again(&mut self, mut parts: Vec<Part>) {
        parts.sort_by_key(|part| (part.serial, part.index));
        for part in parts.into_iter().rev() {
            self.waiting.push_front(part);
        }
    }

    /// Forgets the requests of these parts, and their tickets: a deliberate defect, see [`block::probe`].
    pub(super) fn forget(&mut self, parts: &[Part]) {
        for part in parts {
            if self.flights.get(part.flight).is_some_and(|f| f.serial == part.serial) {
                drop(self.flights.remove(part.flight));
            }
        }
    }

    /// A part was answered.
    pub(super) fn done(&mut self, part: Part, reply: Reply, data: Option<BufMut>, answers: &mut Answers) {
        let Some(flight) = self.flights.get_mut(part.flight).filter(|f| f.serial == part.serial) else { return };
        let outcome = match reply {
            Reply::Later => return self.put_off.push(part),
            Reply::Done(outcome) => outcome,
        };
        match outcome {
            Ok(()) => {
                if let Some(slot) = flight.data.get_mut(part.index as usize) {
                    *slot = data.map(BufMut::freeze);
                }
            }
            Err(fault) => {
                flight.fault.get_or_insert(fault);
            }
        }
        flight.parts_left -= 1;
        flight.moved = self.now;
        if flight.parts_left > 0 {
            return;
        }
        let flight = self.flights.remove(part.flight);
        if flight.fault.is_none() {
            match flight.kind {
                Kind::Plain => {}
                Kind::Volatile => self.changes += 1,
                Kind::Flush(covered) => self.flushed = self.flushed.max(covered),
            }
        }
        let outcome = match flight.fault {
            Some(fault) => Err(fault),
            None => {
                let mut data = Data::empty();
                for piece in flight.data {
                    data.push(piece.expect("a read part that succeeded brought its data"));
                }
                Ok(data)
            }
        };
        answers.push((flight.ticket, outcome));
    }

    /// Time passes. Requests that saw no progress for `deadline` ticks are given up; returns whether the target knew one of them.
    pub(super) fn tick(&mut self, deadline: u32, answers: &mut Answers) -> bool {
        self.now = self.now.wrapping_add(1);
        self.waiting.extend(self.put_off.drain(..));
        let old: SmallVec<[usize; 8]> = self
            .flights
            .iter()
            .filter(|(_, flight)| self.now.wrapping_sub(flight.moved) > deadline)
            .map(|(key, _)| key)
            .collect();
        let mut known = false;
        for key in old {
            let flight = self.flights.remove(key);
            known |= flight.sent;
            // One that was never sent can not take effect any more; one that was sent may.
            let fault = if flight.sent { Fault::TimedOut } else { Fault::Gone };
            answers.push((flight.ticket, Err(fault)));
        }
        let flights = &self.flights;
        self.waiting.retain(|part| flights.get(part.flight).is_some_and(|f| f.serial == part.serial));
        known
    }

    /// Gives up everything, because the target is gone. One that was sent may still take effect.
    pub(super) fn lose_all(&mut self, answers: &mut Answers) {
        self.waiting.clear();
        self.put_off.clear();
        let fault = |sent| if sent { Fault::TimedOut } else { Fault::Gone };
        answers.extend(self.flights.drain().map(|flight| (flight.ticket, Err(fault(flight.sent)))));
    }

    /// Gives up everything.
    pub(super) fn fail_all(&mut self, fault: Fault, answers: &mut Answers) {
        self.waiting.clear();
        self.put_off.clear();
        answers.extend(self.flights.drain().map(|flight| (flight.ticket, Err(fault))));
    }
}

/// Cuts a request into commands that the device takes.
fn split(limits: &Limits, request: Request, mut emit: impl FnMut(Op)) {
    let size = limits.geometry.block_size;
    match request {
        Request::Flush => emit(Op::Flush),
        Request::Read { range } => pieces(range, limits.transfer, |piece, _| emit(Op::Read(piece))),
        Request::Write { range, data, durability } => pieces(range, limits.transfer, |piece, at| {
            let from = size.bytes_of(at).0 as usize;
            let to = from + size.bytes_of(piece.len).0 as usize;
            emit(Op::Write(piece, data.slice(from..to), durability));
        }),
        Request::Unmap { range } => match (limits.unmap, limits.zeroes) {
            (Clear::Deallocate, _) => {
                pieces(range, Blocks(u64::from(u32::MAX)), |piece, _| emit(Op::Deallocate(piece)))
            }
            _ => zero(limits, range, true, Durability::Volatile, emit),
        },
        Request::WriteZeroes { range, may_unmap, durability } => zero(limits, range, may_unmap, durability, emit),
    }
}

fn zero(limits: &Limits, range: BlockRange, may_unmap: bool, durability: Durability, mut emit: impl FnMut(Op)) {
    match limits.zeroes {
        Some(most) => pieces(range, most, |piece, _| emit(Op::WriteZeroes(piece, may_unmap, durability))),
        None => pieces(range, limits.transfer, |piece, _| {
            let zeroes = Buf::zeroes(limits.geometry.block_size.bytes_of(piece.len).0 as usize);
            emit(Op::Write(piece, zeroes, durability));
        }),
    }
}

/// Cuts a range into pieces of at most `most` blocks; each comes with its distance from the start.
fn pieces(range: BlockRange, most: Blocks, mut emit: impl FnMut(BlockRange, Blocks)) {
    let mut at = 0;
    while at < range.len.0 {
        let len = most.0.min(range.len.0 - at);
        emit(BlockRange::new(range.start.0 + at, len), Blocks(at));
        at += len;
    }
}

#[cfg(test)]
mod tests;
