//! A volume that is being deleted: nothing is taken from under a nexus that may still be open.

use std::collections::{BTreeMap, BTreeSet};

use block::{Bytes, Generation};
use plan::*;
use uuid::Uuid;

const VOLUME: Uuid = Uuid::from_u128(9);
const HERE: Uuid = Uuid::from_u128(1);
const THERE: Uuid = Uuid::from_u128(2);
const LOST_MS: u64 = 1_000_000;

fn copy(node: &str) -> Replica {
    Replica { pool: PoolId { node: node.into(), pool: "p".into() }, life: ReplicaLife::Member }
}

/// A volume with a copy on `target`, where its nexus is, and one on `other`.
fn desired() -> Desired {
    let volume = Volume {
        name: "v".into(),
        size: Bytes(1 << 20),
        replicas: 2,
        thin: false,
        required_nodes: BTreeSet::new(),
        preferred_nodes: BTreeSet::new(),
        topology: Topology::default(),
        moving: None,
        operation: String::new(),
        publish: Publish::No,
        hosts: BTreeMap::new(),
        life: Life::Deleting,
        target: Some("target".into()),
        nexus_nodes: BTreeSet::from(["target".to_owned()]),
        ledger: Some(Ledger { generation: Generation(1), in_sync: BTreeSet::from([HERE, THERE]) }),
        copies: BTreeMap::from([(HERE, copy("target")), (THERE, copy("other"))]),
    };
    Desired { volumes: BTreeMap::from([(VOLUME, volume)]), ..Desired::default() }
}

fn node(reach: Reach, replica: Uuid, open: bool) -> Node {
    let pool = Pool { state: PoolState::Online, capacity: Bytes(1 << 30), committed: Bytes(0), nominal: Bytes(0) };
    let nexus = Nexus {
        state: NexusState::Online,
        since_ms: 1,
        published: false,
        size: block::Bytes(0),
        children: BTreeMap::new(),
    };
    Node {
        reach,
        pools: BTreeMap::from([("p".to_owned(), pool)]),
        replicas: BTreeMap::from([(
            replica,
            SeenReplica { pool: "p".into(), online: true, shared: true, size: block::Bytes(0) },
        )]),
        nexuses: if open { BTreeMap::from([(VOLUME, nexus)]) } else { BTreeMap::new() },
    }
}

/// What is planned while the target is so, so long after it was lost.
fn planned(target: Reach, open: bool, later_ms: u64) -> Vec<Action> {
    let nodes = BTreeMap::from([
        ("target".to_owned(), node(target, HERE, open)),
        ("other".to_owned(), node(Reach::Online { since_ms: 1 }, THERE, false)),
    ]);
    let observed = Observed { nodes, ..Observed::default() };
    plan(&desired(), &observed, LOST_MS + later_ms, &Settings::default())
}

fn node_of_destroyed(action: &Action) -> Option<&str> {
    match action {
        Action::DestroyReplica { node, .. } => Some(node),
        _ => None,
    }
}

fn destroyed(actions: &[Action]) -> Vec<&str> {
    actions.iter().filter_map(node_of_destroyed).collect()
}

#[test]
fn deleting_waits_for_a_nexus_that_may_still_be_open() {
    let away = Reach::Unreachable { since_ms: LOST_MS };
    let grace_ms = Settings::default().node_grace_ms;
    for later_ms in [0, 1, grace_ms - 1] {
        assert_eq!(planned(away, true, later_ms), [], "{later_ms} ms after the target was lost");
    }
    // Given up like everything else on that node. Its own copy waits for it to return.
    assert_eq!(destroyed(&planned(away, true, grace_ms)), ["other"]);
    assert_eq!(destroyed(&planned(away, false, grace_ms)), ["other"], "what was last seen there is old");
}

#[test]
fn a_nexus_that_is_seen_is_closed_before_its_copies_go() {
    let online = Reach::Online { since_ms: 1 };
    assert_eq!(planned(online, true, 0), [Action::CloseNexus { volume: VOLUME, node: "target".into() }]);
    assert_eq!(planned(online, false, 0), [Action::ForgetNexus { volume: VOLUME, node: "target".into() }]);
}
