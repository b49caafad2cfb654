//! Clients' requests: reads, changes, flushes.

use block::probe::{Mark, Mutant, mark, mutant};
use block::{BlockRange, Data, Durability, Fault, Outcome, Request, Ticket};

use super::flight::{Kind, Leg, LegState, Step};
use super::{Area, Effect, Nexus, Outbox, Phase, is_client, is_zero};
use crate::member::{MemberId, MemberState};
use crate::ranges::Mode;

impl Nexus {
    /// Takes a client's request in.
    pub(super) fn admit(&mut self, request: Request, ticket: Ticket, out: &mut Outbox) {
        self.clients += 1;
        match request.range() {
            None => {
                let id = self.new_flight(Kind::Flush, request, Some(ticket));
                self.send_to_all(id, Area::Data, out);
            }
            Some(range) => {
                let kind = if request.is_change() { Kind::Change } else { Kind::Read };
                // Rule: requests that overlap are carried out one after the other.
                let alone = request.is_change() && !mutant(Mutant::OverlappingWrites);
                let mode = if alone { Mode::Exclusive } else { self.read_mode(range) };
                let id = self.new_flight(kind, request, Some(ticket));
                self.lock(id, range, mode, out);
            }
        }
    }

    pub(super) fn admit_backlog(&mut self, out: &mut Outbox) -> bool {
        let mut any = false;
        while !matches!(self.phase, Phase::Opening) && self.clients < block::limits::NEXUS_FLIGHTS {
            let Some((request, ticket)) = self.backlog.pop_front() else { break };
            self.admit(request, ticket, out);
            any = true;
        }
        any
    }

    pub(super) fn lock(&mut self, id: u32, range: BlockRange, mode: Mode, out: &mut Outbox) {
        let flight = self.flight(id);
        flight.lock = Some((range, mode));
        flight.step = Step::Locking;
        if self.locks.acquire(id, range, mode) {
            self.locked(id, out);
        }
    }

    /// The flight has its block range for itself.
    pub(super) fn locked(&mut self, id: u32, out: &mut Outbox) {
        let flight = &self.flights[id as usize];
        let (range, mode) = flight.lock.expect("a flight that was granted a lock asked for it");
        match flight.kind {
            Kind::Change => self.mark_and_send(id, out),
            Kind::Read if mode == Mode::Shared && self.read_mode(range) == Mode::Exclusive => {
                // The members became unequal here while it waited.
                self.unlock(range, id, out);
                self.lock(id, range, Mode::Exclusive, out);
            }
            _ => self.read_next(id, out),
        }
    }

    pub(super) fn unlock(&mut self, range: BlockRange, id: u32, out: &mut Outbox) {
        let mut granted = Vec::new();
        self.locks.release(id, range, &mut granted);
        granted.into_iter().for_each(|id| self.locked(id, out));
    }

    /// Reads where members may differ write what they found to the others, so nobody else may be there.
    fn read_mode(&self, range: BlockRange) -> Mode {
        if !self.unequal.is_zero() && self.shape.touched(range).any(|r| self.unequal.get(r)) {
            Mode::Exclusive
        } else {
            Mode::Shared
        }
    }

