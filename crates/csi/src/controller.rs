//! The controller: volumes as the cluster sees them.
//!
//! It keeps nothing. Who uses a volume, and how, is on record in the control plane; what a repeated call must compare with
//! is read from there.

mod capacity;
mod volumes;

use std::collections::BTreeMap;

use api::csi;
use api::v1;
use csi::controller_service_capability::{self, rpc};
use tonic::{Code, Request, Response, Status};
use uuid::Uuid;

use crate::capability::Capability;
use crate::control_plane::ControlPlane;
use crate::names::{self, VolumeName};
use crate::parameters::Parameters;
use volumes::{describe, status_of};

/// The key under which a node finds the volume's address in the publish context.
pub const URI: &str = "uri";

/// The key under which a node finds that the device shall refuse writes.
pub const READ_ONLY: &str = "readonly";

/// The service.
pub struct Controller<C> {
    control: C,
    /// How many volumes one node takes; 0: any number.
    host_limit: u32,
}

fn unknown(id: &str) -> Status {
    Status::not_found(format!("there is no volume {id}"))
}

impl<C: ControlPlane> Controller<C> {
    /// A controller for the volumes of that control plane. `host_limit`: how many volumes one node takes, 0 for any number.
    pub fn new(control: C, host_limit: u32) -> Controller<C> {
        Controller { control, host_limit }
    }

    /// The control plane.
    pub fn control_plane(&self) -> &C {
        &self.control
    }

    /// The volume of that id; NOT_FOUND when there is none, or when it is being deleted.
    async fn find(&self, id: &str) -> Result<v1::Volume, Status> {
        let Some(uuid) = names::volume_id(id)? else { return Err(unknown(id)) };
        let found = self.control.get(&uuid.to_string()).await?;
        found.filter(|v| v.state != "deleting").ok_or_else(|| unknown(id))
    }

    async fn create(&self, request: csi::CreateVolumeRequest) -> Result<csi::Volume, Status> {
        let name = VolumeName::new(&request.name)?;
        Capability::read_all(&request.volume_capabilities)?;
        if request.volume_content_source.is_some() {
            return Err(Status::invalid_argument("volumes cannot be made from snapshots or other volumes"));
        }
        let mut parameters = Parameters::read(&request.parameters)?;
        if let Some(replicas) = Parameters::read_mutable(&request.mutable_parameters)? {
            parameters.replicas = replicas;
        }
        let range = capacity::Range::read(request.capacity_range.as_ref())?;
        let status = self.control.status().await?;
        let storage = status.pools.iter().map(|p| p.node.clone()).collect();
        let placement = names::placement(request.accessibility_requirements.as_ref(), &storage)?;
        let mut context = request.parameters.clone();
        context.retain(|key, _| !key.starts_with("csi.storage.k8s.io/"));
        let uuid = name.uuid.to_string();
        let made = match self.control.get(&uuid).await? {
            Some(found) => found,
            None => {
                let wanted = v1::CreateVolumeRequest {
                    name: name.name.clone(),
                    size: range.choose()?,
                    replicas: parameters.replicas,
                    thin: parameters.thin,
                    required_nodes: placement.required.iter().cloned().collect(),
                    preferred_nodes: placement.preferred.clone(),
                    uuid: uuid.clone(),
                    ..Default::default()
                };
                match self.control.create(wanted).await {
                    Ok(volume) => volume,
                    // Another call for the same volume was faster; what it made decides.
                    Err(e) if e.code() == Code::AlreadyExists => self.control.get(&uuid).await?.ok_or(e)?,
                    Err(e) => return Err(e),
                }
            }
        };
        volumes::check_same(&made, &name, &range, &parameters, &placement)?;
        if made.state == "pending" {
            // The same call again finds it and waits on.
            return Err(Status::unavailable(format!("volume {} is not ready yet: {}", name.name, made.reason)));
        }

        Ok(describe(&made, context))
    }

