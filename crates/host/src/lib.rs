//! The one seam to the world: disks, network, clock, randomness, durable files, and a small deterministic executor.
//!
//! Two worlds stand behind it: `ring` (Linux, io_uring) and `sim` (a seeded box with faults). All logic that can lose
//! data runs unchanged on both.
#![forbid(unsafe_code)]

pub mod conformance;
mod disk;
mod executor;
mod queue;
mod world;

pub use disk::{Disk, DiskExt, DiskRef, Reservable};
pub use executor::{Executor, JoinHandle, Notify, Spawner};
pub use queue::Queue;
pub use world::{AnyListener, AnyStream, Claim, Host, Listener, LocalFuture, OpenError, OpenOptions, Stream, World};
