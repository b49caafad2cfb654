//! Nexuses: opening, publishing, closing, their children, and bringing them back after a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use block::probe::{Mark, mark};
use block::{Bytes, limits};
use futures_util::future::join_all;
use host::DiskRef;
use nexus::label::Layout;
use uuid::Uuid;

use super::registry::{Bdev, Lease, Origin};
use super::{Node, Result};
use crate::guard::Guard;
use crate::model::{CreateNexus, Error, ErrorKind, Health, LedgerInfo, NexusInfo, Protocol};
use crate::uri::DeviceUri;
use crate::volume::{self, ChildSpec, NexusError, NexusSpec};

use super::publish::Encryption;

/// ```text
///   create ──> Open ──destroy──> (gone)
///   (configuration) ──> Lost ──open──> Open
///                        └──destroy──> (gone)
/// ```
pub(crate) enum NexusState {
    /// It serves, or could. Field order matters: the nexus lets go of its disks before the leases close them.
    Open { nexus: Rc<volume::Nexus>, leases: BTreeMap<String, Lease> },
    /// Named by the configuration, not open; tried again every few seconds.
    Lost { reason: String },
}

pub(crate) struct NexusSlot {
    pub(crate) size: u64,
    /// The URIs of the children, as they were given.
    pub(crate) children: Vec<String>,
    pub(crate) managed: bool,
    /// How it shall be published, if it shall; whether it is, the registry knows.
    pub(crate) published: Option<Protocol>,
    /// With which key, if with one.
    pub(crate) encryption: Option<Encryption>,
    /// Children that an operator took out.
    pub(crate) offline: BTreeSet<String>,
    /// Children that were not reachable when the nexus was opened; they are taken in as soon as they are.
    pub(crate) absent: BTreeSet<String>,
    /// The last good copy, when its device has to be opened anew: then the whole nexus is.
    pub(crate) stranded: Option<String>,
    /// Since the last flush that succeeded, answered writes may have been lost with the last good copy.
    pub(crate) flushes: Flushes,
    pub(crate) state: NexusState,
}

/// Whether the next flush of a nexus may succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flushes {
    /// It covers all that was answered.
    Cover,
    /// What was answered before may be lost: the first flush fails, so that the client learns of it.
    FailOnce,
}

/// How a nexus is opened.
struct Opening<'a> {
    uuid: Uuid,
    size: u64,
    children: &'a [String],
    offline: &'a BTreeSet<String>,
    managed: bool,
    /// Nobody has opened the volume before, as far as the caller knows.
    fresh: bool,
}

/// What came of it.
struct Opened {
    /// What was asked, or what the smallest child can give.
    size: u64,
    nexus: Rc<volume::Nexus>,
    leases: BTreeMap<String, Lease>,
    absent: BTreeSet<String>,
}

impl NexusSlot {
    /// Whether a nexus that was asked to have `size` bytes on these children would have become this one.
    fn was_cut_from(&self, size: u64) -> bool {
        let NexusState::Open { leases, .. } = &self.state else { return false };
        let fits = |lease: &Lease| lease.disk.geometry().bytes() >= Bytes(size);
        !self.managed
            && leases.values().all(fits)
            && usable(size, leases.values().map(|lease| &lease.disk)) == self.size
    }
}

/// What a nexus of `size` bytes gets on its children: whole blocks, and no more than the smallest child has beside its
/// label (docs/decisions/0005-size-of-a-nexus.md).
fn usable<'a>(size: u64, disks: impl Iterator<Item = &'a DiskRef>) -> u64 {
    let room = |disk: &DiskRef| {
        let geometry = disk.geometry();
        // A child that is too small for a label is refused by name when it is looked at.
        let data = Layout::new(geometry.block_size, geometry.blocks).ok()?.data();
        let wanted = geometry.block_size.blocks_in(Bytes(size)).min(data.len);
        Some(geometry.block_size.bytes_of(wanted).0).filter(|bytes| *bytes > 0)
    };
    disks.filter_map(room).min().unwrap_or(size)
}

