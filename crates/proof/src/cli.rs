//! The command line of `mayastor sim`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::campaign::{self, Campaign, Tally};
use crate::{Report, Scenario, Tape, run};

/// Examples for the help.
pub const EXAMPLES: &str = "\
One seed is one run of a whole cluster: real engines, nexuses, pools and sessions, the real planner, clients, and things
that go wrong. The same seed gives the same run, event for event.

Examples:
  mayastor sim --seed 7                  run one seed
  mayastor sim --seed 7 --trace          and print what happened
  mayastor sim --seeds 1000              run seeds 1 to 1000, each twice, and compare
  mayastor sim --minutes 60              run new seeds for an hour
  mayastor sim --replay seed-7.json      run a stored scenario

  mayastor sim --seeds 1000 --marks      and print how often each rare path was reached

A seed that fails is made shorter: the shortest schedule that still fails is printed, and written to a file for --replay.

Exit codes: 0 all is well, 1 an invariant was broken, 2 a cluster did not come to rest, 3 our own code panicked or a seed
was not the same run twice, 4 the command could not be carried out, 5 a rare path was not reached (--all-marks).";

/// What to run.
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    /// Run this seed
    #[arg(long, value_name = "N", conflicts_with_all = ["seeds", "minutes", "replay"])]
    seed: Option<u64>,
    /// Run so many seeds
    #[arg(long, value_name = "K", conflicts_with_all = ["minutes", "replay"])]
    seeds: Option<u64>,
    /// The first seed of --seeds and --minutes
    #[arg(long, value_name = "N", default_value_t = 1)]
    from: u64,
    /// Run new seeds for so many minutes
    #[arg(long, value_name = "M", conflicts_with = "replay")]
    minutes: Option<u64>,
    /// Run the scenario in this file
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Print what happens, one line an event
    #[arg(long)]
    trace: bool,
    /// Print the scenario before it runs
    #[arg(long)]
    show: bool,
    /// Do not look for a shorter schedule when a run fails
    #[arg(long)]
    no_shrink: bool,
    /// Run each seed once only
    #[arg(long)]
    once: bool,
    /// Run the seeds of the file that remembers all that ever failed, besides the others
    #[arg(long, value_name = "FILE")]
    seeds_file: Option<PathBuf>,
    /// Turn each deliberate defect on in turn, on seeds from --from, until it is caught; --seeds K instead of each one's own
    /// number of seeds. Only in a build with the feature `mutants`: cargo xtask sim --mutants
    #[arg(long, conflicts_with_all = ["seed", "replay"])]
    mutants: bool,
    /// Only this deliberate defect
    #[arg(long, value_name = "NAME", requires = "mutants")]
    mutant: Option<String>,
    /// Print which rare paths were reached, and how often
    #[arg(long)]
    marks: bool,
    /// Fail when a rare path was never reached (exit code 5)
    #[arg(long)]
    all_marks: bool,
}

/// Does what was asked, and says how it went.
pub fn main(arguments: &Arguments) -> ExitCode {
    if arguments.mutants {
        return mutants(arguments);
    }
    let single = match (&arguments.replay, arguments.seed) {
        (Some(path), _) => match load(path) {
            Ok(scenario) => Some(scenario),
            Err(why) => {
                eprintln!("error: {}: {why}", path.display());
                return ExitCode::from(4);
            }
        },
        (None, Some(seed)) => Some(Scenario::generate(&mut Tape::of_seed(seed))),
        (None, None) => None,
    };
    match single {
        Some(scenario) => one(arguments, &scenario),
        None => many(arguments),
    }
}

#[cfg(feature = "mutants")]
fn mutants(arguments: &Arguments) -> ExitCode {
    match crate::mutants::prove(arguments.mutant.as_deref(), arguments.from, arguments.seeds) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::from(4)
        }
    }
}

#[cfg(not(feature = "mutants"))]
fn mutants(arguments: &Arguments) -> ExitCode {
    let name = arguments.mutant.as_deref().unwrap_or("any");
    eprintln!("error: the deliberate defects ({name}) are not in this program: use cargo xtask sim --mutants");
    ExitCode::from(4)
}

/// The seeds in a file: one a line, the rest of the line says what they found.
fn seeds_in(path: &PathBuf) -> Result<Vec<u64>, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines
        .map(|l| {
            let seed = l.split_whitespace().next().unwrap_or_default();
            seed.parse().map_err(|_| format!("{}: {seed:?} is not a seed", path.display()))
        })
        .collect()
}

fn load(path: &PathBuf) -> Result<Scenario, String> {
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    serde_json::from_str(&text).map_err(|e| e.to_string())
}

fn one(arguments: &Arguments, scenario: &Scenario) -> ExitCode {
    if arguments.show {
        println!("{}", serde_json::to_string_pretty(scenario).expect("plain data"));
    }
    let report = run(scenario, arguments.trace);
    for line in &report.lines {
        println!("{line}");
    }
    print_run(&report);
    let mut tally = Tally::default();
    tally.add(&report);
    if arguments.marks {
        print!("{}", tally.marks_table());
    }
    match report.wrong {
        None => ExitCode::SUCCESS,
        Some(wrong) => {
            if !arguments.no_shrink && arguments.replay.is_none() {
                campaign::explain(arguments.seed.unwrap_or_default(), scenario, &wrong);
            }
            ExitCode::from(wrong.exit_code())
        }
    }
}

fn print_run(report: &Report) {
    println!(
        "{} requests, {} faults, {} events, {} checks, {:.1} s simulated, hash {:016x}",
        report.requests,
        report.faults,
        report.events,
        report.checks,
        report.simulated.as_secs_f64(),
        report.hash
    );
    match &report.wrong {
        None => println!("all is well"),
        Some(wrong) => println!("{wrong}"),
    }
}

fn many(arguments: &Arguments) -> ExitCode {
    let first = match arguments.seeds_file.as_ref().map(seeds_in).transpose() {
        Ok(seeds) => seeds.unwrap_or_default(),
        Err(why) => {
            eprintln!("error: {why}");
            return ExitCode::from(4);
        }
    };
    let campaign = Campaign {
        first,
        from: arguments.from,
        seeds: arguments.seeds.unwrap_or(if arguments.minutes.is_some() { u64::MAX / 2 } else { 100 }),
        limit: arguments.minutes.map(|m| Duration::from_secs(m * 60)),
        twice: !arguments.once,
        shrink: !arguments.no_shrink,
    };
    let tally = campaign.run();
    println!("{tally}");
    if arguments.marks || arguments.all_marks {
        print!("{}", tally.marks_table());
    }
    match tally.exit_code() {
        0 if arguments.all_marks && !tally.has_all_marks() => ExitCode::from(5),
        code => ExitCode::from(code),
    }
}
