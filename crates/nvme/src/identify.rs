//! Identify data structures (Base 5.17, NVM 4.1.5).

use bytemuck::{Pod, Zeroable};

use crate::nqn::NQN_FIELD;
use crate::wire::{Le16, Le32, Le64, Le128};

/// Every Identify data structure has this size.
pub const IDENTIFY_BYTES: usize = 4096;

/// CNS values (Base figure 273).
pub mod cns {
    /// Namespace, for the NVM command set.
    pub const NAMESPACE: u8 = 0x00;
    /// Controller.
    pub const CONTROLLER: u8 = 0x01;
    /// Active namespaces.
    pub const ACTIVE_NAMESPACES: u8 = 0x02;
    /// Namespace identification descriptors.
    pub const DESCRIPTORS: u8 = 0x03;
    /// Namespace, command set specific.
    pub const COMMAND_SET_NAMESPACE: u8 = 0x05;
    /// Controller, command set specific.
    pub const COMMAND_SET_CONTROLLER: u8 = 0x06;
    /// Active namespaces of a command set.
    pub const COMMAND_SET_ACTIVE_NAMESPACES: u8 = 0x07;
    /// Namespace, independent of the command set.
    pub const INDEPENDENT_NAMESPACE: u8 = 0x08;
    /// Command sets.
    pub const COMMAND_SETS: u8 = 0x1c;
}

