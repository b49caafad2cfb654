//! Commands as the host builds them. Command identifiers are put in by the queue.

use block::{BlockRange, Buf, BufMut, Durability, Reserve};
use bytemuck::Zeroable;

use crate::command::{DatasetRange, FLAGS_SGL, Sqe, admin, feature, io};
use crate::fabrics::{self, ConnectData};
use crate::identify::IDENTIFY_BYTES;
use crate::log::RETAIN_EVENT;
use crate::nqn::Nqn;
use crate::reservation;
use crate::wire::{Le16, Le32, Le64};

/// The data of a command.
#[derive(Clone, Debug)]
pub enum Payload {
    /// None.
    None,
    /// From us: inside the capsule when it fits, else when the target asks for it.
    Out(Buf),
    /// So many bytes from the target.
    In(usize),
}

/// A command that is ready for a queue.
#[derive(Clone, Debug)]
pub struct Command {
    /// The submission entry; CID and SGL are put in by the queue.
    pub sqe: Sqe,
    /// The data.
    pub payload: Payload,
}

fn sqe(opcode: u8, nsid: u32) -> Sqe {
    Sqe { opcode, flags: FLAGS_SGL, nsid: Le32::new(nsid), ..Sqe::default() }
}

/// The entry of a command on a range of at most 65536 blocks.
fn on_range(opcode: u8, nsid: u32, range: BlockRange) -> Sqe {
    let mut sqe = sqe(opcode, nsid);
    sqe.set_slba(range.start.0);
    let count = u16::try_from(range.len.0 - 1).expect("the range was split to fit a command");
    sqe.cdw12 = Le32::new(u32::from(count));
    sqe
}

fn fua(durability: Durability) -> u32 {
    match durability {
        Durability::Volatile => 0,
        Durability::Durable => io::FUA,
    }
}

/// Read (NVM 3.2.4). `bytes` is the length of the range.
pub fn read(nsid: u32, range: BlockRange, bytes: usize) -> Command {
    Command { sqe: on_range(io::READ, nsid, range), payload: Payload::In(bytes) }
}

/// Write (NVM 3.2.6).
pub fn write(nsid: u32, range: BlockRange, data: Buf, durability: Durability) -> Command {
    let mut sqe = on_range(io::WRITE, nsid, range);
    sqe.cdw12 = Le32::new(sqe.cdw12.get() | fua(durability));
    Command { sqe, payload: Payload::Out(data) }
}

/// Write Zeroes (NVM 3.2.8).
pub fn write_zeroes(nsid: u32, range: BlockRange, may_unmap: bool, durability: Durability) -> Command {
    let mut sqe = on_range(io::WRITE_ZEROES, nsid, range);
    let deallocate = if may_unmap { io::DEALLOCATE } else { 0 };
    sqe.cdw12 = Le32::new(sqe.cdw12.get() | deallocate | fua(durability));
    Command { sqe, payload: Payload::None }
}

/// Dataset Management with one range to deallocate (NVM 3.2.3); at most `u32::MAX` blocks.
pub fn deallocate(nsid: u32, range: BlockRange) -> Command {
    let mut sqe = sqe(io::DATASET_MANAGEMENT, nsid);
    sqe.cdw10 = Le32::new(0);
    sqe.cdw11 = Le32::new(io::ATTRIBUTE_DEALLOCATE);
    let blocks = u32::try_from(range.len.0).expect("the range was split to fit a command");
    let ranges = DatasetRange { attributes: Le32::new(0), blocks: Le32::new(blocks), slba: Le64::new(range.start.0) };
    Command { sqe, payload: Payload::Out(Buf::copy_of(bytemuck::bytes_of(&ranges))) }
}

/// Flush (NVM 3.2, Base 7.1).
pub fn flush(nsid: u32) -> Command {
    Command { sqe: sqe(io::FLUSH, nsid), payload: Payload::None }
}

/// Reservation Register, Acquire or Release (Base 7.2, 7.3, 7.4).
pub fn reserve(nsid: u32, ask: Reserve) -> Command {
    let (opcode, cdw10, data) = reservation::encode(ask);
    let mut sqe = sqe(opcode, nsid);
    sqe.cdw10 = Le32::new(cdw10);
    Command { sqe, payload: Payload::Out(Buf::copy_of(&data)) }
}

