//! The last word: refuses every action that could cost a volume its last good copy, whatever the planner's reasons were.
//!
//! It is asked twice, by the planner and again right before the action is carried out, with what is known then. It
//! shares no judgement with the planner: only the records and the reports count.

use block::Bytes;
use uuid::Uuid;

use crate::{Action, ChildState, Desired, Life, Nexus, Observed, ReplicaLife, Volume};

/// Why an action is refused, for an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(pub String);

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::error::Error for Refusal {}

fn refuse(why: impl Into<String>) -> Result<(), Refusal> {
    Err(Refusal(why.into()))
}

/// How many members of the ledger a volume may be opened without. A former nexus may have shrunk its ledger without the
/// control plane while a majority of its members followed; the smallest set that it can have reached so has two members,
/// or one when that was recorded here. So all but one member are sure to include one that knows.
pub const OPEN_WITHOUT: usize = 1;

/// Whether the action can do no harm.
pub fn allow(action: &Action, desired: &Desired, observed: &Observed) -> Result<(), Refusal> {
    let id = action.volume();
    let Some(volume) = desired.volumes.get(&id) else { return refuse("the volume is not known") };
    let deleting = volume.life == Life::Deleting;
    match action {
        Action::RemoveChild { .. } | Action::DestroyReplica { .. } | Action::Retire { .. } if deleting => Ok(()),
        Action::Retire { replica, .. } => retire(*replica, id, volume, observed),
        Action::RemoveChild { replica, node, .. } => remove_child(*replica, node, id, volume, observed),
        Action::DestroyReplica { replica, .. } => destroy(*replica, id, volume, observed),
        Action::AddChild { replica, node, .. } => add_child(*replica, node, id, volume, observed),
        Action::OpenNexus { node, children, .. } => open(node, children, id, volume, observed),
        Action::CreateReplica { replica, .. } => match volume.copies.get(replica).map(|r| r.life) {
            Some(ReplicaLife::Placed) => Ok(()),
            Some(ReplicaLife::Member) if volume.ledger.is_none() => Ok(()),
            _ => refuse(format!("replica {replica} may have held data and must not be made anew")),
        },
        Action::Discard { replica, .. } => match volume.copies.get(replica).map(|r| r.life) {
            Some(ReplicaLife::Placed | ReplicaLife::Discarded) => Ok(()),
            Some(ReplicaLife::Member) if volume.ledger.is_none() => Ok(()),
            _ if deleting => Ok(()),
            _ => refuse(format!("replica {replica} may hold data")),
        },
        Action::ForgetReplica { replica, .. } => match volume.copies.get(replica).map(|r| r.life) {
            Some(life) if life.is_wanted() && !deleting => refuse(format!("replica {replica} is still wanted")),
            _ if volume.in_ledger(*replica) && !deleting => refuse(format!("the ledger names replica {replica}")),
            _ => Ok(()),
        },
        Action::ShareReplica { replica, share: false, node, .. } => {
            let user = volume.target.as_deref().filter(|t| t != node).and_then(|t| observed.nodes.get(t));
            if user.is_some_and(|n| n.nexuses.get(&id).is_some_and(|x| x.children.contains_key(replica))) {
                return refuse(format!("replica {replica} is in use by another node"));
            }
            Ok(())
        }
        Action::ResizeReplica { .. } | Action::ResizeNexus { .. } if deleting => refuse("the volume is being deleted"),
        Action::ResizeReplica { replica, pool, size, .. } => match volume.copies.get(replica) {
            Some(copy) if copy.pool == *pool => match observed.replica(&pool.node, *replica) {
                Some(seen) if seen.size > *size => refuse(format!("replica {replica} has {} bytes", seen.size)),
                _ => Ok(()),
            },
            _ => refuse(format!("replica {replica} is not the volume's")),
        },
        Action::ResizeNexus { node, size, .. } => resize(node, *size, id, volume, observed),
        Action::SetTarget { .. } if deleting => refuse("the volume is being deleted"),
        Action::ForgetVolume { .. } if !deleting || !volume.copies.is_empty() => {
            refuse("the volume still holds replicas, or is wanted")
        }
        _ => Ok(()),
    }
}

/// The volume's nexus on its target, when that answers now.
fn live<'a>(id: Uuid, volume: &Volume, observed: &'a Observed) -> Option<&'a Nexus> {
    observed.nexus(volume.target.as_deref()?, id)
}

