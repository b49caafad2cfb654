//! Records that were lost, made anew from what the storage nodes hold: the labels and ledgers on their replicas, and the
//! nexuses that run.
//!
//! Conservative: a volume is taken only when every copy that its newest ledger counts among those with every write is there,
//! carries that very ledger, and no other nexus has written a ledger beside it. Anything else is listed with the reason, and
//! not touched. Nothing on the nodes is changed; what is on record already stays as it is.

use std::collections::{BTreeMap, BTreeSet};

use api::v1;
use block::{Bytes, Generation};
use plan::{Ledger, Life, PoolId, Publish, Replica, ReplicaLife, Volume};
use uuid::Uuid;

use crate::record::{self, NodeRecord};
use crate::store::{Change, Expected, Store, StoreError};

/// What one node holds.
#[derive(Clone, Debug, Default)]
pub struct Holding {
    /// Its report.
    pub report: v1::NodeReport,
    /// What lies on its replicas, or why that could not be read, by the replica's name.
    pub contents: BTreeMap<String, Result<v1::ReplicaContents, String>>,
}

/// What can be made of it.
#[derive(Clone, Debug, Default)]
pub struct Proposal {
    /// The nodes: name and endpoint.
    pub nodes: BTreeMap<String, String>,
    /// The volumes that can be taken.
    pub volumes: BTreeMap<Uuid, Volume>,
    /// The volumes that cannot, and why.
    pub unclear: BTreeMap<Uuid, String>,
    /// Replicas that belong to no volume above, and what is known of them; they stay as they are.
    pub left: Vec<String>,
}

/// A copy of a volume, as it was found.
struct Copy {
    replica: Uuid,
    pool: PoolId,
    thin: bool,
    contents: v1::ReplicaContents,
}

/// A nexus, as it was found.
struct Seen {
    node: String,
    generation: u64,
    published: bool,
}

/// What belongs to one volume.
#[derive(Default)]
struct Pieces {
    copies: Vec<Copy>,
    nexuses: Vec<Seen>,
}

/// Looks at everything; `names` says what volumes shall be called, others are called by their uuid.
pub fn propose(holdings: &[Holding], names: &BTreeMap<Uuid, String>) -> Proposal {
    let mut proposal = Proposal::default();
    let mut volumes: BTreeMap<Uuid, Pieces> = BTreeMap::new();
    for Holding { report, contents } in holdings {
        let node = &report.id;
        proposal.nodes.insert(node.clone(), report.grpc_endpoint.clone());
        for replica in &report.replicas {
            let name = format!("replica {} on {node}", replica.uuid);
            let found = match contents.get(&replica.uuid) {
                None => Err("it was not looked at".to_owned()),
                Some(found) => found.clone(),
            };
            match found {
                Err(why) => proposal.left.push(format!("{name} cannot be read: {why}")),
                Ok(found) => match (found.volume.parse(), replica.uuid.parse()) {
                    (Ok(volume), Ok(replica_id)) => {
                        let pool = PoolId { node: node.clone(), pool: replica.pool.clone() };
                        let copy = Copy { replica: replica_id, pool, thin: replica.thin, contents: found };
                        volumes.entry(volume).or_default().copies.push(copy);
                    }
                    (Err(_), _) => proposal.left.push(format!("{name} was never a copy of a volume")),
                    (_, Err(_)) => proposal.left.push(format!("{name} was made by hand: its name is no uuid")),
                },
            }
        }
        for nexus in &report.nexuses {
            if let Ok(volume) = nexus.uuid.parse() {
                let published = !nexus.device_uri.is_empty();
                let seen = Seen { node: node.clone(), generation: nexus.generation, published };
                volumes.entry(volume).or_default().nexuses.push(seen);
            }
        }
    }
    for (id, pieces) in volumes {
        let name = names.get(&id).cloned().unwrap_or_else(|| id.to_string());
        match judge(name, &pieces, &mut proposal.left) {
            Ok(volume) => drop(proposal.volumes.insert(id, volume)),
            Err(why) => drop(proposal.unclear.insert(id, why)),
        }
    }
    proposal
}

