//! The label of a disk: who it belongs to, and where its parts are. docs/disk-format.md, section 2.

use block::BlockSize;
use uuid::Uuid;

use crate::codec::{Reader, Writer, is_sealed, name_from, seal};

/// The size of one copy of the label.
pub const LABEL_BYTES: usize = 4096;
/// The place of the first copy.
pub const LABEL_A: u64 = 0;
/// The place of the second copy.
pub const LABEL_B: u64 = 64 << 10;
/// Everything before this offset belongs to the labels.
pub const HEAD_BYTES: u64 = 128 << 10;
/// The version of the on-disk format that this program writes, and the only one that it reads.
pub const FORMAT_VERSION: u16 = 1;

const MAGIC: &[u8; 8] = b"MAYAPOOL";
const CRC_AT: usize = 12;
const NAME_FIELD: usize = 64;

/// Whether a disk may hold data already.
///
/// ```text
/// (blank) ── create, add_disk ──► Preparing ── pool knows the disk, durably ──► Member ── destroy ──► (blank)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelState {
    /// The pool may not know the disk yet; no replica has an extent on it.
    Preparing,
    /// The pool knows the disk.
    Member,
}

/// Where the pool's metadata is on disk 0. All zero on the other disks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetadataArea {
    /// Byte offsets of the two checkpoint slots.
    pub slots: [u64; 2],
    /// The size of one slot.
    pub slot_bytes: u64,
    /// Byte offset of the journal.
    pub journal: u64,
    /// Blocks (of 4096 bytes) in the journal.
    pub journal_blocks: u32,
}

/// Feature bit 0: replicas have reservations in the metadata (journal records of kind 6, and in checkpoints).
pub const FEATURE_RESERVATIONS: u64 = 1 << 0;
/// Feature bit 1: replicas may have grown (journal records of kind 7).
pub const FEATURE_GROWN: u64 = 1 << 1;
/// All feature bits that this program knows.
const FEATURES: u64 = FEATURE_RESERVATIONS | FEATURE_GROWN;

/// What a label says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Whether the disk may hold data already.
    pub state: LabelState,
    /// The higher one of two valid copies counts.
    pub sequence: u64,
    /// The cluster in which the pool was created.
    pub cluster: Uuid,
    /// The pool's identity.
    pub pool: Uuid,
    /// The pool's name.
    pub name: String,
    /// This disk's identity.
    pub disk: Uuid,
    /// This disk's place in the pool, from 0.
    pub index: u16,
    /// The block size of all of the pool's disks.
    pub block_size: BlockSize,
    /// The part of the disk that the pool uses, in bytes.
    pub disk_bytes: u64,
    /// The size of an extent: a power of two.
    pub extent_bytes: u64,
    /// Byte offset of extent 0.
    pub data_offset: u64,
    /// How many extents the disk has.
    pub extents: u32,
    /// On disk 0: where the metadata is.
    pub metadata: MetadataArea,
    /// On disk 0: what a reader of the metadata has to know.
    pub features: u64,
}

/// What the bytes of one label copy are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelCopy {
    /// There is no label of ours.
    Absent,
    /// There is one, with a wrong checksum or impossible contents.
    Bad(String),
    /// It was written by a newer program.
    Newer(String),
    /// A good one.
    Good(Label),
}

