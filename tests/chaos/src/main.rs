//! Chaos with real processes: engines and a control plane in network namespaces, killed, paused, cut off and slowed down
//! at random, while clients write and compare every read with what was acknowledged. `cargo xtask chaos` runs it.
//!
//! In the end all faults are over, and then within a bounded time every volume is whole again, every acknowledged write
//! is there, and all copies are identical. Everything happens in namespaces (processes, network, mounts) that end with
//! this process, however it ends.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "a test harness: it starts processes, reads files and waits")]

mod cluster;
mod copies;
mod faults;
mod net;
mod work;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use cluster::{Cluster, list};
use faults::Faults;
use serde_json::Value;
use work::{Client, Phase};

/// What a fallible step returns.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How long healing may take, with all faults over.
const HEALING: Duration = Duration::from_secs(240);
/// The size of each volume.
const VOLUME_BYTES: u64 = 48 << 20;
/// Copies of each volume.
const VOLUMES: [u64; 4] = [3, 2, 3, 2];

#[derive(Parser)]
#[command(about = "Real processes under random faults, with every read checked")]
struct Args {
    /// The program under test
    #[arg(long, default_value = "target/release/mayastor")]
    mayastor: PathBuf,
    /// Where the run keeps its disks and logs; what was there before is removed
    #[arg(long, default_value = "target/chaos")]
    folder: PathBuf,
    /// How long faults go on, in seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Which faults, and when [default: another one each time]
    #[arg(long)]
    seed: Option<u64>,
    /// How many storage nodes
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(3..=net::NODES as u64))]
    nodes: u64,
    /// Spoil one block of one copy before the copies are compared: the run must fail, which shows that it can
    #[arg(long)]
    defect: bool,
    /// Set by the program itself, once it is inside its namespaces
    #[arg(long, hide = true)]
    inside: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = if args.inside { inside(&args) } else { outside(args) };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

/// The namespaces of the run. Whoever is not root becomes it in a namespace of users.
fn namespaces() -> Vec<&'static str> {
    let mut words = vec!["--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"];
    words.push("--mount-proc");
    if !rustix::process::getuid().is_root() {
        words.push("--map-root-user");
    }
    words
}

/// Starts the run in namespaces of its own, and looks whether it left anything behind.
fn outside(mut args: Args) -> Result<()> {
    let possible = Command::new("setpriv").args(namespaces()).arg("true").stderr(Stdio::null()).status();
    if !possible.is_ok_and(|status| status.success()) {
        println!("*** SKIPPED: chaos needs to make namespaces (root, or user namespaces), which is forbidden here ***");
        return Ok(());
    }
    let seed = *args.seed.get_or_insert_with(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |d| d.as_millis() as u64 % 1_000_000)
    });
    println!("chaos: seed {seed}, {} s, {} nodes", args.seconds, args.nodes);
    let _ = std::fs::remove_dir_all(&args.folder);
    std::fs::create_dir_all(&args.folder)?;
    let folder = args.folder.canonicalize()?;
    let program = args.mayastor.canonicalize();
    let program = program.map_err(|e| format!("{}: {e}; build it first", args.mayastor.display()))?;
    let status = Command::new("setpriv")
        .args(namespaces())
        .arg(std::env::current_exe()?)
        .args(["--inside", "--seed", &seed.to_string(), "--seconds", &args.seconds.to_string()])
        .args(["--nodes", &args.nodes.to_string()])
        .args(args.defect.then_some("--defect"))
        .arg("--mayastor")
        .arg(program)
        .arg("--folder")
        .arg(&folder)
        .stdin(Stdio::null())
        .status()?;
    let left = processes_of(&folder)?;
    if !left.is_empty() {
        return Err(format!("processes were left behind: {}", left.join("; ")).into());
    }
    if !status.success() {
        return Err(format!("chaos with seed {seed} failed; its logs are in {}", folder.display()).into());
    }
    // The disks are large and of no more use.
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

/// Command lines of the run's processes: they name files in the folder, or are the run itself.
fn processes_of(folder: &Path) -> Result<Vec<String>> {
    let folder = folder.display().to_string();
    let file = format!("{folder}/");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&file) || (line.contains("--inside") && line.contains(&folder)) {
            found.push(line);
        }
    }
    Ok(found)
}

