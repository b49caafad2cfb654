//! The target server in the simulated world: serving, ceasing to serve, stopping.

mod common;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use block::{BlockRange, BlockSize, Buf, Durability};
use common::{NQN, TARGET_PORT, UUID, nexus_host, spec};
use engine::remote::{self, RemoteError, RemoteOptions};
use engine::target::{Export, TargetError, TargetOptions, TargetServer};
use host::{Claim, DiskExt, DiskRef, Host, OpenOptions};
use sim::{DiskOptions, World};

async fn open(host: &Host) -> DiskRef {
    let options = OpenOptions { block_size: BlockSize::B512, claim: Claim::Exclusive };
    host.open_disk("/disk", options).await.expect("the disk is there")
}

async fn start(host: &Host) -> Rc<TargetServer> {
    let bind = ([0, 0, 0, 0], TARGET_PORT).into();
    TargetServer::start(host, TargetOptions { bind, advertised: None }).await.expect("it listens")
}

fn export(disk: &DiskRef) -> Export {
    Export { nqn: NQN.into(), uuid: UUID, disk: disk.clone() }
}

/// A world with a disk; the target runs on node `target`, the host beside it.
fn world(seed: u64) -> Rc<World> {
    let world = World::new(seed);
    world.add_disk("/disk", DiskOptions::mib(2));
    Rc::new(world)
}

fn quick() -> RemoteOptions {
    RemoteOptions { connect_timeout: Duration::from_secs(1), ..RemoteOptions::default() }
}

#[test]
fn mistakes_are_named() {
    let world = world(1);
    let host = world.node("target");
    world.run(async move {
        let disk = open(&host).await;
        let server = start(&host).await;
        let second = TargetServer::start(&host, TargetOptions { bind: server.address(), advertised: None }).await;
        assert!(matches!(second.err(), Some(TargetError::Listen { .. })));
        let bad = server.export(Export { nqn: "volume-1".into(), ..export(&disk) });
        assert!(bad.expect_err("not a name").to_string().contains("\"volume-1\" is not an NVMe qualified name"));
        server.export(export(&disk)).expect("served");
        assert!(server.export(export(&disk)).expect_err("taken").to_string().contains("served already"));
        assert!(server.serves(NQN) && server.stats(NQN).is_some());
        server.unexport(NQN).await.expect("nobody uses it");
        assert!(matches!(server.unexport(NQN).await, Err(TargetError::NotServed(_))));
        assert!(server.stats(NQN).is_none() && server.hosts(NQN).is_empty());
        // Nothing of the target holds the disk any more.
        assert_eq!(Rc::strong_count(&disk), 1);
        server.stop().await;
    });
}

#[test]
fn the_advertised_address_takes_the_port_that_was_chosen() {
    let world = world(2);
    let host = world.node("target");
    world.run(async move {
        let bind = ([0, 0, 0, 0], 0).into();
        let advertised = Some(([10, 9, 8, 7], 0).into());
        let server = TargetServer::start(&host, TargetOptions { bind, advertised }).await.expect("it listens");
        assert_ne!(server.address().port(), 0);
        assert_eq!(server.advertised(), ([10, 9, 8, 7], server.address().port()).into());
    });
}

#[test]
fn what_hosts_do_is_counted() {
    let world = world(3);
    let (host, client) = (world.node("target"), world.host());
    world.run(async move {
        let server = start(&host).await;
        server.export(export(&open(&host).await)).expect("served");
        let remote = remote::connect(&client, spec(), quick()).await.expect("it connects");
        let range = BlockRange::new(8, 16);
        let before = server.stats(NQN).expect("served");
        remote.write(range, Buf::copy_of(&[5; 8192]), Durability::Volatile).await.expect("it writes");
        remote.read(range).await.expect("it reads");
        remote.flush().await.expect("it flushes");
        remote.unmap(range).await.expect("it unmaps");
        let now = server.stats(NQN).expect("served");
        assert_eq!((now.writes - before.writes, now.written_bytes - before.written_bytes), (1, 8192));
        assert_eq!((now.reads - before.reads, now.read_bytes - before.read_bytes), (1, 8192));
        assert_eq!((now.others - before.others, now.errors), (2, 0));
        assert_eq!(server.hosts(NQN), [nexus_host()]);
        remote.close().await;
        server.stop().await;
    });
}

#[test]
fn unexport_waits_for_the_disk() {
    for seed in 0..5 {
        let world = world(seed);
        let (host, client, w) = (world.node("target"), world.host(), world.clone());
        world.run(async move {
            let server = start(&host).await;
            let disk = open(&host).await;
            server.export(export(&disk)).expect("served");
            let remote = remote::connect(&client, spec(), quick()).await.expect("it connects");
            w.disk("/disk").stall(true);
            let writer = remote.clone();
            let range = BlockRange::new(0, 8);
            let write =
                client.spawn(async move { writer.write(range, Buf::copy_of(&[7; 4096]), Durability::Volatile).await });
            client.sleep(Duration::from_millis(100)).await;
            let ended = Rc::new(Cell::new(false));
            let (e, s) = (ended.clone(), server.clone());
            let unexport = host.spawn(async move {
                s.unexport(NQN).await.expect("it was served");
                e.set(true);
            });
            client.sleep(Duration::from_millis(500)).await;
            assert!(!ended.get(), "the disk still works on the write");
            w.disk("/disk").stall(false);
            unexport.await;
            assert_eq!(Rc::strong_count(&disk), 1, "nothing uses the disk any more");
            // Served again, the host finds its way back by itself. It has its answer, or (when it saw the end of another
            // connection before that) writes the same once more.
            server.export(export(&disk)).expect("served");
            assert_eq!(write.await, Some(Ok(())));
            assert!(remote.read(range).await.expect("it reads").iter().all(|b| *b == 7));
            remote.close().await;
            server.stop().await;
        });
    }
}

#[test]
fn a_stopped_target_leaves_nothing() {
    for seed in 0..5 {
        let world = world(seed);
        let (host, client) = (world.node("target"), world.host());
        world.run(async move {
            let server = start(&host).await;
            let disk = open(&host).await;
            server.export(export(&disk)).expect("served");
            let remote = remote::connect(&client, spec(), quick()).await.expect("it connects");
            server.stop().await;
            server.stop().await;
            assert_eq!(Rc::strong_count(&disk), 1);
            remote.close().await;
            let refused = remote::connect(&client, spec(), quick()).await;
            assert!(matches!(refused.err(), Some(RemoteError::Connect { .. })), "nobody listens");
            // The address is free again.
            let again = start(&host).await;
            again.export(export(&disk)).expect("served");
            let remote = remote::connect(&client, spec(), quick()).await.expect("it connects");
            remote.read(BlockRange::new(0, 1)).await.expect("it reads");
            remote.close().await;
            again.stop().await;
        });
    }
}
