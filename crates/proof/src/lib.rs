//! The whole cluster in a box: real engines, nexuses, pools and NVMe/TCP sessions, the real planner, clients; a schedule of
//! what goes wrong; and oracles that say whether what docs/replication.md promises was kept.
//!
//! One seed is one [`Scenario`], one scenario one run, event for event.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "the campaign around the runs reads files and the clock; a run does not")]

mod audit;
pub mod campaign;
pub mod cli;
mod client;
mod cluster;
#[cfg(feature = "mutants")]
pub mod mutants;
mod operator;
pub mod oracle;
mod panics;
pub mod payload;
mod rot;
mod run;
pub mod scenario;
pub mod shrink;
mod store;
mod tape;
mod trace;
mod trouble;
mod view;

pub use run::{Report, run};
pub use scenario::Scenario;
pub use tape::Tape;

/// Runs a future as a task of a world's node `main` until it has ended.
fn run_world<T: 'static>(world: &sim::World, future: impl Future<Output = T> + 'static) -> T {
    world.run(future)
}
