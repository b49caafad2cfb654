//! A rebuild as an operator sees it.

use std::time::Duration;

use block::{Blocks, Instant};

use crate::copy::Copier;
use crate::member::MemberId;

/// The state of a rebuild, in v0.3.0's words.
///
/// ```text
///  init ──▶ running ⇄ paused          (init passes at once)
///              │  ╲      │
///              │   ╲     └──▶ stopped (the member stays out of sync; what was copied is remembered)
///              ▼    ▼
///        completed  failed
/// ```
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

/// A rebuild in progress. It belongs to a member in Rebuilding or Growing.
pub(crate) struct Job {
    pub state: RebuildState,
    pub copier: Copier,
}

/// How far a rebuild is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Its state.
    pub state: RebuildState,
    /// Blocks copied.
    pub done: Blocks,
    /// Blocks to copy in all.
    pub total: Blocks,
    /// Blocks copied in a second, lately.
    pub per_second: Blocks,
    /// Time to the end, when known.
    pub eta: Option<Duration>,
    /// The member that the next segment would be read from.
    pub source: Option<MemberId>,
}

impl Job {
    pub(crate) fn progress(&self, now: Instant, source: Option<MemberId>) -> Progress {
        let (done, total) = (self.copier.blocks_done.min(self.copier.blocks_total), self.copier.blocks_total);
        let per_second = if self.state == RebuildState::Running { self.copier.rate(now) } else { 0 };
        let eta = (per_second > 0).then(|| Duration::from_millis((total - done).saturating_mul(1000) / per_second));
        let (done, total, per_second) = (Blocks(done), Blocks(total), Blocks(per_second));
        Progress { state: self.state, done, total, per_second, eta, source }
    }
}
