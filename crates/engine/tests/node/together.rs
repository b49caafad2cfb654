//! Calls at the same time: each object sees them one after another.

use engine::model::ErrorKind;
use futures_util::future::{join, join_all};

use super::*;

#[test]
fn two_that_make_the_same_pool_get_the_same_pool() {
    let world = world();
    with_node(&world, |node, _| async move {
        let (one, two) =
            join(node.create_pool(pool("tank", &["/dev/a"])), node.create_pool(pool("tank", &["/dev/a"]))).await;
        assert_eq!(one.unwrap(), two.unwrap());
        let (one, two) = join(node.create_pool(pool("x", &["/dev/b"])), node.create_pool(pool("x", &["/dev/c"]))).await;
        assert!(one.is_ok());
        assert_eq!(two.expect_err("another disk").kind, ErrorKind::AlreadyExists);
        let (one, two) = join(node.create_pool(pool("y", &["/dev/c"])), node.create_pool(pool("z", &["/dev/c"]))).await;
        assert!(one.is_ok());
        assert_eq!(two.expect_err("in use").kind, ErrorKind::InvalidArgument);
    });
}

#[test]
fn a_crowd_leaves_a_consistent_file() {
    let world = world();
    let before = with_node(&world, |node, _| async move {
        node.create_pool(pool("tank", &["/dev/a"])).await.unwrap();
        let calls = (0..40u32).map(|i| {
            let node = node.clone();
            async move {
                let name = format!("r{}", i % 10);
                match i / 10 {
                    0 => drop(node.create_replica(replica(&name, "tank", 1)).await.unwrap()),
                    // They may come before, between or after the others.
                    1 => drop(node.share_replica(name, Some(Protocol::Nvmf)).await),
                    2 if i % 2 == 0 => node.destroy_replica(name).await.unwrap(),
                    _ => drop(node.create_replica(shared(replica(&name, "tank", 1))).await.unwrap()),
                }
            }
        });
        join_all(calls).await;
        assert_eq!(node.replicas().len(), 10);
        picture(&node)
    });
    world.kill("main");
    assert_eq!(with_node(&world, |node, _| async move { picture(&node) }), before);
}

#[test]
fn destroying_a_pool_and_using_it_do_not_mix() {
    for _ in 0..4 {
        let world = world();
        with_node(&world, |node, _| async move {
            node.create_pool(pool("tank", &["/dev/a"])).await.unwrap();
            node.create_replica(shared(replica("r1", "tank", 10))).await.unwrap();
            let (gone, made, shared) = futures_util::join!(
                node.destroy_pool("tank".into(), true),
                node.create_replica(replica("r2", "tank", 10)),
                node.share_replica("r1".into(), None),
            );
            gone.unwrap();
            for result in [made.map(|_| ()), shared.map(|_| ())] {
                assert!(result.map_or_else(|e| e.kind == ErrorKind::NotFound, |()| true));
            }
            assert_eq!((node.pools(), node.replicas(), node.bdevs()), (vec![], vec![], vec![]));
        });
    }
}
