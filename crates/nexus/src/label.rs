//! The label of a child: v0.3.0's GPT with two partitions, byte for byte, at the child's own size.
//!
//! `MayaMeta` (1 MiB to 5 MiB) holds what [`crate::meta`] describes, `MayaData` (from 5 MiB) the volume. UEFI 2.10,
//! section 5 has the formats.

use block::{BlockRange, BlockSize, Blocks, Bytes, Lba};
use thiserror::Error;
use uuid::{Uuid, uuid};

/// The type GUID of both partitions.
pub const PARTITION_TYPE: Uuid = uuid!("27663382-e5e6-11e9-81b4-ca5ca5ca5ca5");
/// Where MayaMeta begins.
pub const META_OFFSET: Bytes = Bytes(1 << 20);
/// The size of MayaMeta.
pub const META_BYTES: Bytes = Bytes(4 << 20);
/// Where MayaData begins.
pub const DATA_OFFSET: Bytes = Bytes(5 << 20);
/// Space that a partition table takes, at the front and at the end.
const TABLE_BYTES: u64 = 16384;
const HEADER_BYTES: usize = 92;
const ENTRY_BYTES: usize = 128;
/// How much of the front of a device is looked at before it is called blank.
pub const PROBE_BYTES: Bytes = Bytes(128 << 10);

/// A label, for one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// The volume.
    pub volume: Uuid,
    /// The unique GUID of MayaMeta.
    pub meta: Uuid,
    /// The unique GUID of MayaData.
    pub data: Uuid,
}

/// The places of a label on a device of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The device's block size.
    pub block_size: BlockSize,
    /// The device's size.
    pub blocks: Blocks,
}

/// The device is too small for a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a device of {0} bytes is too small for a label")]
pub struct TooSmall(pub Bytes);

/// What the front and the end of a device show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Nothing: zeroes.
    Blank,
    /// A label of ours; `whole` when both copies are good.
    Labelled {
        /// The label.
        label: Label,
        /// Whether both headers and both tables are good; if not, the label is written again.
        whole: bool,
    },
    /// Something that is not ours, or is damaged: not to be overwritten. The text says what.
    Foreign(String),
}

impl Layout {
    /// The layout of a device.
    pub fn new(block_size: BlockSize, blocks: Blocks) -> Result<Layout, TooSmall> {
        let layout = Layout { block_size, blocks };
        let tail = TABLE_BYTES + u64::from(block_size.bytes());
        let bytes = block_size.bytes_of(blocks);
        if bytes.0 <= DATA_OFFSET.0 + tail {
            return Err(TooSmall(bytes));
        }
        Ok(layout)
    }
    fn at(&self, bytes: Bytes) -> Lba {
        Lba(self.block_size.blocks_in(bytes).0)
    }
    fn table_blocks(&self) -> u64 {
        TABLE_BYTES >> self.block_size.shift()
    }
    fn last(&self) -> u64 {
        self.blocks.0 - 1
    }
    fn last_usable(&self) -> u64 {
        self.last() - self.table_blocks() - 1
    }
    /// The blocks of MayaMeta.
    pub fn meta(&self) -> BlockRange {
        BlockRange { start: self.at(META_OFFSET), len: self.block_size.blocks_in(META_BYTES) }
    }
    /// The blocks of MayaData.
    pub fn data(&self) -> BlockRange {
        let start = self.at(DATA_OFFSET);
        BlockRange { start, len: Lba(self.last_usable() + 1) - start }
    }
    /// What [`Label::front`] fills: MBR, header and table.
    pub fn front(&self) -> BlockRange {
        BlockRange::new(0, 2 + self.table_blocks())
    }
    /// What [`Label::back`] fills: table and header.
    pub fn back(&self) -> BlockRange {
        BlockRange::new(self.last_usable() + 1, self.table_blocks() + 1)
    }
    /// What [`probe`] wants to see of the front.
    pub fn probe_front(&self) -> BlockRange {
        BlockRange { start: Lba(0), len: self.block_size.blocks_in(PROBE_BYTES) }
    }
}

