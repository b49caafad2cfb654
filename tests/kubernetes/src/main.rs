//! Mayastor in Kubernetes: `cargo xtask test --kubernetes`.
//!
//! A real kube-apiserver and etcd, found through `KUBEBUILDER_ASSETS` (or the path), in a network namespace of their own; two
//! control planes on the Kubernetes store with the permissions of the manifests and no others; engines with pools in files.
//! Without the binaries the suite says that it was skipped, and why.
//!
//! Needs root (it makes a network namespace).
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "a test harness")]

mod api;
mod cluster;
mod service;
mod steps;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

use clap::Parser;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Parser)]
#[command(about = "The operator and the Kubernetes store against a real API server")]
struct Args {
    /// The program under test
    #[arg(long, default_value = "target/release/mayastor")]
    mayastor: PathBuf,
    /// Where the run leaves its files
    #[arg(long, default_value = "target/kubernetes")]
    folder: PathBuf,
    /// Only the tests whose name contains this; those that they build on are run all the same
    #[arg(long)]
    only: Option<String>,
    /// Fail, instead of skipping, when the binaries are missing
    #[arg(long)]
    required: bool,
}

/// Says that this process is in its namespace already.
const INSIDE: &str = "MAYASTOR_TEST_INSIDE";

fn main() -> ExitCode {
    let args = Args::parse();
    let missing = api::missing();
    if !missing.is_empty() {
        eprintln!("kubernetes: SKIPPED, {} cannot be found.", missing.join(", "));
        eprintln!(
            "kubernetes: nothing was shown about the operator. Put them into a folder that KUBEBUILDER_ASSETS names."
        );
        return if args.required { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    if std::env::var_os(INSIDE).is_none() {
        return inside();
    }
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Runs this program again where nobody else's ports are.
fn inside() -> ExitCode {
    let program = std::env::current_exe().expect("this program has a path");
    let status =
        Command::new("unshare").arg("--net").arg(program).args(std::env::args_os().skip(1)).env(INSIDE, "1").status();
    match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: unshare: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<bool> {
    for line in ["link set dev lo up", "addr add 10.78.0.1/24 dev lo", "addr add 10.78.0.2/24 dev lo"] {
        cluster::run("ip", &line.split(' ').collect::<Vec<_>>())?;
    }
    let mut cluster = cluster::Cluster::start(&args.mayastor, &args.folder)?;
    let (mut passed, mut failed) = (0, 0);
    for (name, always, step) in steps::STEPS {
        if !always && args.only.as_deref().is_some_and(|only| !name.contains(only)) {
            continue;
        }
        let begin = Instant::now();
        let result = step(&mut cluster);
        let seconds = begin.elapsed().as_secs_f64();
        match result {
            Ok(()) => {
                passed += 1;
                println!("test {name} ... ok ({seconds:.1} s)");
            }
            Err(e) => {
                failed += 1;
                println!("test {name} ... FAILED ({seconds:.1} s)\n{e}\n{}", cluster.logs());
                break;
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0 && passed > 0)
}
