//! Completion queue entries (Base 3.3.3.2).

use bytemuck::{Pod, Zeroable};

use crate::Status;
use crate::wire::{Le16, Le64};

/// A completion queue entry. Field offsets are those of Base figure 90.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Cqe {
    /// Dwords 0 and 1: command specific result.
    pub result: Le64,
    /// SQHD: the submission queue's head; FFFFh where flow control is off.
    pub sq_head: Le16,
    /// SQID: reserved over fabrics.
    pub sq_id: Le16,
    /// CID: the command that has completed.
    pub cid: Le16,
    /// Status, with the phase bit (reserved over fabrics) in bit 0.
    pub status: Le16,
}
const _: () = assert!(size_of::<Cqe>() == 16);

impl Cqe {
    /// The status.
    pub fn status(&self) -> Status {
        Status::from_wire(self.status.get())
    }
    /// Dword 0 of the result.
    pub fn dw0(&self) -> u32 {
        self.result.get() as u32
    }
}
