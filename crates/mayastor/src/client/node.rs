//! `mayastor node`.

use api::v1;
use clap::Subcommand;
use tokio_stream::StreamExt;

use super::progress;
use crate::connect::{Client, Control};
use crate::failure::{Done, Failure};
use crate::output::{self, Format, Output};

/// Storage nodes
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the nodes that the control plane knows
    #[command(after_help = "Examples:
  mayastor node list
  mayastor node list -o json")]
    List,
    /// Show a node: whether it is in service, its labels, how far its drain is and what that waits for
    #[command(after_help = "Examples:
  mayastor node show node-1
  mayastor node show node-1 -o json")]
    Show {
        /// The node
        node: String,
    },
    /// Put nothing new on a node; what it has stays
    #[command(after_help = "Examples:
  mayastor node cordon node-1")]
    Cordon {
        /// The node
        node: String,
    },
    /// Take a node into service again; a drain ends, and what has not moved stays
    #[command(after_help = "Examples:
  mayastor node uncordon node-1")]
    Uncordon {
        /// The node
        node: String,
    },
    /// Move everything off a node: each copy is made elsewhere and in sync before it goes, then the targets move
    ///
    /// It goes on when the control plane starts again. Hosts follow a target that moves as they do when a node is lost.
    #[command(after_help = "Examples:
  mayastor node drain node-1 --wait
  mayastor node drain node-1 --stop")]
    Drain {
        /// The node
        node: String,
        /// Return when it holds nothing any more
        #[arg(short, long)]
        wait: bool,
        /// End a drain: what has not moved stays, and the node stays cordoned
        #[arg(long, conflicts_with = "wait")]
        stop: bool,
    },
    /// Set labels of a node (KEY=VALUE) and remove others (KEY-); they count for copies that are made from then on
    #[command(after_help = "Examples:
  mayastor node label node-1 zone=a disk=fast
  mayastor node label node-1 disk-")]
    Label {
        /// The node
        node: String,
        /// KEY=VALUE sets a label, KEY- removes it
        #[arg(value_name = "KEY=VALUE|KEY-", required = true)]
        labels: Vec<String>,
    },
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

/// Reads `KEY=VALUE`.
pub fn label(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, value)| !key.is_empty() && !value.is_empty());
    pair.map(|(key, value)| (key.to_owned(), value.to_owned())).ok_or_else(|| "KEY=VALUE is needed".to_owned())
}

/// Runs it.
pub async fn run(command: Command, client: &Client) -> Done {
    let control = client.control().await?;
    let output = &client.output;
    match command {
        Command::List => {
            let nodes = control.check(control.v1().list_nodes(v1::Empty {}).await)?.nodes;
            output.list(&nodes, COLUMNS, row, "No nodes found")
        }
        Command::Show { node } => {
            let nodes = control.check(control.v1().list_nodes(v1::Empty {}).await)?.nodes;
            let found = nodes.into_iter().find(|n| n.id == node);
            show(&found.ok_or_else(|| Failure::not_found(format!("there is no node {node}")))?, output)
        }
        Command::Cordon { node } => {
            let node = set(&control, node, "cordoned").await?;
            output.made(&node, &node.id, format!("Node {} gets nothing new", node.id))
        }
        Command::Uncordon { node } => {
            let node = set(&control, node, "in-service").await?;
            output.made(&node, &node.id, format!("Node {} is in service", node.id))
        }
        Command::Drain { node, stop: true, .. } => {
            let node = set(&control, node, "cordoned").await?;
            output.made(&node, &node.id, format!("Node {} is not drained any more; it gets nothing new", node.id))
        }
        Command::Drain { node, wait, .. } => {
            let node = set(&control, node, "draining").await?;
            if wait {
                return wait_for(&node.id, client).await;
            }
            let left = node.drain.as_ref().map_or(0, |d| d.copies_left);
            output.made(&node, &node.id, format!("Node {} is drained: {left} copies are left", node.id))
        }
        Command::Label { node, labels } => {
            let mut request = v1::SetNodeLabelsRequest { id: node, ..Default::default() };
            for text in labels {
                match text.strip_suffix('-').filter(|_| !text.contains('=')) {
                    Some(key) => request.remove.push(key.to_owned()),
                    None => {
                        let (key, value) =
                            label(&text).map_err(|e| Failure::usage(format!("{text:?}: {e}, or KEY-")))?;
                        request.set.insert(key, value);
                    }
                }
            }
            let node = control.check(control.v1().set_node_labels(request).await)?;
            output.made(&node, &node.id, format!("Node {} has the labels {}", node.id, labels_of(&node)))
        }
        Command::Remove { node, lose_data } => {
            let request = v1::RemoveNodeRequest { id: node.clone(), lose_data };
            control.check(control.v1().remove_node(request).await)?;
            output.done(format!("Removed node {node}"))
        }
    }
}

