//! What the nodes report, and since when; and the tasks that listen to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use access::Channel;
use api::v1;
use api::v1::engine_client::EngineClient;
use block::Bytes;
use plan::{ChildState, Desired, Node, Observed, Planner, PoolId, PoolState, Presence, Reach, SeenReplica, Volume};
use tokio::task::JoinHandle;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Endpoint;
use uuid::Uuid;

use crate::Inner;
use crate::state::Cache;

/// Missed heartbeats that make a node unreachable.
const MISSED: u32 = 3;

/// The connection to an engine.
type Link = InterceptedService<Channel, Term>;
/// A client of an engine.
pub(crate) type Engine = EngineClient<Link>;

/// Says with each call in which control plane's name it is made, so that an engine refuses what a former one still sends.
#[derive(Clone)]
pub(crate) struct Term(AsciiMetadataValue);

impl Interceptor for Term {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        request.metadata_mut().insert(api::TERM_METADATA, self.0.clone());
        Ok(request)
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct Cluster(Mutex<View>);

/// What is known of the nodes.
#[derive(Default)]
pub(crate) struct View {
    /// In the planner's terms.
    pub observed: Observed,
    /// The rest, by node.
    pub nodes: BTreeMap<String, Peer>,
    /// Pools that refused a replica: not used until then.
    pub avoid: BTreeMap<PoolId, u64>,
    /// Told of every change of `observed`.
    pub planner: Planner,
    /// Where nexuses are reported, by volume.
    open_on: BTreeMap<Uuid, BTreeSet<String>>,
}

/// A node, besides what the planner looks at.
pub(crate) struct Peer {
    pub endpoint: String,
    pub instance: String,
    pub version: String,
    pub last_seen_ms: u64,
    /// Why it could not be reached when it was lost.
    pub trouble: String,
    pub pools: BTreeMap<String, v1::Pool>,
    /// Where replicas can be reached by other nodes, and their own node's reason when they do not work.
    pub replicas: BTreeMap<Uuid, v1::Replica>,
    pub nexuses: BTreeMap<Uuid, v1::Nexus>,
    channel: Link,
    task: JoinHandle<()>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The uuid at the end of a child's URI: `bdev:///uuid`, `nvmf://host:port/nqn…:uuid`.
pub(crate) fn uuid_of(uri: &str) -> Option<Uuid> {
    let uri = uri.split(['?', '#']).next()?;
    uri.rsplit(['/', ':']).next()?.parse().ok()
}

impl Cluster {
    /// What is known, to look at and to change. Not to be held over an await.
    pub fn lock(&self) -> MutexGuard<'_, View> {
        self.0.lock().expect("nobody panics while holding the view of the cluster")
    }
    /// Listens to no node any more.
    pub fn clear(&self) {
        let nodes = std::mem::take(&mut self.lock().nodes);
        drop(nodes);
    }
    /// A client for a node's engine.
    pub fn client(&self, node: &str) -> Option<Engine> {
        self.lock().nodes.get(node).map(|p| EngineClient::new(p.channel.clone()))
    }
}

impl View {
    /// Notes a change of the node's reach; true when it is one.
    fn set_reach(&mut self, id: &str, online: bool, now_ms: u64) -> bool {
        let Some(node) = self.observed.nodes.get_mut(id) else { return false };
        let changed = node.reach.is_online() != online;
        if changed {
            let before = node.clone();
            node.reach =
                if online { Reach::Online { since_ms: now_ms } } else { Reach::Unreachable { since_ms: now_ms } };
            self.planner.node_changed(id, Some(&before), Some(node));
        }
        changed
    }

