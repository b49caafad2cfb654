//! Locks on block ranges: overlapping requests are carried out one after the other, in the order of their arrival.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use block::{BlockRange, Lba};

/// Locks up to this long are found by their start; longer ones (large unmaps) are few and looked through.
const SHORT: u64 = 2048;
/// How many waiting locks a release looks at, so that a hot block with a deep queue stays cheap.
const LOOK: usize = 64;

/// Whether others may hold the blocks too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Other shared locks may overlap: reads.
    Shared,
    /// Nobody else: changes and copies.
    Exclusive,
}

#[derive(Clone, Copy, Debug)]
struct Lock<K> {
    key: K,
    range: BlockRange,
    mode: Mode,
}

fn conflict<K: PartialEq>(a: &Lock<K>, b: &Lock<K>) -> bool {
    (a.mode == Mode::Exclusive || b.mode == Mode::Exclusive) && a.range.overlaps(b.range)
}

/// The locks held and waited for, each known by a key of the owner's.
#[derive(Debug)]
pub struct Ranges<K> {
    short: BTreeMap<(Lba, K), Lock<K>>,
    long: Vec<Lock<K>>,
    waiting: VecDeque<Lock<K>>,
}

impl<K> Default for Ranges<K> {
    fn default() -> Self {
        Ranges { short: BTreeMap::new(), long: Vec::new(), waiting: VecDeque::new() }
    }
}

impl<K: Copy + Ord + Default> Ranges<K> {
    /// Whether nothing is held or waited for.
    pub fn is_empty(&self) -> bool {
        self.short.is_empty() && self.long.is_empty() && self.waiting.is_empty()
    }

    /// The keys of those that wait, in their order.
    pub fn waiting(&self) -> impl Iterator<Item = K> + '_ {
        self.waiting.iter().map(|w| w.key)
    }

    /// Asks for a lock. `true`: it is held now. `false`: a later [`Ranges::release`] will name the key.
    pub fn acquire(&mut self, key: K, range: BlockRange, mode: Mode) -> bool {
        let lock = Lock { key, range, mode };
        if self.waiting.iter().any(|w| conflict(w, &lock)) || self.is_held(&lock) {
            self.waiting.push_back(lock);
            return false;
        }
        self.hold(lock);
        true
    }

    /// Gives a held lock back; the keys of those that hold theirs now are added to `granted`.
    pub fn release(&mut self, key: K, range: BlockRange, granted: &mut Vec<K>) {
        if range.len.0 <= SHORT {
            self.short.remove(&(range.start, key)).expect("a lock that is released is held");
        } else {
            let at = self.long.iter().position(|l| l.key == key).expect("a lock that is released is held");
            self.long.swap_remove(at);
        }
        self.grant(granted);
    }

    /// Gives up waiting; others may hold theirs now.
    pub fn withdraw(&mut self, key: K, granted: &mut Vec<K>) {
        self.waiting.retain(|w| w.key != key);
        self.grant(granted);
    }

    fn grant(&mut self, granted: &mut Vec<K>) {
        let mut at = 0;
        while at < self.waiting.len().min(LOOK) {
            let lock = self.waiting[at];
            let blocked = self.waiting.iter().take(at).any(|w| conflict(w, &lock)) || self.is_held(&lock);
            if blocked {
                at += 1;
            } else {
                self.waiting.remove(at);
                self.hold(lock);
                granted.push(lock.key);
            }
        }
    }

    fn hold(&mut self, lock: Lock<K>) {
        if lock.range.len.0 <= SHORT {
            self.short.insert((lock.range.start, lock.key), lock);
        } else {
            self.long.push(lock);
        }
    }

    fn is_held(&self, lock: &Lock<K>) -> bool {
        let from = Lba(lock.range.start.0.saturating_sub(SHORT));
        let near = self.short.range((Bound::Included((from, K::default())), Bound::Unbounded));
        self.long.iter().any(|h| conflict(h, lock))
            || near.take_while(|((at, _), _)| *at < lock.range.end()).any(|(_, h)| conflict(h, lock))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn readers_share_and_a_waiting_writer_is_not_overtaken() {
        let (mut r, mut granted) = (Ranges::default(), Vec::new());
        let range = BlockRange::new(10, 4);
        assert!(r.acquire(1, range, Mode::Shared));
        assert!(r.acquire(2, range, Mode::Shared));
        assert!(!r.acquire(3, BlockRange::new(13, 5), Mode::Exclusive));
        assert!(!r.acquire(4, range, Mode::Shared), "it would overtake the writer");
        assert!(r.acquire(5, BlockRange::new(18, 5000), Mode::Exclusive), "a neighbour does not wait");
        r.release(1, range, &mut granted);
        assert!(granted.is_empty());
        r.release(2, range, &mut granted);
        assert_eq!(granted, [3]);
        granted.clear();
        r.withdraw(4, &mut granted);
        r.release(3, BlockRange::new(13, 5), &mut granted);
        r.release(5, BlockRange::new(18, 5000), &mut granted);
        assert!(granted.is_empty() && r.is_empty());
    }

    proptest! {
        /// Against a list of all locks, in order: one is held when it conflicts with nothing before it in the list.
        #[test]
        fn as_the_naive_list_does(steps in prop::collection::vec((0u64..40, 1u64..12, any::<bool>(), any::<bool>(), any::<prop::sample::Index>()), 1..120)) {
            let mut ranges = Ranges::default();
            let mut naive: Vec<Lock<u32>> = Vec::new();
            let mut held: Vec<u32> = Vec::new();
            for (key, (start, len, exclusive, release, which)) in (1u32..).zip(steps) {
                let mut granted = Vec::new();
                if release && !held.is_empty() {
                    let key = held.swap_remove(which.index(held.len()));
                    let at = naive.iter().position(|l| l.key == key).expect("listed");
                    let lock = naive.remove(at);
                    ranges.release(key, lock.range, &mut granted);
                } else {
                    let mode = if exclusive { Mode::Exclusive } else { Mode::Shared };
                    // Some long ones, which lie in the other table.
                    let range = BlockRange::new(start * 500, if len == 11 { 5000 } else { len * 180 });
                    naive.push(Lock { key, range, mode });
                    if ranges.acquire(key, range, mode) {
                        granted.push(key);
                    }
                }
                held.extend(granted);
                let mut want: Vec<u32> = Vec::new();
                for (i, l) in naive.iter().enumerate() {
                    if !naive[..i].iter().any(|b| conflict(b, l)) {
                        want.push(l.key);
                    }
                }
                held.sort_unstable();
                prop_assert_eq!(&held, &want);
            }
        }
    }
}
