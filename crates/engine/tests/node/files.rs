//! The configuration file: what cannot be written, what cannot be brought back, what cannot be read.

use std::time::Duration;

use engine::model::{ErrorKind, Health};

use super::*;

#[test]
fn a_change_that_cannot_be_written_is_data_loss_until_it_can() {
    let world = world();
    let world = Rc::new(world);
    let (inner, host) = (world.clone(), world.host());
    world.run(async move {
        let node = Node::start(host.clone(), options("10.0.0.1")).await.unwrap();
        node.create_pool(pool("tank", &["/dev/a"])).await.unwrap();
        inner.fail_stores(true);
        for _ in 0..2 {
            // Also the second time, when there is nothing left to do but to write it down.
            let error = node.create_replica(replica("r1", "tank", 10)).await.expect_err("not written");
            assert_eq!(error.kind, ErrorKind::DataLoss);
            assert!(error.message.contains(CONFIG), "{error}");
        }
        let error = node.create_pool(pool("tank", &["/dev/a"])).await.expect_err("still not written");
        assert_eq!(error.kind, ErrorKind::DataLoss);
        let error = node.destroy_replica("unknown".into()).await.expect_err("still not written");
        assert_eq!(error.kind, ErrorKind::DataLoss);
        let error = node.set_setting("rebuild.tasks".into(), "5".into()).await.expect_err("not written");
        assert_eq!(error.kind, ErrorKind::DataLoss);
        inner.fail_stores(false);
        node.create_replica(replica("r1", "tank", 10)).await.unwrap();
        let saved = String::from_utf8(inner.file(CONFIG).unwrap()).unwrap();
        assert!(saved.contains("r1") && saved.contains("rebuild.tasks: 5"), "{saved}");
    });
}

#[test]
fn a_pool_whose_disk_is_away_waits_for_it_and_is_never_made_anew() {
    let world = world();
    let before = with_node(&world, |node, _| async move {
        node.create_pool(pool("tank", &["/dev/a", "/dev/b"])).await.unwrap();
        node.create_replica(shared(replica("r1", "tank", 10))).await.unwrap();
        picture(&node)
    });
    world.kill("main");
    let image = world.disk("/dev/b").image();
    world.remove_disk("/dev/b");
    let world = Rc::new(world);
    let inner = world.clone();
    let host = world.host();
    world.run(async move {
        let node = Node::start(host.clone(), options("10.0.0.1")).await.unwrap();
        let lost = node.pools().remove(0);
        assert_eq!(lost.state, Health::Faulted);
        assert!(lost.reason.contains("/dev/b"), "{}", lost.reason);
        let replica = node.replicas().remove(0);
        assert_eq!((replica.uuid.as_str(), replica.state), ("r1", Health::Faulted));
        for error in [
            node.create_replica(self::replica("r2", "tank", 1)).await.expect_err("lost"),
            node.destroy_replica("r1".into()).await.expect_err("lost"),
            node.share_replica("r1".into(), None).await.expect_err("lost"),
            node.add_pool_disk("tank".into(), "/dev/c".into(), false).await.expect_err("lost"),
        ] {
            assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
            assert!(error.message.contains("tank"), "{error}");
        }
        // A blank disk in its place changes nothing.
        let blank = inner.add_disk("/dev/b", DiskOptions::mib(64));
        host.sleep(Duration::from_secs(10)).await;
        assert_eq!(node.pools().remove(0).state, Health::Faulted);
        node.create_pool(pool("tank", &["/dev/a", "/dev/b"])).await.expect_err("it is not formatted");
        assert_eq!(blank.image(), sim::DiskImage::default());
        // The disk returns.
        let seen = node.report().sequence;
        blank.set_image(image);
        let report = node.report_after(seen, Duration::from_secs(10)).await;
        assert!(report.sequence > seen);
        host.sleep(Duration::from_secs(3)).await;
        assert_eq!(picture(&node), before);
    });
}

#[test]
fn a_lost_pool_can_be_forgotten_without_touching_its_disks() {
    let world = world();
    with_node(&world, |node, _| async move {
        node.create_pool(pool("tank", &["/dev/a", "/dev/b"])).await.unwrap();
    });
    world.kill("main");
    let (kept, image) = (world.disk("/dev/a").image(), world.disk("/dev/b").image());
    world.remove_disk("/dev/b");
    with_node(&world, |node, _| async move {
        node.destroy_pool("tank".into(), true).await.unwrap();
        assert_eq!(node.pools(), vec![]);
    });
    world.kill("main");
    assert_eq!(world.disk("/dev/a").image(), kept);
    world.add_disk("/dev/b", DiskOptions::mib(64)).set_image(image);
    with_node(&world, |node, _| async move {
        assert_eq!(node.pools(), vec![], "it is forgotten");
        let disks = vec!["/dev/b".into(), "/dev/a".into()];
        assert_eq!(node.import_pool("tank".into(), disks).await.unwrap().state, Health::Online);
    });
}

