//! Why a pool operation failed.

use block::Fault;
use thiserror::Error;

/// Why a pool operation failed. Messages are meant for an operator and name the object.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PoolError {
    /// An argument makes no sense: a name, a size, an extent size, a number of disks.
    #[error("{0}")]
    Invalid(String),
    /// A disk could not be read, written or flushed.
    #[error("disk {disk}: {fault}")]
    Io {
        /// The disk's URI.
        disk: String,
        /// What the disk answered.
        fault: Fault,
    },
    /// The disk holds something that is not ours; `force` would overwrite it.
    #[error("disk {disk} holds {what}; it is only overwritten with force")]
    Foreign {
        /// The disk's URI.
        disk: String,
        /// What was found, with its article ("a GPT partition table").
        what: String,
    },
    /// The disk belongs to a pool of ours. Not even `force` overwrites that.
    #[error("disk {disk} belongs to pool {pool}; import it, or destroy that pool first")]
    InUse {
        /// The disk's URI.
        disk: String,
        /// The name of its pool.
        pool: String,
    },
    /// The disk carries no pool label.
    #[error("disk {disk} belongs to no pool: {what}")]
    NotAPool {
        /// The disk's URI.
        disk: String,
        /// What it carries instead.
        what: String,
    },
    /// The disks carry a pool of another name.
    #[error("disk {disk} belongs to pool {found}, not to {wanted}")]
    WrongName {
        /// The disk's URI.
        disk: String,
        /// The name on the label.
        found: String,
        /// The name that was asked for.
        wanted: String,
    },
    /// The disks do not belong to one pool, or one disk was given twice.
    #[error("disk {disk}: {why}")]
    Mixed {
        /// The disk's URI.
        disk: String,
        /// What does not fit.
        why: String,
    },
    /// A disk of the pool was not given.
    #[error("pool {pool}: {which} is missing")]
    MissingDisk {
        /// The pool.
        pool: String,
        /// The disk's place in the pool and its identity.
        which: String,
    },
    /// What is stored contradicts itself or its checksum. Nothing was written.
    #[error("{object} is damaged: {why}; nothing was changed")]
    Damaged {
        /// Which label, checkpoint, journal or pool.
        object: String,
        /// What is wrong with it.
        why: String,
    },
    /// Written by a newer program.
    #[error("{object} has a format that this version does not know: {why}")]
    Unsupported {
        /// Which label, checkpoint, journal or pool.
        object: String,
        /// The version or feature.
        why: String,
    },
    /// The pool had been destroyed when a crash came; that was completed now, its disks are free.
    #[error("pool {0} was destroyed; its disks are free now")]
    Destroyed(String),
    /// A disk cannot hold even one extent.
    #[error("disk {disk} is too small: {bytes} bytes, at least {needed} are needed")]
    TooSmall {
        /// The disk's URI.
        disk: String,
        /// Its size.
        bytes: u64,
        /// The smallest size that would do.
        needed: u64,
    },
    /// Not enough uncommitted space.
    #[error("pool {pool}: {needed} bytes are needed, {free} are free")]
    NoSpace {
        /// The pool.
        pool: String,
        /// What the operation needs, in bytes.
        needed: u64,
        /// What is not committed, in bytes.
        free: u64,
    },
    /// A documented limit is reached.
    #[error("pool {pool}: {what}")]
    Limit {
        /// The pool.
        pool: String,
        /// Which limit.
        what: String,
    },
    /// There is a replica of that name.
    #[error("pool {pool} has a replica {name} already")]
    Exists {
        /// The pool.
        pool: String,
        /// The replica.
        name: String,
    },
    /// There is no replica of that name.
    #[error("pool {pool} has no replica {name}")]
    NotFound {
        /// The pool.
        pool: String,
        /// The replica.
        name: String,
    },
    /// The pool still holds replicas.
    #[error("pool {pool} holds {replicas} replicas; destroy them first")]
    NotEmpty {
        /// The pool.
        pool: String,
        /// How many.
        replicas: usize,
    },
    /// The pool stopped after a metadata write or a flush failed.
    #[error("pool {pool} has stopped: {why}")]
    Faulted {
        /// The pool.
        pool: String,
        /// The first failure.
        why: String,
    },
    /// The pool was exported or destroyed.
    #[error("pool {0} is closed")]
    Closed(String),
}
