//! A store with which the control plane dies at a chosen commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use control::store::{Change, Entry, MemoryStore, Store, StoreFuture, Urgency};

/// On which side of the commit the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Before,
    After,
}

pub struct CrashStore {
    inner: Arc<MemoryStore>,
    left: AtomicI64,
    when: When,
    died: tokio::sync::watch::Sender<bool>,
}

impl CrashStore {
    /// Dies at the `n`-th durable commit, counted from 1.
    pub fn new(inner: Arc<MemoryStore>, n: i64, when: When) -> CrashStore {
        CrashStore { inner, left: AtomicI64::new(n), when, died: tokio::sync::watch::Sender::new(false) }
    }
    /// Learns of the death.
    pub fn death(&self) -> tokio::sync::watch::Receiver<bool> {
        self.died.subscribe()
    }
    fn dead(&self) -> bool {
        *self.died.borrow()
    }
}

impl Store for CrashStore {
    fn get(&self, key: &str) -> StoreFuture<'_, Option<Entry>> {
        if self.dead() { Box::pin(std::future::pending()) } else { self.inner.get(key) }
    }
    fn list(&self, prefix: &str) -> StoreFuture<'_, Vec<(String, Entry)>> {
        if self.dead() { Box::pin(std::future::pending()) } else { self.inner.list(prefix) }
    }
    fn commit(&self, change: Change) -> StoreFuture<'_, u64> {
        if self.dead() {
            return Box::pin(std::future::pending());
        }
        let counts = change.urgency == Urgency::Durable;
        if counts && self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.died.send_replace(true);
            return Box::pin(async move {
                if self.when == When::After {
                    let _ = self.inner.commit(change).await;
                }
                std::future::pending().await
            });
        }
        self.inner.commit(change)
    }
}
