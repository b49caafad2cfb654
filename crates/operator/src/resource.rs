//! The kinds of `openebs.io/v1alpha1`, as people write them and read them. The CRDs are made from these types.
//!
//! Beside `spec` (what people ask for) and `status` (what is, for people) an object may have a `record`: what the control
//! plane must not forget, such as the ledger of a volume. `spec` and `record` are written together, in one request;
//! `status` can be lost without harm. Nobody but the control plane may write `record`.

#![allow(clippy::duplicated_attributes, reason = "columns of a table have attributes of the same names")]

mod node;
mod pool;
mod volume;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

pub use node::{MayastorNode, NodeFields, NodeReport, NodeSpec, NodeState};
pub use pool::{MayastorPool, PoolSpec, PoolState, PoolStatus};
pub use volume::{MayastorVolume, NexusChild, NexusStatus, ReplicaStatus, VolumeFields, VolumeSpec, VolumeStatus};

/// The group of all kinds.
pub const GROUP: &str = "openebs.io";
/// Their version.
pub const VERSION: &str = "v1alpha1";
/// Keeps an object until the control plane has let go of what it stands for.
pub const FINALIZER: &str = "openebs.io/mayastor";

/// What the control plane must not forget about an object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// Grows with each change of the record; what is written is compared with it first.
    #[schemars(range(min = 1))]
    pub revision: i64,
    /// What it is a record of.
    pub key: String,
    /// The record.
    #[schemars(schema_with = "anything")]
    pub data: serde_json::Value,
}

fn anything(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// Conditions in the form that Kubernetes' tools know; a list by type.
fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": { "type": "string", "maxLength": 316 },
                "status": { "type": "string", "enum": ["True", "False", "Unknown"] },
                "observedGeneration": { "type": "integer", "format": "int64", "minimum": 0 },
                "lastTransitionTime": { "type": "string", "format": "date-time" },
                "reason": { "type": "string", "minLength": 1, "maxLength": 1024 },
                "message": { "type": "string", "maxLength": 32768 },
            },
        },
    })
}

/// Sets a condition among `old` ones; the time of its last change is kept while its status stays the same.
pub fn set_condition(
    all: &mut Vec<Condition>,
    type_: &str,
    holds: bool,
    reason: &str,
    message: &str,
    generation: Option<i64>,
) {
    let status = if holds { "True" } else { "False" };
    let before = all.iter().position(|c| c.type_ == type_);
    let since = before.map(|at| &all[at]).filter(|c| c.status == status).map(|c| c.last_transition_time.clone());
    let condition = Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: generation,
        last_transition_time: since.unwrap_or_else(|| Time(Timestamp::now())),
    };
    match before {
        Some(at) => all[at] = condition,
        None => all.push(condition),
    }
}

/// A word such as `volume-created` as a reason: `VolumeCreated`.
pub fn camel(word: &str) -> String {
    let upper = |part: &str| {
        let mut letters = part.chars();
        letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
    };
    word.split('-').map(upper).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_keeps_its_time_while_its_status_stays() {
        let mut all = Vec::new();
        set_condition(&mut all, "Ready", false, "Waiting", "for the node", Some(1));
        all[0].last_transition_time = Time(Timestamp::UNIX_EPOCH);
        set_condition(&mut all, "Ready", false, "Refused", "by the node", Some(2));
        assert_eq!((all.len(), all[0].last_transition_time.0), (1, Timestamp::UNIX_EPOCH));
        assert_eq!((all[0].reason.as_str(), all[0].observed_generation), ("Refused", Some(2)));
        set_condition(&mut all, "Ready", true, "Online", "it is online", Some(2));
        assert_ne!(all[0].last_transition_time.0, Timestamp::UNIX_EPOCH);
    }

    #[test]
    fn kinds_of_events_become_reasons() {
        assert_eq!(camel("replica-faulted"), "ReplicaFaulted");
        assert_eq!(camel("x"), "X");
    }
}
