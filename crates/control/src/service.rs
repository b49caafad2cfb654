//! The service for clients.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use api::v1;
use block::Bytes;
use plan::{Life, Publish, Volume};
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::create::{check_room, parse};
use crate::state::Fate;
use crate::store::StoreError;
use crate::{Inner, hosts, limits, nodes, rebalance, resize, words};

/// How often a watcher is told, at most.
const WATCH_PAUSE: Duration = Duration::from_millis(200);

/// See the module.
pub(crate) struct Service {
    inner: Arc<Inner>,
    /// Ends when the server stops.
    stopped: watch::Receiver<()>,
}

/// A refusal on the way through a change of a record.
pub(crate) struct Refused(pub Status);
impl From<StoreError> for Refused {
    fn from(e: StoreError) -> Refused {
        Refused(Status::unavailable(e.to_string()))
    }
}
impl From<Status> for Refused {
    fn from(s: Status) -> Refused {
        Refused(s)
    }
}

/// The identity of the wish that a call is: the caller's, in the call's metadata, else a new one.
fn operation<T>(request: &Request<T>) -> Result<String, Status> {
    let Some(value) = request.metadata().get("operation-id") else { return Ok(Uuid::new_v4().to_string()) };
    let text = value.to_str().unwrap_or_default();
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if text.is_empty() || text.len() > block::limits::NAME_BYTES || !text.chars().all(fits) {
        let text = "the operation-id must be 1 to 63 of a-z, A-Z, 0-9, '-', '_', '.' and ':'";
        return Err(Status::invalid_argument(text));
    }
    Ok(text.to_owned())
}

fn unknown(name: &str) -> Status {
    Status::not_found(format!("there is no volume {name}"))
}

impl Service {
    pub fn new(inner: Arc<Inner>, stopped: watch::Receiver<()>) -> Service {
        Service { inner, stopped }
    }

    fn describe(&self, id: Uuid, name: &str) -> Result<Response<v1::Volume>, Status> {
        words::volume(&self.inner, id).map(Response::new).ok_or_else(|| unknown(name))
    }

    /// Changes a wanted volume.
    async fn wish(
        &self,
        id: Uuid,
        name: &str,
        operation: &str,
        edit: impl FnOnce(&mut Volume) -> Result<(), Status>,
    ) -> Result<(), Status> {
        access::call::about(&format!("volume/{name}"));
        let done = self.inner.state.change(id, |volume| -> Result<Fate<()>, Refused> {
            let volume = volume.ok_or_else(|| unknown(name))?;
            if volume.life == Life::Deleting {
                return Err(Status::failed_precondition(format!("volume {name} is being deleted")).into());
            }
            let before = volume.clone();
            edit(volume)?;
            if *volume == before {
                return Ok(Fate::Unchanged(()));
            }
            operation.clone_into(&mut volume.operation);
            Ok(Fate::Put(()))
        });
        done.await.map_err(|Refused(status)| status)?;
        self.inner.work.hurry(id);
        self.inner.changed();
        Ok(())
    }

