//! The records as they are stored: JSON, versioned, read strictly.

use std::collections::{BTreeMap, BTreeSet};

use block::{Bytes, Generation};
use plan::{
    HostUse, Ledger, Life, Limits, Move, PoolId, Publish, Replica, ReplicaLife, Rule, Service, Topology, Volume,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::store::StoreError;

/// The version that is written; others are refused.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VolumeRecord {
    version: u32,
    name: String,
    size: u64,
    replicas: u32,
    thin: bool,
    required_nodes: BTreeSet<String>,
    preferred_nodes: BTreeSet<String>,
    #[serde(default)]
    topology: TopologyRecord,
    #[serde(default)]
    moving: Option<MoveRecord>,
    #[serde(default)]
    operation: String,
    publish: PublishRecord,
    #[serde(default)]
    hosts: BTreeMap<String, HostRecord>,
    life: LifeRecord,
    target: Option<String>,
    nexus_nodes: BTreeSet<String>,
    ledger: Option<LedgerRecord>,
    copies: BTreeMap<Uuid, ReplicaRecord>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TopologyRecord {
    required_labels: BTreeMap<String, String>,
    preferred_labels: BTreeMap<String, String>,
    /// By key: whether the rule is hard.
    spread: BTreeMap<String, bool>,
    together: BTreeMap<String, bool>,
}
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MoveRecord {
    replica: Uuid,
    node: String,
    pool: String,
}
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HostRecord {
    read_only: bool,
    shared: bool,
}
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum PublishRecord {
    No,
    Anywhere,
    On(String),
}
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum LifeRecord {
    Wanted,
    Deleting,
}
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LedgerRecord {
    generation: u64,
    in_sync: BTreeSet<Uuid>,
}
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplicaRecord {
    node: String,
    pool: String,
    life: ReplicaLifeRecord,
}
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ReplicaLifeRecord {
    Placed,
    Member,
    Retired,
    Discarded,
}

/// A node that registered once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeRecord {
    /// Where its gRPC services are: host:port.
    pub endpoint: String,
    #[serde(default)]
    pub service: ServiceRecord,
    /// What its engine was started with.
    #[serde(default)]
    pub engine_labels: BTreeMap<String, String>,
    /// What an operator set: an empty value takes the engine's away.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub drain: Option<DrainRecord>,
}

/// Whether a node is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ServiceRecord {
    #[default]
    InService,
    Cordoned,
    Draining,
}

/// A drain that was begun.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DrainRecord {
    pub operation: String,
    /// Copies that were there when it began.
    pub copies: u32,
    /// Whether it was told that it is over.
    pub done: bool,
}

impl NodeRecord {
    /// The planner's view of it.
    pub fn wish(&self) -> plan::NodeWish {
        let service = match self.service {
            ServiceRecord::InService => Service::InService,
            ServiceRecord::Cordoned => Service::Cordoned,
            ServiceRecord::Draining => Service::Draining,
        };
        let mut labels = self.engine_labels.clone();
        labels.extend(self.labels.clone());
        labels.retain(|_, value| !value.is_empty());
        plan::NodeWish { service, labels }
    }
}

/// How much may be done.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitsRecord {
    fill_percent: u32,
    overcommit_percent: u32,
    rebuilds_per_node: u32,
}

pub(crate) fn encode_limits(l: &Limits) -> Vec<u8> {
    let Limits { fill_percent, overcommit_percent, rebuilds_per_node } = *l;
    encode(&LimitsRecord { fill_percent, overcommit_percent, rebuilds_per_node })
}

pub(crate) fn decode_limits(key: &str, bytes: &[u8]) -> Result<Limits, StoreError> {
    let LimitsRecord { fill_percent, overcommit_percent, rebuilds_per_node } = decode(key, bytes)?;
    Ok(Limits { fill_percent, overcommit_percent, rebuilds_per_node })
}

/// A rebalance that is under way: its moves, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RebalanceRecord {
    pub operation: String,
    pub moves: Vec<StepRecord>,
}

