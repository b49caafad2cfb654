//! A disk with a volatile cache.
//!
//! | fault | model |
//! |---|---|
//! | lost on a power cut | each unit that was answered but not flushed is kept or lost, independently |
//! | torn in flight | of a write in flight, any subset of its units lands |
//! | flush | covers the writes that were answered before it was submitted, and no other |
//! | killed process | answered writes stay; those in flight land later, or never |
//! | failed flush | loses some of what was dirty; a later one that succeeds proves nothing |
//! | slow | each request takes longer |
//! | latent error | reads or writes of chosen blocks fail until rewritten |
//! | stuck | requests are never answered |
//! | removed | everything fails with `Gone` |

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::{Rc, Weak};
use std::time::Duration;

use block::{BlockRange, BlockSize, Blocks, BufMut, Data, Durability, Fault, Features, Geometry, Lba, Request, Ticket};
use host::{Disk, DiskRef, OpenError};

use crate::crash::{Recorder, Unit};
use crate::world::Core;

/// The shape and speed of a simulated disk.
#[derive(Clone, Debug)]
pub struct DiskOptions {
    /// Logical block size.
    pub block_size: BlockSize,
    /// Size in blocks.
    pub blocks: u64,
    /// Bytes that are written whole or not at all: 512, or 4096 when the block size is 4096.
    pub atomic_unit: u32,
    /// Time from submission to answer, from and to.
    pub latency: (Duration, Duration),
}

impl DiskOptions {
    /// A disk of `mib` MiB with blocks of 512 bytes, written in atomic units of 512 bytes.
    pub fn mib(mib: u64) -> DiskOptions {
        DiskOptions {
            block_size: BlockSize::B512,
            blocks: mib << 11,
            atomic_unit: 512,
            latency: (Duration::from_micros(20), Duration::from_micros(400)),
        }
    }
    /// The same with blocks of 4096 bytes, each of which may still be torn at 512 bytes.
    pub fn mib_4k(mib: u64) -> DiskOptions {
        DiskOptions { block_size: BlockSize::B4096, blocks: mib << 8, ..DiskOptions::mib(mib) }
    }
}

/// The contents of a disk: units by index; what is missing is zero. Cloning shares the contents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskImage(pub BTreeMap<u64, Unit>);

struct Write {
    sequence: u64,
    units: Vec<(u64, Option<Unit>)>,
}

/// The end of a request: it takes effect and is answered.
type Completion = Box<dyn FnOnce(&SimDisk)>;

struct State {
    options: DiskOptions,
    /// What reads return.
    current: DiskImage,
    /// What survives a power cut for certain, and the sequence of the write that put it there.
    durable: DiskImage,
    durable_sequence: BTreeMap<u64, u64>,
    /// Answered, not flushed.
    cached: Vec<Write>,
    /// Submitted, not answered.
    flying: BTreeMap<u64, Write>,
    next_sequence: u64,
    /// Tickets of requests that will be answered, by request number.
    waiting: BTreeMap<u64, Ticket>,
    bad_reads: BTreeSet<u64>,
    bad_writes: BTreeSet<u64>,
    stuck: bool,
    /// Each request takes so much longer.
    slow: Duration,
    /// So many flushes fail.
    bad_flushes: u32,
    /// What would have happened while it was stuck; it happens when that ends.
    parked: Vec<Completion>,
    gone: bool,
    opener: Option<String>,
    recorder: Option<(Recorder, usize)>,
    writes: u64,
    flushes: u64,
}

/// A simulated disk. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    core: Weak<Core>,
    name: Rc<str>,
    state: Rc<RefCell<State>>,
}

impl SimDisk {
    pub(crate) fn new(core: &Rc<Core>, name: String, options: DiskOptions) -> SimDisk {
        let state = State {
            options,
            current: DiskImage::default(),
            durable: DiskImage::default(),
            durable_sequence: BTreeMap::new(),
            cached: Vec::new(),
            flying: BTreeMap::new(),
            next_sequence: 1,
            waiting: BTreeMap::new(),
            bad_reads: BTreeSet::new(),
            bad_writes: BTreeSet::new(),
            stuck: false,
            slow: Duration::ZERO,
            bad_flushes: 0,
            parked: Vec::new(),
            gone: false,
            opener: None,
            recorder: None,
            writes: 0,
            flushes: 0,
        };
        SimDisk { core: Rc::downgrade(core), name: name.into(), state: Rc::new(RefCell::new(state)) }
    }

    /// Its shape and speed.
    pub fn options(&self) -> DiskOptions {
        self.state.borrow().options.clone()
    }

    /// What reads return now.
    pub fn image(&self) -> DiskImage {
        self.state.borrow().current.clone()
    }

