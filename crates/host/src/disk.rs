//! The one shape of everything that has blocks: a file, memory, a replica, a remote namespace, a nexus.

use std::rc::Rc;

use block::{
    BlockRange, Buf, Data, Durability, Fault, Geometry, HostId, Outcome, Request, Reservations, Reserve, Ticket,
};
use futures_channel::oneshot;

use crate::LocalFuture;

/// A block device.
///
/// Requests are not ordered with respect to each other: whoever needs an order waits for the answer. A flush covers the
/// writes that were answered before it was submitted, and no other.
pub trait Disk {
    /// Size, block size and features. Constant while the device is open, but for the size, which may grow.
    fn geometry(&self) -> Geometry;

    /// Starts a request. The ticket is answered exactly once, possibly before this call returns.
    fn submit(&self, request: Request, ticket: Ticket);

    /// Asks the device for its shape, when that is not known at once: it may have grown elsewhere.
    ///
    /// # Errors
    /// The device does not answer.
    fn refresh(&self) -> LocalFuture<'_, Result<Geometry, Fault>> {
        Box::pin(std::future::ready(Ok(self.geometry())))
    }

    /// What a person calls the device; for messages only.
    fn label(&self) -> String;

    /// Names the life of the device's cache: another after it may have lost what was answered and not flushed. `None`: it
    /// lives as long as this machine has power ([`crate::World::boot_id`]).
    fn run(&self) -> Option<[u8; 16]> {
        None
    }

    /// The device's reservations, if it keeps any.
    fn reservable(&self) -> Option<&dyn Reservable> {
        None
    }
}

/// A device that keeps [`Reservations`], seen by one of its hosts.
pub trait Reservable {
    /// Which host requests by this handle come from.
    fn host(&self) -> HostId;

    /// Whether reservations can be kept when the device starts anew.
    fn remembers(&self) -> bool;

    /// Changes the reservation. When it is answered it is in force (and durable, if it is to be remembered), and nothing
    /// that a host may no longer do is under way.
    ///
    /// # Errors
    /// [`Fault::Fenced`]: a conflict, nothing has changed. [`Fault::Unsupported`], [`Fault::NoSpace`]: see
    /// [`Reservations::apply`]. Others: whether it was done is not known.
    fn reserve(&self, ask: Reserve) -> LocalFuture<'_, Result<(), Fault>>;

    /// Who is registered, and who holds the device.
    fn reservations(&self) -> LocalFuture<'_, Result<Reservations, Fault>>;
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