/// A move of a rebalance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StepRecord {
    pub volume: Uuid,
    pub name: String,
    pub replica: Uuid,
    pub from_node: String,
    pub from_pool: String,
    pub to_node: String,
    pub to_pool: String,
    pub bytes: u64,
    pub state: StepState,
}

/// How far a move of a rebalance is.
///
/// ```text
///   Waiting ─► Moving ─► Done
///      └──────────┴────► Skipped
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StepState {
    Waiting,
    Moving,
    Done,
    Skipped,
}

/// An event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct EventRecord {
    pub time_ms: u64,
    pub kind: String,
    pub object: String,
    pub text: String,
    /// Who asked for it; empty when nobody did, or nobody is known by name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub actor: String,
    #[serde(default)]
    pub operation: String,
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("records are plain data")
}

pub(crate) fn decode<'a, T: Deserialize<'a>>(key: &str, bytes: &'a [u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|e| StoreError::Corrupt { key: key.to_owned(), why: e.to_string() })
}

pub(crate) fn encode_volume(v: &Volume) -> Vec<u8> {
    let copies = v.copies.iter().map(|(id, r)| {
        let life = match r.life {
            ReplicaLife::Placed => ReplicaLifeRecord::Placed,
            ReplicaLife::Member => ReplicaLifeRecord::Member,
            ReplicaLife::Retired => ReplicaLifeRecord::Retired,
            ReplicaLife::Discarded => ReplicaLifeRecord::Discarded,
        };
        (*id, ReplicaRecord { node: r.pool.node.clone(), pool: r.pool.pool.clone(), life })
    });
    let host = |(name, host): (&String, &HostUse)| {
        (name.clone(), HostRecord { read_only: host.read_only, shared: host.shared })
    };
    encode(&VolumeRecord {
        version: VERSION,
        name: v.name.clone(),
        size: v.size.0,
        replicas: v.replicas,
        thin: v.thin,
        required_nodes: v.required_nodes.clone(),
        preferred_nodes: v.preferred_nodes.clone(),
        topology: TopologyRecord {
            required_labels: v.topology.required_labels.clone(),
            preferred_labels: v.topology.preferred_labels.clone(),
            spread: v.topology.spread.iter().map(|r| (r.key.clone(), r.hard)).collect(),
            together: v.topology.together.iter().map(|r| (r.key.clone(), r.hard)).collect(),
        },
        moving: v.moving.as_ref().map(|m| MoveRecord {
            replica: m.replica,
            node: m.to.node.clone(),
            pool: m.to.pool.clone(),
        }),
        operation: v.operation.clone(),
        publish: match &v.publish {
            Publish::No => PublishRecord::No,
            Publish::Anywhere => PublishRecord::Anywhere,
            Publish::On(node) => PublishRecord::On(node.clone()),
        },
        hosts: v.hosts.iter().map(host).collect(),
        life: match v.life {
            Life::Wanted => LifeRecord::Wanted,
            Life::Deleting => LifeRecord::Deleting,
        },
        target: v.target.clone(),
        nexus_nodes: v.nexus_nodes.clone(),
        ledger: v.ledger.as_ref().map(|l| LedgerRecord { generation: l.generation.0, in_sync: l.in_sync.clone() }),
        copies: copies.collect(),
    })
}

