//! Bytes of a disk, for metadata: sequential, in pieces of at most [`block::limits::TRANSFER_BYTES`].

use block::probe::{Mutant, mutant};
use block::{BlockRange, BufMut, Durability, Fault, Geometry};
use host::{DiskExt, DiskRef};

use crate::PoolError;

const PIECE: u64 = block::limits::TRANSFER_BYTES as u64;

/// The blocks that hold `len` bytes from `offset`; both must be multiples of the block size.
pub(crate) fn blocks(geometry: &Geometry, offset: u64, len: u64) -> BlockRange {
    let size = geometry.block_size;
    assert!(size.divides(offset) && size.divides(len), "metadata is aligned");
    BlockRange::new(offset >> size.shift(), len >> size.shift())
}

/// The error of a disk.
pub(crate) fn failed(disk: &DiskRef, fault: Fault) -> PoolError {
    PoolError::Io { disk: disk.label(), fault }
}

/// Reads bytes.
pub(crate) async fn read(disk: &DiskRef, offset: u64, len: u64) -> Result<Vec<u8>, PoolError> {
    let mut bytes = Vec::new();
    let geometry = disk.geometry();
    while (bytes.len() as u64) < len {
        let at = bytes.len() as u64;
        let range = blocks(&geometry, offset + at, (len - at).min(PIECE));
        bytes.extend_from_slice(&disk.read(range).await.map_err(|f| failed(disk, f))?);
    }
    Ok(bytes)
}

/// Writes bytes.
pub(crate) async fn write(disk: &DiskRef, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
    let geometry = disk.geometry();
    let mut at = offset;
    for piece in bytes.chunks(PIECE as usize) {
        let range = blocks(&geometry, at, piece.len() as u64);
        disk.write(range, BufMut::copy_of(piece).freeze(), Durability::Volatile).await?;
        at += piece.len() as u64;
    }
    Ok(())
}

/// Writes bytes and makes them durable.
pub(crate) async fn write_durably(disk: &DiskRef, offset: u64, bytes: &[u8]) -> Result<(), PoolError> {
    write(disk, offset, bytes).await.map_err(|f| failed(disk, f))?;
    // Rule: a checkpoint (and a label) is durable before anything that builds on it is written.
    if mutant(Mutant::CheckpointWithoutFlush) {
        return Ok(());
    }
    disk.flush().await.map_err(|f| failed(disk, f))
}

/// Writes zeroes and makes them durable.
pub(crate) async fn zero_durably(disk: &DiskRef, offset: u64, len: u64) -> Result<(), PoolError> {
    let range = blocks(&disk.geometry(), offset, len);
    disk.write_zeroes(range, false).await.map_err(|f| failed(disk, f))?;
    disk.flush().await.map_err(|f| failed(disk, f))
}
