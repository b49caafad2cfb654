//! How each fault is done to a cluster, and how it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use block::{BlockRange, Instant};
use engine::model::{CreateReplica, Health};
use plan::{Publish, Volume};
use sim::{DiskImage, DiskOptions};
use uuid::Uuid;

use crate::cluster::{Cluster, disk_path, volume_id};
use crate::operator;
use crate::payload;
use crate::rot;
use crate::scenario::Fault;

/// The replica that uses up a pool.
const FILLER: &str = "filler";

/// The names of the operators' machines.
pub const OPERATORS: [&str; 2] = ["operator", "operator-2"];

/// What ends by itself.
enum Undo {
    Start(String),
    Resume(String),
    Join(String),
    Mend(String, String),
    Hurry(String, String),
    Accept(String),
    Release(String),
    Quicken(String),
    PutBack(String),
    Empty(String),
    StoreHeals,
    StartOperator,
    StopSecond,
}

/// What is wrong with a cluster now.
#[derive(Default)]
pub struct Trouble {
    /// What ends by itself, by time.
    undo: BTreeMap<(Instant, u64), Undo>,
    sequence: u64,
    /// Disks that were pulled.
    pulled: BTreeMap<String, (DiskOptions, DiskImage)>,
    /// Metadata that was damaged, by node.
    damage: BTreeMap<String, Vec<rot::Damage>>,
    /// Nodes that may hold no good copy, or can not be reached: what is elsewhere must not be taken away.
    weak: BTreeSet<String>,
    /// Faults that were done.
    pub faults: u64,
}

impl Trouble {
    /// When the next thing ends.
    pub fn next(&self) -> Option<Instant> {
        self.undo.first_key_value().map(|((at, _), _)| *at)
    }

    /// Ends what is due; everything when `all`.
    pub fn end_due(&mut self, cluster: &Cluster, all: bool) {
        while let Some(entry) = self.undo.first_entry().filter(|e| all || e.key().0 <= cluster.world.now()) {
            let undo = entry.remove();
            self.end(cluster, undo);
        }
    }

    fn later(&mut self, cluster: &Cluster, ms: u64, undo: Undo) {
        self.sequence += 1;
        self.undo.insert((cluster.world.now() + Duration::from_millis(ms), self.sequence), undo);
    }

    /// Whether every volume that has a good copy on this node has another good one on a node that is well.
    fn may_be_harmed(&self, cluster: &Cluster, node: &str) -> bool {
        let shared = &cluster.shared;
        let copies = shared.copies.borrow();
        let node_of = |copy: &Uuid| copies.get(copy).cloned().unwrap_or_default();
        let well = |name: &String| name != node && is_up(cluster, name) && !self.weak.contains(name);
        (0..shared.scenario.volumes.len()).all(|k| {
            let record = shared.store.volume(volume_id(k));
            let good: Vec<String> =
                record.and_then(|v| v.ledger).iter().flat_map(|l| l.in_sync.iter().map(node_of)).collect();
            !good.iter().any(|n| n == node) || good.iter().any(well)
        })
    }

    /// The node that is meant, by what it does now.
    fn real_place(cluster: &Cluster, name: &str) -> String {
        let mut words = name.split('-');
        let (role, volume, copy) = (words.next(), words.next(), words.next());
        let Some(volume) = volume.and_then(|v| v.parse::<usize>().ok()).filter(|v| *v > 0) else { return name.into() };
        let Some(record) = cluster.shared.store.volume(volume_id(volume - 1)) else { return name.into() };
        let copies = cluster.shared.copies.borrow();
        let place = match (role, copy.and_then(|k| k.parse::<usize>().ok())) {
            (Some("nexus"), None) => record.target,
            (Some("copy"), Some(k)) => {
                let good = record.ledger.into_iter().flat_map(|l| l.in_sync);
                // Those beside the nexus first.
                let mut nodes: Vec<String> = good.filter_map(|c| copies.get(&c).cloned()).collect();
                nodes.sort_by_key(|n| (Some(n) == record.target.as_ref(), n.clone()));
                let count = nodes.len().max(1);
                nodes.into_iter().nth(k % count)
            }
            _ => None,
        };
        place.unwrap_or_else(|| name.into())
    }

