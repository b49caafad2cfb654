//! The control plane against engines in memory, over the real services.

mod fake;

use std::sync::Arc;

use api::v1;
use control::store::MemoryStore;
use fake::{CrashStore, GIB, When, World, eventually, options};
use tonic::Code;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn named(name: &str) -> v1::VolumeName {
    v1::VolumeName { name: name.to_owned() }
}

fn new_volume(name: &str, replicas: u32) -> v1::CreateVolumeRequest {
    v1::CreateVolumeRequest { name: name.to_owned(), size: GIB, replicas, ..Default::default() }
}

fn whole(v: &v1::Volume) -> bool {
    v.state == "online"
        && v.replicas.len() == v.replicas_wanted as usize
        && v.replicas.iter().all(|r| r.state == "online")
}

/// All wanted copies are in sync, whatever is left of former ones.
fn repaired(v: &v1::Volume, copies: usize) -> bool {
    v.state == "online" && v.replicas.iter().filter(|r| r.state == "online").count() == copies
}

/// Waits until `n` nodes are online.
async fn nodes_online(world: &World, n: usize) {
    eventually("the nodes are online", async || {
        let nodes = world.client().await.list_nodes(v1::Empty {}).await.ok()?.into_inner().nodes;
        (nodes.iter().filter(|n| n.state == "online").count() == n).then_some(())
    })
    .await;
}

fn begin(nodes: usize) -> (World, Arc<MemoryStore>, tokio::runtime::Runtime) {
    let (world, store, runtime) = (World::new(nodes), Arc::new(MemoryStore::default()), runtime());
    world.start_control(store.clone(), options());
    runtime.block_on(nodes_online(&world, nodes));
    (world, store, runtime)
}

#[test]
fn a_lost_node_is_replaced_and_its_copy_retired_when_it_returns() {
    let (world, _store, runtime) = begin(4);
    runtime.block_on(async {
        let mut client = world.client().await;
        let volume = client.create_volume(new_volume("data", 3)).await.unwrap().into_inner();
        assert!(whole(&volume), "{volume:?}");
        let mut nodes: Vec<_> = volume.replicas.iter().map(|r| r.node.clone()).collect();
        nodes.sort();
        nodes.dedup();
        assert_eq!(nodes.len(), 3, "one replica a node");

        let node = nodes[0].clone();
        let publish = v1::PublishVolumeRequest { name: "data".into(), node: node.clone() };
        let volume = client.publish_volume(publish.clone()).await.unwrap().into_inner();
        assert_eq!(volume.target_node, node);
        assert!(volume.device_uri.starts_with(&format!("nvmf://{node}:8420/")), "{}", volume.device_uri);
        let again = client.publish_volume(publish).await.unwrap().into_inner();
        assert_eq!(again.device_uri, volume.device_uri);
        let elsewhere = v1::PublishVolumeRequest { name: "data".into(), node: nodes[1].clone() };
        assert_eq!(client.publish_volume(elsewhere).await.unwrap_err().code(), Code::FailedPrecondition);

        let lost = nodes[1].clone();
        world.kill(&lost);
        let volume = world.volume("data", "degraded", |v| v.state == "degraded").await;
        assert!(volume.reason.contains(&lost), "{}", volume.reason);
        let volume = {
            let elsewhere = |v: &v1::Volume| v.replicas.iter().all(|r| r.node != lost || r.state != "online");
            world.volume("data", "repaired", |v| repaired(v, 3) && elsewhere(v)).await
        };
        assert_eq!(volume.target_node, node, "the target stays");

        world.start(&lost);
        world.volume("data", "tidy", whole).await;
        eventually("the orphan is gone", async || (!world.holders().contains(&lost)).then_some(())).await;
        let mut events = client.list_events(v1::ListEventsRequest::default()).await.unwrap().into_inner();
        let mut kinds = Vec::new();
        while let Some(event) = events.message().await.unwrap() {
            kinds.push(event.kind);
        }
        for kind in ["volume-created", "volume-published", "node-unreachable", "rebuild-started", "replica-retired"] {
            assert!(kinds.iter().any(|k| k == kind), "{kind} in {kinds:?}");
        }
    });
    world.assert_no_offence();
}

