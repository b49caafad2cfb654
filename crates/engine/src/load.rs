//! A closed-loop workload over any disk: `depth` requests are always in flight, each completion starts the next.
//!
//! Used to measure (`cargo xtask bench`) and, with a [`Model`], to prove that every byte is what was written last,
//! also over lost connections and members.

mod model;
mod report;

use std::time::Duration;

use block::{BlockRange, Buf, BufMut, Data, Durability, Fault, Geometry, Instant, Outcome, Request, Ticket};
use host::{DiskRef, Host, Queue};
use thiserror::Error;

pub use model::{Mismatch, Model, UNIT_BYTES};
pub use report::{Latency, Report, Side};

/// Where the next request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Anywhere in the region, aligned to the request's size.
    Random,
    /// One after the other, and again from the start.
    Sequential,
}

/// When to start no further request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// After this time.
    After(Duration),
    /// After this many requests.
    Requests(u64),
}

/// What a failed request means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFault {
    /// The run ends with [`LoadError::Fault`].
    End,
    /// It is counted and the run goes on.
    Count,
}

/// A workload.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Where requests go.
    pub pattern: Pattern,
    /// How many of 100 requests are reads.
    pub read_percent: u8,
    /// How many of 100 requests are unmaps; what is left beside reads are writes.
    pub unmap_percent: u8,
    /// Bytes of one request; a multiple of the disk's block size, and of 4096 with a model.
    pub request_bytes: u32,
    /// Requests in flight.
    pub depth: usize,
    /// When to end.
    pub stop: Stop,
    /// What a failed request means.
    pub on_fault: OnFault,
    /// Whether writes wait for stable storage.
    pub durability: Durability,
    /// The blocks to use; all of the disk when `None`.
    pub region: Option<BlockRange>,
    /// Two runs with the same seed make the same choices (their order in time may differ).
    pub seed: u64,
}

impl Default for Workload {
    fn default() -> Workload {
        Workload {
            pattern: Pattern::Random,
            read_percent: 50,
            unmap_percent: 0,
            request_bytes: 4096,
            depth: 32,
            stop: Stop::Requests(10_000),
            on_fault: OnFault::End,
            durability: Durability::Volatile,
            region: None,
            seed: 0,
        }
    }
}

/// Why a run could not be made or was ended.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The workload does not fit the disk.
    #[error("this workload does not fit {disk}: {why}")]
    Workload {
        /// The disk's name.
        disk: String,
        /// What does not fit.
        why: String,
    },
    /// A request failed.
    #[error("{disk}: a request for blocks {range} failed: {fault}")]
    Fault {
        /// The disk's name.
        disk: String,
        /// The blocks.
        range: BlockRange,
        /// Why.
        fault: Fault,
    },
}

/// Small, fast and repeatable; not for secrets (splitmix64).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed)
    }
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// A number below `n`, which is not 0.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Read,
    Write,
    Unmap,
}

/// A request in flight.
#[derive(Clone, Copy)]
struct Flight {
    kind: Kind,
    range: BlockRange,
    since: Instant,
}

struct Run<'a> {
    host: &'a Host,
    disk: &'a DiskRef,
    work: &'a Workload,
    geometry: Geometry,
    region: BlockRange,
    /// Blocks of one request, and how many such requests cover the region.
    request_blocks: u64,
    places: u64,
    cursor: u64,
    dice: Dice,
    /// What unverified writes carry.
    payloads: Vec<Buf>,
    flights: Vec<Option<Flight>>,
    done: Queue<(usize, Outcome)>,
    model: Option<&'a mut Model>,
    report: Report,
    ended: Option<(BlockRange, Fault)>,
}

/// Runs a workload. With a model, every read is checked against it and every write recorded in it; the same model can
/// serve several runs, one after the other, and a last [`Model::verify_all`].
pub async fn run(host: &Host, disk: &DiskRef, work: &Workload, model: Option<&mut Model>) -> Result<Report, LoadError> {
    let geometry = disk.geometry();
    let region = work.region.unwrap_or(geometry.all());
    check(disk, work, geometry, region, model.is_some())?;
    let request_blocks = u64::from(work.request_bytes >> geometry.block_size.shift());
    let mut dice = Dice::new(work.seed);
    let payloads = (0..8).map(|_| noise(&mut dice, work.request_bytes as usize)).collect();
    let mut run = Run {
        host,
        disk,
        work,
        geometry,
        region,
        request_blocks,
        places: region.len.0 / request_blocks,
        cursor: 0,
        dice,
        payloads,
        flights: vec![None; work.depth],
        done: Queue::default(),
        model,
        report: Report::new(),
        ended: None,
    };
    run.drive().await;
    match run.ended {
        Some((range, fault)) => Err(LoadError::Fault { disk: disk.label(), range, fault }),
        None => Ok(run.report),
    }
}

fn check(
    disk: &DiskRef,
    work: &Workload,
    geometry: Geometry,
    region: BlockRange,
    verified: bool,
) -> Result<(), LoadError> {
    let refuse = |why: &str| Err(LoadError::Workload { disk: disk.label(), why: why.to_owned() });
    let bytes = u64::from(work.request_bytes);
    if bytes == 0 || !geometry.block_size.divides(bytes) {
        return refuse("the request size is not a multiple of the block size");
    }
    if verified && !bytes.is_multiple_of(UNIT_BYTES as u64) {
        return refuse("a verified workload needs requests of a multiple of 4096 bytes");
    }
    if verified && !geometry.block_size.offset_of(region.start).is_multiple_of(UNIT_BYTES as u64) {
        return refuse("a verified workload needs a region that begins on a multiple of 4096 bytes");
    }
    if !region.fits(geometry.blocks) || geometry.block_size.bytes_of(region.len).0 < bytes {
        return refuse("the region does not lie inside the disk, or is smaller than one request");
    }
    if work.depth == 0 {
        return refuse("the depth is 0");
    }
    if u32::from(work.read_percent) + u32::from(work.unmap_percent) > 100 {
        return refuse("reads and unmaps are more than 100 percent");
    }
    Ok(())
}

