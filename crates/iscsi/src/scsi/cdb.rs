//! Command descriptor blocks: from bytes to a command that was checked against its logical unit.

use block::{BlockRange, Blocks, Durability, Geometry, Lba, limits};

use super::Sense;
use super::mode::ModeSense;
use crate::wire::{get16, get24, get32, get64};

/// Bytes of a PERSISTENT RESERVE OUT parameter list without the options that we do not have.
const PERSISTENT_LIST: u32 = 24;

/// What a VERIFY compares with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// Nothing: the blocks are read.
    Nothing,
    /// The initiator's data.
    Data,
    /// Each block with the one block that the initiator sends.
    OneBlock,
}

/// A command that was checked against its logical unit. Lengths named `allocation` are what the initiator has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Succeeds: TEST UNIT READY, START STOP UNIT, SEND DIAGNOSTIC.
    Nothing,
    /// PRE-FETCH, and reads and writes of no block: they succeed, when nobody has reserved the unit.
    Prefetch,
    /// REQUEST SENSE.
    RequestSense {
        /// Room in bytes.
        allocation: usize,
    },
    /// INQUIRY.
    Inquiry {
        /// The vital product data page, `None` for the standard data.
        page: Option<u8>,
        /// Room in bytes.
        allocation: usize,
    },
    /// REPORT LUNS.
    ReportLuns {
        /// Which ones.
        select: u8,
        /// Room in bytes.
        allocation: usize,
    },
    /// READ CAPACITY (10).
    ReadCapacity10,
    /// READ CAPACITY (16).
    ReadCapacity16 {
        /// Room in bytes.
        allocation: usize,
    },
    /// MODE SENSE (6) and (10).
    ModeSense(ModeSense),
    /// MODE SELECT (6) and (10).
    ModeSelect {
        /// Whether it is the 10 byte form.
        is_long: bool,
        /// Bytes of the parameter list.
        len: usize,
    },
    /// REPORT SUPPORTED OPERATION CODES.
    ReportOpcodes {
        /// All, one, one with service action (SPC 6.35).
        option: u8,
        /// The operation code asked for.
        opcode: u8,
        /// Its service action.
        action: u16,
        /// Whether timeouts are wanted.
        timeouts: bool,
        /// Room in bytes.
        allocation: usize,
    },
    /// PERSISTENT RESERVE IN.
    PersistentIn {
        /// Service action.
        action: u8,
        /// Room in bytes.
        allocation: usize,
    },
    /// PERSISTENT RESERVE OUT.
    PersistentOut {
        /// Service action.
        action: u8,
        /// Scope and type.
        kind: u8,
        /// Bytes of the parameter list.
        len: usize,
    },
    /// RESERVE (6).
    Reserve,
    /// RELEASE (6).
    Release,
    /// READ.
    Read {
        /// The blocks.
        range: BlockRange,
        /// FUA: from the medium.
        durability: Durability,
    },
    /// WRITE.
    Write {
        /// The blocks.
        range: BlockRange,
        /// FUA.
        durability: Durability,
    },
    /// WRITE AND VERIFY.
    WriteVerify {
        /// The blocks.
        range: BlockRange,
        /// Whether what is read back is compared.
        compare: Compare,
    },
    /// VERIFY.
    Verify {
        /// The blocks.
        range: BlockRange,
        /// With what.
        compare: Compare,
    },
    /// WRITE SAME.
    WriteSame {
        /// The blocks.
        range: BlockRange,
        /// UNMAP: the space may be given back when the block is all zeroes.
        unmap: bool,
        /// NDOB: there is no data, zeroes are written.
        zeroes: bool,
    },
    /// UNMAP.
    Unmap {
        /// Bytes of the parameter list.
        len: usize,
    },
    /// COMPARE AND WRITE: the initiator sends what is expected, then what to write.
    CompareAndWrite {
        /// The blocks.
        range: BlockRange,
        /// FUA.
        durability: Durability,
    },
    /// ORWRITE.
    OrWrite {
        /// The blocks.
        range: BlockRange,
        /// FUA.
        durability: Durability,
    },
    /// SYNCHRONIZE CACHE.
    Flush,
}

/// What a command does to the unit, as far as reservations care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Never refused.
    Free,
    /// Refused only by a reservation of the old kind.
    Query,
    /// Looks at data or settings.
    Read,
    /// Changes data or settings.
    Write,
    /// RESERVE and RELEASE.
    Reserve,
}

