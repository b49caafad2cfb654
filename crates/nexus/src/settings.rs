//! What may be changed while a nexus runs.

use std::time::Duration;

use block::Bytes;

/// The settings of a nexus. All may be changed while it runs; flights in progress go on under the new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A member with more errors than this in one window is removed, even when every retry succeeded.
    pub error_threshold: u32,
    /// How long an error counts.
    pub error_window: Duration,
    /// A member that has not answered a request for this long, or has failed it for this long, is removed.
    pub member_deadline: Duration,
    /// Copy tasks that one rebuild runs at a time.
    pub rebuild_tasks: u32,
    /// Bytes that one copy task moves; a multiple of 4096, at most 1 MiB.
    pub rebuild_segment: Bytes,
    /// How long a region stays marked as dirty after its last write.
    pub clear_after: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            error_threshold: 64,
            error_window: Duration::from_secs(10),
            member_deadline: Duration::from_secs(10),
            rebuild_tasks: 16,
            rebuild_segment: Bytes(64 << 10),
            clear_after: Duration::from_secs(5),
        }
    }
}

impl Settings {
    /// Whether every value is in its range; says which one is not.
    pub fn check(&self) -> Result<(), &'static str> {
        let segment = self.rebuild_segment.0;
        if segment == 0 || !segment.is_multiple_of(4096) || segment > block::limits::TRANSFER_BYTES as u64 {
            return Err("the rebuild segment must be a multiple of 4 KiB, at most 1 MiB");
        }
        if self.rebuild_tasks == 0 || self.rebuild_tasks > 1024 {
            return Err("rebuild tasks must be 1 to 1024");
        }
        if self.member_deadline < Duration::from_millis(10) {
            return Err("the member deadline must be at least 10 ms");
        }
        if self.error_window.is_zero() || self.clear_after.is_zero() {
            return Err("a window must be longer than nothing");
        }
        Ok(())
    }
}
