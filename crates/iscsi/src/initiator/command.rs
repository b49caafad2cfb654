//! The SCSI commands of a disk as an initiator builds them, and what their answers mean.

use block::{BlockRange, Buf, Durability, Fault};

use crate::scsi::status;
use crate::wire::{get16, get32, get64, put16, put32, put64};

/// The data of a command.
#[derive(Clone, Debug)]
pub enum Payload {
    /// None.
    None,
    /// To the target.
    Out(Buf),
    /// At most so many bytes from the target.
    In(usize),
}

/// A command that is ready for a session.
#[derive(Clone, Debug)]
pub struct Command {
    /// The command descriptor block.
    pub cdb: [u8; 16],
    /// The data.
    pub payload: Payload,
}

fn short(bytes: &[u8], payload: Payload) -> Command {
    let mut cdb = [0; 16];
    cdb[..bytes.len()].copy_from_slice(bytes);
    Command { cdb, payload }
}

fn on_range(opcode: u8, flags: u8, range: BlockRange, payload: Payload) -> Command {
    let mut command = short(&[opcode, flags], payload);
    put64(&mut command.cdb, 2, range.start.0);
    put32(&mut command.cdb, 10, u32::try_from(range.len.0).expect("the range was split to fit a command"));
    command
}

fn fua(durability: Durability) -> u8 {
    match durability {
        Durability::Volatile => 0,
        Durability::Durable => 8,
    }
}

/// TEST UNIT READY.
pub fn ready() -> Command {
    short(&[0], Payload::None)
}
/// INQUIRY: the standard data, or a page of the vital product data.
pub fn inquiry(page: Option<u8>) -> Command {
    let bytes: u8 = 252;
    short(&[0x12, page.is_some().into(), page.unwrap_or(0), 0, bytes, 0], Payload::In(bytes.into()))
}
/// READ CAPACITY (16).
pub fn capacity() -> Command {
    let mut command = short(&[0x9e, 0x10], Payload::In(32));
    command.cdb[13] = 32;
    command
}
/// MODE SENSE (6): the caching page, without block descriptors.
pub fn caching() -> Command {
    short(&[0x1a, 8, 8, 0, 192, 0], Payload::In(192))
}
/// READ (16). `bytes` is the length of the range.
pub fn read(range: BlockRange, bytes: usize) -> Command {
    on_range(0x88, 0, range, Payload::In(bytes))
}
/// WRITE (16).
pub fn write(range: BlockRange, data: Buf, durability: Durability) -> Command {
    on_range(0x8a, fua(durability), range, Payload::Out(data))
}
/// SYNCHRONIZE CACHE (10) of everything.
pub fn flush() -> Command {
    short(&[0x35], Payload::None)
}
/// WRITE SAME (16) of one block of zeroes; with `unmap` the space may be given back. `block_bytes` is the size of a block.
pub fn zero(range: BlockRange, block_bytes: usize, unmap: bool) -> Command {
    on_range(0x93, if unmap { 8 } else { 0 }, range, Payload::Out(Buf::zeroes(block_bytes)))
}
/// PERSISTENT RESERVE IN: keys (0), reservation (1), capabilities (2), full status (3).
pub fn reservations(action: u8, bytes: u16) -> Command {
    let mut command = short(&[0x5e, action], Payload::In(bytes.into()));
    put16(&mut command.cdb, 7, bytes);
    command
}
/// PERSISTENT RESERVE OUT.
pub fn reserve(action: u8, kind: u8, key: u64, new_key: u64, persist: bool) -> Command {
    let mut list = [0; 24];
    put64(&mut list, 0, key);
    put64(&mut list, 8, new_key);
    list[20] = persist.into();
    let mut command = short(&[0x5f, action, kind], Payload::Out(Buf::copy_of(&list)));
    command.cdb[8] = 24;
    command
}

/// What an answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is done, or failed.
    Done(Result<(), Fault>),
    /// The unit could not take it at this moment, or wanted to tell something first. Nothing was done.
    Later,
}