impl Command {
    /// What it does to the unit.
    pub fn access(&self) -> Access {
        match self {
            Command::RequestSense { .. } | Command::Inquiry { .. } | Command::ReportLuns { .. } => Access::Free,
            Command::Nothing
            | Command::ReadCapacity10
            | Command::ReadCapacity16 { .. }
            | Command::ReportOpcodes { .. }
            | Command::PersistentIn { .. }
            | Command::PersistentOut { .. } => Access::Query,
            Command::Prefetch | Command::Read { .. } | Command::Verify { .. } | Command::ModeSense(_) => Access::Read,
            Command::ModeSelect { .. }
            | Command::Write { .. }
            | Command::WriteVerify { .. }
            | Command::WriteSame { .. }
            | Command::Unmap { .. }
            | Command::CompareAndWrite { .. }
            | Command::OrWrite { .. }
            | Command::Flush => Access::Write,
            Command::Reserve | Command::Release => Access::Reserve,
        }
    }

    /// Whether it may change what a later read returns.
    pub fn is_change(&self) -> bool {
        self.access() == Access::Write && !matches!(self, Command::ModeSelect { .. } | Command::Flush)
    }

    /// Whether no other change may come between its reading and its writing.
    pub fn is_exclusive(&self) -> bool {
        matches!(self, Command::CompareAndWrite { .. } | Command::OrWrite { .. })
    }

    /// Bytes of data that the initiator has to send.
    pub fn data_out(&self, geometry: &Geometry) -> usize {
        let bytes = |blocks: u64| geometry.block_size.bytes_of(Blocks(blocks)).0 as usize;
        match self {
            Command::Write { range, .. }
            | Command::WriteVerify { range, .. }
            | Command::OrWrite { range, .. }
            | Command::Verify { range, compare: Compare::Data } => bytes(range.len.0),
            Command::CompareAndWrite { range, .. } => bytes(2 * range.len.0),
            Command::Verify { compare: Compare::OneBlock, .. } => bytes(1),
            Command::WriteSame { zeroes: false, .. } => bytes(1),
            Command::ModeSelect { len, .. } | Command::PersistentOut { len, .. } | Command::Unmap { len } => *len,
            _ => 0,
        }
    }
}

/// The fields that reads, writes and verifications of one size share.
struct Fields {
    lba: u64,
    blocks: u64,
    /// The byte with the protection and cache bits.
    flags: u8,
    /// Which byte of the CDB the length begins at.
    length_at: u16,
}

impl Fields {
    fn of(cdb: &[u8; 16]) -> Fields {
        let flags = cdb[1];
        match cdb[0] >> 5 {
            // A length of zero means 256 in the 6 byte form.
            0 => {
                let blocks = if cdb[4] == 0 { 256 } else { u64::from(cdb[4]) };
                Fields { lba: u64::from(get24(cdb, 1) & 0x1f_ffff), blocks, flags: 0, length_at: 4 }
            }
            1 | 2 => Fields { lba: get32(cdb, 2).into(), blocks: get16(cdb, 7).into(), flags, length_at: 7 },
            5 => Fields { lba: get32(cdb, 2).into(), blocks: get32(cdb, 6).into(), flags, length_at: 6 },
            _ => Fields { lba: get64(cdb, 2), blocks: get32(cdb, 10).into(), flags, length_at: 10 },
        }
    }

    /// The blocks, inside the unit.
    fn range(&self, geometry: &Geometry) -> Result<BlockRange, Sense> {
        let range = BlockRange { start: Lba(self.lba), len: Blocks(self.blocks) };
        if range.fits(geometry.blocks) { Ok(range) } else { Err(Sense::LBA_OUT_OF_RANGE) }
    }

    /// The blocks of a command with data, of which there is a limit, without protection information, of which we have none.
    fn transfer(&self, geometry: &Geometry) -> Result<BlockRange, Sense> {
        if self.flags & 0xe0 != 0 {
            return Err(Sense::invalid_field(1));
        }
        let range = self.range(geometry)?;
        if geometry.block_size.bytes_of(range.len).0 > limits::TRANSFER_BYTES as u64 {
            return Err(Sense::invalid_field(self.length_at));
        }
        Ok(range)
    }

    /// The FUA bit.
    fn durability(&self) -> Durability {
        if self.flags & 0x08 != 0 { Durability::Durable } else { Durability::Volatile }
    }

