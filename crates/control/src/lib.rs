//! The control plane: knows what was asked for, watches the storage nodes, and does what [`plan`](::plan) says.
//!
//! * [`store`]: where what must not be forgotten is kept (volumes with their copies and ledgers, nodes, events).
//! * `state`: the same in memory; every change goes to the store first.
//! * `cluster`: what the nodes report, and since when.
//! * `reconcile`, `execute`: ask the planner, carry out its actions, one set a volume at a time.
//! * [`recover`]: records that were lost, made anew from what the disks say.
//! * `statistics`: what is read and written, lately and in all.
//! * `rest`: the same verbs as `service` over HTTP, the page, metrics.
//! * `nodes`, `limits`, `rebalance`: what an operator says about nodes, about how much may be done, and about balance.
//! * `standby`, `leadership`: what one of several control planes says while another one leads.
//! * `registry`, `service`: the gRPC services for engines and for clients; `words`: what people read.
//!
//! A crash at any point is harmless: records are written before the node is told, actions are idempotent, and the planner
//! is asked again from the records and the reports.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "the control plane lives in the real world: clock, uuids, sockets")]

mod cluster;
mod create;
mod events;
mod execute;
mod hosts;
mod leadership;
mod limits;
mod nodes;
mod operate;
mod rebalance;
mod reconcile;
mod record;
pub mod recover;
mod registry;
mod resize;
mod rest;
mod service;
mod standby;
mod state;
mod statistics;
pub mod store;
mod words;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use access::conn::Incoming;
use access::{Access, GateLayer};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tonic::{Request, Status};
use uuid::Uuid;

pub use events::EventStream;
pub use standby::Standby;

use cluster::Cluster;
use state::State;
use store::election::{Candidate, Leadership, Reign};
use store::{Store, StoreError};

/// How a control plane behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// The planner's patience.
    pub settings: plan::Settings,
    /// How often engines say that they are there; three missed ones make a node unreachable.
    pub heartbeat: Duration,
    /// How often everything is looked at even when nothing was reported.
    pub tick: Duration,
    /// How long a call to an engine may take.
    pub rpc_deadline: Duration,
    /// How long a client's call waits for its wish to come true before it is answered with how far things are.
    pub client_wait: Duration,
    /// The first pause after a failed action; doubled with each failure, up to 30 s.
    pub retry: Duration,
    /// How many events are kept.
    pub events: usize,
    /// Whom it lets in, and what it shows to engines.
    pub access: Access,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            settings: plan::Settings::default(),
            heartbeat: Duration::from_secs(2),
            tick: Duration::from_secs(1),
            rpc_deadline: Duration::from_secs(20),
            client_wait: Duration::from_secs(30),
            retry: Duration::from_millis(500),
            events: 5_000,
            access: Access::default(),
        }
    }
}

/// A running control plane. Clones are handles to the same one; when the last is dropped, everything ends.
#[derive(Clone)]
pub struct Control(Arc<Inner>);

pub(crate) struct Inner {
    pub options: Options,
    pub cluster_id: Uuid,
    pub state: State,
    pub cluster: Cluster,
    pub events: events::Events,
    /// Wakes the reconcile loop.
    pub wake: Notify,
    /// Counts changes, for everyone who waits for one.
    pub version: watch::Sender<u64>,
    pub work: reconcile::Work,
    pub statistics: statistics::Statistics,
    /// For how long this control plane leads.
    pub reign: Reign,
    /// How others know it.
    pub candidate: Candidate,
    clock: Clock,
}

/// Milliseconds since the control plane started, on a clock that never jumps, moved up so that "long ago" is not negative.
struct Clock(tokio::time::Instant);

impl Inner {
    pub(crate) fn now_ms(&self) -> u64 {
        const ORIGIN_MS: u64 = 1_000_000_000;
        ORIGIN_MS + u64::try_from(self.clock.0.elapsed().as_millis()).unwrap_or(u64::MAX / 2)
    }
    /// That this control plane leads; if not, the answer to whoever asks it.
    pub(crate) fn leads(&self) -> Result<(), Status> {
        if self.reign.is_valid() { Ok(()) } else { Err(standby::unavailable(&standby::Known::default())) }
    }
    /// Something changed: plan again, tell the watchers.
    pub(crate) fn changed(&self) {
        self.version.send_modify(|v| *v += 1);
        self.wake.notify_one();
    }
}

