//! The initiator's side of iSCSI, without I/O.
//!
//! [`Session`] is one session of one connection (error recovery level 0): it is fed with the bytes that came from the target
//! and asked for the bytes to send. [`command`] builds the SCSI commands of a disk and reads their answers. How a disk is
//! found, kept alive and reached anew is sequential work: see `engine::remote`.

pub mod command;
mod login;
mod session;
mod transfer;

pub use command::{Command, Payload, Verdict};
pub use session::{Ask, Completed, Session, SessionOptions};

use thiserror::Error;

/// Why a session has ended. The connection is of no more use.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Violation {
    /// The target does not let us in (11.13.5).
    #[error("it refused the login: {} ({status:#06x})", login_status(*.status))]
    Refused {
        /// Class and detail.
        status: u16,
    },
    /// What it said during the login does not make sense.
    #[error("login: {0}")]
    Login(&'static str),
    /// It did not prove that it knows its secret, or did not want us to prove ours.
    #[error("login: {0}")]
    Authentication(&'static str),
    /// A PDU that a target does not send, or not now.
    #[error("it sent a PDU of type {0:#04x}, which is not allowed at this point")]
    Unexpected(u8),
    /// A header or data digest that does not match.
    #[error("the {0} digest of a PDU does not match")]
    Digest(&'static str),
    /// More data in one PDU than we said that we take.
    #[error("it sent a PDU of {0} bytes")]
    TooLong(usize),
    /// An answer for a command that is not in flight.
    #[error("it answered task {0:#x}, which is not in flight")]
    UnknownTask(u32),
    /// Data, or a request for data, that does not fit the command.
    #[error("data transfer of task {0:#x}: {1}")]
    Transfer(u32, &'static str),
    /// Answers are missing.
    #[error("answer {expected} is missing: it sent {found}")]
    Missing {
        /// StatSN.
        expected: u32,
        /// The StatSN that came.
        found: u32,
    },
    /// It rejected a PDU (11.17).
    #[error("it rejected a PDU for reason {0:#04x}")]
    Rejected(u8),
    /// It ended the session (11.9).
    #[error("it ended the session (asynchronous event {0})")]
    Ended(u8),
}

fn login_status(status: u16) -> &'static str {
    match status {
        0x0101 | 0x0102 => "the target has moved",
        0x0201 => "authentication failed",
        0x0202 => "not authorized",
        0x0203 => "there is no such target",
        0x0204 => "the target was removed",
        0x0206 => "too many connections",
        0x0207 => "a parameter is missing",
        0x0301 => "the service is not available",
        0x0302 => "the target has no more resources",
        status if status >> 8 == 2 => "an error of the initiator",
        _ => "an error of the target",
    }
}

#[cfg(test)]
mod tests;
