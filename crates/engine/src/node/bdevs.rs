//! Opening devices by URI, for pools and nexuses and by calls of their own, and sharing them.

use std::path::Path;
use std::rc::Rc;

use block::BlockSize;
use host::{Claim as DiskClaim, DiskRef, OpenError, OpenOptions};
use iscsi::chap::Chap;
use uuid::Uuid;

use super::exports::protocol_of;
use super::nbd_portal::NBD_PREFIX;
use super::portals::{IQN_PREFIX, Portal};
use super::registry::{Bdev, Lease, Origin};
use super::{Node, Result};
use crate::config::{BaseBdev, Share};
use crate::guard::Guard;
use crate::malloc::Malloc;
use crate::model::{BdevInfo, Error, ErrorKind, Protocol};
use crate::remote::iscsi::IscsiSpec;
use crate::remote::{self, RemoteError, RemoteOptions, RemoteSpec, RemoteState};
use crate::uri::{Device, DeviceUri};

/// A device that the configuration names and that could not be opened.
pub(crate) struct LostBdev {
    pub(crate) uri: DeviceUri,
    pub(crate) shared: Option<Protocol>,
    pub(crate) reason: String,
}

/// How a remote device was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// It is looked for, and may come back as it was.
    Away,
    /// This opening of it has ended: what answers now may lack what it had. It can be opened anew.
    ForGood,
    /// Another nexus has it.
    Fenced,
}

impl Node {
    /// Opens the device of a URI; the reply is its name.
    pub async fn create_bdev(&self, uri: String) -> Result<String> {
        self.running()?;
        let uri = DeviceUri::parse(&uri)?;
        let name = uri.name();
        if let Device::Bdev { .. } = uri.device {
            let found = self.registry.find(&name);
            return found.map(|(name, _)| name).ok_or_else(|| no_device(&name));
        }
        let _held = self.locks.hold("bdev", &name).await;
        if self.lost_bdevs.borrow().contains_key(&name) {
            return Err(Error::already_exists(format!("device '{name}' is known and being retried; destroy it first")));
        }
        self.keep_bdev(&uri, None).await?;
        self.persist().await?;
        Ok(name)
    }

    /// Closes the device of a URI (or name).
    pub async fn destroy_bdev(&self, uri: String) -> Result<()> {
        self.running()?;
        let name = match self.registry.find(&uri) {
            Some((name, _)) => name,
            None if uri.contains("://") || uri.starts_with('/') => DeviceUri::parse(&uri)?.name(),
            None => uri,
        };
        let _held = self.locks.hold("bdev", &name).await;
        if self.lost_bdevs.borrow_mut().remove(&name).is_some() {
            return self.persist().await;
        }
        let Some((name, bdev)) = self.registry.find(&name) else { return Err(no_device(&name)) };
        match &bdev.origin {
            Origin::Kept => {}
            Origin::Leased => {
                let user = self.registry.user(&name).unwrap_or_default();
                return Err(Error::precondition(format!("device '{name}' is in use by {user}")));
            }
            Origin::Replica(pool) => {
                let why = format!("device '{name}' is a replica of pool {pool}; destroy the replica");
                return Err(Error::precondition(why));
            }
            Origin::Nexus => {
                return Err(Error::precondition(format!("device '{name}' is a nexus; destroy the nexus")));
            }
        }
        // Nobody may begin to use it while it is being closed.
        let claim =
            self.registry.claim(&name, "its closing").map_err(|e| e.with_kind(ErrorKind::FailedPrecondition))?;
        self.unshare_device(&name).await;
        drop(bdev);
        drop(self.registry.remove(&name));
        drop(claim);
        self.persist().await
    }

