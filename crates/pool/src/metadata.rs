//! What a pool knows: its disks, its replicas and their maps. [`Metadata::apply`] is the one place where that changes,
//! both while running and when the journal is replayed.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::map::{ExtentMap, Place};
use crate::record::Record;

/// A disk of the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskMeta {
    /// Its identity.
    pub uuid: Uuid,
    /// Its extents.
    pub extents: u32,
}

/// A replica.
pub struct ReplicaMeta {
    /// Its name, unique in the pool.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// Whether space is taken only as it is written.
    pub thin: bool,
    /// Where its extents are.
    pub map: ExtentMap,
    /// Its reservations, in a form of their keeper's; empty for none.
    pub reservation: Vec<u8>,
}

impl ReplicaMeta {
    /// The bytes of extents that are promised to the replica: all of a thick one, the mapped ones of a thin one.
    pub fn committed(&self) -> u64 {
        u64::from(if self.thin { self.map.mapped() } else { self.map.extents() })
    }
    /// Extents that are promised but not mapped.
    pub fn reserved(&self) -> u64 {
        self.committed() - u64::from(self.map.mapped())
    }
}

/// What a pool knows.
pub struct Metadata {
    /// The size of an extent in bytes.
    pub extent_bytes: u64,
    /// The pool's disks, by index.
    pub disks: Vec<DiskMeta>,
    /// The replicas, by number.
    pub replicas: BTreeMap<u32, ReplicaMeta>,
    /// The number of the next new replica.
    pub next_replica: u32,
}

/// The length in extents of a replica of `size` bytes, when it is within the limits.
pub(crate) fn extents_of(size: u64, extent_bytes: u64) -> Option<u32> {
    let extents = size.div_ceil(extent_bytes);
    (size > 0 && extents <= u64::from(crate::MAX_REPLICA_EXTENTS)).then_some(extents as u32)
}

impl Metadata {
    /// A pool without replicas.
    pub fn new(extent_bytes: u64, disks: Vec<DiskMeta>) -> Metadata {
        Metadata { extent_bytes, disks, replicas: BTreeMap::new(), next_replica: 1 }
    }

    /// The extents of all disks.
    pub fn extents(&self) -> u64 {
        self.disks.iter().map(|d| u64::from(d.extents)).sum()
    }
    /// The bytes of all reservations.
    pub fn reservation_bytes(&self) -> u64 {
        self.replicas.values().map(|r| r.reservation.len() as u64).sum()
    }
    /// The extents promised to replicas.
    pub fn committed(&self) -> u64 {
        self.replicas.values().map(ReplicaMeta::committed).sum()
    }
    /// The number and contents of a replica.
    pub fn by_name(&self, name: &str) -> Option<(u32, &ReplicaMeta)> {
        self.replicas.iter().find(|(_, r)| r.name == name).map(|(id, r)| (*id, r))
    }