    /// Takes in a report, and says what is new in it.
    fn take(&mut self, id: &str, report: v1::NodeReport, now_ms: u64) -> Vec<News> {
        let (Some(node), Some(peer)) = (self.observed.nodes.get_mut(id), self.nodes.get_mut(id)) else {
            return Vec::new();
        };
        let mut news = Vec::new();
        let mut reach = node.reach;
        if !node.reach.is_online() || peer.instance != report.instance {
            reach = Reach::Online { since_ms: now_ms };
            news.push(News::Online);
        }
        peer.instance = report.instance;
        peer.version = report.version;
        peer.last_seen_ms = now_ms;
        let mut pools: BTreeMap<String, plan::Pool> = report.pools.iter().map(|p| (p.name.clone(), pool(p))).collect();
        for replica in &report.replicas {
            if let Some(pool) = pools.get_mut(&replica.pool) {
                pool.nominal = Bytes(pool.nominal.0.saturating_add(replica.size));
            }
        }
        peer.pools = report.pools.into_iter().map(|p| (p.name.clone(), p)).collect();
        let named = |r: v1::Replica| Some((r.uuid.parse().ok()?, r));
        peer.replicas = report.replicas.into_iter().filter_map(named).collect();
        let replicas = peer.replicas.iter().map(|(id, r)| (*id, replica(r))).collect();
        let named = |n: v1::Nexus| Some((n.uuid.parse().ok()?, n));
        let nexuses = report.nexuses.into_iter().filter_map(named).collect();
        let wires = std::mem::replace(&mut peer.nexuses, nexuses);
        let nexuses: BTreeMap<_, _> =
            peer.nexuses.iter().map(|(id, n)| (*id, nexus(n, node.nexuses.get(id), now_ms))).collect();
        // A new ledger is news too, although the planner does not look at it there.
        let ledger = |n: &v1::Nexus| (n.generation, n.in_sync.len());
        for (volume, n) in &peer.nexuses {
            if wires.get(volume).map(ledger) != Some(ledger(n)) {
                self.planner.nexus_changed(*volume);
            }
        }
        note_open(&mut self.open_on, id, &node.nexuses, &nexuses);
        let before = std::mem::replace(node, Node { reach, pools, replicas, nexuses });
        self.planner.node_changed(id, Some(&before), Some(node));
        let old = before.nexuses;
        for (id, nexus) in &node.nexuses {
            for (replica, child) in &nexus.children {
                let before = old.get(id).and_then(|n| n.children.get(replica)).map(|c| c.state);
                if let Some(before) = before.filter(|before| *before != child.state) {
                    let wire = peer.nexuses[id].children.iter().find(|c| uuid_of(&c.uri) == Some(*replica));
                    let reason = wire.map(|c| c.reason.clone()).unwrap_or_default();
                    news.push(News::Child { volume: *id, replica: *replica, before, now: child.state, reason });
                }
            }
        }
        news
    }

    /// Takes in the reply of a call about a replica.
    pub fn take_replica(&mut self, id: &str, wire: v1::Replica) {
        let (Some(node), Some(peer)) = (self.observed.nodes.get_mut(id), self.nodes.get_mut(id)) else { return };
        let Ok(uuid) = wire.uuid.parse() else { return };
        node.replicas.insert(uuid, replica(&wire));
        peer.replicas.insert(uuid, wire);
        self.planner.replica_changed(uuid);
    }
    /// Takes in the reply of a call about a nexus.
    pub fn take_nexus(&mut self, id: &str, wire: v1::Nexus, now_ms: u64) {
        let (Some(node), Some(peer)) = (self.observed.nodes.get_mut(id), self.nodes.get_mut(id)) else { return };
        let Ok(uuid) = wire.uuid.parse() else { return };
        let new = nexus(&wire, node.nexuses.get(&uuid), now_ms);
        node.nexuses.insert(uuid, new);
        peer.nexuses.insert(uuid, wire);
        self.open_on.entry(uuid).or_default().insert(id.to_owned());
        self.planner.nexus_changed(uuid);
    }
    /// A node is gone for good: nobody listens to it any more.
    pub fn forget(&mut self, id: &str) {
        if let Some(node) = self.observed.nodes.remove(id) {
            note_open(&mut self.open_on, id, &node.nexuses, &BTreeMap::new());
            self.planner.node_changed(id, Some(&node), None);
        }
        self.nodes.remove(id);
    }

