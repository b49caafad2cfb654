//! Where the parts of a request go. Pure.

use block::{BlockRange, Blocks, Lba};
use smallvec::SmallVec;

use crate::core::{Live, State};

/// What a part of a request becomes.
pub(crate) enum Part {
    /// A read of space without a place: so many bytes.
    Zeroes(u64),
    /// Blocks of a disk, for the request's blocks from the `from`th on.
    Disk { disk: u8, range: BlockRange, from: u64 },
    /// Blocks of one extent that has no place yet, or is just getting one: they wait.
    Park { logical: u32, range: BlockRange },
    /// Whole extents lose their places.
    Free { logical: u32, count: u32 },
}
pub(crate) type Parts = SmallVec<[Part; 2]>;

/// Adds a part, or makes the last one longer.
fn add(parts: &mut Parts, part: Part) {
    match (parts.last_mut(), part) {
        (Some(Part::Zeroes(n)), Part::Zeroes(more)) => *n += more,
        (Some(Part::Disk { disk, range, .. }), Part::Disk { disk: d, range: more, .. })
            if *disk == d && range.end() == more.start =>
        {
            range.len += more.len;
        }
        (_, part) => parts.push(part),
    }
}

/// The pieces of a range that lie in one extent each: extent, first block in it, range.
fn by_extent(range: BlockRange, shift: u32) -> impl Iterator<Item = (u32, u64, BlockRange)> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        if at >= range.end() {
            return None;
        }
        let offset = at.0 & ((1 << shift) - 1);
        let len = ((1 << shift) - offset).min(range.end().0 - at.0);
        let piece = BlockRange { start: at, len: Blocks(len) };
        let logical = (at.0 >> shift) as u32;
        at = at + Blocks(len);
        Some((logical, offset, piece))
    })
}

impl Live {
    /// Whether the extent is not just getting a place.
    fn is_settled(&self, logical: u32) -> bool {
        self.opening.is_empty() || !self.opening.contains_key(&logical)
    }
}

impl State {
    /// Where a read goes.
    pub fn route_read(&self, id: u32, shift: u32, block_bytes: u64, range: BlockRange) -> Parts {
        self.route(id, shift, range, |_, piece| Some(Part::Zeroes(piece.len.0 * block_bytes)))
    }

    /// Where a write goes.
    pub fn route_write(&self, id: u32, shift: u32, range: BlockRange) -> Parts {
        self.route(id, shift, range, |logical, piece| Some(Part::Park { logical, range: piece }))
    }

    /// Blocks with a place go to their disk; for others `unmapped` decides.
    fn route(
        &self,
        id: u32,
        shift: u32,
        range: BlockRange,
        unmapped: impl Fn(u32, BlockRange) -> Option<Part>,
    ) -> Parts {
        let (map, live) = (&self.meta.replicas[&id].map, &self.live[&id]);
        let mut parts = Parts::new();
        for (logical, offset, piece) in by_extent(range, shift) {
            let part = match map.get(logical) {
                Some(place) if live.is_settled(logical) => {
                    let on_disk = self.on_disk(place, shift, offset, piece.len.0);
                    Some(Part::Disk { disk: place.disk, range: on_disk, from: (piece.start - range.start).0 })
                }
                _ => unmapped(logical, piece),
            };
            part.into_iter().for_each(|part| add(&mut parts, part));
        }
        parts
    }

    /// Where the clearing of blocks goes: parts of an extent to the disk, whole extents lose their place if that is
    /// allowed, and what has no place is clear already.
    pub fn route_zero(&self, id: u32, shift: u32, range: BlockRange, may_unmap: bool) -> Parts {
        let (replica, live) = (&self.meta.replicas[&id], &self.live[&id]);
        let partial = |from: u64, to: u64| {
            let range = BlockRange { start: Lba(from), len: Blocks(to - from) };
            self.route(id, shift, range, |logical, range| {
                (!live.is_settled(logical)).then_some(Part::Park { logical, range })
            })
        };
        let (start, end) = (range.start.0, range.end().0);
        let total = replica.size >> self.disks[0].label.block_size.shift();
        let first = start.div_ceil(1 << shift);
        // The last extent of a replica may be used in part only; then that part is all of it.
        let last = if end == total { end.div_ceil(1 << shift) } else { end >> shift };
        if first >= last {
            return partial(start, end);
        }
        let mut parts = partial(start, first << shift);
        let mut from = first as u32;
        let last32 = last as u32;
        let opening = live.opening.range(from..last32).map(|(logical, _)| *logical);
        for busy in opening.chain([last32]) {
            let mut mapped = replica.map.mapped_in(from, busy);
            if may_unmap && mapped.next().is_some() {
                parts.push(Part::Free { logical: from, count: busy - from });
            } else if !may_unmap {
                for (logical, place) in mapped {
                    let at = u64::from(logical) << shift;
                    let len = (total - at).min(1 << shift);
                    let on_disk = self.on_disk(place, shift, 0, len);
                    add(&mut parts, Part::Disk { disk: place.disk, range: on_disk, from: 0 });
                }
            }
            if busy < last32 {
                let at = u64::from(busy) << shift;
                let range = BlockRange::new(at, (total - at).min(1 << shift));
                parts.push(Part::Park { logical: busy, range });
            }
            from = busy + 1;
        }
        if last << shift < end {
            parts.extend(partial(last << shift, end));
        }
        parts
    }
}