impl Node {
    /// Creates a nexus over its children; OK when an equal one exists. With a ledger, children that cannot be reached
    /// are allowed as far as the ledger allows it; without, all must be there.
    pub async fn create_nexus(&self, request: CreateNexus) -> Result<NexusInfo> {
        self.running()?;
        let CreateNexus { uuid, size, children, ledger, managed } = request;
        let uuid = parse_uuid(&uuid)?;
        let context = |e: Error| e.context(format!("nexus {uuid}"));
        check_children(&children).map_err(context)?;
        if size == 0 {
            return Err(context(Error::invalid("the size is zero")));
        }
        if managed && self.options.managed_ledgers.is_none() {
            return Err(context(Error::precondition("this node has no control plane that could manage it")));
        }
        let _held = self.locks.hold("nexus", &uuid.to_string()).await;
        let known = self.nexuses.borrow().get(&uuid).map(|slot| {
            let set = |c: &[String]| c.iter().cloned().collect::<BTreeSet<_>>();
            // The control plane's size may be one that the volume has yet to grow to.
            let same = (slot.size == size || managed || slot.was_cut_from(size))
                && slot.managed == managed
                && set(&slot.children) == set(&children);
            (same, matches!(slot.state, NexusState::Open { .. }))
        });
        match known {
            Some((false, _)) => {
                return Err(Error::already_exists(format!("nexus {uuid} exists, with another size or other children")));
            }
            Some((true, true)) if !self.is_overtaken(uuid, ledger.as_ref()) => {
                self.settle().await?;
                return self.nexus_info(uuid);
            }
            Some((true, true)) => self.suspend_nexus(uuid).await,
            Some((true, false)) | None => {}
        }
        let fresh = ledger.is_none() && known.is_none() && !self.ledgers.borrow().contains_key(&uuid);
        let before = self.ledgers.borrow().get(&uuid).cloned();
        let learned = ledger.and_then(|ledger| self.learn_ledger(uuid, ledger));
        let offline = self.nexuses.borrow().get(&uuid).map(|slot| slot.offline.clone()).unwrap_or_default();
        let opening = Opening { uuid, size, children: &children, offline: &offline, managed, fresh };
        let opened = match self.open_nexus(opening).await {
            Ok(opened) => opened,
            Err(error) => {
                self.unlearn_ledger(uuid, learned, before);
                return Err(context(error));
            }
        };
        let slot = NexusSlot {
            size: opened.size,
            children,
            managed,
            published: None,
            encryption: None,
            offline,
            absent: opened.absent,
            stranded: None,
            flushes: Flushes::Cover,
            state: NexusState::Open { nexus: opened.nexus, leases: opened.leases },
        };
        self.insert_nexus(uuid, slot).await?;
        self.persist().await?;
        self.nexus_info(uuid)
    }

    /// Whether a nexus has stopped and the caller knows of a newer ledger: then it is opened anew.
    fn is_overtaken(&self, uuid: Uuid, ledger: Option<&LedgerInfo>) -> bool {
        let info = self.nexus_info(uuid);
        let newer = |info: NexusInfo| ledger.is_some_and(|l| l.generation > info.ledger.generation);
        info.is_ok_and(|info| info.state == Health::Faulted && newer(info))
    }

    /// Closes a nexus, but keeps it as one to be opened again.
    async fn suspend_nexus(&self, uuid: Uuid) {
        let name = device_name(uuid);
        self.unshare_device(&name).await;
        drop(self.registry.remove(&name));
        if let Ok(nexus) = self.open_nexus_of(uuid) {
            // What could not be closed in order is recovered at the next open.
            let _ = nexus.close().await;
        }
        let lost = NexusState::Lost { reason: "being opened anew".into() };
        let before = self.update(uuid, |slot| std::mem::replace(&mut slot.state, lost));
        drop(before);
    }

    async fn insert_nexus(&self, uuid: Uuid, slot: NexusSlot) -> Result<()> {
        let NexusState::Open { nexus, .. } = &slot.state else { return Ok(()) };
        let bdev = Bdev {
            guard: Guard::new(nexus.clone() as DiskRef, None),
            disk: nexus.clone() as DiskRef,
            uuid,
            aliases: Vec::new(),
            uri: String::new(),
            origin: Origin::Nexus,
            share: None,
        };
        if let Err(error) = self.registry.add(&device_name(uuid), bdev) {
            let _ = nexus.close().await;
            return Err(error);
        }
        if self.nexuses.borrow().get(&uuid).is_some_and(|before| before.flushes == Flushes::FailOnce) {
            nexus.fail_next_flush();
        }
        let before = self.nexuses.borrow().get(&uuid).map(|before| (before.published, before.encryption.clone()));
        let (published, encryption) = before.unwrap_or_default();
        let before = self.nexuses.borrow_mut().insert(uuid, NexusSlot { published, encryption, ..slot });
        drop(before);
        // When it fails now it is tried again.
        self.publish_again(uuid).await;
        Ok(())
    }