    /// Reads from the best member that has not failed this flight, or gives up.
    pub(super) fn read_next(&mut self, id: u32, out: &mut Outbox) {
        let flight = &self.flights[id as usize];
        let (range, mode) = flight.lock.expect("a read holds its lock");
        // Rules: what is not yet copied is not read, nor a member before the larger set is in force.
        let readable = |m: &&crate::member::Member| match m.state {
            MemberState::Rebuilding => mutant(Mutant::ReadFromRebuilding),
            MemberState::Growing => mutant(Mutant::ReadBeforeRecord),
            state => state == MemberState::InSync,
        };
        let free = self.members.iter().filter(readable);
        let free = free.filter(|m| !flight.tried.iter().any(|(t, _)| *t == m.id));
        // Where members differ there is one source as long as it lives: the first.
        let apart = mode == Mode::Exclusive && matches!(flight.kind, Kind::Read | Kind::Copy { to: None, .. });
        let after =
            |m: MemberId| if m > self.last_read { m.0 - self.last_read.0 } else { u32::MAX - self.last_read.0 + m.0 };
        let next = if apart {
            free.map(|m| m.id).min()
        } else {
            free.min_by_key(|m| (m.unanswered, after(m.id))).map(|m| m.id)
        };
        let Some(member) = next else {
            let fault = match flight.legs.last().map(|l| l.state) {
                Some(LegState::Failed(fault)) => fault,
                _ => Fault::Gone,
            };
            return self.finish(id, Err(fault), out);
        };
        self.last_read = member;
        let since = self.now;
        let flight = self.flight(id);
        match flight.kind {
            _ if flight.tried.is_empty() => {}
            Kind::Copy { to: Some(_), .. } => mark(Mark::RebuildSourceDied),
            _ => mark(Mark::ReadRerouted),
        }
        flight.step = Step::Reading;
        flight.legs.clear();
        flight.legs.push(Leg { member, state: LegState::Waiting, since, attempts: 0 });
        self.submit(id, member, Area::Data, Request::Read { range }, out);
    }

    /// A member returned what was asked.
    pub(super) fn read_done(&mut self, id: u32, member: MemberId, data: Data, out: &mut Outbox) {
        self.check_reader(id, member);
        let flight = self.flight(id);
        let (range, mode) = flight.lock.expect("a read holds its lock");
        let is_skipped = matches!(flight.kind, Kind::Read) && mutant(Mutant::ReadWithoutCopy);
        let copies = matches!(flight.kind, Kind::Copy { to: Some(_), .. });
        let targets: Vec<MemberId> = match flight.kind {
            Kind::Copy { to: Some(to), .. } => vec![to],
            // Rule: where members may differ, what is read is on all of them before it is answered.
            Kind::Copy { to: None, .. } | Kind::Read if mode == Mode::Exclusive && !is_skipped => {
                if flight.ticket.is_some() {
                    mark(Mark::ReadWrittenThrough);
                }
                self.members.iter().filter(|m| m.state.counts() && m.id != member).map(|m| m.id).collect()
            }
            _ => {
                let bad: Vec<MemberId> = flight.tried.iter().filter(|(_, rewrite)| *rewrite).map(|(m, _)| *m).collect();
                if let Some(ticket) = flight.ticket.take() {
                    out.push(Effect::Answer(ticket, Ok(data.clone())));
                }
                let in_sync = |id: &MemberId| self.member(*id).is_some_and(|m| m.state == MemberState::InSync);
                let bad: Vec<MemberId> = bad.into_iter().filter(in_sync).collect();
                if !bad.is_empty() {
                    mark(Mark::ReadRepaired);
                }
                bad
            }
        };
        if targets.is_empty() {
            return self.finish(id, Ok(data), out);
        }
        let flight = self.flight(id);
        let is_copy = matches!(flight.kind, Kind::Copy { .. });
        flight.request = if is_copy && is_zero(&data) {
            Request::WriteZeroes { range, may_unmap: true, durability: Durability::Volatile }
        } else {
            Request::Write { range, data: data.clone().into_buf(), durability: Durability::Volatile }
        };
        flight.data = data;
        // Rule: a copy holds its blocks until it is written.
        if copies && mutant(Mutant::CopyWithoutLock) {
            self.unlock(range, id, out);
        }
        self.send(id, &targets, Area::Data, out);
    }

    /// Sends a change once its regions are durably dirty on every member that counts.
    pub(super) fn mark_and_send(&mut self, id: u32, out: &mut Outbox) {
        let (range, _) = self.flight(id).lock.expect("a change holds its lock");
        let mut waits = false;
        for region in self.shape.touched(range) {
            self.touched.set(region);
            if !self.durable.get(region) {
                waits = true;
                if self.dirty.set(region) {
                    self.stale.insert(self.shape.unit_of(region));
                }
            }
        }
        // Rule: no change is sent before its regions are durably dirty.
        if waits && !mutant(Mutant::WriteBeforeMark) {
            self.flight(id).step = Step::Marking;
            self.marking.push(id);
            return;
        }
        let regions = self.shape.touched(range);
        for member in self.members.iter_mut().filter(|m| !m.state.is_written()) {
            // Rule: what a member does not get is noted as missing there.
            regions.clone().filter(|_| !mutant(Mutant::ForgetMissing)).for_each(|r| {
                member.missing.set(r);
            });
        }
        if self.next_clear.is_none() {
            self.next_clear = Some(self.now + self.settings.clear_after);
        }
        self.send_to_all(id, Area::Data, out);
    }

