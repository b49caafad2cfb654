//! The NVMe/TCP target of a node: drives `nvme`'s target machine with sockets, disks and the clock.
//!
//! One task a connection, none a command. A connection's task receives, feeds the machine, and sends what has
//! accumulated while the last send was under way; disks leave their answers in the connection's queue.

mod link;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use block::{Data, Reservations, Ticket};
use futures_channel::oneshot;
use host::{AnyListener, AnyStream, DiskRef, Host, JoinHandle, Notify, Queue};
use nvme::nqn::NqnError;
use nvme::target::{ConnectionId, Effect, ExportError, ExportStats, Outbox, Reserving, SubsystemId, Target};
use nvme::{Nqn, target};
use thiserror::Error;
use uuid::Uuid;

use crate::guard::Guard;

/// How long to wait when the system refuses a connection (out of descriptors and the like).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where a target listens and what it says about that.
#[derive(Clone, Debug)]
pub struct TargetOptions {
    /// The address to listen on; port 0 lets the system choose.
    pub bind: SocketAddr,
    /// The address that discovery tells to hosts, when it is not the one listened on. Port 0 means the port of `bind`.
    pub advertised: Option<SocketAddr>,
}

/// A device to be served.
pub struct Export {
    /// The subsystem's NVMe qualified name.
    pub nqn: String,
    /// The namespace's UUID and NGUID.
    pub uuid: Uuid,
    /// The device.
    pub disk: DiskRef,
}

/// Why the target did not do something.
#[derive(Debug, Error)]
pub enum TargetError {
    /// The system refused the listening socket.
    #[error("can not listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// The name is not an NVMe qualified name.
    #[error(transparent)]
    Name(#[from] NqnError),
    /// The name is taken, or there are too many subsystems.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// No subsystem has that name.
    #[error("{0} is not served")]
    NotServed(String),
}

/// An NVMe/TCP target on one address. Every method is to be called on the thread that started it.
pub struct TargetServer {
    shared: Rc<Shared>,
    address: SocketAddr,
    advertised: SocketAddr,
    tasks: RefCell<Vec<JoinHandle<()>>>,
}

/// What the tasks of a target share.
struct Shared {
    host: Host,
    machine: RefCell<Target>,
    devices: RefCell<BTreeMap<SubsystemId, Rc<Guard>>>,
    /// The queue of each connection, by index.
    queues: RefCell<Vec<Queue<Event>>>,
    /// Who waits for the end of a subsystem.
    retiring: RefCell<BTreeMap<SubsystemId, oneshot::Sender<()>>>,
    /// The machine's deadline may have changed.
    timer: Notify,
    /// A connection has ended.
    ended: Notify,
}

/// What a connection's task is told.
enum Event {
    /// A disk has answered, or a guard has changed its reservations.
    Done(u16, block::Outcome),
    /// A guard tells its reservations.
    Reported(u16, Reservations),
    /// Something else has changed.
    Wake,
}

impl TargetServer {
    /// Listens, and serves discovery.
    pub async fn start(host: &Host, options: TargetOptions) -> Result<Rc<TargetServer>, TargetError> {
        let listener =
            host.listen(options.bind).map_err(|source| TargetError::Listen { address: options.bind, source })?;
        let address = listener.local();
        let mut advertised = options.advertised.unwrap_or(address);
        if advertised.port() == 0 {
            advertised.set_port(address.port());
        }
        let machine = Target::new(target::TargetOptions {
            advertised,
            firmware: env!("CARGO_PKG_VERSION").to_string(),
            discovery_nqn: None,
            instance: host.random_bytes(),
            boot_id: host.boot_id(),
        });
        let shared = Rc::new(Shared {
            host: host.clone(),
            machine: RefCell::new(machine),
            devices: RefCell::default(),
            queues: RefCell::default(),
            retiring: RefCell::default(),
            timer: Notify::default(),
            ended: Notify::default(),
        });
        let tasks = vec![host.spawn(accept(shared.clone(), listener)), host.spawn(keep_time(shared.clone()))];
        Ok(Rc::new(TargetServer { shared, address, advertised, tasks: RefCell::new(tasks) }))
    }

