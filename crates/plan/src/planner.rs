//! Plans only what can have changed.
//!
//! A volume that is as it shall be ("settled") needs no action until its record changes, or what a node that it names
//! reports about it: nothing that happens to other volumes, and no time that passes, matters to it. It takes no room that
//! is not in the pools' reports, and no turn among rebuilds. So a plan looks at the volumes that are not settled, and at
//! those that were touched since; for them it gives the same actions as a plan that looks at everything.
//!
//! Which volumes name a node is an index. Free space is kept by pool, and refreshed for the nodes that report another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use uuid::Uuid;

use crate::volume::{Budget, Case};
use crate::{Action, Desired, Node, Observed, Publish, Room, Settings, Volume, safety};

/// See the module. It must be told of every change, by the methods that are called `…_changed`.
#[derive(Clone, Debug, Default)]
pub struct Planner {
    budget: Budget,
    /// What was indexed of each volume.
    known: BTreeMap<Uuid, Known>,
    by_node: BTreeMap<Arc<str>, BTreeSet<Uuid>>,
    by_replica: BTreeMap<Uuid, Uuid>,
    unsettled: BTreeSet<Uuid>,
    touched: BTreeSet<Uuid>,
    /// Nodes whose pools are to be looked at again.
    stale: BTreeSet<String>,
    /// Where the slow look at everything is.
    swept: Option<Uuid>,
}

#[derive(Clone, Debug, Default)]
struct Known {
    nodes: Vec<Arc<str>>,
    replicas: Vec<Uuid>,
}

impl Planner {
    /// Everything is to be looked at.
    pub fn new(desired: &Desired, observed: &Observed) -> Planner {
        let mut planner = Planner::default();
        planner.touched.extend(desired.volumes.keys());
        planner.stale.extend(observed.nodes.keys().cloned());
        planner
    }

    /// A volume's record is new, was changed, or is gone.
    pub fn volume_changed(&mut self, id: Uuid) {
        self.touched.insert(id);
    }

    /// What is wanted of a node changed: its service or its labels.
    pub fn wish_changed(&mut self, node: &str) {
        self.touched.extend(self.by_node.get(node).into_iter().flatten());
    }

    /// The limits changed.
    pub fn limits_changed(&mut self, observed: &Observed) {
        self.stale.extend(observed.nodes.keys().cloned());
    }

    /// A pool's report is to be looked at again, for example because it is shunned now.
    pub fn pool_changed(&mut self, node: &str) {
        self.stale.insert(node.to_owned());
    }

    /// A nexus was opened, closed, or changed.
    pub fn nexus_changed(&mut self, volume: Uuid) {
        self.touched.insert(volume);
    }

    /// A replica came, went, or changed.
    pub fn replica_changed(&mut self, replica: Uuid) {
        self.touched.extend(self.by_replica.get(&replica));
    }

    /// What a node reports changed; `None`: it is not known.
    pub fn node_changed(&mut self, name: &str, before: Option<&Node>, after: Option<&Node>) {
        let (Some(old), Some(new)) = (before, after) else {
            self.stale.insert(name.to_owned());
            self.touched.extend(before.or(after).into_iter().flat_map(|n| n.nexuses.keys()));
            return self.wish_changed(name);
        };
        if old.pools != new.pools {
            self.stale.insert(name.to_owned());
        }
        let works = |n: &Node| n.pools.iter().map(|(name, p)| (name.clone(), p.state)).collect::<Vec<_>>();
        if old.reach != new.reach || works(old) != works(new) {
            self.stale.insert(name.to_owned());
            self.touched.extend(old.nexuses.keys().chain(new.nexuses.keys()));
            self.wish_changed(name);
        }
        self.touched.extend(different(&old.nexuses, &new.nexuses));
        for replica in different(&old.replicas, &new.replicas) {
            self.replica_changed(replica);
        }
    }

    /// Touches the next `count` volumes, round and round: whatever was missed is found in the end.
    pub fn sweep(&mut self, desired: &Desired, count: usize) {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = self.swept.map_or(Unbounded, Excluded);
        let some: Vec<Uuid> = desired.volumes.range((from, Unbounded)).take(count).map(|(id, _)| *id).collect();
        self.swept = some.last().copied().filter(|_| some.len() == count);
        self.touched.extend(some);
    }

    /// The volumes that the next plan looks at; their absent replicas must be dated, and the nodes of their nexuses be on
    /// record, before it is made.
    pub fn due(&mut self, desired: &Desired) -> BTreeSet<Uuid> {
        for id in std::mem::take(&mut self.touched) {
            let volume = desired.volumes.get(&id);
            self.index(id, volume);
            match volume {
                Some(_) => self.unsettled.insert(id),
                None => self.unsettled.remove(&id),
            };
        }
        self.unsettled.clone()
    }

    /// Like [`plan`](crate::plan()), as long as all changes were told.
    pub fn plan(&mut self, desired: &Desired, observed: &Observed, now_ms: u64, settings: &Settings) -> Vec<Action> {
        let due = self.due(desired);
        for node in std::mem::take(&mut self.stale) {
            self.budget.room.refresh(&node, &desired.limits, observed);
        }
        let mut settled = Vec::new();
        let actions = pass(&due, desired, observed, now_ms, settings, &mut self.budget, |id| settled.push(id));
        self.budget.room.give_back();
        for id in settled {
            self.unsettled.remove(&id);
        }
        actions
    }

