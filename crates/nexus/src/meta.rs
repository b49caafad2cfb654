//! What lies inside MayaMeta: where, and the member's identity.

use block::{BlockRange, BlockSize, Blocks, Lba};
use uuid::Uuid;

/// Bytes from the start of MayaMeta to the identity.
const IDENTITY_AT: u64 = 0;
/// Bytes to the two ledger slots.
const SLOT_AT: [u64; 2] = [64 << 10, 128 << 10];
/// Bytes to the note of the cache's life.
const CACHE_AT: u64 = 32 << 10;
/// Bytes to the dirty map.
const MAP_AT: u64 = 1 << 20;
/// Bytes for the dirty map: the rest of MayaMeta.
pub(crate) const MAP_BYTES: u64 = crate::label::META_BYTES.0 - MAP_AT;
/// Bytes of one ledger slot.
pub const SLOT_BYTES: usize = 4096;
const IDENTITY_MAGIC: &[u8; 8] = b"MAYAMEMB";
const CACHE_MAGIC: &[u8; 8] = b"MAYACACH";

/// Who a member is: written once, when the child is labelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The volume that it belongs to.
    pub volume: Uuid,
    /// The member's own uuid.
    pub member: Uuid,
}

impl Identity {
    /// The identity as one block.
    pub fn encode(&self, block_size: BlockSize) -> Vec<u8> {
        let mut bytes = vec![0; block_size.bytes() as usize];
        bytes[0..8].copy_from_slice(IDENTITY_MAGIC);
        bytes[16..32].copy_from_slice(self.volume.as_bytes());
        bytes[32..48].copy_from_slice(self.member.as_bytes());
        let crc = crc32c::crc32c(&bytes[16..48]);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        bytes
    }
    /// Reads an identity; `None` when there is no good one.
    pub fn decode(bytes: &[u8]) -> Option<Identity> {
        let crc = u32::from_le_bytes(bytes.get(8..12)?.try_into().ok()?);
        if bytes.get(0..8)? != IDENTITY_MAGIC || crc32c::crc32c(bytes.get(16..48)?) != crc {
            return None;
        }
        let uuid = |at: usize| Uuid::from_slice(&bytes[at..at + 16]).expect("sixteen bytes");
        Some(Identity { volume: uuid(16), member: uuid(32) })
    }
}

/// The blocks of the identity, from the start of MayaMeta.
pub fn identity(block_size: BlockSize) -> BlockRange {
    range(block_size, IDENTITY_AT, u64::from(block_size.bytes()))
}
/// Which life of its device's cache a member has been in since it was last known to lack nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheNote {
    /// The volume.
    pub volume: Uuid,
    /// The life: what the device said when the note was written.
    pub run: [u8; 16],
}

impl CacheNote {
    /// The note as one block.
    pub fn encode(&self, block_size: BlockSize) -> Vec<u8> {
        let mut bytes = vec![0; block_size.bytes() as usize];
        bytes[0..8].copy_from_slice(CACHE_MAGIC);
        bytes[16..32].copy_from_slice(self.volume.as_bytes());
        bytes[32..48].copy_from_slice(&self.run);
        let crc = crc32c::crc32c(&bytes[16..48]);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        bytes
    }
    /// Reads a note; `None` when there is no good one.
    pub fn decode(bytes: &[u8]) -> Option<CacheNote> {
        let crc = u32::from_le_bytes(bytes.get(8..12)?.try_into().ok()?);
        if bytes.get(0..8)? != CACHE_MAGIC || crc32c::crc32c(bytes.get(16..48)?) != crc {
            return None;
        }
        let volume = Uuid::from_slice(&bytes[16..32]).expect("sixteen bytes");
        Some(CacheNote { volume, run: bytes[32..48].try_into().expect("sixteen bytes") })
    }
}

/// The blocks of the note of the cache's life, from the start of MayaMeta.
pub fn cache_note(block_size: BlockSize) -> BlockRange {
    range(block_size, CACHE_AT, u64::from(block_size.bytes()))
}
/// The blocks of a ledger slot (0 or 1), from the start of MayaMeta.
pub fn slot(block_size: BlockSize, slot: usize) -> BlockRange {
    range(block_size, SLOT_AT[slot], SLOT_BYTES as u64)
}
/// The blocks of the dirty map, from the start of MayaMeta: `units` of them.
pub fn map(block_size: BlockSize, units: usize) -> BlockRange {
    BlockRange { start: Lba(MAP_AT >> block_size.shift()), len: Blocks(units as u64) }
}

fn range(block_size: BlockSize, at: u64, bytes: u64) -> BlockRange {
    BlockRange::new(at >> block_size.shift(), bytes >> block_size.shift())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_found_again_and_damage_is_seen() {
        let id = Identity { volume: Uuid::from_u128(5), member: Uuid::from_u128(6) };
        let mut bytes = id.encode(BlockSize::B512);
        assert_eq!(Identity::decode(&bytes), Some(id));
        bytes[40] ^= 1;
        assert_eq!(Identity::decode(&bytes), None);
        assert_eq!(Identity::decode(&[0; 512]), None);
    }

    #[test]
    fn a_note_of_the_cache_is_found_again_and_damage_is_seen() {
        let note = CacheNote { volume: Uuid::from_u128(5), run: [7; 16] };
        let mut bytes = note.encode(BlockSize::B512);
        assert_eq!(CacheNote::decode(&bytes), Some(note));
        bytes[40] ^= 1;
        assert_eq!(CacheNote::decode(&bytes), None);
        assert_eq!(CacheNote::decode(&[0; 512]), None);
    }
}
