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
        let broken = change.conditions.iter().find(|(key, wanted)| map.get(key).map(|e| e.revision) != *wanted);
        let result = match broken {
            Some((key, _)) => Err(StoreError::Conflict(key.clone())),
            None => {
                *last += 1;
                for (key, value) in change.puts {
                    map.insert(key, Entry { value, revision: *last });
                }
                for key in change.deletes {
                    map.remove(&key);
                }
                Ok(*last)
            }
        };
        Box::pin(std::future::ready(result))
    }
}
