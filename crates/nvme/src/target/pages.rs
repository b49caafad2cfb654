//! The pages of Identify (Base 5.17) and Get Log Page (Base 5.16).

use std::collections::BTreeMap;
use std::net::IpAddr;

use block::limits;
use bytemuck::{Pod, Zeroable};

use super::controller::{Controller, KEEP_ALIVE_GRANULARITY};
use super::io::NAMESPACE;
use super::{Reserving, Subsystem, SubsystemId, TargetOptions};
use crate::command::{Sqe, admin, io, notice};
use crate::fabrics::{DYNAMIC_CONTROLLER, VERSION_2_0};
use crate::identify::{
    Descriptor, IDENTIFY_BYTES, IdentifyController, IdentifyIndependent, IdentifyNamespace, IdentifyNvmController,
    LbaFormat, cns, descriptor_list, oncs,
};
use crate::log::{
    self, DiscoveryEntry, DiscoveryHeader, EFFECT_CONTENT, EFFECT_SUPPORTED, EffectsLog, FirmwareLog, HealthLog, page,
};
use crate::nqn::Nqn;
use crate::wire::{Le32, pad_with_nul, pad_with_spaces};
use crate::{Cqe, Status, reservation};

/// The model by which hosts (and the CSI node plugin) know our namespaces.
pub const MODEL: &str = "Mayastor NVMe controller";

/// Length of the entries of the discovery log and of its head.
const RECORD: u64 = size_of::<DiscoveryEntry>() as u64;

/// log2 of MDTS in 4 KiB units.
const MDTS: u8 = (limits::TRANSFER_BYTES / 4096).trailing_zeros() as u8;
const _: () = assert!(4096 << MDTS == limits::TRANSFER_BYTES);
/// WZSL: 32 MiB, what NLB can say with blocks of 512 bytes.
const WRITE_ZEROES_LIMIT: u8 = 13;

/// What the pages are made from.
pub(super) struct Page<'a> {
    pub options: &'a TargetOptions,
    pub controller: &'a Controller,
    /// `None`: discovery.
    pub subsystem: Option<&'a Subsystem>,
    pub generation: u64,
    pub served: &'a BTreeMap<Nqn, SubsystemId>,
}

/// The bytes that a Get Log Page asks for: NUMDL and NUMDU, 0's based dwords.
pub(super) fn log_len(sqe: &Sqe) -> u64 {
    let dwords = u64::from(sqe.cdw10.get() >> 16) | u64::from(sqe.cdw11.get() & 0xffff) << 16;
    (dwords + 1) * 4
}

fn bytes_of<T: Pod>(page: &T) -> Vec<u8> {
    bytemuck::bytes_of(page).to_vec()
}