    /// The BYTCHK field.
    fn compare(&self) -> Result<Compare, Sense> {
        match self.flags >> 1 & 3 {
            0 => Ok(Compare::Nothing),
            1 => Ok(Compare::Data),
            3 => Ok(Compare::OneBlock),
            _ => Err(Sense::invalid_field(1)),
        }
    }
}

/// Parses a CDB for a unit of that shape.
pub fn parse(cdb: &[u8; 16], geometry: &Geometry) -> Result<Command, Sense> {
    let control = match cdb[0] >> 5 {
        0 => 5,
        1 | 2 => 9,
        4 => 15,
        5 => 11,
        _ => return Err(Sense::INVALID_OPCODE),
    };
    let command = match parse_other(cdb)? {
        Some(command) => command,
        None => parse_blocks(cdb, geometry)?,
    };
    // NACA: auto contingent allegiance, which we do not have.
    if cdb[control] & 4 != 0 {
        return Err(Sense::invalid_field(control as u16));
    }
    Ok(command)
}

/// Commands that do not name blocks.
fn parse_other(cdb: &[u8; 16]) -> Result<Option<Command>, Sense> {
    let action = cdb[1] & 0x1f;
    Ok(Some(match cdb[0] {
        0x00 | 0x1b => Command::Nothing,
        // SEND DIAGNOSTIC: the default self-test, which always succeeds.
        0x1d if cdb[1] & 4 != 0 || cdb[1] == 0 && get16(cdb, 3) == 0 => Command::Nothing,
        0x1d => return Err(Sense::invalid_field(1)),
        0x03 if cdb[1] & 1 == 0 => Command::RequestSense { allocation: cdb[4].into() },
        0x03 => return Err(Sense::invalid_field(1)),
        0x12 if cdb[1] & 1 != 0 => Command::Inquiry { page: Some(cdb[2]), allocation: get16(cdb, 3).into() },
        0x12 if cdb[2] != 0 => return Err(Sense::invalid_field(2)),
        0x12 => Command::Inquiry { page: None, allocation: get16(cdb, 3).into() },
        0x15 | 0x55 if cdb[1] & 0x11 != 0x10 => return Err(Sense::invalid_field(1)),
        0x15 => Command::ModeSelect { is_long: false, len: cdb[4].into() },
        0x55 => Command::ModeSelect { is_long: true, len: get16(cdb, 7).into() },
        0x1a => Command::ModeSense(ModeSense::parse(cdb, false, cdb[4].into())),
        0x5a => Command::ModeSense(ModeSense::parse(cdb, true, get16(cdb, 7).into())),
        0x16 => Command::Reserve,
        0x17 => Command::Release,
        0x25 => Command::ReadCapacity10,
        0x9e if action == 0x10 => Command::ReadCapacity16 { allocation: get32(cdb, 10) as usize },
        0x9e => return Err(Sense::invalid_field(1)),
        0xa0 if cdb[2] <= 2 => Command::ReportLuns { select: cdb[2], allocation: get32(cdb, 6) as usize },
        0xa0 => return Err(Sense::invalid_field(2)),
        0xa3 if action == 0x0c => Command::ReportOpcodes {
            option: cdb[2] & 7,
            opcode: cdb[3],
            action: get16(cdb, 4),
            timeouts: cdb[2] & 0x80 != 0,
            allocation: get32(cdb, 6) as usize,
        },
        0xa3 => return Err(Sense::invalid_field(1)),
        0x5e if action <= 3 => Command::PersistentIn { action, allocation: get16(cdb, 7).into() },
        0x5f if action <= 6 && get32(cdb, 5) != PERSISTENT_LIST => return Err(Sense::LIST_LENGTH),
        0x5f if action <= 6 => Command::PersistentOut { action, kind: cdb[2], len: PERSISTENT_LIST as usize },
        0x5e | 0x5f => return Err(Sense::invalid_field(1)),
        _ => return Ok(None),
    }))
}

