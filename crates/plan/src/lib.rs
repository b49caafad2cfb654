//! The planner: what to do next so that the volumes become what was asked for.
//!
//! [`plan`] is a pure function. What was asked for and what is recorded ([`Desired`]), what the nodes report
//! ([`Observed`]) and the time go in; [`Action`]s come out. It remembers nothing: after a crash, or when an action failed,
//! it is simply asked again. Every action is idempotent, and planning again after all actions have been carried out gives
//! none. [`safety::allow`] judges each action once more, independently of the reasons for it, and refuses whatever could
//! cost the last good copy of a volume.
#![forbid(unsafe_code)]

mod action;
mod balance;
pub mod farewell;
mod grow;
mod model;
mod place;
mod planner;
mod rebuilds;
pub mod safety;
mod standing;
mod target;
mod volume;
mod wish;

pub use action::Action;
pub use balance::{Shift, balance};
pub use model::{
    Child, ChildState, Desired, HostUse, Ledger, Life, Nexus, NexusState, Node, Observed, Pool, PoolId, PoolState,
    Publish, Reach, Replica, ReplicaLife, SeenReplica, Settings, Volume,
};
pub use place::{Room, Shortage, replica_size};
pub use planner::Planner;
pub use standing::{Presence, Standing, presence, standing};
pub use wish::{Limits, Move, NodeWish, Rule, Service, Topology};

/// What to do now. Actions of one volume stand together, in the order in which they are to be carried out; when one of
/// them fails, the rest of that volume's are dropped and the planner is asked again. At most one set of a volume may be
/// under way at a time; sets of different volumes are independent. `now_ms` runs on the clock of the times in `observed`.
///
/// This looks at everything; [`Planner`] looks at what changed, and plans the same.
pub fn plan(desired: &Desired, observed: &Observed, now_ms: u64, settings: &Settings) -> Vec<Action> {
    let mut budget = volume::Budget::default();
    for node in observed.nodes.keys() {
        budget.room.refresh(node, &desired.limits, observed);
    }
    planner::pass(desired.volumes.keys(), desired, observed, now_ms, settings, &mut budget, |_| ())
}
