//! Volumes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Record;

/// A volume.
#[derive(Clone, Debug, PartialEq, CustomResource, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "openebs.io",
    version = "v1alpha1",
    kind = "MayastorVolume",
    plural = "mayastorvolumes",
    shortname = "msv",
    category = "storage",
    namespaced,
    no_spec,
    status = "VolumeStatus",
    derive = "PartialEq",
    doc = "A replicated volume, made by the CSI driver or by hand. Deleting it destroys its data, once no host uses it.",
    printcolumn(name = "Node", type_ = "string", json_path = ".status.node"),
    printcolumn(name = "Size", type_ = "integer", json_path = ".status.size"),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".spec.replicaCount"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct VolumeFields {
    /// What is asked for.
    pub spec: VolumeSpec,
    /// Written by the control plane alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Record>,
}

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!has(self.limitBytes) || self.limitBytes == 0 || self.limitBytes >= self.requiredBytes",
    "message": "limitBytes is less than requiredBytes"
}, {
    "rule": "has(self.thin) == has(oldSelf.thin) && (!has(self.thin) || self.thin == oldSelf.thin)",
    "message": "a volume stays thin or thick"
}]))]
pub struct VolumeSpec {
    /// How many copies are kept.
    #[schemars(range(min = 1, max = 16))]
    pub replica_count: u32,
    /// How large it is at least, in bytes. It can grow, not shrink.
    #[schemars(
        range(min = 1, max = 1_125_899_906_842_624_i64),
        extend("x-kubernetes-validations" = [{ "rule": "self >= oldSelf", "message": "a volume never shrinks" }])
    )]
    pub required_bytes: i64,
    /// How large it is at most, in bytes; 0 or absent: as large as it comes out.
    #[schemars(range(min = 0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<i64>,
    /// Nodes that are taken first for copies.
    #[schemars(length(max = 256), inner(length(min = 1, max = 63)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preferred_nodes: Vec<String>,
    /// The only nodes that may hold copies; empty: any.
    #[schemars(length(max = 256), inner(length(min = 1, max = 63)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub required_nodes: Vec<String>,
    /// Whether copies take space only when written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thin: Option<bool>,
}

/// What is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeStatus {
    /// Its uuid.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uuid: String,
    /// Usable bytes.
    #[schemars(range(min = 0))]
    pub size: i64,
    /// pending, healthy, degraded, faulted, offline or deleting.
    pub state: String,
    /// Why it is not healthy, and what is being done about it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The node that serves it; empty when nobody uses it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// How it is served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nexus: Option<NexusStatus>,
    /// Its copies.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replicas: Vec<ReplicaStatus>,
    /// The hosts that use it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// The generation of the spec that was looked at last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`: the spec is taken over. `Healthy`: all copies hold all that was written. `Deletable`, when it is being
    /// deleted: why it waits.
    #[schemars(schema_with = "super::conditions")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// How a volume is served.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NexusStatus {
    /// Where hosts find it.
    pub device_uri: String,
    /// NEXUS_ONLINE, NEXUS_DEGRADED, NEXUS_FAULTED or NEXUS_OFFLINE.
    pub state: String,
    /// Its members.
    pub children: Vec<NexusChild>,
}

/// A member of a nexus.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NexusChild {
    /// How the nexus reaches it.
    pub uri: String,
    /// CHILD_ONLINE, CHILD_DEGRADED or CHILD_FAULTED.
    pub state: String,
}

/// A copy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ReplicaStatus {
    /// Its node.
    pub node: String,
    /// Its pool on that node.
    pub pool: String,
    /// How it is reached.
    pub uri: String,
    /// Whether it cannot be reached.
    pub offline: bool,
    /// online, rebuilding, out-of-sync, faulted, offline, unreachable or retired.
    pub state: String,
    /// Why.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}
