//! What operators ask of nodes and of the whole cluster, over the real services, against engines in memory.

#[allow(dead_code, reason = "each suite uses a part of it")]
mod fake;

use std::collections::BTreeMap;
use std::sync::Arc;

use api::v1;
use api::v1::control_client::ControlClient;
use control::store::MemoryStore;
use fake::{GIB, World, eventually, options};
use tonic::transport::Channel;
use tonic::{Code, Request};

type Client = ControlClient<Channel>;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn begin(nodes: usize) -> (World, Arc<MemoryStore>, tokio::runtime::Runtime) {
    let (world, store, runtime) = (World::new(nodes), Arc::new(MemoryStore::default()), runtime());
    world.start_control(store.clone(), options());
    runtime.block_on(online(&world, nodes));
    (world, store, runtime)
}

async fn online(world: &World, n: usize) {
    eventually("the nodes are online", async || {
        let nodes = world.client().await.list_nodes(v1::Empty {}).await.ok()?.into_inner().nodes;
        (nodes.iter().filter(|n| n.state == "online").count() == n).then_some(())
    })
    .await;
}

async fn restart(world: &World, store: &Arc<MemoryStore>) {
    let (world, store) = (world.clone(), store.clone());
    let again = move || {
        world.kill_control();
        world.start_control(store, options());
    };
    tokio::task::spawn_blocking(again).await.unwrap();
}

fn new_volume(name: &str, replicas: u32) -> v1::CreateVolumeRequest {
    v1::CreateVolumeRequest { name: name.to_owned(), size: GIB, replicas, ..Default::default() }
}

fn whole(v: &v1::Volume) -> bool {
    v.state == "online"
        && v.replicas.len() == v.replicas_wanted as usize
        && v.replicas.iter().all(|r| r.state == "online")
}

async fn node(client: &mut Client, id: &str) -> Option<v1::Node> {
    client.list_nodes(v1::Empty {}).await.ok()?.into_inner().nodes.into_iter().find(|n| n.id == id)
}

async fn service(client: &mut Client, id: &str, service: &str) -> Result<v1::Node, tonic::Status> {
    let request = v1::SetNodeServiceRequest { id: id.to_owned(), service: service.to_owned() };
    client.set_node_service(request).await.map(tonic::Response::into_inner)
}

async fn label(client: &mut Client, id: &str, zone: &str) {
    let set = BTreeMap::from([("zone".to_owned(), zone.to_owned())]);
    let request = v1::SetNodeLabelsRequest { id: id.to_owned(), set, remove: Vec::new() };
    client.set_node_labels(request).await.unwrap();
}

async fn events(client: &mut Client, operation: &str) -> Vec<v1::Event> {
    let request = v1::ListEventsRequest { operation: operation.to_owned(), ..Default::default() };
    let mut stream = client.list_events(request).await.unwrap().into_inner();
    let mut all = Vec::new();
    while let Some(event) = stream.message().await.unwrap() {
        all.push(event);
    }
    all
}

