//! Fabrics commands (Base 6) and controller properties (Base 3.1.3).

use bytemuck::{Pod, Zeroable};

use crate::command::{FLAGS_SGL, Sgl, Sqe, admin};
use crate::nqn::NQN_FIELD;
use crate::wire::{Le16, Le32, Le64};

/// Fabrics command types (FCTYPE, Base figure 380).
pub mod kind {
    /// Property Set.
    pub const PROPERTY_SET: u8 = 0x00;
    /// Connect.
    pub const CONNECT: u8 = 0x01;
    /// Property Get.
    pub const PROPERTY_GET: u8 = 0x04;
    /// Authentication Send.
    pub const AUTHENTICATION_SEND: u8 = 0x05;
    /// Authentication Receive.
    pub const AUTHENTICATION_RECEIVE: u8 = 0x06;
    /// Disconnect.
    pub const DISCONNECT: u8 = 0x08;
}

/// The submission queue entry of Connect (Base 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ConnectSqe {
    /// OPC: 7Fh.
    pub opcode: u8,
    /// PSDT.
    pub flags: u8,
    /// CID.
    pub cid: Le16,
    /// FCTYPE.
    pub fctype: u8,
    /// Reserved.
    pub reserved1: [u8; 19],
    /// SGL1: 1024 bytes of [`ConnectData`].
    pub sgl: Sgl,
    /// RECFMT: 0.
    pub record_format: Le16,
    /// QID: 0 for the admin queue.
    pub queue_id: Le16,
    /// SQSIZE: entries, 0's based.
    pub queue_size: Le16,
    /// CATTR; see [`DISABLE_SQ_FLOW_CONTROL`].
    pub attributes: u8,
    /// Reserved.
    pub reserved2: u8,
    /// KATO: keep-alive timeout in milliseconds, 0 for none. Admin queue only.
    pub keep_alive_ms: Le32,
    /// Reserved.
    pub reserved3: [u8; 12],
}
const _: () = assert!(size_of::<ConnectSqe>() == 64);
const _: () = assert!(std::mem::offset_of!(ConnectSqe, sgl) == 24 && std::mem::offset_of!(ConnectSqe, queue_id) == 42);

/// CATTR bit 2: the host wants no submission queue flow control.
pub const DISABLE_SQ_FLOW_CONTROL: u8 = 1 << 2;
/// SQHD of a Connect response that agrees to no flow control, and of every completion of that queue.
pub const SQ_HEAD_DISABLED: u16 = 0xffff;
/// CNTLID with which a host asks for any controller (dynamic controller model).
pub const DYNAMIC_CONTROLLER: u16 = 0xffff;

/// The data of Connect (Base figure 386).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ConnectData {
    /// HOSTID: 128 bit host identifier.
    pub host_id: [u8; 16],
    /// CNTLID.
    pub controller_id: Le16,
    /// Reserved.
    pub reserved1: [u8; 238],
    /// SUBNQN.
    pub subsystem_nqn: [u8; NQN_FIELD],
    /// HOSTNQN.
    pub host_nqn: [u8; NQN_FIELD],
    /// Reserved.
    pub reserved2: [u8; 256],
}
const _: () = assert!(size_of::<ConnectData>() == 1024);

/// Offsets of Connect's parameters, for the answer [`crate::Status::CONNECT_PARAMETERS`] (Base figure 387).
pub mod connect_offset {
    /// RECFMT, in the command.
    pub const RECORD_FORMAT: u16 = 40;
    /// QID, in the command.
    pub const QUEUE_ID: u16 = 42;
    /// SQSIZE, in the command.
    pub const QUEUE_SIZE: u16 = 44;
    /// HOSTID, in the data.
    pub const HOST_ID: u16 = 0;
    /// CNTLID, in the data.
    pub const CONTROLLER_ID: u16 = 16;
    /// SUBNQN, in the data.
    pub const SUBSYSTEM_NQN: u16 = 256;
    /// HOSTNQN, in the data.
    pub const HOST_NQN: u16 = 512;
}

/// The result of a Connect that failed with [`crate::Status::CONNECT_PARAMETERS`]: which parameter, and whether it is in
/// the data.
pub const fn invalid_parameter(offset: u16, in_data: bool) -> u64 {
    offset as u64 | (in_data as u64) << 16
}

