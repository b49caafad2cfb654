//! Damage to metadata that no request reports: bit rot, and writes that went to another place as well.
//!
//! Where metadata lies is found by looking at the disk, not by asking the code that reads it: each page begins with its
//! name, and a sector of a dirty map with its number and its volume.

use std::collections::BTreeMap;

use sim::{DiskImage, SimDisk};
use uuid::Uuid;

/// Bytes of a page of metadata; a sector of a dirty map is one unit.
const PAGE: u64 = 4096;
/// The names that pages begin with.
const NAMES: [&[u8]; 6] = [b"MAYAPOOL", b"MAYACKPT", JOURNAL, b"MAYALEDG", b"MAYAMEMB", b"MAYACACH"];
const JOURNAL: &[u8] = b"MJRN";
/// Sectors of a dirty map, at most.
const SECTORS: u32 = 2048;

/// A place with metadata, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    /// From the start of the disk.
    pub at: u64,
    /// A page, or a sector of a map.
    pub len: u64,
}

/// What was damaged, so that it can be taken back when things stop to go wrong.
pub struct Damage {
    at: u64,
    good: Vec<u8>,
    bad: Vec<u8>,
}

/// The places of a disk where metadata lies and rot has to be noticed. Left out is the end of the journal: a block of which
/// no later block says that it was durable is taken for a torn one (docs/faults.md, not promised).
pub fn spots(disk: &SimDisk, volumes: &[Uuid]) -> Vec<Spot> {
    let unit = u64::from(disk.options().atomic_unit);
    let image = disk.image();
    let certain = certain_records(&image);
    let is_map = |u: &[u8]| {
        let index = u32::from_le_bytes(u[4..8].try_into().expect("four bytes"));
        u[..4] != [0; 4] && index < SECTORS && volumes.iter().any(|v| u[8..16] == v.as_bytes()[..8])
    };
    let spot = |(index, bytes): (&u64, &sim::crash::Unit)| {
        let bytes: &[u8] = bytes;
        let page = NAMES.iter().any(|name| bytes.starts_with(name)) && (index * unit).is_multiple_of(PAGE);
        let safe = !bytes.starts_with(JOURNAL) || certain.get(&epoch(bytes)).is_some_and(|d| last_record(bytes) <= *d);
        match (page && safe, is_map(bytes)) {
            (true, _) => Some(Spot { at: index * unit, len: PAGE }),
            (false, true) => Some(Spot { at: index * unit, len: unit }),
            _ => None,
        }
    };
    image.0.iter().filter_map(spot).collect()
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
fn epoch(block: &[u8]) -> u64 {
    word(block, 24)
}
/// The last record of a journal block.
fn last_record(block: &[u8]) -> u64 {
    let count = u16::from_le_bytes(block[64..66].try_into().expect("two bytes"));
    word(block, 40) + u64::from(count) - 1
}

/// By epoch, the last record that some journal block says is durable.
fn certain_records(image: &DiskImage) -> BTreeMap<u64, u64> {
    let mut durable = BTreeMap::new();
    for block in image.0.values().filter(|u| u.starts_with(JOURNAL)) {
        let known: &mut u64 = durable.entry(epoch(block)).or_default();
        *known = (*known).max(word(block, 48));
    }
    durable
}

/// Flips a bit.
pub fn flip(disk: &SimDisk, spot: Spot, salt: u64) -> Damage {
    let good = disk.peek(spot.at, spot.len as usize);
    let mut bad = good.clone();
    // Where it counts: the rest of a page is mostly zeroes, although the checksum covers them too.
    let at = (salt.wrapping_mul(0x9e37_79b9) % 512.min(spot.len)) as usize;
    bad[at] ^= 1 << (salt % 8);
    write(disk, spot.at, good, bad)
}

/// A write of one place arrived at another as well.
pub fn misdirect(disk: &SimDisk, from: Spot, to: Spot) -> Damage {
    let len = from.len.min(to.len) as usize;
    let (good, bad) = (disk.peek(to.at, len), disk.peek(from.at, len));
    write(disk, to.at, good, bad)
}

fn write(disk: &SimDisk, at: u64, good: Vec<u8>, bad: Vec<u8>) -> Damage {
    disk.corrupt(at, &bad);
    Damage { at, good, bad }
}

impl Damage {
    /// Takes it back, unless the place was written since.
    pub fn undo(&self, disk: &SimDisk) {
        if disk.peek(self.at, self.bad.len()) == self.bad {
            disk.corrupt(self.at, &self.good);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sim::{DiskOptions, World};

    fn block(epoch: u64, first: u64, count: u16, durable: u64) -> Vec<u8> {
        let mut b = vec![0; 4096];
        b[..4].copy_from_slice(JOURNAL);
        for (at, value) in [(24, epoch), (40, first), (48, durable)] {
            b[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        b[64..66].copy_from_slice(&count.to_le_bytes());
        b
    }

    #[test]
    fn the_end_of_the_journal_is_left_alone() {
        let world = World::new(1);
        let disk = world.add_disk("/dev/d", DiskOptions::mib(1));
        disk.corrupt(0, b"MAYAPOOL");
        disk.corrupt(4096, &block(7, 10, 3, 9));
        disk.corrupt(8192, &block(7, 13, 2, 12));
        disk.corrupt(12_288, &block(6, 1, 9, 0));
        disk.corrupt(700, b"MAYALEDG");
        let at: Vec<u64> = spots(&disk, &[]).iter().map(|s| s.at).collect();
        assert_eq!(at, [0, 4096], "records 10 to 12 are certain, 13 and those of epoch 6 are not");
    }

    #[test]
    fn damage_is_taken_back_unless_it_was_written_over() {
        let world = World::new(1);
        let disk = world.add_disk("/dev/d", DiskOptions::mib(1));
        let volume = Uuid::from_u128(77 << 64);
        let mut sector = [0; 512];
        (sector[0], sector[4]) = (0xcc, 3);
        sector[8..16].copy_from_slice(&volume.as_bytes()[..8]);
        disk.corrupt(1024, &sector);
        let found = spots(&disk, &[volume]);
        assert_eq!(found, [Spot { at: 1024, len: 512 }]);
        let before = disk.image();
        let damage = flip(&disk, found[0], 5);
        assert_ne!(disk.image(), before);
        damage.undo(&disk);
        assert_eq!(disk.image(), before);
        let damage = misdirect(&disk, found[0], Spot { at: 4096, len: 4096 });
        assert_eq!(disk.peek(4096, 512), sector);
        disk.corrupt(4100, &[1]);
        damage.undo(&disk);
        assert_eq!(disk.peek(4100, 1), [1]);
    }
}
