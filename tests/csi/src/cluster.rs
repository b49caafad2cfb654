//! The cluster and both plugins as processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use api::csi::controller_client::ControllerClient;
use api::csi::node_client::NodeClient;
use tonic::transport::{Channel, Endpoint};

use crate::{Args, Result};

const GRPC_PORT: u16 = 27_124;
const NVME_PORT: u16 = 27_420;
/// How many volumes the node takes; the suite fills it up.
pub const MAX_VOLUMES: u32 = 6;
/// How long processes may take to come up.
const START: Duration = Duration::from_secs(60);

/// Everything. Its processes end with this value.
pub struct Cluster {
    program: PathBuf,
    /// Where everything is.
    pub folder: PathBuf,
    /// Our own cluster, unless there was one.
    up: Option<Child>,
    control: String,
    transport: String,
    controller: Child,
    node: Option<Child>,
}

impl Cluster {
    /// Starts three engines, a control plane, the controller and the node plugin.
    pub async fn start(args: &Args) -> Result<Cluster> {
        let (program, folder) = (&args.mayastor, &args.folder);
        fs::create_dir_all(folder)?;
        let folder = folder.canonicalize()?;
        clean(&folder);
        for part in ["up", "state", "mounts"] {
            let _ = fs::remove_dir_all(folder.join(part));
        }
        fs::create_dir_all(folder.join("mounts"))?;
        let program = program.canonicalize().map_err(|e| format!("{}: {e}; build it first", program.display()))?;
        let ports = [GRPC_PORT.to_string(), NVME_PORT.to_string()];
        let control = args.control.clone().unwrap_or_else(|| format!("127.0.0.1:{}", GRPC_PORT + 1));
        let mut up = None;
        if args.control.is_none() {
            up = Some(spawn(&program, &folder, "up", |c| {
                c.args([
                    "up",
                    "--base-port",
                    &ports[0],
                    "--nvme-port",
                    &ports[1],
                    "--pool-size",
                    "4GiB",
                    "--node-grace",
                    "3",
                ]);
                c.arg("--data-dir").arg(folder.join("up"));
            })?);
        }
        let limit = MAX_VOLUMES.to_string();
        let controller = spawn(&program, &folder, "controller", |c| {
            c.args(["csi", "controller", "--max-volumes", &limit, "--control", &control]);
            c.arg("--socket").arg(folder.join("controller.sock"));
        })?;
        let end = Instant::now() + START;
        loop {
            let pools = Command::new(&program).args(["--control", &control, "-q", "status", "-o", "json"]).output()?;
            let status: serde_json::Value = serde_json::from_slice(&pools.stdout).unwrap_or_default();
            if status["pools"].as_array().is_some_and(|pools| pools.len() >= 3) {
                break;
            }
            if let Some(ended) = up.as_mut().map(Child::try_wait).transpose()?.flatten() {
                return Err(format!("mayastor up ended ({ended}); see {}/up.log", folder.display()).into());
            }
            if Instant::now() > end {
                let _ = up.as_mut().map(Child::kill);
                return Err(format!("the cluster did not come up; see {}/up.log", folder.display()).into());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let mut cluster =
            Cluster { program, folder, up, control, transport: args.transport.clone(), controller, node: None };
        cluster.start_node(None).await?;
        Ok(cluster)
    }

    /// Starts the node plugin, which may be told to die before a step.
    pub async fn start_node(&mut self, die_before: Option<&str>) -> Result<()> {
        self.kill_node();
        let (folder, limit) = (self.folder.clone(), MAX_VOLUMES.to_string());
        let (control, transport) = (self.control.clone(), self.transport.clone());
        let node = spawn(&self.program, &folder, "node", |c| {
            c.args(["csi", "node", "--node-name", "worker", "--transport", &transport, "--max-volumes", &limit]);
            c.args(["--control", &control]);
            c.arg("--socket").arg(folder.join("node.sock")).arg("--state-dir").arg(folder.join("state"));
            c.args(die_before.map(|step| ["--die-before", step]).into_iter().flatten());
        })?;
        self.node = Some(node);
        let end = Instant::now() + START;
        while self.node().await.is_err() {
            if Instant::now() > end {
                return Err("the node plugin did not come up".into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Kills the node plugin with SIGKILL.
    pub fn kill_node(&mut self) {
        if let Some(mut node) = self.node.take() {
            let _ = node.kill();
            let _ = node.wait();
        }
    }

    async fn channel(&self, socket: &str) -> Result<Channel> {
        let path = self.folder.join(socket);
        Ok(Endpoint::from_shared(format!("unix://{}", path.display()))?
            .timeout(Duration::from_secs(90))
            .connect()
            .await?)
    }
    /// A client of the controller.
    pub async fn controller(&self) -> Result<ControllerClient<Channel>> {
        Ok(ControllerClient::new(self.channel("controller.sock").await?))
    }
    /// A client of the node plugin.
    pub async fn node(&self) -> Result<NodeClient<Channel>> {
        Ok(NodeClient::new(self.channel("node.sock").await?))
    }

    /// An error that names what is left of volumes on this machine.
    pub fn nothing_left(&self) -> Result<()> {
        let mut left = Vec::new();
        let ours = self.folder.display().to_string();
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        left.extend(mounts.lines().filter(|l| l.contains(&ours)).map(|l| format!("mount: {l}")));
        left.extend(loops(&self.folder).into_iter().map(|d| format!("loop device: {}", d.display())));
        left.extend(helpers(&self.folder).into_iter().map(|pid| format!("process: {pid}")));
        for entry in fs::read_dir("/sys/class/nvme").into_iter().flatten().flatten() {
            let nqn = fs::read_to_string(entry.path().join("subsysnqn")).unwrap_or_default();
            let state = fs::read_to_string(entry.path().join("state")).unwrap_or_default();
            if nqn.starts_with("nqn.2019-05.io.openebs:nexus-") && !state.starts_with("deleting") {
                left.push(format!("connection: {} {}", nqn.trim(), state.trim()));
            }
        }
        let state = fs::read_dir(self.folder.join("state"))?.flatten();
        for entry in state.filter(|e| e.file_name() != "hostid") {
            left.push(format!("state: {}", entry.path().display()));
        }
        for entry in fs::read_dir(self.folder.join("mounts"))?.flatten() {
            if fs::read_dir(entry.path()).is_ok_and(|mut inside| inside.next().is_some()) {
                left.push(format!("target: {}", entry.path().display()));
            }
        }
        if left.is_empty() { Ok(()) } else { Err(left.join("\n").into()) }
    }

    /// The ends of the logs, for a failure report.
    pub fn logs(&self) -> String {
        let mut all = String::new();
        for name in ["controller", "node", "up"] {
            let text = fs::read_to_string(self.folder.join(format!("{name}.log"))).unwrap_or_default();
            let tail: Vec<&str> = text.lines().rev().take(20).collect();
            all += &format!("--- {name}\n");
            all.extend(tail.into_iter().rev().map(|line| format!("{line}\n")));
        }
        all
    }
}

fn spawn(program: &Path, folder: &Path, name: &str, arguments: impl FnOnce(&mut Command)) -> Result<Child> {
    let log = fs::OpenOptions::new().create(true).append(true).open(folder.join(format!("{name}.log")))?;
    let mut command = Command::new(program);
    arguments(&mut command);
    // Nothing may outlive a run that is killed.
    command.env("MAYASTOR_PARENT", std::process::id().to_string());
    Ok(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?)
}

/// Loop devices of files in the folder.
fn loops(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let file = fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        if Path::new(file.trim()).starts_with(folder) {
            found.push(Path::new("/dev").join(entry.file_name()));
        }
    }
    found
}

/// Processes that serve volumes of the folder.
fn helpers(folder: &Path) -> Vec<u32> {
    let mark = folder.join("state").display().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<String> = line.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
        if words.get(1).is_some_and(|w| w == "attach") && words.iter().any(|w| w.starts_with(&mark)) {
            found.push(pid);
        }
    }
    found
}

/// Takes away what a run left in the folder that was cut short.
fn clean(folder: &Path) {
    for pid in helpers(folder) {
        let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
    }
    for _ in 0..4 {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for point in mounts.lines().filter_map(|l| l.split(' ').nth(4)).filter(|p| Path::new(p).starts_with(folder)) {
            let _ = Command::new("umount").args(["-l", point]).status();
        }
    }
    for device in loops(folder) {
        let _ = Command::new("losetup").arg("-d").arg(device).status();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill_node();
        let _ = self.controller.kill();
        let _ = self.controller.wait();
        clean(&self.folder);
        // In order, so that the engines end too.
        if let Some(up) = &mut self.up {
            let _ = Command::new("kill").arg(up.id().to_string()).status();
            let _ = up.wait();
        }
    }
}
