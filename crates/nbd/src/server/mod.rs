//! The server machine: exports, and the connections of clients.
//!
//! One [`Server`] owns everything. It does no I/O and reads no clock: the driver tells it what was received, what the
//! disks answered and what time it is; the machine says what to receive into ([`Server::receive`]), what to send
//! ([`Server::take_output`]), what to submit and whom to wake ([`Effect`]), and when a connection is to be closed
//! ([`Server::phase`]).
//!
//! What holds at all times:
//! * A command that was given to a disk keeps its slot until the disk has answered, also when the socket is long gone.
//! * A connection enters transmission only when no command of a *lost* connection with the same export is at the disk: what
//!   a client sends again over a new connection is not overtaken by what it sent before, as far as the server has noticed
//!   that the old connection is lost. (NBD does not tell clients apart; more can not be done.)
//! * **`CAN_MULTI_CONN` is true.** A flush covers the writes that were answered before it was submitted, on whichever
//!   connection: that is what [`Request::Flush`] means, it is given to the one device behind all connections, and a write
//!   is answered to the client only after the device has answered it. A read sees all answered writes for the same reason.

mod commands;
mod connection;
mod lifecycle;
mod options;
mod receive;

use std::collections::BTreeMap;

pub use block::link::{ConnectionId, Phase, Receive};
use block::{Buf, Geometry, Instant, Request, limits};
use slab::Slab;
use thiserror::Error;

use crate::proto::flag;
use connection::{Connection, Stage};

/// A disk to be served.
#[derive(Clone, Debug)]
pub struct Export {
    /// Its name: UTF-8, not empty, at most [`limits::NBD_NAME_BYTES`].
    pub name: String,
    /// What it is, for people.
    pub description: String,
    /// Size, block size, features.
    pub geometry: Geometry,
}

/// Why a disk can not be served.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ExportError {
    /// There is an export of that name.
    #[error("{0} is served already")]
    Exists(String),
    /// Empty, or too long.
    #[error("an export's name has 1 to {} bytes", limits::NBD_NAME_BYTES)]
    Name,
    /// The limit on exports.
    #[error("{} exports are served, there can not be more", limits::SUBSYSTEMS)]
    Full,
}

/// A served disk, from [`Server::export`] until [`Effect::Idle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExportId(u32);

/// What was done for an export's clients since it is served. Commands and bytes that succeeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExportStats {
    /// Reads.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Flushes, trims, write-zeroes.
    pub others: u64,
    /// Commands that failed at the disk.
    pub errors: u64,
}

/// Something for the driver to do, in order.
#[derive(Debug)]
pub enum Effect {
    /// Give the request to the disk; the outcome goes to [`Server::on_done`].
    Submit {
        /// The connection whose command it is.
        connection: ConnectionId,
        /// The command.
        slot: u32,
        /// Which of the command's requests.
        piece: u32,
        /// Whose disk.
        export: ExportId,
        /// What to do.
        request: Request,
    },
    /// Look at that connection: it has something to send, or its phase has changed.
    Wake(ConnectionId),
    /// The deadline may have changed.
    Timer,
    /// A disk that is no longer served has no connection and no command left.
    Idle(ExportId),
}

/// Where effects are put.
pub type Outbox = Vec<Effect>;

#[derive(Debug)]
struct Served {
    export: Export,
    state: ServedState,
    stats: ExportStats,
}

impl Served {
    /// The transmission flags. `chunks`: structured or extended replies are agreed on.
    fn flags(&self, chunks: bool) -> u16 {
        let always = flag::HAS_FLAGS
            | flag::SEND_FLUSH
            | flag::SEND_FUA
            | flag::SEND_TRIM
            | flag::SEND_WRITE_ZEROES
            | flag::CAN_MULTI_CONN
            | flag::SEND_CACHE
            | flag::SEND_FAST_ZERO;
        if chunks { always | flag::SEND_DF } else { always }
    }
}

/// `Serving ──unexport──► Retiring ──last connection ended──► gone`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ServedState {
    Serving,
    Retiring,
}

/// The server. See the module's description.
#[derive(Debug, Default)]
pub struct Server {
    exports: Slab<Served>,
    by_name: BTreeMap<String, ExportId>,
    connections: Slab<Connection>,
}

impl Server {
    /// A server without exports.
    pub fn new() -> Server {
        Server::default()
    }

    /// Whether the name is served.
    pub fn serves(&self, name: &str) -> Option<ExportId> {
        self.by_name.get(name).copied()
    }

    /// What was done for an export's clients.
    pub fn stats(&self, export: ExportId) -> Option<ExportStats> {
        self.exports.get(export.0 as usize).map(|e| e.stats)
    }

    /// How many connections use an export.
    pub fn clients(&self, export: ExportId) -> usize {
        self.connections.iter().filter(|(_, c)| c.export == Some(export)).count()
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Takes up a new connection; `None` when there are too many.
    pub fn accept(&mut self, now: Instant, out: &mut Outbox) -> Option<ConnectionId> {
        if self.connections.len() >= limits::CONNECTIONS {
            return None;
        }
        out.push(Effect::Timer);
        Some(ConnectionId(self.connections.insert(Connection::new(now)) as u32))
    }

    /// Where the next bytes of the connection go; `None` when nothing shall be received now (ask again after the next
    /// event). The buffer comes back with [`Server::on_received`] or is dropped with [`Server::on_lost`].
    pub fn receive(&mut self, id: ConnectionId) -> Option<Receive> {
        self.connection(id).receive()
    }

    /// What the connection has to send now, in order.
    pub fn take_output(&mut self, id: ConnectionId) -> Vec<Buf> {
        self.connection(id).output.take()
    }

    /// What to do with the connection's socket.
    pub fn phase(&self, id: ConnectionId) -> Phase {
        let connection = &self.connections[id.index()];
        match connection.stage {
            Stage::Greeting | Stage::Options | Stage::Held(_) | Stage::Transmission => Phase::Open,
            Stage::Finishing if connection.at_disk > 0 => Phase::Finishing,
            Stage::Finishing => Phase::Flush,
            Stage::Closed => Phase::Closed,
            Stage::Ended => Phase::Ended,
        }
    }

    /// Forgets a connection whose phase is [`Phase::Ended`].
    pub fn remove(&mut self, id: ConnectionId) {
        let connection = self.connections.remove(id.index());
        assert_eq!(connection.stage, Stage::Ended, "only a connection that has ended is removed");
    }

    /// A connection that exists; the driver never names another.
    fn connection(&mut self, id: ConnectionId) -> &mut Connection {
        &mut self.connections[id.index()]
    }

    fn served(&mut self, id: ExportId) -> &mut Served {
        &mut self.exports[id.0 as usize]
    }

    fn clients_of(&self, export: ExportId) -> Vec<ConnectionId> {
        let with = self.connections.iter().filter(|(_, c)| c.export == Some(export));
        with.map(|(index, _)| ConnectionId(index as u32)).collect()
    }
}
