//! The steps of one volume.
//!
//! ```text
//!   deleting: close nexuses ─► destroy copies ─► forget
//!   wanted:   close stray nexuses ─► target ─┬─ never opened: place, create, open with all
//!                                            ├─ not open:     open with the members in sync
//!                                            └─ open:         export, repair, retire, clean up
//! ```

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::{
    Action, ChildState, Desired, Life, Nexus, NexusState, Node, Observed, PoolId, Presence, Publish, Replica,
    ReplicaLife, Room, Settings, Standing, Volume, presence, replica_size, safety, standing,
};

/// One volume and all that the planner needs to judge it.
struct Case<'a> {
    id: Uuid,
    volume: &'a Volume,
    observed: &'a Observed,
    now_ms: u64,
    settings: &'a Settings,
}

/// The actions that one volume needs now, in order; not filtered for safety yet.
pub(crate) fn plan(
    id: Uuid,
    desired: &Desired,
    observed: &Observed,
    now_ms: u64,
    settings: &Settings,
    room: &mut Room<'_>,
) -> Vec<Action> {
    let case = Case { id, volume: &desired.volumes[&id], observed, now_ms, settings };
    match case.volume.life {
        Life::Deleting => case.delete(),
        Life::Wanted => case.maintain(room),
    }
}

