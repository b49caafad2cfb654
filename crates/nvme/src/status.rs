//! Status values of completions (Base 3.3.3.2) and how they relate to our faults.

use std::fmt;

use block::Fault;

/// A completion's status without the phase bit: SC in bits 7:0, SCT in 10:8, M in 13, DNR ("do not retry") in 14.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(u16);

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $sct:literal, $sc:literal, $text:literal;)*) => {
        impl Status {
            $($(#[$doc])* pub const $name: Status = Status($sct << 8 | $sc);)*

            /// What the status means, in words.
            pub fn meaning(self) -> &'static str {
                match self.without_flags() {
                    $(Status::$name => $text,)*
                    _ => "unknown status",
                }
            }
        }
    };
}

statuses! {
    // Generic command status, Base figure 93.
    /// The command succeeded.
    SUCCESS = 0, 0x00, "success";
    /// The opcode is not known or not allowed on this queue.
    INVALID_OPCODE = 0, 0x01, "invalid opcode";
    /// A field of the command is not valid.
    INVALID_FIELD = 0, 0x02, "invalid field in the command";
    /// The command identifier is in use.
    ID_CONFLICT = 0, 0x03, "command identifier in use";
    /// The payload could not be transferred.
    DATA_TRANSFER = 0, 0x04, "data transfer error";
    /// The controller failed.
    INTERNAL = 0, 0x06, "internal error";
    /// The command was aborted on request.
    ABORT_REQUESTED = 0, 0x07, "aborted on request";
    /// The command was aborted because its queue ended.
    ABORTED_QUEUE_DELETED = 0, 0x08, "aborted, the queue is gone";
    /// The namespace is not there.
    INVALID_NAMESPACE = 0, 0x0b, "invalid namespace";
    /// The command is not valid in this state.
    SEQUENCE = 0, 0x0c, "command sequence error";
    /// The number of SGL descriptors is not valid.
    SGL_COUNT = 0, 0x0e, "invalid number of SGL descriptors";
    /// The SGL describes too few or too many bytes.
    SGL_LENGTH = 0, 0x0f, "invalid data length in the SGL";
    /// The SGL descriptor's type is not supported here.
    SGL_TYPE = 0, 0x11, "invalid SGL descriptor type";
    /// The offset of an in-capsule descriptor is not valid.
    SGL_OFFSET = 0, 0x16, "invalid SGL offset";
    /// The host identifier has the wrong form.
    HOST_ID_INCONSISTENT = 0, 0x18, "inconsistent host identifier";
    /// The keep-alive timer expired.
    KEEP_ALIVE_EXPIRED = 0, 0x19, "keep-alive timer expired";
    /// The keep-alive timeout is not supported.
    KEEP_ALIVE_INVALID = 0, 0x1a, "invalid keep-alive timeout";
    /// The transport damaged the command or its data; a retry may help.
    TRANSIENT_TRANSPORT = 0, 0x22, "transient transport error";
    /// The range lies outside the namespace.
    LBA_RANGE = 0, 0x80, "LBA out of range";
    /// There is no space for the data.
    CAPACITY_EXCEEDED = 0, 0x81, "capacity exceeded";
    /// The namespace is not ready.
    NAMESPACE_NOT_READY = 0, 0x82, "namespace not ready";
    /// Another host holds a reservation, or the writer is fenced.
    RESERVATION_CONFLICT = 0, 0x83, "reservation conflict";
    // Command specific status, Base figure 95 and 96.
    /// Too many Abort commands.
    ABORT_LIMIT = 1, 0x03, "too many abort commands";
    /// Too many asynchronous event requests.
    EVENT_LIMIT = 1, 0x05, "too many asynchronous event requests";
    /// The log page does not exist.
    INVALID_LOG_PAGE = 1, 0x09, "invalid log page";
    /// The feature can not be saved.
    FEATURE_NOT_SAVEABLE = 1, 0x0d, "feature is not saveable";
    /// The feature can not be changed.
    FEATURE_NOT_CHANGEABLE = 1, 0x0e, "feature is not changeable";
    /// Connect: the record format is not supported.
    CONNECT_FORMAT = 1, 0x80, "incompatible connect format";
    /// Connect: the controller, or the target, has no room.
    CONNECT_BUSY = 1, 0x81, "controller busy";
    /// Connect: a parameter is not valid; the result says which.
    CONNECT_PARAMETERS = 1, 0x82, "invalid connect parameters";
    /// Connect: start again with discovery.
    CONNECT_RESTART_DISCOVERY = 1, 0x83, "restart discovery";
    /// Connect: this host is not allowed.
    CONNECT_HOST = 1, 0x84, "host not allowed";
    /// The command does not belong on this type of queue.
    QUEUE_TYPE = 1, 0x85, "invalid queue type";
    // Media and data integrity, Base figure 98 and NVM figure 7.
    /// The medium could not be written.
    WRITE_FAULT = 2, 0x80, "write fault";
    /// The medium could not be read.
    UNRECOVERED_READ = 2, 0x81, "unrecovered read error";
    /// Compare found a difference.
    COMPARE_FAILURE = 2, 0x85, "compare failure";
    // Path related, Base figure 99.
    /// The path failed inside the controller.
    INTERNAL_PATH = 3, 0x00, "internal path error";
    /// The namespace can not be reached over this path.
    ANA_INACCESSIBLE = 3, 0x02, "namespace inaccessible over this path";
    /// The path failed at the host.
    HOST_PATHING = 3, 0x70, "host pathing error";
}

