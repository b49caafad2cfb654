//! What operators and the control plane ask.

use block::probe::{Mark, Mutant, mark, mutant};
use block::{Fault, Instant};
use thiserror::Error;
use uuid::Uuid;

use super::flight::LegState;
use super::{Effect, Nexus, Outbox, Phase, is_client};
use crate::bitmap::Bitmap;
use crate::copy::Copier;
use crate::ledger::{Set, Version};
use crate::member::{Event, Member, MemberId, MemberState, Reason, Tracking};
use crate::rebuild::{Job, Progress, RebuildState};
use crate::settings::Settings;

/// Why a command was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Denied {
    /// There is no such member.
    #[error("there is no such member")]
    Unknown,
    /// It would take the last copy in sync away.
    #[error("it is the last copy in sync")]
    LastCopy,
    /// There are [`block::limits::NEXUS_MEMBERS`] members.
    #[error("there are as many members as a nexus may have")]
    TooMany,
    /// The member's uuid is that of another member.
    #[error("the volume has this member already")]
    Twice,
    /// It is not in a state for that.
    #[error("{0}")]
    State(&'static str),
}

/// A member as seen from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberView {
    /// Its name within this nexus.
    pub id: MemberId,
    /// Its uuid.
    pub uuid: Uuid,
    /// The hash of its URI.
    pub uri_tag: u64,
    /// Its state.
    pub state: MemberState,
    /// Errors within the window.
    pub errors: usize,
    /// Requests that it has not answered.
    pub unanswered: u32,
    /// Its rebuild, while there is one.
    pub rebuild: Option<Progress>,
}

impl Nexus {
    /// The members, in the order in which they came.
    pub fn members(&self, now: Instant) -> Vec<MemberView> {
        let source = self.in_sync().map(|m| m.id).min();
        let window = self.settings.error_window;
        let view = |m: &Member| MemberView {
            id: m.id,
            uuid: m.uuid,
            uri_tag: m.uri_tag,
            state: m.state,
            errors: m.errors.iter().filter(|t| now.since(**t) <= window).count(),
            unanswered: m.unanswered,
            rebuild: m.job.as_ref().map(|j| j.progress(now, source)),
        };
        self.members.iter().map(view).collect()
    }
    /// The version in force and its members in sync: what may be told to others. Empty before the first record.
    pub fn in_force(&self) -> (Version, Set) {
        if self.record.in_force {
            return (self.record.version, self.record.set.clone());
        }
        (self.record.parent, self.record.bases.first().cloned().unwrap_or_default())
    }
    /// The last ledger that was issued, its members in sync, and whether it is in force.
    pub fn ledger(&self) -> (Version, &Set, bool) {
        (self.record.version, &self.record.set, self.record.in_force)
    }

    /// Adds a member that has never been one: everything is to be copied to it.
    pub fn add_member(&mut self, now: Instant, uuid: Uuid, uri_tag: u64, out: &mut Outbox) -> Result<MemberId, Denied> {
        self.tick(now);
        if self.members.len() >= block::limits::NEXUS_MEMBERS {
            return Err(Denied::TooMany);
        }
        if self.members.iter().any(|m| m.uuid == uuid) {
            return Err(Denied::Twice);
        }
        let id = MemberId(self.next_member);
        self.next_member += 1;
        let regions = self.shape.regions();
        self.members.push(Member {
            id,
            uuid,
            uri_tag,
            state: MemberState::Joining,
            slot: 0,
            recorded: Version::default(),
            recording: false,
            tracking: Tracking::From(self.rounds_started + 1),
            map_from: u64::MAX,
            missing: Bitmap::ones(regions),
            unanswered: 0,
            errors: Default::default(),
            errors_total: 0,
            job: None,
        });
        self.stale.extend(0..self.shape.units());
        out.push(Effect::Changed(format!("member {uuid} was added")));
        self.settle(out);
        Ok(id)
    }

    /// Records the ledger anew as it is. Once the returned version is in force, the members in sync have obeyed this nexus
    /// after this call.
    pub fn confirm(&mut self, now: Instant, out: &mut Outbox) -> Version {
        self.tick(now);
        if self.phase == Phase::Serving {
            self.record.wanted = true;
        }
        self.settle(out);
        self.record.version
    }

