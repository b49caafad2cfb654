//! May the volume be served from what can be reached, and by whom? docs/replication.md, section 3.2.

use block::probe::{Mark, Mutant, mark, mutant};
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
    /// The ledger in its other slot. It counts only when the store has this very one: then a record of a nexus that died
    /// reached the store late, after a later nexus had looked there and recorded over it.
    pub older: Option<Ledger>,
    /// A slot of its ledger can not be read, and no loss of power tore it: it may have held a newer ledger than the one that
    /// is left. What is left says nothing against newer ledgers, nor that there is none.
    pub rotten: bool,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing was ever recorded. The caller knows whether the volume is new.
    Fresh,
    /// The volume may be served.
    Serve {
        /// The ledger to go on from. When it never came into force itself, `version` is that of the one before.
        ledger: Box<Ledger>,
        /// The version that is, or may be, in force: what the first record names as its parent.
        version: Version,
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
    /// Two nexuses recorded ledgers without knowing of each other.
    #[error("ledgers {0} and {1} contradict each other, and the members that would decide cannot be reached")]
    Conflict(Version, Version),
}

/// What a ledger that never came into force still tells: what was in force when it was issued.
struct Before<'a> {
    told_by: &'a Ledger,
    version: Version,
    set: Set,
}

/// Decides. `store` is the version that the store has; `None` when it has never heard of the volume.
pub fn decide(found: &[Found], store: Option<Version>) -> Result<Decision, Refusal> {
    let mut ledgers: Vec<&Ledger> = Vec::new();
    let late = found.iter().filter_map(|f| f.older.as_ref()).filter(|l| store == Some(l.version));
    for ledger in found.iter().filter_map(|f| f.ledger.as_ref()).chain(late) {
        if !ledgers.contains(&ledger) {
            ledgers.push(ledger);
        }
    }
    ledgers.sort_by_key(|l| std::cmp::Reverse(l.version));
    let Some(highest) = ledgers.first().map(|l| l.version) else {
        return store.map_or(Ok(Decision::Fresh), |v| Err(Refusal::NoLedger(v)));
    };
    // From the newest on: one that can be in force is the one; those above it never were, but their sets still count.
    let mut before: Option<Before> = None;
    let mut bases: Vec<Set> = Vec::new();
    let mut chosen: Option<&Ledger> = None;
    for ledger in ledgers {
        if let Some(c) = chosen {
            // Another nexus's ledger that the writer of this one did not know of: only one of the two can have counted.
            let apart = ledger.version.writer() != c.version.writer() || ledger.version == c.version;
            if apart && ledger.version > c.parent && !is_proven(c, found, store) && !is_refuted(ledger, found, store) {
                return Err(Refusal::Conflict(c.version, ledger.version));
            }
            continue;
        }
        if before.as_ref().is_some_and(|b| ledger.version <= b.version) {
            break;
        }
        // When the store has this very ledger it is in force, and the sets before it no longer matter.
        if store != Some(ledger.version) {
            bases.extend(ledger.doubts.iter().cloned());
        }
        let refuted = is_refuted(ledger, found, store);
        if refuted {
            mark(Mark::LedgerPassedOver);
        }
        if !refuted {
            chosen = Some(ledger);
        } else if before.as_ref().is_none_or(|b| b.version < ledger.parent) {
            let set = ledger.doubts.first().cloned().unwrap_or_default();
            before = Some(Before { told_by: ledger, version: ledger.parent, set });
        }
    }
    let (ledger, version, set) = match (chosen, before) {
        (Some(ledger), _) => (ledger, ledger.version, ledger.in_sync()),
        // No ledger ever came into force, so nothing was ever served.
        (None, Some(b)) if b.version == Version::default() => {
            return store.map_or(Ok(Decision::Fresh), |v| Err(Refusal::NoLedger(v)));
        }
        (None, Some(b)) => (b.told_by, b.version, b.set),
        (None, None) => unreachable!("the newest ledger was either chosen or not"),
    };
    // A record of the same nexus that the store got and the nexus never heard of: it served nothing under it.
    let unaware = |l: &Ledger, s: Version| l.version.writer() == s.writer() && s < l.version && l.parent < s;
    let own = |s: Version| found.iter().filter_map(|f| f.ledger.as_ref()).any(|l| unaware(l, s));
    // Rule: what is older than the store knows is stale.
    if let Some(store) = store.filter(|&s| s > version && !own(s) && !mutant(Mutant::ServeOlderThanStore)) {
        mark(Mark::StaleRefused);
        return Err(Refusal::Stale { store, found: version });
    }
    let seen: Set = found.iter().filter(|f| f.ledger.is_some()).map(|f| f.member).collect();
    let here: Set = seen.intersection(&set).copied().collect();
    let few = |why| {
        mark(Mark::TooFewRefused);
        Refusal::TooFew { version, wanted: set.len(), found: here.len(), why }
    };
    if here.is_empty() {
        return Err(few(""));
    }
    if store.is_none() && here != set {
        return Err(few("; the store does not know the volume, so all of them are needed"));
    }
    // What the store has is in force, and whoever recorded it knew all that was in force before.
    bases.retain(|base| *base != set && store != Some(version));
    bases.insert(0, set.clone());
    if bases.len() > 1 {
        mark(Mark::OpenedInDoubt);
    }
    // Rule: less than half of a set never serves: the others may have gone on.
    let too_few = bases.iter().any(|base| 2 * seen.intersection(base).count() < base.len());
    // Rule: a newer ledger of which only rotten slots can tell never leaves out a member that serves. It holds more than half
    // of a base, so it is told by half of the base; and of two members, or one, it holds all.
    let rotten: Set = found.iter().filter(|f| f.rotten).map(|f| f.member).collect();
    let untold = |base: &Set| {
        let sound = seen.intersection(base).filter(|m| !rotten.contains(*m)).count();
        2 * sound < base.len() && (sound > 0 || base.len() > 2) && !rotten.is_disjoint(base)
    };
    if bases.iter().any(untold) {
        return Err(few("; a ledger of those that can be has rotted, and may have told of a newer one"));
    }
    if too_few && !mutant(Mutant::ServeLoneStale) {
        return Err(few("; more than half of a set may have gone on without them"));
    }
    // Whoever builds on this knows what the store has.
    let version = store.map_or(version, |s| s.max(version));
    Ok(Decision::Serve { ledger: Box::new(ledger.clone()), version, in_sync: here, bases, highest })
}