const DNR: u16 = 1 << 14;
const CODE: u16 = 0x7ff;

impl Status {
    /// A status from its type and code.
    pub const fn new(sct: u8, sc: u8) -> Status {
        Status(((sct as u16 & 7) << 8) | sc as u16)
    }
    /// The status field of a completion (the phase bit is dropped).
    pub const fn from_wire(field: u16) -> Status {
        Status(field >> 1)
    }
    /// The status field of a completion, phase bit zero.
    pub const fn to_wire(self) -> u16 {
        self.0 << 1
    }
    /// Whether the command succeeded.
    pub const fn is_success(self) -> bool {
        self.0 & CODE == 0
    }
    /// The same status, telling the host that a retry is of no use.
    pub const fn do_not_retry(self) -> Status {
        Status(self.0 | DNR)
    }
    /// Whether a retry is of no use.
    pub const fn is_do_not_retry(self) -> bool {
        self.0 & DNR != 0
    }
    /// The status code type.
    pub const fn sct(self) -> u8 {
        (self.0 >> 8) as u8 & 7
    }
    /// The status code.
    pub const fn sc(self) -> u8 {
        self.0 as u8
    }
    /// Type and code only, for comparisons.
    pub const fn without_flags(self) -> Status {
        Status(self.0 & CODE)
    }

    /// What a host is told about a fault.
    pub fn of_fault(fault: Fault, is_read: bool) -> Status {
        match fault {
            Fault::Medium if is_read => Status::UNRECOVERED_READ,
            Fault::Medium => Status::WRITE_FAULT,
            Fault::NoSpace => Status::CAPACITY_EXCEEDED,
            Fault::OutOfRange => Status::LBA_RANGE.do_not_retry(),
            Fault::Unsupported => Status::INVALID_FIELD.do_not_retry(),
            Fault::Aborted => Status::ABORT_REQUESTED,
            Fault::Gone | Fault::TimedOut => Status::INTERNAL,
            Fault::Fenced => Status::RESERVATION_CONFLICT.do_not_retry(),
            Fault::Miscompare => Status::COMPARE_FAILURE,
        }
    }

    /// What a status from a target means for us; `Ok` for success.
    pub fn to_result(self) -> Result<(), Fault> {
        match self.without_flags() {
            Status::SUCCESS => Ok(()),
            Status::UNRECOVERED_READ | Status::WRITE_FAULT | Status::TRANSIENT_TRANSPORT | Status::DATA_TRANSFER => {
                Err(Fault::Medium)
            }
            Status::CAPACITY_EXCEEDED => Err(Fault::NoSpace),
            Status::LBA_RANGE => Err(Fault::OutOfRange),
            Status::INVALID_OPCODE | Status::INVALID_FIELD | Status::SGL_LENGTH | Status::SGL_TYPE => {
                Err(Fault::Unsupported)
            }
            Status::ABORT_REQUESTED => Err(Fault::Aborted),
            Status::RESERVATION_CONFLICT => Err(Fault::Fenced),
            Status::COMPARE_FAILURE => Err(Fault::Miscompare),
            other if other.sct() == 2 => Err(Fault::Medium),
            _ => Err(Fault::Gone),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:x}/{:02x}h)", self.meaning(), self.sct(), self.sc())
    }
}
impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Status({self}{})", if self.is_do_not_retry() { ", do not retry" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_keeps_type_code_and_retry() {
        let s = Status::LBA_RANGE.do_not_retry();
        assert_eq!(s.to_wire(), 0x4080 << 1);
        assert_eq!(Status::from_wire(s.to_wire() | 1), s);
        assert!(s.is_do_not_retry() && !s.is_success());
        assert_eq!((Status::COMPARE_FAILURE.sct(), Status::COMPARE_FAILURE.sc()), (2, 0x85));
        assert_eq!(format!("{}", Status::LBA_RANGE), "LBA out of range (0/80h)");
    }

    #[test]
    fn faults_survive_the_way_over_the_wire() {
        use Fault::*;
        for fault in [Medium, NoSpace, OutOfRange, Unsupported, Aborted, Gone, Fenced, Miscompare] {
            for is_read in [false, true] {
                assert_eq!(Status::of_fault(fault, is_read).to_result(), Err(fault));
            }
        }
        assert_eq!(Status::SUCCESS.to_result(), Ok(()));
        assert_eq!(Status::of_fault(TimedOut, true).to_result(), Err(Gone));
    }
}
