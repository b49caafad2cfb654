//! `mayastor up` on ports of its own, and its engines to kill.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::Result;

/// See the module.
pub struct Cluster {
    program: PathBuf,
    up: Child,
    dir: PathBuf,
    base: u16,
}

impl Cluster {
    /// Starts four nodes and waits until they are there.
    pub fn start(program: &Path) -> Result<Cluster> {
        let dir = std::env::temp_dir().join(format!("mayastor-page-data-{}", std::process::id()));
        let base = free_ports()?;
        let mut up = Command::new(program)
            .args(["up", "--nodes", "4", "--no-restart", "--node-grace", "4", "--pool-size", "1GiB"])
            .args(["--base-port", &base.to_string(), "--http-port", &(base + 8).to_string()])
            .args(["--nvme-port", &(base + 10).to_string()])
            .arg("--data-dir")
            .arg(&dir)
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("{}: {e}", program.display()))?;
        let mut lines = BufReader::new(up.stdout.take().ok_or("no output")?).lines();
        let first = lines.next().ok_or("mayastor up said nothing")??;
        println!("  {first}");
        // Somebody must read the rest.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Cluster { program: program.to_owned(), up, dir, base })
    }

    /// Where the page is.
    pub fn page(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.base + 8))
    }
    /// A file of the test's in the cluster's directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
    /// Starts a client command.
    pub fn client(&self, arguments: &[&str]) -> Result<Child> {
        let control = format!("127.0.0.1:{}", self.base + 1);
        let mut command = Command::new(&self.program);
        command.args(["--control", &control]).args(arguments).stdout(Stdio::null());
        Ok(command.spawn()?)
    }
    /// Kills the engine of a node, as a power cut would.
    pub fn kill(&self, node: &str) -> Result<()> {
        let ours = self.up.id().to_string();
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
            let read = |name| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
            let parent = read("stat").rsplit(')').next().and_then(|s| s.split_whitespace().nth(1).map(str::to_owned));
            if parent.as_deref() == Some(&ours) && read("cmdline").split('\0').any(|a| a == node) {
                return Ok(kill_process(Pid::from_raw(pid).ok_or("no pid")?, Signal::KILL)?);
            }
        }
        Err(format!("the engine of {node} does not run").into())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.up.id().cast_signed()) {
            let _ = kill_process(pid, Signal::INT);
        }
        let _ = self.up.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// The first of fifteen free ports in a row, below those that the system gives away.
fn free_ports() -> Result<u16> {
    let start = 13_000 + u16::try_from(std::process::id() % 500)? * 20;
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let found = (0..400).map(|n| start.wrapping_add(n * 20)).find(|p| (*p..*p + 15).all(free));
    found.ok_or_else(|| "there are no fifteen free ports".into())
}
