//! The cluster in a box: nodes with pools and nexuses, and a control plane that obeys the planner.

use std::collections::{BTreeMap, BTreeSet};

use block::{Bytes, Generation};
use plan::*;
use uuid::Uuid;

const TICK_MS: u64 = 500;
const MIB: u64 = 1 << 20;

/// What a member keeps about the ledger, beside its data.
#[derive(Clone, Debug, Default, PartialEq)]
struct Label {
    generation: u64,
    sequence: u64,
    in_sync: BTreeSet<Uuid>,
}

#[derive(Debug)]
struct Copy {
    pool: String,
    size: u64,
    shared: bool,
    version: u64,
    label: Label,
}

#[derive(Debug)]
struct Mirror {
    ledger: Label,
    children: BTreeMap<Uuid, (ChildState, u64, u32)>,
    state: NexusState,
    since_ms: u64,
    published: bool,
}

#[derive(Debug, Default)]
struct Machine {
    alive: bool,
    /// Whether the control plane reaches it; it reaches its peers all the same.
    visible: bool,
    reach_since_ms: u64,
    pools: BTreeMap<String, u64>,
    /// Pools that do not work any more; their copies are gone as far as anybody can tell.
    failed: BTreeSet<String>,
    copies: BTreeMap<Uuid, Copy>,
    mirrors: BTreeMap<Uuid, Mirror>,
}

/// See the module.
pub struct Cluster {
    pub desired: Desired,
    machines: BTreeMap<String, Machine>,
    absent: BTreeMap<Uuid, u64>,
    /// What clients of each volume have.
    sizes: BTreeMap<Uuid, u64>,
    /// The last acknowledged write of each volume.
    acked: BTreeMap<Uuid, u64>,
    now_ms: u64,
    seed: u64,
    faults: bool,
    next_id: u128,
    settings: Settings,
    planner: Planner,
    /// What the planner was told of last.
    told: (Desired, Observed),
}

impl Cluster {
    pub fn new(seed: u64, nodes: usize, pools: usize) -> Cluster {
        let machine = |_| Machine {
            alive: true,
            visible: true,
            pools: (0..pools).map(|p| (format!("pool-{p}"), 1000 * MIB)).collect(),
            ..Machine::default()
        };
        Cluster {
            desired: Desired::default(),
            machines: (0..nodes).map(|n| (format!("node-{n}"), machine(n))).collect(),
            absent: BTreeMap::new(),
            sizes: BTreeMap::new(),
            acked: BTreeMap::new(),
            now_ms: 1_000_000,
            seed: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            faults: true,
            next_id: 1,
            settings: Settings::default(),
            planner: Planner::default(),
            told: (Desired::default(), Observed::default()),
        }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed % below
    }
    fn chance(&mut self, one_in: u64) -> bool {
        self.faults && self.random(one_in) == 0
    }
    fn id(&mut self) -> Uuid {
        self.next_id += 1;
        Uuid::from_u128(self.next_id)
    }

    pub fn create_volume(&mut self) {
        let (id, replicas) = (self.id(), 1 + self.random(3) as u32);
        let publish = if self.random(2) == 0 { Publish::Anywhere } else { Publish::No };
        self.desired.volumes.insert(
            id,
            Volume {
                name: format!("v{id}"),
                size: Bytes(10 * MIB),
                replicas,
                thin: false,
                required_nodes: BTreeSet::new(),
                preferred_nodes: BTreeSet::new(),
                topology: Topology::default(),
                moving: None,
                operation: String::new(),
                publish,
                life: Life::Wanted,
                target: None,
                nexus_nodes: BTreeSet::new(),
                hosts: BTreeMap::new(),
                ledger: None,
                copies: BTreeMap::new(),
            },
        );
    }

    // ---- what goes wrong -------------------------------------------------------------------------------------------

    pub fn trouble(&mut self) {
        let names: Vec<String> = self.machines.keys().cloned().collect();
        let node = names[self.random(names.len() as u64) as usize].clone();
        match self.random(30) {
            0 => self.kill(&node),
            1..=3 => self.start(&node),
            4 => self.see(&node, false),
            5..=6 => self.see(&node, true),
            7 => self.wipe_pool(&node),
            8 => self.wish(),
            _ => {}
        }
    }

