//! What may be asked of a block device.

use crate::{BlockRange, BlockSize, Blocks, Buf, Bytes, Data, Fault};

/// Whether a write must be durable before it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Durability {
    /// The write may sit in a volatile cache until the next [`Request::Flush`].
    Volatile,
    /// The write is on stable storage when it is answered (Force Unit Access).
    Durable,
}

/// A request to a block device. Ranges are in the device's own blocks and not empty; payloads are exactly as long.
#[derive(Clone, Debug)]
pub enum Request {
    /// Read the blocks. Answered with [`Data`] of the range's length, in buffers of the device's making.
    Read {
        /// The blocks to read.
        range: BlockRange,
    },
    /// Write the blocks. Each single block is written whole or not at all.
    Write {
        /// The blocks to write.
        range: BlockRange,
        /// The payload.
        data: Buf,
        /// Whether the answer waits for stable storage.
        durability: Durability,
    },
    /// Make durable every write that was answered before this request was submitted.
    Flush,
    /// The contents of the blocks are no longer needed: they read as zeroes from now on and their space may be freed.
    Unmap {
        /// The blocks to forget.
        range: BlockRange,
    },
    /// Make the blocks read as zeroes.
    WriteZeroes {
        /// The blocks to clear.
        range: BlockRange,
        /// Whether space may be given back (NVMe's DEAC bit).
        may_unmap: bool,
        /// Whether the answer waits for stable storage.
        durability: Durability,
    },
}

impl Request {
    /// The blocks that the request touches; none for a flush.
    pub fn range(&self) -> Option<BlockRange> {
        match self {
            Request::Read { range }
            | Request::Write { range, .. }
            | Request::Unmap { range }
            | Request::WriteZeroes { range, .. } => Some(*range),
            Request::Flush => None,
        }
    }

    /// Whether the request may change what a later read returns.
    pub fn is_change(&self) -> bool {
        matches!(self, Request::Write { .. } | Request::Unmap { .. } | Request::WriteZeroes { .. })
    }

    /// Checks the request against the device that it is meant for: range, payload length, features.
    pub fn check(&self, geometry: &Geometry) -> Result<(), Fault> {
        if self.range().is_some_and(|range| range.is_empty() || !range.fits(geometry.blocks)) {
            return Err(Fault::OutOfRange);
        }
        match self {
            Request::Write { range, data, .. } if data.len() as u64 != geometry.block_size.bytes_of(range.len).0 => {
                Err(Fault::Unsupported)
            }
            _ => Ok(()),
        }
    }
}

/// How a request ended: the payload (empty but for reads), or why it failed.
pub type Outcome = Result<Data, Fault>;

/// What a device can do cheaply. Every device answers every request; one without a feature emulates it or, for
/// [`Request::Unmap`], may answer without having freed anything **after** writing zeroes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Unmap gives space back.
    pub unmap: bool,
    /// Write-zeroes costs less than writing zeroes.
    pub write_zeroes: bool,
    /// Answered writes may be lost at a power cut until a flush.
    pub volatile_cache: bool,
    /// The contents are gone when the process ends, as a RAM disk's are.
    pub ends_with_process: bool,
}

/// The shape of a block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// The size of one logical block.
    pub block_size: BlockSize,
    /// How many blocks there are.
    pub blocks: Blocks,
    /// What is cheap here.
    pub features: Features,
}

impl Geometry {
    /// The size in bytes.
    pub fn bytes(&self) -> Bytes {
        self.block_size.bytes_of(self.blocks)
    }
    /// The whole device as a range.
    pub fn all(&self) -> BlockRange {
        BlockRange { start: crate::Lba(0), len: self.blocks }
    }
}