#[test]
fn a_volume_moves_when_its_target_is_lost_and_the_old_target_is_fenced() {
    let (world, _store, runtime) = begin(4);
    runtime.block_on(async {
        let mut client = world.client().await;
        client.create_volume(new_volume("data", 3)).await.unwrap();
        let publish = v1::PublishVolumeRequest { name: "data".into(), node: String::new() };
        let old = client.publish_volume(publish).await.unwrap().into_inner();
        world.kill(&old.target_node);
        let new = world.volume("data", "moved", |v| v.target_node != old.target_node && repaired(v, 3)).await;
        assert!(new.generation > old.generation);
        assert_ne!(new.device_uri, old.device_uri);
        world.start(&old.target_node);
        eventually("the old nexus is closed", async || {
            (world.nexus_nodes() == [new.target_node.clone()]).then_some(())
        })
        .await;
        world.volume("data", "tidy", whole).await;
        eventually("three replicas are left", async || (world.holders().len() == 3).then_some(())).await;
    });
    world.assert_no_offence();
}

#[test]
fn deleting_frees_what_is_there_and_the_rest_when_it_returns() {
    let (world, _store, runtime) = begin(3);
    runtime.block_on(async {
        let mut client = world.client().await;
        let volume = client.create_volume(new_volume("data", 3)).await.unwrap().into_inner();
        let away = volume.replicas[0].node.clone();
        world.kill(&away);
        client.destroy_volume(named("data")).await.unwrap();
        client.destroy_volume(named("data")).await.unwrap();
        eventually("the others are free", async || (world.holders() == [away.clone()]).then_some(())).await;
        let left = world.volume("data", "deleting", |v| v.state == "deleting").await;
        assert!(left.reason.contains(&away), "{}", left.reason);
        world.start(&away);
        eventually("all is free", async || world.holders().is_empty().then_some(())).await;
        eventually("the record is gone", async || {
            (client.clone().get_volume(named("data")).await.err()?.code() == Code::NotFound).then_some(())
        })
        .await;
        client.destroy_volume(named("data")).await.unwrap();
    });
    world.assert_no_offence();
}

/// Asks to remove a node until the answer is another one than that it was lost a moment ago.
async fn remove_node(world: &World, id: &str, lose_data: bool) -> Result<(), tonic::Status> {
    eventually("the node is lost for long enough", async || {
        let request = v1::RemoveNodeRequest { id: id.to_owned(), lose_data };
        match world.client().await.remove_node(request).await {
            Err(status) if status.message().contains("a moment ago") || status.message().contains("online") => None,
            answer => Some(answer.map(drop)),
        }
    })
    .await
}

#[test]
fn a_node_that_is_removed_for_good_is_waited_for_no_more() {
    let (world, _store, runtime) = begin(4);
    runtime.block_on(async {
        let mut client = world.client().await;
        let request = v1::RemoveNodeRequest { id: "node-1".into(), lose_data: true };
        let status = client.remove_node(request.clone()).await.unwrap_err();
        assert_eq!((status.code(), status.message().contains("online")), (Code::FailedPrecondition, true), "{status}");
        let status = client.remove_node(v1::RemoveNodeRequest { id: "mars".into(), ..request }).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound, "{status}");

        let kept = client.create_volume(new_volume("kept", 3)).await.unwrap().into_inner();
        let dead = kept.replicas[0].node.clone();
        let on = |name: &str, nodes: &[&str], replicas| v1::CreateVolumeRequest {
            required_nodes: nodes.iter().map(|n| (*n).to_owned()).collect(),
            ..new_volume(name, replicas)
        };
        client.create_volume(on("only", &[&dead], 1)).await.unwrap();
        let other = kept.replicas[1].node.clone();
        client.create_volume(on("going", &[&dead, &other], 2)).await.unwrap();
        kill(&world, &dead).await;
        client.destroy_volume(named("going")).await.unwrap();
        world.volume("kept", "repaired", |v| repaired(v, 3) && v.target_node != dead).await;
        let waits = |v: &v1::Volume| v.needed.iter().any(|n| n.contains(&format!("mayastor node remove {dead}")));
        world.volume("going", "waiting", |v| v.state == "deleting" && waits(v)).await;

        let status = remove_node(&world, &dead, false).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        assert!(status.message().contains("volume only") && !status.message().contains("kept"), "{status}");
        assert_eq!(client.list_nodes(v1::Empty {}).await.unwrap().into_inner().nodes.len(), 4, "nothing has changed");

        remove_node(&world, &dead, true).await.unwrap();
        let nodes = client.list_nodes(v1::Empty {}).await.unwrap().into_inner().nodes;
        assert!(nodes.len() == 3 && nodes.iter().all(|n| n.id != dead), "{nodes:?}");
        eventually("the volume that went is forgotten", async || {
            (client.clone().get_volume(named("going")).await.err()?.code() == Code::NotFound).then_some(())
        })
        .await;
        world.volume("kept", "whole without the node", whole).await;
        let only = world.volume("only", "lost", |v| v.state != "online").await;
        assert!(only.replicas.iter().all(|r| r.node != dead), "{only:?}");
        client.destroy_volume(named("only")).await.unwrap();
        eventually("the lost volume can be deleted", async || {
            (client.clone().get_volume(named("only")).await.err()?.code() == Code::NotFound).then_some(())
        })
        .await;
    });
    world.assert_no_offence();
}

