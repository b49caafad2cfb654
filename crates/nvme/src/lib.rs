//! NVMe over TCP without I/O: the wire formats that both sides share, the target machine and the initiator machine.
//!
//! A structure goes through three forms: the raw bytes of the wire (`pdu`, `command`, `identify`, ...: plain structures
//! whose layout is checked at compile time), a parsed enum, and a request of `block`. Nothing here trusts a peer: parsing
//! never panics, and a peer's mistake becomes a protocol status or a termination request.
//!
//! Section numbers refer to the NVM Express Base Specification 2.0 ("Base"), the NVM Command Set Specification 1.0
//! ("NVM"), and the NVM Express TCP Transport Specification 1.0 ("TCP").
#![forbid(unsafe_code)]

pub mod command;
pub mod completion;
pub mod digest;
pub mod fabrics;
pub mod identify;
pub mod initiator;
pub mod log;
pub mod nqn;
pub mod pdu;
pub mod reservation;
pub mod status;
pub mod target;
pub mod wire;

pub use completion::Cqe;
pub use nqn::Nqn;
pub use status::Status;