    async fn publish(&self, request: csi::ControllerPublishVolumeRequest) -> Result<BTreeMap<String, String>, Status> {
        let id = &request.volume_id;
        names::volume_id(id)?;
        if request.node_id.is_empty() {
            return Err(Status::invalid_argument("the node's id is missing"));
        }
        let capability = Capability::read(request.volume_capability.as_ref())?;
        let parameters = Parameters::read(&request.volume_context)?;
        let volume = self.find(id).await?;
        let node = names::node_name(&request.node_id)?;
        let attach = v1::AttachVolumeRequest {
            name: volume.uuid,
            host: node.to_owned(),
            read_only: request.readonly || capability.is_read_only(),
            shared: capability.is_shared(),
            node: if parameters.local { node.to_owned() } else { String::new() },
            host_limit: self.host_limit,
        };
        let read_only = attach.read_only.to_string();
        let attached = self.control.attach(attach).await?;
        Ok([(URI.to_owned(), attached.device_uri), (READ_ONLY.to_owned(), read_only)].into())
    }

    async fn unpublish(&self, request: &csi::ControllerUnpublishVolumeRequest) -> Result<(), Status> {
        let Some(uuid) = names::volume_id(&request.volume_id)? else { return Ok(()) };
        let host = match request.node_id.as_str() {
            // No node: from all of them.
            "" => "",
            // A node that cannot exist has nothing.
            id => match names::node_name(id) {
                Ok(name) => name,
                Err(_) => return Ok(()),
            },
        };
        match self.control.detach(&uuid.to_string(), host).await {
            Err(status) if status.code() != Code::NotFound => Err(status),
            _ => Ok(()),
        }
    }

    /// Makes a volume at least as large as is required; one that is so already is left.
    async fn expand(
        &self,
        request: csi::ControllerExpandVolumeRequest,
    ) -> Result<csi::ControllerExpandVolumeResponse, Status> {
        names::volume_id(&request.volume_id)?;
        let missing = || Status::invalid_argument("the size is missing");
        let range = capacity::Range::read(Some(request.capacity_range.as_ref().ok_or_else(missing)?))?;
        if let Some(capability) = &request.volume_capability {
            Capability::read(Some(capability))?;
        }
        let volume = self.find(&request.volume_id).await?;
        let size = range.choose_above(volume.size)?;
        let grown = self.control.resize(&volume.uuid, size).await.map_err(|status| match status.code() {
            // The pools have no room: CSI's word for it.
            Code::ResourceExhausted => Status::out_of_range(status.message()),
            _ => status,
        })?;
        // Raw devices too: a node that attached the volume in user space has to be told.
        let (capacity_bytes, node_expansion_required) = (grown.size.cast_signed(), true);
        Ok(csi::ControllerExpandVolumeResponse { capacity_bytes, node_expansion_required })
    }

    async fn validate(
        &self,
        request: csi::ValidateVolumeCapabilitiesRequest,
    ) -> Result<csi::ValidateVolumeCapabilitiesResponse, Status> {
        names::volume_id(&request.volume_id)?;
        if request.volume_capabilities.is_empty() {
            return Err(Status::invalid_argument("the volume's capabilities are missing"));
        }
        let volume = self.find(&request.volume_id).await?;
        let refuse = |status: Status| {
            let message = status.message().to_owned();
            Ok(csi::ValidateVolumeCapabilitiesResponse { confirmed: None, message })
        };
        if let Err(status) = Capability::read_all(&request.volume_capabilities) {
            return refuse(status);
        }
        let mut parameters = request.volume_context.clone();
        parameters.extend(request.parameters.clone());
        let wanted = match Parameters::read(&parameters) {
            Ok(parameters) => parameters,
            Err(status) => return refuse(status),
        };
        if let Err(status) = Parameters::read_mutable(&request.mutable_parameters) {
            return refuse(status);
        }
        if parameters.contains_key("thin") && wanted.thin != volume.thin {
            return refuse(Status::invalid_argument(format!("volume {} has thin={}", volume.name, volume.thin)));
        }
        let confirmed = csi::validate_volume_capabilities_response::Confirmed {
            volume_context: request.volume_context,
            volume_capabilities: request.volume_capabilities,
            parameters: request.parameters,
            mutable_parameters: request.mutable_parameters,
        };
        Ok(csi::ValidateVolumeCapabilitiesResponse { confirmed: Some(confirmed), message: String::new() })
    }

