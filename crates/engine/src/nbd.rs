//! The NBD server of a node: drives `nbd`'s server machine with sockets, disks and the clock.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use block::link::{ConnectionId, Phase, Receive};
use block::{Buf, BufMut, Instant, Ticket};
use host::{DiskRef, Host};
use nbd::server::{Effect, Export, ExportError, ExportId, ExportStats, Outbox, Server as Exports};
use thiserror::Error;

use crate::server::{self, Machine, Server, Shared};

/// Why the server did not do something.
#[derive(Debug, Error)]
pub enum NbdError {
    /// The system refused the listening socket.
    #[error("can not listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// The name is taken or impossible, or there are too many exports.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// No export has that name.
    #[error("{0} is not served")]
    NotServed(String),
}

/// An NBD server on one address. Every method is to be called on the thread that started it.
pub struct NbdServer {
    server: Server<Exports>,
    address: SocketAddr,
}

/// A disk has answered a request of a command: slot and piece.
pub(crate) struct Done(u32, u32, block::Outcome);

impl NbdServer {
    /// Listens; port 0 lets the system choose.
    pub async fn start(host: &Host, bind: SocketAddr) -> Result<Rc<NbdServer>, NbdError> {
        let listener = host.listen(bind).map_err(|source| NbdError::Listen { address: bind, source })?;
        let address = listener.local();
        Ok(Rc::new(NbdServer { server: Server::start(host, Exports::new(), vec![listener]), address }))
    }

    /// The address that is listened on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves a device under a name.
    pub fn export(&self, name: &str, description: &str, disk: DiskRef) -> Result<(), NbdError> {
        let export = Export { name: name.into(), description: description.into(), geometry: disk.geometry() };
        let added = self.server.with(|machine| machine.export(export))?;
        self.server.add(added, disk);
        Ok(())
    }

    /// Serves a device no longer. Its clients get the answers of the commands that are at the device, then their
    /// connections are closed. Returns when the device is not used any more.
    pub async fn unexport(&self, name: &str) -> Result<(), NbdError> {
        self.server.unexport(self.find(name)?).await;
        Ok(())
    }

    /// Whether there is an export of that name.
    pub fn serves(&self, name: &str) -> bool {
        self.find(name).is_ok()
    }

    /// What was done for the clients of an export since it is served.
    pub fn stats(&self, name: &str) -> Option<ExportStats> {
        let id = self.find(name).ok()?;
        self.server.with(|machine| machine.stats(id))
    }

    /// How many connections an export has.
    pub fn clients(&self, name: &str) -> usize {
        self.find(name).map_or(0, |id| self.server.with(|machine| machine.clients(id)))
    }

    /// Looks at a served device again. Clients see another size when they connect again.
    pub fn refresh(&self, name: &str) -> Result<(), NbdError> {
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

    fn find(&self, name: &str) -> Result<ExportId, NbdError> {
        let found = self.server.with(|machine| machine.serves(name));
        found.ok_or_else(|| NbdError::NotServed(name.to_string()))
    }
}

impl Machine for Exports {
    type Export = ExportId;
    type Device = DiskRef;
    type Effect = Effect;
    type Event = Done;

    const WANTS_SENT: bool = true;

    server::machine_calls!(Exports);

    fn accept(&mut self, host: &Host, out: &mut Outbox) -> Option<ConnectionId> {
        Exports::accept(self, host.now(), out)
    }

    fn on_event(&mut self, id: ConnectionId, Done(slot, piece, outcome): Done, out: &mut Outbox) {
        self.on_done(id, slot, piece, outcome, out);
    }

    fn on_sent(&mut self, id: ConnectionId, out: &mut Outbox) {
        Exports::on_sent(self, id, out);
    }

    fn perform(shared: &Shared<Exports>, effect: Effect) {
        match effect {
            Effect::Submit { connection, slot, piece, export, request } => {
                let answers = shared.answers(connection);
                let ticket = Ticket::new(move |outcome| answers.push(Done(slot, piece, outcome)));
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
