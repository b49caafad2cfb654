//! `mayastor up`: a whole cluster on one machine, for trying out and for small installations.
//!
//! The engines are processes of their own, so that one can be killed; the control plane is part of this process.

pub mod cluster;
mod view;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::access::Auth;
use crate::control::seconds;
use crate::failure::{Done, Failure};
use crate::serve::Signals;
use crate::{demo, output, size};
use cluster::{Cluster, Restart, Setup};

/// The examples of its help.
pub const EXAMPLES: &str = "Examples:
  mayastor up
  mayastor up --nodes 4 --pool-size 20GiB --data-dir /srv/mayastor
  mayastor up --demo";

/// How a cluster on one machine is run.
#[derive(Debug, Args)]
pub struct Arguments {
    /// How many storage nodes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=16))]
    nodes: u16,
    /// The size of each node's pool; its file takes space as it is written
    #[arg(long, value_name = "SIZE", default_value = "4GiB", value_parser = size::parse)]
    pool_size: u64,
    /// Where everything is kept [default: mayastor-data; with --demo a directory that is removed afterwards]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The first gRPC port: node-1 takes it, the control plane the next, other nodes those after
    #[arg(long, value_name = "PORT", default_value_t = api::ENGINE_PORT, value_parser = clap::value_parser!(u16).range(1..=65_500))]
    base_port: u16,
    /// The first NVMe/TCP port: one for each node
    #[arg(long, value_name = "PORT", default_value_t = api::NVME_PORT, value_parser = clap::value_parser!(u16).range(1..=65_500))]
    nvme_port: u16,
    /// The port of the page, the REST API and /metrics; 0: none [default: 10123, when it is free]
    #[arg(long, value_name = "PORT")]
    http_port: Option<u16>,
    /// After how many seconds copies on a node that is away are replaced [default: 10; with --demo 3]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    node_grace: Option<f64>,
    /// Leave an engine that died alone; otherwise it is started again after 30 seconds
    #[arg(long)]
    no_restart: bool,
    /// Tell a story instead: a volume, a node that is killed under load, the repair, every byte checked
    #[arg(long)]
    demo: bool,
    /// The size of the demo's volume
    #[arg(long, value_name = "SIZE", default_value = "512MiB", value_parser = size::parse, requires = "demo")]
    demo_size: u64,
    /// Whether callers must show a token: auto and off mean no, everything is on this machine; on: yes
    #[arg(long, value_name = "WHEN", value_enum, default_value_t, hide_possible_values = true)]
    auth: Auth,
    /// What is logged to stderr: error, warn, info, debug, trace, or a filter
    #[arg(short = 'L', long, value_name = "FILTER", env = "RUST_LOG", default_value = "error", hide_env_values = true)]
    pub log: String,
}

/// The name of each node's pool.
pub const POOL: &str = "pool";
/// After how long an engine that died is started again.
const RESTART: Duration = Duration::from_secs(30);

/// Runs it until ctrl-C, or until the demo's end.
pub async fn run(arguments: Arguments) -> Done {
    let demo = arguments.demo;
    let dir = arguments.data_dir.unwrap_or_else(|| if demo { demo::directory() } else { "mayastor-data".into() });
    let temporary = demo && !dir.exists();
    let setup = Setup {
        // The demo needs a node to spare.
        nodes: if demo { arguments.nodes.max(4) } else { arguments.nodes },
        pool_size: arguments.pool_size,
        dir: dir.clone(),
        base_port: arguments.base_port,
        nvme_port: arguments.nvme_port,
        http_port: if demo { Some(0) } else { arguments.http_port },
        node_grace: arguments.node_grace.unwrap_or(if demo { 3.0 } else { 10.0 }),
        heartbeat: if demo { 1.0 } else { 2.0 },
        auth: arguments.auth,
        restart: if arguments.no_restart || demo { Restart::Never } else { Restart::After(RESTART) },
    };
    let mut signals = Signals::new()?;
    if demo {
        let told = tokio::select! {
            told = demo::tell(&setup, arguments.demo_size) => told,
            signal = signals.next() => Err(Failure::failed(format!("{signal}: the demo was stopped"))),
        };
        if temporary {
            // What is left is only disk space.
            let _ = std::fs::remove_dir_all(&dir);
        }
        return told;
    }
    let mut cluster = Cluster::start(&setup).await?;
    let lived = live(&mut cluster, &mut signals).await;
    cluster.stop().await;
    lived
}

/// Shows how everything is until somebody stops it.
async fn live(cluster: &mut Cluster, signals: &mut Signals) -> Done {
    let ready = tokio::select! {
        ready = cluster.ready() => ready,
        signal = signals.next() => {
            return output::print(&format!("{signal}: stopping\n"));
        }
    };
    ready?;
    let mut view = view::View::new(cluster)?;
    let control = cluster.control().clone();
    loop {
        view.show(cluster)?;
        tokio::select! {
            () = view.news(&control) => {}
            note = cluster.tend() => view.note(&note)?,
            signal = signals.next() => {
                view.end()?;
                return output::print(&format!("{signal}: stopping\n"));
            }
        }
    }
}
