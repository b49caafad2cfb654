//! The proof that the proof works: each deliberate defect must be caught, within a stated number of seeds.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use block::probe::{Mutant, set_mutant};

use crate::campaign::THREADS;
use crate::{Scenario, Tape, run};

/// The defects that whole clusters have to catch, and within how many seeds, counted from the first. The suites of `nexus`
/// and `pool` catch the others, and these too (`cargo xtask mutants`).
pub const CAUGHT: &[(Mutant, u64)] = &[
    (Mutant::AckBeforeRecord, 50),
    (Mutant::CheckpointWithoutFlush, 300),
    (Mutant::CopyWithoutLock, 100),
    (Mutant::OpenWithoutReserving, 100),
    (Mutant::ForgetDirtyMap, 300),
    (Mutant::DropTicketOnReset, 20),
    (Mutant::ReadFromRebuilding, 100),
    (Mutant::ReadBeforeRecord, 300),
    (Mutant::TrustShaken, 300),
    (Mutant::DropLastCopy, 100),
    (Mutant::ForgetFlight, 100),
    (Mutant::OverlappingWrites, 100),
];

/// Runs each defect on seeds from `from` until it is caught. `only` tries one, whether it is in the table or not, and
/// `seeds` replaces the table's number of seeds. Prints a line for each; whether all were caught.
pub fn prove(only: Option<&str>, from: u64, seeds: Option<u64>) -> Result<bool, String> {
    let all = chosen(only)?;
    let (next, caught, lines) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(()));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some((mutant, budget)) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let budget = seeds.unwrap_or(*budget);
                    let found = hunt(*mutant, from, budget);
                    let _whole = lines.lock().expect("no thread panicked");
                    match found {
                        Some((seed, why)) => {
                            caught.fetch_add(1, Ordering::Relaxed);
                            println!("mutant {:<24} seed {seed} of {budget}: {why}", mutant.name());
                        }
                        None => println!("mutant {:<24} ", mutant.name()),
                    }
                }
            });
        }
    });
    let caught = caught.into_inner();
    println!("{caught} of {} deliberate defects caught by whole clusters", all.len());
    Ok(caught == all.len())
}

fn chosen(only: Option<&str>) -> Result<Vec<(Mutant, u64)>, String> {
    let Some(name) = only else { return Ok(CAUGHT.to_vec()) };
    let known = Mutant::ALL.iter().find(|m| m.name() == name);
    let mutant = known.ok_or_else(|| {
        let names: Vec<&str> = Mutant::ALL.iter().map(|m| m.name()).collect();
        format!("there is no deliberate defect {name}; there are {}", names.join(", "))
    })?;
    let budget = CAUGHT.iter().find(|(m, _)| m == mutant).map_or(400, |(_, budget)| *budget);
    Ok(vec![(*mutant, budget)])
}

/// The number of the seed, from 1, that catches the defect, and how.
fn hunt(mutant: Mutant, from: u64, budget: u64) -> Option<(u64, String)> {
    (0..budget).find_map(|k| {
        let scenario = Scenario::generate(&mut Tape::of_seed(from + k));
        set_mutant(Some(mutant));
        let wrong = run(&scenario, false).wrong;
        set_mutant(None);
        // What fails without the defect too does not show that the defect was caught. A defect that does no more than change
        // the order of things must not profit from it: a few other orders have to pass as well.
        let passes = |order| {
            let other = Scenario { seed: scenario.seed ^ order, ..scenario.clone() };
            run(&other, false).wrong.is_none()
        };
        let wrong = wrong.filter(|_| (0..4).all(passes))?;
        Some((k + 1, wrong.to_string().chars().take(100).collect()))
    })
}