    /// The address that is listened on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address that discovery tells to hosts.
    pub fn advertised(&self) -> SocketAddr {
        self.advertised
    }

    /// Serves a device as the only namespace of a new subsystem. Reservations last as long as it is served.
    pub fn export(&self, export: Export) -> Result<(), TargetError> {
        self.export_guarded(&export.nqn, export.uuid, Guard::new(export.disk, None))
    }

    /// Serves a device that others on this node may use too, under the same reservations.
    pub fn export_guarded(&self, nqn: &str, uuid: Uuid, device: Rc<Guard>) -> Result<(), TargetError> {
        let reserving = if device.remembers() { Reserving::Persistent } else { Reserving::Volatile };
        let export = target::Export { nqn: Nqn::new(nqn)?, uuid, geometry: device.disk().geometry(), reserving };
        let mut out = Outbox::new();
        let added = self.shared.machine.borrow_mut().export(export, &mut out);
        self.shared.devices.borrow_mut().insert(added?, device);
        self.shared.apply(&mut out);
        Ok(())
    }

    /// Serves a device no longer. Its hosts get the answers of the commands that are at the device, then their
    /// connections are closed. Returns when the device is not used any more.
    pub async fn unexport(&self, nqn: &str) -> Result<(), TargetError> {
        let id = self.find(nqn)?;
        let (sender, done) = oneshot::channel();
        self.shared.retiring.borrow_mut().insert(id, sender);
        let mut out = Outbox::new();
        self.shared.machine.borrow_mut().unexport(id, &mut out);
        self.shared.apply(&mut out);
        // It fails only when the whole target is dropped; then nothing uses the device either.
        let _ = done.await;
        Ok(())
    }

    /// Whether a subsystem of that name is served.
    pub fn serves(&self, nqn: &str) -> bool {
        self.find(nqn).is_ok()
    }

    /// What was done for the hosts of a subsystem since it is served.
    pub fn stats(&self, nqn: &str) -> Option<ExportStats> {
        let id = self.find(nqn).ok()?;
        self.shared.machine.borrow().stats(id)
    }

    /// The names of the hosts that are connected to a subsystem.
    pub fn hosts(&self, nqn: &str) -> Vec<String> {
        let Ok(id) = self.find(nqn) else { return Vec::new() };
        self.shared.machine.borrow().hosts(id).iter().map(Nqn::to_string).collect()
    }

    /// Looks at a served device again and tells its hosts that its size has changed.
    pub fn refresh(&self, nqn: &str) -> Result<(), TargetError> {
        let id = self.find(nqn)?;
        let geometry = self.shared.devices.borrow().get(&id).map(|d| d.disk().geometry());
        let mut out = Outbox::new();
        if let Some(geometry) = geometry {
            self.shared.machine.borrow_mut().resize(id, geometry, &mut out);
        }
        self.shared.apply(&mut out);
        Ok(())
    }

    /// Stops listening and ends all connections in an orderly way: what is at a device is answered first. Returns when
    /// no device is used any more.
    pub async fn stop(&self) {
        // The task that keeps time goes on: it limits how long a host may take to read its last answers.
        let stopping = self.tasks.borrow().len() > 1;
        if stopping {
            let accept = self.tasks.borrow_mut().remove(0);
            accept.cancel();
        }
        let mut out = Outbox::new();
        self.shared.machine.borrow_mut().finish_all(&mut out);
        self.shared.apply(&mut out);
        while self.shared.machine.borrow().connections() > 0 {
            self.shared.ended.notified().await;
        }
        // Another caller may be waiting too.
        self.shared.ended.notify();
        let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
        tasks.into_iter().for_each(JoinHandle::cancel);
        self.shared.devices.borrow_mut().clear();
    }

