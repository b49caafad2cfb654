//! What an operator says about nodes: in service or not, their labels, given up.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::v1;
use plan::farewell::{Loss, part_from};
use plan::{Reach, Volume};
use tonic::Status;
use uuid::Uuid;

use crate::Inner;
use crate::cluster::View;
use crate::record::{DrainRecord, NodeRecord, ServiceRecord};
use crate::service::Refused;
use crate::state::{Cache, Fate};
use crate::words;

/// How many labels a node may have.
pub(crate) const MOST_LABELS: usize = 64;

fn unknown(id: &str) -> Status {
    Status::not_found(format!("there is no node {id}"))
}

fn unavailable(error: crate::store::StoreError) -> Status {
    Status::unavailable(error.to_string())
}

/// Checks what is to be the key of a label, or its value.
fn check_word(what: &str, word: &str) -> Result<(), Status> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if word.is_empty() || word.len() > block::limits::NAME_BYTES || !word.chars().all(fits) {
        let text =
            format!("{word:?} is no {what} of a label: 1 to 63 of a-z, A-Z, 0-9, '-', '_', '.' and '/' are needed");
        return Err(Status::invalid_argument(text));
    }
    Ok(())
}

/// Checks the keys of labels.
///
/// # Errors
/// INVALID_ARGUMENT for the first that is none.
pub(crate) fn check_keys<'a>(mut keys: impl Iterator<Item = &'a String>) -> Result<(), Status> {
    keys.try_for_each(|key| check_word("key", key))
}

/// Checks labels.
///
/// # Errors
/// INVALID_ARGUMENT for the first that is none, and when there are too many.
pub(crate) fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Status> {
    if labels.len() > MOST_LABELS {
        return Err(Status::invalid_argument(format!(
            "{} labels are too many; {MOST_LABELS} are possible",
            labels.len()
        )));
    }
    labels.iter().try_for_each(|(key, value)| check_word("key", key).and_then(|()| check_word("value", value)))
}

/// Takes a node out of service or back.
///
/// # Errors
/// NOT_FOUND, INVALID_ARGUMENT; UNAVAILABLE when the store fails.
pub(crate) async fn set_service(
    inner: &Arc<Inner>,
    request: v1::SetNodeServiceRequest,
    operation: &str,
) -> Result<v1::Node, Status> {
    let v1::SetNodeServiceRequest { id, service } = request;
    let service = match service.as_str() {
        "in-service" => ServiceRecord::InService,
        "cordoned" => ServiceRecord::Cordoned,
        "draining" => ServiceRecord::Draining,
        other => {
            let text = format!("{other:?} is not possible for a node: in-service, cordoned or draining is");
            return Err(Status::invalid_argument(text));
        }
    };
    let copies = {
        let (mut cache, mut view) = (inner.state.read(), inner.cluster.lock());
        if !cache.nodes.contains_key(&id) {
            return Err(unknown(&id));
        }
        let (cache, view) = (&mut *cache, &mut *view);
        view.take_news(cache);
        view.planner.due(&cache.desired);
        left(cache, view, &id).copies
    };
    let edit = |node: &mut NodeRecord| {
        let before = node.service;
        if before != service {
            node.service = service;
            let drain = DrainRecord { operation: operation.to_owned(), copies, done: false };
            node.drain = (service == ServiceRecord::Draining).then_some(drain);
        }
        before
    };
    let before = inner.state.change_node(&id, edit).await.map_err(unavailable)?;
    if before != service {
        let (kind, text) = match (before, service) {
            (_, ServiceRecord::Draining) => {
                ("node-draining", format!("node {id} is drained: {copies} copies and all targets move away"))
            }
            (ServiceRecord::Draining, _) => {
                ("node-drain-stopped", format!("node {id} is not drained any more; what has not moved stays"))
            }
            (_, ServiceRecord::Cordoned) => ("node-cordoned", format!("node {id} gets no new copies or targets")),
            (_, ServiceRecord::InService) => ("node-uncordoned", format!("node {id} is in service")),
        };
        inner.events.note_for(operation, kind, format!("node/{id}"), text).await;
        inner.changed();
    }
    words::node(inner, &id).ok_or_else(|| unknown(&id))
}

/// Sets and removes labels of a node.
///
/// # Errors
/// NOT_FOUND, INVALID_ARGUMENT; UNAVAILABLE when the store fails.
pub(crate) async fn set_labels(
    inner: &Arc<Inner>,
    request: v1::SetNodeLabelsRequest,
    operation: &str,
) -> Result<v1::Node, Status> {
    let v1::SetNodeLabelsRequest { id, set, remove } = request;
    check_labels(&set)?;
    check_keys(remove.iter())?;
    if let Some(both) = remove.iter().find(|key| set.contains_key(*key)) {
        return Err(Status::invalid_argument(format!("the label {both} is to be set and to be removed")));
    }
    let known = inner.state.read().nodes.get(&id).cloned();
    let Some(known) = known else { return Err(unknown(&id)) };
    let edit = |node: &mut NodeRecord| {
        for key in remove {
            // What the engine says every time is taken away by an empty value.
            if node.engine_labels.contains_key(&key) {
                node.labels.insert(key, String::new());
            } else {
                node.labels.remove(&key);
            }
        }
        node.labels.extend(set);
        node.clone()
    };
    let mut tried = known.clone();
    check_labels(&edit.clone()(&mut tried).wish().labels)?;
    let new = inner.state.change_node(&id, edit).await.map_err(unavailable)?;
    if new.wish().labels != known.wish().labels {
        let labels = new.wish().labels;
        let all = labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>();
        let all = if all.is_empty() { "no labels".to_owned() } else { format!("the labels {}", all.join(", ")) };
        let text = format!("node {id} has {all}");
        inner.events.note_for(operation, "node-labelled", format!("node/{id}"), text).await;
        inner.changed();
    }
    words::node(inner, &id).ok_or_else(|| unknown(&id))
}

