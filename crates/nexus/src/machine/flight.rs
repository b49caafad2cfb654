//! One request on its way through the members.

use block::{BlockRange, Data, Fault, Instant, Request, Ticket};
use smallvec::SmallVec;

use super::Nexus;
use crate::ledger::Version;
use crate::member::MemberId;
use crate::ranges::Mode;

/// Names a flight towards the members. An answer for a flight that is over is recognised by its serial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlightId {
    pub(super) index: u32,
    pub(super) serial: u32,
}

/// What a flight is for.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// A client's read.
    Read,
    /// A client's write, unmap or write-zeroes.
    Change,
    /// A client's flush.
    Flush,
    /// A segment copied to one member, or (none) from one member in sync to all others.
    Copy { to: Option<MemberId>, region: usize, job: u64 },
    /// A part of the dirty map.
    Mark,
    /// A ledger, to one member.
    Ledger(Version),
    /// A flush of one's own.
    Sync(SyncFor),
}

/// What is done once one's own flush has succeeded.
#[derive(Clone, Debug)]
pub(super) enum SyncFor {
    /// Those regions are no longer dirty, unless written since.
    Clear(Vec<usize>),
    /// What was copied to the member is there for good.
    Copied(MemberId, u64),
}

/// Where a flight is.
///
/// ```text
///  Read, Copy:  Locking ─▶ Reading ⟲ next member ─▶ answered
///                             └─ after a failed read, or in a region that is not equal, or a copy ─▶ Writing
///  Change:      Locking ─▶ Marking ─▶ Writing ─▶ answered
///  others:      Writing ─▶ done
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// Waits for its block range.
    Locking,
    /// Waits until its regions are durably dirty.
    Marking,
    /// A member reads.
    Reading,
    /// Members write or flush.
    Writing,
}

/// One member's part of a flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leg {
    pub member: MemberId,
    pub state: LegState,
    /// When it was first sent.
    pub since: Instant,
    pub attempts: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LegState {
    /// The member has it.
    Waiting,
    /// It failed and is sent again at this time.
    Retrying(Instant),
    Ok,
    /// It failed for good, and the member could not leave for it, or has not been judged yet.
    Failed(Fault),
    /// The member is leaving: the flight waits for the record.
    Lost,
    /// The member is out and does not count.
    Dropped,
}

pub(super) struct Flight {
    pub serial: u32,
    pub kind: Kind,
    pub step: Step,
    pub request: Request,
    pub ticket: Option<Ticket>,
    pub lock: Option<(BlockRange, Mode)>,
    pub since: Instant,
    pub legs: SmallVec<[Leg; 3]>,
    /// Members that failed the read, and whether the block is to be rewritten there.
    pub tried: SmallVec<[(MemberId, bool); 2]>,
    /// What a read returned, until it is answered.
    pub data: Data,
}

impl Flight {
    /// Whether no leg is under way.
    pub fn is_resolved(&self) -> bool {
        !self.legs.iter().any(|l| matches!(l.state, LegState::Waiting | LegState::Retrying(_)))
    }
}

impl Nexus {
    pub(super) fn new_flight(&mut self, kind: Kind, request: Request, ticket: Option<Ticket>) -> u32 {
        self.next_serial = self.next_serial.wrapping_add(1);
        let flight = Flight {
            serial: self.next_serial,
            kind,
            step: Step::Writing,
            request,
            ticket,
            lock: None,
            since: self.now,
            legs: SmallVec::new(),
            tried: SmallVec::new(),
            data: Data::empty(),
        };
        if self.next_scan.is_none() {
            self.next_scan = Some(self.now + self.settings.member_deadline / 8);
        }
        self.flights.insert(flight) as u32
    }
    pub(super) fn new_serial(&mut self) -> u64 {
        self.next_job += 1;
        self.next_job
    }
    pub(super) fn flight(&mut self, index: u32) -> &mut Flight {
        &mut self.flights[index as usize]
    }
    pub(super) fn flight_id(&self, index: u32) -> FlightId {
        FlightId { index, serial: self.flights[index as usize].serial }
    }
}