    /// Shares a device; the reply is where others reach it. OK when it is so already.
    pub async fn share_bdev(&self, name: String, protocol: Protocol) -> Result<String> {
        self.running()?;
        let Some((name, bdev)) = self.registry.find(&name) else { return Err(no_device(&name)) };
        match &bdev.origin {
            Origin::Replica(_) => return Ok(self.share_replica(name, Some(protocol)).await?.uri),
            Origin::Nexus => {
                let uuid = name.trim_start_matches("nexus-").to_owned();
                return Ok(self.publish_nexus(uuid, String::new(), protocol).await?.device_uri);
            }
            Origin::Leased | Origin::Kept => {}
        }
        if bdev.origin == Origin::Leased {
            let user = self.registry.user(&name).unwrap_or_default();
            return Err(Error::precondition(format!("device '{name}' is in use by {user}")));
        }
        let _held = self.locks.hold("bdev", &name).await;
        // Nobody may begin to use it meanwhile.
        let claim =
            self.registry.claim(&name, "its sharing").map_err(|e| e.with_kind(ErrorKind::FailedPrecondition))?;
        let uri = self.share_device(&name, &name, protocol).await?;
        drop(claim);
        self.persist().await?;
        Ok(uri)
    }

    /// Un-shares a device; OK when it is not shared.
    pub async fn unshare_bdev(&self, name: String) -> Result<()> {
        self.running()?;
        let Some((name, bdev)) = self.registry.find(&name) else { return Err(no_device(&name)) };
        match &bdev.origin {
            Origin::Replica(_) => return self.share_replica(name, None).await.map(|_| ()),
            Origin::Nexus => {
                let uuid = name.trim_start_matches("nexus-").to_owned();
                return self.unpublish_nexus(uuid).await.map(|_| ());
            }
            Origin::Leased | Origin::Kept => {}
        }
        let _held = self.locks.hold("bdev", &name).await;
        if self.registry.find(&name).is_some_and(|(_, b)| b.share.is_none()) {
            return self.settle().await;
        }
        self.unshare_device(&name).await;
        self.persist().await
    }

    /// All block devices, by name.
    pub fn bdevs(&self) -> Vec<BdevInfo> {
        let mut list = self.registry.list(|nqn| self.exports.peer_uri(nqn));
        for (name, lost) in self.lost_bdevs.borrow().iter() {
            list.push(BdevInfo {
                name: name.clone(),
                uuid: lost.uri.uuid.map(|u| u.to_string()).unwrap_or_default(),
                num_blocks: 0,
                block_size: 0,
                claimed_by: None,
                aliases: Vec::new(),
                uri: lost.uri.canonical(),
                share_uri: String::new(),
                reason: lost.reason.clone(),
            });
        }
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list
    }

    /// Opens a device that stays until it is closed by a call, and shares it when asked.
    pub(crate) async fn keep_bdev(&self, uri: &DeviceUri, shared: Option<Protocol>) -> Result<()> {
        let name = uri.name();
        let claim = self.registry.claim(&name, "its opening")?;
        if self.registry.find(&name).is_some() {
            return Err(Error::already_exists(format!("device '{name}' ({uri}) is open already")));
        }
        let bdev = self.open(uri, &self.host_nqn(), Origin::Kept).await?;
        self.registry.add(&name, bdev)?;
        drop(claim);
        if let Some(protocol) = shared {
            self.share_device(&name, &name, protocol).await?;
        }
        Ok(())
    }

