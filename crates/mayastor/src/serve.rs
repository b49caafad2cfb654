//! `mayastor engine`: a storage node as a process.
//!
//! Two threads: the data thread owns the [`engine::node::Node`] and all I/O; the control thread, with tokio, owns the gRPC
//! server and the talk with the control plane. Calls cross over as closures that the data thread runs.

mod bdev;
mod control;
mod convert;
mod nats;
mod options;
mod status;
mod terms;
mod v0;
mod v1;

use std::time::Duration;

use access::conn::Incoming;
use access::{Access, GateLayer};
use api::v0::bdev_rpc_server::BdevRpcServer;
use api::v0::mayastor_server::MayastorServer;
use api::v1::engine_server::EngineServer;
use axum::middleware::from_fn_with_state;
use engine::model::Error;
use engine::node::{Node, NodeOptions};
use host::LocalFuture;
use ring::Shard;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::transport::Server;

pub use options::{Arguments, EXAMPLES};

use crate::access::{Credentials, Place};
use crate::failure::{Done, Failure};
use crate::output;
use options::Plan;
use terms::Terms;
use v0::on_node;

/// How long a stop waits for calls that are still running.
const STOP: Duration = Duration::from_secs(3);

/// The node, for the gRPC services.
#[derive(Clone)]
pub struct Engine {
    shard: Shard<Node>,
    /// Where others reach the gRPC services.
    endpoint: String,
    /// Becomes true when the process is told to stop.
    stopping: watch::Receiver<bool>,
}

impl Engine {
    /// Runs a call on the data thread.
    async fn call<R, F>(&self, call: F) -> Result<R, Error>
    where
        R: Send + 'static,
        F: FnOnce(std::rc::Rc<Node>) -> LocalFuture<'static, Result<R, Error>> + Send + 'static,
    {
        self.shard.call(call).await.unwrap_or_else(|ring::Gone| Err(Error::unavailable("the engine is stopping")))
    }
}

/// Runs the role until SIGTERM or SIGINT.
pub async fn run(arguments: Arguments, control: Option<String>, own: Credentials) -> Done {
    let doors = arguments.doors.clone();
    let plan = arguments.plan(control)?;
    let (access, _) = doors.open(&own, Place { ports: &[plan.grpc], data_dir: None })?;
    let cannot = |error| Failure::failed(format!("cannot listen on {} for gRPC: {error}", plan.grpc));
    let listener = TcpListener::bind(plan.grpc).await.map_err(cannot)?;
    let endpoint = plan.grpc_endpoint(listener.local_addr().map_err(cannot)?);
    let mut signals = Signals::new()?;
    let (stop, stopping) = watch::channel(false);
    let link = match plan.control.as_slice() {
        [] => None,
        addresses => Some(control::Link::new(addresses, plan.node_name.clone(), &access.dial)?),
    };

    // On a thread of its own: while the node brings back its nexuses it may ask the control plane, through this one.
    let starting = tokio::task::spawn_blocking({
        let (plan, link) = (plan.clone(), link.clone());
        move || start(&plan, link)
    });
    let shard = tokio::select! {
        shard = starting => shard.map_err(Failure::failed)??,
        // The data thread ends with the process; what it has not answered it has not promised.
        signal = signals.next() => {
            tracing::info!("{signal}: stopped while starting");
            return Ok(());
        }
    };
    let engine = Engine { shard, endpoint: endpoint.clone(), stopping: stopping.clone() };
    let (instance, nvmf) = identity(&engine).await?;
    output::print(&format!("engine {} ready: gRPC {endpoint}, NVMe/TCP {nvmf}\n", plan.node_name))?;

    let registration = link.map(|link| {
        let report = api::v1::RegisterRequest {
            id: plan.node_name.clone(),
            grpc_endpoint: endpoint,
            instance,
            labels: plan.labels.clone(),
        };
        tokio::spawn(control::register(link, report, stopping.clone()))
    });
    let nats = plan.nats.clone().map(|(server, interval)| {
        let (node, endpoint) = (plan.node_name.clone(), engine.endpoint.clone());
        tokio::spawn(nats::register(nats::Registration { server, node, endpoint, interval }, stopping.clone()))
    });
    let server = tokio::spawn(serve(listener, engine.clone(), access));
    tokio::pin!(server);
    tokio::select! {
        signal = signals.next() => tracing::info!("{signal}: stopping"),
        ended = &mut server => {
            let why = match ended {
                Ok(Ok(())) => "it ended".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(panic) => panic.to_string(),
            };
            return Err(Failure::failed(format!("the gRPC server failed: {why}")));
        }
    }
    let _ = stop.send(true);
    if let Some(registration) = registration {
        let _ = registration.await;
    }
    if let Some(nats) = nats {
        let _ = nats.await;
    }
    if tokio::time::timeout(STOP, &mut server).await.is_err() {
        tracing::info!("connections or calls were still there after {STOP:?}");
    }
    finish(engine.shard).await;
    tracing::info!("stopped");
    Ok(())
}

