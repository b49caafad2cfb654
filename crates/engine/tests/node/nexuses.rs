//! Nexuses over local and remote replicas: their whole life, restarts, and what is refused.

use std::time::Duration;

use block::{BlockRange, Buf, Durability};
use engine::model::{ChildState, ErrorKind, Health};
use engine::remote::{RemoteSpec, connect_disk};
use host::{DiskExt, DiskRef};

use super::remote::{far_options, with_two};
use super::*;

pub(super) const UUID: &str = "4a9ff0d3-5d26-4b4a-9d1e-0e0f7b5f6f11";
const SIZE: u64 = 20 * MIB;

pub(super) fn nexus(uuid: &str, size: u64, children: &[&str]) -> CreateNexus {
    let children = children.iter().map(|&c| c.into()).collect();
    CreateNexus { uuid: uuid.into(), size, children, ledger: None, managed: false }
}

/// Connects to a published nexus as a host would.
pub(super) async fn connect(host: &Host, uri: &str) -> DiskRef {
    connect_to(host, uri, Some(UUID.parse().expect("a uuid"))).await
}

/// Connects to whatever is there.
pub(super) async fn connect_any(host: &Host, uri: &str) -> DiskRef {
    connect_to(host, uri, None).await
}

async fn connect_to(host: &Host, uri: &str, uuid: Option<Uuid>) -> DiskRef {
    let (place, nqn) = uri.trim_start_matches("nvmf://").split_once('/').expect("an NQN");
    let (address, port) = place.split_once(':').expect("a port");
    let spec = RemoteSpec {
        host: address.into(),
        port: port.parse().expect("a port"),
        nqn: nqn.into(),
        host_nqn: "nqn.2019-05.io.openebs:test".into(),
        uuid,
    };
    connect_disk(host, spec, Default::default()).await.expect("the nexus is there")
}

pub(super) fn payload(byte: u8) -> Buf {
    Buf::copy_of(&[byte; 4096])
}

pub(super) fn at(lba: u64) -> BlockRange {
    BlockRange::new(lba, 8)
}

/// Two pools with a replica of 32 MiB each, and the nexus over them.
pub(super) async fn mirror(node: &Node) -> engine::model::NexusInfo {
    node.create_pool(pool("p1", &["/dev/a"])).await.unwrap();
    node.create_pool(pool("p2", &["/dev/b"])).await.unwrap();
    node.create_replica(replica("r1", "p1", 32)).await.unwrap();
    node.create_replica(replica("r2", "p2", 32)).await.unwrap();
    node.create_nexus(nexus(UUID, SIZE, &["bdev:///r1", "bdev:///r2"])).await.unwrap()
}

/// Waits until all children are in sync.
async fn healed(node: &Node, host: &Host) {
    for _ in 0..600 {
        if node.nexuses().iter().all(|n| n.state == Health::Online) {
            return;
        }
        host.sleep(Duration::from_millis(100)).await;
    }
    panic!("not healed in a minute: {:#?}", node.nexuses());
}