    /// Opens the children and the nexus on them.
    async fn open_nexus(&self, opening: Opening<'_>) -> Result<Opened> {
        let Opening { uuid, size, children, offline, managed, fresh } = opening;
        let mut leases = BTreeMap::new();
        let mut absent = BTreeSet::new();
        let mut specs = Vec::new();
        let open = |child: &'_ String| {
            let (taken_out, child) = (offline.contains(child), child.clone());
            async move { if taken_out { None } else { Some(self.lease_child(uuid, &child).await) } }
        };
        let opened = join_all(children.iter().map(open)).await;
        for (child, lease) in children.iter().zip(opened) {
            let disk = match lease {
                None => Err("taken offline by an operator".into()),
                Some(Ok(lease)) => {
                    let disk = lease.disk.clone();
                    let there = disk.geometry().bytes();
                    if fresh && there < Bytes(size) {
                        let text = format!("{size} bytes do not fit on child {child}, which has {there}");
                        return Err(Error::out_of_range(text));
                    }
                    leases.insert(child.clone(), lease);
                    Ok(disk)
                }
                // It may be the reason why the volume is opened here: the ledger decides.
                Some(Err(error)) if !fresh && matches!(error.kind, ErrorKind::NotFound | ErrorKind::Unavailable) => {
                    absent.insert(child.clone());
                    Err(error.message)
                }
                Some(Err(error)) => return Err(error),
            };
            specs.push(ChildSpec { uri: child.clone(), disk });
        }
        let cut = fresh && !managed;
        let size = if cut { usable(size, leases.values().map(|lease| &lease.disk)) } else { size };
        let spec = NexusSpec {
            uuid,
            size: Bytes(size),
            children: specs,
            ledger: self.ledgers.borrow().get(&uuid).cloned(),
            store: self.ledger_store(managed),
            settings: self.settings.borrow().nexus(),
            fresh,
            force: false,
            events: self.nexus_events.clone(),
        };
        let nexus = volume::Nexus::open(&self.host, spec).await.map_err(|e| nexus_error(&e))?;
        // It may have grown since the size was written down.
        Ok(Opened { size: nexus.size().0, nexus, leases, absent })
    }

    pub(super) async fn lease_child(&self, uuid: Uuid, child: &str) -> Result<Lease> {
        let uri = DeviceUri::parse(child)?;
        let host_nqn = format!("{}nexus-{uuid}", super::NQN_PREFIX);
        self.lease(&uri, &format!("nexus {uuid}"), &host_nqn).await
    }

    /// Unpublishes and closes a nexus; its children keep their data. OK when there is none.
    pub async fn destroy_nexus(&self, uuid: String) -> Result<()> {
        self.running()?;
        let uuid = parse_uuid(&uuid)?;
        let _held = self.locks.hold("nexus", &uuid.to_string()).await;
        if !self.nexuses.borrow().contains_key(&uuid) {
            return self.settle().await;
        }
        self.close_nexus(uuid).await;
        self.ledgers.borrow_mut().remove(&uuid);
        self.persist().await
    }

    async fn close_nexus(&self, uuid: Uuid) {
        self.suspend_nexus(uuid).await;
        let slot = self.nexuses.borrow_mut().remove(&uuid);
        drop(slot);
    }

    /// Makes a nexus larger, while it is used; its children must have room. OK when it has that size. Hosts are told.
    pub async fn resize_nexus(&self, uuid: String, size: u64) -> Result<NexusInfo> {
        self.running()?;
        let uuid = parse_uuid(&uuid)?;
        let _held = self.locks.hold("nexus", &uuid.to_string()).await;
        let nexus = self.open_nexus_of(uuid)?;
        let grown = nexus.grow(Bytes(size)).await;
        // Also when it failed: an earlier call may have been given up before it was done.
        let size = nexus.size().0;
        self.update(uuid, |slot| slot.size = size);
        self.refresh_share(&device_name(uuid));
        self.changes.bump();
        self.persist().await?;
        grown.map_err(|e| nexus_error(&e))?;
        self.nexus_info(uuid)
    }

    /// The nexus, when it is open; else NotFound, or Unavailable with the reason.
    pub(crate) fn open_nexus_of(&self, uuid: Uuid) -> Result<Rc<volume::Nexus>> {
        match self.nexuses.borrow().get(&uuid).map(|slot| &slot.state) {
            Some(NexusState::Open { nexus, .. }) => Ok(nexus.clone()),
            Some(NexusState::Lost { reason }) => Err(Error::unavailable(format!("nexus {uuid} is not open: {reason}"))),
            None => Err(no_nexus(uuid)),
        }
    }

    pub(super) fn update<T>(&self, uuid: Uuid, change: impl FnOnce(&mut NexusSlot) -> T) -> Option<T> {
        self.nexuses.borrow_mut().get_mut(&uuid).map(change)
    }

    /// Tries to open the nexuses that are not, to publish those that should be, and to take in absent children.
    pub(crate) async fn retry_nexuses(&self) {
        let uuids: Vec<Uuid> = self.nexuses.borrow().keys().copied().collect();
        join_all(uuids.into_iter().map(|uuid| self.retry_nexus(uuid))).await;
    }

    async fn retry_nexus(&self, uuid: Uuid) {
        let held = self.locks.hold("nexus", &uuid.to_string()).await;
        self.free_stranded(uuid).await;
        if self.open_nexus_of(uuid).is_err() {
            if let Err(error) = self.reopen_nexus(uuid).await {
                self.update(uuid, |slot| {
                    if let NexusState::Lost { reason } = &mut slot.state {
                        self.explain(reason, error.message);
                    }
                });
            }
            return;
        }
        self.publish_again(uuid).await;
        drop(held);
        let absent = self.nexuses.borrow().get(&uuid).map(|slot| slot.absent.clone()).unwrap_or_default();
        for uri in absent {
            // Others may work on the nexus while the device is looked for.
            let Ok(lease) = self.lease_child(uuid, &uri).await else { continue };
            let _held = self.locks.hold("nexus", &uuid.to_string()).await;
            let still = self.nexuses.borrow().get(&uuid).is_some_and(|slot| slot.absent.contains(&uri));
            if let (true, Ok(nexus)) = (still, self.open_nexus_of(uuid)) {
                // It is tried again until it is there, or removed.
                let _ = self.bring_back(uuid, &nexus, &uri, lease).await;
            }
        }
    }

    /// The last good copy is dead, or back with less than it had answered. Once it can be reached, and no other nexus has
    /// recorded anything on it, lets go of the nexus, which is then opened like after a restart of this node.
    async fn free_stranded(&self, uuid: Uuid) {
        let Some(uri) = self.nexuses.borrow().get(&uuid).and_then(|slot| slot.stranded.clone()) else { return };
        let Ok(nexus) = self.open_nexus_of(uuid) else { return };
        let children = nexus.info().children;
        if children.iter().any(|c| c.state == volume::ChildState::Online && c.uri != uri) {
            self.update(uuid, |slot| slot.stranded = None);
            return;
        }
        // The device that has failed for good makes room for the one that is looked at.
        drop(self.update(uuid, |slot| slot.release(&uri)));
        let Ok(lease) = self.lease_child(uuid, &uri).await else { return };
        match nexus.check_rivals(&uri, &lease.disk).await {
            Ok(()) => {}
            Err(NexusError::Fenced { .. }) => {
                self.update(uuid, |slot| slot.stranded = None);
                return self.changes.bump();
            }
            Err(_) => return,
        }
        drop(lease);
        let name = device_name(uuid);
        self.unshare_device(&name).await;
        drop(self.registry.remove(&name));
        mark(Mark::LastCopyBack);
        nexus.abandon();
        let lost = NexusState::Lost { reason: format!("its last good copy {uri} has to be opened anew") };
        let before = self.update(uuid, |slot| {
            (slot.stranded, slot.flushes) = (None, Flushes::FailOnce);
            std::mem::replace(&mut slot.state, lost)
        });
        drop(before);
        self.changes.bump();
    }

    async fn reopen_nexus(&self, uuid: Uuid) -> Result<()> {
        let (size, children, offline, managed) = {
            let slots = self.nexuses.borrow();
            let Some(slot) = slots.get(&uuid) else { return Ok(()) };
            (slot.size, slot.children.clone(), slot.offline.clone(), slot.managed)
        };
        if managed {
            self.confirm_ledger(uuid).await?;
        }
        let opening = Opening { uuid, size, children: &children, offline: &offline, managed, fresh: false };
        let opened = self.open_nexus(opening).await?;
        let slot = NexusSlot {
            size: opened.size,
            children,
            managed,
            published: None,
            encryption: None,
            offline,
            absent: opened.absent,
            stranded: None,
            flushes: Flushes::Cover,
            state: NexusState::Open { nexus: opened.nexus, leases: opened.leases },
        };
        self.insert_nexus(uuid, slot).await?;
        self.changes.bump();
        Ok(())
    }

    /// Tells all open nexuses the settings.
    pub(crate) fn apply_settings(&self) {
        let settings = self.settings.borrow().nexus();
        for slot in self.nexuses.borrow().values() {
            if let NexusState::Open { nexus, .. } = &slot.state {
                // The settings were checked when they were set.
                let _ = nexus.set_settings(settings);
            }
        }
    }

    /// Closes all nexuses; the configuration keeps them.
    pub(crate) async fn stop_nexuses(&self) {
        let uuids: Vec<Uuid> = self.nexuses.borrow().keys().copied().collect();
        let close = |uuid: Uuid| async move {
            let _held = self.locks.hold("nexus", &uuid.to_string()).await;
            self.close_nexus(uuid).await;
        };
        join_all(uuids.into_iter().map(close)).await;
    }

    /// Whether any rebuild is under way, so that reports change by themselves.
    pub(crate) fn any_rebuild(&self) -> bool {
        self.nexuses.borrow().values().any(|slot| match &slot.state {
            NexusState::Open { nexus, .. } => nexus.info().children.iter().any(|c| c.rebuild.is_some()),
            NexusState::Lost { .. } => false,
        })
    }
}