/// Starts the data thread with the node on it.
fn start(plan: &Plan, link: Option<control::Link>) -> Result<Shard<Node>, Failure> {
    let options = ring::Options { spin: plan.spin, name: "data".into(), cpu: plan.cpu };
    let (id, nvmf_bind, nvmf_advertised) = (plan.node_name.clone(), plan.nvme, plan.nvme_advertise.clone());
    let (config_path, iscsi, nbd_port) = (plan.config.clone(), plan.iscsi.clone(), plan.nbd_port);
    let shard = Shard::start(options, move |host| {
        Box::pin(async move {
            let managed_ledgers = link.map(|link| link.ledgers());
            let options = NodeOptions { id, nvmf_bind, nvmf_advertised, iscsi, nbd_port, config_path, managed_ledgers };
            Node::start(host, options).await
        })
    });
    shard.map_err(|error| Failure::failed(format!("the engine did not start: {error}")))
}

async fn identity(engine: &Engine) -> Result<(String, String), Failure> {
    let both = |node: std::rc::Rc<Node>| -> LocalFuture<'static, _> {
        Box::pin(async move { Ok((node.report().instance.to_string(), node.nvmf_address())) })
    };
    engine.call(both).await.map_err(Failure::failed)
}

/// Serves until the engine is stopping and all calls have ended.
async fn serve(listener: TcpListener, engine: Engine, access: Access) -> Result<(), tonic::transport::Error> {
    let mut stopping = engine.stopping.clone();
    let term = on_node!(engine, node => Ok(node.control_term())).await.unwrap_or(0);
    let obey = from_fn_with_state((engine.clone(), Terms::new(term)), terms::obey);
    let services = Routes::new(MayastorServer::new(engine.clone()))
        .add_service(BdevRpcServer::new(engine.clone()))
        .add_service(EngineServer::new(engine))
        .into_axum_router()
        .layer(obey);
    Server::builder()
        .layer(GateLayer::new(access.gate))
        .add_routes(Routes::from(services))
        .serve_with_incoming_shutdown(Incoming::new(listener, access.tls), async move {
            // An error means that the sender is gone, which is a stop too.
            let _ = stopping.wait_for(|stop| *stop).await;
        })
        .await
}

/// Closes the node and ends the data thread.
async fn finish(shard: Shard<Node>) {
    let closed = shard.call(|node| Box::pin(async move { node.stop().await }));
    if tokio::time::timeout(STOP, closed).await.is_err() {
        tracing::warn!("the node was not closed in {STOP:?}; its disks are safe, they are only not marked as closed");
    }
    // It joins the thread, which may take a moment.
    let _ = tokio::task::spawn_blocking(move || shard.stop()).await;
}

/// SIGTERM and SIGINT.
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    /// Catches them from now on.
    pub fn new() -> Result<Signals, Failure> {
        use tokio::signal::unix::{SignalKind, signal};
        let catch = |kind| signal(kind).map_err(|error| Failure::failed(format!("cannot catch signals: {error}")));
        Ok(Signals { terminate: catch(SignalKind::terminate())?, interrupt: catch(SignalKind::interrupt())? })
    }
    /// Waits for one and says which.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
