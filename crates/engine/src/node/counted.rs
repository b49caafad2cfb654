//! Counts what is read from and written to a replica, whoever asks.

use std::rc::Rc;

use block::{Geometry, Request, Ticket};
use host::{Disk, DiskRef, Host};

use crate::meter::Meter;

/// A replica with counters. They start at zero with the process.
pub(crate) struct Counted {
    inner: DiskRef,
    pub(crate) meter: Rc<Meter>,
}

impl Counted {
    pub(crate) fn new(host: &Host, inner: DiskRef) -> Counted {
        Counted { meter: Meter::new(host, inner.geometry().block_size), inner }
    }
}

impl Disk for Counted {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }
    fn submit(&self, request: Request, ticket: Ticket) {
        let ticket = self.meter.ticket(&request, ticket);
        self.inner.submit(request, ticket);
    }
    fn label(&self) -> String {
        self.inner.label()
    }
}
