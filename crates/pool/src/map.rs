//! Which extent of the disks holds which part of a replica.

/// An extent on a disk of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The disk's index in the pool.
    pub disk: u8,
    /// The extent's index on the disk.
    pub extent: u32,
}

/// Consecutive extents of a replica that are consecutive on one disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first extent of the replica.
    pub logical: u32,
    /// Where it is.
    pub place: Place,
    /// How many extents, at least one.
    pub count: u32,
}

/// Eight bytes an extent: the map of a full 4 TiB pool with 1 MiB extents takes 32 MiB of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Unmapped,
    Mapped { disk: u8, extent: u32 },
}
const _: () = assert!(size_of::<Slot>() == 8);

const CHUNK: usize = 512;

struct Chunk {
    slots: [Slot; CHUNK],
    used: u32,
}

/// The map of one replica: sparse, so that a huge thin replica costs little.
pub struct ExtentMap {
    chunks: Vec<Option<Box<Chunk>>>,
    extents: u32,
    mapped: u32,
}

impl ExtentMap {
    /// A map of `extents` unmapped extents.
    pub fn new(extents: u32) -> ExtentMap {
        let chunks = (extents as usize).div_ceil(CHUNK);
        ExtentMap { chunks: std::iter::repeat_with(|| None).take(chunks).collect(), extents, mapped: 0 }
    }

    /// The length of the replica, in extents.
    pub fn extents(&self) -> u32 {
        self.extents
    }
    /// Makes it longer: what it gains is unmapped.
    pub fn grow(&mut self, extents: u32) {
        assert!(extents >= self.extents, "a map of {} extents can not have {extents}", self.extents);
        self.chunks.resize_with((extents as usize).div_ceil(CHUNK), || None);
        self.extents = extents;
    }
    /// How many of them are mapped.
    pub fn mapped(&self) -> u32 {
        self.mapped
    }

    /// Where an extent is, if it is mapped. `logical` must be inside the replica.
    #[inline]
    pub fn get(&self, logical: u32) -> Option<Place> {
        debug_assert!(logical < self.extents);
        let chunk = self.chunks[logical as usize / CHUNK].as_ref()?;
        match chunk.slots[logical as usize % CHUNK] {
            Slot::Unmapped => None,
            Slot::Mapped { disk, extent } => Some(Place { disk, extent }),
        }
    }

    /// Maps or unmaps an extent; returns where it was.
    pub fn set(&mut self, logical: u32, place: Option<Place>) -> Option<Place> {
        assert!(logical < self.extents, "extent {logical} of {}", self.extents);
        let before = self.get(logical);
        if before == place {
            return before;
        }
        let entry = &mut self.chunks[logical as usize / CHUNK];
        let chunk = entry.get_or_insert_with(|| Box::new(Chunk { slots: [Slot::Unmapped; CHUNK], used: 0 }));
        chunk.slots[logical as usize % CHUNK] = match place {
            Some(Place { disk, extent }) => Slot::Mapped { disk, extent },
            None => Slot::Unmapped,
        };
        let (was, is) = (u32::from(before.is_some()), u32::from(place.is_some()));
        chunk.used = chunk.used - was + is;
        self.mapped = self.mapped - was + is;
        if chunk.used == 0 {
            *entry = None;
        }
        before
    }

    /// The mapped extents of `logical..end`, in order.
    pub fn mapped_in(&self, logical: u32, end: u32) -> impl Iterator<Item = (u32, Place)> + '_ {
        let end = end.min(self.extents);
        let chunks = logical as usize / CHUNK..(end as usize).div_ceil(CHUNK);
        chunks.filter_map(|c| self.chunks[c].as_ref().map(|chunk| (c, chunk))).flat_map(move |(c, chunk)| {
            chunk.slots.iter().enumerate().filter_map(move |(i, slot)| {
                let at = (c * CHUNK + i) as u32;
                match *slot {
                    Slot::Mapped { disk, extent } if (logical..end).contains(&at) => Some((at, Place { disk, extent })),
                    _ => None,
                }
            })
        })
    }

    /// All mapped extents as the fewest runs.
    pub fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (logical, place) in self.mapped_in(0, self.extents) {
            match runs.last_mut() {
                Some(run)
                    if run.logical + run.count == logical
                        && run.place.disk == place.disk
                        && run.place.extent.checked_add(run.count) == Some(place.extent) =>
                {
                    run.count += 1;
                }
                _ => runs.push(Run { logical, place, count: 1 }),
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn it_equals_a_naive_map(ops in proptest::collection::vec((0u32..2000, any::<bool>(), 0u8..3, 0u32..50), 0..300)) {
            let mut map = ExtentMap::new(2000);
            let mut naive = BTreeMap::new();
            for (logical, on, disk, extent) in ops {
                let place = on.then_some(Place { disk, extent });
                let before = map.set(logical, place);
                let expected = match place {
                    Some(p) => naive.insert(logical, p),
                    None => naive.remove(&logical),
                };
                prop_assert_eq!(before, expected);
                prop_assert_eq!(map.get(logical), place);
            }
            prop_assert_eq!(map.mapped() as usize, naive.len());
            let all: Vec<_> = map.mapped_in(0, 2000).collect();
            prop_assert_eq!(all, naive.clone().into_iter().collect::<Vec<_>>());
            let some: Vec<_> = map.mapped_in(700, 1300).collect();
            prop_assert_eq!(some, naive.range(700..1300).map(|(k, v)| (*k, *v)).collect::<Vec<_>>());
            let mut again = ExtentMap::new(2000);
            for run in map.runs() {
                for i in 0..run.count {
                    let place = Place { disk: run.place.disk, extent: run.place.extent + i };
                    prop_assert_eq!(again.set(run.logical + i, Some(place)), None);
                }
            }
            prop_assert_eq!(again.mapped_in(0, 2000).collect::<Vec<_>>(), map.mapped_in(0, 2000).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_is_gained_is_unmapped() {
        let mut map = ExtentMap::new(3);
        map.set(2, Some(Place { disk: 0, extent: 9 }));
        map.grow(1500);
        assert_eq!((map.extents(), map.mapped(), map.get(3), map.get(1499)), (1500, 1, None, None));
        map.set(1499, Some(Place { disk: 0, extent: 10 }));
        assert_eq!(map.mapped_in(0, 1500).count(), 2);
    }

    #[test]
    fn neighbours_make_one_run() {
        let mut map = ExtentMap::new(1030);
        for i in 500..530 {
            map.set(i, Some(Place { disk: 1, extent: i }));
        }
        map.set(530, Some(Place { disk: 2, extent: 530 }));
        assert_eq!(map.runs().len(), 2);
        assert_eq!(map.runs()[0], Run { logical: 500, place: Place { disk: 1, extent: 500 }, count: 30 });
    }
}
