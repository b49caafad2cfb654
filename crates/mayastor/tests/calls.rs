//! Each gRPC call against a real engine: what works, what is idempotent, and the status of what is wrong.
#![allow(clippy::disallowed_methods, reason = "tests own files, sockets and processes")]

mod common;

use api::v0::bdev_rpc_client::BdevRpcClient;
use api::v0::mayastor_client::MayastorClient;
use api::v0::*;
use api::v1;
use api::v1::engine_client::EngineClient;
use common::{Dir, Engine};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

const MIB: u64 = 1 << 20;
const UUID: &str = "4dcf2b4c-1c37-4b0a-93b5-31a4b8f0d4a1";
const NVMF: i32 = ShareProtocolReplica::ReplicaNvmf as i32;

struct Calls {
    v0: MayastorClient<Channel>,
    bdev: BdevRpcClient<Channel>,
    v1: EngineClient<Channel>,
}

impl Calls {
    async fn new(engine: &Engine) -> Calls {
        let channel = common::channel(&engine.grpc).await;
        Calls {
            v0: MayastorClient::new(channel.clone()),
            bdev: BdevRpcClient::new(channel.clone()),
            v1: EngineClient::new(channel),
        }
    }
    /// All that the engine holds, but for what counts time.
    async fn all(&mut self) -> (v1::NodeReport, Bdevs) {
        let mut report = self.v1.get_node(v1::Empty {}).await.expect("a report").into_inner();
        report.sequence = 0;
        (report, self.bdev.list(Null {}).await.expect("a list").into_inner())
    }
}

fn pool(name: &str, disks: &[&str]) -> CreatePoolRequest {
    let disks = disks.iter().map(|&disk| disk.into()).collect();
    CreatePoolRequest { name: name.into(), disks, ..Default::default() }
}
fn replica(uuid: &str, pool: &str, mib: u64) -> CreateReplicaRequest {
    CreateReplicaRequest { uuid: uuid.into(), pool: pool.into(), size: mib * MIB, ..Default::default() }
}
fn nexus(uuid: &str, size: u64, children: &[&str]) -> CreateNexusRequest {
    CreateNexusRequest { uuid: uuid.into(), size, children: children.iter().map(|&child| child.into()).collect() }
}
fn publish(uuid: &str, key: &str, share: i32) -> PublishNexusRequest {
    PublishNexusRequest { uuid: uuid.into(), key: key.into(), share }
}
fn code<T>(answer: Result<Response<T>, Status>) -> (Code, String) {
    match answer {
        Ok(_) => (Code::Ok, String::new()),
        Err(status) => (status.code(), status.message().to_owned()),
    }
}

/// A pool `tank` with a replica `r1`, and a device `used` that is shared.
async fn furnish(calls: &mut Calls, disk: &str) {
    calls.v0.create_pool(pool("tank", &[disk])).await.expect("a pool");
    calls.v0.create_replica(replica("r1", "tank", 16)).await.expect("a replica");
    calls.bdev.create(BdevUri { uri: "malloc:///used?size_mb=8".into() }).await.expect("a device");
    calls.bdev.share(BdevShareRequest { name: "used".into(), proto: "nvmf".into() }).await.expect("a share");
}

