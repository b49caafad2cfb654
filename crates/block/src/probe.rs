//! Marks, checks and mutants: how the tests prove that they test.
//!
//! * A **mark** stands on a rare path. The simulator counts how often each was reached, and reports those that never were.
//! * A **check** is an invariant that the simulator has looked at from within.
//! * A **mutant** is a deliberate defect: `if mutant(Mutant::X)` breaks a rule that a comment beside it names. The simulator
//!   must catch each one. Without the feature `mutants` (which only the proof of the simulator sets) the question is the
//!   constant `false` and the defect does not exist in the program.

use std::cell::Cell;

macro_rules! probes {
    ($(#[$doc:meta])* $name:ident { $($(#[$about:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$about])* $variant,)* }

        impl $name {
            /// All of them.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];
            /// Its name on the command line and in reports.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }
    };
}

probes! {
    /// A rare path.
    Mark {
        /// A member left its volume: the smaller ledger is in force.
        MemberLeft = "member left",
        /// A thin pool had no room for a write, and its member left.
        LeftWithoutSpace = "member left, its pool being full",
        /// The last copy in sync failed, and stayed.
        LastCopyFailed = "last copy failed and stayed",
        /// The last copy in sync lost its cache and was opened anew.
        LastCopyBack = "last copy came back with less and was opened anew",
        /// A member hung for longer than its deadline, and left.
        MemberHung = "member left without an answer",
        /// An answer came for a request that nobody waited for any more.
        LateAnswer = "answer of a request that was over",
        /// A read failed on one member and was answered by another.
        ReadRerouted = "read answered by another member",
        /// A block that could not be read was written again from another member.
        ReadRepaired = "unreadable block written again",
        /// A read where members may differ was copied to the others before it was answered.
        ReadWrittenThrough = "read copied to the others first",
        /// A change failed on every member, and its blocks were made equal again.
        ChangeSpoiled = "change that failed made equal again",
        /// A rebuild lost its source and went on from another member.
        RebuildSourceDied = "rebuild went on from another source",
        /// A rebuild copied only what its member lacks.
        RebuildOfTheRest = "rebuild of the missing regions only",
        /// The target of a rebuild was lost.
        RebuildTargetDied = "rebuild lost its target",
        /// A volume was opened with regions in which members may differ.
        UncleanOpen = "volume opened after an unclean stop",
        /// A member that lost its cache was set back behind those that have not.
        ShakenSetBack = "member without its cache set back at open",
        /// A ledger came into force by a majority of its members, without the store.
        InForceByMajority = "ledger in force without the store",
        /// A ledger was replaced by the next before it was in force.
        RecordReplaced = "ledger replaced before it was in force",
        /// A volume was opened after a ledger of which nobody knows whether it was in force.
        OpenedInDoubt = "volume opened with sets in doubt",
        /// A ledger that was found on a member had never come into force.
        LedgerPassedOver = "ledger passed over at open",
        /// A slot of a member's ledger could not be read, and no loss of power explains it.
        LedgerRotten = "rotten ledger slot found at open",
        /// Members that are older than the ledger in the store were refused.
        StaleRefused = "stale members refused",
        /// Too few members in sync could be reached.
        TooFewRefused = "opening refused, too few members",
        /// A nexus that was replaced found out and stopped.
        ReplacedNexusStopped = "replaced nexus stopped",
        /// A write of a host that does not hold the reservation was refused.
        GhostRefused = "write without the reservation refused",
        /// The reservation of another nexus was taken away.
        ReservationTaken = "reservation taken from another nexus",
        /// A new association waited for the commands of the one before it.
        GhostAwaited = "new association waited for commands of the old",
        /// A pool stopped: a flush or a metadata write failed, or its disk is gone.
        PoolStopped = "pool stopped",
        /// A pool was opened from its older checkpoint, the newer one being torn.
        OlderCheckpoint = "older checkpoint used",
        /// The journal went on past its checkpoint, and was replayed.
        JournalReplayed = "journal replayed",
        /// A journal block that was torn, or never written behind others, ended the replay.
        JournalTailDropped = "torn tail of the journal dropped",
        /// The journal was full, and a write waited for a checkpoint.
        JournalFull = "journal full",
        /// An allocation found no room.
        PoolFull = "pool full",
    }
}

probes! {
    /// A deliberate defect.
    Mutant {
        /// A write is acknowledged before the smaller ledger is in force.
        AckBeforeRecord = "ack-before-record",
        /// An answer to a flight that is over counts for the one that has its place.
        LateAnswerCounts = "late-answer-counts",
        /// A refusal by a member that knows a newer writer counts as that member's failure.
        IgnoreFence = "ignore-fence",
        /// A flush that failed is sent again, and counts when it then succeeds.
        RetryFlush = "retry-flush",
        /// The last copy in sync may leave.
        DropLastCopy = "drop-last-copy",
        /// What was dirty when a member left is not noted as missing there.
        LeaveForgetsDirty = "leave-forgets-dirty",
        /// Requests that waited for a member that leaves are forgotten.
        ForgetFlight = "forget-flight",
        /// Changes of the same blocks are carried out at the same time.
        OverlappingWrites = "overlapping-writes",
        /// A member that is being rebuilt is read.
        ReadFromRebuilding = "read-from-rebuilding",
        /// A member is read before the ledger that has it is in force.
        ReadBeforeRecord = "read-before-record",
        /// After an unclean stop a read is answered before the other members have what it returns.
        ReadWithoutCopy = "read-without-copy",
        /// A rebuild does not hold what it copies against changes.
        CopyWithoutLock = "copy-without-lock",
        /// A change is sent before its region is durably dirty.
        WriteBeforeMark = "write-before-mark",
        /// What an absent member does not get is not noted.
        ForgetMissing = "forget-missing",
        /// Members that may differ after a change that failed are not made equal.
        ForgetFailedWrite = "forget-failed-write",
        /// A record that was sent, and replaced before it was in force, is forgotten.
        ForgetDoubt = "forget-doubt",
        /// The store is told of a ledger that is not yet on all of its members.
        StoreBeforeMembers = "store-before-members",
        /// A smaller set is in force without the store and without a majority.
        MinorityCounts = "minority-counts",
        /// A region is marked as clean although the members have not flushed it.
        ClearWithoutFlush = "clear-without-flush",
        /// A region that was written since the flush is marked as clean.
        ClearWhatWasWritten = "clear-what-was-written",
        /// A rebuilt member comes into the ledger before it has flushed what was copied.
        GrowBeforeFlush = "grow-before-flush",
        /// A member comes back while requests from before may still land.
        BackTooSoon = "back-too-soon",
        /// After an unclean stop the dirty map is not looked at.
        ForgetDirtyMap = "forget-dirty-map",
        /// Members that are older than the ledger in the store are served from.
        ServeOlderThanStore = "serve-older-than-store",
        /// A member that lost its cache counts as one that has lost nothing.
        TrustShaken = "trust-shaken",
        /// Less than half of the members in sync is enough to serve.
        ServeLoneStale = "serve-lone-stale",
        /// A pool counts a flush for what was written while it was on its way.
        FlushCoversLater = "flush-covers-later",
        /// A pool goes on after a flush that failed.
        GoOnAfterFlush = "go-on-after-flush",
        /// A checkpoint or label of a pool is not flushed before what builds on it is written.
        CheckpointWithoutFlush = "checkpoint-without-flush",
        /// An extent is given to a replica before its zeroes are durable.
        ZeroWithoutFlush = "zero-without-flush",
        /// An extent is used again before the record that freed it is durable.
        ReuseBeforeDurable = "reuse-before-durable",
        /// An extent is used again while requests of its old owner may still reach it.
        ReuseUnderRequests = "reuse-under-requests",
        /// Zeroes are answered before the record that frees the blocks is written.
        AnswerBeforeUnmap = "answer-before-unmap",
        /// A member takes writes from whoever sends them, whoever holds the reservation.
        AcceptAnyWriter = "accept-any-writer",
        /// A nexus opens its volume without reserving the members.
        OpenWithoutReserving = "open-without-reserving",
        /// A new association is answered while commands of the old one may still land.
        GhostsLand = "ghosts-land",
        /// A connection that is reset forgets the commands that were on it.
        DropTicketOnReset = "drop-ticket-on-reset",
    }
}

thread_local! {
    static CHECKS: Cell<bool> = const { Cell::new(false) };
    static HITS: [Cell<u64>; Mark::ALL.len()] = const { [const { Cell::new(0) }; Mark::ALL.len()] };
    #[cfg(feature = "mutants")]
    static ACTIVE: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// The path was taken. Costs an increment on this thread; not for the common path.
pub fn mark(mark: Mark) {
    HITS.with(|hits| {
        let hit = &hits[mark as usize];
        hit.set(hit.get() + 1);
    });
}

/// How often each mark was reached on this thread, and starts again from zero.
pub fn take_marks() -> Vec<(Mark, u64)> {
    HITS.with(|hits| Mark::ALL.iter().map(|m| (*m, hits[*m as usize].take())).collect())
}

/// Whether invariants are to be looked at from within, on this thread: too dear for the product, and on in the simulator.
pub fn checks() -> bool {
    CHECKS.get()
}

/// Turns that on or off, on this thread.
pub fn set_checks(on: bool) {
    CHECKS.set(on);
}

/// Whether this deliberate defect is on.
#[cfg(not(feature = "mutants"))]
pub const fn mutant(_: Mutant) -> bool {
    false
}

/// Whether this deliberate defect is on, on this thread.
#[cfg(feature = "mutants")]
pub fn mutant(mutant: Mutant) -> bool {
    ACTIVE.get() == Some(mutant)
}

/// Turns one deliberate defect on, or all off, on this thread.
#[cfg(feature = "mutants")]
pub fn set_mutant(mutant: Option<Mutant>) {
    ACTIVE.set(mutant);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_counts_until_it_is_taken() {
        mark(Mark::MemberLeft);
        mark(Mark::MemberLeft);
        assert!(take_marks().contains(&(Mark::MemberLeft, 2)));
        assert!(take_marks().iter().all(|(_, hits)| *hits == 0));
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> =
            Mark::ALL.iter().map(|m| m.name()).chain(Mutant::ALL.iter().map(|m| m.name())).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(all, names.len());
    }
}
