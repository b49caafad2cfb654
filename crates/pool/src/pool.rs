//! An open pool: what it tells, and its administrative operations. Each is durable when it returns.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use block::{BlockSize, Bytes, Fault};
use uuid::Uuid;

use crate::checkpoint::{self, Purpose};
use crate::codec::valid_name;
use crate::core::{Core, Live, Phase, PoolDisk, Task, Then};
use crate::create::{check_block_size, check_vacant, clear, flush, layout, new_uuid, write_label};
use crate::label::{FEATURE_GROWN, FEATURE_RESERVATIONS, Label, LabelState};
use crate::load::{LoadedDisk, wipe};
use crate::metadata::extents_of;
use crate::record::Record;
use crate::replica::Replica;
use crate::{Member, PoolError};

/// What a replica is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaSpec {
    /// Its name: 1 to 63 of `A-Z a-z 0-9 . _ -`, unique in the pool.
    pub name: String,
    /// Its size: a multiple of the pool's block size.
    pub size: Bytes,
    /// Whether space is taken only as it is written (then writes can fail for lack of it), or reserved now.
    pub thin: bool,
}

/// Whether a pool works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolState {
    /// It does.
    Online,
    /// It has stopped after a metadata write or a flush failed; the text says which. Import it again.
    Faulted(String),
    /// It was exported or destroyed.
    Closed,
}

/// A disk of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskInfo {
    /// The URI with which it was given.
    pub uri: String,
    /// Its identity.
    pub uuid: Uuid,
    /// The space that it adds to the pool.
    pub capacity: Bytes,
}

/// What a pool tells about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolInfo {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uuid: Uuid,
    /// The cluster in which it was created.
    pub cluster: Uuid,
    /// Whether it works.
    pub state: PoolState,
    /// Its disks, by index.
    pub disks: Vec<DiskInfo>,
    /// Disks that were given at import but hold nothing, because adding them had been interrupted. They can be added.
    pub unused: Vec<String>,
    /// The block size of the pool and its replicas.
    pub block_size: BlockSize,
    /// The size of an extent.
    pub extent_size: Bytes,
    /// The space for replicas.
    pub capacity: Bytes,
    /// What replicas take.
    pub used: Bytes,
    /// What is promised to replicas: the thick ones whole, of the thin ones what they take.
    pub committed: Bytes,
    /// How many replicas there are.
    pub replicas: usize,
}

/// An open pool. Nobody else may use its disks.
pub struct Pool {
    core: Rc<Core>,
    replicas: RefCell<BTreeMap<String, Rc<Replica>>>,
}

impl Pool {
    pub(crate) fn new(core: Rc<Core>) -> Rc<Pool> {
        let ids: Vec<u32> = core.state.borrow().live.keys().copied().collect();
        let replicas = ids.into_iter().map(|id| Rc::new(Replica::new(&core, id)));
        let replicas = replicas.map(|r| (r.name().to_string(), r)).collect();
        Rc::new(Pool { core, replicas: RefCell::new(replicas) })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.core.name
    }
    /// Its identity.
    pub fn uuid(&self) -> Uuid {
        self.core.uuid
    }
    /// The cluster in which it was created.
    pub fn cluster(&self) -> Uuid {
        self.core.cluster
    }
    /// Whether it works.
    pub fn state(&self) -> PoolState {
        match &self.core.state.borrow().phase {
            Phase::Online => PoolState::Online,
            Phase::Faulted(why) => PoolState::Faulted(why.clone()),
            Phase::Closing | Phase::Closed => PoolState::Closed,
        }
    }
    /// Everything about it.
    pub fn info(&self) -> PoolInfo {
        let state = self.state();
        let s = self.core.state.borrow();
        let extent = self.core.extent_bytes;
        let space = |extents: u64| Bytes(extents * extent);
        let disk = |d: &PoolDisk| DiskInfo {
            uri: d.uri.clone(),
            uuid: d.label.disk,
            capacity: space(u64::from(d.label.extents)),
        };
        PoolInfo {
            name: self.core.name.clone(),
            uuid: self.core.uuid,
            cluster: self.core.cluster,
            state,
            disks: s.disks.iter().map(disk).collect(),
            unused: self.core.unused.borrow().clone(),
            block_size: self.core.label.block_size,
            extent_size: space(1),
            capacity: space(s.meta.extents()),
            used: space(s.meta.extents() - s.alloc.free()),
            committed: space(s.meta.extents() - s.alloc.free() + s.reserved),
            replicas: s.meta.replicas.len(),
        }
    }

