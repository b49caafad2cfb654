//! What the supervisor has to know of a protocol: how an association comes and goes, and how requests become commands.

use std::rc::{Rc, Weak};

use block::Blocks;
use host::Host;
use uuid::Uuid;

use super::connection::{Connection, Link, Loss, Wire};
use super::flights::{Limits, Op};
use super::{RemoteError, RemoteOptions};

/// The command of a protocol.
pub(super) type CommandOf<P> = <<P as Protocol>::Wire as Wire>::Command;

/// A protocol, and which device is meant.
pub(super) trait Protocol: Sized + 'static {
    /// The machine of a connection.
    type Wire: Wire;
    /// What an association has besides.
    type Extra: Copy + 'static;

    /// The device, as a person would write it.
    fn uri(&self) -> String;
    /// Brings an association up. What was opened is closed again when it fails. When it succeeds, nothing that an earlier
    /// association of this device has left behind can still happen.
    async fn associate(
        &self,
        host: &Host,
        options: &RemoteOptions,
        link: Weak<dyn Link>,
    ) -> Result<Association<Self>, RemoteError>;
    /// Ends an association in order.
    async fn close(association: &Association<Self>, host: &Host);
    /// The size of the device as the target says now; none when it does not answer, or not so.
    async fn blocks(line: &Connection<Self::Wire>, extra: Self::Extra) -> Option<Blocks>;
    /// The command for a part of a request.
    fn command(association: &Association<Self>, op: &Op) -> CommandOf<Self>;
    /// Asks the target for a sign of life, unless one is awaited.
    fn probe(association: &Association<Self>);
}

/// A device that can be used, and its connections.
pub(super) struct Association<P: Protocol> {
    /// The connections. The first shows whether the target lives.
    pub(super) connections: Vec<Rc<Connection<P::Wire>>>,
    /// How many of them, from the first on, take no requests.
    pub(super) reserved: usize,
    pub(super) limits: Limits,
    pub(super) uuid: Option<Uuid>,
    /// What the target calls this run of itself: it changes when the target restarts. `None` for targets that do not say.
    pub(super) instance: Option<[u8; 16]>,
    pub(super) extra: P::Extra,
}

impl<P: Protocol> Association<P> {
    /// The connections for requests.
    pub(super) fn io(&self) -> &[Rc<Connection<P::Wire>>] {
        &self.connections[self.reserved..]
    }
    /// Why the association is over, if it is.
    pub(super) fn why_over(&self) -> Option<String> {
        self.connections.iter().find_map(|connection| connection.why())
    }
    /// Ends all connections that have not ended yet.
    pub(super) fn end(&self) {
        for connection in &self.connections {
            connection.fail(Loss::Ours);
        }
    }
}

/// Nobody can use the connections of an association that is gone.
impl<P: Protocol> Drop for Association<P> {
    fn drop(&mut self) {
        self.end();
    }
}

/// Connections of a bring-up that has not succeeded (yet): hung up when it fails or is given up.
pub(super) struct Opened<W: Wire>(Vec<Rc<Connection<W>>>);

impl<W: Wire> Opened<W> {
    pub(super) fn new() -> Opened<W> {
        Opened(Vec::new())
    }
    pub(super) fn keep(&mut self, connection: Rc<Connection<W>>) -> Rc<Connection<W>> {
        self.0.push(connection.clone());
        connection
    }
    /// All of them, which are not hung up any more.
    pub(super) fn take(&mut self) -> Vec<Rc<Connection<W>>> {
        std::mem::take(&mut self.0)
    }
}

impl<W: Wire> Drop for Opened<W> {
    fn drop(&mut self) {
        for connection in &self.0 {
            connection.hang_up();
        }
    }
}