/// Who is in sync by the ledger, by the uuids of members.
fn in_sync(contents: &v1::ReplicaContents) -> BTreeSet<&str> {
    contents.members.iter().filter(|m| m.in_sync).map(|m| m.member.as_str()).collect()
}

fn judge(name: String, pieces: &Pieces, left: &mut Vec<String>) -> Result<Volume, String> {
    let Pieces { copies, nexuses } = pieces;
    let newest = copies.iter().map(|c| &c.contents).max_by_key(|c| c.generation).filter(|c| c.generation != 0);
    let newest = newest.ok_or("no copy has a ledger: it was never written to, or all of its copies are elsewhere")?;
    let mut by_member: BTreeMap<&str, &Copy> = BTreeMap::new();
    for copy in copies.iter().filter(|c| !c.contents.member.is_empty()) {
        if let Some(other) = by_member.insert(&copy.contents.member, copy) {
            let text = format!("replicas {} and {} are copies of one another", other.replica, copy.replica);
            return Err(format!("{text}; remove the one that was not in use"));
        }
    }
    let mut good = BTreeSet::new();
    for member in in_sync(newest) {
        let copy = by_member.get(member).ok_or_else(|| {
            format!(
                "a copy with every write (member {member}) is not on any of these nodes; a newer state may be with it"
            )
        })?;
        let has = &copy.contents;
        if has.generation != newest.generation || in_sync(has) != in_sync(newest) || has.size != newest.size {
            return Err(format!("the copy on {} does not carry the newest ledger, in which it counts", copy.pool.node));
        }
        good.insert(copy.replica);
    }
    // What a nexus has written that the newest one did not know of may have been in force.
    for copy in copies.iter().filter(|c| c.contents.generation != 0 && !good.contains(&c.replica)) {
        let (generation, same_writer) =
            (copy.contents.generation, writer(copy.contents.generation) == writer(newest.generation));
        if generation > newest.parent && !same_writer {
            return Err(format!("the copy on {} was written to by another nexus at the same time", copy.pool.node));
        }
    }
    let ahead = nexuses.iter().find(|n| n.generation > newest.generation);
    if let Some(ahead) = ahead {
        return Err(format!("the nexus on {} knows a newer ledger than lies on any copy here", ahead.node));
    }
    let mut targets = nexuses.iter().filter(|n| writer(n.generation) == writer(newest.generation));
    let target = targets.next();
    if let Some((one, two)) = target.zip(targets.next()) {
        return Err(format!("{} and {} both seem to serve it", one.node, two.node));
    }
    let listed: BTreeSet<&str> = newest.members.iter().map(|m| m.member.as_str()).collect();
    let (members, others): (Vec<&Copy>, Vec<&Copy>) =
        copies.iter().partition(|c| listed.contains(c.contents.member.as_str()));
    for copy in others {
        left.push(format!("replica {} on {} was a copy of {name}, and is none any more", copy.replica, copy.pool.node));
    }
    let copy = |c: &&Copy| (c.replica, Replica { pool: c.pool.clone(), life: ReplicaLife::Member });
    Ok(Volume {
        name,
        size: Bytes(newest.size),
        replicas: u32::try_from(listed.len()).unwrap_or(1).max(1),
        thin: members.iter().all(|c| c.thin),
        required_nodes: BTreeSet::new(),
        preferred_nodes: BTreeSet::new(),
        topology: plan::Topology::default(),
        moving: None,
        operation: String::new(),
        publish: match target {
            Some(target) if target.published => Publish::On(target.node.clone()),
            _ => Publish::No,
        },
        hosts: BTreeMap::new(),
        life: Life::Wanted,
        target: target.map(|t| t.node.clone()),
        nexus_nodes: nexuses.iter().map(|n| n.node.clone()).collect(),
        ledger: Some(Ledger { generation: Generation(newest.generation), in_sync: good }),
        copies: members.iter().map(copy).collect(),
    })
}