/// What is left on a node.
#[derive(Default)]
pub(crate) struct Left {
    pub copies: u32,
    pub targets: u32,
    pub volumes: Vec<Uuid>,
}

/// What is left on a node, as far as the planner was told.
pub(crate) fn left(cache: &Cache, view: &View, node: &str) -> Left {
    let mut left = Left::default();
    for id in view.planner.volumes_of(node) {
        let Some(volume) = cache.desired.volumes.get(&id) else { continue };
        let copies = volume.copies.values().filter(|r| r.pool.node == node).count();
        let target = volume.target.as_deref() == Some(node) || volume.nexus_nodes.contains(node);
        left.copies += u32::try_from(copies).unwrap_or(u32::MAX);
        left.targets += u32::from(target);
        if copies > 0 || target {
            left.volumes.push(id);
        }
    }
    left
}

/// Says once of each drain that is over that it is.
pub(crate) async fn follow_drains(inner: &Arc<Inner>) {
    let over: Vec<(String, String)> = {
        let (mut cache, mut view) = (inner.state.read(), inner.cluster.lock());
        if cache.nodes.values().all(|n| n.drain.as_ref().is_none_or(|d| d.done)) {
            return;
        }
        let (cache, view) = (&mut *cache, &mut *view);
        view.take_news(cache);
        view.planner.due(&cache.desired);
        let open = cache.nodes.iter().filter_map(|(id, n)| Some((id, n.drain.as_ref().filter(|d| !d.done)?)));
        let empty = open.filter(|(id, _)| left(cache, view, id).volumes.is_empty());
        empty.map(|(id, drain)| (id.clone(), drain.operation.clone())).collect()
    };
    for (id, operation) in over {
        let mark = |node: &mut NodeRecord| {
            let drain = node.drain.as_mut().filter(|d| d.operation == operation && !d.done);
            drain.map(|d| d.done = true).is_some()
        };
        match inner.state.change_node(&id, mark).await {
            Ok(true) => {
                let text = format!("node {id} is drained: it holds nothing any more");
                inner.events.note_for(&operation, "node-drained", format!("node/{id}"), text).await;
                inner.changed();
            }
            Ok(false) => {}
            Err(error) => tracing::warn!("that the drain of {id} is over was not stored: {error}"),
        }
    }
}

/// Forgets a node that will never come back, with all that it held. Called again after a crash in the middle, it goes on.
///
/// # Errors
/// NOT_FOUND; FAILED_PRECONDITION when the node is there, was lost a moment ago, or a volume still needs a copy on it
/// (the last not with `lose_data`). Nothing has changed then.
pub(crate) async fn remove(inner: &Arc<Inner>, request: v1::RemoveNodeRequest, operation: &str) -> Result<(), Status> {
    let v1::RemoveNodeRequest { id, lose_data } = request;
    let reach = inner.cluster.lock().observed.nodes.get(&id).map(|n| n.reach);
    let grace_ms = inner.options.settings.node_grace_ms;
    match reach {
        None => return Err(Status::not_found(format!("there is no node {id}"))),
        Some(Reach::Online { .. }) => {
            let text = format!("node {id} is online; only a node that will never come back is removed");
            return Err(Status::failed_precondition(text));
        }
        Some(Reach::Unreachable { since_ms }) if since_ms.saturating_add(grace_ms) > inner.now_ms() => {
            let text = format!("node {id} was lost a moment ago and may come back; try again when it has stayed away");
            return Err(Status::failed_precondition(text));
        }
        Some(Reach::Unreachable { .. }) => {}
    }
    let loss = if lose_data { Loss::Accepted } else { Loss::Refused };
    let volumes: Vec<(Uuid, Volume)> =
        inner.state.read().desired.volumes.iter().map(|(id, v)| (*id, v.clone())).collect();
    let refusals: Vec<String> =
        volumes.iter().filter_map(|(_, v)| part_from(&mut v.clone(), &id, loss).err()).map(|r| r.0).collect();
    if !refusals.is_empty() {
        let text = format!(
            "node {id} cannot be removed: {}; wait until they are repaired, or give that data up with --lose-data",
            refusals.join("; ")
        );
        return Err(Status::failed_precondition(text));
    }
    for (volume, _) in volumes {
        let part = |v: Option<&mut Volume>| -> Result<Fate<()>, Refused> {
            let Some(v) = v else { return Ok(Fate::Unchanged(())) };
            let before = v.clone();
            // Asked again: it may have changed since.
            part_from(v, &id, loss).map_err(|r| Refused(Status::failed_precondition(r.0)))?;
            Ok(if *v == before { Fate::Unchanged(()) } else { Fate::Put(()) })
        };
        inner.state.change(volume, part).await.map_err(|Refused(status)| status)?;
        inner.work.hurry(volume);
    }
    inner.state.remove_node(&id).await.map_err(|e| Status::unavailable(e.to_string()))?;
    inner.cluster.lock().forget(&id);
    let how = if lose_data { ", with data that may have been nowhere else" } else { "" };
    let text = format!("node {id} was removed for good{how}");
    inner.events.note_for(operation, "node-removed", format!("node/{id}"), text).await;
    inner.changed();
    Ok(())
}