#[test]
fn pools_and_replicas_with_the_calls_of_v0_3_0() {
    let dir = Dir::new();
    let (disk, engine) = (dir.disk("d1", 100), Engine::start(&[]));
    common::runtime().block_on(async {
        let Calls { mut v0, .. } = Calls::new(&engine).await;
        let made = v0.create_pool(pool("tank", &[&disk])).await.expect("a pool").into_inner();
        assert_eq!((made.name.as_str(), made.state(), made.used), ("tank", PoolState::PoolOnline, 0));
        assert_eq!(made.disks, [format!("aio://{disk}")]);
        assert!(made.capacity > 90 * MIB && made.capacity < 100 * MIB, "{}", made.capacity);
        let again =
            v0.create_pool(pool("tank", &[&format!("aio://{disk}")])).await.expect("the same pool").into_inner();
        assert_eq!(again, made);
        assert_eq!(v0.list_pools(Null {}).await.expect("a list").into_inner().pools, [made]);

        let request = CreateReplicaRequest { thin: true, share: NVMF, ..replica("r1", "tank", 64) };
        let r1 = v0.create_replica(request.clone()).await.expect("a replica").into_inner();
        let uri = format!("nvmf://{}/nqn.2019-05.io.openebs:r1", engine.nvme);
        assert_eq!((r1.uri.as_str(), r1.size, r1.thin, r1.share), (uri.as_str(), 64 * MIB, true, NVMF));
        assert_eq!(v0.create_replica(request).await.expect("the same replica").into_inner(), r1);
        let r2 = v0.create_replica(replica("r2", "tank", 4)).await.expect("a replica").into_inner();
        assert_eq!((r2.uri.as_str(), r2.share()), ("bdev:///r2", ShareProtocolReplica::ReplicaNone));
        assert_eq!(v0.list_replicas(Null {}).await.expect("a list").into_inner().replicas, [r1, r2]);
        // Of the two, only the thick one takes space before it is written.
        let used = v0.list_pools(Null {}).await.expect("a list").into_inner().pools[0].used;
        assert_eq!(used, 4 * MIB);
        let stats = v0.stat_replicas(Null {}).await.expect("a list").into_inner().replicas;
        let new = |uuid: &str| ReplicaStats { uuid: uuid.into(), pool: "tank".into(), stats: Some(Stats::default()) };
        assert_eq!(stats, [new("r1"), new("r2")]);

        for _ in 0..2 {
            let share = ShareReplicaRequest { uuid: "r2".into(), share: NVMF };
            let shared = v0.share_replica(share).await.expect("a share").into_inner().uri;
            assert_eq!(shared, format!("nvmf://{}/nqn.2019-05.io.openebs:r2", engine.nvme));
        }
        for _ in 0..2 {
            let share = ShareReplicaRequest { uuid: "r2".into(), share: 0 };
            assert_eq!(v0.share_replica(share).await.expect("no share").into_inner().uri, "bdev:///r2");
        }
        for _ in 0..2 {
            v0.destroy_replica(DestroyReplicaRequest { uuid: "r2".into() }).await.expect("it is gone");
        }
        // With a replica in it, as v0.3.0 does.
        for _ in 0..2 {
            v0.destroy_pool(DestroyPoolRequest { name: "tank".into() }).await.expect("it is gone");
        }
        assert!(v0.list_pools(Null {}).await.expect("a list").into_inner().pools.is_empty());
        assert!(v0.list_replicas(Null {}).await.expect("a list").into_inner().replicas.is_empty());
    });
}

#[test]
fn devices_with_the_calls_of_v0_3_0() {
    let engine = Engine::start(&[]);
    common::runtime().block_on(async {
        let Calls { mut bdev, .. } = Calls::new(&engine).await;
        let uri = "malloc:///m0?size_mb=8&blk_size=4096&uuid=08809574-0aab-4be9-9aa0-733055d40c3c";
        assert_eq!(bdev.create(BdevUri { uri: uri.into() }).await.expect("a device").into_inner().name, "m0");
        let list = bdev.list(Null {}).await.expect("a list").into_inner().bdevs;
        let m0 = list.iter().find(|bdev| bdev.name == "m0").expect("it is there");
        assert_eq!((m0.num_blocks, m0.blk_size, m0.claimed, m0.claimed_by.as_str()), (2048, 4096, false, "Orphaned"));
        assert_eq!(m0.uuid, "08809574-0aab-4be9-9aa0-733055d40c3c");
        // It is found by the URI that made it, and says one that would make it again.
        assert!(m0.aliases.split(',').any(|alias| alias == uri), "{m0:?}");
        assert!(m0.uri.starts_with("malloc:///m0?") && m0.uri.contains(&m0.uuid), "{m0:?}");
        let share = BdevShareRequest { name: "m0".into(), proto: "nvmf".into() };
        let shared = bdev.share(share).await.expect("a share").into_inner().uri;
        assert_eq!(shared, format!("nvmf://{}/nqn.2019-05.io.openebs:m0", engine.nvme));
        for _ in 0..2 {
            bdev.unshare(CreateReply { name: "m0".into() }).await.expect("no share");
        }
        bdev.destroy(BdevUri { uri: uri.into() }).await.expect("it is gone");
        assert!(bdev.list(Null {}).await.expect("a list").into_inner().bdevs.is_empty());
    });
}