/// Which nexus wrote a ledger: its generation and salt (docs/replication.md, section 3). The sequence is the low bits.
fn writer(generation: u64) -> u64 {
    generation >> SEQUENCE_BITS
}
const SEQUENCE_BITS: u32 = 20;

/// Writes the proposal. Records that are there stay as they are. The volumes that were written.
///
/// # Errors
/// Of the store. What was written before stays; to go on, look and write again.
pub async fn write(store: &dyn Store, proposal: &Proposal) -> Result<Vec<Uuid>, StoreError> {
    for (id, endpoint) in &proposal.nodes {
        let node = record::encode(&NodeRecord { endpoint: endpoint.clone(), ..NodeRecord::default() });
        if_absent(store, format!("node/{id}"), node).await?;
    }
    let mut taken = BTreeSet::new();
    for (key, entry) in store.list("volume/").await? {
        taken.insert(record::decode_volume(&key, &entry.value)?.name);
    }
    let mut written = Vec::new();
    for (id, volume) in &proposal.volumes {
        let mut volume = volume.clone();
        if taken.contains(&volume.name) {
            volume.name = id.to_string();
        }
        if if_absent(store, format!("volume/{id}"), record::encode_volume(&volume)).await? {
            taken.insert(volume.name);
            written.push(*id);
        }
    }
    Ok(written)
}

