//! Moves inputs into the machine and effects out of it.
//!
//! Two tasks for a volume, none for a request: one takes completions from a queue, one watches the clock. A client's
//! request goes into the machine within [`host::Disk::submit`].

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use block::{BlockRange, Fault, Instant, Lba, Outcome, Request, Ticket};
use futures_channel::oneshot;
use host::{DiskRef, Host, Notify, Queue};
use nexus::MemberId;
use nexus::label::Layout;
use nexus::ledger::{Ledger, Role, Version};
use nexus::machine::{Area, Effect, FlightId, Nexus as Machine, Outbox, StoreFault};
use uuid::Uuid;

use crate::meter::Meter;

use super::{LedgerError, LedgerStore, NexusEvent, StoredLedger};

/// A child as the driver knows it.
pub(super) struct Child {
    pub uri: String,
    pub link: Option<Link>,
    /// Its member in the machine; none when it could not be opened and no ledger names it.
    pub member: Option<(MemberId, Uuid)>,
    /// Why there is no member or no device.
    pub reason: String,
}

/// An open device, and where its parts begin.
#[derive(Clone)]
pub(super) struct Link {
    pub disk: DiskRef,
    pub layout: Layout,
    pub meter: Rc<Meter>,
}

enum Input {
    Done(MemberId, FlightId, Outcome),
    Stored(Version, Result<(), StoreFault>),
    Tick,
}

pub(super) struct Pump {
    pub uuid: Uuid,
    /// The key under which the members are reserved.
    pub key: u64,
    pub host: Host,
    pub machine: RefCell<Machine>,
    pub children: RefCell<Vec<Child>>,
    /// The children's devices by [`MemberId`].
    links: RefCell<Vec<Option<Link>>>,
    inbox: Queue<Input>,
    store: Rc<dyn LedgerStore>,
    events: Queue<NexusEvent>,
    timer: Notify,
    armed: Cell<Option<Instant>>,
    waiters: RefCell<Vec<oneshot::Sender<()>>>,
    spare: RefCell<Outbox>,
    closed: Cell<bool>,
    /// What clients ask for.
    pub meter: Rc<Meter>,
}

impl Pump {
    pub fn new(
        host: &Host,
        (uuid, key): (Uuid, u64),
        machine: Machine,
        store: Rc<dyn LedgerStore>,
        events: Queue<NexusEvent>,
    ) -> Rc<Pump> {
        Rc::new(Pump {
            meter: Meter::new(host, machine.geometry().block_size),
            uuid,
            key,
            host: host.clone(),
            machine: RefCell::new(machine),
            children: RefCell::default(),
            links: RefCell::default(),
            inbox: Queue::default(),
            store,
            events,
            timer: Notify::default(),
            armed: Cell::new(None),
            waiters: RefCell::default(),
            spare: RefCell::default(),
            closed: Cell::new(false),
        })
    }

    /// Starts the tasks.
    pub fn start(self: &Rc<Pump>) {
        let pump = self.clone();
        self.host.spawn(async move { pump.take_inputs().await });
        let pump = self.clone();
        self.host.spawn(async move { pump.watch_clock().await });
    }

    /// The device of a member from now on.
    pub fn set_link(&self, member: MemberId, link: Option<Link>) {
        let mut links = self.links.borrow_mut();
        let at = member.0 as usize;
        if links.len() <= at {
            links.resize_with(at + 1, || None);
        }
        let before = std::mem::replace(&mut links[at], link);
        drop(links);
        // Dropping a device may answer its tickets, which only fills the queue.
        drop(before);
    }

    /// Gives the machine something and does what it wants.
    pub fn with<T>(self: &Rc<Pump>, act: impl FnOnce(&mut Machine, Instant, &mut Outbox) -> T) -> T {
        let mut out = std::mem::take(&mut *self.spare.borrow_mut());
        let result = act(&mut self.machine.borrow_mut(), self.host.now(), &mut out);
        self.carry_out(out);
        result
    }

    pub fn submit(self: &Rc<Pump>, request: Request, ticket: Ticket) {
        self.with(|machine, now, out| machine.on_request(now, request, ticket, out));
    }

    async fn take_inputs(self: Rc<Pump>) {
        while !self.closed.get() {
            self.inbox.ready().await;
            self.with(|machine, now, out| {
                while let Some(input) = self.inbox.pop() {
                    match input {
                        Input::Done(member, flight, outcome) => {
                            machine.on_member_done(now, member, flight, outcome, out)
                        }
                        Input::Stored(version, outcome) => machine.on_stored(now, version, outcome, out),
                        Input::Tick => machine.expire(now, out),
                    }
                }
            });
        }
    }

    async fn watch_clock(self: Rc<Pump>) {
        while !self.closed.get() {
            match self.armed.get() {
                None => self.timer.notified().await,
                Some(at) => {
                    use futures_util::future::{Either, select};
                    let earlier = std::pin::pin!(self.timer.notified());
                    if let Either::Right(_) = select(earlier, self.host.sleep_until(at)).await {
                        self.armed.set(None);
                        self.inbox.push(Input::Tick);
                        // The tick arms the timer again.
                        self.timer.notified().await;
                    }
                }
            }
        }
    }

