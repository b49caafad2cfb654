//! The ledger: when a record is issued, where it goes, and when it is in force. docs/replication.md, section 3.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use block::probe::{Mark, Mutant, mark, mutant};
use block::{Buf, Durability, Fault, Instant, Request};

use super::flight::{Kind, LegState};
use super::{Area, Effect, Nexus, Outbox, Phase};
use crate::ledger::{Entry, Ledger, Role, Set, Version, is_majority};
use crate::member::{Event, MemberId, MemberState, Reason, Tracking};
use crate::meta;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// How long a record that nobody waits for is held back after failures of the store, at most.
const IDLE_PAUSE: Duration = Duration::from_secs(30);
/// The same for a record that acknowledgements wait for.
const URGENT_PAUSE: Duration = Duration::from_secs(1);

/// Why a ledger was not recorded in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreFault {
    /// It has a newer one.
    Fenced,
    /// It cannot be reached.
    Unavailable,
}

/// The record that is being made, or the last one.
pub(super) struct Record {
    /// The members have changed: another record is due.
    pub wanted: bool,
    pub version: Version,
    /// The members in sync by this record.
    pub set: Set,
    pub in_force: bool,
    /// The set in force before, and those recorded since: [`Nexus::counting`] waits for them all. Once this record is in
    /// force, its own set.
    pub bases: Vec<Set>,
    ledger: Option<(Box<Ledger>, Buf)>,
    /// The last version in force.
    pub parent: Version,
    next: Version,
    stored: Option<Version>,
    storing: bool,
    pub store_retry: Option<Instant>,
    pause: Duration,
    /// A ledger write to the last member in sync failed; it is tried again then.
    pub write_retry: Option<Instant>,
}

impl Record {
    pub fn new(first: Version, parent: Version, bases: Vec<Set>, stored: Option<Version>) -> Record {
        Record {
            wanted: true,
            version: Version::default(),
            set: Set::new(),
            in_force: false,
            bases,
            ledger: None,
            parent,
            next: first,
            stored,
            storing: false,
            store_retry: None,
            pause: FIRST_PAUSE,
            write_retry: None,
        }
    }
    /// All that decides what comes next.
    pub fn hash_into(&self, now: Instant, h: &mut impl Hasher) {
        let ahead = |t: Option<Instant>| t.map(|t| t.0.saturating_sub(now.0));
        (self.wanted, self.version, &self.set, self.in_force, &self.bases, self.parent, self.next).hash(h);
        self.ledger.as_ref().map(|(ledger, _)| ledger).hash(h);
        (self.stored, self.storing, self.pause, ahead(self.store_retry), ahead(self.write_retry)).hash(h);
    }
    /// Whether the store is to be told, and may be asked now.
    pub fn is_untold(&self) -> bool {
        self.stored < Some(self.version) && !self.storing && self.store_retry.is_none()
    }
}

impl Nexus {
    /// Begins the record of the members as they are now. What was being recorded stays in doubt.
    pub(super) fn issue_record(&mut self, out: &mut Outbox) {
        let set: Set = self.members.iter().filter(|m| m.state.is_listed()).map(|m| m.uuid).collect();
        let r = &mut self.record;
        r.wanted = false;
        if matches!(self.phase, Phase::Closed | Phase::Fenced) {
            return;
        }
        let before = std::mem::replace(&mut r.set, set);
        // Rule: a record that was sent may be found by the next nexus, so its set still counts.
        let known = r.bases.contains(&before) || mutant(Mutant::ForgetDoubt);
        if !r.in_force && r.ledger.is_some() {
            mark(Mark::RecordReplaced);
            if !known {
                r.bases.push(before);
            }
        }
        r.in_force = false;
        r.version = r.next;
        r.next = r.next.next();
        let role = |m: &crate::member::Member| match m.state {
            s if s.is_listed() => Role::InSync,
            MemberState::Leaving(Reason::Removed) => Role::Gone,
            _ if m.tracking == Tracking::Tracked => Role::Behind,
            _ => Role::Gone,
        };
        let mut entries: Vec<Entry> =
            self.members.iter().map(|m| Entry { member: m.uuid, role: role(m), uri_tag: m.uri_tag }).collect();
        entries.retain(|e| e.role != Role::Gone);
        for &member in r.bases.iter().flatten() {
            if !entries.iter().any(|e| e.member == member) {
                entries.push(Entry { member, role: Role::Gone, uri_tag: 0 });
            }
        }
        let ledger = Ledger {
            volume: self.volume,
            version: r.version,
            size: self.size,
            region: self.shape.block_size.bytes_of(self.shape.region),
            entries,
            parent: r.parent,
            doubts: r.bases.clone(),
        };
        let image = Buf::copy_of(&ledger.encode());
        r.ledger = Some((Box::new(ledger), image));
        self.check_record(out);
    }