    /// Free space as the pools reported it at the last plan; what is promised to copies that are not created yet counts as
    /// free.
    pub fn room(&self) -> &Room {
        &self.budget.room
    }

    /// Free space now, less what is promised to copies that are not created yet.
    pub fn room_now(&mut self, desired: &Desired, observed: &Observed) -> Room {
        let mut room = self.budget.room.clone();
        for node in &self.stale {
            room.refresh(node, &desired.limits, observed);
        }
        for volume in self.due(desired).iter().filter_map(|id| desired.volumes.get(id)) {
            room.promise(volume, observed);
        }
        room
    }

    /// How many copies are being rebuilt from or to a node, as of the last plan.
    pub fn rebuilds(&self, node: &str) -> u32 {
        self.budget.rebuilds.at(node)
    }

    /// Whether a volume was as it shall be when it was last looked at, and nothing was told of it since.
    pub fn is_settled(&self, id: Uuid) -> bool {
        self.known.contains_key(&id) && !self.unsettled.contains(&id) && !self.touched.contains(&id)
    }

    /// How many volumes each plan looks at besides those that are touched.
    pub fn unsettled(&self) -> usize {
        self.unsettled.len()
    }

    /// The volumes that have to do with a node.
    pub fn volumes_of(&self, node: &str) -> impl Iterator<Item = Uuid> {
        self.by_node.get(node).into_iter().flatten().copied()
    }

    fn index(&mut self, id: Uuid, volume: Option<&Volume>) {
        let old = self.known.remove(&id).unwrap_or_default();
        let named = volume.into_iter().flat_map(names);
        let names: BTreeSet<&str> = named.collect();
        let same_nodes = old.nodes.len() == names.len() && old.nodes.iter().zip(&names).all(|(a, b)| **a == **b);
        let copies = volume.into_iter().flat_map(|v| v.copies.keys().copied());
        let replicas: Vec<Uuid> = copies.collect();
        if old.replicas != replicas {
            for replica in &old.replicas {
                self.by_replica.remove(replica);
            }
            self.by_replica.extend(replicas.iter().map(|r| (*r, id)));
        }
        let nodes = if same_nodes { old.nodes } else { self.reindex(id, &old.nodes, &names) };
        if volume.is_some() {
            self.known.insert(id, Known { nodes, replicas });
        }
    }

    fn reindex(&mut self, id: Uuid, old: &[Arc<str>], names: &BTreeSet<&str>) -> Vec<Arc<str>> {
        for node in old {
            if let Some(volumes) = self.by_node.get_mut(node) {
                volumes.remove(&id);
                if volumes.is_empty() {
                    self.by_node.remove(node);
                }
            }
        }
        let mut nodes = Vec::with_capacity(names.len());
        for name in names {
            let key = self.by_node.get_key_value(*name).map_or_else(|| Arc::from(*name), |(key, _)| key.clone());
            self.by_node.entry(key.clone()).or_default().insert(id);
            nodes.push(key);
        }
        nodes
    }
}

/// The nodes that a volume names.
fn names(volume: &Volume) -> impl Iterator<Item = &str> {
    let asked = match &volume.publish {
        Publish::On(node) => Some(node.as_str()),
        Publish::No | Publish::Anywhere => None,
    };
    let copies = volume.copies.values().map(|r| r.pool.node.as_str());
    let nexuses = volume.nexus_nodes.iter().map(String::as_str);
    copies.chain(nexuses).chain(volume.target.as_deref()).chain(asked)
}

/// The keys whose values differ.
fn different<V: PartialEq>(old: &BTreeMap<Uuid, V>, new: &BTreeMap<Uuid, V>) -> Vec<Uuid> {
    if old == new {
        return Vec::new();
    }
    let gone = old.keys().filter(|k| !new.contains_key(k));
    gone.chain(new.iter().filter(|(k, v)| old.get(k) != Some(v)).map(|(k, _)| k)).copied().collect()
}

/// Plans these volumes in order. `settled` hears of those that are as they shall be.
pub(crate) fn pass<'a>(
    ids: impl IntoIterator<Item = &'a Uuid> + Clone,
    desired: &Desired,
    observed: &Observed,
    now_ms: u64,
    settings: &Settings,
    budget: &mut Budget,
    mut settled: impl FnMut(Uuid),
) -> Vec<Action> {
    budget.rebuilds = Default::default();
    let cases = || ids.clone().into_iter().filter_map(|id| Some((*id, desired.volumes.get(id)?)));
    for (id, volume) in cases() {
        budget.room.promise(volume, observed);
        budget.rebuilds.count(id, volume, observed);
    }
    let mut actions = Vec::new();
    for (id, volume) in cases() {
        let steps = Case { id, volume, desired, observed, now_ms, settings }.plan(budget);
        if steps.settled {
            settled(id);
        }
        actions.extend(steps.actions.into_iter().filter(|a| safety::allow(a, desired, observed).is_ok()));
    }
    actions
}
