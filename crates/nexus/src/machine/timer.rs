//! What happens because time passes.

use block::{Fault, Instant};

use super::flight::{Kind, LegState, Step};
use super::{Area, Effect, Nexus, Outbox, Phase, is_client};
use crate::member::{MemberId, Reason};

impl Nexus {
    /// When [`Nexus::expire`] is to be called, if nothing happens before.
    pub fn deadline(&self) -> Option<Instant> {
        if matches!(self.phase, Phase::Closed | Phase::Fenced) {
            return None;
        }
        let copier = self.equalizer.as_ref().and_then(|c| c.wait_until);
        let times = [
            self.next_retry,
            self.next_scan,
            self.next_clear,
            self.next_round_retry,
            self.record.store_retry,
            self.record.write_retry,
            copier,
        ];
        times.into_iter().flatten().min()
    }

    /// The time is `now`.
    pub fn expire(&mut self, now: Instant, out: &mut Outbox) {
        self.tick(now);
        if matches!(self.phase, Phase::Closed | Phase::Fenced) {
            return;
        }
        let now = self.now;
        let due = |t: &mut Option<Instant>| t.take_if(|t| *t <= now).is_some();
        due(&mut self.record.store_retry);
        due(&mut self.record.write_retry);
        due(&mut self.next_round_retry);
        self.wake_copiers(now);
        if due(&mut self.next_retry) {
            self.send_again(out);
        }
        if due(&mut self.next_scan) {
            self.scan(out);
        }
        if due(&mut self.next_clear) {
            self.start_clear(false, out);
            if !self.dirty.is_zero() {
                self.next_clear = Some(now + self.settings.clear_after);
            }
        }
        self.settle(out);
    }

    fn send_again(&mut self, out: &mut Outbox) {
        let now = self.now;
        let mut again = Vec::new();
        let mut next: Option<Instant> = None;
        for (index, flight) in &mut self.flights {
            let area = if matches!(flight.kind, Kind::Mark | Kind::Ledger(_)) { Area::Meta } else { Area::Data };
            for leg in &mut flight.legs {
                match leg.state {
                    LegState::Retrying(at) if at <= now => {
                        leg.state = LegState::Waiting;
                        leg.attempts = leg.attempts.saturating_add(1);
                        again.push((index as u32, leg.member, area, flight.request.clone()));
                    }
                    LegState::Retrying(at) => next = Some(next.map_or(at, |t| t.min(at))),
                    _ => {}
                }
            }
        }
        self.next_retry = next;
        for (id, member, area, request) in again {
            self.submit(id, member, area, request, out);
        }
    }

    /// Looks for members that do not answer.
    fn scan(&mut self, out: &mut Outbox) {
        let (now, limit) = (self.now, self.settings.member_deadline);
        let mut hung: Vec<(u32, MemberId)> = Vec::new();
        for (index, flight) in &self.flights {
            let late = flight.legs.iter().filter(|l| l.state == LegState::Waiting && now.since(l.since) >= limit);
            hung.extend(late.map(|l| (index as u32, l.member)));
        }
        let mut stuck = false;
        for (id, member) in hung {
            if !self.leave(member, Reason::Hung, out) {
                stuck = true;
                self.last_is_late(id, member, out);
            }
        }
        if stuck {
            self.fail_waiting(out);
        }
        if !self.flights.is_empty() {
            self.next_scan = Some(now + limit / 8);
        }
    }

    /// The last member in sync does not answer: the client gets an error. A change keeps its blocks locked until the
    /// member has answered, so that it never lands on a newer one.
    fn last_is_late(&mut self, id: u32, member: MemberId, out: &mut Outbox) {
        let Some(flight) = self.flights.get_mut(id as usize) else { return };
        if flight.step == Step::Reading {
            let leg = flight.legs.iter_mut().find(|l| l.member == member).expect("the leg that is late");
            leg.state = LegState::Failed(Fault::TimedOut);
            return self.ready.push_back(id);
        }
        if let Some(ticket) = flight.ticket.take() {
            out.push(Effect::Answer(ticket, Err(Fault::TimedOut)));
        }
        if matches!(flight.kind, Kind::Mark) {
            self.fail_marking(Fault::TimedOut, out);
        }
    }

    /// Requests that have waited too long for blocks that a stuck change holds fail, too.
    fn fail_waiting(&mut self, out: &mut Outbox) {
        let (now, limit) = (self.now, self.settings.member_deadline);
        let late = self
            .flights
            .iter()
            .filter(|(_, f)| is_client(&f.kind) && f.step == Step::Locking && now.since(f.since) >= limit);
        let late: Vec<u32> = late.map(|(index, _)| index as u32).collect();
        for id in late {
            // An earlier one may have made room for this one.
            if !self.flights.get(id as usize).is_some_and(|f| f.step == Step::Locking) {
                continue;
            }
            self.flight(id).lock = None;
            let mut granted = Vec::new();
            self.locks.withdraw(id, &mut granted);
            self.finish(id, Err(Fault::TimedOut), out);
            granted.into_iter().for_each(|id| self.locked(id, out));
        }
    }
}