#[test]
fn an_exported_pool_keeps_its_data() {
    let world = world();
    with_node(&world, |node, _| async move {
        node.create_pool(pool("tank", &["/dev/a"])).await.unwrap();
        let one = node.create_replica(shared(replica("r1", "tank", 10))).await.unwrap();
        node.export_pool("tank".into()).await.unwrap();
        assert_eq!((node.pools(), node.replicas(), node.bdevs()), (vec![], vec![], vec![]));
        let error = node.create_pool(pool("other", &["/dev/a"])).await.expect_err("it is another pool");
        assert!(error.message.contains("tank"), "{error}");
        // CreatePool with its own name imports it, too.
        node.create_pool(pool("tank", &["/dev/a"])).await.unwrap();
        let again = node.replicas().remove(0);
        assert_eq!((again.uuid, again.size, again.share), (one.uuid, one.size, None));
    });
}

#[test]
fn wrong_files_stop_the_start() {
    for (text, part) in [
        ("pols: []", "pols"),
        ("version: 9", "version 9"),
        ("settings: {rebuild.taks: 1}", "rebuild.taks"),
        ("settings: {rebuild.tasks: 0}", "rebuild.tasks"),
        ("nexus_bdevs: [{uuid: x, size: 1}]", "'x'"),
        ("ledgers: [{volume: x, generation: 1, in_sync: []}]", "'x'"),
        ("base_bdevs: [{uri: 'x'}]", "'x'"),
    ] {
        let world = world();
        world.put_file(CONFIG, text.into());
        let host = world.host();
        let started = world.run(async move { Node::start(host, options("10.0.0.1")).await.map(|_| ()) });
        let error = started.expect_err(text);
        assert_eq!(error.kind, ErrorKind::InvalidArgument, "{text}: {error}");
        assert!(error.message.contains(CONFIG) && error.message.contains(part), "{text}: {error}");
        assert_eq!(world.file(CONFIG).unwrap(), text.as_bytes(), "the file is left alone");
    }
}

#[test]
fn a_file_of_v0_3_0_is_taken_over() {
    let world = world();
    with_node(&world, |node, _| async move {
        node.create_pool(pool("tank", &["/dev/a"])).await.unwrap();
        node.create_replica(replica("r1", "tank", 10)).await.unwrap();
        node.stop().await;
    });
    let old = "\
err_store_opts: {enable_err_store: true, action: fault, max_errors: 7, retention_ns: 1000000000}
nexus_opts: {nvmf_replica_port: 8420, iscsi_enable: true}
pools:
  - {name: tank, disks: [/dev/a], blk_size: 512, io_if: 1, replicas: [{name: r1, share: Nvmf}, {name: x, share: null}]}
  - {name: odd, disks: [malloc0], blk_size: 512, io_if: 0, replicas: []}
base_bdevs: [{uri: 'aio:///dev/a?uuid=4a9ff0d3-5d26-4b4a-9d1e-0e0f7b5f6f11'}, {uri: 'malloc:///m?size_mb=8'}]
implicit_share_base: true
";
    world.put_file(CONFIG, old.into());
    with_node(&world, |node, _| async move {
        let pools = node.pools();
        assert_eq!((pools[0].name.as_str(), pools[0].state), ("odd", Health::Faulted));
        assert!(pools[0].reason.contains("malloc0"), "{}", pools[0].reason);
        assert_eq!((pools[1].name.as_str(), pools[1].state), ("tank", Health::Online));
        assert_eq!(node.replicas()[0].share, Some(Protocol::Nvmf));
        let memory = node.bdevs().into_iter().find(|b| b.name == "m").expect("a device");
        assert_eq!(memory.share_uri, "nvmf://10.0.0.1:8420/nqn.2019-05.io.openebs:m");
        let threshold = node.settings().into_iter().find(|s| s.name == "nexus.error_threshold");
        assert_eq!(threshold.expect("a setting").value, "7");
    });
    let saved = String::from_utf8(world.file(CONFIG).unwrap()).unwrap();
    assert!(saved.contains("version: 1"), "{saved}");
}

#[test]
fn kept_devices_come_back_with_their_identity() {
    let world = world();
    let before = with_node(&world, |node, _| async move {
        node.create_bdev("aio:///dev/a".into()).await.unwrap();
        node.create_bdev("malloc:///m?size_mb=8&blk_size=4096".into()).await.unwrap();
        node.share_bdev("/dev/a".into(), Protocol::Nvmf).await.unwrap();
        node.bdevs()
    });
    world.kill("main");
    let after = with_node(&world, |node, _| async move { node.bdevs() });
    let plain = |list: Vec<engine::model::BdevInfo>| {
        list.into_iter().map(|b| (b.name, b.uuid, b.num_blocks, b.block_size, b.share_uri)).collect::<Vec<_>>()
    };
    assert_eq!(plain(after), plain(before));
}
