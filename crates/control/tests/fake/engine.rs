//! One engine: the v1 service over the memory of the world, and what its nexuses do by themselves.

use std::pin::Pin;
use std::time::Duration;

use api::v1;
use api::v1::engine_server::{Engine, EngineServer};
use api::v1::registry_client::RegistryClient;
use tokio::net::TcpListener;
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::Endpoint;
use tonic::{Code, Request, Response, Status};

use super::{FakeChild, FakeNexus, FakeReplica, World};

const TICK: Duration = Duration::from_millis(20);

#[derive(Clone)]
struct Service {
    world: World,
    id: String,
    instance: String,
    endpoint: String,
}

/// Runs until it is dropped.
pub async fn run(world: World, id: String, instance: String, listener: TcpListener) {
    let endpoint = listener.local_addr().unwrap().to_string();
    let service = Service { world, id, instance, endpoint };
    tokio::spawn(register(service.clone()));
    tokio::spawn(work(service.clone()));
    tonic::transport::Server::builder()
        .add_service(EngineServer::new(service))
        .serve_with_incoming(TcpListenerStream::new(listener))
        .await
        .unwrap();
}

async fn register(service: Service) {
    loop {
        if let Ok(channel) = control(&service.world).connect().await {
            let request = v1::RegisterRequest {
                id: service.id.clone(),
                grpc_endpoint: service.endpoint.clone(),
                instance: service.instance.clone(),
                labels: Default::default(),
            };
            let _ = RegistryClient::new(channel).register(request).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn control(world: &World) -> Endpoint {
    Endpoint::from_shared(format!("http://{}", world.control_address)).unwrap().timeout(Duration::from_millis(500))
}

async fn record(service: &Service, volume: &str, generation: u64, in_sync: Vec<String>) -> Result<(), Status> {
    let channel = control(&service.world).connect().await.map_err(|e| Status::unavailable(e.to_string()))?;
    let request = v1::RecordLedgerRequest {
        volume: volume.to_owned(),
        ledger: Some(v1::Ledger { generation, in_sync }),
        node: service.id.clone(),
    };
    RegistryClient::new(channel).record_ledger(request).await.map(|_| ())
}

// ---- what nexuses do by themselves -------------------------------------------------------------------------------------

async fn work(service: Service) {
    loop {
        tokio::time::sleep(TICK).await;
        let ids: Vec<String> = service.world.lock().nodes[&service.id].nexuses.keys().cloned().collect();
        for id in ids {
            write(&service, &id);
            shrink_and_grow(&service, &id).await;
        }
    }
}

/// One write to all members in sync; members that are gone fail.
fn write(service: &Service, id: &str) {
    let mut all = service.world.lock();
    let Some(mut nexus) = all.nodes[&service.id].nexuses.get(id).cloned() else { return };
    if nexus.faulted {
        return;
    }
    let mut changed = false;
    let online = |c: &&mut FakeChild| matches!(c.state, v1::ChildState::ChildOnline | v1::ChildState::ChildRebuilding);
    for child in nexus.children.iter_mut().filter(online) {
        if all.reach(&service.id, &child.uri).is_none() {
            child.state = v1::ChildState::ChildFaulted;
            changed = true;
        } else if child.state == v1::ChildState::ChildRebuilding && child.percent < 100 {
            child.percent += 25;
            changed = true;
        }
    }
    let good: Vec<String> = nexus
        .children
        .iter()
        .filter(|c| c.state == v1::ChildState::ChildOnline && nexus.in_sync.contains(&c.uri))
        .map(|c| c.uri.clone())
        .collect();
    // A write is acknowledged only while the ledger names exactly those that have it.
    if good.is_empty() {
        nexus.faulted = true;
        changed = true;
    } else if good.len() == nexus.in_sync.len() && nexus.recorded == nexus.generation {
        let version = all.acked.get(id).copied().unwrap_or(0) + 1;
        for uri in &good {
            all.reach(&service.id, uri).unwrap().version = version;
        }
        all.acked.insert(id.to_owned(), version);
    }
    let node = all.nodes.get_mut(&service.id).unwrap();
    node.nexuses.insert(id.to_owned(), nexus);
    node.changes += u64::from(changed);
}

/// Records what changed; without the control plane nothing goes on (this nexus has no majority rule).
async fn shrink_and_grow(service: &Service, id: &str) {
    let Some(nexus) = service.world.lock().nodes[&service.id].nexuses.get(id).cloned() else { return };
    if nexus.faulted {
        return;
    }
    let keeps = |c: &&FakeChild| match c.state {
        v1::ChildState::ChildOnline => nexus.in_sync.contains(&c.uri),
        v1::ChildState::ChildRebuilding => c.percent >= 100,
        _ => false,
    };
    let wanted: Vec<String> = nexus.children.iter().filter(keeps).map(|c| c.uri.clone()).collect();
    if wanted.is_empty() || (wanted == nexus.in_sync && nexus.recorded == nexus.generation) {
        return;
    }
    let generation = nexus.generation.max(nexus.recorded) + 1;
    let recorded = record(service, id, generation, wanted.clone()).await;
    let mut all = service.world.lock();
    let acked = all.acked.get(id).copied().unwrap_or(0);
    let Some(mut nexus) = all.nodes[&service.id].nexuses.get(id).cloned() else { return };
    match recorded {
        Ok(()) => {
            (nexus.generation, nexus.recorded, nexus.in_sync) = (generation, generation, wanted.clone());
            for child in nexus.children.iter_mut().filter(|c| wanted.contains(&c.uri)) {
                child.state = v1::ChildState::ChildOnline;
                if let Some(replica) = all.reach(&service.id, &child.uri) {
                    replica.version = replica.version.max(acked);
                }
            }
        }
        Err(status) if status.code() == Code::FailedPrecondition => nexus.faulted = true,
        Err(_) => return,
    }
    let node = all.nodes.get_mut(&service.id).unwrap();
    node.nexuses.insert(id.to_owned(), nexus);
    node.changes += 1;
}

// ---- the service -------------------------------------------------------------------------------------------------------

impl Service {
    fn replica(&self, id: &str, r: &FakeReplica) -> v1::Replica {
        let uri = match r.shared {
            true => format!("nvmf://{}:8420/nqn.2019-05.io.openebs:{id}", self.id),
            false => format!("bdev:///{id}"),
        };
        v1::Replica {
            uuid: id.to_owned(),
            pool: r.pool.clone(),
            size: r.size,
            thin: r.thin,
            allocated: r.size,
            shared: r.shared,
            uri,
            state: "online".to_owned(),
        }
    }

    fn nexus(&self, id: &str, n: &FakeNexus) -> v1::Nexus {
        let all_online = n.children.iter().all(|c| c.state == v1::ChildState::ChildOnline);
        let state = match (n.faulted, all_online) {
            (true, _) => v1::NexusState::NexusFaulted,
            (_, true) => v1::NexusState::NexusOnline,
            _ => v1::NexusState::NexusDegraded,
        };
        let child = |c: &FakeChild| v1::Child {
            uri: c.uri.clone(),
            state: c.state.into(),
            reason: String::new(),
            rebuild: (c.state == v1::ChildState::ChildRebuilding).then(|| v1::Rebuild {
                state: "running".to_owned(),
                bytes_done: c.percent,
                bytes_total: 100,
                bytes_per_second: 10,
                eta_ms: 1000,
                source: String::new(),
            }),
            errors: 0,
        };
        let uri = format!("nvmf://{}:8420/nqn.2019-05.io.openebs:nexus-{id}", self.id);
        v1::Nexus {
            uuid: id.to_owned(),
            size: n.size,
            state: state.into(),
            reason: String::new(),
            children: n.children.iter().map(child).collect(),
            device_uri: if n.published { uri } else { String::new() },
            generation: n.generation,
            in_sync: n.in_sync.clone(),
            block_size: 512,
        }
    }

    fn report(&self) -> v1::NodeReport {
        let all = self.world.lock();
        let node = &all.nodes[&self.id];
        let pools = node.pools.iter().map(|(name, capacity)| {
            let used = node.replicas.values().filter(|r| r.pool == *name).map(|r| r.size).sum();
            v1::Pool {
                name: name.clone(),
                uuid: String::new(),
                disks: vec![],
                state: v1::PoolState::PoolOnline.into(),
                reason: String::new(),
                capacity: *capacity,
                used,
                committed: used,
            }
        });
        v1::NodeReport {
            id: self.id.clone(),
            grpc_endpoint: self.endpoint.clone(),
            version: "fake".to_owned(),
            sequence: node.changes,
            instance: self.instance.clone(),
            pools: pools.collect(),
            replicas: node.replicas.iter().map(|(id, r)| self.replica(id, r)).collect(),
            nexuses: node.nexuses.iter().map(|(id, n)| self.nexus(id, n)).collect(),
        }
    }

    /// Changes a nexus, or says that there is none.
    fn change(
        &self,
        id: &str,
        edit: impl FnOnce(&mut FakeNexus) -> Result<(), Status>,
    ) -> Result<Response<v1::Nexus>, Status> {
        let mut all = self.world.lock();
        let node = all.nodes.get_mut(&self.id).unwrap();
        node.changes += 1;
        let nexus = node.nexuses.get_mut(id).ok_or_else(|| Status::not_found(format!("no nexus {id}")))?;
        edit(nexus)?;
        Ok(Response::new(self.nexus(id, nexus)))
    }
}

type Reports = Pin<Box<dyn Stream<Item = Result<v1::NodeReport, Status>> + Send>>;
type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Engine for Service {
    type WatchNodeStream = Reports;

    async fn get_node(&self, _: Request<v1::Empty>) -> Reply<v1::NodeReport> {
        Ok(Response::new(self.report()))
    }

    async fn watch_node(&self, _: Request<v1::Empty>) -> Reply<Reports> {
        let (send, receive) = tokio::sync::mpsc::channel(1);
        let service = self.clone();
        tokio::spawn(async move {
            let (mut told, mut quiet) = (u64::MAX, 0);
            loop {
                let report = service.report();
                quiet += 1;
                if report.sequence != told || quiet > 4 {
                    (told, quiet) = (report.sequence, 0);
                    if send.send(Ok(report)).await.is_err() {
                        return;
                    }
                }
                tokio::time::sleep(TICK / 2).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    async fn create_replica(&self, request: Request<v1::CreateReplicaRequest>) -> Reply<v1::Replica> {
        let r = request.into_inner();
        let mut all = self.world.lock();
        let node = all.nodes.get_mut(&self.id).unwrap();
        let capacity = *node.pools.get(&r.pool).ok_or_else(|| Status::not_found("no such pool"))?;
        let used: u64 = node.replicas.values().map(|r| r.size).sum();
        if !node.replicas.contains_key(&r.uuid) && used + r.size > capacity {
            return Err(Status::resource_exhausted("the pool is full"));
        }
        let new = FakeReplica { pool: r.pool, size: r.size, thin: r.thin, shared: r.share, version: 0 };
        let replica = node.replicas.entry(r.uuid.clone()).or_insert(new).clone();
        node.changes += 1;
        Ok(Response::new(self.replica(&r.uuid, &replica)))
    }

    async fn share_replica(&self, request: Request<v1::ShareReplicaRequest>) -> Reply<v1::Replica> {
        let r = request.into_inner();
        let mut all = self.world.lock();
        let node = all.nodes.get_mut(&self.id).unwrap();
        node.changes += 1;
        let replica = node.replicas.get_mut(&r.uuid).ok_or_else(|| Status::not_found("no such replica"))?;
        replica.shared = r.share;
        Ok(Response::new(self.replica(&r.uuid, replica)))
    }

    async fn resize_replica(&self, request: Request<v1::ResizeReplicaRequest>) -> Reply<v1::Replica> {
        let r = request.into_inner();
        let mut all = self.world.lock();
        let node = all.nodes.get_mut(&self.id).unwrap();
        let replica = node.replicas.get(&r.uuid).ok_or_else(|| Status::not_found("no such replica"))?;
        if r.size < replica.size {
            return Err(Status::invalid_argument("it cannot shrink"));
        }
        let used: u64 = node.replicas.values().filter(|o| o.pool == replica.pool).map(|o| o.size).sum();
        if used - replica.size + r.size > node.pools[&replica.pool] {
            return Err(Status::resource_exhausted(format!("pool {} is full", replica.pool)));
        }
        node.changes += 1;
        let replica = node.replicas.get_mut(&r.uuid).expect("just seen");
        replica.size = r.size;
        Ok(Response::new(self.replica(&r.uuid, replica)))
    }

    async fn resize_nexus(&self, request: Request<v1::ResizeNexusRequest>) -> Reply<v1::Nexus> {
        let r = request.into_inner();
        let uris: Vec<String> = {
            let all = self.world.lock();
            let nexus = all.nodes[&self.id].nexuses.get(&r.uuid).ok_or_else(|| Status::not_found("no such nexus"))?;
            let open = |c: &&FakeChild| c.state != v1::ChildState::ChildFaulted;
            nexus.children.iter().filter(open).map(|c| c.uri.clone()).collect()
        };
        for uri in uris {
            let mut all = self.world.lock();
            let room = all.reach(&self.id, &uri).map(|replica| replica.size);
            if room.is_some_and(|room| room < plan::replica_size(block::Bytes(r.size)).0) {
                all.offences.push(format!("the nexus was to grow over {uri}, which has no room"));
                return Err(Status::invalid_argument(format!("{uri} has no room")));
            }
        }
        self.change(&r.uuid, |n| {
            if r.size < n.size {
                return Err(Status::invalid_argument("it cannot shrink"));
            }
            n.size = r.size;
            Ok(())
        })
    }

    async fn destroy_replica(&self, request: Request<v1::ReplicaName>) -> Reply<v1::Empty> {
        let uuid = request.into_inner().uuid;
        let mut all = self.world.lock();
        let used = all.nodes[&self.id].nexuses.values().any(|n| n.children.iter().any(|c| c.uri.ends_with(&uuid)));
        if used {
            return Err(Status::failed_precondition("a nexus uses it"));
        }
        let in_use = |n: &FakeNexus| {
            let works = |c: &FakeChild| c.uri.ends_with(&uuid) && c.state != v1::ChildState::ChildFaulted;
            !n.faulted && n.children.iter().any(works)
        };
        let owner = all.nodes.iter().find(|(_, n)| n.process.is_some() && n.nexuses.values().any(in_use));
        if let Some(owner) = owner.map(|(n, _)| n.clone()) {
            all.offences.push(format!("replica {uuid} was destroyed under the nexus on {owner}"));
        }
        let node = all.nodes.get_mut(&self.id).unwrap();
        node.replicas.remove(&uuid);
        node.changes += 1;
        Ok(Response::new(v1::Empty {}))
    }

    async fn create_nexus(&self, request: Request<v1::CreateNexusRequest>) -> Reply<v1::Nexus> {
        let r = request.into_inner();
        if let Some(nexus) = self.world.lock().nodes[&self.id].nexuses.get(&r.uuid) {
            return Ok(Response::new(self.nexus(&r.uuid, nexus)));
        }
        let (generation, mut in_sync) = match &r.ledger {
            Some(l) => (l.generation + 1, l.in_sync.clone()),
            None => (1, r.children.clone()),
        };
        in_sync.retain(|uri| r.children.contains(uri) && self.world.lock().reach(&self.id, uri).is_some());
        if in_sync.is_empty() {
            return Err(Status::failed_precondition("no member in sync is there"));
        }
        record(self, &r.uuid, generation, in_sync.clone()).await?;
        let mut all = self.world.lock();
        let acked = all.acked.get(&r.uuid).copied().unwrap_or(0);
        for uri in &in_sync {
            let version = all.reach(&self.id, uri).map(|m| m.version);
            if version.is_some_and(|v| v < acked) {
                let text = format!("{} was opened on {} with the stale {uri}: {version:?} < {acked}", r.uuid, self.id);
                all.offences.push(text);
            }
        }
        let child = |uri: &String| {
            let good = in_sync.contains(uri);
            let state = if good { v1::ChildState::ChildOnline } else { v1::ChildState::ChildOutOfSync };
            FakeChild { uri: uri.clone(), state, percent: 0 }
        };
        let nexus = FakeNexus {
            size: r.size,
            children: r.children.iter().map(child).collect(),
            published: false,
            generation,
            in_sync,
            faulted: false,
            recorded: generation,
        };
        let reply = self.nexus(&r.uuid, &nexus);
        let node = all.nodes.get_mut(&self.id).unwrap();
        node.nexuses.insert(r.uuid, nexus);
        node.changes += 1;
        Ok(Response::new(reply))
    }

    async fn destroy_nexus(&self, request: Request<v1::NexusName>) -> Reply<v1::Empty> {
        let mut all = self.world.lock();
        let node = all.nodes.get_mut(&self.id).unwrap();
        node.nexuses.remove(&request.into_inner().uuid);
        node.changes += 1;
        Ok(Response::new(v1::Empty {}))
    }

    async fn publish_nexus(&self, request: Request<v1::NexusName>) -> Reply<v1::Nexus> {
        self.change(&request.into_inner().uuid, |n| {
            n.published = true;
            Ok(())
        })
    }
    async fn unpublish_nexus(&self, request: Request<v1::NexusName>) -> Reply<v1::Nexus> {
        self.change(&request.into_inner().uuid, |n| {
            n.published = false;
            Ok(())
        })
    }

    async fn add_child(&self, request: Request<v1::ChildRequest>) -> Reply<v1::Nexus> {
        let r = request.into_inner();
        if self.world.lock().reach(&self.id, &r.uri).is_none() {
            return Err(Status::unavailable(format!("{} cannot be opened", r.uri)));
        }
        let mut offence = None;
        let reply = self.change(&r.uuid, |n| {
            if n.in_sync.contains(&r.uri) {
                offence = Some(format!("{} in sync was added again", r.uri));
            } else if !n.children.iter().any(|c| c.uri == r.uri) {
                n.children.push(FakeChild { uri: r.uri, state: v1::ChildState::ChildRebuilding, percent: 0 });
            }
            Ok(())
        });
        self.world.lock().offences.extend(offence);
        reply
    }

    async fn remove_child(&self, request: Request<v1::ChildRequest>) -> Reply<v1::Nexus> {
        let r = request.into_inner();
        self.change(&r.uuid, |n| {
            if n.in_sync == [r.uri.clone()] {
                return Err(Status::failed_precondition("the last good copy"));
            }
            n.children.retain(|c| c.uri != r.uri);
            Ok(())
        })
    }

    async fn get_statistics(&self, _: Request<v1::Empty>) -> Result<Response<v1::NodeStatistics>, Status> {
        Ok(Response::new(v1::NodeStatistics { instance: self.instance.clone(), ..Default::default() }))
    }
    async fn inspect_replica(&self, _: Request<v1::ReplicaName>) -> Reply<v1::ReplicaContents> {
        Err(Status::unimplemented("not in the fake"))
    }
    async fn create_pool(&self, _: Request<v1::CreatePoolRequest>) -> Reply<v1::Pool> {
        Err(Status::unimplemented("not in the fake"))
    }
    async fn import_pool(&self, _: Request<v1::ImportPoolRequest>) -> Reply<v1::Pool> {
        Err(Status::unimplemented("not in the fake"))
    }
    async fn export_pool(&self, _: Request<v1::PoolName>) -> Reply<v1::Empty> {
        Err(Status::unimplemented("not in the fake"))
    }
    async fn destroy_pool(&self, _: Request<v1::PoolName>) -> Reply<v1::Empty> {
        Err(Status::unimplemented("not in the fake"))
    }
    async fn add_pool_disk(&self, _: Request<v1::AddPoolDiskRequest>) -> Reply<v1::Pool> {
        Err(Status::unimplemented("not in the fake"))
    }
    async fn fault_child(&self, _: Request<v1::ChildRequest>) -> Reply<v1::Nexus> {
        Err(Status::unimplemented("not in the fake"))
    }
    async fn get_config(&self, _: Request<v1::Empty>) -> Reply<v1::Config> {
        Err(Status::unimplemented("not in the fake"))
    }
    async fn set_config(&self, _: Request<v1::Setting>) -> Reply<v1::Config> {
        Err(Status::unimplemented("not in the fake"))
    }
}
