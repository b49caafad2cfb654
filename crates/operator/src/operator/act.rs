//! What the operator does: the same calls that clients make.

use std::future::Future;

use api::v1;
use api::v1::control_server::Control as _;
use kube::ResourceExt;
use tonic::{Request, Response, Status};

use super::Operator;
use crate::decide::{node, pool, volume};
use crate::resource::{MayastorNode, MayastorPool, MayastorVolume, VolumeSpec};
use crate::store::spec;

/// The words of a refusal.
async fn answer<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, String> {
    let words =
        |s: Status| if s.message().is_empty() { s.code().description().to_owned() } else { s.message().to_owned() };
    call.await.map(Response::into_inner).map_err(words)
}

/// Whether a size is allowed by the limit that goes with it.
fn fits(wish: &VolumeSpec, size: u64) -> Result<(), String> {
    match wish.limit_bytes.and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0) {
        Some(limit) if limit < size => Err(format!("its size would be {size} bytes, more than limitBytes")),
        _ => Ok(()),
    }
}

impl Operator {
    pub(super) async fn pool(&self, object: &MayastorPool, action: pool::Action) -> Result<(), String> {
        let (name, node) = (object.name_any(), object.spec.node.clone());
        let calls = self.control.calls();
        match action {
            pool::Action::Hold => self.hold(&self.pools, object).await,
            pool::Action::Create => {
                let disks = object.spec.disks.clone();
                let pool = v1::CreatePoolRequest { name, disks, ..v1::CreatePoolRequest::default() };
                let request = v1::NodePoolRequest { node, pool: Some(pool) };
                answer(calls.create_pool(Request::new(request))).await.map(drop)
            }
            pool::Action::AddDisk(disk) => {
                self.control.add_pool_disk(&node, &name, &disk).await.map_err(|s| s.message().to_owned())
            }
            pool::Action::Destroy => {
                let request = v1::NodePoolName { node, pool: name };
                answer(calls.destroy_pool(Request::new(request))).await.map(drop)
            }
            pool::Action::Release => self.release(&self.pools, object).await,
        }
    }

    pub(super) async fn volume(&self, object: &MayastorVolume, action: volume::Action) -> Result<(), String> {
        let (name, wish) = (object.name_any(), &object.spec.spec);
        let calls = self.control.calls();
        match action {
            volume::Action::Create => {
                let size = spec::size(u64::try_from(wish.required_bytes).unwrap_or(0));
                fits(wish, size)?;
                // A name that is a uuid is the volume's; any other object gives its own, so that a second attempt makes
                // the same volume.
                let uuid =
                    if name.parse::<uuid::Uuid>().is_ok() { name.clone() } else { object.uid().unwrap_or_default() };
                let request = v1::CreateVolumeRequest {
                    name,
                    size,
                    replicas: wish.replica_count,
                    thin: wish.thin.unwrap_or(false),
                    required_nodes: wish.required_nodes.clone(),
                    preferred_nodes: wish.preferred_nodes.clone(),
                    uuid,
                    ..v1::CreateVolumeRequest::default()
                };
                answer(calls.create_volume(Request::new(request))).await.map(drop)
            }
            volume::Action::Scale(replicas) => {
                let request = v1::SetReplicaCountRequest { name, replicas };
                answer(calls.set_replica_count(Request::new(request))).await.map(drop)
            }
            volume::Action::Grow(size) => {
                fits(wish, size)?;
                answer(calls.resize_volume(Request::new(v1::ResizeVolumeRequest { name, size }))).await.map(drop)
            }
            volume::Action::Place => {
                let nodes = (wish.required_nodes.clone(), wish.preferred_nodes.clone());
                self.control.set_nodes(&name, nodes.0, nodes.1).await.map_err(|s| s.message().to_owned())
            }
            volume::Action::Destroy => {
                answer(calls.destroy_volume(Request::new(v1::VolumeName { name }))).await.map(drop)
            }
            volume::Action::Release => self.release(&self.volumes, object).await,
        }
    }

    pub(super) async fn node(&self, object: &MayastorNode, action: node::Action) -> Result<(), String> {
        let id = object.name_any();
        match action {
            node::Action::Know(endpoint) => {
                self.control.add_node(&id, &endpoint).await.map_err(|s| s.message().to_owned())
            }
            node::Action::Remove => {
                let request = v1::RemoveNodeRequest { id, lose_data: false };
                answer(self.control.calls().remove_node(Request::new(request))).await.map(drop)
            }
            node::Action::Release => self.release(&self.nodes, object).await,
        }
    }
}