/// Clients of v0.3.0 ask for replicas and for the nexus over them with one number.
#[test]
fn a_nexus_as_large_as_its_children_has_what_they_can_give() {
    const GIVEN: u64 = 24 * MIB - (5 * MIB + 16384 + 512);
    let world = world();
    with_node(&world, |node, _| async move {
        node.create_pool(pool("p1", &["/dev/a"])).await.unwrap();
        node.create_replica(replica("r1", "p1", 24)).await.unwrap();
        node.create_replica(replica("r2", "p1", 25)).await.unwrap();
        let children = ["bdev:///r1", "bdev:///r2"];
        let error = node.create_nexus(nexus(UUID, 24 * MIB + 512, &children)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::OutOfRange, "larger than a child: {error}");
        let made = node.create_nexus(nexus(UUID, 24 * MIB, &children)).await.unwrap();
        assert_eq!((made.size, made.state), (GIVEN, Health::Online));
        for same in [24 * MIB, GIVEN, GIVEN + 100] {
            assert_eq!(node.create_nexus(nexus(UUID, same, &children)).await.unwrap().size, GIVEN, "{same}");
        }
        for other in [GIVEN - 512, 24 * MIB + 512] {
            let error = node.create_nexus(nexus(UUID, other, &children)).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::AlreadyExists, "{other}: {error}");
        }
    });
    world.kill("main");
    with_node(&world, |node, host| async move {
        healed(&node, &host).await;
        assert_eq!(node.nexuses()[0].size, GIVEN, "it comes back as it was");
        node.destroy_nexus(UUID.into()).await.unwrap();
        let again = node.create_nexus(nexus(UUID, 24 * MIB, &["bdev:///r1", "bdev:///r2"])).await.unwrap();
        assert_eq!(again.size, GIVEN);
        node.destroy_nexus(UUID.into()).await.unwrap();
        let odd = node.create_nexus(nexus(UUID, GIVEN + 1, &["bdev:///r1", "bdev:///r2"])).await.unwrap();
        assert_eq!(odd.size, GIVEN, "whole blocks only");
    });
}

#[test]
fn a_published_nexus_with_its_data_comes_back_under_the_same_name() {
    let world = world();
    let before = with_node(&world, |node, host| async move {
        let made = mirror(&node).await;
        assert_eq!((made.size, made.state, made.block_size), (SIZE, Health::Online, 512));
        assert_eq!(made.ledger.in_sync, ["bdev:///r1", "bdev:///r2"]);
        let again = node.create_nexus(nexus(UUID, SIZE, &["bdev:///r2", "bdev:///r1"])).await.unwrap();
        assert_eq!(again.ledger, made.ledger);
        let published = node.publish_nexus(UUID.into(), String::new(), Protocol::Nvmf).await.unwrap();
        let uri = format!("nvmf://10.0.0.1:8420/nqn.2019-05.io.openebs:nexus-{UUID}");
        assert_eq!(published.device_uri, uri);
        let disk = connect(&host, &uri).await;
        assert_eq!(disk.geometry().bytes().0, SIZE, "exactly the requested size");
        disk.write(at(0), payload(1), Durability::Durable).await.unwrap();
        disk.write(at(SIZE / 512 - 8), payload(2), Durability::Durable).await.unwrap();
        published
    });
    world.kill("main");
    let stopped = with_node(&world, move |node, host| async move {
        let back = node.nexuses().remove(0);
        assert_eq!((&back.device_uri, back.state), (&before.device_uri, Health::Online), "{back:#?}");
        let disk = connect(&host, &back.device_uri).await;
        assert_eq!(disk.read(at(0)).await.unwrap(), payload(1));
        assert_eq!(disk.read(at(SIZE / 512 - 8)).await.unwrap(), payload(2));
        disk.write(at(8), payload(3), Durability::Volatile).await.unwrap();
        node.stop().await;
        back.device_uri
    });
    with_node(&world, move |node, host| async move {
        let back = node.nexuses().remove(0);
        assert_eq!((&back.device_uri, back.state), (&stopped, Health::Online), "{back:#?}");
        let disk = connect(&host, &back.device_uri).await;
        assert_eq!(disk.read(at(8)).await.unwrap(), payload(3));
        let bare = node.unpublish_nexus(UUID.into()).await.unwrap();
        assert_eq!(bare.device_uri, "");
        node.unpublish_nexus(UUID.into()).await.unwrap();
        node.destroy_nexus(UUID.into()).await.unwrap();
        assert_eq!(node.nexuses(), vec![]);
        assert!(node.bdevs().iter().all(|b| !b.name.starts_with("r") || b.claimed_by.is_none()));
        // The data is on the replicas, for the next nexus of that name.
        let again = node.create_nexus(nexus(UUID, SIZE, &["bdev:///r1", "bdev:///r2"])).await.unwrap();
        assert_eq!(again.state, Health::Online);
        let again = node.publish_nexus(UUID.into(), String::new(), Protocol::Nvmf).await.unwrap();
        let disk = connect(&host, &again.device_uri).await;
        assert_eq!(disk.read(at(8)).await.unwrap(), payload(3));
    });
}