    /// The users change their minds.
    fn wish(&mut self) {
        let ids: Vec<Uuid> = self.desired.volumes.keys().copied().collect();
        if ids.is_empty() {
            return self.create_volume();
        }
        let id = ids[self.random(ids.len() as u64) as usize];
        let (what, count) = (self.random(11), 1 + self.random(3) as u32);
        let node = format!("node-{}", self.random(self.machines.len() as u64));
        if what > 7 {
            return self.operate(what, id, &node);
        }
        let volume = self.desired.volumes.get_mut(&id).unwrap();
        match what {
            0 => volume.life = Life::Deleting,
            1 => self.create_volume(),
            2 => volume.publish = Publish::No,
            3 => volume.publish = Publish::Anywhere,
            4 if volume.publish == Publish::No => volume.publish = Publish::On(node),
            5 if volume.size.0 < 20 * MIB => volume.size.0 += 3 * MIB,
            _ => volume.replicas = count,
        }
    }

    /// An operator takes nodes out of service and back, and moves copies.
    fn operate(&mut self, what: u64, id: Uuid, node: &str) {
        let service = [Service::InService, Service::Cordoned, Service::Draining][self.random(3) as usize];
        let labels = BTreeMap::from([("zone".to_owned(), format!("z{}", self.random(2)))]);
        let pools: Vec<String> = self.machines[node].pools.keys().cloned().collect();
        let pool = pools[self.random(pools.len() as u64) as usize].clone();
        match what {
            8 => drop(self.desired.nodes.insert(node.to_owned(), NodeWish { service, labels })),
            9 => {
                self.desired.limits.rebuilds_per_node = 1 + self.random(3) as u32;
                self.desired.limits.fill_percent = 90 + self.random(11) as u32;
            }
            _ => {
                let volume = self.desired.volumes.get_mut(&id).unwrap();
                let leaving = volume.wanted_copies().map(|(id, _)| id).next();
                let to = PoolId { node: node.to_owned(), pool };
                volume.moving = leaving.map(|replica| Move { replica, to });
            }
        }
    }

    fn kill(&mut self, node: &str) {
        let now = self.now_ms;
        let machine = self.machines.get_mut(node).unwrap();
        if machine.alive {
            if machine.visible {
                machine.reach_since_ms = now;
            }
            machine.alive = false;
        }
    }

    /// The engine comes back, and its nexuses from its own configuration.
    fn start(&mut self, node: &str) {
        let now = self.now_ms;
        let machine = self.machines.get_mut(node).unwrap();
        if machine.alive {
            return;
        }
        machine.alive = true;
        if machine.visible {
            machine.reach_since_ms = now;
        }
        let old = std::mem::take(&mut machine.mirrors);
        for (volume, mirror) in old {
            let children = mirror.children.keys().copied().collect();
            if let Some(mut new) = self.open(node, volume, children) {
                new.published = mirror.published;
                self.machines.get_mut(node).unwrap().mirrors.insert(volume, new);
            }
        }
    }

    fn see(&mut self, node: &str, visible: bool) {
        let now = self.now_ms;
        let machine = self.machines.get_mut(node).unwrap();
        if machine.visible != visible {
            if machine.alive {
                machine.reach_since_ms = now;
            }
            machine.visible = visible;
        }
    }

    /// A disk is lost with all that is on it; spared when it holds the only current copy of something.
    fn wipe_pool(&mut self, node: &str) {
        let volumes: Vec<Uuid> = self.machines[node].copies.keys().copied().collect();
        let last = |replica: &Uuid| {
            let Some((volume, v)) = self.desired.volumes.iter().find(|(_, v)| v.copies.contains_key(replica)) else {
                return false;
            };
            // The ledger must keep two members that are current and alive elsewhere.
            let current = |id: &&Uuid| {
                let machine = &self.machines[&v.copies[*id].pool.node];
                v.copies[*id].pool.node != node
                    && machine.alive
                    && machine.copies.get(*id).is_some_and(|c| c.version >= *self.acked.get(volume).unwrap_or(&0))
            };
            v.in_ledger(*replica)
                && v.ledger
                    .as_ref()
                    .unwrap()
                    .in_sync
                    .iter()
                    .filter(|id| v.copies.contains_key(id))
                    .filter(current)
                    .count()
                    < 2
        };
        if volumes.iter().any(last) {
            return;
        }
        self.machines.get_mut(node).unwrap().copies.clear();
    }

