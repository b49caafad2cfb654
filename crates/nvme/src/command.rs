//! Submission queue entries (Base 3.3.3.1) and opcodes.

use bytemuck::{Pod, Zeroable};

use crate::wire::{Le16, Le32, Le64};

/// A submission queue entry of an admin or I/O command. Field offsets are those of Base figure 87. Fabrics commands
/// have their own layout (see [`crate::fabrics`]) in the same 64 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Sqe {
    /// OPC: opcode; see [`admin`] and [`io`].
    pub opcode: u8,
    /// FUSE in bits 1:0, PSDT in bits 7:6.
    pub flags: u8,
    /// CID: command identifier.
    pub cid: Le16,
    /// NSID: namespace identifier. For Fabrics commands the first byte is FCTYPE.
    pub nsid: Le32,
    /// CDW2.
    pub cdw2: Le32,
    /// CDW3.
    pub cdw3: Le32,
    /// MPTR: metadata pointer, unused here.
    pub metadata: Le64,
    /// DPTR: always an SGL descriptor over fabrics.
    pub sgl: Sgl,
    /// CDW10.
    pub cdw10: Le32,
    /// CDW11.
    pub cdw11: Le32,
    /// CDW12.
    pub cdw12: Le32,
    /// CDW13.
    pub cdw13: Le32,
    /// CDW14.
    pub cdw14: Le32,
    /// CDW15.
    pub cdw15: Le32,
}
const _: () = assert!(size_of::<Sqe>() == 64);
const _: () = assert!(std::mem::offset_of!(Sqe, sgl) == 24 && std::mem::offset_of!(Sqe, cdw10) == 40);

/// PSDT in [`Sqe::flags`]: SGLs are used, metadata in one buffer. The only form that the transport knows (TCP 3.4).
pub const FLAGS_SGL: u8 = 0b01 << 6;

impl Sqe {
    /// PSDT.
    pub fn psdt(&self) -> u8 {
        self.flags >> 6
    }
    /// FUSE: 0 for an ordinary command.
    pub fn fuse(&self) -> u8 {
        self.flags & 3
    }
    /// The 64-bit number in CDW10 and CDW11 (SLBA of I/O commands).
    pub fn slba(&self) -> u64 {
        u64::from(self.cdw10.get()) | u64::from(self.cdw11.get()) << 32
    }
    /// Sets CDW10 and CDW11 to a 64-bit number (SLBA).
    pub fn set_slba(&mut self, slba: u64) {
        self.cdw10 = Le32::new(slba as u32);
        self.cdw11 = Le32::new((slba >> 32) as u32);
    }
    /// Which way the command's data goes, by the opcode's two low bits (Base 3.3.3.1).
    pub fn direction(&self) -> Direction {
        // Fabrics commands put the same two bits into FCTYPE (Base 6).
        let bits = if self.opcode == admin::FABRICS { self.nsid.get() as u8 } else { self.opcode };
        match bits & 3 {
            0b01 => Direction::ToController,
            0b10 => Direction::ToHost,
            0b00 => Direction::None,
            _ => Direction::Both,
        }
    }
}

/// Which way a command's data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// No data.
    None,
    /// From the host: in the capsule, or by R2T.
    ToController,
    /// To the host.
    ToHost,
    /// Both ways; no command that we know.
    Both,
}

/// An SGL descriptor (Base 4.1.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Sgl {
    /// Address, or the offset into the capsule.
    pub address: Le64,
    /// Length in bytes.
    pub len: Le32,
    /// Reserved.
    pub reserved: [u8; 3],
    /// Type in bits 7:4, sub type in bits 3:0.
    pub kind: u8,
}
const _: () = assert!(size_of::<Sgl>() == 16);

impl Sgl {
    /// Data block with an offset: the data lies in the capsule (type 0h, sub type 1h).
    pub const IN_CAPSULE: u8 = 0x01;
    /// Transport data block: the data is sent in data PDUs (type 5h, sub type Ah).
    pub const TRANSPORT: u8 = 0x5a;

    /// Data in the capsule.
    pub fn in_capsule(len: u32) -> Sgl {
        Sgl { len: Le32::new(len), kind: Sgl::IN_CAPSULE, ..Sgl::default() }
    }
    /// Data by data PDUs.
    pub fn transport(len: u32) -> Sgl {
        Sgl { len: Le32::new(len), kind: Sgl::TRANSPORT, ..Sgl::default() }
    }
}

