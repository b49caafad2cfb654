//! Where there is room for new copies.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use block::Bytes;
use uuid::Uuid;

use crate::{Desired, Observed, PoolId, PoolState, Presence, ReplicaLife, Volume, presence};

/// What a child needs beyond the volume: the label with its metadata at the front (5 MiB), the backup table behind (1 MiB).
const LABEL_BYTES: u64 = 6 << 20;
/// Sizes of replicas are multiples of this.
const ROUND_BYTES: u64 = 4 << 20;
/// Room that a pool must have for a new thin replica, at the least.
const THIN_BYTES: u64 = 16 << 20;

/// The size of each replica of a volume: the volume, and the label that a nexus writes around it.
pub fn replica_size(volume: Bytes) -> Bytes {
    Bytes((volume + Bytes(LABEL_BYTES)).0.next_multiple_of(ROUND_BYTES))
}

/// Free space of all pools that can take replicas, less what is promised to copies that are not created yet.
#[derive(Clone, Debug)]
pub struct Room<'a> {
    observed: &'a Observed,
    free: BTreeMap<PoolId, u64>,
    by_free: BTreeSet<(Reverse<u64>, PoolId)>,
}

/// What speaks against a pool, the worst first. Smaller is better.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Penalty {
    /// 2: the node holds a living copy of the volume; 1: another copy of it.
    shares_node: u8,
    not_preferred: bool,
    degraded: bool,
}
impl Penalty {
    const NONE: Penalty = Penalty { shares_node: 0, not_preferred: false, degraded: false };
}

impl<'a> Room<'a> {
    /// Looks at all pools of nodes that answer.
    pub fn new(desired: &Desired, observed: &'a Observed) -> Room<'a> {
        let mut free = BTreeMap::new();
        for (node, n) in observed.nodes.iter().filter(|(_, n)| n.reach.is_online()) {
            for (pool, p) in n.pools.iter().filter(|(_, p)| p.state != PoolState::Faulted) {
                let id = PoolId { node: node.clone(), pool: pool.clone() };
                free.insert(id, p.capacity.0.saturating_sub(p.committed.0));
            }
        }
        for volume in desired.volumes.values() {
            for (id, replica) in volume.copies.iter().filter(|(_, r)| r.life == ReplicaLife::Placed) {
                let promised = observed.replica(&replica.pool.node, *id).is_none();
                if let Some(left) = free.get_mut(&replica.pool).filter(|_| promised) {
                    *left = left.saturating_sub(promise(volume));
                }
            }
        }
        let by_free = free.iter().map(|(id, left)| (Reverse(*left), id.clone())).collect();
        Room { observed, free, by_free }
    }

    /// Takes room for one more copy of `volume`: never in a pool that holds a copy of it, on a node without one if there is
    /// any, a preferred node if there is any, most free space first. `alive` says which of its copies are well, `new` are
    /// pools that were taken a moment ago and are not recorded yet.
    pub fn take(&mut self, volume: &Volume, alive: impl Fn(Uuid) -> bool, new: &[PoolId]) -> Option<PoolId> {
        let need = promise(volume);
        let mut nodes: BTreeMap<&str, u8> = new.iter().map(|p| (p.node.as_str(), 2)).collect();
        let mut pools: BTreeSet<&PoolId> = new.iter().collect();
        for (id, replica) in &volume.copies {
            // A copy that its pool has lost does not stand in the way of a new one there.
            let lost =
                replica.life != ReplicaLife::Placed && presence(*id, replica, self.observed) == Presence::Missing;
            if !lost {
                pools.insert(&replica.pool);
            }
            let weight = if replica.life.is_wanted() && alive(*id) { 2 } else { 1 };
            let entry = nodes.entry(&replica.pool.node).or_default();
            *entry = weight.max(*entry);
        }
        let mut best: Option<(Penalty, &PoolId)> = None;
        for (_, id) in self.by_free.iter().take_while(|(Reverse(left), _)| *left >= need) {
            let allowed = volume.required_nodes.is_empty() || volume.required_nodes.contains(&id.node);
            if !allowed || pools.contains(id) {
                continue;
            }
            let penalty = Penalty {
                shares_node: nodes.get(id.node.as_str()).copied().unwrap_or(0),
                not_preferred: !volume.preferred_nodes.is_empty() && !volume.preferred_nodes.contains(&id.node),
                degraded: self.observed.nodes[&id.node].pools[&id.pool].state == PoolState::Degraded,
            };
            if best.as_ref().is_none_or(|(least, _)| penalty < *least) {
                let perfect = penalty == Penalty::NONE;
                best = Some((penalty, id));
                if perfect {
                    break;
                }
            }
        }
        let id = best?.1.clone();
        let left = self.free[&id];
        self.by_free.remove(&(Reverse(left), id.clone()));
        self.by_free.insert((Reverse(left - need), id.clone()));
        self.free.insert(id.clone(), left - need);
        Some(id)
    }

    /// Free bytes of a pool, as far as known.
    pub fn free(&self, pool: &PoolId) -> Bytes {
        Bytes(self.free.get(pool).copied().unwrap_or(0))
    }
}

/// What one copy of the volume takes from a pool when it is created.
fn promise(volume: &Volume) -> u64 {
    let size = replica_size(volume.size).0;
    if volume.thin { size.min(THIN_BYTES.max(size / 20)) } else { size }
}
