//! What is read and written in the cluster: the engines' counters, and their course over the last minutes.
//!
//! Each online node is asked every two seconds. Of the counters the latest are kept (for `/metrics`); from one answer to
//! the next rates and latencies are made and kept for ten minutes, for the cluster, for each node and for each volume that
//! does something.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use api::v1;
use serde::Serialize;
use tokio::sync::broadcast;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::Inner;

/// How often each node is asked.
const EVERY: Duration = Duration::from_secs(2);
/// How many points are kept of each course: ten minutes.
const KEPT: usize = 300;
/// Of how many volumes a course is kept; others are counted in the cluster's and the nodes' only.
const VOLUMES: usize = 4096;

/// One point of a course: averages over about two seconds.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct Point {
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// Read requests a second.
    pub reads: f32,
    /// Write requests a second.
    pub writes: f32,
    /// Bytes read a second.
    pub read_bytes: f64,
    /// Bytes written a second.
    pub written_bytes: f64,
    /// Half of all reads took less than so many microseconds; absent when nothing was read.
    pub read_p50_us: Option<u64>,
    /// 99 of 100 reads took less than so many microseconds.
    pub read_p99_us: Option<u64>,
    /// As for reads.
    pub write_p50_us: Option<u64>,
    /// As for reads.
    pub write_p99_us: Option<u64>,
    /// Failed requests a second.
    pub errors: f32,
}

impl Point {
    fn is_idle(&self) -> bool {
        self.reads == 0.0 && self.writes == 0.0 && self.errors == 0.0
    }
}

/// One point of every course that has something to say.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct Sample {
    /// All volumes together, as their clients see them.
    pub cluster: Point,
    /// Each node: what its pools do for replicas.
    pub nodes: BTreeMap<String, Point>,
    /// Volumes by uuid, as their clients see them.
    #[schema(value_type = BTreeMap<String, Point>)]
    pub volumes: BTreeMap<Uuid, Point>,
}

/// The courses of the last ten minutes, oldest point first.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct History {
    /// All volumes together.
    #[schema(value_type = Vec<Point>)]
    pub cluster: VecDeque<Point>,
    /// Each node: what its pools do for replicas.
    #[schema(value_type = BTreeMap<String, Vec<Point>>)]
    pub nodes: BTreeMap<String, VecDeque<Point>>,
    /// Volumes that did something, by uuid.
    #[schema(value_type = BTreeMap<String, Vec<Point>>)]
    pub volumes: BTreeMap<Uuid, VecDeque<Point>>,
}

/// See the module.
pub(crate) struct Statistics {
    state: Mutex<State>,
    news: broadcast::Sender<Arc<Sample>>,
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<String, NodeCounters>,
    history: History,
}

/// The latest answer of a node, and what it did since the one before.
struct NodeCounters {
    at: Instant,
    counters: v1::NodeStatistics,
    /// What the node's replicas did lately, and what each of its nexuses did; `None` until there are two answers, or when
    /// the last one is not new.
    lately: Option<Lately>,
}

#[derive(Clone, Default)]
struct Lately {
    seconds: f64,
    replicas: v1::IoStats,
    volumes: BTreeMap<Uuid, v1::IoStats>,
}

impl Default for Statistics {
    fn default() -> Statistics {
        Statistics { state: Mutex::default(), news: broadcast::Sender::new(16) }
    }
}

/// The bounds of the latency buckets in microseconds, as `mayastor.v1.Flow` has them.
pub(crate) fn bounds_us() -> impl Iterator<Item = u64> {
    (0..36_usize).map(|b| if b % 2 == 0 { 8 } else { 12 } << (b / 2))
}

/// What was counted between two readings; the whole of `now` when the counters began again.
fn flow_since(now: &v1::Flow, before: Option<&v1::Flow>) -> v1::Flow {
    let Some(b) = before.filter(|b| b.requests <= now.requests && b.bytes <= now.bytes) else { return now.clone() };
    let old = |i: usize| b.latency.get(i).copied().unwrap_or(0);
    v1::Flow {
        requests: now.requests - b.requests,
        bytes: now.bytes - b.bytes,
        micros: now.micros.saturating_sub(b.micros),
        latency: now.latency.iter().enumerate().map(|(i, n)| n.saturating_sub(old(i))).collect(),
    }
}

fn io_since(now: &v1::IoStats, before: Option<&v1::IoStats>) -> v1::IoStats {
    let flow = |f: fn(&v1::IoStats) -> Option<&v1::Flow>| {
        let none = v1::Flow::default();
        flow_since(f(now).unwrap_or(&none), before.and_then(f))
    };
    let errors = now.errors.checked_sub(before.map_or(0, |b| b.errors)).unwrap_or(now.errors);
    v1::IoStats { reads: Some(flow(|s| s.reads.as_ref())), writes: Some(flow(|s| s.writes.as_ref())), errors }
}

