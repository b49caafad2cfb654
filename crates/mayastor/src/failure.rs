//! How a command fails: one clear sentence on stderr and a documented exit code.

use std::fmt;
use std::process::ExitCode;

/// Why the process ends, for scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The command was refused or failed.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The other side cannot be reached, or does not answer in time.
    Unreachable = 3,
    /// What the command names does not exist.
    NotFound = 4,
}

/// The table of exit codes, for `--help`.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused or failed; the reason is on stderr
  2  wrong usage
  3  the engine or the control plane cannot be reached or does not answer
  4  what the command names does not exist";

/// A command that did not do what was asked.
#[derive(Debug)]
pub enum Failure {
    /// With something to say.
    Said(Exit, String),
    /// The reader of our output went away (`mayastor pool list | head -1`): nobody is left to tell.
    NoReader,
}

impl Failure {
    /// The command was refused or failed.
    pub fn failed(message: impl fmt::Display) -> Failure {
        Failure::Said(Exit::Failed, message.to_string())
    }
    /// The command line is wrong in a way that its parser cannot see.
    pub fn usage(message: impl fmt::Display) -> Failure {
        Failure::Said(Exit::Usage, message.to_string())
    }
    /// The other side cannot be reached.
    pub fn unreachable(message: impl fmt::Display) -> Failure {
        Failure::Said(Exit::Unreachable, message.to_string())
    }
    /// What the command names does not exist.
    pub fn not_found(message: impl fmt::Display) -> Failure {
        Failure::Said(Exit::NotFound, message.to_string())
    }
    /// Says it, and returns the exit code.
    pub fn report(self) -> ExitCode {
        match self {
            Failure::NoReader => ExitCode::SUCCESS,
            Failure::Said(exit, message) => {
                // A closed stderr leaves the exit code as the only voice.
                let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("error: {message}\n").as_bytes());
                ExitCode::from(exit as u8)
            }
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Said(_, message) => f.write_str(message),
            Failure::NoReader => f.write_str("nobody reads the output"),
        }
    }
}

/// What a command returns.
pub type Done = Result<(), Failure>;
