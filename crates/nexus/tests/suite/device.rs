//! A member's device: its volume, its metadata, and what a power loss would leave.

use std::collections::BTreeSet;

use block::{BlockRange, BlockSize, Buf, BufMut, Durability, Request};
use nexus::ledger::Ledger;
use nexus::map::{Maps, Shape};
use nexus::meta;
use uuid::Uuid;

pub const VOLUME: Uuid = Uuid::from_u128(42);

/// A device. Each block holds one number.
#[derive(Clone)]
pub struct Device {
    pub uuid: Uuid,
    pub data: Vec<u64>,
    pub durable: Vec<u64>,
    /// Values written since the last flush, with the time of each: a power loss may leave any of them.
    pub since: Vec<Vec<(u64, u64)>>,
    pub slots: [Option<Ledger>; 2],
    pub map: Vec<u8>,
    /// Answers nothing.
    pub hung: bool,
    pub full: bool,
    /// Blocks whose reads fail until rewritten.
    pub bad: BTreeSet<u64>,
    /// Percent of requests that fail.
    pub sick: u64,
    pub gone: bool,
    clock: u64,
}

impl Device {
    /// A blank device, labelled for the volume.
    pub fn new(uuid: Uuid, shape: &Shape) -> Device {
        let n = shape.blocks.0 as usize;
        Device {
            uuid,
            data: vec![0; n],
            durable: vec![0; n],
            since: vec![Vec::new(); n],
            slots: [None, None],
            map: Maps::clean(shape).encode(VOLUME, shape),
            hung: false,
            full: false,
            bad: BTreeSet::new(),
            sick: 0,
            gone: false,
            clock: 0,
        }
    }

    fn set(&mut self, at: usize, value: u64, durability: Durability) {
        self.data[at] = value;
        self.bad.remove(&(at as u64));
        match durability {
            Durability::Volatile => self.since[at].push((self.clock, value)),
            Durability::Durable => {
                self.durable[at] = value;
                self.since[at].clear();
            }
        }
    }

    /// Notes that a flush was sent: it covers what has been written before, and nothing later.
    pub fn flush_sent(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
    /// The flush that was sent at `sent` is carried out.
    pub fn flush(&mut self, sent: u64) {
        for (durable, since) in self.durable.iter_mut().zip(&mut self.since) {
            if let Some(last) = since.iter().rposition(|(at, _)| *at < sent) {
                *durable = since[last].1;
                since.drain(..=last);
            }
        }
    }
    /// A flush failed: what it covered may be gone at the next power loss, however many flushes succeed until then.
    pub fn flush_failed(&mut self) {
        self.since.iter_mut().flatten().for_each(|(at, _)| *at = u64::MAX);
    }

    /// The power fails: `pick(n)` of 0 to n − 1 says what stays of each block that has n possible values.
    pub fn lose_power(&mut self, mut pick: impl FnMut(usize) -> usize) {
        for (durable, since) in self.durable.iter_mut().zip(&mut self.since) {
            let kept = if since.is_empty() { 0 } else { pick(since.len() + 1) };
            if kept > 0 {
                *durable = since[kept - 1].1;
            }
            since.clear();
        }
        self.data = self.durable.clone();
    }

    /// The newest ledger.
    pub fn ledger(&self) -> Option<Ledger> {
        self.slots.iter().flatten().max_by_key(|l| l.version).cloned()
    }
    /// The slot that may be overwritten.
    pub fn free_slot(&self) -> usize {
        let version = |s: usize| self.slots[s].as_ref().map(|l| l.version);
        usize::from(version(0) > version(1))
    }

    /// Carries out the first `n` blocks of a change.
    pub fn apply(&mut self, request: &Request, n: u64) {
        let range = request.range().expect("a change has a range");
        for (at, block) in blocks(range).enumerate().take(n as usize) {
            let (value, durability) = match request {
                Request::Write { data, durability, .. } => (value_at(data, at), *durability),
                Request::WriteZeroes { durability, .. } => (0, *durability),
                _ => (0, Durability::Volatile),
            };
            self.set(block, value, durability);
        }
    }

    /// Carries out a write of metadata.
    pub fn apply_meta(&mut self, request: &Request) {
        let Request::Write { range, data, durability: Durability::Durable } = request else {
            panic!("metadata is written durably: {request:?}");
        };
        match (0..2).find(|s| meta::slot(BlockSize::B512, *s) == *range) {
            Some(slot) => self.slots[slot] = Some(Ledger::decode(data).expect("a good ledger")),
            None => {
                let base = meta::map(BlockSize::B512, 1).start.0;
                let at = ((range.start.0 - base) * 512) as usize;
                self.map[at..at + data.len()].copy_from_slice(data);
            }
        }
    }

    /// What a read of the blocks returns.
    pub fn read(&self, range: BlockRange) -> Buf {
        payload(range, |b| self.data[b])
    }
}

/// The blocks of a range, as indices.
pub fn blocks(range: BlockRange) -> std::ops::Range<usize> {
    range.start.0 as usize..range.end().0 as usize
}

/// A payload that holds a number in each block.
pub fn payload(range: BlockRange, value: impl Fn(usize) -> u64) -> Buf {
    let mut buf = BufMut::zeroed((range.len.0 * 512) as usize);
    for (piece, block) in buf.chunks_exact_mut(512).zip(blocks(range)) {
        piece[..8].copy_from_slice(&value(block).to_le_bytes());
    }
    buf.freeze()
}

/// The number in the payload's block `at`.
pub fn value_at(data: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(data[at * 512..at * 512 + 8].try_into().expect("eight bytes"))
}
