//! Where there is room for new copies.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use block::Bytes;
use uuid::Uuid;

use crate::wish::Rule;
use crate::{Desired, Limits, Observed, PoolId, PoolState, Presence, ReplicaLife, Volume, presence};

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

/// Free space of all pools that can take replicas, less what is promised to copies that are not created yet. It is brought
/// up to date a node at a time; what a plan takes is given back when the plan is made ([`give_back`](Room::give_back)).
#[derive(Clone, Debug, Default)]
pub struct Room {
    slots: BTreeMap<PoolId, Slot>,
    by_free: BTreeSet<(Reverse<u64>, PoolId)>,
    taken: Vec<(PoolId, Slot)>,
}

/// What is left of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    /// Bytes that may be promised.
    free: u64,
    /// Bytes by which its replicas may grow together, if they were written in full.
    nominal: u64,
    degraded: bool,
}

/// What speaks against a pool, the worst first. Smaller is better.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Penalty {
    /// 2: the node holds a living copy of the volume; 1: another copy of it.
    shares_node: u8,
    /// How many soft rules it breaks.
    broken_rules: usize,
    not_preferred: bool,
    degraded: bool,
}
impl Penalty {
    const NONE: Penalty = Penalty { shares_node: 0, broken_rules: 0, not_preferred: false, degraded: false };
}

/// The pools and nodes of a volume's copies, as they bear on a new one.
pub(crate) struct Copies<'a> {
    desired: &'a Desired,
    volume: &'a Volume,
    nodes: BTreeMap<&'a str, u8>,
    pools: BTreeSet<&'a PoolId>,
    /// Nodes of copies that are well and stay.
    staying: BTreeSet<&'a str>,
}

impl<'a> Copies<'a> {
    /// `alive` says which of the copies are well, `new` are pools that were taken a moment ago and are not recorded yet.
    pub fn new(
        desired: &'a Desired,
        observed: &Observed,
        volume: &'a Volume,
        alive: impl Fn(Uuid) -> bool,
        new: &'a [PoolId],
    ) -> Copies<'a> {
        let mut nodes: BTreeMap<&str, u8> = new.iter().map(|p| (p.node.as_str(), 2)).collect();
        let mut pools: BTreeSet<&PoolId> = new.iter().collect();
        let mut staying: BTreeSet<&str> = nodes.keys().copied().collect();
        for (id, replica) in &volume.copies {
            // A copy that its pool has lost does not stand in the way of a new one there.
            let lost = replica.life != ReplicaLife::Placed && presence(*id, replica, observed) == Presence::Missing;
            if !lost {
                pools.insert(&replica.pool);
            }
            let node = replica.pool.node.as_str();
            let stays = replica.life.is_wanted() && alive(*id) && !desired.is_leaving(volume, *id, replica);
            let weight = if stays { 2 } else { 1 };
            let entry = nodes.entry(node).or_default();
            *entry = weight.max(*entry);
            if stays {
                staying.insert(node);
            }
        }
        Copies { desired, volume, nodes, pools, staying }
    }

    /// Whether a node is as the rule wants it, beside the copies that stay.
    fn keeps(&self, rule: &Rule, node: &str, spread: bool) -> bool {
        let Some(value) = self.desired.label(node, &rule.key) else { return false };
        let others = self.staying.iter().filter(|n| spread || **n != node);
        let mut values = others.filter_map(|n| self.desired.label(n, &rule.key));
        if spread { values.all(|v| v != value) } else { values.all(|v| v == value) }
    }

    fn broken(&self, node: &str, hard: bool) -> usize {
        let topology = &self.volume.topology;
        let apart = topology.spread.iter().filter(|r| r.hard == hard && !self.keeps(r, node, true));
        let near = topology.together.iter().filter(|r| r.hard == hard && !self.keeps(r, node, false));
        apart.count() + near.count()
    }

    /// Why a pool can never take the copy, whatever room it has.
    fn obstacle(&self, id: &PoolId) -> Option<Obstacle> {
        if !self.desired.is_allowed(self.volume, &id.node) {
            Some(Obstacle::NotAllowed)
        } else if self.pools.contains(id) {
            Some(Obstacle::HoldsCopy)
        } else if !self.desired.takes_new(&id.node) {
            Some(Obstacle::Cordoned)
        } else if self.broken(&id.node, true) > 0 {
            Some(Obstacle::Rule)
        } else {
            None
        }
    }

    /// Whether a copy on one node breaks more soft rules, or shares its node with more copies, than one on another.
    pub fn worse(&self, node: &str, than: &str) -> bool {
        let shares = |node| self.staying.contains(node);
        (shares(node), self.broken(node, false)) > (shares(than), self.broken(than, false))
    }

    fn penalty(&self, id: &PoolId, slot: &Slot) -> Penalty {
        Penalty {
            shares_node: self.nodes.get(id.node.as_str()).copied().unwrap_or(0),
            broken_rules: self.broken(&id.node, false),
            not_preferred: !self.desired.is_preferred(self.volume, &id.node),
            degraded: slot.degraded,
        }
    }
}

