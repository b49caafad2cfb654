//! The command line.

use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::access::Credentials;
use crate::attach;
use crate::client::{
    bdev, config, events, explain, limits, nexus, node, pool, rebalance, rebuild, replica, status, support, token,
    volume,
};
use crate::connect::Client;
use crate::control;
use crate::failure::EXIT_CODES;
use crate::output::{Format, Output};
use crate::plugin;
use crate::serve;
use crate::size::Units;
use crate::up;

/// Replicated block storage for containers
#[derive(Debug, Parser)]
#[command(name = "mayastor", version, propagate_version = false, after_help = AFTER_HELP, infer_subcommands = false)]
pub struct Cli {
    /// Options of all commands.
    #[command(flatten)]
    pub globals: Globals,
    /// The host of the engine; the same as in --engine HOST
    #[arg(short, long, value_name = "HOST", hide_short_help = true)]
    pub address: Option<String>,
    /// The port of the engine; the same as in --engine HOST:PORT
    #[arg(short, long, value_name = "PORT", hide_short_help = true)]
    pub port: Option<u16>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
Roles run until they are told to stop (ctrl-C, SIGTERM). The commands node, volume, status, events,
limits and rebalance talk to the control plane, all others to a running engine.

Examples:
  mayastor engine -g 127.0.0.1 -y node.yaml          run a storage node
  mayastor pool create p1 /dev/sdb /dev/sdc          make a pool of two disks on it
  mayastor volume create data --size 10GiB -r 3      make a volume with three replicas
  mayastor status --watch                            see how everything is

Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no connection or no answer, 4 not found.";

/// Options that every command takes, before or after its name.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Connection and output")]
pub struct Globals {
    /// The engine to talk to [default: 127.0.0.1:10124]
    #[arg(long, global = true, value_name = "HOST[:PORT]", env = "MAYASTOR_ENGINE", hide_env_values = true)]
    pub engine: Option<String>,
    /// The control plane to talk to [default: 127.0.0.1:10125]; of several, separated by commas, the one that leads is found
    #[arg(long, global = true, value_name = "HOST[:PORT]", env = "MAYASTOR_CONTROL", hide_env_values = true)]
    pub control: Option<String>,
    /// How results are printed: table for people, json or yaml for programs
    #[arg(short, long, global = true, value_name = "FORM", value_enum, default_value_t, hide_possible_values = true)]
    pub output: Format,
    /// Print names and rows only, no titles and no sentences
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Sizes in tables: i binary (GiB), d decimal (GB), b bytes
    #[arg(short, long, global = true, value_name = "i|d|b", value_enum, default_value_t, hide_possible_values = true)]
    pub units: Units,
    /// How many seconds a call may take
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub timeout: u64,
    /// How roles log to stderr: text for people, json for programs, one object a line
    #[arg(
        long,
        global = true,
        value_name = "FORM",
        value_enum,
        default_value_t,
        env = "MAYASTOR_LOG_FORMAT",
        hide_env_values = true,
        hide_possible_values = true
    )]
    pub log_format: LogFormat,
    /// What is shown to those that are called.
    #[command(flatten)]
    pub credentials: Credentials,
}

/// The form of logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

/// Roles and client commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a storage node: pools, replicas, nexuses and their NVMe/TCP target
    #[command(after_help = serve::EXAMPLES)]
    Engine(serve::Arguments),
    /// Run a whole cluster on this machine: storage nodes, control plane, one view of it all
    #[command(after_help = up::EXAMPLES)]
    Up(up::Arguments),
    /// Run the control plane: places, watches and repairs volumes
    #[command(after_help = control::EXAMPLES)]
    Control(Box<control::Arguments>),

    /// Run the CSI driver: volumes for Kubernetes
    #[command(subcommand, arg_required_else_help = true)]
    Csi(plugin::Command),
    /// Make a volume a block device of this host, in user space
    #[command(after_help = attach::EXAMPLES)]
    Attach(attach::Arguments),

    /// Storage nodes that the control plane knows
    #[command(subcommand, arg_required_else_help = true)]
    Node(node::Command),
    /// Volumes: replicated, placed and repaired by the control plane
    #[command(subcommand, arg_required_else_help = true)]
    Volume(volume::Command),
    /// Nodes, pools and volumes, and how they are
    #[command(after_help = status::EXAMPLES)]
    Status(status::Arguments),
    /// What happened
    #[command(after_help = events::EXAMPLES)]
    Events(events::Arguments),
    /// Limits of the cluster: how full pools may become, how much is done at a time
    #[command(subcommand, arg_required_else_help = true)]
    Limits(limits::Command),
    /// Move copies from the fullest pools to the emptiest, one at a time
    #[command(after_help = rebalance::EXAMPLES)]
    Rebalance(rebalance::Arguments),

    /// Why something is degraded or slow, with the time of each hop
    #[command(subcommand, arg_required_else_help = true)]
    Explain(explain::Command),
    /// Help for those who help: everything that a report of a problem needs, in one file
    #[command(subcommand, arg_required_else_help = true)]
    Support(support::Command),

    /// Pools of an engine
    #[command(subcommand, arg_required_else_help = true)]
    Pool(pool::Command),
    /// Replicas of an engine
    #[command(subcommand, arg_required_else_help = true)]
    Replica(replica::Command),
    /// Nexuses of an engine: mirrored volumes
    #[command(subcommand, arg_required_else_help = true)]
    Nexus(nexus::Command),
    /// Rebuilds of the children of a nexus
    #[command(subcommand, arg_required_else_help = true)]
    Rebuild(rebuild::Command),
    /// Block devices of an engine
    #[command(subcommand, arg_required_else_help = true)]
    Bdev(bdev::Command),
    /// Settings of a running engine
    #[command(subcommand, arg_required_else_help = true)]
    Config(config::Command),

    /// Tokens: who may ask for what
    #[command(subcommand, arg_required_else_help = true)]
    Token(token::Command),

    /// Run whole clusters in a box, let things go wrong, and check what is promised
    #[command(after_help = proof::cli::EXAMPLES)]
    Sim(proof::cli::Arguments),

    /// Print the table of exit codes
    #[command(hide = true)]
    ExitCodes,
}

