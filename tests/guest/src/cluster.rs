//! Engines and a control plane as processes of this machine, driven by the client commands as a user would.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{HOST_ADDRESS, Result};

const CONTROL_PORT: u16 = 24_125;
const FIRST_GRPC_PORT: u16 = 24_200;
const FIRST_NVME_PORT: u16 = 24_420;

/// A cluster whose targets the guest can reach. Its processes end with this value.
pub struct Cluster {
    program: PathBuf,
    folder: PathBuf,
    control: Child,
    engines: Vec<Option<Child>>,
}

impl Cluster {
    /// Starts a control plane and `engines` engines, each with a pool `pool-K` of `pool_mib` MiB in a sparse file.
    pub fn start(program: &Path, folder: &Path, engines: usize, pool_mib: u64) -> Result<Cluster> {
        let _ = fs::remove_dir_all(folder);
        fs::create_dir_all(folder)?;
        let folder = folder.canonicalize()?;
        let program = program.canonicalize().map_err(|e| format!("{}: {e}; build it first", program.display()))?;
        let control = Command::new(&program)
            .args(["control", "--grpc", &format!("127.0.0.1:{CONTROL_PORT}"), "--node-grace", "3", "--data-dir"])
            .arg(folder.join("control"))
            // Nothing may outlive a run that is killed.
            .env("MAYASTOR_PARENT", std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(fs::File::create(folder.join("control.log"))?)
            .stderr(fs::File::create(folder.join("control.err"))?)
            .spawn()?;
        let mut cluster = Cluster { program, folder, control, engines: Vec::new() };
        for k in 0..engines {
            cluster.engines.push(None);
            cluster.start_engine(k)?;
            let disk = cluster.folder.join(format!("disk-{k}.img"));
            fs::File::create(&disk)?.set_len(pool_mib << 20)?;
            cluster.engine(k, &["pool", "create", &format!("pool-{k}"), &disk.display().to_string()])?;
        }
        cluster.until("all nodes are online", Duration::from_secs(30), |c| {
            let nodes = c.command(&["node", "list"])?;
            let online = nodes.as_array().into_iter().flatten().filter(|n| n["state"] == "online").count();
            Ok(online == engines)
        })?;
        Ok(cluster)
    }

    /// Starts an engine that does not run; it comes back with what its configuration says.
    pub fn start_engine(&mut self, k: usize) -> Result<()> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.folder.join(format!("node-{k}.log")))?;
        let process = Command::new(&self.program)
            .args(["engine", "--node-name", &format!("node-{k}"), "--grpc", &self.grpc(k)])
            .args(["--nvme", &format!("127.0.0.1:{}", self.nvme_port(k)), "--nvme-advertise", HOST_ADDRESS])
            .args(["--iscsi-nexus-port", "0", "--iscsi-replica-port", "0", "--nbd-port", "0"])
            .args(["--control", &format!("127.0.0.1:{CONTROL_PORT}"), "--config"])
            .arg(self.folder.join(format!("node-{k}.yaml")))
            .env("MAYASTOR_PARENT", std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.engines[k] = Some(process);
        self.until("the engine answers", Duration::from_secs(30), |c| Ok(c.engine(k, &["bdev", "list"]).is_ok()))
    }

    /// Kills an engine with SIGKILL.
    pub fn kill_engine(&mut self, k: usize) -> Result<()> {
        if let Some(mut process) = self.engines[k].take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    fn grpc(&self, k: usize) -> String {
        format!("127.0.0.1:{}", FIRST_GRPC_PORT + k as u16)
    }

    /// The program under test.
    pub fn program(&self) -> &Path {
        &self.program
    }
    /// The port of the control plane.
    pub fn control_port(&self) -> u16 {
        CONTROL_PORT
    }
    /// The port of an engine's NVMe/TCP target.
    pub fn nvme_port(&self, k: usize) -> u16 {
        FIRST_NVME_PORT + k as u16
    }

    /// A client command for an engine; its JSON answer.
    pub fn engine(&self, k: usize, words: &[&str]) -> Result<Value> {
        self.client(&["--engine", &self.grpc(k)], words)
    }

    /// A client command for the control plane; its JSON answer.
    pub fn command(&self, words: &[&str]) -> Result<Value> {
        self.client(&["--control", &format!("127.0.0.1:{CONTROL_PORT}")], words)
    }

    fn client(&self, to: &[&str], words: &[&str]) -> Result<Value> {
        let output = Command::new(&self.program).args(to).args(["-o", "json"]).args(words).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("mayastor {}: {}", words.join(" "), said.trim()).into());
        }
        if output.stdout.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Null);
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Asks again and again until it holds.
    pub fn until(&self, what: &str, limit: Duration, mut holds: impl FnMut(&Cluster) -> Result<bool>) -> Result<()> {
        let end = Instant::now() + limit;
        let mut last = String::new();
        loop {
            match holds(self) {
                Ok(true) => return Ok(()),
                Ok(false) => last.clear(),
                Err(e) => last = format!(" ({e})"),
            }
            if Instant::now() > end {
                return Err(format!("not within {limit:?}: {what}{last}").into());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// The logs of all processes, for a failure report.
    pub fn logs(&self) -> String {
        let mut all = String::new();
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|e| e == "log" || e == "err") {
                let text = fs::read_to_string(&path).unwrap_or_default();
                let tail: Vec<&str> = text.lines().rev().take(25).collect();
                all.push_str(&format!("--- {}\n", path.display()));
                for line in tail.into_iter().rev() {
                    all.push_str(line);
                    all.push('\n');
                }
            }
        }
        all
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for engine in self.engines.iter_mut().flatten() {
            let _ = engine.kill();
            let _ = engine.wait();
        }
        let _ = self.control.kill();
        let _ = self.control.wait();
    }
}
