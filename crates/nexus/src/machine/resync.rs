//! Copying: rebuilds, and making members in sync equal after an unclean stop or a change that failed.

use block::probe::{Mark, Mutant, mark, mutant};
use block::{BlockRange, Blocks, Fault, Instant, Request};

use super::flight::{Kind, SyncFor};
use super::{Area, Effect, Nexus, Outbox, Phase, blocks_in};
use crate::copy::Copier;
use crate::member::{Event, MemberId, MemberState, Reason};
use crate::ranges::Mode;
use crate::rebuild::{Job, RebuildState};

/// Copied regions that are flushed together while a rebuild goes on. After a crash at most twice as many are copied again.
const FLUSH_REGIONS: usize = 8;

impl Nexus {
    /// Starts what copying may start now; whether anything was.
    pub(super) fn feed(&mut self, out: &mut Outbox) -> bool {
        if self.phase != Phase::Serving {
            return false;
        }
        if !self.unequal.is_zero() || self.equalizer.is_some() {
            return self.feed_equalizer(out);
        }
        let rebuilding = |m: &&crate::member::Member| m.state == MemberState::Rebuilding && m.job.is_some();
        let targets: Vec<MemberId> = self.members.iter().filter(rebuilding).map(|m| m.id).collect();
        let mut any = false;
        for member in targets {
            any |= self.feed_rebuild(member, out);
        }
        any
    }

    fn segment(&self) -> Blocks {
        blocks_in(self.shape.block_size, self.settings.rebuild_segment)
    }

    /// Copies from one member in sync to the others, region by region.
    fn feed_equalizer(&mut self, out: &mut Outbox) -> bool {
        if self.members.iter().filter(|m| m.state.counts()).count() < 2 {
            // Nobody is left to differ from. The regions stay dirty, for who comes back. A member that is leaving still
            // counts: until that is recorded a later nexus may read it.
            self.unequal.clear_all();
        }
        if self.unequal.is_zero() {
            self.equalizer = None;
            return true;
        }
        let (segment, tasks) = (self.segment(), self.settings.rebuild_tasks);
        if self.equalizer.is_none() {
            let serial = self.new_serial();
            self.equalizer = Some(Copier::new(&self.unequal, &self.shape, self.now, serial));
        }
        let mut any = false;
        while let Some(copier) = &mut self.equalizer {
            if copier.wait_until.is_some() || copier.in_flight >= tasks {
                break;
            }
            let serial = copier.serial;
            let Some((region, range)) = copier.next(&self.unequal, &self.shape, segment) else { break };
            self.copy(None, region, range, serial, out);
            any = true;
        }
        any
    }

    fn feed_rebuild(&mut self, member: MemberId, out: &mut Outbox) -> bool {
        let (segment, tasks, shape, rounds) =
            (self.segment(), self.settings.rebuild_tasks, self.shape, self.rounds_done);
        let mut any = false;
        loop {
            let Some(m) = self.member_mut(member).filter(|m| m.state == MemberState::Rebuilding) else { return true };
            let Some(job) = m.job.as_mut().filter(|j| j.state == RebuildState::Running) else { return any };
            let copier = &mut job.copier;
            let serial = copier.serial;
            let next = if copier.in_flight < tasks { copier.next(&m.missing, &shape, segment) } else { None };
            if let Some((region, range)) = next {
                self.copy(Some(member), region, range, serial, out);
                any = true;
                continue;
            }
            let due = copier.in_flight == 0 || copier.copied.len() >= FLUSH_REGIONS;
            if copier.flushing.is_empty() && !copier.copied.is_empty() && due {
                copier.flushing = std::mem::take(&mut copier.copied);
                // Rule: what was copied counts only once the target has flushed it.
                if mutant(Mutant::GrowBeforeFlush) {
                    self.sync_done(SyncFor::Copied(member, serial), None);
                    return true;
                }
                let id = self.new_flight(Kind::Sync(SyncFor::Copied(member, serial)), Request::Flush, None);
                self.send(id, &[member], Area::Data, out);
                return true;
            }
            if m.missing.is_zero() && copier.is_quiet() && m.map_from <= rounds {
                m.step(Event::Copied);
                self.record.wanted = true;
                return true;
            }
            return any;
        }
    }

    fn copy(&mut self, to: Option<MemberId>, region: usize, range: BlockRange, job: u64, out: &mut Outbox) {
        let id = self.new_flight(Kind::Copy { to, region, job }, Request::Read { range }, None);
        self.lock(id, range, Mode::Exclusive, out);
    }

    /// A segment was copied, or could not be.
    pub(super) fn copy_done(
        &mut self,
        (to, region, job): (Option<MemberId>, usize, u64),
        range: BlockRange,
        fault: Option<Fault>,
        out: &mut Outbox,
    ) {
        let (shape, now) = (self.shape, self.now);
        let later = now + self.settings.clear_after;
        let Some(target) = to else {
            let Some(copier) = self.equalizer.as_mut().filter(|c| c.serial == job) else { return };
            match fault {
                Some(_) => copier.failed(region, range, &shape, now, later),
                None => {
                    if let Some(region) = copier.done(region, range, &shape, now) {
                        self.unequal.clear(region);
                    }
                }
            }
            return;
        };
        let Some(m) = self.member_mut(target) else { return };
        let Some(Job { copier, .. }) = m.job.as_mut().filter(|j| j.copier.serial == job) else { return };
        match fault {
            None => {
                if let Some(region) = copier.done(region, range, &shape, now) {
                    copier.copied.push(region);
                }
            }
            Some(fault) => {
                out.push(Effect::Changed(format!(
                    "the rebuild of member {} failed at blocks {range}: {fault}",
                    m.uuid
                )));
                self.leave(target, Reason::Failed(fault), out);
            }
        }
    }

    /// One's own flush has ended.
    pub(super) fn sync_done(&mut self, what: SyncFor, fault: Option<Fault>) {
        match what {
            SyncFor::Clear(regions) => self.clear_done(regions, fault),
            SyncFor::Copied(member, job) => {
                let shape = self.shape;
                let Some(m) = self.members.iter_mut().find(|m| m.id == member) else { return };
                let Some(job) = m.job.as_mut().filter(|j| j.copier.serial == job && fault.is_none()) else { return };
                for region in std::mem::take(&mut job.copier.flushing) {
                    m.missing.clear(region);
                    self.stale.insert(shape.unit_of(region));
                }
            }
        }
    }

    /// A change ended in failure: its blocks may differ from member to member now.
    pub(super) fn spoil(&mut self, range: BlockRange) {
        let shape = self.shape;
        let counting = self.members.iter().filter(|m| m.state.counts()).count();
        mark(Mark::ChangeSpoiled);
        for region in shape.touched(range) {
            if counting > 1 {
                self.unequal.set(region);
                if let Some(copier) = &mut self.equalizer {
                    copier.spoil(region, &shape);
                }
            }
            for m in self.members.iter_mut().filter(|m| !m.state.is_listed()) {
                m.missing.set(region);
                if let Some(job) = &mut m.job {
                    job.copier.spoil(region, &shape);
                }
            }
        }
    }

    /// Copying that waited because no source could be read goes on.
    pub(super) fn wake_copiers(&mut self, now: Instant) {
        if let Some(copier) = &mut self.equalizer {
            copier.wait_until = copier.wait_until.filter(|t| *t > now);
        }
    }
}
