//! `mayastor explain`: why something is degraded or slow, with figures.
//!
//! Engines measure each hop of a request where it passes: the volume as its clients see it, each member as the volume sees
//! it, each copy as its pool serves it. What lies between is the difference:
//!
//! ```text
//!   client ─► volume ──── queue ───► member ── network ──► copy (pool and disk)
//!             └───────────────── time of the volume ─────────────────┘
//! ```
//!
//! They are sampled (one in sixteen on a busy device), so looking costs the data path nothing that can be measured.

mod verdict;

use std::collections::BTreeMap;
use std::time::Duration;

use api::v1;
use clap::Subcommand;
use serde::Serialize;

use crate::connect::{Client, Control};
use crate::failure::{Done, Failure};
use crate::output::{self, Format};
use verdict::{Hops, Member, Span, verdict};

/// Why something is as it is
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Why a volume is degraded or slow: what is wrong, what is being done, and how long each hop takes
    #[command(after_help = "Examples:
  mayastor explain volume data
  mayastor explain volume data --seconds 10 -o json")]
    Volume {
        /// Its name or uuid
        volume: String,
        /// For how long it is watched
        #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
        seconds: u64,
    },
    /// What is wrong with a node, what is on it, and how fast its copies are beside the others
    #[command(after_help = "Examples:
  mayastor explain node node-1")]
    Node {
        /// Its name
        node: String,
        /// For how long it is watched
        #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
        seconds: u64,
    },
    /// What is wrong with a pool, what is on it, and how fast its copies are beside the others
    #[command(after_help = "Examples:
  mayastor explain pool node-1 pool-1")]
    Pool {
        /// Its node
        node: String,
        /// Its name
        pool: String,
        /// For how long it is watched
        #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
        seconds: u64,
    },
}

/// The answer.
#[derive(Serialize)]
struct Answer {
    object: String,
    state: String,
    why: Vec<String>,
    doing: Vec<String>,
    needed: Vec<String>,
    /// What the figures say, in words.
    findings: Vec<String>,
    hops: Vec<Row>,
}

/// One hop's time, reads and writes.
#[derive(Clone, Debug, Serialize)]
struct Row {
    hop: String,
    at: String,
    reads: Span,
    writes: Span,
}

/// Runs it.
pub async fn run(command: Command, client: &Client) -> Done {
    let control = client.control().await?;
    let answer = match command {
        Command::Volume { volume, seconds } => volume_answer(&control, client, volume, seconds).await?,
        Command::Node { node, seconds } => place_answer(&control, client, node, None, seconds).await?,
        Command::Pool { node, pool, seconds } => place_answer(&control, client, node, Some(pool), seconds).await?,
    };
    if client.output.format != Format::Table {
        return client.output.document(&answer);
    }
    let mut text = format!("{} is {}\n", answer.object, answer.state);
    let lists = [
        ("why", &answer.why),
        ("being done", &answer.doing),
        ("needed from you", &answer.needed),
        ("speed", &answer.findings),
    ];
    for (title, list) in lists {
        for line in list {
            text += &format!("  {title}: {line}\n");
        }
    }
    if !answer.hops.is_empty() {
        let titles = ["HOP", "WHERE", ">READS/S", ">MEAN", ">P99", ">WRITES/S", ">MEAN", ">P99"];
        let rows = answer.hops.iter().map(|row| {
            let of = |s: Span| [s.rate_text(), s.mean_text(), s.p99_text()];
            [vec![row.hop.clone(), row.at.clone()], of(row.reads).to_vec(), of(row.writes).to_vec()].concat()
        });
        text += "\n";
        text += &client.output.table(&titles, rows);
    }
    output::print(&text)
}

/// The counters of engines, by node.
type Counters = BTreeMap<String, v1::NodeStatistics>;

async fn counters(client: &Client, nodes: &[v1::Node]) -> Counters {
    let mut all = Counters::new();
    for node in nodes.iter().filter(|n| n.state == "online") {
        // One that does not answer has no figures; the control plane's words say why.
        let client = Client { engine: node.grpc_endpoint.clone(), timeout: Duration::from_secs(5), ..client.clone() };
        let Ok(engine) = client.engine().await else { continue };
        if let Ok(statistics) = engine.v1().get_statistics(v1::Empty {}).await {
            all.insert(node.id.clone(), statistics.into_inner());
        }
    }
    all
}

/// The counters at two moments, so many seconds apart.
struct Watched {
    before: Counters,
    after: Counters,
    seconds: f64,
}

impl Watched {
    async fn take(client: &Client, nodes: &[v1::Node], seconds: u64) -> Watched {
        let before = counters(client, nodes).await;
        let begun = tokio::time::Instant::now();
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let after = counters(client, nodes).await;
        Watched { before, after, seconds: begun.elapsed().as_secs_f64() }
    }

    /// What one meter counted meanwhile: reads and writes.
    fn spans(&self, node: &str, of: impl Fn(&v1::NodeStatistics) -> Option<v1::IoStats>) -> Option<[Span; 2]> {
        let after = self.after.get(node)?;
        let now = of(after)?;
        // An engine that was started anew counts from zero.
        let before = self.before.get(node).filter(|b| b.instance == after.instance).and_then(&of).unwrap_or_default();
        let span = |a: Option<&v1::Flow>, b: Option<&v1::Flow>| Span::between(b, a, self.seconds);
        Some([span(now.reads.as_ref(), before.reads.as_ref()), span(now.writes.as_ref(), before.writes.as_ref())])
    }
    fn replica(&self, node: &str, uuid: &str) -> Option<[Span; 2]> {
        self.spans(node, |s| s.replicas.iter().find(|r| r.uuid == uuid)?.io.clone())
    }
    fn volume(&self, node: &str, uuid: &str) -> Option<[Span; 2]> {
        self.spans(node, |s| s.nexuses.iter().find(|n| n.uuid == uuid)?.io.clone())
    }
    fn member(&self, node: &str, volume: &str, replica: &str) -> Option<[Span; 2]> {
        let named = |c: &&v1::ChildStatistics| c.uri.split(['?', '#']).next().is_some_and(|u| u.ends_with(replica));
        self.spans(node, |s| {
            let nexus = s.nexuses.iter().find(|n| n.uuid == volume)?;
            nexus.children.iter().find(named)?.io.clone()
        })
    }
}