async fn set(control: &Control, id: String, service: &str) -> Result<v1::Node, Failure> {
    let request = v1::SetNodeServiceRequest { id, service: service.to_owned() };
    control.check(control.v1().set_node_service(request).await)
}

fn show(node: &v1::Node, output: &Output) -> Done {
    if output.format != Format::Table {
        return output.document(node);
    }
    let mut text = output.table(COLUMNS, [row(node)]);
    for line in node.why.iter().chain(&node.doing).chain(&node.needed) {
        text += &format!("{line}\n");
    }
    if let Some(drain) = node.drain.as_ref().filter(|d| !d.waiting.is_empty()) {
        let row = |w: &v1::DrainItem| vec![w.volume.clone(), w.waits_for.clone()];
        text += &format!("\n{}", output.table(&["VOLUME", "WAITS FOR"], drain.waiting.iter().map(row)));
    }
    output::print(&text)
}

/// Follows a drain until the node holds nothing any more.
async fn wait_for(id: &str, client: &Client) -> Done {
    let output = &client.output;
    let control = client.control_stream().await?;
    let mut stream = control.check(control.v1().watch_status(v1::Empty {}).await)?;
    let mut said = String::new();
    while let Some(status) = stream.next().await {
        let status = status.map_err(|status| control.peer().failed(&status))?;
        let Some(node) = status.nodes.into_iter().find(|n| n.id == id) else {
            return Err(Failure::not_found(format!("node {id} was removed ({})", control.peer())));
        };
        match node.service.as_str() {
            "drained" => return output.made(&node, id, format!("Node {id} is drained: it holds nothing any more")),
            "draining" => {}
            other => return Err(Failure::failed(format!("the drain of {id} was ended: it is {other}"))),
        }
        let drain = node.drain.unwrap_or_default();
        let first =
            drain.waiting.first().map(|w| format!("; volume {}: {}", w.volume, w.waits_for)).unwrap_or_default();
        let (copies, all, targets) = (drain.copies_left, drain.copies_total, drain.targets_left);
        let now = format!("node {id}: {copies} of {all} copies and {targets} targets are left{first}");
        if said != now && !output.quiet && output.format == Format::Table {
            // On stderr, so that stdout has the result only.
            eprintln!("{now}");
            said = now;
        }
    }
    Err(Failure::unreachable(format!("the {} ended the report", control.peer())))
}

fn labels_of(node: &v1::Node) -> String {
    let all: Vec<String> = node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if all.is_empty() { "-".to_owned() } else { all.join(",") }
}

/// The titles of a table of nodes.
pub const COLUMNS: &[&str] = &["NODE", "STATE", "SERVICE", "ENDPOINT", "VERSION", ">SEEN", "LABELS"];

/// A row of that table.
pub fn row(node: &v1::Node) -> Vec<String> {
    let seen = progress::duration(node.last_seen_ms_ago) + " ago";
    let (state, service) = (node.state.clone(), node.service.clone());
    vec![node.id.clone(), state, service, node.grpc_endpoint.clone(), node.version.clone(), seen, labels_of(node)]
}

#[cfg(test)]
mod tests {
    use super::label;

    #[test]
    fn labels_are_pairs() {
        assert_eq!(label("zone=a=b"), Ok(("zone".into(), "a=b".into())));
        for wrong in ["", "zone", "=a", "zone="] {
            assert!(label(wrong).is_err(), "{wrong:?}");
        }
    }
}
