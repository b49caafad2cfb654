//! A replica as a disk: the I/O path. One lookup, one request to a disk in the common case.

use std::cell::Cell;
use std::rc::Rc;

use block::{Bytes, Geometry, Request, Ticket};
use host::Disk;

use crate::PoolError;
use crate::core::{Core, Phase};

/// A replica of a pool.
pub struct Replica {
    pub(crate) core: Rc<Core>,
    pub(crate) id: u32,
    name: String,
    thin: bool,
    /// Its size only grows.
    geometry: Cell<Geometry>,
}

/// Whether a replica takes requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicaState {
    /// It does.
    Online,
    /// Its pool has stopped after an error; the text says which.
    Faulted(String),
    /// It was destroyed, or its pool was exported.
    Gone,
}

impl Replica {
    pub(crate) fn new(core: &Rc<Core>, id: u32) -> Replica {
        let (name, size, thin) = {
            let s = core.state.borrow();
            let meta = &s.meta.replicas[&id];
            (meta.name.clone(), meta.size, meta.thin)
        };
        Replica { core: core.clone(), id, name, thin, geometry: Cell::new(core.geometry(size)) }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Its size.
    pub fn size(&self) -> Bytes {
        self.geometry.get().bytes()
    }
    /// The size in its pool's metadata has become durable: requests may use it.
    pub(crate) fn take_size(&self) {
        let size = self.core.state.borrow().meta.replicas.get(&self.id).map(|r| r.size);
        if let Some(size) = size {
            self.geometry.set(self.core.geometry(size));
        }
    }
    /// Whether space is taken only as it is written.
    pub fn thin(&self) -> bool {
        self.thin
    }
    /// The name of its pool.
    pub fn pool(&self) -> &str {
        &self.core.name
    }
    /// The space that its data takes: whole extents. For a thick replica this grows too, up to its size, but all of it
    /// is reserved.
    pub fn allocated(&self) -> Bytes {
        let s = self.core.state.borrow();
        let mapped = s.meta.replicas.get(&self.id).map_or(0, |r| r.map.mapped());
        Bytes(u64::from(mapped) * self.core.extent_bytes)
    }
    /// What was kept with [`Replica::keep_reservation`] last; empty for nothing.
    pub fn reservation(&self) -> Vec<u8> {
        let s = self.core.state.borrow();
        s.meta.replicas.get(&self.id).map(|r| r.reservation.clone()).unwrap_or_default()
    }

    /// Keeps the state of the replica's reservations, of at most [`crate::MAX_RESERVATIONS`] bytes, in the pool's metadata.
    /// It is durable when this returns.
    ///
    /// # Errors
    /// [`PoolError::Limit`] when the metadata area was not made for so much; [`PoolError::Invalid`]; [`PoolError::Faulted`],
    /// [`PoolError::Closed`].
    pub async fn keep_reservation(&self, state: Vec<u8>) -> Result<(), PoolError> {
        self.core.keep_reservation(self.id, state).await
    }

    /// Whether it takes requests.
    pub fn state(&self) -> ReplicaState {
        let s = self.core.state.borrow();
        match &s.phase {
            Phase::Faulted(why) => ReplicaState::Faulted(why.clone()),
            Phase::Online if s.live.contains_key(&self.id) => ReplicaState::Online,
            _ => ReplicaState::Gone,
        }
    }
}

impl Disk for Replica {
    fn geometry(&self) -> Geometry {
        self.geometry.get()
    }
    fn submit(&self, request: Request, ticket: Ticket) {
        match request.check(&self.geometry.get()) {
            Ok(()) => self.core.submit(self.id, request, ticket),
            Err(fault) => ticket.fail(fault),
        }
    }
    fn label(&self) -> String {
        format!("replica {} of pool {}", self.name, self.core.name)
    }
}
