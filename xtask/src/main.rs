//! Every chore of the repository under one roof: `cargo xtask --help`.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "a tool for developers, outside the product")]

mod fuzz;
mod layers;
mod mutants;
mod packages;
mod rest;
mod shell;
mod sim;
mod test;

use clap::{Parser, Subcommand};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The chores of this repository")]
struct Args {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Run everything that CI runs; or, with options, only some suites
    Test(test::Args),
    /// Measure IOPS, throughput, latency and CPU per request (options: `cargo xtask bench -- --help`)
    Bench {
        /// Passed on to the measuring program
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Real processes in network namespaces under random faults, with every read checked
    Chaos(test::Chaos),
    /// Whole clusters in a box, where everything goes wrong (options of `mayastor sim` are passed on)
    Sim(sim::Args),
    /// Feed arbitrary bytes to every decoder (needs a nightly compiler and cargo-fuzz)
    Fuzz(fuzz::Args),
    /// Measure the planner in a large cluster
    Planner {
        /// Numbers of nodes and volumes; 1000 and 100000 when absent
        args: Vec<String>,
    },
    /// Check that each crate uses only the crates that its layer allows
    Layers,
    /// Switch on each deliberate defect in turn: the suites of the crates and whole clusters must catch it
    Mutants(mutants::Args),
    /// The quick checks before a push: formatting, lints, layers, unit tests
    Prepush,
}

fn main() -> std::process::ExitCode {
    let result = match Args::parse().chore {
        Chore::Test(args) => test::run(&args),
        Chore::Bench { args } => test::bench(&args),
        Chore::Chaos(args) => test::chaos(&args),
        Chore::Sim(args) => sim::sim(&args),
        Chore::Fuzz(args) => fuzz::run(&args),
        Chore::Planner { args } => test::planner(&args),
        Chore::Layers => layers::check(),
        Chore::Mutants(args) => mutants::run(&args),
        Chore::Prepush => test::prepush(),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            std::process::ExitCode::FAILURE
        }
    }
}
