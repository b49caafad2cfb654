//! The storage node: the calls that change it and the calls that look at it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use host::Host;

use crate::model::{
    BdevInfo, CreateNexus, CreatePool, CreateReplica, Error, NexusInfo, NodeReport, PoolInfo, Protocol, RebuildInfo,
    ReplicaInfo, ReplicaStats, SettingInfo,
};
use crate::volume::LedgerStore;

/// How a node is started.
pub struct NodeOptions {
    /// The node's name, as the control plane knows it.
    pub id: String,
    /// Where the NVMe/TCP target listens; port 0 lets the system choose.
    pub nvmf_bind: SocketAddr,
    /// What hosts are told to connect to (`host:port`), when that differs from `nvmf_bind`.
    pub nvmf_advertised: Option<String>,
    /// The configuration file (YAML). Without one nothing survives the process.
    pub config_path: Option<PathBuf>,
    /// Where managed nexuses record their ledgers: the control plane. Without one, managed nexuses are refused.
    pub managed_ledgers: Option<Rc<dyn LedgerStore>>,
}

/// A storage node. All calls may run at the same time; calls on one object wait for each other.
pub struct Node {
    host: Host,
    options: NodeOptions,
}

/// The answer of most calls.
pub type Result<T> = std::result::Result<T, Error>;

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),*) -> $result:ty;)*) => {
        impl Node {
            $(
                $(#[$doc])*
                #[allow(unused_variables, clippy::unused_async)]
                pub async fn $name(&self, $($arg: $type),*) -> Result<$result> {
                    Err(Error::unavailable(concat!(stringify!($name), " is being built")))
                }
            )*
        }
    };
}

calls! {
    /// Creates a pool, or imports the one of that name when the disks hold it. A disk of another pool, a damaged one
    /// and (without `force`) one with foreign contents are refused.
    create_pool(request: CreatePool) -> PoolInfo;
    /// Imports a pool; never formats.
    import_pool(name: String, disks: Vec<String>) -> PoolInfo;
    /// Closes a pool and forgets it; the data stays on its disks.
    export_pool(name: String) -> ();
    /// Destroys a pool. With replicas in it: destroys them too (`with_replicas`, as v0.3.0 does), else refuses.
    /// OK when there is no such pool.
    destroy_pool(name: String, with_replicas: bool) -> ();
    /// Adds a disk to a pool that is in use.
    add_pool_disk(name: String, disk: String, force: bool) -> PoolInfo;

    /// Creates a replica; OK when an equal one exists.
    create_replica(request: CreateReplica) -> ReplicaInfo;
    /// Shares (`Some`) or un-shares (`None`) a replica; OK when it is so already.
    share_replica(uuid: String, share: Option<Protocol>) -> ReplicaInfo;
    /// Destroys a replica; OK when there is none, refused while a nexus of this node uses it.
    destroy_replica(uuid: String) -> ();

    /// Creates a nexus over its children; OK when an equal one exists.
    create_nexus(request: CreateNexus) -> NexusInfo;
    /// Unpublishes and closes a nexus; its children keep their data. OK when there is none.
    destroy_nexus(uuid: String) -> ();
    /// Publishes a nexus; `key` must be empty. OK when it is so already. The reply has `device_uri`.
    publish_nexus(uuid: String, key: String, protocol: Protocol) -> NexusInfo;
    /// Takes a nexus back; OK when it is not published.
    unpublish_nexus(uuid: String) -> NexusInfo;
    /// Adds a child and, unless `norebuild`, starts its rebuild. OK when it is a child already.
    add_child(uuid: String, uri: String, norebuild: bool) -> NexusInfo;
    /// Removes a child; OK when it is none; refused for the last good copy.
    remove_child(uuid: String, uri: String) -> NexusInfo;
    /// Takes a child out of use until it is onlined; refused for the last good copy.
    offline_child(uuid: String, uri: String) -> NexusInfo;
    /// Takes a child back into use and starts its rebuild.
    online_child(uuid: String, uri: String) -> NexusInfo;
    /// Treats a child as failed; refused for the last good copy.
    fault_child(uuid: String, uri: String) -> NexusInfo;
    /// Starts the rebuild of a child that is out of sync.
    start_rebuild(uuid: String, uri: String) -> ();
    /// Stops the rebuild of a child; OK when there is none.
    stop_rebuild(uuid: String, uri: String) -> ();
    /// Holds the rebuild of a child.
    pause_rebuild(uuid: String, uri: String) -> ();
    /// Lets the held rebuild of a child go on.
    resume_rebuild(uuid: String, uri: String) -> ();

    /// Opens the device of a URI; the reply is its name.
    create_bdev(uri: String) -> String;
    /// Closes the device of a URI.
    destroy_bdev(uri: String) -> ();
    /// Shares a device; the reply is where others reach it. OK when it is so already.
    share_bdev(name: String, protocol: Protocol) -> String;
    /// Un-shares a device; OK when it is not shared.
    unshare_bdev(name: String) -> ();

    /// Changes a setting, from now on.
    set_setting(name: String, value: String) -> Vec<SettingInfo>;
}

impl Node {
    /// Starts a node: reads its configuration and brings back what it names. What cannot be brought back is listed as
    /// faulted with the reason, and tried again every few seconds; only an unusable configuration file or listening
    /// address is an error.
    pub async fn start(host: Host, options: NodeOptions) -> Result<Rc<Node>> {
        Ok(Rc::new(Node { host, options }))
    }
    /// Closes everything in order; the configuration stays. The node must not be used any more.
    pub async fn stop(&self) {}
    /// All pools, by name.
    pub fn pools(&self) -> Vec<PoolInfo> {
        Vec::new()
    }
    /// All replicas, by name.
    pub fn replicas(&self) -> Vec<ReplicaInfo> {
        Vec::new()
    }
    /// What was read from and written to each replica.
    pub fn replica_stats(&self) -> Vec<ReplicaStats> {
        Vec::new()
    }
    /// All nexuses, by uuid.
    pub fn nexuses(&self) -> Vec<NexusInfo> {
        Vec::new()
    }
    /// All block devices, by name.
    pub fn bdevs(&self) -> Vec<BdevInfo> {
        Vec::new()
    }
    /// All settings, by name.
    pub fn settings(&self) -> Vec<SettingInfo> {
        Vec::new()
    }
    /// The rebuild of a child. NotFound names what is missing; no rebuild at present is FailedPrecondition.
    pub fn rebuild(&self, uuid: &str, uri: &str) -> Result<RebuildInfo> {
        Err(Error::not_found(format!("nexus {uuid} not found (child {uri})")))
    }
    /// All that the node holds.
    pub fn report(&self) -> NodeReport {
        NodeReport {
            id: self.options.id.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            instance: uuid::Uuid::from_bytes(self.host.random_bytes()),
            sequence: 0,
            pools: self.pools(),
            replicas: self.replicas(),
            nexuses: self.nexuses(),
        }
    }
    /// Waits until there is a report newer than `seen` (at most `wait`), then returns it. For streams of reports: call
    /// it again with the sequence that it returned, not more often than the reader can follow.
    pub async fn report_after(&self, seen: u64, wait: Duration) -> NodeReport {
        let _ = seen;
        self.host.sleep(wait).await;
        self.report()
    }
    /// Where hosts connect to the NVMe/TCP target (`host:port`).
    pub fn nvmf_address(&self) -> String {
        self.options.nvmf_bind.to_string()
    }
}
