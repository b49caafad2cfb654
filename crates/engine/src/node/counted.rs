//! Counts what is read from and written to a replica, whoever asks.

use std::cell::Cell;

use block::{Geometry, Request, Ticket};
use host::{Disk, DiskRef};

/// A replica with counters. They start at zero with the process.
pub(crate) struct Counted {
    inner: DiskRef,
    geometry: Geometry,
    pub(crate) reads: Cell<u64>,
    pub(crate) writes: Cell<u64>,
    pub(crate) bytes_read: Cell<u64>,
    pub(crate) bytes_written: Cell<u64>,
}

impl Counted {
    pub(crate) fn new(inner: DiskRef) -> Counted {
        Counted {
            geometry: inner.geometry(),
            inner,
            reads: Cell::default(),
            writes: Cell::default(),
            bytes_read: Cell::default(),
            bytes_written: Cell::default(),
        }
    }
}

fn add(cell: &Cell<u64>, n: u64) {
    cell.set(cell.get().wrapping_add(n));
}

impl Disk for Counted {
    fn geometry(&self) -> Geometry {
        self.geometry
    }
    fn submit(&self, request: Request, ticket: Ticket) {
        match &request {
            Request::Read { range } => {
                add(&self.reads, 1);
                add(&self.bytes_read, range.len.0 << self.geometry.block_size.shift());
            }
            Request::Write { data, .. } => {
                add(&self.writes, 1);
                add(&self.bytes_written, data.len() as u64);
            }
            Request::Flush | Request::Unmap { .. } | Request::WriteZeroes { .. } => {}
        }
        self.inner.submit(request, ticket);
    }
    fn label(&self) -> String {
        self.inner.label()
    }
}
