//! Many runs: seeds on two threads, each twice, with a tally; and the search for the shortest schedule that still fails.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use block::probe::Mark;

use crate::oracle::Wrong;
use crate::{Report, Scenario, Tape, run, shrink};

/// Threads that run seeds. A world lives on one thread.
pub(crate) const THREADS: usize = 2;

/// Which seeds to run.
pub struct Campaign {
    /// These before the others.
    pub first: Vec<u64>,
    /// The first of the others.
    pub from: u64,
    /// How many others.
    pub seeds: u64,
    /// For how long at most.
    pub limit: Option<Duration>,
    /// Whether each runs twice, to see that it is the same run.
    pub twice: bool,
    /// Whether a shorter schedule is looked for when one fails.
    pub shrink: bool,
}

/// What came of many runs.
#[derive(Default)]
pub struct Tally {
    runs: u64,
    requests: u64,
    faults: u64,
    checks: u64,
    losses: u64,
    simulated: Duration,
    marks: BTreeMap<Mark, u64>,
    /// Seeds that failed, and how.
    pub failed: Vec<(u64, Wrong)>,
    /// Seeds whose two runs differed.
    pub unlike: Vec<u64>,
    elapsed: Duration,
}

impl Tally {
    /// Adds one run.
    pub fn add(&mut self, report: &Report) {
        self.runs += 1;
        self.requests += report.requests;
        self.faults += report.faults;
        self.checks += report.checks;
        self.losses += report.losses;
        self.simulated += report.simulated;
        for (mark, hits) in &report.marks {
            *self.marks.entry(*mark).or_default() += hits;
        }
    }

    /// The worst of what happened.
    pub fn exit_code(&self) -> u8 {
        let codes: Vec<u8> = self.failed.iter().map(|(_, wrong)| wrong.exit_code()).collect();
        match codes.iter().min() {
            Some(code) => *code,
            None if self.unlike.is_empty() => 0,
            None => 3,
        }
    }

    /// Whether each rare path was reached at least once.
    pub fn has_all_marks(&self) -> bool {
        Mark::ALL.iter().all(|mark| self.marks.get(mark).is_some_and(|hits| *hits > 0))
    }

    /// Which rare paths were reached, and how often.
    pub fn marks_table(&self) -> String {
        let row = |(mark, hits): (&Mark, &u64)| {
            let never = if *hits == 0 { "  NEVER" } else { "" };
            format!("{:<44} {hits:>10}{never}\n", mark.name())
        };
        let reached = self.marks.values().filter(|hits| **hits > 0).count();
        let table: String = self.marks.iter().map(row).collect();
        format!("{table}{reached} of {} rare paths reached\n", Mark::ALL.len())
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { runs, requests, faults, checks, losses, .. } = self;
        let hours = self.simulated.as_secs_f64() / 3600.0;
        let rate = self.elapsed.as_secs_f64() * 1000.0 / (*runs).max(1) as f64;
        writeln!(f, "{runs} runs, {hours:.1} simulated hours, {requests} requests, {faults} faults, {checks} checks,")?;
        write!(f, "{losses} blocks lost unflushed contents with the power; {rate:.0} ms a run")?;
        for (seed, wrong) in &self.failed {
            write!(f, "\nseed {seed}: {wrong}")?;
        }
        for seed in &self.unlike {
            write!(f, "\nseed {seed}: two runs of it differ")?;
        }
        if self.failed.is_empty() && self.unlike.is_empty() {
            write!(f, "\nall is well")?;
        }
        Ok(())
    }
}

impl Campaign {
    /// Runs it.
    pub fn run(&self) -> Tally {
        let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        let tally = Mutex::new(Tally::default());
        let began = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    loop {
                        let k = next.fetch_add(1, Ordering::Relaxed);
                        let late = self.limit.is_some_and(|limit| began.elapsed() > limit);
                        let known = self.first.len() as u64;
                        if k >= known.saturating_add(self.seeds) || late || stop.load(Ordering::Relaxed) {
                            return;
                        }
                        let seed = self.first.get(k as usize).copied();
                        self.seed(seed.unwrap_or_else(|| self.from + k - known), &tally);
                    }
                });
            }
        });
        let mut tally = tally.into_inner().expect("no thread panicked");
        tally.elapsed = began.elapsed();
        tally.failed.sort_by_key(|(seed, _)| *seed);
        tally
    }

    fn seed(&self, seed: u64, tally: &Mutex<Tally>) {
        let scenario = Scenario::generate(&mut Tape::of_seed(seed));
        let report = run(&scenario, false);
        let again = self.twice.then(|| run(&scenario, false).hash);
        {
            let mut tally = tally.lock().expect("no thread panicked");
            tally.add(&report);
            if again.is_some_and(|hash| hash != report.hash) {
                tally.unlike.push(seed);
                println!("seed {seed}: two runs of it differ");
            }
        }
        if let Some(wrong) = report.wrong {
            println!("seed {seed}: {wrong}");
            if self.shrink {
                explain(seed, &scenario, &wrong);
            }
            tally.lock().expect("no thread panicked").failed.push((seed, wrong));
        }
    }
}

/// Looks for a shorter schedule that fails in the same way, prints it and writes a file for --replay.
pub fn explain(seed: u64, scenario: &Scenario, wrong: &Wrong) {
    let short = shrink::shrink(scenario, wrong);
    let json = serde_json::to_string_pretty(&short.scenario).expect("plain data");
    let path = std::env::temp_dir().join(format!("mayastor-sim-{seed}.json"));
    println!("seed {seed}: shortest schedule found, after {} runs ({}):", short.runs, short.wrong);
    for event in &short.scenario.events {
        println!("  {:>8} ms  {:?}", event.at_ms, event.fault);
    }
    match std::fs::write(&path, json) {
        Ok(()) => println!("  mayastor sim --trace --replay {}", path.display()),
        Err(why) => println!("  it could not be written to {}: {why}", path.display()),
    }
}
