//! The one shape of everything that has blocks: a file, memory, a replica, a remote namespace, a nexus.

use std::rc::Rc;

use block::{BlockRange, Buf, Data, Durability, Fault, Geometry, Outcome, Request, Ticket};
use futures_channel::oneshot;

/// A block device.
///
/// Requests are not ordered with respect to each other: whoever needs an order waits for the answer. A flush covers the
/// writes that were answered before it was submitted, and no other.
pub trait Disk {
    /// Size, block size and features. Constant while the device is open.
    fn geometry(&self) -> Geometry;

    /// Starts a request. The ticket is answered exactly once, possibly before this call returns.
    fn submit(&self, request: Request, ticket: Ticket);

    /// What a person calls the device; for messages only.
    fn label(&self) -> String;
}

/// A device that several owners share.
pub type DiskRef = Rc<dyn Disk>;

/// The same requests as `async fn`s, for sequential work (format, import, recovery, labels).
#[allow(async_fn_in_trait, reason = "everything is single-threaded, no Send bound is wanted")]
pub trait DiskExt: Disk {
    /// Submits a request and waits for its outcome.
    async fn call(&self, request: Request) -> Outcome {
        let (tx, rx) = oneshot::channel();
        self.submit(
            request,
            Ticket::new(move |outcome| {
                // The caller may have been dropped meanwhile; then nobody wants the answer.
                let _ = tx.send(outcome);
            }),
        );
        rx.await.unwrap_or(Err(Fault::Gone))
    }
    /// Reads blocks.
    async fn read(&self, range: BlockRange) -> Result<Buf, Fault> {
        Ok(self.call(Request::Read { range }).await?.into_buf())
    }
    /// Writes blocks.
    async fn write(&self, range: BlockRange, data: Buf, durability: Durability) -> Result<(), Fault> {
        self.call(Request::Write { range, data, durability }).await.map(|_: Data| ())
    }
    /// Makes all answered writes durable.
    async fn flush(&self) -> Result<(), Fault> {
        self.call(Request::Flush).await.map(|_: Data| ())
    }
    /// Forgets blocks; they read as zeroes from now on.
    async fn unmap(&self, range: BlockRange) -> Result<(), Fault> {
        self.call(Request::Unmap { range }).await.map(|_: Data| ())
    }
    /// Clears blocks.
    async fn write_zeroes(&self, range: BlockRange, may_unmap: bool) -> Result<(), Fault> {
        self.call(Request::WriteZeroes { range, may_unmap, durability: Durability::Volatile }).await.map(|_: Data| ())
    }
}

impl<D: Disk + ?Sized> DiskExt for D {}