    /// A replica was destroyed.
    pub fn drop_replica(&mut self, id: &str, replica: Uuid) {
        self.observed.nodes.get_mut(id).map(|n| n.replicas.remove(&replica));
        self.nodes.get_mut(id).map(|n| n.replicas.remove(&replica));
        self.planner.replica_changed(replica);
    }
    /// A nexus was closed.
    pub fn drop_nexus(&mut self, id: &str, nexus: Uuid) {
        self.observed.nodes.get_mut(id).map(|n| n.nexuses.remove(&nexus));
        self.nodes.get_mut(id).map(|n| n.nexuses.remove(&nexus));
        if let Some(nodes) = self.open_on.get_mut(&nexus) {
            nodes.remove(id);
        }
        self.planner.nexus_changed(nexus);
    }

    /// A pool refused a replica: it is left alone until then.
    pub fn shun(&mut self, pool: &PoolId, until_ms: u64) {
        self.avoid.insert(pool.clone(), until_ms);
        self.observed.shunned.insert(pool.clone());
        self.planner.pool_changed(&pool.node);
    }

    /// Takes in what changed in the records since the last time.
    pub fn take_news(&mut self, cache: &mut Cache) {
        let news = std::mem::take(&mut cache.news);
        for id in news.volumes {
            self.planner.volume_changed(id);
        }
        for node in news.nodes {
            self.planner.wish_changed(&node);
        }
        if news.limits {
            self.planner.limits_changed(&self.observed);
        }
    }

    /// Makes ready for a plan of these volumes: dates what is absent, and tells the records about nexuses on nodes where
    /// none was expected.
    pub fn prepare(&mut self, due: &BTreeSet<Uuid>, desired: &mut Desired, now_ms: u64) {
        let mut absent = BTreeMap::new();
        for id in due.iter().copied() {
            let Some(volume) = desired.volumes.get_mut(&id) else { continue };
            for (id, replica) in &volume.copies {
                let there = match plan::presence(*id, replica, &self.observed) {
                    Presence::Present | Presence::Away { .. } => true,
                    Presence::Missing | Presence::Broken { .. } => false,
                };
                if !there {
                    absent.insert(*id, self.observed.absent.get(id).copied().unwrap_or(now_ms));
                }
            }
            self.note_nexuses(id, volume);
        }
        // Volumes that are not due have all their replicas.
        self.observed.absent = absent;
        let over: Vec<PoolId> = self.avoid.iter().filter(|(_, at)| **at <= now_ms).map(|(id, _)| id.clone()).collect();
        for pool in over {
            self.avoid.remove(&pool);
            self.observed.shunned.remove(&pool);
            self.planner.pool_changed(&pool.node);
        }
    }

