//! The guard of a device: its reservations, for all who use it, over the network and on this node alike.
//!
//! Every request comes from a host. The guard asks the reservation whether the host may, and knows which changes are under
//! way. A reservation that was changed is answered once it is durable (where it shall be), in force, and every change that
//! was let through before has ended: nothing of a host that was preempted lands later.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use block::probe::{Mark, Mutant, mark, mutant};
use block::{Fault, Geometry, HostId, Persist, Request, Reservations, Reserve, Ticket, limits};
use futures_util::lock::Mutex;
use host::{Disk, DiskRef, LocalFuture, Notify, Reservable};

/// Where the reservations of a device are kept through power loss.
pub trait Keep {
    /// What was kept last; empty for nothing.
    fn kept(&self) -> Vec<u8>;
    /// Keeps something else; answered once that is durable.
    fn keep(&self, bytes: Vec<u8>) -> LocalFuture<'_, Result<(), Fault>>;
}

/// A device with its reservations.
pub struct Guard {
    disk: DiskRef,
    keep: Option<Rc<dyn Keep>>,
    state: RefCell<Reservations>,
    /// Whether the state has to be asked at all.
    gate: Cell<Gate>,
    changes: Rc<Changes>,
    /// One change of the reservation at a time.
    turn: Mutex<()>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Gate {
    Open,
    /// The device is reserved.
    Watched,
    /// What was kept makes no sense: nobody gets in.
    Shut,
}

/// The changes that are under way, in two groups, so that one can be waited for while the other goes on.
#[derive(Default)]
struct Changes {
    under_way: [Cell<usize>; 2],
    group: Cell<usize>,
    ended: Notify,
}

/// A request that was let through. It is over when this is dropped.
pub struct Pass(Option<(Rc<Changes>, usize)>);

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some((changes, group)) = self.0.take() {
            let left = changes.under_way[group].get() - 1;
            changes.under_way[group].set(left);
            if left == 0 {
                changes.ended.notify();
            }
        }
    }
}

impl Changes {
    fn begin(self: &Rc<Changes>) -> Pass {
        let group = self.group.get();
        self.under_way[group].set(self.under_way[group].get() + 1);
        Pass(Some((self.clone(), group)))
    }

    /// Waits for the end of all that have begun. One caller at a time.
    async fn passed(&self) {
        // A wait that was given up may have left something in the other group.
        self.is_over(1 - self.group.get()).await;
        let before = self.group.replace(1 - self.group.get());
        self.is_over(before).await;
    }
    async fn is_over(&self, group: usize) {
        while self.under_way[group].get() > 0 {
            self.ended.notified().await;
        }
    }
}

impl Guard {
    /// Guards a device. Without `keep` its reservations end with this guard.
    pub fn new(disk: DiskRef, keep: Option<Rc<dyn Keep>>) -> Rc<Guard> {
        let most = if keep.is_some() { limits::REPLICA_REGISTRANTS } else { limits::REGISTRANTS };
        let kept = keep.as_ref().map(|keep| keep.kept()).unwrap_or_default();
        let known = Reservations::from_kept(&kept, most);
        let gate = if known.is_some() { Gate::Open } else { Gate::Shut };
        let guard = Guard {
            disk,
            keep,
            state: RefCell::new(known.unwrap_or_else(|| Reservations::new(most))),
            gate: Cell::new(gate),
            changes: Rc::default(),
            turn: Mutex::new(()),
        };
        guard.watch();
        Rc::new(guard)
    }

    /// The device, past the guard.
    pub fn disk(&self) -> &DiskRef {
        &self.disk
    }
    /// Whether reservations are kept through power loss.
    pub fn remembers(&self) -> bool {
        self.keep.is_some()
    }
    /// The reservations now.
    pub fn reservations(&self) -> Reservations {
        self.state.borrow().clone()
    }
    /// The device as one host sees it.
    pub fn view(self: &Rc<Guard>, host: HostId) -> DiskRef {
        Rc::new(View { guard: self.clone(), host })
    }