#[test]
fn the_number_of_copies_follows_the_wish() {
    let (world, _store, runtime) = begin(3);
    runtime.block_on(async {
        let mut client = world.client().await;
        client.create_volume(new_volume("data", 1)).await.unwrap();
        for replicas in [3, 2, 1, 2] {
            let request = v1::SetReplicaCountRequest { name: "data".into(), replicas };
            client.set_replica_count(request).await.unwrap();
            let enough = |v: &v1::Volume| v.replicas_wanted == replicas && whole(v);
            world.volume("data", &format!("{replicas} copies"), enough).await;
            eventually("as many replicas", async || (world.holders().len() == replicas as usize).then_some(())).await;
        }
        let too_many = v1::SetReplicaCountRequest { name: "data".into(), replicas: 17 };
        assert_eq!(client.set_replica_count(too_many).await.unwrap_err().code(), Code::InvalidArgument);
        let request = v1::SetReplicaCountRequest { name: "data".into(), replicas: 4 };
        client.set_replica_count(request).await.unwrap();
        let short = |v: &v1::Volume| {
            let good = v.replicas.iter().filter(|r| r.state == "online").count();
            v.state == "degraded" && v.reason.contains("no other pool") && good == 3
        };
        world.volume("data", "as many copies as there are pools", short).await;
    });
    world.assert_no_offence();
}

#[test]
fn a_volume_grows_replicas_first_and_what_cannot_be_is_said() {
    let (world, _store, runtime) = begin(3);
    runtime.block_on(async {
        let mut client = world.client().await;
        let made = client.create_volume(new_volume("data", 2)).await.unwrap().into_inner();
        assert_eq!(made.usable, made.size);
        let resize = |size: u64| v1::ResizeVolumeRequest { name: "data".into(), size };
        let grown = client.resize_volume(resize(made.size + (8 << 20))).await.unwrap().into_inner();
        assert_eq!((grown.usable, grown.size), (made.size + (8 << 20), made.size + (8 << 20)));
        let again = client.resize_volume(resize(grown.size)).await.unwrap().into_inner();
        assert_eq!(again.usable, grown.size);
        for (size, code, word) in [
            (made.size, Code::FailedPrecondition, "shrink"),
            (grown.size + 1, Code::InvalidArgument, "4096"),
            (0, Code::InvalidArgument, "4096"),
            (1 << 49, Code::ResourceExhausted, "pool node-"),
        ] {
            let refused = client.resize_volume(resize(size)).await.unwrap_err();
            assert!(refused.code() == code && refused.message().contains(word), "{size}: {refused:?}");
        }
        let none = v1::ResizeVolumeRequest { name: "none".into(), size: 4096 };
        assert_eq!(client.resize_volume(none).await.unwrap_err().code(), Code::NotFound);
        let volume = client.get_volume(v1::VolumeName { name: "data".into() }).await.unwrap().into_inner();
        assert_eq!(volume.size, grown.size, "what was refused is not wished");
    });
    world.assert_no_offence();
}

/// A copy whose node is away grows when it is back, before it is added again.
#[test]
fn a_copy_that_was_away_grows_before_it_comes_back() {
    let (world, _store, runtime) = begin(2);
    runtime.block_on(async {
        let mut client = world.client().await;
        let made = client.create_volume(new_volume("data", 2)).await.unwrap().into_inner();
        let target = world.nexus_nodes()[0].clone();
        let away = made.replicas.iter().map(|r| r.node.clone()).find(|n| *n != target).expect("another node");
        world.kill(&away);
        world.volume("data", "degraded", |v| v.state == "degraded").await;
        let request = v1::ResizeVolumeRequest { name: "data".into(), size: made.size + (8 << 20) };
        client.resize_volume(request).await.unwrap();
        world.start(&away);
        let volume = world.volume("data", "whole again", whole).await;
        assert_eq!(volume.usable, made.size + (8 << 20));
    });
    world.assert_no_offence();
}

