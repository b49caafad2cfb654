//! What clients may see: each block is a register, and an acknowledgement says where the write is.

use std::collections::{BTreeMap, BTreeSet};

use block::{BlockRange, Durability, Outcome, Request};
use nexus::ledger::Set;

use crate::device::{Device, blocks, value_at};

/// What clients know of one block.
#[derive(Clone, Debug, Hash)]
pub struct Register {
    /// Values that a read may return now. The last acknowledged one, and those of writes under way or failed.
    pub allowed: BTreeSet<u64>,
    /// Values that may come back by a power loss: what was acknowledged or under way since the last flush.
    pub rollback: BTreeSet<u64>,
}

/// A request that has not been answered.
#[derive(Clone, Debug, Hash)]
pub enum Asked {
    Read {
        range: BlockRange,
        allowed: Vec<BTreeSet<u64>>,
    },
    Change {
        range: BlockRange,
        value: u64,
        durability: Durability,
    },
    /// Per block, what was overwritten for good before the flush was asked: a power loss no longer brings it back.
    Flush {
        over: Vec<BTreeSet<u64>>,
    },
}

#[derive(Clone, Debug, Hash)]
pub struct Oracle {
    pub registers: Vec<Register>,
    pub asked: BTreeMap<u64, Asked>,
    /// Whether a request was ever carried out: then the volume is not new any more.
    pub served: bool,
}

impl Oracle {
    /// A new volume reads as zeroes.
    pub fn new(blocks: u64) -> Oracle {
        let register = Register { allowed: BTreeSet::from([0]), rollback: BTreeSet::from([0]) };
        Oracle { registers: vec![register; blocks as usize], asked: BTreeMap::new(), served: false }
    }

    /// A client asks. A write carries one number in all its blocks.
    pub fn ask(&mut self, id: u64, request: &Request) {
        let asked = match request {
            Request::Read { range } => Asked::Read {
                range: *range,
                allowed: blocks(*range).map(|b| self.registers[b].allowed.clone()).collect(),
            },
            Request::Flush => Asked::Flush {
                over: self.registers.iter().map(|r| r.rollback.difference(&r.allowed).copied().collect()).collect(),
            },
            Request::Write { range, data, durability } => self.ask_change(*range, value_at(data, 0), *durability),
            Request::WriteZeroes { range, durability, .. } => self.ask_change(*range, 0, *durability),
            Request::Unmap { range } => self.ask_change(*range, 0, Durability::Volatile),
        };
        self.asked.insert(id, asked);
    }

    fn ask_change(&mut self, range: BlockRange, value: u64, durability: Durability) -> Asked {
        for block in blocks(range) {
            self.registers[block].allowed.insert(value);
            self.registers[block].rollback.insert(value);
            // Reads that are under way may see it.
            for asked in self.asked.values_mut() {
                let Asked::Read { range, allowed } = asked else { continue };
                if let Some(at) = blocks(*range).position(|b| b == block) {
                    allowed[at].insert(value);
                }
            }
        }
        Asked::Change { range, value, durability }
    }

    /// A request is answered, while the members `counting` count.
    pub fn answered<'a>(
        &mut self,
        id: u64,
        outcome: Outcome,
        counting: &Set,
        devices: impl Iterator<Item = &'a Device> + Clone,
    ) {
        let asked = self.asked.remove(&id).expect("a request is answered once");
        self.served |= outcome.is_ok();
        match (asked, outcome) {
            (Asked::Read { range, allowed }, Ok(data)) => self.check_read(range, &allowed, &data.into_buf()),
            (Asked::Change { range, value, durability }, Ok(_)) => {
                self.check_change(range, value, durability, devices.filter(|d| counting.contains(&d.uuid)));
            }
            (Asked::Flush { over }, Ok(_)) => self.check_flush(&over),
            (_, Err(_)) => {}
        }
    }

    fn check_read(&mut self, range: BlockRange, allowed: &[BTreeSet<u64>], data: &[u8]) {
        for (at, block) in blocks(range).enumerate() {
            let value = value_at(data, at);
            assert!(allowed[at].contains(&value), "block {block} reads {value}, allowed {:?}", allowed[at]);
            // Once seen, what is older than it is not seen again, unless other writes are under way.
            let writing = !self.under_way(block).is_empty();
            let register = &mut self.registers[block];
            if register.allowed.contains(&value) && !writing {
                register.allowed = BTreeSet::from([value]);
            }
        }
    }

    /// The values of the changes of a block that are under way.
    fn under_way(&self, block: usize) -> BTreeSet<u64> {
        let value = |asked: &Asked| match asked {
            Asked::Change { range, value, .. } if blocks(*range).contains(&block) => Some(*value),
            _ => None,
        };
        self.asked.values().filter_map(value).collect()
    }

    /// Invariant: every member that counts has the write (or a later one, also under way).
    fn check_change<'a>(
        &mut self,
        range: BlockRange,
        value: u64,
        durability: Durability,
        counting: impl Iterator<Item = &'a Device> + Clone,
    ) {
        for block in blocks(range) {
            let under_way = self.under_way(block);
            for device in counting.clone() {
                let (has, uuid) = (device.data[block], device.uuid);
                assert!(
                    has == value || under_way.contains(&has),
                    "acknowledged {value} at block {block}: {uuid} has {has}",
                );
                if durability == Durability::Durable && under_way.is_empty() {
                    assert_eq!(device.durable[block], value, "FUA at block {block} on {uuid}");
                }
            }
            let register = &mut self.registers[block];
            register.allowed = under_way;
            register.allowed.insert(value);
            if durability == Durability::Durable {
                register.rollback = register.allowed.clone();
            }
        }
    }

    fn check_flush(&mut self, over: &[BTreeSet<u64>]) {
        for (register, over) in self.registers.iter_mut().zip(over) {
            // Zeroes may have been written again since.
            register.rollback.retain(|v| *v == 0 || !over.contains(v) || register.allowed.contains(v));
        }
    }

    /// The nexus is no more: what was under way may have happened. With `power`, so has what was never flushed.
    pub fn nexus_lost(&mut self, power: bool) {
        self.asked.clear();
        if power {
            self.registers.iter_mut().for_each(|r| r.allowed = r.rollback.clone());
        }
        self.registers.iter_mut().for_each(|r| r.rollback.extend(r.allowed.clone()));
    }
}