    fn watch(&self) {
        if self.gate.get() != Gate::Shut {
            let is_held = self.state.borrow().held().is_some();
            self.gate.set(if is_held { Gate::Watched } else { Gate::Open });
        }
    }

    /// Asks whether a host's request may go to the device now.
    ///
    /// # Errors
    /// [`Fault::Fenced`] when the reservation does not allow it.
    pub fn admit(&self, host: HostId, request: &Request) -> Result<Pass, Fault> {
        // A flush counts as a change to the reservation, but has nothing to land late.
        let allowed = match self.gate.get() {
            Gate::Open => true,
            Gate::Watched => self.state.borrow().allows(host, !matches!(request, Request::Read { .. })),
            Gate::Shut => false,
        };
        // Rule: only the holder of the reservation writes, whoever asks and by whichever way.
        let allowed = allowed || mutant(Mutant::AcceptAnyWriter);
        match allowed {
            false => {
                mark(Mark::GhostRefused);
                Err(Fault::Fenced)
            }
            true if request.is_change() => Ok(self.changes.begin()),
            true => Ok(Pass(None)),
        }
    }

    /// Changes the reservation; see [`Reservable::reserve`].
    pub async fn reserve(&self, host: HostId, ask: Reserve) -> Result<(), Fault> {
        let _turn = self.turn.lock().await;
        if self.gate.get() == Gate::Shut {
            return Err(Fault::Gone);
        }
        let wants_memory = match ask {
            Reserve::Register { persist, .. }
            | Reserve::Replace { persist, .. }
            | Reserve::Unregister { persist, .. } => persist == Persist::Remember,
            _ => false,
        };
        if wants_memory && self.keep.is_none() {
            return Err(Fault::Unsupported);
        }
        let mut next = self.reservations();
        let before = next.to_keep();
        next.apply(host, ask)?;
        let after = next.to_keep();
        if matches!(ask, Reserve::Preempt { .. }) {
            mark(Mark::ReservationTaken);
        }
        // Also when nothing seems to change: a caller that gave up may have left something else there.
        if let Some(keep) = self.keep.as_ref().filter(|_| !before.is_empty() || !after.is_empty()) {
            keep.keep(after).await?;
        }
        *self.state.borrow_mut() = next;
        self.watch();
        if matches!(ask, Reserve::Acquire { .. } | Reserve::Preempt { .. }) {
            self.changes.passed().await;
        }
        Ok(())
    }
}

/// A guarded device as one host sees it.
struct View {
    guard: Rc<Guard>,
    host: HostId,
}

impl Disk for View {
    fn geometry(&self) -> Geometry {
        self.guard.disk.geometry()
    }
    fn refresh(&self) -> LocalFuture<'_, Result<Geometry, Fault>> {
        self.guard.disk.refresh()
    }
    fn submit(&self, request: Request, ticket: Ticket) {
        match self.guard.admit(self.host, &request) {
            Err(fault) => ticket.fail(fault),
            Ok(Pass(None)) => self.guard.disk.submit(request, ticket),
            Ok(pass) => self.guard.disk.submit(
                request,
                Ticket::new(move |outcome| {
                    ticket.answer(outcome);
                    drop(pass);
                }),
            ),
        }
    }
    fn label(&self) -> String {
        self.guard.disk.label()
    }
    fn reservable(&self) -> Option<&dyn Reservable> {
        Some(self)
    }
}

impl Reservable for View {
    fn host(&self) -> HostId {
        self.host
    }
    fn remembers(&self) -> bool {
        self.guard.remembers()
    }
    fn reserve(&self, ask: Reserve) -> LocalFuture<'_, Result<(), Fault>> {
        Box::pin(self.guard.reserve(self.host, ask))
    }
    fn reservations(&self) -> LocalFuture<'_, Result<Reservations, Fault>> {
        Box::pin(std::future::ready(Ok(self.guard.reservations())))
    }
}

#[cfg(test)]
mod tests;
