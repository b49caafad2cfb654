//! What is said over HTTP, as JSON. Names and words are those of the gRPC messages and of `mayastor -o json`.

use std::collections::BTreeMap;

use api::{Word, v1};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::schema::{Array, ArrayBuilder, Object, ObjectBuilder, Type};

/// How a node is.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// It reports.
    Online,
    /// It was lost a moment ago; its copies are waited for.
    Unreachable,
    /// It is lost for longer than the grace period.
    Offline,
}

/// Whether a node is used.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Duty {
    /// It is.
    InService,
    /// What it has stays, nothing new comes.
    Cordoned,
    /// What it has moves away.
    Draining,
    /// It was drained and holds nothing any more.
    Drained,
}

/// How far a drain is.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Drain {
    /// The wish that began it.
    pub operation: String,
    /// Copies that were there when it began.
    pub copies_total: u32,
    /// Copies that are left.
    pub copies_left: u32,
    /// Targets that are left.
    pub targets_left: u32,
    /// The first of the volumes that are left.
    pub waiting: Vec<DrainItem>,
}

/// A volume that is left on a node.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DrainItem {
    /// Its name.
    pub volume: String,
    /// What it waits for.
    pub waits_for: String,
}

/// A storage node.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Node {
    /// Its name.
    pub id: String,
    /// Where its gRPC services are: host:port.
    pub grpc_endpoint: String,
    /// How it is.
    pub state: NodeState,
    /// When it was heard of last.
    pub last_seen_ms_ago: u64,
    /// The version of its program; empty when it has not reported yet.
    pub version: String,
    /// What is wrong with it.
    pub why: Vec<String>,
    /// What is being done about it.
    pub doing: Vec<String>,
    /// What only an operator can do.
    pub needed: Vec<String>,
    /// Whether it is used.
    pub service: Duty,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// How far its drain is, while there is one.
    pub drain: Option<Drain>,
}

/// Labels to be set, and keys of labels to be removed.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Labels {
    /// Keys and values: 1 to 63 of a-z, A-Z, 0-9, '-', '_', '.' and '/'.
    #[serde(default)]
    #[schema(schema_with = labels)]
    pub set: BTreeMap<String, String>,
    /// Keys. One that is to be set, too, is set.
    #[serde(default)]
    #[schema(schema_with = keys)]
    pub remove: Vec<String>,
}

/// A limit on what is done.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Limit {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: u32,
    /// The value that it has when nobody sets it.
    pub default: u32,
    /// What it means.
    pub help: String,
}

/// What a limit is to be.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewLimit {
    /// The value.
    #[serde(deserialize_with = "whole")]
    pub value: u32,
}

/// How to rebalance.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rebalance {
    /// Only say what would be moved.
    #[serde(default)]
    pub dry_run: bool,
}

/// How far a rebalance is, or what it would do.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Balance {
    /// The wish that began it; empty when none is under way.
    pub operation: String,
    /// The moves, in the order in which they are made.
    pub moves: Vec<Shift>,
    /// How many of them are over.
    pub done: u32,
}

/// A move of a copy from one pool to another.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Shift {
    /// Whose copy.
    pub volume: String,
    /// Which copy.
    pub replica: String,
    /// Where it is: node/pool.
    pub from: String,
    /// Where it goes: node/pool.
    pub to: String,
    /// What it takes.
    pub bytes: u64,
    /// `planned`, `waiting`, `moving`, `done` or `skipped`.
    pub state: String,
}

impl From<v1::RebalanceReport> for Balance {
    fn from(r: v1::RebalanceReport) -> Balance {
        let shift = |m: v1::RebalanceMove| {
            let v1::RebalanceMove { volume, replica, from, to, bytes, state } = m;
            Shift { volume, replica, from, to, bytes, state }
        };
        Balance { operation: r.operation, moves: r.moves.into_iter().map(shift).collect(), done: r.done }
    }
}

impl From<v1::Setting> for Limit {
    fn from(s: v1::Setting) -> Limit {
        let number = |text: &str| text.parse().unwrap_or(0);
        Limit { value: number(&s.value), default: number(&s.default), name: s.name, help: s.help }
    }
}

/// How a pool is.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PoolState {
    /// Not known: its node cannot be reached.
    Unknown,
    /// Well.
    Online,
    /// It works, with something wrong.
    Degraded,
    /// It does not work.
    Faulted,
}

