//! Storage nodes.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Record;

/// A storage node. Made when its engine registers; deleting it forgets the node for good, once no volume needs it.
#[derive(Clone, Debug, PartialEq, CustomResource, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "openebs.io",
    version = "v1alpha1",
    kind = "MayastorNode",
    plural = "mayastornodes",
    shortname = "msn",
    category = "storage",
    namespaced,
    no_spec,
    status = "NodeState",
    derive = "PartialEq",
    doc = "A storage node. It appears when its engine registers. Deleting it forgets the node for good, once no volume needs it.",
    printcolumn(name = "State", type_ = "string", json_path = ".status"),
    printcolumn(name = "Endpoint", type_ = "string", json_path = ".spec.grpcEndpoint", priority = "1"),
    printcolumn(name = "Version", type_ = "string", json_path = ".report.version", priority = "1"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".report.reason", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct NodeFields {
    /// What is known of it.
    pub spec: NodeSpec,
    /// What it says of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<NodeReport>,
    /// Written by the control plane alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Record>,
}

/// Where a node is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeSpec {
    /// Where its engine is reached: host:port.
    #[schemars(length(max = 260), regex(pattern = r"^.+:[0-9]{1,5}$"))]
    pub grpc_endpoint: String,
}

/// What a node says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeReport {
    /// The version of its engine.
    #[serde(default)]
    pub version: String,
    /// Why it is not online, and what becomes of the copies that it holds.
    #[serde(default)]
    pub reason: String,
}

/// Whether a node can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// It answers.
    Online,
    /// It does not.
    Offline,
}
