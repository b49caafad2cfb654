//! `mayastor csi controller` and `mayastor csi node`: the CSI driver as processes.

use std::path::PathBuf;
use std::sync::OnceLock;

use ::csi::control_plane::Remote;
use ::csi::controller::Controller;
use ::csi::node::attach::Transport;
use ::csi::node::{Node, Options};
use ::csi::{Plugin, serve};
use clap::{Args, Subcommand, ValueEnum};

use crate::access::Credentials;
use crate::connect::addresses;
use crate::failure::{Done, Failure};
use crate::output;
use crate::serve::Signals;

/// Which plugin.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the controller plugin: makes, removes and attaches volumes for the cluster
    #[command(after_help = "Examples:
  mayastor csi controller --socket /csi/csi.sock --control mayastor-control:10125")]
    Controller(ControllerArguments),
    /// Run the node plugin: brings volumes to the pods of this node
    #[command(after_help = "Examples:
  mayastor csi node --node-name worker-1 --socket /csi/csi.sock
  mayastor csi node --node-name worker-1 --socket /csi/csi.sock --transport user --control mayastor-control:10125")]
    Node(NodeArguments),
}

/// What both plugins take.
#[derive(Debug, Args)]
pub struct Common {
    /// The Unix socket that Kubernetes' side calls
    #[arg(
        short = 'c',
        long = "socket",
        alias = "csi-socket",
        value_name = "PATH",
        default_value = "/var/tmp/csi.sock"
    )]
    socket: PathBuf,
    /// How many volumes one node takes; 0 for any number. The same for both plugins
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_volumes: u32,
    /// What is logged to stderr: error, warn, info, debug, trace, or a filter
    #[arg(short = 'L', long, value_name = "FILTER", env = "RUST_LOG", default_value = "info", hide_env_values = true)]
    log: String,
}

/// How the controller is run.
#[derive(Debug, Args)]
pub struct ControllerArguments {
    #[command(flatten)]
    common: Common,
}

/// How the node plugin is run.
#[derive(Debug, Args)]
pub struct NodeArguments {
    #[command(flatten)]
    common: Common,
    /// The node's name, as Kubernetes knows it
    #[arg(short, long, value_name = "NAME")]
    node_name: String,
    /// Where it keeps what it knows of attached volumes; to be emptied when the machine boots
    #[arg(long, value_name = "DIR", default_value = "/run/mayastor-csi")]
    state_dir: PathBuf,
    /// How volumes are attached: auto, kernel (NVMe/TCP), or user (FUSE and a loop device)
    #[arg(long, value_name = "WAY", value_enum, default_value_t = Way::Auto, hide_possible_values = true)]
    transport: Way,
    /// For tests: dies without a word before this step
    #[arg(long, value_name = "STEP", hide = true)]
    die_before: Option<String>,
}

/// How volumes are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// Through the kernel where it can.
    Auto,
    /// Through the kernel.
    Kernel,
    /// In user space.
    User,
}

impl Command {
    /// The log filter.
    pub fn log(&self) -> &str {
        match self {
            Command::Controller(arguments) => &arguments.common.log,
            Command::Node(arguments) => &arguments.common.log,
        }
    }
}

/// The step before which this process dies.
static DIE_BEFORE: OnceLock<String> = OnceLock::new();

fn before(step: &str) {
    tracing::debug!("{step}");
    if DIE_BEFORE.get().is_some_and(|wanted| wanted == step) {
        // As `kill -9` would: no destructor, no farewell.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

/// Runs a plugin until SIGTERM or SIGINT.
pub async fn run(command: Command, control: Option<String>, own: Credentials) -> Done {
    let dial = own.dial()?;
    let mut signals = Signals::new()?;
    let control = control.map(|c| addresses(&c).map(|all| Vec::from(all).join(","))).transpose()?;
    let (socket, what, plugin) = match command {
        Command::Controller(arguments) => {
            let address = control.unwrap_or_else(|| format!("127.0.0.1:{}", api::CONTROL_PORT));
            let remote = Remote::new(&address, &dial).map_err(Failure::usage)?;
            let plugin = Plugin::Controller(Controller::new(remote, arguments.common.max_volumes));
            (arguments.common.socket, "controller", plugin)
        }
        Command::Node(arguments) => {
            if let Some(step) = arguments.die_before {
                let _ = DIE_BEFORE.set(step);
            }
            let options = Options {
                name: arguments.node_name,
                state: arguments.state_dir.clone(),
                program: std::env::current_exe().map_err(Failure::failed)?,
                control,
                credentials: own.arguments(),
                transport: match arguments.transport {
                    Way::Auto => Transport::Auto,
                    Way::Kernel => Transport::Kernel,
                    Way::User => Transport::User,
                },
                max_volumes: arguments.common.max_volumes,
                before,
            };
            let cannot = |e| Failure::failed(format!("cannot use {}: {e}", arguments.state_dir.display()));
            (arguments.common.socket, "node", Plugin::Node(Node::new(options).map_err(cannot)?))
        }
    };
    output::print(&format!("csi {what} ready: {}\n", socket.display()))?;
    let stop = async move {
        let signal = signals.next().await;
        tracing::info!("{signal}: stopping");
    };
    serve::<Remote>(&socket, plugin, stop).await.map_err(Failure::failed)
}
