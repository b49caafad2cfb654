//! Wrong calls: each gives its documented kind of error, names the object, and changes nothing.

use engine::model::ErrorKind::{
    AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted, Unavailable,
};
use engine::model::{Error, ErrorKind, SettingInfo};
use host::LocalFuture;

use super::nexuses::{UUID, nexus};
use super::*;

type Call = Box<dyn FnOnce(Rc<Node>) -> LocalFuture<'static, Result<(), Error>>>;
type Case = (&'static str, Call, ErrorKind, &'static str);

/// One case: what it is called, the call, the expected kind, a part of the message that names the object.
macro_rules! case {
    ($what:expr, $node:ident => $call:expr, $kind:expr, $part:expr) => {
        ($what, boxed(|$node: Rc<Node>| async move { $call.await.map(|_| ()) }), $kind, $part)
    };
}

fn boxed<F: Future<Output = Result<(), Error>> + 'static>(call: impl FnOnce(Rc<Node>) -> F + 'static) -> Call {
    Box::new(move |node| Box::pin(call(node)))
}

const LONG: &str = "x234567890123456789012345678901234567890123456789012345678901234";

fn pool_cases() -> Vec<Case> {
    vec![
        case!("no disk", n => n.create_pool(pool("p", &[])), InvalidArgument, "pool 'p'"),
        case!("no name", n => n.create_pool(pool("", &["/dev/b"])), InvalidArgument, "pool ''"),
        case!("a slash", n => n.create_pool(pool("a/b", &["/dev/b"])), InvalidArgument, "pool 'a/b'"),
        case!("long name", n => n.create_pool(pool(LONG, &["/dev/b"])), InvalidArgument, "pool 'x2345"),
        case!("scheme", n => n.create_pool(pool("p", &["ceph:///x"])), InvalidArgument, "ceph:///x"),
        case!("pcie", n => n.create_pool(pool("p", &["pcie:///0000:03:00.0"])), InvalidArgument, "not supported yet"),
        case!("missing file", n => n.create_pool(pool("p", &["/dev/none"])), InvalidArgument, "/dev/none"),
        case!("missing bdev", n => n.create_pool(pool("p", &["bdev:///none"])), InvalidArgument, "'none'"),
        case!("twice", n => n.create_pool(pool("p", &["/dev/b", "aio:///dev/b"])), InvalidArgument, "twice"),
        case!("in use", n => n.create_pool(pool("p", &["/dev/a"])), InvalidArgument, "pool tank"),
        case!("in use by alias", n => n.create_pool(pool("p", &["bdev:////dev/a"])), InvalidArgument, "/dev/a"),
        case!("block size", n => n.create_pool(CreatePool { block_size: 1000, ..pool("p", &["/dev/b"]) }),
            InvalidArgument, "1000"),
        case!("cluster", n => n.create_pool(CreatePool { cluster: "x".into(), ..pool("p", &["/dev/b"]) }),
            InvalidArgument, "cluster 'x'"),
        case!("other disk", n => n.create_pool(pool("tank", &["/dev/b"])), AlreadyExists, "pool 'tank'"),
        case!("more disks", n => n.create_pool(pool("tank", &["/dev/a", "/dev/b"])), AlreadyExists, "pool 'tank'"),
        case!("too small", n => n.create_pool(pool("p", &["malloc:///tiny?num_blocks=8"])), InvalidArgument, "tiny"),
        case!("foreign", n => n.create_pool(pool("p", &["/dev/c"])), InvalidArgument, "/dev/c"),
        case!("import blank", n => n.import_pool("p".into(), vec!["/dev/b".into()]), InvalidArgument, "/dev/b"),
        case!("import foreign", n => n.import_pool("p".into(), vec!["/dev/c".into()]), InvalidArgument, "/dev/c"),
        case!("export unknown", n => n.export_pool("p".into()), NotFound, "pool 'p'"),
        case!("destroy full", n => n.destroy_pool("tank".into(), false), FailedPrecondition, "pool 'tank'"),
        case!("grow unknown", n => n.add_pool_disk("p".into(), "/dev/b".into(), false), NotFound, "pool 'p'"),
        case!("grow by nothing", n => n.add_pool_disk("tank".into(), "/dev/none".into(), false),
            InvalidArgument, "/dev/none"),
        case!("grow by foreign", n => n.add_pool_disk("tank".into(), "/dev/c".into(), false),
            InvalidArgument, "/dev/c"),
        case!("grow by used", n => n.add_pool_disk("tank".into(), "bdev:///second".into(), false),
            InvalidArgument, "pool second"),
    ]
}

