//! `mayastor node`.

use api::v1;
use clap::Subcommand;

use crate::connect::Client;
use crate::failure::Done;

/// Storage nodes
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the nodes that the control plane knows
    #[command(after_help = "Examples:
  mayastor node list
  mayastor node list -o json")]
    List,
}

/// Runs it.
pub async fn run(command: Command, client: &Client) -> Done {
    let Command::List = command;
    let control = client.control().await?;
    let nodes = control.check(control.v1().list_nodes(v1::Empty {}).await)?.nodes;
    client.output.list(&nodes, COLUMNS, row, "No nodes found")
}

/// The titles of a table of nodes.
pub const COLUMNS: &[&str] = &["NODE", "STATE", "ENDPOINT", "VERSION", ">SEEN"];

/// A row of that table.
pub fn row(node: &v1::Node) -> Vec<String> {
    let seen = super::progress::duration(node.last_seen_ms_ago) + " ago";
    vec![node.id.clone(), node.state.clone(), node.grpc_endpoint.clone(), node.version.clone(), seen]
}