#[test]
fn a_volume_that_lost_all_but_one_copy_lives_and_one_that_lost_all_comes_back() {
    let (world, _store, runtime) = begin(3);
    runtime.block_on(async {
        let mut client = world.client().await;
        let volume = client.create_volume(new_volume("data", 3)).await.unwrap().into_inner();
        let target = world.nexus_nodes()[0].clone();
        let others: Vec<_> = volume.replicas.iter().map(|r| r.node.clone()).filter(|n| *n != target).collect();
        for node in &others {
            world.kill(node);
            let says_so = |v: &v1::Volume| v.state == "degraded" && v.reason.contains(node.as_str());
            world.volume("data", "degraded", says_so).await;
        }
        eventually("the ledger has shrunk", async || {
            let all = world.lock();
            (all.nodes[&target].nexuses.values().all(|n| n.in_sync.len() == 1)).then_some(())
        })
        .await;
        world.kill(&target);
        world.volume("data", "offline", |v| v.state == "offline" && v.reason.contains(&target)).await;
        // Those without the last writes come back first: they must not be used.
        world.start(&others[0]);
        world.start(&others[1]);
        nodes_online(&world, 2).await;
        tokio::time::sleep(2 * std::time::Duration::from_millis(options().settings.node_grace_ms)).await;
        assert_ne!(world.volume("data", "there", |_| true).await.state, "online");
        world.start(&target);
        world.volume("data", "whole", whole).await;
    });
    world.assert_no_offence();
}

#[test]
fn wrong_requests_are_refused_and_change_nothing() {
    let (world, _store, runtime) = begin(2);
    runtime.block_on(async {
        let mut client = world.client().await;
        let good = new_volume("data", 2);
        let cases = [
            (v1::CreateVolumeRequest { name: String::new(), ..good.clone() }, Code::InvalidArgument, "name"),
            (v1::CreateVolumeRequest { name: "No Capitals".into(), ..good.clone() }, Code::InvalidArgument, "name"),
            (v1::CreateVolumeRequest { name: "x".repeat(64), ..good.clone() }, Code::InvalidArgument, "name"),
            (v1::CreateVolumeRequest { size: 0, ..good.clone() }, Code::InvalidArgument, "size"),
            (v1::CreateVolumeRequest { size: 4095, ..good.clone() }, Code::InvalidArgument, "4096"),
            (v1::CreateVolumeRequest { size: 1 << 60, ..good.clone() }, Code::InvalidArgument, "size"),
            (v1::CreateVolumeRequest { replicas: 0, ..good.clone() }, Code::InvalidArgument, "replicas"),
            (v1::CreateVolumeRequest { replicas: 17, ..good.clone() }, Code::InvalidArgument, "replicas"),
            (v1::CreateVolumeRequest { uuid: "x".into(), ..good.clone() }, Code::InvalidArgument, "uuid"),
            (v1::CreateVolumeRequest { replicas: 3, ..good.clone() }, Code::ResourceExhausted, "3 pools"),
            (v1::CreateVolumeRequest { size: 100 * GIB, ..good.clone() }, Code::ResourceExhausted, "100.0 GiB"),
            (
                v1::CreateVolumeRequest { required_nodes: vec!["mars".into()], ..good.clone() },
                Code::ResourceExhausted,
                "mars",
            ),
        ];
        for (request, code, text) in cases {
            let status = client.create_volume(request.clone()).await.unwrap_err();
            assert_eq!(status.code(), code, "{request:?}: {status}");
            assert!(status.message().contains(text), "{request:?}: {status}");
        }
        assert!(client.list_volumes(v1::Empty {}).await.unwrap().into_inner().volumes.is_empty());
        let first = client.create_volume(good.clone()).await.unwrap().into_inner();
        let again = client.create_volume(good.clone()).await.unwrap().into_inner();
        assert_eq!(first.uuid, again.uuid);
        let other = v1::CreateVolumeRequest { size: 2 * GIB, ..good.clone() };
        let status = client.create_volume(other).await.unwrap_err();
        assert_eq!((status.code(), status.message().contains("its size")), (Code::AlreadyExists, true), "{status}");
        for status in [
            client.get_volume(named("nothing")).await.unwrap_err(),
            client.unpublish_volume(named("nothing")).await.unwrap_err(),
            client
                .publish_volume(v1::PublishVolumeRequest { name: "data".into(), node: "mars".into() })
                .await
                .unwrap_err(),
            client.destroy_pool(v1::NodePoolName { node: "mars".into(), pool: "p".into() }).await.unwrap_err(),
        ] {
            assert_eq!(status.code(), Code::NotFound, "{status}");
        }
        let used = v1::NodePoolName { node: first.replicas[0].node.clone(), pool: "pool".into() };
        assert_eq!(client.destroy_pool(used).await.unwrap_err().code(), Code::FailedPrecondition);
    });
    world.assert_no_offence();
}

