//! How nexuses are shown: to callers, and in the configuration file.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::nexuses::{Flushes, NexusSlot, NexusState, device_name, no_nexus, parse_uuid};
use super::publish::Encryption;
use super::{Node, Result};
use crate::config::{NexusConfig, Share, parse_size};
use crate::model::{
    ChildInfo, ChildState, Error, Health, LedgerInfo, NexusInfo, NexusStatistics, Protocol, RebuildInfo, RebuildState,
};
use crate::volume;

impl Node {
    /// All nexuses, by uuid.
    pub fn nexuses(&self) -> Vec<NexusInfo> {
        let uuids: Vec<Uuid> = self.nexuses.borrow().keys().copied().collect();
        uuids.into_iter().filter_map(|uuid| self.nexus_info(uuid).ok()).collect()
    }

    pub(crate) fn nexus_statistics(&self) -> Vec<NexusStatistics> {
        let slots = self.nexuses.borrow();
        let open = slots.iter().filter_map(|(uuid, slot)| match &slot.state {
            NexusState::Open { nexus, .. } => Some((*uuid, nexus)),
            NexusState::Lost { .. } => None,
        });
        let read = open.map(|(uuid, nexus)| NexusStatistics { uuid, io: nexus.io(), children: nexus.children_io() });
        read.filter(|n| !n.io.is_idle() || n.children.iter().any(|(_, io)| !io.is_idle())).collect()
    }

    /// One nexus, by its uuid.
    pub fn nexus(&self, uuid: Uuid) -> Option<NexusInfo> {
        self.nexus_info(uuid).ok()
    }

    pub(crate) fn nexus_info(&self, uuid: Uuid) -> Result<NexusInfo> {
        let slots = self.nexuses.borrow();
        let slot = slots.get(&uuid).ok_or_else(|| no_nexus(uuid))?;
        let nqn = self.registry.find(&device_name(uuid)).and_then(|(_, b)| b.share);
        let device_uri = nqn.map(|nqn| self.exports.host_uri(&nqn)).unwrap_or_default();
        Ok(match &slot.state {
            NexusState::Open { nexus, .. } => {
                let info = nexus.info();
                NexusInfo {
                    uuid: uuid.to_string(),
                    size: slot.size,
                    block_size: info.block_size.bytes(),
                    state: match info.state {
                        volume::NexusState::Online => Health::Online,
                        volume::NexusState::Degraded => Health::Degraded,
                        volume::NexusState::Faulted => Health::Faulted,
                    },
                    reason: match slot.encryption.as_ref().and_then(Encryption::trouble) {
                        Some(trouble) if info.reason.is_empty() => trouble,
                        Some(trouble) => format!("{}; {trouble}", info.reason),
                        None => info.reason,
                    },
                    children: info.children.into_iter().map(|c| child_info(c, &slot.offline)).collect(),
                    device_uri,
                    ledger: LedgerInfo { generation: info.generation.0, in_sync: info.in_sync },
                    managed: slot.managed,
                }
            }
            NexusState::Lost { reason } => {
                let ledger = self.ledgers.borrow().get(&uuid).cloned();
                let child = |uri: &String| ChildInfo {
                    uri: uri.clone(),
                    state: if slot.offline.contains(uri) { ChildState::Offline } else { ChildState::Faulted },
                    reason: "the nexus is not open".into(),
                    rebuild: None,
                    errors: 0,
                };
                NexusInfo {
                    uuid: uuid.to_string(),
                    size: slot.size,
                    block_size: 0,
                    state: Health::Faulted,
                    reason: reason.clone(),
                    children: slot.children.iter().map(child).collect(),
                    device_uri,
                    ledger: ledger.map_or_else(LedgerInfo::default, |l| LedgerInfo {
                        generation: l.generation.0,
                        in_sync: l.in_sync,
                    }),
                    managed: slot.managed,
                }
            }
        })
    }

    /// The nexuses for the configuration file.
    pub(crate) fn nexuses_config(&self) -> Vec<NexusConfig> {
        let config = |(uuid, slot): (&Uuid, &NexusSlot)| NexusConfig {
            name: device_name(*uuid),
            uuid: uuid.to_string(),
            size: slot.size.to_string(),
            children: slot.children.clone(),
            share: slot.published.map(Share::from),
            encryption: slot.encryption.as_ref().map(Encryption::check),
            managed: slot.managed,
            offline: slot.offline.iter().cloned().collect(),
        };
        self.nexuses.borrow().iter().map(config).collect()
    }

    /// Puts the nexuses of the configuration file into the table, not open yet.
    pub(crate) fn expect_nexuses(&self, nexuses: Vec<NexusConfig>) -> Result<()> {
        for config in nexuses {
            let uuid = match config.uuid.as_str() {
                "" => parse_uuid(config.name.trim_start_matches("nexus-"))?,
                text => parse_uuid(text)?,
            };
            let size = parse_size(&config.size).ok_or_else(|| Error::invalid(format!("nexus {uuid}: no size")))?;
            let slot = NexusSlot {
                size,
                children: config.children,
                managed: config.managed,
                published: config.share.map(Protocol::from),
                encryption: config.encryption.map(Encryption::Sealed),
                offline: config.offline.into_iter().collect(),
                absent: BTreeSet::new(),
                stranded: None,
                flushes: Flushes::Cover,
                state: NexusState::Lost { reason: "not opened yet".into() },
            };
            self.nexuses.borrow_mut().insert(uuid, slot);
        }
        Ok(())
    }
}

pub(super) fn child_info(child: volume::ChildInfo, offline: &BTreeSet<String>) -> ChildInfo {
    let state = match child.state {
        // After a restart the mirror only knows that the child was not given.
        volume::ChildState::Faulted if offline.contains(&child.uri) => ChildState::Offline,
        volume::ChildState::Online => ChildState::Online,
        volume::ChildState::OutOfSync => ChildState::OutOfSync,
        volume::ChildState::Rebuilding => ChildState::Rebuilding,
        volume::ChildState::Offline => ChildState::Offline,
        volume::ChildState::Faulted => ChildState::Faulted,
    };
    ChildInfo {
        uri: child.uri,
        state,
        reason: child.reason,
        rebuild: child.rebuild.map(rebuild_info),
        errors: child.errors,
    }
}

pub(super) fn rebuild_info(info: volume::RebuildInfo) -> RebuildInfo {
    RebuildInfo {
        state: match info.state {
            nexus::RebuildState::Init => RebuildState::Init,
            nexus::RebuildState::Running => RebuildState::Running,
            nexus::RebuildState::Paused => RebuildState::Paused,
            nexus::RebuildState::Stopped => RebuildState::Stopped,
            nexus::RebuildState::Failed => RebuildState::Failed,
            nexus::RebuildState::Completed => RebuildState::Completed,
        },
        bytes_done: info.bytes_done.0,
        bytes_total: info.bytes_total.0,
        bytes_per_second: info.bytes_per_second,
        eta_ms: info.eta.map(|eta| u64::try_from(eta.as_millis()).unwrap_or(u64::MAX)),
        source: info.source,
    }
}