fn replica_cases() -> Vec<Case> {
    vec![
        case!("no pool", n => n.create_replica(replica("x", "none", 1)), NotFound, "pool 'none'"),
        case!("no size", n => n.create_replica(replica("x", "tank", 0)), InvalidArgument, "replica 'x'"),
        case!("no name", n => n.create_replica(replica("", "tank", 1)), InvalidArgument, "replica ''"),
        case!("huge", n => n.create_replica(CreateReplica { size: u64::MAX, ..replica("x", "tank", 1) }),
            InvalidArgument, "replica 'x'"),
        case!("no space", n => n.create_replica(replica("x", "tank", 1000)), ResourceExhausted, "replica 'x'"),
        case!("other size", n => n.create_replica(replica("r1", "tank", 11)), AlreadyExists, "replica 'r1'"),
        case!("other pool", n => n.create_replica(replica("r1", "second", 10)), AlreadyExists, "replica 'r1'"),
        case!("thin now", n => n.create_replica(CreateReplica { thin: true, ..replica("r1", "tank", 10) }),
            AlreadyExists, "replica 'r1'"),
        case!("a device's name", n => n.create_replica(replica("used", "tank", 1)), AlreadyExists, "replica 'used'"),
        case!("share unknown", n => n.share_replica("x".into(), Some(Protocol::Nvmf)), NotFound, "replica 'x'"),
        case!("unshare unknown", n => n.share_replica("x".into(), None), NotFound, "replica 'x'"),
    ]
}

fn bdev_cases() -> Vec<Case> {
    vec![
        case!("no uri", n => n.create_bdev("x".into()), InvalidArgument, "'x'"),
        case!("no file", n => n.create_bdev("aio:///dev/none".into()), NotFound, "/dev/none"),
        case!("typo", n => n.create_bdev("aio:///dev/b?blksize=512".into()), InvalidArgument, "blksize"),
        case!("refused", n => n.create_bdev("nvmf://10.0.0.9:1/nqn.2019-05.io.openebs:x".into()),
            Unavailable, "nvmf://10.0.0.9:1/"),
        case!("exists", n => n.create_bdev("malloc:///used?size_mb=8".into()), AlreadyExists, "'used'"),
        case!("pool's disk", n => n.create_bdev("aio:///dev/a".into()), InvalidArgument, "pool tank"),
        case!("no bdev", n => n.create_bdev("bdev:///none".into()), NotFound, "'none'"),
        case!("destroy unknown", n => n.destroy_bdev("malloc:///none?size_mb=1".into()), NotFound, "'none'"),
        case!("destroy pool's", n => n.destroy_bdev("/dev/a".into()), FailedPrecondition, "pool tank"),
        case!("destroy replica", n => n.destroy_bdev("r1".into()), FailedPrecondition, "replica"),
        case!("share unknown", n => n.share_bdev("none".into(), Protocol::Nvmf), NotFound, "'none'"),
        case!("share pool's", n => n.share_bdev("/dev/a".into(), Protocol::Nvmf), FailedPrecondition, "pool tank"),
        case!("unshare unknown", n => n.unshare_bdev("none".into()), NotFound, "'none'"),
    ]
}

