//! The service `mayastor.v1.Engine`.

use std::time::Duration;

use api::v1::engine_server::Engine as EngineService;
use api::v1::*;
use engine::model::{CreateNexus, CreatePool, CreateReplica, Protocol};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::Engine;
use super::convert::{config_v1, contents_v1, ledger_from_v1, nexus_v1, pool_v1, replica_v1, report_v1, statistics_v1};
use super::status::status;
use super::v0::on_node;

type Answer<T> = Result<Response<T>, Status>;

/// A report at least so often.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Not more than ten reports a second.
const PACE: Duration = Duration::from_millis(100);

impl Engine {
    /// The next report after `seen`; the present one when nothing has been seen.
    async fn next_report(&self, seen: Option<u64>) -> Result<NodeReport, Status> {
        let report = on_node!(self, node => Ok(match seen {
            None => node.report(),
            Some(seen) => node.report_after(seen, HEARTBEAT).await,
        }));
        Ok(report_v1(report.await.map_err(status)?, &self.endpoint))
    }

    /// Sends reports until the reader goes away or the engine stops.
    async fn send_reports(self, reports: mpsc::Sender<Result<NodeReport, Status>>) {
        let mut stopping = self.stopping.clone();
        let mut seen = None;
        loop {
            let report = tokio::select! {
                report = self.next_report(seen) => report,
                () = reports.closed() => return,
                _ = stopping.wait_for(|stop| *stop) => return,
            };
            seen = report.as_ref().ok().map(|report| report.sequence);
            let last = report.is_err();
            if reports.send(report).await.is_err() || last {
                return;
            }
            tokio::time::sleep(PACE).await;
        }
    }
}

#[tonic::async_trait]
impl EngineService for Engine {
    async fn get_node(&self, _: Request<Empty>) -> Answer<NodeReport> {
        Ok(Response::new(self.next_report(None).await?))
    }

    type WatchNodeStream = ReceiverStream<Result<NodeReport, Status>>;

