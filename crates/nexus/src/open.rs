//! May the volume be served from what can be reached, and by whom? docs/replication.md, section 3.2.

use thiserror::Error;
use uuid::Uuid;

use crate::ledger::{Ledger, Role, Set, Version, is_majority};

/// A reachable child with a label and identity of the volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The member.
    pub member: Uuid,
    /// Its newest ledger; none on a child that was labelled and never recorded.
    pub ledger: Option<Ledger>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing was ever recorded. The caller knows whether the volume is new.
    Fresh,
    /// The volume may be served.
    Serve {
        /// The ledger to go on from.
        ledger: Box<Ledger>,
        /// The reachable members that are in sync.
        in_sync: Set,
        /// The sets against which the first record must come into force.
        bases: Vec<Set>,
        /// The highest version seen anywhere: the next generation is above it.
        highest: Version,
    },
}

/// Why the volume may not be served.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// None of the reachable children has the newest ledger.
    #[error("the store knows ledger {store}, the reachable children only {found}: they are stale")]
    Stale {
        /// What the store knows.
        store: Version,
        /// The highest found.
        found: Version,
    },
    /// The store knows the volume, the children do not.
    #[error("the store knows ledger {0}, but no reachable child has one")]
    NoLedger(Version),
    /// Too few of the members in sync can be reached.
    #[error("ledger {version} has {wanted} members in sync, only {found} of them can be reached{why}")]
    TooFew {
        /// The ledger.
        version: Version,
        /// Its members in sync.
        wanted: usize,
        /// How many are here.
        found: usize,
        /// What more stands against it.
        why: &'static str,
    },
    /// Two writers recorded the same version.
    #[error("two different ledgers {0} were found: two nexuses had the volume open at once")]
    Conflict(Version),
}

/// Decides. `store` is the version that the store has; `None` when it has never heard of the volume.
pub fn decide(found: &[Found], store: Option<Version>) -> Result<Decision, Refusal> {
    let mut ledgers: Vec<&Ledger> = Vec::new();
    for ledger in found.iter().filter_map(|f| f.ledger.as_ref()) {
        if !ledgers.contains(&ledger) {
            ledgers.push(ledger);
        }
    }
    ledgers.sort_by_key(|l| std::cmp::Reverse(l.version));
    let Some(highest) = ledgers.first().map(|l| l.version) else {
        return store.map_or(Ok(Decision::Fresh), |v| Err(Refusal::NoLedger(v)));
    };
    if let Some(store) = store.filter(|&s| s > highest) {
        return Err(Refusal::Stale { store, found: highest });
    }
    let candidates: Vec<&Ledger> = ledgers.into_iter().filter(|l| !is_refuted(l, found, store)).collect();
    let Some(&ledger) = candidates.first() else {
        // Every ledger that was found never came into force, so nothing was ever served under one.
        return store.map_or(Ok(Decision::Fresh), |v| Err(Refusal::NoLedger(v)));
    };
    if candidates.get(1).is_some_and(|second| second.version == ledger.version) {
        return Err(Refusal::Conflict(ledger.version));
    }
    let set = ledger.in_sync();
    let here: Set = found.iter().filter(|f| f.ledger.is_some()).map(|f| f.member).filter(|m| set.contains(m)).collect();
    let few = |why| Refusal::TooFew { version: ledger.version, wanted: set.len(), found: here.len(), why };
    if here.is_empty() {
        return Err(few(""));
    }
    // When the store has this very ledger it is in force, and the sets before it no longer matter.
    let bases: Vec<Set> = match store {
        Some(store) if store == ledger.version => vec![set.clone()],
        _ => std::iter::once(set.clone()).chain(ledger.doubts.iter().cloned()).collect(),
    };
    if store.is_none() && here != set {
        return Err(few("; the store does not know the volume, so all of them are needed"));
    }
    if bases.iter().any(|base| 2 * here.intersection(base).count() < base.len()) {
        return Err(few("; more than half of a set may have gone on without them"));
    }
    Ok(Decision::Serve { ledger: Box::new(ledger.clone()), in_sync: here, bases, highest })
}

/// Whether the ledger can never have come into force.
fn is_refuted(ledger: &Ledger, found: &[Found], store: Option<Version>) -> bool {
    let set = ledger.in_sync();
    let is_first = ledger.version == Version::default().next_generation();
    let lacking = found.iter().filter(|f| set.contains(&f.member)).any(|f| match &f.ledger {
        Some(newest) => newest.version < ledger.version || (newest.version == ledger.version && newest != ledger),
        // Only before the first record came into force can a labelled member have none; else its slots are damaged.
        None => is_first,
    });
    // Members first, then the store: a store that is asked and has less knows that it was not needed.
    let by_store = store.is_none_or(|s| s >= ledger.version);
    lacking || (!by_store && ledger.doubts.iter().any(|base| !is_majority(&set, base)))
}

