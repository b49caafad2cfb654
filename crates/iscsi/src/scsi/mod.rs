//! The SCSI commands of a disk: what they ask for, what they answer, and what they may not do.

pub mod cdb;
pub mod mode;
mod opcodes;
pub mod pages;
pub mod reserve;

use block::Fault;

/// SCSI status codes (SAM).
pub mod status {
    #![allow(missing_docs, reason = "the names are the standard's")]
    pub const GOOD: u8 = 0x00;
    pub const CHECK_CONDITION: u8 = 0x02;
    pub const RESERVATION_CONFLICT: u8 = 0x18;
    pub const TASK_SET_FULL: u8 = 0x28;
}

/// Bytes of sense data that we send.
pub const SENSE_BYTES: usize = 18;

/// Why a command failed, in fixed format (SPC 4.5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    /// Sense key.
    pub key: u8,
    /// Additional sense code and its qualifier.
    pub code: u16,
    /// The information field.
    pub information: Option<u32>,
    /// The byte of the CDB (or of the parameter list, with the second part true) that is wrong.
    pub field: Option<(u16, FieldIn)>,
}

/// Where a wrong field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldIn {
    /// The CDB.
    Cdb,
    /// The parameter list.
    Parameters,
}

const NOT_READY: u8 = 0x2;
const MEDIUM_ERROR: u8 = 0x3;
const HARDWARE_ERROR: u8 = 0x4;
const ILLEGAL_REQUEST: u8 = 0x5;
const UNIT_ATTENTION: u8 = 0x6;
const DATA_PROTECT: u8 = 0x7;
const ABORTED_COMMAND: u8 = 0xb;
const MISCOMPARE: u8 = 0xe;

impl Sense {
    const fn new(key: u8, code: u16) -> Sense {
        Sense { key, code, information: None, field: None }
    }
    /// Nothing to report.
    pub const NONE: Sense = Sense::new(0, 0);
    /// The command is not known.
    pub const INVALID_OPCODE: Sense = Sense::new(ILLEGAL_REQUEST, 0x2000);
    /// A block lies outside the device.
    pub const LBA_OUT_OF_RANGE: Sense = Sense::new(ILLEGAL_REQUEST, 0x2100);
    /// The logical unit does not exist.
    pub const NO_LUN: Sense = Sense::new(ILLEGAL_REQUEST, 0x2500);
    /// The lengths of the CDB and of the transport's header do not go together.
    pub const INVALID_INFORMATION_UNIT: Sense = Sense::new(ILLEGAL_REQUEST, 0x0e03);
    /// The parameter list has not the length that its contents need.
    pub const LIST_LENGTH: Sense = Sense::new(ILLEGAL_REQUEST, 0x1a00);
    /// Saved mode pages do not exist.
    pub const NO_SAVING: Sense = Sense::new(ILLEGAL_REQUEST, 0x3900);
    /// A reservation is released that is held with another scope or type.
    pub const INVALID_RELEASE: Sense = Sense::new(ILLEGAL_REQUEST, 0x2604);
    /// No more registrations are possible.
    pub const NO_REGISTRATION_SPACE: Sense = Sense::new(ILLEGAL_REQUEST, 0x5504);
    /// A data digest was wrong.
    pub const CRC: Sense = Sense::new(ABORTED_COMMAND, 0x4705);
    /// The logical unit was reset.
    pub const RESET: Sense = Sense::new(UNIT_ATTENTION, 0x2903);
    /// The size has changed.
    pub const CAPACITY_CHANGED: Sense = Sense::new(UNIT_ATTENTION, 0x2a09);
    /// Another initiator cleared the commands.
    pub const COMMANDS_CLEARED: Sense = Sense::new(UNIT_ATTENTION, 0x2f00);
    /// Another initiator preempted the reservation.
    pub const RESERVATIONS_PREEMPTED: Sense = Sense::new(UNIT_ATTENTION, 0x2a03);
    /// Another initiator released the reservation.
    pub const RESERVATIONS_RELEASED: Sense = Sense::new(UNIT_ATTENTION, 0x2a04);
    /// Another initiator removed the registration.
    pub const REGISTRATIONS_PREEMPTED: Sense = Sense::new(UNIT_ATTENTION, 0x2a05);

