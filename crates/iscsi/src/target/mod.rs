//! The target machine: disks, each as logical unit 0 of a target of its own, and the sessions of initiators.
//!
//! One [`Target`] owns everything. It does no I/O and reads no clock: the driver tells it what was received, what the
//! disks answered and what time it is; the machine says what to receive into ([`Target::receive`]), what to send
//! ([`Target::take_output`]), what to submit and whom to wake ([`Effect`]), and when a connection is to be closed
//! ([`Target::phase`]).
//!
//! What holds at all times:
//! * A session has one connection, and error recovery level 0: a lost connection ends its session.
//! * A command that was given to a disk keeps its slot until the disk has answered, also when the socket is long gone or
//!   the command was aborted. The last login answer of a session, and the answer to a task management request, wait until
//!   no command of the session before, or of those that are aborted, is at a disk: an old write never lands after them.
//! * While a COMPARE AND WRITE or ORWRITE is between its reading and its writing, no other change of its unit is under way.

mod connection;
mod execute;
mod full;
mod lifecycle;
mod login;
mod manage;
mod output;
mod receive;
mod tasks;
mod transfer;
mod work;

use std::collections::{BTreeMap, VecDeque};

pub use block::link::{ConnectionId, Phase, Receive};
use block::{Buf, Geometry, Instant, Request, limits};
use slab::Slab;
use thiserror::Error;
use uuid::Uuid;

use crate::IscsiName;
use crate::chap::Chap;
use crate::scsi::pages::Unit;
use crate::scsi::reserve::Reservations;
use connection::{Connection, Stage};
use tasks::Pass;

/// What a target is told at its start.
#[derive(Clone, Debug)]
pub struct TargetOptions {
    /// The address and port that discovery tells to initiators, as text; it may differ from the one listened on.
    pub advertised: String,
    /// The tag of the portal group.
    pub portal_group: u16,
    /// The product revision, at most four characters.
    pub revision: String,
    /// Names this run of the target: another after a restart.
    pub run: [u8; 16],
    /// Who may log in; `None`: everybody.
    pub chap: Option<Chap>,
}

/// A disk to be served, as logical unit 0 of a target of its own.
#[derive(Clone, Debug)]
pub struct Export {
    /// The target's name.
    pub name: IscsiName,
    /// The unit's identity: serial number and device identification come from it.
    pub uuid: Uuid,
    /// The product identification, at most 16 characters.
    pub product: String,
    /// Size, block size, features.
    pub geometry: Geometry,
}

/// Why a disk can not be served.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ExportError {
    /// There is a target of that name.
    #[error("{0} is served already")]
    Exists(IscsiName),
    /// The limit on targets.
    #[error("{} targets are served, there can not be more", limits::SUBSYSTEMS)]
    Full,
}

/// A served disk, from [`Target::export`] until [`Effect::Idle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExportId(u32);

/// What was done for a disk's initiators since it is served. Commands and bytes that succeeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExportStats {
    /// Commands that read.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Commands that write.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Other commands that the disk worked on.
    pub others: u64,
    /// Commands that failed at the disk.
    pub errors: u64,
}

/// Something for the driver to do, in order.
#[derive(Debug)]
pub enum Effect {
    /// Give the request to the disk; the outcome goes to [`Target::on_done`].
    Submit {
        /// The connection whose command it is.
        connection: ConnectionId,
        /// The command.
        slot: u32,
        /// Whose disk.
        export: ExportId,
        /// What to do.
        request: Request,
    },
    /// Look at that connection: it has something to send, or its phase has changed.
    Wake(ConnectionId),
    /// The deadline may have changed.
    Timer,
    /// A disk that is no longer served has no session and no command left.
    Idle(ExportId),
}

/// Where effects are put.
pub type Outbox = Vec<Effect>;

/// A served disk.
#[derive(Debug)]
struct Lun {
    unit: Unit,
    state: LunState,
    stats: ExportStats,
    reservations: Reservations,
    gate: Gate,
}

/// `Serving ──unexport──► Retiring ──last session ended──► gone`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LunState {
    Serving,
    Retiring,
}

/// Lets changes of a unit pass, many at a time or one alone.
#[derive(Debug, Default)]
struct Gate {
    passed: Passed,
    /// In order: none overtakes.
    waiting: VecDeque<(ConnectionId, u32)>,
}

