//! A real Linux kernel as the initiator: boots a Debian kernel in QEMU and runs commands in it.
//!
//! The kernel that runs the tests is often without NVMe/TCP and the test without the right to load modules; a guest has
//! both. It reaches the machine's 127.0.0.1 as [`HOST_ADDRESS`].
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "a test harness: it starts processes, reads files and waits")]

pub mod cluster;
mod image;
mod vm;

pub use image::Image;
pub use vm::{Ran, Vm};

/// What a fallible step of the harness returns.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The address at which the guest finds what listens on the machine's 127.0.0.1.
pub const HOST_ADDRESS: &str = "10.0.2.2";