/// Commands that name blocks.
fn parse_blocks(cdb: &[u8; 16], geometry: &Geometry) -> Result<Command, Sense> {
    let fields = Fields::of(cdb);
    let durability = fields.durability();
    let command = match cdb[0] {
        0x08 | 0x28 | 0x88 | 0xa8 => Command::Read { range: fields.transfer(geometry)?, durability },
        0x0a | 0x2a | 0x8a | 0xaa => Command::Write { range: fields.transfer(geometry)?, durability },
        0x2e | 0x8e | 0xae => Command::WriteVerify { range: fields.transfer(geometry)?, compare: fields.compare()? },
        0x2f | 0x8f | 0xaf => Command::Verify { range: fields.transfer(geometry)?, compare: fields.compare()? },
        0x8b => Command::OrWrite { range: fields.transfer(geometry)?, durability },
        0x34 | 0x90 => {
            fields.range(geometry)?;
            Command::Prefetch
        }
        // Of any range: everything becomes durable.
        0x35 | 0x91 => {
            fields.range(geometry)?;
            Command::Flush
        }
        0x41 | 0x93 => write_same(cdb[0], &fields, geometry)?,
        0x42 if cdb[1] & 1 != 0 => return Err(Sense::invalid_field(1)),
        0x42 => Command::Unmap { len: get16(cdb, 7).into() },
        0x89 => {
            let fields = Fields { blocks: cdb[13].into(), length_at: 13, ..fields };
            let range = fields.transfer(geometry)?;
            if 2 * geometry.block_size.bytes_of(range.len).0 > limits::TRANSFER_BYTES as u64 {
                return Err(Sense::invalid_field(13));
            }
            Command::CompareAndWrite { range, durability }
        }
        _ => return Err(Sense::INVALID_OPCODE),
    };
    // A length of zero is no error, and asks for nothing.
    Ok(match command {
        Command::Read { range, .. }
        | Command::Write { range, .. }
        | Command::WriteVerify { range, .. }
        | Command::Verify { range, .. }
        | Command::OrWrite { range, .. }
            if range.is_empty() =>
        {
            Command::Prefetch
        }
        command => command,
    })
}

fn write_same(opcode: u8, fields: &Fields, geometry: &Geometry) -> Result<Command, Sense> {
    let zeroes = opcode == 0x93 && fields.flags & 1 != 0;
    let unmap = fields.flags & 8 != 0;
    // WRPROTECT; LBDATA and PBDATA; ANCHOR: space cannot be held back.
    if fields.flags & 0xf6 != 0 || fields.flags & 1 != 0 && !zeroes {
        return Err(Sense::invalid_field(1));
    }
    // Zero means "to the end", which we do not take (WSNZ).
    let most = limits::ISCSI_WRITE_SAME_BYTES as u64;
    if fields.blocks == 0 {
        return Err(Sense::invalid_field(fields.length_at));
    }
    let range = fields.range(geometry)?;
    if geometry.block_size.bytes_of(range.len).0 > most {
        return Err(Sense::invalid_field(fields.length_at));
    }
    Ok(Command::WriteSame { range, unmap, zeroes })
}