    /// Replaces the contents; all of it counts as durable.
    pub fn set_image(&self, image: DiskImage) {
        let mut s = self.state.borrow_mut();
        s.current = image.clone();
        s.durable = image;
        s.durable_sequence.clear();
        s.cached.clear();
    }

    /// Overwrites bytes in place, like bit rot: no request is made, nothing fails.
    pub fn corrupt(&self, offset: u64, bytes: &[u8]) {
        let mut s = self.state.borrow_mut();
        let unit = u64::from(s.options.atomic_unit);
        let State { current, durable, .. } = &mut *s;
        for (k, byte) in bytes.iter().enumerate() {
            let (index, at) = ((offset + k as u64) / unit, ((offset + k as u64) % unit) as usize);
            for image in [&mut *current, &mut *durable] {
                let mut new = image.0.get(&index).map_or_else(|| vec![0; unit as usize], |u| u.to_vec());
                new[at] = *byte;
                image.0.insert(index, new.into());
            }
        }
    }

    /// The bytes at an offset, as a read would return them.
    pub fn peek(&self, offset: u64, len: usize) -> Vec<u8> {
        let s = self.state.borrow();
        let unit = u64::from(s.options.atomic_unit);
        (offset..offset + len as u64)
            .map(|at| s.current.0.get(&(at / unit)).map_or(0, |u| u[(at % unit) as usize]))
            .collect()
    }

    /// Lets reads of these blocks fail until they are written again.
    pub fn fail_reads(&self, range: BlockRange) {
        self.state.borrow_mut().bad_reads.extend(range.start.0..range.end().0);
    }
    /// Lets writes of these blocks fail.
    pub fn fail_writes(&self, range: BlockRange) {
        self.state.borrow_mut().bad_writes.extend(range.start.0..range.end().0);
    }
    /// Heals all blocks.
    pub fn heal(&self) {
        let mut s = self.state.borrow_mut();
        s.bad_reads.clear();
        s.bad_writes.clear();
        (s.slow, s.bad_flushes) = (Duration::ZERO, 0);
    }
    /// Lets the next `count` flushes fail. Each takes away some of what was answered and not flushed: reads show it until
    /// the power goes, no later flush saves it.
    pub fn fail_flushes(&self, count: u32) {
        self.state.borrow_mut().bad_flushes = count;
    }
    /// Lets each request take so much longer from now on.
    pub fn slow(&self, by: Duration) {
        self.state.borrow_mut().slow = by;
    }
    /// From now on requests are not answered; what waits when it ends (`false`) is answered then.
    pub fn stall(&self, stuck: bool) {
        let parked = {
            let mut s = self.state.borrow_mut();
            s.stuck = stuck;
            if stuck { Vec::new() } else { std::mem::take(&mut s.parked) }
        };
        for completion in parked {
            self.later(Duration::from_micros(1), completion);
        }
    }

    /// Lets a request end after a time, or once the disk is no longer stuck.
    fn later(&self, delay: Duration, completion: Completion) {
        let Some(core) = self.core.upgrade() else { return };
        let disk = self.clone();
        core.after(delay, move || {
            let stuck = disk.state.borrow().stuck;
            if stuck {
                disk.state.borrow_mut().parked.push(completion);
            } else {
                completion(&disk);
            }
        });
    }

    /// How many writes (with write-zeroes and unmaps) and flushes it has answered.
    pub fn counts(&self) -> (u64, u64) {
        let s = self.state.borrow();
        (s.writes, s.flushes)
    }

    /// Cuts the power: each unit that was answered and not flushed, or in flight, is kept or lost by chance.
    /// The opener must be dead already ([`crate::World::kill`]).
    pub fn power_cut(&self) {
        let core = self.core.upgrade().expect("the world is there");
        let mut s = self.state.borrow_mut();
        let flying = std::mem::take(&mut s.flying);
        let mut writes = std::mem::take(&mut s.cached);
        writes.extend(flying.into_values());
        writes.sort_by_key(|w| w.sequence);
        for write in writes {
            for (index, unit) in write.units {
                if core.entropy.borrow_mut().chance(50) {
                    s.make_durable(write.sequence, index, unit);
                }
            }
        }
        s.current = s.durable.clone();
    }

    pub(crate) fn record(&self, recorder: Recorder, index: usize) {
        let mut s = self.state.borrow_mut();
        assert!(s.waiting.is_empty(), "{}: a recording begins at rest, so that it knows every write", self.name);
        recorder.add_disk(self.name.to_string(), s.options.clone(), s.current.clone());
        s.recorder = Some((recorder, index));
    }

    pub(crate) fn stop_recording(&self) {
        self.state.borrow_mut().recorder = None;
    }

    pub(crate) fn remove(&self) {
        let waiting = {
            let mut s = self.state.borrow_mut();
            s.gone = true;
            std::mem::take(&mut s.waiting)
        };
        for ticket in waiting.into_values() {
            ticket.fail(Fault::Gone);
        }
    }

