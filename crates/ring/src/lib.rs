//! The world behind [`host`] on Linux: data threads with an io_uring each, files and block devices, TCP, timers, and a
//! mailbox through which other threads talk to a data thread.
//!
//! One turn of a thread: run ready tasks, hand what they started to the kernel in one system call, pass on what has
//! completed. A thread without work sleeps in that system call and costs nothing.
//!
//! This is the only crate with `unsafe` code; all of it is in `action`, `loops`, `memory` and `sys`.
#![deny(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "this crate is the world: it owns threads, files and sockets")]

#[allow(unsafe_code, reason = "memory that is lent to the kernel")]
mod action;
mod core;
mod disk;
mod files;
mod helper;
#[allow(unsafe_code, reason = "system calls that no library wraps")]
pub mod loops;
#[allow(unsafe_code, reason = "advice about memory before it is used")]
mod memory;
mod net;
mod open;
mod parker;
mod patience;
mod shard;
#[allow(unsafe_code, reason = "memory that is lent to the kernel")]
mod sys;
mod timers;
mod world;

pub use shard::{DEFAULT_SPIN, Gone, NoRing, Options, Shard, StartError, run, try_run};

#[cfg(test)]
mod tests {
    /// Runs a future that other threads complete.
    pub(crate) fn block_on<T: 'static>(future: impl Future<Output = T> + 'static) -> T {
        crate::run(crate::Options::default(), |_| future)
    }
}
