//! An iSCSI target of a node: drives `iscsi`'s target machine with sockets, disks and the clock.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use block::link::{Phase, Receive};
use block::{Buf, BufMut, Instant, Ticket};
use host::{DiskRef, Host};
use iscsi::IscsiName;
pub use iscsi::chap::{Chap, Credentials};
use iscsi::name::NameError;
use iscsi::target::{self, ConnectionId, Effect, ExportError, ExportId, ExportStats, Outbox, Target};
use thiserror::Error;
use uuid::Uuid;

use crate::server::{self, Machine, Server, Shared};

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
    server: Server<Target>,
    address: SocketAddr,
}

/// A disk has answered a command.
pub(crate) struct Done(u32, block::Outcome);

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
            run: host.random_bytes(),
            chap: options.chap,
        });
        Ok(Rc::new(IscsiServer { server: Server::start(host, machine, vec![listener]), address }))
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
        let added = self.server.with(|machine| machine.export(target::Export { name, uuid, product, geometry }))?;
        self.server.add(added, disk);
        Ok(())
    }

    /// Serves a device no longer. Its initiators get the answers of the commands that are at the device, then their
    /// sessions are ended. Returns when the device is not used any more.
    pub async fn unexport(&self, name: &str) -> Result<(), IscsiError> {
        self.server.unexport(self.find(name)?).await;
        Ok(())
    }

    /// Whether a target of that name is served.
    pub fn serves(&self, name: &str) -> bool {
        self.find(name).is_ok()
    }

    /// What was done for the initiators of a target since it is served.
    pub fn stats(&self, name: &str) -> Option<ExportStats> {
        let id = self.find(name).ok()?;
        self.server.with(|machine| machine.stats(id))
    }

    /// The names of the initiators that have a session with a target.
    pub fn initiators(&self, name: &str) -> Vec<String> {
        let Ok(id) = self.find(name) else { return Vec::new() };
        self.server.with(|machine| machine.initiators(id)).iter().map(IscsiName::to_string).collect()
    }

    /// Looks at a served device again and tells its initiators that its size has changed.
    pub fn refresh(&self, name: &str) -> Result<(), IscsiError> {
        let id = self.find(name)?;
        if let Some(disk) = self.server.device(id) {
            self.server.with(|machine| machine.resize(id, disk.geometry()));
        }
        Ok(())
    }

    /// Stops listening and ends all connections in an orderly way: what is at a device is answered first. Returns when
    /// no device is used any more.
    pub async fn stop(&self) {
        self.server.stop().await;
    }

    fn find(&self, name: &str) -> Result<ExportId, IscsiError> {
        let found = self.server.with(|machine| machine.serves(name));
        found.ok_or_else(|| IscsiError::NotServed(name.to_string()))
    }
}

impl Machine for Target {
    type Export = ExportId;
    type Device = DiskRef;
    type Effect = Effect;
    type Event = Done;

    server::machine_calls!(Target);

    fn accept(&mut self, host: &Host, out: &mut Outbox) -> Option<ConnectionId> {
        Target::accept(self, host.now(), host.random_bytes(), out)
    }

    fn on_event(&mut self, id: ConnectionId, Done(slot, outcome): Done, out: &mut Outbox) {
        self.on_done(id, slot, outcome, out);
    }

    fn perform(shared: &Shared<Target>, effect: Effect) {
        match effect {
            Effect::Submit { connection, slot, export, request } => {
                let answers = shared.answers(connection);
                let ticket = Ticket::new(move |outcome| answers.push(Done(slot, outcome)));
                match shared.device(export) {
                    Some(disk) => disk.submit(request, ticket),
                    None => ticket.fail(block::Fault::Gone),
                }
            }
            Effect::Wake(connection) => shared.wake(connection),
            Effect::Timer => shared.deadline_changed(),
            Effect::Idle(export) => shared.idle(export),
        }
    }
}