#[test]
fn pools_with_the_calls_beyond_v0_3_0() {
    let dir = Dir::new();
    let (d1, d2, engine) = (dir.disk("d1", 64), dir.disk("d2", 64), Engine::start(&["-N", "n1"]));
    common::runtime().block_on(async {
        let Calls { mut v1, .. } = Calls::new(&engine).await;
        let mut watch = v1.watch_node(v1::Empty {}).await.expect("a stream").into_inner();
        let first = watch.message().await.expect("a report").expect("one at least");
        assert_eq!(
            (first.id.as_str(), first.grpc_endpoint.as_str(), first.pools.len()),
            ("n1", engine.grpc.as_str(), 0)
        );

        let request = v1::CreatePoolRequest { name: "tank".into(), disks: vec![d1.clone()], ..Default::default() };
        let made = v1.create_pool(request).await.expect("a pool").into_inner();
        let add = v1::AddPoolDiskRequest { name: "tank".into(), disk: d2.clone(), force: false };
        let grown = v1.add_pool_disk(add).await.expect("a larger pool").into_inner();
        assert!(grown.capacity > made.capacity && grown.disks.len() == 2 && grown.uuid == made.uuid);
        // The change is pushed.
        loop {
            let report = watch.message().await.expect("a report").expect("more");
            assert_eq!(report.instance, first.instance);
            if report.pools == [grown.clone()] {
                break;
            }
        }
        let request =
            v1::CreateReplicaRequest { uuid: "r1".into(), pool: "tank".into(), size: MIB, thin: false, share: true };
        let r1 = v1.create_replica(request).await.expect("a replica").into_inner();
        assert!(r1.shared && r1.uri.starts_with("nvmf://") && r1.state == "online", "{r1:?}");
        let name = || v1::PoolName { name: "tank".into() };
        let (refused, message) = code(v1.destroy_pool(name()).await);
        assert_eq!(refused, Code::FailedPrecondition, "{message}");
        let share = v1::ShareReplicaRequest { uuid: "r1".into(), share: false };
        assert!(!v1.share_replica(share).await.expect("no share").into_inner().shared);

        v1.export_pool(name()).await.expect("it is closed");
        assert!(v1.get_node(v1::Empty {}).await.expect("a report").into_inner().pools.is_empty());
        let import = |disks: &[&String]| v1::ImportPoolRequest {
            name: "tank".into(),
            disks: disks.iter().map(|&disk| disk.clone()).collect(),
        };
        let (refused, message) = code(v1.import_pool(import(&[&d1])).await);
        assert_eq!(refused, Code::InvalidArgument, "a disk is missing: {message}");
        let back = v1.import_pool(import(&[&d2, &d1])).await.expect("a pool").into_inner();
        assert_eq!((back.uuid.as_str(), back.committed), (made.uuid.as_str(), MIB));
        v1.destroy_replica(v1::ReplicaName { uuid: "r1".into() }).await.expect("it is gone");
        v1.destroy_pool(name()).await.expect("it is gone");
    });
}

#[test]
fn settings_change_at_run_time() {
    let engine = Engine::start(&[]);
    common::runtime().block_on(async {
        let Calls { mut v1, .. } = Calls::new(&engine).await;
        let set =
            |name: &str, value: &str| v1::Setting { name: name.into(), value: value.into(), ..Default::default() };
        let config = v1.set_config(set("nexus.error_threshold", "32")).await.expect("it is set").into_inner();
        assert_eq!(config, v1.get_config(v1::Empty {}).await.expect("a list").into_inner());
        let setting = config.settings.iter().find(|s| s.name == "nexus.error_threshold").expect("it is there");
        assert_eq!((setting.value.as_str(), setting.default.as_str()), ("32", "64"));
        assert_eq!(code(v1.set_config(set("nexus.error_threshold", "-1")).await).0, Code::InvalidArgument);
        assert_eq!(code(v1.set_config(set("nosuch", "1")).await).0, Code::NotFound);
    });
}

