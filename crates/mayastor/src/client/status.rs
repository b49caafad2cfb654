//! `mayastor status`.

use api::v1;
use clap::Args;
use tokio_stream::StreamExt;

use super::{node, pool, volume};
use crate::connect::Client;
use crate::failure::{Done, Failure};
use crate::output::{self, Format, Output};

/// The examples of its help.
pub const EXAMPLES: &str = "Examples:
  mayastor status
  mayastor status --watch
  mayastor status -o json";

/// How everything is.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Show it again after each change, until ctrl-C
    #[arg(short, long)]
    watch: bool,
}

/// Runs it.
pub async fn run(arguments: Arguments, client: &Client) -> Done {
    let output = &client.output;
    let control = client.control_stream().await?;
    let mut stream = control.check(control.v1().watch_status(v1::Empty {}).await)?;
    while let Some(status) = next(&mut stream, arguments.watch, client).await? {
        let status = status.map_err(|status| control.peer().failed(&status))?;
        match (output.format, arguments.watch) {
            (Format::Table, false) => return output::print(&text(&status, output)),
            (_, false) => return output.document(&status),
            // A terminal shows the present state only: cursor home, then clear to the end.
            (Format::Table, true) if output::is_terminal() => {
                output::print(&format!("\x1b[H\x1b[2J{}", text(&status, output)))?
            }
            (Format::Table, true) => output::print(&format!("{}\n", text(&status, output)))?,
            (_, true) => output.item(&status)?,
        }
    }
    Err(Failure::unreachable(format!("the {} ended the report", control.peer())))
}

/// The next of a stream. Someone who does not watch waits for the first one only as long as for any call.
async fn next<T>(
    stream: &mut tonic::Streaming<T>,
    watch: bool,
    client: &Client,
) -> Result<Option<Result<T, tonic::Status>>, Failure> {
    if watch {
        return Ok(stream.next().await);
    }
    let timeout = client.timeout;
    let slow = |_| Failure::unreachable("no answer in time from the control plane");
    tokio::time::timeout(timeout, stream.next()).await.map_err(slow)
}

/// All of it as tables.
fn text(status: &v1::Status, output: &Output) -> String {
    if status.nodes.is_empty() {
        return "No nodes have registered yet\n".into();
    }
    let mut parts = vec![output.table(node::COLUMNS, status.nodes.iter().map(node::row))];
    if !status.pools.is_empty() {
        parts.push(output.table(pool::NODE_COLUMNS, status.pools.iter().map(|p| pool::node_row(p, output))));
    }
    if !status.volumes.is_empty() {
        parts.push(output.table(volume::COLUMNS, status.volumes.iter().map(|v| volume::row(v, output))));
        let replicas: Vec<_> = status.volumes.iter().flat_map(|v| volume::replica_rows(v, output)).collect();
        if !replicas.is_empty() {
            parts.push(output.table(volume::REPLICA_COLUMNS, replicas));
        }
    }
    parts.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size::Units;

    #[test]
    fn the_tables_follow_each_other() {
        let output = Output { format: Format::Table, units: Units::Binary, quiet: false };
        let status = v1::Status {
            nodes: vec![v1::Node {
                id: "n1".into(),
                state: "online".into(),
                last_seen_ms_ago: 1500,
                ..Default::default()
            }],
            pools: vec![v1::NodePool {
                node: "n1".into(),
                pool: Some(v1::Pool { name: "p1".into(), ..Default::default() }),
            }],
            volumes: vec![v1::Volume {
                name: "v1".into(),
                replicas_wanted: 2,
                state: "pending".into(),
                ..Default::default()
            }],
        };
        let text = text(&status, &output);
        let titles: Vec<_> = text.lines().filter(|l| l.starts_with("NODE") || l.starts_with("VOLUME")).collect();
        assert_eq!(titles.len(), 3, "{text}");
        assert!(text.contains("1s ago") && text.contains("0/2"), "{text}");
        assert_eq!(super::text(&v1::Status::default(), &output), "No nodes have registered yet\n");
    }
}