#[test]
fn children_come_and_go() {
    let world = world();
    with_node(&world, |node, host| async move {
        mirror(&node).await;
        node.create_pool(pool("p3", &["/dev/c"])).await.unwrap();
        node.create_replica(replica("r3", "p3", 32)).await.unwrap();
        let uri = || String::from("bdev:///r3");
        let id = || String::from(UUID);
        let waits = node.add_child(id(), uri(), true).await.unwrap();
        assert_eq!(waits.child(&uri()).expect("a child").state, ChildState::OutOfSync);
        assert_eq!(node.add_child(id(), uri(), true).await.unwrap().children.len(), 3, "adding again is fine");
        assert_eq!(node.rebuild(UUID, &uri()).expect_err("none").kind, ErrorKind::Internal);
        node.start_rebuild(id(), uri()).await.unwrap();
        node.pause_rebuild(id(), uri()).await.unwrap();
        assert_eq!(node.rebuild(UUID, &uri()).unwrap().state.to_string(), "paused");
        node.resume_rebuild(id(), uri()).await.unwrap();
        healed(&node, &host).await;
        node.stop_rebuild(id(), uri()).await.unwrap();

        let out = node.offline_child(id(), uri()).await.unwrap();
        assert_eq!(out.child(&uri()).expect("a child").state, ChildState::Offline);
        node.offline_child(id(), uri()).await.unwrap();
        let error = node.destroy_replica("r3".into()).await.expect_err("in use");
        assert_eq!(error.kind, ErrorKind::FailedPrecondition);
        assert!(error.message.contains("r3") && error.message.contains(UUID), "{error}");
        node.online_child(id(), uri()).await.unwrap();
        healed(&node, &host).await;
        let error = node.online_child(id(), uri()).await.expect_err("it is online");
        assert_eq!(error.kind, ErrorKind::InvalidArgument);

        node.fault_child(id(), uri()).await.unwrap();
        assert_eq!(node.nexuses()[0].child(&uri()).expect("a child").state, ChildState::Faulted);
        node.add_child(id(), uri(), false).await.unwrap();
        healed(&node, &host).await;

        let left = node.remove_child(id(), "bdev:///r1".into()).await.unwrap();
        assert_eq!(left.children.len(), 2);
        node.remove_child(id(), "bdev:///r1".into()).await.unwrap();
        node.destroy_replica("r1".into()).await.unwrap();
        node.offline_child(id(), uri()).await.unwrap();
        for (error, kind) in [
            (node.offline_child(id(), "bdev:///r2".into()).await, ErrorKind::FailedPrecondition),
            (node.fault_child(id(), "bdev:///r2".into()).await, ErrorKind::FailedPrecondition),
            (node.remove_child(id(), "bdev:///r2".into()).await, ErrorKind::FailedPrecondition),
        ] {
            let error = error.expect_err("the last good copy");
            assert_eq!(error.kind, kind, "{error}");
            assert!(error.message.contains("bdev:///r2"), "{error}");
        }
        node.remove_child(id(), uri()).await.unwrap();
        let error = node.remove_child(id(), "bdev:///r2".into()).await.expect_err("the last one");
        assert_eq!(error.kind, ErrorKind::InvalidArgument);
    });
}

