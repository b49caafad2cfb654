//! Volumes of the control plane in CSI's words.

use std::collections::BTreeMap;

use api::csi;
use api::v1;
use tonic::Status;

use super::capacity::Range;
use crate::names::{Placement, VolumeName, node_id};
use crate::parameters::Parameters;

/// A volume. Every node of the cluster can use it over the network, so it names no topology.
pub(super) fn describe(volume: &v1::Volume, context: BTreeMap<String, String>) -> csi::Volume {
    csi::Volume {
        capacity_bytes: volume.size.cast_signed(),
        volume_id: volume.uuid.clone(),
        volume_context: context,
        content_source: None,
        accessible_topology: Vec::new(),
    }
}

/// Where a volume is used, and how it is.
pub(super) fn status_of(volume: &v1::Volume) -> (Vec<String>, csi::VolumeCondition) {
    let hosts = volume.hosts.iter().map(|h| node_id(&h.host)).collect();
    let abnormal = matches!(volume.state.as_str(), "degraded" | "faulted" | "offline");
    let mut message = format!("the volume is {}", volume.state);
    if !volume.reason.is_empty() {
        message = format!("{message}: {}", volume.reason);
    }
    (hosts, csi::VolumeCondition { abnormal, message })
}

/// Whether a volume that exists is what a repeated call asks for.
pub(super) fn check_same(
    volume: &v1::Volume,
    name: &VolumeName,
    range: &Range,
    parameters: &Parameters,
    placement: &Placement,
) -> Result<(), Status> {
    let differs = |what: String| Err(Status::already_exists(format!("volume {} exists with {what}", name.name)));
    if volume.state == "deleting" {
        return Err(Status::aborted(format!("volume {} is still being deleted", name.name)));
    }
    if volume.name != name.name {
        return differs(format!("the name {}", volume.name));
    }
    if !range.holds(volume.size) {
        return differs(format!("{} bytes", volume.size));
    }
    if volume.replicas_wanted != parameters.replicas {
        return differs(format!("{} replicas", volume.replicas_wanted));
    }
    if volume.thin != parameters.thin {
        return differs(format!("thin={}", volume.thin));
    }
    let outside = |r: &&v1::VolumeReplica| r.state != "retired" && !placement.required.contains(&r.node);
    if let Some(replica) = volume.replicas.iter().find(|r| !placement.required.is_empty() && outside(r)) {
        return differs(format!("a copy on {}, which the request does not allow", replica.node));
    }
    Ok(())
}