    /// A pool stops to work: nobody can use its copies any more.
    pub fn fail_pool(&mut self, node: &str, pool: &str) {
        let machine = self.machines.get_mut(node).unwrap();
        machine.failed.insert(pool.to_owned());
        machine.copies.retain(|_, c| c.pool != pool);
    }

    pub fn add_node(&mut self, name: &str) {
        let pools = BTreeMap::from([("pool-0".to_owned(), 1000 * MIB)]);
        let machine = Machine { alive: true, visible: true, reach_since_ms: self.now_ms, pools, ..Machine::default() };
        self.machines.insert(name.to_owned(), machine);
    }

    /// How many volumes the planner that keeps track still looks at.
    pub fn unsettled(&self) -> usize {
        self.planner.unsettled()
    }

    pub fn peace(&mut self) {
        self.faults = false;
        self.desired.nodes.clear();
        for volume in self.desired.volumes.values_mut() {
            volume.moving = None;
        }
        let names: Vec<String> = self.machines.keys().cloned().collect();
        for node in names {
            self.start(&node);
            self.see(&node, true);
        }
    }

    // ---- mirrors ---------------------------------------------------------------------------------------------------

    fn find(&mut self, replica: Uuid) -> Option<&mut Copy> {
        self.machines.values_mut().filter(|m| m.alive).find_map(|m| m.copies.get_mut(&replica))
    }

    /// The control plane's part of recording a ledger.
    fn record(&mut self, node: &str, volume: Uuid, ledger: &Label) -> Result<(), ()> {
        let reached = self.machines[node].visible;
        let volume = self.desired.volumes.get_mut(&volume).filter(|_| reached).ok_or(())?;
        let known = volume.ledger.as_ref().map_or(0, |l| l.generation.0);
        if volume.target.as_deref() != Some(node) || known > ledger.generation {
            return Err(());
        }
        volume.ledger = Some(Ledger { generation: Generation(ledger.generation), in_sync: ledger.in_sync.clone() });
        Ok(())
    }

    /// Opens a volume as a nexus does: the newest label among the members says who is in sync.
    fn open(&mut self, node: &str, volume: Uuid, children: Vec<Uuid>) -> Option<Mirror> {
        let known = self.desired.volumes.get(&volume)?.ledger.clone();
        let mut label =
            known.map_or(Label::default(), |l| Label { generation: l.generation.0, sequence: 0, in_sync: l.in_sync });
        let fresh = label.generation == 0;
        let children: Vec<Uuid> = children.into_iter().filter(|c| self.find(*c).is_some()).collect();
        for child in &children {
            let found = self.find(*child).unwrap().label.clone();
            if (found.generation, found.sequence) > (label.generation, label.sequence) {
                label = found;
            }
        }
        let members: BTreeSet<Uuid> = if label.generation == 0 && fresh {
            children.iter().copied().collect()
        } else {
            let there: BTreeSet<Uuid> = children.iter().copied().filter(|c| label.in_sync.contains(c)).collect();
            // The engine keeps the same rule as the planner: all but one.
            if there.is_empty() || there.len() + 1 < label.in_sync.len() {
                return None;
            }
            there
        };
        let ledger = Label { generation: label.generation + 1, sequence: 0, in_sync: members.clone() };
        self.record(node, volume, &ledger).ok()?;
        let acked = *self.acked.get(&volume).unwrap_or(&0);
        for member in &members {
            let copy = self.find(*member).unwrap();
            assert!(copy.version >= acked, "volume {volume} was opened on {node} with a stale copy {member}");
            // Whatever was not acknowledged is decided: all members take the same.
            copy.version = acked;
            copy.label = ledger.clone();
        }
        let children = children.iter().map(|c| {
            let state = if members.contains(c) { ChildState::Online } else { ChildState::OutOfSync };
            (*c, (state, self.now_ms, 0))
        });
        Some(Mirror {
            ledger,
            children: children.collect(),
            state: NexusState::Online,
            since_ms: self.now_ms,
            published: false,
        })
    }

