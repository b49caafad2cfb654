//! What the node tells and is told: plain data that may be sent to another thread. The wire types of the gRPC services
//! are made from these; nothing here knows a wire format.

use std::fmt;

use uuid::Uuid;

pub use crate::meter::IoStats;

/// What kind of failure an [`Error`] is; one to one with the gRPC status codes of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request itself is wrong: a malformed URI or uuid, a size that does not fit, a device that is in use.
    InvalidArgument,
    /// The named object does not exist.
    NotFound,
    /// An object of that name exists and differs from what was asked.
    AlreadyExists,
    /// The object is in a state in which this must not be done (in use, last good copy, fenced).
    FailedPrecondition,
    /// A size that is larger than the device which shall hold it.
    OutOfRange,
    /// No space left, or a limit of `block::limits` is reached.
    ResourceExhausted,
    /// Something that is needed cannot be reached now; the same call may succeed later.
    Unavailable,
    /// Another operation on the same object got in between; try again.
    Aborted,
    /// The system failed below us (I/O error, target error).
    Internal,
    /// The change was made but could not be put on stable storage; it may be gone after a restart.
    DataLoss,
}

/// Why a call failed. The message is one sentence for an operator and names the object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The kind, for programs.
    pub kind: ErrorKind,
    /// The message, for people.
    pub message: String,
}

macro_rules! kinds {
    ($($make:ident $kind:ident),*) => {
        impl Error {
            /// An error of this kind.
            pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
                Error { kind, message: message.into() }
            }
            $(
                #[doc = concat!("A [`ErrorKind::", stringify!($kind), "`].")]
                pub fn $make(message: impl Into<String>) -> Error {
                    Error::new(ErrorKind::$kind, message)
                }
            )*
        }
    };
}
kinds!(
    invalid InvalidArgument, not_found NotFound, already_exists AlreadyExists, precondition FailedPrecondition,
    out_of_range OutOfRange,
    exhausted ResourceExhausted, unavailable Unavailable, aborted Aborted, internal Internal, data_loss DataLoss
);

impl Error {
    /// The same kind with `context` in front of the message.
    #[must_use]
    pub fn context(self, context: impl fmt::Display) -> Error {
        Error { kind: self.kind, message: format!("{context}: {}", self.message) }
    }
    /// The same message under another kind.
    #[must_use]
    pub fn with_kind(self, kind: ErrorKind) -> Error {
        Error { kind, ..self }
    }
}

/// The protocol over which a device is offered to other machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// NVMe over TCP.
    Nvmf,
    /// iSCSI.
    Iscsi,
    /// A local /dev/nbdN: asking for it is answered with InvalidArgument, "not supported yet".
    Nbd,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Nvmf => "nvmf",
            Protocol::Iscsi => "iscsi",
            Protocol::Nbd => "nbd",
        })
    }
}

/// How well a pool or a nexus is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Everything is there.
    Online,
    /// It serves, with less than it should have.
    Degraded,
    /// It does not serve.
    Faulted,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Health::Online => "online",
            Health::Degraded => "degraded",
            Health::Faulted => "faulted",
        })
    }
}

/// A pool, or what the configuration knows of one that could not be imported (then `Faulted`, with the reason).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolInfo {
    /// Its name, unique on the node.
    pub name: String,
    /// Its identity on disk; empty when it is not imported.
    pub uuid: String,
    /// Its disks, as URIs (`aio:///dev/sda`).
    pub disks: Vec<String>,
    /// How well it is.
    pub state: Health,
    /// Why it is not online; else empty.
    pub reason: String,
    /// Bytes that replicas can use.
    pub capacity: u64,
    /// Bytes allocated to replicas.
    pub used: u64,
    /// Bytes promised to replicas: the sizes of thick ones and what thin ones have allocated.
    pub committed: u64,
}

/// A replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaInfo {
    /// Its name, unique on the node; by custom a uuid.
    pub uuid: String,
    /// The pool that holds it.
    pub pool: String,
    /// Its size in bytes (rounded up to the pool's extent).
    pub size: u64,
    /// Whether space is taken when it is written.
    pub thin: bool,
    /// Bytes allocated.
    pub allocated: u64,
    /// How it is shared, if it is.
    pub share: Option<Protocol>,
    /// `bdev:///uuid`, or where others reach it when it is shared.
    pub uri: String,
    /// `Online` or `Faulted`.
    pub state: Health,
    /// Why it is not online; else empty.
    pub reason: String,
}

/// What was read from and written to a replica since the process started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaStats {
    /// The replica.
    pub uuid: String,
    /// Its pool.
    pub pool: String,
    /// Read requests.
    pub num_read_ops: u64,
    /// Write requests.
    pub num_write_ops: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
}