/// `len` bytes that do not compress.
fn noise(dice: &mut Dice, len: usize) -> Buf {
    let mut buf = BufMut::new(len);
    for chunk in buf.chunks_mut(8) {
        chunk.copy_from_slice(&dice.next().to_le_bytes()[..chunk.len()]);
    }
    buf.freeze()
}

impl Run<'_> {
    async fn drive(&mut self) {
        let start = self.host.now();
        let mut now = start;
        let mut started = 0u64;
        let mut in_flight = 0usize;
        let mut idle: Vec<usize> = (0..self.work.depth).rev().collect();
        loop {
            while let Some(&slot) = idle.last() {
                let goes_on = match self.work.stop {
                    Stop::After(time) => now.since(start) < time,
                    Stop::Requests(n) => started < n,
                };
                if !goes_on || self.ended.is_some() || !self.start(slot, now) {
                    break;
                }
                idle.pop();
                started += 1;
                in_flight += 1;
            }
            if in_flight == 0 {
                break;
            }
            self.done.ready().await;
            now = self.host.now();
            while let Some((slot, outcome)) = self.done.pop() {
                self.finish(slot, outcome, now);
                idle.push(slot);
                in_flight -= 1;
            }
        }
        self.report.elapsed = self.host.now().since(start);
    }

    /// Starts a request in an idle slot. Returns false when the model allows none now: in a small region every place
    /// may be taken by requests in flight; then the next completion makes room.
    fn start(&mut self, slot: usize, now: Instant) -> bool {
        let kind = match self.dice.below(100) {
            n if n < u64::from(self.work.read_percent) => Kind::Read,
            n if n < u64::from(self.work.read_percent) + u64::from(self.work.unmap_percent) => Kind::Unmap,
            _ => Kind::Write,
        };
        let Some(range) = self.place() else { return false };
        let request = match kind {
            Kind::Read => Request::Read { range },
            Kind::Unmap => Request::Unmap { range },
            Kind::Write => {
                let data = match &mut self.model {
                    Some(model) => model.begin_write(self.geometry.block_size, range),
                    None => self.payloads[slot % self.payloads.len()].clone(),
                };
                Request::Write { range, data, durability: self.work.durability }
            }
        };
        if let (Kind::Unmap, Some(model)) = (kind, &mut self.model) {
            model.begin_clear(self.geometry.block_size, range);
        }
        self.flights[slot] = Some(Flight { kind, range, since: now });
        let done = self.done.clone();
        self.disk.submit(request, Ticket::new(move |outcome| done.push((slot, outcome))));
        true
    }

    /// The next place. A model knows the contents only of blocks that one request at a time touches.
    fn place(&mut self) -> Option<BlockRange> {
        let attempts = if self.model.is_some() { 64 } else { 1 };
        for _ in 0..attempts {
            let place = match self.work.pattern {
                Pattern::Random => self.dice.below(self.places),
                Pattern::Sequential => {
                    self.cursor = (self.cursor + 1) % self.places;
                    (self.cursor + self.places - 1) % self.places
                }
            };
            let range = BlockRange::new(self.region.start.0 + place * self.request_blocks, self.request_blocks);
            let taken =
                self.model.is_some() && self.flights.iter().flatten().any(|flight| flight.range.overlaps(range));
            if !taken {
                return Some(range);
            }
        }
        None
    }

    fn finish(&mut self, slot: usize, outcome: Outcome, now: Instant) {
        let flight = self.flights[slot].take().expect("a completion belongs to a request in flight");
        let size = self.geometry.block_size;
        if let Some(model) = &mut self.model {
            match (flight.kind, &outcome) {
                (Kind::Read, Ok(data)) => self.report.checked(model.check(size, flight.range, data.clone())),
                (Kind::Read, Err(_)) => {}
                (Kind::Write | Kind::Unmap, outcome) => model.end_change(size, flight.range, outcome.is_ok()),
            }
        }
        match outcome {
            Ok(data) => {
                let short = flight.kind == Kind::Read && data.len() as u64 != size.bytes_of(flight.range.len).0;
                assert!(!short, "{} answered a read with {} bytes", self.disk.label(), data.len());
                let side = match flight.kind {
                    Kind::Read => &mut self.report.reads,
                    Kind::Write => &mut self.report.writes,
                    Kind::Unmap => &mut self.report.unmaps,
                };
                side.record(now.since(flight.since), u64::from(self.work.request_bytes));
            }
            Err(fault) => {
                self.report.faults += 1;
                if self.work.on_fault == OnFault::End && self.ended.is_none() {
                    self.ended = Some((flight.range, fault));
                }
            }
        }
    }
}

/// One request at a time, for the model's own reads.
pub(crate) async fn read(disk: &DiskRef, range: BlockRange) -> Result<Data, LoadError> {
    let (done, outcome) = {
        let queue: Queue<Outcome> = Queue::default();
        (queue.clone(), queue)
    };
    disk.submit(Request::Read { range }, Ticket::new(move |o| done.push(o)));
    outcome.next().await.map_err(|fault| LoadError::Fault { disk: disk.label(), range, fault })
}

#[cfg(test)]
mod tests;
