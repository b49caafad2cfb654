//! Replicas: creating, sharing, destroying, and sharing again what was shared before a restart.

use std::rc::Rc;

use block::Fault;
use host::{DiskRef, LocalFuture};
use nexus::ledger::Role;
use pool::{PoolError, Replica, ReplicaSpec, ReplicaState};
use uuid::Uuid;

use super::counted::Counted;
use super::exports::protocol_of;
use super::pools::{PoolState, check_name, pool_error};
use super::registry::{Bdev, Claim, Origin};
use super::{Node, Result};
use crate::guard::{Guard, Keep};
use crate::model::{
    CreateReplica, Error, ErrorKind, Health, LedgerContents, NodeStatistics, Protocol, ReplicaContents, ReplicaInfo,
    ReplicaStats,
};
use crate::volume;

/// A replica of an imported pool.
pub(crate) struct ReplicaSlot {
    pub(crate) pool: String,
    pub(crate) replica: Rc<Replica>,
    counted: Rc<Counted>,
    /// How it shall be shared, if it shall; whether it is, the registry knows.
    pub(crate) shared: Option<Protocol>,
    /// Why it could not be shared; else empty.
    trouble: String,
}

impl Node {
    /// Creates a replica; OK when an equal one exists. Asked to share it, shares it also when it exists.
    pub async fn create_replica(&self, request: CreateReplica) -> Result<ReplicaInfo> {
        self.running()?;
        let CreateReplica { uuid, pool: pool_name, size, thin, share } = request;
        check_name("replica", &uuid)?;
        if size == 0 {
            return Err(Error::invalid(format!("replica '{uuid}': the size is zero")));
        }
        let _replica = self.locks.hold("replica", &uuid).await;
        let _pool = self.locks.hold("pool", &pool_name).await;
        let existing = self.replicas.borrow().get(&uuid).map(|slot| (slot.pool.clone(), slot.replica.clone()));
        if let Some((pool, replica)) = existing {
            self.check_same(&pool, &replica, &pool_name, size, thin)?;
        } else {
            let Some(pool) = self.open_pool_of(&pool_name)? else {
                return Err(self.lost_pool(&pool_name).unwrap_or_else(|| Error::not_found(pool_name)));
            };
            if let Some((other, _)) = self.lost_replica(&uuid) {
                return Err(Error::already_exists(format!(
                    "replica '{uuid}' exists in pool '{other}', not imported now"
                )));
            }
            if self.registry.find(&uuid).is_some() {
                return Err(Error::already_exists(format!("replica '{uuid}': there is a device of that name")));
            }
            let extent = pool.info().extent_size.0;
            let rounded = size.div_ceil(extent).checked_mul(extent);
            let size = rounded.ok_or_else(|| Error::invalid(format!("replica '{uuid}': {size} bytes are too many")))?;
            let spec = ReplicaSpec { name: uuid.clone(), size: block::Bytes(size), thin };
            let created = pool.create_replica(spec).await;
            let replica = created.map_err(|e| pool_error(&e).context(format!("replica '{uuid}'")))?;
            self.register_replica(&pool_name, replica)?;
        }
        if share.is_some() {
            self.share_held_replica(&uuid, share).await?;
        }
        self.persist().await?;
        self.replica_info(&uuid)
    }

    /// Makes a replica larger; what it gains reads as zeroes. OK when it is as large. Nothing has changed when its pool has no
    /// room.
    pub async fn resize_replica(&self, uuid: String, size: u64) -> Result<ReplicaInfo> {
        self.running()?;
        let _replica = self.locks.hold("replica", &uuid).await;
        let Some(pool_name) = self.replicas.borrow().get(&uuid).map(|slot| slot.pool.clone()) else {
            return Err(self.no_replica(&uuid));
        };
        let _pool = self.locks.hold("pool", &pool_name).await;
        let Some(pool) = self.open_pool_of(&pool_name)? else { return Err(self.no_replica(&uuid)) };
        let extent = pool.info().extent_size.0;
        let rounded = size.div_ceil(extent).checked_mul(extent);
        let size = rounded.ok_or_else(|| Error::invalid(format!("replica '{uuid}': {size} bytes are too many")))?;
        let grown = pool.grow_replica(&uuid, block::Bytes(size)).await;
        grown.map_err(|e| pool_error(&e).context(format!("replica '{uuid}'")))?;
        self.refresh_share(&uuid);
        self.changes.bump();
        self.settle().await?;
        self.replica_info(&uuid)
    }