/// A pool of disks on a node.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Pool {
    /// Its node.
    pub node: String,
    /// Its name, unique on the node.
    pub name: String,
    /// Its identity on the disks.
    pub uuid: String,
    /// Its disks, as URIs.
    pub disks: Vec<String>,
    /// How it is.
    pub state: PoolState,
    /// Why it is not online; else empty.
    pub reason: String,
    /// Bytes that replicas can use.
    pub capacity: u64,
    /// Bytes that are allocated to replicas.
    pub used: u64,
    /// Bytes that are promised to replicas: thick sizes, and the allocated parts of thin ones.
    pub committed: u64,
}

/// A pool to be made.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPool {
    /// Its name, unique on the node.
    #[schema(min_length = 1, max_length = 63)]
    pub name: String,
    /// Its disks: paths or URIs, as the node sees them.
    #[schema(min_items = 1, max_items = 64)]
    pub disks: Vec<String>,
    /// Whether a disk that holds something foreign may be overwritten. A disk of a Mayastor pool never is.
    #[serde(default)]
    pub force: bool,
}

/// How a volume is.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum VolumeState {
    /// It is being made.
    Pending,
    /// All copies are there and in sync.
    Online,
    /// It serves, with fewer copies than wanted.
    Degraded,
    /// It cannot serve.
    Faulted,
    /// It is not open now.
    Offline,
    /// It is going, with all that it holds.
    Deleting,
}

/// How a copy is.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReplicaState {
    /// In sync.
    Online,
    /// Being copied to.
    Rebuilding,
    /// There, and lacks something.
    OutOfSync,
    /// It failed.
    Faulted,
    /// Taken out by an operator.
    Offline,
    /// Its node cannot be reached.
    Unreachable,
    /// Not needed any more; it goes when it is safe.
    Retired,
}

/// How far a rebuild is.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Rebuild {
    /// `init`, `running`, `paused`, `stopped`, `failed` or `completed`.
    pub state: String,
    /// Bytes that are done.
    pub bytes_done: u64,
    /// Bytes in all.
    pub bytes_total: u64,
    /// The present rate.
    pub bytes_per_second: u64,
    /// Milliseconds until the end at this rate; 0 when unknown.
    pub eta_ms: u64,
}

/// A copy of a volume.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Replica {
    /// Its identity.
    pub uuid: String,
    /// Its node.
    pub node: String,
    /// Its pool.
    pub pool: String,
    /// How it is.
    pub state: ReplicaState,
    /// Where it can be reached.
    pub uri: String,
    /// Its rebuild, while there is one.
    pub rebuild: Option<Rebuild>,
    /// Why it is not online; else empty.
    pub reason: String,
}

/// A volume.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uuid: String,
    /// Usable bytes, as asked.
    pub size: u64,
    /// What clients have now: less while it grows, 0 while it is not open.
    pub usable: u64,
    /// How many copies are wanted.
    pub replicas_wanted: u32,
    /// Whether its copies take space only when written.
    pub thin: bool,
    /// How it is.
    pub state: VolumeState,
    /// Everything about that in one line; empty when all is well.
    pub reason: String,
    /// What is wrong.
    pub why: Vec<String>,
    /// What is being done about it.
    pub doing: Vec<String>,
    /// What only an operator can do.
    pub needed: Vec<String>,
    /// Where its nexus runs; empty when it is not published.
    pub target_node: String,
    /// Where hosts reach it; empty when it is not published.
    pub device_uri: String,
    /// Its copies.
    pub replicas: Vec<Replica>,
    /// The generation of its ledger.
    pub generation: u64,
    /// Labels that nodes must have to hold a copy.
    pub required_labels: BTreeMap<String, String>,
    /// Labels whose nodes are taken first.
    pub preferred_labels: BTreeMap<String, String>,
    /// Keys of labels whose values differ between its copies; with `:soft`: if that is possible.
    pub spread: Vec<String>,
    /// Keys of labels whose values are the same for all its copies; with `:soft`: if that is possible.
    pub together: Vec<String>,
    /// The wish that it follows now; empty when it is as it was asked for.
    pub operation: String,
}

/// A whole number; JSON may write it with a fraction of zero.
fn whole<'de, D: Deserializer<'de>, T: TryFrom<u64>>(from: D) -> Result<T, D::Error> {
    let number = serde_json::Number::deserialize(from)?;
    let exact = |f: &f64| f.fract() == 0.0 && (0.0..9e15).contains(f);
    let value = number.as_u64().or_else(|| number.as_f64().filter(exact).map(|f| f as u64));
    let fits = value.and_then(|v| T::try_from(v).ok());
    fits.ok_or_else(|| serde::de::Error::custom(format!("{number} is not possible here: a whole number is needed")))
}

