//! What the planner looks at. Times are milliseconds on one clock of the caller's choosing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use block::{Bytes, Generation};
use uuid::Uuid;

use crate::wish::{Limits, Move, NodeWish, Topology};

/// Everything that was asked for, with what is recorded about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// The volumes, by their uuid.
    pub volumes: BTreeMap<Uuid, Volume>,
    /// What is wanted of nodes; one that is not named is in service and has no labels.
    pub nodes: BTreeMap<String, NodeWish>,
    /// How much may be done.
    pub limits: Limits,
}

/// A volume: what was asked for, and what the store knows about its copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// What people call it.
    pub name: String,
    /// Usable bytes; what clients have may still be less.
    pub size: Bytes,
    /// How many copies are wanted, 1 to 16.
    pub replicas: u32,
    /// Whether the copies take space only when written.
    pub thin: bool,
    /// The only nodes that may hold copies; empty means any.
    pub required_nodes: BTreeSet<String>,
    /// Nodes that are taken first.
    pub preferred_nodes: BTreeSet<String>,
    /// Where copies may lie by the labels of nodes.
    pub topology: Topology,
    /// A copy that is to move to another pool.
    pub moving: Option<Move>,
    /// The wish that it follows now, for the trail of events; empty: none. Nothing is planned by it.
    pub operation: String,
    /// Whether, and where, a client uses it.
    pub publish: Publish,
    /// Who uses it, by the host's name. For the clients' sake only: nothing is planned by it.
    pub hosts: BTreeMap<String, HostUse>,
    /// Whether it shall exist.
    pub life: Life,
    /// Where its nexus belongs. Whoever is not the target may not record ledgers: this is the fence.
    pub target: Option<String>,
    /// Nodes on which a nexus of this volume may exist: the target, and former targets that were not seen without it yet.
    pub nexus_nodes: BTreeSet<String>,
    /// Who holds every acknowledged write. `None` until the volume was opened for the first time.
    pub ledger: Option<Ledger>,
    /// The copies, by their uuid.
    pub copies: BTreeMap<Uuid, Replica>,
}

/// Who holds every acknowledged write of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// The term of the writer that recorded it.
    pub generation: Generation,
    /// The members in sync.
    pub in_sync: BTreeSet<Uuid>,
}

/// How a host uses a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostUse {
    /// It only reads.
    pub read_only: bool,
    /// Other hosts may use the volume too.
    pub shared: bool,
}

/// Whether, and where, a client uses a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Publish {
    /// Nobody uses it: not exported.
    No,
    /// Exported from whichever node suits best.
    Anywhere,
    /// Exported from this node as long as it lives.
    On(String),
}

/// Whether a volume shall exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It shall.
    Wanted,
    /// It shall go, with all that it holds.
    Deleting,
}

/// A pool in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PoolId {
    /// Its node.
    pub node: String,
    /// Its name on that node.
    pub pool: String,
}
impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.pool)
    }
}

/// A copy, as recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Where it is, or shall be.
    pub pool: PoolId,
    /// What it is to the volume.
    pub life: ReplicaLife,
}

/// What a copy is to its volume.
///
/// ```text
///   Placed ──(handed to a nexus)──► Member ◄─(wanted, or not)─► Retired ──(gone from its node)──► forgotten
///      └────(no longer wanted)────► Discarded ────────────────────────────(gone from its node)──► forgotten
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaLife {
    /// Chosen, perhaps created; no nexus has ever had it.
    Placed,
    /// Handed to a nexus: it may hold data.
    Member,
    /// No longer wanted; may hold data, so it goes only while the volume is healthy without it.
    Retired,
    /// No longer wanted, and never held data.
    Discarded,
}
impl ReplicaLife {
    /// Whether the copy is to stay.
    pub fn is_wanted(self) -> bool {
        matches!(self, ReplicaLife::Placed | ReplicaLife::Member)
    }
}

/// What the nodes report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// All known nodes, also those that are away (with the last that was heard of them).
    pub nodes: BTreeMap<String, Node>,
    /// Recorded replicas that their node, being online, does not show in working order: since when.
    pub absent: BTreeMap<Uuid, u64>,
    /// Pools that had no room a moment ago, whatever they report: nothing is placed there now.
    pub shunned: BTreeSet<PoolId>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Whether it can be reached.
    pub reach: Reach,
    /// Its pools, by name.
    pub pools: BTreeMap<String, Pool>,
    /// Its replicas.
    pub replicas: BTreeMap<Uuid, SeenReplica>,
    /// Its nexuses, by the volume's uuid.
    pub nexuses: BTreeMap<Uuid, Nexus>,
}