/// Opcodes of admin commands (Base figure 138).
pub mod admin {
    /// Get Log Page.
    pub const GET_LOG_PAGE: u8 = 0x02;
    /// Identify.
    pub const IDENTIFY: u8 = 0x06;
    /// Abort.
    pub const ABORT: u8 = 0x08;
    /// Set Features.
    pub const SET_FEATURES: u8 = 0x09;
    /// Get Features.
    pub const GET_FEATURES: u8 = 0x0a;
    /// Asynchronous Event Request.
    pub const ASYNC_EVENT: u8 = 0x0c;
    /// Keep Alive.
    pub const KEEP_ALIVE: u8 = 0x18;
    /// Fabrics commands, on both kinds of queue.
    pub const FABRICS: u8 = 0x7f;
}

/// Opcodes of I/O commands (Base figure 389, NVM figure 14).
pub mod io {
    /// Flush.
    pub const FLUSH: u8 = 0x00;
    /// Write.
    pub const WRITE: u8 = 0x01;
    /// Read.
    pub const READ: u8 = 0x02;
    /// Compare.
    pub const COMPARE: u8 = 0x05;
    /// Write Zeroes.
    pub const WRITE_ZEROES: u8 = 0x08;
    /// Dataset Management.
    pub const DATASET_MANAGEMENT: u8 = 0x09;
    /// Reservation Register.
    pub const RESERVATION_REGISTER: u8 = 0x0d;
    /// Reservation Report.
    pub const RESERVATION_REPORT: u8 = 0x0e;
    /// Reservation Acquire.
    pub const RESERVATION_ACQUIRE: u8 = 0x11;
    /// Reservation Release.
    pub const RESERVATION_RELEASE: u8 = 0x15;

    /// FUA: bit 30 of CDW12 of Read, Write, Compare and Write Zeroes (NVM 3.2).
    pub const FUA: u32 = 1 << 30;
    /// LR, limited retry: bit 31 of CDW12.
    pub const LIMITED_RETRY: u32 = 1 << 31;
    /// DEAC: bit 25 of CDW12 of Write Zeroes: the blocks may be deallocated (NVM 3.2.8).
    pub const DEALLOCATE: u32 = 1 << 25;
    /// AD: bit 2 of CDW11 of Dataset Management: deallocate the ranges (NVM 3.2.3).
    pub const ATTRIBUTE_DEALLOCATE: u32 = 1 << 2;
    /// Ranges in one Dataset Management command.
    pub const MAX_RANGES: usize = 256;
}

/// One range of Dataset Management (NVM figure 36).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct DatasetRange {
    /// Context attributes, hints only.
    pub attributes: Le32,
    /// Length in logical blocks.
    pub blocks: Le32,
    /// SLBA.
    pub slba: Le64,
}
const _: () = assert!(size_of::<DatasetRange>() == 16);

/// Feature identifiers (Base figure 317).
pub mod feature {
    /// Arbitration.
    pub const ARBITRATION: u8 = 0x01;
    /// Power Management.
    pub const POWER_MANAGEMENT: u8 = 0x02;
    /// Temperature Threshold.
    pub const TEMPERATURE_THRESHOLD: u8 = 0x04;
    /// Error Recovery.
    pub const ERROR_RECOVERY: u8 = 0x05;
    /// Volatile Write Cache.
    pub const WRITE_CACHE: u8 = 0x06;
    /// Number of Queues.
    pub const NUMBER_OF_QUEUES: u8 = 0x07;
    /// Write Atomicity Normal.
    pub const WRITE_ATOMICITY: u8 = 0x0a;
    /// Asynchronous Event Configuration.
    pub const ASYNC_EVENTS: u8 = 0x0b;
    /// Keep Alive Timer.
    pub const KEEP_ALIVE: u8 = 0x0f;
    /// Host Behavior Support.
    pub const HOST_BEHAVIOR: u8 = 0x16;
    /// Host Identifier.
    pub const HOST_IDENTIFIER: u8 = 0x81;
}

/// Bits of the asynchronous event configuration (Base 5.27.1.8) and of OAES.
pub mod notice {
    /// Namespace Attribute Notices.
    pub const NAMESPACE_ATTRIBUTES: u32 = 1 << 8;
    /// Discovery Log Page Change.
    pub const DISCOVERY_LOG: u32 = 1 << 31;

    /// Asynchronous event type: notice (Base figure 146), in bits 2:0 of the result.
    pub const TYPE: u32 = 2;
    /// The result of an event: type, information and the log page to read.
    pub const fn result(info: u8, log_page: u8) -> u32 {
        TYPE | (info as u32) << 8 | (log_page as u32) << 16
    }
    /// Information: a namespace's attributes changed.
    pub const INFO_NAMESPACE: u8 = 0x00;
    /// Information: the discovery log changed.
    pub const INFO_DISCOVERY: u8 = 0xf0;
}
