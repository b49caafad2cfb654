//! All block devices of the node, by name, and who uses which.
//!
//! A device has at most one user, a pool or a nexus; being shared with other machines is no use in this sense. A device
//! that was opened for a user is closed with the user's [`Lease`]; one that was opened by a call of its own stays.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use host::DiskRef;
use uuid::Uuid;

use crate::guard::Guard;
use crate::model::{BdevInfo, Error};

/// Where a device comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Opened by a call of its own; closed by one.
    Kept,
    /// Opened for its user, and closed with it.
    Leased,
    /// A replica of this pool.
    Replica(String),
    /// A nexus.
    Nexus,
}

/// A device.
#[derive(Clone)]
pub(crate) struct Bdev {
    pub(crate) disk: DiskRef,
    /// The same device with its reservations.
    pub(crate) guard: Rc<Guard>,
    pub(crate) uuid: Uuid,
    pub(crate) aliases: Vec<String>,
    /// The complete URI that makes it again; empty for replicas and nexuses.
    pub(crate) uri: String,
    pub(crate) origin: Origin,
    /// The name (NQN or iSCSI name) under which it is shared.
    pub(crate) share: Option<String>,
}

/// The devices and their users.
#[derive(Default)]
pub(crate) struct Registry {
    bdevs: RefCell<BTreeMap<String, Bdev>>,
    /// Also names of devices that are being opened.
    users: RefCell<BTreeMap<String, String>>,
}

impl Registry {
    /// Adds a device. Its name must be free.
    pub(crate) fn add(&self, name: &str, bdev: Bdev) -> Result<(), Error> {
        if self.bdevs.borrow().contains_key(name) {
            return Err(Error::already_exists(format!("there is a device '{name}' already")));
        }
        self.bdevs.borrow_mut().insert(name.into(), bdev);
        Ok(())
    }

    /// Forgets a device.
    pub(crate) fn remove(&self, name: &str) -> Option<Bdev> {
        // The disk is dropped by the caller, outside the borrow.
        self.bdevs.borrow_mut().remove(name)
    }

    /// The device of that name or alias, and its name.
    pub(crate) fn find(&self, name: &str) -> Option<(String, Bdev)> {
        let bdevs = self.bdevs.borrow();
        if let Some(bdev) = bdevs.get(name) {
            return Some((name.into(), bdev.clone()));
        }
        let (name, bdev) = bdevs.iter().find(|(_, b)| b.aliases.iter().any(|a| a == name))?;
        Some((name.clone(), bdev.clone()))
    }

    /// Changes a device, if it is there.
    pub(crate) fn update(&self, name: &str, change: impl FnOnce(&mut Bdev)) {
        if let Some(bdev) = self.bdevs.borrow_mut().get_mut(name) {
            change(bdev);
        }
    }

    /// Who uses the device.
    pub(crate) fn user(&self, name: &str) -> Option<String> {
        self.users.borrow().get(name).cloned()
    }

    /// Makes `user` the one user of the device, which need not be open yet.
    pub(crate) fn claim(self: &Rc<Self>, name: &str, user: &str) -> Result<Claim, Error> {
        let mut users = self.users.borrow_mut();
        if let Some(other) = users.get(name) {
            return Err(Error::invalid(format!("device '{name}' is in use by {other}")));
        }
        users.insert(name.into(), user.into());
        Ok(Claim { registry: self.clone(), name: name.into() })
    }

    /// The names of all devices.
    pub(crate) fn names(&self) -> Vec<String> {
        self.bdevs.borrow().keys().cloned().collect()
    }

    /// All devices; `share_uri` makes a URI of an NQN.
    pub(crate) fn list(&self, share_uri: impl Fn(&str) -> String) -> Vec<BdevInfo> {
        let users = self.users.borrow();
        let info = |(name, bdev): (&String, &Bdev)| {
            let geometry = bdev.disk.geometry();
            BdevInfo {
                name: name.clone(),
                uuid: bdev.uuid.to_string(),
                num_blocks: geometry.blocks.0,
                block_size: geometry.block_size.bytes(),
                claimed_by: users.get(name).cloned(),
                aliases: bdev.aliases.clone(),
                uri: bdev.uri.clone(),
                share_uri: bdev.share.as_deref().map(&share_uri).unwrap_or_default(),
                reason: String::new(),
            }
        };
        self.bdevs.borrow().iter().map(info).collect()
    }
}

/// The right to be the one user of a device; given back when dropped.
pub(crate) struct Claim {
    registry: Rc<Registry>,
    name: String,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.registry.users.borrow_mut().remove(&self.name);
        let leased = self.registry.bdevs.borrow().get(&self.name).is_some_and(|b| b.origin == Origin::Leased);
        if leased {
            let closed = self.registry.remove(&self.name);
            drop(closed);
        }
    }
}

/// An open device and the right to use it. Whoever holds clones of the disk drops them first.
pub(crate) struct Lease {
    pub(crate) disk: DiskRef,
    _claim: Claim,
}

impl Lease {
    pub(crate) fn new(disk: DiskRef, claim: Claim) -> Lease {
        Lease { disk, _claim: claim }
    }
}

#[cfg(test)]
mod tests {
    use block::{BlockSize, Bytes};

    use super::*;
    use crate::malloc::Malloc;

    fn memory(origin: Origin) -> Bdev {
        let disk: DiskRef = Rc::new(Malloc::new("m", Bytes(4096), BlockSize::B512));
        Bdev {
            guard: Guard::new(disk.clone(), None),
            disk,
            uuid: Uuid::nil(),
            aliases: vec!["other".into()],
            uri: String::new(),
            origin,
            share: None,
        }
    }

    #[test]
    fn a_device_has_one_user_and_a_leased_one_goes_with_it() {
        let registry = Rc::new(Registry::default());
        let claim = registry.claim("m", "pool p").unwrap();
        registry.add("m", memory(Origin::Leased)).unwrap();
        let error = registry.claim("m", "nexus n").map(|_| ()).expect_err("in use");
        assert!(error.message.contains("'m'") && error.message.contains("pool p"), "{error}");
        assert_eq!(registry.find("other").map(|(name, _)| name), Some("m".into()));
        drop(claim);
        assert!(registry.find("m").is_none());
    }

    #[test]
    fn a_kept_device_stays() {
        let registry = Rc::new(Registry::default());
        registry.add("m", memory(Origin::Kept)).unwrap();
        drop(registry.claim("m", "pool p").unwrap());
        assert!(registry.find("m").is_some() && registry.user("m").is_none());
        assert!(registry.add("m", memory(Origin::Kept)).is_err());
    }
}
