//! The storage node: the calls that change it and the calls that look at it.
//!
//! ```text
//!   calls ──> pools ──> replicas ─┐                        ┌─> exports (NVMe/TCP target)
//!         ──> bdevs ──────────────┼─> registry of devices ─┤
//!         ──> nexuses ────────────┘    (name, user, share) └─> children of nexuses, disks of pools
//! ```
//!
//! Every call that changes something holds the lock of its object, and is answered once the configuration file has the
//! change. What the file names and cannot be brought back at a start stays in it, is listed as faulted with the reason,
//! and is tried again every few seconds.

mod bdevs;
mod changes;
mod children;
mod counted;
mod exports;
mod ledgers;
mod locks;
mod nbd_portal;
mod nexus_view;
mod nexuses;
mod pools;
mod portals;
mod publish;
mod registry;
mod replicas;
mod terms;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::time::Duration;

use futures_util::lock::Mutex;
use host::{Host, JoinHandle, Queue};
use iscsi::chap::Chap;
use uuid::Uuid;

use crate::config::{Config, VERSION};
use crate::model::{Error, ErrorKind, NodeReport, Protocol, SettingInfo};
use crate::remote::{OnRestart, RemoteOptions};
use crate::settings::NodeSettings;
use crate::uri::DeviceUri;
use crate::volume::{LedgerStore, NexusEvent, StoredLedger};

use bdevs::{Loss, LostBdev};
use changes::Changes;
use exports::Exports;
use locks::Locks;
use nexuses::NexusSlot;
use pools::PoolSlot;
use registry::Registry;
use replicas::ReplicaSlot;

/// How the names of our subsystems begin.
const NQN_PREFIX: &str = "nqn.2019-05.io.openebs:";
/// How long what is lost waits between two attempts to bring it back.
const RETRY: Duration = Duration::from_secs(2);
/// How long a start waits for everything to be back.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often the progress of rebuilds is reported.
const PROGRESS: Duration = Duration::from_millis(500);

/// How a node offers devices over iSCSI.
#[derive(Clone, Debug)]
pub struct IscsiNodeOptions {
    /// The port for nexuses and devices; 0 as for `nvmf_bind`.
    pub nexus_port: u16,
    /// The port for replicas; 0 as for `nvmf_bind`.
    pub replica_port: u16,
    /// Who may log in; `None`: everybody.
    pub chap: Option<Chap>,
}

impl Default for IscsiNodeOptions {
    fn default() -> IscsiNodeOptions {
        IscsiNodeOptions { nexus_port: 3260, replica_port: 3262, chap: None }
    }
}

/// How a node is started.
pub struct NodeOptions {
    /// The node's name, as the control plane knows it.
    pub id: String,
    /// Where the NVMe/TCP target listens. Port 0: the port of the last run as the configuration file has it, or one
    /// that the system chooses.
    pub nvmf_bind: SocketAddr,
    /// What hosts are told to connect to (`host:port`), when that differs from `nvmf_bind`.
    pub nvmf_advertised: Option<String>,
    /// iSCSI: on the address of `nvmf_bind`, from the first time that something is shared so.
    pub iscsi: IscsiNodeOptions,
    /// The port of the NBD server, on the address of `nvmf_bind`, from the first time that something is shared so; 0 as for
    /// `nvmf_bind`.
    pub nbd_port: u16,
    /// The configuration file (YAML). Without one nothing survives the process.
    pub config_path: Option<PathBuf>,
    /// Where managed nexuses record their ledgers: the control plane. Without one, managed nexuses are refused.
    pub managed_ledgers: Option<Rc<dyn LedgerStore>>,
}

/// The answer of most calls.
pub type Result<T> = std::result::Result<T, Error>;

/// ```text
///   Running ──stop()──> Stopping
/// ```
enum Phase {
    Running,
    /// With the configuration as it was when the node began to stop: what is being closed stays in the file.
    Stopping(Box<Config>),
}

