//! The dirty map on the members: marked before a change, cleared after a flush. docs/replication.md, section 4.

use block::probe::{Mutant, mutant};
use block::{Buf, Durability, Fault, Request};

use super::flight::{Kind, Step, SyncFor};
use super::{Area, Nexus, Outbox, Phase};
use crate::map;
use crate::member::{MemberState, Tracking};
use crate::meta;

/// Bytes of the map that one request writes.
const RUN_BYTES: usize = 64 << 10;
/// The pause after a map write failed on the last member.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// A round writes every part of the map that changed to every member; the next one begins when it has ended.
#[derive(Hash)]
pub(super) struct Round {
    outstanding: usize,
    failed: Option<Fault>,
    units: Vec<usize>,
    /// Dirty regions that are durable when the round succeeds.
    regions: Vec<usize>,
}

impl Nexus {
    /// Begins a round if one is due; whether it did.
    pub(super) fn start_round(&mut self, out: &mut Outbox) -> bool {
        // Not before the first record is in force: a nexus that dies before that must leave the map as the ledgers that are
        // found next describe it.
        if self.phase == Phase::Opening
            || self.round.is_some()
            || self.stale.is_empty()
            || self.next_round_retry.is_some()
        {
            return false;
        }
        let units: Vec<usize> = std::mem::take(&mut self.stale).into_iter().collect();
        self.rounds_started += 1;
        let regions_in = map::SECTOR_REGIONS * self.shape.sectors_per_unit();
        let mut regions = Vec::new();
        for &unit in &units {
            let mut next = self.dirty.next_one(unit * regions_in);
            while let Some(region) = next.filter(|r| *r < (unit + 1) * regions_in) {
                if !self.durable.get(region) {
                    regions.push(region);
                }
                next = self.dirty.next_one(region + 1);
            }
        }
        let longest = RUN_BYTES / self.shape.block_size.bytes() as usize;
        let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
        for &unit in &units {
            match runs.last_mut() {
                Some(run) if run.end == unit && run.len() < longest => run.end += 1,
                _ => runs.push(unit..unit + 1),
            }
        }
        self.round = Some(Round { outstanding: runs.len(), failed: None, units, regions });
        for run in runs {
            let data = self.encode_units(run.clone());
            let mut range = meta::map(self.shape.block_size, run.len());
            range.start.0 += run.start as u64;
            let request = Request::Write { range, data, durability: Durability::Durable };
            let id = self.new_flight(Kind::Mark, request, None);
            self.send_to_all(id, Area::Meta, out);
        }
        true
    }

    fn encode_units(&self, units: std::ops::Range<usize>) -> Buf {
        let per_unit = self.shape.sectors_per_unit();
        let mut bytes = Vec::with_capacity(units.len() * per_unit * map::SECTOR);
        let away = || self.members.iter().filter(|m| !m.missing.is_zero());
        let behind = |region| away().any(|m| m.missing.get(region));
        for sector in units.start * per_unit..units.end * per_unit {
            let regions = self.shape.regions();
            bytes.extend_from_slice(&map::encode_sector(self.volume, sector, regions, &self.dirty, behind));
        }
        Buf::copy_of(&bytes)
    }

    /// A part of the round has ended.
    pub(super) fn mark_done(&mut self, fault: Option<Fault>, out: &mut Outbox) {
        let Some(round) = &mut self.round else { return };
        round.failed = round.failed.or(fault);
        round.outstanding -= 1;
        if round.outstanding > 0 {
            return;
        }
        let round = self.round.take().expect("just seen");
        let waiting = std::mem::take(&mut self.marking);
        if let Some(fault) = round.failed {
            self.stale.extend(round.units);
            self.next_round_retry = Some(self.now + PAUSE);
            waiting.into_iter().for_each(|id| self.finish(id, Err(fault), out));
            return;
        }
        self.rounds_done = self.rounds_started;
        for region in round.regions {
            if self.dirty.get(region) {
                self.durable.set(region);
            }
        }
        let done = self.rounds_done;
        for member in &mut self.members {
            if matches!(member.tracking, Tracking::From(round) if round <= done) {
                member.tracking = Tracking::Tracked;
                self.record.wanted = true;
            }
        }
        waiting.into_iter().for_each(|id| self.mark_and_send(id, out));
    }

    /// The last member does not answer a mark: the requests that wait for it fail.
    pub(super) fn fail_marking(&mut self, fault: Fault, out: &mut Outbox) {
        let waiting = std::mem::take(&mut self.marking);
        waiting.into_iter().for_each(|id| self.finish(id, Err(fault), out));
    }

    /// Begins to clear the regions that have not been written lately, or all that are not being written.
    pub(super) fn start_clear(&mut self, all: bool, out: &mut Outbox) {
        if self.clearing || self.members.iter().any(|m| matches!(m.state, MemberState::Leaving(_))) {
            return;
        }
        if all {
            self.touched.clear_all();
        }
        let busy = self.flights.iter().filter(|(_, f)| matches!(f.kind, Kind::Change) && f.step != Step::Locking);
        let busy: Vec<_> = busy.filter_map(|(_, f)| f.lock).map(|(range, _)| self.shape.touched(range)).collect();
        for region in busy.into_iter().flatten() {
            self.touched.set(region);
        }
        let idle = |r: &usize| self.durable.get(*r) && !self.touched.get(*r) && !self.unequal.get(*r);
        let regions: Vec<usize> = self.dirty.iter().filter(idle).collect();
        self.touched.clear_all();
        if regions.is_empty() {
            return;
        }
        // Rule: a region is clean only once every member that counts has flushed it.
        if mutant(Mutant::ClearWithoutFlush) {
            return self.clear_done(regions, None);
        }
        self.clearing = true;
        let id = self.new_flight(Kind::Sync(SyncFor::Clear(regions)), Request::Flush, None);
        self.send_to_all(id, Area::Data, out);
    }

    /// The flush before a clear has ended.
    pub(super) fn clear_done(&mut self, regions: Vec<usize>, fault: Option<Fault>) {
        self.clearing = false;
        if fault.is_some() || self.phase == Phase::Fenced {
            return;
        }
        for region in regions {
            // Rule: what was written since the flush was sent stays dirty.
            let touched = self.touched.get(region) && !mutant(Mutant::ClearWhatWasWritten);
            if !touched && !self.unequal.get(region) && self.dirty.clear(region) {
                self.durable.clear(region);
                self.stale.insert(self.shape.unit_of(region));
            }
        }
    }
}
