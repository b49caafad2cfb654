//! The CSI driver as Kubernetes would use it: `cargo xtask test --csi`.
//!
//! A whole cluster on this machine (`mayastor up`), the controller and the node plugin as processes, and
//! * the specification's own suite, csi-sanity, built by the Go tools;
//! * every file system and raw block, with data that must come back;
//! * the node plugin killed before each of its steps: the same call again must complete, and nothing may be left behind.
//!
//! Needs root (it mounts), FUSE and loop devices.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "a test harness")]

mod cluster;
mod sanity;
mod steps;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use cluster::Cluster;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Parser)]
#[command(about = "The CSI driver against csi-sanity, file systems, and kills at every step")]
struct Args {
    /// The program under test
    #[arg(long, default_value = "target/release/mayastor")]
    mayastor: PathBuf,
    /// Where the run leaves its files
    #[arg(long, default_value = "target/csi")]
    folder: PathBuf,
    /// Only the tests whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// A control plane with three or more engines that runs already, instead of a cluster of our own
    #[arg(long, value_name = "HOST:PORT")]
    control: Option<String>,
    /// How volumes are attached: user or kernel
    #[arg(long, default_value = "user")]
    transport: String,
    /// csi-sanity, when it has been built already
    #[arg(long, value_name = "PROGRAM")]
    suite: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(e) = able(&args.transport) {
        eprintln!("error: {e}");
        return ExitCode::FAILURE;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(run(&args))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Says in words what is missing on this machine.
fn able(transport: &str) -> Result<()> {
    let devices: &[&str] =
        if transport == "user" { &["/dev/fuse", "/dev/loop-control"] } else { &["/dev/nvme-fabrics"] };
    for device in devices {
        let opened = std::fs::File::options().read(true).write(true).open(device);
        opened.map_err(|e| format!("{device}: {e}; this suite mounts file systems: it needs root and this device"))?;
    }
    Ok(())
}

async fn run(args: &Args) -> Result<bool> {
    let mut cluster = Cluster::start(args).await?;
    let (mut passed, mut failed) = (0, 0);
    let mut note = |name: &str, begin: Instant, result: Result<()>| {
        let seconds = begin.elapsed().as_secs_f64();
        match result {
            Ok(()) => {
                passed += 1;
                println!("test {name} ... ok ({seconds:.1} s)");
                true
            }
            Err(e) => {
                failed += 1;
                println!("test {name} ... FAILED ({seconds:.1} s)\n{e}");
                false
            }
        }
    };
    let wanted = |name: &str| args.only.as_deref().is_none_or(|only| name.contains(only));
    for (name, kind) in steps::KINDS {
        if wanted(name) {
            let begin = Instant::now();
            let result = steps::round_trip(&mut cluster, kind).await;
            if !note(name, begin, result) {
                println!("{}", cluster.logs());
            }
        }
    }
    for (name, kind) in steps::KINDS {
        let name = format!("grown_{name}");
        if name == "grown_ext4" && !may_resize_ext4() {
            println!(
                "test {name} ... SKIPPED: Linux lets only processes with CAP_SYS_RESOURCE make a mounted ext4 larger"
            );
        } else if wanted(&name) {
            let begin = Instant::now();
            let result = steps::grown(&mut cluster, kind).await;
            if !note(&name, begin, result) {
                println!("{}", cluster.logs());
            }
        }
    }
    for step in steps::STEPS {
        let name = format!("killed_before_{step}");
        if wanted(&name) {
            let begin = Instant::now();
            let result = steps::killed(&mut cluster, step).await;
            if !note(&name, begin, result) {
                println!("{}", cluster.logs());
            }
        }
    }
    if wanted("csi_sanity") {
        let begin = Instant::now();
        let result = sanity::run(&mut cluster, args).await;
        if !note("csi_sanity", begin, result) {
            println!("{}", cluster.logs());
        }
    }
    if wanted("nothing_is_left") {
        let result = cluster.nothing_left();
        note("nothing_is_left", Instant::now(), result);
    }
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0 && passed > 0)
}

/// Whether this process has CAP_SYS_RESOURCE (number 24), which Linux asks for; root in a container may lack it.
fn may_resize_ext4() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).is_some_and(|bits| bits >> 24 & 1 == 1)
}
