//! The suites tested: each deliberate defect in this crate must make them fail.
//!
//! `cargo test -p nexus --features mutants --test suite mutants -- --nocapture` prints the table; `NEXUS_MUTANT=name` tries
//! one only.

use std::panic::{AssertUnwindSafe, catch_unwind};

use block::probe::{Mutant, set_mutant};

use crate::model::SCOPES;
use crate::random;
use crate::search::search;

/// The defects in this crate.
const HERE: &[Mutant] = &[
    Mutant::AckBeforeRecord,
    Mutant::LateAnswerCounts,
    Mutant::IgnoreFence,
    Mutant::RetryFlush,
    Mutant::DropLastCopy,
    Mutant::LeaveForgetsDirty,
    Mutant::ForgetFlight,
    Mutant::OverlappingWrites,
    Mutant::ReadFromRebuilding,
    Mutant::ReadBeforeRecord,
    Mutant::ReadWithoutCopy,
    Mutant::CopyWithoutLock,
    Mutant::WriteBeforeMark,
    Mutant::ForgetMissing,
    Mutant::ForgetFailedWrite,
    Mutant::ForgetDoubt,
    Mutant::StoreBeforeMembers,
    Mutant::MinorityCounts,
    Mutant::ClearWithoutFlush,
    Mutant::ClearWhatWasWritten,
    Mutant::GrowBeforeFlush,
    Mutant::BackTooSoon,
    Mutant::ForgetDirtyMap,
    Mutant::ServeOlderThanStore,
    Mutant::ServeLoneStale,
];

/// Seeds within which the random runs must meet a defect, or else the search must.
const SEEDS: u64 = 300;
/// States of each scope within which the search must meet it.
const LIMIT: usize = 8000;

/// The scope in which the search meets the defect, and after how many states.
fn by_search() -> Option<String> {
    SCOPES.iter().find_map(|scope| {
        let broken = search(scope, LIMIT).err()?;
        Some(format!("search, {} states of '{}'", broken.states, scope.name))
    })
}

/// How many seeds it takes until a random run fails.
fn by_seeds() -> Option<String> {
    let seed = (0..SEEDS).find(|seed| catch_unwind(|| random::run(*seed)).is_err())?;
    Some(format!("random runs, {} seeds", seed + 1))
}

fn with<T>(mutant: Mutant, act: impl FnOnce() -> T) -> T {
    set_mutant(Some(mutant));
    let result = catch_unwind(AssertUnwindSafe(act));
    set_mutant(None);
    result.expect("the runner itself does not fail")
}

#[test]
fn every_defect_is_caught() {
    let only = std::env::var("NEXUS_MUTANT").ok();
    // The defects make thousands of assertions fail, as they shall.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let mut survivors = Vec::new();
    for &mutant in HERE.iter().filter(|m| only.as_ref().is_none_or(|o| o == m.name())) {
        let caught = with(mutant, || by_seeds().or_else(by_search));
        println!("mutant {:<24} {}", mutant.name(), caught.as_deref().unwrap_or_default());
        if caught.is_none() {
            survivors.push(mutant.name());
        }
    }
    std::panic::set_hook(hook);
    assert!(survivors.is_empty(), "nothing catches {survivors:?}");
}
