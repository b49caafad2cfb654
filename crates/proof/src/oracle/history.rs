//! The history of one volume: its blocks as registers, who holds what was not flushed, and what power may take back.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::register::{Register, Time, WriteId};
use crate::payload::Content;

/// A write that is known to be there and not known to be durable.
struct Soft {
    lba: u64,
    write: WriteId,
    known: Time,
    /// Members that have it, at least in their caches.
    holders: BTreeSet<Uuid>,
}

/// One volume.
pub struct History {
    blocks: BTreeMap<u64, Register>,
    soft: Vec<Soft>,
    in_sync: BTreeSet<Uuid>,
    /// When each member last lost its cache.
    cuts: BTreeMap<Uuid, Time>,
    /// How often what was not flushed could be lost.
    pub losses: u64,
}

impl History {
    /// A volume that was never written.
    pub fn new() -> History {
        History {
            blocks: BTreeMap::new(),
            soft: Vec::new(),
            in_sync: BTreeSet::new(),
            cuts: BTreeMap::new(),
            losses: 0,
        }
    }

    fn block(&mut self, lba: u64) -> &mut Register {
        self.blocks.entry(lba).or_default()
    }

    /// Whether a write of zeroes to the block can be told from others.
    pub fn is_calm(&mut self, lba: u64) -> bool {
        self.block(lba).is_calm()
    }

    /// A write was sent.
    pub fn invoke(&mut self, lba: u64, write: WriteId, zero: bool, now: Time) {
        self.block(lba).invoke(write, zero, now);
    }

    /// A write that was sent at `asked` was answered; `forced` when it had to be durable.
    pub fn answer(&mut self, lba: u64, write: WriteId, forced: bool, asked: Time, now: Time) -> Result<(), String> {
        let news = self.block(lba).answer(write, now).map_err(|why| format!("block {lba}: {why}"))?;
        if forced {
            self.block(lba).forced(write);
        } else if let Some(write) = news {
            self.remember(lba, write, asked, now);
        }
        Ok(())
    }

    /// Another nexus has answered since: what was sent before `sent` has happened by now, or never will.
    pub fn over(&mut self, sent: Time, now: Time) {
        self.blocks.values_mut().for_each(|register| register.over(sent, now));
    }

    /// A read returned.
    pub fn read(&mut self, lba: u64, content: Content, asked: Time, now: Time) -> Result<(), String> {
        let news = self.block(lba).read(content, asked, now).map_err(|why| format!("block {lba}: {why}"))?;
        if let Some(write) = news {
            self.remember(lba, write, asked, now);
        }
        Ok(())
    }

    fn remember(&mut self, lba: u64, write: WriteId, asked: Time, now: Time) {
        // Whoever lost its cache meanwhile may have lost this too.
        let whole = |m: &Uuid| self.cuts.get(m).is_none_or(|cut| *cut < asked);
        let holders: BTreeSet<Uuid> = self.in_sync.iter().copied().filter(whole).collect();
        let lost = holders.is_empty();
        self.soft.push(Soft { lba, write, known: now, holders });
        if lost {
            self.lose([lba].into(), now);
        }
    }

    /// A flush that was sent at `asked` was answered.
    pub fn flushed(&mut self, asked: Time) {
        for register in self.blocks.values_mut() {
            register.flushed(asked);
        }
        let blocks = &self.blocks;
        self.soft.retain(|s| blocks[&s.lba].is_soft(s.write));
    }

    /// The set in sync, as its nexus or the store has it now. A member that joins was copied; one that left holds nothing
    /// that counts, unless it is the last that has it.
    pub fn members(&mut self, in_sync: &BTreeSet<Uuid>) {
        if *in_sync == self.in_sync {
            return;
        }
        for soft in &mut self.soft {
            let joined = in_sync.difference(&self.in_sync);
            soft.holders.extend(joined.copied());
            let left: BTreeSet<Uuid> = soft.holders.intersection(in_sync).copied().collect();
            if !left.is_empty() {
                soft.holders = left;
            }
        }
        self.in_sync.clone_from(in_sync);
    }

