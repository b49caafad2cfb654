//! The suite: what a Linux host does with our targets, step by step. `cargo xtask test --guest` runs it.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "a test harness")]

mod iscsi;
mod steps;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use guest::cluster::Cluster;
use guest::{Image, Result, Vm};

#[derive(Parser)]
#[command(about = "A real Linux kernel in a QEMU guest as the initiator")]
struct Args {
    /// The program under test
    #[arg(long, default_value = "target/release/mayastor")]
    mayastor: PathBuf,
    /// Where the kernel is kept and the run leaves its logs
    #[arg(long, default_value = "target/guest")]
    folder: PathBuf,
    /// Only the steps whose name contains this
    #[arg(long)]
    only: Option<String>,
}

/// What a step works with.
pub struct World {
    /// The guest.
    pub vm: Vm,
    /// The engines and the control plane.
    pub cluster: Cluster,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<bool> {
    let image = Image::prepare(&args.folder)?;
    let start = || -> Result<World> {
        let cluster = Cluster::start(&args.mayastor, &args.folder.join("cluster"), 4, 1536)?;
        let begin = Instant::now();
        let vm = Vm::boot(&image, &args.folder.join("vm"))?;
        println!("guest: booted in {:.1} s", begin.elapsed().as_secs_f64());
        Ok(World { vm, cluster })
    };
    let mut world = Some(start()?);
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (name, step) in steps::ALL {
        if args.only.as_deref().is_some_and(|only| !name.contains(only)) {
            skipped += 1;
            continue;
        }
        let begin = Instant::now();
        let w = match &mut world {
            Some(world) => world,
            None => world.insert(start()?),
        };
        let result = step(w);
        let seconds = begin.elapsed().as_secs_f64();
        match result {
            Ok(()) => {
                passed += 1;
                println!("test {name} ... ok ({seconds:.1} s)");
            }
            Err(e) => {
                failed += 1;
                println!("test {name} ... FAILED ({seconds:.1} s)\n{e}\n{}\n{}", w.vm.console(), w.cluster.logs());
                // What went wrong may have wedged the guest or left a volume: the next step gets a new world.
                world = None;
            }
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    Ok(failed == 0 && passed > 0)
}