    /// A field of the CDB is not valid.
    pub const fn invalid_field(byte: u16) -> Sense {
        Sense { field: Some((byte, FieldIn::Cdb)), ..Sense::new(ILLEGAL_REQUEST, 0x2400) }
    }
    /// A field of the parameter list is not valid.
    pub const fn invalid_parameter(byte: u16) -> Sense {
        Sense { field: Some((byte, FieldIn::Parameters)), ..Sense::new(ILLEGAL_REQUEST, 0x2600) }
    }
    /// The data differs from byte `at` on.
    pub fn miscompare(at: usize) -> Sense {
        Sense { information: u32::try_from(at).ok(), ..Sense::new(MISCOMPARE, 0x1d00) }
    }

    /// What a command says of a fault of the disk; `None` for a reservation conflict.
    pub fn of_fault(fault: Fault, is_read: bool) -> Option<Sense> {
        Some(match fault {
            Fault::Medium if is_read => Sense::new(MEDIUM_ERROR, 0x1100),
            Fault::Medium => Sense::new(MEDIUM_ERROR, 0x0c00),
            Fault::NoSpace => Sense::new(DATA_PROTECT, 0x2707),
            Fault::OutOfRange => Sense::LBA_OUT_OF_RANGE,
            Fault::Unsupported => Sense::new(HARDWARE_ERROR, 0x4400),
            Fault::Aborted => Sense::new(ABORTED_COMMAND, 0x0000),
            Fault::Gone => Sense::new(NOT_READY, 0x0500),
            Fault::TimedOut => Sense::new(ABORTED_COMMAND, 0x2e00),
            Fault::Miscompare => Sense::new(MISCOMPARE, 0x1d00),
            Fault::Fenced => return None,
        })
    }

    /// The sense data.
    pub fn to_bytes(self) -> [u8; SENSE_BYTES] {
        let mut bytes = [0; SENSE_BYTES];
        bytes[0] = 0x70;
        bytes[2] = self.key;
        bytes[7] = (SENSE_BYTES - 8) as u8;
        bytes[12..14].copy_from_slice(&self.code.to_be_bytes());
        if let Some(information) = self.information {
            bytes[0] |= 0x80;
            bytes[3..7].copy_from_slice(&information.to_be_bytes());
        }
        if let Some((byte, place)) = self.field {
            bytes[15] = 0x80 | if place == FieldIn::Cdb { 0x40 } else { 0 };
            bytes[16..18].copy_from_slice(&byte.to_be_bytes());
        }
        bytes
    }
}

/// How a command ended that did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// CHECK CONDITION.
    Check(Sense),
    /// RESERVATION CONFLICT.
    Conflict,
    /// TASK SET FULL.
    Full,
}

impl From<Sense> for Failure {
    fn from(sense: Sense) -> Failure {
        Failure::Check(sense)
    }
}

impl Failure {
    /// What a command says of a fault of the disk.
    pub fn of_fault(fault: Fault, is_read: bool) -> Failure {
        Sense::of_fault(fault, is_read).map_or(Failure::Conflict, Failure::Check)
    }
    /// The status code.
    pub fn status(self) -> u8 {
        match self {
            Failure::Check(_) => status::CHECK_CONDITION,
            Failure::Conflict => status::RESERVATION_CONFLICT,
            Failure::Full => status::TASK_SET_FULL,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sense_data_names_the_field() {
        let bytes = Sense::invalid_field(2).to_bytes();
        assert_eq!((bytes[0], bytes[2], bytes[7], bytes[12]), (0x70, 5, 10, 0x24));
        assert_eq!(bytes[15..18], [0xc0, 0, 2]);
        assert_eq!(Sense::invalid_parameter(0x102).to_bytes()[15..18], [0x80, 1, 2]);
        let differs = Sense::miscompare(513).to_bytes();
        assert_eq!((differs[0], differs[2], &differs[3..7]), (0xf0, 0xe, &[0, 0, 2, 1][..]));
    }

    #[test]
    fn every_fault_has_an_answer() {
        for (fault, is_read, code) in [
            (Fault::Medium, true, 0x1100),
            (Fault::Medium, false, 0x0c00),
            (Fault::NoSpace, false, 0x2707),
            (Fault::OutOfRange, true, 0x2100),
            (Fault::Gone, true, 0x0500),
        ] {
            let Failure::Check(sense) = Failure::of_fault(fault, is_read) else { panic!("{fault}") };
            assert_eq!(sense.code, code, "{fault}");
        }
        assert_eq!(Failure::of_fault(Fault::Fenced, false), Failure::Conflict);
    }
}