    /// Another nexus is known to own the volume: stops for good.
    pub fn overtaken(&mut self, now: Instant, out: &mut Outbox) {
        self.tick(now);
        self.fence(out);
        self.settle(out);
    }

    /// Takes a member out of the volume for good. It is gone from [`Nexus::members`] once that is recorded.
    pub fn remove(&mut self, now: Instant, id: MemberId, out: &mut Outbox) -> Result<(), Denied> {
        self.tick(now);
        let state = self.member(id).ok_or(Denied::Unknown)?.state;
        match state {
            MemberState::Out(_) => {
                self.members.retain(|m| m.id != id);
                self.record.wanted = true;
            }
            MemberState::Leaving(_) => return Err(Denied::State("the member is leaving; try again")),
            _ if !self.leave(id, Reason::Removed, out) => return Err(Denied::LastCopy),
            _ => {}
        }
        self.settle(out);
        Ok(())
    }

    /// Takes a member out until [`Nexus::online`]: `reason` is Offline or Faulted.
    pub fn take_out(&mut self, now: Instant, id: MemberId, reason: Reason, out: &mut Outbox) -> Result<(), Denied> {
        self.tick(now);
        self.member(id).ok_or(Denied::Unknown)?;
        if !self.leave(id, reason, out) {
            return Err(Denied::LastCopy);
        }
        self.settle(out);
        Ok(())
    }

    /// A member that was out is reachable again: its label, uuid and ledger have been read anew. `slot` is the ledger
    /// slot that may be overwritten. It waits for a rebuild, of what it lacks only.
    pub fn online(
        &mut self,
        now: Instant,
        id: MemberId,
        slot: usize,
        uri_tag: u64,
        out: &mut Outbox,
    ) -> Result<(), Denied> {
        self.tick(now);
        let member = self.member_mut(id).ok_or(Denied::Unknown)?;
        if !matches!(member.state, MemberState::Out(_)) {
            return Err(Denied::State("the child is not offline"));
        }
        // Rule: a member comes back when it has answered everything from before: a write that lands late would undo newer.
        if member.unanswered > 0 && !mutant(Mutant::BackTooSoon) {
            return Err(Denied::State("the child has not answered requests from before; they could still take effect"));
        }
        member.step(Event::Online);
        (member.slot, member.uri_tag, member.recorded) = (slot, uri_tag, Version::default());
        member.errors.clear();
        out.push(Effect::Changed(format!("member {} is back", member.uuid)));
        self.settle(out);
        Ok(())
    }

    /// Starts to copy to a member that is out of sync.
    pub fn start_rebuild(&mut self, now: Instant, id: MemberId, out: &mut Outbox) -> Result<(), Denied> {
        self.tick(now);
        let (shape, from, serial) = (self.shape, self.rounds_started + 1, self.new_serial());
        let now = self.now;
        let member = self.member_mut(id).ok_or(Denied::Unknown)?;
        match member.state {
            MemberState::Joining => {}
            MemberState::Rebuilding | MemberState::Growing => return Err(Denied::State("the child is being rebuilt")),
            _ => return Err(Denied::State("only a child that is open and out of sync can be rebuilt")),
        }
        if member.unanswered > 0 {
            // Writes of a rebuild that was stopped: one that lands late would undo what is copied.
            return Err(Denied::State("the child has not answered requests from before; try again"));
        }
        member.step(Event::Start);
        member.map_from = from;
        if member.missing.count() < shape.regions() {
            mark(Mark::RebuildOfTheRest);
        }
        let copier = Copier::new(&member.missing, &shape, now, serial);
        member.job = Some(Job { state: RebuildState::Running, copier });
        let text = format!("rebuild of member {} starts: {} regions", member.uuid, member.missing.count());
        out.push(Effect::Changed(text));
        self.stale.extend(0..shape.units());
        self.settle(out);
        Ok(())
    }

