//! The ledger: who may be read. docs/replication.md, section 3.

use std::collections::BTreeSet;
use std::fmt;

use block::{Bytes, Generation};
use uuid::Uuid;

use crate::meta::SLOT_BYTES;

/// Members, by their uuids.
pub type Set = BTreeSet<Uuid>;

const MAGIC: &[u8; 8] = b"MAYALEDG";
const FORMAT: u32 = 1;
const HEAD: usize = 72;
const RECORD: usize = 32;
/// Entries that fit: the sets in doubt are masks of 64 bits over them.
const MAX_MEMBERS: usize = 64;
const MAX_DOUBTS: usize = 64;
const SEQUENCE_BITS: u32 = 20;
const SALT_BITS: u32 = 12;

/// The order of ledgers: the generation of the nexus that wrote it (32 bits), its salt (12), a sequence (20).
///
/// The salt is random, so that two nexuses that took the same generation, the first having died before anybody heard of
/// it, do not use one version for two ledgers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u64);

impl Version {
    /// The version as one growing number, for stores and reports.
    pub fn number(self) -> Generation {
        Generation(self.0)
    }
    /// The version that [`Version::number`] gave.
    pub fn from_number(number: Generation) -> Version {
        Version(number.0)
    }
    /// The generation.
    pub fn generation(self) -> u64 {
        self.0 >> (SALT_BITS + SEQUENCE_BITS)
    }
    /// Which nexus wrote it: the generation and the salt.
    pub fn writer(self) -> u64 {
        self.0 >> SEQUENCE_BITS
    }
    /// The first version of the generation after this one, with 12 bits of `salt`.
    pub fn next_generation(self, salt: u64) -> Version {
        let salt = salt & ((1 << SALT_BITS) - 1);
        Version((self.generation() + 1) << (SALT_BITS + SEQUENCE_BITS) | salt << SEQUENCE_BITS)
    }
    /// The version after this one. A sequence that is used up runs into the salt, which is higher still.
    pub fn next(self) -> Version {
        Version(self.0 + 1)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.generation(), self.0 & ((1 << SEQUENCE_BITS) - 1))
    }
}

/// What the ledger says of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It may be read.
    InSync,
    /// It may not be read; the dirty map covers all that it lacks.
    Behind,
    /// It is no member any more, and listed only because a set in doubt names it.
    Gone,
}

/// A member in a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The member.
    pub member: Uuid,
    /// Its role.
    pub role: Role,
    /// A hash of the URI that it was last reached by, so that an unreachable child can be named.
    pub uri_tag: u64,
}

/// A ledger.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ledger {
    /// The volume.
    pub volume: Uuid,
    /// Its order.
    pub version: Version,
    /// The volume's size.
    pub size: Bytes,
    /// The size of a region of the dirty map.
    pub region: Bytes,
    /// The members.
    pub entries: Vec<Entry>,
    /// The version that was in force when this ledger was issued; 0 when none ever was.
    pub parent: Version,
    /// The set in force before this ledger (first), and sets recorded since that may have come into force.
    pub doubts: Vec<Set>,
}

/// The tag of a URI.
pub fn uri_tag(uri: &str) -> u64 {
    u64::from(crc32c::crc32c(uri.as_bytes())) << 32 | u64::from(crc32fast::hash(uri.as_bytes()))
}

/// Whether a set that follows `before` holds more than half of it.
pub fn is_majority(set: &Set, before: &Set) -> bool {
    2 * set.intersection(before).count() > before.len()
}

impl Ledger {
    /// The members in sync.
    pub fn in_sync(&self) -> Set {
        self.entries.iter().filter(|e| e.role == Role::InSync).map(|e| e.member).collect()
    }
    /// The entry of a member.
    pub fn entry(&self, member: Uuid) -> Option<&Entry> {
        self.entries.iter().find(|e| e.member == member)
    }