    /// Sends the flight's request to every member that is written; those that leave are waited for.
    pub(super) fn send_to_all(&mut self, id: u32, area: Area, out: &mut Outbox) {
        let targets: smallvec::SmallVec<[MemberId; 4]> = self
            .members
            .iter()
            .filter(|m| m.state.is_written() || matches!(m.state, MemberState::Leaving(_)))
            .map(|m| m.id)
            .collect();
        self.send(id, &targets, area, out);
    }

    pub(super) fn send(&mut self, id: u32, targets: &[MemberId], area: Area, out: &mut Outbox) {
        let now = self.now;
        let flight = &mut self.flights[id as usize];
        flight.step = Step::Writing;
        flight.legs.clear();
        let mut sent = 0;
        for &member in targets {
            let state = match self.members.iter().find(|m| m.id == member).map(|m| m.state) {
                Some(state) if state.is_written() => LegState::Waiting,
                Some(MemberState::Leaving(_)) => LegState::Lost,
                _ => LegState::Dropped,
            };
            sent += usize::from(state == LegState::Waiting);
            flight.legs.push(Leg { member, state, since: now, attempts: 0 });
        }
        for index in 0..targets.len() {
            let flight = &self.flights[id as usize];
            if flight.legs[index].state == LegState::Waiting {
                let (member, request) = (flight.legs[index].member, flight.request.clone());
                self.submit(id, member, area, request, out);
            }
        }
        if sent == 0 {
            self.ready.push_back(id);
        }
    }

    pub(super) fn submit(&mut self, id: u32, member: MemberId, area: Area, request: Request, out: &mut Outbox) {
        let flight = self.flight_id(id);
        self.member_mut(member).expect("a request goes to a member").unanswered += 1;
        out.push(Effect::Submit { member, flight, area, request });
    }

    /// The end of a flight: answers its client, gives its blocks back, and does what depends on it.
    pub(super) fn finish(&mut self, id: u32, outcome: Outcome, out: &mut Outbox) {
        let flight = self.flights.remove(id as usize);
        if outcome.is_ok() {
            self.check_acknowledgement(&flight);
        }
        if is_client(&flight.kind) {
            self.clients -= 1;
        }
        // Rule: after a change that failed its blocks are made equal again.
        let failed = outcome.is_err() && !mutant(Mutant::ForgetFailedWrite);
        if matches!(flight.kind, Kind::Change) && failed && flight.step == Step::Writing {
            let (range, _) = flight.lock.expect("a change holds its lock");
            self.spoil(range);
        }
        let range = flight.lock.map(|(range, _)| range);
        let fault = outcome.as_ref().err().copied();
        if let Some(ticket) = flight.ticket {
            let outcome = if matches!(flight.kind, Kind::Read) { outcome } else { outcome.map(|_| Data::empty()) };
            out.push(Effect::Answer(ticket, outcome));
        }
        let copies = matches!(flight.kind, Kind::Copy { to: Some(_), .. });
        if let Some(range) = range.filter(|_| !(copies && mutant(Mutant::CopyWithoutLock))) {
            self.unlock(range, id, out);
        }
        match flight.kind {
            Kind::Read | Kind::Change | Kind::Flush => {}
            Kind::Mark => self.mark_done(fault, out),
            Kind::Ledger(version) => self.ledger_done(flight.legs[0].member, version, fault),
            Kind::Copy { to, region, job } => {
                self.copy_done((to, region, job), range.expect("a copy holds its lock"), fault, out);
            }
            Kind::Sync(what) => self.sync_done(what, fault),
        }
    }
}
