//! The journal's records and blocks. docs/disk-format.md, section 4.

use uuid::Uuid;

use crate::codec::{Reader, Writer, is_sealed, name_from, seal};
use crate::map::{Place, Run};

/// The size of a journal block.
pub const BLOCK_BYTES: usize = 4096;
const HEADER: usize = 72;
const MAGIC: &[u8; 4] = b"MJRN";
const CRC_AT: usize = 4;

/// One change of the pool's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Extents of a replica got a place. Their old contents were zeroed, durably, before.
    Map {
        /// The replica's number.
        replica: u32,
        /// What is where.
        run: Run,
    },
    /// Extents of a replica read as zeroes from now on; those that had a place lose it.
    Unmap {
        /// The replica's number.
        replica: u32,
        /// The first extent.
        logical: u32,
        /// How many.
        count: u32,
    },
    /// A new replica, wholly unmapped.
    CreateReplica {
        /// Its number: higher than any before in this pool.
        replica: u32,
        /// Its name.
        name: String,
        /// Its size in bytes.
        size: u64,
        /// Whether space is taken only as it is written.
        thin: bool,
    },
    /// The replica is gone, and so are its places.
    DestroyReplica {
        /// The replica's number.
        replica: u32,
    },
    /// A new disk.
    AddDisk {
        /// Its index: the number of disks so far.
        index: u8,
        /// Its identity.
        uuid: Uuid,
        /// Its extents.
        extents: u32,
    },
    /// A replica's reservations from now on; the pool does not look into them.
    Reserve {
        /// The replica's number.
        replica: u32,
        /// At most [`crate::MAX_RESERVATIONS`] bytes; empty for none.
        state: Vec<u8>,
    },
    /// A replica is larger from now on. What it gains has no place.
    Grow {
        /// The replica's number.
        replica: u32,
        /// Its size in bytes, above the one before.
        size: u64,
    },
}

impl Record {
    fn encode(&self, out: &mut Writer) {
        let mut w = Writer::default();
        let kind = match self {
            Record::Map { replica, run } => {
                w.u32(*replica).u32(run.logical).u32(run.place.extent).u32(run.count).u8(run.place.disk);
                1
            }
            Record::Unmap { replica, logical, count } => {
                w.u32(*replica).u32(*logical).u32(*count);
                2
            }
            Record::CreateReplica { replica, name, size, thin } => {
                w.u32(*replica).u64(*size).u8(u8::from(*thin)).bytes(name.as_bytes());
                3
            }
            Record::DestroyReplica { replica } => {
                w.u32(*replica);
                4
            }
            Record::AddDisk { index, uuid, extents } => {
                w.uuid(*uuid).u32(*extents).u8(*index);
                5
            }
            Record::Reserve { replica, state } => {
                w.u32(*replica).bytes(state);
                6
            }
            Record::Grow { replica, size } => {
                w.u32(*replica).u64(*size);
                7
            }
        };
        out.u8(kind).u8(w.0.len() as u8).bytes(&w.0);
    }

    /// The bytes that the record takes in a block.
    fn encoded_len(&self) -> usize {
        let mut w = Writer::default();
        self.encode(&mut w);
        w.0.len()
    }

    fn decode(r: &mut Reader<'_>) -> Result<Record, String> {
        let kind = r.u8()?;
        let len = usize::from(r.u8()?);
        let mut r = Reader(r.bytes(len)?);
        let record = match kind {
            1 => {
                let (replica, logical, extent, count) = (r.u32()?, r.u32()?, r.u32()?, r.u32()?);
                Record::Map { replica, run: Run { logical, place: Place { disk: r.u8()?, extent }, count } }
            }
            2 => Record::Unmap { replica: r.u32()?, logical: r.u32()?, count: r.u32()? },
            3 => {
                let (replica, size, thin) = (r.u32()?, r.u64()?, r.u8()?);
                let name = name_from(r.bytes(r.0.len())?)?;
                Record::CreateReplica { replica, name, size, thin: thin != 0 }
            }
            4 => Record::DestroyReplica { replica: r.u32()? },
            5 => {
                let (uuid, extents) = (r.uuid()?, r.u32()?);
                Record::AddDisk { index: r.u8()?, uuid, extents }
            }
            6 => {
                let replica = r.u32()?;
                Record::Reserve { replica, state: r.bytes(r.0.len())?.to_vec() }
            }
            7 => Record::Grow { replica: r.u32()?, size: r.u64()? },
            other => return Err(format!("it has a record of the unknown kind {other}")),
        };
        if r.is_empty() { Ok(record) } else { Err(format!("a record of kind {kind} is too long")) }
    }
}

/// One block of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The pool's identity.
    pub pool: Uuid,
    /// The sequence number of the checkpoint with which this opening of the pool began.
    pub epoch: u64,
    /// The block's number; it lies at this number modulo the length of the journal.
    pub sequence: u64,
    /// The number of its first record.
    pub first_record: u64,
    /// Every record up to this one was durable when the block was written.
    pub durable_record: u64,
    /// The newest checkpoint that was durable when the block was written.
    pub checkpoint: u64,
    /// The records, in order.
    pub records: Vec<Record>,
}

/// What the bytes of a journal block are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockCopy {
    /// Never written, torn, or damaged.
    Nothing,
    /// The checksum is right, but the contents make no sense.
    Bad(String),
    /// A good one.
    Good(Block),
}