impl Label {
    /// The bytes of the protective MBR, the primary header and the primary table.
    pub fn front(&self, layout: &Layout) -> Vec<u8> {
        let block = layout.block_size.bytes() as usize;
        let mut bytes = vec![0; layout.block_size.bytes_of(layout.front().len).0 as usize];
        write_mbr(&mut bytes[..512], layout);
        let table = self.table(layout);
        bytes[2 * block..2 * block + table.len()].copy_from_slice(&table);
        bytes[block..block + HEADER_BYTES].copy_from_slice(&self.header(layout, 1, layout.last(), 2));
        bytes
    }
    /// The bytes of the secondary table and the secondary header.
    pub fn back(&self, layout: &Layout) -> Vec<u8> {
        let block = layout.block_size.bytes() as usize;
        let mut bytes = vec![0; layout.block_size.bytes_of(layout.back().len).0 as usize];
        let table = self.table(layout);
        bytes[..table.len()].copy_from_slice(&table);
        let at = bytes.len() - block;
        let header = self.header(layout, layout.last(), 1, layout.last_usable() + 1);
        bytes[at..at + HEADER_BYTES].copy_from_slice(&header);
        bytes
    }
    fn table(&self, layout: &Layout) -> [u8; 2 * ENTRY_BYTES] {
        let mut bytes = [0; 2 * ENTRY_BYTES];
        let parts = [(self.meta, layout.meta(), "MayaMeta"), (self.data, layout.data(), "MayaData")];
        for (entry, (guid, range, name)) in bytes.chunks_exact_mut(ENTRY_BYTES).zip(parts) {
            entry[0..16].copy_from_slice(&PARTITION_TYPE.to_bytes_le());
            entry[16..32].copy_from_slice(&guid.to_bytes_le());
            entry[32..40].copy_from_slice(&range.start.0.to_le_bytes());
            entry[40..48].copy_from_slice(&(range.end().0 - 1).to_le_bytes());
            for (to, unit) in entry[56..].chunks_exact_mut(2).zip(name.encode_utf16()) {
                to.copy_from_slice(&unit.to_le_bytes());
            }
        }
        bytes
    }
    fn header(&self, layout: &Layout, my: u64, alternate: u64, table_at: u64) -> [u8; HEADER_BYTES] {
        let mut h = [0; HEADER_BYTES];
        h[0..8].copy_from_slice(b"EFI PART");
        h[8..12].copy_from_slice(&[0, 0, 1, 0]);
        h[12..16].copy_from_slice(&(HEADER_BYTES as u32).to_le_bytes());
        h[24..32].copy_from_slice(&my.to_le_bytes());
        h[32..40].copy_from_slice(&alternate.to_le_bytes());
        h[40..48].copy_from_slice(&layout.meta().start.0.to_le_bytes());
        h[48..56].copy_from_slice(&layout.last_usable().to_le_bytes());
        h[56..72].copy_from_slice(&self.volume.to_bytes_le());
        h[72..80].copy_from_slice(&table_at.to_le_bytes());
        h[80..84].copy_from_slice(&2u32.to_le_bytes());
        h[84..88].copy_from_slice(&(ENTRY_BYTES as u32).to_le_bytes());
        h[88..92].copy_from_slice(&crc32fast::hash(&self.table(layout)).to_le_bytes());
        let crc = crc32fast::hash(&h);
        h[16..20].copy_from_slice(&crc.to_le_bytes());
        h
    }
}

/// The beginning of the protective MBR's only entry.
const PROTECTIVE: [u8; 8] = [0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff];