/// The run.
fn inside(args: &Args) -> Result<()> {
    let (seed, nodes) = (args.seed.unwrap_or(1), args.nodes as usize);
    net::make()?;
    let means = net::means()?;
    let mut cluster = Cluster::start(&args.mayastor, &args.folder, nodes)?;
    let mut clients = Vec::new();
    for (n, copies) in VOLUMES.iter().enumerate() {
        let name = format!("volume-{n}");
        let (size, copies) = (format!("{}MiB", VOLUME_BYTES >> 20), copies.to_string());
        cluster.command(&["volume", "create", &name, "--size", &size, "--replicas", &copies, "--wait"])?;
        cluster.command(&["volume", "publish", &name])?;
        clients.push(Client::start(&name, n as u64 + 1, seed));
    }
    let mut faults = Faults::new(seed, means);
    let end = Instant::now() + Duration::from_secs(args.seconds);
    while Instant::now() < end {
        faults.turn(&mut cluster, nodes)?;
        lead(&cluster, &clients);
        cluster.check()?;
        clients.iter().try_for_each(Client::check)?;
        std::thread::sleep(Duration::from_millis(100));
    }
    faults.relent(&mut cluster)?;
    let healed = heal(&mut cluster, &clients)?;
    let units = verify(&mut cluster, clients, args.defect)?;
    let [killed, paused, network] = faults.counts;
    println!(
        "chaos: seed {seed}: {killed} kills, {paused} pauses, {network} network faults; healed in {:.1} s; {units} units of \
         4 KiB verified; all copies identical",
        healed.as_secs_f64()
    );
    Ok(())
}

/// Tells the clients where their volumes are, as far as the control plane can be asked.
fn lead(cluster: &Cluster, clients: &[Client]) {
    let Ok(volumes) = cluster.command(&["volume", "list"]) else { return };
    for client in clients {
        let volume = list(&volumes).iter().find(|v| v["name"] == client.volume.as_str());
        let uri = volume.and_then(|v| v["device_uri"].as_str()).filter(|uri| !uri.is_empty());
        client.is_at(uri.map(str::to_owned));
    }
}

/// Waits until every volume is whole.
fn heal(cluster: &mut Cluster, clients: &[Client]) -> Result<Duration> {
    let begun = Instant::now();
    for client in clients {
        let (answered, failed, connections) = client.counts();
        println!("{}: {answered} requests answered, {failed} failed, {connections} connections", client.volume);
        if answered == 0 {
            return Err(format!("{}: not one request was answered", client.volume).into());
        }
    }
    // Load goes on for a while: healing under load is what there is in life. The rest is without.
    std::thread::sleep(Duration::from_secs(3));
    clients.iter().for_each(|c| c.enter(Phase::Rest));
    let whole = |c: &Cluster| {
        cluster_is_whole(&c.command(&["volume", "list"])?)?;
        Ok(true)
    };
    cluster.until("every volume is whole again", HEALING, whole)?;
    cluster.check()?;
    clients.iter().try_for_each(Client::check)?;
    Ok(begun.elapsed())
}

fn cluster_is_whole(volumes: &Value) -> Result<()> {
    if list(volumes).len() != VOLUMES.len() {
        return Err(format!("there are {} volumes", list(volumes).len()).into());
    }
    for (volume, copies) in list(volumes).iter().zip(VOLUMES) {
        let online = list(&volume["replicas"]).iter().filter(|r| r["state"] == "online").count() as u64;
        let published = volume["device_uri"].as_str().is_some_and(|uri| !uri.is_empty());
        if volume["state"] != "online" || online != copies || !published {
            let (name, state, reason) = (&volume["name"], &volume["state"], &volume["reason"]);
            let replicas: Vec<String> =
                list(&volume["replicas"]).iter().map(|r| format!("{} {}", r["node"], r["state"])).collect();
            let replicas = replicas.join(", ");
            return Err(format!("{name} is {state} with {online} of {copies} copies: {reason} [{replicas}]").into());
        }
    }
    Ok(())
}

/// Every acknowledged write is there, through the volumes and on each copy.
fn verify(cluster: &mut Cluster, clients: Vec<Client>, defect: bool) -> Result<u64> {
    let volumes = cluster.command(&["volume", "list"])?;
    lead(cluster, &clients);
    let mut units = 0;
    for client in clients {
        units += client.verify()?;
    }
    let copies: Vec<_> = list(&volumes).iter().map(|v| copies::of(v, cluster)).collect();
    cluster.check()?;
    cluster.stop()?;
    if let (true, Some(copy)) = (defect, copies.first().and_then(|c| c.first())) {
        println!("chaos: a block of {copy:?} is spoiled on purpose: this run has to fail");
        copies::spoil(copy.clone())?;
    }
    for (copies, count) in copies.into_iter().zip(VOLUMES) {
        if copies.len() as u64 != count {
            return Err(format!("{} copies instead of {count} to compare", copies.len()).into());
        }
        copies::same(copies, VOLUME_BYTES)?;
    }
    Ok(units)
}
