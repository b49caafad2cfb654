//! Pools: creating, importing, exporting, destroying, growing, and bringing them back after a restart.

use std::collections::BTreeMap;
use std::rc::Rc;

use block::{BlockSize, limits};
use futures_util::future::join_all;
use pool::{CreateOptions, Member, Pool, PoolError, Probe};
use uuid::Uuid;

use super::registry::Lease;
use super::{Node, Result};
use crate::config::{PoolConfig, ReplicaConfig, Share};
use crate::model::{CreatePool, Error, ErrorKind, Health, PoolInfo, Protocol};
use crate::uri::DeviceUri;

/// ```text
///   (configuration) ──> Lost ──import──> Open ──export, destroy──> (gone)
///                        └──export, destroy──> (gone)
/// ```
pub(crate) enum PoolState {
    /// Imported. Field order matters: the pool lets go of its disks before the leases close them.
    Open { pool: Rc<Pool>, leases: Vec<Lease> },
    /// Named by the configuration, not imported; tried again every few seconds.
    Lost { reason: String, replicas: BTreeMap<String, Option<Protocol>> },
}

pub(crate) struct PoolSlot {
    pub(crate) disks: Vec<DeviceUri>,
    /// Disks of the configuration that could not even be understood.
    pub(crate) odd_disks: Vec<String>,
    pub(crate) state: PoolState,
}

impl PoolSlot {
    fn same_disks(&self, disks: &[DeviceUri]) -> bool {
        let names = |d: &[DeviceUri]| {
            let mut names: Vec<_> = d.iter().map(DeviceUri::name).collect();
            names.sort();
            names
        };
        self.odd_disks.is_empty() && names(&self.disks) == names(disks)
    }
}

/// Whether a blank disk may be formatted.
enum Make {
    CreateOrImport(CreateOptions),
    ImportOnly,
}

impl Node {
    /// Creates a pool, or imports the one of that name when the disks hold it. A disk of another pool, a damaged one
    /// and (without `force`) one with foreign contents are refused. OK when the pool is there with the same disks.
    pub async fn create_pool(&self, request: CreatePool) -> Result<PoolInfo> {
        self.running()?;
        let CreatePool { name, disks, force, cluster, block_size } = request;
        let disks = parse_disks(&name, &disks, block_size)?;
        let cluster = match cluster.as_str() {
            "" => Uuid::nil(),
            text => Uuid::parse_str(text).map_err(|_| wrong(&name, format!("cluster '{text}' is not a uuid")))?,
        };
        let options = CreateOptions { name: name.clone(), cluster, force, extent_size: None };
        self.make_pool(name, disks, Make::CreateOrImport(options)).await
    }

    /// Imports a pool; never formats. OK when it is there with the same disks.
    pub async fn import_pool(&self, name: String, disks: Vec<String>) -> Result<PoolInfo> {
        self.running()?;
        let disks = parse_disks(&name, &disks, 0)?;
        self.make_pool(name, disks, Make::ImportOnly).await
    }

    async fn make_pool(&self, name: String, disks: Vec<DeviceUri>, make: Make) -> Result<PoolInfo> {
        let _held = self.locks.hold("pool", &name).await;
        let known = self.pools.borrow().get(&name).map(|slot| {
            let open = matches!(slot.state, PoolState::Open { .. });
            (slot.same_disks(&disks), open)
        });
        match known {
            Some((false, _)) => {
                let there = self.pool_info(&name).map(|p| p.disks.join(", ")).unwrap_or_default();
                return Err(Error::already_exists(format!("pool '{name}' exists, on other disks ({there})")));
            }
            Some((true, true)) => {
                self.settle().await?;
                return self.pool_info(&name);
            }
            Some((true, false)) => {
                // It is ours and holds data, or did: whatever is asked, it is imported and never made anew.
                self.open_pool(&name, &disks, Make::ImportOnly).await?;
                self.changes.bump();
                return self.pool_info(&name);
            }
            None => {}
        }
        let opened = self.open_pool(&name, &disks, make).await;
        opened.map_err(|e| match e.kind {
            // v0.3.0's API has one code for all that is wrong with a disk.
            ErrorKind::NotFound | ErrorKind::Unavailable => e.with_kind(ErrorKind::InvalidArgument),
            _ => e,
        })?;
        self.persist().await?;
        self.pool_info(&name)
    }