#[test]
fn a_drain_goes_on_when_the_control_plane_starts_again_and_ends_with_an_empty_node() {
    let (world, store, runtime) = begin(4);
    runtime.block_on(async {
        let mut client = world.client().await;
        for n in 0..4 {
            client.create_volume(new_volume(&format!("v{n}"), 3)).await.unwrap();
        }
        let publish = v1::PublishVolumeRequest { name: "v0".into(), node: String::new() };
        let gone = client.publish_volume(publish).await.unwrap().into_inner().target_node;
        assert_eq!(service(&mut client, "mars", "draining").await.unwrap_err().code(), Code::NotFound);
        assert_eq!(service(&mut client, &gone, "sleepy").await.unwrap_err().code(), Code::InvalidArgument);
        let mut request = Request::new(v1::SetNodeServiceRequest { id: gone.clone(), service: "draining".into() });
        request.metadata_mut().insert("operation-id", "drain-1".parse().unwrap());
        let begun = client.set_node_service(request).await.unwrap().into_inner();
        let drain = begun.drain.expect("it is draining");
        assert_eq!((begun.service.as_str(), drain.operation.as_str()), ("draining", "drain-1"));
        assert!(drain.copies_left > 0 && drain.targets_left > 0 && !drain.waiting.is_empty(), "{drain:?}");

        restart(&world, &store).await;
        online(&world, 4).await;
        let drained = eventually("the node is drained", async || {
            let mut client = world.client().await;
            node(&mut client, &gone).await.filter(|n| n.service == "drained")
        })
        .await;
        let drain = drained.drain.expect("it was drained");
        assert_eq!((drain.copies_left, drain.targets_left), (0, 0));
        for n in 0..4 {
            let v = world.volume(&format!("v{n}"), "whole", whole).await;
            assert!(v.replicas.iter().all(|r| r.node != gone) && v.target_node != gone, "{v:?}");
        }
        assert!(!world.holders().contains(&gone) && !world.nexus_nodes().contains(&gone));
        let mut client = world.client().await;
        let kinds: Vec<String> = eventually("its end is told", async || {
            let kinds: Vec<String> = events(&mut client.clone(), "drain-1").await.into_iter().map(|e| e.kind).collect();
            kinds.iter().any(|k| k == "node-drained").then_some(kinds)
        })
        .await;
        // What was told around the death of the control plane may be lost.
        for kind in ["node-draining", "replica-retired", "volume-moved"] {
            assert!(kinds.iter().any(|k| k == kind), "{kind} in {kinds:?}");
        }
        assert_eq!(kinds.iter().filter(|k| *k == "node-drained").count(), 1, "{kinds:?}");

        // It gets nothing new, and says why where that is in the way.
        let status = client.create_volume(new_volume("four", 4)).await.unwrap_err();
        assert!(status.message().contains("1 on cordoned or draining nodes"), "{status}");
        let publish = v1::PublishVolumeRequest { name: "v1".into(), node: gone.clone() };
        assert_eq!(client.publish_volume(publish).await.unwrap_err().code(), Code::FailedPrecondition);
        service(&mut client, &gone, "in-service").await.unwrap();
        client.create_volume(new_volume("four", 4)).await.unwrap();
        world.volume("four", "whole", whole).await;
    });
    world.assert_no_offence();
}

#[test]
fn a_drain_that_cannot_go_on_says_what_it_waits_for_and_can_be_stopped() {
    let (world, _store, runtime) = begin(2);
    runtime.block_on(async {
        let mut client = world.client().await;
        client.create_volume(new_volume("data", 2)).await.unwrap();
        service(&mut client, "node-1", "draining").await.unwrap();
        let waits = eventually("it waits", async || {
            let found = node(&mut client.clone(), "node-1").await?;
            found.drain?.waiting.into_iter().find(|w| w.waits_for.contains("there is no place"))
        })
        .await;
        assert!(waits.volume == "data" && waits.waits_for.contains("2 with a copy of it already"), "{waits:?}");
        let data = world.volume("data", "whole", whole).await;
        assert!(data.doing.iter().any(|d| d.contains("node-1/pool moves")), "{data:?}");
        let stopped = service(&mut client, "node-1", "cordoned").await.unwrap();
        assert_eq!((stopped.service.as_str(), stopped.drain), ("cordoned", None));
        let data = world.volume("data", "calm", |v| whole(v) && v.doing.is_empty()).await;
        assert_eq!(data.replicas.len(), 2);
    });
    world.assert_no_offence();
}

