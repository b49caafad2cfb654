//! What happened, as Events of Kubernetes: `kubectl describe` shows them with the object that they are about.

use std::collections::BTreeMap;

use control::store::{Entry, StoreError};
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, PostParams};
use kube::core::ApiResource;
use kube::{Client, ResourceExt};
use serde::Deserialize;

use super::call;
use crate::resource::{GROUP, MayastorNode, MayastorPool, MayastorVolume, VERSION, camel};

const LABEL: &str = "openebs.io/mayastor-event";
/// The record, as the control plane wrote it.
const RECORD: &str = "openebs.io/record";
/// The most that a message may have, in bytes.
const MESSAGE: usize = 1024;
/// Kinds of events that ask for somebody's attention.
const WARNINGS: [&str; 6] = ["faulted", "unreachable", "lost", "failed", "refused", "degraded"];

/// An event as the control plane records it.
#[derive(Deserialize)]
struct EventRecord {
    time_ms: i64,
    kind: String,
    object: String,
    text: String,
}

fn api(client: &Client, namespace: &str) -> Api<Event> {
    Api::namespaced(client.clone(), namespace)
}

fn name(key: &str) -> String {
    format!("mayastor.{}", key.replace('/', "."))
}

fn key(event: &Event) -> Option<String> {
    Some(format!("event/{}", event.metadata.name.as_ref()?.strip_prefix("mayastor.event.")?))
}

fn entry(event: &Event) -> Option<Entry> {
    let value = event.annotations().get(RECORD)?.clone().into_bytes();
    Some(Entry { value, revision: event.metadata.resource_version.as_ref()?.parse().ok()? })
}

pub(super) async fn get(client: &Client, namespace: &str, key: &str) -> Result<Option<Entry>, StoreError> {
    Ok(call(api(client, namespace).get_opt(&name(key))).await?.as_ref().and_then(entry))
}

pub(super) async fn list(client: &Client, namespace: &str) -> Result<Vec<(String, Entry)>, StoreError> {
    let ours = ListParams::default().labels(LABEL);
    let all = call(api(client, namespace).list(&ours)).await?;
    Ok(all.items.iter().filter_map(|event| Some((key(event)?, entry(event)?))).collect())
}

/// Whose event it is. A pool's object has the pool's name, wherever the pool is.
fn about(namespace: &str, object: &str) -> ObjectReference {
    let (kind, name) = match object.split_once('/') {
        Some(("volume", name)) => ("MayastorVolume", name),
        Some(("pool", rest)) => ("MayastorPool", rest.rsplit('/').next().unwrap_or(rest)),
        Some(("node", name)) => ("MayastorNode", name),
        _ => ("MayastorNode", object),
    };
    ObjectReference {
        api_version: Some(format!("{GROUP}/{VERSION}")),
        kind: Some(kind.to_owned()),
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()),
        ..ObjectReference::default()
    }
}

/// The uid of the object, without which `kubectl describe` does not show the event.
async fn uid(client: &Client, namespace: &str, object: &ObjectReference) -> Option<String> {
    let resource = match object.kind.as_deref()? {
        "MayastorVolume" => ApiResource::erase::<MayastorVolume>(&()),
        "MayastorPool" => ApiResource::erase::<MayastorPool>(&()),
        _ => ApiResource::erase::<MayastorNode>(&()),
    };
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    call(api.get_metadata_opt(object.name.as_deref()?)).await.ok()??.uid()
}

/// Whether an event of that kind asks for attention.
pub(crate) fn is_warning(kind: &str) -> bool {
    WARNINGS.iter().any(|word| kind.contains(word))
}

/// An event about an object.
pub(crate) fn event(
    namespace: &str,
    name: &str,
    object: &str,
    warning: bool,
    reason: &str,
    text: &str,
    at: Timestamp,
) -> Event {
    let mut message = text.to_owned();
    while message.len() > MESSAGE {
        message.pop();
    }
    let mut event = Event {
        involved_object: about(namespace, object),
        reason: Some(reason.to_owned()),
        message: Some(message),
        type_: Some(if warning { "Warning" } else { "Normal" }.to_owned()),
        source: Some(EventSource { component: Some("mayastor".to_owned()), host: None }),
        first_timestamp: Some(Time(at)),
        last_timestamp: Some(Time(at)),
        count: Some(1),
        ..Event::default()
    };
    event.metadata.name = Some(name.to_owned());
    event.metadata.namespace = Some(namespace.to_owned());
    event
}

/// Writes an event, or removes it.
pub(super) async fn put(
    client: &Client,
    namespace: &str,
    key: &str,
    value: Option<Vec<u8>>,
) -> Result<u64, StoreError> {
    let api = api(client, namespace);
    let Some(value) = value else {
        return match call(api.delete(&name(key), &DeleteParams::default())).await {
            Ok(_) => Ok(0),
            Err(error) if error.code() == 404 => Ok(0),
            Err(error) => Err(error.into()),
        };
    };
    let corrupt = |why: String| StoreError::Corrupt { key: key.to_owned(), why };
    let record: EventRecord = serde_json::from_slice(&value).map_err(|e| corrupt(e.to_string()))?;
    let at = Timestamp::from_millisecond(record.time_ms).map_err(|e| corrupt(e.to_string()))?;
    let reason = camel(&record.kind);
    let warning = is_warning(&record.kind);
    let mut event = event(namespace, &name(key), &record.object, warning, &reason, &record.text, at);
    event.involved_object.uid = uid(client, namespace, &event.involved_object).await;
    event.metadata.labels = Some(BTreeMap::from([(LABEL.to_owned(), "true".to_owned())]));
    let text = String::from_utf8(value).map_err(|e| corrupt(e.to_string()))?;
    event.metadata.annotations = Some(BTreeMap::from([(RECORD.to_owned(), text)]));
    let made = match call(api.create(&PostParams::default(), &event)).await {
        // There is one of that number: what it said is replaced.
        Err(error) if error.code() == 409 => call(api.replace(&name(key), &PostParams::default(), &event)).await?,
        made => made?,
    };
    Ok(made.metadata.resource_version.and_then(|v| v.parse().ok()).unwrap_or(0))
}