/// The counters of a node, since the process started or the object was opened. What was never used is not listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeStatistics {
    /// Changes when the process restarts, and all counters with it.
    pub instance: Uuid,
    /// The replicas by name, as their pools serve them.
    pub replicas: Vec<(String, IoStats)>,
    /// The nexuses, as their clients see them.
    pub nexuses: Vec<NexusStatistics>,
}

/// The counters of a nexus.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NexusStatistics {
    /// Its uuid.
    pub uuid: Uuid,
    /// What clients asked for.
    pub io: IoStats,
    /// What it asked of its children, rebuilds and its own records included, by URI.
    pub children: Vec<(String, IoStats)>,
}

/// What a child of a nexus is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildState {
    /// In sync.
    Online,
    /// Being copied to.
    Rebuilding,
    /// Failed; not used any more.
    Faulted,
    /// Taken out by an operator.
    Offline,
    /// Open, waits for a rebuild.
    OutOfSync,
}

impl fmt::Display for ChildState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ChildState::Online => "online",
            ChildState::Rebuilding => "rebuilding",
            ChildState::Faulted => "faulted",
            ChildState::Offline => "offline",
            ChildState::OutOfSync => "out-of-sync",
        })
    }
}

/// Where a rebuild stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RebuildState {
    /// About to start.
    Init,
    /// Copying.
    Running,
    /// Held by an operator.
    Paused,
    /// Ended by an operator.
    Stopped,
    /// Ended by an error.
    Failed,
    /// Ended well.
    Completed,
}

impl fmt::Display for RebuildState {
    /// The words of v0.3.0's GetRebuildState.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RebuildState::Init => "init",
            RebuildState::Running => "running",
            RebuildState::Paused => "paused",
            RebuildState::Stopped => "stopped",
            RebuildState::Failed => "failed",
            RebuildState::Completed => "completed",
        })
    }
}

/// The rebuild of one child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RebuildInfo {
    /// Where it stands.
    pub state: RebuildState,
    /// Bytes that are done.
    pub bytes_done: u64,
    /// Bytes in all.
    pub bytes_total: u64,
    /// The present rate.
    pub bytes_per_second: u64,
    /// Milliseconds until the end at the present rate; `None` while unknown.
    pub eta_ms: Option<u64>,
    /// The URI of the child that is read; empty when several are or none is yet.
    pub source: String,
}

impl RebuildInfo {
    /// Whole percent, 0 to 100; 100 only when all is done.
    pub fn percent(&self) -> u32 {
        if self.bytes_total == 0 {
            return 100;
        }
        let percent = u128::from(self.bytes_done.min(self.bytes_total)) * 100 / u128::from(self.bytes_total);
        u32::try_from(percent).expect("at most 100")
    }
}

/// A child of a nexus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildInfo {
    /// The URI by which it was added; its identity within the nexus.
    pub uri: String,
    /// What it is good for.
    pub state: ChildState,
    /// Why it is not online; else empty.
    pub reason: String,
    /// Its rebuild, while there is one.
    pub rebuild: Option<RebuildInfo>,
    /// Its errors in the present window.
    pub errors: u64,
}

/// A nexus, or what the configuration knows of one that could not be opened yet (then `Faulted`, with the reason).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NexusInfo {
    /// Its uuid, lower case with hyphens.
    pub uuid: String,
    /// Its usable size in bytes, exactly as requested.
    pub size: u64,
    /// The size of its logical blocks; 0 while it is not open.
    pub block_size: u32,
    /// How well it is.
    pub state: Health,
    /// Why it is not online; else empty.
    pub reason: String,
    /// Its children.
    pub children: Vec<ChildInfo>,
    /// Where hosts reach it; empty when it is not published.
    pub device_uri: String,
    /// The ledger in force: its generation, and the URIs of the members in sync.
    pub ledger: LedgerInfo,
    /// Whether the control plane keeps its ledger.
    pub managed: bool,
}

impl NexusInfo {
    /// The child of that URI.
    pub fn child(&self, uri: &str) -> Option<&ChildInfo> {
        self.children.iter().find(|c| c.uri == uri)
    }
    /// How many of its children are being rebuilt.
    pub fn rebuilds(&self) -> u32 {
        let n = self.children.iter().filter(|c| c.rebuild.is_some()).count();
        u32::try_from(n).expect("a nexus has few children")
    }
}

/// A ledger as the wire and the configuration show it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedgerInfo {
    /// Its generation.
    pub generation: u64,
    /// The children in sync, by URI.
    pub in_sync: Vec<String>,
}