async fn if_absent(store: &dyn Store, key: String, value: Vec<u8>) -> Result<bool, StoreError> {
    match store.commit(Change::new(key, Expected::Absent, Some(value))).await {
        Ok(_) => Ok(true),
        Err(StoreError::Conflict(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOLUME: &str = "5b0a2f53-3b8a-4a1c-9d57-2f8f6c6d1b11";

    fn uuid(n: u32) -> String {
        Uuid::from_u128(u128::from(n)).to_string()
    }

    /// Node `n` with replica `n`, member `100 + n`, and that ledger.
    fn holding(n: u32, generation: u64, parent: u64, members: &[(u32, bool)]) -> Holding {
        let replica = v1::Replica { uuid: uuid(n), pool: "p".into(), thin: true, ..Default::default() };
        let contents = v1::ReplicaContents {
            uuid: uuid(n),
            volume: VOLUME.into(),
            member: uuid(100 + n),
            size: 1 << 20,
            generation,
            parent,
            members: members
                .iter()
                .map(|(m, in_sync)| v1::LedgerMember { member: uuid(100 + m), in_sync: *in_sync })
                .collect(),
        };
        let report = v1::NodeReport { id: format!("n{n}"), replicas: vec![replica], ..Default::default() };
        Holding { report, contents: BTreeMap::from([(uuid(n), Ok(contents))]) }
    }

    fn one(holdings: &[Holding]) -> Result<Volume, String> {
        let mut proposal = propose(holdings, &BTreeMap::new());
        let id = VOLUME.parse().unwrap();
        proposal.volumes.remove(&id).ok_or_else(|| proposal.unclear.remove(&id).unwrap())
    }

    fn nexus(holding: &mut Holding, generation: u64, device_uri: &str) {
        let device_uri = device_uri.to_owned();
        holding.report.nexuses.push(v1::Nexus { uuid: VOLUME.into(), generation, device_uri, ..Default::default() });
    }

    const GEN: u64 = 1 << SEQUENCE_BITS;

    #[test]
    fn a_whole_volume_is_taken_as_its_newest_ledger_says() {
        let members = [(1, true), (2, true), (3, false)];
        let mut all = [
            holding(1, 3 * GEN, GEN, &members),
            holding(2, 3 * GEN, GEN, &members),
            holding(3, GEN, 0, &[(1, true), (2, true), (3, true)]),
        ];
        nexus(&mut all[0], 3 * GEN, "nvmf://x");
        nexus(&mut all[2], GEN, "");
        let volume = one(&all).unwrap();
        assert_eq!((volume.name.as_str(), volume.size.0, volume.replicas, volume.thin), (VOLUME, 1 << 20, 3, true));
        assert_eq!((volume.publish, volume.target.as_deref()), (Publish::On("n1".into()), Some("n1")));
        assert_eq!(volume.nexus_nodes.len(), 2, "the former one is to be closed");
        let ledger = volume.ledger.unwrap();
        assert_eq!((ledger.generation.0, ledger.in_sync.len()), (3 * GEN, 2));
        assert_eq!(volume.copies.len(), 3);
        assert!(volume.copies.values().all(|c| c.life == ReplicaLife::Member));
    }

    #[test]
    fn what_is_not_certain_is_not_touched() {
        let both = [(1, true), (2, true)];
        let why = |holdings: &[Holding]| one(holdings).unwrap_err();
        let missing = why(&[holding(1, GEN, 0, &both)]);
        assert!(missing.contains("not on any of these nodes"), "{missing}");
        let never = why(&[holding(1, 0, 0, &[])]);
        assert!(never.contains("no copy has a ledger"), "{never}");
        let half = why(&[holding(1, GEN + 1, GEN, &both), holding(2, GEN, 0, &both)]);
        assert!(half.contains("n2 does not carry the newest ledger"), "{half}");
        let rivals = why(&[holding(1, 3 * GEN, GEN, &[(1, true)]), holding(2, 2 * GEN, GEN, &[(2, true)])]);
        assert!(rivals.contains("another nexus"), "{rivals}");
        let mut twin = holding(2, GEN, 0, &[(1, true)]);
        twin.contents.values_mut().for_each(|c| c.as_mut().unwrap().member = uuid(101));
        let twins = why(&[holding(1, GEN, 0, &[(1, true)]), twin]);
        assert!(twins.contains("copies of one another"), "{twins}");
        let mut ahead = [holding(1, GEN, 0, &[(1, true)])];
        nexus(&mut ahead[0], 2 * GEN, "");
        assert!(why(&ahead).contains("newer ledger"), "{}", why(&ahead));
        let mut two = [holding(1, GEN, 0, &both), holding(2, GEN, 0, &both)];
        nexus(&mut two[0], GEN, "");
        nexus(&mut two[1], GEN, "");
        assert!(why(&two).contains("both seem to serve"), "{}", why(&two));
    }

    #[test]
    fn a_copy_that_was_put_out_is_left_alone_and_a_set_that_shrank_is_taken() {
        let all = [holding(1, 3 * GEN, 2 * GEN, &[(1, true)]), holding(2, 2 * GEN, GEN, &[(1, true), (2, true)])];
        let proposal = propose(&all, &BTreeMap::from([(VOLUME.parse().unwrap(), "data".to_owned())]));
        let volume = &proposal.volumes[&VOLUME.parse().unwrap()];
        assert_eq!((volume.name.as_str(), volume.copies.len(), volume.replicas), ("data", 1, 1));
        assert!(proposal.left.len() == 1 && proposal.left[0].contains("none any more"), "{:?}", proposal.left);
        assert_eq!(volume.target, None);
    }

    #[tokio::test]
    async fn what_is_on_record_stays() {
        let store = crate::store::MemoryStore::default();
        let proposal = propose(&[holding(1, GEN, 0, &[(1, true)])], &BTreeMap::new());
        assert_eq!(write(&store, &proposal).await.unwrap().len(), 1);
        let before = store.list("").await.unwrap();
        assert_eq!(write(&store, &proposal).await.unwrap().len(), 0);
        assert_eq!(store.list("").await.unwrap(), before);
    }
}