    /// One write and some rebuild on every nexus.
    fn work(&mut self) {
        let all: Vec<(String, Uuid)> = self
            .machines
            .iter()
            .filter(|(_, m)| m.alive)
            .flat_map(|(n, m)| m.mirrors.keys().map(|v| (n.clone(), *v)))
            .collect();
        for (node, volume) in all {
            let mut mirror = self.machines.get_mut(&node).unwrap().mirrors.remove(&volume).unwrap();
            if mirror.state != NexusState::Faulted {
                self.write(&node, volume, &mut mirror);
                self.rebuild(&node, volume, &mut mirror);
            }
            self.machines.get_mut(&node).unwrap().mirrors.insert(volume, mirror);
        }
    }

    fn write(&mut self, node: &str, volume: Uuid, mirror: &mut Mirror) {
        let version = self.acked.get(&volume).copied().unwrap_or(0) + 1;
        let generation = mirror.ledger.generation;
        let mut left = BTreeSet::new();
        for (id, child) in mirror.children.iter_mut().filter(|(_, c)| c.0 == ChildState::Online) {
            match self.find(*id) {
                Some(copy) if copy.label.generation <= generation => {
                    left.insert(*id);
                }
                _ => *child = (ChildState::Faulted, self.now_ms, 0),
            }
        }
        let shrunk = left.len() < mirror.ledger.in_sync.len();
        if shrunk {
            let ledger = Label { generation, sequence: mirror.ledger.sequence + 1, in_sync: left.clone() };
            let majority = left.len() * 2 > mirror.ledger.in_sync.len();
            if left.is_empty() || (self.record(node, volume, &ledger).is_err() && !majority) {
                mirror.state = NexusState::Faulted;
                mirror.since_ms = self.now_ms;
                return;
            }
            mirror.ledger = ledger.clone();
            for id in &left {
                self.find(*id).unwrap().label = ledger.clone();
            }
            mirror.state = NexusState::Degraded;
        } else {
            // Also tells the control plane of a shrink that it missed.
            let _ = self.record(node, volume, &mirror.ledger.clone());
        }
        for id in &left {
            self.find(*id).unwrap().version = version;
        }
        self.acked.insert(volume, version);
    }

    fn rebuild(&mut self, node: &str, volume: Uuid, mirror: &mut Mirror) {
        let joining: Vec<Uuid> =
            mirror.children.iter().filter(|(_, c)| c.0 == ChildState::Rebuilding).map(|(id, _)| *id).collect();
        for id in joining {
            if self.find(id).is_none() {
                mirror.children.insert(id, (ChildState::Faulted, self.now_ms, 0));
                continue;
            }
            let child = mirror.children.get_mut(&id).unwrap();
            child.2 += 1;
            if child.2 < 4 {
                continue;
            }
            let mut ledger = mirror.ledger.clone();
            ledger.sequence += 1;
            ledger.in_sync.insert(id);
            if self.record(node, volume, &ledger).is_ok() {
                mirror.ledger = ledger.clone();
                mirror.children.insert(id, (ChildState::Online, self.now_ms, 0));
                let acked = self.acked.get(&volume).copied().unwrap_or(0);
                self.find(id).unwrap().version = acked;
                for member in &ledger.in_sync {
                    if let Some(copy) = self.find(*member) {
                        copy.label = ledger.clone();
                    }
                }
            }
        }
    }

    // ---- the control plane -----------------------------------------------------------------------------------------