    async fn list(&self, request: &csi::ListVolumesRequest) -> Result<csi::ListVolumesResponse, Status> {
        let most = usize::try_from(request.max_entries)
            .map_err(|_| Status::invalid_argument(format!("max_entries is {}", request.max_entries)))?;
        // A token is the id after which a page begins: it stays good when that volume goes.
        let after: Option<Uuid> = match request.starting_token.as_str() {
            "" => None,
            token => Some(token.parse().map_err(|_| Status::aborted(format!("{token:?} is no token of a page")))?),
        };
        let mut all: Vec<(Uuid, v1::Volume)> = Vec::new();
        for volume in self.control.status().await?.volumes {
            let id = volume.uuid.parse().map_err(|_| Status::internal("the control plane named a volume badly"))?;
            if volume.state != "deleting" && after.is_none_or(|after| id > after) {
                all.push((id, volume));
            }
        }
        all.sort_by_key(|(id, _)| *id);
        let more = most != 0 && all.len() > most;
        if more {
            all.truncate(most);
        }
        let next_token = all.last().filter(|_| more).map(|(id, _)| id.to_string()).unwrap_or_default();
        let entry = |(_, v): (Uuid, v1::Volume)| {
            let (published_node_ids, condition) = status_of(&v);
            let volume_condition = Some(condition);
            csi::list_volumes_response::Entry {
                status: Some(csi::list_volumes_response::VolumeStatus { published_node_ids, volume_condition }),
                volume: Some(describe(&v, BTreeMap::new())),
            }
        };
        Ok(csi::ListVolumesResponse { entries: all.into_iter().map(entry).collect(), next_token })
    }
}

/// What the controller offers, and nothing more.
const CAPABILITIES: &[rpc::Type] = &[
    rpc::Type::CreateDeleteVolume,
    rpc::Type::PublishUnpublishVolume,
    rpc::Type::ListVolumes,
    rpc::Type::GetCapacity,
    rpc::Type::PublishReadonly,
    rpc::Type::ListVolumesPublishedNodes,
    rpc::Type::VolumeCondition,
    rpc::Type::GetVolume,
    rpc::Type::SingleNodeMultiWriter,
    rpc::Type::ModifyVolume,
    rpc::Type::ExpandVolume,
];

fn not_offered<T>(what: &str) -> Result<Response<T>, Status> {
    Err(Status::unimplemented(format!("{what} are not offered")))
}

#[tonic::async_trait]
impl<C: ControlPlane> csi::controller_server::Controller for Controller<C> {
    async fn create_volume(
        &self,
        request: Request<csi::CreateVolumeRequest>,
    ) -> Result<Response<csi::CreateVolumeResponse>, Status> {
        let volume = Some(self.create(request.into_inner()).await?);
        Ok(Response::new(csi::CreateVolumeResponse { volume }))
    }

    async fn delete_volume(
        &self,
        request: Request<csi::DeleteVolumeRequest>,
    ) -> Result<Response<csi::DeleteVolumeResponse>, Status> {
        let id = request.into_inner().volume_id;
        if let Some(uuid) = names::volume_id(&id)?.map(|uuid| uuid.to_string()) {
            let used = self.control.get(&uuid).await?.filter(|v| v.state != "deleting" && !v.hosts.is_empty());
            if let Some(volume) = used {
                let hosts: Vec<&str> = volume.hosts.iter().map(|h| h.host.as_str()).collect();
                let text = format!("volume {id} is in use on {}", hosts.join(", "));
                return Err(Status::failed_precondition(text));
            }
            self.control.destroy(&uuid).await?;
        }
        Ok(Response::new(csi::DeleteVolumeResponse {}))
    }

    async fn controller_publish_volume(
        &self,
        request: Request<csi::ControllerPublishVolumeRequest>,
    ) -> Result<Response<csi::ControllerPublishVolumeResponse>, Status> {
        let publish_context = self.publish(request.into_inner()).await?;
        Ok(Response::new(csi::ControllerPublishVolumeResponse { publish_context }))
    }

