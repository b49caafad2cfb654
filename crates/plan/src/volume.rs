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

use crate::place::Copies;
use crate::rebuilds::Rebuilds;
use crate::{
    Action, ChildState, Desired, Life, Nexus, NexusState, Observed, PoolId, Presence, Publish, Replica, ReplicaLife,
    Room, Settings, Standing, Volume, presence, replica_size, safety, standing,
};

/// One volume and all that the planner needs to judge it.
pub(crate) struct Case<'a> {
    pub id: Uuid,
    pub volume: &'a Volume,
    pub desired: &'a Desired,
    pub observed: &'a Observed,
    pub now_ms: u64,
    pub settings: &'a Settings,
}

/// What volumes share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Budget {
    pub room: Room,
    pub rebuilds: Rebuilds,
}

/// What one volume needs.
pub(crate) struct Steps {
    /// The actions that it needs now, in order; not filtered for safety yet.
    pub actions: Vec<Action>,
    /// Whether it is as it shall be, and stays so until its record, or what its nodes report about it, changes: no time
    /// that passes and nothing that happens to other volumes can make an action necessary.
    pub settled: bool,
}

impl Case<'_> {
    pub fn plan(&self, budget: &mut Budget) -> Steps {
        if self.volume.life == Life::Deleting {
            return Steps { actions: self.delete(), settled: false };
        }
        let target = self.volume.target.as_deref();
        let nexus = target.and_then(|t| self.observed.nexus(t, self.id));
        let state = |id| standing(id, self.volume, nexus, self.observed, self.now_ms, self.settings);
        let standings: BTreeMap<Uuid, Standing> = self.volume.wanted_copies().map(|(id, _)| (id, state(id))).collect();
        let actions = self.maintain(nexus, &standings, budget);
        let settled = actions.is_empty() && self.is_settled(nexus, &standings);
        Steps { actions, settled }
    }

    fn is_settled(&self, nexus: Option<&Nexus>, standings: &BTreeMap<Uuid, Standing>) -> bool {
        let (volume, desired) = (self.volume, self.desired);
        let (Some(nexus), Some(target)) = (nexus, &volume.target) else { return false };
        let well = |id: &Uuid, r: &Replica| {
            r.life == ReplicaLife::Member
                && standings.get(id) == Some(&Standing::Good)
                && volume.in_ledger(*id)
                && !desired.is_leaving(volume, *id, r)
                && presence(*id, r, self.observed) == Presence::Present
        };
        nexus.state == NexusState::Online
            && nexus.published == (volume.publish != Publish::No)
            && nexus.children.len() == volume.copies.len()
            && volume.copies.len() == volume.replicas as usize
            && volume.moving.is_none()
            && !desired.is_draining(target)
            && volume.nexus_nodes.len() == 1
            && volume.copies.iter().all(|(id, r)| well(id, r))
    }

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

    fn maintain(
        &self,
        nexus: Option<&Nexus>,
        standings: &BTreeMap<Uuid, Standing>,
        budget: &mut Budget,
    ) -> Vec<Action> {
        let volume = self.volume;
        let target = volume.target.as_deref();
        let mut actions = self.stray_nexuses(target);
        if actions.iter().any(|a| matches!(a, Action::CloseNexus { .. })) {
            return actions;
        }
        actions.extend(match (nexus, &volume.ledger, target) {
            (Some(nexus), Some(_), Some(target)) => match self.better_target(target) {
                Some(node) if !nexus.published => vec![Action::SetTarget { volume: self.id, node }],
                _ => self.serve(nexus, target, standings, budget),
            },
            // Opened this very moment; its ledger arrives with the next report.
            (Some(_), None, _) => Vec::new(),
            (_, None, _) => self.begin(standings, &mut budget.room),
            (_, Some(_), _) => self.reopen(standings),
        });
        actions
    }

    fn is_leaving(&self, id: Uuid) -> bool {
        self.desired.is_leaving(self.volume, id, &self.volume.copies[&id])
    }

    /// How many copies there are to be for now: one more than wanted while a good one is to be replaced, so that its
    /// replacement is in sync before it goes. A volume that lacks a copy is repaired first.
    fn goal(&self, standings: &BTreeMap<Uuid, Standing>) -> usize {
        let wanted = self.volume.replicas as usize;
        let good = standings.values().filter(|s| **s == Standing::Good).count();
        let leaving = standings.iter().any(|(id, s)| s.counts() && self.is_leaving(*id));
        if leaving && good >= wanted { (wanted + 1).min(block::limits::NEXUS_MEMBERS).max(wanted) } else { wanted }
    }

    /// A volume that was never opened: nothing can be lost yet, so whatever does not work out is replaced at once.
    fn begin(&self, standings: &BTreeMap<Uuid, Standing>, room: &mut Room) -> Vec<Action> {
        let (id, wanted) = (self.id, self.volume.replicas as usize);
        let mut actions = Vec::new();
        for (replica, r) in self.volume.copies.iter().filter(|(_, r)| !r.life.is_wanted()) {
            actions.extend(self.clean_up(*replica, r));
        }
        let of_use = |(id, s): &(&Uuid, &Standing)| s.counts() && !self.is_leaving(**id);
        let useless = standings.iter().filter(|c| !of_use(c)).map(|(id, _)| *id);
        let living: Vec<Uuid> = standings.iter().filter(of_use).map(|(id, _)| *id).collect();
        let surplus = living.iter().copied().skip(wanted);
        actions.extend(useless.chain(surplus).map(|replica| Action::Discard { volume: id, replica }));
        if living.len() < wanted {
            actions.extend(self.place(wanted - living.len(), standings, room));
            return actions;
        }
        let members = &living[..wanted];
        if self.target_lost() || self.volume.target.as_deref().is_some_and(|t| self.better_target(t).is_some()) {
            let chosen = self.choose_target(members.iter().copied());
            actions.extend(chosen.map(|node| Action::SetTarget { volume: id, node }));
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
        let elsewhere = self.volume.target.as_deref().and_then(|t| self.better_target(t));
        if self.target_lost() || elsewhere.is_some() {
            // Moving fences the old target for good, so it is done only where the volume can then be opened.
            let enough = ready.len() >= ledger.in_sync.len().saturating_sub(safety::OPEN_WITHOUT).max(1);
            let node = elsewhere.or_else(|| self.choose_target(ready.iter().copied())).filter(|_| enough);
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

    fn place(&self, count: usize, standings: &BTreeMap<Uuid, Standing>, room: &mut Room) -> Vec<Action> {
        let alive = |id| standings.get(&id).is_some_and(|s| s.counts());
        let mut pools: Vec<PoolId> = Vec::new();
        while pools.len() < count {
            let Some(pool) = room.take(self.desired, self.observed, self.volume, alive, &pools) else { break };
            pools.push(pool);
        }
        pools.into_iter().map(|pool| Action::Place { volume: self.id, pool }).collect()
    }

    /// Room for the copy that takes the place of one that leaves: where a move says, else where it is best.
    fn place_instead(&self, standings: &BTreeMap<Uuid, Standing>, room: &mut Room) -> Vec<Action> {
        let Some(wish) = &self.volume.moving else { return self.place(1, standings, room) };
        let alive = |id| standings.get(&id).is_some_and(|s| s.counts());
        let copies = Copies::new(self.desired, self.observed, self.volume, alive, &[]);
        let taken = room.take_in(&wish.to, &copies);
        taken.then(|| Action::Place { volume: self.id, pool: wish.to.clone() }).into_iter().collect()
    }

    // ---- an open volume ----------------------------------------------------------------------------------------------

    fn serve(
        &self,
        nexus: &Nexus,
        target: &str,
        standings: &BTreeMap<Uuid, Standing>,
        budget: &mut Budget,
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
        actions.extend(self.repair(target, standings, budget));
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
        if actions.is_empty() {
            actions.extend(self.leave_target(target, standings));
        }
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

    /// Brings the number of copies up to what is wanted, and makes those that take the place of others that leave.
    fn repair(&self, target: &str, standings: &BTreeMap<Uuid, Standing>, budget: &mut Budget) -> Vec<Action> {
        use Standing::*;
        let (id, wanted, goal) = (self.id, self.volume.replicas as usize, self.goal(standings));
        let all = |state: Standing| standings.iter().filter(move |(_, s)| **s == state).map(|(id, _)| *id);
        let staying = |state: Standing| all(state).filter(|r| !self.is_leaving(*r));
        let remove = |replica| Action::RemoveChild { volume: id, node: target.to_owned(), replica };
        let mut actions = Vec::new();
        let mut busy = [Good, Joining, Parked, Waiting].into_iter().flat_map(all).count();
        // Copies whose node came back first: only what differs has to be copied. Out, and in again with the next plan.
        for replica in staying(Rejoin).take(goal.saturating_sub(busy)) {
            busy += 1;
            actions.push(remove(replica));
        }
        for replica in staying(Ready).take(goal.saturating_sub(busy)) {
            busy += 1;
            actions.extend(self.join(replica, target, budget));
        }
        for replica in staying(Unborn).take(goal.saturating_sub(busy)) {
            busy += 1;
            actions.push(self.create(replica, target));
        }
        // Copies that were let go, and are still in sync: they cost nothing to keep.
        let retired = || self.volume.copies.iter().filter(|(_, r)| r.life == ReplicaLife::Retired).map(|(id, _)| *id);
        let child = |id: &Uuid| self.observed.nexus(target, self.id).and_then(|n| n.children.get(id));
        let in_sync = |id: &Uuid| child(id).is_some_and(|c| c.state == ChildState::Online);
        let goes = |id: &Uuid| self.desired.is_draining(&self.volume.copies[id].pool.node);
        for replica in retired().filter(|id| in_sync(id) && !goes(id)).take(goal.saturating_sub(busy)) {
            busy += 1;
            actions.push(Action::Reinstate { volume: id, replica });
        }
        let placed = if busy < wanted {
            self.place(wanted - busy, standings, &mut budget.room)
        } else if busy < goal {
            self.place_instead(standings, &mut budget.room)
        } else {
            Vec::new()
        };
        let mut unplaced = wanted.saturating_sub(busy + placed.len());
        actions.extend(placed);
        // No room for another copy: one that was let go, that leaves, or that failed, may still be better than none.
        let there = |id: &Uuid| presence(*id, &self.volume.copies[id], self.observed) == Presence::Present;
        let usable = |id: &Uuid| if goes(id) && in_sync(id) { true } else { there(id) && child(id).is_none() };
        for replica in retired().filter(usable).take(unplaced) {
            unplaced -= 1;
            actions.push(Action::Reinstate { volume: id, replica });
        }
        let member = |id: &Uuid| self.volume.copies[id].life == ReplicaLife::Member;
        for replica in all(Rejoin).filter(|r| self.is_leaving(*r)).take(unplaced) {
            unplaced -= 1;
            actions.push(remove(replica));
        }
        for replica in all(Ready).filter(|r| self.is_leaving(*r) && member(r)).take(unplaced) {
            unplaced -= 1;
            actions.extend(self.join(replica, target, budget));
        }
        let again = all(Failed).filter(|r| self.may_retry(*r, target)).take(unplaced);
        actions.extend(again.map(remove));
        actions
    }

    /// The next step to take a copy into the nexus; none while too many are being rebuilt at its node or the target's.
    fn join(&self, replica: Uuid, target: &str, budget: &mut Budget) -> Option<Action> {
        let enlarge = crate::grow::enlarge(self.id, replica, self.volume, self.observed);
        if let Some(first) = enlarge.or_else(|| self.share_for(replica, target)) {
            return Some(first);
        }
        let home = &self.volume.copies[&replica].pool.node;
        let admitted = budget.rebuilds.admit(target, home, self.desired.limits.rebuilds_per_node);
        admitted.then(|| Action::AddChild { volume: self.id, node: target.to_owned(), replica })
    }

    fn may_retry(&self, replica: Uuid, target: &str) -> bool {
        let child = self.observed.nexus(target, self.id).and_then(|n| n.children.get(&replica));
        let present = presence(replica, &self.volume.copies[&replica], self.observed) == Presence::Present;
        present && child.is_some_and(|c| c.since_ms.saturating_add(self.settings.retry_ms) <= self.now_ms)
    }

    /// Lets go of copies that the volume does not need: what never became of use at once, the rest when there are enough.
    fn retire(&self, target: &str, standings: &BTreeMap<Uuid, Standing>) -> Vec<Action> {
        let (id, wanted) = (self.id, self.volume.replicas as usize);
        let good = standings.values().filter(|s| **s == Standing::Good).count();
        let (enough, more_than_enough) = (good >= wanted, good >= self.goal(standings));
        let mut actions = Vec::new();
        for (replica, state) in standings {
            let placed = self.volume.copies[replica].life == ReplicaLife::Placed;
            match state {
                Standing::Lost | Standing::Failed if placed => {
                    actions.push(Action::Discard { volume: id, replica: *replica });
                }
                Standing::Unborn | Standing::Ready if placed && (more_than_enough || self.is_leaving(*replica)) => {
                    actions.push(Action::Discard { volume: id, replica: *replica });
                }
                Standing::Good | Standing::Waiting => {}
                Standing::Lost | Standing::Failed if enough => {
                    actions.push(Action::Retire { volume: id, replica: *replica });
                }
                _ if more_than_enough => actions.push(Action::Retire { volume: id, replica: *replica }),
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
    fn burden(&self, replica: Uuid, target: &str) -> Burden {
        let copies = &self.volume.copies;
        let PoolId { node, pool } = &copies[&replica].pool;
        let others = || self.volume.wanted_copies().filter(|(id, _)| *id != replica && !self.is_leaving(*id));
        let value = |node: &str, key: &str| self.desired.label(node, key).map(str::to_owned);
        let clashes = |key: &str| others().filter(|(_, r)| value(&r.pool.node, key) == value(node, key)).count();
        let seen = self.observed.nodes.get(node).and_then(|n| n.pools.get(pool));
        Burden {
            leaving: self.is_leaving(replica),
            not_allowed: !self.desired.is_allowed(self.volume, node),
            sharing: others().filter(|(_, r)| r.pool.node == *node).count(),
            clashes: self.volume.topology.spread.iter().map(|rule| clashes(&rule.key)).sum(),
            not_preferred: !self.desired.is_preferred(self.volume, node),
            remote: node != target,
            full: seen.map_or(u64::MAX, |p| u64::MAX - p.capacity.0.saturating_sub(p.committed.0)),
            id: replica,
        }
    }
}

/// See [`Case::burden`].
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Burden {
    leaving: bool,
    not_allowed: bool,
    /// Other copies on its node.
    sharing: usize,
    /// Other copies that have its values of labels which ought to differ.
    clashes: usize,
    not_preferred: bool,
    remote: bool,
    full: u64,
    id: Uuid,
}
