//! `/metrics` for Prometheus (OpenMetrics text), made anew for each scrape from what is known.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use api::v1;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::{Rest, model};
use crate::cluster::uuid_of;
use crate::statistics::{add_io, bounds_us};
use crate::{Inner, words};

/// The handler.
pub async fn metrics(State(rest): State<Rest>) -> Response {
    let mut registry = Registry::with_prefix("mayastor");
    registry.register_collector(Box::new(Snapshot::take(&rest.inner)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("a string takes everything");
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
}

type Labels = Vec<(&'static str, String)>;

/// Labels with the counters of what they name.
type Counted = Vec<(Labels, v1::IoStats)>;

/// Everything that is to be told.
#[derive(Debug)]
struct Snapshot {
    status: v1::Status,
    volumes: Counted,
    members: Counted,
    replicas: Counted,
    pools: Counted,
    nodes: Counted,
}

/// The volume, node and pool of each copy, by its uuid.
fn places(status: &v1::Status) -> BTreeMap<&str, [&str; 3]> {
    let copies = status.volumes.iter().flat_map(|v| v.replicas.iter().map(move |r| (v, r)));
    copies.map(|(v, r)| (r.uuid.as_str(), [v.name.as_str(), r.node.as_str(), r.pool.as_str()])).collect()
}

impl Snapshot {
    fn take(inner: &Arc<Inner>) -> Snapshot {
        let status = words::status(inner);
        let counters = inner.statistics.counters();
        let names: BTreeMap<&str, &v1::Volume> = status.volumes.iter().map(|v| (v.uuid.as_str(), v)).collect();
        let places = places(&status);
        let (mut volumes, mut members, mut replicas) = (Counted::new(), Counted::new(), Counted::new());
        let mut pools: BTreeMap<(String, String), v1::IoStats> = BTreeMap::new();
        let mut nodes: BTreeMap<String, v1::IoStats> = BTreeMap::new();
        for (node, c) in &counters {
            for nexus in &c.nexuses {
                // A nexus on a former target has nothing to say about the volume any more.
                let Some(volume) = names.get(nexus.uuid.as_str()).filter(|v| v.target_node == *node) else { continue };
                volumes.push((vec![("volume", volume.name.clone())], nexus.io.clone().unwrap_or_default()));
                for child in &nexus.children {
                    let uuid = uuid_of(&child.uri).map(|u| u.to_string()).unwrap_or_default();
                    let Some([volume, at, pool]) = places.get(uuid.as_str()) else { continue };
                    let labels = vec![
                        ("volume", (*volume).to_owned()),
                        ("node", (*at).to_owned()),
                        ("pool", (*pool).to_owned()),
                        ("replica", uuid),
                    ];
                    members.push((labels, child.io.clone().unwrap_or_default()));
                }
            }
            for replica in &c.replicas {
                let io = replica.io.clone().unwrap_or_default();
                add_io(nodes.entry(node.clone()).or_default(), &io);
                let Some([volume, at, pool]) = places.get(replica.uuid.as_str()) else { continue };
                add_io(pools.entry((node.clone(), (*pool).to_owned())).or_default(), &io);
                let labels = vec![
                    ("volume", (*volume).to_owned()),
                    ("node", (*at).to_owned()),
                    ("pool", (*pool).to_owned()),
                    ("replica", replica.uuid.clone()),
                ];
                replicas.push((labels, io));
            }
        }
        let pools = pools.into_iter().map(|((node, pool), io)| (vec![("node", node), ("pool", pool)], io)).collect();
        let nodes = nodes.into_iter().map(|(node, io)| (vec![("node", node)], io)).collect();
        Snapshot { volumes, members, replicas, pools, nodes, status }
    }
}

/// Writes families of metrics.
struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn gauge(&mut self, name: &str, help: &str, values: impl Iterator<Item = (Labels, f64)>) -> fmt::Result {
        self.gauge_in(name, help, None, values)
    }

    fn gauge_in(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        values: impl Iterator<Item = (Labels, f64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (labels, value) in values {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, help: &str, of: &Counted, value: fn(&v1::IoStats) -> u64) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, io) in of {
            family.encode_family(labels)?.encode_counter::<NoLabelSet, u64, f64>(&value(io), None)?;
        }
        Ok(())
    }

    fn latency(
        &mut self,
        name: &str,
        help: &str,
        of: &Counted,
        flow: fn(&v1::IoStats) -> Option<&v1::Flow>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for (labels, io) in of {
            let Some(flow) = flow(io).filter(|f| !f.latency.is_empty()) else { continue };
            let bounds = bounds_us().map(|us| us as f64 / 1e6).chain([f64::MAX]);
            let buckets: Vec<(f64, u64)> = bounds.zip(flow.latency.iter().copied()).collect();
            let (sum, count) = (flow.micros as f64 / 1e6, flow.latency.iter().sum());
            family.encode_family(labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }

    /// All that a meter counts.
    fn io(&mut self, prefix: &str, whose: &str, of: &Counted) -> fmt::Result {
        self.counter(&format!("{prefix}_reads"), &format!("Reads {whose}"), of, |s| requests(s.reads.as_ref()))?;
        self.counter(&format!("{prefix}_writes"), &format!("Writes {whose}"), of, |s| requests(s.writes.as_ref()))?;
        self.counter(&format!("{prefix}_read_bytes"), &format!("Bytes read {whose}"), of, |s| bytes(s.reads.as_ref()))?;
        let written = format!("Bytes written {whose}");
        self.counter(&format!("{prefix}_written_bytes"), &written, of, |s| bytes(s.writes.as_ref()))?;
        self.latency(&format!("{prefix}_read_latency"), &format!("Time of reads {whose}"), of, |s| s.reads.as_ref())?;
        self.latency(&format!("{prefix}_write_latency"), &format!("Time of writes {whose}"), of, |s| s.writes.as_ref())
    }
}

fn requests(flow: Option<&v1::Flow>) -> u64 {
    flow.map_or(0, |f| f.requests)
}
fn bytes(flow: Option<&v1::Flow>) -> u64 {
    flow.map_or(0, |f| f.bytes)
}

/// One series for each state, 1 for the present one.
fn states(labels: Labels, all: &'static [&'static str], now: &str) -> impl Iterator<Item = (Labels, f64)> + use<> {
    let now = now.to_owned();
    all.iter().map(move |state| {
        let mut labels = labels.clone();
        labels.push(("state", (*state).to_owned()));
        (labels, if *state == now { 1.0 } else { 0.0 })
    })
}

const NODE_STATES: &[&str] = &["online", "unreachable", "offline"];
const POOL_STATES: &[&str] = &["unknown", "online", "degraded", "faulted"];
const VOLUME_STATES: &[&str] = &["pending", "online", "degraded", "faulted", "offline", "deleting"];

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut to = Writer(encoder);
        self.nodes(&mut to)?;
        self.pools(&mut to)?;
        self.volumes(&mut to)?;
        to.io("volume", "as clients of the volume see them", &self.volumes)?;
        to.counter("volume_errors", "Requests of clients that failed", &self.volumes, |s| s.errors)?;
        to.io("member", "of a copy as its volume sees them, network included", &self.members)?;
        to.counter("member_errors", "Requests of a volume to a copy that failed", &self.members, |s| s.errors)?;
        to.io("replica", "of a copy as its pool serves them", &self.replicas)?;
        to.io("pool", "of all copies in the pool", &self.pools)?;
        to.io("node", "of all copies on the node", &self.nodes)
    }
}

impl Snapshot {
    fn nodes(&self, to: &mut Writer<'_>) -> fmt::Result {
        let nodes = &self.status.nodes;
        let label = |n: &v1::Node| vec![("node", n.id.clone())];
        let state = nodes.iter().flat_map(|n| states(label(n), NODE_STATES, &n.state));
        to.gauge("node_state", "1 for the state that the node is in", state)?;
        let seen = nodes.iter().map(|n| (label(n), n.last_seen_ms_ago as f64 / 1000.0));
        to.gauge_in("node_last_seen", "How long ago the node was heard of", Some(&Unit::Seconds), seen)
    }

    fn pools(&self, to: &mut Writer<'_>) -> fmt::Result {
        let pools = || self.status.pools.iter().filter_map(|p| Some((&p.node, p.pool.as_ref()?)));
        let label = |node: &String, p: &v1::Pool| vec![("node", node.clone()), ("pool", p.name.clone())];
        let state = pools().flat_map(|(n, p)| states(label(n, p), POOL_STATES, &model::pool_word(p)));
        to.gauge("pool_state", "1 for the state that the pool is in", state)?;
        let each = |value: fn(&v1::Pool) -> u64| pools().map(move |(n, p)| (label(n, p), value(p) as f64));
        let unit = Some(&Unit::Bytes);
        to.gauge_in("pool_capacity", "What replicas can use", unit, each(|p| p.capacity))?;
        to.gauge_in("pool_used", "What is allocated to replicas", unit, each(|p| p.used))?;
        to.gauge_in("pool_committed", "What is promised to replicas", unit, each(|p| p.committed))
    }

    fn volumes(&self, to: &mut Writer<'_>) -> fmt::Result {
        let volumes = &self.status.volumes;
        let label = |v: &v1::Volume| vec![("volume", v.name.clone())];
        let state = volumes.iter().flat_map(|v| states(label(v), VOLUME_STATES, &v.state));
        to.gauge("volume_state", "1 for the state that the volume is in", state)?;
        let size = volumes.iter().map(|v| (label(v), v.size as f64));
        to.gauge_in("volume_size", "Usable size", Some(&Unit::Bytes), size)?;
        let wanted = volumes.iter().map(|v| (label(v), f64::from(v.replicas_wanted)));
        to.gauge("volume_replicas_wanted", "Copies that are wanted", wanted)?;
        let online = |v: &v1::Volume| v.replicas.iter().filter(|r| r.state == "online").count() as f64;
        to.gauge("volume_replicas_online", "Copies in sync", volumes.iter().map(|v| (label(v), online(v))))?;
        let rebuilds = || {
            let copies = volumes.iter().flat_map(|v| v.replicas.iter().map(move |r| (v, r)));
            copies.filter_map(|(v, r)| {
                let labels = vec![("volume", v.name.clone()), ("node", r.node.clone()), ("replica", r.uuid.clone())];
                Some((labels, r.rebuild.as_ref()?))
            })
        };
        let each = |value: fn(&v1::Rebuild) -> f64| rebuilds().map(move |(labels, r)| (labels, value(r)));
        let unit = Some(&Unit::Bytes);
        to.gauge_in("rebuild_done", "What a rebuild has done", unit, each(|r| r.bytes_done as f64))?;
        to.gauge_in("rebuild_total", "What a rebuild has to do", unit, each(|r| r.bytes_total as f64))?;
        let rate = each(|r| r.bytes_per_second as f64);
        to.gauge("rebuild_bytes_per_second", "How fast a rebuild is", rate)?;
        let eta = each(|r| r.eta_ms as f64 / 1000.0);
        to.gauge_in("rebuild_eta", "Time to the end of a rebuild; 0 when unknown", Some(&Unit::Seconds), eta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_states_counters_and_histograms() {
        let mut latency = vec![0; 37];
        (latency[1], latency[36]) = (3, 1);
        let reads = v1::Flow { requests: 4, bytes: 16384, micros: 2_000_000, latency };
        let io = v1::IoStats { reads: Some(reads), writes: None, errors: 2 };
        let volume = v1::Volume { name: "data".into(), state: "degraded".into(), size: 4096, ..Default::default() };
        let snapshot = Snapshot {
            status: v1::Status { volumes: vec![volume], ..Default::default() },
            volumes: vec![(vec![("volume", "data".into())], io)],
            members: vec![],
            replicas: vec![],
            pools: vec![],
            nodes: vec![],
        };
        let mut registry = Registry::with_prefix("mayastor");
        registry.register_collector(Box::new(snapshot));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
        for line in [
            "mayastor_volume_state{volume=\"data\",state=\"degraded\"} 1.0",
            "mayastor_volume_state{volume=\"data\",state=\"online\"} 0.0",
            "mayastor_volume_reads_total{volume=\"data\"} 4",
            "mayastor_volume_errors_total{volume=\"data\"} 2",
            "mayastor_volume_read_latency_seconds_bucket{le=\"0.000012\",volume=\"data\"} 3",
            "mayastor_volume_read_latency_seconds_bucket{le=\"+Inf\",volume=\"data\"} 4",
            "mayastor_volume_read_latency_seconds_sum{volume=\"data\"} 2.0",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    /// All names of metrics that a scrape may bring, from the descriptions, which are there without any value.
    fn names() -> std::collections::BTreeSet<String> {
        let none = || Counted::new();
        let snapshot = Snapshot {
            status: v1::Status::default(),
            volumes: none(),
            members: none(),
            replicas: none(),
            pools: none(),
            nodes: none(),
        };
        let mut registry = Registry::with_prefix("mayastor");
        registry.register_collector(Box::new(snapshot));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
        let types = text.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split_once(' '));
        types
            .flat_map(|(name, kind)| {
                let ends: &[&str] = match kind {
                    "counter" => &["_total"],
                    "histogram" => &["_bucket", "_sum", "_count"],
                    _ => &[""],
                };
                ends.iter().map(move |end| format!("{name}{end}"))
            })
            .collect()
    }

    #[test]
    fn the_dashboard_and_the_alerts_use_metrics_that_exist() {
        let known = names();
        assert!(known.contains("mayastor_volume_reads_total") && known.contains("mayastor_node_state"), "{known:?}");
        let files = [
            ("dashboard", include_str!("../../../../deploy/grafana/mayastor.json")),
            ("alerts", include_str!("../../../../deploy/prometheus/alerts.yaml")),
        ];
        for (file, text) in files {
            let mut found = 0;
            for (at, _) in text.match_indices("mayastor_") {
                let name: String = text[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                assert!(known.contains(&name), "the {file} uses {name}, which no scrape brings");
                found += 1;
            }
            assert!(found > 5, "the {file} uses {found} metrics only");
        }
    }
}