    /// The volume was opened with these members in sync. What only others had may be lost with that: a member that kept its
    /// power, but could not be reached then (docs/replication.md, 1).
    pub fn opened(&mut self, in_sync: &BTreeSet<Uuid>, now: Time) {
        let gone = |s: &&Soft| !s.holders.is_empty() && s.holders.is_disjoint(in_sync);
        let lost = self.soft.iter().filter(gone).map(|s| s.lba).collect();
        self.lose(lost, now);
    }

    /// Members lost what they had not flushed.
    pub fn power_cut(&mut self, members: &BTreeSet<Uuid>, now: Time) {
        for member in members {
            self.cuts.insert(*member, now);
        }
        let mut last: BTreeMap<u64, (Time, bool)> = BTreeMap::new();
        for soft in &mut self.soft {
            soft.holders.retain(|h| !members.contains(h));
            let newest = last.entry(soft.lba).or_default();
            if soft.known >= newest.0 {
                *newest = (soft.known, soft.holders.is_empty());
            }
        }
        let lost = last.into_iter().filter(|(_, (_, lost))| *lost).map(|(lba, _)| lba).collect();
        self.lose(lost, now);
    }

    fn lose(&mut self, lost: BTreeSet<u64>, now: Time) {
        self.soft.retain(|s| !lost.contains(&s.lba));
        self.losses += lost.len() as u64;
        for lba in lost {
            self.block(lba).lose_power(now);
        }
    }
}

impl Default for History {
    fn default() -> History {
        History::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(ids: &[u128]) -> BTreeSet<Uuid> {
        ids.iter().map(|id| Uuid::from_u128(*id)).collect()
    }

    fn written() -> History {
        let mut h = History::new();
        h.members(&members(&[1, 2]));
        h.invoke(0, 1, false, 10);
        h.answer(0, 1, false, 10, 20).unwrap();
        h
    }

    #[test]
    fn one_member_with_power_keeps_what_was_answered() {
        let mut h = written();
        h.power_cut(&members(&[1]), 30);
        assert!(h.read(0, Content::Zero, 40, 50).is_err());
    }

    #[test]
    fn all_members_without_power_may_lose_it() {
        let mut h = written();
        h.power_cut(&members(&[1]), 30);
        h.power_cut(&members(&[2]), 31);
        assert!(h.read(0, Content::Zero, 40, 50).is_ok());
        assert!(h.read(0, Content::Written(1), 60, 70).is_err());
    }

    #[test]
    fn a_member_that_is_out_of_reach_when_the_volume_is_opened_does_not_keep_it() {
        let mut h = written();
        h.power_cut(&members(&[1]), 30);
        h.opened(&members(&[1, 2]), 35);
        assert!(h.read(0, Content::Zero, 36, 37).is_err(), "2 is there");
        let mut h = written();
        h.power_cut(&members(&[1]), 30);
        h.opened(&members(&[1]), 35);
        assert!(h.read(0, Content::Zero, 40, 50).is_ok());
        assert!(h.read(0, Content::Written(1), 60, 70).is_err());
    }

    #[test]
    fn a_flush_or_fua_keeps_it_through_anything() {
        let mut h = written();
        h.flushed(25);
        h.invoke(1, 2, false, 10);
        h.answer(1, 2, true, 10, 20).unwrap();
        h.power_cut(&members(&[1, 2]), 30);
        assert!(h.read(0, Content::Zero, 40, 50).is_err());
        assert!(h.read(1, Content::Zero, 40, 50).is_err());
    }

    #[test]
    fn who_was_copied_holds_it_and_who_left_does_not() {
        let mut h = written();
        h.members(&members(&[1]));
        h.power_cut(&members(&[1]), 30);
        assert!(h.read(0, Content::Zero, 40, 50).is_ok(), "2 had left");
        let mut h = written();
        h.members(&members(&[1, 2, 3]));
        h.power_cut(&members(&[1, 2]), 30);
        assert!(h.read(0, Content::Zero, 40, 50).is_err(), "3 was copied");
    }
}