/// The members that the ledger lists as behind or in sync and that are not among `in_sync`: what each lacks is within
/// the dirty map.
pub fn known_behind(ledger: &Ledger, in_sync: &Set) -> Vec<Uuid> {
    let listed = ledger.entries.iter().filter(|e| e.role != Role::Gone && !in_sync.contains(&e.member));
    listed.map(|e| e.member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Entry;
    use block::{Bytes, Generation};

    const A: Uuid = Uuid::from_u128(1);
    const B: Uuid = Uuid::from_u128(2);
    const C: Uuid = Uuid::from_u128(3);

    fn v(n: u64) -> Version {
        Version::from_number(Generation(n))
    }
    fn ledger(version: u64, in_sync: &[Uuid], doubts: &[&[Uuid]]) -> Ledger {
        let role = |m: &Uuid| if in_sync.contains(m) { Role::InSync } else { Role::Behind };
        let entries = [A, B, C].iter().map(|m| Entry { member: *m, role: role(m), uri_tag: 0 }).collect();
        let doubts = doubts.iter().map(|d| d.iter().copied().collect()).collect();
        Ledger { volume: Uuid::nil(), version: v(version), size: Bytes(0), region: Bytes(0), entries, doubts }
    }
    fn found(member: Uuid, ledger: &Ledger) -> Found {
        Found { member, ledger: Some(ledger.clone()) }
    }
    fn served(d: Result<Decision, Refusal>) -> Vec<Uuid> {
        match d {
            Ok(Decision::Serve { in_sync, .. }) => in_sync.into_iter().collect(),
            other => panic!("not served: {other:?}"),
        }
    }

    #[test]
    fn all_are_there() {
        let l = ledger(5, &[A, B, C], &[]);
        assert_eq!(served(decide(&[found(A, &l), found(B, &l), found(C, &l)], None)), [A, B, C]);
        assert_eq!(decide(&[], None), Ok(Decision::Fresh));
    }

    #[test]
    fn a_lone_stale_disk_never_serves() {
        let old = ledger(5, &[A, B, C], &[]);
        for store in [None, Some(v(5)), Some(v(4)), Some(v(9))] {
            assert!(decide(&[found(C, &old)], store).is_err(), "{store:?}");
        }
        let new = ledger(6, &[A, B], &[&[A, B, C]]);
        assert_eq!(served(decide(&[found(C, &old), found(A, &new), found(B, &new)], Some(v(5)))), [A, B]);
    }

    #[test]
    fn one_of_two_serves_when_the_store_was_asked() {
        let l = ledger(5, &[A, B], &[]);
        assert_eq!(served(decide(&[found(A, &l)], Some(v(5)))), [A]);
        assert!(matches!(decide(&[found(A, &l)], None), Err(Refusal::TooFew { .. })));
        assert!(matches!(decide(&[found(A, &l)], Some(v(6))), Err(Refusal::Stale { .. })));
    }

    #[test]
    fn a_shrink_that_never_counted_is_ignored() {
        // A alone recorded {A} against {A, B, C} and crashed; B and C may have gone on since.
        let old = ledger(5, &[A, B, C], &[]);
        let doubtful = ledger(6, &[A], &[&[A, B, C]]);
        assert!(decide(&[found(A, &doubtful)], Some(v(5))).is_err());
        assert_eq!(served(decide(&[found(A, &doubtful), found(B, &old)], Some(v(5)))), [A, B]);
        assert_eq!(served(decide(&[found(A, &doubtful)], Some(v(6)))), [A], "the store made it count");
    }

    #[test]
    fn a_ledger_that_a_member_of_its_set_lacks_is_ignored() {
        let old = ledger(5, &[A, B, C], &[]);
        let half = ledger(6, &[A, B], &[&[A, B, C]]);
        let all = [found(A, &half), found(B, &old), found(C, &old)];
        assert_eq!(served(decide(&all, Some(v(5)))), [A, B, C]);
    }

    #[test]
    fn two_writers_of_one_version_are_refused() {
        let one = ledger(6, &[A], &[&[A, B]]);
        let two = ledger(6, &[B], &[&[A, B]]);
        assert_eq!(decide(&[found(A, &one), found(B, &two)], Some(v(6))), Err(Refusal::Conflict(v(6))));
    }

    #[test]
    fn a_first_record_that_did_not_reach_all_is_no_record() {
        let first = ledger(1 << 20, &[A, B], &[]);
        let all = [found(A, &first), Found { member: B, ledger: None }];
        assert_eq!(decide(&all, None), Ok(Decision::Fresh));
        let later = ledger((1 << 20) + 1, &[A, B], &[&[A, B]]);
        let all = [found(A, &later), Found { member: B, ledger: None }];
        assert!(matches!(decide(&all, None), Err(Refusal::TooFew { found: 1, .. })), "B's slots are damaged");
    }
}