enum Obstacle {
    NotAllowed,
    HoldsCopy,
    Cordoned,
    Rule,
}

/// Why there is no pool for another copy: how many pools fail for what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shortage {
    /// All pools that work, on nodes that answer.
    pub pools: usize,
    /// On nodes that the volume's nodes and labels leave out.
    pub not_allowed: usize,
    /// Hold a copy of the volume already.
    pub with_copy: usize,
    /// On nodes that take nothing new.
    pub cordoned: usize,
    /// Against a hard rule about labels.
    pub against_rule: usize,
    /// Have too little free space.
    pub full: usize,
    /// Have replicas that together are too large for another thin one.
    pub overcommitted: usize,
    /// For each hard rule to spread: the key, how many values are needed, and the values of copies and of pools with room.
    pub spread: Vec<(String, usize, BTreeSet<String>)>,
}

impl std::fmt::Display for Shortage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts = Vec::new();
        for (key, needed, values) in self.spread.iter().filter(|(_, needed, values)| values.len() < *needed) {
            let names = values.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            let names = if names.is_empty() { "none".to_owned() } else { names };
            let have = if values.len() == 1 { "has" } else { "have" };
            parts.push(format!("needs {needed} values of {key}, {} {have} room ({names})", values.len()));
        }
        let counted = [
            (self.with_copy, "with a copy of it already"),
            (self.not_allowed, "on nodes that its nodes and labels leave out"),
            (self.cordoned, "on cordoned or draining nodes"),
            (self.against_rule, "where the labels of its copies forbid it"),
            (self.full, "with too little free space"),
            (self.overcommitted, "at their limit of thin over-commitment"),
        ];
        let why = counted.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect::<Vec<_>>();
        if !why.is_empty() {
            let all = if self.pools == 1 { "the one pool" } else { "all pools" };
            parts.push(format!("of {all} that work ({}): {}", self.pools, why.join(", ")));
        } else if self.pools == 0 {
            parts.push("there is no pool that works".to_owned());
        }
        f.write_str(&parts.join("; "))
    }
}

impl Room {
    /// Looks at all pools of nodes that answer, and at all promises.
    pub fn new(desired: &Desired, observed: &Observed) -> Room {
        let mut room = Room::default();
        for node in observed.nodes.keys() {
            room.refresh(node, &desired.limits, observed);
        }
        for volume in desired.volumes.values() {
            room.promise(volume, observed);
        }
        room
    }

    /// Looks at a node's pools again.
    pub fn refresh(&mut self, node: &str, limits: &Limits, observed: &Observed) {
        let first = PoolId { node: node.to_owned(), pool: String::new() };
        let old: Vec<PoolId> =
            self.slots.range(&first..).map(|(id, _)| id).take_while(|id| id.node == node).cloned().collect();
        for id in old {
            if let Some(slot) = self.slots.remove(&id) {
                self.by_free.remove(&(Reverse(slot.free), id));
            }
        }
        let Some(n) = observed.nodes.get(node).filter(|n| n.reach.is_online()) else { return };
        let part = |bytes: Bytes, percent: u32| u64::try_from(u128::from(bytes.0) * u128::from(percent) / 100);
        for (pool, p) in n.pools.iter().filter(|(_, p)| p.state != PoolState::Faulted) {
            let id = PoolId { node: node.to_owned(), pool: pool.clone() };
            let most = part(p.capacity, limits.fill_percent).unwrap_or(u64::MAX);
            let nominal = part(p.capacity, limits.overcommit_percent).unwrap_or(u64::MAX);
            let shunned = observed.shunned.contains(&id);
            let slot = Slot {
                free: if shunned { 0 } else { most.saturating_sub(p.committed.0) },
                nominal: nominal.saturating_sub(p.nominal.0),
                degraded: p.state == PoolState::Degraded,
            };
            self.by_free.insert((Reverse(slot.free), id.clone()));
            self.slots.insert(id, slot);
        }
    }

    /// Keeps room for the volume's copies that are recorded and not created yet.
    pub fn promise(&mut self, volume: &Volume, observed: &Observed) {
        for (id, replica) in volume.copies.iter().filter(|(_, r)| r.life == ReplicaLife::Placed) {
            if observed.replica(&replica.pool.node, *id).is_none() {
                self.give(&replica.pool, volume);
            }
        }
    }

    /// What was promised and taken since the last time, or since the room was made, is free again.
    pub fn give_back(&mut self) {
        while let Some((id, before)) = self.taken.pop() {
            self.set(&id, before);
        }
    }

    fn set(&mut self, id: &PoolId, slot: Slot) -> Option<Slot> {
        let place = self.slots.get_mut(id)?;
        let before = std::mem::replace(place, slot);
        if before.free != slot.free {
            self.by_free.remove(&(Reverse(before.free), id.clone()));
            self.by_free.insert((Reverse(slot.free), id.clone()));
        }
        Some(before)
    }