/// The characters of a label's key or value.
const WORD: &str = "[a-zA-Z0-9._/-]{1,63}";

fn word(pattern: String) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern))
}

/// Labels by their keys.
fn labels() -> Object {
    let (key, value) = (word(format!("^{WORD}$")), word(format!("^{WORD}$")));
    let object = ObjectBuilder::new().property_names(Some(key)).additional_properties(Some(value));
    object.max_properties(Some(crate::nodes::MOST_LABELS)).build()
}

/// Keys of labels.
fn keys() -> Array {
    ArrayBuilder::new().items(word(format!("^{WORD}$"))).build()
}

/// Rules about labels: KEY or KEY:soft.
fn rules() -> Array {
    ArrayBuilder::new().items(word(format!("^{WORD}(:(soft|hard))?$"))).build()
}

/// A volume to be made.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewVolume {
    /// Its name, unique.
    #[schema(min_length = 1, max_length = 63, pattern = "^[a-z0-9.-]+$")]
    pub name: String,
    /// Usable bytes: a multiple of 4096.
    #[schema(minimum = 4096, maximum = 1_125_899_906_842_624_u64, multiple_of = 4096)]
    #[serde(deserialize_with = "whole")]
    pub size: u64,
    /// How many copies.
    #[schema(minimum = 1, maximum = 16)]
    #[serde(deserialize_with = "whole")]
    pub replicas: u32,
    /// Whether its copies take space only when written.
    #[serde(default)]
    pub thin: bool,
    /// The only nodes that may hold copies; none: any.
    #[serde(default)]
    pub required_nodes: Vec<String>,
    /// Nodes that are taken first.
    #[serde(default)]
    pub preferred_nodes: Vec<String>,
    /// Labels that nodes must have to hold a copy.
    #[serde(default)]
    #[schema(schema_with = labels)]
    pub required_labels: BTreeMap<String, String>,
    /// Labels whose nodes are taken first.
    #[serde(default)]
    #[schema(schema_with = labels)]
    pub preferred_labels: BTreeMap<String, String>,
    /// Keys of labels whose values differ between its copies; KEY:soft: if that is possible.
    #[serde(default)]
    #[schema(schema_with = rules)]
    pub spread: Vec<String>,
    /// Keys of labels whose values are the same for all its copies; KEY:soft: if that is possible.
    #[serde(default)]
    #[schema(schema_with = rules)]
    pub together: Vec<String>,
    /// Its identity; chosen when absent.
    #[serde(default)]
    pub uuid: Option<uuid::Uuid>,
}

/// Where a volume is to be published.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// The node; absent: the best one.
    #[serde(default)]
    pub node: Option<String>,
}

/// How many copies a volume is to have.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Copies {
    /// The number.
    #[schema(minimum = 1, maximum = 16)]
    #[serde(deserialize_with = "whole")]
    pub replicas: u32,
}

/// How large a volume is to be.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// Usable bytes: a multiple of 4096, not less than it has.
    #[schema(minimum = 4096, maximum = 1_125_899_906_842_624_u64, multiple_of = 4096)]
    #[serde(deserialize_with = "whole")]
    pub size: u64,
}

/// Everything.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Status {
    /// The nodes, by name.
    pub nodes: Vec<Node>,
    /// The pools, by node and name.
    pub pools: Vec<Pool>,
    /// The volumes, by name.
    pub volumes: Vec<Volume>,
}

/// Something that happened.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Event {
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// What kind of event, such as `replica-faulted` or `rebuild-started`.
    pub kind: String,
    /// What it is about: volume/name, pool/node/name, node/name.
    pub object: String,
    /// What happened, for a person.
    pub text: String,
    /// Who asked for it, by the name of the credential; empty when nobody did, or nobody is known by name.
    pub actor: String,
    /// The wish that caused it; empty when none did.
    pub operation: String,
}

