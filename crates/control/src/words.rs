//! What people read: the state of every volume, why it is so, and what is being done about it.

mod moving;

use std::collections::BTreeMap;

use api::v1;
use plan::{ChildState, Desired, Life, NexusState, Observed, Presence, Publish, Reach, Standing, Volume};
use uuid::Uuid;

use crate::Inner;
use crate::cluster::{View, uuid_of};
use crate::reconcile::Trouble;
use crate::state::Cache;

/// Everything that a description needs.
struct Scene<'a> {
    cache: &'a Cache,
    desired: &'a Desired,
    observed: &'a Observed,
    view: &'a View,
    settings: &'a plan::Settings,
    now_ms: u64,
}

/// What is wrong, what is being done about it, and what only an operator can do.
#[derive(Default)]
struct Reasons {
    why: Vec<String>,
    doing: Vec<String>,
    needed: Vec<String>,
}

impl Reasons {
    /// All of it in one line.
    fn text(&self) -> String {
        [&self.why[..], &self.doing, &self.needed].concat().join("; ")
    }
    fn is_empty(&self) -> bool {
        self.why.is_empty() && self.doing.is_empty() && self.needed.is_empty()
    }
}

impl<'a> Scene<'a> {
    fn new(inner: &'a Inner, cache: &'a Cache, view: &'a View) -> Scene<'a> {
        let (desired, observed, settings) = (&cache.desired, &view.observed, &inner.options.settings);
        Scene { cache, desired, observed, view, settings, now_ms: inner.now_ms() }
    }
}

/// The status of everything.
pub(crate) fn status(inner: &Inner) -> v1::Status {
    let (cache, view) = (inner.state.read(), inner.cluster.lock());
    let scene = Scene::new(inner, &cache, &view);
    let volumes = cache.desired.volumes.iter().map(|(id, v)| scene.volume(*id, v, inner.work.trouble(*id)));
    let mut volumes: Vec<v1::Volume> = volumes.collect();
    volumes.sort_by(|a, b| a.name.cmp(&b.name));
    v1::Status { nodes: scene.nodes(), pools: scene.pools(), volumes }
}

/// The status of one volume.
pub(crate) fn volume(inner: &Inner, id: Uuid) -> Option<v1::Volume> {
    let (cache, view) = (inner.state.read(), inner.cluster.lock());
    let scene = Scene::new(inner, &cache, &view);
    Some(scene.volume(id, cache.desired.volumes.get(&id)?, inner.work.trouble(id)))
}

/// The status of one node.
pub(crate) fn node(inner: &Inner, id: &str) -> Option<v1::Node> {
    let (cache, view) = (inner.state.read(), inner.cluster.lock());
    Some(Scene::new(inner, &cache, &view).node(id, view.nodes.get(id)?))
}

/// Milliseconds as people say them.
pub(crate) fn duration(ms: u64) -> String {
    match ms / 1000 {
        s @ 0..=119 => format!("{s} s"),
        s @ 120..=7199 => format!("{} min", s / 60),
        s => format!("{} h", s / 3600),
    }
}

/// Bytes as people say them.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut value, mut unit) = (n as f64 / 1024.0, 0);
    while value >= 1024.0 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    if value.fract() == 0.0 { format!("{value:.0} {}", UNITS[unit]) } else { format!("{value:.1} {}", UNITS[unit]) }
}