    /// All replicas, by name.
    pub fn replicas(&self) -> Vec<Rc<Replica>> {
        self.replicas.borrow().values().cloned().collect()
    }
    /// One replica.
    pub fn replica(&self, name: &str) -> Option<Rc<Replica>> {
        self.replicas.borrow().get(name).cloned()
    }

    /// Makes a replica. It reads as zeroes.
    ///
    /// # Errors
    /// [`PoolError::Exists`]; [`PoolError::NoSpace`] when a thick one does not fit into what is not promised yet;
    /// [`PoolError::Invalid`]; [`PoolError::Limit`]; [`PoolError::Faulted`], [`PoolError::Closed`].
    pub async fn create_replica(&self, spec: ReplicaSpec) -> Result<Rc<Replica>, PoolError> {
        let core = &self.core;
        let _turn = core.admin.lock().await;
        core.check_online()?;
        let (number, id) = {
            let mut s = core.state.borrow_mut();
            self.check_spec(&spec, &s)?;
            let id = s.meta.next_replica;
            s.live.insert(id, Live::default());
            let ReplicaSpec { name, size, thin } = spec.clone();
            let record = Record::CreateReplica { replica: id, name, size: size.0, thin };
            (s.record(&core.grace, record, Then::Nothing), id)
        };
        core.durable(number).await?;
        let replica = Rc::new(Replica::new(core, id));
        self.replicas.borrow_mut().insert(spec.name, replica.clone());
        Ok(replica)
    }

    fn check_spec(&self, spec: &ReplicaSpec, s: &crate::core::State) -> Result<(), PoolError> {
        let (core, name, size) = (&self.core, &spec.name, spec.size.0);
        let pool = || core.name.clone();
        if !valid_name(name) {
            let why = format!(
                "{name:?} is no name for a replica: it takes 1 to 63 letters, digits, dots, hyphens or underscores"
            );
            return Err(PoolError::Invalid(why));
        }
        if s.meta.by_name(name).is_some() {
            return Err(PoolError::Exists { pool: pool(), name: name.clone() });
        }
        let block = core.label.block_size;
        if size == 0 || !block.divides(size) {
            let why = format!("a replica of {size} bytes: it takes a multiple of {} bytes", block.bytes());
            return Err(PoolError::Invalid(why));
        }
        let Some(extents) = extents_of(size, core.extent_bytes) else {
            let most = u64::from(crate::MAX_REPLICA_EXTENTS) * core.extent_bytes;
            return Err(PoolError::Invalid(format!("a replica of {size} bytes: the most is {most}")));
        };
        let replicas = s.meta.replicas.len();
        if replicas >= block::limits::POOL_REPLICAS || s.meta.next_replica >= u32::MAX - 1 {
            return Err(PoolError::Limit {
                pool: pool(),
                what: format!("it has {replicas} replicas, the most there can be"),
            });
        }
        core.check_growth(s.meta.disks.len(), replicas + 1, s.meta.extents(), s.meta.reservation_bytes())?;
        let free = s.alloc.free() - s.reserved - s.waiting_thin;
        if !spec.thin && u64::from(extents) > free {
            let (needed, free) = (u64::from(extents) * core.extent_bytes, free * core.extent_bytes);
            return Err(PoolError::NoSpace { pool: pool(), needed, free });
        }
        Ok(())
    }

