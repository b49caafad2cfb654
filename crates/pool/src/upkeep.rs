//! The background of an open pool: writing the journal, checkpoints, keeping clean extents in reserve, flushing.
//! Each is a task that is started when there is something to do and ends when there is nothing left.

use std::rc::Rc;

use block::Fault;
use block::probe::{Mark, Mutant, mark, mutant};
use futures_util::future::join_all;
use host::DiskExt;

use crate::allocator::DiskRun;
use crate::checkpoint::{self, Purpose};
use crate::core::{Core, Duty, Parked, Phase, State, Then};
use crate::journal::Next;
use crate::record::BLOCK_BYTES;
use crate::{PoolError, io};

/// The most bytes of clean extents that are kept in reserve, and the most extents.
const RESERVE_BYTES: u64 = 64 << 20;
const RESERVE_EXTENTS: u64 = 64;
/// The most bytes that are zeroed by one request.
const ZERO_BYTES: u64 = 16 << 20;
/// How many extents are zeroed at first when somebody waits for one.
const FIRST_BATCH: u64 = 8;

impl Core {
    /// Flushes one disk. A failed flush stops the pool: what was answered before may be lost, and a second flush that
    /// succeeds would not bring it back.
    pub async fn flush_disk(self: &Rc<Core>, index: usize) -> Result<(), Fault> {
        let (disk, covered) = {
            let s = self.state.borrow();
            if let Phase::Faulted(_) | Phase::Closed = s.phase {
                return Err(Fault::Gone);
            }
            (s.disks[index].disk.clone(), s.journal.written())
        };
        let flushed = disk.flush().await;
        // Rule: a flush covers what was written before it was sent, and nothing that was written meanwhile.
        let covered = if mutant(Mutant::FlushCoversLater) { self.state.borrow().journal.written() } else { covered };
        match flushed {
            Ok(()) if index == 0 => self.state.borrow_mut().journal.on_flushed(covered),
            Ok(()) => {}
            // Rule: after a flush that failed the pool stops; another one would succeed without what is lost.
            Err(_) if mutant(Mutant::GoOnAfterFlush) => {}
            Err(fault) => self.fault(format!("flushing disk {}: {fault}", disk.label())),
        }
        flushed
    }

    /// Flushes several disks at once; `disks` has one bit for each.
    pub async fn flush_disks(self: &Rc<Core>, disks: u64) -> Result<(), Fault> {
        let all = (0..64).filter(|i| disks & (1 << i) != 0).map(|i| self.flush_disk(i));
        join_all(all).await.into_iter().collect()
    }

    /// Writes journal blocks, one at a time, until no record is left.
    pub(crate) async fn write_journal(self: &Rc<Core>) {
        loop {
            let (disk, next) = {
                let mut s = self.state.borrow_mut();
                if let Phase::Faulted(_) = s.phase {
                    return;
                }
                (s.disks[0].disk.clone(), s.journal.take_next())
            };
            let (index, bytes, last, then) = match next {
                Next::Idle => return,
                Next::Full => {
                    mark(Mark::JournalFull);
                    self.kick(Duty::Checkpoint);
                    self.room.notified().await;
                    continue;
                }
                Next::Write { index, bytes, last, then } => (index, bytes, last, then),
            };
            let offset = self.label.metadata.journal + index * BLOCK_BYTES as u64;
            let written = io::write(&disk, offset, &bytes).await;
            if let Err(fault) = written {
                self.fault(format!("writing the journal on disk {}: {fault}", disk.label()));
            }
            self.go_on(written.is_ok(), last, then);
        }
    }

    /// A journal block was written, or failed: whoever waited for its records goes on, or fails.
    fn go_on(self: &Rc<Core>, ok: bool, last: u64, then: Vec<Then>) {
        if ok {
            let mut s = self.state.borrow_mut();
            s.journal.on_written(last);
            let (ready, waiting) = std::mem::take(&mut s.awaited).into_iter().partition(|(number, _)| *number <= last);
            s.awaited = waiting;
            drop(s);
            for (_, tell) in ready {
                // Whoever waited may be gone.
                let _ = tell.send(());
            }
        }
        for then in then {
            match then {
                Then::Nothing => {}
                Then::Answer(ticket) if ok => ticket.done(),
                Then::Answer(ticket) => ticket.fail(Fault::Gone),
                Then::Open { replica, logical } => {
                    let parked = self.state.borrow_mut().opened(replica, logical);
                    for Parked { request, ticket } in parked {
                        self.submit(replica, request, ticket);
                    }
                }
            }
        }
        self.kick_due();
    }

    /// Writes checkpoints while the journal is half full or more.
    pub(crate) async fn checkpoint_when_due(self: &Rc<Core>) {
        while self.state.borrow().journal.wants_checkpoint() {
            if self.checkpoint(Purpose::Running).await.is_err() {
                return;
            }
        }
    }

