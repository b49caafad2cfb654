//! The service `mayastor.Mayastor`, with the status codes of v0.3.0.

use api::v0::mayastor_server::Mayastor;
use api::v0::*;
use engine::model::{CreateNexus, CreatePool, CreateReplica, Error, ErrorKind, Protocol};
use engine::node::Node;
use engine::uri::{Device, DeviceUri};
use tonic::{Code, Request, Response, Status};

use super::Engine;
use super::convert::{child_v0, nexus_v0, pool_v0, replica_v0, stats_v0};
use super::status::{legacy, status};

type Answer<T> = Result<Response<T>, Status>;

/// Runs a call of the node on its own thread.
macro_rules! on_node {
    ($engine:expr, $node:ident => $call:expr) => {
        $engine.call(move |$node| Box::pin(async move { $call }))
    };
}
pub(super) use on_node;

/// All errors of rebuild calls but unknown names and wrong uuids were internal ones.
const REBUILD: &[(ErrorKind, Code)] = &[
    (ErrorKind::FailedPrecondition, Code::Internal),
    (ErrorKind::AlreadyExists, Code::Internal),
    (ErrorKind::ResourceExhausted, Code::Internal),
    (ErrorKind::Unavailable, Code::Internal),
    (ErrorKind::Aborted, Code::Internal),
];
/// A disk that cannot be used is a wrong argument, whatever keeps it from being used.
const CREATE_POOL: &[(ErrorKind, Code)] = &[
    (ErrorKind::FailedPrecondition, Code::InvalidArgument),
    (ErrorKind::NotFound, Code::InvalidArgument),
    (ErrorKind::Unavailable, Code::InvalidArgument),
];
/// A child that cannot be used is a wrong argument; one that is too small was an internal error.
const CREATE_NEXUS: &[(ErrorKind, Code)] = &[
    (ErrorKind::NotFound, Code::InvalidArgument),
    (ErrorKind::FailedPrecondition, Code::InvalidArgument),
    (ErrorKind::Unavailable, Code::InvalidArgument),
    (ErrorKind::OutOfRange, Code::Internal),
];
/// As above, but that the nexus is not found stays so.
const ADD_CHILD: &[(ErrorKind, Code)] = &[
    (ErrorKind::FailedPrecondition, Code::InvalidArgument),
    (ErrorKind::AlreadyExists, Code::InvalidArgument),
    (ErrorKind::Unavailable, Code::InvalidArgument),
];
/// The last child, the last good copy, a child that is not offline, another protocol already.
const REFUSED: &[(ErrorKind, Code)] =
    &[(ErrorKind::FailedPrecondition, Code::InvalidArgument), (ErrorKind::AlreadyExists, Code::InvalidArgument)];

fn replica_protocol(value: i32) -> Result<Option<Protocol>, Status> {
    match ShareProtocolReplica::try_from(value) {
        Ok(ShareProtocolReplica::ReplicaNone) => Ok(None),
        Ok(ShareProtocolReplica::ReplicaNvmf) => Ok(Some(Protocol::Nvmf)),
        Ok(ShareProtocolReplica::ReplicaIscsi) => Ok(Some(Protocol::Iscsi)),
        Err(_) => Err(Status::invalid_argument(format!("{value} is not a share protocol of a replica"))),
    }
}

/// Whether the reason is that a child names a device of the node (`bdev:///name`) which is not there: an internal error
/// in v0.3.0, while a missing file or an unreachable target is a wrong argument.
fn lacks_a_bdev(node: &Node, error: &Error, children: &[String]) -> bool {
    let known =
        |name: &str| node.bdevs().iter().any(|bdev| bdev.name == name || bdev.aliases.iter().any(|a| a == name));
    let missing = |child: &String| match DeviceUri::parse(child).map(|uri| uri.device) {
        Ok(Device::Bdev { name }) => !known(&name),
        _ => false,
    };
    error.kind == ErrorKind::NotFound && children.iter().any(missing)
}

#[tonic::async_trait]
impl Mayastor for Engine {
    async fn create_pool(&self, request: Request<CreatePoolRequest>) -> Answer<Pool> {
        let CreatePoolRequest { name, disks, block_size, io_if } = request.into_inner();
        if PoolIoIf::try_from(io_if).is_err() {
            return Err(Status::invalid_argument(format!("{io_if} is not an I/O interface of a pool")));
        }
        let request = CreatePool { name, disks, force: false, cluster: String::new(), block_size };
        let pool = on_node!(self, node => node.create_pool(request).await).await.map_err(legacy(CREATE_POOL))?;
        Ok(Response::new(pool_v0(pool)))
    }

