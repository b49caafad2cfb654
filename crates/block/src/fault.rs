//! Why a request failed.

use thiserror::Error;

/// Why a request failed. A protocol maps each to its own status; the nexus decides what it means for a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum Fault {
    /// The medium could not read or write these blocks (EIO and the like).
    #[error("the medium failed")]
    Medium,
    /// A thin pool has no free extent left. The data is not written; the request may be tried again later.
    #[error("no space left in the pool")]
    NoSpace,
    /// The range does not lie inside the device.
    #[error("the range is outside the device")]
    OutOfRange,
    /// The device does not know this kind of request, or its parameters are not valid for it.
    #[error("the request is not supported")]
    Unsupported,
    /// The request was aborted by its sender, or its device is being closed.
    #[error("the request was aborted")]
    Aborted,
    /// The device is gone: connection lost, disk removed, pool exported.
    #[error("the device is gone")]
    Gone,
    /// No answer within the deadline. The request may still take effect later.
    #[error("no answer in time")]
    TimedOut,
    /// The sender's generation is older than one that the device has promised to.
    #[error("fenced: a newer writer owns the volume")]
    Fenced,
    /// The comparison of a Compare request found a difference.
    #[error("the data differs")]
    Miscompare,
}