    /// Writes one checkpoint, durably, while requests go on. A failure stops the pool.
    pub(crate) async fn checkpoint(self: &Rc<Core>, purpose: Purpose) -> Result<(), PoolError> {
        let (disk, bytes, numbers) = {
            let s = self.state.borrow();
            if let Phase::Faulted(_) = s.phase {
                return s.check_online(&self.name);
            }
            let numbers = s.journal.snapshot();
            let mut header = checkpoint::blank_header(self.uuid, purpose);
            (header.sequence, header.next_block, header.applied) = numbers;
            header.epoch = s.journal.epoch();
            (s.disks[0].disk.clone(), checkpoint::encode(header, &s.meta), numbers)
        };
        let area = &self.label.metadata;
        assert!(bytes.len() as u64 <= area.slot_bytes, "a checkpoint outgrew its slot");
        let slot = area.slots[(numbers.0 % 2) as usize];
        let written = io::write_durably(&disk, slot, &bytes).await;
        match &written {
            Ok(()) => self.state.borrow_mut().journal.on_checkpoint(numbers),
            Err(e) => self.fault(format!("writing a checkpoint: {e}")),
        }
        self.room.notify();
        written
    }

    /// Keeps clean extents in reserve: zeroes free extents and flushes them, before anybody needs one if possible.
    pub(crate) async fn refill(self: &Rc<Core>) {
        let mut batch = FIRST_BATCH;
        loop {
            let step = {
                let mut s = self.state.borrow_mut();
                s.next_refill(self, batch)
            };
            batch *= 2;
            match step {
                Refill::Done => return,
                Refill::Durable(record) => {
                    if self.durable(record).await.is_err() {
                        return;
                    }
                }
                Refill::Passed(epoch) => self.grace.passed(epoch).await,
                Refill::Zero(runs) => {
                    let zeroed = self.zero(&runs).await;
                    let tickets = {
                        let mut s = self.state.borrow_mut();
                        match zeroed {
                            Ok(()) => {
                                runs.into_iter().for_each(|run| s.alloc.cleaned(run));
                                s.serve_waiting(&self.grace);
                                Vec::new()
                            }
                            Err(_) => {
                                runs.into_iter().for_each(|run| s.alloc.not_cleaned(run));
                                s.give_up_waiting()
                            }
                        }
                    };
                    tickets.into_iter().for_each(|t| t.fail(zeroed.expect_err("tickets come with a failure")));
                    self.kick_due();
                    if zeroed.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Zeroes extents, durably.
    async fn zero(self: &Rc<Core>, runs: &[DiskRun]) -> Result<(), Fault> {
        let requests: Vec<_> = {
            let s = self.state.borrow();
            let target = |run: &DiskRun| {
                let place = crate::map::Place { disk: run.disk, extent: run.start };
                let len = u64::from(run.count) << self.extent_shift;
                (s.disks[usize::from(run.disk)].disk.clone(), s.on_disk(place, self.extent_shift, 0, len))
            };
            runs.iter().map(target).collect()
        };
        let zeroed = join_all(requests.iter().map(|(disk, range)| disk.write_zeroes(*range, true))).await;
        zeroed.into_iter().collect::<Result<(), Fault>>()?;
        // Rule: an extent is durably zero before it gets a place in a replica.
        if mutant(Mutant::ZeroWithoutFlush) {
            return Ok(());
        }
        self.flush_disks(runs.iter().fold(0, |bits, run| bits | (1 << run.disk))).await
    }

    /// How many clean extents to keep.
    fn reserve(&self, extents: u64) -> usize {
        let most = (RESERVE_BYTES / self.extent_bytes).clamp(1, RESERVE_EXTENTS);
        (extents / 8).clamp(1, most) as usize
    }
}

/// What refilling the reserve has to do next.
enum Refill {
    Done,
    /// Flush this record: freed extents wait for that.
    Durable(u64),
    /// Wait for the requests of this epoch: freed extents wait for that.
    Passed(u64),
    /// Zero these.
    Zero(Vec<DiskRun>),
}

impl State {
    /// Whether the reserve of clean extents should be filled up.
    pub(crate) fn reserve_is_low(&self, core: &Core) -> bool {
        let low = self.alloc.clean() * 2 < core.reserve(self.meta.extents());
        self.phase == Phase::Online && low && self.alloc.has_dirty()
    }

    fn next_refill(&mut self, core: &Core, batch: u64) -> Refill {
        if self.phase != Phase::Online {
            return Refill::Done;
        }
        self.alloc.settle(self.journal.durable(), core.grace.oldest());
        let wanted = (core.reserve(self.meta.extents()).max(self.waiting.len())).saturating_sub(self.alloc.clean());
        if wanted == 0 {
            return Refill::Done;
        }
        let mut left = (wanted as u64).min(batch) as u32;
        let most = (ZERO_BYTES / core.extent_bytes).max(1) as u32;
        let mut runs = Vec::new();
        while left > 0 && runs.len() < 16 {
            let Some(run) = self.alloc.take_dirty(left.min(most)) else { break };
            left -= run.count;
            runs.push(run);
        }
        if !runs.is_empty() {
            return Refill::Zero(runs);
        }
        match self.alloc.oldest_pending() {
            _ if self.waiting.is_empty() => Refill::Done,
            Some((record, _)) if record > self.journal.durable() => Refill::Durable(record),
            Some((_, epoch)) => Refill::Passed(epoch),
            None => unreachable!("a request waits for an extent that was promised to it, but there is none"),
        }
    }

    /// The record that gives an extent a place is written; returns who waited for it.
    fn opened(&mut self, replica: u32, logical: u32) -> Vec<Parked> {
        self.live.get_mut(&replica).and_then(|live| live.opening.remove(&logical)).unwrap_or_default()
    }
}
