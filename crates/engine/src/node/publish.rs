//! Offering a nexus to hosts, with a key or without (docs/decisions/0010-encryption.md), and taking it back.

use std::rc::Rc;

use uuid::Uuid;

use super::nexuses::{device_name, no_nexus, parse_uuid};
use super::{Node, Result};
use crate::crypt::{BlockCipher, Encrypted, KeyCheck};
use crate::guard::Guard;
use crate::model::{Error, NexusInfo, Protocol};

/// What is known of the key with which a nexus is published.
///
/// ```text
///   publish with a key ─────────────────────────────▶ Unlocked ──unpublish──▶ (none)
///   (configuration) ──▶ Sealed ──publish with that key──┘ ▲
///                          └──unpublish──▶ (none)         └── publish with that key
/// ```
#[derive(Clone)]
pub(crate) enum Encryption {
    /// The key was given to an earlier run of this engine, and is not kept: it has to be given again.
    Sealed(KeyCheck),
    /// The key is here.
    Unlocked(Rc<BlockCipher>),
}

impl Encryption {
    pub(crate) fn check(&self) -> KeyCheck {
        match self {
            Encryption::Sealed(check) => check.clone(),
            Encryption::Unlocked(cipher) => cipher.check(),
        }
    }
    /// What keeps the nexus from being published, if anything does.
    pub(super) fn trouble(&self) -> Option<String> {
        match self {
            Encryption::Sealed(KeyCheck { cipher, .. }) => Some(format!(
                "not published: it is encrypted ({cipher}) and its key is not kept; publish it with that key"
            )),
            Encryption::Unlocked(_) => None,
        }
    }
}

/// Whether a nexus that is (or shall be) published with `now` may be published with `given`.
fn is_same_key(now: Option<KeyCheck>, given: Option<KeyCheck>) -> Result<()> {
    match (now, given) {
        (now, given) if now == given => Ok(()),
        (Some(now), None) => {
            let cipher = now.cipher;
            Err(Error::precondition(format!("it is encrypted ({cipher}): give its key, or unpublish it first")))
        }
        (Some(_), Some(_)) => Err(Error::already_exists("it is published with another key; unpublish it first")),
        (None, _) => Err(Error::already_exists("it is published without a key; unpublish it first")),
    }
}

impl Node {
    /// Publishes a nexus; with a key (see [`BlockCipher::of_key`]) what its hosts write is encrypted. OK when it is so
    /// already. The reply has `device_uri`.
    pub async fn publish_nexus(&self, uuid: String, key: String, protocol: Protocol) -> Result<NexusInfo> {
        self.running()?;
        let uuid = parse_uuid(&uuid)?;
        let context = |e: Error| e.context(format!("nexus {uuid}"));
        let cipher = BlockCipher::of_key(&key).map_err(|e| context(Error::invalid(e.to_string())))?.map(Rc::new);
        let _held = self.locks.hold("nexus", &uuid.to_string()).await;
        self.open_nexus_of(uuid)?;
        let before =
            self.update(uuid, |slot| (slot.published.is_some(), slot.encryption.as_ref().map(Encryption::check)));
        if let Some((true, check)) = before {
            is_same_key(check, cipher.as_ref().map(|c| c.check())).map_err(context)?;
        }
        let encryption = cipher.map(Encryption::Unlocked);
        self.share_nexus(uuid, protocol, encryption.as_ref()).await.map_err(context)?;
        self.update(uuid, |slot| (slot.published, slot.encryption) = (Some(protocol), encryption));
        self.persist().await?;
        self.nexus_info(uuid)
    }

    /// Takes a nexus back; OK when it is not published.
    pub async fn unpublish_nexus(&self, uuid: String) -> Result<NexusInfo> {
        self.running()?;
        let uuid = parse_uuid(&uuid)?;
        let _held = self.locks.hold("nexus", &uuid.to_string()).await;
        if !self.nexuses.borrow().contains_key(&uuid) {
            return Err(no_nexus(uuid));
        }
        self.unshare_device(&device_name(uuid)).await;
        let encryption = self.update(uuid, |slot| {
            slot.published = None;
            slot.encryption.take()
        });
        if let Some(Some(Encryption::Unlocked(_))) = encryption {
            self.guard_nexus(uuid, None);
        }
        self.persist().await?;
        self.nexus_info(uuid)
    }

    /// Publishes a nexus that shall be and is not, unless its key is missing.
    pub(super) async fn publish_again(&self, uuid: Uuid) {
        let wanted = self.update(uuid, |slot| Some((slot.published?, slot.encryption.clone()))).flatten();
        let Some((protocol, encryption)) = wanted else { return };
        if matches!(encryption, Some(Encryption::Sealed(_))) {
            return;
        }
        let hidden = self.registry.find(&device_name(uuid)).is_some_and(|(_, b)| b.share.is_none());
        if hidden && self.share_nexus(uuid, protocol, encryption.as_ref()).await.is_ok() {
            self.changes.bump();
        }
    }

    /// Shares the device of a nexus, through its cipher if it has one.
    async fn share_nexus(&self, uuid: Uuid, protocol: Protocol, encryption: Option<&Encryption>) -> Result<String> {
        let name = device_name(uuid);
        let Some(Encryption::Unlocked(cipher)) = encryption else {
            return self.share_device(&name, &name, protocol).await;
        };
        let hidden = self.registry.find(&name).is_some_and(|(_, b)| b.share.is_none());
        if hidden {
            self.guard_nexus(uuid, Some(cipher));
        }
        let shared = self.share_device(&name, &format!("crypto-{name}"), protocol).await;
        if hidden && shared.is_err() {
            self.guard_nexus(uuid, None);
        }
        shared
    }

    /// Sets what hosts of a nexus that is not shared will reach. Reservations begin anew.
    fn guard_nexus(&self, uuid: Uuid, cipher: Option<&Rc<BlockCipher>>) {
        self.registry.update(&device_name(uuid), |bdev| {
            let disk = match cipher {
                Some(cipher) => Encrypted::over(bdev.disk.clone(), cipher.clone()),
                None => bdev.disk.clone(),
            };
            bdev.guard = Guard::new(disk, None);
        });
    }
}
