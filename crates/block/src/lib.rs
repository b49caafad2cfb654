//! The nouns that every part of Mayastor shares: block ranges, buffers, requests, outcomes, tickets, limits.
//!
//! Nothing here does I/O, reads a clock or owns a thread.
#![forbid(unsafe_code)]

mod buf;
mod fault;
pub mod limits;
pub mod link;
mod memory;
pub mod probe;
mod request;
mod reservation;
mod ticket;
mod units;

pub use buf::{Buf, BufMut, Data, PAGE_SIZE};
pub use fault::Fault;
pub use memory::LargePage;
pub use request::{Durability, Features, Geometry, Outcome, Request};
pub use reservation::{Held, HostId, Persist, Registrant, ReservationKind, Reservations, Reserve};
pub use ticket::{Ticket, at_world_end};
pub use units::{BlockRange, BlockSize, Blocks, Bytes, Generation, Instant, Lba};