    /// Opens the device of a URI for `user`, or takes the open one when nobody uses it. A device that is not there now
    /// but may come is NotFound or Unavailable; what can never work is InvalidArgument.
    pub(crate) async fn lease(&self, uri: &DeviceUri, user: &str, host_nqn: &str) -> Result<Lease> {
        let name = match self.registry.find(&uri.name()) {
            Some((name, _)) => name,
            None => uri.name(),
        };
        let claim = self.registry.claim(&name, user).map_err(|e| e.context(format!("'{uri}'")))?;
        let found = self.registry.find(&name).map(|(_, bdev)| bdev);
        let disk = match found {
            Some(bdev) if bdev.origin == Origin::Nexus => {
                return Err(Error::invalid(format!("'{uri}': a nexus cannot be used by its own node")));
            }
            Some(bdev) if bdev.share.is_some() && bdev.origin == Origin::Kept => {
                return Err(Error::invalid(format!("'{uri}': the device is shared with other machines")));
            }
            Some(bdev) => {
                check_promises(uri, &bdev.disk, bdev.uuid)?;
                match &bdev.origin {
                    // Others may reach it over the network meanwhile.
                    Origin::Replica(_) => bdev.guard.view(self.host.random_bytes()),
                    Origin::Kept | Origin::Leased | Origin::Nexus => bdev.disk,
                }
            }
            None if matches!(uri.device, Device::Bdev { .. }) => return Err(no_device(&name)),
            None => {
                let bdev = self.open(uri, host_nqn, Origin::Leased).await?;
                let disk = bdev.disk.clone();
                self.registry.add(&name, bdev)?;
                disk
            }
        };
        Ok(Lease::new(disk, claim))
    }

    async fn open(&self, uri: &DeviceUri, host_nqn: &str, origin: Origin) -> Result<Bdev> {
        let block_size = uri.block_size.unwrap_or(BlockSize::B512);
        let mut found = None;
        let disk: DiskRef = match &uri.device {
            Device::File { path } => {
                let options = OpenOptions { block_size, claim: DiskClaim::Exclusive };
                self.host.open_disk(path.as_str(), options).await.map_err(|e| cannot_open(uri, &e))?
            }
            Device::Malloc { name, size } => Rc::new(Malloc::new(name, *size, block_size).in_memory_of(&self.host)),
            Device::Nvmf { host, port, nqn } => {
                let spec = RemoteSpec {
                    host: host.clone(),
                    port: *port,
                    nqn: nqn.clone(),
                    host_nqn: host_nqn.into(),
                    uuid: uri.uuid,
                };
                let options = self.remote_options();
                let connected = remote::connect(&self.host, spec, options).await.map_err(|e| no_remote(uri, &e))?;
                found = connected.uuid();
                connected.on_change(self.on_loss(uri, host_nqn));
                connected
            }
            Device::Iscsi { host, port, target, lun, chap, digests: [header_digest, data_digest] } => {
                let spec = IscsiSpec {
                    host: host.clone(),
                    port: *port,
                    target: target.clone(),
                    lun: *lun,
                    // iSCSI names have no capital letters.
                    initiator: host_nqn.replacen("nqn.", "iqn.", 1).to_lowercase(),
                    uuid: uri.uuid,
                    chap: match chap {
                        Some(file) => Some(self.secrets(uri, file).await?),
                        None => None,
                    },
                };
                let (header_digest, data_digest) = (*header_digest, *data_digest);
                let options = RemoteOptions { header_digest, data_digest, ..self.remote_options() };
                let connected = remote::iscsi::connect(&self.host, spec, options).await;
                let connected = connected.map_err(|e| no_remote(uri, &e))?;
                found = connected.uuid();
                connected.on_change(self.on_loss(uri, host_nqn));
                connected
            }
            Device::Bdev { name } => return Err(no_device(name)),
        };
        let uuid = found
            .or(uri.uuid)
            .unwrap_or_else(|| uuid::Builder::from_random_bytes(self.host.random_bytes()).into_uuid());
        check_promises(uri, &disk, uuid)?;
        let mut full = uri.clone();
        // The device must come back with the same identity, for those to whom it is shared.
        if !matches!(uri.device, Device::Nvmf { .. } | Device::Iscsi { .. }) {
            full.uuid = Some(uuid);
        }
        let aliases = vec![uri.text().to_owned()];
        Ok(Bdev {
            guard: Guard::new(disk.clone(), None),
            disk,
            uuid,
            aliases,
            uri: full.canonical(),
            origin,
            share: None,
        })
    }