impl Page<'_> {
    /// An Identify data structure.
    pub fn identify(&self, sqe: &Sqe) -> Result<Vec<u8>, Status> {
        let invalid = Status::INVALID_FIELD.do_not_retry();
        // CNS in bits 7:0 of CDW10; CSI in bits 31:24 of CDW11, 0 is the NVM command set.
        let (structure, command_set) = (sqe.cdw10.get() as u8, sqe.cdw11.get() >> 24);
        if structure == cns::CONTROLLER {
            return Ok(bytes_of(&self.controller()));
        }
        let subsystem = self.subsystem.ok_or(invalid)?;
        let nsid = sqe.nsid.get();
        let namespace =
            || if nsid == NAMESPACE { Ok(subsystem) } else { Err(Status::INVALID_NAMESPACE.do_not_retry()) };
        match structure {
            cns::NAMESPACE if nsid == u32::MAX => Ok(bytes_of(&identify_formats(subsystem))),
            cns::NAMESPACE => Ok(bytes_of(&identify_namespace(namespace()?))),
            cns::ACTIVE_NAMESPACES => active_namespaces(nsid),
            cns::DESCRIPTORS => {
                let uuid = namespace()?.uuid.into_bytes();
                let eui64 = eui64_of(&uuid);
                Ok(descriptor_list(&[Descriptor::Uuid(uuid), Descriptor::Nguid(uuid), Descriptor::Eui64(eui64)]))
            }
            cns::INDEPENDENT_NAMESPACE => {
                namespace()?;
                let mut page = IdentifyIndependent::zeroed();
                page.nmic = 1;
                page.rescap = capabilities(subsystem);
                page.status = 1;
                Ok(bytes_of(&page))
            }
            _ if command_set != 0 => Err(invalid),
            cns::COMMAND_SET_ACTIVE_NAMESPACES => active_namespaces(nsid),
            cns::COMMAND_SET_NAMESPACE => {
                namespace()?;
                Ok(vec![0; IDENTIFY_BYTES])
            }
            cns::COMMAND_SET_CONTROLLER => {
                let mut page = IdentifyNvmController::zeroed();
                page.wzsl = WRITE_ZEROES_LIMIT;
                page.dmrl = (io::MAX_RANGES - 1) as u8;
                Ok(bytes_of(&page))
            }
            _ => Err(invalid),
        }
    }

    fn controller(&self) -> IdentifyController {
        let mut page = IdentifyController::zeroed();
        pad_with_spaces(&mut page.firmware, &self.options.firmware);
        pad_with_spaces(&mut page.model, MODEL);
        let run = match self.subsystem {
            Some(subsystem) if !subsystem.geometry.features.ends_with_process => &self.options.boot_id,
            _ => &self.options.instance,
        };
        page.vendor[..16].copy_from_slice(run);
        page.cmic = 1 << 1;
        page.mdts = MDTS;
        page.controller_id = self.controller.id.into();
        page.version = VERSION_2_0.into();
        // CTRATT bit 0: 128 bit host identifiers.
        page.ctratt = 1.into();
        page.acl = 3;
        page.aerl = (limits::ASYNC_EVENTS - 1) as u8;
        // FRMW: one slot, read only. LPA: effects log, offsets in log pages.
        page.frmw = 0b11;
        page.lpa = 0b110;
        page.kas = ((KEEP_ALIVE_GRANULARITY.as_millis() / 100) as u16).into();
        page.maxcmd = limits::QUEUE_ENTRIES.into();
        // SGLS: supported without alignment (bits 1:0 01b), offsets (bit 20), transport data blocks (bit 21).
        page.sgls = (1 | 1 << 20 | 1 << 21).into();
        page.subsystem_nqn = self.controller.subsystem_nqn.to_field();
        let Some(subsystem) = self.subsystem else {
            pad_with_spaces(&mut page.serial, "discovery");
            page.controller_type = 2;
            page.oaes = notice::DISCOVERY_LOG.into();
            return page;
        };
        pad_with_spaces(&mut page.serial, &subsystem.uuid.simple().to_string());
        page.controller_type = 1;
        page.oaes = notice::NAMESPACE_ATTRIBUTES.into();
        page.sqes = 0x66;
        page.cqes = 0x44;
        page.nn = NAMESPACE.into();
        let reservations = if subsystem.reserving == Reserving::No { 0 } else { oncs::RESERVATIONS };
        page.oncs = (oncs::COMPARE | oncs::DATASET_MANAGEMENT | oncs::WRITE_ZEROES | reservations).into();
        // VWC: a cache may be there; a Flush of all namespaces is supported.
        page.vwc = 0b111;
        page.mnan = NAMESPACE.into();
        // WCTEMP, CCTEMP: reported as Base 5.17.2.1 asks, never reached.
        page.wctemp = 343.into();
        page.cctemp = 353.into();
        page.ioccsz = (((size_of::<Sqe>() + limits::IN_CAPSULE_BYTES) / 16) as u32).into();
        page.iorcsz = ((size_of::<Cqe>() / 16) as u32).into();
        page.msdbd = 1;
        page
    }

    /// The part of a log page that a Get Log Page asks for.
    pub fn log(&self, sqe: &Sqe) -> Result<Vec<u8>, Status> {
        let invalid = Status::INVALID_FIELD.do_not_retry();
        let len = log_len(sqe) as usize;
        let start = u64::from(sqe.cdw12.get()) | u64::from(sqe.cdw13.get()) << 32;
        if !start.is_multiple_of(4) {
            return Err(invalid);
        }
        let lid = sqe.cdw10.get() as u8;
        if lid == page::DISCOVERY && self.subsystem.is_none() {
            return self.discovery(start, len).ok_or(invalid);
        }
        let whole = self.whole_log(lid).ok_or(Status::INVALID_LOG_PAGE.do_not_retry())?;
        let start = usize::try_from(start).ok().filter(|s| *s <= whole.len()).ok_or(invalid)?;
        let mut part = whole.get(start..).unwrap_or_default().to_vec();
        part.resize(len, 0);
        Ok(part)
    }

    fn whole_log(&self, lid: u8) -> Option<Vec<u8>> {
        const DISCOVERY: [u8; 2] = [page::SUPPORTED, page::DISCOVERY];
        const NVM: [u8; 6] =
            [page::SUPPORTED, page::ERRORS, page::HEALTH, page::FIRMWARE, page::CHANGED_NAMESPACES, page::EFFECTS];
        let pages: &[u8] = if self.subsystem.is_some() { &NVM } else { &DISCOVERY };
        if lid == page::SUPPORTED {
            let mut supported = [Le32::new(0); 256];
            pages.iter().for_each(|lid| supported[usize::from(*lid)] = Le32::new(1));
            return Some(bytemuck::cast_slice(&supported).to_vec());
        }
        let subsystem = self.subsystem?;
        match lid {
            // Errors are told by status only; the one entry (ELPE 0) is empty.
            page::ERRORS => Some(vec![0; 64]),
            page::HEALTH => Some(bytes_of(&health(subsystem))),
            page::FIRMWARE => {
                let mut page = FirmwareLog::zeroed();
                page.active = 1;
                pad_with_spaces(&mut page.slots[0], &self.options.firmware);
                Some(bytes_of(&page))
            }
            page::CHANGED_NAMESPACES => {
                let mut list = vec![0; 4096];
                if self.controller.namespace_changed {
                    list[..4].copy_from_slice(&NAMESPACE.to_le_bytes());
                }
                Some(list)
            }
            page::EFFECTS => Some(bytes_of(&effects(subsystem.reserving))),
            _ => None,
        }
    }

    /// The bytes of the discovery log from `start` on; `None` when it is shorter. Only the entries asked for are made.
    fn discovery(&self, start: u64, len: usize) -> Option<Vec<u8>> {
        let total = RECORD * (1 + self.served.len() as u64);
        if start > total {
            return None;
        }
        let mut log = Vec::with_capacity(len + 2 * RECORD as usize);
        let first = start / RECORD;
        if first == 0 {
            let mut head = DiscoveryHeader::zeroed();
            head.generation = self.generation.into();
            head.records = (self.served.len() as u64).into();
            log.extend_from_slice(bytemuck::bytes_of(&head));
        }
        let wanted = (start % RECORD) as usize + len;
        for nqn in self.served.keys().skip(first.saturating_sub(1) as usize) {
            if log.len() >= wanted {
                break;
            }
            log.extend_from_slice(bytemuck::bytes_of(&self.discovery_entry(nqn)));
        }
        log.drain(..(start % RECORD).min(log.len() as u64) as usize);
        log.resize(len, 0);
        Some(log)
    }

    fn discovery_entry(&self, nqn: &Nqn) -> DiscoveryEntry {
        let address = self.options.advertised;
        let mut entry = DiscoveryEntry::zeroed();
        entry.transport = log::TRANSPORT_TCP;
        entry.family = match address.ip() {
            IpAddr::V4(_) => log::FAMILY_IPV4,
            IpAddr::V6(_) => log::FAMILY_IPV6,
        };
        entry.subtype = log::SUBTYPE_NVM;
        entry.requirements = log::REQUIREMENTS;
        entry.port_id = 1.into();
        entry.controller_id = DYNAMIC_CONTROLLER.into();
        entry.admin_queue_size = limits::ADMIN_QUEUE_ENTRIES.into();
        pad_with_nul(&mut entry.service, &address.port().to_string());
        pad_with_nul(&mut entry.address, &address.ip().to_string());
        entry.subsystem_nqn = nqn.to_field();
        entry
    }
}