/// A block device that the node knows: opened ones, replicas and nexuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BdevInfo {
    /// Its name.
    pub name: String,
    /// Its uuid.
    pub uuid: String,
    /// How many blocks it has.
    pub num_blocks: u64,
    /// The size of one block.
    pub block_size: u32,
    /// Who uses it; `None` when nobody does.
    pub claimed_by: Option<String>,
    /// Other names under which it is found.
    pub aliases: Vec<String>,
    /// The URI that makes this device; empty for replicas and nexuses.
    pub uri: String,
    /// Where others reach it; empty when it is not shared.
    pub share_uri: String,
    /// Why it is not open (then it has no blocks), though the configuration names it; else empty.
    pub reason: String,
}

/// All that a node holds, at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeReport {
    /// The node's name.
    pub id: String,
    /// The version of the program.
    pub version: String,
    /// Changes when the process restarts.
    pub instance: Uuid,
    /// Grows with each change.
    pub sequence: u64,
    /// The pools, by name.
    pub pools: Vec<PoolInfo>,
    /// The replicas, by name.
    pub replicas: Vec<ReplicaInfo>,
    /// The nexuses, by uuid.
    pub nexuses: Vec<NexusInfo>,
}

/// A setting that can be changed while the node runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingInfo {
    /// Its name, such as `nexus.error_threshold`.
    pub name: String,
    /// Its present value.
    pub value: String,
    /// The value that it has when nobody sets it.
    pub default: String,
    /// One sentence about it, with unit and range.
    pub help: String,
}

/// What [`Node::create_pool`](crate::node::Node::create_pool) is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CreatePool {
    /// The pool's name, 1 to 63 bytes.
    pub name: String,
    /// Its disks: device URIs or plain paths, one or more.
    pub disks: Vec<String>,
    /// Whether a disk that holds something foreign may be overwritten. A disk of a Mayastor pool never is.
    pub force: bool,
    /// The cluster that it belongs to; empty, or a uuid.
    pub cluster: String,
    /// The block size for disks that are given as plain paths (512 or 4096); 0 for 512.
    pub block_size: u32,
}

/// What [`Node::create_replica`](crate::node::Node::create_replica) is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateReplica {
    /// The replica's name, unique on the node, 1 to 63 bytes.
    pub uuid: String,
    /// The pool.
    pub pool: String,
    /// Its size in bytes; rounded up to the pool's extent.
    pub size: u64,
    /// Whether space is taken when it is written.
    pub thin: bool,
    /// How to share it, if at all.
    pub share: Option<Protocol>,
}

/// What [`Node::create_nexus`](crate::node::Node::create_nexus) is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateNexus {
    /// Its uuid.
    pub uuid: String,
    /// Its usable size in bytes. Without a control plane it may be up to the size of the smallest child, and becomes what
    /// that has beside its label.
    pub size: u64,
    /// Its children by URI, at least one.
    pub children: Vec<String>,
    /// What the store knows of its ledger; `None` for a volume that was never opened.
    pub ledger: Option<LedgerInfo>,
    /// Whether the control plane is the store of its ledger; else the node's own configuration file is.
    pub managed: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_is_a_hundred_only_at_the_end() {
        let mut r = RebuildInfo {
            state: RebuildState::Running,
            bytes_done: u64::MAX - 1,
            bytes_total: u64::MAX,
            bytes_per_second: 0,
            eta_ms: None,
            source: String::new(),
        };
        assert_eq!(r.percent(), 99);
        r.bytes_done = r.bytes_total;
        assert_eq!(r.percent(), 100);
    }

    #[test]
    fn what_crosses_threads_is_send() {
        fn send<T: Send + 'static>() {}
        send::<NodeReport>();
        send::<BdevInfo>();
        send::<SettingInfo>();
        send::<Error>();
        send::<CreatePool>();
        send::<CreateReplica>();
        send::<CreateNexus>();
    }
}

/// What lies on a replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaContents {
    /// The volume whose member it is.
    pub volume: Option<uuid::Uuid>,
    /// Who it is among the volume's members.
    pub member: Option<uuid::Uuid>,
    /// The newest ledger there.
    pub ledger: Option<LedgerContents>,
}

/// A ledger as it lies on a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerContents {
    /// The volume's size in bytes.
    pub size: u64,
    /// Its version.
    pub generation: u64,
    /// The version that its writer knew to be in force.
    pub parent: u64,
    /// The members, and whether each is in sync.
    pub members: Vec<(uuid::Uuid, bool)>,
}
