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
    /// Forget a node that will never come back: what it held is given up, and nothing waits for it any more
    ///
    /// Refused while the node answers, and while a volume still counts a copy on it among those with every write.
    #[command(after_help = "Examples:
  mayastor node remove node-3
  mayastor node remove node-3 --lose-data")]
    Remove {
        /// The node
        node: String,
        /// Remove it even where it may hold the last good copy of a volume: what only it has is lost for ever
        #[arg(long)]
        lose_data: bool,
    },
}

/// Runs it.
pub async fn run(command: Command, client: &Client) -> Done {
    let control = client.control().await?;
    match command {
        Command::List => {
            let nodes = control.check(control.v1().list_nodes(v1::Empty {}).await)?.nodes;
            client.output.list(&nodes, COLUMNS, row, "No nodes found")
        }
        Command::Remove { node, lose_data } => {
            let request = v1::RemoveNodeRequest { id: node.clone(), lose_data };
            control.check(control.v1().remove_node(request).await)?;
            client.output.done(format!("Removed node {node}"))
        }
    }
}

/// The titles of a table of nodes.
pub const COLUMNS: &[&str] = &["NODE", "STATE", "ENDPOINT", "VERSION", ">SEEN"];

/// A row of that table.
pub fn row(node: &v1::Node) -> Vec<String> {
    let seen = super::progress::duration(node.last_seen_ms_ago) + " ago";
    vec![node.id.clone(), node.state.clone(), node.grpc_endpoint.clone(), node.version.clone(), seen]
}