/// Whether the ledger is certain to be in force, or to have been: the store has it, or all of its members are here with
/// it (or a later one of the same nexus) and are a majority of every set before.
fn is_proven(ledger: &Ledger, found: &[Found], store: Option<Version>) -> bool {
    let set = ledger.in_sync();
    let has = |newest: &Ledger| newest.version >= ledger.version && newest.version.writer() == ledger.version.writer();
    let holders = found.iter().filter(|f| set.contains(&f.member) && f.ledger.as_ref().is_some_and(has)).count();
    let is_held = holders == set.len() && ledger.doubts.iter().all(|base| is_majority(&set, base));
    store == Some(ledger.version) || is_held
}

/// Whether the nexus that wrote `ledger` is another than that of version `v`, and did not know of `v`.
fn unknown_to(ledger: &Ledger, v: Version) -> bool {
    v.writer() != ledger.version.writer() && v > ledger.parent
}

/// Whether the ledger can never have come into force.
fn is_refuted(ledger: &Ledger, found: &[Found], store: Option<Version>) -> bool {
    if is_proven(ledger, found, store) {
        return false;
    }
    // Another nexus brought a ledger into force that the writer of this one did not know of.
    if found
        .iter()
        .filter_map(|f| f.ledger.as_ref())
        .any(|l| unknown_to(ledger, l.version) && is_proven(l, found, store))
    {
        return true;
    }
    // The store has what another nexus brought into force, and the writer of this one did not know of it: it came before.
    if store.is_some_and(|s| unknown_to(ledger, s)) {
        return true;
    }
    let set = ledger.in_sync();
    let lacking = found.iter().filter(|f| set.contains(&f.member)).any(|f| match &f.ledger {
        Some(newest) if newest.version == ledger.version => newest != ledger,
        Some(newest) if newest.version < ledger.version => !f.rotten,
        // A later nexus found the member without it.
        Some(newest) => unknown_to(newest, ledger.version) && newest.in_sync().contains(&f.member),
        // Only before the first record came into force can a labelled member have none.
        None => ledger.parent == Version::default() && !f.rotten,
    });
    // Members first, then the store: a store that is asked and has less knows that it was not needed.
    lacking || (store.is_some() && ledger.doubts.iter().any(|base| !is_majority(&set, base)))
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
        Ledger {
            volume: Uuid::nil(),
            version: v(version),
            size: Bytes(0),
            region: Bytes(0),
            parent: v(version - 1),
            entries,
            doubts,
        }
    }
    fn found(member: Uuid, ledger: &Ledger) -> Found {
        Found { member, ledger: Some(ledger.clone()), older: None, rotten: false }
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
    fn what_went_before_a_record_that_never_counted_is_not_forgotten() {
        // C left by ledger 6. B's removal, ledger 7, reached only A. C still has ledger 5.
        let old = ledger(5, &[A, B, C], &[]);
        let half = ledger(7, &[A], &[&[A, B]]);
        assert_eq!(served(decide(&[found(A, &half), found(C, &old)], Some(v(5)))), [A], "not C");
        let both = ledger(6, &[A, B], &[&[A, B, C]]);
        assert_eq!(served(decide(&[found(A, &half), found(B, &both), found(C, &old)], Some(v(5)))), [A, B]);
        // Another nexus went on with B and C, having seen nothing of A's ledger 7.
        let other = Ledger { parent: v(5), ..ledger(6, &[B, C], &[&[A, B, C]]) };
        let alone = Ledger { parent: v(5), ..ledger(7, &[A], &[&[A, B, C]]) };
        let all = [found(A, &alone), found(B, &other), found(C, &other)];
        assert_eq!(served(decide(&all, Some(v(5)))), [B, C]);
    }

    /// Found by the search through all states: the nexus that recorded ledger 6 died; the next one found the store without
    /// it, wrote ledger 7 on A, and died too; then the store got ledger 6. Nobody can be served but from A.
    #[test]
    fn a_record_that_reaches_the_store_late_does_not_lock_the_volume_up() {
        let old = ledger(5, &[A, B], &[]);
        let late = Ledger { parent: v(5), ..ledger(6 << 32, &[A], &[&[A, B]]) };
        let last = Ledger { parent: v(5), ..ledger(7 << 32, &[A], &[&[A, B]]) };
        let a = Found { older: Some(late.clone()), ..found(A, &last) };
        assert_eq!(served(decide(&[a.clone(), found(B, &old)], Some(late.version))), [A]);
        assert_eq!(served(decide(&[a], Some(late.version))), [A]);
        assert!(decide(&[found(B, &old)], Some(late.version)).is_err(), "B is stale");
    }

    /// C left by ledger 6, of which the store has not heard. On B the slot with it has rotted.
    #[test]
    fn a_rotten_slot_says_nothing_against_a_newer_ledger() {
        let old = ledger(5, &[A, B, C], &[]);
        let new = ledger(6, &[A, B], &[&[A, B, C]]);
        let rotten = |member| Found { rotten: true, ..found(member, &old) };
        let all = [found(A, &new), rotten(B), found(C, &old)];
        assert_eq!(served(decide(&all, Some(v(5)))), [A, B], "not C, which is behind");
        assert!(
            matches!(decide(&[rotten(B), found(C, &old)], Some(v(5))), Err(Refusal::TooFew { .. })),
            "A would tell"
        );
        assert!(decide(&[rotten(A), rotten(B), found(C, &old)], Some(v(5))).is_err(), "nobody tells");
        let torn = [found(A, &new), found(B, &old), found(C, &old)];
        assert_eq!(served(decide(&torn, Some(v(5)))), [A, B, C], "B never had it: it was not in force");
    }

    #[test]
    fn rot_on_the_only_copies_of_one_or_two_does_not_lock_the_volume_up() {
        for members in [&[A][..], &[A, B]] {
            let l = ledger(5, members, &[]);
            let all: Vec<Found> = members.iter().map(|m| Found { rotten: true, ..found(*m, &l) }).collect();
            assert_eq!(served(decide(&all, Some(v(5)))), members);
        }
        // One recorded without the other needs the store, which knows nothing newer.
        let l = ledger(5, &[A, B], &[]);
        assert_eq!(served(decide(&[Found { rotten: true, ..found(A, &l) }], Some(v(5)))), [A]);
    }

    #[test]
    fn two_writers_of_one_version_are_refused() {
        let one = ledger(6, &[A], &[&[A, B]]);
        let two = ledger(6, &[B], &[&[A, B]]);
        assert_eq!(decide(&[found(A, &one), found(B, &two)], None), Err(Refusal::Conflict(v(6), v(6))));
    }

    #[test]
    fn a_first_record_that_did_not_reach_all_is_no_record() {
        let first = Ledger { parent: v(0), ..ledger(1 << 20, &[A, B], &[]) };
        let all = [found(A, &first), Found { member: B, ledger: None, older: None, rotten: false }];
        assert_eq!(decide(&all, None), Ok(Decision::Fresh));
        let later = ledger((1 << 20) + 1, &[A, B], &[&[A, B]]);
        let all = [found(A, &later), Found { member: B, ledger: None, older: None, rotten: false }];
        assert!(matches!(decide(&all, None), Err(Refusal::TooFew { found: 1, .. })), "B's slots are damaged");
    }
}
