//! Log pages (Base 5.16.1).

use bytemuck::{Pod, Zeroable};

use crate::nqn::NQN_FIELD;
use crate::wire::{Le16, Le32, Le64, Le128};

/// Log page identifiers (Base figure 202).
pub mod page {
    /// Supported Log Pages.
    pub const SUPPORTED: u8 = 0x00;
    /// Error Information.
    pub const ERRORS: u8 = 0x01;
    /// SMART / Health Information.
    pub const HEALTH: u8 = 0x02;
    /// Firmware Slot Information.
    pub const FIRMWARE: u8 = 0x03;
    /// Changed Namespace List.
    pub const CHANGED_NAMESPACES: u8 = 0x04;
    /// Commands Supported and Effects.
    pub const EFFECTS: u8 = 0x05;
    /// Asymmetric Namespace Access.
    pub const ANA: u8 = 0x0c;
    /// Discovery.
    pub const DISCOVERY: u8 = 0x70;
}

/// RAE in CDW10 of Get Log Page: the event stays reported (Base 5.16).
pub const RETAIN_EVENT: u32 = 1 << 15;

/// SMART / Health Information (Base figure 207).
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct HealthLog {
    /// Critical warnings.
    pub warnings: u8,
    /// Composite temperature in kelvin.
    pub temperature: Le16,
    /// Available spare, percent.
    pub spare: u8,
    /// Available spare threshold, percent.
    pub spare_threshold: u8,
    /// Percentage used.
    pub used: u8,
    /// Endurance group summary.
    pub endurance: u8,
    /// Reserved.
    pub reserved7: [u8; 25],
    /// Data units (1000 x 512 bytes, rounded up) read.
    pub units_read: Le128,
    /// Data units written.
    pub units_written: Le128,
    /// Read and Compare commands completed.
    pub reads: Le128,
    /// Write commands completed.
    pub writes: Le128,
    /// Busy time, power cycles, hours, unsafe shutdowns, media errors, error log entries.
    pub reserved96: [u8; 416],
}
const _: () = assert!(size_of::<HealthLog>() == 512);
const _: () = assert!(std::mem::offset_of!(HealthLog, units_read) == 32);

/// Firmware Slot Information (Base figure 208).
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct FirmwareLog {
    /// AFI: the active slot.
    pub active: u8,
    /// Reserved.
    pub reserved: [u8; 7],
    /// FRS1 to FRS7.
    pub slots: [[u8; 8]; 7],
    /// Reserved.
    pub reserved64: [u8; 448],
}
const _: () = assert!(size_of::<FirmwareLog>() == 512);

/// Commands Supported and Effects (Base figure 210).
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct EffectsLog {
    /// ACS: admin commands, by opcode.
    pub admin: [Le32; 256],
    /// IOCS: I/O commands, by opcode.
    pub io: [Le32; 256],
    /// Reserved.
    pub reserved: [u8; 2048],
}
const _: () = assert!(size_of::<EffectsLog>() == 4096);

/// CSUPP: the command is supported.
pub const EFFECT_SUPPORTED: u32 = 1 << 0;
/// LBCC: the command may change logical blocks.
pub const EFFECT_CONTENT: u32 = 1 << 1;

/// The head of the discovery log (Base figure 264).
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct DiscoveryHeader {
    /// GENCTR: changes with every change of the log.
    pub generation: Le64,
    /// NUMREC: entries that follow.
    pub records: Le64,
    /// RECFMT: 0.
    pub format: Le16,
    /// Reserved.
    pub reserved: [u8; 1006],
}
const _: () = assert!(size_of::<DiscoveryHeader>() == 1024);

/// An entry of the discovery log (Base figure 265).
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct DiscoveryEntry {
    /// TRTYPE: transport.
    pub transport: u8,
    /// ADRFAM: address family.
    pub family: u8,
    /// SUBTYPE: what the subsystem is.
    pub subtype: u8,
    /// TREQ: requirements; bit 2: flow control may be disabled.
    pub requirements: u8,
    /// PORTID.
    pub port_id: Le16,
    /// CNTLID: FFFFh, dynamic.
    pub controller_id: Le16,
    /// ASQSZ: largest admin queue.
    pub admin_queue_size: Le16,
    /// EFLAGS.
    pub flags: Le16,
    /// Reserved.
    pub reserved12: [u8; 20],
    /// TRSVCID: port number as text.
    pub service: [u8; 32],
    /// Reserved.
    pub reserved64: [u8; 192],
    /// SUBNQN.
    pub subsystem_nqn: [u8; NQN_FIELD],
    /// TRADDR: address as text.
    pub address: [u8; 256],
    /// TSAS: transport specific; byte 0: security, 0 for none.
    pub specific: [u8; 256],
}
const _: () = assert!(size_of::<DiscoveryEntry>() == 1024);
const _: () = assert!(std::mem::offset_of!(DiscoveryEntry, address) == 512);

/// TRTYPE: TCP.
pub const TRANSPORT_TCP: u8 = 3;
/// ADRFAM: IPv4.
pub const FAMILY_IPV4: u8 = 1;
/// ADRFAM: IPv6.
pub const FAMILY_IPV6: u8 = 2;
/// SUBTYPE: a subsystem with namespaces.
pub const SUBTYPE_NVM: u8 = 2;
/// SUBTYPE: this discovery subsystem.
pub const SUBTYPE_DISCOVERY: u8 = 3;
/// TREQ: bits 1:0 00b, nothing said about secure channels (some hosts take "not required" for a wish to use one); bit 2:
/// SQ flow control may be disabled.
pub const REQUIREMENTS: u8 = 0b100;
