//! Deliberate defects: each must make a suite fail. Built apart from the product, in `target/mutants`.

use std::process::{Command, Stdio};

use crate::Result;

/// The runners: each prints a line `mutant NAME CAUGHT-BY` for each of its crate's defects, and fails when one is not
/// caught.
const RUNNERS: &[(&str, &str)] = &[("pool", "mutants"), ("nexus", "suite")];

/// Prints a table of the defects and what catches them; an error when one survives.
pub fn run() -> Result<()> {
    let mut survives = false;
    for (package, test) in RUNNERS {
        println!("{package}:");
        let output = Command::new("cargo")
            .args(["test", "--locked", "-p", package, "--features", "mutants", "--test", test])
            .args(["every_defect_is_caught", "--", "--nocapture"])
            .env("CARGO_TARGET_DIR", "target/mutants")
            .env("RUST_BACKTRACE", "0")
            .stderr(Stdio::inherit())
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        for line in text.lines().filter_map(|l| l.strip_prefix("mutant ")) {
            let (name, by) = line.split_once(' ').unwrap_or((line, ""));
            let by = if by.trim().is_empty() { "NOTHING" } else { by.trim() };
            println!("  {name:<26} {by}");
        }
        survives |= !output.status.success();
    }
    if survives { Err("a deliberate defect was not caught, or a runner failed".into()) } else { Ok(()) }
}