/// Writes of the configuration file, one at a time; one write serves all calls that wait for it.
#[derive(Default)]
struct Saver {
    turn: Mutex<()>,
    wanted: Cell<u64>,
    saved: Cell<u64>,
}

/// A storage node. All calls may run at the same time; calls on one object wait for each other.
pub struct Node {
    this: Weak<Node>,
    host: Host,
    options: NodeOptions,
    instance: Uuid,
    phase: RefCell<Phase>,
    settings: RefCell<NodeSettings>,
    /// Sections of the file that have no meaning here, and are kept.
    kept: Config,
    exports: Exports,
    registry: Rc<Registry>,
    lost_bdevs: RefCell<BTreeMap<String, LostBdev>>,
    pools: RefCell<BTreeMap<String, PoolSlot>>,
    replicas: RefCell<BTreeMap<String, ReplicaSlot>>,
    nexuses: RefCell<BTreeMap<Uuid, NexusSlot>>,
    nexus_events: Queue<NexusEvent>,
    /// Remote devices that do not answer any more: the host NQN under which they were opened, their names, and whether they
    /// may come back.
    lost_remotes: Queue<(String, String, Loss)>,
    ledgers: RefCell<BTreeMap<Uuid, StoredLedger>>,
    /// The highest term of a control plane that was heard of.
    control_term: Cell<u64>,
    locks: Locks,
    changes: Changes,
    saver: Saver,
    tasks: RefCell<Vec<JoinHandle<()>>>,
}

impl Node {
    /// Starts a node: reads its configuration and brings back what it names. What cannot be brought back is listed as
    /// faulted with the reason, and tried again every few seconds; only an unusable configuration file or listening
    /// address is an error.
    pub async fn start(host: Host, options: NodeOptions) -> Result<Rc<Node>> {
        let mut config = load_config(&host, &options).await?;
        let mut settings = NodeSettings::default();
        for (name, value) in std::mem::take(&mut config.settings) {
            let set = settings.set(&name, &value.to_string());
            set.map_err(|e| e.context(config_name(&options)).with_kind(ErrorKind::InvalidArgument))?;
        }
        let exports = Exports::start(&host, &options, &config.nexus_opts).await?;
        config.nexus_opts.nvmf_replica_port = Some(exports.port());
        let pools = std::mem::take(&mut config.pools);
        let nexuses = std::mem::take(&mut config.nexus_bdevs);
        let ledgers = std::mem::take(&mut config.ledgers);
        let bdevs = std::mem::take(&mut config.base_bdevs);
        let instance = uuid::Builder::from_random_bytes(host.random_bytes()).into_uuid();
        let node = Rc::new_cyclic(|this: &Weak<Node>| Node {
            this: this.clone(),
            host,
            options,
            instance,
            phase: RefCell::new(Phase::Running),
            settings: RefCell::new(settings),
            control_term: Cell::new(config.control_term.unwrap_or(0)),
            kept: config,
            exports,
            registry: Rc::default(),
            lost_bdevs: RefCell::default(),
            pools: RefCell::default(),
            replicas: RefCell::default(),
            nexuses: RefCell::default(),
            nexus_events: Queue::default(),
            lost_remotes: Queue::default(),
            ledgers: RefCell::default(),
            locks: Locks::default(),
            changes: Changes::default(),
            saver: Saver::default(),
            tasks: RefCell::default(),
        });
        let named = |e: Error| e.context(config_name(&node.options));
        for bdev in bdevs {
            let uri = DeviceUri::parse(&bdev.uri).map_err(named)?;
            let shared = bdev.share.map(Protocol::from);
            let lost = LostBdev { shared, reason: "not opened yet".into(), uri };
            node.lost_bdevs.borrow_mut().insert(lost.uri.name(), lost);
        }
        node.expect_pools(pools);
        node.expect_nexuses(nexuses).map_err(named)?;
        node.load_ledgers(ledgers).map_err(named)?;
        // Remote devices that do not answer must not keep the node from its work.
        let first = node.clone();
        let first = node.host.spawn(async move { first.retry().await });
        let _ = node.host.timeout(PATIENCE, first).await;
        // The port, and the format of a file of v0.3.0, are put down before anybody relies on them.
        node.persist().await?;
        node.start_tasks();
        Ok(node)
    }

