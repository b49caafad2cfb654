//! The processes of a cluster on one machine: start, watch, stop.

use std::fs::{File, TryLockError};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use access::{Channel, Dial};
use api::v1;
use control::Control;
use rustix::process::{Pid, Signal};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::POOL;
use crate::access::{Auth, Credentials, Doors, Place};
use crate::control::{Http, listen_http};
use crate::failure::{Done, Failure};

/// Tells a process whose child it is: it ends when that process does. The tests use it too.
const PARENT: &str = "MAYASTOR_PARENT";
/// How long nodes may take to come up, with all that they hold.
const START: Duration = Duration::from_secs(60);
/// How long an engine may take to stop before it is killed.
const STOP: Duration = Duration::from_secs(15);

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    /// How many storage nodes.
    pub nodes: u16,
    /// The size of each pool's file.
    pub pool_size: u64,
    /// Where everything is kept.
    pub dir: PathBuf,
    /// The first gRPC port.
    pub base_port: u16,
    /// The first NVMe/TCP port.
    pub nvme_port: u16,
    /// The port of the page; 0: none. Absent: the usual one, when it is free.
    pub http_port: Option<u16>,
    /// After how many seconds copies on a node that is away are replaced.
    pub node_grace: f64,
    /// How often engines report, in seconds.
    pub heartbeat: f64,
    /// Whether callers must show a token.
    pub auth: Auth,
    /// What becomes of an engine that died.
    pub restart: Restart,
}

/// What becomes of an engine that died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// It stays dead.
    Never,
    /// It is started again after this time.
    After(Duration),
}

/// A node.
pub struct Member {
    /// Its name.
    pub name: String,
    grpc: SocketAddr,
    nvme: SocketAddr,
    life: Life,
}

/// Whether a node's engine runs.
///
/// ```text
///   Running ──(it dies)──► Dead ──(time to start again)──► Running
/// ```
enum Life {
    Running(Child),
    Dead(Instant),
}

/// A cluster on this machine.
pub struct Cluster {
    setup: Setup,
    members: Vec<Member>,
    control: Control,
    address: SocketAddr,
    page: Option<SocketAddr>,
    served: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    http: Option<(watch::Sender<()>, JoinHandle<()>)>,
    dial: Dial,
    note: Option<String>,
    /// Held for as long as the cluster runs.
    _lock: File,
}

/// When this process is an engine of `mayastor up`, or a part of a test: makes it end with that, at once and even while
/// it is stopped or does not listen. It is a crash, and a crash loses nothing. To be called first thing.
pub fn follow_parent() {
    let Ok(parent) = std::env::var(PARENT) else { return };
    // When it cannot be set up, the process merely outlives a parent that was killed.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let alive = rustix::process::getppid().is_some_and(|pid| pid.as_raw_nonzero().to_string() == parent);
    if !alive {
        // It died before we could ask for the signal.
        std::process::exit(1);
    }
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Takes the directory for this process.
fn lock(dir: &Path) -> Result<File, Failure> {
    let cannot = |e: std::io::Error| Failure::failed(format!("the directory {} cannot be used: {e}", dir.display()));
    std::fs::create_dir_all(dir).map_err(cannot)?;
    let file = File::options().create(true).truncate(false).write(true).open(dir.join("lock")).map_err(cannot)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let dir = dir.display();
            Err(Failure::failed(format!("another `mayastor up` uses {dir}; stop it, or choose another --data-dir")))
        }
        Err(TryLockError::Error(e)) => Err(cannot(e)),
    }
}

/// Makes the pool's file, sparse; one that is there stays as it is.
fn pool_file(path: &Path, size: u64) -> Done {
    let cannot = |e: std::io::Error| Failure::failed(format!("{} cannot be made: {e}", path.display()));
    if path.exists() {
        return Ok(());
    }
    // Under its name only once it is whole.
    let new = path.with_extension("new");
    File::create(&new).and_then(|f| f.set_len(size)).and_then(|()| std::fs::rename(&new, path)).map_err(cannot)
}