impl Scene<'_> {
    fn nodes(&self) -> Vec<v1::Node> {
        self.view.nodes.iter().map(|(id, peer)| self.node(id, peer)).collect()
    }

    fn node(&self, id: &str, peer: &crate::cluster::Peer) -> v1::Node {
        let state = match self.observed.nodes.get(id).map(|n| n.reach) {
            Some(Reach::Online { .. }) => "online",
            Some(Reach::Unreachable { since_ms }) if self.now_ms < since_ms + self.settings.node_grace_ms => {
                "unreachable"
            }
            _ => "offline",
        };
        let mut reasons = self.why_away(id, peer);
        let (service, drain) = self.service(id, &mut reasons);
        v1::Node {
            id: id.to_owned(),
            grpc_endpoint: peer.endpoint.clone(),
            state: state.to_owned(),
            last_seen_ms_ago: self.now_ms.saturating_sub(peer.last_seen_ms),
            version: peer.version.clone(),
            why: reasons.why,
            doing: reasons.doing,
            needed: reasons.needed,
            service: service.to_owned(),
            labels: self.desired.nodes.get(id).map(|n| n.labels.clone()).unwrap_or_default(),
            drain,
        }
    }

    fn standings(&self, id: Uuid, v: &Volume) -> BTreeMap<Uuid, Standing> {
        let nexus = v.target.as_deref().and_then(|t| self.observed.nexus(t, id));
        let state = |r| plan::standing(r, v, nexus, self.observed, self.now_ms, self.settings);
        v.wanted_copies().map(|(r, _)| (r, state(r))).collect()
    }

    fn pools(&self) -> Vec<v1::NodePool> {
        let mut pools = Vec::new();
        for (id, peer) in &self.view.nodes {
            for pool in peer.pools.values() {
                let mut pool = pool.clone();
                if !self.observed.is_online(id) {
                    pool.set_state(v1::PoolState::PoolUnknown);
                    pool.reason = format!("node {id} cannot be reached");
                }
                pools.push(v1::NodePool { node: id.clone(), pool: Some(pool) });
            }
        }
        pools
    }

    fn wire_nexus(&self, node: &str, id: Uuid) -> Option<&v1::Nexus> {
        self.view.nodes.get(node).filter(|_| self.observed.is_online(node))?.nexuses.get(&id)
    }

    fn volume(&self, id: Uuid, v: &Volume, trouble: Option<Trouble>) -> v1::Volume {
        let target = v.target.as_deref();
        let nexus = target.and_then(|t| self.observed.nexus(t, id));
        let wire = target.and_then(|t| self.wire_nexus(t, id));
        let standings = self.standings(id, v);
        let moving = self.why_moving(id, v, &standings);
        let good = standings.values().filter(|s| **s == Standing::Good).count();
        let state = match (v.life, nexus.map(|n| n.state), &v.ledger) {
            (Life::Deleting, ..) => "deleting",
            (_, _, None) => "pending",
            (_, None, _) => "offline",
            (_, Some(NexusState::Faulted), _) => "faulted",
            (_, Some(_), _) if good < v.replicas as usize => "degraded",
            // One more copy is being made, for one that leaves.
            (_, Some(_), _) if moving.is_some() => "online",
            (_, Some(NexusState::Degraded), _) if standings.values().any(|s| *s != Standing::Good) => "degraded",
            _ => "online",
        };
        let mut reasons = match state {
            "deleting" => self.why_deleting(v),
            "online" => self.why_worried(v, &standings),
            "pending" => self.why_pending(v, &standings),
            "offline" | "faulted" => self.why_closed(id, v, wire),
            _ => self.why_degraded(v, wire, &standings),
        };
        let usable = nexus.map_or(0, |n| n.size.0);
        if (1..v.size.0).contains(&usable) && v.life == Life::Wanted {
            reasons.doing.push(format!("it grows from {} to {}", bytes(usable), bytes(v.size.0)));
        }
        if state == "online" {
            reasons.doing.extend(moving);
        }
        if let Some(t) = trouble {
            let next = t.until_ms.saturating_sub(self.now_ms);
            let when = if next == 0 { "now".to_owned() } else { format!("in {}", duration(next + 999)) };
            reasons.why.push(format!("the last attempt to {} failed: {}", t.action, t.why));
            reasons.doing.push(format!("next try {when}"));
        }
        let host = |(name, host): (&String, &plan::HostUse)| v1::VolumeHost {
            host: name.clone(),
            read_only: host.read_only,
            shared: host.shared,
        };
        let published = v.publish != Publish::No;
        v1::Volume {
            name: v.name.clone(),
            uuid: id.to_string(),
            size: v.size.0,
            replicas_wanted: v.replicas,
            thin: v.thin,
            state: state.to_owned(),
            reason: reasons.text(),
            why: reasons.why,
            doing: reasons.doing,
            needed: reasons.needed,
            target_node: target.filter(|_| published).unwrap_or_default().to_owned(),
            device_uri: wire.filter(|_| published).map(|n| n.device_uri.clone()).unwrap_or_default(),
            replicas: v.copies.keys().map(|r| self.replica(*r, v, nexus, wire)).collect(),
            generation: v.ledger.as_ref().map_or(0, |l| l.generation.0),
            hosts: v.hosts.iter().map(host).collect(),
            usable,
            required_labels: v.topology.required_labels.clone(),
            preferred_labels: v.topology.preferred_labels.clone(),
            spread: v.topology.spread.iter().map(ToString::to_string).collect(),
            together: v.topology.together.iter().map(ToString::to_string).collect(),
            operation: self.cache.operation(v),
        }
    }

    fn replica(
        &self,
        id: Uuid,
        v: &Volume,
        nexus: Option<&plan::Nexus>,
        wire: Option<&v1::Nexus>,
    ) -> v1::VolumeReplica {
        let copy = &v.copies[&id];
        let presence = plan::presence(id, copy, self.observed);
        let child = nexus.and_then(|n| n.children.get(&id)).map(|c| c.state);
        let wire = wire.and_then(|n| n.children.iter().find(|c| uuid_of(&c.uri) == Some(id)));
        let seen = self.view.nodes.get(&copy.pool.node).and_then(|p| p.replicas.get(&id));
        let state = match (child, presence) {
            _ if !copy.life.is_wanted() => "retired",
            (Some(ChildState::Online), _) => "online",
            (Some(ChildState::Rebuilding), _) => "rebuilding",
            (Some(ChildState::Offline), _) => "offline",
            (_, Presence::Away { .. }) => "unreachable",
            (Some(ChildState::Faulted), _) | (_, Presence::Broken { .. }) => "faulted",
            (_, Presence::Missing) if v.ledger.is_some() && v.in_ledger(id) => "faulted",
            // Not open: a copy in the ledger is as good as the volume.
            (None, Presence::Present) if v.in_ledger(id) || v.ledger.is_none() => "online",
            _ => "out-of-sync",
        };
        let mut reason = wire.map(|c| c.reason.clone()).unwrap_or_default();
        if reason.is_empty() && !copy.life.is_wanted() {
            reason = "no longer needed; it goes when it is safe".to_owned();
        }
        v1::VolumeReplica {
            uuid: id.to_string(),
            node: copy.pool.node.clone(),
            pool: copy.pool.pool.clone(),
            state: state.to_owned(),
            uri: seen.map(|r| r.uri.clone()).unwrap_or_default(),
            rebuild: wire.and_then(|c| c.rebuild.clone()),
            reason,
        }
    }

    // ---- reasons -----------------------------------------------------------------------------------------------------

    /// How long a node has been away, in words; `None` when it answers.
    fn away(&self, node: &str) -> Option<(u64, &'static str)> {
        match self.observed.nodes.get(node).map(|n| n.reach) {
            Some(Reach::Online { .. }) => None,
            Some(Reach::Unreachable { since_ms }) => Some((self.now_ms.saturating_sub(since_ms), "node unreachable")),
            None => Some((0, "node unknown")),
        }
    }

    /// Why a node is not online, and what becomes of the copies that it holds.
    fn why_away(&self, id: &str, peer: &crate::cluster::Peer) -> Reasons {
        let mut reasons = Reasons::default();
        let Some((ms, _)) = self.away(id) else { return reasons };
        let trouble = if peer.trouble.is_empty() { "it has not reported yet" } else { &peer.trouble };
        reasons.why.push(format!("unreachable for {}: {trouble}", duration(ms)));
        let here = |v: &&Volume| v.wanted_copies().any(|(_, r)| r.pool.node == id);
        let waiting = self.desired.volumes.values().filter(here).count();
        let one = waiting == 1;
        let (copies, are) = if one { ("1 copy".to_owned(), "is") } else { (format!("{waiting} copies"), "are") };
        let left = self.settings.node_grace_ms.saturating_sub(ms);
        match (waiting, left) {
            (0, _) => reasons.doing.push("nothing: no volume depends on it".to_owned()),
            (_, 0) => reasons.doing.push(format!("{copies} that it holds {are} being replaced on other nodes")),
            _ => reasons.doing.push(format!(
                "{copies} that it holds {are} replaced on other nodes in {} unless it returns",
                duration(left + 999)
            )),
        }
        reasons.needed.push(format!("see whether the machine runs, and the engine at {} on it", peer.endpoint));
        reasons
    }

    fn why_deleting(&self, v: &Volume) -> Reasons {
        let mut nodes: Vec<&String> = v.nexus_nodes.iter().chain(v.copies.values().map(|r| &r.pool.node)).collect();
        nodes.sort();
        nodes.dedup();
        let away: Vec<&str> = nodes.into_iter().filter(|n| !self.observed.is_online(n)).map(String::as_str).collect();
        if away.is_empty() {
            return Reasons { doing: vec!["its copies are being destroyed".to_owned()], ..Reasons::default() };
        }
        let text = format!("what it holds on {} is freed when that comes back", away.join(", "));
        let never = format!("if that never happens: `mayastor node remove {}`", away[0]);
        Reasons { doing: vec![text], needed: vec![never], ..Reasons::default() }
    }

    fn no_room(&self, v: &Volume, missing: usize, why: &plan::Shortage) -> String {
        let size = bytes(plan::replica_size(v.size).0);
        let mut only = String::new();
        if !v.required_nodes.is_empty() {
            only = format!(" on {}", v.required_nodes.iter().cloned().collect::<Vec<_>>().join(", "));
        }
        let copies = if missing == 1 { "a new copy".to_owned() } else { format!("{missing} new copies") };
        format!("no other pool{only} has {size} free for {copies} ({why}): add a pool, or free some space")
    }

    fn why_pending(&self, v: &Volume, standings: &BTreeMap<Uuid, Standing>) -> Reasons {
        let missing = (v.replicas as usize).saturating_sub(standings.values().filter(|s| s.counts()).count());
        let mut reasons = Reasons::default();
        if let Some(why) = self.shortage(v, standings).filter(|_| missing > 0) {
            reasons.needed.push(self.no_room(v, missing, &why));
        }
        for (id, _) in standings.iter().filter(|(_, s)| **s == Standing::Waiting) {
            let node = &v.copies[id].pool.node;
            if let Some((ms, why)) = self.away(node) {
                reasons.why.push(format!("waits for {node} ({why} for {})", duration(ms)));
            }
        }
        if reasons.is_empty() {
            reasons.doing.push("its copies are being created".to_owned());
        }
        reasons
    }

    /// Why there is no pool for one more copy; `None` when there is one.
    fn shortage(&self, v: &Volume, standings: &BTreeMap<Uuid, Standing>) -> Option<plan::Shortage> {
        let alive = |id| standings.get(&id).is_some_and(|s| s.counts());
        self.view.planner.room().shortage(self.desired, self.observed, v, alive, &[])
    }

    fn why_closed(&self, id: Uuid, v: &Volume, wire: Option<&v1::Nexus>) -> Reasons {
        let mut reasons = Reasons::default();
        if let Some(reason) = wire.map(|n| &n.reason).filter(|r| !r.is_empty()) {
            reasons.why.push(reason.clone());
        }
        if let Some(target) = &v.target
            && let Some((ms, why)) = self.away(target)
        {
            let grace = self.settings.node_grace_ms;
            reasons.why.push(format!("its target {target} was lost {} ago ({why})", duration(ms)));
            if ms < grace {
                reasons.doing.push(format!("it moves in {}", duration(grace - ms + 999)));
            }
        }
        let members = v.ledger.as_ref().map(|l| l.in_sync.clone()).unwrap_or_default();
        for member in members {
            let Some(copy) = v.copies.get(&member) else { continue };
            match plan::presence(member, copy, self.observed) {
                Presence::Present => {}
                Presence::Away { since_ms } => {
                    let ms = duration(self.now_ms.saturating_sub(since_ms));
                    reasons.why.push(format!("a good copy is on {}, which is unreachable for {ms}", copy.pool.node));
                }
                Presence::Missing | Presence::Broken { .. } => {
                    reasons.why.push(format!("a good copy was in {}, which does not show it", copy.pool));
                }
            }
        }
        if reasons.is_empty() {
            let node = v.target.as_deref().unwrap_or("?");
            reasons.doing.push(if self.observed.nexus(node, id).is_some() {
                format!("it is being opened anew on {node}")
            } else {
                format!("it is being opened on {node}")
            });
        }
        reasons
    }

    /// Everything is in sync as far as its nexus knows; what the control plane knows beyond that.
    fn why_worried(&self, v: &Volume, standings: &BTreeMap<Uuid, Standing>) -> Reasons {
        let good = standings.iter().filter(|(_, s)| **s == Standing::Good).map(|(id, _)| &v.copies[id].pool.node);
        let away = good.filter_map(|node| {
            let (ms, why) = self.away(node)?;
            Some(format!("the copy on {node} is in doubt for {} ({why})", duration(ms)))
        });
        Reasons { why: away.collect(), ..Reasons::default() }
    }

    fn why_degraded(&self, v: &Volume, wire: Option<&v1::Nexus>, standings: &BTreeMap<Uuid, Standing>) -> Reasons {
        let Reasons { why: mut lost, doing: mut cure, mut needed } = Reasons::default();
        let child = |id: &Uuid| wire.and_then(|n| n.children.iter().find(|c| uuid_of(&c.uri) == Some(*id)));
        for (id, standing) in standings {
            let node = &v.copies[id].pool.node;
            let reason = child(id).map(|c| c.reason.as_str()).filter(|r| !r.is_empty());
            match standing {
                Standing::Good => {}
                Standing::Lost | Standing::Waiting => {
                    let (ms, why) = self.away(node).unwrap_or_else(|| {
                        let since = self.observed.absent.get(id).copied().unwrap_or(self.now_ms);
                        (self.now_ms.saturating_sub(since), reason.unwrap_or("its pool does not show it"))
                    });
                    lost.push(format!("replica on {node} lost {} ago ({why})", duration(ms)));
                    if *standing == Standing::Waiting {
                        let left = self.settings.node_grace_ms.saturating_sub(ms);
                        cure.push(format!("it is replaced in {} unless it returns", duration(left + 999)));
                    }
                }
                Standing::Failed => {
                    let why = reason.unwrap_or("its node reports no reason");
                    lost.push(format!("replica on {node} failed ({why})"));
                }
                Standing::Rejoin => cure.push(format!("the copy on {node} is back and is being taken in again")),
                Standing::Parked => lost.push(format!("replica on {node} was taken offline by an operator")),
                Standing::Unborn => cure.push(format!("a new copy is being made on {node}")),
                Standing::Ready => cure.push(self.turn_words(v, *id)),
                Standing::Joining => cure.push(rebuild_words(node, child(id).and_then(|c| c.rebuild.as_ref()))),
            }
        }
        let coming = standings.values().filter(|s| s.counts()).count();
        let missing = (v.replicas as usize).saturating_sub(coming);
        if missing > 0 {
            match self.shortage(v, standings) {
                Some(why) => needed.push(self.no_room(v, missing, &why)),
                None => cure.push("a new copy is being placed".to_owned()),
            }
        }
        Reasons { why: lost, doing: cure, needed }
    }
}