    fn find(&self, nqn: &str) -> Result<SubsystemId, TargetError> {
        let found = self.shared.machine.borrow().serves(nqn);
        found.ok_or_else(|| TargetError::NotServed(nqn.to_string()))
    }
}

impl Shared {
    /// Does what the machine wants. No borrow of the machine is held, since a disk may answer at once.
    fn apply(&self, out: &mut Outbox) {
        for effect in out.drain(..) {
            match effect {
                Effect::Submit { connection, slot, subsystem, host, request } => {
                    let device = self.devices.borrow().get(&subsystem).cloned();
                    let queue = self.queue(connection);
                    let Some(device) = device else {
                        queue.push(Event::Done(slot, Err(block::Fault::Gone)));
                        continue;
                    };
                    match device.admit(host, &request) {
                        Ok(pass) => {
                            let ticket = Ticket::new(move |outcome| {
                                queue.push(Event::Done(slot, outcome));
                                drop(pass);
                            });
                            device.disk().submit(request, ticket);
                        }
                        Err(fault) => queue.push(Event::Done(slot, Err(fault))),
                    }
                }
                Effect::Reserve { connection, slot, subsystem, host, ask } => {
                    let device = self.devices.borrow().get(&subsystem).cloned();
                    let queue = self.queue(connection);
                    self.host.spawn(async move {
                        let done = match device {
                            Some(device) => device.reserve(host, ask).await,
                            None => Err(block::Fault::Gone),
                        };
                        queue.push(Event::Done(slot, done.map(|()| Data::empty())));
                    });
                }
                Effect::Report { connection, slot, subsystem } => {
                    let known = self.devices.borrow().get(&subsystem).map(|device| device.reservations());
                    self.queue(connection).push(match known {
                        Some(known) => Event::Reported(slot, known),
                        None => Event::Done(slot, Err(block::Fault::Gone)),
                    });
                }
                Effect::Wake(connection) => self.queue(connection).push(Event::Wake),
                Effect::Timer => self.timer.notify(),
                Effect::Idle(subsystem) => {
                    let gone = self.devices.borrow_mut().remove(&subsystem);
                    drop(gone);
                    if let Some(waiting) = self.retiring.borrow_mut().remove(&subsystem) {
                        // Whoever asked may have gone away meanwhile.
                        let _ = waiting.send(());
                    }
                }
            }
        }
    }

    fn queue(&self, connection: ConnectionId) -> Queue<Event> {
        self.queues.borrow()[connection.index()].clone()
    }

    /// Takes up a connection, or drops it when there are too many.
    fn connect(self: &Rc<Self>, stream: AnyStream) {
        let mut out = Outbox::new();
        let accepted = self.machine.borrow_mut().accept(self.host.now(), &mut out);
        if let Some(id) = accepted {
            let queue = Queue::default();
            let mut queues = self.queues.borrow_mut();
            if queues.len() <= id.index() {
                queues.resize_with(id.index() + 1, Queue::default);
            }
            queues[id.index()] = queue.clone();
            drop(queues);
            self.host.spawn(link::serve(self.clone(), id, stream, queue));
        }
        self.apply(&mut out);
    }
}

async fn accept(shared: Rc<Shared>, listener: AnyListener) {
    loop {
        match listener.accept().await {
            Ok(stream) => shared.connect(stream),
            Err(_) => shared.host.sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Tells the machine the time whenever it wants to know.
async fn keep_time(shared: Rc<Shared>) {
    loop {
        let deadline = shared.machine.borrow().deadline();
        let now = shared.host.now();
        match deadline {
            None => shared.timer.notified().await,
            Some(at) if at > now => {
                shared.host.timeout(at.since(now), shared.timer.notified()).await;
            }
            Some(_) => {
                let mut out = Outbox::new();
                shared.machine.borrow_mut().on_time(now, &mut out);
                shared.apply(&mut out);
            }
        }
    }
}