    /// Sends the record to members that lack it, then to the store, and sees whether it is in force.
    pub(super) fn check_record(&mut self, out: &mut Outbox) -> bool {
        let Some(image) = self.record.ledger.as_ref().map(|(_, image)| image.clone()) else { return false };
        if self.record.wanted {
            return false;
        }
        let version = self.record.version;
        let lacks = |m: &&crate::member::Member| m.state.is_written() && !m.recording && m.recorded < version;
        let lacking: Vec<(MemberId, usize)> = self.members.iter().filter(lacks).map(|m| (m.id, m.slot)).collect();
        if !lacking.is_empty() && self.record.write_retry.is_none() {
            for (member, slot) in lacking {
                self.member_mut(member).expect("one of the members").recording = true;
                let range = meta::slot(self.shape.block_size, slot);
                let request = Request::Write { range, data: image.clone(), durability: Durability::Durable };
                let id = self.new_flight(Kind::Ledger(version), request, None);
                self.send(id, &[member], Area::Meta, out);
            }
            return true;
        }
        // Rule: members first, then the store: what the store knows is on all of its members.
        let lacks = self.members.iter().any(|m| m.state.is_listed() && m.recorded < version);
        if lacks && !mutant(Mutant::StoreBeforeMembers) {
            return false;
        }
        let r = &mut self.record;
        // Rule: a record counts when the store has it, or it holds more than half of every set before.
        let majority = r.bases.iter().all(|base| is_majority(&r.set, base)) || mutant(Mutant::MinorityCounts);
        let counts = r.stored >= Some(version) || majority;
        if r.is_untold() {
            r.storing = true;
            let ledger = r.ledger.as_ref().map(|(ledger, _)| ledger.clone());
            out.push(Effect::Record(ledger.expect("there is a record")));
        }
        if !counts || r.in_force {
            return false;
        }
        if r.stored < Some(version) {
            mark(Mark::InForceByMajority);
        }
        self.come_into_force(out);
        true
    }

    fn come_into_force(&mut self, out: &mut Outbox) {
        self.record.in_force = true;
        self.record.parent = self.record.version;
        self.record.bases = vec![self.record.set.clone()];
        let version = self.record.version;
        let changing: Vec<(MemberId, MemberState)> = self.members.iter().map(|m| (m.id, m.state)).collect();
        for (id, state) in changing {
            let member = self.member_mut(id).expect("one of the members");
            match state {
                MemberState::Leaving(reason) => {
                    mark(Mark::MemberLeft);
                    member.step(Event::InForce);
                    let text = format!("member {} is out ({reason}), recorded in ledger {version}", member.uuid);
                    out.push(Effect::Changed(text));
                    self.release_legs(id, LegState::Dropped);
                    if reason == Reason::Removed {
                        self.members.retain(|m| m.id != id);
                    }
                }
                MemberState::Growing => {
                    member.step(Event::InForce);
                    member.job = None;
                    let text = format!("member {} is in sync, recorded in ledger {version}", member.uuid);
                    out.push(Effect::Changed(text));
                }
                _ => {}
            }
        }
        self.size_in_force(out);
        if self.phase == Phase::Opening {
            self.phase = Phase::Serving;
            out.push(Effect::Changed(format!("serving under ledger {version}")));
        }
    }

    pub(super) fn ledger_done(&mut self, member: MemberId, version: Version, fault: Option<Fault>) {
        let retry = self.now + FIRST_PAUSE;
        let Some(m) = self.member_mut(member) else { return };
        if !m.state.is_written() {
            return;
        }
        m.recording = false;
        match fault {
            None => {
                m.recorded = version;
                m.slot ^= 1;
            }
            Some(_) => self.record.write_retry = Some(retry),
        }
    }

    /// The store has answered.
    pub fn on_stored(&mut self, now: Instant, version: Version, outcome: Result<(), StoreFault>, out: &mut Outbox) {
        self.tick(now);
        let r = &mut self.record;
        r.storing = false;
        match outcome {
            Ok(()) => {
                r.stored = r.stored.max(Some(version));
                r.pause = FIRST_PAUSE;
            }
            Err(StoreFault::Unavailable) => {
                let pause = r.pause.min(if r.in_force { IDLE_PAUSE } else { URGENT_PAUSE });
                r.store_retry = Some(self.now + pause);
                r.pause = (r.pause * 2).min(IDLE_PAUSE);
            }
            Err(StoreFault::Fenced) => self.fence(out),
        }
        self.settle(out);
    }
}
