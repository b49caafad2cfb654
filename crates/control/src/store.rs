//! Where the control plane keeps what it must not forget.
//!
//! A store holds keys with values and a revision each. A change is a transaction: its conditions are checked and all of
//! its puts and deletes are made, or nothing is. The embedded store is one file; others (etcd, Kubernetes) fit the trait.

mod embedded;
mod memory;

use std::future::Future;
use std::pin::Pin;

use thiserror::Error;

pub use embedded::EmbeddedStore;
pub use memory::MemoryStore;

/// What the calls of a store return.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A durable, transactional map.
pub trait Store: Send + Sync + 'static {
    /// The value of a key.
    fn get(&self, key: &str) -> StoreFuture<'_, Option<Entry>>;
    /// All keys that begin with `prefix`, in order.
    fn list(&self, prefix: &str) -> StoreFuture<'_, Vec<(String, Entry)>>;
    /// Makes a change as a whole and returns the revision of what it put. Durable once answered.
    fn commit(&self, change: Change) -> StoreFuture<'_, u64>;
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

/// A transaction.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Keys and the revision that each must have; `None`: the key must not exist.
    pub conditions: Vec<(String, Option<u64>)>,
    /// Keys to set.
    pub puts: Vec<(String, Vec<u8>)>,
    /// Keys to remove, whether they exist or not.
    pub deletes: Vec<String>,
    /// Whether it must outlive a power cut.
    pub urgency: Urgency,
}

/// Why the store did not do what it was asked.
#[derive(Debug, Error)]
pub enum StoreError {
    /// A condition does not hold: somebody else changed this key.
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
    /// The store does not work, or cannot be reached.
    #[error("the store failed: {0}")]
    Failed(String),
}
