//! What a member answered, and what follows for the member.

use std::time::Duration;

use block::probe::{Mark, Mutant, mark, mutant};
use block::{Fault, Instant, Outcome};

use super::flight::{FlightId, Kind, LegState, Step, SyncFor};
use super::{Effect, Nexus, Outbox};
use crate::member::{Event, MemberId, MemberState, Reason, Tracking};

/// The first pause before a failed write is sent again; it doubles up to a second.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

impl Nexus {
    /// A member has answered.
    pub fn on_member_done(
        &mut self,
        now: Instant,
        member: MemberId,
        flight: FlightId,
        outcome: Outcome,
        out: &mut Outbox,
    ) {
        self.tick(now);
        if let Some(m) = self.member_mut(member) {
            m.unanswered -= 1;
        }
        let id = flight.index;
        // Rule: an answer belongs to the flight that asked, not to one that has its place now.
        let is_same = |f: &&mut super::flight::Flight| f.serial == flight.serial || mutant(Mutant::LateAnswerCounts);
        let current = self.flights.get_mut(id as usize).filter(is_same);
        let leg = current.and_then(|f| {
            let step = f.step;
            f.legs.iter_mut().find(|l| l.member == member && l.state == LegState::Waiting).map(|leg| (step, leg))
        });
        // No leg: the flight is over, or the member left meanwhile; the late answer means nothing.
        if leg.is_none() {
            mark(Mark::LateAnswer);
        }
        if let Some((step, leg)) = leg {
            match outcome {
                Ok(data) if step == Step::Reading => {
                    leg.state = LegState::Ok;
                    self.read_done(id, member, data, out);
                }
                Ok(_) => {
                    leg.state = LegState::Ok;
                    self.advance(id, out);
                }
                Err(fault) => self.leg_failed(id, member, fault, out),
            }
        }
        self.settle(out);
    }

    fn leg_failed(&mut self, id: u32, member: MemberId, fault: Fault, out: &mut Outbox) {
        self.set_leg(id, member, LegState::Failed(fault));
        // Rule: a nexus that a member refuses stops; it never takes the refusal for a sick member.
        if fault == Fault::Fenced && !mutant(Mutant::IgnoreFence) {
            return self.fence(out);
        }
        let flight = &self.flights[id as usize];
        let (is_read, since) = (flight.step == Step::Reading, flight.since);
        // A read repair is not sent again: the block can still be had from another member.
        // Rule: a flush that failed is never repeated: what it covered may be gone, and the next one succeeds without it.
        let once = matches!(flight.kind, Kind::Flush | Kind::Sync(_)) && !mutant(Mutant::RetryFlush)
            || matches!(flight.kind, Kind::Read if flight.ticket.is_none());
        let is_repair = once && matches!(flight.kind, Kind::Read);
        let leg = flight.legs.iter().find(|l| l.member == member).expect("the leg that failed");
        let (attempts, sent) = (leg.attempts, leg.since.max(since));
        if self.count_error(member, out) {
            return self.ready.push_back(id);
        }
        match fault {
            // Judged once every member has answered.
            Fault::NoSpace => {}
            Fault::Medium | Fault::Aborted | Fault::Miscompare if is_read || is_repair => {}
            Fault::Medium | Fault::Aborted | Fault::Miscompare
                if !once && self.now.since(sent) < self.settings.member_deadline =>
            {
                let pause = (FIRST_PAUSE * (1 << attempts.min(7))).min(Duration::from_secs(1));
                let at = self.now + pause;
                self.set_leg(id, member, LegState::Retrying(at));
                self.next_retry = Some(self.next_retry.map_or(at, |t| t.min(at)));
                return;
            }
            _ => {
                self.leave(member, Reason::Failed(fault), out);
            }
        }
        self.ready.push_back(id);
    }

    fn set_leg(&mut self, id: u32, member: MemberId, state: LegState) {
        let leg = self.flight(id).legs.iter_mut().find(|l| l.member == member);
        leg.expect("a flight has a leg for each member that it was sent to").state = state;
    }

    /// Counts an error; whether the member leaves for it.
    fn count_error(&mut self, member: MemberId, out: &mut Outbox) -> bool {
        let (now, window, threshold) = (self.now, self.settings.error_window, self.settings.error_threshold);
        let Some(m) = self.member_mut(member) else { return false };
        m.errors_total += 1;
        m.errors.push_back(now);
        while m.errors.front().is_some_and(|t| now.since(*t) > window) || m.errors.len() > threshold as usize + 1 {
            m.errors.pop_front();
        }
        m.errors.len() > threshold as usize && self.leave(member, Reason::TooManyErrors, out)
    }