impl Block {
    /// The block as stored. The records must fit; see [`Block::fits`].
    pub fn encode(&self) -> Vec<u8> {
        let mut records = Writer::default();
        self.records.iter().for_each(|r| r.encode(&mut records));
        let mut w = Writer::default();
        w.bytes(MAGIC).u32(0).uuid(self.pool).u64(self.epoch).u64(self.sequence).u64(self.first_record);
        w.u64(self.durable_record).u64(self.checkpoint).u16(self.records.len() as u16).u16(records.0.len() as u16);
        w.pad_to(HEADER).bytes(&records.0).pad_to(BLOCK_BYTES);
        seal(&mut w.0, CRC_AT);
        w.0
    }

    /// How many of the first `records` fit into one block.
    pub fn fits<'a>(records: impl IntoIterator<Item = &'a Record>) -> usize {
        let mut room = BLOCK_BYTES - HEADER;
        let mut n = 0;
        for record in records {
            let len = record.encoded_len();
            if len > room {
                break;
            }
            room -= len;
            n += 1;
        }
        n
    }

    /// Reads a block. Never panics, whatever the bytes.
    pub fn decode(bytes: &[u8]) -> BlockCopy {
        if bytes.len() != BLOCK_BYTES || !bytes.starts_with(MAGIC) || !is_sealed(bytes, CRC_AT) {
            return BlockCopy::Nothing;
        }
        Block::fields(bytes).map_or_else(BlockCopy::Bad, BlockCopy::Good)
    }

    fn fields(bytes: &[u8]) -> Result<Block, String> {
        let mut r = Reader(&bytes[8..]);
        let pool = r.uuid()?;
        let (epoch, sequence, first_record) = (r.u64()?, r.u64()?, r.u64()?);
        let (durable_record, checkpoint, count, len) = (r.u64()?, r.u64()?, r.u16()?, r.u16()?);
        let mut r = Reader(&bytes[HEADER..]);
        let mut r = Reader(r.bytes(usize::from(len))?);
        let mut records = Vec::new();
        for _ in 0..count {
            records.push(Record::decode(&mut r)?);
        }
        if first_record.checked_add(u64::from(count)).is_none() || sequence == u64::MAX {
            return Err("its numbers are too high".into());
        }
        if !r.is_empty() {
            return Err("it has bytes after its records".into());
        }
        Ok(Block { pool, epoch, sequence, first_record, durable_record, checkpoint, records })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn records() -> impl Strategy<Value = Record> {
        prop_oneof![
            any::<(u32, u32, u8, u32, u32)>().prop_map(|(replica, logical, disk, extent, count)| Record::Map {
                replica,
                run: Run { logical, place: Place { disk, extent }, count }
            }),
            any::<(u32, u32, u32)>().prop_map(|(replica, logical, count)| Record::Unmap { replica, logical, count }),
            (any::<(u32, u64, bool)>(), "[A-Za-z0-9._-]{1,63}")
                .prop_map(|((replica, size, thin), name)| Record::CreateReplica { replica, name, size, thin }),
            any::<u32>().prop_map(|replica| Record::DestroyReplica { replica }),
            any::<(u8, u128, u32)>().prop_map(|(index, uuid, extents)| Record::AddDisk {
                index,
                uuid: Uuid::from_u128(uuid),
                extents
            }),
            (any::<u32>(), proptest::collection::vec(any::<u8>(), 0..=crate::MAX_RESERVATIONS))
                .prop_map(|(replica, state)| Record::Reserve { replica, state }),
            any::<(u32, u64)>().prop_map(|(replica, size)| Record::Grow { replica, size }),
        ]
    }

    proptest! {
        #[test]
        fn blocks_survive_the_round_trip(records in proptest::collection::vec(records(), 0..400), first in 0u64..1 << 60) {
            let n = Block::fits(&records);
            prop_assert!(n == records.len() || n >= (BLOCK_BYTES - HEADER) / 250);
            let block = Block {
                pool: Uuid::from_u128(9), epoch: 1, sequence: 2, first_record: first, durable_record: 4, checkpoint: 5,
                records: records[..n].to_vec(),
            };
            prop_assert_eq!(Block::decode(&block.encode()), BlockCopy::Good(block));
        }

        #[test]
        fn decoding_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), BLOCK_BYTES), count in 0u8..9, len in 0u8..200) {
            Block::decode(&bytes);
            Block::decode(&bytes[..100]);
            bytes[..4].copy_from_slice(MAGIC);
            bytes[64..68].copy_from_slice(&[count, 0, len, 0]);
            bytes[HEADER] %= 7;
            bytes[HEADER + 1] %= 30;
            seal(&mut bytes, CRC_AT);
            let decoded = Block::decode(&bytes);
            prop_assert!(decoded != BlockCopy::Nothing);
        }
    }

    #[test]
    fn a_flipped_bit_makes_it_nothing() {
        let block = Block {
            pool: Uuid::nil(),
            epoch: 1,
            sequence: 2,
            first_record: 3,
            durable_record: 4,
            checkpoint: 5,
            records: vec![Record::DestroyReplica { replica: 7 }],
        };
        let bytes = block.encode();
        for bit in (0..8 * 100).chain(8 * 4090..8 * 4096) {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Block::decode(&bad), BlockCopy::Nothing, "bit {bit}");
        }
    }
}