    fn start_tasks(&self) {
        let (this, host) = (self.this.clone(), self.host.clone());
        let retry = self.host.spawn(async move {
            loop {
                host.sleep(RETRY).await;
                let Some(node) = this.upgrade() else { return };
                node.retry().await;
            }
        });
        let (this, host) = (self.this.clone(), self.host.clone());
        let progress = self.host.spawn(async move {
            let mut health = Vec::new();
            loop {
                host.sleep(PROGRESS).await;
                let Some(node) = this.upgrade() else { return };
                let now = node.pool_health();
                if node.any_rebuild() || now != health {
                    node.changes.bump();
                }
                health = now;
            }
        });
        let (this, events) = (self.this.clone(), self.nexus_events.clone());
        let news = self.host.spawn(async move {
            loop {
                // What happened is in the report; that something did is the news.
                let _: NexusEvent = events.next().await;
                while events.pop().is_some() {}
                let Some(node) = this.upgrade() else { return };
                node.changes.bump();
            }
        });
        let (this, lost) = (self.this.clone(), self.lost_remotes.clone());
        let losses = self.host.spawn(async move {
            loop {
                let (owner, name, loss) = lost.next().await;
                let Some(node) = this.upgrade() else { return };
                // Taking a child out may have to wait for another one, which may be lost as well.
                let task = node.clone();
                node.host.spawn(async move { task.device_lost(&owner, &name, loss).await });
            }
        });
        self.tasks.borrow_mut().extend([retry, progress, news, losses]);
    }

    /// Tries to bring back what is lost. Devices first, since pools may stand on them; pools before nexuses.
    async fn retry(&self) {
        self.retry_bdevs().await;
        self.retry_pools().await;
        self.retry_shares().await;
        self.retry_nexuses().await;
    }

    /// Closes everything in order; the configuration stays. The node must not be used any more.
    pub async fn stop(&self) {
        if self.running().is_err() {
            return;
        }
        let config = Box::new(self.config());
        self.phase.replace(Phase::Stopping(config));
        let tasks = self.tasks.take();
        tasks.into_iter().for_each(JoinHandle::cancel);
        self.exports.stop().await;
        self.stop_nexuses().await;
        self.stop_pools().await;
        for name in self.registry.names() {
            drop(self.registry.remove(&name));
        }
    }

    fn running(&self) -> Result<()> {
        match &*self.phase.borrow() {
            Phase::Running => Ok(()),
            Phase::Stopping(_) => Err(Error::unavailable(format!("node {} is stopping", self.options.id))),
        }
    }

    /// Puts the configuration on stable storage. Every call that changes something ends with this.
    async fn persist(&self) -> Result<()> {
        self.changes.bump();
        let Some(path) = self.options.config_path.clone() else { return Ok(()) };
        let mine = self.saver.wanted.get() + 1;
        self.saver.wanted.set(mine);
        let _turn = self.saver.turn.lock().await;
        if self.saver.saved.get() >= mine {
            return Ok(());
        }
        let upto = self.saver.wanted.get();
        let contents = self.config().to_yaml().into_bytes();
        match self.host.store(&path, contents).await {
            Ok(()) => {
                self.saver.saved.set(upto);
                Ok(())
            }
            Err(error) => {
                let path = path.display();
                let why = format!("the change is made, but it could not be written to {path}: {error}");
                Err(Error::data_loss(why))
            }
        }
    }