/// Members other than `except` that are in sync by the ledger and by the nexus, now.
fn good_without(except: Uuid, volume: &Volume, nexus: &Nexus, only_wanted: bool) -> usize {
    let in_sync = nexus
        .children
        .iter()
        .filter(|(id, c)| **id != except && c.state == ChildState::Online && volume.in_ledger(**id));
    in_sync.filter(|(id, _)| !only_wanted || volume.copies.get(id).is_some_and(|r| r.life.is_wanted())).count()
}

fn retire(replica: Uuid, id: Uuid, volume: &Volume, observed: &Observed) -> Result<(), Refusal> {
    let Some(nexus) = live(id, volume, observed) else {
        return refuse("the volume is not open, so nothing is retired");
    };
    if good_without(replica, volume, nexus, true) < volume.replicas as usize {
        return refuse(format!("without replica {replica} there are not enough good copies"));
    }
    Ok(())
}

fn remove_child(replica: Uuid, node: &str, id: Uuid, volume: &Volume, observed: &Observed) -> Result<(), Refusal> {
    let Some(nexus) = observed.nexus(node, id) else { return refuse("the volume is not open there") };
    if volume.target.as_deref() != Some(node) {
        return refuse("that node is not the volume's target");
    }
    let good = nexus.children.get(&replica).is_some_and(|c| c.state == ChildState::Online);
    let needed = if good { volume.replicas as usize } else { 1 };
    if good_without(replica, volume, nexus, good) < needed {
        return refuse(format!("without replica {replica} there are not enough good copies"));
    }
    Ok(())
}

fn destroy(replica: Uuid, id: Uuid, volume: &Volume, observed: &Observed) -> Result<(), Refusal> {
    match volume.copies.get(&replica).map(|r| r.life) {
        Some(ReplicaLife::Discarded) if !volume.in_ledger(replica) => return Ok(()),
        Some(ReplicaLife::Retired) => {}
        _ => return refuse(format!("replica {replica} is not one that may go")),
    }
    if volume.in_ledger(replica) {
        return refuse(format!("the ledger still names replica {replica} as a good copy"));
    }
    let Some(nexus) = live(id, volume, observed) else { return refuse("the volume is not open") };
    if nexus.children.contains_key(&replica) {
        return refuse(format!("replica {replica} is still a child of the nexus"));
    }
    if good_without(replica, volume, nexus, true) < volume.replicas as usize {
        return refuse("the volume is not healthy");
    }
    Ok(())
}

fn add_child(replica: Uuid, node: &str, id: Uuid, volume: &Volume, observed: &Observed) -> Result<(), Refusal> {
    let Some(nexus) = live(id, volume, observed) else { return refuse("the volume is not open") };
    if volume.target.as_deref() != Some(node) {
        return refuse("that node is not the volume's target");
    }
    // The rebuild writes over it from end to end.
    if volume.in_ledger(replica) {
        return refuse(format!("the ledger names replica {replica} as a good copy; it must not be rebuilt over"));
    }
    if good_without(replica, volume, nexus, false) == 0 {
        return refuse("there is no good copy to rebuild from");
    }
    Ok(())
}

/// A nexus never shrinks, and grows only where its copies have the room: it refuses too, but is not to be asked in vain.
fn resize(node: &str, size: Bytes, id: Uuid, volume: &Volume, observed: &Observed) -> Result<(), Refusal> {
    if volume.target.as_deref() != Some(node) {
        return refuse("that node is not the volume's target");
    }
    let Some(nexus) = observed.nexus(node, id) else { return refuse("the volume is not open there") };
    if nexus.size > size || size > volume.size {
        return refuse(format!("the volume has {} bytes and shall have {}", nexus.size, volume.size));
    }
    if !crate::grow::has_room(volume, nexus, observed) {
        return refuse("a copy has no room for that yet");
    }
    Ok(())
}

fn open(node: &str, children: &[Uuid], id: Uuid, volume: &Volume, observed: &Observed) -> Result<(), Refusal> {
    if volume.target.as_deref() != Some(node) {
        return refuse("that node is not the volume's target");
    }
    if let Some(other) = volume.nexus_nodes.iter().find(|n| *n != node && observed.nexus(n, id).is_some()) {
        return refuse(format!("the volume is still open on {other}"));
    }
    let Some(ledger) = &volume.ledger else { return Ok(()) };
    if let Some(stale) = children.iter().find(|c| !ledger.in_sync.contains(c)) {
        return refuse(format!("replica {stale} is not in sync"));
    }
    let least = ledger.in_sync.len().saturating_sub(OPEN_WITHOUT).max(1);
    if children.len() < least {
        return refuse(format!("only {} of {} copies in sync are there", children.len(), ledger.in_sync.len()));
    }
    Ok(())
}
