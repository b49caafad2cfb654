//! The proof that the proof works: each deliberate defect must be caught.

use std::time::{Duration, Instant};

use block::probe::{Mutant, set_mutant};

use crate::{Scenario, Tape, run};

/// Runs each defect on new seeds until it is caught, for `limit` each at most. Prints the table; whether all were caught.
pub fn prove(only: Option<&str>, from: u64, limit: Duration) -> bool {
    let all: Vec<Mutant> = Mutant::ALL.iter().copied().filter(|m| only.is_none_or(|name| m.name() == name)).collect();
    let mut caught = 0;
    for mutant in &all {
        let began = Instant::now();
        let found = hunt(*mutant, from, limit);
        let seconds = began.elapsed().as_secs_f64();
        match found {
            Found::Caught { seeds, why } => {
                caught += 1;
                println!("{:<32} caught by seed {seeds:>6} ({seconds:>5.1} s): {why}", mutant.name());
            }
            Found::Missed { seeds } => println!("{:<32} NOT caught in {seeds} seeds", mutant.name()),
        }
    }
    println!("{caught} of {} deliberate defects caught", all.len());
    caught == all.len()
}

enum Found {
    Caught { seeds: u64, why: String },
    Missed { seeds: u64 },
}

fn hunt(mutant: Mutant, from: u64, limit: Duration) -> Found {
    let began = Instant::now();
    let mut seeds = 0;
    while began.elapsed() < limit {
        let seed = from + seeds;
        seeds += 1;
        let scenario = Scenario::generate(&mut Tape::of_seed(seed));
        set_mutant(Some(mutant));
        let wrong = run(&scenario, false).wrong;
        set_mutant(None);
        if let Some(wrong) = wrong {
            // What fails without the defect too does not show that the defect was caught.
            if run(&scenario, false).wrong.is_none() {
                return Found::Caught { seeds, why: wrong.to_string().chars().take(120).collect() };
            }
        }
    }
    Found::Missed { seeds }
}
