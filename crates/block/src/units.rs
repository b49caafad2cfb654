//! Newtypes for quantities, so that two bare `u64`s never stand side by side.

use std::fmt;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::time::Duration;

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

quantity!(
    /// A logical block address: the index of a block on its device, from 0.
    Lba
);
quantity!(
    /// A number of logical blocks.
    Blocks
);
quantity!(
    /// A number of bytes.
    Bytes
);
quantity!(
    /// The term of a volume's writer. Each time that a nexus opens a volume it takes a higher one; see docs/replication.md.
    Generation
);

impl Add<Blocks> for Lba {
    type Output = Lba;
    fn add(self, n: Blocks) -> Lba {
        Lba(self.0.checked_add(n.0).expect("a block address overflowed"))
    }
}
impl Sub for Lba {
    type Output = Blocks;
    fn sub(self, from: Lba) -> Blocks {
        Blocks(self.0.checked_sub(from.0).expect("a block address underflowed"))
    }
}
macro_rules! arithmetic {
    ($name:ident) => {
        impl Add for $name {
            type Output = $name;
            fn add(self, other: $name) -> $name {
                $name(self.0.checked_add(other.0).expect("a quantity overflowed"))
            }
        }
        impl AddAssign for $name {
            fn add_assign(&mut self, other: $name) {
                *self = *self + other;
            }
        }
        impl Sub for $name {
            type Output = $name;
            fn sub(self, other: $name) -> $name {
                $name(self.0.checked_sub(other.0).expect("a quantity underflowed"))
            }
        }
        impl SubAssign for $name {
            fn sub_assign(&mut self, other: $name) {
                *self = *self - other;
            }
        }
    };
}
arithmetic!(Blocks);
arithmetic!(Bytes);

impl Generation {
    /// The generation after this one.
    pub fn next(self) -> Generation {
        Generation(self.0 + 1)
    }
}

/// The size of a logical block: 512 or 4096 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BlockSize {
    /// 512 bytes.
    B512,
    /// 4096 bytes.
    B4096,
}

impl BlockSize {
    /// The block size of that many bytes, if it is one that Mayastor knows (512 or 4096).
    pub fn from_bytes(bytes: u32) -> Option<BlockSize> {
        match bytes {
            512 => Some(BlockSize::B512),
            4096 => Some(BlockSize::B4096),
            _ => None,
        }
    }
    /// The size in bytes.
    pub const fn bytes(self) -> u32 {
        1 << self.shift()
    }
    /// log2 of the size in bytes (NVMe's LBADS).
    pub const fn shift(self) -> u32 {
        match self {
            BlockSize::B512 => 9,
            BlockSize::B4096 => 12,
        }
    }
    /// How many whole blocks fit into `bytes`.
    pub const fn blocks_in(self, bytes: Bytes) -> Blocks {
        Blocks(bytes.0 >> self.shift())
    }
    /// The bytes of `blocks` blocks.
    pub const fn bytes_of(self, blocks: Blocks) -> Bytes {
        Bytes(blocks.0 << self.shift())
    }
    /// The byte offset of a block.
    pub const fn offset_of(self, lba: Lba) -> u64 {
        lba.0 << self.shift()
    }
    /// Whether `bytes` is a whole number of blocks.
    pub const fn divides(self, bytes: u64) -> bool {
        bytes.trailing_zeros() >= self.shift() || bytes == 0
    }
}

/// A run of logical blocks, possibly empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockRange {
    /// The first block.
    pub start: Lba,
    /// How many blocks.
    pub len: Blocks,
}

impl BlockRange {
    /// The run of `len` blocks from `start`.
    pub const fn new(start: u64, len: u64) -> BlockRange {
        BlockRange { start: Lba(start), len: Blocks(len) }
    }
    /// The first block after the run.
    pub fn end(self) -> Lba {
        self.start + self.len
    }
    /// Whether the run has no block.
    pub const fn is_empty(self) -> bool {
        self.len.0 == 0
    }
    /// Whether the two runs share a block.
    pub fn overlaps(self, other: BlockRange) -> bool {
        self.start < other.end() && other.start < self.end()
    }
    /// Whether `other` lies wholly inside.
    pub fn contains(self, other: BlockRange) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }
    /// The blocks in both runs, if any.
    pub fn intersection(self, other: BlockRange) -> Option<BlockRange> {
        let start = self.start.max(other.start);
        let end = self.end().min(other.end());
        (start < end).then(|| BlockRange { start, len: end - start })
    }
    /// The same run, `by` blocks further on.
    pub fn shifted(self, by: Blocks) -> BlockRange {
        BlockRange { start: self.start + by, len: self.len }
    }
    /// Whether the run ends at or before block `blocks` without overflowing.
    pub fn fits(self, blocks: Blocks) -> bool {
        self.start.0.checked_add(self.len.0).is_some_and(|end| end <= blocks.0)
    }
}

impl fmt::Display for BlockRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.start, self.len)
    }
}

/// A point on the host's monotonic clock, in nanoseconds since an origin of the world's choosing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

impl Instant {
    /// The time from `earlier` to this instant, zero when `earlier` is later.
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}
impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, d: Duration) -> Instant {
        Instant(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_do_not_overlap() {
        let a = BlockRange::new(0, 4);
        let b = BlockRange::new(4, 4);
        assert!(!a.overlaps(b) && !b.overlaps(a));
        assert_eq!(a.intersection(b), None);
        assert_eq!(a.intersection(BlockRange::new(3, 9)), Some(BlockRange::new(3, 1)));
        assert!(!BlockRange::new(2, 0).overlaps(BlockRange::new(0, 0)));
    }

    #[test]
    fn a_range_that_overflows_does_not_fit() {
        assert!(!BlockRange::new(u64::MAX, 2).fits(Blocks(u64::MAX)));
        assert!(BlockRange::new(6, 2).fits(Blocks(8)));
        assert!(!BlockRange::new(7, 2).fits(Blocks(8)));
    }

    #[test]
    fn block_sizes() {
        assert_eq!(BlockSize::from_bytes(512).map(BlockSize::shift), Some(9));
        assert_eq!(BlockSize::from_bytes(1024), None);
        assert!(BlockSize::B4096.divides(8192) && !BlockSize::B4096.divides(512));
    }
}
