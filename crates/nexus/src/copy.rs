//! Which blocks are copied next: the bookkeeping of a rebuild, and of making members equal after an unclean stop.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use block::{BlockRange, Blocks, Instant, Lba};

use crate::bitmap::Bitmap;
use crate::map::Shape;

/// A region of which segments are being copied.
#[derive(Clone, Debug, Hash)]
struct Work {
    region: usize,
    /// The first block of the volume that no task has taken.
    next: Lba,
    outstanding: u32,
    /// A write into the region failed meanwhile: it is copied again.
    again: bool,
}

/// Hands out segments of the regions that are to be copied.
#[derive(Clone, Debug)]
pub(crate) struct Copier {
    /// Tells the segments of this copier from those of an earlier one.
    pub serial: u64,
    cursor: usize,
    /// Regions that were taken up: open, copied, being flushed.
    claimed: Bitmap,
    open: Vec<Work>,
    /// Copied, not yet flushed.
    pub copied: Vec<usize>,
    /// Copied, and covered by the flush that is on its way.
    pub flushing: Vec<usize>,
    /// Segments being copied.
    pub in_flight: u32,
    /// Copying waits until this instant, because no source could be read.
    pub wait_until: Option<Instant>,
    pub blocks_total: u64,
    pub blocks_done: u64,
    rate: Rate,
}

#[derive(Clone, Copy, Debug)]
struct Rate {
    at: Instant,
    blocks: u64,
    per_second: u64,
}

impl Copier {
    pub fn new(todo: &Bitmap, shape: &Shape, now: Instant, serial: u64) -> Copier {
        Copier {
            serial,
            cursor: 0,
            claimed: Bitmap::zeroes(todo.bits()),
            open: Vec::new(),
            copied: Vec::new(),
            flushing: Vec::new(),
            in_flight: 0,
            wait_until: None,
            blocks_total: todo.iter().map(|r| shape.blocks_of(r).len.0).sum(),
            blocks_done: 0,
            rate: Rate { at: now, blocks: 0, per_second: 0 },
        }
    }

    /// The next segment to copy, of at most `len` blocks.
    pub fn next(&mut self, todo: &Bitmap, shape: &Shape, len: Blocks) -> Option<(usize, BlockRange)> {
        let end = |region| shape.blocks_of(region).end();
        let at = match self.open.iter().position(|w| w.next < end(w.region)) {
            Some(at) => at,
            None => {
                let mut region = todo.next_one(self.cursor)?;
                while self.claimed.get(region) {
                    region = todo.next_one(region + 1)?;
                }
                self.claimed.set(region);
                self.cursor = region + 1;
                self.open.push(Work { region, next: shape.blocks_of(region).start, outstanding: 0, again: false });
                self.open.len() - 1
            }
        };
        let work = &mut self.open[at];
        let start = work.next;
        let len = len.min(end(work.region) - start);
        work.next = start + len;
        work.outstanding += 1;
        self.in_flight += 1;
        Some((work.region, BlockRange { start, len }))
    }

    /// A segment was copied. The region, when that was its last.
    pub fn done(&mut self, region: usize, range: BlockRange, shape: &Shape, now: Instant) -> Option<usize> {
        self.in_flight -= 1;
        self.blocks_done += range.len.0;
        self.sample(now);
        let at = self.open.iter().position(|w| w.region == region).expect("a copied segment has an open region");
        let work = &mut self.open[at];
        work.outstanding -= 1;
        if work.outstanding > 0 || work.next < shape.blocks_of(region).end() {
            return None;
        }
        let work = self.open.remove(at);
        if work.again {
            self.forget(region, shape);
            return None;
        }
        Some(region)
    }

    /// A segment could not be copied for now: its region is copied again, not before `wait_until`.
    pub fn failed(&mut self, region: usize, range: BlockRange, shape: &Shape, now: Instant, wait_until: Instant) {
        self.wait_until = Some(wait_until);
        if let Some(work) = self.open.iter_mut().find(|w| w.region == region) {
            work.again = true;
        }
        let ended = self.done(region, range, shape, now);
        assert!(ended.is_none(), "a region with a failed segment is copied again");
    }

    /// A write into the region ended in failure: what was copied of it does not count.
    pub fn spoil(&mut self, region: usize, shape: &Shape) {
        if let Some(work) = self.open.iter_mut().find(|w| w.region == region) {
            work.again = true;
        } else if self.claimed.get(region) {
            self.copied.retain(|&r| r != region);
            self.flushing.retain(|&r| r != region);
            self.forget(region, shape);
        } else {
            // Not yet taken up; it may have become one of the regions to copy only now.
            self.cursor = self.cursor.min(region);
        }
    }

    fn forget(&mut self, region: usize, shape: &Shape) {
        self.claimed.clear(region);
        self.cursor = self.cursor.min(region);
        self.blocks_total += shape.blocks_of(region).len.0;
    }

    /// The volume has more regions from now on.
    pub fn grow(&mut self, regions: usize) {
        self.claimed.grow(regions);
    }

    /// Whether nothing is open, copied or being flushed.
    pub fn is_quiet(&self) -> bool {
        self.open.is_empty() && self.copied.is_empty() && self.flushing.is_empty()
    }

    /// What is still to be done, as a number.
    pub fn digest(&self, now: Instant) -> u64 {
        let mut h = DefaultHasher::new();
        (self.cursor, &self.claimed, &self.open, &self.copied, &self.flushing, self.in_flight).hash(&mut h);
        self.wait_until.map(|t| t.0.saturating_sub(now.0)).hash(&mut h);
        h.finish()
    }

    fn sample(&mut self, now: Instant) {
        let passed = now.since(self.rate.at);
        if passed >= Duration::from_secs(1) {
            let blocks = self.blocks_done - self.rate.blocks;
            let per_second = (u128::from(blocks) * 1_000_000_000 / passed.as_nanos()) as u64;
            self.rate = Rate { at: now, blocks: self.blocks_done, per_second };
        }
    }

    /// Blocks copied in a second, lately: over the last full second, or since the start.
    pub fn rate(&self, now: Instant) -> u64 {
        if self.rate.per_second > 0 && now.since(self.rate.at) < Duration::from_secs(3) {
            return self.rate.per_second;
        }
        let passed = now.since(self.rate.at).as_nanos();
        let blocks = self.blocks_done - self.rate.blocks;
        (u128::from(blocks) * 1_000_000_000).checked_div(passed).unwrap_or(0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::BlockSize;

    #[test]
    fn every_block_of_the_regions_is_handed_out_once_and_spoiled_regions_again() {
        let shape = Shape { block_size: BlockSize::B512, blocks: Blocks(38), region: Blocks(10) };
        let mut todo = Bitmap::zeroes(4);
        todo.set(1);
        todo.set(3);
        let mut copier = Copier::new(&todo, &shape, Instant(0), 1);
        assert_eq!(copier.blocks_total, 18);
        let mut seen = Vec::new();
        while let Some(segment) = copier.next(&todo, &shape, Blocks(4)) {
            seen.push(segment);
        }
        let ranges: Vec<(u64, u64)> = seen.iter().map(|(_, r)| (r.start.0, r.len.0)).collect();
        assert_eq!(ranges, [(10, 4), (14, 4), (18, 2), (30, 4), (34, 4)]);
        copier.spoil(1, &shape);
        let mut ended = Vec::new();
        for (region, range) in seen {
            ended.extend(copier.done(region, range, &shape, Instant(5)));
        }
        assert_eq!(ended, [3]);
        assert_eq!(copier.next(&todo, &shape, Blocks(10)), Some((1, BlockRange::new(10, 10))));
    }
}