    async fn controller_unpublish_volume(
        &self,
        request: Request<csi::ControllerUnpublishVolumeRequest>,
    ) -> Result<Response<csi::ControllerUnpublishVolumeResponse>, Status> {
        self.unpublish(&request.into_inner()).await?;
        Ok(Response::new(csi::ControllerUnpublishVolumeResponse {}))
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<csi::ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<csi::ValidateVolumeCapabilitiesResponse>, Status> {
        self.validate(request.into_inner()).await.map(Response::new)
    }

    async fn list_volumes(
        &self,
        request: Request<csi::ListVolumesRequest>,
    ) -> Result<Response<csi::ListVolumesResponse>, Status> {
        self.list(&request.into_inner()).await.map(Response::new)
    }

    async fn get_capacity(
        &self,
        request: Request<csi::GetCapacityRequest>,
    ) -> Result<Response<csi::GetCapacityResponse>, Status> {
        let request = request.into_inner();
        if !request.volume_capabilities.is_empty() {
            Capability::read_all(&request.volume_capabilities)?;
        }
        let parameters = Parameters::read(&request.parameters)?;
        let node = names::segment(request.accessible_topology.as_ref())?;
        let status = self.control.status().await?;
        Ok(Response::new(capacity::capacity(&status, parameters.replicas, node.as_deref())))
    }

    async fn controller_get_capabilities(
        &self,
        _: Request<csi::ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<csi::ControllerGetCapabilitiesResponse>, Status> {
        let capability = |kind: &rpc::Type| {
            let rpc = controller_service_capability::Rpc { r#type: *kind as i32 };
            csi::ControllerServiceCapability { r#type: Some(controller_service_capability::Type::Rpc(rpc)) }
        };
        let capabilities = CAPABILITIES.iter().map(capability).collect();
        Ok(Response::new(csi::ControllerGetCapabilitiesResponse { capabilities }))
    }

    async fn create_snapshot(
        &self,
        _: Request<csi::CreateSnapshotRequest>,
    ) -> Result<Response<csi::CreateSnapshotResponse>, Status> {
        not_offered("snapshots")
    }
    async fn delete_snapshot(
        &self,
        _: Request<csi::DeleteSnapshotRequest>,
    ) -> Result<Response<csi::DeleteSnapshotResponse>, Status> {
        not_offered("snapshots")
    }
    async fn list_snapshots(
        &self,
        _: Request<csi::ListSnapshotsRequest>,
    ) -> Result<Response<csi::ListSnapshotsResponse>, Status> {
        not_offered("snapshots")
    }
    async fn get_snapshot(
        &self,
        _: Request<csi::GetSnapshotRequest>,
    ) -> Result<Response<csi::GetSnapshotResponse>, Status> {
        not_offered("snapshots")
    }

    async fn controller_expand_volume(
        &self,
        request: Request<csi::ControllerExpandVolumeRequest>,
    ) -> Result<Response<csi::ControllerExpandVolumeResponse>, Status> {
        self.expand(request.into_inner()).await.map(Response::new)
    }

    async fn controller_get_volume(
        &self,
        request: Request<csi::ControllerGetVolumeRequest>,
    ) -> Result<Response<csi::ControllerGetVolumeResponse>, Status> {
        let volume = self.find(&request.into_inner().volume_id).await?;
        let (published_node_ids, condition) = status_of(&volume);
        let volume_condition = Some(condition);
        let status = csi::controller_get_volume_response::VolumeStatus { published_node_ids, volume_condition };
        let volume = Some(describe(&volume, BTreeMap::new()));
        Ok(Response::new(csi::ControllerGetVolumeResponse { volume, status: Some(status) }))
    }

    async fn controller_modify_volume(
        &self,
        request: Request<csi::ControllerModifyVolumeRequest>,
    ) -> Result<Response<csi::ControllerModifyVolumeResponse>, Status> {
        let request = request.into_inner();
        let volume = self.find(&request.volume_id).await?;
        if let Some(replicas) = Parameters::read_mutable(&request.mutable_parameters)? {
            self.control.set_replicas(&volume.uuid, replicas).await?;
        }
        Ok(Response::new(csi::ControllerModifyVolumeResponse {}))
    }
}
