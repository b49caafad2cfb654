//! Where the nexus of a volume belongs.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::volume::Case;
use crate::{Action, NexusState, Presence, Publish, Reach, Standing, presence};

impl Case<'_> {
    /// The node that a client asked for, when it can be had and is not the target.
    pub fn better_target(&self, target: &str) -> Option<String> {
        match &self.volume.publish {
            Publish::On(node) if node != target && self.observed.is_online(node) && self.desired.takes_new(node) => {
                Some(node.clone())
            }
            _ => None,
        }
    }

    /// The best node for the nexus: the one that was asked for, else one with a copy of the data, else one that the volume
    /// prefers, else the least busy. A node that is to take nothing new serves only when no other can.
    pub fn choose_target(&self, copies: impl Iterator<Item = Uuid>) -> Option<String> {
        let open = |node: &str| self.observed.is_online(node) && self.desired.takes_new(node);
        if let Publish::On(node) = &self.volume.publish
            && open(node)
        {
            return Some(node.clone());
        }
        let busy = |node: &str| self.observed.nodes.get(node).map_or(0, |n| n.nexuses.len());
        let least = |node: &&str| (!self.desired.is_preferred(self.volume, node), busy(node), (*node).to_owned());
        let homes: Vec<&str> = copies.map(|id| self.volume.copies[&id].pool.node.as_str()).collect();
        let with_copy = homes.iter().copied().filter(|n| open(n)).min_by_key(least);
        let online = || self.observed.nodes.iter().filter(|(_, n)| n.reach.is_online()).map(|(name, _)| name.as_str());
        let anywhere = || online().filter(|n| open(n)).min_by_key(least);
        let last_resort = || {
            let home = homes.iter().copied().filter(|n| self.observed.is_online(n)).min_by_key(least);
            home.or_else(|| online().min_by_key(least))
        };
        with_copy.or_else(anywhere).or_else(last_resort).map(str::to_owned)
    }

    /// Whether the target is gone for longer than the grace period, or there is none.
    pub fn target_lost(&self) -> bool {
        let Some(target) = &self.volume.target else { return true };
        match self.observed.nodes.get(target).map(|n| n.reach) {
            Some(Reach::Online { .. }) => false,
            Some(Reach::Unreachable { since_ms }) => {
                since_ms.saturating_add(self.settings.node_grace_ms) <= self.now_ms
            }
            None => true,
        }
    }

    /// Moves the target off a node that is drained, once nothing else is to be done: all copies that can be made elsewhere
    /// are in sync, so the volume opens at once where it goes. Hosts follow as they do when a node is lost.
    pub fn leave_target(&self, target: &str, standings: &BTreeMap<Uuid, Standing>) -> Option<Action> {
        if !self.desired.is_draining(target) {
            return None;
        }
        let nexus = self.observed.nexus(target, self.id)?;
        let here = |id: &Uuid| presence(*id, &self.volume.copies[id], self.observed) == Presence::Present;
        let calm = nexus.state == NexusState::Online
            && standings.iter().all(|(id, s)| *s == Standing::Good && self.volume.in_ledger(*id) && here(id));
        let node = self.choose_target(standings.keys().copied()).filter(|n| calm && self.desired.takes_new(n))?;
        Some(Action::SetTarget { volume: self.id, node })
    }
}
