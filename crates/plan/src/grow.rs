//! A volume that shall be larger: its copies first, then its nexus.
//!
//! Copies on nodes that are away are left; when one comes back it grows before it is added again. A nexus waits for the copies
//! that it has open, also those that are being rebuilt or are to go, and for nothing else.

use uuid::Uuid;

use crate::{Action, ChildState, Nexus, Observed, Volume, replica_size};

/// The step that makes a copy large enough, when it is there and is not.
pub(crate) fn enlarge(volume: Uuid, replica: Uuid, v: &Volume, observed: &Observed) -> Option<Action> {
    let (pool, size) = (v.copies.get(&replica)?.pool.clone(), replica_size(v.size));
    let seen = observed.replica(&pool.node, replica).filter(|seen| seen.online)?;
    (seen.size < size).then_some(Action::ResizeReplica { volume, replica, pool, size })
}

/// Whether a nexus has the copy open.
fn is_open(state: ChildState) -> bool {
    matches!(state, ChildState::Online | ChildState::Rebuilding | ChildState::OutOfSync)
}

/// Whether every copy that the nexus has open is known to have room for a volume of this size.
pub(crate) fn has_room(v: &Volume, nexus: &Nexus, observed: &Observed) -> bool {
    let fits = |id: &Uuid| {
        let seen = v.copies.get(id).and_then(|r| observed.replica(&r.pool.node, *id));
        seen.is_some_and(|seen| seen.size >= replica_size(v.size))
    };
    nexus.children.iter().filter(|(_, c)| is_open(c.state)).all(|(id, _)| fits(id))
}

/// What is to be done for the size of an open volume.
pub(crate) fn grow(volume: Uuid, v: &Volume, nexus: &Nexus, target: &str, observed: &Observed) -> Vec<Action> {
    let used = |id: &Uuid| nexus.children.get(id).is_some_and(|c| is_open(c.state));
    let concerned = v.copies.iter().filter(|(id, r)| r.life.is_wanted() || used(id));
    let mut actions: Vec<Action> = concerned.filter_map(|(id, _)| enlarge(volume, *id, v, observed)).collect();
    if nexus.size < v.size && has_room(v, nexus, observed) {
        actions.push(Action::ResizeNexus { volume, node: target.to_owned(), size: v.size });
    }
    actions
}