    /// Does a fault, unless what it needs is not there, or it would take the last good copy of something.
    pub fn inject(&mut self, cluster: &Cluster, fault: &Fault) {
        let fault = &fault.at_real_places(&|name| Trouble::real_place(cluster, name));
        let done = self.process(cluster, fault)
            || self.network(cluster, fault)
            || self.disk(cluster, fault)
            || self.metadata(cluster, fault)
            || self.fill(cluster, fault)
            || self.control(cluster, fault);
        cluster.note("world", if done { "fault" } else { "no fault" }, || format!("{fault:?}"));
        self.faults += u64::from(done);
    }

    fn process(&mut self, cluster: &Cluster, fault: &Fault) -> bool {
        match fault {
            Fault::KillProcess { node, down_ms } if is_up(cluster, node) => {
                cluster.observe_ledgers();
                cluster.kill_process(node);
                self.later(cluster, *down_ms, Undo::Start(node.clone()));
            }
            Fault::PowerCut { node, down_ms } if is_up(cluster, node) => {
                cluster.cut_power(std::slice::from_ref(node));
                self.later(cluster, *down_ms, Undo::Start(node.clone()));
            }
            Fault::PowerCutAll { down_ms } => {
                let up: Vec<String> = cluster.shared.machines.borrow().keys().cloned().collect();
                cluster.cut_power(&up);
                for (k, node) in up.into_iter().enumerate() {
                    self.later(cluster, down_ms + 37 * k as u64, Undo::Start(node));
                }
            }
            Fault::Pause { node, ms } if is_up(cluster, node) => {
                cluster.world.pause(node, true);
                self.weak.insert(node.clone());
                self.later(cluster, *ms, Undo::Resume(node.clone()));
            }
            _ => return false,
        }
        true
    }

    fn network(&mut self, cluster: &Cluster, fault: &Fault) -> bool {
        let net = cluster.world.net();
        match fault {
            Fault::Isolate { place, ms } => {
                net.isolate(place, true);
                self.weak.insert(place.clone());
                self.later(cluster, *ms, Undo::Join(place.clone()));
            }
            Fault::Cut { from, to, both, ms } if from != to => {
                for (from, to) in [(from, to), (to, from)].into_iter().take(1 + usize::from(*both)) {
                    net.cut(from, to, true);
                    self.later(cluster, *ms, Undo::Mend(from.clone(), to.clone()));
                }
                self.weak.extend([from.clone(), to.clone()]);
            }
            Fault::Slow { from, to, by_ms, ms } if from != to => {
                net.slow(from, to, Duration::from_millis(*by_ms));
                self.later(cluster, *ms, Undo::Hurry(from.clone(), to.clone()));
            }
            Fault::Reset { node } => net.reset(node),
            Fault::Silence { a, b } if a != b => net.silence(a, b),
            Fault::Refuse { node, ms } => {
                net.refuse(node, true);
                self.later(cluster, *ms, Undo::Accept(node.clone()));
            }
            _ => return false,
        }
        true
    }

    fn disk(&mut self, cluster: &Cluster, fault: &Fault) -> bool {
        let (Fault::DiskStall { node, .. }
        | Fault::DiskSlow { node, .. }
        | Fault::FlushFails { node }
        | Fault::DiskGone { node, .. }
        | Fault::BadBlocks { node, .. }) = fault
        else {
            return false;
        };
        if self.pulled.contains_key(node) || !is_up(cluster, node) {
            return false;
        }
        let disk = cluster.world.disk(disk_path(node));
        match fault {
            Fault::DiskStall { ms, .. } => {
                disk.stall(true);
                self.weak.insert(node.clone());
                self.later(cluster, *ms, Undo::Release(node.clone()));
            }
            Fault::DiskSlow { by_ms, ms, .. } => {
                disk.slow(Duration::from_millis(*by_ms));
                self.later(cluster, *ms, Undo::Quicken(node.clone()));
            }
            _ if !self.may_be_harmed(cluster, node) => return false,
            Fault::FlushFails { .. } => {
                cluster.lose_caches(std::slice::from_ref(node));
                disk.fail_flushes(1);
                self.weak.insert(node.clone());
            }
            Fault::DiskGone { ms, .. } => {
                cluster.lose_caches(std::slice::from_ref(node));
                disk.power_cut();
                self.pulled.insert(node.clone(), (disk.options(), disk.image()));
                self.weak.insert(node.clone());
                cluster.world.remove_disk(disk_path(node));
                self.later(cluster, *ms, Undo::PutBack(node.clone()));
            }
            Fault::BadBlocks { salt, .. } => {
                let ours = |unit: &[u8]| payload::is_ours(unit);
                let image = disk.image();
                let found: Vec<u64> = image.0.iter().filter(|(_, u)| ours(u)).map(|(at, _)| *at).collect();
                if found.is_empty() {
                    return false;
                }
                for k in 0..3 {
                    let at = found[(*salt as usize * 31 + k * 7) % found.len()];
                    disk.fail_reads(BlockRange::new(at, 1));
                }
                self.weak.insert(node.clone());
            }
            _ => return false,
        }
        true
    }