    /// Destroys a replica and its data. Requests to it that are under way may still be answered either way; later ones
    /// fail with [`Fault::Gone`].
    ///
    /// # Errors
    /// [`PoolError::NotFound`]; [`PoolError::Faulted`], [`PoolError::Closed`].
    pub async fn destroy_replica(&self, name: &str) -> Result<(), PoolError> {
        let core = &self.core;
        let _turn = core.admin.lock().await;
        core.check_online()?;
        let (number, waiting) = {
            let mut guard = core.state.borrow_mut();
            let s = &mut *guard;
            let Some((id, meta)) = s.meta.by_name(name) else {
                return Err(PoolError::NotFound { pool: core.name.clone(), name: name.into() });
            };
            let thin = meta.thin;
            let live = s.live.remove(&id).expect("every replica is live");
            let before = s.waiting.len();
            s.waiting.retain(|(waits, _)| *waits != id);
            s.waiting_thin -= if thin { (before - s.waiting.len()) as u64 } else { 0 };
            let number = s.record(&core.grace, Record::DestroyReplica { replica: id }, Then::Nothing);
            (number, live.opening)
        };
        waiting.into_values().flatten().for_each(|parked| parked.ticket.fail(Fault::Gone));
        self.replicas.borrow_mut().remove(name);
        core.durable(number).await
    }

    /// Makes a replica larger: `size` from now on. What it gains reads as zeroes; a thick one has the space for it, or
    /// nothing has changed. Durable when this returns. Fine when it has that size already.
    ///
    /// # Errors
    /// [`PoolError::NotFound`]; [`PoolError::NoSpace`]; [`PoolError::Invalid`], also for a size below the one it has;
    /// [`PoolError::Faulted`], [`PoolError::Closed`].
    pub async fn grow_replica(&self, name: &str, size: Bytes) -> Result<(), PoolError> {
        let core = &self.core;
        let _turn = core.admin.lock().await;
        core.check_online()?;
        let replica = self.replica(name);
        let replica = replica.ok_or_else(|| PoolError::NotFound { pool: core.name.clone(), name: name.into() })?;
        let id = replica.id;
        if !core.state.borrow().check_larger(core, id, size.0)? {
            return Ok(());
        }
        let known = core.state.borrow().disks[0].label.features;
        if known & FEATURE_GROWN == 0 {
            core.mark_features(known | FEATURE_GROWN).await?;
        }
        let number = {
            let mut s = core.state.borrow_mut();
            s.check_online(&core.name)?;
            // Others may have taken space while the label was written.
            s.check_larger(core, id, size.0)?;
            s.record(&core.grace, Record::Grow { replica: id, size: size.0 }, Then::Nothing)
        };
        core.durable(number).await?;
        replica.take_size();
        Ok(())
    }

    /// Adds a disk.
    ///
    /// # Errors
    /// As [`crate::create`] for a disk that holds something or does not fit; [`PoolError::Limit`] when the metadata area
    /// was not made for so much space; [`PoolError::Faulted`], [`PoolError::Closed`]; [`PoolError::Io`].
    pub async fn add_disk(&self, member: Member, force: bool) -> Result<(), PoolError> {
        let core = &self.core;
        let _turn = core.admin.lock().await;
        core.check_online()?;
        check_block_size(&member, core.label.block_size)?;
        let (index, replicas, extents, reserved) = {
            let s = core.state.borrow();
            if s.disks.iter().any(|d| Rc::ptr_eq(&d.disk, &member.disk) || d.uri == member.uri) {
                return Err(PoolError::InUse { disk: member.uri, pool: core.name.clone() });
            }
            (s.disks.len(), s.meta.replicas.len(), s.meta.extents(), s.meta.reservation_bytes())
        };
        if index >= block::limits::POOL_DISKS {
            return Err(PoolError::Limit {
                pool: core.name.clone(),
                what: format!("it has {index} disks, the most there can be"),
            });
        }
        let mut disk = layout(&member, &core.label, new_uuid(&core.host), index)?;
        disk.label.sequence = 0;
        core.check_growth(index + 1, replicas, extents + u64::from(disk.label.extents), reserved)?;
        let foreign = check_vacant(&member, force).await?;
        clear(&member, foreign).await?;
        write_label(&mut disk, LabelState::Preparing).await?;
        let number = {
            let mut s = core.state.borrow_mut();
            s.check_online(&core.name)?;
            let record = Record::AddDisk { index: index as u8, uuid: disk.label.disk, extents: disk.label.extents };
            s.record(&core.grace, record, Then::Nothing)
        };
        core.durable(number).await?;
        // Only a Member may hold data: its extents are given out after this.
        write_label(&mut disk, LabelState::Member).await.inspect_err(|e| core.fault(format!("adding a disk: {e}")))?;
        let mut s = core.state.borrow_mut();
        s.alloc.add_disk(disk.label.extents, []);
        s.disks.push(PoolDisk::from(disk));
        core.unused.borrow_mut().retain(|uri| *uri != member.uri);
        Ok(())
    }

