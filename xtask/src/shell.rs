//! Runs programs, visibly.

use std::path::PathBuf;
use std::process::Command;

use crate::Result;

/// The repository's root folder.
pub fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("xtask lies in the root folder").to_owned()
}

/// Runs a program in the root folder, its output shown; an error when it fails.
pub fn run(program: &str, args: &[&str]) -> Result<()> {
    println!("$ {program} {}", args.join(" "));
    let status = Command::new(program).args(args).current_dir(root()).status();
    match status.map_err(|e| format!("cannot run {program}: {e}"))? {
        status if status.success() => Ok(()),
        status => Err(format!("{program} {} failed: {status}", args.join(" ")).into()),
    }
}

/// Runs cargo.
pub fn cargo(args: &[&str]) -> Result<()> {
    run(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()), args)
}