pub(crate) fn decode_volume(key: &str, bytes: &[u8]) -> Result<Volume, StoreError> {
    let v: VolumeRecord = decode(key, bytes)?;
    if v.version != VERSION {
        let why = format!("it has version {}, this program knows {VERSION}", v.version);
        return Err(StoreError::Corrupt { key: key.to_owned(), why });
    }
    let copies = v.copies.into_iter().map(|(id, r)| {
        let life = match r.life {
            ReplicaLifeRecord::Placed => ReplicaLife::Placed,
            ReplicaLifeRecord::Member => ReplicaLife::Member,
            ReplicaLifeRecord::Retired => ReplicaLife::Retired,
            ReplicaLifeRecord::Discarded => ReplicaLife::Discarded,
        };
        (id, Replica { pool: PoolId { node: r.node, pool: r.pool }, life })
    });
    let host = |(name, host): (String, HostRecord)| (name, HostUse { read_only: host.read_only, shared: host.shared });
    let rules = |all: BTreeMap<String, bool>| all.into_iter().map(|(key, hard)| Rule { key, hard }).collect();
    Ok(Volume {
        name: v.name,
        size: Bytes(v.size),
        replicas: v.replicas,
        thin: v.thin,
        required_nodes: v.required_nodes,
        preferred_nodes: v.preferred_nodes,
        topology: Topology {
            required_labels: v.topology.required_labels,
            preferred_labels: v.topology.preferred_labels,
            spread: rules(v.topology.spread),
            together: rules(v.topology.together),
        },
        moving: v.moving.map(|m| Move { replica: m.replica, to: PoolId { node: m.node, pool: m.pool } }),
        operation: v.operation,
        publish: match v.publish {
            PublishRecord::No => Publish::No,
            PublishRecord::Anywhere => Publish::Anywhere,
            PublishRecord::On(node) => Publish::On(node),
        },
        hosts: v.hosts.into_iter().map(host).collect(),
        life: match v.life {
            LifeRecord::Wanted => Life::Wanted,
            LifeRecord::Deleting => Life::Deleting,
        },
        target: v.target,
        nexus_nodes: v.nexus_nodes,
        ledger: v.ledger.map(|l| Ledger { generation: Generation(l.generation), in_sync: l.in_sync }),
        copies: copies.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_the_first_release_are_read() {
        let old = br#"{"version":1,"name":"v","size":4096,"replicas":1,"thin":false,"required_nodes":[],
            "preferred_nodes":[],"publish":"no","life":"wanted","target":null,"nexus_nodes":[],"ledger":null,"copies":{}}"#;
        let volume = decode_volume("volume/x", old).expect("it is read");
        assert_eq!((volume.topology.clone(), volume.moving.clone()), (Topology::default(), None));
        assert_eq!(decode_volume("volume/x", &encode_volume(&volume)).expect("it is read"), volume);
        let node: NodeRecord = decode("node/n", br#"{"endpoint":"h:1"}"#).expect("it is read");
        assert_eq!(node.wish(), plan::NodeWish::default());
        let event: EventRecord =
            decode("event/1", br#"{"time_ms":1,"kind":"k","object":"o","text":"t"}"#).expect("read");
        assert_eq!(event.operation, "");
    }

    #[test]
    fn an_operator_overrides_the_labels_of_an_engine() {
        let map = |all: &[(&str, &str)]| all.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let node = NodeRecord {
            engine_labels: map(&[("zone", "a"), ("disk", "fast")]),
            labels: map(&[("zone", "b"), ("disk", "")]),
            ..NodeRecord::default()
        };
        assert_eq!(node.wish().labels, map(&[("zone", "b")]));
    }

    #[test]
    fn topology_moves_and_limits_survive_the_store() {
        let old = br#"{"version":1,"name":"v","size":4096,"replicas":1,"thin":false,"required_nodes":[],
            "preferred_nodes":[],"publish":"no","life":"wanted","target":null,"nexus_nodes":[],"ledger":null,"copies":{}}"#;
        let mut volume = decode_volume("volume/x", old).expect("it is read");
        volume.topology.spread.insert(Rule { key: "zone".into(), hard: true });
        volume.topology.together.insert(Rule { key: "rack".into(), hard: false });
        volume.topology.required_labels.insert("disk".into(), "fast".into());
        volume.moving = Some(Move { replica: Uuid::from_u128(1), to: PoolId { node: "n".into(), pool: "p".into() } });
        volume.operation = "op".into();
        assert_eq!(decode_volume("volume/x", &encode_volume(&volume)).expect("it is read"), volume);
        let limits = Limits { fill_percent: 1, overcommit_percent: 2, rebuilds_per_node: 3 };
        assert_eq!(decode_limits("k", &encode_limits(&limits)).expect("it is read"), limits);
    }
}