    async fn destroy_pool(&self, request: Request<DestroyPoolRequest>) -> Answer<Null> {
        let name = request.into_inner().name;
        on_node!(self, node => node.destroy_pool(name, true).await).await.map_err(status)?;
        Ok(Response::new(Null {}))
    }

    async fn list_pools(&self, _: Request<Null>) -> Answer<ListPoolsReply> {
        let pools = on_node!(self, node => Ok(node.pools())).await.map_err(status)?;
        Ok(Response::new(ListPoolsReply { pools: pools.into_iter().map(pool_v0).collect() }))
    }

    async fn create_replica(&self, request: Request<CreateReplicaRequest>) -> Answer<Replica> {
        let CreateReplicaRequest { uuid, pool, size, thin, share } = request.into_inner();
        let request = CreateReplica { uuid, pool, size, thin, share: replica_protocol(share)? };
        let replica = on_node!(self, node => node.create_replica(request).await).await.map_err(status)?;
        Ok(Response::new(replica_v0(replica)))
    }

    async fn destroy_replica(&self, request: Request<DestroyReplicaRequest>) -> Answer<Null> {
        let uuid = request.into_inner().uuid;
        on_node!(self, node => node.destroy_replica(uuid).await).await.map_err(status)?;
        Ok(Response::new(Null {}))
    }

    async fn list_replicas(&self, _: Request<Null>) -> Answer<ListReplicasReply> {
        let replicas = on_node!(self, node => Ok(node.replicas())).await.map_err(status)?;
        Ok(Response::new(ListReplicasReply { replicas: replicas.into_iter().map(replica_v0).collect() }))
    }

    async fn stat_replicas(&self, _: Request<Null>) -> Answer<StatReplicasReply> {
        let replicas = on_node!(self, node => Ok(node.replica_stats())).await.map_err(status)?;
        Ok(Response::new(StatReplicasReply { replicas: replicas.into_iter().map(stats_v0).collect() }))
    }

    async fn share_replica(&self, request: Request<ShareReplicaRequest>) -> Answer<ShareReplicaReply> {
        let ShareReplicaRequest { uuid, share } = request.into_inner();
        let share = replica_protocol(share)?;
        let replica = on_node!(self, node => node.share_replica(uuid, share).await).await.map_err(status)?;
        Ok(Response::new(ShareReplicaReply { uri: replica.uri }))
    }

    async fn create_nexus(&self, request: Request<CreateNexusRequest>) -> Answer<Nexus> {
        let CreateNexusRequest { uuid, size, children } = request.into_inner();
        if children.is_empty() && uuid::Uuid::parse_str(&uuid).is_ok() {
            return Err(Status::internal(format!("nexus {uuid}: no child is given")));
        }
        let names = children.clone();
        let request = CreateNexus { uuid, size, children, ledger: None, managed: false };
        let nexus = on_node!(self, node => {
            let done = node.create_nexus(request).await;
            done.map_err(|error| if lacks_a_bdev(&node, &error, &names) { error.with_kind(ErrorKind::Internal) } else { error })
        });
        Ok(Response::new(nexus_v0(&nexus.await.map_err(legacy(CREATE_NEXUS))?)))
    }

    async fn destroy_nexus(&self, request: Request<DestroyNexusRequest>) -> Answer<Null> {
        let uuid = request.into_inner().uuid;
        on_node!(self, node => node.destroy_nexus(uuid).await).await.map_err(status)?;
        Ok(Response::new(Null {}))
    }

    async fn list_nexus(&self, _: Request<Null>) -> Answer<ListNexusReply> {
        let nexuses = on_node!(self, node => Ok(node.nexuses())).await.map_err(status)?;
        Ok(Response::new(ListNexusReply { nexus_list: nexuses.iter().map(nexus_v0).collect() }))
    }

    async fn add_child_nexus(&self, request: Request<AddChildNexusRequest>) -> Answer<Child> {
        let AddChildNexusRequest { uuid, uri, norebuild } = request.into_inner();
        let added = uri.clone();
        let nexus =
            on_node!(self, node => node.add_child(uuid, uri, norebuild).await).await.map_err(legacy(ADD_CHILD))?;
        let child = nexus.child(&added).map(child_v0);
        let gone = || Status::aborted(format!("child {added} was removed from nexus {} again", nexus.uuid));
        child.map(Response::new).ok_or_else(gone)
    }