fn nexus_cases() -> Vec<Case> {
    vec![
        case!("bad uuid", n => n.create_nexus(nexus("x", MIB, &["bdev:///r1"])), InvalidArgument, "nexus 'x'"),
        case!("no child", n => n.create_nexus(nexus(UUID, MIB, &[])), InvalidArgument, UUID),
        case!("no size", n => n.create_nexus(nexus(UUID, 0, &["bdev:///r1"])), InvalidArgument, UUID),
        case!("bad child", n => n.create_nexus(nexus(UUID, MIB, &["x:///y"])), InvalidArgument, "x:///y"),
        case!("no such child", n => n.create_nexus(nexus(UUID, MIB, &["bdev:///none"])), NotFound, "'none'"),
        case!("one child gone", n => n.create_nexus(nexus(UUID, MIB, &["bdev:///r1", "/dev/none"])),
            NotFound, "/dev/none"),
        case!("twice", n => n.create_nexus(nexus(UUID, MIB, &["bdev:///r1", "bdev:///r1"])), InvalidArgument, "twice"),
        case!("twice by alias", n => n.create_nexus(nexus(UUID, MIB, &["bdev:///r1", "bdev:///tank/r1"])),
            InvalidArgument, "r1"),
        case!("child in use", n => n.create_nexus(nexus(UUID, MIB, &["aio:///dev/a"])), InvalidArgument, "pool tank"),
        case!("managed", n => n.create_nexus(CreateNexus { managed: true, ..nexus(UUID, MIB, &["bdev:///r1"]) }),
            FailedPrecondition, UUID),
        case!("destroy bad", n => n.destroy_nexus("x".into()), InvalidArgument, "nexus 'x'"),
        case!("publish bad", n => n.publish_nexus("x".into(), String::new(), Protocol::Nvmf), InvalidArgument, "'x'"),
        case!("publish unknown", n => n.publish_nexus(UUID.into(), String::new(), Protocol::Nvmf), NotFound, UUID),
        case!("short key", n => n.publish_nexus(UUID.into(), "k".into(), Protocol::Nvmf), InvalidArgument, UUID),
        case!("halves", n => n.publish_nexus(UUID.into(), "ab".repeat(64), Protocol::Nvmf), InvalidArgument, "halves"),
        case!("key", n => n.publish_nexus(UUID.into(), "0123456789abcdef".into(), Protocol::Nvmf), NotFound, UUID),
        case!("publish unknown over nbd", n => n.publish_nexus(UUID.into(), String::new(), Protocol::Nbd), NotFound, UUID),
        case!("unpublish unknown", n => n.unpublish_nexus(UUID.into()), NotFound, UUID),
        case!("add to unknown", n => n.add_child(UUID.into(), "bdev:///r1".into(), false), NotFound, UUID),
        case!("add bad", n => n.add_child(UUID.into(), "x".into(), false), InvalidArgument, "'x'"),
        case!("remove from unknown", n => n.remove_child(UUID.into(), "bdev:///r1".into()), NotFound, UUID),
        case!("offline", n => n.offline_child(UUID.into(), "bdev:///r1".into()), NotFound, UUID),
        case!("online", n => n.online_child(UUID.into(), "bdev:///r1".into()), NotFound, UUID),
        case!("fault", n => n.fault_child(UUID.into(), "bdev:///r1".into()), NotFound, UUID),
        case!("rebuild", n => n.start_rebuild(UUID.into(), "bdev:///r1".into()), NotFound, UUID),
        case!("stop", n => n.stop_rebuild(UUID.into(), "bdev:///r1".into()), NotFound, UUID),
        case!("pause", n => n.pause_rebuild("x".into(), "bdev:///r1".into()), InvalidArgument, "'x'"),
        case!("resume", n => n.resume_rebuild(UUID.into(), "bdev:///r1".into()), NotFound, UUID),
        case!("progress", n => async { n.rebuild(UUID, "bdev:///r1") }, NotFound, UUID),
        case!("setting", n => n.set_setting("rebuild.taks".into(), "1".into()), NotFound, "rebuild.taks"),
        case!("value", n => n.set_setting("rebuild.tasks".into(), "x".into()), InvalidArgument, "rebuild.tasks"),
    ]
}

