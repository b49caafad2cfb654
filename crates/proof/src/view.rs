//! What an operator has heard from the nodes, in the planner's terms.

use std::collections::BTreeMap;

use block::{Bytes, Generation};
use engine::model::{ChildState, Health, NexusInfo, NodeReport};
use plan::{Desired, Ledger, Observed, Presence, Reach, SeenReplica};
use uuid::Uuid;

use crate::store::uuid_of;

/// Missed reports that make a node unreachable.
const MISSED: u32 = 3;

/// What is known of all nodes.
#[derive(Default)]
pub struct View {
    /// In the planner's terms.
    observed: Observed,
    nodes: BTreeMap<String, Seen>,
}

#[derive(Default)]
struct Seen {
    instance: Uuid,
    missed: u32,
    report: Option<NodeReport>,
}

impl View {
    /// A view of nodes of which nothing was heard yet.
    pub fn of(names: &[String], now_ms: u64) -> View {
        let mut view = View::default();
        for name in names {
            let node = plan::Node {
                reach: Reach::Unreachable { since_ms: now_ms },
                pools: BTreeMap::new(),
                replicas: BTreeMap::new(),
                nexuses: BTreeMap::new(),
            };
            view.observed.nodes.insert(name.clone(), node);
            view.nodes.insert(name.clone(), Seen::default());
        }
        view
    }

    /// A node did not report.
    pub fn missed(&mut self, name: &str, now_ms: u64) {
        let (Some(node), Some(seen)) = (self.observed.nodes.get_mut(name), self.nodes.get_mut(name)) else { return };
        seen.missed += 1;
        if seen.missed >= MISSED && node.reach.is_online() {
            node.reach = Reach::Unreachable { since_ms: now_ms };
        }
    }

    /// A node reported.
    pub fn heard(&mut self, name: &str, report: NodeReport, now_ms: u64) {
        let (Some(node), Some(seen)) = (self.observed.nodes.get_mut(name), self.nodes.get_mut(name)) else { return };
        if !node.reach.is_online() || seen.instance != report.instance {
            node.reach = Reach::Online { since_ms: now_ms };
        }
        seen.instance = report.instance;
        seen.missed = 0;
        node.pools = report.pools.iter().map(|p| (p.name.clone(), pool(p))).collect();
        let replica = |r: &engine::model::ReplicaInfo| {
            let seen = SeenReplica {
                pool: r.pool.clone(),
                online: r.state != Health::Faulted,
                shared: r.share.is_some(),
                size: Bytes(r.size),
            };
            Some((r.uuid.parse().ok()?, seen))
        };
        node.replicas = report.replicas.iter().filter_map(replica).collect();
        let old = std::mem::take(&mut node.nexuses);
        let named = |n: &NexusInfo| {
            let id: Uuid = n.uuid.parse().ok()?;
            Some((id, nexus(n, old.get(&id), now_ms)))
        };
        node.nexuses = report.nexuses.iter().filter_map(named).collect();
        seen.report = Some(report);
    }

    /// The URI under which other nodes reach a replica, when it is shared.
    pub fn replica_uri(&self, node: &str, replica: Uuid) -> Option<String> {
        let report = self.nodes.get(node)?.report.as_ref()?;
        let found = report.replicas.iter().find(|r| r.uuid.parse() == Ok(replica))?;
        found.share.map(|_| found.uri.clone())
    }

    /// The URI under which the nexus on a node knows a child.
    pub fn child_uri(&self, node: &str, volume: Uuid, replica: Uuid) -> Option<String> {
        let nexus = self.nexus(node, volume)?;
        nexus.children.iter().find(|c| uuid_of(&c.uri) == Some(replica)).map(|c| c.uri.clone())
    }

    fn nexus(&self, node: &str, volume: Uuid) -> Option<&NexusInfo> {
        let report = self.nodes.get(node)?.report.as_ref()?;
        report.nexuses.iter().find(|n| n.uuid.parse() == Ok(volume))
    }

