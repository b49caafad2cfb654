//! What the operator writes into objects.

use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Operator, id};
use crate::resource::{FINALIZER, MayastorNode, NodeReport};
use crate::store::{call, events};

/// How often a status is written of which only the words of the reason differ: they count seconds.
const WORDS: Duration = Duration::from_secs(5);

fn patch(operations: Value) -> Patch<Value> {
    Patch::Json(serde_json::from_value(operations).expect("operations as the standard has them"))
}

impl Operator {
    /// Replaces the status. One that cannot be written is written at the next look.
    pub(super) async fn status<K>(&self, api: &Api<K>, object: &K, status: &impl Serialize)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned,
    {
        let operations = json!([
            { "op": "test", "path": "/metadata/uid", "value": object.uid() },
            { "op": "add", "path": "/status", "value": status },
        ]);
        match call(api.patch_status(&object.name_any(), &PatchParams::default(), &patch(operations))).await {
            Ok(_) => {
                let mut written = self.written.lock().expect("nobody panics while holding the times");
                written.insert(id(object), Instant::now());
            }
            Err(error) if error.code() == 404 => {}
            Err(error) => tracing::warn!("the status of {} was not written: {}", object.name_any(), error.text()),
        }
    }

    /// Whether it is time again for a status that only counts seconds.
    pub(super) fn may_write_words<K: Resource<DynamicType = ()>>(&self, object: &K) -> bool {
        let written = self.written.lock().expect("nobody panics while holding the times");
        written.get(&id(object)).is_none_or(|at| at.elapsed() >= WORDS)
    }

    /// Writes what a node says of itself.
    pub(super) async fn report(&self, node: &MayastorNode, report: &NodeReport) {
        let operations = json!([{ "op": "add", "path": "/report", "value": report }]);
        match call(self.nodes.patch(&node.name_any(), &PatchParams::default(), &patch(operations))).await {
            Ok(_) => {}
            Err(error) if error.code() == 404 => {}
            Err(error) => tracing::warn!("the report of {} was not written: {}", node.name_any(), error.text()),
        }
    }

    /// Keeps the object until what it stands for is gone.
    pub(super) async fn hold<K>(&self, api: &Api<K>, object: &K) -> Result<(), String>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let all: Vec<&str> = object.finalizers().iter().map(String::as_str).chain([FINALIZER]).collect();
        self.finalizers(api, object, &all).await
    }

    /// Lets the object go.
    pub(super) async fn release<K>(&self, api: &Api<K>, object: &K) -> Result<(), String>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let rest: Vec<&str> = object.finalizers().iter().map(String::as_str).filter(|f| *f != FINALIZER).collect();
        self.finalizers(api, object, &rest).await
    }

    async fn finalizers<K>(&self, api: &Api<K>, object: &K, all: &[&str]) -> Result<(), String>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        // With the version that was seen, so that nobody else's finalizer is lost.
        let operations = json!([
            { "op": "test", "path": "/metadata/resourceVersion", "value": object.resource_version() },
            { "op": "add", "path": "/metadata/finalizers", "value": all },
        ]);
        match call(api.patch(&object.name_any(), &PatchParams::default(), &patch(operations))).await {
            Ok(_) => Ok(()),
            // Gone, or changed meanwhile: the next look decides anew.
            Err(error) if [404, 409, 422].contains(&error.code()) => Ok(()),
            Err(error) => Err(error.text()),
        }
    }

    /// Tells people of a condition, with the object.
    pub(super) async fn event<K: Resource<DynamicType = ()>>(&self, object: &K, condition: &Condition) {
        let bad = ["Refused", "InUse", "OtherDisks", "Faulted", "Degraded", "NodeOffline", "NodeUnknown"];
        let warning = condition.status == "False" && bad.contains(&condition.reason.as_str());
        let name = format!("mayastor.{}", Uuid::new_v4());
        let about = format!("{}/{}", K::kind(&()), object.name_any());
        let now = Timestamp::now();
        let mut event =
            events::event(&self.namespace, &name, &about, warning, &condition.reason, &condition.message, now);
        event.involved_object.kind = Some(K::kind(&()).into_owned());
        event.involved_object.name = Some(object.name_any());
        event.involved_object.uid = object.uid();
        let api: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        if let Err(error) = call(api.create(&PostParams::default(), &event)).await {
            tracing::warn!("an event about {} was not written: {}", object.name_any(), error.text());
        }
    }
}
