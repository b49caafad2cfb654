//! Sizes: what a request allows, and what the pools have.

use std::collections::BTreeMap;

use api::csi;
use api::v1;
use block::Bytes;
use tonic::Status;

/// The size of a volume when the request names none: 1 GiB.
const DEFAULT: u64 = 1 << 30;
/// Sizes are multiples of this where the limit allows it.
const STEP: u64 = 1 << 20;
/// Sizes are multiples of this.
const BLOCK: u64 = 4096;
/// The smallest volume.
const SMALLEST: u64 = 1 << 20;
/// The largest volume: 1 PiB.
const LARGEST: u64 = 1 << 50;
/// What a copy needs besides the volume's bytes: its label and metadata, rounded up.
const OVERHEAD: u64 = 8 << 20;

/// The sizes that a request allows, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    required: u64,
    /// 0: none.
    limit: u64,
}

impl Range {
    /// Reads the range; INVALID_ARGUMENT when it contradicts itself, OUT_OF_RANGE when no volume has such a size.
    pub fn read(wire: Option<&csi::CapacityRange>) -> Result<Range, Status> {
        let wire = wire.copied().unwrap_or_default();
        let (Ok(required), Ok(limit)) = (u64::try_from(wire.required_bytes), u64::try_from(wire.limit_bytes)) else {
            return Err(Status::invalid_argument("a size is negative"));
        };
        if limit != 0 && limit < required {
            let text = format!("the size's limit of {limit} bytes is below the {required} bytes that are required");
            return Err(Status::invalid_argument(text));
        }
        if required > LARGEST || (limit != 0 && limit < SMALLEST) {
            let text = format!("volumes have {SMALLEST} to {LARGEST} bytes");
            return Err(Status::out_of_range(text));
        }
        Ok(Range { required, limit })
    }

    /// The size of a new volume.
    pub fn choose(&self) -> Result<u64, Status> {
        let wanted = match (self.required, self.limit) {
            (0, 0) => DEFAULT,
            (0, limit) => limit.min(DEFAULT) / BLOCK * BLOCK,
            (required, _) => required.max(SMALLEST),
        };
        [wanted.next_multiple_of(STEP), wanted.next_multiple_of(BLOCK)]
            .into_iter()
            .find(|size| self.limit == 0 || *size <= self.limit)
            .ok_or_else(|| {
                let Range { required, limit } = self;
                let text = format!("no multiple of {BLOCK} bytes lies between {required} and {limit}");
                Status::out_of_range(text)
            })
    }

    /// The size of a volume that has `now` and shall be within the range: it never becomes smaller.
    pub fn choose_above(&self, now: u64) -> Result<u64, Status> {
        if self.holds(now) {
            return Ok(now);
        }
        if now > self.required {
            let text = format!("the volume has {now} bytes already, the limit is {}", self.limit);
            return Err(Status::out_of_range(text));
        }
        self.choose()
    }

    /// Whether a volume of that size is within the range.
    pub fn holds(&self, size: u64) -> bool {
        size >= self.required && (self.limit == 0 || size <= self.limit)
    }
}