    /// Where the volume is exported on a node that answers.
    pub fn device_uri(&self, node: &str, volume: Uuid) -> Option<String> {
        let online = self.observed.is_online(node);
        let nexus = self.nexus(node, volume).filter(|n| online && !n.device_uri.is_empty())?;
        Some(nexus.device_uri.clone())
    }

    /// Ledgers that nexuses recorded on their members alone: of the volume's target, and newer than the one on record.
    pub fn ledger_news(&self, desired: &Desired) -> Vec<(Uuid, String, Ledger)> {
        let mut news = Vec::new();
        for (id, volume) in &desired.volumes {
            let Some(target) = volume.target.as_deref().filter(|t| self.observed.is_online(t)) else { continue };
            let Some(nexus) = self.nexus(target, *id) else { continue };
            let in_sync = nexus.ledger.in_sync.iter().filter_map(|uri| uuid_of(uri)).collect();
            let ledger = Ledger { generation: Generation(nexus.ledger.generation), in_sync };
            let known = volume.ledger.as_ref().map_or(0, |l| l.generation.0);
            if ledger.generation.0 > known && !ledger.in_sync.is_empty() {
                news.push((*id, target.to_owned(), ledger));
            }
        }
        news
    }

    /// What the planner is to look at: times of absence brought up to date; the records learn of nexuses on nodes where
    /// none was expected.
    pub fn prepare(&mut self, desired: &mut Desired, now_ms: u64) -> Observed {
        let mut absent = BTreeMap::new();
        for volume in desired.volumes.values() {
            for (id, replica) in &volume.copies {
                let presence = plan::presence(*id, replica, &self.observed);
                if matches!(presence, Presence::Missing | Presence::Broken { .. }) {
                    absent.insert(*id, self.observed.absent.get(id).copied().unwrap_or(now_ms));
                }
            }
        }
        self.observed.absent = absent;
        for (name, node) in &self.observed.nodes {
            for id in node.nexuses.keys() {
                if let Some(volume) = desired.volumes.get_mut(id) {
                    volume.nexus_nodes.insert(name.clone());
                }
            }
        }
        self.observed.clone()
    }
}

fn pool(p: &engine::model::PoolInfo) -> plan::Pool {
    let state = match p.state {
        Health::Online => plan::PoolState::Online,
        Health::Degraded => plan::PoolState::Degraded,
        Health::Faulted => plan::PoolState::Faulted,
    };
    plan::Pool { state, capacity: Bytes(p.capacity), committed: Bytes(p.committed.max(p.used)), nominal: Bytes(0) }
}

fn nexus(n: &NexusInfo, old: Option<&plan::Nexus>, now_ms: u64) -> plan::Nexus {
    let state = match n.state {
        Health::Online => plan::NexusState::Online,
        Health::Degraded => plan::NexusState::Degraded,
        Health::Faulted => plan::NexusState::Faulted,
    };
    let child = |c: &engine::model::ChildInfo| {
        let id = uuid_of(&c.uri)?;
        let state = match c.state {
            ChildState::Online => plan::ChildState::Online,
            ChildState::Rebuilding => plan::ChildState::Rebuilding,
            ChildState::Offline => plan::ChildState::Offline,
            ChildState::OutOfSync => plan::ChildState::OutOfSync,
            ChildState::Faulted => plan::ChildState::Faulted,
        };
        let before = old.and_then(|o| o.children.get(&id)).filter(|c| c.state == state);
        Some((id, plan::Child { state, since_ms: before.map_or(now_ms, |c| c.since_ms) }))
    };
    plan::Nexus {
        state,
        since_ms: old.filter(|o| o.state == state).map_or(now_ms, |o| o.since_ms),
        published: !n.device_uri.is_empty(),
        size: Bytes(n.size),
        children: n.children.iter().filter_map(child).collect(),
    }
}
