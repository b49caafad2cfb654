//! Measures engines over loopback NVMe/TCP with our own initiator, beside fio on the same file where there is a peer.
//!
//! Engines run as processes pinned to one processor, the load on another; CPU time per request is that of the engine
//! processes (user and system, from the scheduler's accounts), which is steadier than IOPS on a shared machine.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "a program for measuring, outside the product")]

mod blast;
mod cluster;
mod load;
mod local;
mod marks;
mod peer;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use engine::load::{Stop, Workload};

use crate::cluster::{Cluster, Target};
use crate::load::{Job, Kind};
use crate::table::Row;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Parser)]
#[command(name = "cargo xtask bench", about = "Measure IOPS, throughput, latency and CPU per request")]
struct Args {
    /// The program to measure
    #[arg(long, default_value = "target/release/mayastor")]
    mayastor: PathBuf,
    /// Where the file-backed pools are made; the disk under it is what is measured
    #[arg(long, default_value = "target/bench")]
    dir: PathBuf,
    /// Seconds for each job
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Runs of each job; the median is shown
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Only the devices whose name contains this: malloc, pool, nexus-1, nexus-2, nexus-3, rebuild, idle
    #[arg(long)]
    only: Option<String>,
    /// Only the jobs whose name contains this
    #[arg(long)]
    job: Option<String>,
    /// Microseconds for which an engine may poll before it sleeps [default: the engine's own default]
    #[arg(long)]
    spin_us: Option<u64>,
    /// Keep a profile of the first engine for each job here (needs `perf`; figures measured meanwhile are worth less)
    #[arg(long)]
    profile: Option<PathBuf>,
    /// Write the results as JSON to this file too
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let wanted = |name: &str| args.only.as_deref().is_none_or(|only| name.contains(only));
    let asked = |job: &Job| args.job.as_deref().is_none_or(|only| job.name.contains(only));
    std::fs::create_dir_all(&args.dir)?;
    let mut rows = Vec::new();
    let mut cluster = Cluster::start(&args.mayastor, &args.dir, args.spin_us)?;
    if wanted("idle") {
        std::thread::sleep(Duration::from_secs(2));
        let clock = cluster.clock();
        let before = clock.now()?;
        std::thread::sleep(Duration::from_secs(5));
        let busy = clock.now()?.saturating_sub(before);
        println!("idle: {:.3} % of a core for 3 engines", busy.as_secs_f64() / 5.0 * 100.0);
        rows.push(Row::figure("idle", "cpu of 3 engines, % of a core", busy.as_secs_f64() / 5.0 * 100.0));
    }
    for (device, make) in cluster::DEVICES {
        if !wanted(device) {
            continue;
        }
        let target = make(&mut cluster)?;
        for job in Job::all_for(device).into_iter().filter(|job| asked(job)) {
            for row in measure(&cluster, device, &target, &job, &args)? {
                println!("{row}");
                rows.push(row);
            }
        }
        peer::clear(&args.dir);
        cluster.clear()?;
    }
    if wanted("rebuild") {
        let speed = cluster.rebuild_speed(1 << 30)?;
        rows.push(Row::figure("rebuild", "MB/s, 1 GiB replica, file pools", speed));
    }
    println!("\n{}\n\n{}", table::print(&rows), marks::print(&rows));
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(&table::json(&rows))?)?;
        println!("written to {}", path.display());
    }
    Ok(())
}

/// The median run by CPU per request; beside a pool the median of fio's, whose runs alternate with ours.
fn measure(cluster: &Cluster, device: &str, target: &Target, job: &Job, args: &Args) -> Result<Vec<Row>> {
    let (mut runs, mut peers) = (Vec::new(), Vec::new());
    let _profile = args.profile.as_deref().map(|dir| cluster.profile(&dir.join(format!("{device} {}", job.name))));
    for run in 0..args.runs.max(1) {
        let time = Duration::from_secs(args.seconds);
        runs.push(match (target, &job.kind) {
            (Target::Local(file), _) => {
                let work = Workload { stop: Stop::After(time), seed: run as u64, ..job.work.clone() };
                let (report, cpu) = local::run(file, work)?;
                Row::measured(device, job, &report, cpu)
            }
            (Target::Remote(target), Kind::Closed) => {
                let (report, cpu) = load::run(target, job, time, run as u64, cluster.clock())?;
                Row::measured(device, job, &report, cpu)
            }
            (Target::Remote(target), Kind::Blast(blast)) => {
                let (count, elapsed, cpu) = blast.run(target, time, &cluster.clock())?;
                Row::counted(device, job, count, elapsed, cpu)
            }
        });
        if device.ends_with("pool") {
            peers.extend(peer::fio_on_same_disk(&args.dir, device, job, args.seconds)?);
        }
    }
    // Where there is a peer, IOPS are what is compared.
    match peers.is_empty() {
        true => runs.sort_by(|a, b| a.cpu_us.total_cmp(&b.cpu_us)),
        false => [&mut runs, &mut peers].into_iter().for_each(|r| r.sort_by(|a, b| a.iops.total_cmp(&b.iops))),
    }
    let medians = [runs, peers].into_iter().filter(|r| !r.is_empty());
    Ok(medians.map(|mut r| r.swap_remove(r.len() / 2)).collect())
}
