//! What the planner can ask for.

use std::fmt;

use block::Bytes;
use uuid::Uuid;

use crate::PoolId;

/// One step. "Store" steps only change records; "node" steps are calls to a storage node. All are idempotent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Store: record a new copy, under a fresh uuid, in this pool.
    Place {
        /// Whose copy.
        volume: Uuid,
        /// Where.
        pool: PoolId,
    },
    /// Node: create the recorded copy.
    CreateReplica {
        /// Whose copy.
        volume: Uuid,
        /// Which copy.
        replica: Uuid,
        /// Where.
        pool: PoolId,
        /// Its size, volume and label.
        size: Bytes,
        /// Whether it takes space only when written.
        thin: bool,
        /// Whether other nodes shall be able to use it.
        share: bool,
    },
    /// Node: make the copy usable by other nodes, or by its own node only.
    ShareReplica {
        /// Whose copy.
        volume: Uuid,
        /// Which copy.
        replica: Uuid,
        /// Its node.
        node: String,
        /// Whether other nodes shall be able to use it.
        share: bool,
    },
    /// Node: make the copy larger.
    ResizeReplica {
        /// Whose copy.
        volume: Uuid,
        /// Which copy.
        replica: Uuid,
        /// Where it is.
        pool: PoolId,
        /// Its new size, volume and label.
        size: Bytes,
    },
    /// Node: make the volume larger, for its clients too. Its copies have the room.
    ResizeNexus {
        /// Which volume.
        volume: Uuid,
        /// Where: the target.
        node: String,
        /// Its new size.
        size: Bytes,
    },
    /// Store: the copy, which never held data, is not wanted.
    Discard {
        /// Whose copy.
        volume: Uuid,
        /// Which copy.
        replica: Uuid,
    },
    /// Store: the copy is not wanted any more.
    Retire {
        /// Whose copy.
        volume: Uuid,
        /// Which copy.
        replica: Uuid,
    },
    /// Store: a retired copy is wanted again.
    Reinstate {
        /// Whose copy.
        volume: Uuid,
        /// Which copy.
        replica: Uuid,
    },
    /// Node: destroy the copy.
    DestroyReplica {
        /// Whose copy.
        volume: Uuid,
        /// Which copy.
        replica: Uuid,
        /// Its node.
        node: String,
    },
    /// Store: the copy is gone.
    ForgetReplica {
        /// Whose copy.
        volume: Uuid,
        /// Which copy.
        replica: Uuid,
    },
    /// Store: the volume's nexus belongs there from now on; all others are fenced. A wish for another node
    /// ([`Publish::On`](crate::Publish::On)) becomes a wish for this one, so that a volume does not move back by itself.
    SetTarget {
        /// Which volume.
        volume: Uuid,
        /// Where.
        node: String,
    },
    /// Node: open the volume with these copies (recorded as members before) under the recorded ledger.
    OpenNexus {
        /// Which volume.
        volume: Uuid,
        /// Where: the target.
        node: String,
        /// The copies.
        children: Vec<Uuid>,
    },
    /// Node: close the nexus; its copies stay.
    CloseNexus {
        /// Which volume.
        volume: Uuid,
        /// Where.
        node: String,
    },
    /// Store: there is no nexus of this volume on that node any more.
    ForgetNexus {
        /// Which volume.
        volume: Uuid,
        /// Where.
        node: String,
    },
    /// Node: export the volume.
    Publish {
        /// Which volume.
        volume: Uuid,
        /// Where: the target.
        node: String,
    },
    /// Node: do not export the volume any more.
    Unpublish {
        /// Which volume.
        volume: Uuid,
        /// Where: the target.
        node: String,
    },
    /// Node: add the copy (recorded as a member before) and rebuild it.
    AddChild {
        /// Which volume.
        volume: Uuid,
        /// Where the nexus is.
        node: String,
        /// Which copy.
        replica: Uuid,
    },
    /// Node: take the copy out of the nexus.
    RemoveChild {
        /// Which volume.
        volume: Uuid,
        /// Where the nexus is.
        node: String,
        /// Which copy.
        replica: Uuid,
    },
    /// Store: the volume is gone.
    ForgetVolume {
        /// Which volume.
        volume: Uuid,
    },
}

