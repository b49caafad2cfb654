//! Storage nodes that exist only in memory, behind the real gRPC service, and a control plane that can be killed.
//!
//! A nexus of such a node writes a new version to its members in sync at every tick, notices members that are gone,
//! records its ledger with the control plane, and rebuilds. The world notes every offence against the rules.
#![allow(clippy::disallowed_methods, reason = "tests live in the real world")]

mod engine;
mod store;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use api::v1;
use api::v1::control_client::ControlClient;
use control::store::Store;
use control::{Control, Options};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::transport::Channel;

#[allow(unused_imports, reason = "each suite uses a part of it")]
pub use store::{CrashStore, When};

pub const GIB: u64 = 1 << 30;

/// A replica; it survives the death of its engine.
#[derive(Clone, Debug)]
pub struct FakeReplica {
    pub pool: String,
    pub size: u64,
    pub thin: bool,
    pub shared: bool,
    pub version: u64,
}

/// A child of a nexus.
#[derive(Clone, Debug)]
pub struct FakeChild {
    pub uri: String,
    pub state: v1::ChildState,
    pub percent: u64,
}

/// A nexus; it survives too, as the real one does through the engine's configuration.
#[derive(Clone, Debug)]
pub struct FakeNexus {
    pub size: u64,
    pub children: Vec<FakeChild>,
    pub published: bool,
    pub generation: u64,
    pub in_sync: Vec<String>,
    pub faulted: bool,
    /// The ledger that the control plane is known to have.
    pub recorded: u64,
}

/// What an engine has on its disks.
#[derive(Default)]
pub struct FakeNode {
    pub pools: BTreeMap<String, u64>,
    pub replicas: BTreeMap<String, FakeReplica>,
    pub nexuses: BTreeMap<String, FakeNexus>,
    pub changes: u64,
    process: Option<Process>,
    address: Option<SocketAddr>,
}

struct Process {
    kill: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// Everything.
#[derive(Default)]
pub struct Everything {
    pub nodes: BTreeMap<String, FakeNode>,
    /// The last acknowledged version of each volume.
    pub acked: BTreeMap<String, u64>,
    pub offences: Vec<String>,
}

/// A handle to everything.
#[derive(Clone)]
pub struct World {
    all: Arc<Mutex<Everything>>,
    pub control_address: SocketAddr,
    control: Arc<Mutex<Option<Process>>>,
}

pub fn options() -> Options {
    let mut options = Options::default();
    options.settings.node_grace_ms = 300;
    options.settings.fault_grace_ms = 100;
    options.settings.reopen_ms = 100;
    options.settings.retry_ms = 1_000;
    options.settings.stuck_ms = 1_000;
    options.heartbeat = Duration::from_millis(100);
    options.tick = Duration::from_millis(50);
    options.retry = Duration::from_millis(30);
    options.rpc_deadline = Duration::from_secs(3);
    options.client_wait = Duration::from_secs(5);
    options
}

impl World {
    /// Nodes node-1 … node-N with one pool `pool` of 10 GiB each.
    pub fn new(nodes: usize) -> World {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let world = World { all: Arc::default(), control_address: free, control: Arc::default() };
        for n in 1..=nodes {
            let node = FakeNode { pools: BTreeMap::from([("pool".to_owned(), 10 * GIB)]), ..FakeNode::default() };
            world.lock().nodes.insert(format!("node-{n}"), node);
            world.start(&format!("node-{n}"));
        }
        world
    }

    pub fn lock(&self) -> MutexGuard<'_, Everything> {
        self.all.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    // ---- processes ---------------------------------------------------------------------------------------------------

    pub fn start(&self, node: &str) {
        let (kill, killed) = oneshot::channel();
        let (world, name) = (self.clone(), node.to_owned());
        let instance = uuid::Uuid::new_v4().to_string();
        let address = self.lock().nodes[node].address;
        let (bound, address) = {
            let listener = bind(address);
            let address = listener.local_addr().unwrap();
            (listener, address)
        };
        let thread = std::thread::spawn(move || {
            run(async move {
                let listener = TcpListener::from_std(bound).unwrap();
                tokio::select! {
                    () = engine::run(world, name, instance, listener) => {}
                    _ = killed => {}
                }
            });
        });
        let mut all = self.lock();
        let fake = all.nodes.get_mut(node).unwrap();
        fake.address = Some(address);
        fake.process = Some(Process { kill, thread });
    }

