//! A member, and its states.

use std::collections::VecDeque;

use block::{Fault, Instant};
use uuid::Uuid;

use crate::bitmap::Bitmap;
use crate::ledger::Version;
use crate::rebuild::Job;

/// A member of one nexus. Never used again for another member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u32);

/// Why a member is not in sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A request failed for good.
    Failed(Fault),
    /// A request was not answered within the deadline.
    Hung,
    /// More errors than the threshold in one window.
    TooManyErrors,
    /// It had no room for a write that others had room for.
    NoSpace,
    /// Taken out by an operator.
    Offline,
    /// Declared as failed by an operator.
    Faulted,
    /// It could not be reached when the volume was opened.
    Absent,
    /// Taken out of the volume for good.
    Removed,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Reason::Failed(fault) => write!(f, "I/O failed: {fault}"),
            Reason::Hung => f.write_str("no answer within the deadline"),
            Reason::TooManyErrors => f.write_str("too many errors"),
            Reason::NoSpace => f.write_str("its pool has no space left"),
            Reason::Offline => f.write_str("taken offline"),
            Reason::Faulted => f.write_str("declared as failed by an operator"),
            Reason::Absent => f.write_str("could not be reached when the volume was opened"),
            Reason::Removed => f.write_str("being removed"),
        }
    }
}

/// The state of a member.
///
/// ```text
///    add                 start              all copied, map written, flushed      record in force
///  ───────▶ Joining ─────────────▶ Rebuilding ───────────────────▶ Growing ───────────────────▶ InSync
///              ▲   ◀──── stop ──────────│                              │                           │
///              │                        │ fault, offline               │ fault, offline            │ fault, offline,
///       online │                        ▼                              ▼                           ▼ remove
///              └───────────────────── Out ◀──────── record in force ──────────── Leaving ◀──────────┘
/// ```
/// Joining goes Out, too, when it is taken offline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemberState {
    /// Open, out of sync, waits for a rebuild. Gets neither reads nor writes.
    Joining,
    /// Being copied to. Gets every write.
    Rebuilding,
    /// Copied; the ledger with it is being recorded. Gets every write, and counts.
    Growing,
    /// May be read, and counts.
    InSync,
    /// The ledger without it is being recorded. Gets nothing, and still counts.
    Leaving(Reason),
    /// Gets nothing and does not count.
    Out(Reason),
}

/// What moves a member from state to state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Start,
    Stop,
    Copied,
    InForce,
    Leave(Reason),
    Online,
}

impl MemberState {
    /// The only place where a member's state changes. Panics on a step that is not in the picture: a bug of ours.
    pub(crate) fn step(self, event: Event) -> MemberState {
        use MemberState::*;
        match (self, event) {
            (Joining, Event::Start) => Rebuilding,
            (Rebuilding, Event::Stop) => Joining,
            (Rebuilding, Event::Copied) => Growing,
            (Growing, Event::InForce) => InSync,
            (Growing | InSync, Event::Leave(why)) => Leaving(why),
            (Joining | Rebuilding, Event::Leave(why)) => Out(why),
            (Leaving(why), Event::InForce) => Out(why),
            (Out(_), Event::Online) => Joining,
            (state, event) => panic!("a member in {state:?} cannot take {event:?}"),
        }
    }
    /// Whether it gets writes.
    pub fn is_written(self) -> bool {
        matches!(self, MemberState::Rebuilding | MemberState::Growing | MemberState::InSync)
    }
    /// Whether a record with it is in force or may be: acknowledgements depend on it.
    pub fn counts(self) -> bool {
        matches!(self, MemberState::Growing | MemberState::InSync | MemberState::Leaving(_))
    }
    /// Whether the next ledger names it as in sync.
    pub fn is_listed(self) -> bool {
        matches!(self, MemberState::Growing | MemberState::InSync)
    }
}

/// Whether the ledger may list a member as behind, so that only the regions of the dirty map are copied to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tracking {
    /// Once the map round of this number is durable, the map covers what it lacks.
    From(u64),
    /// The map covers what it lacks.
    Tracked,
}

pub(crate) struct Member {
    pub id: MemberId,
    pub uuid: Uuid,
    pub uri_tag: u64,
    pub state: MemberState,
    /// The ledger slot that the next record goes to: the one that does not hold its last good ledger.
    pub slot: usize,
    /// The newest ledger that is durable on it.
    pub recorded: Version,
    /// Whether a ledger write is on its way.
    pub recording: bool,
    pub tracking: Tracking,
    /// The map round from which on it has the whole map.
    pub map_from: u64,
    /// Regions in which it may lack writes. Empty while it counts.
    pub missing: Bitmap,
    /// Requests that it has not answered, whoever still waits for them.
    pub unanswered: u32,
    pub errors: VecDeque<Instant>,
    pub errors_total: u64,
    pub job: Option<Job>,
}

impl Member {
    pub(crate) fn step(&mut self, event: Event) {
        self.state = self.state.step(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_goes_round() {
        let mut s = MemberState::Joining;
        for event in
            [Event::Start, Event::Copied, Event::InForce, Event::Leave(Reason::Hung), Event::InForce, Event::Online]
        {
            s = s.step(event);
        }
        assert_eq!(s, MemberState::Joining);
        assert!(MemberState::Leaving(Reason::Hung).counts() && !MemberState::Leaving(Reason::Hung).is_written());
    }

    #[test]
    #[should_panic(expected = "cannot take")]
    fn a_member_that_was_not_copied_is_never_in_sync() {
        let _ = MemberState::Joining.step(Event::Copied);
    }
}
