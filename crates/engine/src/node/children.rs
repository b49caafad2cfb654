//! The children of a nexus: adding, removing, taking out and bringing back, and their rebuilds.

use std::rc::Rc;

use block::limits;
use uuid::Uuid;

use super::bdevs::Loss;
use super::nexus_view::rebuild_info;
use super::nexuses::{nexus_error, parse_uuid};
use super::registry::Lease;
use super::{Node, Result};
use crate::model::{Error, ErrorKind, NexusInfo, RebuildInfo};
use crate::uri::{Device, DeviceUri};
use crate::volume::{self, ChildSpec, NexusError};

impl Node {
    /// Adds a child and, unless `norebuild`, starts its rebuild. A child that has failed is taken back in the same way;
    /// OK when it is a child in good order.
    pub async fn add_child(&self, uuid: String, uri: String, norebuild: bool) -> Result<NexusInfo> {
        self.running()?;
        let uuid = parse_uuid(&uuid)?;
        DeviceUri::parse(&uri).map_err(|e| e.context(format!("nexus {uuid}")))?;
        let _held = self.locks.hold("nexus", &uuid.to_string()).await;
        let nexus = self.open_nexus_of(uuid)?;
        let state = nexus.info().children.iter().find(|c| c.uri == uri).map(|c| c.state);
        match state {
            Some(volume::ChildState::Faulted) => {
                self.reopen_child(uuid, &nexus, &uri).await?;
                self.persist().await?;
                return self.nexus_info(uuid);
            }
            Some(_) => {
                self.settle().await?;
                return self.nexus_info(uuid);
            }
            None => {}
        }
        if nexus.info().children.len() >= limits::NEXUS_MEMBERS {
            let limit = limits::NEXUS_MEMBERS;
            return Err(Error::exhausted(format!("nexus {uuid} has {limit} children, more are not possible")));
        }
        let lease = self.lease_child(uuid, &uri).await;
        let lease = lease.map_err(|e| missing_child(uuid, e))?;
        let child = ChildSpec { uri: uri.clone(), disk: Ok(lease.disk.clone()) };
        nexus.add_child(child, !norebuild, false).await.map_err(|e| nexus_error(&e))?;
        let before = self.update(uuid, |slot| {
            slot.children.push(uri.clone());
            slot.hold(uri, lease)
        });
        drop(before);
        self.persist().await?;
        self.nexus_info(uuid)
    }

    /// Opens a child's device anew and brings it back into the nexus.
    pub(super) async fn reopen_child(&self, uuid: Uuid, nexus: &Rc<volume::Nexus>, uri: &str) -> Result<()> {
        let remote = matches!(DeviceUri::parse(uri)?.device, Device::Nvmf { .. });
        let lease = if remote {
            // The device may have failed for good.
            drop(self.update(uuid, |slot| slot.release(uri)));
            None
        } else {
            self.update(uuid, |slot| slot.held(uri)).flatten()
        };
        match lease {
            Some(disk) => nexus.online_child(uri, Some(disk)).await.map_err(|e| nexus_error(&e))?,
            None => {
                let lease = self.lease_child(uuid, uri).await.map_err(|e| missing_child(uuid, e))?;
                return self.bring_back(uuid, nexus, uri, lease).await;
            }
        }
        self.update(uuid, |slot| slot.offline.remove(uri));
        self.changes.bump();
        Ok(())
    }

    /// Takes a remote device that does not answer any more out of the nexus that has it as a child.
    pub(super) async fn device_lost(&self, host_nqn: &str, name: &str, loss: Loss) {
        let uuid = host_nqn.rsplit_once("nexus-").and_then(|(_, uuid)| Uuid::parse_str(uuid).ok());
        let Some(nexus) = uuid.and_then(|uuid| self.open_nexus_of(uuid).ok()) else { return };
        for child in nexus.info().children {
            if DeviceUri::parse(&child.uri).is_ok_and(|uri| uri.name() == name) {
                // Refused for the last good copy: there requests wait, or fail with its fault, until it is back.
                let taken = nexus.child_lost(&child.uri).await;
                if let (Err(NexusError::LastCopy { .. }), Loss::ForGood) = (taken, loss) {
                    self.update(nexus.uuid(), |slot| slot.stranded = Some(child.uri.clone()));
                }
            }
        }
        self.changes.bump();
    }

    /// Gives the nexus a child's device that was opened anew.
    pub(super) async fn bring_back(
        &self,
        uuid: Uuid,
        nexus: &Rc<volume::Nexus>,
        uri: &str,
        lease: Lease,
    ) -> Result<()> {
        let disk = lease.disk.clone();
        nexus.online_child(uri, Some(disk)).await.map_err(|e| nexus_error(&e))?;
        let before = self.update(uuid, |slot| {
            slot.absent.remove(uri);
            slot.offline.remove(uri);
            slot.hold(uri.into(), lease)
        });
        drop(before);
        self.changes.bump();
        Ok(())
    }

    /// Removes a child; OK when it is none; refused for the last good copy.
    pub async fn remove_child(&self, uuid: String, uri: String) -> Result<NexusInfo> {
        self.running()?;
        let uuid = parse_uuid(&uuid)?;
        let _held = self.locks.hold("nexus", &uuid.to_string()).await;
        let nexus = self.open_nexus_of(uuid)?;
        let children = nexus.info().children;
        if children.len() == 1 {
            return Err(Error::invalid(format!("nexus {uuid}: its last child cannot be removed")));
        }
        if !children.iter().any(|c| c.uri == uri) {
            self.settle().await?;
            return self.nexus_info(uuid);
        }
        nexus.remove_child(&uri).await.map_err(|e| nexus_error(&e))?;
        let lease = self.update(uuid, |slot| {
            slot.children.retain(|c| *c != uri);
            slot.absent.remove(&uri);
            slot.offline.remove(&uri);
            slot.release(&uri)
        });
        drop(lease);
        self.persist().await?;
        self.nexus_info(uuid)
    }

