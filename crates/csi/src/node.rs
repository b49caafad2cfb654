//! The node plugin: volumes on one node.
//!
//! ```text
//!   (nothing) ── stage ──► recorded ─► attached ─► [made, checked, mounted] = staged
//!   staged ── publish ──► target recorded ─► bind-mounted [─► read-only] = published
//!   published ── unpublish ──► staged ── unstage ──► unmounted ─► detached ─► forgotten
//! ```
//!
//! Each step looks first whether it is done already. So a call that was cut short anywhere is completed by the same call
//! again, and undone by the opposite one. What is known of a volume is in its record and in the kernel, never in memory.

pub mod attach;
mod mounts;
mod record;
mod tools;
mod volume;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use api::csi;
use csi::node_service_capability::{self, rpc};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::names;
use attach::{Attacher, Transport};

/// How a node plugin is run.
pub struct Options {
    /// The node's name.
    pub name: String,
    /// Where it keeps what it knows of volumes.
    pub state: PathBuf,
    /// The `mayastor` program, for volumes that are attached in user space.
    pub program: PathBuf,
    /// The control plane's address, for volumes whose target moves.
    pub control: Option<String>,
    /// The options by which the program shows that it may ask there.
    pub credentials: Vec<String>,
    /// How devices are attached.
    pub transport: Transport,
    /// How many volumes this node takes; 0: any number.
    pub max_volumes: u32,
    /// Called with the name of each step before it is done: a place for tests to interfere.
    pub before: fn(&str),
}

/// The service.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

pub(crate) struct Inner {
    options: Options,
    attacher: Attacher,
    busy: Mutex<BTreeSet<Uuid>>,
}

/// The right to work on a volume; others are refused meanwhile.
pub(crate) struct Turn<'a>(&'a Inner, Uuid);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.busy().remove(&self.1);
    }
}

impl Inner {
    fn busy(&self) -> std::sync::MutexGuard<'_, BTreeSet<Uuid>> {
        self.busy.lock().expect("nobody panics with this lock")
    }

    fn turn(&self, volume: Uuid) -> Result<Turn<'_>, Status> {
        if self.busy().insert(volume) {
            Ok(Turn(self, volume))
        } else {
            Err(Status::aborted(format!("another call for volume {volume} is under way on this node")))
        }
    }

    fn load(&self, volume: Uuid) -> Result<Option<record::Record>, Status> {
        record::load(&self.options.state, volume).map_err(|e| Status::internal(format!("volume {volume}: {e}")))
    }

    fn save(&self, volume: Uuid, record: &record::Record) -> Result<(), Status> {
        let saved = record::save(&self.options.state, volume, record);
        saved.map_err(|e| Status::internal(format!("the record of volume {volume} cannot be written: {e}")))
    }
}

/// A path in a request: absolute, without a way out of it.
fn path<'a>(what: &str, path: &'a str) -> Result<&'a Path, Status> {
    if path.is_empty() {
        return Err(Status::invalid_argument(format!("the {what} is missing")));
    }
    let path = Path::new(path);
    if !path.is_absolute() || path.components().any(|c| c == std::path::Component::ParentDir) {
        return Err(Status::invalid_argument(format!("the {what} {} is not absolute and plain", path.display())));
    }
    Ok(path)
}

/// Whether a name that blkid says is one of our file systems.
fn is_file_system(name: &str) -> bool {
    crate::capability::FILE_SYSTEMS.contains(&name)
}

/// The volume of an id; NOT_FOUND when it cannot be one of ours.
fn known(id: &str) -> Result<Uuid, Status> {
    names::volume_id(id)?.ok_or_else(|| Status::not_found(format!("there is no volume {id}")))
}

impl Node {
    /// A plugin for this node.
    pub fn new(options: Options) -> std::io::Result<Node> {
        std::fs::create_dir_all(&options.state)?;
        let attacher = Attacher {
            transport: options.transport,
            state: options.state.clone(),
            program: options.program.clone(),
            control: options.control.clone(),
            credentials: options.credentials.clone(),
        };
        Ok(Node(Arc::new(Inner { options, attacher, busy: Mutex::default() })))
    }
}

/// What the plugin offers.
const CAPABILITIES: &[rpc::Type] = &[
    rpc::Type::StageUnstageVolume,
    rpc::Type::ExpandVolume,
    rpc::Type::GetVolumeStats,
    rpc::Type::VolumeCondition,
    rpc::Type::SingleNodeMultiWriter,
];

#[tonic::async_trait]
impl csi::node_server::Node for Node {
    async fn node_stage_volume(
        &self,
        request: Request<csi::NodeStageVolumeRequest>,
    ) -> Result<Response<csi::NodeStageVolumeResponse>, Status> {
        self.0.stage(request.into_inner()).await?;
        Ok(Response::new(csi::NodeStageVolumeResponse {}))
    }
    async fn node_unstage_volume(
        &self,
        request: Request<csi::NodeUnstageVolumeRequest>,
    ) -> Result<Response<csi::NodeUnstageVolumeResponse>, Status> {
        self.0.unstage(request.into_inner()).await?;
        Ok(Response::new(csi::NodeUnstageVolumeResponse {}))
    }
    async fn node_publish_volume(
        &self,
        request: Request<csi::NodePublishVolumeRequest>,
    ) -> Result<Response<csi::NodePublishVolumeResponse>, Status> {
        self.0.publish(request.into_inner()).await?;
        Ok(Response::new(csi::NodePublishVolumeResponse {}))
    }
    async fn node_unpublish_volume(
        &self,
        request: Request<csi::NodeUnpublishVolumeRequest>,
    ) -> Result<Response<csi::NodeUnpublishVolumeResponse>, Status> {
        self.0.unpublish(request.into_inner()).await?;
        Ok(Response::new(csi::NodeUnpublishVolumeResponse {}))
    }
    async fn node_get_volume_stats(
        &self,
        request: Request<csi::NodeGetVolumeStatsRequest>,
    ) -> Result<Response<csi::NodeGetVolumeStatsResponse>, Status> {
        self.0.stats(request.into_inner()).await.map(Response::new)
    }
    async fn node_expand_volume(
        &self,
        request: Request<csi::NodeExpandVolumeRequest>,
    ) -> Result<Response<csi::NodeExpandVolumeResponse>, Status> {
        let capacity_bytes = self.0.expand(request.into_inner()).await?;
        Ok(Response::new(csi::NodeExpandVolumeResponse { capacity_bytes }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<csi::NodeGetCapabilitiesRequest>,
    ) -> Result<Response<csi::NodeGetCapabilitiesResponse>, Status> {
        let capability = |kind: &rpc::Type| {
            let rpc = node_service_capability::Rpc { r#type: *kind as i32 };
            csi::NodeServiceCapability { r#type: Some(node_service_capability::Type::Rpc(rpc)) }
        };
        let capabilities = CAPABILITIES.iter().map(capability).collect();
        Ok(Response::new(csi::NodeGetCapabilitiesResponse { capabilities }))
    }

    async fn node_get_info(
        &self,
        _: Request<csi::NodeGetInfoRequest>,
    ) -> Result<Response<csi::NodeGetInfoResponse>, Status> {
        let Options { name, max_volumes, .. } = &self.0.options;
        Ok(Response::new(csi::NodeGetInfoResponse {
            node_id: names::node_id(name),
            max_volumes_per_node: i64::from(*max_volumes),
            accessible_topology: Some(names::topology_of(name)),
        }))
    }
}
