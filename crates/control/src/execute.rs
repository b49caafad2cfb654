//! Carries out one action: records first, then the node, then what the node answered.

use std::sync::Arc;

use api::v1;
use plan::{Action, PoolId, Publish, Replica, ReplicaLife, Volume, safety};
use tonic::{Code, Response, Status};
use uuid::Uuid;

use crate::Inner;
use crate::cluster::Engine;
use crate::state::Fate;
use crate::store::StoreError;

/// Why an action failed, for an operator.
#[derive(Debug)]
pub(crate) struct Failure(pub String);

impl From<StoreError> for Failure {
    fn from(e: StoreError) -> Failure {
        Failure(e.to_string())
    }
}
impl From<Status> for Failure {
    fn from(s: Status) -> Failure {
        Failure(if s.message().is_empty() { s.code().description().to_owned() } else { s.message().to_owned() })
    }
}

/// How long a pool that had no room for a replica is left alone.
const AVOID_MS: u64 = 30_000;

/// Carries out an action, if it is still safe now.
pub(crate) async fn execute(inner: &Arc<Inner>, action: &Action) -> Result<(), Failure> {
    inner.leads()?;
    let (volume, operation) = {
        let (mut cache, mut view) = (inner.state.read(), inner.cluster.lock());
        let id = action.volume();
        if let Some(volume) = cache.desired.volumes.get_mut(&id) {
            view.note_nexuses(id, volume);
        }
        safety::allow(action, &cache.desired, &view.observed).map_err(|refusal| Failure(refusal.0))?;
        let Some(volume) = cache.desired.volumes.get(&id) else { return Ok(()) };
        (volume.clone(), cache.operation(volume))
    };
    let volume = &volume;
    match action.node() {
        None => record(inner, action).await?,
        Some(node) => {
            record_before(inner, action).await?;
            let client = inner.cluster.client(node).ok_or_else(|| Failure(format!("node {node} is not known")))?;
            let call = call(inner, client, action, volume);
            let limit = inner.options.rpc_deadline;
            let late =
                |_| Status::deadline_exceeded(format!("node {node} did not answer within {} s", limit.as_secs()));
            let done = tokio::time::timeout(limit, call).await.map_err(late).and_then(|done| done);
            if let Err(status) = done {
                after_failure(inner, action, &status);
                return Err(Failure(format!("{node}: {}", Failure::from(status).0)));
            }
        }
    }
    tell(inner, action, volume, &operation).await;
    Ok(())
}

/// Changes a copy's record.
fn set_life(volume: &mut Volume, replica: Uuid, life: ReplicaLife) {
    if let Some(copy) = volume.copies.get_mut(&replica) {
        copy.life = life;
    }
}

/// Actions that only change records.
async fn record(inner: &Arc<Inner>, action: &Action) -> Result<(), StoreError> {
    let edit = |volume: Option<&mut Volume>| {
        let Some(volume) = volume else { return Ok(Fate::Unchanged(())) };
        match action {
            Action::Place { pool, .. } => {
                let copy = Replica { pool: pool.clone(), life: ReplicaLife::Placed };
                volume.copies.insert(Uuid::new_v4(), copy);
            }
            Action::Discard { replica, .. } => set_life(volume, *replica, ReplicaLife::Discarded),
            Action::Retire { replica, .. } => {
                set_life(volume, *replica, ReplicaLife::Retired);
                if volume.moving.as_ref().is_some_and(|m| m.replica == *replica) {
                    volume.moving = None;
                }
            }
            Action::Reinstate { replica, .. } => set_life(volume, *replica, ReplicaLife::Member),
            Action::ForgetReplica { replica, .. } => drop(volume.copies.remove(replica)),
            Action::SetTarget { node, .. } => {
                volume.target = Some(node.clone());
                volume.nexus_nodes.insert(node.clone());
                if matches!(volume.publish, Publish::On(_)) {
                    volume.publish = Publish::On(node.clone());
                }
            }
            Action::ForgetNexus { node, .. } => drop(volume.nexus_nodes.remove(node)),
            Action::ForgetVolume { .. } => return Ok(Fate::Delete(())),
            _ => return Ok(Fate::Unchanged(())),
        }
        Ok(Fate::Put(()))
    };
    inner.state.change(action.volume(), edit).await
}

