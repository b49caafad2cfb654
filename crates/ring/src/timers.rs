//! Who waits for the clock.

use std::collections::BTreeMap;
use std::task::Waker;

use block::Instant;

/// Timers of one thread, by due time; the number keeps those of the same time apart.
#[derive(Default)]
pub(crate) struct Timers {
    waiting: BTreeMap<TimerKey, Waker>,
    next: u64,
}

/// Names a timer that was set.
pub(crate) type TimerKey = (Instant, u64);

impl Timers {
    /// Wakes `waker` at `due`.
    pub(crate) fn set(&mut self, due: Instant, waker: Waker) -> TimerKey {
        let key = (due, self.next);
        self.next += 1;
        self.waiting.insert(key, waker);
        key
    }
    /// Changes who is woken; `false` when the timer has already fired.
    pub(crate) fn update(&mut self, key: TimerKey, waker: &Waker) -> bool {
        match self.waiting.get_mut(&key) {
            Some(slot) => {
                slot.clone_from(waker);
                true
            }
            None => false,
        }
    }
    /// Forgets a timer.
    pub(crate) fn clear(&mut self, key: TimerKey) {
        self.waiting.remove(&key);
    }
    /// When the first timer is due.
    pub(crate) fn first(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|((due, _), _)| *due)
    }
    /// Takes a timer that is due.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Waker> {
        if self.first()? > now {
            return None;
        }
        self.waiting.pop_first().map(|(_, waker)| waker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_fire_in_order_of_their_due_time_and_once() {
        let mut timers = Timers::default();
        let waker = Waker::noop();
        let late = timers.set(Instant(20), waker.clone());
        let early = timers.set(Instant(10), waker.clone());
        let twin = timers.set(Instant(10), waker.clone());
        assert_eq!(timers.first(), Some(Instant(10)));
        assert!(timers.take_due(Instant(9)).is_none());
        timers.clear(twin);
        assert!(timers.take_due(Instant(10)).is_some());
        assert!(timers.take_due(Instant(10)).is_none());
        assert!(!timers.update(early, waker) && timers.update(late, waker));
    }
}
