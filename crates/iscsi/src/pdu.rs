//! Protocol data units (11): the 48 bytes of a basic header segment, parsed and built.

use crate::wire::{get16, get24, get32, get64, put16, put24, put32, put64};

/// Bytes of a basic header segment.
pub const BHS_BYTES: usize = 48;
/// The tag that means "none" (initiator task tag, target transfer tag).
pub const NO_TAG: u32 = u32::MAX;

/// A basic header segment as it lies on the wire.
pub type Bhs = [u8; BHS_BYTES];

/// Operation codes (11.2.1.2).
pub mod opcode {
    #![allow(missing_docs, reason = "the names are the standard's")]
    pub const NOP_OUT: u8 = 0x00;
    pub const COMMAND: u8 = 0x01;
    pub const TASK: u8 = 0x02;
    pub const LOGIN: u8 = 0x03;
    pub const TEXT: u8 = 0x04;
    pub const DATA_OUT: u8 = 0x05;
    pub const LOGOUT: u8 = 0x06;
    pub const SNACK: u8 = 0x10;
    pub const NOP_IN: u8 = 0x20;
    pub const RESPONSE: u8 = 0x21;
    pub const TASK_RESPONSE: u8 = 0x22;
    pub const LOGIN_RESPONSE: u8 = 0x23;
    pub const TEXT_RESPONSE: u8 = 0x24;
    pub const DATA_IN: u8 = 0x25;
    pub const LOGOUT_RESPONSE: u8 = 0x26;
    pub const R2T: u8 = 0x31;
    pub const ASYNC: u8 = 0x32;
    pub const REJECT: u8 = 0x3f;
}

/// The bit of byte 0 that says that a PDU is for immediate delivery.
pub const IMMEDIATE: u8 = 0x40;
/// The bit of byte 1 that ends a sequence, or asks for the transit to the next login stage.
pub const FINAL: u8 = 0x80;
/// The bit of byte 1 that says that the text goes on in the next PDU.
pub const CONTINUE: u8 = 0x40;

/// What the sequence numbers of an initiator's PDU say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Whether it is for immediate delivery: its number is not used up.
    pub immediate: bool,
    /// CmdSN.
    pub cmd_sn: u32,
}

/// A SCSI Command (11.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// Its place among the commands.
    pub order: Order,
    /// No unsolicited data follows in Data-Out PDUs.
    pub is_final: bool,
    /// R: data to the initiator is expected.
    pub reads: bool,
    /// W: data from the initiator is expected.
    pub writes: bool,
    /// The logical unit, as on the wire.
    pub lun: u64,
    /// Initiator task tag.
    pub itt: u32,
    /// Expected data transfer length in bytes.
    pub expected: u32,
    /// The command descriptor block, its first 16 bytes.
    pub cdb: [u8; 16],
}

/// Task management functions (11.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// Abort one task.
    AbortTask,
    /// Abort all tasks of this session.
    AbortTaskSet,
    /// Clear an auto contingent allegiance condition.
    ClearAca,
    /// Abort the tasks of all sessions.
    ClearTaskSet,
    /// Reset the logical unit.
    LunReset,
    /// Reset all logical units of the target.
    WarmReset,
    /// The same, and end all sessions.
    ColdReset,
    /// Move a task to this connection.
    Reassign,
    /// None of these.
    Unknown,
}

/// A task management request (11.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskRequest {
    /// Its place among the commands.
    pub order: Order,
    /// What to do.
    pub function: Function,
    /// The logical unit, as on the wire.
    pub lun: u64,
    /// Initiator task tag.
    pub itt: u32,
    /// The task that is meant.
    pub referenced: u32,
    /// CmdSN of the task that is meant.
    pub ref_cmd_sn: u32,
}

/// A login request (11.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginRequest {
    /// T: the initiator is ready for the next stage.
    pub transit: bool,
    /// C: the text goes on in the next request.
    pub more: bool,
    /// Current stage.
    pub current: u8,
    /// Next stage; meaningful with `transit`.
    pub next: u8,
    /// The lowest version that the initiator speaks.
    pub version_min: u8,
    /// The initiator's part of the session's identity.
    pub isid: [u8; 6],
    /// The target's part; 0 for a new session.
    pub tsih: u16,
    /// Initiator task tag.
    pub itt: u32,
    /// Connection identifier.
    pub cid: u16,
    /// The first CmdSN.
    pub cmd_sn: u32,
}

