//! What the controller needs of the control plane.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use access::{Channel, Dial};
use api::v1;
use api::v1::control_client::ControlClient;
use tonic::transport::Endpoint;
use tonic::{Code, Status};

use crate::identity::Ready;

/// How long a call may take: more than the control plane keeps a client waiting.
const CALL: Duration = Duration::from_secs(50);
/// How long a look takes at most.
const LOOK: Duration = Duration::from_secs(5);

/// The calls of the control plane that the driver makes. Errors carry gRPC's codes, which mean the same in CSI.
#[tonic::async_trait]
pub trait ControlPlane: Send + Sync + 'static {
    /// Makes a volume.
    async fn create(&self, request: v1::CreateVolumeRequest) -> Result<v1::Volume, Status>;
    /// Destroys a volume; one that is not there is fine.
    async fn destroy(&self, name: &str) -> Result<(), Status>;
    /// A volume; `None` when there is none of that name or uuid.
    async fn get(&self, name: &str) -> Result<Option<v1::Volume>, Status>;
    /// All volumes, pools and nodes.
    async fn status(&self) -> Result<v1::Status, Status>;
    /// A host uses a volume.
    async fn attach(&self, request: v1::AttachVolumeRequest) -> Result<v1::Volume, Status>;
    /// A host does not use it any more; an empty name: none does.
    async fn detach(&self, name: &str, host: &str) -> Result<v1::Volume, Status>;
    /// Makes a volume larger, for its hosts too.
    async fn resize(&self, name: &str, size: u64) -> Result<v1::Volume, Status>;
    /// Changes the number of copies.
    async fn set_replicas(&self, name: &str, replicas: u32) -> Result<v1::Volume, Status>;
}

/// A control plane behind gRPC. It connects when it is used, and again after the connection was lost. Of several the next is
/// asked by the next call when one is away or stands by; Kubernetes repeats what failed.
#[derive(Clone)]
pub struct Remote {
    clients: Arc<[ControlClient<Channel>]>,
    at: Arc<AtomicUsize>,
}

impl Remote {
    /// The control plane at `host:port`, called so; several are separated by commas.
    pub fn new(addresses: &str, dial: &Dial) -> Result<Remote, String> {
        let client = |address: &str| {
            let endpoint = Endpoint::from_shared(format!("http://{address}"))
                .map_err(|e| format!("the control plane's address {address:?}: {e}"))?
                .connect_timeout(LOOK)
                .timeout(CALL)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(Duration::from_secs(5))
                .keep_alive_timeout(Duration::from_secs(5));
            Ok(ControlClient::new(dial.lazy(&endpoint)).max_decoding_message_size(64 << 20))
        };
        let clients = addresses.split(',').map(client).collect::<Result<_, String>>()?;
        Ok(Remote { clients, at: Arc::default() })
    }

    fn client(&self) -> ControlClient<Channel> {
        self.clients[self.at.load(Ordering::Relaxed) % self.clients.len()].clone()
    }

    /// A failed connection is the control plane being away, whatever the transport calls it.
    fn away(&self, status: Status) -> Status {
        let lost = std::error::Error::source(&status).is_some();
        let status = match status.code() {
            Code::Unknown | Code::Cancelled if lost => {
                Status::unavailable(format!("the control plane cannot be reached: {}", status.message()))
            }
            Code::DeadlineExceeded => Status::unavailable(format!("the control plane is slow: {}", status.message())),
            _ => Status::new(status.code(), status.message()),
        };
        if status.code() == Code::Unavailable {
            self.at.fetch_add(1, Ordering::Relaxed);
        }
        status
    }
}

#[tonic::async_trait]
impl ControlPlane for Remote {
    async fn create(&self, request: v1::CreateVolumeRequest) -> Result<v1::Volume, Status> {
        Ok(self.client().create_volume(request).await.map_err(|s| self.away(s))?.into_inner())
    }
    async fn destroy(&self, name: &str) -> Result<(), Status> {
        let gone = self.client().destroy_volume(v1::VolumeName { name: name.to_owned() }).await;
        gone.map(drop).map_err(|s| self.away(s))
    }
    async fn get(&self, name: &str) -> Result<Option<v1::Volume>, Status> {
        match self.client().get_volume(v1::VolumeName { name: name.to_owned() }).await.map_err(|s| self.away(s)) {
            Ok(volume) => Ok(Some(volume.into_inner())),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status),
        }
    }
    async fn status(&self) -> Result<v1::Status, Status> {
        let nodes = self.client().list_nodes(v1::Empty {}).await.map_err(|s| self.away(s))?.into_inner().nodes;
        let pools = self.client().list_pools(v1::Empty {}).await.map_err(|s| self.away(s))?.into_inner().pools;
        let volumes = self.client().list_volumes(v1::Empty {}).await.map_err(|s| self.away(s))?.into_inner().volumes;
        Ok(v1::Status { nodes, pools, volumes })
    }
    async fn attach(&self, request: v1::AttachVolumeRequest) -> Result<v1::Volume, Status> {
        Ok(self.client().attach_volume(request).await.map_err(|s| self.away(s))?.into_inner())
    }
    async fn detach(&self, name: &str, host: &str) -> Result<v1::Volume, Status> {
        let request = v1::DetachVolumeRequest { name: name.to_owned(), host: host.to_owned() };
        Ok(self.client().detach_volume(request).await.map_err(|s| self.away(s))?.into_inner())
    }
    async fn resize(&self, name: &str, size: u64) -> Result<v1::Volume, Status> {
        let request = v1::ResizeVolumeRequest { name: name.to_owned(), size };
        Ok(self.client().resize_volume(request).await.map_err(|s| self.away(s))?.into_inner())
    }
    async fn set_replicas(&self, name: &str, replicas: u32) -> Result<v1::Volume, Status> {
        let request = v1::SetReplicaCountRequest { name: name.to_owned(), replicas };
        Ok(self.client().set_replica_count(request).await.map_err(|s| self.away(s))?.into_inner())
    }
}

#[tonic::async_trait]
impl Ready for Remote {
    async fn ready(&self) -> Result<bool, Status> {
        let mut client = self.client();
        let nodes = tokio::time::timeout(LOOK, client.list_nodes(v1::Empty {})).await;
        let ready = matches!(nodes, Ok(Ok(_)));
        if !ready {
            self.at.fetch_add(1, Ordering::Relaxed);
        }
        Ok(ready)
    }
}
