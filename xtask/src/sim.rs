//! The simulator: `cargo xtask sim`.

use crate::shell::{cargo, root, run};
use crate::{Result, mutants};

/// What the suite of CI runs: fresh seeds besides those that failed once.
const FRESH_SEEDS: &str = "300";
const SEEDS_FILE: &str = "crates/proof/seeds.txt";
const PROGRAM: &str = "target/release/proof";

/// The options that are not listed here are those of `mayastor sim`: `cargo xtask sim -- --help`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// New seeds for --minutes minutes besides those that failed once; fails when a rare path was not reached
    #[arg(long)]
    nightly: bool,
    /// How long --nightly takes
    #[arg(long, value_name = "M", default_value_t = 480, requires = "nightly")]
    minutes: u64,
    /// Show that each deliberate defect is caught (--mutant NAME: only that one)
    #[arg(long, conflicts_with = "nightly")]
    mutants: bool,
    /// Options of `mayastor sim`: --seed N, --seeds K, --from N, --trace, --replay FILE, --marks, ...
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask sim --seed 7 --trace          one seed, and what happens in it
  cargo xtask sim --seeds 1000 --marks      many seeds, and which rare paths they reached
  cargo xtask sim --replay seed-7.json      the shortest schedule of a seed that failed
  cargo xtask sim --nightly --minutes 60    new seeds for an hour
  cargo xtask sim --mutants                 each deliberate defect that whole clusters must catch
  cargo xtask sim -- --help                 all options and exit codes";

/// Builds the simulator and runs it. Ends with its exit code.
pub fn sim(args: &Args) -> Result<()> {
    let rest: Vec<&str> = args.rest.iter().map(String::as_str).collect();
    if args.mutants {
        let program = mutants::build_simulator()?;
        return pass(&program.display().to_string(), &[&["--mutants"][..], &rest].concat());
    }
    cargo(&["build", "--release", "--locked", "-p", "proof"])?;
    if args.nightly {
        let (minutes, from) = (args.minutes.to_string(), fresh_seed().to_string());
        let options = ["--minutes", &minutes, "--from", &from, "--all-marks", "--once", "--seeds-file", SEEDS_FILE];
        return pass(PROGRAM, &[&options[..], &rest].concat());
    }
    pass(PROGRAM, &rest)
}

/// Runs the simulator, and ends with its exit code unless that is 0: it tells safety from liveness.
fn pass(program: &str, args: &[&str]) -> Result<()> {
    let status = std::process::Command::new(program).args(args).current_dir(root()).status()?;
    match status.code() {
        Some(0) => Ok(()),
        Some(code) => std::process::exit(code),
        None => Err(format!("{program} was killed").into()),
    }
}

/// The suite of CI: every seed that ever failed and fresh ones, each twice.
pub fn suite() -> Result<()> {
    let from = fresh_seed().to_string();
    let options = ["sim", "--seeds", FRESH_SEEDS, "--from", &from, "--seeds-file", SEEDS_FILE, "--marks"];
    run("target/release/mayastor", &options)
}

/// A seed that nobody has run yet; it is printed, so that anybody can run it again.
fn fresh_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs()) * 1000
}