    /// Ends a rebuild; the member waits for another, which goes on where this one was.
    pub fn stop_rebuild(&mut self, now: Instant, id: MemberId, out: &mut Outbox) -> Result<(), Denied> {
        self.tick(now);
        match self.member(id).ok_or(Denied::Unknown)?.state {
            MemberState::Rebuilding => self.halt(id, out),
            MemberState::Growing => return Err(Denied::State("the rebuild is complete and being recorded")),
            _ => {}
        }
        self.settle(out);
        Ok(())
    }

    fn halt(&mut self, id: MemberId, out: &mut Outbox) {
        let dirty = self.dirty.clone();
        let member = self.member_mut(id).expect("a member that is being rebuilt");
        member.step(Event::Stop);
        member.job = None;
        member.recording = false;
        // From now on it gets no writes, and those under way may not reach it.
        member.missing.add(&dirty);
        out.push(Effect::Changed(format!("rebuild of member {} stopped", member.uuid)));
        self.release_legs(id, LegState::Dropped);
    }

    /// Lets a rebuild wait.
    pub fn pause_rebuild(&mut self, now: Instant, id: MemberId, out: &mut Outbox) -> Result<(), Denied> {
        self.switch(now, id, RebuildState::Paused, out)
    }
    /// Lets a rebuild that waits go on.
    pub fn resume_rebuild(&mut self, now: Instant, id: MemberId, out: &mut Outbox) -> Result<(), Denied> {
        self.switch(now, id, RebuildState::Running, out)
    }

    fn switch(&mut self, now: Instant, id: MemberId, to: RebuildState, out: &mut Outbox) -> Result<(), Denied> {
        self.tick(now);
        let member = self.member_mut(id).ok_or(Denied::Unknown)?;
        let Some(job) = &mut member.job else { return Err(Denied::State("there is no rebuild of the child")) };
        if member.state != MemberState::Rebuilding {
            return Err(Denied::State("the rebuild is complete and being recorded"));
        }
        if job.state != to {
            job.state = to;
            out.push(Effect::Changed(format!("rebuild of member {} {}", member.uuid, to.name())));
        }
        self.settle(out);
        Ok(())
    }

    /// Changes the settings.
    pub fn set_settings(&mut self, settings: Settings) {
        self.settings = settings;
        if !self.flights.is_empty() {
            self.next_scan = Some(self.now + settings.member_deadline / 8);
        }
    }

    /// Closes the volume: what is in flight ends, then the members are marked as clean; [`Effect::Closed`] says when.
    pub fn close(&mut self, now: Instant, out: &mut Outbox) {
        self.tick(now);
        match self.phase {
            Phase::Opening | Phase::Serving => self.phase = Phase::Draining,
            Phase::Fenced => {
                self.phase = Phase::Closed;
                out.push(Effect::Closed);
            }
            Phase::Draining | Phase::Cleaning | Phase::Closed => {}
        }
        self.settle(out);
    }

    /// Closes the volume now: whatever is in flight is answered as aborted. The members stay marked as they are, and the
    /// next nexus makes the dirty regions equal.
    pub fn abort(&mut self, now: Instant, out: &mut Outbox) {
        self.tick(now);
        if self.phase != Phase::Closed {
            self.phase = Phase::Closed;
            self.drop_all(Fault::Aborted, out);
            out.push(Effect::Closed);
        }
    }

    /// The steps of closing.
    pub(super) fn drain(&mut self, out: &mut Outbox) -> bool {
        match self.phase {
            Phase::Draining => {
                let waiting = self.flights.iter().any(|(_, f)| is_client(&f.kind) && f.ticket.is_some());
                let marks = self.round.is_some() || !self.stale.is_empty() || self.clearing;
                if waiting || !self.backlog.is_empty() || !self.record.in_force || marks {
                    return false;
                }
                let rebuilding = |m: &&Member| m.state == MemberState::Rebuilding;
                let halted: Vec<MemberId> = self.members.iter().filter(rebuilding).map(|m| m.id).collect();
                halted.into_iter().for_each(|id| self.halt(id, out));
                self.phase = Phase::Cleaning;
                self.start_clear(true, out);
                true
            }
            Phase::Cleaning if !self.clearing && self.stale.is_empty() && self.round.is_none() => {
                self.abort(self.now, out);
                true
            }
            _ => false,
        }
    }
}
