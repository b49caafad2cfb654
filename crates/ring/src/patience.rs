//! How long a data thread watches for completions before it sleeps.

use std::cell::Cell;
use std::time::Duration;

/// The first watch after one that would have paid.
const FIRST: Duration = Duration::from_micros(10);

/// Learns from how long the thread slept whether watching pays, as Linux does before it halts a virtual processor.
///
/// A sleep that was shorter than the longest watch allowed says that watching would have caught what came: the next watch
/// is twice as long. A longer one says that it would have been in vain: the next is half as long. So an idle thread, and one
/// whose requests take longer than the limit anyway, do not watch at all, and nobody has to choose.
pub(crate) struct Patience {
    most: Duration,
    now: Cell<Duration>,
}

impl Patience {
    /// Never longer than `most`; zero: never.
    pub(crate) fn new(most: Duration) -> Patience {
        Patience { most, now: Cell::default() }
    }

    /// How long to watch now.
    pub(crate) fn watch(&self) -> Duration {
        self.now.get()
    }

    /// Whether it wants to know how long the thread sleeps.
    pub(crate) fn is_learning(&self) -> bool {
        !self.most.is_zero()
    }

    /// The thread has slept for so long, after it had watched in vain.
    pub(crate) fn slept(&self, slept: Duration) {
        let now = self.now.get();
        self.now.set(if slept <= self.most {
            (now * 2).clamp(FIRST.min(self.most), self.most)
        } else if now < FIRST {
            Duration::ZERO
        } else {
            now / 2
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_micros(50);

    #[test]
    fn short_sleeps_make_it_watch_and_long_ones_make_it_stop() {
        let patience = Patience::new(MOST);
        assert_eq!(patience.watch(), Duration::ZERO);
        for _ in 0..4 {
            patience.slept(Duration::from_micros(30));
        }
        assert_eq!(patience.watch(), MOST);
        for _ in 0..4 {
            patience.slept(Duration::from_millis(20));
        }
        assert_eq!(patience.watch(), Duration::ZERO);
        patience.slept(Duration::from_secs(3600));
        assert_eq!(patience.watch(), Duration::ZERO);
    }

    #[test]
    fn a_limit_below_the_first_watch_is_kept_and_zero_means_never() {
        let brief = Patience::new(Duration::from_micros(3));
        brief.slept(Duration::from_micros(1));
        assert_eq!(brief.watch(), Duration::from_micros(3));
        let never = Patience::new(Duration::ZERO);
        never.slept(Duration::ZERO);
        assert_eq!(never.watch(), Duration::ZERO);
        assert!(!never.is_learning());
    }
}
