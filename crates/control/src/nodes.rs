//! Nodes that an operator gives up.

use std::sync::Arc;

use api::v1;
use plan::farewell::{Loss, part_from};
use plan::{Reach, Volume};
use tonic::Status;
use uuid::Uuid;

use crate::Inner;
use crate::service::Refused;
use crate::state::Fate;

/// Forgets a node that will never come back, with all that it held. Called again after a crash in the middle, it goes on.
///
/// # Errors
/// NOT_FOUND; FAILED_PRECONDITION when the node is there, was lost a moment ago, or a volume still needs a copy on it
/// (the last not with `lose_data`). Nothing has changed then.
pub(crate) async fn remove(inner: &Arc<Inner>, request: v1::RemoveNodeRequest) -> Result<(), Status> {
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
    inner.events.note("node-removed", format!("node/{id}"), format!("node {id} was removed for good{how}")).await;
    inner.changed();
    Ok(())
}