impl Label {
    /// The label as stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.bytes(MAGIC).u16(FORMAT_VERSION).u8(self.state as u8).u8(0).u32(0).u64(self.sequence);
        w.uuid(self.cluster).uuid(self.pool).uuid(self.disk).u16(self.index).u8(self.name.len() as u8).u8(0);
        w.u32(self.block_size.bytes()).bytes(self.name.as_bytes()).pad_to(80 + NAME_FIELD);
        w.u64(self.disk_bytes).u64(self.extent_bytes).u64(self.data_offset).u32(self.extents);
        let m = &self.metadata;
        w.u32(m.journal_blocks).u64(m.slots[0]).u64(m.slots[1]).u64(m.slot_bytes).u64(m.journal);
        w.u64(self.features);
        w.pad_to(LABEL_BYTES);
        seal(&mut w.0, CRC_AT);
        w.0
    }

    /// Reads one copy. Never panics, whatever the bytes.
    pub fn decode(bytes: &[u8]) -> LabelCopy {
        if !bytes.starts_with(MAGIC) {
            return LabelCopy::Absent;
        }
        if bytes.len() < LABEL_BYTES || !is_sealed(&bytes[..LABEL_BYTES], CRC_AT) {
            return LabelCopy::Bad("its checksum is wrong".into());
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version != FORMAT_VERSION {
            return LabelCopy::Newer(format!("version {version}"));
        }
        match Label::fields(&bytes[..LABEL_BYTES]) {
            Ok(label) if label.features & !FEATURES != 0 => {
                LabelCopy::Newer(format!("feature bits {:#x}", label.features))
            }
            Ok(label) => match label.problem() {
                Some(why) => LabelCopy::Bad(why),
                None => LabelCopy::Good(label),
            },
            Err(why) => LabelCopy::Bad(why),
        }
    }

    fn fields(bytes: &[u8]) -> Result<Label, String> {
        let mut r = Reader(&bytes[10..]);
        let state = match r.u8()? {
            0 => LabelState::Preparing,
            1 => LabelState::Member,
            other => return Err(format!("it has the unknown state {other}")),
        };
        r.bytes(5)?;
        let sequence = r.u64()?;
        let (cluster, pool, disk, index) = (r.uuid()?, r.uuid()?, r.uuid()?, r.u16()?);
        let name_len = usize::from(r.u8()?);
        r.u8()?;
        let block_size = r.u32()?;
        let block_size = BlockSize::from_bytes(block_size).ok_or(format!("its block size is {block_size}"))?;
        let name = r.bytes(NAME_FIELD)?;
        let name = name_from(name.get(..name_len).ok_or("its name is too long")?)?;
        let (disk_bytes, extent_bytes, data_offset, extents) = (r.u64()?, r.u64()?, r.u64()?, r.u32()?);
        let journal_blocks = r.u32()?;
        let slots = [r.u64()?, r.u64()?];
        let metadata = MetadataArea { slots, slot_bytes: r.u64()?, journal: r.u64()?, journal_blocks };
        let features = r.u64()?;
        Ok(Label {
            state,
            sequence,
            cluster,
            pool,
            name,
            disk,
            index,
            block_size,
            disk_bytes,
            extent_bytes,
            data_offset,
            extents,
            metadata,
            features,
        })
    }

    /// What is impossible about the layout, if anything.
    fn problem(&self) -> Option<String> {
        let page = LABEL_BYTES as u64;
        if !self.extent_bytes.is_power_of_two() || !(crate::MIN_EXTENT..=crate::MAX_EXTENT).contains(&self.extent_bytes)
        {
            return Some(format!("its extent size is {}", self.extent_bytes));
        }
        if usize::from(self.index) >= block::limits::POOL_DISKS {
            return Some(format!("it is disk number {}", self.index));
        }
        let m = &self.metadata;
        let mut areas = vec![(0, HEAD_BYTES)];
        if self.index == 0 {
            if m.journal_blocks < 2 || m.slot_bytes < 2 * page {
                return Some("its metadata area is too small".into());
            }
            areas.extend([(m.slots[0], m.slot_bytes), (m.slots[1], m.slot_bytes)]);
            areas.push((m.journal, u64::from(m.journal_blocks) * page));
        }
        // At most 2^32 extents of 2^26 bytes: this product does not overflow.
        areas.push((self.data_offset, u64::from(self.extents) * self.extent_bytes));
        areas.sort_unstable();
        let mut end = 0u64;
        for (start, len) in areas {
            if start < end || !start.is_multiple_of(page) || !len.is_multiple_of(page) {
                return Some("its areas overlap or are not aligned".into());
            }
            end = match start.checked_add(len) {
                Some(end) => end,
                None => return Some("an area ends beyond 2^64".into()),
            };
        }
        (end > self.disk_bytes).then(|| "an area ends beyond the disk".into())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn sample() -> Label {
        Label {
            state: LabelState::Member,
            sequence: 3,
            cluster: Uuid::from_u128(1),
            pool: Uuid::from_u128(2),
            name: "p0".into(),
            disk: Uuid::from_u128(3),
            index: 0,
            block_size: BlockSize::B512,
            disk_bytes: 8 << 20,
            extent_bytes: 1 << 20,
            data_offset: 1 << 20,
            extents: 7,
            metadata: MetadataArea {
                slots: [128 << 10, 256 << 10],
                slot_bytes: 128 << 10,
                journal: 384 << 10,
                journal_blocks: 16,
            },
            features: FEATURE_RESERVATIONS,
        }
    }

    #[test]
    fn a_label_survives_the_round_trip_and_no_flipped_bit() {
        let bytes = sample().encode();
        assert_eq!(Label::decode(&bytes), LabelCopy::Good(sample()));
        for bit in (64..8 * 300).chain(8 * 4000..8 * 4096) {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(Label::decode(&bad), LabelCopy::Bad(_)), "bit {bit}");
        }
        assert_eq!(Label::decode(&[0; 4096]), LabelCopy::Absent);
        assert!(matches!(Label::decode(&bytes[..100]), LabelCopy::Bad(_)));
    }

    #[test]
    fn impossible_layouts_are_refused() {
        let cases: [fn(&mut Label); 6] = [
            |l| l.extent_bytes = 3 << 20,
            |l| l.extents = 8,
            |l| l.data_offset = 64 << 10,
            |l| l.metadata.slots[1] = 200 << 10,
            |l| l.metadata.journal = u64::MAX - 4095,
            |l| l.index = 64,
        ];
        for change in cases {
            let mut label = sample();
            change(&mut label);
            assert!(matches!(Label::decode(&label.encode()), LabelCopy::Bad(_)), "{label:?}");
        }
    }

    #[test]
    fn a_newer_format_is_named_as_such() {
        let mut bytes = sample().encode();
        bytes[8] = 2;
        seal(&mut bytes, CRC_AT);
        assert_eq!(Label::decode(&bytes), LabelCopy::Newer("version 2".into()));
        let mut bytes = sample().encode();
        bytes[208] = 4;
        seal(&mut bytes, CRC_AT);
        assert!(matches!(Label::decode(&bytes), LabelCopy::Newer(_)));
    }

    proptest! {
        #[test]
        fn decoding_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..5000), sealed in any::<bool>()) {
            if sealed && bytes.len() >= LABEL_BYTES {
                bytes.truncate(LABEL_BYTES);
                bytes[..8].copy_from_slice(MAGIC);
                bytes[8..11].copy_from_slice(&[1, 0, 1]);
                seal(&mut bytes, CRC_AT);
            }
            Label::decode(&bytes);
        }
    }
}
