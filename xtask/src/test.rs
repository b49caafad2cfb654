//! The suites.

use crate::packages::{self, Package};
use crate::shell::cargo;
use crate::{Result, layers, rest, shell, sim};

/// Which suites to run. None named: all of them, in this order.
#[derive(clap::Args)]
pub struct Args {
    /// Formatting, lints and layers
    #[arg(long)]
    lint: bool,
    /// Unit, property, crash-point and simulation tests
    #[arg(long)]
    unit: bool,
    /// `mayastor up --demo` as a new user would run it
    #[arg(long)]
    demo: bool,
    /// Simulated clusters: 300 fresh seeds and all that ever failed, each twice
    #[arg(long)]
    sim: bool,
    /// The page in a headless Chromium: a volume is made, a node killed, the repair watched
    #[arg(long)]
    page: bool,
    /// The REST API against its own OpenAPI document, with requests that schemathesis makes up
    #[arg(long)]
    rest: bool,
    /// The store on a real etcd: conformance, leaders that are killed or sleep, an etcd that is away
    #[arg(long)]
    stores: bool,
    /// Programs of others (libiscsi, libnbd, fio, QEMU) as clients of our targets
    #[arg(long)]
    protocols: bool,
    /// The CSI driver: csi-sanity, file systems, kills at every step (needs root and Go)
    #[arg(long)]
    csi: bool,
    /// The operator and the Kubernetes store with a real API server, found through KUBEBUILDER_ASSETS (needs root)
    #[arg(long)]
    kubernetes: bool,
    /// Real processes under random faults, for 75 seconds
    #[arg(long)]
    chaos: bool,
    /// A real Linux kernel as the initiator, in a QEMU guest
    #[arg(long)]
    guest: bool,
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
    /// Spoil one block of one copy in the end: the run must fail, which shows that it can
    #[arg(long)]
    defect: bool,
}

/// One suite: what it needs, and how it runs.
struct Suite {
    wanted: bool,
    packages: &'static [Package],
    program: Program,
    run: fn() -> Result<()>,
}

/// Whether a suite starts the program as users have it.
#[derive(PartialEq, Eq)]
enum Program {
    Release,
    None,
}

/// Runs the suites.
pub fn run(args: &Args) -> Result<()> {
    use Program::{None, Release};
    let suite = |wanted, packages, program, run| Suite { wanted, packages, program, run };
    let mut suites = vec![
        suite(args.lint, &[], None, lint),
        suite(args.unit, &[], None, unit),
        suite(args.demo, &[], Release, demo),
        suite(args.stores, packages::STORES, None, stores),
        suite(args.sim, &[], Release, sim::suite),
        suite(args.page, packages::PAGE, Release, || harness("page")),
        suite(args.rest, packages::REST, Release, rest::run),
        suite(args.protocols, packages::PROTOCOLS, Release, || harness("protocols")),
        suite(args.csi, packages::CSI, Release, csi),
        suite(args.kubernetes, packages::KUBERNETES, Release, kubernetes),
        suite(args.chaos, packages::CHAOS, Release, || {
            run_chaos(&Chaos { seconds: 75, seed: Option::None, defect: false })
        }),
        suite(args.guest, packages::GUEST, Release, guest),
    ];
    if suites.iter().any(|s| s.wanted) {
        suites.retain(|s| s.wanted);
    }
    packages::install(&suites.iter().flat_map(|s| s.packages).copied().collect::<Vec<_>>())?;
    // What needs no release build tells first.
    for program in [None, Release] {
        if program == Release && suites.iter().any(|s| s.program == Release) {
            build_release()?;
        }
        for suite in suites.iter().filter(|s| s.program == program) {
            (suite.run)()?;
        }
    }
    Ok(())
}

/// Builds everything and lets chaos loose.
pub fn chaos(args: &Chaos) -> Result<()> {
    packages::install(packages::CHAOS)?;
    build_release()?;
    run_chaos(args)
}

fn run_chaos(args: &Chaos) -> Result<()> {
    let seconds = args.seconds.to_string();
    let seed = args.seed.map(|seed| seed.to_string());
    let mut words = vec!["run", "--locked", "-p", "chaos", "--", "--seconds", &seconds];
    if let Some(seed) = &seed {
        words.extend(["--seed", seed]);
    }
    if args.defect {
        words.push("--defect");
    }
    cargo(&words)
}

/// Runs a program of `tests/`, which starts the release build of the product. It is itself built like the unit tests,
/// which is much faster than another release build.
fn harness(package: &str) -> Result<()> {
    cargo(&["run", "--locked", "-p", package])
}

/// It mounts file systems.
fn csi() -> Result<()> {
    cargo(&["build", "--locked", "-p", "csitest"])?;
    let program = "target/debug/csitest";
    if packages::is_root() { shell::run(program, &[]) } else { shell::run("sudo", &["-E", program]) }
}

/// It makes a network namespace.
fn kubernetes() -> Result<()> {
    cargo(&["build", "--locked", "-p", "kubernetes"])?;
    let program = "target/debug/kubernetes";
    if packages::is_root() { shell::run(program, &[]) } else { shell::run("sudo", &["-E", program]) }
}

/// The suite of the CSI driver runs in the guest, too.
fn guest() -> Result<()> {
    cargo(&["build", "--locked", "-p", "csitest"])?;
    harness("guest")
}

fn build_release() -> Result<()> {
    cargo(&["build", "--release", "--locked"])
}

/// The README's words.
fn demo() -> Result<()> {
    cargo(&["run", "--release", "--locked", "--", "up", "--demo"])
}

fn unit() -> Result<()> {
    cargo(&["test", "--workspace", "--locked"])
}

/// Tests that need servers of others are marked as ignored.
fn stores() -> Result<()> {
    cargo(&["test", "--locked", "-p", "control", "--test", "etcd", "--", "--ignored"])?;
    cargo(&["test", "--locked", "-p", "mayastor", "--test", "failover", "--", "--ignored"])
}

/// What a developer runs before a push.
pub fn prepush() -> Result<()> {
    lint()?;
    unit()
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
    shell::run("target/release/bench", &args)
}

/// Measures the planner.
pub fn planner(args: &[String]) -> Result<()> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    cargo(&[&["run", "--release", "--locked", "-p", "plan", "--example", "scale", "--"], &args[..]].concat())
}
