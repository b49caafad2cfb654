//! Two nodes: what one shares, the other uses.

use std::time::Duration;

use block::{BlockRange, Durability};
use engine::model::{ErrorKind, Health};
use host::DiskExt;

use super::*;

pub(super) fn far_options() -> NodeOptions {
    NodeOptions { id: "far".into(), config_path: Some("/etc/far.yaml".into()), ..options("10.0.0.2") }
}

/// Starts the nodes `main` and `far` and runs a story with them.
pub(super) fn with_two<T: 'static, F: Future<Output = T> + 'static>(
    world: &World,
    story: impl FnOnce(Rc<Node>, Rc<Node>, Host) -> F + 'static,
) -> T {
    let (host, far) = (world.host(), world.node("far"));
    world.run(async move {
        let away = Node::start(far, far_options()).await.expect("the far node starts");
        let node = Node::start(host.clone(), options("10.0.0.1")).await.expect("the node starts");
        story(node, away, host).await
    })
}

#[test]
fn a_pool_on_a_remote_replica_survives_a_restart_of_either_node() {
    let world = world();
    let uri = with_two(&world, |node, far, _| async move {
        far.create_pool(pool("base", &["/dev/a"])).await.unwrap();
        let uri = far.create_replica(shared(replica("r1", "base", 40))).await.unwrap().uri;
        assert_eq!(uri, "nvmf://10.0.0.2:8420/nqn.2019-05.io.openebs:r1");
        let made = node.create_pool(pool("tank", &[&uri])).await.unwrap();
        assert_eq!((made.state, made.disks), (Health::Online, vec![uri.clone()]));
        node.create_replica(replica("inner", "tank", 10)).await.unwrap();
        assert!(far.replica_stats()[0].num_write_ops > 0);
        let error = node.create_pool(pool("other", &[&uri])).await.expect_err("in use");
        assert_eq!(error.kind, ErrorKind::InvalidArgument);
        uri
    });
    world.kill("main");
    world.kill("far");
    with_two(&world, move |node, _, host| async move {
        host.sleep(Duration::from_secs(5)).await;
        let found = node.pools().remove(0);
        assert_eq!((found.state, found.disks), (Health::Online, vec![uri]));
        assert_eq!(node.replicas()[0].uuid, "inner");
    });
}

#[test]
fn a_pool_waits_for_a_remote_disk_and_holds_up_nothing_else() {
    let world = world();
    with_two(&world, |node, far, _| async move {
        far.create_pool(pool("base", &["/dev/a"])).await.unwrap();
        let uri = far.create_replica(shared(replica("r1", "base", 40))).await.unwrap().uri;
        node.create_pool(pool("tank", &[&uri])).await.unwrap();
        node.create_pool(pool("local", &["/dev/b"])).await.unwrap();
    });
    world.kill("main");
    world.kill("far");
    let (host, far) = (world.host(), world.node("far"));
    world.run(async move {
        let began = host.now();
        let node = Node::start(host.clone(), options("10.0.0.1")).await.expect("the node starts");
        assert!(host.now().since(began) < Duration::from_secs(4));
        let states: Vec<_> = node.pools().into_iter().map(|p| (p.name, p.state)).collect();
        assert_eq!(states, [("local".to_owned(), Health::Online), ("tank".to_owned(), Health::Faulted)]);
        node.create_replica(replica("r2", "local", 1)).await.unwrap();
        let _far = Node::start(far, far_options()).await.expect("the far node starts");
        host.sleep(Duration::from_secs(12)).await;
        assert!(node.pools().iter().all(|p| p.state == Health::Online), "{:?}", node.pools());
    });
}

#[test]
fn a_shared_device_is_read_and_written_from_elsewhere() {
    let world = world();
    with_two(&world, |node, far, _| async move {
        far.create_bdev("malloc:///m?size_mb=8&blk_size=4096".into()).await.unwrap();
        let uri = far.share_bdev("m".into(), Protocol::Nvmf).await.unwrap();
        let identity = far.bdevs().remove(0).uuid;
        let name = node.create_bdev(uri.clone()).await.unwrap();
        assert_eq!(name, "10.0.0.2:8420/nqn.2019-05.io.openebs:mn1");
        let seen = node.bdevs().remove(0);
        assert_eq!((seen.uuid, seen.num_blocks, seen.block_size), (identity, 2048, 4096));
        let error = node.create_bdev(format!("{uri}?blk_size=512")).await.expect_err("open already");
        assert_eq!(error.kind, ErrorKind::AlreadyExists);
        node.destroy_bdev(uri.clone()).await.unwrap();
        let error = node.create_bdev(format!("{uri}?blk_size=512")).await.expect_err("other blocks");
        assert!(error.message.contains("4096"), "{error}");
        let error = node.create_bdev(format!("{uri}?uuid={}", Uuid::nil())).await.expect_err("other uuid");
        assert_eq!(error.kind, ErrorKind::InvalidArgument, "{error}");
        assert_eq!(node.bdevs(), vec![]);
    });
}

#[test]
fn what_a_replica_does_is_counted() {
    let world = world();
    with_two(&world, |node, far, host| async move {
        far.create_pool(pool("base", &["/dev/a"])).await.unwrap();
        let uri = far.create_replica(shared(replica("r1", "base", 10))).await.unwrap().uri;
        let stats = far.replica_stats().remove(0);
        assert_eq!((stats.num_read_ops, stats.num_write_ops, stats.bytes_read, stats.bytes_written), (0, 0, 0, 0));
        let spec = engine::remote::RemoteSpec {
            host: "10.0.0.2".into(),
            port: 8420,
            nqn: uri.rsplit('/').next().expect("an NQN").into(),
            host_nqn: "nqn.2019-05.io.openebs:test".into(),
            uuid: None,
        };
        let disk = engine::remote::connect_disk(&host, spec, Default::default()).await.unwrap();
        let data = block::Buf::copy_of(&[7; 8192]);
        disk.write(BlockRange::new(8, 16), data.clone(), Durability::Durable).await.unwrap();
        assert_eq!(disk.read(BlockRange::new(8, 16)).await.unwrap(), data);
        let stats = far.replica_stats().remove(0);
        assert_eq!((stats.num_write_ops, stats.bytes_read, stats.bytes_written), (1, 8192, 8192));
        drop(node);
    });
}