/// Identify Controller (Base figure 275).
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct IdentifyController {
    /// VID, PCI vendor.
    pub vid: Le16,
    /// SSVID.
    pub ssvid: Le16,
    /// SN: serial number.
    pub serial: [u8; 20],
    /// MN: model number.
    pub model: [u8; 40],
    /// FR: firmware revision.
    pub firmware: [u8; 8],
    /// RAB: recommended arbitration burst.
    pub rab: u8,
    /// IEEE OUI.
    pub ieee: [u8; 3],
    /// CMIC: bit 1, the subsystem may have several controllers.
    pub cmic: u8,
    /// MDTS: maximum transfer, as a power of two of 4 KiB.
    pub mdts: u8,
    /// CNTLID.
    pub controller_id: Le16,
    /// VER.
    pub version: Le32,
    /// RTD3R.
    pub rtd3r: Le32,
    /// RTD3E.
    pub rtd3e: Le32,
    /// OAES: supported asynchronous notices.
    pub oaes: Le32,
    /// CTRATT: attributes; bit 0: 128 bit host identifier.
    pub ctratt: Le32,
    /// RRLS.
    pub rrls: Le16,
    /// Reserved.
    pub reserved102: [u8; 9],
    /// CNTRLTYPE: 1 I/O, 2 discovery.
    pub controller_type: u8,
    /// FGUID.
    pub fguid: [u8; 16],
    /// CRDT1 to CRDT3: command retry delays, 100 ms units.
    pub crdt: [Le16; 3],
    /// Reserved.
    pub reserved134: [u8; 122],
    /// OACS: optional admin commands.
    pub oacs: Le16,
    /// ACL: outstanding Abort commands, 0's based.
    pub acl: u8,
    /// AERL: outstanding asynchronous event requests, 0's based.
    pub aerl: u8,
    /// FRMW: firmware updates.
    pub frmw: u8,
    /// LPA: log page attributes.
    pub lpa: u8,
    /// ELPE: error log entries, 0's based.
    pub elpe: u8,
    /// NPSS: power states, 0's based.
    pub npss: u8,
    /// AVSCC.
    pub avscc: u8,
    /// APSTA.
    pub apsta: u8,
    /// WCTEMP, in kelvin.
    pub wctemp: Le16,
    /// CCTEMP, in kelvin.
    pub cctemp: Le16,
    /// Reserved here (firmware, memory buffers, self tests, ...).
    pub reserved270: [u8; 50],
    /// KAS: granularity of the keep-alive timer, 100 ms units.
    pub kas: Le16,
    /// HCTMA to ENDGIDMAX.
    pub reserved322: [u8; 20],
    /// ANATT.
    pub anatt: u8,
    /// ANACAP.
    pub anacap: u8,
    /// ANAGRPMAX.
    pub anagrpmax: Le32,
    /// NANAGRPID.
    pub nanagrpid: Le32,
    /// PELS to reserved.
    pub reserved352: [u8; 160],
    /// SQES: entry sizes, required in bits 3:0, maximum in bits 7:4.
    pub sqes: u8,
    /// CQES.
    pub cqes: u8,
    /// MAXCMD: commands that a queue may have outstanding.
    pub maxcmd: Le16,
    /// NN: highest namespace identifier.
    pub nn: Le32,
    /// ONCS: optional I/O commands.
    pub oncs: Le16,
    /// FUSES: fused operations.
    pub fuses: Le16,
    /// FNA.
    pub fna: u8,
    /// VWC: volatile write cache.
    pub vwc: u8,
    /// AWUN: atomic write unit, 0's based blocks.
    pub awun: Le16,
    /// AWUPF: atomic write unit at power failure, 0's based blocks.
    pub awupf: Le16,
    /// ICSVSCC.
    pub icsvscc: u8,
    /// NWPC.
    pub nwpc: u8,
    /// ACWU.
    pub acwu: Le16,
    /// Reserved (CDFS).
    pub reserved534: [u8; 2],
    /// SGLS: SGL support.
    pub sgls: Le32,
    /// MNAN: maximum number of allowed namespaces.
    pub mnan: Le32,
    /// Reserved.
    pub reserved544: [u8; 224],
    /// SUBNQN.
    pub subsystem_nqn: [u8; NQN_FIELD],
    /// Reserved.
    pub reserved1024: [u8; 768],
    /// IOCCSZ: size of an I/O command capsule, 16 byte units.
    pub ioccsz: Le32,
    /// IORCSZ: size of an I/O response capsule, 16 byte units.
    pub iorcsz: Le32,
    /// ICDOFF: where in-capsule data begins after the command, 16 byte units.
    pub icdoff: Le16,
    /// FCATT: bit 0 clear: dynamic controller model.
    pub fcatt: u8,
    /// MSDBD: SGL data block descriptors in a capsule.
    pub msdbd: u8,
    /// OFCS: optional fabrics commands.
    pub ofcs: Le16,
    /// Reserved, power states, vendor specific.
    pub reserved1806: [u8; 242],
    /// PSD0 to PSD31.
    pub power_states: [[u8; 32]; 32],
    /// Vendor specific.
    pub vendor: [u8; 1024],
}
const _: () = assert!(size_of::<IdentifyController>() == IDENTIFY_BYTES);
const _: () = {
    use std::mem::offset_of;
    assert!(offset_of!(IdentifyController, version) == 80);
    assert!(offset_of!(IdentifyController, controller_type) == 111);
    assert!(offset_of!(IdentifyController, oacs) == 256);
    assert!(offset_of!(IdentifyController, wctemp) == 266);
    assert!(offset_of!(IdentifyController, kas) == 320);
    assert!(offset_of!(IdentifyController, anatt) == 342);
    assert!(offset_of!(IdentifyController, sqes) == 512);
    assert!(offset_of!(IdentifyController, sgls) == 536);
    assert!(offset_of!(IdentifyController, subsystem_nqn) == 768);
    assert!(offset_of!(IdentifyController, ioccsz) == 1792);
    assert!(offset_of!(IdentifyController, ofcs) == 1804);
    assert!(offset_of!(IdentifyController, power_states) == 2048);
};

/// Bits of ONCS.
pub mod oncs {
    /// Compare.
    pub const COMPARE: u16 = 1 << 0;
    /// Dataset Management.
    pub const DATASET_MANAGEMENT: u16 = 1 << 2;
    /// Write Zeroes.
    pub const WRITE_ZEROES: u16 = 1 << 3;
    /// Reservations.
    pub const RESERVATIONS: u16 = 1 << 5;
}