/// What must be on record before a node is told: a copy that a nexus gets may hold data from then on.
async fn record_before(inner: &Arc<Inner>, action: &Action) -> Result<(), StoreError> {
    let members: &[Uuid] = match action {
        Action::OpenNexus { children, .. } => children,
        Action::AddChild { replica, .. } => std::slice::from_ref(replica),
        _ => return Ok(()),
    };
    let edit = |volume: Option<&mut Volume>| {
        let Some(volume) = volume else { return Ok(Fate::Unchanged(())) };
        let mut placed = members.iter().filter(|m| volume.copies.get(m).is_some_and(|r| r.life == ReplicaLife::Placed));
        if placed.next().is_none() {
            return Ok(Fate::Unchanged(()));
        }
        for member in members {
            if volume.copies.get(member).is_some_and(|r| r.life == ReplicaLife::Placed) {
                set_life(volume, *member, ReplicaLife::Member);
            }
        }
        Ok(Fate::Put(()))
    };
    inner.state.change(action.volume(), edit).await
}

/// The URI by which a nexus on `target` uses a copy.
fn child_uri(inner: &Inner, volume: &Volume, replica: Uuid, target: &str) -> Result<String, Status> {
    let gone = || Status::not_found(format!("replica {replica} is not known"));
    let node = &volume.copies.get(&replica).ok_or_else(gone)?.pool.node;
    if node == target {
        return Ok(format!("bdev:///{replica}"));
    }
    let view = inner.cluster.lock();
    let seen = view.nodes.get(node).and_then(|p| p.replicas.get(&replica));
    match seen {
        Some(r) if r.shared => Ok(r.uri.clone()),
        _ => Err(Status::failed_precondition(format!("replica {replica} on {node} is not shared"))),
    }
}

/// The URI by which the nexus on `node` knows a copy; the usual one when it does not.
fn known_uri(inner: &Inner, volume: Uuid, replica: Uuid, node: &str) -> String {
    let view = inner.cluster.lock();
    let nexus = view.nodes.get(node).and_then(|p| p.nexuses.get(&volume));
    let uri = nexus.and_then(|n| n.children.iter().find(|c| crate::cluster::uuid_of(&c.uri) == Some(replica)));
    uri.map_or_else(|| format!("bdev:///{replica}"), |c| c.uri.clone())
}

async fn call(inner: &Arc<Inner>, mut client: Engine, action: &Action, volume: &Volume) -> Result<(), Status> {
    let id = action.volume();
    let nexus_name = || v1::NexusName { uuid: id.to_string() };
    let take_nexus = |node: &str, reply: Response<v1::Nexus>| {
        inner.cluster.lock().take_nexus(node, reply.into_inner(), inner.now_ms());
    };
    match action {
        Action::CreateReplica { replica, pool, size, thin, share, .. } => {
            let request = v1::CreateReplicaRequest {
                uuid: replica.to_string(),
                pool: pool.pool.clone(),
                size: size.0,
                thin: *thin,
                share: *share,
            };
            let reply = client.create_replica(request).await?;
            inner.cluster.lock().take_replica(&pool.node, reply.into_inner());
        }
        Action::ShareReplica { replica, node, share, .. } => {
            let request = v1::ShareReplicaRequest { uuid: replica.to_string(), share: *share };
            let reply = client.share_replica(request).await?;
            inner.cluster.lock().take_replica(node, reply.into_inner());
        }
        Action::ResizeReplica { replica, pool, size, .. } => {
            let request = v1::ResizeReplicaRequest { uuid: replica.to_string(), size: size.0 };
            let reply = client.resize_replica(request).await?;
            inner.cluster.lock().take_replica(&pool.node, reply.into_inner());
        }
        Action::ResizeNexus { node, size, .. } => {
            let request = v1::ResizeNexusRequest { uuid: id.to_string(), size: size.0 };
            take_nexus(node, client.resize_nexus(request).await?);
        }
        Action::DestroyReplica { replica, node, .. } => {
            gone_is_fine(client.destroy_replica(v1::ReplicaName { uuid: replica.to_string() }).await)?;
            inner.cluster.lock().drop_replica(node, *replica);
        }
        Action::OpenNexus { node, children, .. } => {
            let request = open_request(inner, volume, id, node, children)?;
            take_nexus(node, client.create_nexus(request).await?);
        }
        Action::CloseNexus { node, .. } => {
            gone_is_fine(client.destroy_nexus(nexus_name()).await)?;
            inner.cluster.lock().drop_nexus(node, id);
        }
        Action::Publish { node, .. } => take_nexus(node, client.publish_nexus(nexus_name()).await?),
        Action::Unpublish { node, .. } => take_nexus(node, client.unpublish_nexus(nexus_name()).await?),
        Action::AddChild { node, replica, .. } => {
            let uri = child_uri(inner, volume, *replica, node)?;
            take_nexus(node, client.add_child(v1::ChildRequest { uuid: id.to_string(), uri }).await?);
        }
        Action::RemoveChild { node, replica, .. } => {
            let uri = known_uri(inner, id, *replica, node);
            take_nexus(node, client.remove_child(v1::ChildRequest { uuid: id.to_string(), uri }).await?);
        }
        other => unreachable!("{other} is not for a node"),
    }
    Ok(())
}

