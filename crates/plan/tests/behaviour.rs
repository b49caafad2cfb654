//! What operators ask of nodes and of places: cordon, drain, moves, labels, limits. On the cluster in a box, without faults.

#[allow(dead_code, reason = "each suite uses a part of it")]
mod cluster;

use std::collections::{BTreeMap, BTreeSet};

use block::Bytes;
use cluster::Cluster;
use plan::*;
use uuid::Uuid;

const MIB: u64 = 1 << 20;

/// A cluster that came to rest with some volumes of two copies.
fn begin(nodes: usize, volumes: usize) -> Cluster {
    let mut cluster = Cluster::new(7, nodes, 1);
    cluster.peace();
    for _ in 0..volumes {
        add(&mut cluster, 2, |_| ());
    }
    rest(&mut cluster);
    cluster
}

fn add(cluster: &mut Cluster, replicas: u32, edit: impl FnOnce(&mut Volume)) -> Uuid {
    let before: BTreeSet<Uuid> = cluster.desired.volumes.keys().copied().collect();
    cluster.create_volume();
    let (id, volume) = cluster.desired.volumes.iter_mut().find(|(id, _)| !before.contains(id)).expect("it is new");
    volume.replicas = replicas;
    edit(volume);
    *id
}

/// Steps until nothing is left to do; no volume ever has fewer copies with every write than it should.
fn rest(cluster: &mut Cluster) {
    for _ in 0..300 {
        cluster.step();
        for volume in cluster.desired.volumes.values() {
            if let Some(ledger) = &volume.ledger {
                let good = ledger.in_sync.iter().filter(|id| volume.copies.contains_key(id)).count();
                assert!(good >= volume.replicas as usize, "redundancy was given up: {volume:#?}");
            }
        }
    }
    let left = cluster.plan();
    assert!(left.is_empty(), "never at rest: {left:#?}");
}

fn on(cluster: &Cluster, node: &str) -> (usize, usize) {
    let volumes = || cluster.desired.volumes.values();
    let copies = volumes().flat_map(|v| v.copies.values()).filter(|r| r.pool.node == node).count();
    (copies, volumes().filter(|v| v.target.as_deref() == Some(node)).count())
}

fn wish(cluster: &mut Cluster, node: &str, service: Service) {
    cluster.desired.nodes.entry(node.to_owned()).or_default().service = service;
}

fn label(cluster: &mut Cluster, node: &str, value: &str) {
    let labels = &mut cluster.desired.nodes.entry(node.to_owned()).or_default().labels;
    labels.insert("zone".to_owned(), value.to_owned());
}

fn nodes_of(cluster: &Cluster, volume: Uuid) -> BTreeSet<String> {
    cluster.desired.volumes[&volume].copies.values().map(|r| r.pool.node.clone()).collect()
}

fn rule(hard: bool) -> BTreeSet<Rule> {
    BTreeSet::from([Rule { key: "zone".to_owned(), hard }])
}

#[test]
fn a_drained_node_ends_empty_and_no_volume_lacks_a_copy_meanwhile() {
    let mut cluster = begin(4, 12);
    let (copies, targets) = on(&cluster, "node-0");
    assert!(copies > 0 && targets > 0, "it has {copies} copies and {targets} targets");
    wish(&mut cluster, "node-0", Service::Draining);
    rest(&mut cluster);
    assert_eq!(on(&cluster, "node-0"), (0, 0));
    assert_eq!(cluster.unsettled(), 0, "the planner has nothing more to look at");
    // Back in service, it stays empty until something comes that needs a place.
    wish(&mut cluster, "node-0", Service::InService);
    rest(&mut cluster);
    assert_eq!(on(&cluster, "node-0"), (0, 0));
    let new = add(&mut cluster, 1, |_| ());
    rest(&mut cluster);
    assert_eq!(nodes_of(&cluster, new), BTreeSet::from(["node-0".to_owned()]), "it is the emptiest");
}

#[test]
fn a_drain_without_another_place_changes_nothing_and_goes_on_when_there_is_one() {
    let mut cluster = begin(2, 3);
    let before = cluster.desired.volumes.clone();
    wish(&mut cluster, "node-0", Service::Draining);
    rest(&mut cluster);
    let copies = |volumes: &BTreeMap<Uuid, Volume>| volumes.values().map(|v| v.copies.clone()).collect::<Vec<_>>();
    assert_eq!(copies(&cluster.desired.volumes), copies(&before), "no copy can move");
    assert_eq!(on(&cluster, "node-0"), (3, 0), "the targets can");
    cluster.add_node("node-9");
    rest(&mut cluster);
    assert_eq!(on(&cluster, "node-0"), (0, 0));
}

#[test]
fn a_drain_that_is_stopped_leaves_what_has_not_moved() {
    let mut cluster = begin(4, 12);
    let (before, _) = on(&cluster, "node-0");
    wish(&mut cluster, "node-0", Service::Draining);
    for _ in 0..8 {
        cluster.step();
    }
    wish(&mut cluster, "node-0", Service::InService);
    rest(&mut cluster);
    let all: usize = cluster.desired.volumes.values().map(|v| v.copies.len()).sum();
    assert!(on(&cluster, "node-0").0 <= before);
    assert_eq!(all, 24, "two copies each");
}

#[test]
fn a_cordoned_node_keeps_what_it_has_and_gets_nothing_new() {
    let mut cluster = begin(3, 6);
    let before = on(&cluster, "node-1");
    wish(&mut cluster, "node-1", Service::Cordoned);
    for _ in 0..6 {
        add(&mut cluster, 2, |_| ());
    }
    rest(&mut cluster);
    assert_eq!(on(&cluster, "node-1"), before);
}

