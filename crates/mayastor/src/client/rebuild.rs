//! `mayastor rebuild`.

use api::{Word, v0, v1};
use clap::Subcommand;
use tokio_stream::StreamExt;

use super::nexus::{self, Child};
use super::progress::{self, Progress};
use crate::connect::{Client, Engine};
use crate::failure::{Done, Failure};
use crate::output::{Format, Output};

/// Rebuilds: bringing a child of a nexus back in sync
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the rebuild of a child that is out of sync
    #[command(after_help = "Examples:
  mayastor rebuild start 4dcf2b4c-1c37-4b0a-93b5-31a4b8f0d4a1 bdev:///r3")]
    Start(Child),
    /// Stop a rebuild; the child stays out of sync
    #[command(after_help = "Examples:
  mayastor rebuild stop 4dcf2b4c-1c37-4b0a-93b5-31a4b8f0d4a1 bdev:///r3")]
    Stop(Child),
    /// Hold a rebuild
    #[command(after_help = "Examples:
  mayastor rebuild pause 4dcf2b4c-1c37-4b0a-93b5-31a4b8f0d4a1 bdev:///r3")]
    Pause(Child),
    /// Let a held rebuild go on
    #[command(after_help = "Examples:
  mayastor rebuild resume 4dcf2b4c-1c37-4b0a-93b5-31a4b8f0d4a1 bdev:///r3")]
    Resume(Child),
    /// Print the state of a rebuild: init, running, paused, stopped, failed or completed
    #[command(after_help = "Examples:
  mayastor rebuild state 4dcf2b4c-1c37-4b0a-93b5-31a4b8f0d4a1 bdev:///r3")]
    State(Child),
    /// Print how far a rebuild is, with rate and remaining time
    #[command(after_help = "Examples:
  mayastor rebuild progress 4dcf2b4c-1c37-4b0a-93b5-31a4b8f0d4a1 bdev:///r3
  mayastor rebuild progress 4dcf2b4c-1c37-4b0a-93b5-31a4b8f0d4a1 bdev:///r3 --watch")]
    Progress {
        /// Nexus and child.
        #[command(flatten)]
        child: Child,
        /// Show it until it ends; fails when the child does not come back in sync
        #[arg(short, long)]
        watch: bool,
    },
}

/// Runs it.
pub async fn run(command: Command, client: &Client) -> Done {
    let output = &client.output;
    if let Command::Progress { child, watch: true } = command {
        return watch(child, client).await;
    }
    let engine = client.engine().await?;
    let v0 = || engine.v0();
    let say = |verb: &str, child: &Child| {
        output.done(format!("{verb} rebuild of child {} on nexus {}", child.uri, child.uuid))
    };
    match command {
        Command::Start(child) => {
            let Child { uuid, uri } = child.clone();
            engine.check(v0().start_rebuild(v0::StartRebuildRequest { uuid, uri }).await)?;
            say("Starting", &child)
        }
        Command::Stop(child) => {
            let Child { uuid, uri } = child.clone();
            engine.check(v0().stop_rebuild(v0::StopRebuildRequest { uuid, uri }).await)?;
            say("Stopping", &child)
        }
        Command::Pause(child) => {
            let Child { uuid, uri } = child.clone();
            engine.check(v0().pause_rebuild(v0::PauseRebuildRequest { uuid, uri }).await)?;
            say("Pausing", &child)
        }
        Command::Resume(child) => {
            let Child { uuid, uri } = child.clone();
            engine.check(v0().resume_rebuild(v0::ResumeRebuildRequest { uuid, uri }).await)?;
            say("Resuming", &child)
        }
        Command::State(Child { uuid, uri }) => {
            let reply = engine.check(v0().get_rebuild_state(v0::RebuildStateRequest { uuid, uri }).await)?;
            output.made(&reply, &reply.state, &reply.state)
        }
        Command::Progress { child, .. } => show(&engine, &child, output).await,
    }
}

async fn show(engine: &Engine, child: &Child, output: &Output) -> Done {
    let found = find_child(nexus::find(engine, &child.uuid).await?, child, engine)?;
    let Some(rebuild) = &found.rebuild else {
        return Err(Failure::failed(format!(
            "child {} of nexus {} is not being rebuilt; it is {} ({})",
            child.uri,
            child.uuid,
            found.state().word(),
            engine.peer()
        )));
    };
    output.made(rebuild, &progress::percent(rebuild).to_string(), progress::line(rebuild, output))
}

fn find_child(nexus: v1::Nexus, child: &Child, engine: &Engine) -> Result<v1::Child, Failure> {
    let found = nexus.children.into_iter().find(|c| c.uri == child.uri);
    found.ok_or_else(|| engine.missing(format!("child {} of nexus {}", child.uri, child.uuid)))
}

/// Follows a rebuild to its end.
async fn watch(child: Child, client: &Client) -> Done {
    let output = &client.output;
    let engine = client.engine_stream().await?;
    let mut reports = engine.check(engine.v1().watch_node(v1::Empty {}).await)?;
    let mut progress = Progress::new(*output);
    while let Some(report) = reports.next().await {
        let report = report.map_err(|status| engine.peer().failed(&status))?;
        let nexus = nexus::pick(report.nexuses, &child.uuid);
        let nexus = nexus.ok_or_else(|| engine.missing(format!("nexus {}", child.uuid)))?;
        let now = find_child(nexus, &child, &engine)?;
        match (&now.rebuild, now.state()) {
            (Some(rebuild), _) if !ended(rebuild) => {
                if output.format == Format::Table {
                    progress.show(&child.uri, rebuild)?;
                } else {
                    output.item(rebuild)?;
                }
            }
            (_, v1::ChildState::ChildOnline) => {
                progress.end(&child.uri);
                return output.done(format!("Child {} is in sync", child.uri));
            }
            (_, state) => {
                progress.end(&child.uri);
                let why = if now.reason.is_empty() { String::new() } else { format!(": {}", now.reason) };
                let message = format!("child {} is {}, not in sync{why} ({})", child.uri, state.word(), engine.peer());
                return Err(Failure::failed(message));
            }
        }
    }
    Err(Failure::unreachable(format!("the {} ended the report", engine.peer())))
}

fn ended(rebuild: &v1::Rebuild) -> bool {
    matches!(rebuild.state.as_str(), "stopped" | "failed" | "completed")
}
