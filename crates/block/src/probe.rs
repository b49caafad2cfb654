//! Marks and mutants: how the tests prove that they test.
//!
//! * A **mark** stands on a rare path. The simulator counts how often each was reached, and reports those that never were.
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
        /// A rebuild lost its source and went on from another member.
        RebuildSourceDied = "rebuild source died",
    }
}

probes! {
    /// A deliberate defect.
    Mutant {
        /// A write is acknowledged before the smaller ledger is in force.
        AckBeforeRecord = "ack-before-record",
    }
}

thread_local! {
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