/// A format of a namespace (NVM figure 98).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct LbaFormat {
    /// MS: metadata bytes.
    pub metadata: Le16,
    /// LBADS: log2 of the block size.
    pub data_shift: u8,
    /// RP: relative performance.
    pub performance: u8,
}

/// Identify Namespace (NVM figure 97).
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct IdentifyNamespace {
    /// NSZE: size in blocks.
    pub size: Le64,
    /// NCAP: capacity in blocks.
    pub capacity: Le64,
    /// NUSE: used blocks.
    pub used: Le64,
    /// NSFEAT.
    pub features: u8,
    /// NLBAF: formats, 0's based.
    pub formats: u8,
    /// FLBAS: the format in use.
    pub format: u8,
    /// MC.
    pub mc: u8,
    /// DPC.
    pub dpc: u8,
    /// DPS.
    pub dps: u8,
    /// NMIC: bit 0, may be attached to several controllers.
    pub nmic: u8,
    /// RESCAP: reservation capabilities.
    pub rescap: u8,
    /// FPI.
    pub fpi: u8,
    /// DLFEAT: bits 2:0 001b, deallocated blocks read as zeroes; bit 3, Write Zeroes may deallocate.
    pub dlfeat: u8,
    /// NAWUN.
    pub nawun: Le16,
    /// NAWUPF.
    pub nawupf: Le16,
    /// NACWU.
    pub nacwu: Le16,
    /// NABSN.
    pub nabsn: Le16,
    /// NABO.
    pub nabo: Le16,
    /// NABSPF.
    pub nabspf: Le16,
    /// NOIOB.
    pub noiob: Le16,
    /// NVMCAP: capacity in bytes.
    pub nvmcap: Le128,
    /// NPWG: preferred write granularity, 0's based blocks.
    pub npwg: Le16,
    /// NPWA: preferred write alignment.
    pub npwa: Le16,
    /// NPDG: preferred deallocate granularity.
    pub npdg: Le16,
    /// NPDA: preferred deallocate alignment.
    pub npda: Le16,
    /// NOWS: optimal write size.
    pub nows: Le16,
    /// MSSRL and following.
    pub reserved74: [u8; 18],
    /// ANAGRPID.
    pub anagrpid: Le32,
    /// Reserved.
    pub reserved96: [u8; 3],
    /// NSATTR.
    pub nsattr: u8,
    /// NVMSETID.
    pub nvmsetid: Le16,
    /// ENDGID.
    pub endgid: Le16,
    /// NGUID.
    pub nguid: [u8; 16],
    /// EUI64.
    pub eui64: [u8; 8],
    /// LBAF0 to LBAF63.
    pub lba_formats: [LbaFormat; 64],
    /// Vendor specific.
    pub vendor: [u8; 3712],
}
const _: () = assert!(size_of::<IdentifyNamespace>() == IDENTIFY_BYTES);
const _: () = {
    use std::mem::offset_of;
    assert!(offset_of!(IdentifyNamespace, nvmcap) == 48);
    assert!(offset_of!(IdentifyNamespace, anagrpid) == 92);
    assert!(offset_of!(IdentifyNamespace, nguid) == 104);
    assert!(offset_of!(IdentifyNamespace, lba_formats) == 128);
};

impl IdentifyNamespace {
    /// The format in use (FLBAS bits 3:0 and 6:5).
    pub fn current_format(&self) -> LbaFormat {
        let index = usize::from(self.format & 0xf) | usize::from(self.format >> 5 & 3) << 4;
        self.lba_formats.get(index).copied().unwrap_or_default()
    }
}