    /// Changes the metadata by one record. Returns the places that it freed, or why the record is impossible here
    /// (then nothing has changed, except perhaps a part of a [`Record::Map`]).
    pub fn apply(&mut self, record: &Record) -> Result<Vec<Place>, String> {
        match record {
            Record::Map { replica, run } => {
                let disk = self.disks.get(usize::from(run.place.disk)).ok_or("it uses an unknown disk")?;
                if run.place.extent.checked_add(run.count).is_none_or(|end| end > disk.extents) {
                    return Err("it uses an extent beyond the end of a disk".into());
                }
                let map = &mut self.replicas.get_mut(replica).ok_or("it maps an unknown replica")?.map;
                if run.count == 0 || run.logical.checked_add(run.count).is_none_or(|end| end > map.extents()) {
                    return Err("it maps an extent beyond the end of a replica".into());
                }
                for i in 0..run.count {
                    let place = Place { disk: run.place.disk, extent: run.place.extent + i };
                    if map.set(run.logical + i, Some(place)).is_some() {
                        return Err("it maps an extent that is mapped already".into());
                    }
                }
                Ok(Vec::new())
            }
            Record::Unmap { replica, logical, count } => {
                let map = &mut self.replicas.get_mut(replica).ok_or("it unmaps an unknown replica")?.map;
                let end = logical.checked_add(*count).filter(|end| *end <= map.extents());
                let end = end.ok_or("it unmaps an extent beyond the end of a replica")?;
                let mapped: Vec<(u32, Place)> = map.mapped_in(*logical, end).collect();
                for (at, _) in &mapped {
                    map.set(*at, None);
                }
                Ok(mapped.into_iter().map(|(_, place)| place).collect())
            }
            Record::CreateReplica { replica, name, size, thin } => {
                if *replica < self.next_replica || *replica == u32::MAX {
                    return Err("it creates a replica with an old number".into());
                }
                if self.by_name(name).is_some() || self.replicas.len() >= block::limits::POOL_REPLICAS {
                    return Err("it creates a replica twice, or too many".into());
                }
                let extents = extents_of(*size, self.extent_bytes).ok_or("it creates a replica of impossible size")?;
                self.next_replica = replica + 1;
                let new = ReplicaMeta {
                    name: name.clone(),
                    size: *size,
                    thin: *thin,
                    map: ExtentMap::new(extents),
                    reservation: Vec::new(),
                };
                self.replicas.insert(*replica, new);
                Ok(Vec::new())
            }
            Record::DestroyReplica { replica } => {
                let gone = self.replicas.remove(replica).ok_or("it destroys an unknown replica")?;
                Ok(gone.map.mapped_in(0, gone.map.extents()).map(|(_, place)| place).collect())
            }
            Record::AddDisk { index, uuid, extents } => {
                let full = self.disks.len() >= block::limits::POOL_DISKS;
                if full || usize::from(*index) != self.disks.len() || self.disks.iter().any(|d| d.uuid == *uuid) {
                    return Err("it adds a disk twice, or in the wrong place".into());
                }
                self.disks.push(DiskMeta { uuid: *uuid, extents: *extents });
                Ok(Vec::new())
            }
            Record::Reserve { replica, state } => {
                let reserved = self.replicas.get_mut(replica).ok_or("it reserves an unknown replica")?;
                if state.len() > crate::MAX_RESERVATIONS {
                    return Err("it has too many bytes of reservations".into());
                }
                reserved.reservation.clone_from(state);
                Ok(Vec::new())
            }
            Record::Grow { replica, size } => {
                let extents = extents_of(*size, self.extent_bytes).ok_or("it grows a replica to an impossible size")?;
                let grown = self.replicas.get_mut(replica).ok_or("it grows an unknown replica")?;
                if *size <= grown.size {
                    return Err("it grows a replica to less than it has".into());
                }
                grown.size = *size;
                grown.map.grow(extents);
                Ok(Vec::new())
            }
        }
    }

