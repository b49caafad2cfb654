//! I/O commands: from the raw entry to a request of `block` (NVM 3.2).

use block::{BlockRange, Blocks, Durability, Geometry, Lba, Request, limits};

use super::Reserving;
use crate::command::{DatasetRange, Sqe, io};
use crate::wire::view;
use crate::{Status, reservation};

/// The one namespace of every subsystem.
pub(super) const NAMESPACE: u32 = 1;
/// Addresses all namespaces (Flush only).
const ALL_NAMESPACES: u32 = u32::MAX;

/// An I/O command that was checked against its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IoCommand {
    /// Read.
    Read(BlockRange),
    /// Write.
    Write(BlockRange, Durability),
    /// Compare: read, and compare with the host's data.
    Compare(BlockRange),
    /// Flush.
    Flush,
    /// Write Zeroes.
    WriteZeroes {
        /// The blocks.
        range: BlockRange,
        /// DEAC.
        may_unmap: bool,
        /// FUA.
        durability: Durability,
    },
    /// Dataset Management, deallocate: the number of ranges in the data.
    Deallocate(usize),
    /// Dataset Management with hints only: the number of ranges in the data, which are ignored.
    Hints(usize),
    /// Reservation Register, Acquire or Release (Base 7.2, 7.3, 7.4).
    Reserve {
        /// OPC.
        opcode: u8,
        /// CDW10.
        action: u32,
        /// Bytes of data that belong to it.
        len: usize,
    },
    /// Reservation Report (Base 7.5) in the extended form, so many bytes of it.
    Report(usize),
}

impl IoCommand {
    /// Checks a submission queue entry.
    pub fn parse(sqe: &Sqe, geometry: &Geometry, reserving: Reserving) -> Result<IoCommand, Status> {
        let nsid = sqe.nsid.get();
        if nsid != NAMESPACE && !(sqe.opcode == io::FLUSH && nsid == ALL_NAMESPACES) {
            return Err(Status::INVALID_NAMESPACE.do_not_retry());
        }
        let durability = if sqe.cdw12.get() & io::FUA != 0 { Durability::Durable } else { Durability::Volatile };
        // DSM: NR in bits 7:0 of CDW10, 0's based.
        let ranges = (sqe.cdw10.get() & 0xff) as usize + 1;
        match sqe.opcode {
            io::FLUSH => Ok(IoCommand::Flush),
            io::READ => Ok(IoCommand::Read(transfer_range(sqe, geometry)?)),
            io::WRITE => Ok(IoCommand::Write(transfer_range(sqe, geometry)?, durability)),
            io::COMPARE => Ok(IoCommand::Compare(transfer_range(sqe, geometry)?)),
            io::WRITE_ZEROES => Ok(IoCommand::WriteZeroes {
                range: range(sqe, geometry)?,
                may_unmap: sqe.cdw12.get() & io::DEALLOCATE != 0,
                durability,
            }),
            io::DATASET_MANAGEMENT if sqe.cdw11.get() & io::ATTRIBUTE_DEALLOCATE != 0 => {
                Ok(IoCommand::Deallocate(ranges))
            }
            io::DATASET_MANAGEMENT => Ok(IoCommand::Hints(ranges)),
            opcode if reserving != Reserving::No => reserve(opcode, sqe),
            _ => Err(Status::INVALID_OPCODE.do_not_retry()),
        }
    }

    /// Whether its success says that the namespace is the host's own: it has written, or has reserved it.
    pub fn is_claim(&self) -> bool {
        match self {
            IoCommand::Write(..) | IoCommand::WriteZeroes { .. } | IoCommand::Deallocate(_) => true,
            IoCommand::Reserve { opcode, .. } => *opcode == io::RESERVATION_ACQUIRE,
            _ => false,
        }
    }