/// Whether a node can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Since then, by the same process on it.
    Online {
        /// Since when.
        since_ms: u64,
    },
    /// Not any more; what is known of it is old.
    Unreachable {
        /// Since when.
        since_ms: u64,
    },
}
impl Reach {
    /// Whether the node answers.
    pub fn is_online(self) -> bool {
        matches!(self, Reach::Online { .. })
    }
}

/// The health of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolState {
    /// Well.
    Online,
    /// Works, with something wrong; used for new replicas only when nothing better is left.
    Degraded,
    /// Does not work.
    Faulted,
}

/// A pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its health.
    pub state: PoolState,
    /// Its size.
    pub capacity: Bytes,
    /// What is promised to replicas: thick sizes and the allocated parts of thin ones.
    pub committed: Bytes,
    /// What all its replicas would take together if they were written in full.
    pub nominal: Bytes,
}

/// A replica on its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenReplica {
    /// The pool that holds it.
    pub pool: String,
    /// Whether it works.
    pub online: bool,
    /// Whether other nodes can use it.
    pub shared: bool,
    /// Its size.
    pub size: Bytes,
}

/// The health of a nexus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NexusState {
    /// All of its children are in sync.
    Online,
    /// Some are not.
    Degraded,
    /// It cannot serve.
    Faulted,
}

/// A nexus on its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nexus {
    /// Its health.
    pub state: NexusState,
    /// Since when it has this state.
    pub since_ms: u64,
    /// Whether it is exported.
    pub published: bool,
    /// What its clients have.
    pub size: Bytes,
    /// Its children, by the replica's uuid.
    pub children: BTreeMap<Uuid, Child>,
}

/// A child of a nexus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Child {
    /// Its state.
    pub state: ChildState,
    /// Since when it has this state.
    pub since_ms: u64,
}

/// The state of a child, as its nexus sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildState {
    /// In sync.
    Online,
    /// Being rebuilt.
    Rebuilding,
    /// Open, waits for a rebuild.
    OutOfSync,
    /// Taken out by an operator.
    Offline,
    /// Failed.
    Faulted,
}

/// How patient the planner is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long a node, pool or replica may be away before its copies are replaced, in milliseconds.
    pub node_grace_ms: u64,
    /// How long a copy that its nexus reports as failed is left, in milliseconds: just long enough to notice that in truth
    /// its node went away (then `node_grace_ms` counts).
    pub fault_grace_ms: u64,
    /// After how long a failed copy is tried again when there is no room for another one, in milliseconds.
    pub retry_ms: u64,
    /// After how long a nexus that cannot serve is opened anew, once its members are back, in milliseconds.
    pub reopen_ms: u64,
    /// After how long a copy that waits for its rebuild in vain is taken out and added again, in milliseconds.
    pub stuck_ms: u64,
    /// After how long a pool that vanished from a living node is given up: retired copies in it are forgotten then, in
    /// milliseconds.
    pub abandon_ms: u64,
}
impl Default for Settings {
    fn default() -> Self {
        Settings {
            node_grace_ms: 10_000,
            fault_grace_ms: 1_000,
            retry_ms: 60_000,
            reopen_ms: 5_000,
            stuck_ms: 15_000,
            abandon_ms: 3_600_000,
        }
    }
}

impl Volume {
    /// The copies that are to stay.
    pub fn wanted_copies(&self) -> impl Iterator<Item = (Uuid, &Replica)> {
        self.copies.iter().filter(|(_, r)| r.life.is_wanted()).map(|(id, r)| (*id, r))
    }
    /// Whether the ledger names this copy as one that holds every acknowledged write.
    pub fn in_ledger(&self, replica: Uuid) -> bool {
        self.ledger.as_ref().is_some_and(|l| l.in_sync.contains(&replica))
    }
}

impl Observed {
    /// Whether a node answers.
    pub fn is_online(&self, node: &str) -> bool {
        self.nodes.get(node).is_some_and(|n| n.reach.is_online())
    }
    /// The nexus of a volume on a node that answers.
    pub fn nexus(&self, node: &str, volume: Uuid) -> Option<&Nexus> {
        self.nodes.get(node).filter(|n| n.reach.is_online())?.nexuses.get(&volume)
    }
    /// A replica on a node that answers.
    pub fn replica(&self, node: &str, replica: Uuid) -> Option<&SeenReplica> {
        self.nodes.get(node).filter(|n| n.reach.is_online())?.replicas.get(&replica)
    }
}
