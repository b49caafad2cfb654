//! The engine's side of the talk with the control plane, against a control plane of the test's making.
#![allow(clippy::disallowed_methods, reason = "tests own files, sockets and processes")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::v1;
use api::v1::engine_client::EngineClient;
use api::v1::registry_server::{Registry, RegistryServer};
use common::Engine;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

const UUID: &str = "4dcf2b4c-1c37-4b0a-93b5-31a4b8f0d4a1";

/// Remembers what it was told; refuses ledgers when it shall.
#[derive(Clone, Default)]
struct Told {
    heard: Arc<Mutex<Vec<String>>>,
    fences: Arc<AtomicBool>,
}

impl Told {
    fn note(&self, what: String) {
        self.heard.lock().expect("nobody panics with it").push(what);
    }
    /// Waits until it was told something that begins so.
    async fn hears(&self, start: &str) -> String {
        loop {
            let found =
                self.heard.lock().expect("nobody panics with it").iter().find(|t| t.starts_with(start)).cloned();
            if let Some(found) = found {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tonic::async_trait]
impl Registry for Told {
    async fn register(&self, request: Request<v1::RegisterRequest>) -> Result<Response<v1::RegisterReply>, Status> {
        let v1::RegisterRequest { id, grpc_endpoint, .. } = request.into_inner();
        self.note(format!("register {id} {grpc_endpoint}"));
        Ok(Response::new(v1::RegisterReply { heartbeat_ms: 200, cluster: String::new() }))
    }
    async fn deregister(&self, request: Request<v1::DeregisterRequest>) -> Result<Response<v1::Empty>, Status> {
        self.note(format!("deregister {}", request.into_inner().id));
        Ok(Response::new(v1::Empty {}))
    }
    async fn record_ledger(&self, request: Request<v1::RecordLedgerRequest>) -> Result<Response<v1::Empty>, Status> {
        let v1::RecordLedgerRequest { volume, ledger, node } = request.into_inner();
        let ledger = ledger.expect("a ledger");
        assert!(ledger.generation > 0);
        if self.fences.load(Ordering::Relaxed) {
            return Err(Status::failed_precondition("a newer nexus owns the volume"));
        }
        self.note(format!("ledger {volume} {node} {}", ledger.in_sync.join(" ")));
        Ok(Response::new(v1::Empty {}))
    }
}

/// Serves it on a thread of its own, until the tests end.
fn serve(told: Told) -> String {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        common::runtime().block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            sender.send(listener.local_addr().expect("an address").to_string()).expect("somebody waits");
            let server = Server::builder().add_service(RegistryServer::new(told));
            server.serve_with_incoming(TcpIncoming::from(listener)).await.expect("it serves");
        });
    });
    receiver.recv().expect("an address")
}

fn managed(uuid: &str, child: &str) -> v1::CreateNexusRequest {
    v1::CreateNexusRequest {
        uuid: uuid.into(),
        size: 8 << 20,
        children: vec![child.into()],
        ledger: None,
        managed: true,
    }
}

#[test]
fn an_engine_registers_records_its_ledgers_and_says_goodbye() {
    let told = Told::default();
    let address = serve(told.clone());
    let runtime = common::runtime();
    let engine = Engine::start(&["-N", "n7", "--control", &address]);
    runtime.block_on(async {
        assert_eq!(told.hears("register").await, format!("register n7 {}", engine.grpc));
        let mut client = EngineClient::new(common::channel(&engine.grpc).await);
        let child = "malloc:///a?size_mb=16";
        client.create_nexus(managed(UUID, child)).await.expect("a managed nexus");
        assert_eq!(told.hears("ledger").await, format!("ledger {UUID} n7 {child}"));

        told.fences.store(true, Ordering::Relaxed);
        let other = "5a9ff0d3-5d26-4b4a-9d1e-0e0f7b5f6f11";
        // Its member has room for the record, so it may open before the answer comes; with the answer it stops serving.
        let _ = client.create_nexus(managed(other, "malloc:///b?size_mb=16")).await;
        loop {
            let report = client.get_node(v1::Empty {}).await.expect("a report").into_inner();
            match report.nexuses.iter().find(|nexus| nexus.uuid == other) {
                Some(nexus) if nexus.state() == v1::NexusState::NexusOnline => {}
                None => break,
                Some(nexus) => {
                    assert_eq!(nexus.state(), v1::NexusState::NexusFaulted);
                    break;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let report = client.get_node(v1::Empty {}).await.expect("a report").into_inner();
        let first = report.nexuses.iter().find(|nexus| nexus.uuid == UUID).expect("it is there");
        assert_eq!(first.state(), v1::NexusState::NexusOnline, "the other volume is not touched");
    });
    assert!(engine.terminate().success());
    runtime.block_on(told.hears("deregister n7"));
}

#[test]
fn an_engine_without_its_control_plane_works_on() {
    let nobody = format!("127.0.0.1:{}", common::free_port());
    let engine = Engine::start(&["--control", &nobody]);
    assert!(engine.client("bdev create malloc:///a?size_mb=8").ok().contains("Created device a"));
    assert!(engine.client("bdev list -q").ok().starts_with("a "));
    assert!(engine.terminate().success());
}
