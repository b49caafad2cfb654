//! The suites.

use crate::shell::cargo;
use crate::{Result, layers, packages};

/// Which suites to run. None named: all of them.
#[derive(clap::Args)]
pub struct Args {
    /// Formatting, lints and layers
    #[arg(long)]
    lint: bool,
    /// Unit, property, crash-point and simulation tests
    #[arg(long)]
    unit: bool,
    /// A real Linux kernel as the initiator, in a QEMU guest
    #[arg(long)]
    guest: bool,
    /// `mayastor up --demo` as a new user would run it
    #[arg(long)]
    demo: bool,
}

/// Runs the suites.
pub fn run(args: &Args) -> Result<()> {
    let all = !(args.lint || args.unit || args.guest || args.demo);
    if all || args.guest {
        packages::for_guest()?;
    }
    if all || args.lint {
        lint()?;
    }
    if all || args.unit {
        cargo(&["test", "--workspace", "--locked"])?;
    }
    if all || args.demo || args.guest {
        cargo(&["build", "--release", "--locked", "-p", "mayastor"])?;
    }
    if all || args.demo {
        // The README's words.
        cargo(&["run", "--release", "--locked", "--", "up", "--demo"])?;
    }
    if all || args.guest {
        cargo(&["run", "--release", "--locked", "-p", "guest", "--", "--mayastor", "target/release/mayastor"])?;
    }
    Ok(())
}

/// What a developer runs before a push.
pub fn prepush() -> Result<()> {
    lint()?;
    cargo(&["test", "--workspace", "--locked"])
}

fn lint() -> Result<()> {
    layers::check()?;
    cargo(&["fmt", "--all", "--check"])?;
    cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])
}

/// Builds and runs the measuring program.
pub fn bench(args: &[String]) -> Result<()> {
    cargo(&["build", "--release", "--locked", "-p", "mayastor", "-p", "bench"])?;
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    crate::shell::run("target/release/bench", &args)
}
