//! The records as they are stored: JSON, versioned, read strictly.

use std::collections::{BTreeMap, BTreeSet};

use block::{Bytes, Generation};
use plan::{HostUse, Ledger, Life, PoolId, Publish, Replica, ReplicaLife, Volume};
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
    publish: PublishRecord,
    #[serde(default)]
    hosts: BTreeMap<String, HostRecord>,
    life: LifeRecord,
    target: Option<String>,
    nexus_nodes: BTreeSet<String>,
    ledger: Option<LedgerRecord>,
    copies: BTreeMap<Uuid, ReplicaRecord>,
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeRecord {
    /// Where its gRPC services are: host:port.
    pub endpoint: String,
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
    Ok(Volume {
        name: v.name,
        size: Bytes(v.size),
        replicas: v.replicas,
        thin: v.thin,
        required_nodes: v.required_nodes,
        preferred_nodes: v.preferred_nodes,
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