#[test]
fn an_offline_child_stays_offline_over_a_restart() {
    let world = world();
    with_node(&world, |node, _| async move {
        mirror(&node).await;
        node.offline_child(UUID.into(), "bdev:///r2".into()).await.unwrap();
    });
    world.kill("main");
    with_node(&world, |node, host| async move {
        host.sleep(Duration::from_secs(10)).await;
        let back = node.nexuses().remove(0);
        assert_eq!(back.state, Health::Degraded, "{back:#?}");
        assert_eq!(back.child("bdev:///r2").expect("a child").state, ChildState::Offline);
        node.online_child(UUID.into(), "bdev:///r2".into()).await.unwrap();
        healed(&node, &host).await;
    });
}

#[test]
fn a_nexus_over_nodes_opens_with_what_it_has_and_takes_in_the_rest() {
    let world = world();
    let uri = with_two(&world, |node, far, host| async move {
        node.create_pool(pool("p1", &["/dev/a"])).await.unwrap();
        node.create_replica(replica("r1", "p1", 32)).await.unwrap();
        far.create_pool(pool("p2", &["/dev/b"])).await.unwrap();
        let uri = far.create_replica(shared(replica("r2", "p2", 32))).await.unwrap().uri;
        node.create_nexus(nexus(UUID, SIZE, &["bdev:///r1", &uri])).await.unwrap();
        let published = node.publish_nexus(UUID.into(), String::new(), Protocol::Nvmf).await.unwrap();
        let disk = connect(&host, &published.device_uri).await;
        disk.write(at(0), payload(1), Durability::Durable).await.unwrap();
        assert!(far.replica_stats()[0].num_write_ops > 0);
        uri
    });
    world.kill("main");
    world.kill("far");
    let (host, far) = (world.host(), world.node("far"));
    world.run(async move {
        let node = Node::start(host.clone(), options("10.0.0.1")).await.unwrap();
        host.sleep(Duration::from_secs(20)).await;
        // The file of this node says that its own replica is in sync, so it may be served alone.
        let alone = node.nexuses().remove(0);
        assert_eq!(alone.state, Health::Degraded, "{alone:#?}");
        assert_eq!(alone.child(&uri).expect("a child").state, ChildState::Faulted);
        let disk = connect(&host, &alone.device_uri).await;
        assert_eq!(disk.read(at(0)).await.unwrap(), payload(1));
        disk.write(at(8), payload(2), Durability::Durable).await.unwrap();
        let _far = Node::start(far, far_options()).await.unwrap();
        healed(&node, &host).await;
    });
}