impl Cluster {
    /// Starts the control plane and all engines; [`ready`](Cluster::ready) waits for them.
    pub async fn start(setup: &Setup) -> Result<Cluster, Failure> {
        let lock = lock(&setup.dir)?;
        let mut setup = setup.clone();
        setup.dir = setup.dir.canonicalize().map_err(Failure::failed)?;
        let ports = |n: u16| (setup.base_port + if n == 0 { 0 } else { n + 1 }, setup.nvme_port + n);
        let taken = |what: &str, at: SocketAddr, e: std::io::Error| {
            Failure::failed(format!(
                "{what} cannot use {at}: {e}; is another Mayastor running? (--base-port and --nvme-port choose others)"
            ))
        };
        let mut members = Vec::new();
        for n in 0..setup.nodes {
            let (grpc, nvme) = ports(n);
            let name = format!("node-{}", n + 1);
            for port in [grpc, nvme] {
                // Looked at before anything starts, so that all is well or nothing is.
                TcpListener::bind(address(port)).await.map_err(|e| taken(&name, address(port), e))?;
            }
            members.push(Member { name, grpc: address(grpc), nvme: address(nvme), life: Life::Dead(Instant::now()) });
        }
        let at = address(setup.base_port + 1);
        let listener = TcpListener::bind(at).await.map_err(|e| taken("the control plane", at, e))?;
        let http = setup.http_port.map(|port| if port == 0 { Http::None } else { Http::At(address(port)) });
        let web = listen_http(http).await?;
        let page = web.as_ref().and_then(|listener| listener.local_addr().ok());
        let doors = Doors { auth: setup.auth, ..Doors::default() };
        let place = Place { ports: &[at], data_dir: Some(&setup.dir) };
        let (access, note) = doors.open(&Credentials::default(), place)?;
        let dial = access.dial.clone();
        let options = control::Options { access, ..crate::control::options(setup.node_grace, setup.heartbeat) };
        let control = crate::control::open(&setup.dir.join("control"), options).await?;
        let (stop, stopped) = oneshot::channel();
        let server = control.clone();
        let task = tokio::spawn(async move {
            let stopped = async move {
                // A sender that is gone is a stop too.
                let _ = stopped.await;
            };
            if let Err(error) = server.serve(listener, stopped).await {
                tracing::error!("the control plane's server failed: {error}");
            }
        });
        let http = web.map(|listener| {
            let (stop, stopped) = watch::channel(());
            (stop, tokio::spawn(crate::control::serve_http(control.clone(), listener, stopped)))
        });
        let served = Some((stop, task));
        let mut cluster = Cluster { setup, members, control, address: at, page, served, http, dial, note, _lock: lock };
        for n in 0..cluster.members.len() {
            if let Err(failure) = cluster.spawn(n) {
                cluster.stop().await;
                return Err(failure);
            }
        }
        Ok(cluster)
    }

    fn node_dir(&self, name: &str) -> PathBuf {
        self.setup.dir.join(name)
    }
    /// The file of a node's pool.
    pub fn pool_path(&self, name: &str) -> PathBuf {
        self.node_dir(name).join("pool.img")
    }

