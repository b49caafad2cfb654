//! The remote disk over real sockets: target and initiator on one thread, on the loopback interface.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use block::{BlockRange, BlockSize, Bytes, Fault};
use engine::load::{self, Model, Pattern, Stop, Workload};
use engine::malloc::Malloc;
use engine::remote::{self, RemoteOptions, RemoteSpec, RemoteState};
use engine::target::{Export, TargetOptions, TargetServer};
use host::conformance::check_disk;
use host::{DiskExt, DiskRef, Host};
use ring::{Options, run};
use uuid::Uuid;

const NQN: &str = "nqn.2019-05.io.openebs:loopback";
const UUID: Uuid = Uuid::from_u128(0x51a3);

async fn serve(host: &Host, disk: DiskRef, bind: SocketAddr) -> Rc<TargetServer> {
    let server =
        TargetServer::start(host, TargetOptions { bind, advertised: None }).await.expect("the address is free");
    server.export(Export { nqn: NQN.into(), uuid: UUID, disk }).expect("it is served");
    server
}

fn any() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn spec(server: &TargetServer) -> RemoteSpec {
    RemoteSpec {
        host: "127.0.0.1".into(),
        port: server.address().port(),
        nqn: NQN.into(),
        host_nqn: "nqn.2019-05.io.openebs:nexus-1".into(),
        uuid: None,
    }
}

#[test]
fn it_is_a_disk() {
    for (block_size, data_digest) in [(BlockSize::B512, false), (BlockSize::B4096, true)] {
        run(Options::default(), move |host| async move {
            let server = serve(&host, Rc::new(Malloc::new("m", Bytes(32 << 20), block_size)), any()).await;
            let options =
                RemoteOptions { data_digest, header_digest: data_digest, queues: 2, ..RemoteOptions::default() };
            let disk = remote::connect(&host, spec(&server), options).await.expect("it connects");
            check_disk(&host, disk.clone()).await;
            disk.close().await;
            server.stop().await;
        });
    }
}

#[test]
fn every_size_arrives_intact() {
    run(Options::default(), |host| async move {
        let server = serve(&host, Rc::new(Malloc::new("m", Bytes(64 << 20), BlockSize::B512)), any()).await;
        let options = RemoteOptions { queues: 2, depth: 16, ..RemoteOptions::default() };
        let disk: DiskRef = remote::connect(&host, spec(&server), options).await.expect("it connects");
        let mut model = Model::new(1);
        for (bytes, requests) in [(4096, 3000), (16384, 500), (131_072, 200), (1 << 20, 40), (5 << 20, 10)] {
            let work = Workload {
                pattern: Pattern::Random,
                unmap_percent: 5,
                request_bytes: bytes,
                stop: Stop::Requests(requests),
                seed: u64::from(bytes),
                ..Workload::default()
            };
            let report = load::run(&host, &disk, &work, Some(&mut model)).await.expect("no fault");
            assert_eq!(report.mismatches, 0, "{:?}", report.examples);
        }
        assert_eq!(model.verify_all(&disk).await.expect("no fault").mismatches, 0);
        server.stop().await;
    });
}

/// The target stops in an orderly way and starts again on the same port, under load: nothing fails.
#[test]
fn a_target_that_comes_back() {
    run(Options::default(), |host| async move {
        let below: DiskRef = Rc::new(Malloc::new("m", Bytes(8 << 20), BlockSize::B4096));
        let server = serve(&host, below.clone(), any()).await;
        let address = server.address();
        // The memory below outlives the server, so that nothing is lost by the restart.
        let options = RemoteOptions { on_restart: remote::OnRestart::Resume, ..RemoteOptions::default() };
        let disk = remote::connect(&host, spec(&server), options).await.expect("it connects");
        let (h, shared) = (host.clone(), disk.clone() as DiskRef);
        let load = host.spawn(async move {
            let mut model = Model::new(7);
            let work = Workload { stop: Stop::After(Duration::from_millis(1500)), depth: 8, ..Workload::default() };
            let report = load::run(&h, &shared, &work, Some(&mut model)).await.expect("no fault");
            (report.mismatches, model.verify_all(&shared).await.expect("no fault").mismatches)
        });
        host.sleep(Duration::from_millis(300)).await;
        server.stop().await;
        drop(server);
        host.sleep(Duration::from_millis(200)).await;
        let server = serve(&host, below, address).await;
        assert_eq!(load.await, Some((0, 0)));
        assert_eq!(disk.state(), RemoteState::Up);
        server.stop().await;
        // And now for good.
        let gone =
            remote::connect(&host, spec(&server), RemoteOptions::default()).await.map(|_| ()).expect_err("refused");
        assert!(gone.to_string().contains("cannot connect"), "{gone}");
        disk.close().await;
        assert_eq!(disk.read(BlockRange::new(0, 1)).await.err(), Some(Fault::Aborted));
    });
}
