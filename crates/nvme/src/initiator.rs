//! The host side of NVMe/TCP, without I/O.
//!
//! [`Queue`] is one connection: it is fed with the bytes that came from the target and asked for the bytes to send.
//! [`command`] builds submission entries. How an association of several queues is brought up, kept alive and made anew
//! is sequential work: see `engine::remote`.

pub mod command;
mod queue;

pub use command::{Command, Payload};
pub use queue::{Completed, Queue, QueueOptions, Receive};

use thiserror::Error;

use crate::pdu;

/// A target that does not keep to the protocol. The connection is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Violation {
    /// A PDU header with impossible fields.
    #[error("it sent a malformed PDU: {:?} at or about {:#x}", .0.error, .0.info)]
    Header(pdu::Violation),
    /// A PDU that a target does not send, or not now.
    #[error("it sent a PDU that is not allowed at this point ({0:?})")]
    Unexpected(pdu::Kind),
    /// A header or data digest that does not match.
    #[error("the {0} digest of a PDU does not match")]
    Digest(&'static str),
    /// An answer for a command that is not in flight.
    #[error("it answered command {0}, which is not in flight")]
    UnknownCommand(u16),
    /// Data, or a request for data, that does not fit the command.
    #[error("data transfer of command {0}: {1}")]
    Transfer(u16, &'static str),
    /// It turned on a digest that we did not ask for.
    #[error("it turned on a digest that was not asked for")]
    UnwantedDigest,
    /// The target ended the connection with a termination request.
    #[error("it ended the connection: fatal error status {status}, information {info:#x}")]
    Terminated {
        /// FES.
        status: u16,
        /// FEI.
        info: u32,
    },
}

impl Violation {
    /// What a termination request says about it; `None` where the target has ended the connection itself.
    fn reason(self) -> Option<pdu::Violation> {
        use pdu::FatalError::*;
        Some(match self {
            Violation::Header(violation) => violation,
            Violation::Unexpected(_) => pdu::Violation::sequence(),
            Violation::Digest(_) => pdu::Violation { error: HeaderDigest, info: 0 },
            Violation::UnknownCommand(_) => pdu::Violation::field(pdu::offset::CID),
            Violation::Transfer(..) => pdu::Violation { error: DataOutOfRange, info: 0 },
            Violation::UnwantedDigest => pdu::Violation { error: UnsupportedParameter, info: pdu::offset::DIGESTS },
            Violation::Terminated { .. } => return None,
        })
    }
}

#[cfg(test)]
mod tests;
