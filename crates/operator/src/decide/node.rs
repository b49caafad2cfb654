//! Nodes.

use kube::ResourceExt;

use super::{Decision, View};
use crate::resource::{FINALIZER, MayastorNode, NodeReport, NodeState};

/// What is to be done about a node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Somebody says where it is: listen to it.
    Know(String),
    /// Forget it for good.
    Remove,
    /// There is no such node: let the object go.
    Release,
}

/// Decides. `trouble`: why the last attempt to do something about it failed.
pub(crate) fn decide(
    node: &MayastorNode,
    view: &View,
    trouble: Option<&str>,
) -> Decision<(NodeState, NodeReport), Action> {
    let known = view.nodes.get(&node.name_any());
    let online = known.is_some_and(|n| n.state == "online");
    let state = if online { NodeState::Online } else { NodeState::Offline };
    let mut report = NodeReport::default();
    if let Some(known) = known {
        report.version.clone_from(&known.version);
        if !online {
            // Without running times, which would be written each second.
            "it cannot be reached; mayastor status tells more".clone_into(&mut report.reason);
        }
    }
    let action = match (node.metadata.deletion_timestamp.is_some(), known) {
        (false, _) if node.spec.record.is_none() => Some(Action::Know(node.spec.spec.grpc_endpoint.clone())),
        (false, _) => None,
        (true, Some(_)) => Some(Action::Remove),
        (true, None) => node.finalizers().iter().any(|f| f == FINALIZER).then_some(Action::Release),
    };
    if let (Some(_), Some(why)) = (&action, trouble) {
        why.clone_into(&mut report.reason);
    }
    Decision { status: (state, report), action }
}