    /// Starts the engine of a node.
    fn spawn(&mut self, n: usize) -> Done {
        let Member { name, grpc, nvme, .. } = &self.members[n];
        let dir = self.node_dir(name);
        let cannot = |e: std::io::Error| Failure::failed(format!("{name} cannot be started: {e}"));
        std::fs::create_dir_all(&dir).map_err(cannot)?;
        pool_file(&self.pool_path(name), self.setup.pool_size)?;
        let log = File::options().create(true).append(true).open(dir.join("engine.log")).map_err(cannot)?;
        let child = Command::new(std::env::current_exe().map_err(cannot)?)
            .arg("engine")
            .args(["--node-name", name, "--grpc", &grpc.to_string(), "--nvme", &nvme.to_string()])
            // All engines are on one address: each takes ports of its own, and keeps them.
            .args(["--iscsi-nexus-port", "0", "--iscsi-replica-port", "0", "--nbd-port", "0"])
            .args(["--control", &self.address.to_string(), "--log", "info"])
            .arg("--config")
            .arg(dir.join("config.yaml"))
            .args(self.note.iter().flat_map(|_| ["--auth", "on", "--token-file"]))
            .args(self.note.iter().map(|_| self.setup.dir.join("cluster.token")))
            .env(PARENT, std::process::id().to_string())
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(cannot)?)
            .stderr(log)
            // A ctrl-C in the terminal is for us; we stop the engines in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(cannot)?;
        self.members[n].life = Life::Running(child);
        Ok(())
    }

    /// The control plane.
    pub fn control(&self) -> &Control {
        &self.control
    }
    /// Where clients reach the control plane.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
    /// What whoever started it must know to be let in.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }
    /// Where the page is.
    pub fn page(&self) -> Option<SocketAddr> {
        self.page
    }
    /// Where everything is kept.
    pub fn dir(&self) -> &Path {
        &self.setup.dir
    }
    /// The nodes with the ids of their processes.
    pub fn processes(&self) -> Vec<(String, Option<u32>)> {
        let id = |m: &Member| match &m.life {
            Life::Running(child) => child.id(),
            Life::Dead(_) => None,
        };
        self.members.iter().map(|m| (m.name.clone(), id(m))).collect()
    }

    /// Waits until all nodes are there with their pools.
    pub async fn ready(&mut self) -> Done {
        let until = Instant::now() + START;
        let mut seen = 0;
        loop {
            let status = self.control.status();
            let missing: Vec<String> = self
                .members
                .iter()
                .map(|m| m.name.clone())
                .filter(|name| !status.nodes.iter().any(|n| n.id == *name && n.state == "online"))
                .collect();
            if missing.is_empty() {
                break;
            }
            for member in &mut self.members {
                if let Life::Running(child) = &mut member.life
                    && let Ok(Some(exit)) = child.try_wait()
                {
                    let log = self.setup.dir.join(&member.name).join("engine.log");
                    return Err(Failure::failed(format!("{} ended at once ({exit}): {}", member.name, tail(&log))));
                }
            }
            if Instant::now() > until {
                let names = missing.join(", ");
                return Err(Failure::failed(format!(
                    "{names} did not come up; see engine.log in {}",
                    self.dir().display()
                )));
            }
            let changed = tokio::time::timeout(Duration::from_millis(100), self.control.changed(seen)).await;
            seen = changed.unwrap_or(seen);
        }
        for n in 0..self.members.len() {
            self.ensure_pool(&self.members[n].name.clone()).await?;
        }
        // A pool counts once its engine has reported it: a volume that is asked for at once must find all of them.
        let mut seen = 0;
        while let Some(name) = self.members.iter().map(|m| &m.name).find(|name| !self.has_pool(name)) {
            if Instant::now() > until {
                return Err(Failure::failed(format!("the pool of {name} was made but is not reported")));
            }
            let changed = tokio::time::timeout(Duration::from_millis(100), self.control.changed(seen)).await;
            seen = changed.unwrap_or(seen);
        }
        Ok(())
    }

    fn has_pool(&self, node: &str) -> bool {
        let status = self.control.status();
        status.pools.iter().any(|p| p.node == node && p.pool.as_ref().is_some_and(|p| p.name == POOL))
    }

    /// Creates a node's pool, unless it is there. A pool that its engine knows and cannot open is left alone.
    async fn ensure_pool(&self, name: &str) -> Done {
        if self.has_pool(name) {
            return Ok(());
        }
        let pool = v1::CreatePoolRequest {
            name: POOL.to_owned(),
            disks: vec![format!("aio://{}", self.pool_path(name).display())],
            ..Default::default()
        };
        let mut client = self.client().await?;
        let made = client.create_pool(v1::NodePoolRequest { node: name.to_owned(), pool: Some(pool) }).await;
        made.map(drop).map_err(|status| Failure::failed(format!("the pool of {name}: {}", status.message())))
    }

    /// A client of the control plane.
    pub async fn client(&self) -> Result<v1::control_client::ControlClient<Channel>, Failure> {
        let cannot = |e| Failure::failed(format!("the control plane cannot be reached: {e}"));
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", self.address)).map_err(cannot)?;
        let channel = self.dial.connect(&endpoint).await.map_err(cannot)?;
        Ok(v1::control_client::ControlClient::new(channel))
    }

    /// Kills a node's engine: no farewell, as when the power fails.
    pub async fn kill(&mut self, name: &str) -> Done {
        let Some(member) = self.members.iter_mut().find(|m| m.name == name) else {
            return Err(Failure::not_found(format!("there is no node {name}")));
        };
        if let Life::Running(child) = &mut member.life {
            child.kill().await.map_err(|e| Failure::failed(format!("{name} cannot be killed: {e}")))?;
            member.life = Life::Dead(Instant::now());
        }
        Ok(())
    }

    /// Waits until something happens to an engine, does what is to be done, and says so.
    pub async fn tend(&mut self) -> String {
        loop {
            tokio::time::sleep(Duration::from_millis(250)).await;
            for n in 0..self.members.len() {
                let name = self.members[n].name.clone();
                match &mut self.members[n].life {
                    Life::Running(child) => {
                        if let Ok(Some(exit)) = child.try_wait() {
                            self.members[n].life = Life::Dead(Instant::now());
                            let then = match self.setup.restart {
                                Restart::Never => String::new(),
                                Restart::After(time) => format!("; it is started again in {} s", time.as_secs()),
                            };
                            return format!("the engine of {name} died ({exit}){then}");
                        }
                    }
                    Life::Dead(since) => {
                        let Restart::After(time) = self.setup.restart else { continue };
                        if since.elapsed() < time {
                            continue;
                        }
                        self.members[n].life = Life::Dead(Instant::now());
                        return match self.spawn(n) {
                            Ok(()) => format!("the engine of {name} was started again"),
                            Err(failure) => failure.to_string(),
                        };
                    }
                }
            }
        }
    }

    /// Stops everything in order: engines first, so that they can record what they have to.
    pub async fn stop(mut self) {
        for member in &self.members {
            if let Life::Running(child) = &member.life
                && let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed()))
            {
                // One that has ended by itself does not mind.
                let _ = rustix::process::kill_process(pid, Signal::TERM);
            }
        }
        let until = Instant::now() + STOP;
        for member in &mut self.members {
            if let Life::Running(child) = &mut member.life
                && tokio::time::timeout_at(until, child.wait()).await.is_err()
            {
                tracing::warn!("{} does not stop and is killed", member.name);
                let _ = child.kill().await;
            }
        }
        if let Some((stop, task)) = self.http.take() {
            drop(stop);
            let _ = tokio::time::timeout(Duration::from_secs(1), task).await;
        }
        if let Some((stop, task)) = self.served.take() {
            let _ = stop.send(());
            let _ = tokio::time::timeout(Duration::from_secs(3), task).await;
        }
    }
}

/// The last line of a log.
fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("it said nothing").to_owned()
}