    pub(crate) fn opener_died(&self, node: &str) {
        let core = self.core.upgrade().expect("the world is there");
        let mut s = self.state.borrow_mut();
        if s.opener.as_deref() != Some(node) {
            return;
        }
        s.opener = None;
        let waiting = std::mem::take(&mut s.waiting);
        // Writes in flight land later, also after a restart, or never.
        let flying: Vec<u64> = s.flying.keys().copied().collect();
        for sequence in flying {
            if core.entropy.borrow_mut().chance(50) {
                let disk = self.clone();
                let delay = core.between(Duration::ZERO, Duration::from_millis(50));
                core.after(delay, move || disk.state.borrow_mut().land(sequence));
            } else {
                s.flying.remove(&sequence);
            }
        }
        drop(s);
        // A ticket may hold the last reference to the open disk, whose end looks at the state again.
        block::at_world_end(|| drop(waiting));
    }

    pub(crate) fn open(&self, node: &str, block_size: BlockSize, exclusive: bool) -> Result<DiskRef, OpenError> {
        let mut s = self.state.borrow_mut();
        if exclusive {
            if s.opener.is_some() {
                return Err(OpenError::Busy);
            }
            s.opener = Some(node.to_owned());
        }
        Ok(Rc::new(OpenDisk { disk: self.clone(), block_size, exclusive }))
    }

    fn submit(&self, request: Request, ticket: Ticket) {
        let core = self.core.upgrade().expect("the world is there");
        let mut s = self.state.borrow_mut();
        if s.gone {
            drop(s);
            return ticket.fail(Fault::Gone);
        }
        let number = s.next_sequence;
        s.next_sequence += 1;
        let range = request.range().unwrap_or(BlockRange::new(0, 0));
        let bad = if request.is_change() { &s.bad_writes } else { &s.bad_reads };
        let failed = bad.range(range.start.0..range.end().0).next().is_some();
        let (low, high) = s.options.latency;
        let delay = core.between(low, high) + s.slow;
        s.waiting.insert(number, ticket);
        if failed {
            return self.later(delay, Box::new(move |disk| disk.finish(number, Err(Fault::Medium))));
        }
        let completion: Completion = match request {
            Request::Read { range } => Box::new(move |disk| {
                let data = disk.state.borrow().read(range);
                disk.finish(number, Ok(data));
            }),
            Request::Flush => {
                // Only what was answered by now is covered.
                let covered = s.next_sequence;
                let answered: BTreeSet<u64> = s.cached.iter().map(|w| w.sequence).filter(|q| *q < covered).collect();
                if let Some((recorder, disk)) = &s.recorder {
                    recorder.flush_submitted(*disk, number);
                }
                Box::new(move |disk| disk.finish_flush(number, &answered))
            }
            Request::Write { range, data, durability } => {
                let units = s.units_of(range, Some(&data));
                s.start_write(number, units);
                Box::new(move |disk| disk.finish_write(number, durability))
            }
            Request::Unmap { range } => {
                let units = s.units_of(range, None);
                s.start_write(number, units);
                Box::new(move |disk| disk.finish_write(number, Durability::Volatile))
            }
            Request::WriteZeroes { range, durability, .. } => {
                let units = s.units_of(range, None);
                s.start_write(number, units);
                Box::new(move |disk| disk.finish_write(number, durability))
            }
        };
        self.later(delay, completion);
    }

    fn finish(&self, number: u64, outcome: block::Outcome) {
        let ticket = {
            let mut s = self.state.borrow_mut();
            s.waiting.remove(&number)
        };
        if let Some(ticket) = ticket {
            ticket.answer(outcome);
        }
    }

    fn finish_write(&self, number: u64, durability: Durability) {
        {
            let mut s = self.state.borrow_mut();
            if s.gone || !s.waiting.contains_key(&number) {
                return;
            }
            s.land(number);
            s.writes += 1;
            if durability == Durability::Durable {
                s.harden(&BTreeSet::from([number]));
            }
            if let Some((recorder, disk)) = &s.recorder {
                recorder.write_answered(*disk, number, durability);
            }
        }
        self.finish(number, Ok(Data::empty()));
    }

    fn finish_flush(&self, number: u64, answered: &BTreeSet<u64>) {
        {
            let mut s = self.state.borrow_mut();
            if s.gone || !s.waiting.contains_key(&number) {
                return;
            }
            if s.bad_flushes > 0 {
                s.bad_flushes -= 1;
                let core = self.core.upgrade().expect("the world is there");
                for write in &mut s.cached {
                    write.units.retain(|_| core.entropy.borrow_mut().chance(50));
                }
                drop(s);
                return self.finish(number, Err(Fault::Medium));
            }
            s.harden(answered);
            s.flushes += 1;
            if let Some((recorder, disk)) = &s.recorder {
                recorder.flush_answered(*disk, number);
            }
        }
        self.finish(number, Ok(Data::empty()));
    }
}