    /// Takes a member out, unless it is the last one in sync. Whether it is out, or on its way.
    pub(super) fn leave(&mut self, member: MemberId, reason: Reason, out: &mut Outbox) -> bool {
        let others = self.in_sync().any(|m| m.id != member);
        let Some(m) = self.members.iter().position(|m| m.id == member) else { return true };
        let state = self.members[m].state;
        if matches!(state, MemberState::Out(_) | MemberState::Leaving(_)) {
            return true;
        }
        // Rule: the last copy in sync stays.
        if state.counts() && !others && !mutant(Mutant::DropLastCopy) {
            mark(Mark::LastCopyFailed);
            return false;
        }
        match reason {
            Reason::NoSpace => mark(Mark::LeftWithoutSpace),
            Reason::Hung => mark(Mark::MemberHung),
            _ if state == MemberState::Rebuilding => mark(Mark::RebuildTargetDied),
            _ => {}
        }
        let m = &mut self.members[m];
        m.step(Event::Leave(reason));
        m.job = None;
        m.recording = false;
        // What it may lack: writes under way, and what was never flushed.
        if !mutant(Mutant::LeaveForgetsDirty) {
            m.missing.add(&self.dirty);
        }
        if state.counts() {
            m.tracking = Tracking::Tracked;
            self.record.wanted = true;
        }
        out.push(Effect::Changed(format!("member {} leaves: {reason}", m.uuid)));
        // Rule: what the member missed is acknowledged only once the smaller set is in force.
        let waits = state.counts() && !mutant(Mutant::AckBeforeRecord);
        let lost = if waits { LegState::Lost } else { LegState::Dropped };
        self.release_legs(member, lost);
        if reason == Reason::Removed && !state.counts() {
            self.members.retain(|m| m.id != member);
            self.record.wanted = true;
        }
        true
    }

    /// No flight waits for the member's answers any more.
    pub(super) fn release_legs(&mut self, member: MemberId, to: LegState) {
        for (index, flight) in &mut self.flights {
            let is_ledger = matches!(flight.kind, Kind::Ledger(_));
            let leg = flight.legs.iter_mut().find(|l| l.member == member);
            let Some(leg) = leg.filter(|l| !matches!(l.state, LegState::Ok | LegState::Dropped)) else { continue };
            leg.state = if is_ledger { LegState::Dropped } else { to };
            // Rule: every flight that waited for the member goes on without it; none is forgotten.
            if !mutant(Mutant::ForgetFlight) {
                self.ready.push_back(index as u32);
            }
        }
    }

    /// Goes on with a flight of which a leg changed.
    pub(super) fn advance(&mut self, id: u32, out: &mut Outbox) {
        let Some(flight) = self.flights.get(id as usize) else { return };
        match flight.step {
            Step::Locking | Step::Marking => {}
            Step::Reading => {
                let Some(leg) = flight.legs.first().filter(|l| l.state != LegState::Waiting).copied() else { return };
                let rewrite = leg.state == LegState::Failed(Fault::Medium);
                self.flight(id).tried.push((leg.member, rewrite));
                self.read_next(id, out);
            }
            Step::Writing if flight.is_resolved() => self.resolved(id, out),
            Step::Writing => {}
        }
    }

    /// Every member that got the flight has answered for good, or is out or leaving.
    fn resolved(&mut self, id: u32, out: &mut Outbox) {
        let flight = &self.flights[id as usize];
        let state_of = |id: MemberId| self.member(id).map_or(MemberState::Out(Reason::Removed), |m| m.state);
        let is_repair = matches!(flight.kind, Kind::Read if flight.ticket.is_none());
        // A copy or a read that is written through has its data from a member that has room.
        let had_room = matches!(flight.kind, Kind::Read | Kind::Copy { .. })
            || flight.legs.iter().any(|l| l.state == LegState::Ok && state_of(l.member).is_listed());
        let full = |state| state == LegState::Failed(Fault::NoSpace);
        let leaving: Vec<MemberId> = flight
            .legs
            .iter()
            .filter(|l| !is_repair && full(l.state) && (had_room || state_of(l.member) == MemberState::Rebuilding))
            .map(|l| l.member)
            .collect();
        let mut left = false;
        for member in leaving {
            left |= self.leave(member, Reason::NoSpace, out);
        }
        if left {
            // Their legs are lost or dropped now, and the flight is in the queue again.
            return;
        }
        let flight = &self.flights[id as usize];
        let failed = flight.legs.iter().find_map(|l| match l.state {
            LegState::Failed(fault) => Some(fault),
            _ => None,
        });
        if let Some(fault) = failed.filter(|_| !is_repair) {
            return self.finish(id, Err(fault), out);
        }
        if flight.legs.iter().any(|l| l.state == LegState::Lost) && !is_repair {
            return;
        }
        // The only target of a copy, or of a ledger, is out: then it was for nothing.
        let in_vain =
            matches!(flight.kind, Kind::Copy { to: Some(_), .. } | Kind::Ledger(_) | Kind::Sync(SyncFor::Copied(..)))
                && flight.legs.iter().all(|l| l.state == LegState::Dropped);
        let data = std::mem::take(&mut self.flight(id).data);
        self.finish(id, if in_vain { Err(Fault::Gone) } else { Ok(data) }, out);
    }
}
