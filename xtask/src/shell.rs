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
    finish(program, args, Command::new(program).args(args))
}

/// The same without the choice of a compiler that cargo made for us.
pub fn run_clean(program: &str, args: &[&str]) -> Result<()> {
    let mut command = Command::new(program);
    for name in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTC"] {
        command.env_remove(name);
    }
    finish(program, args, command.args(args))
}

fn finish(program: &str, args: &[&str], command: &mut Command) -> Result<()> {
    println!("$ {program} {}", args.join(" "));
    let status = command.current_dir(root()).status();
    match status.map_err(|e| format!("cannot run {program}: {e}"))? {
        status if status.success() => Ok(()),
        status => Err(format!("{program} {} failed: {status}", args.join(" ")).into()),
    }
}

/// Runs cargo. Without what `cargo xtask` says about this package: build scripts that look at it (ring's) would run again, and
/// with them half of the release build, each time that somebody builds by hand in between.
pub fn cargo(args: &[&str]) -> Result<()> {
    let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let mut command = Command::new(&program);
    for (name, _) in std::env::vars() {
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    finish(&program, args, command.args(args))
}
