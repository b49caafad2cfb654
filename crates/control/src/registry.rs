//! The service for engines: they say that they are there, and record the ledgers of their nexuses.

use std::sync::Arc;

use api::v1;
use plan::Volume;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::Inner;
use crate::cluster;
use crate::nodes;
use crate::reconcile::ledger;
use crate::record::NodeRecord;
use crate::state::Fate;
use crate::store::StoreError;

/// See the module.
pub(crate) struct Service(pub Arc<Inner>);

#[tonic::async_trait]
impl v1::registry_server::Registry for Service {
    async fn register(&self, request: Request<v1::RegisterRequest>) -> Result<Response<v1::RegisterReply>, Status> {
        let inner = &self.0;
        let v1::RegisterRequest { id, grpc_endpoint, instance, labels } = request.into_inner();
        if id.is_empty() || grpc_endpoint.is_empty() {
            return Err(Status::invalid_argument("an engine registers with its id and its endpoint"));
        }
        nodes::check_labels(&labels)?;
        {
            let view = inner.cluster.lock();
            let other = view.nodes.get(&id).filter(|p| p.endpoint != grpc_endpoint && p.instance != instance);
            if let Some(other) = other.filter(|_| view.observed.is_online(&id)) {
                let text = format!("another engine called {id} is online at {}; names must differ", other.endpoint);
                return Err(Status::already_exists(text));
            }
        }
        let known = |n: &NodeRecord| n.endpoint == grpc_endpoint && n.engine_labels == labels;
        if !inner.state.read().nodes.get(&id).is_some_and(known) {
            let remember = |node: &mut NodeRecord| {
                node.endpoint.clone_from(&grpc_endpoint);
                node.engine_labels.clone_from(&labels);
            };
            inner.state.change_node(&id, remember).await.map_err(unavailable)?;
            inner.changed();
        }
        cluster::watch(inner, &id, &grpc_endpoint);
        let heartbeat_ms = u64::try_from(inner.options.heartbeat.as_millis()).unwrap_or(u64::MAX);
        Ok(Response::new(v1::RegisterReply { heartbeat_ms, cluster: inner.cluster_id.to_string() }))
    }

    async fn deregister(&self, request: Request<v1::DeregisterRequest>) -> Result<Response<v1::Empty>, Status> {
        cluster::lost(&self.0, &request.into_inner().id, "it was stopped").await;
        Ok(Response::new(v1::Empty {}))
    }

    async fn record_ledger(&self, request: Request<v1::RecordLedgerRequest>) -> Result<Response<v1::Empty>, Status> {
        let v1::RecordLedgerRequest { volume, ledger: wire, node } = request.into_inner();
        let id: Uuid =
            volume.parse().map_err(|_| Status::invalid_argument(format!("{volume:?} is not a uuid of a volume")))?;
        let wire = wire.ok_or_else(|| Status::invalid_argument("a ledger is needed"))?;
        let new = ledger(wire.generation, &wire.in_sync);
        if new.in_sync.is_empty() || new.in_sync.len() != wire.in_sync.len() {
            return Err(Status::invalid_argument("each member of a ledger must be a replica, and there must be one"));
        }
        match self.0.state.change(id, |volume| record(volume, new, &node)).await {
            Ok(Recorded::New) => self.0.changed(),
            // What was not written has to be true still: another control plane may have given the volume to another node.
            Ok(Recorded::Known) => self.0.state.confirm().await.map_err(unavailable)?,
            Err(Refusal::Fenced(why)) => {
                self.0.state.confirm().await.map_err(unavailable)?;
                return Err(Status::failed_precondition(why));
            }
            // Not a fence: records that were lost, or are those of another cluster, must not stop a volume that works.
            Err(Refusal::Unknown) => {
                let text =
                    format!("there is no volume {id} on record; if records were lost, see mayastor control recover");
                return Err(Status::not_found(text));
            }
            Err(Refusal::Store(error)) => return Err(unavailable(error)),
        }
        Ok(Response::new(v1::Empty {}))
    }
}

/// What came of a ledger.
enum Recorded {
    /// It is on record now.
    New,
    /// It was already.
    Known,
}

enum Refusal {
    Fenced(String),
    Unknown,
    Store(StoreError),
}
impl From<StoreError> for Refusal {
    fn from(e: StoreError) -> Refusal {
        Refusal::Store(e)
    }
}

fn unavailable(error: StoreError) -> Status {
    Status::unavailable(error.to_string())
}

/// The fence. A ledger is taken only from the volume's target, and only when it is newer than the one on record.
fn record(volume: Option<&mut Volume>, new: plan::Ledger, node: &str) -> Result<Fate<Recorded>, Refusal> {
    let Some(volume) = volume else { return Err(Refusal::Unknown) };
    // An engine that does not say who it is can only be judged by the generation.
    if !node.is_empty() && volume.target.as_deref() != Some(node) {
        let owner = volume.target.as_deref().unwrap_or("no node");
        return Err(Refusal::Fenced(format!("volume {} belongs to {owner}, not to {node}", volume.name)));
    }
    match &volume.ledger {
        Some(known) if *known == new => Ok(Fate::Unchanged(Recorded::Known)),
        Some(known) if known.generation >= new.generation => Err(Refusal::Fenced(format!(
            "volume {} has a ledger of generation {}, so that of generation {} is refused",
            volume.name, known.generation, new.generation
        ))),
        _ => {
            volume.ledger = Some(new);
            Ok(Fate::Put(Recorded::New))
        }
    }
}
