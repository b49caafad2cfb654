//! What the rest of the engine says to a nexus, and what it hears from it.

use std::rc::Rc;
use std::time::Duration;

use block::{BlockSize, Bytes, Generation};
use host::{DiskRef, LocalFuture, Queue};
use thiserror::Error;
use uuid::Uuid;

pub use nexus::{RebuildState, Settings};

/// One child of a nexus to open.
pub struct ChildSpec {
    /// The child's name in commands and reports.
    pub uri: String,
    /// The device, or why it could not be opened.
    pub disk: Result<DiskRef, String>,
}

/// A nexus to open.
pub struct NexusSpec {
    /// The volume's identity; the GUID of its label.
    pub uuid: Uuid,
    /// The usable size. Children must be larger by the label: 5 MiB in front, 33 blocks at the end.
    pub size: Bytes,
    /// The members, reachable or not.
    pub children: Vec<ChildSpec>,
    /// What the store knows; `None` when it has never heard of the volume.
    pub ledger: Option<StoredLedger>,
    /// Where the ledger is recorded besides the members.
    pub store: Rc<dyn LedgerStore>,
    /// Thresholds, deadlines and rebuild limits.
    pub settings: Settings,
    /// The volume is new: children without a ledger hold equal contents (new replicas read as zeroes) and are in sync.
    /// Without effect when a ledger is found on any child or in the store.
    pub fresh: bool,
    /// Label children even when they hold something else.
    pub force: bool,
    /// Where changes are told.
    pub events: Queue<NexusEvent>,
}

/// A ledger as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredLedger {
    /// The ledger's version; each record has a higher one.
    pub generation: Generation,
    /// The URIs of the members in sync.
    pub in_sync: Vec<String>,
}

/// The durable place, besides the members, where ledgers are kept: the control plane or the engine's configuration.
pub trait LedgerStore {
    /// Keeps the ledger of a volume; answered once it is durable. A ledger whose generation is not above the stored one
    /// is refused with [`LedgerError::Fenced`], unless it is the very same ledger again.
    fn record(&self, volume: Uuid, ledger: StoredLedger) -> LocalFuture<'static, Result<(), LedgerError>>;
}

/// Why a ledger was not recorded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LedgerError {
    /// The store knows a newer generation: another nexus owns the volume.
    #[error("a newer nexus owns the volume")]
    Fenced,
    /// The store cannot be reached now; the record is tried again.
    #[error("the ledger store cannot be reached: {0}")]
    Unavailable(String),
}

/// A store that is never there: only majorities of members count. For tests and tools.
pub struct NoStore;

impl LedgerStore for NoStore {
    fn record(&self, _volume: Uuid, _ledger: StoredLedger) -> LocalFuture<'static, Result<(), LedgerError>> {
        Box::pin(std::future::ready(Err(LedgerError::Unavailable("there is none".into()))))
    }
}

/// How well a nexus is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NexusState {
    /// Every child is in sync.
    Online,
    /// At least one child is in sync, and one is not.
    Degraded,
    /// It cannot serve.
    Faulted,
}

/// How well a child is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildState {
    /// In sync.
    Online,
    /// Open, waits for a rebuild.
    OutOfSync,
    /// Being rebuilt.
    Rebuilding,
    /// Taken out by an operator.
    Offline,
    /// Failed, or could not be opened.
    Faulted,
}

/// A child as reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildInfo {
    /// Its name.
    pub uri: String,
    /// Its state.
    pub state: ChildState,
    /// Why it is not online; empty when it is.
    pub reason: String,
    /// Its rebuild, while there is one.
    pub rebuild: Option<RebuildInfo>,
    /// Errors in the present window.
    pub errors: u64,
}

impl ChildInfo {
    /// v0.3.0's number: percent of the rebuild, or -1 when there is none.
    pub fn rebuild_progress(&self) -> i32 {
        self.rebuild.as_ref().map_or(-1, |r| r.percent() as i32)
    }
}

/// A rebuild as reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RebuildInfo {
    /// v0.3.0's states.
    pub state: RebuildState,
    /// Bytes copied.
    pub bytes_done: Bytes,
    /// Bytes to copy in all.
    pub bytes_total: Bytes,
    /// Bytes copied in a second, lately.
    pub bytes_per_second: u64,
    /// Time to the end, when known.
    pub eta: Option<Duration>,
    /// The URI of the child that is read; empty when none can be.
    pub source: String,
}

impl RebuildInfo {
    /// Percent copied, 0 to 100.
    pub fn percent(&self) -> u32 {
        if self.bytes_total.0 == 0 {
            return 100;
        }
        (u128::from(self.bytes_done.0) * 100 / u128::from(self.bytes_total.0)) as u32
    }
}

/// A nexus as reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NexusInfo {
    /// The volume.
    pub uuid: Uuid,
    /// The usable size.
    pub size: Bytes,
    /// The block size of the children.
    pub block_size: BlockSize,
    /// How well it is.
    pub state: NexusState,
    /// Why it is not online; empty when it is.
    pub reason: String,
    /// The children, in the order in which they were given and added.
    pub children: Vec<ChildInfo>,
    /// The ledger in force.
    pub generation: Generation,
    /// The URIs of the ledger's members that are in sync.
    pub in_sync: Vec<String>,
}

/// Something that changed. [`NexusInfo`] has the whole picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NexusEvent {
    /// The volume.
    pub uuid: Uuid,
    /// What happened, for a person.
    pub text: String,
}

/// Why a nexus could not be opened or a command was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NexusError {
    /// There is no child with that URI.
    #[error("nexus {nexus}: no child {uri}")]
    ChildNotFound {
        /// The volume.
        nexus: Uuid,
        /// The child.
        uri: String,
    },
    /// There is a child with that URI already.
    #[error("nexus {nexus}: {uri} is a child already")]
    ChildExists {
        /// The volume.
        nexus: Uuid,
        /// The child.
        uri: String,
    },
    /// A child cannot be a member: too small, other block size, foreign contents, another volume's label.
    #[error("nexus {nexus}: child {uri}: {reason}")]
    BadChild {
        /// The volume.
        nexus: Uuid,
        /// The child.
        uri: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A parameter is wrong.
    #[error("nexus {nexus}: {reason}")]
    Invalid {
        /// The volume.
        nexus: Uuid,
        /// What is wrong.
        reason: String,
    },
    /// The ledger rules do not allow the volume to be served from the children at hand.
    #[error("nexus {nexus} cannot be opened: {reason}")]
    NoQuorum {
        /// The volume.
        nexus: Uuid,
        /// What is missing.
        reason: String,
    },
    /// The command would take away the last good copy.
    #[error("nexus {nexus}: {uri} is the last copy in sync")]
    LastCopy {
        /// The volume.
        nexus: Uuid,
        /// The child.
        uri: String,
    },
    /// The object is not in a state for this command.
    #[error("nexus {nexus}: {reason}")]
    BadState {
        /// The volume.
        nexus: Uuid,
        /// Why not.
        reason: String,
    },
    /// There is no rebuild job for the child.
    #[error("nexus {nexus}: no rebuild of {uri}")]
    NoRebuild {
        /// The volume.
        nexus: Uuid,
        /// The child.
        uri: String,
    },
    /// A newer nexus owns the volume.
    #[error("nexus {nexus}: a newer nexus owns the volume")]
    Fenced {
        /// The volume.
        nexus: Uuid,
    },
}