    /// For calls that find everything as it should be: an earlier change may have failed to reach the file.
    async fn settle(&self) -> Result<()> {
        if self.saver.saved.get() < self.saver.wanted.get() { self.persist().await } else { Ok(()) }
    }

    /// The configuration as it has to be after a restart.
    fn config(&self) -> Config {
        if let Phase::Stopping(config) = &*self.phase.borrow() {
            return Config { ledgers: self.ledgers_config(), ..(**config).clone() };
        }
        let settings = self.settings.borrow();
        let mut nexus_opts = self.kept.nexus_opts.clone();
        self.exports.remember(&mut nexus_opts);
        Config {
            version: Some(VERSION),
            pools: self.pools_config(),
            base_bdevs: self.bdevs_config(),
            nexus_bdevs: self.nexuses_config(),
            settings: settings.changed().map(|(name, value)| (name.to_owned(), value)).collect(),
            ledgers: self.ledgers_config(),
            nexus_opts,
            control_term: Some(self.control_term.get()).filter(|term| *term != 0),
            ..self.kept.clone()
        }
    }

    /// All settings, by name.
    pub fn settings(&self) -> Vec<SettingInfo> {
        self.settings.borrow().list()
    }

    /// Changes a setting, from now on; an empty value means the default.
    pub async fn set_setting(&self, name: String, value: String) -> Result<Vec<SettingInfo>> {
        self.running()?;
        let _held = self.locks.hold("settings", "").await;
        self.settings.borrow_mut().set(&name, &value)?;
        self.apply_settings();
        self.persist().await?;
        Ok(self.settings())
    }

    /// All that the node holds.
    pub fn report(&self) -> NodeReport {
        NodeReport {
            id: self.options.id.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            instance: self.instance,
            sequence: self.changes.sequence(),
            pools: self.pools(),
            replicas: self.replicas(),
            nexuses: self.nexuses(),
        }
    }

    /// Waits until there is a report newer than `seen` (at most `wait`), then returns it. For streams of reports: call
    /// it again with the sequence that it returned, not more often than the reader can follow.
    pub async fn report_after(&self, seen: u64, wait: Duration) -> NodeReport {
        // A report is due after `wait` in any case.
        let _ = self.host.timeout(wait, self.changes.after(seen)).await;
        self.report()
    }

    /// Where hosts connect to the NVMe/TCP target (`host:port`).
    pub fn nvmf_address(&self) -> String {
        self.exports.address().to_owned()
    }

    /// The host NQN of this node for remote devices that are not children of a nexus.
    fn host_nqn(&self) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '-' };
        format!("{NQN_PREFIX}node-{}", self.options.id.chars().map(plain).collect::<String>())
    }

    fn remote_options(&self) -> RemoteOptions {
        let options = RemoteOptions::default();
        let settings = self.settings.borrow();
        let shortest = Duration::from_millis(100);
        let command_deadline = options.command_deadline.min(settings.nexus().member_deadline).max(shortest);
        RemoteOptions {
            command_deadline,
            refused_deadline: settings.refused_deadline(),
            on_restart: OnRestart::FailAlways,
            ..options
        }
    }

    /// Changes the reason of something lost, and tells watchers when it is a new one.
    fn explain(&self, reason: &mut String, now: String) {
        if *reason != now {
            *reason = now;
            self.changes.bump();
        }
    }
}

fn config_name(options: &NodeOptions) -> String {
    let path = options.config_path.as_ref().map(|p| p.display().to_string());
    format!("configuration file {}", path.unwrap_or_default())
}

async fn load_config(host: &Host, options: &NodeOptions) -> Result<Config> {
    let Some(path) = &options.config_path else { return Ok(Config::default()) };
    match host.load(path).await {
        Ok(contents) => Config::parse(&path.display().to_string(), &contents.unwrap_or_default()),
        Err(error) => Err(Error::internal(format!("{}: {error}", config_name(options)))),
    }
}