/// A text request (11.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextRequest {
    /// Its place among the commands.
    pub order: Order,
    /// C: the text goes on in the next request.
    pub more: bool,
    /// Initiator task tag.
    pub itt: u32,
    /// The tag of the answer that this asks to go on with.
    pub ttt: u32,
}

/// A SCSI Data-Out (11.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataOut {
    /// The last of its sequence.
    pub is_final: bool,
    /// Initiator task tag.
    pub itt: u32,
    /// The R2T that asked for it, [`NO_TAG`] for unsolicited data.
    pub ttt: u32,
    /// Its number within the sequence.
    pub data_sn: u32,
    /// Where the data belongs in the command's buffer.
    pub offset: u32,
}

/// What an initiator sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// NOP-Out (11.18).
    NopOut {
        /// Its place among the commands.
        order: Order,
        /// Initiator task tag; [`NO_TAG`] when it answers a NOP-In.
        itt: u32,
    },
    /// SCSI Command.
    Command(Command),
    /// Task management request.
    Task(TaskRequest),
    /// Login request.
    Login(LoginRequest),
    /// Text request.
    Text(TextRequest),
    /// SCSI Data-Out.
    DataOut(DataOut),
    /// Logout request (11.14).
    Logout {
        /// Its place among the commands.
        order: Order,
        /// 0: close the session, 1: close a connection, 2: remove a connection for recovery.
        reason: u8,
        /// Initiator task tag.
        itt: u32,
        /// The connection that is meant.
        cid: u16,
    },
    /// SNACK (11.16): retransmission, which only higher error recovery levels have.
    Snack,
    /// An operation code that no initiator sends.
    Unknown,
}

/// The bytes that follow a basic header segment, by its own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// Additional header segments.
    pub extra: usize,
    /// Data, without padding.
    pub data: usize,
}

impl Lengths {
    /// The lengths in a header.
    pub fn of(bhs: &Bhs) -> Lengths {
        Lengths { extra: usize::from(bhs[4]) * 4, data: get24(bhs, 5) as usize }
    }
}

/// The padding after so many bytes of data.
pub fn padding(len: usize) -> usize {
    len.wrapping_neg() % 4
}

impl Request {
    /// Parses a header.
    pub fn parse(bhs: &Bhs) -> Request {
        let order = Order { immediate: bhs[0] & IMMEDIATE != 0, cmd_sn: get32(bhs, 24) };
        let (flags, itt) = (bhs[1], get32(bhs, 16));
        let is_final = flags & FINAL != 0;
        let more = flags & CONTINUE != 0;
        match bhs[0] & 0x3f {
            opcode::NOP_OUT => Request::NopOut { order, itt },
            opcode::COMMAND => {
                let mut cdb = [0; 16];
                cdb.copy_from_slice(&bhs[32..]);
                let (reads, writes) = (flags & 0x40 != 0, flags & 0x20 != 0);
                let (lun, expected) = (get64(bhs, 8), get32(bhs, 20));
                Request::Command(Command { order, is_final, reads, writes, lun, itt, expected, cdb })
            }
            opcode::TASK => Request::Task(TaskRequest {
                order,
                function: Function::of(flags & 0x7f),
                lun: get64(bhs, 8),
                itt,
                referenced: get32(bhs, 20),
                ref_cmd_sn: get32(bhs, 32),
            }),
            opcode::LOGIN => {
                let mut isid = [0; 6];
                isid.copy_from_slice(&bhs[8..14]);
                Request::Login(LoginRequest {
                    transit: is_final,
                    more,
                    current: flags >> 2 & 3,
                    next: flags & 3,
                    version_min: bhs[3],
                    isid,
                    tsih: get16(bhs, 14),
                    itt,
                    cid: get16(bhs, 20),
                    cmd_sn: order.cmd_sn,
                })
            }
            opcode::TEXT => Request::Text(TextRequest { order, more, itt, ttt: get32(bhs, 20) }),
            opcode::DATA_OUT => Request::DataOut(DataOut {
                is_final,
                itt,
                ttt: get32(bhs, 20),
                data_sn: get32(bhs, 36),
                offset: get32(bhs, 40),
            }),
            opcode::LOGOUT => Request::Logout { order, reason: flags & 0x7f, itt, cid: get16(bhs, 20) },
            opcode::SNACK => Request::Snack,
            _ => Request::Unknown,
        }
    }
}

