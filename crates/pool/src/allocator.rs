//! Which extents are free, and what has to happen before one can be used again. Pure: no I/O.
//!
//! ```text
//!            take_dirty            cleaned               allocate
//!   Dirty ───────────────► Cleaning ───────► Clean ──────────────────► Used
//!     ▲  ▲                    │ not_cleaned    (zeroed and flushed)       │ release(record, epoch)
//!     │  └────────────────────┘                                           ▼
//!     └──────────── settle: the record is durable, and no request ──── Pending
//!                   that might still touch the extent is in flight
//! ```

use std::collections::VecDeque;

use block::probe::{Mutant, mutant};

use crate::map::Place;

/// Consecutive extents of one disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskRun {
    /// The disk's index.
    pub disk: u8,
    /// The first extent.
    pub start: u32,
    /// How many.
    pub count: u32,
}

struct Pending {
    place: Place,
    record: u64,
    epoch: u64,
}

struct DiskSpace {
    /// One bit an extent; set: dirty.
    dirty: Vec<u64>,
    count: u32,
    extents: u32,
    /// Where the search for the next dirty extent begins.
    cursor: u32,
}

/// The free space of a pool.
#[derive(Default)]
pub struct Allocator {
    disks: Vec<DiskSpace>,
    clean: VecDeque<Place>,
    cleaning: u64,
    pending: VecDeque<Pending>,
}

impl DiskSpace {
    fn is_dirty(&self, extent: u32) -> bool {
        self.dirty[extent as usize / 64] & (1 << (extent % 64)) != 0
    }
    fn flip(&mut self, extent: u32) {
        self.dirty[extent as usize / 64] ^= 1 << (extent % 64);
    }
    /// The next dirty extent at or after the cursor, going round once.
    fn find(&self) -> Option<u32> {
        if self.count == 0 {
            return None;
        }
        let words = self.dirty.len();
        let first = self.cursor as usize / 64;
        for i in 0..=words {
            let w = (first + i) % words;
            let mut word = self.dirty[w];
            if i == 0 {
                word &= u64::MAX << (self.cursor % 64);
            }
            if word != 0 {
                return Some((w * 64) as u32 + word.trailing_zeros());
            }
        }
        None
    }
}

impl Allocator {
    /// Adds a disk, all of whose extents are dirty but those that `used` names.
    pub fn add_disk(&mut self, extents: u32, used: impl IntoIterator<Item = u32>) {
        let mut disk =
            DiskSpace { dirty: vec![u64::MAX; (extents as usize).div_ceil(64)], count: extents, extents, cursor: 0 };
        if !extents.is_multiple_of(64) {
            *disk.dirty.last_mut().expect("at least one word") = (1 << (extents % 64)) - 1;
        }
        for extent in used {
            assert!(disk.is_dirty(extent), "an extent is used twice");
            disk.flip(extent);
            disk.count -= 1;
        }
        self.disks.push(disk);
    }

    /// Extents that no replica uses, whatever still has to happen to them.
    pub fn free(&self) -> u64 {
        let dirty: u64 = self.disks.iter().map(|d| u64::from(d.count)).sum();
        dirty + self.cleaning + (self.clean.len() + self.pending.len()) as u64
    }
    /// Extents that can be used at once.
    pub fn clean(&self) -> usize {
        self.clean.len()
    }
    /// Whether an extent could be zeroed now.
    pub fn has_dirty(&self) -> bool {
        self.disks.iter().any(|d| d.count > 0)
    }
    /// The record and epoch that the oldest pending extent waits for.
    pub fn oldest_pending(&self) -> Option<(u64, u64)> {
        self.pending.front().map(|p| (p.record, p.epoch))
    }

    /// Takes a clean extent.
    pub fn allocate(&mut self) -> Option<Place> {
        self.clean.pop_front()
    }

    /// An extent lost its owner by journal record `record`; requests of `epoch` or before may still touch it.
    /// Both numbers never decrease from call to call.
    pub fn release(&mut self, place: Place, record: u64, epoch: u64) {
        self.pending.push_back(Pending { place, record, epoch });
    }

    /// Every record up to `durable` is durable, and every request of an epoch before `oldest_epoch` has ended.
    pub fn settle(&mut self, durable: u64, oldest_epoch: u64) {
        // Rules: an extent is used again once it is durably nobody's, and no request from before can still reach it.
        let is_nobodys = |p: &Pending| p.record <= durable || mutant(Mutant::ReuseBeforeDurable);
        let is_quiet = |p: &Pending| p.epoch < oldest_epoch || mutant(Mutant::ReuseUnderRequests);
        while self.pending.front().is_some_and(|p| is_nobodys(p) && is_quiet(p)) {
            let Pending { place, .. } = self.pending.pop_front().expect("there is a first one");
            self.soil(place);
        }
    }

    fn soil(&mut self, place: Place) {
        let disk = &mut self.disks[usize::from(place.disk)];
        assert!(!disk.is_dirty(place.extent), "an extent is freed twice");
        disk.flip(place.extent);
        disk.count += 1;
    }

