//! A mirrored volume: fan-out of requests, member states, the in-sync ledger, dirty regions and rebuild.
//!
//! Nothing here does I/O or reads a clock. The contract is docs/replication.md.
#![forbid(unsafe_code)]

mod bitmap;
mod copy;
pub mod label;
pub mod ledger;
pub mod machine;
pub mod map;
mod member;
pub mod meta;
pub mod open;
mod ranges;
mod rebuild;
mod settings;

pub use bitmap::Bitmap;
pub use machine::Nexus;
pub use member::{MemberId, MemberState, Reason};
pub use rebuild::{Progress, RebuildState};
pub use settings::Settings;