async fn volume_answer(control: &Control, client: &Client, name: String, seconds: u64) -> Result<Answer, Failure> {
    let mut calls = control.v1();
    let volume = control.check(calls.get_volume(v1::VolumeName { name }).await)?;
    let nodes = control.check(calls.list_nodes(v1::Empty {}).await)?.nodes;
    let mut answer = Answer {
        object: format!("volume {}", volume.name),
        state: volume.state.clone(),
        why: volume.why.clone(),
        doing: volume.doing.clone(),
        needed: volume.needed.clone(),
        findings: Vec::new(),
        hops: Vec::new(),
    };
    let target = &volume.target_node;
    if target.is_empty() {
        answer.findings.push("it is not published, so no request passes through it".into());
        return Ok(answer);
    }
    let watched = Watched::take(client, &nodes, seconds).await;
    let Some([reads, writes]) = watched.volume(target, &volume.uuid) else {
        answer.findings.push(format!(
            "{target} has nothing to say about it: it was never used there, or {target} does not answer"
        ));
        return Ok(answer);
    };
    answer.hops.push(Row { hop: "volume".into(), at: target.clone(), reads, writes });
    let mut hops = [Hops::new(reads), Hops::new(writes)];
    for replica in &volume.replicas {
        let Some(member) = watched.member(target, &volume.uuid, &replica.uuid) else { continue };
        let copy = watched.replica(&replica.node, &replica.uuid);
        let at = if replica.node == *target { format!("{} (here)", replica.node) } else { replica.node.clone() };
        answer.hops.push(Row { hop: "member".into(), at: at.clone(), reads: member[0], writes: member[1] });
        if let Some(copy) = copy {
            answer.hops.push(Row { hop: "pool and disk".into(), at, reads: copy[0], writes: copy[1] });
        }
        for (n, hops) in hops.iter_mut().enumerate() {
            let remote = replica.node != *target;
            hops.members.push(Member {
                node: replica.node.clone(),
                remote,
                seen: member[n],
                served: copy.map(|c| c[n]),
            });
        }
    }
    for (what, hops) in ["reads", "writes"].iter().zip(&hops) {
        answer.findings.push(verdict(what, hops));
    }
    Ok(answer)
}

/// A node, or one of its pools.
async fn place_answer(
    control: &Control,
    client: &Client,
    node: String,
    pool: Option<String>,
    seconds: u64,
) -> Result<Answer, Failure> {
    let mut calls = control.v1();
    let nodes = control.check(calls.list_nodes(v1::Empty {}).await)?.nodes;
    let found =
        nodes.iter().find(|n| n.id == node).ok_or_else(|| Failure::not_found(format!("node {node} not found")))?;
    let volumes = control.check(calls.list_volumes(v1::Empty {}).await)?.volumes;
    let mut answer = Answer {
        object: format!("node {node}"),
        state: found.state.clone(),
        why: found.why.clone(),
        doing: found.doing.clone(),
        needed: found.needed.clone(),
        findings: Vec::new(),
        hops: Vec::new(),
    };
    if let Some(name) = &pool {
        let pools = control.check(calls.list_pools(v1::Empty {}).await)?.pools;
        let is_it = |p: &v1::NodePool| p.node == node && p.pool.as_ref().is_some_and(|p| p.name == *name);
        let it = pools.into_iter().find(is_it).and_then(|p| p.pool);
        let it = it.ok_or_else(|| Failure::not_found(format!("pool {name} of node {node} not found")))?;
        answer.object = format!("pool {name} of {node}");
        answer.state = api::Word::word(&it.state());
        answer.why.extend((!it.reason.is_empty()).then_some(it.reason));
        let size = |bytes| client.output.size(bytes);
        answer.findings.push(format!(
            "{} of {} are used, {} are promised to copies",
            size(it.used),
            size(it.capacity),
            size(it.committed)
        ));
    }
    let watched = Watched::take(client, &nodes, seconds).await;
    let (mut here, mut there) = ([Span::default(); 2], [Span::default(); 2]);
    for (volume, replica) in volumes.iter().flat_map(|v| v.replicas.iter().map(move |r| (v, r))) {
        let Some(spans) = watched.replica(&replica.node, &replica.uuid) else { continue };
        let is_here = replica.node == node && pool.as_ref().is_none_or(|p| replica.pool == *p);
        let sum = if is_here { &mut here } else { &mut there };
        for (sum, span) in sum.iter_mut().zip(&spans) {
            sum.add(span);
        }
        if is_here {
            let row = Row {
                hop: format!("copy of {}", volume.name),
                at: replica.pool.clone(),
                reads: spans[0],
                writes: spans[1],
            };
            answer.hops.push(row);
        }
    }
    answer.findings.extend(
        ["reads", "writes"].iter().zip(here.iter().zip(&there)).map(|(what, (h, t))| verdict::place(what, h, t)),
    );
    Ok(answer)
}
