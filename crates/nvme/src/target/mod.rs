//! The target machine: subsystems, their controllers, and the connections of hosts.
//!
//! One [`Target`] owns everything. It does no I/O and reads no clock: the driver tells it what was received, what the
//! disks answered and what time it is; the machine says what to receive into ([`Target::receive`]), what to send
//! ([`Target::take_output`]), what to submit and whom to wake ([`Effect`]), and when a connection is to be closed
//! ([`Target::phase`]).
//!
//! What holds at all times:
//! * A command that was given to a disk keeps its slot, and its connection keeps its place in the controller, until the
//!   disk has answered, also when the socket is long gone.
//! * An admin Connect is answered only when no command of an ended association of the same host with the same
//!   subsystem is at a disk: a command of a dead connection never lands after its retry.
//! * An opening of a member by a nexus has one association: a new one ends those before it. An opening that was replaced
//!   by another one, one that has reserved the member or written to it, is never let in again (see `sessions`); what keeps
//!   it from writing over an association that it still has is the reservation.

mod admin;
mod commands;
mod connect;
mod connection;
mod controller;
mod features;
mod io;
mod lifecycle;
mod output;
mod pages;
mod receive;
mod sessions;
mod slots;

use std::collections::BTreeMap;
use std::net::SocketAddr;

pub use block::link::{ConnectionId, Phase, Receive};
use block::{Buf, Geometry, HostId, Instant, Request, Reserve, limits};
use slab::Slab;
use thiserror::Error;
use uuid::Uuid;

use crate::Nqn;
use connection::{Connection, Stage};
use controller::Controller;
pub use pages::MODEL;
use sessions::Sessions;

/// What a target is told at its start.
#[derive(Clone, Debug)]
pub struct TargetOptions {
    /// The address that discovery tells to hosts; it may differ from the one that is listened on.
    pub advertised: SocketAddr,
    /// Firmware revision, at most eight ASCII characters.
    pub firmware: String,
    /// A name of its own for the discovery subsystem, beside the well-known one.
    pub discovery_nqn: Option<Nqn>,
    /// Tells this run of the process from every other: random, not zero. Our initiator notices by it that the contents of
    /// a namespace in memory are gone.
    pub instance: [u8; 16],
    /// Tells this run of the machine from every other, not zero. Our initiator notices by it that writes which were not
    /// flushed may be gone; a process that is killed loses none on namespaces on disks.
    pub boot_id: [u8; 16],
}

/// A namespace to be served, as namespace 1 of a subsystem of its own.
#[derive(Clone, Debug)]
pub struct Export {
    /// The subsystem's name.
    pub nqn: Nqn,
    /// The namespace's UUID and NGUID; the serial number comes from it too.
    pub uuid: Uuid,
    /// Size, block size, features.
    pub geometry: Geometry,
    /// Whether the driver keeps reservations for it.
    pub reserving: Reserving,
}

/// Whether a namespace has reservations (Base 8.19). They are kept and enforced by the driver, since not only the hosts of
/// this target may use the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserving {
    /// It has none.
    No,
    /// It has, while the driver runs.
    Volatile,
    /// It has, and can keep them through power loss (PTPL).
    Persistent,
}

/// Why a namespace can not be served.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ExportError {
    /// There is such a subsystem, or it is the discovery subsystem's name.
    #[error("{0} is served already")]
    Exists(Nqn),
    /// The limit on subsystems.
    #[error("the target serves {} subsystems and can not serve more", limits::SUBSYSTEMS)]
    Full,
}

/// A served subsystem, from [`Target::export`] until [`Effect::Idle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubsystemId(u32);

/// What was done for a subsystem's hosts since it is served. Commands and bytes that succeeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExportStats {
    /// Read and Compare commands.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Write commands.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Flush, Write Zeroes and Dataset Management commands.
    pub others: u64,
    /// Commands that failed at the disk.
    pub errors: u64,
}

