//! Pools.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, CustomResource, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "openebs.io",
    version = "v1alpha1",
    kind = "MayastorPool",
    plural = "mayastorpools",
    shortname = "msp",
    category = "storage",
    namespaced,
    status = "PoolStatus",
    derive = "PartialEq",
    doc = "Disks of a node as a pool for copies of volumes. Disks that hold something else are never formatted. Deleting it destroys the pool, once no volume has a copy in it.",
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.node"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Capacity", type_ = "integer", json_path = ".status.capacity"),
    printcolumn(name = "Used", type_ = "integer", json_path = ".status.used"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct PoolSpec {
    /// The node that has the disks.
    #[schemars(
        length(min = 1, max = 63),
        extend("x-kubernetes-validations" = [{
            "rule": "self == oldSelf", "message": "a pool stays on its node: delete it and make another"
        }])
    )]
    pub node: String,
    /// The disks: paths (/dev/sdx) or URIs (aio:///dev/sdx, nvmf://host:port/nqn, pcie:///0000:03:00.0, malloc:///name?size_mb=64).
    /// Disks can be added; to take one out, move the data away first.
    #[schemars(
        length(min = 1, max = 64),
        inner(length(max = 512), regex(pattern = r"^(/.+|[a-z]+://.+)$")),
        extend("x-kubernetes-validations" = [
            { "rule": "oldSelf.all(d, d in self)", "message": "disks can be added to a pool, not taken out" },
            { "rule": "self.all(d, self.exists_one(e, e == d))", "message": "a disk is given twice" }
        ])
    )]
    pub disks: Vec<String>,
}

/// What is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PoolStatus {
    /// How it is.
    pub state: PoolState,
    /// Why it is not online.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Its disks, as the node names them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<String>,
    /// Its size in bytes.
    #[schemars(range(min = 0))]
    pub capacity: i64,
    /// What is allocated to copies, in bytes.
    #[schemars(range(min = 0))]
    pub used: i64,
    /// What is promised to copies, in bytes; more than `used` while thick copies are promised.
    #[schemars(range(min = 0))]
    pub committed: i64,
    /// The generation that this describes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: copies can be made in it. `Deletable`, when it is being deleted: why it waits.
    #[schemars(schema_with = "super::conditions")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// How a pool is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PoolState {
    /// Not made yet.
    #[default]
    Pending,
    /// Well.
    Online,
    /// Works, with something wrong.
    Degraded,
    /// Does not work.
    Faulted,
    /// Its node cannot be reached.
    Offline,
    /// The node does not say.
    Unknown,
}