impl Action {
    /// The volume that it is about.
    pub fn volume(&self) -> Uuid {
        match self {
            Action::Place { volume, .. }
            | Action::CreateReplica { volume, .. }
            | Action::ShareReplica { volume, .. }
            | Action::ResizeReplica { volume, .. }
            | Action::ResizeNexus { volume, .. }
            | Action::Discard { volume, .. }
            | Action::Retire { volume, .. }
            | Action::Reinstate { volume, .. }
            | Action::DestroyReplica { volume, .. }
            | Action::ForgetReplica { volume, .. }
            | Action::SetTarget { volume, .. }
            | Action::OpenNexus { volume, .. }
            | Action::CloseNexus { volume, .. }
            | Action::ForgetNexus { volume, .. }
            | Action::Publish { volume, .. }
            | Action::Unpublish { volume, .. }
            | Action::AddChild { volume, .. }
            | Action::RemoveChild { volume, .. }
            | Action::ForgetVolume { volume } => *volume,
        }
    }

    /// The node that has to carry it out; none when only records change.
    pub fn node(&self) -> Option<&str> {
        match self {
            Action::CreateReplica { pool, .. } | Action::ResizeReplica { pool, .. } => Some(&pool.node),
            Action::ShareReplica { node, .. }
            | Action::DestroyReplica { node, .. }
            | Action::OpenNexus { node, .. }
            | Action::CloseNexus { node, .. }
            | Action::ResizeNexus { node, .. }
            | Action::Publish { node, .. }
            | Action::Unpublish { node, .. }
            | Action::AddChild { node, .. }
            | Action::RemoveChild { node, .. } => Some(node),
            _ => None,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Place { pool, .. } => write!(f, "place a new copy in {pool}"),
            Action::CreateReplica { replica, pool, .. } => write!(f, "create replica {replica} in {pool}"),
            Action::ShareReplica { replica, node, share: true, .. } => write!(f, "share replica {replica} on {node}"),
            Action::ShareReplica { replica, node, .. } => write!(f, "unshare replica {replica} on {node}"),
            Action::ResizeReplica { replica, pool, size, .. } => {
                write!(f, "grow replica {replica} in {pool} to {size} bytes")
            }
            Action::ResizeNexus { node, size, .. } => write!(f, "grow the nexus on {node} to {size} bytes"),
            Action::Discard { replica, .. } => write!(f, "discard replica {replica}"),
            Action::Retire { replica, .. } => write!(f, "retire replica {replica}"),
            Action::Reinstate { replica, .. } => write!(f, "take replica {replica} back"),
            Action::DestroyReplica { replica, node, .. } => write!(f, "destroy replica {replica} on {node}"),
            Action::ForgetReplica { replica, .. } => write!(f, "forget replica {replica}"),
            Action::SetTarget { node, .. } => write!(f, "move the volume to {node}"),
            Action::OpenNexus { node, children, .. } => {
                write!(f, "open the volume on {node} with {} copies", children.len())
            }
            Action::CloseNexus { node, .. } => write!(f, "close the nexus on {node}"),
            Action::ForgetNexus { node, .. } => write!(f, "forget the nexus on {node}"),
            Action::Publish { node, .. } => write!(f, "publish on {node}"),
            Action::Unpublish { node, .. } => write!(f, "unpublish on {node}"),
            Action::AddChild { node, replica, .. } => write!(f, "add replica {replica} to the nexus on {node}"),
            Action::RemoveChild { node, replica, .. } => write!(f, "take replica {replica} out of the nexus on {node}"),
            Action::ForgetVolume { .. } => write!(f, "forget the volume"),
        }
    }
}
