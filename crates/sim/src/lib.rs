//! The world in a box: one seed gives one run. Disks with volatile caches and faults, a network, a clock that jumps to
//! the next event, nodes that can be killed, and the enumeration of all disk images that a power cut may leave.
//!
//! The fault model, in words, is docs/faults.md.
#![forbid(unsafe_code)]

pub mod crash;

mod disk;
mod entropy;
mod net;
mod world;

pub use disk::{DiskImage, DiskOptions, SimDisk};
pub use entropy::Entropy;
pub use net::Net;
pub use world::{Skew, Watcher, World};