/// The ranges of an UNMAP parameter list (SBC 5.28).
pub fn unmap_ranges(list: &[u8], geometry: &Geometry) -> Result<Vec<BlockRange>, Sense> {
    if list.is_empty() {
        return Ok(Vec::new());
    }
    if list.len() < 8 {
        return Err(Sense::LIST_LENGTH);
    }
    let len = usize::from(get16(list, 2));
    let descriptors = list.get(8..8 + len).ok_or(Sense::invalid_parameter(2))?;
    if len / 16 > limits::ISCSI_UNMAP_RANGES {
        return Err(Sense::invalid_parameter(2));
    }
    let ranges = descriptors.chunks_exact(16).map(|d| BlockRange::new(get64(d, 0), get32(d, 8).into()));
    let ranges: Vec<BlockRange> = ranges.collect();
    if ranges.iter().any(|r| !r.fits(geometry.blocks)) {
        return Err(Sense::LBA_OUT_OF_RANGE);
    }
    Ok(ranges.into_iter().filter(|r| !r.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::{BlockSize, Features};
    use proptest::prelude::*;

    fn geometry() -> Geometry {
        Geometry { block_size: BlockSize::B512, blocks: Blocks(4096), features: Features::default() }
    }

    fn cdb(bytes: &[u8]) -> [u8; 16] {
        let mut cdb = [0; 16];
        cdb[..bytes.len()].copy_from_slice(bytes);
        cdb
    }

    fn parsed(bytes: &[u8]) -> Result<Command, Sense> {
        parse(&cdb(bytes), &geometry())
    }

    #[test]
    fn the_four_sizes_of_a_read() {
        let read = |range, durability| Ok(Command::Read { range, durability });
        assert_eq!(parsed(&[0x08, 0, 1, 2, 3]), read(BlockRange::new(0x102, 3), Durability::Volatile));
        assert_eq!(parsed(&[0x08]), read(BlockRange::new(0, 256), Durability::Volatile));
        assert_eq!(parsed(&[0x28, 8, 0, 0, 1, 2, 0, 0, 3]), read(BlockRange::new(0x102, 3), Durability::Durable));
        assert_eq!(parsed(&[0xa8, 0, 0, 0, 1, 2, 0, 0, 0, 3]), read(BlockRange::new(0x102, 3), Durability::Volatile));
        let long = [0x88, 0x10, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 3];
        assert_eq!(parsed(&long), read(BlockRange::new(0x102, 3), Durability::Volatile));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let end = [0x28, 0, 0, 0, 0x0f, 0xff, 0, 0];
        assert_eq!(parsed(&[&end[..], &[2]].concat()), Err(Sense::LBA_OUT_OF_RANGE));
        assert_eq!(parsed(&[0x28, 0, 0, 0, 0x10, 0]), Ok(Command::Prefetch));
        assert_eq!(parsed(&[0x28, 0, 0, 0, 0x10, 1]), Err(Sense::LBA_OUT_OF_RANGE));
        assert_eq!(parsed(&[0x28, 0, 0, 0, 0, 0, 0, 0x08, 1]), Err(Sense::invalid_field(7)), "more than 1 MiB");
        assert_eq!(parsed(&[0x28, 0x20, 0, 0, 0, 0, 0, 0, 1]), Err(Sense::invalid_field(1)), "protection");
        assert_eq!(parsed(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 4]), Err(Sense::invalid_field(9)), "NACA");
        assert_eq!(parsed(&[0x7f]), Err(Sense::INVALID_OPCODE));
        assert_eq!(parsed(&[0x24]), Err(Sense::INVALID_OPCODE));
    }

    #[test]
    fn data_lengths() {
        let len = |bytes: &[u8]| parsed(bytes).expect("valid").data_out(&geometry());
        assert_eq!(len(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 4]), 2048);
        assert_eq!(len(&[0x41, 0, 0, 0, 0, 0, 0, 0, 9]), 512);
        assert_eq!(len(&[0x2f, 2, 0, 0, 0, 0, 0, 0, 2]), 1024);
        assert_eq!(len(&[0x2f, 6, 0, 0, 0, 0, 0, 0, 2]), 512);
        assert_eq!(len(&[0x2f, 0, 0, 0, 0, 0, 0, 0, 2]), 0);
        assert_eq!(len(&[0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]), 1024);
        assert_eq!(len(&[0x93, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]), 0);
        assert_eq!(len(&[0x42, 0, 0, 0, 0, 0, 0, 0, 24]), 24);
    }

    #[test]
    fn unmap_lists() {
        let mut list = vec![0; 8 + 32];
        list[3] = 32;
        list[8 + 7] = 16;
        list[8 + 11] = 8;
        assert_eq!(unmap_ranges(&list, &geometry()), Ok(vec![BlockRange::new(16, 8)]));
        list[8 + 16 + 6] = 0x10;
        list[8 + 16 + 11] = 1;
        assert_eq!(unmap_ranges(&list, &geometry()), Err(Sense::LBA_OUT_OF_RANGE));
        assert_eq!(unmap_ranges(&list[..20], &geometry()), Err(Sense::invalid_parameter(2)));
        assert_eq!(unmap_ranges(&list[..7], &geometry()), Err(Sense::LIST_LENGTH));
        assert_eq!(unmap_ranges(&[], &geometry()), Ok(vec![]));
    }

    proptest! {
        #[test]
        fn no_cdb_makes_the_parser_fail(bytes in any::<[u8; 16]>(), opcode in proptest::sample::select(vec![
            0x08u8, 0x0a, 0x28, 0x2a, 0x2e, 0x2f, 0x34, 0x35, 0x41, 0x42, 0x5e, 0x5f, 0x88, 0x89, 0x8a, 0x8b, 0x8e, 0x8f,
            0x90, 0x91, 0x93, 0x9e, 0xa0, 0xa3, 0xa8, 0xaa, 0xae, 0xaf,
        ])) {
            let mut bytes = bytes;
            bytes[0] = opcode;
            let parsed = parse(&bytes, &geometry());
            if let Ok(Command::Read { range, .. } | Command::Write { range, .. } | Command::WriteSame { range, .. }) = parsed {
                prop_assert!(range.fits(geometry().blocks) && !range.is_empty());
            }
        }
    }
}