/// Nobody reads or writes the volume when the node with one of its copies goes: that is noticed all the same, so that the
/// copy can be replaced before it is missed.
#[test]
fn an_idle_nexus_notices_that_a_child_is_gone() {
    let world = world();
    let (uri, node) = with_two(&world, |node, far, _| async move {
        node.create_pool(pool("p1", &["/dev/a"])).await.unwrap();
        node.create_replica(replica("r1", "p1", 32)).await.unwrap();
        far.create_pool(pool("p2", &["/dev/b"])).await.unwrap();
        let uri = far.create_replica(shared(replica("r2", "p2", 32))).await.unwrap().uri;
        node.create_nexus(nexus(UUID, SIZE, &["bdev:///r1", &uri])).await.unwrap();
        (uri, node)
    });
    world.kill("far");
    let host = world.host();
    world.run(async move {
        host.sleep(Duration::from_secs(15)).await;
        let seen = node.nexuses().remove(0);
        assert_eq!(seen.state, Health::Degraded, "{seen:#?}");
        assert_eq!(seen.child(&uri).expect("a child").state, ChildState::Faulted);
    });
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table of cases")]
fn wrong_calls_to_a_nexus_change_nothing() {
    let world = world();
    with_node(&world, |node, host| async move {
        mirror(&node).await;
        node.create_pool(pool("p3", &["/dev/c"])).await.unwrap();
        node.create_replica(replica("small", "p3", 6)).await.unwrap();
        node.create_replica(replica("r3", "p3", 32)).await.unwrap();
        node.create_bdev("malloc:///big?size_mb=32&blk_size=4096".into()).await.unwrap();
        let before = (picture(&node), node.bdevs());
        let saved = host.load(CONFIG.as_ref()).await.unwrap();
        let other = "5a9ff0d3-5d26-4b4a-9d1e-0e0f7b5f6f11";
        let id = || String::from(UUID);
        for (what, answer, kind, part) in [
            (
                "size",
                node.create_nexus(nexus(UUID, MIB, &["bdev:///r1", "bdev:///r2"])).await,
                ErrorKind::AlreadyExists,
                UUID,
            ),
            ("children", node.create_nexus(nexus(UUID, SIZE, &["bdev:///r1"])).await, ErrorKind::AlreadyExists, UUID),
            ("in use", node.create_nexus(nexus(other, SIZE, &["bdev:///r1"])).await, ErrorKind::InvalidArgument, "r1"),
            (
                "too large",
                node.create_nexus(nexus(other, 32 * MIB + 512, &["bdev:///r3"])).await,
                ErrorKind::OutOfRange,
                "bdev:///r3",
            ),
            (
                "small",
                node.create_nexus(nexus(other, SIZE, &["bdev:///r3", "bdev:///small"])).await,
                ErrorKind::OutOfRange,
                "bdev:///small",
            ),
            (
                "mixed",
                node.create_nexus(nexus(other, SIZE, &["bdev:///r3", "bdev:///big"])).await,
                ErrorKind::InvalidArgument,
                "bdev:///big",
            ),
            (
                "add small",
                node.add_child(id(), "bdev:///small".into(), false).await,
                ErrorKind::InvalidArgument,
                "bdev:///small",
            ),
            (
                "add mixed",
                node.add_child(id(), "bdev:///big".into(), false).await,
                ErrorKind::InvalidArgument,
                "bdev:///big",
            ),
            (
                "add used",
                node.add_child(id(), "aio:///dev/a".into(), false).await,
                ErrorKind::InvalidArgument,
                "pool p1",
            ),
            (
                "add nothing",
                node.add_child(id(), "bdev:///none".into(), false).await,
                ErrorKind::InvalidArgument,
                "'none'",
            ),
            ("offline nothing", node.offline_child(id(), "bdev:///none".into()).await, ErrorKind::NotFound, "none"),
            ("online nothing", node.online_child(id(), "bdev:///none".into()).await, ErrorKind::NotFound, "none"),
            (
                "online online",
                node.online_child(id(), "bdev:///r1".into()).await,
                ErrorKind::InvalidArgument,
                "bdev:///r1",
            ),
            ("fault nothing", node.fault_child(id(), "bdev:///none".into()).await, ErrorKind::NotFound, "none"),
        ] {
            let error = answer.expect_err(what);
            assert_eq!(error.kind, kind, "{what}: {error}");
            assert!(error.message.contains(part), "{what}: {error}");
        }
        for (what, answer, kind) in [
            ("start", node.start_rebuild(id(), "bdev:///r1".into()).await, ErrorKind::Internal),
            ("pause", node.pause_rebuild(id(), "bdev:///r1".into()).await, ErrorKind::Internal),
            ("start nothing", node.start_rebuild(id(), "bdev:///none".into()).await, ErrorKind::NotFound),
            ("destroy replica", node.destroy_replica("r1".into()).await, ErrorKind::FailedPrecondition),
            ("destroy pool", node.destroy_pool("p1".into(), true).await, ErrorKind::FailedPrecondition),
            ("export pool", node.export_pool("p1".into()).await, ErrorKind::FailedPrecondition),
            ("destroy bdev", node.destroy_bdev(format!("nexus-{UUID}")).await, ErrorKind::FailedPrecondition),
        ] {
            assert_eq!(answer.expect_err(what).kind, kind, "{what}");
        }
        assert_eq!((picture(&node), node.bdevs()), before);
        assert_eq!(host.load(CONFIG.as_ref()).await.unwrap(), saved);
    });
}