impl State {
    fn units_of(&self, range: BlockRange, data: Option<&[u8]>) -> Vec<(u64, Option<Unit>)> {
        let unit = u64::from(self.options.atomic_unit);
        let start = self.options.block_size.offset_of(range.start) / unit;
        let count = self.options.block_size.bytes_of(range.len).0 / unit;
        (0..count)
            .map(|k| {
                let bytes = data.map(|d| Unit::from(&d[(k * unit) as usize..((k + 1) * unit) as usize]));
                (start + k, bytes)
            })
            .collect()
    }

    fn start_write(&mut self, number: u64, units: Vec<(u64, Option<Unit>)>) {
        if let Some((recorder, disk)) = &self.recorder {
            recorder.write_submitted(*disk, number, units.clone());
        }
        self.flying.insert(number, Write { sequence: number, units });
    }

    /// A write in flight reaches the cache: reads see it, a power cut may lose it.
    fn land(&mut self, number: u64) {
        let Some(write) = self.flying.remove(&number) else { return };
        let per_block = u64::from(self.options.block_size.bytes() / self.options.atomic_unit);
        for (index, unit) in &write.units {
            match unit {
                Some(unit) => self.current.0.insert(*index, unit.clone()),
                None => self.current.0.remove(index),
            };
            self.bad_reads.remove(&(index / per_block));
        }
        self.cached.push(write);
    }

    /// Makes answered writes durable.
    fn harden(&mut self, sequences: &BTreeSet<u64>) {
        let (hard, soft) = std::mem::take(&mut self.cached).into_iter().partition(|w| sequences.contains(&w.sequence));
        self.cached = soft;
        let hard: Vec<Write> = hard;
        for write in hard {
            for (index, unit) in write.units {
                self.make_durable(write.sequence, index, unit);
            }
        }
    }

    fn make_durable(&mut self, sequence: u64, index: u64, unit: Option<Unit>) {
        // An older write never overwrites a newer one.
        if self.durable_sequence.get(&index).is_some_and(|s| *s > sequence) {
            return;
        }
        self.durable_sequence.insert(index, sequence);
        match unit {
            Some(unit) => self.durable.0.insert(index, unit),
            None => self.durable.0.remove(&index),
        };
    }

    fn read(&self, range: BlockRange) -> Data {
        let unit = u64::from(self.options.atomic_unit);
        let mut buf = BufMut::new(self.options.block_size.bytes_of(range.len).0 as usize);
        let first = self.options.block_size.offset_of(range.start) / unit;
        for (k, piece) in buf.chunks_exact_mut(unit as usize).enumerate() {
            match self.current.0.get(&(first + k as u64)) {
                Some(unit) => piece.copy_from_slice(unit),
                None => piece.fill(0),
            }
        }
        buf.freeze().into()
    }
}

/// A disk as its opener sees it.
struct OpenDisk {
    disk: SimDisk,
    block_size: BlockSize,
    exclusive: bool,
}

impl Disk for OpenDisk {
    fn geometry(&self) -> Geometry {
        let s = self.disk.state.borrow();
        let bytes = s.options.block_size.bytes_of(Blocks(s.options.blocks));
        let features = Features { unmap: true, write_zeroes: true, volatile_cache: true, ends_with_process: false };
        Geometry { block_size: self.block_size, blocks: self.block_size.blocks_in(bytes), features }
    }
    fn submit(&self, request: Request, ticket: Ticket) {
        if let Err(fault) = request.check(&self.geometry()) {
            return ticket.fail(fault);
        }
        let native = self.disk.options().block_size;
        let scale = |r: BlockRange| {
            let factor = u64::from(self.block_size.bytes() / native.bytes());
            BlockRange { start: Lba(r.start.0 * factor), len: Blocks(r.len.0 * factor) }
        };
        let request = match request {
            Request::Read { range } => Request::Read { range: scale(range) },
            Request::Write { range, data, durability } => Request::Write { range: scale(range), data, durability },
            Request::Unmap { range } => Request::Unmap { range: scale(range) },
            Request::WriteZeroes { range, may_unmap, durability } => {
                Request::WriteZeroes { range: scale(range), may_unmap, durability }
            }
            Request::Flush => Request::Flush,
        };
        self.disk.submit(request, ticket);
    }
    fn label(&self) -> String {
        self.disk.name.to_string()
    }
}

impl Drop for OpenDisk {
    fn drop(&mut self) {
        if self.exclusive {
            self.disk.state.borrow_mut().opener = None;
        }
    }
}