    /// Damages metadata, on one disk at a time: what is promised is that a good copy elsewhere goes on.
    fn metadata(&mut self, cluster: &Cluster, fault: &Fault) -> bool {
        let (Fault::BitRot { node, salt } | Fault::Misdirected { node, salt } | Fault::BadMetadata { node, salt }) =
            fault
        else {
            return false;
        };
        let elsewhere = self.damage.keys().any(|n| n != node);
        if elsewhere || self.pulled.contains_key(node) || !self.may_be_harmed(cluster, node) {
            return false;
        }
        let disk = cluster.world.disk(disk_path(node));
        let volumes: Vec<Uuid> = (0..cluster.shared.scenario.volumes.len()).map(volume_id).collect();
        let spots = rot::spots(&disk, &volumes);
        if spots.len() < 2 {
            return false;
        }
        let pick = |k: u64| spots[(k % spots.len() as u64) as usize];
        let (to, from) = (pick(*salt), pick(salt / 7 + 1));
        let damage = match fault {
            Fault::BitRot { .. } => Some(rot::flip(&disk, to, salt / 11)),
            Fault::Misdirected { .. } if from != to => Some(rot::misdirect(&disk, from, to)),
            Fault::Misdirected { .. } => return false,
            _ => {
                let block = u64::from(disk.options().block_size.bytes());
                disk.fail_reads(BlockRange::new(to.at / block, to.len.div_ceil(block)));
                None
            }
        };
        cluster.note(node, "damage", || format!("{to:?}"));
        self.damage.entry(node.clone()).or_default().extend(damage);
        self.weak.insert(node.clone());
        true
    }

    fn fill(&mut self, cluster: &Cluster, fault: &Fault) -> bool {
        let Fault::FillPool { node, ms } = fault else { return false };
        let Some(machine) = cluster.shared.machines.borrow().get(node).cloned() else { return false };
        self.later(cluster, *ms, Undo::Empty(node.clone()));
        let host = machine.host.clone();
        host.spawn(async move {
            let Some(pool) = machine.node.pools().into_iter().find(|p| p.state == Health::Online) else { return };
            // Thick, so that all of it is taken at once; what is promised to others already is not to be had.
            let mut size = pool.capacity - pool.used.min(pool.capacity);
            while size > 0 {
                let request =
                    CreateReplica { uuid: FILLER.into(), pool: pool.name.clone(), size, thin: false, share: None };
                if machine.node.create_replica(request).await.is_ok() {
                    return;
                }
                size = size.saturating_sub(1 << 20);
            }
        });
        true
    }

    fn empty(cluster: &Cluster, node: &str) {
        let Some(machine) = cluster.shared.machines.borrow().get(node).cloned() else { return };
        let host = machine.host.clone();
        // It may not be there, or its pool may have stopped; then it is tried again at the end.
        host.spawn(async move { drop(machine.node.destroy_replica(FILLER.into()).await) });
    }

