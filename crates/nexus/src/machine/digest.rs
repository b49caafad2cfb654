//! The machine's state as a number, for searches through all of its states.

use std::hash::{DefaultHasher, Hash, Hasher};

use block::{Instant, Request};

use super::Nexus;
use super::flight::{Flight, FlightId, Kind, SyncFor};
use super::grow::Growth;
use crate::member::{Member, MemberId, Tracking};

/// How long until (or since) an instant; what lies further away than any limit of the machine makes no difference.
fn ahead(now: Instant, t: Option<Instant>) -> Option<u64> {
    t.map(|t| t.0.saturating_sub(now.0))
}

fn hash_request(request: &Request, h: &mut impl Hasher) {
    std::mem::discriminant(request).hash(h);
    request.range().hash(h);
    if let Request::Write { data, durability, .. } = request {
        (&data[..], durability).hash(h);
    }
    if let Request::WriteZeroes { durability, .. } = request {
        durability.hash(h);
    }
}

impl Nexus {
    /// Machines with the same digest (and the same settings) go on alike. Names of flights, the time of day, and what only
    /// reports show are left out.
    pub fn digest(&self) -> u64 {
        let mut h = DefaultHasher::new();
        // A new field is either hashed or named here as one that decides nothing.
        #[rustfmt::skip]
        let Nexus {
            volume: _, size: _, shape, settings: _, served, growth, next_serial: _, next_job: _,
            phase, now, members, next_member, last_read, flights, clients, backlog, locks, ready, record, dirty, durable,
            touched, unequal, equalizer, stale, rounds_started, rounds_done, round, marking, clearing, next_clear, next_scan,
            next_retry, next_round_retry,
        } = self;
        (phase, next_member, last_read, clients, dirty, durable, touched, unequal).hash(&mut h);
        (
            shape.blocks,
            served,
            growth.map(|g| match g {
                Growth::Marking(round) => Some(round.saturating_sub(*rounds_done)),
                Growth::Recording => None,
            }),
        )
            .hash(&mut h);
        (stale, rounds_started - rounds_done, round, clearing).hash(&mut h);
        members.iter().for_each(|m| self.hash_member(m, &mut h));
        let mut all: Vec<u64> = flights.iter().map(|(_, f)| self.flight_digest(f)).collect();
        all.sort_unstable();
        all.hash(&mut h);
        backlog.iter().for_each(|(request, _)| hash_request(request, &mut h));
        for key in locks.waiting().chain(ready.iter().copied()).chain(marking.iter().copied()) {
            flights.get(key as usize).map(|f| self.flight_digest(f)).hash(&mut h);
        }
        record.hash_into(*now, &mut h);
        equalizer.as_ref().map(|c| c.digest(*now)).hash(&mut h);
        [next_clear, next_scan, next_retry, next_round_retry].map(|t| ahead(*now, *t)).hash(&mut h);
        h.finish()
    }

    /// What a request in flight is for; 0 when nothing waits for its answer any more.
    pub fn flight_digest_of(&self, flight: FlightId) -> u64 {
        let current = self.flights.get(flight.index as usize).filter(|f| f.serial == flight.serial);
        current.map_or(0, |f| self.flight_digest(f))
    }

    fn hash_member(&self, m: &Member, h: &mut impl Hasher) {
        let Member { id, uuid: _, uri_tag: _, errors_total: _, .. } = m;
        (id, m.state, m.slot, m.recorded, m.recording, &m.missing, m.unanswered).hash(h);
        let round = |from: u64| if from == u64::MAX { from } else { from.saturating_sub(self.rounds_done) };
        match m.tracking {
            Tracking::From(from) => Some(round(from)).hash(h),
            Tracking::Tracked => None::<u64>.hash(h),
        }
        round(m.map_from).hash(h);
        m.errors.iter().for_each(|t| self.now.since(*t).hash(h));
        m.job.as_ref().map(|j| (j.state, j.copier.digest(self.now))).hash(h);
    }

    fn flight_digest(&self, f: &Flight) -> u64 {
        let mut h = DefaultHasher::new();
        let is_job = |to: Option<MemberId>, serial: u64| match to {
            Some(to) => self.member(to).and_then(|m| m.job.as_ref()).is_some_and(|j| j.copier.serial == serial),
            None => self.equalizer.as_ref().is_some_and(|c| c.serial == serial),
        };
        match &f.kind {
            Kind::Copy { to, region, job } => (1, to, region, is_job(*to, *job)).hash(&mut h),
            Kind::Sync(SyncFor::Copied(member, job)) => (2, member, is_job(Some(*member), *job)).hash(&mut h),
            Kind::Sync(SyncFor::Clear(regions)) => (3, regions).hash(&mut h),
            Kind::Ledger(version) => (4, version).hash(&mut h),
            kind => std::mem::discriminant(kind).hash(&mut h),
        }
        (f.step, f.ticket.is_some(), f.lock, self.now.since(f.since), &f.tried[..]).hash(&mut h);
        hash_request(&f.request, &mut h);
        f.data.iter().for_each(|buf| buf[..].hash(&mut h));
        for leg in &f.legs {
            let pause = match leg.state {
                super::flight::LegState::Retrying(at) => ahead(self.now, Some(at)),
                _ => None,
            };
            (leg.member, std::mem::discriminant(&leg.state), pause, leg.attempts, self.now.since(leg.since))
                .hash(&mut h);
            if let super::flight::LegState::Failed(fault) = leg.state {
                fault.hash(&mut h);
            }
        }
        h.finish()
    }
}
