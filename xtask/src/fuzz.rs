//! The fuzzers: arbitrary bytes for everything that reads bytes that it did not write itself.

use std::process::{Command, Stdio};

use crate::Result;
use crate::shell::{self, root};

/// What to fuzz, and for how long.
#[derive(clap::Args)]
pub struct Args {
    /// Only this target; may be given several times
    #[arg(long = "target", value_name = "NAME")]
    targets: Vec<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// Runs the targets one after the other. What one finds lies in `fuzz/artifacts/<target>`, and the run ends there.
pub fn run(args: &Args) -> Result<()> {
    let known = targets()?;
    let chosen = if args.targets.is_empty() { &known } else { &args.targets };
    if let Some(wrong) = chosen.iter().find(|t| !known.contains(t)) {
        return Err(format!("there is no fuzz target {wrong}; there are {}", known.join(", ")).into());
    }
    tools()?;
    for target in chosen {
        one(target, args.seconds)?;
    }
    println!("fuzzed {} for {} s each: nothing found", chosen.join(", "), args.seconds);
    Ok(())
}

/// All targets, by name.
fn targets() -> Result<Vec<String>> {
    let folder = root().join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for file in std::fs::read_dir(&folder)? {
        let path = file?.path();
        names.extend(path.file_stem().and_then(|s| s.to_str()).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// Says what is missing, and how to get it.
fn tools() -> Result<()> {
    let works = |args: &[&str]| {
        // The compiler that runs us is named in the environment; `cargo +nightly` must not inherit it.
        let mut command = Command::new("cargo");
        command.args(args).env_remove("RUSTUP_TOOLCHAIN").stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|s| s.success())
    };
    if !works(&["+nightly", "--version"]) {
        return Err("fuzzing needs a nightly compiler: rustup toolchain install nightly --profile minimal".into());
    }
    if !works(&["fuzz", "--version"]) {
        return Err("fuzzing needs cargo-fuzz: cargo install cargo-fuzz --locked".into());
    }
    Ok(())
}

/// New inputs that reach new code go to a folder outside the repository; the corpus in it is only read.
fn one(target: &str, seconds: u64) -> Result<()> {
    let (grown, seeds) = (format!("target/fuzz/{target}"), format!("fuzz/corpus/{target}"));
    std::fs::create_dir_all(root().join(&grown))?;
    if !root().join(&seeds).is_dir() {
        return Err(format!("fuzz/corpus/{target} is missing: the target has no seeds").into());
    }
    let time = format!("-max_total_time={seconds}");
    let limits = ["-timeout=20", "-rss_limit_mb=2048", "-max_len=8192", "-print_final_stats=1"];
    let mut args = vec!["+nightly", "fuzz", "run", "--sanitizer", "none", "-O", "--debug-assertions"];
    args.extend(["--fuzz-dir", "fuzz", target, &grown, &seeds, "--", &time]);
    args.extend(limits);
    shell::run_clean("cargo", &args)
}
