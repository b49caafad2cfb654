//! The reservations of a remote namespace.

use block::{Fault, HostId, Reservations, Reserve};
use host::{LocalFuture, Reservable};
use nvme::initiator::command;
use nvme::reservation;

use super::RemoteDisk;
use super::association::Nvme;
use super::supervisor::Inner;

/// Bytes of a reservation report that are fetched: 255 controllers.
const REPORT: usize = 16 << 10;

impl Inner<Nvme> {
    /// Sends a command over the association that is up now.
    async fn call(&self, make: impl FnOnce(u32) -> nvme::initiator::Command) -> Result<Option<block::Buf>, Fault> {
        let (nsid, queue) = self.line(|nsid| *nsid).ok_or(Fault::Gone)?;
        let done = queue.call(make(nsid)).await.map_err(|_| Fault::Gone)?;
        done.status.to_result()?;
        Ok(done.data.map(block::BufMut::freeze))
    }
}

impl Reservable for RemoteDisk {
    fn host(&self) -> HostId {
        self.inner.protocol().identity().expect("it was good enough to connect").host_id
    }
    fn remembers(&self) -> bool {
        self.inner.protocol().reserving.get() & reservation::PERSISTENT != 0
    }
    fn reserve(&self, ask: Reserve) -> LocalFuture<'_, Result<(), Fault>> {
        Box::pin(async move { self.inner.call(|nsid| command::reserve(nsid, ask)).await.map(drop) })
    }
    fn reservations(&self) -> LocalFuture<'_, Result<Reservations, Fault>> {
        Box::pin(async move {
            let page = self.inner.call(|nsid| command::reservation_report(nsid, REPORT)).await?;
            page.as_deref().and_then(reservation::parse_report).ok_or(Fault::Medium)
        })
    }
}
