//! How each copy of a volume is doing: one word a copy, from what its node and its nexus say.

use uuid::Uuid;

use crate::{Child, ChildState, Nexus, Observed, PoolState, Reach, Replica, ReplicaLife, Settings, Volume};

/// Whether a replica is there, going by its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Its node shows it in working order.
    Present,
    /// Its node answers and its pool works, but the replica is not there.
    Missing,
    /// Its node answers, but the pool or the replica does not work, or the pool is not there.
    Broken {
        /// Since when.
        since_ms: u64,
    },
    /// Its node does not answer.
    Away {
        /// Since when.
        since_ms: u64,
    },
}

/// What the planner makes of a copy that is to stay.
///
/// ```text
///   Unborn ─► Ready ─► Joining ─► Good ─► Failed | Waiting ─► Lost
///                ▲                              └─► Rejoin ─┐
///                └──────────────────────────────────────────┘
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Placed, not created yet.
    Unborn,
    /// There, and not in the nexus.
    Ready,
    /// In the nexus, being rebuilt.
    Joining,
    /// In the nexus, in sync.
    Good,
    /// Taken out by an operator, who will bring it back.
    Parked,
    /// Away, not for long enough to give it up.
    Waiting,
    /// In the nexus, failed because its node was away, which is back, or out of sync without being rebuilt: worth another
    /// try.
    Rejoin,
    /// In the nexus, failed; its node was there all the time.
    Failed,
    /// Away for too long.
    Lost,
}

impl Standing {
    /// Whether the copy is, or will soon be, one of those that are wanted, with no other help.
    pub fn counts(self) -> bool {
        !matches!(self, Standing::Failed | Standing::Lost)
    }
}

/// Whether a replica is there, going by its node.
pub fn presence(id: Uuid, replica: &Replica, observed: &Observed) -> Presence {
    let Some(node) = observed.nodes.get(&replica.pool.node) else { return Presence::Away { since_ms: 0 } };
    if let Reach::Unreachable { since_ms } = node.reach {
        return Presence::Away { since_ms };
    }
    let since_ms = observed.absent.get(&id).copied();
    let pool_works = node.pools.get(&replica.pool.pool).is_some_and(|p| p.state != PoolState::Faulted);
    match node.replicas.get(&id) {
        Some(seen) if seen.online && pool_works => Presence::Present,
        None if pool_works => Presence::Missing,
        // The caller has not dated it yet: it was noticed this very moment.
        _ => Presence::Broken { since_ms: since_ms.unwrap_or(u64::MAX) },
    }
}

fn expired(since_ms: u64, grace_ms: u64, now_ms: u64) -> bool {
    since_ms.saturating_add(grace_ms) <= now_ms
}

/// How a copy is doing. `nexus` is the volume's nexus on its target, when that answers.
pub fn standing(
    id: Uuid,
    volume: &Volume,
    nexus: Option<&Nexus>,
    observed: &Observed,
    now_ms: u64,
    settings: &Settings,
) -> Standing {
    let replica = &volume.copies[&id];
    let presence = presence(id, replica, observed);
    if let Some(child) = nexus.and_then(|n| n.children.get(&id)) {
        return match child.state {
            ChildState::Online => Standing::Good,
            // Nobody rebuilds it: that is as good as failed.
            ChildState::OutOfSync if expired(child.since_ms, settings.stuck_ms, now_ms) => match presence {
                Presence::Present => Standing::Rejoin,
                _ => faulted(child, presence, replica, observed, now_ms, settings),
            },
            ChildState::Rebuilding | ChildState::OutOfSync => Standing::Joining,
            ChildState::Offline => Standing::Parked,
            ChildState::Faulted => faulted(child, presence, replica, observed, now_ms, settings),
        };
    }
    match presence {
        Presence::Present => Standing::Ready,
        Presence::Missing => match replica.life {
            // A copy that may have held data is never made anew under the same name: an empty one would pass for it.
            ReplicaLife::Placed => Standing::Unborn,
            _ if volume.ledger.is_none() => Standing::Unborn,
            _ => Standing::Lost,
        },
        Presence::Broken { since_ms } | Presence::Away { since_ms } => {
            if expired(since_ms, settings.node_grace_ms, now_ms) { Standing::Lost } else { Standing::Waiting }
        }
    }
}

/// How long before its child failed a node may have come (back) for the failure to be laid to its absence, in
/// milliseconds: a nexus may notice late.
const SAME_CAUSE_MS: u64 = 5_000;

fn faulted(
    child: &Child,
    presence: Presence,
    replica: &Replica,
    observed: &Observed,
    now_ms: u64,
    settings: &Settings,
) -> Standing {
    let patience =
        |since_ms, grace_ms, then| if expired(since_ms, grace_ms, now_ms) { then } else { Standing::Waiting };
    match presence {
        Presence::Away { since_ms } => patience(since_ms, settings.node_grace_ms, Standing::Lost),
        Presence::Missing => Standing::Lost,
        Presence::Broken { .. } => patience(child.since_ms, settings.fault_grace_ms, Standing::Failed),
        Presence::Present => match observed.nodes.get(&replica.pool.node).map(|n| n.reach) {
            Some(Reach::Online { since_ms }) if since_ms.saturating_add(SAME_CAUSE_MS) > child.since_ms => {
                Standing::Rejoin
            }
            _ => patience(child.since_ms, settings.fault_grace_ms, Standing::Failed),
        },
    }
}