/// The whole life of a volume, with a control plane that dies at the given commit and is started again. Returns whether it
/// died at all.
fn life_with_a_crash(n: i64, when: When) -> bool {
    let (world, memory, runtime) = (World::new(4), Arc::new(MemoryStore::default()), runtime());
    let store = Arc::new(CrashStore::new(memory.clone(), n, when));
    let mut death = store.death();
    world.start_control(store, options());
    let died = runtime.block_on(async {
        let restart = async {
            death.wait_for(|dead| *dead).await.unwrap();
            let world = world.clone();
            tokio::task::spawn_blocking(move || {
                world.kill_control();
                world.start_control(memory, options());
            })
            .await
            .unwrap();
            std::future::pending::<()>().await
        };
        tokio::select! {
            () = restart => unreachable!("it waits for ever"),
            () = whole_life(&world) => {}
        }
        *death.borrow()
    });
    world.assert_no_offence();
    assert!(world.holders().is_empty() && world.nexus_nodes().is_empty());
    world.kill_control();
    for n in 1..=4 {
        world.kill(&format!("node-{n}"));
    }
    died
}

async fn whole_life(world: &World) {
    // A client whose call was cut off asks again.
    eventually("the volume is created", async || {
        let mut client = world.client().await;
        client.create_volume(new_volume("data", 2)).await.ok()
    })
    .await;
    let volume = world.volume("data", "whole", whole).await;
    eventually("the volume is published", async || {
        let mut client = world.client().await;
        client.publish_volume(v1::PublishVolumeRequest { name: "data".into(), node: String::new() }).await.ok()
    })
    .await;
    let target = world.nexus_nodes()[0].clone();
    let other = volume.replicas.iter().map(|r| r.node.clone()).find(|n| *n != target).unwrap();
    kill(world, &other).await;
    let without =
        |v: &v1::Volume, node: &str| repaired(v, 2) && v.replicas.iter().all(|r| r.node != node || r.state != "online");
    world.volume("data", "repaired", |v| without(v, &other)).await;
    kill(world, &target).await;
    world.volume("data", "moved", |v| v.target_node != target && without(v, &target) && !v.device_uri.is_empty()).await;
    world.start(&other);
    world.start(&target);
    world.volume("data", "whole again", whole).await;
    eventually("the volume is destroyed", async || {
        let mut client = world.client().await;
        client.destroy_volume(named("data")).await.ok()?;
        (client.get_volume(named("data")).await.err()?.code() == Code::NotFound).then_some(())
    })
    .await;
    eventually("all is free", async || (world.holders().is_empty() && world.nexus_nodes().is_empty()).then_some(()))
        .await;
}

async fn kill(world: &World, node: &str) {
    let (world, node) = (world.clone(), node.to_owned());
    tokio::task::spawn_blocking(move || world.kill(&node)).await.unwrap();
}

#[test]
fn the_control_plane_may_die_before_any_commit() {
    crash_at_each_commit(When::Before);
}

#[test]
fn the_control_plane_may_die_after_any_commit() {
    crash_at_each_commit(When::After);
}

fn crash_at_each_commit(when: When) {
    let mut n = 1;
    // The first commits are the cluster's identity and the nodes.
    while life_with_a_crash(n, when) {
        n += 1;
        assert!(n < 200, "a life has fewer commits");
    }
    assert!(n > 20, "only {n} commits were tried");
}
