//! Counts requests, their bytes and their latencies, at a cost that the data path does not feel.
//!
//! Every read and write is counted. A latency needs the clock twice and a ticket of its own, so on a busy device only one
//! request in [`STRIDE`] is timed, and weighs that many; after each [`Meter::read`] the first [`BUDGET`] are all timed, so
//! that a quiet device is measured in full.

use std::cell::Cell;
use std::rc::Rc;

use block::{BlockSize, Instant, Outcome, Request, Ticket};
use host::Host;

/// How many latency buckets there are.
pub const BUCKETS: usize = 37;
/// On a busy device one request in this many is timed.
const STRIDE: u64 = 16;
/// How many requests are timed without exception after each reading.
const BUDGET: u32 = 256;

/// A bucket counts requests that took less than this many microseconds, and not less than the bucket before allows: 8,
/// 12, 16, 24, 32, … 1,572,864. The last bucket has no bound.
pub fn bound_us(bucket: usize) -> Option<u64> {
    let first = if bucket.is_multiple_of(2) { 8 } else { 12 };
    (bucket + 1 < BUCKETS).then(|| first << (bucket / 2))
}

fn bucket(micros: u64) -> usize {
    let Some(octave) = (micros / 8).checked_ilog2() else { return 0 };
    let upper = usize::from(micros >= 12 << octave);
    (2 * octave as usize + 1 + upper).min(BUCKETS - 1)
}

/// Requests of one kind, since the meter was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Requests that were begun.
    pub requests: u64,
    /// Bytes that they asked for or brought.
    pub bytes: u64,
    /// What all timed requests took together, in microseconds, by their weight.
    pub micros: u64,
    /// Timed requests by their weight, in buckets ([`bound_us`]). Empty when none was timed.
    pub latency: Vec<u64>,
}

/// What a meter has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IoStats {
    /// Reads.
    pub reads: Flow,
    /// Writes.
    pub writes: Flow,
    /// Requests of any kind that failed, where the meter sees all answers (volumes and their members); else zero.
    pub errors: u64,
}

impl IoStats {
    /// Whether nothing was ever counted.
    pub fn is_idle(&self) -> bool {
        self.reads.requests == 0 && self.writes.requests == 0 && self.errors == 0
    }
}

struct Counters {
    requests: Cell<u64>,
    bytes: Cell<u64>,
    micros: Cell<u64>,
    latency: [Cell<u64>; BUCKETS],
}

impl Default for Counters {
    fn default() -> Counters {
        Counters {
            requests: Cell::default(),
            bytes: Cell::default(),
            micros: Cell::default(),
            latency: [const { Cell::new(0) }; BUCKETS],
        }
    }
}

fn add(cell: &Cell<u64>, n: u64) {
    cell.set(cell.get().wrapping_add(n));
}

impl Counters {
    fn read(&self) -> Flow {
        let latency: Vec<u64> = self.latency.iter().map(Cell::get).collect();
        let timed = latency.iter().any(|n| *n > 0);
        Flow {
            requests: self.requests.get(),
            bytes: self.bytes.get(),
            micros: self.micros.get(),
            latency: if timed { latency } else { Vec::new() },
        }
    }
}

/// What is remembered of a request while it is under way.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    kind: Kind,
    begun: Instant,
    weight: u64,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Read,
    Write,
}

/// The counters of one device.
pub struct Meter {
    host: Host,
    block_size: BlockSize,
    reads: Counters,
    writes: Counters,
    errors: Cell<u64>,
    budget: Cell<u32>,
}

impl Meter {
    /// A meter for a device with such blocks, all counters at zero.
    pub fn new(host: &Host, block_size: BlockSize) -> Rc<Meter> {
        Rc::new(Meter {
            host: host.clone(),
            block_size,
            reads: Counters::default(),
            writes: Counters::default(),
            errors: Cell::new(0),
            budget: Cell::new(BUDGET),
        })
    }