    /// Waits until `done` of the volume (`None`: it is gone) or for as long as clients are kept waiting.
    async fn wait(&self, id: Uuid, done: impl Fn(Option<&v1::Volume>) -> bool) -> bool {
        let mut version = self.inner.version.subscribe();
        let waiting = async {
            while !done(words::volume(&self.inner, id).as_ref()) {
                if version.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(self.inner.options.client_wait, waiting).await.is_ok()
    }

    /// Waits until the volume can be reached by hosts, and describes it.
    async fn exported(&self, id: Uuid, name: &str) -> Result<Response<v1::Volume>, Status> {
        if !self.wait(id, |v| v.is_none_or(|v| !v.device_uri.is_empty())).await {
            let reason = words::volume(&self.inner, id).map(|v| v.reason).unwrap_or_default();
            return Err(Status::unavailable(format!("volume {name} is not published yet: {reason}")));
        }
        self.describe(id, name)
    }

    /// Waits until hosts cannot reach the volume any more, as far as its node answers.
    async fn unexported(&self, id: Uuid) {
        let exported = || {
            let target = self.inner.state.read().desired.volumes.get(&id).and_then(|v| v.target.clone());
            let view = self.inner.cluster.lock();
            target.and_then(|t| view.observed.nexus(&t, id).map(|n| n.published)).unwrap_or(false)
        };
        self.wait(id, |_| !exported()).await;
    }

    fn id_of(&self, name: &str) -> Result<Uuid, Status> {
        self.inner.state.find(name).ok_or_else(|| unknown(name))
    }
}

type Reports<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl v1::control_server::Control for Service {
    type WatchStatusStream = Reports<v1::Status>;
    type ListEventsStream = Reports<v1::Event>;

    async fn list_nodes(&self, _: Request<v1::Empty>) -> Result<Response<v1::NodeList>, Status> {
        Ok(Response::new(v1::NodeList { nodes: words::status(&self.inner).nodes }))
    }

    async fn list_pools(&self, _: Request<v1::Empty>) -> Result<Response<v1::PoolList>, Status> {
        Ok(Response::new(v1::PoolList { pools: words::status(&self.inner).pools }))
    }

    async fn create_pool(&self, request: Request<v1::NodePoolRequest>) -> Result<Response<v1::NodePool>, Status> {
        let operation = operation(&request)?;
        let v1::NodePoolRequest { node, pool } = request.into_inner();
        let mut pool = pool.ok_or_else(|| Status::invalid_argument("a pool is needed"))?;
        let client = self.inner.cluster.client(&node);
        let mut client = client.ok_or_else(|| Status::not_found(format!("there is no node {node}")))?;
        if pool.cluster.is_empty() {
            pool.cluster = self.inner.cluster_id.to_string();
        }
        let name = pool.name.clone();
        let call = client.create_pool(pool);
        let pool = within(&self.inner, &node, call).await?.into_inner();
        let text = format!("pool {name} was created on {node}, {}", words::bytes(pool.capacity));
        self.inner.events.note_for(&operation, "pool-created", format!("pool/{node}/{name}"), text).await;
        Ok(Response::new(v1::NodePool { node, pool: Some(pool) }))
    }

    async fn destroy_pool(&self, request: Request<v1::NodePoolName>) -> Result<Response<v1::Empty>, Status> {
        let operation = operation(&request)?;
        let v1::NodePoolName { node, pool } = request.into_inner();
        let user = {
            let cache = self.inner.state.read();
            let holds = |v: &&Volume| v.copies.values().any(|r| r.pool.node == node && r.pool.pool == pool);
            cache.desired.volumes.values().find(holds).map(|v| v.name.clone())
        };
        if let Some(volume) = user {
            let text = format!("pool {pool} on {node} holds a copy of volume {volume}");
            return Err(Status::failed_precondition(text));
        }
        let client = self.inner.cluster.client(&node);
        let mut client = client.ok_or_else(|| Status::not_found(format!("there is no node {node}")))?;
        within(&self.inner, &node, client.destroy_pool(v1::PoolName { name: pool.clone() })).await?;
        let text = format!("pool {pool} on {node} was destroyed");
        self.inner.events.note_for(&operation, "pool-destroyed", format!("pool/{node}/{pool}"), text).await;
        Ok(Response::new(v1::Empty {}))
    }

    async fn create_volume(&self, request: Request<v1::CreateVolumeRequest>) -> Result<Response<v1::Volume>, Status> {
        let operation = operation(&request)?;
        let request = request.into_inner();
        let (id, mut volume) = parse(&request)?;
        let name = volume.name.clone();
        let id = match self.inner.state.find(&name) {
            Some(found) => {
                let cache = self.inner.state.read();
                let known = cache.desired.volumes.get(&found).ok_or_else(|| unknown(&name))?;
                let mut differences = Vec::new();
                let mut differs = |what: &str, is: bool| {
                    if is {
                        differences.push(what.to_owned())
                    }
                };
                differs("its uuid", !request.uuid.is_empty() && found != id);
                differs("its size", known.size != volume.size);
                differs("thin", known.thin != volume.thin);
                differs("its number of replicas", known.replicas != volume.replicas);
                differs("its required nodes", known.required_nodes != volume.required_nodes);
                differs("its preferred nodes", known.preferred_nodes != volume.preferred_nodes);
                differs("its rules about labels", known.topology != volume.topology);
                if known.life == Life::Deleting {
                    return Err(Status::failed_precondition(format!("volume {name} is being deleted")));
                }
                if !differences.is_empty() {
                    let text = format!("volume {name} exists with other parameters: {}", differences.join(", "));
                    return Err(Status::already_exists(text));
                }
                found
            }
            None => {
                if self.inner.state.read().desired.volumes.contains_key(&id) {
                    return Err(Status::already_exists(format!("a volume with the uuid {id} exists")));
                }
                check_room(&self.inner, &volume)?;
                let what = if volume.thin { "thin" } else { "thick" };
                let text = format!(
                    "volume {name} was created: {}, {} replicas, {what}",
                    words::bytes(volume.size.0),
                    volume.replicas
                );
                volume.operation.clone_from(&operation);
                self.inner.state.create(id, volume).await.map_err(|e| match e {
                    StoreError::Conflict(_) => Status::already_exists(format!("volume {name} exists")),
                    e => Status::unavailable(e.to_string()),
                })?;
                self.inner.events.note_for(&operation, "volume-created", format!("volume/{name}"), text).await;
                self.inner.changed();
                id
            }
        };
        self.wait(id, |v| v.is_none_or(|v| v.state != "pending" && v.state != "offline")).await;
        self.describe(id, &name)
    }

    async fn remove_node(&self, request: Request<v1::RemoveNodeRequest>) -> Result<Response<v1::Empty>, Status> {
        let operation = operation(&request)?;
        nodes::remove(&self.inner, request.into_inner(), &operation).await?;
        Ok(Response::new(v1::Empty {}))
    }

    async fn set_node_service(
        &self,
        request: Request<v1::SetNodeServiceRequest>,
    ) -> Result<Response<v1::Node>, Status> {
        let operation = operation(&request)?;
        nodes::set_service(&self.inner, request.into_inner(), &operation).await.map(Response::new)
    }

    async fn set_node_labels(&self, request: Request<v1::SetNodeLabelsRequest>) -> Result<Response<v1::Node>, Status> {
        let operation = operation(&request)?;
        nodes::set_labels(&self.inner, request.into_inner(), &operation).await.map(Response::new)
    }

    async fn get_limits(&self, _: Request<v1::Empty>) -> Result<Response<v1::Config>, Status> {
        Ok(Response::new(limits::list(&self.inner)))
    }

    async fn set_limit(&self, request: Request<v1::Setting>) -> Result<Response<v1::Config>, Status> {
        let operation = operation(&request)?;
        limits::set(&self.inner, request.into_inner(), &operation).await.map(Response::new)
    }

    async fn rebalance(&self, request: Request<v1::RebalanceRequest>) -> Result<Response<v1::RebalanceReport>, Status> {
        let operation = operation(&request)?;
        rebalance::ask(&self.inner, request.into_inner(), &operation).await.map(Response::new)
    }

    async fn destroy_volume(&self, request: Request<v1::VolumeName>) -> Result<Response<v1::Empty>, Status> {
        let operation = operation(&request)?;
        let name = request.into_inner().name;
        access::call::about(&format!("volume/{name}"));
        let Some(id) = self.inner.state.find(&name) else { return Ok(Response::new(v1::Empty {})) };
        let deleted = self.inner.state.change(id, |volume| -> Result<Fate<()>, Refused> {
            match volume {
                Some(volume) if volume.life != Life::Deleting => {
                    volume.life = Life::Deleting;
                    volume.publish = Publish::No;
                    volume.operation = operation;
                    Ok(Fate::Put(()))
                }
                _ => Ok(Fate::Unchanged(())),
            }
        });
        deleted.await.map_err(|Refused(status)| status)?;
        self.inner.work.hurry(id);
        self.inner.changed();
        // What is on nodes that are away is freed when they return; nobody has to wait for that.
        self.wait(id, |v| v.is_none_or(|v| v.reason.contains("comes back"))).await;
        Ok(Response::new(v1::Empty {}))
    }

    async fn list_volumes(&self, _: Request<v1::Empty>) -> Result<Response<v1::VolumeList>, Status> {
        Ok(Response::new(v1::VolumeList { volumes: words::status(&self.inner).volumes }))
    }

    async fn get_volume(&self, request: Request<v1::VolumeName>) -> Result<Response<v1::Volume>, Status> {
        let name = request.into_inner().name;
        self.describe(self.id_of(&name)?, &name)
    }

    async fn publish_volume(&self, request: Request<v1::PublishVolumeRequest>) -> Result<Response<v1::Volume>, Status> {
        let operation = operation(&request)?;
        let v1::PublishVolumeRequest { name, node } = request.into_inner();
        let id = self.id_of(&name)?;
        if !node.is_empty() && !self.inner.cluster.lock().nodes.contains_key(&node) {
            return Err(Status::not_found(format!("there is no node {node}")));
        }
        if !node.is_empty() && !self.inner.cluster.lock().observed.is_online(&node) {
            return Err(Status::unavailable(format!("node {node} cannot be reached")));
        }
        if !node.is_empty() && !self.inner.state.read().desired.takes_new(&node) {
            let text =
                format!("node {node} is cordoned or drained and gets no new targets: mayastor node uncordon {node}");
            return Err(Status::failed_precondition(text));
        }
        self.wish(id, &name, &operation, |volume| {
            let elsewhere = volume.target.as_deref().filter(|t| !node.is_empty() && *t != node);
            match (&volume.publish, elsewhere) {
                (Publish::No, _) if node.is_empty() => volume.publish = Publish::Anywhere,
                (Publish::No, _) => volume.publish = Publish::On(node.clone()),
                (_, Some(other)) => {
                    let text = format!("volume {name} is published on {other}; unpublish it first");
                    return Err(Status::failed_precondition(text));
                }
                _ => {}
            }
            Ok(())
        })
        .await?;
        self.exported(id, &name).await
    }

    async fn unpublish_volume(&self, request: Request<v1::VolumeName>) -> Result<Response<v1::Volume>, Status> {
        let operation = operation(&request)?;
        let name = request.into_inner().name;
        let id = self.id_of(&name)?;
        self.wish(id, &name, &operation, |volume| {
            volume.publish = Publish::No;
            volume.hosts.clear();
            Ok(())
        })
        .await?;
        self.unexported(id).await;
        self.describe(id, &name)
    }

    async fn attach_volume(&self, request: Request<v1::AttachVolumeRequest>) -> Result<Response<v1::Volume>, Status> {
        let operation = operation(&request)?;
        let request = request.into_inner();
        let name = request.name.clone();
        let id = self.id_of(&name)?;
        if request.host.is_empty() {
            return Err(Status::invalid_argument(format!("volume {name}: the host's name is needed")));
        }
        let node = Some(request.node.clone()).filter(|n| self.inner.cluster.lock().observed.is_online(n));
        let node = node.filter(|n| self.inner.state.read().desired.takes_new(n));
        let held = |host: &str| {
            let cache = self.inner.state.read();
            cache.desired.volumes.iter().filter(|(v, volume)| **v != id && volume.hosts.contains_key(host)).count()
        };
        let full = request.host_limit != 0 && held(&request.host) >= request.host_limit as usize;
        self.wish(id, &name, &operation, |volume| hosts::attach(volume, &request, full, node)).await?;
        self.exported(id, &name).await
    }

    async fn detach_volume(&self, request: Request<v1::DetachVolumeRequest>) -> Result<Response<v1::Volume>, Status> {
        let operation = operation(&request)?;
        let v1::DetachVolumeRequest { name, host } = request.into_inner();
        let id = self.id_of(&name)?;
        let deleting = self.inner.state.read().desired.volumes.get(&id).is_some_and(|v| v.life == Life::Deleting);
        if !deleting {
            self.wish(id, &name, &operation, |volume| {
                hosts::detach(volume, &host);
                Ok(())
            })
            .await?;
        }
        let used = self.inner.state.read().desired.volumes.get(&id).is_some_and(|v| v.publish != Publish::No);
        if !used {
            self.unexported(id).await;
        }
        self.describe(id, &name)
    }

    async fn set_replica_count(
        &self,
        request: Request<v1::SetReplicaCountRequest>,
    ) -> Result<Response<v1::Volume>, Status> {
        let operation = operation(&request)?;
        let v1::SetReplicaCountRequest { name, replicas } = request.into_inner();
        let id = self.id_of(&name)?;
        let most = block::limits::NEXUS_MEMBERS;
        if replicas == 0 || replicas as usize > most {
            let text = format!("volume {name}: {replicas} replicas are not possible; 1 to {most} are");
            return Err(Status::invalid_argument(text));
        }
        self.wish(id, &name, &operation, |volume| {
            volume.replicas = replicas;
            Ok(())
        })
        .await?;
        let text = format!("volume {name} shall have {replicas} replicas");
        self.inner.events.note_for(&operation, "volume-changed", format!("volume/{name}"), text).await;
        self.describe(id, &name)
    }

    async fn resize_volume(&self, request: Request<v1::ResizeVolumeRequest>) -> Result<Response<v1::Volume>, Status> {
        let operation = operation(&request)?;
        let v1::ResizeVolumeRequest { name, size } = request.into_inner();
        let id = self.id_of(&name)?;
        resize::check(&self.inner, id, &name, size)?;
        let mut before = 0;
        self.wish(id, &name, &operation, |volume| {
            // Somebody else may have asked for more meanwhile.
            resize::check_larger(volume, size)?;
            before = volume.size.0;
            volume.size = Bytes(size);
            Ok(())
        })
        .await?;
        if before != size {
            let text = format!("volume {name} shall grow from {} to {}", words::bytes(before), words::bytes(size));
            self.inner.events.note_for(&operation, "volume-changed", format!("volume/{name}"), text).await;
        }
        if !self.wait(id, |v| v.is_none_or(|v| v.usable >= size)).await {
            let reason = words::volume(&self.inner, id).map(|v| v.reason).unwrap_or_default();
            // Not UNAVAILABLE: the wish is on record, and asking again is right while it is under way.
            return Err(Status::aborted(format!("volume {name} has not grown yet; it will: {reason}")));
        }
        self.describe(id, &name)
    }

    async fn watch_status(&self, _: Request<v1::Empty>) -> Result<Response<Self::WatchStatusStream>, Status> {
        let (send, receive) = mpsc::channel(1);
        let (inner, mut stopped) = (self.inner.clone(), self.stopped.clone());
        let mut version = inner.version.subscribe();
        tokio::spawn(async move {
            loop {
                version.mark_unchanged();
                if send.send(Ok(words::status(&inner))).await.is_err() {
                    return;
                }
                // Times go on even when nothing happens.
                let news = tokio::time::timeout(Duration::from_secs(1), version.changed());
                tokio::select! {
                    _ = stopped.changed() => return,
                    () = send.closed() => return,
                    _ = news => {}
                }
                tokio::time::sleep(WATCH_PAUSE).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<Self::ListEventsStream>, Status> {
        let v1::ListEventsRequest { follow, last, object, operation } = request.into_inner();
        let (past, mut news) = self.inner.events.read(last as usize, &object, &operation);
        let (send, receive) = mpsc::channel(16);
        let mut stopped = self.stopped.clone();
        tokio::spawn(async move {
            for event in past {
                if send.send(Ok(event)).await.is_err() {
                    return;
                }
            }
            if !follow {
                return;
            }
            loop {
                let event = tokio::select! {
                    _ = stopped.changed() => return,
                    () = send.closed() => return,
                    event = news.recv() => event,
                };
                let event = match event {
                    Ok(event) => event,
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
                    Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => continue,
                };
                let fits = (object.is_empty() || event.object == object)
                    && (operation.is_empty() || event.operation == operation);
                if fits && send.send(Ok(event)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }
}

/// A call to an engine, with a deadline.
pub(crate) async fn within<T>(
    inner: &Inner,
    node: &str,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let limit = inner.options.rpc_deadline;
    let late = |_| Status::unavailable(format!("node {node} did not answer within {} s", limit.as_secs()));
    tokio::time::timeout(limit, call).await.map_err(late)?
}
