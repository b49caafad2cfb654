//! Tells watchers that something changed, without saying what: they fetch the whole report.

use std::cell::{Cell, RefCell};

use futures_channel::oneshot;

/// A counter that can be waited for.
#[derive(Default)]
pub(crate) struct Changes {
    sequence: Cell<u64>,
    waiting: RefCell<Vec<oneshot::Sender<()>>>,
}

impl Changes {
    /// Something changed.
    pub(crate) fn bump(&self) {
        self.sequence.set(self.sequence.get() + 1);
        for waiter in self.waiting.take() {
            // A watcher that is gone needs no news.
            let _ = waiter.send(());
        }
    }

    /// How many changes there were.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence.get()
    }

    /// Waits until there were more than `seen` changes.
    pub(crate) async fn after(&self, seen: u64) {
        while self.sequence.get() <= seen {
            let (tx, rx) = oneshot::channel();
            self.waiting.borrow_mut().retain(|w| !w.is_canceled());
            self.waiting.borrow_mut().push(tx);
            // The sender lives in `self`, so this ends only by a change.
            let _ = rx.await;
        }
    }
}