impl NexusSlot {
    pub(super) fn hold(&mut self, uri: String, lease: Lease) -> Option<Lease> {
        match &mut self.state {
            NexusState::Open { leases, .. } => leases.insert(uri, lease),
            NexusState::Lost { .. } => Some(lease),
        }
    }
    pub(super) fn held(&self, uri: &str) -> Option<DiskRef> {
        match &self.state {
            NexusState::Open { leases, .. } => leases.get(uri).map(|lease| lease.disk.clone()),
            NexusState::Lost { .. } => None,
        }
    }
    pub(super) fn release(&mut self, uri: &str) -> Option<Lease> {
        match &mut self.state {
            NexusState::Open { leases, .. } => leases.remove(uri),
            NexusState::Lost { .. } => None,
        }
    }
}

/// The device name of a nexus, and the last part of its NQN.
pub(crate) fn device_name(uuid: Uuid) -> String {
    format!("nexus-{uuid}")
}

pub(crate) fn parse_uuid(text: &str) -> Result<Uuid> {
    Uuid::parse_str(text).map_err(|_| Error::invalid(format!("nexus '{}': not a uuid", text.escape_default())))
}

pub(super) fn no_nexus(uuid: Uuid) -> Error {
    Error::not_found(format!("nexus {uuid} not found"))
}

