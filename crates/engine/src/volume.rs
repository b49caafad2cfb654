//! A mirrored volume as a block device: drives the pure machine of crate `nexus` over real disks.
//!
//! The rules are in docs/replication.md. This module finds labels and ledgers on the children, decides with
//! `nexus::open` whether the volume may be served, and then moves requests, completions and timers in and out of the
//! machine, with one task for the volume and none per request.

mod api;
mod child;
mod claim;
mod driver;
mod inspect;
mod open;
mod pump;

pub use api::{
    ChildInfo, ChildSpec, ChildState, LedgerError, LedgerStore, NexusError, NexusEvent, NexusInfo, NexusSpec,
    NexusState, NoStore, RebuildInfo, RebuildState, Settings, StoredLedger,
};
pub use driver::Nexus;
pub(crate) use inspect::inspect;
