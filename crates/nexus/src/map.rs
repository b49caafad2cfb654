//! The dirty map: what may differ between members. docs/replication.md, section 4.

use block::{BlockRange, BlockSize, Blocks, Bytes};
use uuid::Uuid;

use crate::bitmap::Bitmap;

/// Bytes of one sector of the map; each is written whole or not at all, on any device.
pub const SECTOR: usize = 512;
const HEAD: usize = 16;
const HALF: usize = (SECTOR - HEAD) / 2;
/// Regions in one sector.
pub const SECTOR_REGIONS: usize = HALF * 8;
const MAX_SECTORS: u64 = 256;
/// What MayaMeta has room for; a volume that has grown may have more sectors than one that was made so large.
const AREA_SECTORS: usize = (crate::meta::MAP_BYTES / SECTOR as u64) as usize;
const MIN_REGION: u64 = 4 << 20;

/// How a volume is cut into regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The volume's block size.
    pub block_size: BlockSize,
    /// The volume's size.
    pub blocks: Blocks,
    /// Blocks of one region.
    pub region: Blocks,
}

impl Shape {
    /// The shape of a volume whose regions have the usual size: 4 MiB, more for volumes above 1.9 TiB.
    pub fn of(block_size: BlockSize, blocks: Blocks) -> Shape {
        let mut region = MIN_REGION;
        while block_size.bytes_of(blocks).0.div_ceil(region) > MAX_SECTORS * SECTOR_REGIONS as u64 {
            region *= 2;
        }
        Shape { block_size, blocks, region: block_size.blocks_in(Bytes(region)) }
    }
    /// The same volume with more blocks. Its regions keep their size; none when the map would not fit into MayaMeta.
    pub fn grown(&self, blocks: Blocks) -> Option<Shape> {
        let grown = Shape { blocks, ..*self };
        let regions = blocks.0.div_ceil(self.region.0);
        (regions <= (AREA_SECTORS * SECTOR_REGIONS) as u64 && grown.sectors() <= AREA_SECTORS).then_some(grown)
    }
    /// How many regions there are.
    pub fn regions(&self) -> usize {
        self.blocks.0.div_ceil(self.region.0) as usize
    }
    /// How many sectors the map takes: a whole number of blocks.
    pub fn sectors(&self) -> usize {
        self.regions().div_ceil(SECTOR_REGIONS).next_multiple_of(self.sectors_per_unit())
    }
    /// Sectors in one block of the device, the unit in which the map is written.
    pub fn sectors_per_unit(&self) -> usize {
        self.block_size.bytes() as usize / SECTOR
    }
    /// How many blocks of the device the map takes.
    pub fn units(&self) -> usize {
        self.sectors() / self.sectors_per_unit()
    }
    /// The unit that holds a region's bits.
    pub fn unit_of(&self, region: usize) -> usize {
        region / SECTOR_REGIONS / self.sectors_per_unit()
    }
    /// The regions that a range touches.
    pub fn touched(&self, range: BlockRange) -> std::ops::Range<usize> {
        let first = range.start.0 / self.region.0;
        let end = range.end().0.div_ceil(self.region.0);
        first as usize..end as usize
    }
    /// The blocks of a region.
    pub fn blocks_of(&self, region: usize) -> BlockRange {
        let start = region as u64 * self.region.0;
        BlockRange::new(start, self.region.0.min(self.blocks.0 - start))
    }
}

/// One sector of the map. `dirty` and `behind` say each region's bits.
pub fn encode_sector(
    volume: Uuid,
    index: usize,
    regions: usize,
    dirty: &Bitmap,
    behind: impl Fn(usize) -> bool,
) -> [u8; SECTOR] {
    let mut b = [0; SECTOR];
    b[4..8].copy_from_slice(&(index as u32).to_le_bytes());
    b[8..16].copy_from_slice(&volume.as_bytes()[..8]);
    let first = index * SECTOR_REGIONS;
    for region in first..(first + SECTOR_REGIONS).min(regions) {
        let (byte, bit) = ((region - first) / 8, (region - first) % 8);
        b[HEAD + byte] |= u8::from(dirty.get(region)) << bit;
        b[HEAD + HALF + byte] |= u8::from(behind(region)) << bit;
    }
    let crc = crc32c::crc32c(&b[4..]);
    b[0..4].copy_from_slice(&crc.to_le_bytes());
    b
}

/// The two bitmaps as read from a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maps {
    /// Regions where members in sync may differ.
    pub dirty: Bitmap,
    /// Regions that members which are away may lack.
    pub behind: Bitmap,
}