fn check_children(children: &[String]) -> Result<()> {
    if children.is_empty() {
        return Err(Error::invalid("no child is given"));
    }
    if children.len() > limits::NEXUS_MEMBERS {
        let (n, limit) = (children.len(), limits::NEXUS_MEMBERS);
        return Err(Error::invalid(format!("{n} children are given, at most {limit} can be")));
    }
    let mut names = BTreeSet::new();
    for child in children {
        let uri = DeviceUri::parse(child)?;
        if !names.insert(uri.name()) {
            return Err(Error::invalid(format!("child {child} is given twice")));
        }
    }
    Ok(())
}

/// The API's kind for what a nexus says.
pub(super) fn nexus_error(error: &NexusError) -> Error {
    let kind = match error {
        NexusError::ChildNotFound { .. } => ErrorKind::NotFound,
        NexusError::ChildExists { .. } => ErrorKind::AlreadyExists,
        NexusError::BadChild { .. } | NexusError::Invalid { .. } => ErrorKind::InvalidArgument,
        NexusError::NoQuorum { .. }
        | NexusError::LastCopy { .. }
        | NexusError::BadState { .. }
        | NexusError::NoRebuild { .. }
        | NexusError::Fenced { .. } => ErrorKind::FailedPrecondition,
    };
    Error::new(kind, error.to_string())
}
