//! Which copies to move so that pools are equally full.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::place::Copies;
use crate::{Desired, Life, Move, Observed, PoolId, PoolState, Publish, Replica, ReplicaLife, Room, Volume};

/// Pools whose parts in use differ by less are equally full, in thousandths of their size.
const CLOSE_PERMILLE: u64 = 50;

/// One copy to move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shift {
    /// Whose copy.
    pub volume: Uuid,
    /// Where it is.
    pub from: PoolId,
    /// Which copy, and where it goes.
    pub wish: Move,
    /// What it takes, in bytes.
    pub bytes: u64,
}

#[derive(Clone, Copy)]
struct Fill {
    used: u64,
    size: u64,
}
impl Fill {
    fn permille(self) -> u64 {
        u64::try_from(u128::from(self.used) * 1000 / u128::from(self.size.max(1))).unwrap_or(u64::MAX)
    }
}

/// The moves, at most `most`, that bring the fullest and the emptiest pools closer together, to be made one after the
/// other; a volume moves once at most. Volumes that are not in order are left alone, and so are nodes that are cordoned or
/// drained. `bytes` says what a copy takes of its pool.
pub fn balance(
    desired: &Desired,
    observed: &Observed,
    room: &Room,
    in_order: impl Fn(Uuid) -> bool,
    bytes: impl Fn(Uuid, &Volume, &Replica) -> u64,
    most: usize,
) -> Vec<Shift> {
    let mut fills = fills(desired, observed);
    let mut copies: BTreeMap<PoolId, Vec<(u64, Uuid, Uuid)>> = BTreeMap::new();
    for (id, volume) in desired.volumes.iter().filter(|(id, v)| v.life == Life::Wanted && in_order(**id)) {
        for (replica, r) in volume.copies.iter().filter(|(_, r)| r.life == ReplicaLife::Member) {
            let size = bytes(*replica, volume, r);
            copies.entry(r.pool.clone()).or_default().push((size, *id, *replica));
        }
    }
    for list in copies.values_mut() {
        list.sort_unstable_by(|a, b| b.cmp(a));
    }
    let (mut shifts, mut moved, mut exhausted) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    while shifts.len() < most {
        let mut by_fill: Vec<(u64, PoolId)> = fills.iter().map(|(id, f)| (f.permille(), id.clone())).collect();
        by_fill.sort_unstable();
        let Some((fullest, from)) = by_fill.iter().rev().find(|(_, id)| !exhausted.contains(id)).cloned() else {
            break;
        };
        let close = |(fill, _): &&(u64, PoolId)| fill + CLOSE_PERMILLE <= fullest;
        let list = copies.get(&from).map_or(&[][..], Vec::as_slice);
        let found = by_fill.iter().take_while(close).find_map(|(_, to)| {
            let (source, goal) = (fills[&from], fills[to]);
            list.iter().find_map(|(size, id, replica)| {
                let after = Fill { used: goal.used + size, ..goal }.permille();
                let left = Fill { used: source.used.saturating_sub(*size), ..source }.permille();
                let helps = *size > 0 && after <= left && !moved.contains(id);
                let wish = Move { replica: *replica, to: to.clone() };
                let bytes = *size;
                let fits = helps && fits(desired, observed, room, *id, &wish);
                fits.then_some(Shift { volume: *id, from: from.clone(), wish, bytes })
            })
        });
        let Some(shift) = found else {
            exhausted.insert(from);
            continue;
        };
        moved.insert(shift.volume);
        if let Some(f) = fills.get_mut(&from) {
            f.used = f.used.saturating_sub(shift.bytes);
        }
        if let Some(f) = fills.get_mut(&shift.wish.to) {
            f.used += shift.bytes;
        }
        shifts.push(shift);
    }
    shifts
}

fn fills(desired: &Desired, observed: &Observed) -> BTreeMap<PoolId, Fill> {
    let open = observed.nodes.iter().filter(|(name, n)| n.reach.is_online() && desired.takes_new(name));
    let pools = open.flat_map(|(name, n)| n.pools.iter().map(move |(pool, p)| (name, pool, p)));
    let good = pools.filter(|(_, _, p)| p.state == PoolState::Online && p.capacity.0 > 0);
    good.map(|(name, pool, p)| {
        (PoolId { node: name.clone(), pool: pool.clone() }, Fill { used: p.committed.0, size: p.capacity.0 })
    })
    .collect()
}

/// Whether the copy may lie where it is to go: without breaking a rule that is not broken now.
fn fits(desired: &Desired, observed: &Observed, room: &Room, id: Uuid, wish: &Move) -> bool {
    let mut volume = desired.volumes[&id].clone();
    let from = volume.copies[&wish.replica].pool.node.clone();
    // A copy beside the volume's target, or where somebody prefers it, is where it should be.
    let home = matches!(&volume.publish, Publish::On(node) if *node == from);
    let liked = desired.is_preferred(&volume, &from) && !desired.is_preferred(&volume, &wish.to.node);
    volume.moving = Some(wish.clone());
    let copies = Copies::new(desired, observed, &volume, |_| true, &[]);
    !home && !liked && room.fits(&wish.to, &copies) && !copies.worse(&wish.to.node, &from)
}
