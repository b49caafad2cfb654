//! The suite: what other people's programs do with our targets, step by step. `cargo xtask test --protocols` runs it.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "a test harness")]

mod engine;
mod iscsi;
mod nbd;
mod qemu;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

use clap::Parser;

use engine::Engine;

/// What a step comes to.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A step: its name, and what it does with a fresh engine.
type Step = (&'static str, fn(&mut Engine) -> Result<()>);

const STEPS: &[&[Step]] = &[iscsi::STEPS, nbd::STEPS, qemu::STEPS];

#[derive(Parser)]
#[command(about = "Programs of others as initiators of our targets")]
struct Args {
    /// The program under test
    #[arg(long, default_value = "target/release/mayastor")]
    mayastor: PathBuf,
    /// Where the run leaves its logs
    #[arg(long, default_value = "target/protocols")]
    folder: PathBuf,
    /// Only the steps whose name contains this
    #[arg(long)]
    only: Option<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let (mut passed, mut failed) = (0, 0);
    for (name, step) in STEPS.iter().flat_map(|steps| steps.iter()) {
        if args.only.as_deref().is_some_and(|only| !name.contains(only)) {
            continue;
        }
        let begin = Instant::now();
        let folder = args.folder.join(name);
        let result = Engine::start(&args.mayastor, &folder, &[]).and_then(|mut engine| step(&mut engine));
        let seconds = begin.elapsed().as_secs_f64();
        match result {
            Ok(()) => {
                passed += 1;
                println!("test {name} ... ok ({seconds:.1} s)");
            }
            Err(e) => {
                failed += 1;
                println!("test {name} ... FAILED ({seconds:.1} s; see {})\n{e}", folder.display());
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a program; what it said, or an error with it.
pub fn run(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program).args(args).output().map_err(|e| format!("cannot run {program}: {e}"))?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() {
        Ok(said)
    } else {
        Err(format!("{program} {} failed: {}\n{said}", args.join(" "), output.status).into())
    }
}

/// Fails with `why` when something does not hold.
pub fn ensure(holds: bool, why: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(why().into()) }
}