    fn give(&mut self, id: &PoolId, volume: &Volume) {
        let Some(slot) = self.slots.get(id).copied() else { return };
        let (free, nominal) = (slot.free.saturating_sub(promise(volume)), slot.nominal.saturating_sub(size(volume)));
        self.set(id, Slot { free, nominal, ..slot });
        self.taken.push((id.clone(), slot));
    }

    /// The best pool for one more copy of `volume`: never one that holds a copy of it, on a node without one if there is
    /// any, where no soft rule is broken if there is such a place, a preferred node if there is any, most free space first.
    pub(crate) fn find(&self, copies: &Copies<'_>) -> Option<PoolId> {
        let mut best: Option<(Penalty, &PoolId)> = None;
        let need = promise(copies.volume);
        for (_, id) in self.by_free.iter().take_while(|(Reverse(left), _)| *left >= need) {
            let slot = &self.slots[id];
            if !slot.admits(copies.volume) || copies.obstacle(id).is_some() {
                continue;
            }
            let penalty = copies.penalty(id, slot);
            if best.as_ref().is_none_or(|(least, _)| penalty < *least) {
                let perfect = penalty == Penalty::NONE;
                best = Some((penalty, id));
                if perfect {
                    break;
                }
            }
        }
        best.map(|(_, id)| id.clone())
    }

    /// Takes room for one more copy of `volume` in the best pool. `alive` says which of its copies are well, `new` are
    /// pools that were taken a moment ago and are not recorded yet.
    pub fn take(
        &mut self,
        desired: &Desired,
        observed: &Observed,
        volume: &Volume,
        alive: impl Fn(Uuid) -> bool,
        new: &[PoolId],
    ) -> Option<PoolId> {
        let id = self.find(&Copies::new(desired, observed, volume, alive, new))?;
        self.give(&id, volume);
        Some(id)
    }

    /// Whether this very pool can take a copy of a volume.
    pub(crate) fn fits(&self, id: &PoolId, copies: &Copies<'_>) -> bool {
        self.slots.get(id).is_some_and(|slot| slot.admits(copies.volume)) && copies.obstacle(id).is_none()
    }

    /// Takes room for a copy in this very pool, if it can take one.
    pub(crate) fn take_in(&mut self, id: &PoolId, copies: &Copies<'_>) -> bool {
        let fits = self.fits(id, copies);
        if fits {
            self.give(id, copies.volume);
        }
        fits
    }

    /// Why no pool can take another copy of `volume`; `None` when one can. `alive` and `new` as in [`take`](Room::take).
    pub fn shortage(
        &self,
        desired: &Desired,
        observed: &Observed,
        volume: &Volume,
        alive: impl Fn(Uuid) -> bool,
        new: &[PoolId],
    ) -> Option<Shortage> {
        let copies = Copies::new(desired, observed, volume, alive, new);
        if self.find(&copies).is_some() {
            return None;
        }
        let mut why = Shortage { pools: self.slots.len(), ..Shortage::default() };
        let hard = volume.topology.spread.iter().filter(|r| r.hard);
        let taken =
            |key: &str| copies.staying.iter().filter_map(|n| desired.label(n, key)).map(str::to_owned).collect();
        why.spread = hard.map(|r| (r.key.clone(), volume.replicas as usize, taken(&r.key))).collect();
        for (id, slot) in &self.slots {
            let roomy = slot.admits(volume);
            match copies.obstacle(id) {
                Some(Obstacle::NotAllowed) => why.not_allowed += 1,
                Some(Obstacle::HoldsCopy) => why.with_copy += 1,
                Some(Obstacle::Cordoned) => why.cordoned += 1,
                Some(Obstacle::Rule) if roomy => why.against_rule += 1,
                _ if slot.free < promise(volume) => why.full += 1,
                _ => why.overcommitted += 1,
            }
            let open = roomy && desired.takes_new(&id.node) && desired.is_allowed(volume, &id.node);
            for (key, _, values) in &mut why.spread {
                values.extend(desired.label(&id.node, key).filter(|_| open).map(str::to_owned));
            }
        }
        Some(why)
    }

    /// Free bytes of a pool, as far as known.
    pub fn free(&self, pool: &PoolId) -> Bytes {
        Bytes(self.slots.get(pool).map_or(0, |s| s.free))
    }
}

impl Slot {
    fn admits(&self, volume: &Volume) -> bool {
        self.free >= promise(volume) && (!volume.thin || self.nominal >= size(volume))
    }
}

fn size(volume: &Volume) -> u64 {
    replica_size(volume.size).0
}

/// What one copy of the volume takes from a pool when it is created.
fn promise(volume: &Volume) -> u64 {
    let size = size(volume);
    if volume.thin { size.min(THIN_BYTES.max(size / 20)) } else { size }
}