    /// Takes up to `max` dirty extents for zeroing, from the disk with most of them, as one run.
    pub fn take_dirty(&mut self, max: u32) -> Option<DiskRun> {
        let (index, disk) = self.disks.iter_mut().enumerate().rev().max_by_key(|(_, d)| d.count)?;
        let start = disk.find()?;
        let mut count = 0;
        while count < max && start + count < disk.extents && disk.is_dirty(start + count) {
            disk.flip(start + count);
            count += 1;
        }
        disk.count -= count;
        disk.cursor = if start + count < disk.extents { start + count } else { 0 };
        self.cleaning += u64::from(count);
        (count > 0).then_some(DiskRun { disk: index as u8, start, count })
    }

    /// The run is zeroed, durably.
    pub fn cleaned(&mut self, run: DiskRun) {
        self.cleaning -= u64::from(run.count);
        self.clean.extend((run.start..run.start + run.count).map(|extent| Place { disk: run.disk, extent }));
    }

    /// Zeroing the run failed.
    pub fn not_cleaned(&mut self, run: DiskRun) {
        self.cleaning -= u64::from(run.count);
        for extent in run.start..run.start + run.count {
            self.soil(Place { disk: run.disk, extent });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[derive(Clone, Debug)]
    enum Op {
        Take(u32),
        Clean(bool),
        Allocate,
        Release(usize),
        Settle,
    }
    fn ops() -> impl Strategy<Value = Op> {
        prop_oneof![
            (1u32..9).prop_map(Op::Take),
            any::<bool>().prop_map(Op::Clean),
            Just(Op::Allocate),
            any::<usize>().prop_map(Op::Release),
            Just(Op::Settle),
        ]
    }

    proptest! {
        /// Against sets: no extent is ever in two states, and none is lost.
        #[test]
        fn it_equals_naive_sets(sizes in proptest::collection::vec(1u32..140, 1..4), ops in proptest::collection::vec(ops(), 0..300)) {
            let mut a = Allocator::default();
            let mut dirty = BTreeSet::new();
            for (i, n) in sizes.iter().enumerate() {
                a.add_disk(*n, [0]);
                dirty.extend((1..*n).map(|extent| Place { disk: i as u8, extent }));
            }
            let mut used: Vec<Place> = (0..sizes.len()).map(|i| Place { disk: i as u8, extent: 0 }).collect();
            let (mut cleaning, mut clean, mut pending) = (Vec::new(), BTreeSet::new(), Vec::new());
            let total: usize = sizes.iter().map(|n| *n as usize).sum();
            for (now, op) in ops.into_iter().enumerate() {
                let now = now as u64;
                match op {
                    Op::Take(max) => {
                        let run = a.take_dirty(max);
                        prop_assert_eq!(run.is_none(), dirty.is_empty());
                        if let Some(run) = run {
                            prop_assert!((1..=max).contains(&run.count));
                            for extent in run.start..run.start + run.count {
                                let was_dirty = dirty.remove(&Place { disk: run.disk, extent });
                                prop_assert!(was_dirty);
                            }
                            cleaning.push(run);
                        }
                    }
                    Op::Clean(ok) => {
                        if let Some(run) = cleaning.pop() {
                            let places = (run.start..run.start + run.count).map(|extent| Place { disk: run.disk, extent });
                            if ok { a.cleaned(run); clean.extend(places) } else { a.not_cleaned(run); dirty.extend(places) }
                        }
                    }
                    Op::Allocate => {
                        let place = a.allocate();
                        prop_assert_eq!(place.is_none(), clean.is_empty());
                        if let Some(p) = place { prop_assert!(clean.remove(&p)); used.push(p) }
                    }
                    Op::Release(i) => {
                        if !used.is_empty() {
                            let p = used.swap_remove(i % used.len());
                            a.release(p, now, now);
                            pending.push((p, now));
                        }
                    }
                    Op::Settle => {
                        // Records up to the middle are durable; epochs below now - 5 have ended.
                        let (durable, oldest) = (now / 2, now.saturating_sub(5));
                        a.settle(durable, oldest);
                        let free = |at: u64| at <= durable && at < oldest;
                        dirty.extend(pending.iter().filter(|(_, at)| free(*at)).map(|(p, _)| *p));
                        pending.retain(|(_, at)| !free(*at));
                    }
                }
                prop_assert_eq!(a.free() as usize, total - used.len());
                prop_assert_eq!(a.clean(), clean.len());
                prop_assert_eq!(a.oldest_pending().is_some(), !pending.is_empty());
            }
        }
    }

    #[test]
    fn the_search_goes_round() {
        let mut a = Allocator::default();
        a.add_disk(70, [3]);
        assert_eq!(a.take_dirty(100), Some(DiskRun { disk: 0, start: 0, count: 3 }));
        let rest = a.take_dirty(100).unwrap();
        assert_eq!(rest, DiskRun { disk: 0, start: 4, count: 66 });
        assert_eq!(a.take_dirty(1), None);
        a.not_cleaned(rest);
        a.cleaned(DiskRun { disk: 0, start: 0, count: 3 });
        assert_eq!((a.free(), a.clean()), (69, 3));
        assert_eq!(a.take_dirty(2), Some(DiskRun { disk: 0, start: 4, count: 2 }));
    }
}