    /// What a remote device does when its state changes: it leaves a note for the node.
    fn on_loss(&self, uri: &DeviceUri, host_nqn: &str) -> impl Fn(&RemoteState) + 'static {
        let (lost, owner, name) = (self.lost_remotes.clone(), host_nqn.to_owned(), uri.name());
        move |state| {
            let loss = match state {
                RemoteState::Lost => Loss::Away,
                RemoteState::Failed(_) => Loss::ForGood,
                RemoteState::Fenced => Loss::Fenced,
                RemoteState::Up | RemoteState::Reconnecting | RemoteState::Closed => return,
            };
            lost.push((owner.clone(), name.clone(), loss));
        }
    }

    /// The names and secrets in a file of this machine.
    async fn secrets(&self, uri: &DeviceUri, file: &str) -> Result<Chap> {
        let wrong = |why: String| Error::invalid(format!("'{uri}': {file}: {why}"));
        let contents = self.host.load(Path::new(file)).await.map_err(|e| wrong(e.to_string()))?;
        let contents = contents.ok_or_else(|| wrong("there is no such file".into()))?;
        let text = String::from_utf8(contents).map_err(|_| wrong("it is not text".into()))?;
        Chap::parse(&text).map_err(|why| wrong(why.into()))
    }

    /// Shares a registered device as `nqn.2019-05.io.openebs:<suffix>`, `iqn.2019-05.io.openebs:<suffix>`, or as the NBD
    /// export `<suffix>`; OK when it is shared so already.
    pub(crate) async fn share_device(&self, name: &str, suffix: &str, protocol: Protocol) -> Result<String> {
        let Some((_, bdev)) = self.registry.find(name) else { return Err(no_device(name)) };
        if let Some(shared) = &bdev.share {
            let now = protocol_of(shared);
            if now != protocol {
                return Err(Error::already_exists(format!("device '{name}' is shared over {now} already")));
            }
            return Ok(self.exports.peer_uri(shared));
        }
        let plain = |c: char| if c.is_ascii_alphanumeric() || ".-_:".contains(c) { c } else { '-' };
        let suffix: String = suffix.trim_start_matches('/').chars().map(plain).collect();
        let context = |e: Error| e.context(format!("device '{name}'"));
        let shared = match protocol {
            Protocol::Iscsi => {
                // iSCSI names have no capital letters.
                let iqn = format!("{IQN_PREFIX}{suffix}").to_lowercase();
                let (portal, product) = match &bdev.origin {
                    Origin::Replica(_) => (Portal::Replica, "Mayastor Replica"),
                    Origin::Nexus => (Portal::Nexus, "Nexus CAS Driver"),
                    Origin::Kept | Origin::Leased => (Portal::Nexus, "Mayastor Device"),
                };
                let disk = bdev.guard.view(self.host.random_bytes());
                self.exports.add_iscsi(portal, &iqn, bdev.uuid, product, disk).await.map_err(context)?;
                iqn
            }
            Protocol::Nbd => {
                let name = format!("{NBD_PREFIX}{suffix}");
                let description = match &bdev.origin {
                    Origin::Replica(_) => "Mayastor replica",
                    Origin::Nexus => "Mayastor nexus",
                    Origin::Kept | Origin::Leased => "Mayastor device",
                };
                let disk = bdev.guard.view(self.host.random_bytes());
                self.exports.add_nbd(&name, description, disk).await.map_err(context)?;
                name
            }
            Protocol::Nvmf => {
                let nqn = format!("{}{suffix}", super::NQN_PREFIX);
                self.exports.add(&nqn, bdev.uuid, bdev.guard).await.map_err(context)?;
                nqn
            }
        };
        self.registry.update(name, |b| b.share = Some(shared.clone()));
        Ok(self.exports.peer_uri(&shared))
    }

    /// Tells the hosts of a shared device that it has grown, if it has.
    pub(crate) fn refresh_share(&self, name: &str) {
        if let Some(share) = self.registry.find(name).and_then(|(_, b)| b.share) {
            self.exports.refresh(&share);
        }
    }

    /// Takes a shared device back; OK when it is not shared.
    pub(crate) async fn unshare_device(&self, name: &str) {
        if let Some(nqn) = self.registry.find(name).and_then(|(_, b)| b.share) {
            self.exports.remove(&nqn).await;
            self.registry.update(name, |b| b.share = None);
        }
    }

    /// The devices for the configuration file.
    pub(crate) fn bdevs_config(&self) -> Vec<BaseBdev> {
        let mut list = Vec::new();
        for name in self.registry.names() {
            let found = self.registry.find(&name).filter(|(_, b)| b.origin == Origin::Kept);
            if let Some((_, bdev)) = found.filter(|_| !self.lost_bdevs.borrow().contains_key(&name)) {
                list.push(BaseBdev { uri: bdev.uri, share: bdev.share.map(|name| protocol_of(&name).into()) });
            }
        }
        for lost in self.lost_bdevs.borrow().values() {
            list.push(BaseBdev { uri: lost.uri.canonical(), share: lost.shared.map(Share::from) });
        }
        list
    }

    /// Tries to open the devices that could not be opened before.
    pub(crate) async fn retry_bdevs(&self) {
        let names: Vec<String> = self.lost_bdevs.borrow().keys().cloned().collect();
        for name in names {
            let _held = self.locks.hold("bdev", &name).await;
            let Some((uri, shared)) = self.lost_bdevs.borrow().get(&name).map(|l| (l.uri.clone(), l.shared)) else {
                continue;
            };
            let opened = match self.registry.find(&name) {
                // It was opened before and could only not be shared.
                Some(_) => match shared {
                    Some(protocol) => self.share_device(&name, &name, protocol).await.map(|_| ()),
                    None => Ok(()),
                },
                None => self.keep_bdev(&uri, shared).await,
            };
            match opened {
                Ok(()) => drop(self.lost_bdevs.borrow_mut().remove(&name)),
                Err(error) => {
                    if let Some(lost) = self.lost_bdevs.borrow_mut().get_mut(&name) {
                        self.explain(&mut lost.reason, error.message);
                    }
                }
            }
        }
    }
}