    async fn watch_node(&self, _: Request<Empty>) -> Answer<Self::WatchNodeStream> {
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(self.clone().send_reports(sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn get_statistics(&self, _: Request<Empty>) -> Answer<NodeStatistics> {
        let statistics = on_node!(self, node => Ok(node.statistics())).await.map_err(status)?;
        Ok(Response::new(statistics_v1(statistics)))
    }

    async fn create_pool(&self, request: Request<CreatePoolRequest>) -> Answer<Pool> {
        let CreatePoolRequest { name, disks, force, cluster } = request.into_inner();
        let request = CreatePool { name, disks, force, cluster, block_size: 0 };
        let pool = on_node!(self, node => node.create_pool(request).await).await.map_err(status)?;
        Ok(Response::new(pool_v1(pool)))
    }

    async fn import_pool(&self, request: Request<ImportPoolRequest>) -> Answer<Pool> {
        let ImportPoolRequest { name, disks } = request.into_inner();
        let pool = on_node!(self, node => node.import_pool(name, disks).await).await.map_err(status)?;
        Ok(Response::new(pool_v1(pool)))
    }

    async fn export_pool(&self, request: Request<PoolName>) -> Answer<Empty> {
        let name = request.into_inner().name;
        on_node!(self, node => node.export_pool(name).await).await.map_err(status)?;
        Ok(Response::new(Empty {}))
    }

    async fn destroy_pool(&self, request: Request<PoolName>) -> Answer<Empty> {
        let name = request.into_inner().name;
        on_node!(self, node => node.destroy_pool(name, false).await).await.map_err(status)?;
        Ok(Response::new(Empty {}))
    }

    async fn add_pool_disk(&self, request: Request<AddPoolDiskRequest>) -> Answer<Pool> {
        let AddPoolDiskRequest { name, disk, force } = request.into_inner();
        let pool = on_node!(self, node => node.add_pool_disk(name, disk, force).await).await.map_err(status)?;
        Ok(Response::new(pool_v1(pool)))
    }

    async fn create_replica(&self, request: Request<CreateReplicaRequest>) -> Answer<Replica> {
        let CreateReplicaRequest { uuid, pool, size, thin, share } = request.into_inner();
        let request = CreateReplica { uuid, pool, size, thin, share: share.then_some(Protocol::Nvmf) };
        let replica = on_node!(self, node => node.create_replica(request).await).await.map_err(status)?;
        Ok(Response::new(replica_v1(replica)))
    }

    async fn share_replica(&self, request: Request<ShareReplicaRequest>) -> Answer<Replica> {
        let ShareReplicaRequest { uuid, share } = request.into_inner();
        let share = share.then_some(Protocol::Nvmf);
        let replica = on_node!(self, node => node.share_replica(uuid, share).await).await.map_err(status)?;
        Ok(Response::new(replica_v1(replica)))
    }

    async fn destroy_replica(&self, request: Request<ReplicaName>) -> Answer<Empty> {
        let uuid = request.into_inner().uuid;
        on_node!(self, node => node.destroy_replica(uuid).await).await.map_err(status)?;
        Ok(Response::new(Empty {}))
    }

    async fn resize_replica(&self, request: Request<ResizeReplicaRequest>) -> Answer<Replica> {
        let ResizeReplicaRequest { uuid, size } = request.into_inner();
        let replica = on_node!(self, node => node.resize_replica(uuid, size).await).await.map_err(status)?;
        Ok(Response::new(replica_v1(replica)))
    }

    async fn resize_nexus(&self, request: Request<ResizeNexusRequest>) -> Answer<Nexus> {
        let ResizeNexusRequest { uuid, size } = request.into_inner();
        let nexus = on_node!(self, node => node.resize_nexus(uuid, size).await).await.map_err(status)?;
        Ok(Response::new(nexus_v1(nexus)))
    }

    async fn inspect_replica(&self, request: Request<ReplicaName>) -> Answer<ReplicaContents> {
        let uuid = request.into_inner().uuid;
        let name = uuid.clone();
        let contents = on_node!(self, node => node.inspect_replica(name).await).await.map_err(status)?;
        Ok(Response::new(contents_v1(uuid, contents)))
    }

    async fn create_nexus(&self, request: Request<CreateNexusRequest>) -> Answer<Nexus> {
        let CreateNexusRequest { uuid, size, children, ledger, managed } = request.into_inner();
        let request = CreateNexus { uuid, size, children, ledger: ledger.map(ledger_from_v1), managed };
        let nexus = on_node!(self, node => node.create_nexus(request).await).await.map_err(status)?;
        Ok(Response::new(nexus_v1(nexus)))
    }

    async fn destroy_nexus(&self, request: Request<NexusName>) -> Answer<Empty> {
        let uuid = request.into_inner().uuid;
        on_node!(self, node => node.destroy_nexus(uuid).await).await.map_err(status)?;
        Ok(Response::new(Empty {}))
    }

    async fn publish_nexus(&self, request: Request<NexusName>) -> Answer<Nexus> {
        let uuid = request.into_inner().uuid;
        let nexus = on_node!(self, node => node.publish_nexus(uuid, String::new(), Protocol::Nvmf).await).await;
        Ok(Response::new(nexus_v1(nexus.map_err(status)?)))
    }

    async fn unpublish_nexus(&self, request: Request<NexusName>) -> Answer<Nexus> {
        let uuid = request.into_inner().uuid;
        let nexus = on_node!(self, node => node.unpublish_nexus(uuid).await).await.map_err(status)?;
        Ok(Response::new(nexus_v1(nexus)))
    }

    async fn add_child(&self, request: Request<ChildRequest>) -> Answer<Nexus> {
        let ChildRequest { uuid, uri } = request.into_inner();
        let nexus = on_node!(self, node => node.add_child(uuid, uri, false).await).await.map_err(status)?;
        Ok(Response::new(nexus_v1(nexus)))
    }

    async fn remove_child(&self, request: Request<ChildRequest>) -> Answer<Nexus> {
        let ChildRequest { uuid, uri } = request.into_inner();
        let nexus = on_node!(self, node => node.remove_child(uuid, uri).await).await.map_err(status)?;
        Ok(Response::new(nexus_v1(nexus)))
    }

    async fn fault_child(&self, request: Request<ChildRequest>) -> Answer<Nexus> {
        let ChildRequest { uuid, uri } = request.into_inner();
        let nexus = on_node!(self, node => node.fault_child(uuid, uri).await).await.map_err(status)?;
        Ok(Response::new(nexus_v1(nexus)))
    }

    async fn get_config(&self, _: Request<Empty>) -> Answer<Config> {
        let settings = on_node!(self, node => Ok(node.settings())).await.map_err(status)?;
        Ok(Response::new(config_v1(settings)))
    }

    async fn set_config(&self, request: Request<Setting>) -> Answer<Config> {
        let Setting { name, value, .. } = request.into_inner();
        let settings = on_node!(self, node => node.set_setting(name, value).await).await.map_err(status)?;
        Ok(Response::new(config_v1(settings)))
    }
}