impl Function {
    fn of(number: u8) -> Function {
        match number {
            1 => Function::AbortTask,
            2 => Function::AbortTaskSet,
            3 => Function::ClearAca,
            4 => Function::ClearTaskSet,
            5 => Function::LunReset,
            6 => Function::WarmReset,
            7 => Function::ColdReset,
            8 => Function::Reassign,
            _ => Function::Unknown,
        }
    }
}

/// Answers to task management requests (11.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TaskAnswer {
    /// Done.
    Complete = 0,
    /// There is no such task.
    NoTask = 1,
    /// There is no such logical unit.
    NoLun = 2,
    /// Tasks cannot be moved.
    NoReassign = 4,
    /// This function is not known here.
    Unsupported = 5,
}

/// Why a PDU is rejected (11.17.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RejectReason {
    /// A data digest was wrong.
    DataDigest = 2,
    /// SNACK is not for this recovery level.
    Snack = 3,
    /// It breaks the protocol.
    Protocol = 4,
    /// The command is not known.
    Unsupported = 5,
    /// Too many immediate commands.
    TooManyImmediate = 6,
    /// A task with this tag is in progress.
    InProgress = 7,
}

/// How a login request ended (11.13.5): class and detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum LoginStatus {
    /// All is well.
    Success = 0,
    /// The initiator did not do as the protocol says.
    InitiatorError = 0x0200,
    /// The initiator is not who it says, or did not say who it is.
    AuthenticationFailed = 0x0201,
    /// There is no such target.
    NotFound = 0x0203,
    /// It does not speak our version.
    Version = 0x0205,
    /// A session has one connection here.
    TooManyConnections = 0x0206,
    /// A key that must be there is not.
    MissingParameter = 0x0207,
    /// This session type is not known.
    SessionType = 0x0209,
    /// There is no session with this TSIH.
    NoSession = 0x020a,
    /// The target cannot take more.
    OutOfResources = 0x0302,
}

/// Builds a header of `opcode` with `flags` and an initiator task tag.
pub fn header(opcode: u8, flags: u8, itt: u32) -> Bhs {
    let mut bhs = [0; BHS_BYTES];
    bhs[0] = opcode;
    bhs[1] = flags;
    put32(&mut bhs, 16, itt);
    bhs
}

/// A residual: how far the transfer that a command wanted and the one that the initiator expected differ (11.4.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Residual {
    /// The bit of byte 1: 4 overflow, 2 underflow, 0 none.
    pub flag: u8,
    /// The difference in bytes.
    pub count: u32,
}

impl Residual {
    /// Of a command that transfers `actual` bytes where `expected` were expected.
    pub fn of(expected: u32, actual: u64) -> Residual {
        let expected = u64::from(expected);
        let count = actual.abs_diff(expected).min(u64::from(u32::MAX)) as u32;
        let flag = match actual.cmp(&expected) {
            std::cmp::Ordering::Greater => 4,
            std::cmp::Ordering::Less => 2,
            std::cmp::Ordering::Equal => 0,
        };
        Residual { flag, count }
    }
}

/// A SCSI Response (11.4), without sequence numbers.
pub fn response(itt: u32, status: u8, residual: Residual, exp_data_sn: u32) -> Bhs {
    let mut bhs = header(opcode::RESPONSE, FINAL | residual.flag, itt);
    bhs[3] = status;
    put32(&mut bhs, 36, exp_data_sn);
    put32(&mut bhs, 44, residual.count);
    bhs
}

/// A SCSI Data-In (11.7), without sequence numbers.
pub fn data_in(itt: u32, is_final: bool, data_sn: u32, offset: u32) -> Bhs {
    let mut bhs = header(opcode::DATA_IN, if is_final { FINAL } else { 0 }, itt);
    put32(&mut bhs, 20, NO_TAG);
    put32(&mut bhs, 36, data_sn);
    put32(&mut bhs, 40, offset);
    bhs
}