    /// Tells the record of a volume about nexuses on nodes where none was expected.
    pub fn note_nexuses(&mut self, id: Uuid, volume: &mut Volume) {
        for node in self.open_on.get(&id).into_iter().flatten() {
            if !volume.nexus_nodes.contains(node) {
                volume.nexus_nodes.insert(node.clone());
                self.planner.volume_changed(id);
            }
        }
    }
}

/// Keeps the index of where nexuses are.
fn note_open(
    open_on: &mut BTreeMap<Uuid, BTreeSet<String>>,
    node: &str,
    before: &BTreeMap<Uuid, plan::Nexus>,
    after: &BTreeMap<Uuid, plan::Nexus>,
) {
    for volume in before.keys().filter(|id| !after.contains_key(id)) {
        if let Some(nodes) = open_on.get_mut(volume) {
            nodes.remove(node);
            if nodes.is_empty() {
                open_on.remove(volume);
            }
        }
    }
    for volume in after.keys().filter(|id| !before.contains_key(id)) {
        open_on.entry(*volume).or_default().insert(node.to_owned());
    }
}

fn pool(p: &v1::Pool) -> plan::Pool {
    let state = match p.state() {
        v1::PoolState::PoolOnline => PoolState::Online,
        v1::PoolState::PoolDegraded => PoolState::Degraded,
        v1::PoolState::PoolFaulted | v1::PoolState::PoolUnknown => PoolState::Faulted,
    };
    plan::Pool { state, capacity: Bytes(p.capacity), committed: Bytes(p.committed.max(p.used)), nominal: Bytes(0) }
}

fn replica(r: &v1::Replica) -> SeenReplica {
    SeenReplica { pool: r.pool.clone(), online: r.state != "faulted", shared: r.shared, size: Bytes(r.size) }
}

fn nexus(n: &v1::Nexus, old: Option<&plan::Nexus>, now_ms: u64) -> plan::Nexus {
    let state = match n.state() {
        v1::NexusState::NexusOnline => plan::NexusState::Online,
        v1::NexusState::NexusDegraded => plan::NexusState::Degraded,
        v1::NexusState::NexusFaulted | v1::NexusState::NexusUnknown => plan::NexusState::Faulted,
    };
    let since_ms = old.filter(|o| o.state == state).map_or(now_ms, |o| o.since_ms);
    let child = |c: &v1::Child| {
        let id = uuid_of(&c.uri)?;
        let state = match c.state() {
            v1::ChildState::ChildOnline => ChildState::Online,
            v1::ChildState::ChildRebuilding => ChildState::Rebuilding,
            v1::ChildState::ChildOffline => ChildState::Offline,
            v1::ChildState::ChildOutOfSync => ChildState::OutOfSync,
            v1::ChildState::ChildFaulted | v1::ChildState::ChildUnknown => ChildState::Faulted,
        };
        let before = old.and_then(|o| o.children.get(&id)).filter(|c| c.state == state);
        Some((id, plan::Child { state, since_ms: before.map_or(now_ms, |c| c.since_ms) }))
    };
    plan::Nexus {
        state,
        since_ms,
        published: !n.device_uri.is_empty(),
        size: Bytes(n.size),
        children: n.children.iter().filter_map(child).collect(),
    }
}

/// What a report tells that was not known.
enum News {
    /// The node was away, or is a new process.
    Online,
    /// A child changed its state.
    Child { volume: Uuid, replica: Uuid, before: ChildState, now: ChildState, reason: String },
}

/// Notes what is new, for people.
async fn announce(inner: &Arc<Inner>, id: &str, news: Vec<News>) {
    for item in news {
        let (volume, replica, before, now, reason) = match item {
            News::Online => {
                inner.events.note("node-online", format!("node/{id}"), format!("node {id} is online")).await;
                continue;
            }
            News::Child { volume, replica, before, now, reason } => (volume, replica, before, now, reason),
        };
        let known = {
            let cache = inner.state.read();
            // A former target that comes back has nothing to say about the volume any more.
            let volume = cache.desired.volumes.get(&volume).filter(|v| v.target.as_deref() == Some(id));
            volume.map(|v| (v.name.clone(), v.copies.get(&replica).map_or_else(String::new, |r| r.pool.node.clone())))
        };
        let Some((name, node)) = known else { continue };
        let (kind, text) = match (before, now) {
            (_, ChildState::Faulted) if reason.is_empty() => {
                ("replica-faulted", format!("the copy of {name} on {node} failed"))
            }
            (_, ChildState::Faulted) => ("replica-faulted", format!("the copy of {name} on {node} failed: {reason}")),
            (ChildState::Rebuilding, ChildState::Online) => {
                ("rebuild-completed", format!("the copy of {name} on {node} is in sync"))
            }
            _ => continue,
        };
        inner.events.note(kind, format!("volume/{name}"), text).await;
    }
}

/// Starts to listen to a node, or to listen at its new address.
pub(crate) fn watch(inner: &Arc<Inner>, id: &str, endpoint: &str) {
    let now_ms = inner.now_ms();
    let mut view = inner.cluster.lock();
    if view.nodes.get(id).is_some_and(|p| p.endpoint == endpoint) {
        return;
    }
    let address = match Endpoint::from_shared(format!("http://{endpoint}")) {
        Ok(address) => address,
        Err(error) => return tracing::warn!("node {id} has an unusable address {endpoint:?}: {error}"),
    };
    let address = address
        .connect_timeout(Duration::from_secs(2))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(5));
    let term = Term(AsciiMetadataValue::from(inner.state.term()));
    let channel = InterceptedService::new(inner.options.access.dial.lazy(&address), term);
    let task = tokio::spawn(listen(Arc::downgrade(inner), id.to_owned(), channel.clone()));
    let away = Node {
        reach: Reach::Unreachable { since_ms: now_ms },
        pools: BTreeMap::new(),
        replicas: BTreeMap::new(),
        nexuses: BTreeMap::new(),
    };
    let known = view.observed.nodes.contains_key(id);
    if !known {
        view.planner.node_changed(id, None, Some(&away));
        view.observed.nodes.insert(id.to_owned(), away);
    }
    let peer = Peer {
        endpoint: endpoint.to_owned(),
        instance: String::new(),
        version: String::new(),
        last_seen_ms: now_ms,
        trouble: String::new(),
        pools: BTreeMap::new(),
        replicas: BTreeMap::new(),
        nexuses: BTreeMap::new(),
        channel,
        task,
    };
    view.nodes.insert(id.to_owned(), peer);
}

