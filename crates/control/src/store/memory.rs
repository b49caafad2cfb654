//! A store that forgets everything with the process; for tests.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::{Change, Entry, Store, StoreError, StoreFuture};

/// See the module.
#[derive(Default)]
pub struct MemoryStore(Mutex<(u64, BTreeMap<String, Entry>)>);

impl Store for MemoryStore {
    fn get(&self, key: &str) -> StoreFuture<'_, Option<Entry>> {
        let found = self.0.lock().expect("not poisoned").1.get(key).cloned();
        Box::pin(std::future::ready(Ok(found)))
    }
    fn list(&self, prefix: &str) -> StoreFuture<'_, Vec<(String, Entry)>> {
        let map = &self.0.lock().expect("not poisoned").1;
        let from = map.range(prefix.to_owned()..).take_while(|(k, _)| k.starts_with(prefix));
        Box::pin(std::future::ready(Ok(from.map(|(k, e)| (k.clone(), e.clone())).collect())))
    }
    fn commit(&self, change: Change) -> StoreFuture<'_, u64> {
        let mut guard = self.0.lock().expect("not poisoned");
        let (last, map) = &mut *guard;
        let Change { key, expected, value, .. } = change;
        if !expected.fits(map.get(&key).map(|e| e.revision)) {
            return Box::pin(std::future::ready(Err(StoreError::Conflict(key))));
        }
        *last += 1;
        let revision = *last;
        match value {
            Some(value) => drop(map.insert(key, Entry { value, revision })),
            None => drop(map.remove(&key)),
        }
        Box::pin(std::future::ready(Ok(revision)))
    }
}