fn add_flow(sum: &mut v1::Flow, more: &v1::Flow) {
    sum.requests += more.requests;
    sum.bytes += more.bytes;
    sum.micros += more.micros;
    if sum.latency.len() < more.latency.len() {
        sum.latency.resize(more.latency.len(), 0);
    }
    sum.latency.iter_mut().zip(&more.latency).for_each(|(s, m)| *s += m);
}

/// Adds counters to counters.
pub(crate) fn add_io(sum: &mut v1::IoStats, more: &v1::IoStats) {
    add_flow(sum.reads.get_or_insert_default(), more.reads.as_ref().unwrap_or(&v1::Flow::default()));
    add_flow(sum.writes.get_or_insert_default(), more.writes.as_ref().unwrap_or(&v1::Flow::default()));
    sum.errors += more.errors;
}

/// The bound below which that share of the requests lies, in microseconds.
pub(crate) fn quantile_us(latency: &[u64], share: f64) -> Option<u64> {
    let all: u64 = latency.iter().sum();
    let wanted = (all as f64 * share).ceil().max(1.0) as u64;
    let mut seen = 0;
    let last = bounds_us().last().unwrap_or(0);
    for (count, bound) in latency.iter().zip(bounds_us().chain([last])) {
        seen += count;
        if all > 0 && seen >= wanted {
            return Some(bound);
        }
    }
    None
}

fn point(io: &v1::IoStats, seconds: f64, time_ms: u64) -> Point {
    let none = v1::Flow::default();
    let (r, w) = (io.reads.as_ref().unwrap_or(&none), io.writes.as_ref().unwrap_or(&none));
    let rate = |n: u64| if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
    Point {
        time_ms,
        reads: rate(r.requests) as f32,
        writes: rate(w.requests) as f32,
        read_bytes: rate(r.bytes).round(),
        written_bytes: rate(w.bytes).round(),
        read_p50_us: quantile_us(&r.latency, 0.5),
        read_p99_us: quantile_us(&r.latency, 0.99),
        write_p50_us: quantile_us(&w.latency, 0.5),
        write_p99_us: quantile_us(&w.latency, 0.99),
        errors: rate(io.errors) as f32,
    }
}

impl NodeCounters {
    fn new(counters: v1::NodeStatistics, before: Option<&NodeCounters>, at: Instant) -> NodeCounters {
        let before = before.filter(|b| b.counters.instance == counters.instance);
        let lately = before.map(|b| {
            let mut lately = Lately { seconds: at.duration_since(b.at).as_secs_f64(), ..Lately::default() };
            let old: BTreeMap<&str, _> = b.counters.replicas.iter().map(|r| (r.uuid.as_str(), r.io.as_ref())).collect();
            for replica in &counters.replicas {
                let Some(io) = &replica.io else { continue };
                add_io(&mut lately.replicas, &io_since(io, old.get(replica.uuid.as_str()).copied().flatten()));
            }
            let old: BTreeMap<&str, _> = b.counters.nexuses.iter().map(|n| (n.uuid.as_str(), n.io.as_ref())).collect();
            for nexus in &counters.nexuses {
                let (Some(io), Ok(id)) = (&nexus.io, nexus.uuid.parse::<Uuid>()) else { continue };
                lately.volumes.insert(id, io_since(io, old.get(nexus.uuid.as_str()).copied().flatten()));
            }
            lately
        });
        NodeCounters { at, counters, lately }
    }
}

impl State {
    /// One point for every course, from what came in since the last.
    fn sample(&mut self, time_ms: u64) -> Sample {
        let mut sample = Sample::default();
        let mut cluster = Lately::default();
        for (node, counters) in &mut self.nodes {
            let Some(lately) = counters.lately.take() else { continue };
            sample.nodes.insert(node.clone(), point(&lately.replicas, lately.seconds, time_ms));
            for (id, io) in &lately.volumes {
                sample.volumes.insert(*id, point(io, lately.seconds, time_ms));
                add_io(&mut cluster.replicas, io);
            }
            cluster.seconds = cluster.seconds.max(lately.seconds);
        }
        sample.cluster = point(&cluster.replicas, cluster.seconds, time_ms);
        let push = |course: &mut VecDeque<Point>, point: Point| {
            course.push_back(point);
            while course.len() > KEPT {
                course.pop_front();
            }
        };
        let idle = || Point { time_ms, ..Point::default() };
        push(&mut self.history.cluster, sample.cluster.clone());
        for node in sample.nodes.keys() {
            self.history.nodes.entry(node.clone()).or_default();
        }
        for (node, course) in &mut self.history.nodes {
            push(course, sample.nodes.get(node).cloned().unwrap_or_else(idle));
        }
        for (id, point) in &sample.volumes {
            if !point.is_idle() && self.history.volumes.len() < VOLUMES {
                self.history.volumes.entry(*id).or_default();
            }
        }
        for (id, course) in &mut self.history.volumes {
            push(course, sample.volumes.get(id).cloned().unwrap_or_else(idle));
        }
        self.history.volumes.retain(|_, course| course.iter().any(|p| !p.is_idle()));
        sample.volumes.retain(|id, _| self.history.volumes.contains_key(id));
        sample
    }
}