impl From<v1::Node> for Node {
    fn from(n: v1::Node) -> Node {
        let state = match n.state.as_str() {
            "online" => NodeState::Online,
            "unreachable" => NodeState::Unreachable,
            _ => NodeState::Offline,
        };
        let service = match n.service.as_str() {
            "cordoned" => Duty::Cordoned,
            "draining" => Duty::Draining,
            "drained" => Duty::Drained,
            _ => Duty::InService,
        };
        let drain = n.drain.map(|d| Drain {
            operation: d.operation,
            copies_total: d.copies_total,
            copies_left: d.copies_left,
            targets_left: d.targets_left,
            waiting: d.waiting.into_iter().map(|w| DrainItem { volume: w.volume, waits_for: w.waits_for }).collect(),
        });
        let v1::Node { id, grpc_endpoint, last_seen_ms_ago, version, why, doing, needed, labels, .. } = n;
        Node { id, grpc_endpoint, state, last_seen_ms_ago, version, why, doing, needed, service, labels, drain }
    }
}

impl From<v1::NodePool> for Pool {
    fn from(p: v1::NodePool) -> Pool {
        let (node, pool) = (p.node, p.pool.unwrap_or_default());
        let state = match pool.state() {
            v1::PoolState::PoolUnknown => PoolState::Unknown,
            v1::PoolState::PoolOnline => PoolState::Online,
            v1::PoolState::PoolDegraded => PoolState::Degraded,
            v1::PoolState::PoolFaulted => PoolState::Faulted,
        };
        let v1::Pool { name, uuid, disks, reason, capacity, used, committed, .. } = pool;
        Pool { node, name, uuid, disks, state, reason, capacity, used, committed }
    }
}

impl From<v1::VolumeReplica> for Replica {
    fn from(r: v1::VolumeReplica) -> Replica {
        let state = match r.state.as_str() {
            "online" => ReplicaState::Online,
            "rebuilding" => ReplicaState::Rebuilding,
            "out-of-sync" => ReplicaState::OutOfSync,
            "offline" => ReplicaState::Offline,
            "unreachable" => ReplicaState::Unreachable,
            "retired" => ReplicaState::Retired,
            _ => ReplicaState::Faulted,
        };
        let rebuild = r.rebuild.map(|b| Rebuild {
            state: b.state,
            bytes_done: b.bytes_done,
            bytes_total: b.bytes_total,
            bytes_per_second: b.bytes_per_second,
            eta_ms: b.eta_ms,
        });
        let (uuid, node, pool, uri, reason) = (r.uuid, r.node, r.pool, r.uri, r.reason);
        Replica { uuid, node, pool, state, uri, rebuild, reason }
    }
}

impl From<v1::Volume> for Volume {
    fn from(v: v1::Volume) -> Volume {
        let state = match v.state.as_str() {
            "pending" => VolumeState::Pending,
            "online" => VolumeState::Online,
            "degraded" => VolumeState::Degraded,
            "offline" => VolumeState::Offline,
            "deleting" => VolumeState::Deleting,
            _ => VolumeState::Faulted,
        };
        Volume {
            name: v.name,
            uuid: v.uuid,
            size: v.size,
            usable: v.usable,
            replicas_wanted: v.replicas_wanted,
            thin: v.thin,
            state,
            reason: v.reason,
            why: v.why,
            doing: v.doing,
            needed: v.needed,
            target_node: v.target_node,
            device_uri: v.device_uri,
            replicas: v.replicas.into_iter().map(Replica::from).collect(),
            generation: v.generation,
            required_labels: v.required_labels,
            preferred_labels: v.preferred_labels,
            spread: v.spread,
            together: v.together,
            operation: v.operation,
        }
    }
}

impl From<v1::Status> for Status {
    fn from(s: v1::Status) -> Status {
        Status {
            nodes: s.nodes.into_iter().map(Node::from).collect(),
            pools: s.pools.into_iter().map(Pool::from).collect(),
            volumes: s.volumes.into_iter().map(Volume::from).collect(),
        }
    }
}

impl From<v1::Event> for Event {
    fn from(e: v1::Event) -> Event {
        let v1::Event { time_ms, kind, object, text, actor, operation } = e;
        Event { time_ms, kind, object, text, actor, operation }
    }
}

/// The word of a pool's state, for metrics.
pub fn pool_word(pool: &v1::Pool) -> String {
    pool.state().word()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_may_have_a_fraction_of_zero() {
        let read = |text: &str| serde_json::from_str::<Copies>(text).map(|c| c.replicas);
        assert_eq!((read("{\"replicas\": 3}").ok(), read("{\"replicas\": 3.0}").ok()), (Some(3), Some(3)));
        for wrong in ["3.5", "-1", "1e30", "\"3\"", "null", "5000000000"] {
            assert!(read(&format!("{{\"replicas\": {wrong}}}")).is_err(), "{wrong}");
        }
    }
}