    /// Counts a request that begins. When it is to be timed, [`Meter::answered`] is owed.
    pub fn begin(&self, request: &Request) -> Option<Timing> {
        let (kind, bytes) = match request {
            Request::Read { range } => (Kind::Read, range.len.0 << self.block_size.shift()),
            Request::Write { data, .. } => (Kind::Write, data.len() as u64),
            Request::Flush | Request::Unmap { .. } | Request::WriteZeroes { .. } => return None,
        };
        let counters = self.of(kind);
        add(&counters.requests, 1);
        add(&counters.bytes, bytes);
        let weight = match self.budget.get() {
            0 if !counters.requests.get().is_multiple_of(STRIDE) => return None,
            0 => STRIDE,
            left => {
                self.budget.set(left - 1);
                1
            }
        };
        Some(Timing { kind, begun: self.host.now(), weight })
    }

    /// A timed request was answered at `now`.
    pub fn answered(&self, timing: Timing, now: Instant) {
        let micros = u64::try_from(now.since(timing.begun).as_micros()).unwrap_or(u64::MAX);
        let counters = self.of(timing.kind);
        add(&counters.micros, micros.saturating_mul(timing.weight));
        add(&counters.latency[bucket(micros)], timing.weight);
    }

    /// A request was answered by whoever sees all answers: also counts those that failed.
    pub fn finished(&self, timing: Option<Timing>, outcome: &Outcome) {
        if let Some(timing) = timing {
            self.answered(timing, self.host.now());
        }
        if outcome.is_err() {
            self.failed();
        }
    }

    /// A request failed.
    pub fn failed(&self) {
        add(&self.errors, 1);
    }

    /// Counts a request that begins with this ticket. The ticket that is to be used instead takes its time when its turn
    /// has come.
    pub fn ticket(self: &Rc<Meter>, request: &Request, ticket: Ticket) -> Ticket {
        let Some(timing) = self.begin(request) else { return ticket };
        let meter = self.clone();
        Ticket::new(move |outcome: Outcome| {
            meter.answered(timing, meter.host.now());
            ticket.answer(outcome);
        })
    }

    /// All counters; the next requests are timed without exception.
    pub fn read(&self) -> IoStats {
        self.budget.set(BUDGET);
        IoStats { reads: self.reads.read(), writes: self.writes.read(), errors: self.errors.get() }
    }

    /// Reads and writes so far, in requests and bytes, without a new reading.
    pub fn totals(&self) -> [(u64, u64); 2] {
        [&self.reads, &self.writes].map(|c| (c.requests.get(), c.bytes.get()))
    }

    fn of(&self, kind: Kind) -> &Counters {
        match kind {
            Kind::Read => &self.reads,
            Kind::Write => &self.writes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_latency_lies_in_the_bucket_whose_bound_it_is_below() {
        for micros in (0..5_000).chain((5_000..3_000_000).step_by(997)) {
            let b = bucket(micros);
            assert!(bound_us(b).is_none_or(|bound| micros < bound), "{micros} in {b}");
            assert!(b == 0 || bound_us(b - 1).is_some_and(|bound| micros >= bound), "{micros} in {b}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!((bound_us(0), bound_us(1), bound_us(2), bound_us(36)), (Some(8), Some(12), Some(16), None));
    }

    #[test]
    fn a_busy_device_is_sampled_and_the_samples_stand_for_all() {
        let world = sim::World::new(1);
        let host = world.host();
        let meter = Meter::new(&host, BlockSize::B512);
        let read = Request::Read { range: block::BlockRange::new(0, 8) };
        let n = u64::from(BUDGET) + 100 * STRIDE;
        let mut timed = 0;
        for _ in 0..n {
            if let Some(timing) = meter.begin(&read) {
                timed += 1;
                meter.answered(timing, timing.begun + std::time::Duration::from_micros(10));
            }
        }
        let stats = meter.read();
        assert_eq!((stats.reads.requests, stats.reads.bytes, timed), (n, n * 4096, u64::from(BUDGET) + 100));
        assert_eq!((stats.reads.latency[1], stats.reads.micros), (n, n * 10));
        assert!(meter.begin(&read).is_some(), "after a reading all are timed again");
        assert!(meter.begin(&Request::Flush).is_none());
    }
}