/// One wrong call: what is wrong with it, what it was answered, and the code of v0.3.0.
macro_rules! wrong {
    ($found:ident: $($what:literal $code:ident = $call:expr;)*) => {
        $($found.push(($what, code($call.await), Code::$code));)*
    };
}

#[test]
fn wrong_calls_have_the_codes_of_v0_3_0_and_change_nothing() {
    let dir = Dir::new();
    let (disk, other, engine) = (dir.disk("d1", 100), dir.disk("d2", 100), Engine::start(&[]));
    let (disk, other) = (disk.as_str(), other.as_str());
    common::runtime().block_on(async {
        let mut calls = Calls::new(&engine).await;
        furnish(&mut calls, disk).await;
        let before = calls.all().await;
        let mut found = Vec::new();
        let c = &mut calls.v0;
        wrong! { found:
            "no disk" InvalidArgument = c.create_pool(pool("p", &[]));
            "no name" InvalidArgument = c.create_pool(pool("", &[other]));
            "missing file" InvalidArgument = c.create_pool(pool("p", &["/dev/nosuch"]));
            "unknown scheme" InvalidArgument = c.create_pool(pool("p", &["tape:///dev/st0"]));
            "not a URI" InvalidArgument = c.create_pool(pool("p", &["???"]));
            "disk in use" InvalidArgument = c.create_pool(pool("p", &[disk]));
            "io_if" InvalidArgument = c.create_pool(CreatePoolRequest { io_if: 3, ..pool("p", &[other]) });
            "block size" InvalidArgument = c.create_pool(CreatePoolRequest { block_size: 513, ..pool("p", &[other]) });
            "other disk" AlreadyExists = c.create_pool(pool("tank", &[other]));
            "unknown pool" NotFound = c.create_replica(replica("x", "nosuch", 1));
            "share enum" InvalidArgument = c.create_replica(CreateReplicaRequest { share: 9, ..replica("x", "tank", 1) });
            "no size" InvalidArgument = c.create_replica(replica("x", "tank", 0));
            "no space" ResourceExhausted = c.create_replica(replica("x", "tank", 1000));
            "other size" AlreadyExists = c.create_replica(replica("r1", "tank", 17));
            "unknown replica" NotFound = c.share_replica(ShareReplicaRequest { uuid: "x".into(), share: NVMF });
            "share enum" InvalidArgument = c.share_replica(ShareReplicaRequest { uuid: "r1".into(), share: -1 });
            "uuid" InvalidArgument = c.create_nexus(nexus("x", MIB, &["bdev:///r1"]));
            "no children" Internal = c.create_nexus(nexus(UUID, MIB, &[]));
            "missing bdev" Internal = c.create_nexus(nexus(UUID, MIB, &["bdev:///nosuch"]));
            "missing file" InvalidArgument = c.create_nexus(nexus(UUID, MIB, &["aio:///dev/nosuch"]));
            "unreachable" InvalidArgument = c.create_nexus(nexus(UUID, MIB, &["nvmf://127.0.0.1:1/nqn.2019-05.io.openebs:x"]));
            "larger than a child" Internal = c.create_nexus(nexus(UUID, 17 * MIB, &["bdev:///r1"]));
            "child in use" InvalidArgument = c.create_nexus(nexus(UUID, MIB, &[disk]));
            "scheme of a child" InvalidArgument = c.create_nexus(nexus(UUID, MIB, &["tape:///x"]));
            "malformed" InvalidArgument = c.destroy_nexus(DestroyNexusRequest { uuid: "x".into() });
            "protocol" Internal = c.publish_nexus(publish(UUID, "", 3));
            "key" InvalidArgument = c.publish_nexus(publish(UUID, "short", 1));
            "unknown" NotFound = c.publish_nexus(publish(UUID, "", 1));
            "malformed" InvalidArgument = c.publish_nexus(publish("x", "", 1));
            "unknown" NotFound = c.unpublish_nexus(UnpublishNexusRequest { uuid: UUID.into() });
            "malformed" InvalidArgument = c.unpublish_nexus(UnpublishNexusRequest { uuid: "x".into() });
        }
        let (u, r, x) = (|| UUID.to_owned(), || "bdev:///r1".to_owned(), || "x".to_owned());
        wrong! { found:
            "unknown" NotFound = c.add_child_nexus(AddChildNexusRequest { uuid: u(), uri: r(), norebuild: false });
            "malformed" InvalidArgument = c.add_child_nexus(AddChildNexusRequest { uuid: x(), uri: r(), norebuild: false });
            "unknown" NotFound = c.remove_child_nexus(RemoveChildNexusRequest { uuid: u(), uri: r() });
            "malformed" InvalidArgument = c.remove_child_nexus(RemoveChildNexusRequest { uuid: x(), uri: r() });
            "unknown" NotFound = c.child_operation(ChildNexusRequest { uuid: u(), uri: r(), action: 0 });
            "unknown" NotFound = c.child_operation(ChildNexusRequest { uuid: u(), uri: r(), action: 1 });
            "action" InvalidArgument = c.child_operation(ChildNexusRequest { uuid: u(), uri: r(), action: 2 });
            "malformed" InvalidArgument = c.child_operation(ChildNexusRequest { uuid: x(), uri: r(), action: 0 });
            "unknown" NotFound = c.start_rebuild(StartRebuildRequest { uuid: u(), uri: r() });
            "malformed" InvalidArgument = c.start_rebuild(StartRebuildRequest { uuid: x(), uri: r() });
            "unknown" NotFound = c.stop_rebuild(StopRebuildRequest { uuid: u(), uri: r() });
            "malformed" InvalidArgument = c.stop_rebuild(StopRebuildRequest { uuid: x(), uri: r() });
            "unknown" NotFound = c.pause_rebuild(PauseRebuildRequest { uuid: u(), uri: r() });
            "malformed" InvalidArgument = c.pause_rebuild(PauseRebuildRequest { uuid: x(), uri: r() });
            "unknown" NotFound = c.resume_rebuild(ResumeRebuildRequest { uuid: u(), uri: r() });
            "malformed" InvalidArgument = c.resume_rebuild(ResumeRebuildRequest { uuid: x(), uri: r() });
            "unknown" NotFound = c.get_rebuild_state(RebuildStateRequest { uuid: u(), uri: r() });
            "malformed" InvalidArgument = c.get_rebuild_state(RebuildStateRequest { uuid: x(), uri: r() });
            "unknown" NotFound = c.get_rebuild_progress(RebuildProgressRequest { uuid: u(), uri: r() });
            "malformed" InvalidArgument = c.get_rebuild_progress(RebuildProgressRequest { uuid: x(), uri: r() });
        }
        let b = &mut calls.bdev;
        let uri = |uri: &str| BdevUri { uri: uri.into() };
        let share = |name: &str, proto: &str| BdevShareRequest { name: name.into(), proto: proto.into() };
        wrong! { found:
            "scheme" InvalidArgument = b.create(uri("tape:///x"));
            "not a URI" InvalidArgument = b.create(uri("???"));
            "both sizes" InvalidArgument = b.create(uri("malloc:///m?size_mb=1&num_blocks=8"));
            "block size" InvalidArgument = b.create(uri("malloc:///m?size_mb=1&blk_size=513"));
            "exists" Internal = b.create(uri("malloc:///used?size_mb=8"));
            "missing file" Internal = b.create(uri("aio:///dev/nosuch"));
            "unknown" Internal = b.destroy(uri("malloc:///nosuch?size_mb=8"));
            "scheme" InvalidArgument = b.destroy(uri("tape:///x"));
            "in use" Internal = b.destroy(uri(&format!("aio://{disk}")));
            "unknown" NotFound = b.share(share("nosuch", "nvmf"));
            "protocol" InvalidArgument = b.share(share("used", "smb"));
            "unknown" NotFound = b.unshare(CreateReply { name: "nosuch".into() });
        }
        let wrong: Vec<_> = found.iter().filter(|(_, (code, message), wanted)| code != wanted || message.is_empty()).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert_eq!(calls.all().await, before);
    });
}