impl Case<'_> {
    // ---- deletion --------------------------------------------------------------------------------------------------

    fn delete(&self) -> Vec<Action> {
        let (id, mut actions) = (self.id, self.stray_nexuses(None));
        // A nexus on a node that was lost a moment ago, or that has not reported since we started, may still be open, and
        // its copies are not taken from under it.
        let may_be_open = |n: &String| match self.observed.nodes.get(n).map(|n| n.reach) {
            Some(crate::Reach::Unreachable { since_ms }) => {
                since_ms.saturating_add(self.settings.node_grace_ms) > self.now_ms
            }
            Some(crate::Reach::Online { .. }) | None => false,
        };
        if !actions.is_empty() || self.volume.nexus_nodes.iter().any(may_be_open) {
            return actions;
        }
        for (replica, r) in &self.volume.copies {
            actions.extend(self.clean_up(*replica, r));
        }
        if self.volume.copies.is_empty() && self.volume.nexus_nodes.is_empty() {
            actions.push(Action::ForgetVolume { volume: id });
        }
        actions
    }

    /// Closes nexuses where they do not belong, and forgets those that are gone.
    fn stray_nexuses(&self, keep: Option<&str>) -> Vec<Action> {
        let strays = self.volume.nexus_nodes.iter().filter(|n| Some(n.as_str()) != keep);
        strays
            .filter(|n| self.observed.is_online(n))
            .map(|n| match self.observed.nexus(n, self.id) {
                Some(_) => Action::CloseNexus { volume: self.id, node: n.clone() },
                None => Action::ForgetNexus { volume: self.id, node: n.clone() },
            })
            .collect()
    }

    /// The next step to be rid of a copy: destroyed where its node shows it, forgotten where it is gone for certain.
    fn clean_up(&self, id: Uuid, replica: &Replica) -> Option<Action> {
        let node = &replica.pool.node;
        if self.observed.replica(node, id).is_some() {
            return Some(Action::DestroyReplica { volume: self.id, replica: id, node: node.clone() });
        }
        match presence(id, replica, self.observed) {
            Presence::Missing => Some(Action::ForgetReplica { volume: self.id, replica: id }),
            Presence::Broken { since_ms } if since_ms.saturating_add(self.settings.abandon_ms) <= self.now_ms => {
                Some(Action::ForgetReplica { volume: self.id, replica: id })
            }
            _ => None,
        }
    }

    // ---- life ------------------------------------------------------------------------------------------------------

    fn maintain(&self, room: &mut Room<'_>) -> Vec<Action> {
        let volume = self.volume;
        let target = volume.target.as_deref();
        let mut actions = self.stray_nexuses(target);
        if actions.iter().any(|a| matches!(a, Action::CloseNexus { .. })) {
            return actions;
        }
        let nexus = target.and_then(|t| self.observed.nexus(t, self.id));
        let standings: BTreeMap<Uuid, Standing> = volume
            .wanted_copies()
            .map(|(id, _)| (id, standing(id, volume, nexus, self.observed, self.now_ms, self.settings)))
            .collect();
        actions.extend(match (nexus, &volume.ledger, target) {
            (Some(nexus), Some(_), Some(target)) => match self.better_target(target) {
                Some(node) if !nexus.published => vec![Action::SetTarget { volume: self.id, node }],
                _ => self.serve(nexus, target, &standings, room),
            },
            // Opened this very moment; its ledger arrives with the next report.
            (Some(_), None, _) => Vec::new(),
            (_, None, _) => self.begin(&standings, room),
            (_, Some(_), _) => self.reopen(&standings),
        });
        actions
    }

    /// The node that a client asked for, when it can be had and is not the target.
    fn better_target(&self, target: &str) -> Option<String> {
        match &self.volume.publish {
            Publish::On(node) if node != target && self.observed.is_online(node) => Some(node.clone()),
            _ => None,
        }
    }

    /// The best node for the nexus: the one that was asked for, else one with a copy of the data, else the least busy.
    fn choose_target(&self, has_copy: impl Fn(&str) -> bool) -> Option<String> {
        if let Publish::On(node) = &self.volume.publish
            && self.observed.is_online(node)
        {
            return Some(node.clone());
        }
        let online = self.observed.nodes.iter().filter(|(_, n)| n.reach.is_online());
        let best =
            online.min_by_key(|(name, n): &(&String, &Node)| (!has_copy(name), n.nexuses.len(), (*name).clone()));
        best.map(|(name, _)| name.clone())
    }

    /// Whether the target is gone for longer than the grace period, or there is none.
    fn target_lost(&self) -> bool {
        let Some(target) = &self.volume.target else { return true };
        match self.observed.nodes.get(target).map(|n| n.reach) {
            Some(crate::Reach::Online { .. }) => false,
            Some(crate::Reach::Unreachable { since_ms }) => {
                since_ms.saturating_add(self.settings.node_grace_ms) <= self.now_ms
            }
            None => true,
        }
    }

    /// A volume that was never opened: nothing can be lost yet, so whatever does not work out is replaced at once.
    fn begin(&self, standings: &BTreeMap<Uuid, Standing>, room: &mut Room<'_>) -> Vec<Action> {
        let (id, wanted) = (self.id, self.volume.replicas as usize);
        let mut actions = Vec::new();
        for (replica, r) in self.volume.copies.iter().filter(|(_, r)| !r.life.is_wanted()) {
            actions.extend(self.clean_up(*replica, r));
        }
        let useless = standings.iter().filter(|(_, s)| !s.counts()).map(|(id, _)| *id);
        let living: Vec<Uuid> = standings.iter().filter(|(_, s)| s.counts()).map(|(id, _)| *id).collect();
        let surplus = living.iter().copied().skip(wanted);
        actions.extend(useless.chain(surplus).map(|replica| Action::Discard { volume: id, replica }));
        if living.len() < wanted {
            actions.extend(self.place(wanted - living.len(), standings, room));
            return actions;
        }
        let members = &living[..wanted];
        if self.target_lost() || self.volume.target.as_deref().is_some_and(|t| self.better_target(t).is_some()) {
            let on = |node: &str| members.iter().any(|m| self.volume.copies[m].pool.node == node);
            actions.extend(self.choose_target(on).map(|node| Action::SetTarget { volume: id, node }));
            return actions;
        }
        let Some(target) = self.volume.target.as_deref().filter(|t| self.observed.is_online(t)) else { return actions };
        let unborn = members.iter().filter(|m| standings[m] == Standing::Unborn);
        actions.extend(unborn.map(|m| self.create(*m, target)));
        let small: Vec<Action> =
            members.iter().filter_map(|m| crate::grow::enlarge(id, *m, self.volume, self.observed)).collect();
        if !small.is_empty() {
            actions.extend(small);
        } else if members.iter().all(|m| standings[m] == Standing::Ready) {
            actions.extend(self.open(target, members));
        }
        actions
    }

    /// A volume that is closed although it was open before: its node died, or is starting.
    fn reopen(&self, standings: &BTreeMap<Uuid, Standing>) -> Vec<Action> {
        let Some(ledger) = &self.volume.ledger else { return Vec::new() };
        let state = |id: &Uuid| {
            // A copy that is in the ledger counts even when it is to be retired.
            standings
                .get(id)
                .copied()
                .unwrap_or_else(|| standing(*id, self.volume, None, self.observed, self.now_ms, self.settings))
        };
        let known = || ledger.in_sync.iter().filter(|id| self.volume.copies.contains_key(id));
        let ready: Vec<Uuid> = known().filter(|id| state(id) == Standing::Ready).copied().collect();
        let on = |node: &str| ready.iter().any(|m| self.volume.copies[m].pool.node == node);
        let elsewhere = self.volume.target.as_deref().and_then(|t| self.better_target(t));
        if self.target_lost() || elsewhere.is_some() {
            // Moving fences the old target for good, so it is done only where the volume can then be opened.
            let enough = ready.len() >= ledger.in_sync.len().saturating_sub(safety::OPEN_WITHOUT).max(1);
            let node = elsewhere.or_else(|| self.choose_target(on)).filter(|_| enough);
            let node = node.filter(|n| Some(n) != self.volume.target.as_ref());
            return node.map(|node| Action::SetTarget { volume: self.id, node }).into_iter().collect();
        }
        let Some(target) = self.volume.target.as_deref().filter(|t| self.observed.is_online(t)) else {
            return Vec::new();
        };
        if known().any(|id| state(id) == Standing::Waiting) {
            return Vec::new();
        }
        self.open(target, &ready)
    }

    /// Opens the volume with these members, once each is shared as the target needs it.
    fn open(&self, target: &str, members: &[Uuid]) -> Vec<Action> {
        let shares: Vec<Action> = members.iter().filter_map(|m| self.share_for(*m, target)).collect();
        if !shares.is_empty() {
            return shares;
        }
        vec![Action::OpenNexus { volume: self.id, node: target.to_owned(), children: members.to_vec() }]
    }

    /// A nexus uses the copy on its own node directly, and others over the network.
    fn share_for(&self, replica: Uuid, target: &str) -> Option<Action> {
        let node = &self.volume.copies[&replica].pool.node;
        let share = node != target;
        let seen = self.observed.replica(node, replica)?;
        (seen.shared != share).then(|| Action::ShareReplica { volume: self.id, replica, node: node.clone(), share })
    }

    fn create(&self, replica: Uuid, target: &str) -> Action {
        let pool = self.volume.copies[&replica].pool.clone();
        let (size, thin, share) = (replica_size(self.volume.size), self.volume.thin, pool.node != target);
        Action::CreateReplica { volume: self.id, replica, pool, size, thin, share }
    }

    fn place(&self, count: usize, standings: &BTreeMap<Uuid, Standing>, room: &mut Room<'_>) -> Vec<Action> {
        let alive = |id| standings.get(&id).is_some_and(|s| s.counts());
        let mut pools: Vec<PoolId> = Vec::new();
        while pools.len() < count {
            let Some(pool) = room.take(self.volume, alive, &pools) else { break };
            pools.push(pool);
        }
        pools.into_iter().map(|pool| Action::Place { volume: self.id, pool }).collect()
    }

    // ---- an open volume ----------------------------------------------------------------------------------------------

    fn serve(
        &self,
        nexus: &Nexus,
        target: &str,
        standings: &BTreeMap<Uuid, Standing>,
        room: &mut Room<'_>,
    ) -> Vec<Action> {
        if nexus.state == NexusState::Faulted {
            return self.revive(nexus, target);
        }
        let (id, node) = (self.id, target.to_owned());
        let mut actions = Vec::new();
        match (&self.volume.publish, nexus.published) {
            (Publish::No, true) => actions.push(Action::Unpublish { volume: id, node }),
            (Publish::Anywhere | Publish::On(_), false) => actions.push(Action::Publish { volume: id, node }),
            _ => {}
        }
        actions.extend(self.repair(target, standings, room));
        actions.extend(self.retire(target, standings));
        for (replica, r) in self.volume.copies.iter().filter(|(_, r)| !r.life.is_wanted()) {
            if nexus.children.contains_key(replica) {
                actions.push(Action::RemoveChild { volume: id, node: target.to_owned(), replica: *replica });
            } else {
                actions.extend(self.clean_up(*replica, r));
            }
        }
        // Last: what has no room must not hold up a repair.
        let more = crate::grow::grow(id, self.volume, nexus, target, self.observed);
        actions.extend(more.into_iter().filter(|a| !actions.contains(a)).collect::<Vec<_>>());
        actions
    }

    /// A nexus that lost all its members cannot take them back: it is opened anew once they are there.
    fn revive(&self, nexus: &Nexus, target: &str) -> Vec<Action> {
        let Some(ledger) = &self.volume.ledger else { return Vec::new() };
        let there = ledger.in_sync.iter().filter(|id| {
            self.volume.copies.get(id).is_some_and(|r| presence(**id, r, self.observed) == Presence::Present)
        });
        let enough = there.count() >= ledger.in_sync.len().saturating_sub(safety::OPEN_WITHOUT).max(1);
        let rested = nexus.since_ms.saturating_add(self.settings.reopen_ms) <= self.now_ms;
        if enough && rested {
            vec![Action::CloseNexus { volume: self.id, node: target.to_owned() }]
        } else {
            Vec::new()
        }
    }

    /// Brings the number of copies up to what is wanted.
    fn repair(&self, target: &str, standings: &BTreeMap<Uuid, Standing>, room: &mut Room<'_>) -> Vec<Action> {
        use Standing::*;
        let (id, wanted) = (self.id, self.volume.replicas as usize);
        let all = |state: Standing| standings.iter().filter(move |(_, s)| **s == state).map(|(id, _)| *id);
        let remove = |replica| Action::RemoveChild { volume: id, node: target.to_owned(), replica };
        let mut actions = Vec::new();
        let mut busy = [Good, Joining, Parked, Waiting].into_iter().flat_map(all).count();
        // Copies whose node came back first: only what differs has to be copied. Out, and in again with the next plan.
        for replica in all(Rejoin).take(wanted.saturating_sub(busy)) {
            busy += 1;
            actions.push(remove(replica));
        }
        for replica in all(Ready).take(wanted.saturating_sub(busy)) {
            busy += 1;
            let first = crate::grow::enlarge(id, replica, self.volume, self.observed);
            actions.push(first.or_else(|| self.share_for(replica, target)).unwrap_or_else(|| Action::AddChild {
                volume: id,
                node: target.to_owned(),
                replica,
            }));
        }
        for replica in all(Unborn).take(wanted.saturating_sub(busy)) {
            busy += 1;
            actions.push(self.create(replica, target));
        }
        // Copies that were let go, and are still in sync: they cost nothing to keep.
        let retired = || self.volume.copies.iter().filter(|(_, r)| r.life == ReplicaLife::Retired).map(|(id, _)| *id);
        let child = |id: &Uuid| self.observed.nexus(target, self.id).and_then(|n| n.children.get(id));
        let in_sync = |id: &Uuid| child(id).is_some_and(|c| c.state == ChildState::Online);
        for replica in retired().filter(in_sync).take(wanted.saturating_sub(busy)) {
            busy += 1;
            actions.push(Action::Reinstate { volume: id, replica });
        }
        let missing = wanted.saturating_sub(busy);
        let placed = self.place(missing, standings, room);
        let mut unplaced = missing - placed.len();
        actions.extend(placed);
        // No room for another copy: one that was let go, or that failed, may still be better than none.
        let there = |id: &Uuid| presence(*id, &self.volume.copies[id], self.observed) == Presence::Present;
        for replica in retired().filter(|id| there(id) && child(id).is_none()).take(unplaced) {
            unplaced -= 1;
            actions.push(Action::Reinstate { volume: id, replica });
        }
        let again = all(Failed).filter(|r| self.may_retry(*r, target)).take(unplaced);
        actions.extend(again.map(remove));
        actions
    }

    fn may_retry(&self, replica: Uuid, target: &str) -> bool {
        let child = self.observed.nexus(target, self.id).and_then(|n| n.children.get(&replica));
        let present = presence(replica, &self.volume.copies[&replica], self.observed) == Presence::Present;
        present && child.is_some_and(|c| c.since_ms.saturating_add(self.settings.retry_ms) <= self.now_ms)
    }

    /// Lets go of copies that the volume does not need: what never became of use at once, the rest when there are enough.
    fn retire(&self, target: &str, standings: &BTreeMap<Uuid, Standing>) -> Vec<Action> {
        let (id, wanted) = (self.id, self.volume.replicas as usize);
        let count = |state| standings.values().filter(|s| **s == state).count();
        let good = count(Standing::Good);
        let enough = good >= wanted;
        let mut actions = Vec::new();
        for (replica, state) in standings {
            let placed = self.volume.copies[replica].life == ReplicaLife::Placed;
            match state {
                Standing::Lost | Standing::Failed if placed => {
                    actions.push(Action::Discard { volume: id, replica: *replica });
                }
                Standing::Unborn | Standing::Ready if placed && enough => {
                    actions.push(Action::Discard { volume: id, replica: *replica });
                }
                Standing::Good | Standing::Waiting => {}
                _ if enough => actions.push(Action::Retire { volume: id, replica: *replica }),
                _ => {}
            }
        }
        if good > wanted {
            let mut extra: Vec<Uuid> =
                standings.iter().filter(|(_, s)| **s == Standing::Good).map(|(id, _)| *id).collect();
            extra.sort_by_key(|r| std::cmp::Reverse(self.burden(*r, target)));
            let go = extra.into_iter().take(good - wanted);
            actions.extend(go.map(|replica| Action::Retire { volume: id, replica }));
        }
        actions
    }

    /// How little a copy is worth to keep; the largest goes first.
    fn burden(&self, replica: Uuid, target: &str) -> (bool, usize, bool, bool, u64, Uuid) {
        let pool = &self.volume.copies[&replica].pool;
        let node = &pool.node;
        let sharing = self.volume.wanted_copies().filter(|(_, r)| r.pool.node == *node).count();
        let required = !self.volume.required_nodes.is_empty() && !self.volume.required_nodes.contains(node);
        let preferred = !self.volume.preferred_nodes.is_empty() && !self.volume.preferred_nodes.contains(node);
        let seen = self.observed.nodes.get(node).and_then(|n| n.pools.get(&pool.pool));
        let full = seen.map_or(u64::MAX, |p| u64::MAX - p.capacity.0.saturating_sub(p.committed.0));
        (required, sharing, preferred, node != target, full, replica)
    }
}
