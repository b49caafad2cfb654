//! Members that die, fall silent, hang and come back: how long a volume waits for them, and what it does then.

use std::time::Duration;

use block::{Fault, Instant};
use engine::model::{ChildState, Health};

use super::fencing::{Cluster, replica_uri};
use super::nexuses::UUID;
use super::*;

/// How long a write takes, in the time of the world.
fn timed(cluster: &Cluster, client: &Rc<engine::remote::RemoteDisk>, byte: u8) -> (Result<(), Fault>, Duration) {
    let began: Instant = cluster.world.now();
    let done = cluster.write(client, byte);
    (done, cluster.world.now().since(began))
}

fn states(node: &Node) -> Vec<ChildState> {
    node.nexuses().remove(0).children.iter().map(|c| c.state).collect()
}

/// A client that waits longer than any member is waited for.
fn patient(cluster: &Cluster) -> Rc<engine::remote::RemoteDisk> {
    let options = engine::remote::RemoteOptions { command_deadline: Duration::from_secs(60), ..Default::default() };
    cluster.client_with("n1", options)
}

#[test]
fn a_member_whose_process_is_dead_is_not_waited_for_long() {
    let cluster = Cluster::new();
    let n1 = cluster.start("n1");
    cluster.open(&n1, None);
    let client = patient(&cluster);
    assert_eq!(cluster.write(&client, 1), Ok(()));
    cluster.world.kill_process("s2");
    let (done, waited) = timed(&cluster, &client, 2);
    println!("a dead process: {waited:?}");
    assert_eq!(done, Ok(()));
    assert!(waited < Duration::from_millis(1_500), "{waited:?}");
    assert_eq!(states(&n1), [ChildState::Online, ChildState::Faulted]);
}

#[test]
fn the_patience_with_dead_processes_is_a_setting_and_a_quick_restart_costs_nothing() {
    let cluster = Cluster::new();
    let n1 = cluster.start("n1");
    let node = n1.clone();
    cluster.world.run(async move {
        node.set_setting("nexus.refused_deadline_ms".into(), "4000".into()).await.expect("a setting");
    });
    cluster.open(&n1, None);
    let client = patient(&cluster);
    assert_eq!(cluster.write(&client, 1), Ok(()));
    cluster.world.kill_process("s2");
    cluster.world.run_for(Duration::from_secs(2));
    cluster.start("s2");
    assert_eq!(cluster.write(&client, 2), Ok(()));
    assert_eq!(states(&n1), [ChildState::Online, ChildState::Online]);
}

#[test]
fn a_member_that_falls_silent_leaves_after_its_deadline() {
    let cluster = Cluster::new();
    let n1 = cluster.start("n1");
    cluster.open(&n1, None);
    let client = patient(&cluster);
    assert_eq!(cluster.write(&client, 1), Ok(()));
    // Connections stay open, and nothing comes any more.
    cluster.world.net().isolate("s2", true);
    let (done, waited) = timed(&cluster, &client, 2);
    println!("a silent target: {waited:?}");
    assert_eq!(done, Ok(()));
    assert!(waited < Duration::from_secs(7), "{waited:?}");
    assert_eq!(states(&n1), [ChildState::Online, ChildState::Faulted]);
}

#[test]
fn a_member_whose_disk_hangs_leaves_and_the_volume_goes_on() {
    let cluster = Cluster::new();
    let n1 = cluster.start("n1");
    cluster.open(&n1, None);
    let client = patient(&cluster);
    assert_eq!(cluster.write(&client, 1), Ok(()));
    cluster.world.disk("/dev/b").stall(true);
    let (done, waited) = timed(&cluster, &client, 2);
    println!("a stuck disk: {waited:?}");
    assert_eq!(done, Ok(()));
    assert!(waited < Duration::from_secs(12), "{waited:?}");
    assert_eq!(states(&n1), [ChildState::Online, ChildState::Faulted]);
    let (done, waited) = timed(&cluster, &client, 3);
    assert!(done.is_ok() && waited < Duration::from_millis(500), "{waited:?}");
    cluster.world.disk("/dev/b").stall(false);
    cluster.world.run_for(Duration::from_secs(5));
    assert_eq!(cluster.peek("s1", "r1"), 3);
}

/// The processes of both members die, one after the other, and only the one that is up to date comes back.
#[test]
fn the_last_good_copy_serves_again_when_its_process_is_back() {
    let cluster = Cluster::new();
    let n1 = cluster.start("n1");
    cluster.open(&n1, None);
    let client = patient(&cluster);
    assert_eq!(cluster.write(&client, 1), Ok(()));
    cluster.world.kill_process("s2");
    assert_eq!(cluster.write(&client, 2), Ok(()));
    cluster.world.kill_process("s1");
    assert!(cluster.write(&client, 3).is_err(), "nothing is left");
    cluster.start("s2");
    cluster.world.run_for(Duration::from_secs(10));
    assert!(cluster.write(&client, 3).is_err(), "the stale copy does not serve");
    cluster.start("s1");
    cluster.world.run_for(Duration::from_secs(10));
    assert_eq!(cluster.read(&client, super::fencing::AT), 2, "or 3, had it been on its way; never 1");
    assert_eq!(cluster.write(&client, 4), Ok(()));
    let node = n1.clone();
    cluster.world.run(async move {
        node.online_child(UUID.into(), replica_uri("s2", "r2")).await.expect("it comes back");
    });
    cluster.world.run_for(Duration::from_secs(10));
    assert_eq!(n1.nexuses().remove(0).state, Health::Online);
}

/// The last good copy loses power, and with it an answered write that nobody had flushed. The volume comes back by itself,
/// and the client's flush fails once, so that it knows.
#[test]
fn the_last_good_copy_serves_again_after_power_loss_and_a_flush_says_what_was_lost() {
    let cluster = Cluster::new();
    let n1 = cluster.start("n1");
    cluster.open(&n1, None);
    let client = patient(&cluster);
    assert_eq!(cluster.write(&client, 1), Ok(()));
    cluster.world.kill("s2");
    assert_eq!(cluster.write(&client, 2), Ok(()), "durable");
    assert_eq!(cluster.write_volatile(&client, 3), Ok(()), "not flushed");
    cluster.world.kill("s1");
    cluster.world.disk("/dev/a").power_cut();
    cluster.start("s1");
    cluster.world.run_for(Duration::from_secs(30));
    let found = n1.nexuses().remove(0);
    assert_eq!(found.state, Health::Degraded, "{found:#?}");
    let client = patient(&cluster);
    assert!(matches!(cluster.read(&client, super::fencing::AT), 2 | 3), "what was durable, or what came after");
    assert_eq!(cluster.flush(&client), Err(Fault::Medium), "a write may be lost");
    assert_eq!((cluster.write(&client, 4), cluster.flush(&client)), (Ok(()), Ok(())));
}
