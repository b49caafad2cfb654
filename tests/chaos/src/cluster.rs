//! The processes: a control plane and engines, each in a network namespace of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::Result;
use crate::net::{self, CONTROL};

/// How long a client command may take, in seconds.
const CALL: u64 = 5;
/// The size of each pool's file, sparse.
const POOL_BYTES: u64 = 1 << 30;

/// The file with the cluster's token.
const TOKEN: &str = "token";

/// A process of the cluster. It may be paused while it runs.
///
/// ```text
///   Down ── start ──► Up ── pause ──► Paused
///    ▲                │  ◄── resume ──  │
///    └───── kill ─────┴──────── kill ───┘
/// ```
enum Life {
    Down,
    Up(Child),
    Paused(Child),
}

/// All processes; they end with this value, and with this process.
pub struct Cluster {
    program: PathBuf,
    folder: PathBuf,
    nodes: usize,
    /// By member: the nodes, then the control plane.
    lives: Vec<Life>,
}

/// The name of a node.
pub fn node_name(node: usize) -> String {
    format!("node-{node}")
}

impl Cluster {
    /// Starts everything, with a pool on each node, and waits until all is there.
    pub fn start(program: &Path, folder: &Path, nodes: usize) -> Result<Cluster> {
        fs::create_dir_all(folder)?;
        // All of them are reached over a network: they want the cluster's token, and show it.
        fs::write(folder.join(TOKEN), "chaos-chaos-chaos-chaos-chaos-chaos")?;
        let lives = (0..=CONTROL).map(|_| Life::Down).collect();
        let mut cluster = Cluster { program: program.to_owned(), folder: folder.to_owned(), nodes, lives };
        for member in cluster.members() {
            net::join(member)?;
            cluster.begin(member)?;
        }
        for node in 0..nodes {
            let disk = cluster.disk(node);
            fs::File::create(&disk)?.set_len(POOL_BYTES)?;
            let words = ["pool", "create", "pool", &disk.display().to_string()].map(str::to_owned);
            let at = format!("{}:10124", net::address(node));
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            cluster.until("a pool can be made", Duration::from_secs(60), |c| {
                c.client(&["--engine", &at], &words).map(|_| true)
            })?;
        }
        cluster.until("all pools are reported", Duration::from_secs(60), |c| {
            let status = c.command(&["status"])?;
            Ok(list(&status["pools"]).len() == nodes)
        })?;
        Ok(cluster)
    }

    /// All members: the nodes and the control plane.
    pub fn members(&self) -> Vec<usize> {
        (0..self.nodes).chain([CONTROL]).collect()
    }

    /// The file of a node's pool.
    pub fn disk(&self, node: usize) -> PathBuf {
        self.folder.join(format!("{}.img", node_name(node)))
    }

    /// Starts a member that is down.
    pub fn begin(&mut self, member: usize) -> Result<()> {
        let name = if member == CONTROL { "control".to_owned() } else { node_name(member) };
        let log = fs::OpenOptions::new().create(true).append(true).open(self.folder.join(format!("{name}.log")))?;
        let (at, control) = (net::address(member), net::address(CONTROL));
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &net::namespace(member)]).arg(&self.program);
        if member == CONTROL {
            command.args(["control", "--grpc", &format!("{at}:10125"), "--node-grace", "4", "--heartbeat", "1"]);
            command.arg("--data-dir").arg(self.folder.join("control"));
        } else {
            command.args(["engine", "--node-name", &name, "--grpc", &format!("{at}:10124")]);
            command.args(["--nvme", &format!("{at}:8420"), "--control", &format!("{control}:10125"), "--config"]);
            command.arg(self.folder.join(format!("{name}.yaml")));
        }
        command.env("MAYASTOR_PARENT", std::process::id().to_string()).env_remove("RUST_LOG");
        command.env("MAYASTOR_TOKEN_FILE", self.folder.join(TOKEN));
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        self.lives[member] = Life::Up(child);
        Ok(())
    }

    /// Kills a member, as a crash would.
    pub fn kill(&mut self, member: usize) -> Result<()> {
        if let Life::Up(mut child) | Life::Paused(mut child) = std::mem::replace(&mut self.lives[member], Life::Down) {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Stops a member in the middle of whatever it does; [`Cluster::resume`] lets it go on as if nothing had been.
    pub fn pause(&mut self, member: usize) -> Result<()> {
        if let Life::Up(child) = std::mem::replace(&mut self.lives[member], Life::Down) {
            kill_process(Pid::from_child(&child), Signal::STOP)?;
            self.lives[member] = Life::Paused(child);
        }
        Ok(())
    }

    /// Lets a paused member go on.
    pub fn resume(&mut self, member: usize) -> Result<()> {
        if let Life::Paused(child) = std::mem::replace(&mut self.lives[member], Life::Down) {
            kill_process(Pid::from_child(&child), Signal::CONT)?;
            self.lives[member] = Life::Up(child);
        }
        Ok(())
    }

    /// An error when a member ended that nobody killed.
    pub fn check(&mut self) -> Result<()> {
        for (member, life) in self.lives.iter_mut().enumerate() {
            if let Life::Up(child) = life
                && let Some(status) = child.try_wait()?
            {
                let name = if member == CONTROL { "the control plane".to_owned() } else { node_name(member) };
                return Err(format!("{name} ended by itself: {status}").into());
            }
        }
        Ok(())
    }

    /// Asks everything to stop, and waits until it has.
    pub fn stop(&mut self) -> Result<()> {
        for life in &mut self.lives {
            if let Life::Up(child) = life {
                kill_process(Pid::from_child(child), Signal::TERM)?;
                child.wait()?;
                *life = Life::Down;
            }
        }
        Ok(())
    }

    /// A client command for the control plane; its JSON answer.
    pub fn command(&self, words: &[&str]) -> Result<Value> {
        self.client(&["--control", &format!("{}:10125", net::address(CONTROL))], words)
    }

    fn client(&self, to: &[&str], words: &[&str]) -> Result<Value> {
        let limit = if words.contains(&"--wait") { 60 } else { CALL };
        let mut command = Command::new(&self.program);
        command.args(to).args(["--timeout", &limit.to_string(), "-o", "json"]).args(words);
        command.env("MAYASTOR_TOKEN_FILE", self.folder.join(TOKEN));
        let output = command.stdin(Stdio::null()).output()?;
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
        loop {
            let last = match holds(self) {
                Ok(true) => return Ok(()),
                Ok(false) => String::new(),
                Err(e) => format!(" ({e})"),
            };
            if Instant::now() > end {
                return Err(format!("not within {limit:?}: {what}{last}").into());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for life in &mut self.lives {
            if let Life::Up(child) | Life::Paused(child) = life {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// The elements of a JSON list; none when it is something else.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