    pub fn observed(&mut self) -> Observed {
        let mut observed = Observed::default();
        for (name, m) in &self.machines {
            let since_ms = m.reach_since_ms;
            let reach = if m.alive && m.visible { Reach::Online { since_ms } } else { Reach::Unreachable { since_ms } };
            let used = |pool: &str| m.copies.values().filter(|c| c.pool == pool).map(|c| c.size).sum::<u64>();
            let pools = m.pools.iter().map(|(p, size)| {
                let state = if m.failed.contains(p) { PoolState::Faulted } else { PoolState::Online };
                (p.clone(), Pool { state, capacity: Bytes(*size), committed: Bytes(used(p)), nominal: Bytes(used(p)) })
            });
            let replicas = m.copies.iter().map(|(id, c)| {
                let size = Bytes(c.size);
                (*id, SeenReplica { pool: c.pool.clone(), online: true, shared: c.shared, size })
            });
            let nexuses = m.mirrors.iter().map(|(id, x)| {
                let children = x.children.iter().map(|(id, c)| (*id, Child { state: c.0, since_ms: c.1 }));
                let nexus = Nexus {
                    state: x.state,
                    since_ms: x.since_ms,
                    published: x.published,
                    size: Bytes(self.sizes[id]),
                    children: children.collect(),
                };
                (*id, nexus)
            });
            let node = Node { reach, pools: pools.collect(), replicas: replicas.collect(), nexuses: nexuses.collect() };
            observed.nodes.insert(name.clone(), node);
        }
        for (volume, v) in &mut self.desired.volumes {
            let has = |(_, n): &(&String, &Node)| n.reach.is_online() && n.nexuses.contains_key(volume);
            v.nexus_nodes.extend(observed.nodes.iter().filter(has).map(|(n, _)| n.clone()));
        }
        observed.absent = self.absent.clone();
        observed
    }

    pub fn plan(&mut self) -> Vec<Action> {
        let observed = self.observed();
        self.tell(&observed);
        let actions = plan(&self.desired, &observed, self.now_ms, &self.settings);
        let changed = self.planner.plan(&self.desired, &observed, self.now_ms, &self.settings);
        assert_eq!(changed, actions, "what changed alone, against everything");
        actions
    }

    /// Tells the planner that keeps track what is different.
    fn tell(&mut self, observed: &Observed) {
        let (desired, before) = &self.told;
        let volumes: BTreeSet<Uuid> = desired.volumes.keys().chain(self.desired.volumes.keys()).copied().collect();
        for id in volumes.into_iter().filter(|id| desired.volumes.get(id) != self.desired.volumes.get(id)) {
            self.planner.volume_changed(id);
        }
        for node in observed.nodes.keys() {
            if desired.nodes.get(node) != self.desired.nodes.get(node) {
                self.planner.wish_changed(node);
            }
            self.planner.node_changed(node, before.nodes.get(node), observed.nodes.get(node));
        }
        if desired.limits != self.desired.limits {
            self.planner.limits_changed(observed);
        }
        self.told = (self.desired.clone(), observed.clone());
    }

    pub fn step(&mut self) {
        self.now_ms += TICK_MS;
        self.work();
        let mut failed: Option<Uuid> = None;
        for action in self.plan() {
            if failed == Some(action.volume()) {
                continue;
            }
            let observed = self.observed();
            let done = !self.chance(8)
                && safety::allow(&action, &self.desired, &observed).is_ok()
                && self.apply(&action)
                && !self.chance(8);
            if !done {
                failed = Some(action.volume());
            }
        }
        self.assert_copies();
    }

    fn machine(&mut self, node: &str) -> Option<&mut Machine> {
        self.machines.get_mut(node).filter(|m| m.alive && m.visible)
    }

    fn apply(&mut self, action: &Action) -> bool {
        let id = action.volume();
        let fresh = self.id();
        let volume = self.desired.volumes.get_mut(&id).unwrap();
        match action {
            Action::Place { pool, .. } => {
                volume.copies.insert(fresh, Replica { pool: pool.clone(), life: ReplicaLife::Placed });
            }
            Action::Discard { replica, .. } => volume.copies.get_mut(replica).unwrap().life = ReplicaLife::Discarded,
            Action::Retire { replica, .. } => {
                volume.copies.get_mut(replica).unwrap().life = ReplicaLife::Retired;
                if volume.moving.as_ref().is_some_and(|m| m.replica == *replica) {
                    volume.moving = None;
                }
            }
            Action::Reinstate { replica, .. } => volume.copies.get_mut(replica).unwrap().life = ReplicaLife::Member,
            Action::ForgetReplica { replica, .. } => drop(volume.copies.remove(replica)),
            Action::ForgetNexus { node, .. } => drop(volume.nexus_nodes.remove(node)),
            Action::ForgetVolume { .. } => {
                self.desired.volumes.remove(&id);
                self.acked.remove(&id);
            }
            Action::SetTarget { node, .. } => {
                volume.target = Some(node.clone());
                volume.nexus_nodes.insert(node.clone());
                if matches!(volume.publish, Publish::On(_)) {
                    volume.publish = Publish::On(node.clone());
                }
            }
            Action::OpenNexus { node, children, .. } => {
                for child in children {
                    let life = &mut volume.copies.get_mut(child).unwrap().life;
                    if *life == ReplicaLife::Placed {
                        *life = ReplicaLife::Member;
                    }
                }
                if self.machine(node).is_none() {
                    return false;
                }
                let Some(mirror) = self.open(node, id, children.clone()) else { return false };
                let size = self.desired.volumes[&id].size.0;
                let size = *self.sizes.entry(id).or_insert(size);
                let fits = |c: &Uuid| self.find_size(*c).is_none_or(|has| has >= replica_size(Bytes(size)).0);
                assert!(children.iter().all(fits), "opened with a copy that is too small");
                self.machines.get_mut(node).unwrap().mirrors.insert(id, mirror);
            }
            Action::AddChild { replica, node, .. } => {
                volume.copies.get_mut(replica).unwrap().life = ReplicaLife::Member;
                return self.node_action(action, node);
            }
            _ => return self.node_action(action, action.node().unwrap()),
        }
        true
    }