    /// The ledger as the bytes of one slot.
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.entries.len() <= MAX_MEMBERS && self.doubts.len() <= MAX_DOUBTS, "a ledger fits its slot");
        let mut b = vec![0; SLOT_BYTES];
        b[0..8].copy_from_slice(MAGIC);
        b[12..16].copy_from_slice(&FORMAT.to_le_bytes());
        b[16..32].copy_from_slice(self.volume.as_bytes());
        b[32..40].copy_from_slice(&self.version.0.to_le_bytes());
        b[40..48].copy_from_slice(&self.size.0.to_le_bytes());
        b[48..56].copy_from_slice(&self.region.0.to_le_bytes());
        b[64..72].copy_from_slice(&self.parent.0.to_le_bytes());
        b[56..60].copy_from_slice(&(self.entries.len() as u32).to_le_bytes());
        b[60..64].copy_from_slice(&(self.doubts.len() as u32).to_le_bytes());
        for (entry, to) in self.entries.iter().zip(b[HEAD..].chunks_exact_mut(RECORD)) {
            to[0..16].copy_from_slice(entry.member.as_bytes());
            to[16..24].copy_from_slice(&entry.uri_tag.to_le_bytes());
            to[24] = match entry.role {
                Role::InSync => 1,
                Role::Behind => 2,
                Role::Gone => 3,
            };
        }
        let at = HEAD + self.entries.len() * RECORD;
        for (set, to) in self.doubts.iter().zip(b[at..].chunks_exact_mut(8)) {
            let mask = self.entries.iter().enumerate().filter(|(_, e)| set.contains(&e.member)).map(|(i, _)| 1 << i);
            let mask: u64 = mask.sum();
            assert_eq!(mask.count_ones() as usize, set.len(), "every member in doubt has an entry");
            to.copy_from_slice(&mask.to_le_bytes());
        }
        let crc = crc32c::crc32c(&b[12..]);
        b[8..12].copy_from_slice(&crc.to_le_bytes());
        b
    }

    /// Reads a slot; `None` when it holds no good ledger.
    pub fn decode(b: &[u8]) -> Option<Ledger> {
        if b.len() != SLOT_BYTES || &b[0..8] != MAGIC {
            return None;
        }
        let u32_at = |at: usize| u32::from_le_bytes(b[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(b[at..at + 8].try_into().expect("eight bytes"));
        let uuid_at = |at: usize| Uuid::from_slice(&b[at..at + 16]).expect("sixteen bytes");
        let (count, doubts) = (u32_at(56) as usize, u32_at(60) as usize);
        if crc32c::crc32c(&b[12..]) != u32_at(8) || u32_at(12) != FORMAT || count > MAX_MEMBERS || doubts > MAX_DOUBTS {
            return None;
        }
        let entry = |i: usize| {
            let at = HEAD + i * RECORD;
            let role = match b[at + 24] {
                1 => Role::InSync,
                2 => Role::Behind,
                3 => Role::Gone,
                _ => return None,
            };
            Some(Entry { member: uuid_at(at), role, uri_tag: u64_at(at + 16) })
        };
        let entries = (0..count).map(entry).collect::<Option<Vec<_>>>()?;
        // No nexus lists a member twice; one that is both in sync and behind would be believed to be either.
        if entries.iter().map(|e| e.member).collect::<Set>().len() != count {
            return None;
        }
        let set = |i: usize| {
            let mask = u64_at(HEAD + count * RECORD + i * 8);
            entries.iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1).map(|(_, e)| e.member).collect()
        };
        Some(Ledger {
            volume: uuid_at(16),
            version: Version(u64_at(32)),
            size: Bytes(u64_at(40)),
            region: Bytes(u64_at(48)),
            parent: Version(u64_at(64)),
            doubts: (0..doubts).map(set).collect(),
            entries,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn any_ledger()(roles in prop::collection::vec((0u8..3, any::<u64>()), 1..20),
                        masks in prop::collection::vec(any::<u64>(), 0..6), n in any::<u32>()) -> Ledger {
            let entries: Vec<Entry> = roles.iter().enumerate().map(|(i, (role, tag))| Entry {
                member: Uuid::from_u128(i as u128 + 1),
                role: [Role::InSync, Role::Behind, Role::Gone][*role as usize],
                uri_tag: *tag,
            }).collect();
            let doubts = masks.iter().map(|mask| {
                entries.iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1).map(|(_, e)| e.member).collect()
            }).collect();
            Ledger { volume: Uuid::from_u128(9), version: Version(n.into()), size: Bytes(n.into()),
                     region: Bytes(4 << 20), parent: Version(u64::from(n) / 2), entries, doubts }
        }
    }

    proptest! {
        #[test]
        fn a_ledger_survives_its_slot(ledger in any_ledger(), at in 0usize..SLOT_BYTES, bit in 0u8..8) {
            let mut bytes = ledger.encode();
            prop_assert_eq!(Ledger::decode(&bytes), Some(ledger));
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(Ledger::decode(&bytes), None);
        }
        #[test]
        fn any_bytes_are_refused_quietly(mut bytes in prop::collection::vec(any::<u8>(), SLOT_BYTES)) {
            bytes[..8].copy_from_slice(MAGIC);
            prop_assert_eq!(Ledger::decode(&bytes), None);
        }
    }

    #[test]
    fn a_member_that_is_listed_twice_is_no_ledger() {
        let entry = |n, role| Entry { member: Uuid::from_u128(n), role, uri_tag: 0 };
        let entries = vec![entry(1, Role::InSync), entry(2, Role::InSync), entry(2, Role::Behind)];
        let ledger = Ledger {
            volume: Uuid::from_u128(9),
            version: Version(2),
            size: Bytes(0),
            region: Bytes(0),
            parent: Version(1),
            entries,
            doubts: Vec::new(),
        };
        assert_eq!(Ledger::decode(&ledger.encode()), None);
    }

    #[test]
    fn versions_grow() {
        let v = Version::default().next_generation(7);
        assert!(v.next() > v && v.next().next_generation(0) > v.next());
        assert_eq!(v.next().to_string(), "1.1");
        assert_eq!(Version::from_number(v.number()), v);
    }
}
