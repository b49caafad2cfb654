//! The simulator: `cargo xtask sim`.

use crate::Result;
use crate::shell::{cargo, run};

/// What the suite of CI runs: fresh seeds besides those that failed once.
const FRESH_SEEDS: &str = "300";
const SEEDS_FILE: &str = "crates/proof/seeds.txt";

#[derive(clap::Args)]
pub struct Args {
    /// New seeds for --minutes minutes, and what rare paths they reached
    #[arg(long)]
    nightly: bool,
    /// How long --nightly takes
    #[arg(long, value_name = "M", default_value_t = 480)]
    minutes: u64,
    /// Show that each deliberate defect is caught
    #[arg(long)]
    mutants: bool,
    /// Options of `mayastor sim`: --seed N, --seeds K, --trace, --replay FILE, --marks, ...
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// Builds the simulator and runs it.
pub fn sim(args: &Args) -> Result<()> {
    let rest: Vec<&str> = args.rest.iter().map(String::as_str).collect();
    if args.mutants {
        // A build of its own: a program with the defects in it never lies where the product is.
        let target = ["--target-dir", "target/mutants", "--features", "mutants"];
        cargo(&[&["build", "--release", "--locked", "-p", "proof"][..], &target].concat())?;
        return run("target/mutants/release/proof", &[&["--mutants"][..], &rest].concat());
    }
    cargo(&["build", "--release", "--locked", "-p", "proof"])?;
    if args.nightly {
        let (minutes, from) = (args.minutes.to_string(), fresh_seed().to_string());
        let options = ["--minutes", &minutes, "--from", &from, "--marks", "--once", "--seeds-file", SEEDS_FILE];
        return run("target/release/proof", &[&options[..], &rest].concat());
    }
    run("target/release/proof", &rest)
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
