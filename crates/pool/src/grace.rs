//! When has every request ended that began before a moment? A freed extent waits for that: until then a slow read
//! could return, or a slow write destroy, what its next owner has written.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use host::Notify;

/// Counts requests to disks, by epoch. A new epoch begins whenever something is freed.
#[derive(Default)]
pub struct Grace {
    /// Requests in flight; the first is of epoch `oldest`, the last of the current one.
    counts: RefCell<VecDeque<u32>>,
    oldest: Cell<u64>,
    moved: Notify,
}

impl Grace {
    /// A request goes to a disk; the returned epoch goes to [`Grace::leave`].
    #[inline]
    pub fn enter(&self) -> u64 {
        let mut counts = self.counts.borrow_mut();
        if counts.is_empty() {
            counts.push_back(0);
        }
        *counts.back_mut().expect("not empty") += 1;
        self.oldest.get() + counts.len() as u64 - 1
    }

    /// The request has ended.
    #[inline]
    pub fn leave(&self, epoch: u64) {
        let mut counts = self.counts.borrow_mut();
        counts[(epoch - self.oldest.get()) as usize] -= 1;
        self.trim(&mut counts);
        if *counts.front().expect("the current epoch") == 0 {
            self.moved.notify();
        }
    }

    fn trim(&self, counts: &mut VecDeque<u32>) {
        while counts.len() > 1 && counts.front() == Some(&0) {
            counts.pop_front();
            self.oldest.set(self.oldest.get() + 1);
            self.moved.notify();
        }
    }

    /// Ends the current epoch and returns it: whatever is freed now waits until it is before [`Grace::oldest`].
    pub fn turn(&self) -> u64 {
        let mut counts = self.counts.borrow_mut();
        if counts.is_empty() {
            counts.push_back(0);
        }
        let current = self.oldest.get() + counts.len() as u64 - 1;
        counts.push_back(0);
        self.trim(&mut counts);
        current
    }

    /// Every request of an earlier epoch has ended.
    pub fn oldest(&self) -> u64 {
        self.oldest.get()
    }

    /// Waits until every request of `epoch` and before has ended. One waiter at a time.
    pub async fn passed(&self, epoch: u64) {
        while self.oldest.get() <= epoch {
            self.moved.notified().await;
        }
    }

    /// How many requests are in flight.
    pub fn in_flight(&self) -> u64 {
        self.counts.borrow().iter().map(|n| u64::from(*n)).sum()
    }

    /// Waits until no request is in flight. One waiter at a time.
    pub async fn idle(&self) {
        while self.in_flight() > 0 {
            self.moved.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_passes_when_its_last_request_and_all_before_have_ended() {
        let g = Grace::default();
        let a = g.enter();
        let freed = g.turn();
        let b = g.enter();
        let freed_later = g.turn();
        assert!(g.oldest() <= freed);
        g.leave(b);
        assert!(g.oldest() <= freed, "the older one still runs");
        g.leave(a);
        assert!(g.oldest() > freed_later);
        let idle = g.turn();
        assert!(g.oldest() > idle, "nothing in flight, nothing to wait for");
        assert_eq!(g.in_flight(), 0);
    }
}
