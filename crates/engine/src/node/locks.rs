//! One lock an object, so that operations on the same object follow one another and others do not wait.
//!
//! Order, for those who need two: replica before pool. Nothing else is ever held together.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use futures_util::lock::{Mutex, OwnedMutexGuard};

/// Holds the object until it is dropped.
pub(crate) type Held = OwnedMutexGuard<()>;

/// The locks of all objects that somebody holds or waits for.
#[derive(Default)]
pub(crate) struct Locks {
    by_object: RefCell<BTreeMap<String, Weak<Mutex<()>>>>,
}

impl Locks {
    /// Waits until nobody else works on the object.
    pub(crate) async fn hold(&self, kind: &str, name: &str) -> Held {
        let lock = {
            let mut locks = self.by_object.borrow_mut();
            locks.retain(|_, lock| lock.strong_count() > 0);
            let key = format!("{kind}/{name}");
            match locks.get(&key).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    let lock = Arc::new(Mutex::new(()));
                    locks.insert(key, Arc::downgrade(&lock));
                    lock
                }
            }
        };
        lock.lock_owned().await
    }
}