    /// Closes the pool: requests fail with [`Fault::Gone`] from now on, what is under way is waited for, everything is
    /// durable at the end. The disks can then be used elsewhere.
    ///
    /// # Errors
    /// [`PoolError::Faulted`] or [`PoolError::Io`] when something could not be made durable, now or before; the pool is
    /// closed all the same, and can be imported again. [`PoolError::Closed`] when it was closed before.
    pub async fn export(&self) -> Result<(), PoolError> {
        let _turn = self.core.admin.lock().await;
        self.close(Purpose::Exported).await
    }

    /// Destroys an empty pool: afterwards its disks are blank.
    ///
    /// # Errors
    /// [`PoolError::NotEmpty`]; [`PoolError::Io`] when a label could not be removed; [`PoolError::Faulted`],
    /// [`PoolError::Closed`].
    pub async fn destroy(&self) -> Result<(), PoolError> {
        let _turn = self.core.admin.lock().await;
        self.core.check_online()?;
        let replicas = self.core.state.borrow().meta.replicas.len();
        if replicas > 0 {
            return Err(PoolError::NotEmpty { pool: self.core.name.clone(), replicas });
        }
        let disks: Vec<_> = self.core.state.borrow().disks.iter().map(|d| d.disk.clone()).collect();
        self.close(Purpose::Destroyed).await?;
        // Disk 0 knows that the pool is destroyed; its label goes last.
        for disk in disks.iter().rev() {
            wipe(disk).await?;
        }
        Ok(())
    }

    /// Ends everything, makes it durable unless the pool has stopped already, and lets go of the disks, also when
    /// somebody still holds a replica.
    async fn close(&self, purpose: Purpose) -> Result<(), PoolError> {
        let core = &self.core;
        let mut result = core.check_online();
        if let Err(PoolError::Closed(_)) = result {
            return result;
        }
        if result.is_ok() {
            let tickets = core.state.borrow_mut().begin_closing();
            tickets.into_iter().for_each(|t| t.fail(Fault::Gone));
            core.kick_due();
        }
        while core.state.borrow().tasks.contains(&Task::Running) {
            core.ended.notified().await;
        }
        core.grace.idle().await;
        let disks: Vec<Member> = {
            let s = core.state.borrow();
            s.disks.iter().map(|d| Member { uri: d.uri.clone(), disk: d.disk.clone() }).collect()
        };
        for disk in &disks {
            if result.is_ok() {
                result = flush(disk).await;
            }
        }
        if result.is_ok() {
            result = core.checkpoint(purpose).await;
        }
        let let_go = {
            let mut s = core.state.borrow_mut();
            s.phase = Phase::Closed;
            std::mem::take(&mut s.disks)
        };
        drop(let_go);
        self.replicas.borrow_mut().clear();
        result
    }
}