    fn find_size(&self, copy: Uuid) -> Option<u64> {
        self.machines.values().find_map(|m| m.copies.get(&copy)).map(|c| c.size)
    }

    fn node_action(&mut self, action: &Action, node: &str) -> bool {
        let (id, now) = (action.volume(), self.now_ms);
        let Some(machine) = self.machine(node) else { return false };
        match action {
            Action::CreateReplica { replica, pool, size, share, .. } => {
                let used: u64 = machine.copies.values().filter(|c| c.pool == pool.pool).map(|c| c.size).sum();
                if used + size.0 > machine.pools[&pool.pool] {
                    return false;
                }
                let new =
                    Copy { pool: pool.pool.clone(), size: size.0, shared: *share, version: 0, label: Label::default() };
                machine.copies.entry(*replica).or_insert(new);
            }
            Action::ShareReplica { replica, share, .. } => match machine.copies.get_mut(replica) {
                Some(copy) => copy.shared = *share,
                None => return false,
            },
            Action::ResizeReplica { replica, size, .. } => match machine.copies.get_mut(replica) {
                Some(copy) => copy.size = copy.size.max(size.0),
                None => return false,
            },
            Action::ResizeNexus { size, .. } => {
                let Some(mirror) = machine.mirrors.get(&id) else { return false };
                let closed = |s: ChildState| matches!(s, ChildState::Faulted | ChildState::Offline);
                let open: Vec<Uuid> = mirror.children.iter().filter(|(_, c)| !closed(c.0)).map(|(id, _)| *id).collect();
                for copy in open {
                    assert!(self.find_size(copy).is_none_or(|has| has >= replica_size(*size).0), "a copy is too small");
                }
                self.sizes.insert(id, size.0);
            }
            Action::DestroyReplica { replica, .. } => drop(machine.copies.remove(replica)),
            Action::CloseNexus { .. } => drop(machine.mirrors.remove(&id)),
            Action::Publish { .. } | Action::Unpublish { .. } => match machine.mirrors.get_mut(&id) {
                Some(mirror) => mirror.published = matches!(action, Action::Publish { .. }),
                None => return false,
            },
            Action::AddChild { replica, .. } => {
                let has = self.find_size(*replica).unwrap_or(u64::MAX);
                assert!(has >= replica_size(Bytes(self.sizes[&id])).0, "a copy is too small");
                let Some(mirror) = self.machines.get_mut(node).and_then(|m| m.mirrors.get_mut(&id)) else {
                    return false;
                };
                assert!(!mirror.ledger.in_sync.contains(replica), "a good copy would be rebuilt over");
                mirror.children.insert(*replica, (ChildState::Rebuilding, now, 0));
            }
            Action::RemoveChild { replica, .. } => return self.remove_child(node, id, *replica),
            other => panic!("{other} is no action of a node"),
        }
        true
    }