    fn check_same(&self, pool: &str, replica: &Replica, asked_pool: &str, size: u64, thin: bool) -> Result<()> {
        let uuid = replica.name();
        let differs = |what: String| Err(Error::already_exists(format!("replica '{uuid}' exists {what}")));
        if pool != asked_pool {
            return differs(format!("in pool '{pool}'"));
        }
        let extent = self.open_pool_of(pool)?.map_or(1, |p| p.info().extent_size.0);
        if size.div_ceil(extent).checked_mul(extent) != Some(replica.size().0) {
            return differs(format!("with {} bytes, not {size}", replica.size()));
        }
        if replica.thin() != thin {
            return differs(format!("as a {} one", if thin { "thick" } else { "thin" }));
        }
        Ok(())
    }

    /// Shares (`Some`) or un-shares (`None`) a replica; OK when it is so already.
    pub async fn share_replica(&self, uuid: String, share: Option<Protocol>) -> Result<ReplicaInfo> {
        self.running()?;
        let _replica = self.locks.hold("replica", &uuid).await;
        let Some(pool) = self.replicas.borrow().get(&uuid).map(|slot| slot.pool.clone()) else {
            return Err(self.no_replica(&uuid));
        };
        let _pool = self.locks.hold("pool", &pool).await;
        self.share_held_replica(&uuid, share).await?;
        self.persist().await?;
        self.replica_info(&uuid)
    }

    /// The caller holds the replica or its pool.
    async fn share_held_replica(&self, uuid: &str, share: Option<Protocol>) -> Result<()> {
        if !self.replicas.borrow().contains_key(uuid) {
            return Err(self.no_replica(uuid));
        }
        let now = self.registry.find(uuid).and_then(|(_, b)| b.share).map(|name| protocol_of(&name));
        if share.is_none() || now != share {
            self.unshare_device(uuid).await;
        }
        if let Some(protocol) = share {
            self.share_device(uuid, uuid, protocol).await.map_err(|e| e.context(format!("replica '{uuid}'")))?;
        }
        if let Some(slot) = self.replicas.borrow_mut().get_mut(uuid) {
            slot.shared = share;
            slot.trouble.clear();
        }
        Ok(())
    }

    /// Destroys a replica; OK when there is none, refused while a nexus of this node uses it.
    pub async fn destroy_replica(&self, uuid: String) -> Result<()> {
        self.running()?;
        let _replica = self.locks.hold("replica", &uuid).await;
        let Some(pool_name) = self.replicas.borrow().get(&uuid).map(|slot| slot.pool.clone()) else {
            return match self.lost_replica(&uuid) {
                Some((_, error)) => Err(error),
                None => self.settle().await,
            };
        };
        let _pool = self.locks.hold("pool", &pool_name).await;
        let Ok(Some(pool)) = self.open_pool_of(&pool_name) else { return Ok(()) };
        let claim = self.claim_for(&uuid, "its destruction")?;
        self.unshare_device(&uuid).await;
        let slot = self.forget_replica(&uuid);
        let shared = slot.as_ref().and_then(|s| s.shared);
        drop(slot);
        drop(claim);
        if let Err(error) = pool.destroy_replica(&uuid).await {
            // It is still there: put it back, so that what is listed is what is there.
            if let Some(replica) = pool.replica(&uuid) {
                self.register_replica(&pool_name, replica)?;
                if let Some(protocol) = shared {
                    self.want_share(&uuid, protocol);
                    self.retry_shares().await;
                }
            }
            return Err(pool_error(&error).context(format!("replica '{uuid}'")).with_kind(ErrorKind::Internal));
        }
        self.persist().await
    }

    /// All replicas, by name; also those of pools that could not be imported.
    pub fn replicas(&self) -> Vec<ReplicaInfo> {
        let names: Vec<String> = self.replicas.borrow().keys().cloned().collect();
        let mut list: Vec<ReplicaInfo> = names.iter().filter_map(|uuid| self.replica_info(uuid).ok()).collect();
        for (pool, slot) in self.pools.borrow().iter() {
            if let PoolState::Lost { reason, replicas } = &slot.state {
                list.extend(replicas.keys().map(|uuid| ReplicaInfo {
                    uuid: uuid.clone(),
                    pool: pool.clone(),
                    size: 0,
                    thin: false,
                    allocated: 0,
                    share: None,
                    uri: format!("bdev:///{uuid}"),
                    state: Health::Faulted,
                    reason: format!("pool '{pool}' is not imported: {reason}"),
                }));
            }
        }
        list.sort_by(|a, b| a.uuid.cmp(&b.uuid));
        list
    }

