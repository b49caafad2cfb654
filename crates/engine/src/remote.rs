//! A remote namespace as a disk: our own NVMe/TCP initiator, in user space.
//!
//! ```text
//!             connect()
//!                 │
//!                 ▼          connection lost          longer than the deadlines
//!      ┌────────▶ Up ────────────────────▶ Reconnecting ──────────────────▶ Lost
//!      │          │                          │     │                         │ │
//!      └──────────┼───── associated again ───┘     │ another disk answers,   │ │
//!      ▲          │                                │ or one that forgot, or  │ │
//!      │          │                                │ one that has let in     │ │
//!      │          │                                │ somebody else           │ │
//!      └──────────┼────────────────────────────────┼─────────────────────────┘ │
//!                 │ close(), drop                  ▼                           │
//!                 ▼                          Failed, Fenced ◀──────────────────┘
//!               Closed ◀── close(), drop, from everywhere
//! ```
//!
//! **Lost connections.** Requests in flight wait, and are sent again over the next association, until they have seen no
//! progress for `command_deadline`; then they are answered [`Fault::TimedOut`] (the target may know of them) or
//! [`Fault::Gone`] (it can not). While `Lost`, new requests are refused at once; the search for the target goes on. A target
//! whose machine refuses connections is known to be dead; then the patience is `refused_deadline`, which is much shorter.
//!
//! **Why a write may be sent again.** The old association may have left a write behind in the target, which must not
//! land after the retry, or after a later write to the same block (a *ghost write*). Our target ends the old association
//! of a nexus's host name, and waits for its last command, before it answers the Connect of a new one. So whatever the
//! old association left behind has happened, or never will, when the first retry is sent. A target of another make, or
//! another host name, gives no such promise: what holds there is what holds for every NVMe host.
//!
//! **One writer.** When another opening under the same nexus's host name has written to the namespace, our target does not
//! let this one in again: the disk is [`RemoteState::Fenced`], and requests are answered [`Fault::Fenced`]. So a nexus
//! that was replaced while it was cut off never writes to a member again. (The target remembers this while it serves the
//! subsystem; over its restarts the volume's ledger decides.)
//!
//! **A target that restarts** may have lost writes that were answered but not flushed (power, or a crash of the process
//! that cached them). Our targets tell one run from the next; when the run changes while such writes exist, the disk
//! fails for good ([`RemoteState::Failed`]) instead of pretending that a later flush covers them. Its owner opens it
//! anew and brings it up to date. [`OnRestart::Resume`] turns that off.

mod association;
mod connection;
mod flights;
pub mod iscsi;
mod protocol;
mod reservation;
mod supervisor;

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use block::{Fault, Geometry, Request, Ticket};
use host::{Disk, DiskRef, Host, LocalFuture, Reservable};
use nvme::Status;
use nvme::nqn::{self, NqnError};
use thiserror::Error;
use uuid::Uuid;

use association::{Caller, Nvme};
use supervisor::Inner;

/// Which namespace, and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteSpec {
    /// Host name or address of the target.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The subsystem.
    pub nqn: String,
    /// The name under which we connect.
    pub host_nqn: String,
    /// The namespace's UUID, when it is known: nothing else is accepted then. Without it the first namespace is used.
    pub uuid: Option<Uuid>,
}

impl RemoteSpec {
    /// The URI, as a person would write it.
    pub fn uri(&self) -> String {
        let (host, port) = (&self.host, self.port);
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        format!("nvmf://{host}:{port}/{}", self.nqn)
    }
}

/// What a restart of the target means for the disk while writes are not flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRestart {
    /// The disk fails: answered writes may be gone.
    Fail,
    /// The disk fails also when nothing of its own is unflushed: an earlier user of the namespace may have lost writes.
    FailAlways,
    /// It goes on.
    Resume,
}

/// How a namespace is used.
#[derive(Clone, Debug)]
pub struct RemoteOptions {
    /// I/O queues, each a TCP connection; at most what the target grants.
    pub queues: u16,
    /// Commands in flight in one queue; further requests wait.
    pub depth: u16,
    /// How long a request may see no progress before it is answered with a fault; at least 100 ms.
    pub command_deadline: Duration,
    /// The same while the target's machine answers that nobody listens there: its process has ended. At most
    /// `command_deadline` counts.
    pub refused_deadline: Duration,
    /// How long one attempt to bring up an association may take.
    pub connect_timeout: Duration,
    /// The keep-alive timeout (KATO); zero for none. Half of it passes between two keep-alives.
    pub keep_alive: Duration,
    /// Protect headers with CRC32C.
    pub header_digest: bool,
    /// Protect data with CRC32C.
    pub data_digest: bool,
    /// What a restart of the target means while writes are not flushed.
    pub on_restart: OnRestart,
}

