//! iSCSI without I/O: the wire formats, the text negotiation, the SCSI commands of a disk, and the machines of
//! target and initiator.
//!
//! A command goes through three forms: the raw bytes of the wire (`pdu`, `scsi::cdb`), a parsed enum, and a request of
//! `block`. Nothing here trusts a peer: parsing never panics, and a peer's mistake becomes a login status, a SCSI status
//! with sense data, a Reject, or the end of the connection.
//!
//! Section numbers without a name refer to RFC 7143; "SPC" is the SCSI Primary Commands - 4 standard, "SBC" the SCSI
//! Block Commands - 3 standard.
#![forbid(unsafe_code)]

pub mod chap;
pub mod digest;
pub mod initiator;
pub mod name;
pub mod params;
pub mod pdu;
pub mod scsi;
pub mod target;
pub mod text;
pub mod wire;

pub use name::IscsiName;
