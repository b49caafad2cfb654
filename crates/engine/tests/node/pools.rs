use engine::model::{ErrorKind, Health};

use super::*;

#[test]
fn a_pool_with_replicas_comes_back_after_a_kill() {
    let world = world();
    let before = with_node(&world, |node, _| async move {
        let made = node.create_pool(pool("tank", &["/dev/a", "aio:///dev/b"])).await.unwrap();
        assert_eq!((made.state, made.used), (Health::Online, 0));
        assert_eq!(made.disks, ["aio:///dev/a", "aio:///dev/b"]);
        let one = node.create_replica(shared(replica("r1", "tank", 10))).await.unwrap();
        assert_eq!(one.uri, "nvmf://10.0.0.1:8420/nqn.2019-05.io.openebs:r1");
        let two = node.create_replica(replica("r2", "tank", 20)).await.unwrap();
        assert_eq!((two.uri.as_str(), two.size), ("bdev:///r2", 20 * MIB));
        picture(&node)
    });
    world.kill("main");
    let after = with_node(&world, |node, _| async move { picture(&node) });
    assert_eq!(after, before);
}

#[test]
fn a_stopped_node_comes_back() {
    let world = world();
    let before = with_node(&world, |node, _| async move {
        node.create_pool(pool("tank", &["/dev/a"])).await.unwrap();
        node.create_replica(shared(replica("r1", "tank", 10))).await.unwrap();
        node.add_pool_disk("tank".into(), "/dev/b".into(), false).await.unwrap();
        node.set_setting("rebuild.tasks".into(), "3".into()).await.unwrap();
        let before = picture(&node);
        node.stop().await;
        let error = node.create_pool(pool("late", &["/dev/c"])).await.expect_err("it is stopping");
        assert_eq!(error.kind, ErrorKind::Unavailable);
        before
    });
    let after = with_node(&world, |node, _| async move {
        let tasks = node.settings().into_iter().find(|s| s.name == "rebuild.tasks").expect("a setting");
        assert_eq!(tasks.value, "3");
        picture(&node)
    });
    assert_eq!(after, before);
}
