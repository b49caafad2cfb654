//! Where a ticket's callback leaves an outcome for the machine that waits for it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use crate::Notify;

/// An unbounded single-threaded queue with one waiting owner. Callbacks push, the owner drains.
///
/// Its length is bounded by what the owner has in flight, not by the queue.
pub struct Queue<T>(Rc<Inner<T>>);

struct Inner<T> {
    items: RefCell<VecDeque<T>>,
    notify: Notify,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Queue(self.0.clone())
    }
}
impl<T> Default for Queue<T> {
    fn default() -> Self {
        Queue(Rc::new(Inner { items: RefCell::new(VecDeque::new()), notify: Notify::default() }))
    }
}

impl<T> Queue<T> {
    /// Adds an item and wakes the owner.
    pub fn push(&self, item: T) {
        self.0.items.borrow_mut().push_back(item);
        self.0.notify.notify();
    }
    /// Takes the oldest item, if there is one.
    pub fn pop(&self) -> Option<T> {
        self.0.items.borrow_mut().pop_front()
    }
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.0.items.borrow().is_empty()
    }
    /// Waits until there is something to [`pop`](Queue::pop).
    pub async fn ready(&self) {
        while self.is_empty() {
            self.0.notify.notified().await;
        }
    }
    /// Waits for the oldest item and takes it.
    pub async fn next(&self) -> T {
        loop {
            if let Some(item) = self.pop() {
                return item;
            }
            self.0.notify.notified().await;
        }
    }
}