pub(crate) fn no_device(name: &str) -> Error {
    Error::not_found(format!("device '{name}' not found"))
}

fn cannot_open(uri: &DeviceUri, error: &OpenError) -> Error {
    let kind = match error {
        OpenError::NotFound => ErrorKind::NotFound,
        OpenError::Busy | OpenError::Invalid(_) => ErrorKind::InvalidArgument,
        OpenError::Io(_) => ErrorKind::Unavailable,
    };
    Error::new(kind, format!("'{uri}': {error}"))
}

fn no_remote(uri: &DeviceUri, error: &RemoteError) -> Error {
    let kind = match error {
        RemoteError::Name { .. }
        | RemoteError::Uuid { .. }
        | RemoteError::BlockSize { .. }
        | RemoteError::Size { .. } => ErrorKind::InvalidArgument,
        // The rest may look different when the target has been started, or has been told what to serve.
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, format!("'{uri}': {error}"))
}

/// A URI that names a block size or uuid is only good for a device that has it.
fn check_promises(uri: &DeviceUri, disk: &DiskRef, uuid: Uuid) -> Result<()> {
    let found = disk.geometry().block_size;
    if let Some(asked) = uri.block_size.filter(|&b| b != found) {
        let (asked, found) = (asked.bytes(), found.bytes());
        return Err(Error::invalid(format!("'{uri}': the device has blocks of {found} bytes, not {asked}")));
    }
    match uri.uuid {
        Some(asked) if asked != uuid => Err(Error::invalid(format!("'{uri}': the device has the uuid {uuid}"))),
        _ => Ok(()),
    }
}