fn write_mbr(mbr: &mut [u8], layout: &Layout) {
    let sectors = u32::try_from(layout.last()).unwrap_or(u32::MAX);
    mbr[446..454].copy_from_slice(&PROTECTIVE);
    mbr[454..458].copy_from_slice(&1u32.to_le_bytes());
    mbr[458..462].copy_from_slice(&sectors.to_le_bytes());
    mbr[510..512].copy_from_slice(&[0x55, 0xaa]);
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
fn guid_at(bytes: &[u8], at: usize) -> Uuid {
    Uuid::from_bytes_le(bytes[at..at + 16].try_into().expect("sixteen bytes"))
}

/// A good GPT header with its table: ours, or somebody else's.
enum Table {
    Ours(Label),
    Other(String),
}

/// Reads one header and its table. `None` when there is no good header. `table` begins where the table should be.
fn parse(header: &[u8], table: &[u8], layout: &Layout, my: u64, alternate: u64, table_at: u64) -> Option<Table> {
    if &header[0..8] != b"EFI PART" || u32_at(header, 12) as usize != HEADER_BYTES {
        return None;
    }
    let mut copy: [u8; HEADER_BYTES] = header[..HEADER_BYTES].try_into().expect("a header");
    copy[16..20].fill(0);
    if crc32fast::hash(&copy) != u32_at(header, 16) {
        return None;
    }
    let (entries, entry) = (u32_at(header, 80) as usize, u32_at(header, 84) as usize);
    let used = entries.checked_mul(entry)?;
    if entry != ENTRY_BYTES || entries < 2 || used > table.len() {
        return Some(Table::Other("a partition table (GPT)".into()));
    }
    if crc32fast::hash(&table[..used]) != u32_at(header, 88) {
        return None;
    }
    let (first, second) = (&table[..ENTRY_BYTES], &table[ENTRY_BYTES..2 * ENTRY_BYTES]);
    if guid_at(first, 0) != PARTITION_TYPE || guid_at(second, 0) != PARTITION_TYPE {
        return Some(Table::Other("a partition table (GPT)".into()));
    }
    let (meta, data) = (layout.meta(), layout.data());
    let places = [(u64_at(header, 24), my), (u64_at(header, 72), table_at), (u64_at(first, 32), meta.start.0)];
    let more = [(u64_at(first, 40), meta.end().0 - 1), (u64_at(second, 32), data.start.0)];
    // v0.3.0 put the backup where that of the smallest child was: alternate, last usable and the end of MayaData may lie
    // before ours. That label is of this volume all the same, and is completed at this child's own end.
    if places.iter().chain(&more).any(|(found, wanted)| found != wanted)
        || u64_at(header, 32) > alternate
        || u64_at(second, 40) > data.end().0 - 1
    {
        return Some(Table::Other("a label of another size (was the device resized?)".into()));
    }
    Some(Table::Ours(Label { volume: guid_at(header, 56), meta: guid_at(first, 16), data: guid_at(second, 16) }))
}

/// Says what a device holds, from its first [`Layout::probe_front`] and its [`Layout::back`] bytes.
pub fn probe(front: &[u8], back: &[u8], layout: &Layout) -> Probe {
    let block = layout.block_size.bytes() as usize;
    let (last, back_at) = (layout.last(), layout.last_usable() + 1);
    let primary = parse(&front[block..], &front[2 * block..], layout, 1, last, 2);
    let header = &back[back.len() - block..];
    let secondary = parse(header, &back[..back.len() - block], layout, last, last, back_at);
    match (primary, secondary) {
        (Some(Table::Other(what)), _) => Probe::Foreign(what),
        (Some(Table::Ours(label)), _) => {
            let whole = front[..block * 2 + 2 * ENTRY_BYTES] == label.front(layout)[..block * 2 + 2 * ENTRY_BYTES]
                && back[..2 * ENTRY_BYTES] == label.back(layout)[..2 * ENTRY_BYTES]
                && header == &label.back(layout)[back.len() - block..];
            Probe::Labelled { label, whole }
        }
        // A label whose front was lost, on a device with nothing else in front.
        (None, Some(Table::Ours(label))) if known(front).is_none() || is_torn(front, &label, block) => {
            Probe::Labelled { label, whole: false }
        }
        (None, _) => match known(front) {
            Some(what) => Probe::Foreign(what.into()),
            None if front.iter().all(|&b| b == 0) => Probe::Blank,
            None => Probe::Foreign("data of an unknown kind".into()),
        },
    }
}

/// Whether the front is what a crash leaves of writing this label, or writing it anew for another size: its header is whole
/// and names the volume, so only the table does not fit, or only the protective MBR is there.
fn is_torn(front: &[u8], label: &Label, block: usize) -> bool {
    let mut header: [u8; HEADER_BYTES] = front[block..block + HEADER_BYTES].try_into().expect("a header");
    if header == [0; HEADER_BYTES] {
        return front[446..454] == PROTECTIVE;
    }
    let crc = u32_at(&header, 16);
    header[16..20].fill(0);
    header.starts_with(b"EFI PART") && crc32fast::hash(&header) == crc && guid_at(&header, 56) == label.volume
}

/// What a well-known signature says.
fn known(front: &[u8]) -> Option<&'static str> {
    let is = |at: usize, magic: &[u8]| front.get(at..at + magic.len()) == Some(magic);
    let table: [(usize, &[u8], &str); 10] = [
        (0, b"XFSB", "an XFS file system"),
        (0, b"LUKS\xba\xbe", "a LUKS volume"),
        (512, b"LABELONE", "an LVM physical volume"),
        (0, b"LABELONE", "an LVM physical volume"),
        (0x10040, b"_BHRfS_M", "a btrfs file system"),
        (4086, b"SWAPSPACE2", "swap space"),
        (4096, &[0xfc, 0x4e, 0x2b, 0xa9], "an md RAID member"),
        (512, b"EFI PART", "a damaged partition table (GPT)"),
        (4096, b"EFI PART", "a damaged partition table (GPT)"),
        (0x438, &[0x53, 0xef], "an ext file system"),
    ];
    let found = table.iter().find(|(at, magic, _)| is(*at, magic)).map(|(_, _, what)| *what);
    found.or_else(|| is(510, &[0x55, 0xaa]).then_some("a partition table (MBR) or boot sector"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label() -> Label {
        Label { volume: Uuid::from_u128(1), meta: Uuid::from_u128(2), data: Uuid::from_u128(3) }
    }
    fn layout() -> Layout {
        Layout::new(BlockSize::B512, Blocks(131072)).expect("large enough")
    }
    fn images(label: &Label, layout: &Layout) -> (Vec<u8>, Vec<u8>) {
        let mut front = label.front(layout);
        front.resize(PROBE_BYTES.0 as usize, 0);
        (front, label.back(layout))
    }

    #[test]
    fn the_places_are_those_of_v0_3_0() {
        let l = layout();
        assert_eq!((l.data().start.0, l.data().end().0 - 1), (10240, 131038));
        assert_eq!((l.back().start.0, l.back().end().0 - 1), (131039, 131071));
        assert_eq!((l.meta().start.0, l.meta().len.0), (2048, 8192));
        let large = Layout::new(BlockSize::B4096, Blocks(16384)).expect("large enough");
        assert_eq!((large.data().start.0, large.data().end().0 - 1, large.front().len.0), (1280, 16378, 6));
    }

    #[test]
    fn the_bytes_are_those_of_v0_3_0() {
        let l = layout();
        let volume = uuid!("00010203-0405-0607-0809-0a0b0c0d0e0f");
        let (front, back) = images(&Label { volume, ..label() }, &l);
        assert!(front[..440].iter().all(|&b| b == 0));
        assert_eq!(&front[440..446], &[0; 6]);
        assert_eq!(&front[446..454], &[0x00, 0x00, 0x02, 0x00, 0xee, 0xff, 0xff, 0xff]);
        assert_eq!(&front[454..462], &[1, 0, 0, 0, 0xff, 0xff, 0x01, 0x00]);
        assert_eq!(&front[510..512], &[0x55, 0xaa]);
        let header = &front[512..604];
        assert_eq!(&header[..16], b"EFI PART\0\0\x01\0\x5c\0\0\0");
        assert_eq!((u64_at(header, 24), u64_at(header, 32)), (1, 131071));
        assert_eq!((u64_at(header, 40), u64_at(header, 48)), (2048, 131038));
        // Mixed endian: the first three fields are swapped.
        assert_eq!(&header[56..72], &[3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15]);
        assert_eq!((u64_at(header, 72), u32_at(header, 80), u32_at(header, 84)), (2, 2, 128));
        assert_eq!(u32_at(header, 88), crc32fast::hash(&front[1024..1280]));
        let entry = &front[1024..1152];
        assert_eq!(
            &entry[..16],
            &[0x82, 0x33, 0x66, 0x27, 0xe6, 0xe5, 0xe9, 0x11, 0x81, 0xb4, 0xca, 0x5c, 0xa5, 0xca, 0x5c, 0xa5]
        );
        assert_eq!((u64_at(entry, 32), u64_at(entry, 40)), (2048, 10239));
        assert_eq!(&entry[56..72], b"M\0a\0y\0a\0M\0e\0t\0a\0");
        assert_eq!((u64_at(&front[1152..], 32), u64_at(&front[1152..], 40)), (10240, 131038));
        let backup = &back[16384..];
        assert_eq!((u64_at(backup, 24), u64_at(backup, 32), u64_at(backup, 72)), (131071, 1, 131039));
        assert_eq!(&back[..256], &front[1024..1280]);
    }

    #[test]
    fn a_label_is_found_again_and_one_good_copy_is_enough() {
        for l in [layout(), Layout::new(BlockSize::B4096, Blocks(40000)).expect("large enough")] {
            let (front, back) = images(&label(), &l);
            assert_eq!(probe(&front, &back, &l), Probe::Labelled { label: label(), whole: true });
            let mut torn = back.clone();
            let at = torn.len() - l.block_size.bytes() as usize + 20;
            torn[at] ^= 1;
            assert_eq!(probe(&front, &torn, &l), Probe::Labelled { label: label(), whole: false });
            let gone = vec![0; front.len()];
            assert_eq!(probe(&gone, &back, &l), Probe::Labelled { label: label(), whole: false });
        }
    }

    #[test]
    fn a_backup_at_the_end_of_a_smaller_child_is_accepted() {
        let small = Layout::new(BlockSize::B512, Blocks(100_000)).expect("large enough");
        let (front, _) = images(&label(), &small);
        let back = vec![0; 33 * 512];
        assert_eq!(probe(&front, &back, &layout()), Probe::Labelled { label: label(), whole: false });
    }

    /// Found by killing a growing volume: the header of the larger size was on the disk, the table was not yet.
    #[test]
    fn a_front_that_was_torn_by_a_crash_is_ours() {
        let (old, new) = (Layout::new(BlockSize::B512, Blocks(100_000)).expect("large enough"), layout());
        let (before, _) = images(&label(), &old);
        let (after, back) = images(&label(), &new);
        for sectors in 0..8u8 {
            let mut front = before.clone();
            for sector in (0..3).filter(|s| sectors >> s & 1 == 1) {
                front[sector * 512..][..512].copy_from_slice(&after[sector * 512..][..512]);
            }
            let whole = sectors & 6 == 6;
            let found = probe(&front, &back, &new);
            assert!(
                matches!(found, Probe::Labelled { label: l, whole: w } if l == label() && (!w || whole)),
                "{sectors}: {found:?}"
            );
            // The same while it is written for the first time.
            front.fill(0);
            for sector in (0..3).filter(|s| sectors >> s & 1 == 1) {
                front[sector * 512..][..512].copy_from_slice(&after[sector * 512..][..512]);
            }
            assert!(matches!(probe(&front, &back, &new), Probe::Labelled { .. }), "{sectors}, first");
        }
        // Another volume's header is not ours, whatever lies at the end.
        let (mut front, _) = images(&Label { volume: Uuid::from_u128(9), ..label() }, &old);
        front[1024..1536].fill(7);
        assert!(matches!(probe(&front, &back, &new), Probe::Foreign(_)));
    }

    #[test]
    fn foreign_contents_are_named() {
        let l = layout();
        let back = vec![0; 33 * 512];
        let mut front = vec![0; PROBE_BYTES.0 as usize];
        assert_eq!(probe(&front, &back, &l), Probe::Blank);
        front[0x438..0x43a].copy_from_slice(&[0x53, 0xef]);
        assert_eq!(probe(&front, &back, &l), Probe::Foreign("an ext file system".into()));
        let mut other = images(&label(), &l).0;
        other[1024] ^= 1; // the partition's type, so also a wrong checksum
        assert!(matches!(probe(&other, &back, &l), Probe::Foreign(w) if w.contains("damaged")));
        front.fill(0);
        front[70_000] = 1;
        assert!(matches!(probe(&front, &back, &l), Probe::Foreign(_)));
    }

    #[test]
    fn a_device_without_room_is_refused() {
        assert!(Layout::new(BlockSize::B512, Blocks(10240 + 33)).is_err());
        assert!(Layout::new(BlockSize::B512, Blocks(10240 + 34)).is_ok());
    }
}