/// Identify Controller for the NVM command set (NVM figure 102).
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct IdentifyNvmController {
    /// VSL: Verify size limit.
    pub vsl: u8,
    /// WZSL: Write Zeroes size limit, power of two of 4 KiB, 0 for none.
    pub wzsl: u8,
    /// WUSL: Write Uncorrectable size limit.
    pub wusl: u8,
    /// DMRL: Dataset Management ranges.
    pub dmrl: u8,
    /// DMRSL: blocks in one range, 0 for no limit.
    pub dmrsl: Le32,
    /// DMSL: blocks in one command, 0 for no limit.
    pub dmsl: Le64,
    /// Reserved.
    pub reserved: [u8; 4080],
}
const _: () = assert!(size_of::<IdentifyNvmController>() == IDENTIFY_BYTES);

/// Identify Namespace, independent of the command set (Base figure 280).
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct IdentifyIndependent {
    /// NSFEAT.
    pub features: u8,
    /// NMIC.
    pub nmic: u8,
    /// RESCAP.
    pub rescap: u8,
    /// FPI.
    pub fpi: u8,
    /// ANAGRPID.
    pub anagrpid: Le32,
    /// NSATTR.
    pub nsattr: u8,
    /// Reserved.
    pub reserved9: u8,
    /// NVMSETID.
    pub nvmsetid: Le16,
    /// ENDGID.
    pub endgid: Le16,
    /// NSTAT: bit 0, the namespace is ready.
    pub status: u8,
    /// Reserved.
    pub reserved15: [u8; 4081],
}
const _: () = assert!(size_of::<IdentifyIndependent>() == IDENTIFY_BYTES);

/// A namespace identification descriptor (Base figure 277).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descriptor {
    /// NIDT 1h.
    Eui64([u8; 8]),
    /// NIDT 2h.
    Nguid([u8; 16]),
    /// NIDT 3h.
    Uuid([u8; 16]),
    /// NIDT 4h: the command set, 0 for NVM.
    CommandSet(u8),
}

/// Writes a descriptor list (CNS 03h): 4096 bytes, ended by zeroes.
pub fn descriptor_list(descriptors: &[Descriptor]) -> Vec<u8> {
    let mut list = Vec::with_capacity(IDENTIFY_BYTES);
    for d in descriptors {
        let (kind, value): (u8, &[u8]) = match d {
            Descriptor::Eui64(v) => (1, v),
            Descriptor::Nguid(v) => (2, v),
            Descriptor::Uuid(v) => (3, v),
            Descriptor::CommandSet(v) => (4, std::slice::from_ref(v)),
        };
        list.extend_from_slice(&[kind, value.len() as u8, 0, 0]);
        list.extend_from_slice(value);
    }
    list.resize(IDENTIFY_BYTES, 0);
    list
}

/// Reads a descriptor list; unknown descriptors are skipped, a malformed rest is ignored.
pub fn parse_descriptor_list(mut list: &[u8]) -> Vec<Descriptor> {
    let mut found = Vec::new();
    while let [kind, len, _, _, rest @ ..] = list {
        let Some(value) = rest.get(..usize::from(*len)) else { break };
        if *len == 0 {
            break;
        }
        let known = match kind {
            1 => value.try_into().ok().map(Descriptor::Eui64),
            2 => value.try_into().ok().map(Descriptor::Nguid),
            3 => value.try_into().ok().map(Descriptor::Uuid),
            4 => value.first().copied().map(Descriptor::CommandSet),
            _ => None,
        };
        found.extend(known);
        list = &rest[value.len()..];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_round_trip() {
        let all = [
            Descriptor::Eui64([1; 8]),
            Descriptor::Nguid([2; 16]),
            Descriptor::Uuid([3; 16]),
            Descriptor::CommandSet(0),
        ];
        let list = descriptor_list(&all);
        assert_eq!(list.len(), IDENTIFY_BYTES);
        assert_eq!(&list[..12], &[1, 8, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]);
        assert_eq!(parse_descriptor_list(&list), all);
        // A descriptor that claims more than there is ends the list.
        assert_eq!(parse_descriptor_list(&list[..20]), &all[..1]);
    }
}
