//! A set of disks as a pool: on-disk format, journal, allocator, thin maps, recovery, `check`.
//!
//! docs/disk-format.md has the format and the argument why it survives a crash at any point. The parts:
//!
//! * formats, pure: [`label`], [`checkpoint`], [`record`], [`signature`];
//! * state, pure: [`metadata`], [`map`], [`allocator`], [`journal`];
//! * sequential work: [`create`], [`import`], [`check`], [`Pool`]'s methods;
//! * the I/O path: [`Replica`], a [`host::Disk`].
#![forbid(unsafe_code)]

pub mod allocator;
mod check;
pub mod checkpoint;
mod codec;
mod core;
mod create;
mod error;
mod flight;
mod grace;
mod import;
mod io;
pub mod journal;
pub mod label;
mod load;
pub mod map;
pub mod metadata;
mod path;
mod pool;
pub mod record;
mod replica;
mod route;
pub mod signature;
mod upkeep;

pub use check::{Report, check};
pub use create::{CreateOptions, create};
pub use error::PoolError;
pub use import::import;
pub use load::{LabelInfo, Probe, probe, wipe};
pub use pool::{DiskInfo, Pool, PoolInfo, PoolState, ReplicaSpec};
pub use replica::{Replica, ReplicaState};

use host::DiskRef;

/// The smallest extent, in bytes. Below [`SENSIBLE_EXTENT`] it is meant for tests.
pub const MIN_EXTENT: u64 = 4096;
/// The smallest extent that a pool of real disks should have, in bytes.
pub const SENSIBLE_EXTENT: u64 = 64 << 10;
/// The largest extent, in bytes.
pub const MAX_EXTENT: u64 = 64 << 20;
/// The extent that is used when none is asked for, unless the pool is so large that it needs larger ones.
pub const DEFAULT_EXTENT: u64 = 1 << 20;
/// The extents of the largest replica: 256 TiB with extents of 1 MiB.
pub const MAX_REPLICA_EXTENTS: u32 = 1 << 28;
/// The most bytes of reservations that a pool keeps for a replica.
pub const MAX_RESERVATIONS: usize = 240;

/// A disk that is given to a pool.
#[derive(Clone)]
pub struct Member {
    /// What a person calls the disk; stored nowhere.
    pub uri: String,
    /// The disk. The pool must be its only user.
    pub disk: DiskRef,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Member({})", self.uri)
    }
}