impl Statistics {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding the statistics")
    }
    /// The courses, and the points to come.
    pub fn history(&self) -> History {
        self.lock().history.clone()
    }
    /// The points to come.
    pub fn news(&self) -> broadcast::Receiver<Arc<Sample>> {
        self.news.subscribe()
    }
    /// The latest counters, by node.
    pub fn counters(&self) -> Vec<(String, v1::NodeStatistics)> {
        self.lock().nodes.iter().map(|(node, c)| (node.clone(), c.counters.clone())).collect()
    }
}

fn wall_clock_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Runs until the control plane is dropped.
pub(crate) async fn run(inner: Weak<Inner>) {
    let mut clock = tokio::time::interval(EVERY);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        let Some(inner) = inner.upgrade() else { return };
        let nodes: Vec<String> = {
            let view = inner.cluster.lock();
            view.nodes.keys().filter(|id| view.observed.is_online(id)).cloned().collect()
        };
        let mut asked = tokio::task::JoinSet::new();
        for node in nodes {
            let Some(client) = inner.cluster.client(&node) else { continue };
            let mut client = client.max_decoding_message_size(64 << 20);
            asked.spawn(async move {
                let reply = tokio::time::timeout(EVERY, client.get_statistics(v1::Empty {})).await;
                // A node that does not answer has no point; why, its reports tell.
                reply.ok().and_then(Result::ok).map(|reply| (node, reply.into_inner()))
            });
        }
        while let Some(answer) = asked.join_next().await {
            let Ok(Some((node, counters))) = answer else { continue };
            let mut state = inner.statistics.lock();
            let new = NodeCounters::new(counters, state.nodes.get(&node), Instant::now());
            state.nodes.insert(node, new);
        }
        let sample = {
            let mut state = inner.statistics.lock();
            let view = inner.cluster.lock();
            state.nodes.retain(|node, _| view.nodes.contains_key(node));
            state.history.nodes.retain(|node, _| view.nodes.contains_key(node));
            drop(view);
            state.sample(wall_clock_ms())
        };
        // Nobody may be watching.
        let _ = inner.statistics.news.send(Arc::new(sample));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io(requests: u64, latency: Vec<u64>) -> v1::IoStats {
        let flow = v1::Flow { requests, bytes: requests * 4096, micros: requests * 10, latency };
        v1::IoStats { reads: Some(flow), writes: None, errors: 0 }
    }
    fn node(requests: u64, instance: &str) -> v1::NodeStatistics {
        let nexus = v1::NexusStatistics {
            uuid: Uuid::from_u128(7).to_string(),
            io: Some(io(requests, vec![0, requests])),
            children: Vec::new(),
        };
        v1::NodeStatistics { instance: instance.into(), replicas: Vec::new(), nexuses: vec![nexus] }
    }

    #[test]
    fn quantiles_are_the_bounds_below_which_the_share_lies() {
        assert_eq!(quantile_us(&[], 0.5), None);
        assert_eq!(quantile_us(&[0, 0], 0.5), None);
        assert_eq!((quantile_us(&[99, 1], 0.5), quantile_us(&[98, 2], 0.99)), (Some(8), Some(12)));
        let mut slow = vec![0; 37];
        slow[36] = 1;
        assert_eq!(quantile_us(&slow, 0.5), Some(1_572_864));
    }

    #[test]
    fn rates_are_made_from_two_answers_of_one_process() {
        let (start, id) = (Instant::now(), Uuid::from_u128(7));
        let first = NodeCounters::new(node(1_000, "a"), None, start);
        assert!(first.lately.is_none());
        let second = NodeCounters::new(node(1_500, "a"), Some(&first), start + Duration::from_secs(2));
        let again = NodeCounters::new(node(3, "b"), Some(&second), start + Duration::from_secs(4));
        assert!(again.lately.is_none(), "another process counts from zero");
        let mut state = State::default();
        state.nodes.insert("n".into(), second);
        let sample = state.sample(5);
        assert_eq!((sample.cluster.reads, sample.volumes[&id].read_bytes), (250.0, 1_024_000.0));
        assert_eq!(sample.volumes[&id].read_p99_us, Some(12));
        // Nothing new: the courses go on with zeroes, and a volume that did nothing for ten minutes is forgotten.
        for _ in 0..KEPT - 1 {
            state.sample(6);
        }
        assert_eq!((state.history.volumes.len(), state.history.volumes[&id].len()), (1, KEPT));
        state.sample(7);
        assert_eq!((state.history.volumes.len(), state.history.cluster.len()), (0, KEPT));
    }
}