fn settings(node: &Node) -> Vec<SettingInfo> {
    node.settings()
}

#[test]
fn wrong_calls_are_refused_and_change_nothing() {
    let world = world();
    // A partition table of somebody else.
    world.disk("/dev/c").corrupt(510, &[0x55, 0xaa]);
    world.disk("/dev/c").corrupt(512, b"EFI PART");
    let view = world.disks();
    with_node(&world, |node, host| async move {
        node.create_pool(pool("tank", &["/dev/a"])).await.unwrap();
        node.create_replica(replica("r1", "tank", 10)).await.unwrap();
        node.create_bdev("malloc:///used?size_mb=8".into()).await.unwrap();
        node.create_bdev("malloc:///second?size_mb=32".into()).await.unwrap();
        node.create_pool(pool("second", &["bdev:///second"])).await.unwrap();
        node.create_bdev("malloc:///shared?size_mb=8".into()).await.unwrap();
        node.share_bdev("shared".into(), Protocol::Nvmf).await.unwrap();
        let before = (picture(&node), node.bdevs(), settings(&node));
        let images: Vec<_> = view.iter().map(|(_, disk)| disk.image()).collect();
        let saved = host.load(CONFIG.as_ref()).await.unwrap();
        let cases = [pool_cases(), replica_cases(), bdev_cases(), nexus_cases()].into_iter().flatten();
        for (what, call, kind, part) in cases {
            let error = call(node.clone()).await.expect_err(what);
            assert_eq!(error.kind, kind, "{what}: {error}");
            assert!(error.message.contains(part), "{what}: {error}");
            let after = (picture(&node), node.bdevs(), settings(&node));
            assert_eq!(after, before, "{what}");
            assert_eq!(host.load(CONFIG.as_ref()).await.unwrap(), saved, "{what}");
        }
        for ((path, disk), image) in view.iter().zip(images) {
            assert_eq!(disk.image(), image, "{} was written to", path.display());
        }
    });
}

#[test]
fn calls_that_find_everything_done_are_fine() {
    let world = world();
    with_node(&world, |node, _| async move {
        let made = node.create_pool(pool("tank", &["/dev/a"])).await.unwrap();
        assert_eq!(node.create_pool(pool("tank", &["aio:///dev/a"])).await.unwrap(), made);
        assert_eq!(node.import_pool("tank".into(), vec!["/dev/a".into()]).await.unwrap(), made);
        let one = node.create_replica(replica("r1", "tank", 10)).await.unwrap();
        assert_eq!(node.create_replica(replica("r1", "tank", 10)).await.unwrap(), one);
        let shared_one = node.create_replica(shared(replica("r1", "tank", 10))).await.unwrap();
        assert_eq!(node.create_replica(shared(replica("r1", "tank", 10))).await.unwrap(), shared_one);
        assert_eq!(node.create_replica(replica("r1", "tank", 10)).await.unwrap(), shared_one, "it stays shared");
        assert_eq!(node.share_replica("r1".into(), Some(Protocol::Nvmf)).await.unwrap(), shared_one);
        assert_eq!(node.share_replica("r1".into(), None).await.unwrap(), one);
        assert_eq!(node.share_replica("r1".into(), None).await.unwrap(), one);
        node.destroy_replica("r1".into()).await.unwrap();
        node.destroy_replica("r1".into()).await.unwrap();
        node.destroy_nexus(UUID.into()).await.unwrap();
        node.create_replica(shared(replica("r2", "tank", 10))).await.unwrap();
        node.destroy_pool("tank".into(), true).await.unwrap();
        node.destroy_pool("tank".into(), true).await.unwrap();
        assert_eq!((node.pools(), node.replicas(), node.bdevs()), (vec![], vec![], vec![]));
        assert_eq!(node.create_pool(pool("other", &["/dev/a"])).await.unwrap().used, 0, "the disk is free again");
    });
}