/// The submission queue entry of Property Get and Property Set (Base 6.5, 6.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct PropertySqe {
    /// OPC: 7Fh.
    pub opcode: u8,
    /// PSDT.
    pub flags: u8,
    /// CID.
    pub cid: Le16,
    /// FCTYPE.
    pub fctype: u8,
    /// Reserved.
    pub reserved1: [u8; 35],
    /// ATTRIB: 0 for four bytes, 1 for eight, in bits 2:0.
    pub attributes: u8,
    /// Reserved.
    pub reserved2: [u8; 3],
    /// OFST; see [`property`].
    pub offset: Le32,
    /// VALUE of Property Set.
    pub value: Le64,
    /// Reserved.
    pub reserved3: [u8; 8],
}
const _: () = assert!(size_of::<PropertySqe>() == 64);
const _: () = assert!(std::mem::offset_of!(PropertySqe, attributes) == 40);

/// Offsets of properties (Base figure 35).
pub mod property {
    /// CAP: capabilities, eight bytes.
    pub const CAP: u32 = 0x00;
    /// VS: version.
    pub const VS: u32 = 0x08;
    /// CC: configuration.
    pub const CC: u32 = 0x14;
    /// CSTS: status.
    pub const CSTS: u32 = 0x1c;
    /// NSSR: subsystem reset.
    pub const NSSR: u32 = 0x20;
}

/// Bits of CC (Base figure 46).
pub mod cc {
    /// EN: enable.
    pub const ENABLE: u32 = 1;
    /// SHN, bits 15:14.
    pub const SHUTDOWN: u32 = 3 << 14;
    /// SHN 01b: normal shutdown.
    pub const SHUTDOWN_NORMAL: u32 = 1 << 14;
    /// CSS in bits 6:4, MPS in bits 10:7, AMS in bits 13:11: all zero here.
    pub const MUST_BE_ZERO: u32 = 0x3ff0;
    /// IOSQES (6) and IOCQES (4): entry sizes as powers of two.
    pub const ENTRY_SIZES: u32 = 6 << 16 | 4 << 20;
    /// The bits of both entry sizes.
    pub const ENTRY_SIZES_MASK: u32 = 0xff << 16;
}

/// Bits of CSTS (Base figure 47).
pub mod csts {
    /// RDY: ready.
    pub const READY: u32 = 1;
    /// CFS: fatal status.
    pub const FATAL: u32 = 1 << 1;
    /// SHST, bits 3:2: 01b, shutdown is going on.
    pub const SHUTDOWN_ACTIVE: u32 = 1 << 2;
    /// SHST, bits 3:2: 10b, shutdown is complete.
    pub const SHUTDOWN_COMPLETE: u32 = 2 << 2;
    /// The bits of SHST.
    pub const SHUTDOWN: u32 = 3 << 2;
}

/// VS of the version that we implement: 2.0.0.
pub const VERSION_2_0: u32 = 0x0002_0000;

/// A Connect command.
pub fn connect(cid: u16, queue_id: u16, queue_size: u16, attributes: u8, keep_alive_ms: u32) -> Sqe {
    let mut sqe = ConnectSqe::zeroed();
    sqe.opcode = admin::FABRICS;
    sqe.flags = FLAGS_SGL;
    sqe.cid = Le16::new(cid);
    sqe.fctype = kind::CONNECT;
    sqe.sgl = Sgl::in_capsule(size_of::<ConnectData>() as u32);
    sqe.queue_id = Le16::new(queue_id);
    sqe.queue_size = Le16::new(queue_size);
    sqe.attributes = attributes;
    sqe.keep_alive_ms = Le32::new(keep_alive_ms);
    bytemuck::cast(sqe)
}

/// A Property Get command of four or eight bytes.
pub fn property_get(cid: u16, offset: u32, eight: bool) -> Sqe {
    let mut sqe = PropertySqe::zeroed();
    sqe.opcode = admin::FABRICS;
    sqe.flags = FLAGS_SGL;
    sqe.cid = Le16::new(cid);
    sqe.fctype = kind::PROPERTY_GET;
    sqe.attributes = u8::from(eight);
    sqe.offset = Le32::new(offset);
    bytemuck::cast(sqe)
}

/// A Property Set command of four bytes (all properties that may be set have four).
pub fn property_set(cid: u16, offset: u32, value: u32) -> Sqe {
    let mut sqe = PropertySqe::zeroed();
    sqe.opcode = admin::FABRICS;
    sqe.flags = FLAGS_SGL;
    sqe.cid = Le16::new(cid);
    sqe.fctype = kind::PROPERTY_SET;
    sqe.offset = Le32::new(offset);
    sqe.value = Le64::new(u64::from(value));
    bytemuck::cast(sqe)
}
