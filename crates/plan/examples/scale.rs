//! How long the planner takes in a large cluster: `cargo xtask planner`.
//!
//! A thousand nodes with a pool each, a hundred thousand volumes with three copies each, all published. Measured are full
//! passes (nothing is to be done, a node was lost, a rack of forty was lost), and what a planner that keeps track needs for
//! one change, and after the loss of nodes; best and worst of ten. Other numbers of nodes and volumes: the two arguments.
#![allow(clippy::disallowed_methods, reason = "a measurement needs the clock")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use block::{Bytes, Generation};
use plan::*;
use uuid::Uuid;

const GIB: u64 = 1 << 30;
const NOW: u64 = 1_000_000_000;

fn node(n: u64) -> String {
    format!("node-{n:04}")
}

/// A healthy cluster.
fn cluster(nodes: u64, volumes: u64) -> (Desired, Observed) {
    let (mut desired, mut observed) = (Desired::default(), Observed::default());
    for n in 0..nodes {
        let pool = Pool {
            state: PoolState::Online,
            capacity: Bytes(16_384 * GIB),
            committed: Bytes(3_300 * GIB),
            nominal: Bytes(3_300 * GIB),
        };
        observed.nodes.insert(
            node(n),
            Node {
                reach: Reach::Online { since_ms: 0 },
                pools: BTreeMap::from([("pool".to_owned(), pool)]),
                replicas: BTreeMap::new(),
                nexuses: BTreeMap::new(),
            },
        );
    }
    for v in 0..volumes {
        let id = Uuid::from_u128(u128::from(v).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
        // Three nodes that depend on the volume, and never the same twice.
        let homes = [v % nodes, (v * 7 + 1 + v / nodes) % nodes, (v * 13 + 2 + v / nodes * 3) % nodes];
        let mut copies = BTreeMap::new();
        let mut children = BTreeMap::new();
        for (k, home) in homes.iter().enumerate() {
            let copy = Uuid::from_u128(id.as_u128() ^ (k as u128 + 1));
            let pool = PoolId { node: node(*home), pool: "pool".into() };
            copies.insert(copy, Replica { pool, life: ReplicaLife::Member });
            children.insert(copy, Child { state: ChildState::Online, since_ms: 0 });
            let seen =
                SeenReplica { pool: "pool".into(), online: true, shared: k > 0, size: plan::replica_size(Bytes(GIB)) };
            observed.nodes.get_mut(&node(*home)).expect("it exists").replicas.insert(copy, seen);
        }
        let target = node(homes[0]);
        let nexus = Nexus { state: NexusState::Online, since_ms: 0, published: true, size: Bytes(GIB), children };
        observed.nodes.get_mut(&target).expect("it exists").nexuses.insert(id, nexus);
        let volume = Volume {
            name: format!("volume-{v}"),
            size: Bytes(GIB),
            replicas: 3,
            thin: false,
            required_nodes: BTreeSet::new(),
            preferred_nodes: BTreeSet::new(),
            topology: Topology::default(),
            moving: None,
            operation: String::new(),
            publish: Publish::Anywhere,
            hosts: BTreeMap::new(),
            life: Life::Wanted,
            nexus_nodes: BTreeSet::from([target.clone()]),
            target: Some(target),
            ledger: Some(Ledger { generation: Generation(1), in_sync: copies.keys().copied().collect() }),
            copies,
        };
        desired.volumes.insert(id, volume);
    }
    (desired, observed)
}

fn measure<T>(what: &str, mut act: impl FnMut() -> T, show: impl Fn(&T) -> String) {
    let (mut best, mut worst, mut said) = (Duration::MAX, Duration::ZERO, String::new());
    for _ in 0..10 {
        let begun = Instant::now();
        let result = act();
        let took = begun.elapsed();
        (best, worst) = (best.min(took), worst.max(took));
        said = show(&result);
    }
    println!("| {what} | {said} | {:.1} ms | {:.1} ms |", best.as_secs_f64() * 1e3, worst.as_secs_f64() * 1e3);
}

fn memory_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn main() {
    let count = |n: usize, default| std::env::args().nth(n).and_then(|a| a.parse().ok()).unwrap_or(default);
    let (nodes, volumes) = (count(1, 1_000), count(2, 100_000));
    let (desired, observed) = cluster(nodes, volumes);
    println!(
        "{nodes} nodes, {volumes} volumes with three copies each; records and reports take {} MiB\n",
        memory_mib()
    );
    println!("| what | result | best | worst |\n|---|---|---|---|");
    let settings = Settings::default();
    let actions = |a: &Vec<Action>| format!("{} actions", a.len());
    let lose = |lost: u64| {
        let mut observed = observed.clone();
        for n in 0..lost {
            observed.nodes.get_mut(&node(n)).expect("it exists").reach = Reach::Unreachable { since_ms: 0 };
        }
        observed
    };
    measure("full pass, all is well", || plan(&desired, &observed, NOW, &settings), actions);
    let one = lose(1);
    measure("full pass, a node was lost", || plan(&desired, &one, NOW, &settings), actions);
    let rack = lose(40);
    measure("full pass, 40 nodes were lost", || plan(&desired, &rack, NOW, &settings), actions);

    let before = memory_mib();
    let mut planner = Planner::new(&desired, &observed);
    let begun = Instant::now();
    assert!(planner.plan(&desired, &observed, NOW, &settings).is_empty() && planner.unsettled() == 0);
    let first = begun.elapsed().as_secs_f64() * 1e3;
    let index = memory_mib().saturating_sub(before);
    let mut changed = desired.clone();
    let id = *changed.volumes.keys().nth(volumes as usize / 2).expect("it exists");
    changed.volumes.get_mut(&id).expect("it exists").replicas = 4;
    let mut tracks = planner.clone();
    let one_change = || {
        tracks.volume_changed(id);
        tracks.plan(&changed, &observed, NOW, &settings)
    };
    measure("one change: a volume wants another copy", one_change, actions);
    for (what, after, lost) in [("a node was lost", &one, 1), ("40 nodes were lost", &rack, 40)] {
        let lose = || {
            let mut tracks = planner.clone();
            for n in 0..lost {
                tracks.node_changed(&node(n), observed.nodes.get(&node(n)), after.nodes.get(&node(n)));
            }
            let begun = Instant::now();
            let actions = tracks.plan(&desired, after, NOW, &settings);
            (begun.elapsed(), actions.len(), tracks.unsettled())
        };
        let mut all: Vec<_> = (0..10).map(|_| lose()).collect();
        all.sort();
        let ((best, count, look), (worst, ..)) = (all[0], all[9]);
        let (best, worst) = (best.as_secs_f64() * 1e3, worst.as_secs_f64() * 1e3);
        println!("| one change: {what} | {count} actions, {look} volumes looked at | {best:.1} ms | {worst:.1} ms |");
    }
    println!("\nThe first pass of a planner that keeps track: {first:.0} ms; its index takes about {index} MiB");
}