    /// Does the effects in order. Nothing is borrowed while a device or a client is called.
    pub fn carry_out(self: &Rc<Pump>, mut out: Outbox) {
        let changed = !out.is_empty();
        for effect in out.drain(..) {
            match effect {
                Effect::Submit { member, flight, area, request } => self.send(member, flight, area, request),
                Effect::Answer(ticket, outcome) => {
                    if outcome.is_err() {
                        self.meter.failed();
                    }
                    ticket.answer(outcome);
                }
                Effect::Record(ledger) => self.record(&ledger),
                Effect::Changed(text) => self.tell(text),
                Effect::Closed => {
                    self.closed.set(true);
                    self.inbox.push(Input::Tick);
                }
            }
        }
        *self.spare.borrow_mut() = out;
        let deadline = self.machine.borrow().deadline();
        let armed = self.armed.get();
        // A later deadline is met by the earlier tick, which does nothing.
        if armed.is_none_or(|armed| deadline.is_some_and(|d| d < armed)) && (deadline.is_some() || self.closed.get()) {
            self.armed.set(deadline);
            self.timer.notify();
        } else if self.closed.get() {
            self.timer.notify();
        }
        if changed && !self.waiters.borrow().is_empty() {
            let waiters = std::mem::take(&mut *self.waiters.borrow_mut());
            // A waiter that is gone no longer wants to know.
            for waiter in waiters {
                let _ = waiter.send(());
            }
        }
    }

    fn send(&self, member: MemberId, flight: FlightId, area: Area, request: Request) {
        let link = self.links.borrow().get(member.0 as usize).and_then(|l| l.clone());
        let Some(link) = link else {
            return self.inbox.push(Input::Done(member, flight, Err(Fault::Gone)));
        };
        let start = match area {
            Area::Meta => link.layout.meta().start,
            Area::Data => link.layout.data().start,
        };
        let inbox = self.inbox.clone();
        let (meter, timing) = (link.meter.clone(), link.meter.begin(&request));
        let ticket = Ticket::new(move |outcome| {
            meter.finished(timing, &outcome);
            inbox.push(Input::Done(member, flight, outcome));
        });
        link.disk.submit(shifted(request, start), ticket);
    }

    fn record(self: &Rc<Pump>, ledger: &Ledger) {
        let in_sync = ledger.entries.iter().filter(|e| e.role == Role::InSync);
        let stored = StoredLedger {
            generation: ledger.version.number(),
            in_sync: in_sync.filter_map(|e| self.uri_of(e.member)).collect(),
        };
        let (inbox, version) = (self.inbox.clone(), ledger.version);
        let record = self.store.record(self.uuid, stored);
        self.host.spawn(async move {
            let outcome = record.await.map_err(|e| match e {
                LedgerError::Fenced => StoreFault::Fenced,
                LedgerError::Unavailable(_) => StoreFault::Unavailable,
            });
            inbox.push(Input::Stored(version, outcome));
        });
    }

    pub fn uri_of(&self, member: Uuid) -> Option<String> {
        let children = self.children.borrow();
        children.iter().find(|c| c.member.is_some_and(|(_, uuid)| uuid == member)).map(|c| c.uri.clone())
    }

    /// Tells what happened, in terms of URIs.
    pub fn tell(&self, mut text: String) {
        for child in self.children.borrow().iter() {
            if let Some((_, uuid)) = child.member {
                let name = uuid.to_string();
                if text.contains(&name) {
                    text = text.replace(&name, &child.uri);
                }
            }
        }
        self.events.push(NexusEvent { uuid: self.uuid, text });
    }

    /// Waits until the machine is as wanted; whether it was so within `limit`.
    pub async fn until(&self, limit: Duration, wanted: impl Fn(&Machine) -> bool) -> bool {
        let end = self.host.now() + limit;
        while !wanted(&self.machine.borrow()) {
            let now = self.host.now();
            if now >= end {
                return false;
            }
            let (tx, rx) = oneshot::channel();
            self.waiters.borrow_mut().push(tx);
            let changed = self.host.timeout(end.since(now), rx).await;
            // Timed out or told: look again either way.
            let _ = changed;
        }
        true
    }

    /// Lets go of the devices.
    pub fn release(&self) {
        let links = std::mem::take(&mut *self.links.borrow_mut());
        drop(links);
        let children = self.children.borrow_mut().iter_mut().map(|c| c.link.take()).collect::<Vec<_>>();
        drop(children);
    }
}

fn shifted(request: Request, start: Lba) -> Request {
    let by = |range: BlockRange| range.shifted(start - Lba(0));
    match request {
        Request::Read { range } => Request::Read { range: by(range) },
        Request::Write { range, data, durability } => Request::Write { range: by(range), data, durability },
        Request::Flush => Request::Flush,
        Request::Unmap { range } => Request::Unmap { range: by(range) },
        Request::WriteZeroes { range, may_unmap, durability } => {
            Request::WriteZeroes { range: by(range), may_unmap, durability }
        }
    }
}