    fn remove_child(&mut self, node: &str, id: Uuid, replica: Uuid) -> bool {
        let Some(mut mirror) = self.machines.get_mut(node).unwrap().mirrors.remove(&id) else { return false };
        mirror.children.remove(&replica);
        if mirror.ledger.in_sync.remove(&replica) {
            mirror.ledger.sequence += 1;
            assert!(!mirror.ledger.in_sync.is_empty(), "the last good copy was taken out");
            let ledger = mirror.ledger.clone();
            for member in &ledger.in_sync {
                if let Some(copy) = self.find(*member) {
                    copy.label = ledger.clone();
                }
            }
            self.record(node, id, &ledger).expect("the target's record was refused");
        }
        self.machines.get_mut(node).unwrap().mirrors.insert(id, mirror);
        true
    }

    // ---- what must hold --------------------------------------------------------------------------------------------

    /// Some copy, on whichever disk, holds the last acknowledged write.
    fn assert_copies(&mut self) {
        let seen: BTreeMap<Uuid, u64> =
            self.machines.values().flat_map(|m| m.copies.iter().map(|(id, c)| (*id, c.version))).collect();
        let mut now_absent = BTreeMap::new();
        for (id, v) in &self.desired.volumes {
            let acked = self.acked.get(id).copied().unwrap_or(0);
            if v.life == Life::Wanted && acked > 0 {
                let held = v.copies.keys().any(|c| seen.get(c).is_some_and(|version| *version >= acked));
                assert!(held, "no copy of volume {id} holds write {acked}: {v:#?} {seen:?}");
            }
            for (replica, r) in &v.copies {
                let online = {
                    let m = &self.machines[&r.pool.node];
                    m.alive && m.visible
                };
                if online && !seen.contains_key(replica) {
                    let since = self.absent.get(replica).copied().unwrap_or(self.now_ms);
                    now_absent.insert(*replica, since);
                }
            }
        }
        self.absent = now_absent;
    }

    pub fn assert_rest(&mut self) {
        let mut idle = 0;
        for _ in 0..1000 {
            self.step();
            idle = if self.plan().is_empty() { idle + 1 } else { 0 };
            // Longer than every grace period.
            if idle as u64 * TICK_MS > 2 * self.settings.retry_ms {
                break;
            }
        }
        let left = self.plan();
        assert!(left.is_empty(), "never at rest: {left:#?}");
        let mut known = BTreeSet::new();
        for (id, v) in &self.desired.volumes {
            assert_eq!(v.life, Life::Wanted, "a volume is not deleted");
            let there = |(c, r): &(&Uuid, &Replica)| self.machines[&r.pool.node].copies.contains_key(*c);
            known.extend(v.copies.iter().filter(there).map(|(c, _)| *c));
            if v.ledger.is_none() {
                let pools: usize = self.machines.values().map(|m| m.pools.len()).sum();
                assert!((v.replicas as usize) > pools, "volume {id} was not opened: {v:#?}");
                continue;
            }
            let target = v.target.as_ref().expect("a target");
            let mirrors: Vec<_> =
                self.machines.iter().filter(|(_, m)| m.mirrors.contains_key(id)).map(|(n, _)| n).collect();
            assert_eq!(mirrors, [target], "the volume is open in one place: {v:#?}");
            let mirror = &self.machines[target].mirrors[id];
            assert_eq!(mirror.published, v.publish != Publish::No);
            assert_eq!(self.sizes[id], v.size.0, "it has the size that was asked");
            let pools: usize = self.machines.values().map(|m| m.pools.len()).sum();
            let wanted = (v.replicas as usize).min(pools);
            let good = mirror.children.values().filter(|c| c.0 == ChildState::Online).count();
            assert_eq!(good, wanted, "copies in sync: {v:#?} {mirror:#?}");
            // A copy that was lost stays on record while nothing can take its place.
            let lost = v.copies.iter().filter(|(c, r)| !self.machines[&r.pool.node].copies.contains_key(c)).count();
            let over = v.replicas as usize > pools;
            assert_eq!(v.copies.len() - if over { lost } else { 0 }, wanted, "nothing superfluous is recorded: {v:#?}");
            let used: BTreeSet<_> = v.copies.values().map(|r| &r.pool).collect();
            assert_eq!(used.len(), wanted, "two copies in one pool");
        }
        let held: BTreeSet<Uuid> = self.machines.values().flat_map(|m| m.copies.keys().copied()).collect();
        assert_eq!(held, known, "nodes hold exactly what is recorded");
    }
}