/// Something for the driver to do, in order.
#[derive(Debug)]
pub enum Effect {
    /// Give the request to the subsystem's disk; the outcome goes to [`Target::on_done`].
    Submit {
        /// The connection whose command it is.
        connection: ConnectionId,
        /// The command.
        slot: u16,
        /// Whose disk.
        subsystem: SubsystemId,
        /// Who asks: what the subsystem's reservation does not allow that host fails with [`block::Fault::Fenced`].
        host: HostId,
        /// What to do.
        request: Request,
    },
    /// Change the subsystem's reservation; the outcome, without data, goes to [`Target::on_done`].
    Reserve {
        /// The connection whose command it is.
        connection: ConnectionId,
        /// The command.
        slot: u16,
        /// Whose reservation.
        subsystem: SubsystemId,
        /// Who asks.
        host: HostId,
        /// For what.
        ask: Reserve,
    },
    /// Tell the subsystem's reservation by [`Target::on_reported`].
    Report {
        /// The connection whose command it is.
        connection: ConnectionId,
        /// The command.
        slot: u16,
        /// Whose reservation.
        subsystem: SubsystemId,
    },
    /// Look at that connection: it has something to send, or its phase has changed.
    Wake(ConnectionId),
    /// The deadline may have changed.
    Timer,
    /// A subsystem that is no longer served has no connection and no command left.
    Idle(SubsystemId),
}

/// Where effects are put.
pub type Outbox = Vec<Effect>;

/// A served namespace.
#[derive(Debug)]
struct Subsystem {
    nqn: Nqn,
    uuid: Uuid,
    geometry: Geometry,
    reserving: Reserving,
    state: SubsystemState,
    stats: ExportStats,
    sessions: Sessions,
}

/// `Serving ──unexport──► Retiring ──last connection ended──► gone`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SubsystemState {
    Serving,
    Retiring,
}

/// An admin Connect that waits for the end of older associations.
#[derive(Debug)]
struct Held {
    connection: ConnectionId,
    slot: u16,
    controller: u16,
}

/// The target. See the module's description.
#[derive(Debug)]
pub struct Target {
    options: TargetOptions,
    subsystems: Slab<Subsystem>,
    by_nqn: BTreeMap<Nqn, SubsystemId>,
    controllers: BTreeMap<u16, Controller>,
    connections: Slab<Connection>,
    held: Vec<Held>,
    /// GENCTR of the discovery log.
    generation: u64,
    next_controller: u16,
}

impl Target {
    /// A target that serves nothing but discovery.
    pub fn new(options: TargetOptions) -> Target {
        Target {
            options,
            subsystems: Slab::new(),
            by_nqn: BTreeMap::new(),
            controllers: BTreeMap::new(),
            connections: Slab::new(),
            held: Vec::new(),
            generation: 1,
            next_controller: 1,
        }
    }

    /// Whether the name is served.
    pub fn serves(&self, nqn: &str) -> Option<SubsystemId> {
        self.by_nqn.get(nqn).copied()
    }

    /// What was done for a subsystem's hosts.
    pub fn stats(&self, subsystem: SubsystemId) -> Option<ExportStats> {
        self.subsystems.get(subsystem.0 as usize).map(|s| s.stats)
    }

    /// The hosts that have a controller of the subsystem.
    pub fn hosts(&self, subsystem: SubsystemId) -> Vec<Nqn> {
        self.controllers.values().filter(|c| c.subsystem == Some(subsystem)).map(|c| c.host_nqn.clone()).collect()
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
    /// event). The buffer comes back with [`Target::on_received`] or is dropped with [`Target::on_lost`].
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
            Stage::Greeting | Stage::Unconnected | Stage::Joined | Stage::Terminating => Phase::Open,
            Stage::Finishing if self.is_at_disk(connection) => Phase::Finishing,
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

    /// Whether the disk works on a command of the connection's association. The connections of an association are
    /// closed together: a host that misses one gives up all of them, and with them the answers that are to come.
    fn is_at_disk(&self, connection: &Connection) -> bool {
        let controller = connection.role.and_then(|role| self.controllers.get(&role.controller));
        let queues = controller.into_iter().flat_map(|c| c.queues.values());
        connection.slots.at_disk() > 0 || queues.into_iter().any(|id| self.connections[id.index()].slots.at_disk() > 0)
    }

    /// A connection that exists; the driver never names another.
    fn connection(&mut self, id: ConnectionId) -> &mut Connection {
        &mut self.connections[id.index()]
    }

    fn subsystem(&self, id: SubsystemId) -> &Subsystem {
        &self.subsystems[id.0 as usize]
    }
}