    /// Takes a child out of use until it is onlined; refused for the last good copy. OK when it is offline already.
    pub async fn offline_child(&self, uuid: String, uri: String) -> Result<NexusInfo> {
        self.running()?;
        let uuid = parse_uuid(&uuid)?;
        let _held = self.locks.hold("nexus", &uuid.to_string()).await;
        let nexus = self.open_nexus_of(uuid)?;
        match child_state(&nexus, &uri)? {
            // It is not in use as it is; what changes is that it is not looked for any more.
            volume::ChildState::Offline | volume::ChildState::Faulted => {}
            _ => nexus.offline_child(&uri).await.map_err(|e| nexus_error(&e))?,
        }
        // Its device stays claimed: what it holds is still a part of this nexus.
        self.update(uuid, |slot| {
            slot.offline.insert(uri.clone());
            slot.absent.remove(&uri);
        });
        self.persist().await?;
        self.nexus_info(uuid)
    }

    /// Takes a child back into use and starts its rebuild.
    pub async fn online_child(&self, uuid: String, uri: String) -> Result<NexusInfo> {
        self.running()?;
        let uuid = parse_uuid(&uuid)?;
        let _held = self.locks.hold("nexus", &uuid.to_string()).await;
        let nexus = self.open_nexus_of(uuid)?;
        let state = child_state(&nexus, &uri)?;
        let offline = self.nexuses.borrow().get(&uuid).is_some_and(|slot| slot.offline.contains(&uri));
        if !offline && !matches!(state, volume::ChildState::Offline | volume::ChildState::Faulted) {
            return Err(Error::invalid(format!("nexus {uuid}: child {uri} is not offline")));
        }
        self.reopen_child(uuid, &nexus, &uri).await?;
        self.persist().await?;
        self.nexus_info(uuid)
    }

    /// Treats a child as failed; refused for the last good copy.
    pub async fn fault_child(&self, uuid: String, uri: String) -> Result<NexusInfo> {
        self.running()?;
        let uuid = parse_uuid(&uuid)?;
        let _held = self.locks.hold("nexus", &uuid.to_string()).await;
        let nexus = self.open_nexus_of(uuid)?;
        child_state(&nexus, &uri)?;
        nexus.fault_child(&uri).await.map_err(|e| nexus_error(&e))?;
        self.persist().await?;
        self.nexus_info(uuid)
    }

    /// Starts the rebuild of a child that is out of sync.
    pub async fn start_rebuild(&self, uuid: String, uri: String) -> Result<()> {
        self.rebuild_call(&uuid, &uri, |nexus, uri| nexus.start_rebuild(uri))
    }
    /// Stops the rebuild of a child; OK when there is none.
    pub async fn stop_rebuild(&self, uuid: String, uri: String) -> Result<()> {
        self.rebuild_call(&uuid, &uri, |nexus, uri| match nexus.stop_rebuild(uri) {
            Err(NexusError::NoRebuild { .. }) => Ok(()),
            other => other,
        })
    }
    /// Holds the rebuild of a child.
    pub async fn pause_rebuild(&self, uuid: String, uri: String) -> Result<()> {
        self.rebuild_call(&uuid, &uri, |nexus, uri| nexus.pause_rebuild(uri))
    }
    /// Lets the held rebuild of a child go on.
    pub async fn resume_rebuild(&self, uuid: String, uri: String) -> Result<()> {
        self.rebuild_call(&uuid, &uri, |nexus, uri| nexus.resume_rebuild(uri))
    }

    fn rebuild_call(
        &self,
        uuid: &str,
        uri: &str,
        call: impl FnOnce(&volume::Nexus, &str) -> std::result::Result<(), NexusError>,
    ) -> Result<()> {
        self.running()?;
        let nexus = self.open_nexus_of(parse_uuid(uuid)?)?;
        child_state(&nexus, uri)?;
        // v0.3.0 has one code for all that a rebuild can refuse.
        call(&nexus, uri).map_err(|e| nexus_error(&e).with_kind(ErrorKind::Internal))?;
        self.changes.bump();
        Ok(())
    }

    /// The rebuild of a child. NotFound names what is missing; no rebuild at present is Internal, as in v0.3.0.
    pub fn rebuild(&self, uuid: &str, uri: &str) -> Result<RebuildInfo> {
        let nexus = self.open_nexus_of(parse_uuid(uuid)?)?;
        child_state(&nexus, uri)?;
        let info = nexus.rebuild_info(uri).map_err(|e| nexus_error(&e).with_kind(ErrorKind::Internal))?;
        Ok(rebuild_info(info))
    }
}

/// NotFound is for the nexus itself.
pub(super) fn missing_child(uuid: Uuid, error: Error) -> Error {
    let error = error.context(format!("nexus {uuid}"));
    if error.kind == ErrorKind::NotFound { error.with_kind(ErrorKind::InvalidArgument) } else { error }
}

pub(super) fn child_state(nexus: &volume::Nexus, uri: &str) -> Result<volume::ChildState> {
    let info = nexus.info();
    let child = info.children.iter().find(|c| c.uri == uri);
    let missing = || Error::not_found(format!("nexus {}: child {uri} not found", info.uuid));
    child.map(|c| c.state).ok_or_else(missing)
}
