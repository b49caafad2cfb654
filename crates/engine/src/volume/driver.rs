//! The volume's one task, and the commands.

use std::rc::Rc;

use block::{BlockSize, Bytes, Fault, Features, Geometry, Request, Ticket};
use host::{Disk, DiskRef, Host};
use uuid::Uuid;

use super::{ChildSpec, NexusError, NexusInfo, NexusSpec, RebuildInfo, Settings};

/// An open nexus.
pub struct Nexus {
    uuid: Uuid,
    size: Bytes,
}

impl Nexus {
    /// Opens a volume: reads labels and ledgers, decides who is in sync, records a new generation, and serves.
    pub async fn open(_host: &Host, spec: NexusSpec) -> Result<Rc<Nexus>, NexusError> {
        Err(NexusError::BadState { nexus: spec.uuid, reason: "the mirror has not landed".into() })
    }
    /// The volume's identity.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }
    /// The usable size.
    pub fn size(&self) -> Bytes {
        self.size
    }
    /// The whole picture.
    pub fn info(&self) -> NexusInfo {
        unreachable!("a nexus is not made yet")
    }
    /// Adds a child, out of sync; with `rebuild`, starts to copy to it.
    pub async fn add_child(&self, _child: ChildSpec, _rebuild: bool, _force: bool) -> Result<(), NexusError> {
        Err(self.not_yet())
    }
    /// Takes a child out of the volume for good. An unknown child is fine.
    pub async fn remove_child(&self, _uri: &str) -> Result<(), NexusError> {
        Err(self.not_yet())
    }
    /// Takes a child out until [`Nexus::online_child`].
    pub async fn offline_child(&self, _uri: &str) -> Result<(), NexusError> {
        Err(self.not_yet())
    }
    /// Brings an offline or faulted child back, with its device opened anew if it was closed; starts its rebuild, which
    /// copies only what differs.
    pub async fn online_child(&self, _uri: &str, _disk: Option<DiskRef>) -> Result<(), NexusError> {
        Err(self.not_yet())
    }
    /// Treats a child as failed.
    pub async fn fault_child(&self, _uri: &str) -> Result<(), NexusError> {
        Err(self.not_yet())
    }
    /// Starts the rebuild of a child that is out of sync.
    pub fn start_rebuild(&self, _uri: &str) -> Result<(), NexusError> {
        Err(self.not_yet())
    }
    /// Ends a rebuild; what was copied is remembered.
    pub fn stop_rebuild(&self, _uri: &str) -> Result<(), NexusError> {
        Err(self.not_yet())
    }
    /// Lets a rebuild wait.
    pub fn pause_rebuild(&self, _uri: &str) -> Result<(), NexusError> {
        Err(self.not_yet())
    }
    /// Lets a waiting rebuild go on.
    pub fn resume_rebuild(&self, _uri: &str) -> Result<(), NexusError> {
        Err(self.not_yet())
    }
    /// How far a rebuild is.
    pub fn rebuild_info(&self, _uri: &str) -> Result<RebuildInfo, NexusError> {
        Err(self.not_yet())
    }
    /// Changes the settings from now on.
    pub fn set_settings(&self, _settings: Settings) -> Result<(), NexusError> {
        Err(self.not_yet())
    }
    /// Waits for what is in flight, marks the members as clean and lets go of them. New requests fail with
    /// [`Fault::Aborted`].
    pub async fn close(&self) -> Result<(), NexusError> {
        Err(self.not_yet())
    }
    fn not_yet(&self) -> NexusError {
        NexusError::BadState { nexus: self.uuid, reason: "the mirror has not landed".into() }
    }
}

impl Disk for Nexus {
    fn geometry(&self) -> Geometry {
        let block_size = BlockSize::B512;
        Geometry { block_size, blocks: block_size.blocks_in(self.size), features: Features::default() }
    }
    fn submit(&self, _request: Request, ticket: Ticket) {
        ticket.fail(Fault::Aborted);
    }
    fn label(&self) -> String {
        format!("nexus-{}", self.uuid)
    }
}