    fn control(&mut self, cluster: &Cluster, fault: &Fault) -> bool {
        let shared = &cluster.shared;
        match fault {
            Fault::LostReplies { percent, ms } => {
                shared.store.lost_replies.set(*percent);
                self.later(cluster, *ms, Undo::StoreHeals);
            }
            Fault::OperatorDies { down_ms } => {
                cluster.world.kill_process(OPERATORS[0]);
                self.later(cluster, *down_ms, Undo::StartOperator);
            }
            Fault::SecondOperator { ms } => {
                cluster.world.kill_process(OPERATORS[1]);
                operator::start(shared, cluster.world.node(OPERATORS[1]), OPERATORS[1]);
                self.later(cluster, *ms, Undo::StopSecond);
            }
            Fault::Move { volume, node } => {
                let publish = Publish::On(node.clone());
                shared.store.edit(volume_id(*volume), |v| v.map(|v| Volume { publish, ..v }));
            }
            Fault::Replicas { volume, count } => {
                shared.store.edit(volume_id(*volume), |v| v.map(|v| Volume { replicas: *count, ..v }));
            }
            _ => return false,
        }
        true
    }

    fn end(&mut self, cluster: &Cluster, undo: Undo) {
        let net = cluster.world.net();
        match undo {
            Undo::Start(node) => {
                self.weak.insert(node.clone());
                if !self.pulled.contains_key(&node) && !self.damage.contains_key(&node) {
                    crate::audit::pool(cluster, &node);
                }
                cluster.start(&node);
            }
            Undo::Resume(node) => {
                cluster.note(&node, "resumed", String::new);
                cluster.world.pause(&node, false);
            }
            Undo::Join(place) => net.isolate(&place, false),
            Undo::Mend(from, to) => net.cut(&from, &to, false),
            Undo::Hurry(from, to) => net.slow(&from, &to, Duration::ZERO),
            Undo::Accept(node) => net.refuse(&node, false),
            Undo::Release(node) => self.with_disk(cluster, &node, |disk| disk.stall(false)),
            Undo::Quicken(node) => self.with_disk(cluster, &node, |disk| disk.slow(Duration::ZERO)),
            Undo::PutBack(node) => {
                if let Some((options, image)) = self.pulled.remove(&node) {
                    cluster.note(&node, "disk back", String::new);
                    cluster.world.add_disk(disk_path(&node), options).set_image(image);
                    // The machine starts anew with it: see docs/faults.md, what is not promised.
                    cluster.cut_power(std::slice::from_ref(&node));
                    let starts = self.undo.values().any(|u| matches!(u, Undo::Start(n) if *n == node));
                    if !starts {
                        self.later(cluster, 100, Undo::Start(node));
                    }
                }
            }
            Undo::Empty(node) => Trouble::empty(cluster, &node),
            Undo::StoreHeals => cluster.shared.store.lost_replies.set(0),
            Undo::StartOperator => {
                cluster.world.kill_process(OPERATORS[0]);
                operator::start(&cluster.shared, cluster.world.node(OPERATORS[0]), OPERATORS[0]);
            }
            Undo::StopSecond => cluster.world.kill_process(OPERATORS[1]),
        }
    }

    fn with_disk(&self, cluster: &Cluster, node: &str, act: impl FnOnce(&sim::SimDisk)) {
        if !self.pulled.contains_key(node) {
            act(&cluster.world.disk(disk_path(node)));
        }
    }

    /// Ends everything, and lets an administrator restart what has given up.
    pub fn end_all(&mut self, cluster: &Cluster) {
        self.end_due(cluster, true);
        cluster.world.net().heal();
        for name in cluster.node_names() {
            let disk = cluster.world.disk(disk_path(&name));
            disk.heal();
            disk.stall(false);
            for damage in self.damage.remove(&name).into_iter().flatten().rev() {
                damage.undo(&disk);
            }
        }
        self.restart_broken(cluster);
    }

    /// A pool that has stopped for good is imported anew by a restart of its engine.
    pub fn restart_broken(&mut self, cluster: &Cluster) {
        for name in cluster.node_names() {
            let machine = cluster.shared.machines.borrow().get(&name).cloned();
            let Some(machine) = machine else { continue };
            let broken = machine.node.pools().iter().any(|p| p.state == Health::Faulted);
            Trouble::empty(cluster, &name);
            drop(machine);
            if broken {
                cluster.kill_process(&name);
                self.later(cluster, 200, Undo::Start(name));
            }
        }
    }
}

fn is_up(cluster: &Cluster, node: &str) -> bool {
    cluster.shared.machines.borrow().contains_key(node)
}
