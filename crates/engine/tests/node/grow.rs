//! Replicas and nexuses that become larger while they are used, and what a crash leaves of that.

use std::time::Duration;

use block::{BlockRange, Blocks, Buf, Durability};
use engine::model::{ChildState, ErrorKind, Health};
use engine::remote::{RemoteSpec, connect_disk};
use futures_util::future::join;
use host::{DiskExt, DiskRef};

use super::nexuses::{UUID, nexus};
use super::remote::{far_options, with_two};
use super::*;

const SMALL: u64 = 20 * MIB;
const LARGE: u64 = 33 * MIB;
const FAR: &str = "nvmf://10.0.0.2:8420/nqn.2019-05.io.openebs:r2";

async fn connect(host: &Host, uri: &str) -> DiskRef {
    let (place, nqn) = uri.trim_start_matches("nvmf://").split_once('/').expect("an NQN");
    let spec = RemoteSpec {
        host: place.split(':').next().expect("an address").into(),
        port: 8420,
        nqn: nqn.into(),
        host_nqn: "nqn.2019-05.io.openebs:test".into(),
        uuid: None,
    };
    connect_disk(host, spec, Default::default()).await.expect("it is shared")
}

/// The block at so many MiB.
fn at(mib: u64) -> BlockRange {
    BlockRange::new(mib * MIB / 512, 8)
}

async fn put(disk: &DiskRef, mib: u64, byte: u8) {
    disk.write(at(mib), Buf::copy_of(&[byte; 4096]), Durability::Volatile).await.expect("it is written");
}

async fn has(disk: &DiskRef, mib: u64, byte: u8) {
    assert_eq!(&disk.read(at(mib)).await.expect("it is read")[..], [byte; 4096], "at {mib} MiB");
}

/// A nexus with a member on this node and one on the other, published.
async fn mirrored(node: &Node, far: &Node) -> String {
    node.create_pool(pool("p1", &["/dev/a"])).await.unwrap();
    far.create_pool(pool("p2", &["/dev/b"])).await.unwrap();
    node.create_replica(replica("r1", "p1", 26)).await.unwrap();
    assert_eq!(far.create_replica(shared(replica("r2", "p2", 26))).await.unwrap().uri, FAR);
    node.create_nexus(nexus(UUID, SMALL, &["bdev:///r1", FAR])).await.unwrap();
    node.publish_nexus(UUID.into(), String::new(), Protocol::Nvmf).await.unwrap().device_uri
}

/// Both members hold the same, from the start of the volume to its end.
async fn members_are_equal(host: &Host, node: &Node, size: u64) {
    node.destroy_nexus(UUID.into()).await.unwrap();
    let shared = node.share_replica("r1".into(), Some(Protocol::Nvmf)).await.unwrap().uri;
    let (a, b) = (connect(host, &shared).await, connect(host, FAR).await);
    let mut from = 5 * MIB / 512;
    let end = from + size / 512;
    while from < end {
        let range = BlockRange::new(from, 2048.min(end - from));
        let (one, two) = (a.read(range).await.unwrap(), b.read(range).await.unwrap());
        assert!(one[..] == two[..], "the members differ in {range}");
        from = range.end().0;
    }
}

#[test]
fn a_published_volume_grows_under_its_client_and_keeps_that_through_a_restart() {
    let world = world();
    with_two(&world, |node, far, host| async move {
        let uri = mirrored(&node, &far).await;
        let disk = connect(&host, &uri).await;
        put(&disk, 3, 1).await;
        put(&disk, 19, 2).await;
        // The replicas first: what has no room is named, and nothing has changed.
        let before = node.nexuses();
        let error = node.resize_nexus(UUID.into(), LARGE).await.expect_err("no room");
        assert!(error.kind == ErrorKind::InvalidArgument && error.message.contains("r1"), "{error}");
        node.resize_replica("r1".into(), 40 * MIB).await.unwrap();
        let error = node.resize_nexus(UUID.into(), LARGE).await.expect_err("no room");
        assert!(error.message.contains(FAR), "{error}");
        assert_eq!(node.nexuses(), before);
        let grown = far.resize_replica("r2".into(), 40 * MIB).await.unwrap();
        assert_eq!((grown.size, grown.uri.as_str()), (40 * MIB, FAR));
        // Its client reads and writes meanwhile.
        let io = async {
            for mib in 0..19 {
                put(&disk, mib, 10 + mib as u8).await;
            }
        };
        let (grown, ()) = join(node.resize_nexus(UUID.into(), LARGE), io).await;
        let grown = grown.unwrap();
        assert_eq!((grown.size, grown.state), (LARGE, Health::Online));
        assert_eq!(node.resize_nexus(UUID.into(), LARGE).await.unwrap().size, LARGE, "again");
        // A client learns of it.
        assert_eq!(disk.geometry().bytes().0, SMALL);
        assert_eq!(disk.refresh().await.unwrap().blocks, Blocks(LARGE / 512));
        for (mib, byte) in [(3, 13), (18, 28), (19, 2), (20, 0), (26, 0), (32, 0)] {
            has(&disk, mib, byte).await;
        }
        put(&disk, 32, 5).await;
        disk.flush().await.unwrap();
        let error = node.resize_nexus(UUID.into(), SMALL).await.expect_err("it cannot shrink");
        assert!(error.kind == ErrorKind::InvalidArgument && error.message.contains("shrink"), "{error}");
        for (uuid, size) in [("r1", 39 * MIB), ("r1", 0)] {
            let error = node.resize_replica(uuid.into(), size).await.expect_err("it cannot shrink");
            assert_eq!(error.kind, ErrorKind::InvalidArgument, "{error}");
        }
        let error = node.resize_replica("r1".into(), 1 << 40).await.expect_err("no room");
        assert!(error.kind == ErrorKind::ResourceExhausted && error.message.contains("p1"), "{error}");
        assert_eq!(node.resize_replica("r9".into(), MIB).await.expect_err("none").kind, ErrorKind::NotFound);
    });
    world.kill("main");
    world.kill("far");
    with_two(&world, |node, _far, host| async move {
        host.sleep(Duration::from_secs(12)).await;
        let back = node.nexuses().remove(0);
        assert_eq!((back.size, back.state), (LARGE, Health::Online), "{}", back.reason);
        let disk = connect(&host, &back.device_uri).await;
        has(&disk, 32, 5).await;
        has(&disk, 31, 0).await;
        drop(disk);
        members_are_equal(&host, &node, LARGE).await;
    });
}

