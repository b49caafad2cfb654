//! A node that will never come back, in the records of a volume.

use uuid::Uuid;

use crate::safety::Refusal;
use crate::{Life, Publish, Volume};

/// What an operator says about data that only the lost node can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It must not be given up.
    Refused,
    /// It is given up.
    Accepted,
}

/// Takes a node that will never come back out of a volume's records: its copies are forgotten, and nobody waits any more
/// for a nexus on it. The volume then goes on as if the node had never been: new copies are placed elsewhere, or, when it
/// is being deleted, nothing is left to wait for.
///
/// # Errors
/// When the ledger still counts a copy on the node among those that hold every acknowledged write, unless the loss is
/// accepted: repair takes it out of the ledger as soon as there is a good copy elsewhere, so where it is still named it
/// may be the last one. Nothing has changed then.
pub fn part_from(volume: &mut Volume, node: &str, loss: Loss) -> Result<(), Refusal> {
    let there: Vec<Uuid> = volume.copies.iter().filter(|(_, r)| r.pool.node == node).map(|(id, _)| *id).collect();
    let needed = volume.life == Life::Wanted && there.iter().any(|id| volume.in_ledger(*id));
    if needed && loss == Loss::Refused {
        let name = &volume.name;
        return Err(Refusal(format!("volume {name} still counts its copy on {node} among those with every write")));
    }
    if volume.moving.as_ref().is_some_and(|m| there.contains(&m.replica) || m.to.node == node) {
        volume.moving = None;
    }
    for id in there {
        volume.copies.remove(&id);
        if let Some(ledger) = &mut volume.ledger {
            ledger.in_sync.remove(&id);
        }
    }
    volume.nexus_nodes.remove(node);
    if volume.publish == Publish::On(node.to_owned()) {
        volume.publish = Publish::Anywhere;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use block::{Bytes, Generation};

    use super::*;
    use crate::{Ledger, PoolId, Replica, ReplicaLife, Topology};

    const A: Uuid = Uuid::from_u128(1);
    const B: Uuid = Uuid::from_u128(2);

    /// Copies A on `a` and B on `b`; open on `a`.
    fn volume(life: Life, in_sync: &[Uuid]) -> Volume {
        let copy =
            |node: &str| Replica { pool: PoolId { node: node.into(), pool: "p".into() }, life: ReplicaLife::Member };
        Volume {
            name: "v".into(),
            size: Bytes(4096),
            replicas: 2,
            thin: false,
            required_nodes: BTreeSet::new(),
            preferred_nodes: BTreeSet::new(),
            topology: Topology::default(),
            moving: None,
            operation: String::new(),
            publish: Publish::On("a".into()),
            hosts: BTreeMap::new(),
            life,
            target: Some("a".into()),
            nexus_nodes: BTreeSet::from(["a".to_owned()]),
            ledger: Some(Ledger { generation: Generation(1), in_sync: in_sync.iter().copied().collect() }),
            copies: BTreeMap::from([(A, copy("a")), (B, copy("b"))]),
        }
    }

    #[test]
    fn a_copy_that_is_out_of_sync_is_forgotten() {
        let mut v = volume(Life::Wanted, &[B]);
        part_from(&mut v, "a", Loss::Refused).expect("B has everything");
        assert_eq!(v.copies.keys().collect::<Vec<_>>(), [&B]);
        assert!(v.nexus_nodes.is_empty() && v.publish == Publish::Anywhere);
    }

    #[test]
    fn a_copy_that_counts_is_only_given_up_on_request() {
        for in_sync in [&[A][..], &[A, B]] {
            let mut v = volume(Life::Wanted, in_sync);
            let before = v.clone();
            let refusal = part_from(&mut v, "a", Loss::Refused).expect_err("A counts");
            assert!(refusal.0.contains("volume v") && refusal.0.contains("on a"), "{refusal}");
            assert_eq!(v, before);
            part_from(&mut v, "a", Loss::Accepted).expect("it is accepted");
            assert!(!v.in_ledger(A) && !v.copies.contains_key(&A));
        }
    }

    #[test]
    fn a_volume_that_is_being_deleted_needs_nothing() {
        let mut v = volume(Life::Deleting, &[A, B]);
        part_from(&mut v, "a", Loss::Refused).expect("it goes anyway");
        assert!(!v.copies.contains_key(&A) && v.nexus_nodes.is_empty());
    }

    #[test]
    fn another_node_changes_nothing() {
        let mut v = volume(Life::Wanted, &[A, B]);
        let before = v.clone();
        part_from(&mut v, "c", Loss::Refused).expect("it holds nothing");
        assert_eq!(v, before);
    }
}