/// Listens to one node for as long as the control plane lives.
async fn listen(inner: Weak<Inner>, id: String, channel: Link) {
    let mut pause = Duration::from_millis(100);
    loop {
        let Some(limit) = inner.upgrade().map(|i| i.options.heartbeat * MISSED) else { return };
        let why = match stream(&inner, &id, &channel, limit).await {
            Ok(heard) => {
                pause = if heard { Duration::from_millis(100) } else { pause };
                "its reports ended".to_owned()
            }
            Err(why) => why,
        };
        let Some(strong) = inner.upgrade() else { return };
        lost(&strong, &id, &why).await;
        drop(strong);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// What the system said where the transport failed, else what the engine said.
fn cause(status: &tonic::Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        text = error.to_string();
        source = error.source();
    }
    text
}

/// Follows one stream of reports to its end.
async fn stream(inner: &Weak<Inner>, id: &str, channel: &Link, limit: Duration) -> Result<bool, String> {
    let mut client = EngineClient::new(channel.clone()).max_decoding_message_size(64 << 20);
    let silent = |_| format!("nothing was heard from it for {} s", limit.as_secs_f32());
    let opened = tokio::time::timeout(limit, client.watch_node(v1::Empty {})).await.map_err(silent)?;
    let mut reports = opened.map_err(|e| format!("it does not answer: {}", cause(&e)))?.into_inner();
    let mut heard = false;
    loop {
        let next = tokio::time::timeout(limit, reports.message()).await.map_err(silent)?;
        let Some(report) = next.map_err(|e| format!("the connection broke: {}", cause(&e)))? else {
            return Ok(heard);
        };
        if report.id != id {
            return Err(format!("the engine at its address calls itself {}", report.id));
        }
        heard = true;
        let Some(inner) = inner.upgrade() else { return Ok(heard) };
        let news = inner.cluster.lock().take(id, report, inner.now_ms());
        announce(&inner, id, news).await;
        inner.changed();
    }
}

/// The node cannot be reached any more.
pub(crate) async fn lost(inner: &Arc<Inner>, id: &str, why: &str) {
    let lost = {
        let mut view = inner.cluster.lock();
        if let Some(peer) = view.nodes.get_mut(id) {
            why.clone_into(&mut peer.trouble);
        }
        view.set_reach(id, false, inner.now_ms())
    };
    if lost {
        inner.events.note("node-unreachable", format!("node/{id}"), format!("node {id} is unreachable: {why}")).await;
        inner.changed();
    }
}

#[cfg(test)]
mod tests {
    use super::uuid_of;

    #[test]
    fn children_are_known_by_the_uuid_in_their_uri() {
        let id = "5b0a2f53-3b8a-4a1c-9d57-2f8f6c6d1b11";
        for uri in [
            format!("bdev:///{id}"),
            format!("nvmf://10.0.0.1:8420/nqn.2019-05.io.openebs:{id}"),
            format!("nvmf://host/nqn.2019-05.io.openebs:{id}?uuid={id}"),
        ] {
            assert_eq!(uuid_of(&uri), Some(id.parse().unwrap()), "{uri}");
        }
        assert_eq!(uuid_of("malloc:///disk?size_mb=64"), None);
    }
}