    pub(crate) fn replica_info(&self, uuid: &str) -> Result<ReplicaInfo> {
        let replicas = self.replicas.borrow();
        let slot = replicas.get(uuid).ok_or_else(|| self.no_replica(uuid))?;
        let nqn = self.registry.find(uuid).and_then(|(_, b)| b.share);
        let (state, reason) = match slot.replica.state() {
            ReplicaState::Online if slot.trouble.is_empty() => (Health::Online, String::new()),
            ReplicaState::Online => (Health::Online, format!("not shared: {}", slot.trouble)),
            ReplicaState::Faulted(why) => (Health::Faulted, format!("pool '{}' has stopped: {why}", slot.pool)),
            ReplicaState::Gone => (Health::Faulted, "it is being destroyed".into()),
        };
        Ok(ReplicaInfo {
            uuid: uuid.into(),
            pool: slot.pool.clone(),
            size: slot.replica.size().0,
            thin: slot.replica.thin(),
            allocated: slot.replica.allocated().0,
            share: nqn.as_deref().map(protocol_of),
            uri: nqn.map_or_else(|| format!("bdev:///{uuid}"), |nqn| self.exports.peer_uri(&nqn)),
            state,
            reason,
        })
    }

    /// What lies on a replica, as far as nexuses have written it. Reads only.
    pub async fn inspect_replica(&self, uuid: String) -> Result<ReplicaContents> {
        let disk = {
            let replicas = self.replicas.borrow();
            let slot = replicas.get(&uuid).ok_or_else(|| self.no_replica(&uuid))?;
            slot.counted.clone() as DiskRef
        };
        let found = volume::inspect(&self.host, &disk).await;
        let found = found.map_err(|why| Error::unavailable(format!("replica '{uuid}': {why}")))?;
        let Some(found) = found else { return Ok(ReplicaContents::default()) };
        let ledger = |l: nexus::ledger::Ledger| LedgerContents {
            size: l.size.0,
            generation: l.version.number().0,
            parent: l.parent.number().0,
            members: l
                .entries
                .iter()
                .filter(|e| e.role != Role::Gone)
                .map(|e| (e.member, e.role == Role::InSync))
                .collect(),
        };
        Ok(ReplicaContents { volume: Some(found.volume), member: found.member, ledger: found.ledger.map(ledger) })
    }

    /// What was read from and written to each replica.
    pub fn replica_stats(&self) -> Vec<ReplicaStats> {
        let stats = |(uuid, slot): (&String, &ReplicaSlot)| {
            let [(num_read_ops, bytes_read), (num_write_ops, bytes_written)] = slot.counted.meter.totals();
            let (uuid, pool) = (uuid.clone(), slot.pool.clone());
            ReplicaStats { uuid, pool, num_read_ops, num_write_ops, bytes_read, bytes_written }
        };
        self.replicas.borrow().iter().map(stats).collect()
    }

    /// The counters of all replicas and nexuses that were ever used.
    pub fn statistics(&self) -> NodeStatistics {
        let replica = |(uuid, slot): (&String, &ReplicaSlot)| (uuid.clone(), slot.counted.meter.read());
        let replicas = self.replicas.borrow().iter().map(replica).filter(|(_, io)| !io.is_idle()).collect();
        let nexuses = self.nexus_statistics();
        NodeStatistics { instance: self.instance, replicas, nexuses }
    }

    /// Makes a replica of an open pool known as a device.
    pub(crate) fn register_replica(&self, pool: &str, replica: Rc<Replica>) -> Result<()> {
        let name = replica.name().to_owned();
        let counted = Rc::new(Counted::new(&self.host, replica.clone() as DiskRef));
        let bdev = Bdev {
            guard: Guard::new(counted.clone(), Some(Rc::new(InPool(replica.clone())))),
            disk: counted.clone(),
            uuid: uuid_of(&name),
            aliases: vec![format!("{pool}/{name}"), format!("bdev:///{name}")],
            uri: String::new(),
            origin: Origin::Replica(pool.into()),
            share: None,
        };
        self.registry.add(&name, bdev)?;
        let slot = ReplicaSlot { pool: pool.into(), replica, counted, shared: None, trouble: String::new() };
        self.replicas.borrow_mut().insert(name, slot);
        Ok(())
    }

    pub(crate) fn forget_replica(&self, uuid: &str) -> Option<ReplicaSlot> {
        drop(self.registry.remove(uuid));
        self.replicas.borrow_mut().remove(uuid)
    }

    pub(crate) fn replicas_of(&self, pool: &str) -> Vec<String> {
        let replicas = self.replicas.borrow();
        replicas.iter().filter(|(_, slot)| slot.pool == pool).map(|(uuid, _)| uuid.clone()).collect()
    }