    /// Opens the disks and the pool on them, and registers its replicas. Replicas that were shared are shared again.
    async fn open_pool(&self, name: &str, disks: &[DeviceUri], make: Make) -> Result<()> {
        let context = |e: Error| e.context(format!("pool '{name}'"));
        let mut leases = Vec::new();
        for uri in disks {
            leases.push(self.lease(uri, &format!("pool {name}"), &self.host_nqn()).await.map_err(context)?);
        }
        let members = || {
            let member = |(uri, lease): (&DeviceUri, &Lease)| Member { uri: uri.canonical(), disk: lease.disk.clone() };
            disks.iter().zip(&leases).map(member).collect::<Vec<_>>()
        };
        let ours = match &make {
            Make::ImportOnly => true,
            Make::CreateOrImport(_) => holds_a_pool(name, &leases).await?,
        };
        let pool = match make {
            Make::CreateOrImport(options) if !ours => pool::create(&self.host, members(), options).await,
            _ => pool::import(&self.host, members(), Some(name)).await,
        };
        let pool = pool.map_err(|e| context(pool_error(&e)))?;
        if let Err(error) = self.register_replicas(name, &pool) {
            // What is wrong with the names is more interesting than what may be wrong with closing it.
            let _ = pool.export().await;
            return Err(context(error));
        }
        let disks = disks.to_vec();
        let slot = PoolSlot { disks, odd_disks: Vec::new(), state: PoolState::Open { pool, leases } };
        let before = self.pools.borrow_mut().insert(name.into(), slot);
        if let Some(PoolSlot { state: PoolState::Lost { replicas, .. }, .. }) = before {
            for (uuid, protocol) in replicas.into_iter().filter_map(|(uuid, shared)| Some((uuid, shared?))) {
                self.want_share(&uuid, protocol);
            }
        }
        self.retry_shares().await;
        Ok(())
    }