    async fn remove_child_nexus(&self, request: Request<RemoveChildNexusRequest>) -> Answer<Null> {
        let RemoveChildNexusRequest { uuid, uri } = request.into_inner();
        on_node!(self, node => node.remove_child(uuid, uri).await).await.map_err(legacy(REFUSED))?;
        Ok(Response::new(Null {}))
    }

    async fn publish_nexus(&self, request: Request<PublishNexusRequest>) -> Answer<PublishNexusReply> {
        let PublishNexusRequest { uuid, key, share } = request.into_inner();
        let protocol = match ShareProtocolNexus::try_from(share) {
            Ok(ShareProtocolNexus::NexusNvmf) => Protocol::Nvmf,
            Ok(ShareProtocolNexus::NexusIscsi) => Protocol::Iscsi,
            Ok(ShareProtocolNexus::NexusNbd) => Protocol::Nbd,
            Err(_) => return Err(Status::internal(format!("{share} is not a share protocol of a nexus"))),
        };
        let nexus = on_node!(self, node => node.publish_nexus(uuid, key, protocol).await).await;
        let device_uri = nexus.map_err(legacy(REFUSED))?.device_uri;
        Ok(Response::new(PublishNexusReply { device_uri }))
    }

    async fn unpublish_nexus(&self, request: Request<UnpublishNexusRequest>) -> Answer<Null> {
        let uuid = request.into_inner().uuid;
        on_node!(self, node => node.unpublish_nexus(uuid).await).await.map_err(status)?;
        Ok(Response::new(Null {}))
    }

    async fn child_operation(&self, request: Request<ChildNexusRequest>) -> Answer<Null> {
        let ChildNexusRequest { uuid, uri, action } = request.into_inner();
        let done = match ChildAction::try_from(action) {
            Ok(ChildAction::Offline) => on_node!(self, node => node.offline_child(uuid, uri).await).await,
            Ok(ChildAction::Online) => on_node!(self, node => node.online_child(uuid, uri).await).await,
            Err(_) => return Err(Status::invalid_argument(format!("{action} is not an action on a child"))),
        };
        done.map_err(legacy(REFUSED))?;
        Ok(Response::new(Null {}))
    }

    async fn start_rebuild(&self, request: Request<StartRebuildRequest>) -> Answer<Null> {
        let StartRebuildRequest { uuid, uri } = request.into_inner();
        on_node!(self, node => node.start_rebuild(uuid, uri).await).await.map_err(legacy(REBUILD))?;
        Ok(Response::new(Null {}))
    }

    async fn stop_rebuild(&self, request: Request<StopRebuildRequest>) -> Answer<Null> {
        let StopRebuildRequest { uuid, uri } = request.into_inner();
        on_node!(self, node => node.stop_rebuild(uuid, uri).await).await.map_err(legacy(REBUILD))?;
        Ok(Response::new(Null {}))
    }

    async fn pause_rebuild(&self, request: Request<PauseRebuildRequest>) -> Answer<Null> {
        let PauseRebuildRequest { uuid, uri } = request.into_inner();
        on_node!(self, node => node.pause_rebuild(uuid, uri).await).await.map_err(legacy(REBUILD))?;
        Ok(Response::new(Null {}))
    }

    async fn resume_rebuild(&self, request: Request<ResumeRebuildRequest>) -> Answer<Null> {
        let ResumeRebuildRequest { uuid, uri } = request.into_inner();
        on_node!(self, node => node.resume_rebuild(uuid, uri).await).await.map_err(legacy(REBUILD))?;
        Ok(Response::new(Null {}))
    }

    async fn get_rebuild_state(&self, request: Request<RebuildStateRequest>) -> Answer<RebuildStateReply> {
        let RebuildStateRequest { uuid, uri } = request.into_inner();
        let rebuild = on_node!(self, node => node.rebuild(&uuid, &uri)).await.map_err(legacy(REBUILD))?;
        Ok(Response::new(RebuildStateReply { state: rebuild.state.to_string() }))
    }

    async fn get_rebuild_progress(&self, request: Request<RebuildProgressRequest>) -> Answer<RebuildProgressReply> {
        let RebuildProgressRequest { uuid, uri } = request.into_inner();
        let rebuild = on_node!(self, node => node.rebuild(&uuid, &uri)).await.map_err(legacy(REBUILD))?;
        Ok(Response::new(RebuildProgressReply { progress: rebuild.percent() }))
    }
}