#[test]
fn a_crash_loses_nothing_that_was_answered() {
    let dir = Dir::new();
    let (disk, config) = (dir.disk("d1", 100), dir.path("config.yaml"));
    let nvme = format!("127.0.0.1:{}", common::free_port());
    let arguments = ["-y", config.as_str(), "--nvme", nvme.as_str()];
    let engine = Engine::start(&arguments);
    let runtime = common::runtime();
    let before = runtime.block_on(async {
        let mut calls = Calls::new(&engine).await;
        furnish(&mut calls, &disk).await;
        calls.v0.create_replica(replica("r2", "tank", 32)).await.expect("a replica");
        calls.v0.share_replica(ShareReplicaRequest { uuid: "r2".into(), share: NVMF }).await.expect("a share");
        calls.v0.create_nexus(nexus(UUID, 8 * MIB, &["bdev:///r1"])).await.expect("a nexus");
        calls.v0.publish_nexus(publish(UUID, "", 1)).await.expect("a device");
        calls.all().await
    });
    engine.kill();
    let engine = Engine::start(&arguments);
    // The kernel may hold the locks of a killed process a moment longer; until then the pool is listed as faulted.
    let after = runtime.block_on(async {
        let mut calls = Calls::new(&engine).await;
        loop {
            let now = calls.all().await;
            let pools = now.0.pools.iter().all(|pool| pool.state() == v1::PoolState::PoolOnline);
            if pools && now.0.nexuses.iter().all(|nexus| nexus.state() == v1::NexusState::NexusOnline) {
                return now;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    });
    assert_eq!((&after.0.pools, &after.0.replicas), (&before.0.pools, &before.0.replicas));
    assert!(after.1.bdevs.iter().any(|bdev| bdev.name == "used"), "{:?}", after.1);
    let device = |all: &(v1::NodeReport, Bdevs)| all.0.nexuses.iter().map(|n| n.device_uri.clone()).collect::<Vec<_>>();
    assert_eq!(device(&after), device(&before));
    assert!(device(&after)[0].ends_with(UUID), "it is published again, under the same name and port");
    assert_ne!(after.0.instance, before.0.instance);
    assert!(engine.terminate().success());
}

/// Waits until all children of the nexus are in sync.
async fn in_sync(v0: &mut MayastorClient<Channel>) -> Nexus {
    loop {
        let nexus = v0.list_nexus(Null {}).await.expect("a list").into_inner().nexus_list.remove(0);
        if nexus.state() == NexusState::NexusOnline && nexus.rebuilds == 0 {
            return nexus;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[test]
fn a_nexus_with_the_calls_of_v0_3_0() {
    const CHILDREN: [&str; 3] = ["malloc:///a?size_mb=40", "malloc:///b?size_mb=40", "malloc:///c?size_mb=40"];
    let [a, b, added] = CHILDREN;
    let engine = Engine::start(&[]);
    common::runtime().block_on(async {
        let Calls { mut v0, .. } = Calls::new(&engine).await;
        let made = v0.create_nexus(nexus(UUID, 32 * MIB, &[a, b])).await.expect("a nexus").into_inner();
        assert_eq!((made.uuid.as_str(), made.size, made.state()), (UUID, 32 * MIB, NexusState::NexusOnline));
        assert!(made.children.iter().all(|c| c.state() == ChildState::ChildOnline && c.rebuild_progress == -1), "{made:?}");
        let again = v0.create_nexus(nexus(UUID, 32 * MIB, &[a, b])).await.expect("the same nexus").into_inner();
        assert_eq!(again, made);

        let uri = format!("nvmf://{}/nqn.2019-05.io.openebs:nexus-{UUID}", engine.nvme);
        for _ in 0..2 {
            let reply = v0.publish_nexus(publish(UUID, "", 1)).await.expect("a device").into_inner();
            assert_eq!(reply.device_uri, uri);
        }
        assert_eq!(v0.list_nexus(Null {}).await.expect("a list").into_inner().nexus_list[0].device_uri, uri);

        // A child is added while the nexus is published, out of sync at first, and is rebuilt.
        let request = AddChildNexusRequest { uuid: UUID.into(), uri: added.into(), norebuild: true };
        let child = v0.add_child_nexus(request).await.expect("a child").into_inner();
        assert_eq!((child.uri.as_str(), child.state(), child.rebuild_progress), (added, ChildState::ChildDegraded, -1));
        let (u, c) = (|| UUID.to_owned(), || added.to_owned());
        v0.start_rebuild(StartRebuildRequest { uuid: u(), uri: c() }).await.expect("it starts");
        assert_eq!(in_sync(&mut v0).await.children.len(), 3);
        let action = |action| ChildNexusRequest { uuid: u(), uri: c(), action };
        for _ in 0..2 {
            v0.child_operation(action(0)).await.expect("it is offline");
        }
        let degraded = v0.list_nexus(Null {}).await.expect("a list").into_inner().nexus_list.remove(0);
        assert_eq!((degraded.state(), degraded.children[2].state()), (NexusState::NexusDegraded, ChildState::ChildDegraded));
        v0.child_operation(action(1)).await.expect("it is back");
        let whole = in_sync(&mut v0).await;

        let mut found = Vec::new();
        let (x, y) = (|| "malloc:///x?size_mb=40".to_owned(), || "malloc:///y?size_mb=8".to_owned());
        wrong! { found:
            "other size" AlreadyExists = v0.create_nexus(nexus(UUID, 31 * MIB, &CHILDREN));
            "other protocol" InvalidArgument = v0.publish_nexus(publish(UUID, "", 2));
            "child too small" InvalidArgument = v0.add_child_nexus(AddChildNexusRequest { uuid: u(), uri: y(), norebuild: false });
            "not offline" InvalidArgument = v0.child_operation(action(1));
            "unknown child" NotFound = v0.child_operation(ChildNexusRequest { uri: x(), ..action(0) });
            "unknown child" NotFound = v0.child_operation(ChildNexusRequest { uri: x(), ..action(1) });
            "unknown child" NotFound = v0.start_rebuild(StartRebuildRequest { uuid: u(), uri: x() });
            "not degraded" Internal = v0.start_rebuild(StartRebuildRequest { uuid: u(), uri: c() });
            "no job" Internal = v0.pause_rebuild(PauseRebuildRequest { uuid: u(), uri: c() });
            "no job" Internal = v0.resume_rebuild(ResumeRebuildRequest { uuid: u(), uri: c() });
            "no job" Internal = v0.get_rebuild_state(RebuildStateRequest { uuid: u(), uri: c() });
            "no job" Internal = v0.get_rebuild_progress(RebuildProgressRequest { uuid: u(), uri: c() });
        }
        let wrong: Vec<_> = found.iter().filter(|(_, (code, message), wanted)| code != wanted || message.is_empty()).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
        v0.stop_rebuild(StopRebuildRequest { uuid: u(), uri: c() }).await.expect("no job is fine");
        assert_eq!(in_sync(&mut v0).await, whole);

        for uri in [x(), c(), b.to_owned()] {
            v0.remove_child_nexus(RemoveChildNexusRequest { uuid: u(), uri }).await.expect("it is no child");
        }
        let last = RemoveChildNexusRequest { uuid: u(), uri: a.into() };
        assert_eq!(code(v0.remove_child_nexus(last).await).0, Code::InvalidArgument);
        for _ in 0..2 {
            v0.unpublish_nexus(UnpublishNexusRequest { uuid: u() }).await.expect("it is not published");
        }
        assert_eq!(in_sync(&mut v0).await.device_uri, "");
        let cbc = "0123456789abcdef";
        for key in [cbc.to_owned(), format!("{}fedcba9876543210", cbc.repeat(7))] {
            let request = publish(UUID, &key, 1);
            assert!(!format!("{request:?}").contains(&key), "{request:?}");
            let reply = v0.publish_nexus(request).await.expect("a device").into_inner();
            assert_eq!(reply.device_uri, format!("nvmf://{}/nqn.2019-05.io.openebs:crypto-nexus-{UUID}", engine.nvme));
            let without = code(v0.publish_nexus(publish(UUID, "", 1)).await);
            assert!(without.0 == Code::InvalidArgument && without.1.contains("give its key"), "{without:?}");
            v0.unpublish_nexus(UnpublishNexusRequest { uuid: u() }).await.expect("it is not published");
        }
        for _ in 0..2 {
            v0.destroy_nexus(DestroyNexusRequest { uuid: u() }).await.expect("it is gone");
        }
        assert!(v0.list_nexus(Null {}).await.expect("a list").into_inner().nexus_list.is_empty());
    });
}
