//! An iSCSI target of a node: drives `iscsi`'s target machine with sockets, disks and the clock.
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

use block::Ticket;
use futures_channel::oneshot;
use host::{AnyListener, AnyStream, DiskRef, Host, JoinHandle, Notify, Queue};
use iscsi::IscsiName;
pub use iscsi::chap::{Chap, Credentials};
use iscsi::name::NameError;
use iscsi::target::{self, ConnectionId, Effect, ExportError, ExportId, ExportStats, Outbox, Target};
use thiserror::Error;
use uuid::Uuid;

/// How long to wait when the system refuses a connection (out of descriptors and the like).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where a target listens and what it says about that.
#[derive(Clone, Debug)]
pub struct IscsiOptions {
    /// The address to listen on; port 0 lets the system choose.
    pub bind: SocketAddr,
    /// The host name or address (IPv6 in brackets) that discovery tells to initiators, when it is not the one listened on.
    pub advertised: Option<String>,
    /// The tag of the portal group.
    pub portal_group: u16,
    /// Who may log in; `None`: everybody.
    pub chap: Option<Chap>,
}

/// A device to be served.
pub struct Export {
    /// The target's iSCSI name.
    pub name: String,
    /// The identity of the logical unit.
    pub uuid: Uuid,
    /// What the logical unit is called: at most 16 characters.
    pub product: String,
    /// The device.
    pub disk: DiskRef,
}

/// Why the target did not do something.
#[derive(Debug, Error)]
pub enum IscsiError {
    /// The system refused the listening socket.
    #[error("can not listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// The name is not an iSCSI name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The name is taken, or there are too many targets.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// No target has that name.
    #[error("{0} is not served")]
    NotServed(String),
}

/// iSCSI targets on one address. Every method is to be called on the thread that started it.
pub struct IscsiServer {
    shared: Rc<Shared>,
    address: SocketAddr,
    tasks: RefCell<Vec<JoinHandle<()>>>,
}

/// What the tasks of a target share.
struct Shared {
    host: Host,
    machine: RefCell<Target>,
    disks: RefCell<BTreeMap<ExportId, DiskRef>>,
    /// The queue of each connection, by index.
    queues: RefCell<Vec<Queue<Event>>>,
    /// Who waits for the end of a target.
    retiring: RefCell<BTreeMap<ExportId, oneshot::Sender<()>>>,
    /// The machine's deadline may have changed.
    timer: Notify,
    /// A connection has ended.
    ended: Notify,
}

/// What a connection's task is told.
enum Event {
    /// A disk has answered.
    Done(u32, block::Outcome),
    /// Something else has changed.
    Wake,
}

impl IscsiServer {
    /// Listens, and serves discovery.
    pub async fn start(host: &Host, options: IscsiOptions) -> Result<Rc<IscsiServer>, IscsiError> {
        let listener =
            host.listen(options.bind).map_err(|source| IscsiError::Listen { address: options.bind, source })?;
        let address = listener.local();
        let name = match options.advertised {
            Some(name) => format!("{name}:{}", address.port()),
            None => address.to_string(),
        };
        let machine = Target::new(target::TargetOptions {
            advertised: name,
            portal_group: options.portal_group,
            revision: env!("CARGO_PKG_VERSION").chars().filter(|c| *c != '.').take(4).collect(),
            chap: options.chap,
        });
        let shared = Rc::new(Shared {
            host: host.clone(),
            machine: RefCell::new(machine),
            disks: RefCell::default(),
            queues: RefCell::default(),
            retiring: RefCell::default(),
            timer: Notify::default(),
            ended: Notify::default(),
        });
        let tasks = vec![host.spawn(accept(shared.clone(), listener)), host.spawn(keep_time(shared.clone()))];
        Ok(Rc::new(IscsiServer { shared, address, tasks: RefCell::new(tasks) }))
    }

    /// The address that is listened on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves a device as logical unit 0 of a new target.
    pub fn export(&self, export: Export) -> Result<(), IscsiError> {
        let name = IscsiName::new(&export.name)?;
        let Export { uuid, product, disk, .. } = export;
        let geometry = disk.geometry();
        let added = self.shared.machine.borrow_mut().export(target::Export { name, uuid, product, geometry });
        self.shared.disks.borrow_mut().insert(added?, disk);
        Ok(())
    }

    /// Serves a device no longer. Its initiators get the answers of the commands that are at the device, then their
    /// sessions are ended. Returns when the device is not used any more.
    pub async fn unexport(&self, name: &str) -> Result<(), IscsiError> {
        let id = self.find(name)?;
        let (sender, done) = oneshot::channel();
        self.shared.retiring.borrow_mut().insert(id, sender);
        let mut out = Outbox::new();
        self.shared.machine.borrow_mut().unexport(id, &mut out);
        self.shared.apply(&mut out);
        // It fails only when the whole target is dropped; then nothing uses the device either.
        let _ = done.await;
        Ok(())
    }

    /// Whether a target of that name is served.
    pub fn serves(&self, name: &str) -> bool {
        self.find(name).is_ok()
    }

    /// What was done for the initiators of a target since it is served.
    pub fn stats(&self, name: &str) -> Option<ExportStats> {
        let id = self.find(name).ok()?;
        self.shared.machine.borrow().stats(id)
    }

    /// The names of the initiators that have a session with a target.
    pub fn initiators(&self, name: &str) -> Vec<String> {
        let Ok(id) = self.find(name) else { return Vec::new() };
        self.shared.machine.borrow().initiators(id).iter().map(IscsiName::to_string).collect()
    }

    /// Looks at a served device again and tells its initiators that its size has changed.
    pub fn refresh(&self, name: &str) -> Result<(), IscsiError> {
        let id = self.find(name)?;
        let geometry = self.shared.disks.borrow().get(&id).map(|d| d.geometry());
        if let Some(geometry) = geometry {
            self.shared.machine.borrow_mut().resize(id, geometry);
        }
        Ok(())
    }

    /// Stops listening and ends all connections in an orderly way: what is at a device is answered first. Returns when
    /// no device is used any more.
    pub async fn stop(&self) {
        // The task that keeps time goes on: it limits how long an initiator may take to read its last answers.
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
        self.shared.disks.borrow_mut().clear();
    }

    fn find(&self, name: &str) -> Result<ExportId, IscsiError> {
        let found = self.shared.machine.borrow().serves(name);
        found.ok_or_else(|| IscsiError::NotServed(name.to_string()))
    }
}

impl Shared {
    /// Does what the machine wants. No borrow of the machine is held, since a disk may answer at once.
    fn apply(&self, out: &mut Outbox) {
        for effect in out.drain(..) {
            match effect {
                Effect::Submit { connection, slot, export, request } => {
                    let disk = self.disks.borrow().get(&export).cloned();
                    let queue = self.queue(connection);
                    let ticket = Ticket::new(move |outcome| queue.push(Event::Done(slot, outcome)));
                    match disk {
                        Some(disk) => disk.submit(request, ticket),
                        None => ticket.fail(block::Fault::Gone),
                    }
                }
                Effect::Wake(connection) => self.queue(connection).push(Event::Wake),
                Effect::Timer => self.timer.notify(),
                Effect::Idle(export) => {
                    self.disks.borrow_mut().remove(&export);
                    if let Some(waiting) = self.retiring.borrow_mut().remove(&export) {
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
        let accepted = self.machine.borrow_mut().accept(self.host.now(), self.host.random_bytes(), &mut out);
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