    /// SIGKILL: all its connections break, its disks stay.
    pub fn kill(&self, node: &str) {
        let process = self.lock().nodes.get_mut(node).unwrap().process.take();
        if let Some(Process { kill, thread }) = process {
            let _ = kill.send(());
            thread.join().unwrap();
        }
    }

    pub fn start_control(&self, store: Arc<dyn Store>, options: Options) {
        let (kill, killed) = oneshot::channel();
        let address = self.control_address;
        let thread = std::thread::spawn(move || {
            let listener = bind(Some(address));
            run(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                let serve = async {
                    let control = Control::start(store, options).await.unwrap();
                    control.serve(listener, std::future::pending()).await.unwrap();
                };
                tokio::select! {
                    () = serve => {}
                    _ = killed => {}
                }
            });
        });
        *self.control.lock().unwrap() = Some(Process { kill, thread });
    }

    pub fn kill_control(&self) {
        if let Some(Process { kill, thread }) = self.control.lock().unwrap().take() {
            let _ = kill.send(());
            thread.join().unwrap();
        }
    }

    pub async fn client(&self) -> ControlClient<Channel> {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", self.control_address)).unwrap();
        eventually("the control plane answers", async || endpoint.connect().await.ok().map(ControlClient::new)).await
    }

    /// Waits until the volume satisfies `wish`.
    pub async fn volume(&self, name: &str, what: &str, wish: impl Fn(&v1::Volume) -> bool) -> v1::Volume {
        let last = Mutex::new(None);
        let started = Instant::now();
        eventually(&format!("{name}: {what}"), async || {
            let mut client = self.client().await;
            let volume = client.get_volume(v1::VolumeName { name: name.to_owned() }).await.ok()?.into_inner();
            let done = wish(&volume);
            *last.lock().unwrap() = Some(volume.clone());
            assert!(done || started.elapsed() < Duration::from_secs(50), "never {what}: {:#?}", last.lock().unwrap());
            done.then_some(volume)
        })
        .await
    }

    // ---- what must hold ------------------------------------------------------------------------------------------------

    pub fn assert_no_offence(&self) {
        let all = self.lock();
        assert!(all.offences.is_empty(), "{:#?}", all.offences);
    }

    /// The nodes that hold a replica, in order.
    pub fn holders(&self) -> Vec<String> {
        let all = self.lock();
        all.nodes.iter().flat_map(|(n, node)| node.replicas.keys().map(|_| n.clone())).collect()
    }
    /// The nodes that run a nexus.
    pub fn nexus_nodes(&self) -> Vec<String> {
        let all = self.lock();
        all.nodes.iter().filter(|(_, n)| !n.nexuses.is_empty()).map(|(n, _)| n.clone()).collect()
    }
}

impl Everything {
    fn alive(&self, node: &str) -> bool {
        self.nodes.get(node).is_some_and(|n| n.process.is_some())
    }

    /// The replica behind a child's URI as the nexus on `node` reaches it.
    pub fn reach(&mut self, node: &str, uri: &str) -> Option<&mut FakeReplica> {
        if let Some(id) = uri.strip_prefix("bdev:///") {
            return self.nodes.get_mut(node)?.replicas.get_mut(id);
        }
        let (owner, id) = uri.strip_prefix("nvmf://")?.split_once(":8420/nqn.2019-05.io.openebs:")?;
        let reachable = self.alive(owner);
        self.nodes.get_mut(owner).filter(|_| reachable)?.replicas.get_mut(id).filter(|r| r.shared)
    }
}

fn run(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future);
    // Dropping the runtime drops every task and connection: that is the kill.
}

fn bind(address: Option<SocketAddr>) -> std::net::TcpListener {
    let started = Instant::now();
    loop {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        match std::net::TcpListener::bind(address.unwrap_or(any)) {
            Ok(listener) => {
                listener.set_nonblocking(true).unwrap();
                return listener;
            }
            Err(e) if started.elapsed() > Duration::from_secs(10) => panic!("{address:?}: {e}"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Asks again and again; a minute is forever.
pub async fn eventually<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