    /// Bytes of data that the host sends, when its SGL has room for `offered` bytes.
    pub fn payload_len(&self, geometry: &Geometry, offered: usize) -> usize {
        let len = self.data_len(geometry);
        match self {
            // Hosts may send a whole list although fewer ranges are used (Linux always does).
            IoCommand::Deallocate(_) | IoCommand::Hints(_) => {
                offered.clamp(len, io::MAX_RANGES * size_of::<DatasetRange>())
            }
            IoCommand::Write(..) | IoCommand::Compare(_) | IoCommand::Reserve { .. } => len,
            IoCommand::Read(_) | IoCommand::Flush | IoCommand::WriteZeroes { .. } | IoCommand::Report(_) => 0,
        }
    }

    /// Bytes of data that the command needs, whichever way.
    pub fn data_len(&self, geometry: &Geometry) -> usize {
        match self {
            IoCommand::Read(range) | IoCommand::Write(range, _) | IoCommand::Compare(range) => {
                geometry.block_size.bytes_of(range.len).0 as usize
            }
            IoCommand::Deallocate(ranges) | IoCommand::Hints(ranges) => ranges * size_of::<DatasetRange>(),
            IoCommand::Reserve { len, .. } | IoCommand::Report(len) => *len,
            IoCommand::Flush | IoCommand::WriteZeroes { .. } => 0,
        }
    }
}

/// One of the four reservation commands.
fn reserve(opcode: u8, sqe: &Sqe) -> Result<IoCommand, Status> {
    if let Some(len) = reservation::payload_len(opcode) {
        return Ok(IoCommand::Reserve { opcode, action: sqe.cdw10.get(), len });
    }
    if opcode != io::RESERVATION_REPORT {
        return Err(Status::INVALID_OPCODE.do_not_retry());
    }
    match reservation::wanted(sqe) {
        // Our host identifiers have 128 bits, which the short form has no room for.
        (false, _) => Err(Status::HOST_ID_INCONSISTENT.do_not_retry()),
        (true, len) if len > limits::TRANSFER_BYTES as u64 => Err(Status::INVALID_FIELD.do_not_retry()),
        (true, len) => Ok(IoCommand::Report(len as usize)),
    }
}

/// SLBA and NLB, inside the namespace.
fn range(sqe: &Sqe, geometry: &Geometry) -> Result<BlockRange, Status> {
    let len = u64::from(sqe.cdw12.get() & 0xffff) + 1;
    let range = BlockRange { start: Lba(sqe.slba()), len: Blocks(len) };
    if range.fits(geometry.blocks) { Ok(range) } else { Err(Status::LBA_RANGE.do_not_retry()) }
}

/// The same for commands with data, which MDTS limits.
fn transfer_range(sqe: &Sqe, geometry: &Geometry) -> Result<BlockRange, Status> {
    let range = range(sqe, geometry)?;
    if geometry.block_size.bytes_of(range.len).0 > limits::TRANSFER_BYTES as u64 {
        return Err(Status::INVALID_FIELD.do_not_retry());
    }
    Ok(range)
}