impl Cli {
    /// What the client commands need.
    pub fn client(&self) -> Client {
        let globals = &self.globals;
        let mut engine = globals.engine.clone().unwrap_or_else(|| "127.0.0.1".into());
        if self.address.is_some() || self.port.is_some() {
            let host = self.address.clone().unwrap_or_else(|| "127.0.0.1".into());
            engine = match self.port {
                Some(port) if host.contains(':') && !host.starts_with('[') => format!("[{host}]:{port}"),
                Some(port) => format!("{host}:{port}"),
                None => host,
            };
        }
        Client {
            engine,
            control: globals.control.clone().unwrap_or_else(|| "127.0.0.1".into()),
            timeout: Duration::from_secs(globals.timeout),
            credentials: globals.credentials.clone(),
            output: Output { format: globals.output, units: globals.units, quiet: globals.quiet },
        }
    }
}

/// The text of the hidden command that documents the exit codes.
pub fn exit_codes() -> String {
    format!("{EXIT_CODES}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("mayastor").chain(line.split_whitespace()))
    }

    #[test]
    fn the_tree_is_sound() {
        Cli::command().debug_assert();
    }

    fn leaves(command: &clap::Command, path: &str, found: &mut Vec<(String, clap::Command)>) {
        let mut any = false;
        for sub in command.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help") {
            any = true;
            leaves(sub, &format!("{path} {}", sub.get_name()), found);
        }
        if !any {
            found.push((path.to_owned(), command.clone()));
        }
    }

    #[test]
    fn every_command_has_an_about_and_an_example_of_itself() {
        let mut found = Vec::new();
        leaves(&Cli::command(), "mayastor", &mut found);
        assert!(found.len() > 40, "{}", found.len());
        for (path, command) in found {
            assert!(command.get_about().is_some(), "{path} has no about");
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&path), "{path} has no example: {help:?}");
        }
    }

    /// Every example in the help parses (quotes and `#` comments are not used in examples that this reads).
    #[test]
    fn every_example_is_a_correct_command_line() {
        let mut found = Vec::new();
        leaves(&Cli::command(), "mayastor", &mut found);
        for (path, command) in found {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let mut examples = 0;
            for line in help.lines().map(str::trim).filter(|line| line.starts_with("mayastor ")) {
                let line =
                    line.split("   ").next().expect("the command").trim_start_matches("mayastor ").replace('\'', "");
                parse(&line).unwrap_or_else(|error| panic!("{path}: {line}: {error}"));
                examples += 1;
            }
            assert!(examples > 0, "{path}");
        }
    }

    #[test]
    fn wrong_lines_are_usage_errors() {
        for (line, kind) in [
            ("", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
            ("frobnicate", ErrorKind::InvalidSubcommand),
            ("pool", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
            ("pool create", ErrorKind::MissingRequiredArgument),
            ("pool create p1", ErrorKind::MissingRequiredArgument),
            ("replica create p1 r1", ErrorKind::MissingRequiredArgument),
            ("replica create p1 r1 --size 10parsec", ErrorKind::ValueValidation),
            ("replica create p1 r1 --size -1", ErrorKind::UnknownArgument),
            ("replica create p1 r1 --size 1GiB -p tape", ErrorKind::InvalidValue),
            ("nexus create u 1GiB", ErrorKind::MissingRequiredArgument),
            ("volume create v --size 1GiB -r 0", ErrorKind::ValueValidation),
            ("volume create v --size 1GiB -r 17", ErrorKind::ValueValidation),
            ("volume scale v", ErrorKind::MissingRequiredArgument),
            ("pool list -o xml", ErrorKind::InvalidValue),
            ("pool list -u x", ErrorKind::InvalidValue),
            ("pool list --timeout 0", ErrorKind::ValueValidation),
            ("-p 65536 pool list", ErrorKind::ValueValidation),
            ("config set nexus.error_threshold", ErrorKind::MissingRequiredArgument),
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.kind(), kind, "{line}: {error}");
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn options_may_stand_before_or_after_the_command() {
        for line in [
            "-o json --engine n1:7 -q pool list",
            "pool list -o json --engine n1:7 -q",
            "pool -o json list -q --engine n1:7",
        ] {
            let client = parse(line).expect(line).client();
            assert_eq!(
                (client.engine.as_str(), client.output.format, client.output.quiet),
                ("n1:7", Format::Json, true)
            );
        }
        assert_eq!(parse("-a n1 -p 7 pool list").expect("parses").client().engine, "n1:7");
        assert_eq!(parse("-a ::1 -p 7 pool list").expect("parses").client().engine, "[::1]:7");
        assert_eq!(parse("-p 7 pool list").expect("parses").client().engine, "127.0.0.1:7");
    }
}