/// What can be had for volumes with so many copies, each in a pool of its own node if there are enough nodes.
pub(super) fn capacity(status: &v1::Status, replicas: u32, node: Option<&str>) -> csi::GetCapacityResponse {
    let online = |id: &str| status.nodes.iter().any(|n| n.id == id && n.state == "online");
    // The largest free pool of each node, and all that is free.
    let mut best: BTreeMap<&str, u64> = BTreeMap::new();
    let mut total = Bytes(0);
    for held in &status.pools {
        let Some(pool) = &held.pool else { continue };
        if !online(&held.node) || node.is_some_and(|n| n != held.node) || pool.state() == v1::PoolState::PoolFaulted {
            continue;
        }
        let free = pool.capacity.saturating_sub(pool.committed);
        total.0 += free;
        let most = best.entry(&held.node).or_default();
        *most = free.max(*most);
    }
    // The copy that is hardest to place bounds the volume. Asked for one node, its share is one copy.
    let copies = if node.is_some() { 1 } else { replicas.max(1) };
    let mut frees: Vec<u64> = best.into_values().collect();
    frees.sort_unstable_by(|a, b| b.cmp(a));
    let bound = frees.get(copies as usize - 1).copied().unwrap_or(0);
    let largest = (bound.saturating_sub(OVERHEAD) / STEP * STEP).min(LARGEST);
    csi::GetCapacityResponse {
        available_capacity: (total.0 / u64::from(copies)).cast_signed(),
        maximum_volume_size: Some(largest.cast_signed()),
        minimum_volume_size: Some(SMALLEST.cast_signed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tonic::Code;

    fn range(required: i64, limit: i64) -> Result<Range, Status> {
        Range::read(Some(&csi::CapacityRange { required_bytes: required, limit_bytes: limit }))
    }

    #[test]
    fn sizes() {
        assert_eq!(Range::read(None).unwrap().choose().unwrap(), DEFAULT);
        assert_eq!(range(1, 0).unwrap().choose().unwrap(), SMALLEST);
        assert_eq!(range((10 << 20) + 1, 0).unwrap().choose().unwrap(), 11 << 20);
        assert_eq!(range((10 << 20) + 1, (10 << 20) + 4096).unwrap().choose().unwrap(), (10 << 20) + 4096);
        assert_eq!(range(0, 5_000_000).unwrap().choose().unwrap(), 5_000_000 / 4096 * 4096);
        for (required, limit, code) in [
            (-1, 0, Code::InvalidArgument),
            (0, -1, Code::InvalidArgument),
            (10 << 20, 5 << 20, Code::InvalidArgument),
            (i64::MAX, 0, Code::OutOfRange),
            ((1 << 50) + 1, 0, Code::OutOfRange),
            (0, 1000, Code::OutOfRange),
        ] {
            assert_eq!(range(required, limit).unwrap_err().code(), code, "{required} {limit}");
        }
        assert_eq!(range((10 << 20) + 1, (10 << 20) + 2).unwrap().choose().unwrap_err().code(), Code::OutOfRange);
    }

    #[test]
    fn a_volume_grows_into_the_range_or_is_left() {
        let mib = |n: i64| n << 20;
        let above = |r: Result<Range, Status>, now: i64| r.and_then(|r| r.choose_above(mib(now).cast_unsigned()));
        for (required, limit, now, size) in
            [(8, 0, 4, 8), (8, 8, 4, 8), (8, 0, 8, 8), (8, 0, 9, 9), (8, 10, 9, 9), (0, 9, 4, 4)]
        {
            assert_eq!(above(range(mib(required), mib(limit)), now).unwrap(), mib(size).cast_unsigned());
        }
        assert_eq!(above(range(mib(4), mib(8)), 9).unwrap_err().code(), Code::OutOfRange);
    }

    proptest! {
        #[test]
        fn a_chosen_size_is_allowed_and_whole(required in 0i64..1 << 40, more in prop_oneof![Just(0i64), 0i64..1 << 30]) {
            let limit = if more == 0 { 0 } else { required + more };
            if let Ok(range) = range(required, limit) && let Ok(size) = range.choose() {
                prop_assert!(range.holds(size), "{range:?} {size}");
                prop_assert_eq!(size % BLOCK, 0);
            }
        }
    }

    #[test]
    fn the_copy_that_is_hardest_to_place_bounds_a_volume() {
        let node = |id: &str, state: &str| v1::Node { id: id.into(), state: state.into(), ..Default::default() };
        let pool = |node: &str, capacity: u64, committed: u64| v1::NodePool {
            node: node.into(),
            pool: Some(v1::Pool { capacity, committed, state: v1::PoolState::PoolOnline as i32, ..Default::default() }),
        };
        let status = v1::Status {
            nodes: vec![node("a", "online"), node("b", "online"), node("c", "offline")],
            pools: vec![
                pool("a", 10 << 30, 0),
                pool("a", 1 << 30, 0),
                pool("b", 10 << 30, 6 << 30),
                pool("c", 1 << 40, 0),
            ],
            volumes: vec![],
        };
        let one = capacity(&status, 1, None);
        assert_eq!((one.available_capacity, one.maximum_volume_size), (15 << 30, Some((10 << 30) - (8 << 20))));
        let two = capacity(&status, 2, None);
        assert_eq!(two.maximum_volume_size, Some((4 << 30) - (8 << 20)));
        assert_eq!(capacity(&status, 3, None).maximum_volume_size, Some(0));
        let there = capacity(&status, 3, Some("b"));
        assert_eq!((there.available_capacity, there.maximum_volume_size), (4 << 30, Some((4 << 30) - (8 << 20))));
        assert_eq!(capacity(&status, 1, Some("nowhere")).available_capacity, 0);
    }
}