#[test]
fn copies_are_spread_by_the_labels_of_nodes() {
    let (world, store, runtime) = begin(4);
    runtime.block_on(async {
        let mut client = world.client().await;
        let spread = |name: &str, replicas, rule: &str| v1::CreateVolumeRequest {
            spread: vec![rule.to_owned()],
            ..new_volume(name, replicas)
        };
        for (id, zone) in [("node-1", "a"), ("node-2", "a"), ("node-3", "a"), ("node-4", "b")] {
            label(&mut client, id, zone).await;
        }
        restart(&world, &store).await;
        online(&world, 4).await;
        let mut client = world.client().await;
        let data = client.create_volume(spread("data", 2, "zone")).await.unwrap().into_inner();
        assert!(data.replicas.iter().any(|r| r.node == "node-4") && data.spread == ["zone"], "{data:?}");
        let status = client.create_volume(spread("three", 3, "zone")).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.message().contains("needs 3 values of zone, 2 have room (a, b)"), "{status}");
        let status = client.create_volume(spread("data", 2, "zone:soft")).await.unwrap_err();
        assert_eq!(status.code(), Code::AlreadyExists, "{status}");
        client.create_volume(spread("three", 3, "zone:soft")).await.unwrap();
        for wrong in ["zone:never", "", "a b"] {
            let status = client.create_volume(spread("wrong", 1, wrong)).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{wrong:?}: {status}");
        }
        let only = v1::CreateVolumeRequest {
            required_labels: BTreeMap::from([("zone".to_owned(), "b".to_owned())]),
            ..new_volume("only", 1)
        };
        let only = client.create_volume(only).await.unwrap().into_inner();
        assert_eq!(only.replicas[0].node, "node-4");
        let request =
            v1::SetNodeLabelsRequest { id: "node-4".into(), remove: vec!["zone".into()], ..Default::default() };
        assert!(client.set_node_labels(request).await.unwrap().into_inner().labels.is_empty());
    });
    world.assert_no_offence();
}

#[test]
fn limits_are_kept_and_followed() {
    let (world, store, runtime) = begin(2);
    runtime.block_on(async {
        let mut client = world.client().await;
        let set =
            |name: &str, value: &str| v1::Setting { name: name.into(), value: value.into(), ..Default::default() };
        for (name, value, code) in [
            ("pool.colour", "1", Code::NotFound),
            ("pool.fill_percent", "0", Code::InvalidArgument),
            ("pool.fill_percent", "101", Code::InvalidArgument),
            ("rebuild.per_node", "many", Code::InvalidArgument),
        ] {
            assert_eq!(client.set_limit(set(name, value)).await.unwrap_err().code(), code, "{name} {value}");
        }
        client.set_limit(set("pool.overcommit_percent", "100")).await.unwrap();
        client.set_limit(set("pool.fill_percent", "50")).await.unwrap();
        restart(&world, &store).await;
        online(&world, 2).await;
        let mut client = world.client().await;
        let value = |all: &v1::Config, name: &str| all.settings.iter().find(|s| s.name == name).unwrap().value.clone();
        let now = client.get_limits(v1::Empty {}).await.unwrap().into_inner();
        assert_eq!(
            (value(&now, "pool.overcommit_percent"), value(&now, "rebuild.per_node")),
            ("100".into(), "4".into())
        );
        // Pools of 10 GiB.
        let of = |name: &str, gib, thin| v1::CreateVolumeRequest { size: gib * GIB, thin, ..new_volume(name, 1) };
        let status = client.create_volume(of("thick", 6, false)).await.unwrap_err();
        assert!(status.message().contains("2 with too little free space"), "{status}");
        let status = client.create_volume(of("thin", 11, true)).await.unwrap_err();
        assert!(status.message().contains("2 at their limit of thin over-commitment"), "{status}");
        client.create_volume(of("thin", 9, true)).await.unwrap();
        let reset = client.set_limit(set("pool.fill_percent", "")).await.unwrap().into_inner();
        assert_eq!(value(&reset, "pool.fill_percent"), "100");
        client.create_volume(of("thick", 6, false)).await.unwrap();
    });
    world.assert_no_offence();
}

