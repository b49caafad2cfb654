//! What every world must do, as checks that panic with a message when it does not: [`check_disk`] for whatever has blocks
//! (a file, a loop device, a simulated disk, a replica, a nexus), [`check_streams`], [`check_clock`], [`check_files`].
//!
//! The checks of a disk overwrite it, and are the same in every run.

mod disk;
mod world;

pub use disk::{LEAST_BYTES, check_disk};
pub use world::{check_clock, check_files, check_streams};