/// How long a target may be down that is known to be: long enough for an engine that is started again at once.
pub const REFUSED_DEADLINE: Duration = Duration::from_secs(1);

impl Default for RemoteOptions {
    fn default() -> RemoteOptions {
        RemoteOptions {
            queues: 1,
            depth: 127,
            command_deadline: Duration::from_secs(5),
            refused_deadline: REFUSED_DEADLINE,
            connect_timeout: Duration::from_secs(5),
            keep_alive: Duration::from_secs(5),
            header_digest: false,
            data_digest: false,
            on_restart: OnRestart::Fail,
        }
    }
}

/// Why a namespace can not be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// A name is not an NVMe qualified name.
    #[error("{name:?}: {why}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: NqnError,
    },
    /// No TCP connection.
    #[error("{uri}: cannot connect: {why}")]
    Connect {
        /// The namespace.
        uri: String,
        /// Refused, unreachable, unknown host, ...
        why: io::Error,
    },
    /// It took too long.
    #[error("{uri}: the target did not answer within {} ms", .limit.as_millis())]
    TimedOut {
        /// The namespace.
        uri: String,
        /// The time that it had.
        limit: Duration,
    },
    /// The target has no such subsystem.
    #[error("{uri}: the target has no such subsystem")]
    NoSuchSubsystem {
        /// The namespace.
        uri: String,
    },
    /// The target does not let us in.
    #[error("{uri}: the target does not accept the host {host_nqn}")]
    HostRefused {
        /// The namespace.
        uri: String,
        /// Our name.
        host_nqn: String,
    },
    /// The subsystem has no namespace.
    #[error("{uri}: the subsystem has no namespace")]
    NoNamespace {
        /// The namespace.
        uri: String,
    },
    /// Another namespace than the expected one.
    #[error("{uri}: expected the namespace {expected}, found {found}")]
    Uuid {
        /// The namespace.
        uri: String,
        /// The UUID that was asked for.
        expected: Uuid,
        /// What is there.
        found: String,
    },
    /// Blocks that are neither 512 nor 4096 bytes, or have metadata.
    #[error("{uri}: blocks of {bytes} bytes with {metadata} bytes of metadata are not supported")]
    BlockSize {
        /// The namespace.
        uri: String,
        /// Bytes of a block.
        bytes: u32,
        /// Bytes of metadata of each block.
        metadata: u16,
    },
    /// A namespace without blocks, or with more than can be addressed.
    #[error("{uri}: a namespace of {blocks} blocks is not usable")]
    Size {
        /// The namespace.
        uri: String,
        /// Its size.
        blocks: u64,
    },
    /// The target refused a command of the bring-up.
    #[error("{uri}: the target refused {step}: {status}")]
    Refused {
        /// The namespace.
        uri: String,
        /// The command.
        step: &'static str,
        /// Its answer.
        status: Status,
    },
    /// The connection ended, or the target broke the protocol.
    #[error("{uri}: {why}")]
    Lost {
        /// The namespace.
        uri: String,
        /// What happened.
        why: String,
    },
    /// What answers now is not what was there before.
    #[error("{uri}: {why}")]
    Changed {
        /// The namespace.
        uri: String,
        /// What differs.
        why: String,
    },
}

impl RemoteError {
    /// Whether trying again later makes no sense.
    fn is_final(&self) -> bool {
        matches!(
            self,
            RemoteError::Name { .. }
                | RemoteError::Uuid { .. }
                | RemoteError::BlockSize { .. }
                | RemoteError::HostRefused { .. }
                | RemoteError::Changed { .. }
        )
    }
}

/// Where a remote disk stands; see the diagram of the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemoteState {
    /// Requests are served.
    Up,
    /// The connection is lost, for less than the deadline: requests wait.
    Reconnecting,
    /// The connection is lost for longer: requests are refused. It is still being looked for.
    Lost,
    /// It will not come back, for this reason.
    Failed(String),
    /// Another opening under the same host name has written, or the target does not let us in any more.
    Fenced,
    /// Closed by its owner.
    Closed,
}