fn active_namespaces(after: u32) -> Result<Vec<u8>, Status> {
    if after >= u32::MAX - 1 {
        return Err(Status::INVALID_NAMESPACE.do_not_retry());
    }
    let mut list = vec![0; IDENTIFY_BYTES];
    if after < NAMESPACE {
        list[..4].copy_from_slice(&NAMESPACE.to_le_bytes());
    }
    Ok(list)
}

/// What all namespaces have in common (NSID FFFFFFFFh).
fn identify_formats(subsystem: &Subsystem) -> IdentifyNamespace {
    let mut page = IdentifyNamespace::zeroed();
    page.lba_formats[0] = LbaFormat { data_shift: subsystem.geometry.block_size.shift() as u8, ..LbaFormat::default() };
    page
}

fn identify_namespace(subsystem: &Subsystem) -> IdentifyNamespace {
    let mut page = identify_formats(subsystem);
    let geometry = &subsystem.geometry;
    page.size = geometry.blocks.0.into();
    page.capacity = geometry.blocks.0.into();
    page.used = geometry.blocks.0.into();
    page.nmic = 1;
    page.rescap = capabilities(subsystem);
    // Deallocated blocks read as zeroes, and Write Zeroes may deallocate.
    page.dlfeat = 0b1001;
    page.nvmcap = u128::from(geometry.bytes().0).into();
    page.nguid = subsystem.uuid.into_bytes();
    page.eui64 = eui64_of(&page.nguid);
    page
}

