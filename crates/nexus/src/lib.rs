//! A mirrored volume: fan-out of requests, member states, the in-sync ledger, dirty regions and rebuild.
//!
//! Nothing here does I/O or reads a clock. The contract is docs/replication.md.
#![forbid(unsafe_code)]

mod bitmap;
pub mod label;
pub mod ledger;
pub mod map;
pub mod meta;
mod ranges;
mod settings;

pub use bitmap::Bitmap;
pub use settings::Settings;

/// The state of a rebuild, in v0.3.0's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RebuildState {
    /// Made, not started.
    Init,
    /// Copying.
    Running,
    /// Ended before its end by command; what was copied is remembered.
    Stopped,
    /// Waiting for a command to go on; the member still gets every write.
    Paused,
    /// Ended by an error.
    Failed,
    /// The member is in sync.
    Completed,
}

impl RebuildState {
    /// The state as v0.3.0's GetRebuildState spells it.
    pub fn name(self) -> &'static str {
        match self {
            RebuildState::Init => "init",
            RebuildState::Running => "running",
            RebuildState::Stopped => "stopped",
            RebuildState::Paused => "paused",
            RebuildState::Failed => "failed",
            RebuildState::Completed => "completed",
        }
    }
}