/// Lets the last Data-In of a command carry its status GOOD (11.7.1, S bit).
pub fn with_status(bhs: &mut Bhs, residual: Residual) {
    bhs[1] |= FINAL | 1 | residual.flag;
    put32(bhs, 44, residual.count);
}

/// A Ready To Transfer (11.8), without sequence numbers.
pub fn r2t(itt: u32, ttt: u32, r2t_sn: u32, offset: u32, len: u32) -> Bhs {
    let mut bhs = header(opcode::R2T, FINAL, itt);
    put32(&mut bhs, 20, ttt);
    put32(&mut bhs, 36, r2t_sn);
    put32(&mut bhs, 40, offset);
    put32(&mut bhs, 44, len);
    bhs
}

/// Sets the length of the data.
pub fn set_data_len(bhs: &mut Bhs, len: usize) {
    put24(bhs, 5, u32::try_from(len).unwrap_or(u32::MAX));
}

/// Sets StatSN, ExpCmdSN and MaxCmdSN.
pub fn set_numbers(bhs: &mut Bhs, stat_sn: Option<u32>, exp_cmd_sn: u32, max_cmd_sn: u32) {
    if let Some(stat_sn) = stat_sn {
        put32(bhs, 24, stat_sn);
    }
    put32(bhs, 28, exp_cmd_sn);
    put32(bhs, 32, max_cmd_sn);
}

/// A login response (11.13), without sequence numbers.
pub fn login_response(request: &LoginRequest, flags: u8, tsih: u16, status: LoginStatus) -> Bhs {
    let mut bhs = header(opcode::LOGIN_RESPONSE, flags, request.itt);
    bhs[8..14].copy_from_slice(&request.isid);
    put16(&mut bhs, 14, tsih);
    put16(&mut bhs, 36, status as u16);
    bhs
}

/// An asynchronous message (11.9) that the target ends all connections of the session; the initiator may come back after
/// `wait` seconds.
pub fn async_drop(wait: u16) -> Bhs {
    let mut bhs = header(opcode::ASYNC, FINAL, NO_TAG);
    put64(&mut bhs, 8, 0);
    // AsyncEvent 3: drop all connections of this session; Time2Wait in Parameter2, Time2Retain in Parameter3.
    bhs[36] = 3;
    put16(&mut bhs, 40, wait);
    bhs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_parsed() {
        let mut bhs = header(opcode::COMMAND | IMMEDIATE, FINAL | 0x20 | 1, 7);
        put64(&mut bhs, 8, 0x0001_0000_0000_0000);
        put32(&mut bhs, 20, 4096);
        put32(&mut bhs, 24, 99);
        bhs[32] = 0x2a;
        set_data_len(&mut bhs, 5);
        bhs[4] = 2;
        assert_eq!(Lengths::of(&bhs), Lengths { extra: 8, data: 5 });
        let Request::Command(c) = Request::parse(&bhs) else { panic!("a command") };
        assert_eq!((c.order, c.itt, c.expected), (Order { immediate: true, cmd_sn: 99 }, 7, 4096));
        assert_eq!((c.is_final, c.reads, c.writes, c.cdb[0], c.lun), (true, false, true, 0x2a, 1 << 48));
    }

    #[test]
    fn residuals() {
        assert_eq!(Residual::of(512, 512), Residual { flag: 0, count: 0 });
        assert_eq!(Residual::of(512, 1024), Residual { flag: 4, count: 512 });
        assert_eq!(Residual::of(1024, 512), Residual { flag: 2, count: 512 });
        assert_eq!([0, 1, 2, 3, 4].map(padding), [0, 3, 2, 1, 0]);
    }

    #[test]
    fn every_header_can_be_parsed() {
        for opcode in 0..=255 {
            for fill in [0, 0x5a, 0xff] {
                let mut bhs = [fill; BHS_BYTES];
                bhs[0] = opcode;
                Request::parse(&bhs);
                Lengths::of(&bhs);
            }
        }
    }
}
