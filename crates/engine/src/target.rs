//! The NVMe/TCP target of a node: drives `nvme`'s target machine with sockets, disks and the clock.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use block::link::{Phase, Receive};
use block::{Buf, BufMut, Data, Instant, Reservations, Ticket};
use host::{DiskRef, Host};
use nvme::nqn::NqnError;
use nvme::target::{ConnectionId, Effect, ExportError, ExportStats, Outbox, Reserving, SubsystemId, Target};
use nvme::{Nqn, target};
use thiserror::Error;
use uuid::Uuid;

use crate::guard::Guard;
use crate::server::{self, Machine, Server, Shared};

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
    server: Server<Target>,
    address: SocketAddr,
    advertised: SocketAddr,
}

/// What a connection is told.
pub(crate) enum Event {
    /// A disk has answered, or a guard has changed its reservations.
    Done(u16, block::Outcome),
    /// A guard tells its reservations.
    Reported(u16, Reservations),
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
        let server = Server::start(host, machine, vec![listener]);
        Ok(Rc::new(TargetServer { server, address, advertised }))
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
        let added = self.server.tell(|machine, out| machine.export(export, out))?;
        self.server.add(added, device);
        Ok(())
    }

    /// Serves a device no longer. Its hosts get the answers of the commands that are at the device, then their
    /// connections are closed. Returns when the device is not used any more.
    pub async fn unexport(&self, nqn: &str) -> Result<(), TargetError> {
        self.server.unexport(self.find(nqn)?).await;
        Ok(())
    }

    /// Whether a subsystem of that name is served.
    pub fn serves(&self, nqn: &str) -> bool {
        self.find(nqn).is_ok()
    }

    /// What was done for the hosts of a subsystem since it is served.
    pub fn stats(&self, nqn: &str) -> Option<ExportStats> {
        let id = self.find(nqn).ok()?;
        self.server.with(|machine| machine.stats(id))
    }

    /// The names of the hosts that are connected to a subsystem.
    pub fn hosts(&self, nqn: &str) -> Vec<String> {
        let Ok(id) = self.find(nqn) else { return Vec::new() };
        self.server.with(|machine| machine.hosts(id)).iter().map(Nqn::to_string).collect()
    }

    /// Looks at a served device again and tells its hosts that its size has changed.
    pub fn refresh(&self, nqn: &str) -> Result<(), TargetError> {
        let id = self.find(nqn)?;
        if let Some(device) = self.server.device(id) {
            self.server.tell(|machine, out| machine.resize(id, device.disk().geometry(), out));
        }
        Ok(())
    }

    /// Stops listening and ends all connections in an orderly way: what is at a device is answered first. Returns when
    /// no device is used any more.
    pub async fn stop(&self) {
        self.server.stop().await;
    }

    fn find(&self, nqn: &str) -> Result<SubsystemId, TargetError> {
        let found = self.server.with(|machine| machine.serves(nqn));
        found.ok_or_else(|| TargetError::NotServed(nqn.to_string()))
    }
}

impl Machine for Target {
    type Export = SubsystemId;
    type Device = Rc<Guard>;
    type Effect = Effect;
    type Event = Event;

    server::machine_calls!(Target);

    fn accept(&mut self, host: &Host, out: &mut Outbox) -> Option<ConnectionId> {
        Target::accept(self, host.now(), out)
    }

    fn on_event(&mut self, id: ConnectionId, event: Event, out: &mut Outbox) {
        match event {
            Event::Done(slot, outcome) => self.on_done(id, slot, outcome, out),
            Event::Reported(slot, known) => self.on_reported(id, slot, &known, out),
        }
    }

    fn perform(shared: &Shared<Target>, effect: Effect) {
        match effect {
            Effect::Submit { connection, slot, subsystem, host, request } => {
                let answers = shared.answers(connection);
                let Some(device) = shared.device(subsystem) else {
                    return answers.push(Event::Done(slot, Err(block::Fault::Gone)));
                };
                match device.admit(host, &request) {
                    Ok(pass) => {
                        let ticket = Ticket::new(move |outcome| {
                            answers.push(Event::Done(slot, outcome));
                            drop(pass);
                        });
                        device.disk().submit(request, ticket);
                    }
                    Err(fault) => answers.push(Event::Done(slot, Err(fault))),
                }
            }
            Effect::Reserve { connection, slot, subsystem, host, ask } => {
                let (device, answers) = (shared.device(subsystem), shared.answers(connection));
                shared.host().spawn(async move {
                    let done = match device {
                        Some(device) => device.reserve(host, ask).await,
                        None => Err(block::Fault::Gone),
                    };
                    answers.push(Event::Done(slot, done.map(|()| Data::empty())));
                });
            }
            Effect::Report { connection, slot, subsystem } => {
                shared.answers(connection).push(match shared.device(subsystem) {
                    Some(device) => Event::Reported(slot, device.reservations()),
                    None => Event::Done(slot, Err(block::Fault::Gone)),
                });
            }
            Effect::Wake(connection) => shared.wake(connection),
            Effect::Timer => shared.deadline_changed(),
            Effect::Idle(subsystem) => shared.idle(subsystem),
        }
    }
}