/// The first `ranges` ranges of a Dataset Management command as requests; empty ranges ask for nothing.
pub(super) fn unmaps(data: &[u8], ranges: usize, geometry: &Geometry) -> Result<Vec<Request>, Status> {
    let mut requests = Vec::new();
    for raw in data.chunks_exact(size_of::<DatasetRange>()).take(ranges) {
        let raw: DatasetRange = view(raw).ok_or(Status::INTERNAL)?;
        let range = BlockRange { start: Lba(raw.slba.get()), len: Blocks(u64::from(raw.blocks.get())) };
        if !range.fits(geometry.blocks) {
            return Err(Status::LBA_RANGE.do_not_retry());
        }
        if !range.is_empty() {
            requests.push(Request::Unmap { range });
        }
    }
    Ok(requests)
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::{BlockSize, Features};

    fn geometry(block_size: BlockSize) -> Geometry {
        Geometry { block_size, blocks: Blocks(4096), features: Features::default() }
    }

    fn sqe(opcode: u8, slba: u64, cdw12: u32) -> Sqe {
        let mut sqe = Sqe { opcode, nsid: NAMESPACE.into(), cdw12: cdw12.into(), ..Sqe::default() };
        sqe.set_slba(slba);
        sqe
    }

    #[test]
    fn commands_become_requests() {
        let g = geometry(BlockSize::B512);
        let parse = |sqe: Sqe| IoCommand::parse(&sqe, &g, Reserving::No);
        assert_eq!(parse(sqe(io::READ, 8, 7)), Ok(IoCommand::Read(BlockRange::new(8, 8))));
        let write = parse(sqe(io::WRITE, 0, io::FUA)).expect("valid");
        assert_eq!(write, IoCommand::Write(BlockRange::new(0, 1), Durability::Durable));
        assert_eq!((write.data_len(&g), write.payload_len(&g, 9000)), (512, 512));
        assert_eq!([0, 100, 9000].map(|n| IoCommand::Deallocate(2).payload_len(&g, n)), [32, 100, 4096]);
        let zeroes = parse(sqe(io::WRITE_ZEROES, 4095, io::DEALLOCATE)).expect("valid");
        assert!(matches!(zeroes, IoCommand::WriteZeroes { may_unmap: true, durability: Durability::Volatile, .. }));
        assert_eq!(parse(Sqe { nsid: u32::MAX.into(), ..sqe(io::FLUSH, 0, 0) }), Ok(IoCommand::Flush));
    }

    #[test]
    fn bad_commands_get_their_status() {
        let g = geometry(BlockSize::B4096);
        let status = |sqe: Sqe| IoCommand::parse(&sqe, &g, Reserving::Volatile).map_err(Status::without_flags);
        assert_eq!(status(sqe(io::READ, 4096, 0)), Err(Status::LBA_RANGE));
        assert_eq!(status(sqe(io::READ, u64::MAX, 1)), Err(Status::LBA_RANGE));
        assert_eq!(status(sqe(io::WRITE, 0, 256)), Err(Status::INVALID_FIELD));
        assert_eq!(status(sqe(0x55, 0, 0)), Err(Status::INVALID_OPCODE));
        assert_eq!(status(sqe(io::RESERVATION_REPORT, 0, 0)), Err(Status::HOST_ID_INCONSISTENT));
        let none = IoCommand::parse(&sqe(io::RESERVATION_REGISTER, 0, 0), &g, Reserving::No);
        assert_eq!(none.map_err(Status::without_flags), Err(Status::INVALID_OPCODE), "not offered");
        assert_eq!(status(Sqe { nsid: 2.into(), ..sqe(io::READ, 0, 0) }), Err(Status::INVALID_NAMESPACE));
        assert_eq!(status(Sqe { nsid: u32::MAX.into(), ..sqe(io::READ, 0, 0) }), Err(Status::INVALID_NAMESPACE));
    }

    #[test]
    fn dataset_ranges() {
        let g = geometry(BlockSize::B512);
        let raw =
            |slba: u64, blocks: u32| DatasetRange { slba: slba.into(), blocks: blocks.into(), ..Default::default() };
        let good = [raw(0, 8), raw(5, 0), raw(4000, 96)];
        let requests = unmaps(bytemuck::cast_slice(&good), 3, &g).expect("valid");
        assert_eq!(
            requests.iter().map(|r| r.range().expect("a range")).collect::<Vec<_>>(),
            [BlockRange::new(0, 8), BlockRange::new(4000, 96)]
        );
        let bad = [raw(0, 8), raw(4000, 97)];
        assert!(unmaps(bytemuck::cast_slice(&bad), 2, &g).is_err());
        assert_eq!(unmaps(bytemuck::cast_slice(&bad), 1, &g).map(|r| r.len()), Ok(1));
    }
}