/// What status and sense data say.
pub fn verdict(code: u8, sense: &[u8]) -> Verdict {
    const BUSY: u8 = 0x08;
    const ACA_ACTIVE: u8 = 0x30;
    const TASK_ABORTED: u8 = 0x40;
    match code {
        status::GOOD => Verdict::Done(Ok(())),
        status::CHECK_CONDITION => checked(sense),
        status::RESERVATION_CONFLICT => Verdict::Done(Err(Fault::Fenced)),
        BUSY | status::TASK_SET_FULL | ACA_ACTIVE | TASK_ABORTED => Verdict::Later,
        _ => Verdict::Done(Err(Fault::Medium)),
    }
}

/// CHECK CONDITION (SPC 4.5).
fn checked(sense: &[u8]) -> Verdict {
    let byte = |at: usize| sense.get(at).copied().unwrap_or(0);
    let (key, code) = match byte(0) & 0x7f {
        0x70 | 0x71 => (byte(2) & 0xf, get16(sense, 12)),
        0x72 | 0x73 => (byte(1) & 0xf, get16(sense, 2)),
        _ => return Verdict::Done(Err(Fault::Medium)),
    };
    let fault = match (key, code) {
        // Nothing to report, or it was put right.
        (0 | 1, _) => return Verdict::Done(Ok(())),
        // Becoming ready, a unit attention, an aborted command: nothing was done.
        (0x2, code) if code >> 8 == 4 => return Verdict::Later,
        (0xb, 0x2e00) => Fault::TimedOut,
        (0x6 | 0xb, _) => return Verdict::Later,
        (0x2, _) => Fault::Gone,
        (0x5, 0x2100) => Fault::OutOfRange,
        (0x5, _) => Fault::Unsupported,
        (0x7, 0x2707) => Fault::NoSpace,
        (0x7, _) => Fault::Unsupported,
        (0xe, _) => Fault::Miscompare,
        _ => Fault::Medium,
    };
    Verdict::Done(Err(fault))
}

/// What READ CAPACITY (16) says: the number of blocks, their size in bytes, and whether unmapped blocks read as zeroes
/// (LBPRZ). `None` when the data is too short or makes no sense.
pub fn parse_capacity(data: &[u8]) -> Option<(u64, u32, bool)> {
    if data.len() < 16 {
        return None;
    }
    Some((get64(data, 0).checked_add(1)?, get32(data, 8), data[14] & 0xc0 == 0xc0))
}

/// What MODE SENSE of the caching page says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caching {
    /// WCE: what was written may be lost until it is synchronized.
    pub volatile: bool,
    /// DPOFUA: a write can be asked to be on the medium when it is answered.
    pub fua: bool,
    /// WP: it can not be written.
    pub protected: bool,
}

/// Reads MODE SENSE (6) data. What is not there is as in [`Caching::default`].
pub fn parse_caching(data: &[u8]) -> Caching {
    let device = data.get(2).copied().unwrap_or(0);
    let page = 4 + usize::from(data.get(3).copied().unwrap_or(0));
    let is_caching = data.get(page).is_some_and(|code| code & 0x3f == 8);
    let flags = data.get(page + 2).copied().unwrap_or(0);
    Caching { volatile: is_caching && flags & 4 != 0, fua: device & 0x10 != 0, protected: device & 0x80 != 0 }
}

/// A designation descriptor of the device identification page that names the logical unit: its kind, and its value.
pub type Designator<'a> = (u8, &'a [u8]);

/// The descriptors of page 83h that name the logical unit itself.
pub fn parse_identification(page: &[u8]) -> Vec<Designator<'_>> {
    let len = usize::from(get16(page, 2));
    let mut rest = page.get(4..).unwrap_or_default();
    rest = &rest[..len.min(rest.len())];
    let mut found = Vec::new();
    while let Some((head, tail)) = rest.split_at_checked(4) {
        let len = usize::from(head[3]);
        let Some((value, next)) = tail.split_at_checked(len) else { break };
        if head[1] & 0x30 == 0 {
            found.push((head[1] & 0xf, value));
        }
        rest = next;
    }
    found
}

/// What the block limits page (B0h) says: the most blocks in one transfer, and in one WRITE SAME; 0: nothing is said.
pub fn parse_limits(page: &[u8]) -> (u32, u64) {
    let same = if page.len() >= 44 { get64(page, 36) } else { 0 };
    (get32(page, 8), same)
}