/// Reservation Report (Base 7.5) in its extended form; `bytes` is a multiple of four.
pub fn reservation_report(nsid: u32, bytes: usize) -> Command {
    let mut sqe = sqe(io::RESERVATION_REPORT, nsid);
    sqe.cdw10 = Le32::new(u32::try_from(bytes / 4 - 1).expect("a report is short"));
    sqe.cdw11 = Le32::new(reservation::EXTENDED);
    Command { sqe, payload: Payload::In(bytes) }
}

/// Identify (Base 5.17).
pub fn identify(cns: u8, nsid: u32) -> Command {
    let mut sqe = sqe(admin::IDENTIFY, nsid);
    sqe.cdw10 = Le32::new(u32::from(cns));
    Command { sqe, payload: Payload::In(IDENTIFY_BYTES) }
}

/// Get Log Page (Base 5.16) of `bytes` (a multiple of four) from `offset`.
pub fn log_page(page: u8, offset: u64, bytes: usize) -> Command {
    let mut sqe = sqe(admin::GET_LOG_PAGE, 0);
    let dwords = u32::try_from(bytes / 4 - 1).expect("a log page is short");
    sqe.cdw10 = Le32::new(u32::from(page) | RETAIN_EVENT | dwords << 16);
    sqe.cdw11 = Le32::new(dwords >> 16);
    sqe.cdw12 = Le32::new(offset as u32);
    sqe.cdw13 = Le32::new((offset >> 32) as u32);
    Command { sqe, payload: Payload::In(bytes) }
}

/// Set Features: Number of Queues (Base 5.27.1.5). The answer's DW0 has the granted numbers, 0's based.
pub fn set_queue_count(queues: u16) -> Command {
    let mut sqe = sqe(admin::SET_FEATURES, 0);
    sqe.cdw10 = Le32::new(u32::from(feature::NUMBER_OF_QUEUES));
    let count = u32::from(queues - 1);
    sqe.cdw11 = Le32::new(count | count << 16);
    Command { sqe, payload: Payload::None }
}

/// Keep Alive (Base 5.18).
pub fn keep_alive() -> Command {
    Command { sqe: sqe(admin::KEEP_ALIVE, 0), payload: Payload::None }
}

/// Property Get (Base 6.5) of four or eight bytes.
pub fn property_get(offset: u32, eight: bool) -> Command {
    Command { sqe: fabrics::property_get(0, offset, eight), payload: Payload::None }
}

/// Property Set (Base 6.6).
pub fn property_set(offset: u32, value: u32) -> Command {
    Command { sqe: fabrics::property_set(0, offset, value), payload: Payload::None }
}

/// Who connects to what.
#[derive(Clone, Debug)]
pub struct Identity {
    /// HOSTNQN.
    pub host_nqn: Nqn,
    /// HOSTID; the same for all connections of a host name.
    pub host_id: [u8; 16],
    /// SUBNQN.
    pub subsystem: Nqn,
}

/// Connect (Base 6.3). `entries` of the queue (not 0's based); `controller` is [`fabrics::DYNAMIC_CONTROLLER`] on the
/// admin queue and what that one answered on the others.
pub fn connect(identity: &Identity, queue: u16, entries: u16, controller: u16, keep_alive_ms: u32) -> Command {
    let mut data = ConnectData::zeroed();
    data.host_id = identity.host_id;
    data.controller_id = Le16::new(controller);
    data.subsystem_nqn = identity.subsystem.to_field();
    data.host_nqn = identity.host_nqn.to_field();
    // We never have more commands in flight than the queue has entries, so that an I/O queue needs no flow control, and
    // a read that succeeded needs no response capsule after its data (TCP 3.3.2.1).
    let attributes = if queue > 0 { fabrics::DISABLE_SQ_FLOW_CONTROL } else { 0 };
    let sqe = fabrics::connect(0, queue, entries - 1, attributes, keep_alive_ms);
    Command { sqe, payload: Payload::Out(BufMut::copy_of(bytemuck::bytes_of(&data)).freeze()) }
}