impl Control {
    /// Reads the store and starts to work: watches the nodes that it knows, plans, repairs. Must be called inside a tokio
    /// runtime.
    pub async fn start(store: Arc<dyn Store>, options: Options) -> Result<Control, StoreError> {
        let leadership = Leadership { store, reign: Reign::forever() };
        Control::lead(leadership, Candidate::default(), options).await
    }

    /// The same for one of several control planes, for as long as it leads.
    pub async fn lead(
        Leadership { store, reign }: Leadership,
        candidate: Candidate,
        options: Options,
    ) -> Result<Control, StoreError> {
        let state = State::load(store.clone()).await?;
        let events = events::Events::load(store, options.events).await?;
        let inner = Arc::new(Inner {
            cluster_id: state.cluster_id(),
            state,
            cluster: Cluster::default(),
            events,
            wake: Notify::new(),
            version: watch::Sender::new(0),
            work: reconcile::Work::default(),
            statistics: statistics::Statistics::default(),
            reign,
            candidate,
            clock: Clock(tokio::time::Instant::now()),
            options,
        });
        for (id, endpoint) in inner.state.nodes() {
            cluster::watch(&inner, &id, &endpoint);
        }
        tokio::spawn(reconcile::run(Arc::downgrade(&inner)));
        tokio::spawn(statistics::run(Arc::downgrade(&inner)));
        Ok(Control(inner))
    }

    /// Lets go of everything, because another control plane may lead now: nothing is done any more, and whoever still asks is
    /// told so.
    pub async fn resign(&self) {
        self.0.reign.resign().await;
        self.0.cluster.clear();
    }

    /// Its number among all that ever led this cluster; the engines know it.
    pub fn term(&self) -> u64 {
        self.0.state.term()
    }

    /// Serves engines and clients on the socket until `shutdown` ends.
    pub async fn serve(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), tonic::transport::Error> {
        use api::v1::{
            control_server::ControlServer, leadership_server::LeadershipServer, registry_server::RegistryServer,
        };
        let (stop, stopped) = watch::channel(());
        let service = service::Service::new(self.0.clone(), stopped);
        let Access { gate, tls, .. } = self.0.options.access.clone();
        let inner = self.0.clone();
        let leads = move |request: Request<()>| inner.leads().map(|()| request);
        tonic::transport::Server::builder()
            .tcp_nodelay(true)
            .http2_keepalive_interval(Some(Duration::from_secs(10)))
            .layer(GateLayer::new(gate).with_notary(events::notary(&self.0)))
            .add_service(LeadershipServer::new(leadership::Here(self.0.clone())))
            .add_service(RegistryServer::with_interceptor(registry::Service(self.0.clone()), leads.clone()))
            .add_service(ControlServer::with_interceptor(service, leads))
            .serve_with_incoming_shutdown(Incoming::new(listener, tls), async move {
                shutdown.await;
                // Streams would otherwise keep the server from ending.
                drop(stop);
            })
            .await
    }

    /// Serves people and programs over HTTP on the socket until `shutdown` ends: the page, the REST API, metrics.
    pub async fn serve_http(&self, listener: TcpListener, shutdown: impl Future<Output = ()>) -> std::io::Result<()> {
        rest::serve(self.0.clone(), listener, shutdown).await
    }

    /// The status of everything, as clients get it.
    pub fn status(&self) -> api::v1::Status {
        words::status(&self.0)
    }
    /// What happens from now on.
    pub fn events(&self) -> EventStream {
        EventStream::new(&self.0.events)
    }
    /// Waits until something changed after `seen` and returns the new count; start with 0.
    pub async fn changed(&self, seen: u64) -> u64 {
        let mut version = self.0.version.subscribe();
        // The sender lives as long as `self`.
        let changed = version.wait_for(|v| *v > seen).await.map(|v| *v);
        changed.unwrap_or(seen)
    }
}