    pub(crate) fn shared_replicas_of(&self, pool: &str) -> Vec<(String, Protocol)> {
        let replicas = self.replicas.borrow();
        let here = replicas.iter().filter(|(_, slot)| slot.pool == pool);
        here.filter_map(|(uuid, slot)| Some((uuid.clone(), slot.shared?))).collect()
    }

    /// Claims all replicas of a pool, so that nobody begins to use one; refused when one is in use.
    pub(crate) fn claim_replicas(&self, pool: &str, user: &str) -> Result<Vec<Claim>> {
        let claims = self.replicas_of(pool).into_iter().map(|uuid| self.claim_for(&uuid, user));
        claims.collect::<Result<_>>().map_err(|e| e.context(format!("pool '{pool}'")))
    }

    fn claim_for(&self, uuid: &str, user: &str) -> Result<Claim> {
        let claim = self.registry.claim(uuid, user);
        claim.map_err(|e| e.context(format!("replica '{uuid}'")).with_kind(ErrorKind::FailedPrecondition))
    }

    /// Un-shares and forgets all replicas of a pool.
    pub(crate) async fn unregister_replicas(&self, pool: &str) {
        for uuid in self.replicas_of(pool) {
            self.unshare_device(&uuid).await;
            drop(self.forget_replica(&uuid));
        }
    }

    /// Notes that a replica shall be shared.
    pub(crate) fn want_share(&self, uuid: &str, protocol: Protocol) {
        if let Some(slot) = self.replicas.borrow_mut().get_mut(uuid) {
            slot.shared = Some(protocol);
        }
    }

    /// Shares the replicas that shall be shared and are not.
    pub(crate) async fn retry_shares(&self) {
        let wanted: Vec<(String, Protocol)> = {
            let replicas = self.replicas.borrow();
            replicas.iter().filter_map(|(uuid, slot)| Some((uuid.clone(), slot.shared?))).collect()
        };
        for (uuid, protocol) in wanted {
            if self.registry.find(&uuid).is_some_and(|(_, b)| b.share.is_none()) {
                let shared = self.share_device(&uuid, &uuid, protocol).await;
                let trouble = shared.err().map(|e| e.message).unwrap_or_default();
                if let Some(slot) = self.replicas.borrow_mut().get_mut(&uuid) {
                    self.explain(&mut slot.trouble, trouble);
                }
            }
        }
    }

    /// The pool of a replica that is known and whose pool is not imported, and what to say about it.
    fn lost_replica(&self, uuid: &str) -> Option<(String, Error)> {
        let pools = self.pools.borrow();
        pools.iter().find_map(|(name, slot)| match &slot.state {
            PoolState::Lost { reason, replicas } if replicas.contains_key(uuid) => {
                let why = format!("replica '{uuid}': its pool '{name}' is not imported: {reason}");
                Some((name.clone(), Error::unavailable(why)))
            }
            _ => None,
        })
    }

    fn no_replica(&self, uuid: &str) -> Error {
        let lost = self.lost_replica(uuid).map(|(_, error)| error);
        lost.unwrap_or_else(|| Error::not_found(format!("replica '{uuid}' not found")))
    }
}

/// A replica's reservations are kept in the metadata of its pool.
struct InPool(Rc<Replica>);

impl Keep for InPool {
    fn kept(&self) -> Vec<u8> {
        self.0.reservation()
    }
    fn keep(&self, bytes: Vec<u8>) -> LocalFuture<'_, std::result::Result<(), Fault>> {
        Box::pin(async move {
            self.0.keep_reservation(bytes).await.map_err(|error| match error {
                PoolError::Limit { .. } => Fault::NoSpace,
                _ => Fault::Gone,
            })
        })
    }
}

/// The uuid of a replica: its name when that is one, else derived from the name, so that it is the same tomorrow.
fn uuid_of(name: &str) -> Uuid {
    Uuid::parse_str(name).unwrap_or_else(|_| {
        // FNV-1a of 128 bits: spreads names well, and is no secret.
        let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
        for byte in name.bytes() {
            hash = (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
        uuid::Builder::from_custom_bytes(hash.to_be_bytes()).into_uuid()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_uuid() {
        let uuid = "4a9ff0d3-5d26-4b4a-9d1e-0e0f7b5f6f11";
        assert_eq!(uuid_of(uuid).to_string(), uuid);
        assert_eq!(uuid_of("replica-1"), uuid_of("replica-1"));
        assert_ne!(uuid_of("replica-1"), uuid_of("replica-2"));
    }
}
