//! The suites.

use crate::shell::cargo;
use crate::{Result, layers, packages, sim};

/// Which suites to run. None named: all of them.
#[derive(clap::Args)]
pub struct Args {
    /// Formatting, lints and layers
    #[arg(long)]
    lint: bool,
    /// Unit, property, crash-point and simulation tests
    #[arg(long)]
    unit: bool,
    /// Simulated clusters: 300 fresh seeds and all that ever failed, each twice
    #[arg(long)]
    sim: bool,
    /// A real Linux kernel as the initiator, in a QEMU guest
    #[arg(long)]
    guest: bool,
    /// The CSI driver: csi-sanity, file systems, kills at every step (needs root and Go)
    #[arg(long)]
    csi: bool,
    /// Programs of others (libiscsi, QEMU) as initiators of our targets
    #[arg(long)]
    protocols: bool,
    /// `mayastor up --demo` as a new user would run it
    #[arg(long)]
    demo: bool,
    /// The page in a headless Chromium: a volume is made, a node killed, the repair watched
    #[arg(long)]
    page: bool,
    /// The REST API against its own OpenAPI document, with requests that schemathesis makes up
    #[arg(long)]
    rest: bool,
    /// Real processes under random faults, for 75 seconds
    #[arg(long)]
    chaos: bool,
}

/// How long chaos lasts, and which.
#[derive(clap::Args)]
pub struct Chaos {
    /// How long faults go on, in seconds
    #[arg(long, default_value_t = 300)]
    seconds: u64,
    /// Which faults, and when [default: another one each time]
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs the suites.
pub fn run(args: &Args) -> Result<()> {
    let all = !(args.lint
        || args.unit
        || args.sim
        || args.guest
        || args.csi
        || args.demo
        || args.chaos
        || args.page
        || args.protocols
        || args.rest);
    if all || args.guest {
        packages::for_guest()?;
    }
    if all || args.csi {
        packages::for_csi()?;
    }
    if all || args.chaos {
        packages::for_chaos()?;
    }
    if all || args.page {
        packages::for_page()?;
    }
    if all || args.protocols {
        packages::for_protocols()?;
    }
    if all || args.lint {
        lint()?;
    }
    if all || args.unit {
        cargo(&["test", "--workspace", "--locked"])?;
    }
    if all || args.sim || args.demo || args.guest || args.csi || args.page || args.protocols || args.rest {
        cargo(&["build", "--release", "--locked", "-p", "mayastor"])?;
    }
    if all || args.sim {
        sim::suite()?;
    }
    if all || args.demo {
        // The README's words.
        cargo(&["run", "--release", "--locked", "--", "up", "--demo"])?;
    }
    if all || args.page {
        cargo(&["run", "--release", "--locked", "-p", "page"])?;
    }
    if all || args.rest {
        crate::rest::run()?;
    }
    if all || args.csi || args.guest {
        // The guest runs it too.
        cargo(&["build", "--release", "--locked", "-p", "csitest"])?;
    }
    if all || args.csi {
        // It mounts file systems.
        let (program, first): (&str, &[&str]) = if packages::is_root() {
            ("target/release/csitest", &[])
        } else {
            ("sudo", &["-E", "target/release/csitest"])
        };
        crate::shell::run(program, &[first, &["--mayastor", "target/release/mayastor"]].concat())?;
    }
    if all || args.guest {
        cargo(&["run", "--release", "--locked", "-p", "guest", "--", "--mayastor", "target/release/mayastor"])?;
    }
    if all || args.protocols {
        cargo(&["run", "--release", "--locked", "-p", "protocols", "--", "--mayastor", "target/release/mayastor"])?;
    }
    if all || args.chaos {
        chaos(&Chaos { seconds: 75, seed: None })?;
    }
    Ok(())
}

/// Builds everything and lets chaos loose.
pub fn chaos(args: &Chaos) -> Result<()> {
    cargo(&["build", "--release", "--locked", "-p", "mayastor", "-p", "chaos"])?;
    let mut words = vec!["--seconds".to_owned(), args.seconds.to_string()];
    if let Some(seed) = args.seed {
        words.extend(["--seed".to_owned(), seed.to_string()]);
    }
    crate::shell::run("target/release/chaos", &words.iter().map(String::as_str).collect::<Vec<_>>())
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

/// Measures the planner.
pub fn planner(args: &[String]) -> Result<()> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    cargo(&[&["run", "--release", "--locked", "-p", "plan", "--example", "scale", "--"], &args[..]].concat())
}