/// A subsystem that a target offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveryEntry {
    /// Whether it is a discovery subsystem itself.
    pub is_discovery: bool,
    /// Whether it is reached over TCP.
    pub is_tcp: bool,
    /// Its name.
    pub nqn: String,
    /// Where it is (TRADDR).
    pub address: String,
    /// Its port, as text (TRSVCID).
    pub service: String,
}

/// A remote namespace. When it is dropped, the association is shut down in order, in the background.
pub struct RemoteDisk {
    inner: Rc<Inner<Nvme>>,
}

/// Connects to a namespace. What the target says about it stays constant for the life of the disk, but for its size, which
/// grows when it is asked for anew ([`Disk::refresh`]) or connected to again.
pub async fn connect(host: &Host, spec: RemoteSpec, options: RemoteOptions) -> Result<Rc<RemoteDisk>, RemoteError> {
    let nvme = Nvme { spec, session: host.random_bytes(), reserving: Cell::new(0) };
    Ok(Rc::new(RemoteDisk { inner: Inner::start(host, nvme, options).await? }))
}

/// The same as a plain [`DiskRef`].
pub async fn connect_disk(host: &Host, spec: RemoteSpec, options: RemoteOptions) -> Result<DiskRef, RemoteError> {
    Ok(connect(host, spec, options).await?)
}

/// Asks a target for the subsystems that it offers to the host `host_nqn`.
pub async fn discover(
    host: &Host,
    target: &str,
    port: u16,
    host_nqn: &str,
) -> Result<Vec<DiscoveryEntry>, RemoteError> {
    let spec = RemoteSpec {
        host: target.to_owned(),
        port,
        nqn: nqn::DISCOVERY.to_owned(),
        host_nqn: host_nqn.to_owned(),
        uuid: None,
    };
    let options = RemoteOptions { keep_alive: Duration::ZERO, ..RemoteOptions::default() };
    let limit = options.connect_timeout;
    // Nobody waits for a loss: the calls themselves fail.
    let link = supervisor::no_link();
    let session = host.random_bytes();
    let caller = Caller { host, spec: &spec, options: &options, session, link };
    let found = host.timeout(limit, caller.discover()).await;
    found.unwrap_or_else(|| Err(RemoteError::TimedOut { uri: spec.uri(), limit }))
}

impl RemoteDisk {
    /// Where the disk stands.
    pub fn state(&self) -> RemoteState {
        self.inner.state()
    }

    /// What it is connected to.
    pub fn spec(&self) -> &RemoteSpec {
        &self.inner.protocol().spec
    }

    /// The namespace's UUID, if it has one.
    pub fn uuid(&self) -> Option<Uuid> {
        self.inner.uuid()
    }

    /// Tells the owner of every change of state. The callback only leaves a note (a queue, a waker); it does not call
    /// the disk. There is one callback; a new one replaces it.
    pub fn on_change(&self, callback: impl Fn(&RemoteState) + 'static) {
        self.inner.on_change(Box::new(callback));
    }

    /// Answers what is in flight with [`Fault::Aborted`], shuts the association down in order and waits for that.
    pub async fn close(&self) {
        self.inner.begin_close();
        self.inner.closed().await;
    }
}

impl Disk for RemoteDisk {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }
    fn refresh(&self) -> LocalFuture<'_, Result<Geometry, Fault>> {
        Box::pin(self.inner.refresh())
    }
    fn submit(&self, request: Request, ticket: Ticket) {
        match request.check(&self.geometry()) {
            Ok(()) => self.inner.submit(request, ticket),
            Err(fault) => ticket.fail(fault),
        }
    }
    fn label(&self) -> String {
        self.inner.protocol().spec.uri()
    }
    fn reservable(&self) -> Option<&dyn Reservable> {
        if self.inner.protocol().reserving.get() == 0 { None } else { Some(self) }
    }
    fn run(&self) -> Option<[u8; 16]> {
        // A target that does not say is taken to be always the same.
        Some(self.inner.instance().unwrap_or_default())
    }
}

impl Drop for RemoteDisk {
    fn drop(&mut self) {
        self.inner.begin_close();
    }
}

/// What a request is told that arrives in a state in which nothing is sent.
fn refusal(state: &RemoteState) -> Option<Fault> {
    match state {
        RemoteState::Up | RemoteState::Reconnecting => None,
        RemoteState::Lost | RemoteState::Failed(_) => Some(Fault::Gone),
        RemoteState::Fenced => Some(Fault::Fenced),
        RemoteState::Closed => Some(Fault::Aborted),
    }
}