impl Maps {
    /// Nothing is dirty, nobody is behind.
    pub fn clean(shape: &Shape) -> Maps {
        Maps { dirty: Bitmap::zeroes(shape.regions()), behind: Bitmap::zeroes(shape.regions()) }
    }
    /// The map as bytes, to be written as a whole.
    pub fn encode(&self, volume: Uuid, shape: &Shape) -> Vec<u8> {
        let sector = |i| encode_sector(volume, i, shape.regions(), &self.dirty, |r| self.behind.get(r));
        (0..shape.sectors()).flat_map(sector).collect()
    }
    /// Reads a map. In a sector that is damaged every region counts as dirty and behind: more is copied than needed,
    /// never less.
    pub fn decode(bytes: &[u8], volume: Uuid, shape: &Shape) -> Maps {
        let mut maps = Maps::clean(shape);
        let sectors = bytes.chunks_exact(SECTOR).enumerate().take(shape.regions().div_ceil(SECTOR_REGIONS));
        for (index, b) in sectors {
            let good = b[0..4] == crc32c::crc32c(&b[4..]).to_le_bytes()
                && b[4..8] == (index as u32).to_le_bytes()
                && b[8..16] == volume.as_bytes()[..8];
            let first = index * SECTOR_REGIONS;
            for region in first..(first + SECTOR_REGIONS).min(shape.regions()) {
                let (byte, bit) = ((region - first) / 8, (region - first) % 8);
                if !good || b[HEAD + byte] >> bit & 1 == 1 {
                    maps.dirty.set(region);
                }
                if !good || b[HEAD + HALF + byte] >> bit & 1 == 1 {
                    maps.behind.set(region);
                }
            }
        }
        maps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn regions_grow_with_the_volume() {
        let small = Shape::of(BlockSize::B512, Blocks(131072));
        assert_eq!((small.regions(), small.units(), small.region.0), (16, 1, 8192));
        let large = Shape::of(BlockSize::B4096, Blocks(1 << 34)); // 64 TiB
        assert_eq!(large.block_size.bytes_of(large.region).0, 256 << 20);
        assert!(large.sectors() <= 256 && large.sectors().is_multiple_of(8));
        assert_eq!(small.blocks_of(15).end().0, 131072);
        assert_eq!(small.touched(BlockRange::new(8191, 2)), 0..2);
        assert_eq!(small.touched(BlockRange::new(8192, 1)), 1..2);
    }

    #[test]
    fn a_volume_grows_as_far_as_its_map() {
        let gib = |n: u64| Blocks(n << 21);
        let small = Shape::of(BlockSize::B512, gib(1));
        let most = small.grown(gib(46 << 10)).expect("46 TiB of 4 MiB regions");
        assert_eq!((most.region, most.units()), (small.region, 6078));
        assert_eq!(small.grown(gib(47 << 10)), None);
        assert_eq!(small.grown(Blocks(u64::MAX)), None);
        let large = Shape::of(BlockSize::B4096, Blocks(1 << 34));
        assert!(large.grown(Blocks(20 << 34)).is_some());
    }

    proptest! {
        #[test]
        fn a_map_survives_its_bytes(dirty in prop::collection::btree_set(0usize..5000, 0..50),
                                    behind in prop::collection::btree_set(0usize..5000, 0..50),
                                    broken in prop::option::of((0usize..3, 0usize..SECTOR))) {
            let shape = Shape { block_size: BlockSize::B512, blocks: Blocks(5000 * 8 - 3), region: Blocks(8) };
            let mut maps = Maps::clean(&shape);
            dirty.iter().for_each(|&r| { maps.dirty.set(r); });
            behind.iter().for_each(|&r| { maps.behind.set(r); });
            let volume = Uuid::from_u128(77 << 64);
            let mut bytes = maps.encode(volume, &shape);
            prop_assert_eq!(bytes.len(), 3 * SECTOR);
            if let Some((sector, at)) = broken {
                bytes[sector * SECTOR + at] ^= 4;
            }
            let read = Maps::decode(&bytes, volume, &shape);
            for r in 0..5000 {
                let lost = broken.is_some_and(|(sector, _)| r / SECTOR_REGIONS == sector);
                prop_assert_eq!(read.dirty.get(r), lost || dirty.contains(&r));
                prop_assert_eq!(read.behind.get(r), lost || behind.contains(&r));
            }
        }
    }
}