    fn register_replicas(&self, name: &str, pool: &Rc<Pool>) -> Result<()> {
        let mut done = Vec::new();
        for replica in pool.replicas() {
            match self.register_replica(name, replica.clone()) {
                Ok(()) => done.push(replica.name().to_owned()),
                Err(error) => {
                    done.iter().for_each(|uuid| drop(self.forget_replica(uuid)));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Closes a pool and forgets it; the data stays on its disks.
    pub async fn export_pool(&self, name: String) -> Result<()> {
        self.running()?;
        let _held = self.locks.hold("pool", &name).await;
        if !self.pools.borrow().contains_key(&name) {
            return Err(no_pool(&name));
        }
        if let Some(pool) = self.open_pool_of(&name)? {
            let claims = self.claim_replicas(&name, "the export of its pool")?;
            self.unregister_replicas(&name).await;
            drop(claims);
            let stopped = matches!(pool.info().state, pool::PoolState::Faulted(_));
            let exported = pool.export().await;
            drop(pool);
            self.drop_pool(&name);
            self.persist().await?;
            // One that had stopped before could not be closed in order; its next import recovers it.
            return if stopped { Ok(()) } else { exported.map_err(|e| pool_error(&e)) };
        }
        self.drop_pool(&name);
        self.persist().await
    }

    /// Destroys a pool. With replicas in it: destroys them too (`with_replicas`, as v0.3.0 does), else refuses.
    /// OK when there is no such pool. One that could not be imported is only forgotten: its disks are left alone.
    pub async fn destroy_pool(&self, name: String, with_replicas: bool) -> Result<()> {
        self.running()?;
        let _held = self.locks.hold("pool", &name).await;
        if !self.pools.borrow().contains_key(&name) {
            return self.settle().await;
        }
        if let Some(pool) = self.open_pool_of(&name)? {
            let replicas: Vec<String> = pool.replicas().iter().map(|r| r.name().to_owned()).collect();
            if !with_replicas && !replicas.is_empty() {
                let n = replicas.len();
                return Err(Error::precondition(format!("pool '{name}' holds {n} replicas; destroy them first")));
            }
            let claims = self.claim_replicas(&name, "the destruction of its pool")?;
            let shared = self.shared_replicas_of(&name);
            self.unregister_replicas(&name).await;
            drop(claims);
            if let Err(error) = raze(&pool, &replicas).await {
                // What is still there goes on as before.
                self.register_replicas(&name, &pool)?;
                shared.iter().for_each(|(uuid, protocol)| self.want_share(uuid, *protocol));
                self.retry_shares().await;
                return Err(pool_error(&error).with_kind(ErrorKind::Internal));
            }
        }
        self.drop_pool(&name);
        self.persist().await
    }

    fn drop_pool(&self, name: &str) {
        let slot = self.pools.borrow_mut().remove(name);
        drop(slot);
    }

    /// Adds a disk to a pool that is in use. OK when it is one of its disks already.
    pub async fn add_pool_disk(&self, name: String, disk: String, force: bool) -> Result<PoolInfo> {
        self.running()?;
        let uri = DeviceUri::parse(&disk).map_err(|e| e.context(format!("pool '{name}'")))?;
        let _held = self.locks.hold("pool", &name).await;
        let Some(pool) = self.open_pool_of(&name)? else {
            return Err(self.lost_pool(&name).unwrap_or_else(|| no_pool(&name)));
        };
        if self.pools.borrow()[&name].disks.iter().any(|d| d.name() == uri.name()) {
            return self.pool_info(&name);
        }
        let lease = self.lease(&uri, &format!("pool {name}"), &self.host_nqn()).await;
        let lease = lease.map_err(|e| e.context(format!("pool '{name}'")).with_kind(ErrorKind::InvalidArgument))?;
        let member = Member { uri: uri.canonical(), disk: lease.disk.clone() };
        pool.add_disk(member, force).await.map_err(|e| pool_error(&e))?;
        if let Some(slot) = self.pools.borrow_mut().get_mut(&name) {
            slot.disks.push(uri);
            if let PoolState::Open { leases, .. } = &mut slot.state {
                leases.push(lease);
            }
        }
        self.persist().await?;
        self.pool_info(&name)
    }

    /// All pools, by name.
    pub fn pools(&self) -> Vec<PoolInfo> {
        let names: Vec<String> = self.pools.borrow().keys().cloned().collect();
        names.iter().filter_map(|name| self.pool_info(name).ok()).collect()
    }

    pub(crate) fn pool_info(&self, name: &str) -> Result<PoolInfo> {
        let pools = self.pools.borrow();
        let slot = pools.get(name).ok_or_else(|| no_pool(name))?;
        let mut disks: Vec<String> = slot.disks.iter().map(DeviceUri::canonical).collect();
        disks.extend(slot.odd_disks.clone());
        Ok(match &slot.state {
            PoolState::Open { pool, .. } => {
                let info = pool.info();
                let (state, reason) = match info.state {
                    pool::PoolState::Online => (Health::Online, String::new()),
                    pool::PoolState::Faulted(why) => (Health::Faulted, why),
                    pool::PoolState::Closed => (Health::Faulted, "it is being closed".into()),
                };
                PoolInfo {
                    name: name.into(),
                    uuid: pool.uuid().to_string(),
                    disks,
                    state,
                    reason,
                    capacity: info.capacity.0,
                    used: info.used.0,
                    committed: info.committed.0,
                }
            }
            PoolState::Lost { reason, .. } => PoolInfo {
                name: name.into(),
                uuid: String::new(),
                disks,
                state: Health::Faulted,
                reason: reason.clone(),
                capacity: 0,
                used: 0,
                committed: 0,
            },
        })
    }

    /// The pool, when it is open; `None` when it is lost; NotFound when there is none.
    pub(crate) fn open_pool_of(&self, name: &str) -> Result<Option<Rc<Pool>>> {
        match self.pools.borrow().get(name).map(|slot| &slot.state) {
            Some(PoolState::Open { pool, .. }) => Ok(Some(pool.clone())),
            Some(PoolState::Lost { .. }) => Ok(None),
            None => Err(no_pool(name)),
        }
    }

    /// Why the pool cannot be used now, if it is lost.
    pub(crate) fn lost_pool(&self, name: &str) -> Option<Error> {
        match self.pools.borrow().get(name).map(|slot| &slot.state) {
            Some(PoolState::Lost { reason, .. }) => {
                Some(Error::unavailable(format!("pool '{name}' is not imported: {reason}")))
            }
            _ => None,
        }
    }

    /// The pools for the configuration file.
    pub(crate) fn pools_config(&self) -> Vec<PoolConfig> {
        let pools = self.pools.borrow();
        let config = |(name, slot): (&String, &PoolSlot)| {
            let shared: BTreeMap<String, Option<Protocol>> = match &slot.state {
                PoolState::Lost { replicas, .. } => replicas.clone(),
                PoolState::Open { .. } => {
                    let replicas = self.replicas.borrow();
                    let here = replicas.iter().filter(|(_, r)| r.pool == *name);
                    here.map(|(uuid, r)| (uuid.clone(), r.shared)).collect()
                }
            };
            let replica =
                |(name, shared): (String, Option<Protocol>)| ReplicaConfig { name, share: shared.map(Share::from) };
            let mut disks: Vec<String> = slot.disks.iter().map(DeviceUri::canonical).collect();
            disks.extend(slot.odd_disks.clone());
            let replicas = shared.into_iter().map(replica).collect();
            PoolConfig { name: name.clone(), disks, blk_size: None, io_if: None, replicas }
        };
        pools.iter().map(config).collect()
    }

    /// Puts the pools of the configuration file into the table, not imported yet.
    pub(crate) fn expect_pools(&self, pools: Vec<PoolConfig>) {
        for config in pools {
            let mut slot = PoolSlot {
                disks: Vec::new(),
                odd_disks: Vec::new(),
                state: PoolState::Lost {
                    reason: "not imported yet".into(),
                    replicas: config.replicas.into_iter().map(|r| (r.name, r.share.map(Protocol::from))).collect(),
                },
            };
            for disk in config.disks {
                match DeviceUri::parse(&disk) {
                    Ok(uri) => slot.disks.push(uri),
                    Err(_) => slot.odd_disks.push(disk),
                }
            }
            self.pools.borrow_mut().insert(config.name, slot);
        }
    }

    /// Tries to import the pools that are not.
    pub(crate) async fn retry_pools(&self) {
        let names: Vec<String> = self.pools.borrow().keys().cloned().collect();
        join_all(names.iter().map(|name| self.retry_pool(name))).await;
    }

    async fn retry_pool(&self, name: &str) {
        let _held = self.locks.hold("pool", name).await;
        let lost = self.pools.borrow().get(name).and_then(|slot| match slot.state {
            PoolState::Lost { .. } => Some((slot.disks.clone(), slot.odd_disks.first().cloned())),
            PoolState::Open { .. } => None,
        });
        let Some((disks, odd)) = lost else { return };
        let opened = match odd {
            Some(odd) => DeviceUri::parse(&odd).map(|_| ()),
            None => self.open_pool(name, &disks, Make::ImportOnly).await,
        };
        match opened {
            Ok(()) => self.changes.bump(),
            Err(error) => {
                if let Some(PoolSlot { state: PoolState::Lost { reason, .. }, .. }) =
                    self.pools.borrow_mut().get_mut(name)
                {
                    self.explain(reason, error.message);
                }
            }
        }
    }

    /// Which pools are well, to notice when that changes.
    pub(crate) fn pool_health(&self) -> Vec<(String, Health)> {
        self.pools().into_iter().map(|pool| (pool.name, pool.state)).collect()
    }

    /// Closes all pools; the configuration keeps them.
    pub(crate) async fn stop_pools(&self) {
        let names: Vec<String> = self.pools.borrow().keys().cloned().collect();
        for name in names {
            let _held = self.locks.hold("pool", &name).await;
            if let Ok(Some(pool)) = self.open_pool_of(&name) {
                self.unregister_replicas(&name).await;
                // What could not be closed in order is recovered at the next import.
                let _ = pool.export().await;
            }
            self.drop_pool(&name);
        }
    }
}

async fn raze(pool: &Pool, replicas: &[String]) -> std::result::Result<(), PoolError> {
    for uuid in replicas {
        pool.destroy_replica(uuid).await?;
    }
    pool.destroy().await
}

/// Whether the disks belong to a pool already, or are damaged ones of a pool: then they are not formatted.
async fn holds_a_pool(name: &str, leases: &[Lease]) -> Result<bool> {
    let mut found = false;
    for lease in leases {
        let probe = pool::probe(&lease.disk).await.map_err(|e| pool_error(&e).context(format!("pool '{name}'")))?;
        found |= match probe {
            // Its creation was interrupted before it could hold anything.
            Probe::Pool(label) => !label.unused,
            Probe::Damaged(_) | Probe::Newer(_) => true,
            Probe::Blank | Probe::Foreign(_) => false,
        };
    }
    Ok(found)
}

fn parse_disks(name: &str, disks: &[String], block_size: u32) -> Result<Vec<DeviceUri>> {
    check_name("pool", name)?;
    if disks.is_empty() {
        return Err(wrong(name, "no disk is given"));
    }
    if disks.len() > limits::POOL_DISKS {
        return Err(wrong(name, format!("{} disks are given, at most {} can be", disks.len(), limits::POOL_DISKS)));
    }
    let mut parsed: Vec<DeviceUri> = Vec::new();
    for disk in disks {
        let mut uri = DeviceUri::parse(disk).map_err(|e| e.context(format!("pool '{name}'")))?;
        if disk.starts_with('/') && block_size != 0 {
            let size = BlockSize::from_bytes(block_size);
            let why = || wrong(name, format!("disk {disk}: block size {block_size} is neither 512 nor 4096"));
            uri.block_size = Some(size.ok_or_else(why)?);
        }
        if parsed.iter().any(|p| p.name() == uri.name()) {
            return Err(wrong(name, format!("disk {disk} is given twice")));
        }
        parsed.push(uri);
    }
    Ok(parsed)
}

/// Names of pools and replicas.
pub(crate) fn check_name(kind: &str, name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.len() > limits::NAME_BYTES || !name.chars().all(good) {
        let name = name.escape_default();
        let rule = "a name has 1 to 63 letters, digits, dots, hyphens or underscores";
        return Err(Error::invalid(format!("{kind} '{name}': {rule}")));
    }
    Ok(())
}

fn wrong(name: &str, why: impl std::fmt::Display) -> Error {
    Error::invalid(format!("pool '{name}': {why}"))
}

fn no_pool(name: &str) -> Error {
    Error::not_found(format!("pool '{name}' not found"))
}

/// The API's kind for what a pool says.
pub(crate) fn pool_error(error: &PoolError) -> Error {
    let kind = match error {
        PoolError::Invalid(_)
        | PoolError::Foreign { .. }
        | PoolError::InUse { .. }
        | PoolError::NotAPool { .. }
        | PoolError::WrongName { .. }
        | PoolError::Mixed { .. }
        | PoolError::MissingDisk { .. }
        | PoolError::Destroyed(_)
        | PoolError::TooSmall { .. } => ErrorKind::InvalidArgument,
        PoolError::NoSpace { .. } | PoolError::Limit { .. } => ErrorKind::ResourceExhausted,
        PoolError::Exists { .. } => ErrorKind::AlreadyExists,
        PoolError::NotFound { .. } => ErrorKind::NotFound,
        PoolError::NotEmpty { .. } => ErrorKind::FailedPrecondition,
        PoolError::Io { .. } | PoolError::Damaged { .. } | PoolError::Unsupported { .. } => ErrorKind::Internal,
        PoolError::Faulted { .. } => ErrorKind::Internal,
        PoolError::Closed(_) => ErrorKind::Aborted,
    };
    Error::new(kind, error.to_string())
}