impl crate::core::State {
    /// Whether a replica has to grow to have `size` bytes; an error when it can not.
    fn check_larger(&self, core: &Core, id: u32, size: u64) -> Result<bool, PoolError> {
        let replica = self.meta.replicas.get(&id).ok_or_else(|| PoolError::Closed(core.name.clone()))?;
        let (name, now, block) = (&replica.name, replica.size, core.label.block_size);
        if size == now {
            return Ok(false);
        }
        let refused = |why: String| Err(PoolError::Invalid(format!("replica {name} of {now} bytes {why}")));
        if size < now {
            return refused(format!("cannot shrink to {size}"));
        }
        let Some(extents) = extents_of(size, core.extent_bytes).filter(|_| block.divides(size)) else {
            let most = u64::from(crate::MAX_REPLICA_EXTENTS) * core.extent_bytes;
            return refused(format!("cannot have {size}: it takes a multiple of {}, at most {most}", block.bytes()));
        };
        let more = u64::from(extents - replica.map.extents());
        let free = self.alloc.free().saturating_sub(self.reserved + self.waiting_thin);
        if !replica.thin && more > free {
            let (needed, free) = (more * core.extent_bytes, free * core.extent_bytes);
            return Err(PoolError::NoSpace { pool: core.name.clone(), needed, free });
        }
        Ok(true)
    }
}

impl Core {
    /// Keeps the reservations of a replica; durable when it returns.
    pub(crate) async fn keep_reservation(self: &Rc<Core>, id: u32, state: Vec<u8>) -> Result<(), PoolError> {
        let _turn = self.admin.lock().await;
        self.check_online()?;
        if state.len() > crate::MAX_RESERVATIONS {
            return Err(PoolError::Invalid(format!("{} bytes of reservations are too many", state.len())));
        }
        let (known, grown) = {
            let s = self.state.borrow();
            let before = s.meta.replicas.get(&id).map(|r| r.reservation.len() as u64);
            let before = before.ok_or_else(|| PoolError::Closed(self.name.clone()))?;
            (s.disks[0].label.features, s.meta.reservation_bytes() - before + state.len() as u64)
        };
        {
            let s = self.state.borrow();
            self.check_growth(s.meta.disks.len(), s.meta.replicas.len(), s.meta.extents(), grown)?;
        }
        if known & FEATURE_RESERVATIONS == 0 {
            self.mark_features(known | FEATURE_RESERVATIONS).await?;
        }
        let number = {
            let mut s = self.state.borrow_mut();
            s.check_online(&self.name)?;
            s.record(&self.grace, Record::Reserve { replica: id, state }, Then::Nothing)
        };
        self.durable(number).await
    }

    /// Tells readers in the label of disk 0 what they have to know of the metadata, before it is there.
    async fn mark_features(self: &Rc<Core>, features: u64) -> Result<(), PoolError> {
        let mut disk = {
            let s = self.state.borrow();
            let PoolDisk { uri, disk, label, .. } = &s.disks[0];
            let member = Member { uri: uri.clone(), disk: disk.clone() };
            LoadedDisk { member, label: Label { features, ..label.clone() }, copies: [true, true] }
        };
        let written = write_label(&mut disk, LabelState::Member).await;
        written.inspect_err(|e| self.fault(format!("writing the label of disk 0: {e}")))?;
        if let Some(first) = self.state.borrow_mut().disks.first_mut() {
            first.label = disk.label;
        }
        Ok(())
    }

    /// Whether a checkpoint of a pool of this size, with so many bytes of reservations, is sure to fit into its slot.
    fn check_growth(&self, disks: usize, replicas: usize, extents: u64, reserved: u64) -> Result<(), PoolError> {
        let needed = checkpoint::worst_case(disks as u64, replicas as u64, extents) + reserved;
        let slot = self.label.metadata.slot_bytes;
        if needed <= slot {
            return Ok(());
        }
        let what = format!(
            "its metadata area was made for less: {disks} disks, {replicas} replicas and {extents} extents need {needed} bytes, there are {slot}"
        );
        Err(PoolError::Limit { pool: self.name.clone(), what })
    }
}