#[test]
fn a_rebalance_moves_copies_to_empty_pools_and_goes_on_after_a_restart() {
    let (world, store, runtime) = begin(3);
    runtime.block_on(async {
        let mut client = world.client().await;
        service(&mut client, "node-3", "cordoned").await.unwrap();
        for n in 0..6 {
            client.create_volume(new_volume(&format!("v{n}"), 2)).await.unwrap();
        }
        service(&mut client, "node-3", "in-service").await.unwrap();
        let ask = |dry_run| v1::RebalanceRequest { dry_run, stop: false };
        let planned = eventually("moves are planned", async || {
            let report = client.clone().rebalance(ask(true)).await.ok()?.into_inner();
            (report.moves.len() >= 3).then_some(report)
        })
        .await;
        assert!(planned.operation.is_empty() && planned.moves.iter().all(|m| m.to == "node-3/pool"), "{planned:?}");
        assert!(planned.moves.iter().all(|m| m.state == "planned"), "{planned:?}");
        let begun = client.rebalance(ask(false)).await.unwrap().into_inner();
        let again = client.rebalance(ask(false)).await.unwrap().into_inner();
        assert!(!begun.operation.is_empty() && begun.operation == again.operation, "it is asked for once");

        restart(&world, &store).await;
        online(&world, 3).await;
        let kinds = eventually("it is over", async || {
            let mut client = world.client().await;
            let kinds: Vec<String> = events(&mut client, &begun.operation).await.into_iter().map(|e| e.kind).collect();
            kinds.iter().any(|k| k == "rebalance-completed").then_some(kinds)
        })
        .await;
        assert!(kinds.iter().any(|k| k == "replica-retired"), "{kinds:?}");
        for n in 0..6 {
            world.volume(&format!("v{n}"), "whole", whole).await;
        }
        let holders = world.holders();
        assert_eq!(holders.iter().filter(|n| *n == "node-3").count(), begun.moves.len(), "{holders:?}");
        let mut client = world.client().await;
        let nothing = client.rebalance(ask(true)).await.unwrap().into_inner();
        assert!(nothing.moves.is_empty(), "{nothing:?}");
        client.rebalance(v1::RebalanceRequest { dry_run: false, stop: true }).await.unwrap();
    });
    world.assert_no_offence();
}

#[test]
fn the_trail_of_a_wish_has_its_operation_and_what_comes_later_has_not() {
    let (world, _store, runtime) = begin(4);
    runtime.block_on(async {
        let mut client = world.client().await;
        client.create_volume(new_volume("data", 2)).await.unwrap();
        world.volume("data", "calm", |v| whole(v) && v.operation.is_empty()).await;
        let mut request = Request::new(v1::SetReplicaCountRequest { name: "data".into(), replicas: 3 });
        request.metadata_mut().insert("operation-id", "wider".parse().unwrap());
        client.set_replica_count(request).await.unwrap();
        let calm = |v: &v1::Volume| whole(v) && v.replicas.len() == 3 && v.operation.is_empty();
        let volume = world.volume("data", "calm again", calm).await;
        let kinds: Vec<String> = events(&mut client, "wider").await.into_iter().map(|e| e.kind).collect();
        assert_eq!(kinds, ["volume-changed", "replica-placed", "rebuild-started"]);
        let lost = volume.replicas.iter().map(|r| r.node.clone()).find(|n| !world.nexus_nodes().contains(n)).unwrap();
        let killer = world.clone();
        tokio::task::spawn_blocking(move || killer.kill(&lost)).await.unwrap();
        world.volume("data", "degraded", |v| v.state == "degraded").await;
        world.volume("data", "repaired", |v| v.replicas.iter().filter(|r| r.state == "online").count() == 3).await;
        assert_eq!(events(&mut client, "wider").await.len(), kinds.len(), "the repair is nobody's wish");
        let mut request = Request::new(v1::SetReplicaCountRequest { name: "data".into(), replicas: 2 });
        request.metadata_mut().insert("operation-id", "not an id".parse().unwrap());
        assert_eq!(client.set_replica_count(request).await.unwrap_err().code(), Code::InvalidArgument);
    });
    world.assert_no_offence();
}
