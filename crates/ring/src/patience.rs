//! Whether a data thread watches for completions before it sleeps.

use std::cell::Cell;
use std::time::Duration;

/// Watches in vain, one after the other, after which the thread stops watching.
const MISSES: u32 = 2;
/// Short sleeps before it is tried for the first time, and again after it was successful.
const FIRST_PAUSE: u32 = 4;
/// The most short sleeps before it is tried again.
const LONGEST_PAUSE: u32 = 4096;

/// Learns whether watching pays.
///
/// ```text
///                short sleeps enough
///   Sleeping ──────────────────────────▶ Watching ──┐ something came: no misses any more
///       ▲                                    │ ▲────┘
///       └────────────────────────────────────┘
///              too many misses in a row; the next pause is twice as long
/// ```
///
/// A sleep that was shorter than the longest watch may say that watching would have caught what came. It may also say that
/// what came was made by somebody who had to wait for our processor; then watching only delays it. So it is tried, and what
/// fails is tried less and less often. An idle thread sleeps for long, and never watches.
pub(crate) struct Patience {
    most: Duration,
    state: Cell<State>,
    /// The length of the next pause, in short sleeps.
    pause: Cell<u32>,
}

#[derive(Clone, Copy)]
enum State {
    /// Until so many more short sleeps.
    Sleeping(u32),
    /// With so many misses in a row.
    Watching(u32),
}

impl Patience {
    /// Never watches for longer than `most`; zero: never.
    pub(crate) fn new(most: Duration) -> Patience {
        Patience { most, state: Cell::new(State::Sleeping(FIRST_PAUSE)), pause: Cell::new(FIRST_PAUSE) }
    }

    /// How long to watch now; zero: sleep at once.
    pub(crate) fn watch(&self) -> Duration {
        match self.state.get() {
            State::Watching(_) => self.most,
            State::Sleeping(_) => Duration::ZERO,
        }
    }

    /// Something came while the thread watched.
    pub(crate) fn hit(&self) {
        self.pause.set(FIRST_PAUSE);
        self.state.set(State::Watching(0));
    }

    /// The thread has watched in vain.
    pub(crate) fn missed(&self) {
        let State::Watching(misses) = self.state.get() else { return };
        if misses + 1 < MISSES {
            return self.state.set(State::Watching(misses + 1));
        }
        let pause = self.pause.get();
        self.pause.set((pause * 2).min(LONGEST_PAUSE));
        self.state.set(State::Sleeping(pause));
    }

    /// Whether it wants to know how long the thread sleeps.
    pub(crate) fn wants_to_know(&self) -> bool {
        !self.most.is_zero() && matches!(self.state.get(), State::Sleeping(_))
    }

    /// The thread has slept for so long.
    pub(crate) fn slept(&self, slept: Duration) {
        let State::Sleeping(left) = self.state.get() else { return };
        if slept <= self.most {
            self.state.set(if left > 1 { State::Sleeping(left - 1) } else { State::Watching(0) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_micros(50);
    const SHORT: Duration = Duration::from_micros(30);
    const LONG: Duration = Duration::from_millis(20);

    fn sleeps_until_it_watches(patience: &Patience) -> u32 {
        let mut sleeps = 0;
        while patience.watch().is_zero() {
            patience.slept(SHORT);
            sleeps += 1;
        }
        sleeps
    }

    #[test]
    fn it_watches_after_short_sleeps_and_as_long_as_that_pays() {
        let patience = Patience::new(MOST);
        assert_eq!(sleeps_until_it_watches(&patience), FIRST_PAUSE);
        for _ in 0..100 {
            patience.missed();
            patience.hit();
            assert_eq!(patience.watch(), MOST);
        }
        (0..MISSES).for_each(|_| patience.missed());
        assert_eq!(patience.watch(), Duration::ZERO);
    }

    #[test]
    fn what_never_pays_is_tried_less_and_less_often() {
        let patience = Patience::new(MOST);
        for pause in [4, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 4096] {
            assert_eq!(sleeps_until_it_watches(&patience), pause);
            (0..MISSES).for_each(|_| patience.missed());
        }
        assert_eq!(sleeps_until_it_watches(&patience), LONGEST_PAUSE);
        patience.hit();
        (0..MISSES).for_each(|_| patience.missed());
        assert_eq!(sleeps_until_it_watches(&patience), FIRST_PAUSE);
    }

    #[test]
    fn an_idle_thread_and_one_that_may_not_never_watch() {
        let idle = Patience::new(MOST);
        (0..10_000).for_each(|_| idle.slept(LONG));
        assert_eq!(idle.watch(), Duration::ZERO);
        let never = Patience::new(Duration::ZERO);
        (0..10_000).for_each(|_| never.slept(SHORT));
        assert_eq!(never.watch(), Duration::ZERO);
        assert!(!never.wants_to_know());
    }
}