/// `Changes(0) ⇄ Changes(n)`, `Changes(0) ⇄ One`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passed {
    /// So many changes are under way.
    Changes(usize),
    /// One that nothing may come between.
    One,
}

impl Default for Passed {
    fn default() -> Passed {
        Passed::Changes(0)
    }
}

impl Gate {
    /// Whether a command may pass now, were it the first in the line.
    fn admits(&self, pass: Pass) -> bool {
        match (self.passed, pass) {
            (_, Pass::None) | (Passed::Changes(_), Pass::Change) | (Passed::Changes(0), Pass::Exclusive) => true,
            (Passed::One, _) | (Passed::Changes(_), Pass::Exclusive) => false,
        }
    }
    fn enter(&mut self, pass: Pass) {
        match (self.passed, pass) {
            (_, Pass::None) => {}
            (Passed::Changes(n), Pass::Change) => self.passed = Passed::Changes(n + 1),
            (Passed::Changes(0), Pass::Exclusive) => self.passed = Passed::One,
            (passed, pass) => unreachable!("{pass:?} does not pass with {passed:?}"),
        }
    }
    fn leave(&mut self, pass: Pass) {
        match (self.passed, pass) {
            (_, Pass::None) => {}
            (Passed::Changes(n), Pass::Change) => self.passed = Passed::Changes(n - 1),
            (Passed::One, Pass::Exclusive) => self.passed = Passed::Changes(0),
            (passed, pass) => unreachable!("{pass:?} was not let in with {passed:?}"),
        }
    }
}

/// A task management request that waits for the end of aborted commands.
#[derive(Debug)]
struct Aborting {
    connection: ConnectionId,
    itt: u32,
    waits_for: Vec<(ConnectionId, u32)>,
}

/// The target. See the module's description.
#[derive(Debug)]
pub struct Target {
    options: TargetOptions,
    luns: Slab<Lun>,
    by_name: BTreeMap<IscsiName, ExportId>,
    connections: Slab<Connection>,
    aborting: Vec<Aborting>,
    next_tsih: u16,
}

impl Target {
    /// A target that serves nothing but discovery.
    pub fn new(options: TargetOptions) -> Target {
        Target {
            options,
            luns: Slab::new(),
            by_name: BTreeMap::new(),
            connections: Slab::new(),
            aborting: Vec::new(),
            next_tsih: 0,
        }
    }

    /// Whether the name is served.
    pub fn serves(&self, name: &str) -> Option<ExportId> {
        self.by_name.get(name).copied()
    }

    /// What was done for a disk's initiators.
    pub fn stats(&self, export: ExportId) -> Option<ExportStats> {
        self.luns.get(export.0 as usize).map(|l| l.stats)
    }

    /// The initiators that have a session with the disk.
    pub fn initiators(&self, export: ExportId) -> Vec<IscsiName> {
        let sessions = self.connections.iter().filter_map(|(_, c)| c.session.as_ref());
        sessions.filter(|s| s.export == Some(export)).map(|s| s.port.initiator.clone()).collect()
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Takes up a new connection; `None` when there are too many. `seed`: random bytes, for a challenge.
    pub fn accept(&mut self, now: Instant, seed: [u8; 16], out: &mut Outbox) -> Option<ConnectionId> {
        if self.connections.len() >= limits::CONNECTIONS {
            return None;
        }
        out.push(Effect::Timer);
        Some(ConnectionId(self.connections.insert(Connection::new(now, seed)) as u32))
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
            Stage::Login | Stage::Held | Stage::Full => Phase::Open,
            Stage::LoggingOut { .. } => Phase::Finishing,
            Stage::Finishing if connection.tasks.at_disk() > 0 => Phase::Finishing,
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

    fn lun(&mut self, id: ExportId) -> &mut Lun {
        &mut self.luns[id.0 as usize]
    }

    /// The sessions with a disk.
    fn sessions_of(&self, export: ExportId) -> Vec<ConnectionId> {
        let with = self.connections.iter().filter(|(_, c)| c.export() == Some(export));
        with.map(|(index, _)| ConnectionId(index as u32)).collect()
    }
}