#[test]
fn a_member_that_was_away_comes_back_when_it_has_grown_too() {
    let world = world();
    with_two(&world, |node, far, host| async move {
        let uri = mirrored(&node, &far).await;
        put(&connect(&host, &uri).await, 3, 1).await;
    });
    world.kill("far");
    world.kill("main");
    let host = world.host();
    let node = world.run(async move {
        let node = Node::start(host.clone(), options("10.0.0.1")).await.unwrap();
        host.sleep(Duration::from_secs(12)).await;
        node.resize_replica("r1".into(), 40 * MIB).await.unwrap();
        let grown = node.resize_nexus(UUID.into(), LARGE).await.unwrap();
        assert_eq!((grown.size, grown.state), (LARGE, Health::Degraded));
        let disk = connect(&host, &grown.device_uri).await;
        put(&disk, 30, 9).await;
        disk.flush().await.unwrap();
        node
    });
    let (host, far) = (world.host(), world.node("far"));
    world.run(async move {
        let far = Node::start(far, far_options()).await.unwrap();
        host.sleep(Duration::from_secs(12)).await;
        let now = node.nexuses().remove(0);
        assert_ne!(now.children[1].state, ChildState::Online, "it has no room");
        let error = node.online_child(UUID.into(), FAR.into()).await.expect_err("it has no room");
        assert!(error.message.contains("needs") && error.message.contains(FAR), "{error}");
        far.resize_replica("r2".into(), 40 * MIB).await.unwrap();
        host.sleep(Duration::from_secs(12)).await;
        let now = node.nexuses().remove(0);
        if now.children[1].state != ChildState::Online {
            node.online_child(UUID.into(), FAR.into()).await.unwrap();
            host.sleep(Duration::from_secs(12)).await;
        }
        let now = node.nexuses().remove(0);
        assert_eq!((now.state, now.size), (Health::Online, LARGE), "{}", now.reason);
        let disk = connect(&host, &now.device_uri).await;
        has(&disk, 3, 1).await;
        has(&disk, 30, 9).await;
        drop(disk);
        members_are_equal(&host, &node, LARGE).await;
    });
}

/// The node dies at any moment of a growth, with or without its power: the volume has the old size or the new one, with
/// all that was flushed, and grows when it is asked again.
#[test]
fn a_crash_in_the_middle_leaves_the_old_size_or_the_new_one() {
    let (mut old, mut new) = (0, 0);
    for step in 0..60u64 {
        let world = world();
        let (host, far) = (world.host(), world.node("far"));
        world.run(async move {
            let away = Node::start(far, far_options()).await.unwrap();
            let node = Node::start(host.clone(), options("10.0.0.1")).await.unwrap();
            let uri = mirrored(&node, &away).await;
            let disk = connect(&host, &uri).await;
            put(&disk, 19, 7).await;
            disk.flush().await.unwrap();
            drop(disk);
            node.resize_replica("r1".into(), 40 * MIB).await.unwrap();
            away.resize_replica("r2".into(), 40 * MIB).await.unwrap();
            let time = host.clone();
            host.spawn(async move {
                // They are killed on the way, or later.
                let _ = node.resize_nexus(UUID.into(), LARGE).await;
                time.sleep(Duration::from_secs(3600)).await;
                drop(away);
            });
        });
        world.run_for(Duration::from_micros(step * step * 6));
        world.kill("main");
        world.kill("far");
        if step % 2 == 0 {
            ["/dev/a", "/dev/b"].into_iter().for_each(|d| world.disk(d).power_cut());
        }
        let size = with_two(&world, move |node, _far, host| async move {
            host.sleep(Duration::from_secs(12)).await;
            let found = node.nexuses().remove(0);
            assert_eq!(found.state, Health::Online, "step {step}: {}", found.reason);
            assert!([SMALL, LARGE].contains(&found.size), "step {step}: {}", found.size);
            let disk = connect(&host, &found.device_uri).await;
            has(&disk, 19, 7).await;
            let again = node.resize_nexus(UUID.into(), LARGE).await.expect("it grows");
            assert_eq!(again.size, LARGE);
            disk.refresh().await.expect("it answers");
            for mib in 20..33 {
                has(&disk, mib, 0).await;
            }
            put(&disk, 32, 8).await;
            drop(disk);
            members_are_equal(&host, &node, LARGE).await;
            found.size
        });
        *(if size == SMALL { &mut old } else { &mut new }) += 1;
    }
    println!("{old} crashes left the old size, {new} the new one");
    assert!(old > 3 && new > 3, "the crashes are not in the middle: {old} old, {new} new");
}