/// The namespace's EUI64: made from its UUID, always the same, and marked as assigned locally (RFC 4291, appendix A: the
/// universal/local bit). We own no range of identifiers that are assigned globally.
fn eui64_of(uuid: &[u8; 16]) -> [u8; 8] {
    let mut id: [u8; 8] = std::array::from_fn(|i| uuid[i] ^ uuid[i + 8]);
    id[0] = id[0] & !1 | 2;
    id
}

fn health(subsystem: &Subsystem) -> HealthLog {
    let mut page = HealthLog::zeroed();
    let stats = &subsystem.stats;
    let units = |bytes: u64| u128::from(bytes.div_ceil(512_000)).into();
    page.temperature = 300.into();
    page.spare = 100;
    page.spare_threshold = 10;
    page.units_read = units(stats.read_bytes);
    page.units_written = units(stats.written_bytes);
    page.reads = u128::from(stats.reads).into();
    page.writes = u128::from(stats.writes).into();
    page
}

/// RESCAP.
fn capabilities(subsystem: &Subsystem) -> u8 {
    match subsystem.reserving {
        Reserving::No => 0,
        Reserving::Volatile => reservation::CAPABILITIES,
        Reserving::Persistent => reservation::CAPABILITIES | reservation::PERSISTENT,
    }
}

fn effects(reserving: Reserving) -> EffectsLog {
    let mut page = EffectsLog::zeroed();
    for opcode in [
        admin::GET_LOG_PAGE,
        admin::IDENTIFY,
        admin::ABORT,
        admin::SET_FEATURES,
        admin::GET_FEATURES,
        admin::ASYNC_EVENT,
        admin::KEEP_ALIVE,
    ] {
        page.admin[usize::from(opcode)] = EFFECT_SUPPORTED.into();
    }
    for opcode in [io::FLUSH, io::READ, io::COMPARE] {
        page.io[usize::from(opcode)] = EFFECT_SUPPORTED.into();
    }
    let reservations =
        [io::RESERVATION_REGISTER, io::RESERVATION_REPORT, io::RESERVATION_ACQUIRE, io::RESERVATION_RELEASE];
    for opcode in reservations.into_iter().filter(|_| reserving != Reserving::No) {
        page.io[usize::from(opcode)] = EFFECT_SUPPORTED.into();
    }
    for opcode in [io::WRITE, io::WRITE_ZEROES, io::DATASET_MANAGEMENT] {
        page.io[usize::from(opcode)] = (EFFECT_SUPPORTED | EFFECT_CONTENT).into();
    }
    page
}
