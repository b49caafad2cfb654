//! Mayastor: replicated block storage for containers. One program, several roles and the client commands.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "the program: it owns the clock, the files and the randomness")]

mod access;
mod attach;
mod cli;
mod client;
mod connect;
mod control;
mod demo;
mod failure;
mod image;
mod legacy;
mod output;
mod plugin;
mod serve;
mod size;
mod up;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use cli::{Cli, Command, LogFormat};
use failure::{Done, Exit, Failure};

fn main() -> ExitCode {
    up::cluster::follow_parent();
    if legacy::is_wanted() {
        return match legacy::Cli::try_parse() {
            Ok(cli) => runtime().map_or_else(Failure::report, |runtime| runtime.block_on(legacy::run(cli))),
            Err(error) => usage(&error),
        };
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    if let Command::Sim(arguments) = &cli.command {
        return proof::cli::main(arguments);
    }
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Help goes to stdout and is a success; everything else that the parser says goes to stderr.
fn usage(error: &clap::Error) -> ExitCode {
    let wanted = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    // The reader may be gone; there is nobody to tell.
    let _ = error.print();
    if wanted { ExitCode::SUCCESS } else { ExitCode::from(Exit::Usage as u8) }
}

fn run(cli: Cli) -> Done {
    let client = cli.client();
    let form = cli.globals.log_format;
    match cli.command {
        Command::Engine(arguments) => {
            log(&arguments.log, form)?;
            wait_for(serve::run(arguments, cli.globals.control, cli.globals.credentials))
        }
        Command::Up(arguments) => {
            log(&arguments.log, form)?;
            wait_for(up::run(arguments))
        }
        Command::Control(arguments) => {
            log(&arguments.log, form)?;
            wait_for(control::run(*arguments, cli.globals.credentials, &client.output))
        }
        Command::Attach(arguments) => {
            log(&arguments.log, form)?;
            wait_for(attach::run(arguments, cli.globals.control, cli.globals.credentials))
        }
        Command::Csi(command) => {
            log(command.log(), form)?;
            wait_for(plugin::run(command, cli.globals.control, cli.globals.credentials))
        }
        Command::Node(command) => wait_for(client::node::run(command, &client)),
        Command::Volume(command) => wait_for(client::volume::run(command, &client)),
        Command::Status(arguments) => wait_for(client::status::run(arguments, &client)),
        Command::Explain(command) => wait_for(client::explain::run(command, &client)),
        Command::Support(command) => wait_for(client::support::run(command, &client)),
        Command::Events(arguments) => wait_for(client::events::run(arguments, &client)),
        Command::Limits(command) => wait_for(client::limits::run(command, &client)),
        Command::Rebalance(arguments) => wait_for(client::rebalance::run(arguments, &client)),
        Command::Pool(command) => wait_for(client::pool::run(command, &client)),
        Command::Replica(command) => wait_for(client::replica::run(command, &client)),
        Command::Nexus(command) => wait_for(client::nexus::run(command, &client)),
        Command::Rebuild(command) => wait_for(client::rebuild::run(command, &client)),
        Command::Bdev(command) => wait_for(client::bdev::run(command, &client)),
        Command::Config(command) => wait_for(client::config::run(command, &client)),
        Command::Token(command) => client::token::run(command, &client.output),
        Command::Sim(_) => unreachable!("it has exit codes of its own, see main"),
        Command::ExitCodes => output::print(&cli::exit_codes()),
    }
}

/// Runs a command on this thread, with tokio under it.
fn wait_for(command: impl Future<Output = Done>) -> Done {
    let runtime = runtime()?;
    let done = runtime.block_on(command);
    // A name that is still being looked up must not hold up the exit.
    runtime.shutdown_background();
    done
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::failed(format!("cannot start: {error}")))
}

/// Logs to stderr what passes the filter.
fn log(filter: &str, form: LogFormat) -> Done {
    let filter = tracing_subscriber::EnvFilter::try_new(filter)
        .map_err(|error| Failure::usage(format!("--log {filter:?}: {error}")))?;
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match form {
        LogFormat::Text => log.with_ansi(colours).init(),
        LogFormat::Json => log.json().flatten_event(true).with_current_span(true).with_span_list(false).init(),
    }
    Ok(())
}
