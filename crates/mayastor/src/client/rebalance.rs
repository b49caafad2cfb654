//! `mayastor rebalance`.

use std::time::Duration;

use api::v1;
use clap::Args;

use crate::connect::Client;
use crate::failure::Done;
use crate::output::Format;

/// The examples of its help.
pub const EXAMPLES: &str = "Examples:
  mayastor rebalance --dry-run
  mayastor rebalance --wait
  mayastor rebalance --stop";

/// How to rebalance.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Only say which copies would be moved
    #[arg(long, conflicts_with_all = ["wait", "stop"])]
    dry_run: bool,
    /// Return when all copies are moved
    #[arg(short, long, conflicts_with = "stop")]
    wait: bool,
    /// End the rebalance that is under way; what has moved stays moved
    #[arg(long)]
    stop: bool,
}

/// Runs it.
pub async fn run(arguments: Arguments, client: &Client) -> Done {
    let control = client.control().await?;
    let output = &client.output;
    let Arguments { dry_run, wait, stop } = arguments;
    let ask = async |dry_run, stop| {
        let request = v1::RebalanceRequest { dry_run, stop };
        control.check(control.v1().rebalance(request).await)
    };
    let mut report = ask(dry_run, stop).await?;
    let operation = report.operation.clone();
    while wait && !operation.is_empty() {
        let now = ask(true, false).await?;
        if now.operation != operation {
            return output.made(&report, &operation, "The copies are moved");
        }
        if now.done != report.done && !output.quiet && output.format == Format::Table {
            eprintln!("{} of {} moves are over", now.done, now.moves.len());
        }
        report = now;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    if stop {
        return output.made(&report, &operation, "No copies are moved any more");
    }
    if output.format != Format::Table {
        return output.document(&report);
    }
    let row = |m: &v1::RebalanceMove| {
        vec![m.volume.clone(), m.from.clone(), m.to.clone(), output.size(m.bytes), m.state.clone()]
    };
    let columns = &["VOLUME", "FROM", "TO", ">SIZE", "STATE"];
    output.list(&report.moves, columns, row, "Nothing to move: the pools are about equally full")
}