fn rebuild_words(node: &str, rebuild: Option<&v1::Rebuild>) -> String {
    let Some(r) = rebuild else { return format!("the copy on {node} waits for its rebuild") };
    let percent = if r.bytes_total == 0 { 0 } else { u128::from(r.bytes_done) * 100 / u128::from(r.bytes_total) };
    let left = if r.eta_ms == 0 { String::new() } else { format!(", about {} left", duration(r.eta_ms + 999)) };
    match r.state.as_str() {
        "paused" => format!("the rebuild of the copy on {node} is paused at {percent} %"),
        _ => format!("rebuilding a new copy on {node}: {percent} %{left}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_people_say_them() {
        assert_eq!(
            (duration(999), duration(119_000), duration(180_000)),
            ("0 s".into(), "119 s".into(), "3 min".into())
        );
        assert_eq!((bytes(1 << 20), bytes(1536 << 20)), ("1 MiB".into(), "1.5 GiB".into()));
    }

    #[test]
    fn a_rebuild_in_words() {
        let r = v1::Rebuild {
            state: "running".into(),
            bytes_done: 43,
            bytes_total: 100,
            bytes_per_second: 10,
            eta_ms: 7_100,
            source: String::new(),
        };
        assert_eq!(rebuild_words("node-3", Some(&r)), "rebuilding a new copy on node-3: 43 %, about 8 s left");
    }
}
