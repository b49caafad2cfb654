//! Deliberate defects: each must make a suite fail. Built apart from the product, in `target/mutants`.

use std::process::{Command, Stdio};

use crate::Result;
use crate::shell::root;

/// What is tried.
#[derive(clap::Args)]
pub struct Args {
    /// Only the suites of the crates, not the whole clusters: no release build
    #[arg(long)]
    no_clusters: bool,
}

/// The suites of crates: each prints a line `mutant NAME CAUGHT-BY` for each of its crate's defects, and fails when one is
/// not caught.
const SUITES: &[(&str, &str)] = &[("pool", "mutants"), ("nexus", "suite")];
/// Where programs with the defects in them lie: never where the product is.
const TARGET: &str = "target/mutants";

/// Prints a table of the defects and what catches them; an error when one survives.
pub fn run(args: &Args) -> Result<()> {
    let mut tally = Tally::default();
    for (package, test) in SUITES {
        println!("{package}:");
        let words = ["test", "--locked", "-p", package, "--features", "mutants", "--test", test];
        let more = ["every_defect_is_caught", "--", "--nocapture"];
        tally.add(Command::new("cargo").args(words).args(more))?;
    }
    if !args.no_clusters {
        println!("whole clusters:");
        let program = build_simulator()?;
        tally.add(Command::new(program).arg("--mutants"))?;
    }
    println!("{} of {} deliberate defects caught", tally.caught, tally.all);
    if tally.failed { Err("a deliberate defect was not caught, or a runner failed".into()) } else { Ok(()) }
}

/// Builds the simulator with the defects in it, and says where it is.
pub fn build_simulator() -> Result<std::path::PathBuf> {
    crate::shell::cargo(&[
        "build",
        "--release",
        "--locked",
        "-p",
        "proof",
        "--features",
        "mutants",
        "--target-dir",
        TARGET,
    ])?;
    Ok(root().join(TARGET).join("release/proof"))
}

#[derive(Default)]
struct Tally {
    caught: usize,
    all: usize,
    failed: bool,
}

impl Tally {
    fn add(&mut self, runner: &mut Command) -> Result<()> {
        runner.current_dir(root()).env("CARGO_TARGET_DIR", TARGET).env("RUST_BACKTRACE", "0").stderr(Stdio::inherit());
        let output = runner.output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        for line in text.lines().filter_map(|l| l.strip_prefix("mutant ")) {
            let (name, by) = line.split_once(' ').unwrap_or((line, ""));
            let by = by.trim();
            (self.caught, self.all) = (self.caught + usize::from(!by.is_empty()), self.all + 1);
            println!("  {name:<26} {}", if by.is_empty() { "NOTHING" } else { by });
        }
        self.failed |= !output.status.success();
        Ok(())
    }
}
