//! The crash enumeration tested: each deliberate defect in the pool must make it fail.
//!
//! `cargo test -p pool --features mutants --test mutants every_defect -- --nocapture` prints the table; `POOL_MUTANT=name`
//! tries one only.

use std::panic::catch_unwind;

use block::probe::{Mutant, set_mutant};

#[path = "crash.rs"]
mod crash;
#[path = "refusals.rs"]
mod refusals;

/// What tries the pool, the cheap ones first.
const TRIALS: &[(&str, fn())] = &[
    ("a failed flush", refusals::a_failed_flush_stops_the_pool),
    ("slow requests", refusals::slow_requests_never_meet_the_next_owner),
    ("crash points: writes", crash::writes),
    ("crash points: extents change hands", crash::extents_change_hands),
    ("crash points: extents of another disk", crash::extents_of_another_disk_change_hands),
    ("crash points: checkpoints", crash::checkpoints),
    ("crash points: unmaps and zeroes", crash::unmaps_and_zeroes),
    ("crash points: crowds", crash::crowds),
];

/// The defects in the pool.
const HERE: &[Mutant] = &[
    Mutant::FlushCoversLater,
    Mutant::GoOnAfterFlush,
    Mutant::CheckpointWithoutFlush,
    Mutant::ZeroWithoutFlush,
    Mutant::ReuseBeforeDurable,
    Mutant::ReuseUnderRequests,
    Mutant::AnswerBeforeUnmap,
];

#[test]
fn every_defect_is_caught() {
    let only = std::env::var("POOL_MUTANT").ok();
    // The defects make assertions fail, as they shall.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let mut survivors = Vec::new();
    for &mutant in HERE.iter().filter(|m| only.as_ref().is_none_or(|o| o == m.name())) {
        set_mutant(Some(mutant));
        let caught = TRIALS.iter().find(|(_, trial)| catch_unwind(trial).is_err());
        set_mutant(None);
        println!("mutant {:<24} {}", mutant.name(), caught.map_or("", |(name, _)| name));
        if caught.is_none() {
            survivors.push(mutant.name());
        }
    }
    std::panic::set_hook(hook);
    assert!(survivors.is_empty(), "nothing catches {survivors:?}");
}
