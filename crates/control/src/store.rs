//! Where the control plane keeps what it must not forget.
//!
//! A store holds keys with values and a revision each. A change concerns one key: its condition is checked and the change is
//! made, or nothing is (docs/decisions/0006-stores.md says why one is enough). The embedded store is one file; etcd and
//! others hold the records of several control planes, of which one leads ([`election`]).

pub mod election;
mod embedded;
pub mod etcd;
mod memory;

use std::future::Future;
use std::pin::Pin;

use thiserror::Error;

pub use embedded::EmbeddedStore;
pub use memory::MemoryStore;

/// What the calls of a store return.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A durable map. Reads see every change that was answered before they began. A call that fails with
/// [`StoreError::Failed`] may have been carried out all the same; it is never tried again by the store itself.
pub trait Store: Send + Sync + 'static {
    /// The value of a key.
    fn get(&self, key: &str) -> StoreFuture<'_, Option<Entry>>;
    /// All keys that begin with `prefix`, in order.
    fn list(&self, prefix: &str) -> StoreFuture<'_, Vec<(String, Entry)>>;
    /// Makes a change and returns the new revision of the key. Durable once answered, unless it is lazy.
    fn commit(&self, change: Change) -> StoreFuture<'_, u64>;
    /// Asks the store whether changes through this handle are still accepted: [`StoreError::Deposed`] when another control
    /// plane leads. What was read before it is answered was true when it was asked.
    fn confirm(&self) -> StoreFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// A value and its revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Vec<u8>,
    /// Changes with each put.
    pub revision: u64,
}

/// Whether a change must outlive a power cut once it is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Urgency {
    /// It must.
    #[default]
    Durable,
    /// It may be lost unless a durable change follows (events).
    Lazy,
}

/// What a key must be for a change to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// As it may.
    Anything,
    /// Not there.
    Absent,
    /// There, with this revision.
    Revision(u64),
}

impl Expected {
    /// Whether a key with that revision (`None`: not there) is as expected.
    pub fn fits(self, revision: Option<u64>) -> bool {
        match self {
            Expected::Anything => true,
            Expected::Absent => revision.is_none(),
            Expected::Revision(wanted) => revision == Some(wanted),
        }
    }
}

/// A change of one key.
#[derive(Clone, Debug)]
pub struct Change {
    /// The key.
    pub key: String,
    /// What it must be before.
    pub expected: Expected,
    /// What it becomes; `None`: it goes, whether it was there or not.
    pub value: Option<Vec<u8>>,
    /// Whether it must outlive a power cut.
    pub urgency: Urgency,
}

impl Change {
    /// A durable change.
    pub fn new(key: impl Into<String>, expected: Expected, value: Option<Vec<u8>>) -> Change {
        Change { key: key.into(), expected, value, urgency: Urgency::Durable }
    }
    /// One that may be lost.
    pub fn lazy(key: impl Into<String>, value: Option<Vec<u8>>) -> Change {
        Change { key: key.into(), expected: Expected::Anything, value, urgency: Urgency::Lazy }
    }
}

/// Why the store did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StoreError {
    /// The key is not as expected: somebody else changed it.
    #[error("{0} was changed meanwhile")]
    Conflict(String),
    /// A record cannot be understood. Nothing is overwritten.
    #[error("the record {key} in the store cannot be read: {why}")]
    Corrupt {
        /// The record.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// Another process has the store open.
    #[error("the store {0} is in use by another process")]
    Busy(String),
    /// Another control plane leads now: this one may not change anything any more.
    #[error("this control plane does not lead any more: {0}")]
    Deposed(String),
    /// The store does not work, or cannot be reached.
    #[error("the store failed: {0}")]
    Failed(String),
}