    /// What contradicts itself across the whole pool: extents with two owners, more promised than there is.
    pub fn problems(&self) -> Vec<String> {
        // In pieces that are made as they are needed: what a damaged disk says about its size is not to be believed.
        const PIECE: u32 = 1024;
        let mut problems = Vec::new();
        let mut owners: BTreeMap<(u8, u32), Vec<u32>> = BTreeMap::new();
        for (id, replica) in &self.replicas {
            for (logical, place) in replica.map.mapped_in(0, replica.map.extents()) {
                let piece = owners.entry((place.disk, place.extent / PIECE)).or_insert_with(|| vec![0; PIECE as usize]);
                let slot = &mut piece[(place.extent % PIECE) as usize];
                if *slot != 0 {
                    let other = self.replicas.get(slot).map_or("?", |r| &r.name);
                    let (disk, extent, name) = (place.disk, place.extent, &replica.name);
                    problems.push(format!(
                        "extent {extent} of disk {disk} is owned by replica {other} and by replica {name} (its extent {logical})"
                    ));
                }
                *slot = *id;
            }
        }
        let (committed, extents) = (self.committed(), self.extents());
        if committed > extents {
            problems.push(format!("{committed} extents are promised, but there are only {extents}"));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::Run;

    fn pool() -> Metadata {
        let mut m = Metadata::new(4096, vec![DiskMeta { uuid: Uuid::from_u128(1), extents: 8 }]);
        for (replica, name, thin) in [(1, "thick", false), (2, "thin", true)] {
            m.apply(&Record::CreateReplica { replica, name: name.into(), size: 4 * 4096 - 512, thin }).unwrap();
        }
        m
    }
    fn map(replica: u32, logical: u32, extent: u32, count: u32) -> Record {
        Record::Map { replica, run: Run { logical, place: Place { disk: 0, extent }, count } }
    }

    #[test]
    fn records_change_what_they_say() {
        let mut m = pool();
        assert_eq!((m.committed(), m.extents()), (4, 8));
        m.apply(&map(2, 1, 5, 2)).unwrap();
        assert_eq!(m.committed(), 6);
        assert_eq!(
            m.apply(&Record::Unmap { replica: 2, logical: 0, count: 2 }),
            Ok(vec![Place { disk: 0, extent: 5 }])
        );
        m.apply(&Record::Grow { replica: 1, size: 5 * 4096 }).unwrap();
        m.apply(&Record::Grow { replica: 2, size: 600 * 4096 }).unwrap();
        assert_eq!((m.committed(), m.replicas[&2].map.extents()), (6, 600));
        assert_eq!(m.apply(&Record::DestroyReplica { replica: 2 }), Ok(vec![Place { disk: 0, extent: 6 }]));
        assert_eq!(m.problems(), Vec::<String>::new());
    }

    #[test]
    fn impossible_records_are_refused() {
        let mut m = pool();
        m.apply(&map(1, 0, 0, 1)).unwrap();
        let name = "thick".to_string();
        for bad in [
            map(1, 0, 3, 1),
            map(1, 3, 3, 2),
            map(1, 1, 7, 2),
            map(1, 1, u32::MAX, 2),
            map(1, u32::MAX, 1, 2),
            map(9, 1, 1, 1),
            map(1, 1, 1, 0),
            Record::Unmap { replica: 1, logical: 1, count: u32::MAX },
            Record::Unmap { replica: 9, logical: 1, count: 1 },
            Record::CreateReplica { replica: 3, name: name.clone(), size: 1, thin: false },
            Record::CreateReplica { replica: 2, name: "x".into(), size: 1, thin: false },
            Record::CreateReplica { replica: 3, name: "x".into(), size: 0, thin: false },
            Record::CreateReplica { replica: 3, name: "x".into(), size: u64::MAX, thin: true },
            Record::DestroyReplica { replica: 3 },
            Record::AddDisk { index: 2, uuid: Uuid::from_u128(2), extents: 1 },
            Record::AddDisk { index: 1, uuid: Uuid::from_u128(1), extents: 1 },
            Record::Reserve { replica: 9, state: vec![1] },
            Record::Grow { replica: 9, size: 5 * 4096 },
            Record::Grow { replica: 1, size: 4 * 4096 - 512 },
            Record::Grow { replica: 1, size: 4096 },
            Record::Grow { replica: 1, size: u64::MAX },
            Record::Reserve { replica: 1, state: vec![1; crate::MAX_RESERVATIONS + 1] },
        ] {
            assert!(m.apply(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_disk_that_claims_to_be_huge_costs_no_memory() {
        let huge = |n| DiskMeta { uuid: Uuid::from_u128(n), extents: u32::MAX };
        let mut m = Metadata::new(4096, (1..65).map(huge).collect());
        m.apply(&Record::CreateReplica { replica: 1, name: "thin".into(), size: 1 << 40, thin: true }).unwrap();
        for disk in 0..64 {
            let run = Run { logical: u32::from(disk), place: Place { disk, extent: u32::MAX - 1 }, count: 1 };
            m.apply(&Record::Map { replica: 1, run }).unwrap();
        }
        assert_eq!(m.problems(), Vec::<String>::new());
    }

    #[test]
    fn two_owners_and_too_many_promises_are_found() {
        let mut m = pool();
        m.apply(&map(1, 0, 3, 1)).unwrap();
        m.apply(&map(2, 0, 3, 1)).unwrap();
        assert_eq!(m.problems().len(), 1, "{:?}", m.problems());
        m.disks[0].extents = 4;
        assert_eq!(m.problems().len(), 2);
    }
}