#[test]
fn a_move_puts_the_new_copy_where_it_was_said_to_be() {
    let mut cluster = begin(3, 1);
    let (id, volume) = cluster.desired.volumes.first_key_value().map(|(id, v)| (*id, v.clone())).expect("one volume");
    let used = nodes_of(&cluster, id);
    let free = (0..3).map(|n| format!("node-{n}")).find(|n| !used.contains(n)).expect("two of three are used");
    let (replica, gone) = volume.copies.first_key_value().expect("it has copies");
    let to = PoolId { node: free.clone(), pool: "pool-0".into() };
    cluster.desired.volumes.get_mut(&id).expect("it exists").moving = Some(Move { replica: *replica, to });
    rest(&mut cluster);
    let now = nodes_of(&cluster, id);
    assert!(now.contains(&free) && !now.contains(&gone.pool.node) && now.len() == 2, "{now:?}");
    assert_eq!(cluster.desired.volumes[&id].moving, None);
}

#[test]
fn copies_are_spread_over_zones_and_a_hard_rule_is_never_broken() {
    let mut cluster = Cluster::new(1, 4, 1);
    cluster.peace();
    for (n, zone) in ["a", "a", "a", "b"].iter().enumerate() {
        label(&mut cluster, &format!("node-{n}"), zone);
    }
    let hard = add(&mut cluster, 2, |v| v.topology.spread = rule(true));
    let too_many = add(&mut cluster, 3, |v| v.topology.spread = rule(true));
    let soft = add(&mut cluster, 3, |v| v.topology.spread = rule(false));
    let near = add(&mut cluster, 3, |v| v.topology.together = rule(true));
    let labelled = add(&mut cluster, 1, |v| {
        v.topology.required_labels = BTreeMap::from([("zone".to_owned(), "b".to_owned())]);
    });
    for _ in 0..100 {
        cluster.step();
    }
    let zones = |id| {
        let nodes = nodes_of(&cluster, id);
        let mut zones: Vec<String> =
            nodes.iter().map(|n| cluster.desired.label(n, "zone").unwrap_or("").to_owned()).collect();
        zones.sort();
        zones.concat()
    };
    assert_eq!(
        (zones(hard), zones(soft), zones(near), zones(labelled)),
        ("ab".into(), "aab".into(), "aaa".into(), "b".into())
    );
    assert_eq!(zones(too_many), "ab", "the third copy is not made");
    assert!(cluster.desired.volumes[&too_many].ledger.is_none(), "it waits");
    let observed = cluster.observed();
    let room = Room::new(&cluster.desired, &observed);
    let volume = &cluster.desired.volumes[&too_many];
    let why = room.shortage(&cluster.desired, &observed, volume, |_| true, &[]).expect("there is no place").to_string();
    assert!(why.contains("needs 3 values of zone, 2 have room (a, b)"), "{why}");
}

#[test]
fn a_pool_takes_thin_copies_up_to_its_limit_only() {
    let mut cluster = Cluster::new(1, 1, 1);
    cluster.peace();
    // A pool of 1000 MiB.
    cluster.desired.limits.overcommit_percent = 200;
    let thin = |v: &mut Volume| (v.thin, v.size) = (true, Bytes(900 * MIB));
    add(&mut cluster, 1, thin);
    rest(&mut cluster);
    let observed = cluster.observed();
    let mut volume = cluster.desired.volumes.values().next().expect("one volume").clone();
    volume.copies.clear();
    let room = Room::new(&cluster.desired, &observed);
    assert_eq!(room.shortage(&cluster.desired, &observed, &volume, |_| true, &[]), None, "1812 of 2000 MiB");
    volume.size = Bytes(1100 * MIB);
    let why = room.shortage(&cluster.desired, &observed, &volume, |_| true, &[]).expect("2012 of 2000 MiB").to_string();
    assert!(why.contains("1 at their limit of thin over-commitment"), "{why}");
}

#[test]
fn rebuilds_wait_for_their_turn() {
    let mut cluster = begin(2, 8);
    cluster.desired.limits.rebuilds_per_node = 2;
    cluster.add_node("node-9");
    wish(&mut cluster, "node-0", Service::Draining);
    let mut most = 0;
    for _ in 0..200 {
        cluster.step();
        let observed = cluster.observed();
        let nexuses = observed.nodes.values().flat_map(|n| n.nexuses.values());
        let running = nexuses.flat_map(|n| n.children.values()).filter(|c| c.state == ChildState::Rebuilding).count();
        most = most.max(running);
    }
    assert_eq!(most, 2, "all go to one node");
    assert_eq!(on(&cluster, "node-0"), (0, 0), "all had their turn");
}

#[test]
fn copies_in_a_pool_that_failed_are_made_elsewhere() {
    let mut cluster = begin(3, 4);
    let (before, _) = on(&cluster, "node-0");
    assert!(before > 0);
    cluster.fail_pool("node-0", "pool-0");
    for _ in 0..200 {
        cluster.step();
    }
    for volume in cluster.desired.volumes.values() {
        let good = volume.ledger.as_ref().expect("it is open").in_sync.iter();
        let elsewhere = good.filter(|id| volume.copies.get(id).is_some_and(|r| r.pool.node != "node-0")).count();
        assert_eq!(elsewhere, 2, "{volume:#?}");
    }
}
