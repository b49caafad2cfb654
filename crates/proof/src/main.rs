//! The simulator alone, without the rest of the program: what `mayastor sim` runs, and what proves it with mutants.
#![forbid(unsafe_code)]

use clap::Parser;

/// Run whole clusters in a box, and check what they promise
#[derive(Parser)]
#[command(name = "proof", after_help = proof::cli::EXAMPLES)]
struct Cli {
    #[command(flatten)]
    arguments: proof::cli::Arguments,
}

fn main() -> std::process::ExitCode {
    proof::cli::main(&Cli::parse().arguments)
}