fn open_request(
    inner: &Inner,
    volume: &Volume,
    id: Uuid,
    node: &str,
    members: &[Uuid],
) -> Result<v1::CreateNexusRequest, Status> {
    let children: Result<Vec<String>, Status> = members.iter().map(|m| child_uri(inner, volume, *m, node)).collect();
    let ledger = volume.ledger.as_ref().map(|l| v1::Ledger {
        generation: l.generation.0,
        // A member that cannot be had now still counts as one; any name will do that ends with its uuid.
        in_sync: l
            .in_sync
            .iter()
            .map(|m| child_uri(inner, volume, *m, node).unwrap_or_else(|_| format!("bdev:///{m}")))
            .collect(),
    });
    let children = children?;
    Ok(v1::CreateNexusRequest { uuid: id.to_string(), size: volume.size.0, children, ledger, managed: true })
}

/// What was to be destroyed is not there: so much the better.
fn gone_is_fine(reply: Result<Response<v1::Empty>, Status>) -> Result<(), Status> {
    match reply {
        Err(status) if status.code() == Code::NotFound => Ok(()),
        other => other.map(|_| ()),
    }
}

/// A pool that has no room, whatever it reports, is left alone for a while, and the copy goes elsewhere.
fn after_failure(inner: &Arc<Inner>, action: &Action, status: &Status) {
    if let (Action::CreateReplica { volume, replica, pool, .. }, Code::ResourceExhausted) = (action, status.code()) {
        let pool: &PoolId = pool;
        inner.cluster.lock().shun(pool, inner.now_ms() + AVOID_MS);
        let (inner, discard) = (inner.clone(), Action::Discard { volume: *volume, replica: *replica });
        tokio::spawn(async move {
            if let Err(failure) = Box::pin(execute(&inner, &discard)).await {
                tracing::warn!(action = %discard, "failed: {}", failure.0);
            }
            inner.changed();
        });
    }
}

/// What operators want to hear about.
async fn tell(inner: &Arc<Inner>, action: &Action, volume: &Volume, operation: &str) {
    let name = &volume.name;
    let node_of = |replica: &Uuid| volume.copies.get(replica).map_or("?", |r| r.pool.node.as_str());
    let opened = volume.ledger.is_some();
    let (kind, text) = match action {
        Action::Place { pool, .. } if opened => ("replica-placed", format!("a new copy of {name} is made in {pool}")),
        Action::AddChild { replica, .. } => {
            ("rebuild-started", format!("the copy of {name} on {} is being rebuilt", node_of(replica)))
        }
        Action::Retire { replica, .. } => {
            ("replica-retired", format!("the copy of {name} on {} is no longer needed", node_of(replica)))
        }
        Action::DestroyReplica { replica, node, .. } => {
            ("replica-destroyed", format!("replica {replica} of {name} on {node} was destroyed"))
        }
        Action::OpenNexus { node, children, .. } => {
            ("volume-opened", format!("{name} was opened on {node} with {} copies", children.len()))
        }
        Action::ResizeReplica { pool, size, .. } => {
            ("replica-grown", format!("the copy of {name} in {pool} has {}", crate::words::bytes(size.0)))
        }
        Action::ResizeNexus { size, .. } => ("volume-grown", format!("{name} has {}", crate::words::bytes(size.0))),
        Action::SetTarget { node, .. } if opened => ("volume-moved", format!("{name} moves to {node}")),
        Action::Publish { node, .. } => ("volume-published", format!("{name} is published on {node}")),
        Action::Unpublish { node, .. } => ("volume-unpublished", format!("{name} is not published on {node} any more")),
        Action::ForgetVolume { .. } => ("volume-deleted", format!("{name} is gone, and all its copies")),
        _ => return,
    };
    inner.events.note_for(operation, kind, format!("volume/{name}"), text).await;
}
