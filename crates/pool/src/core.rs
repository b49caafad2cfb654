//! The state of an open pool, and how it stops.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use block::probe::{Mark, mark};
use block::{BlockRange, Blocks, Data, Fault, Features, Geometry, Lba, Request, Ticket};
use futures_channel::oneshot;
use futures_util::lock::Mutex;
use host::{DiskRef, Host, Notify};
use uuid::Uuid;

use crate::PoolError;
use crate::allocator::Allocator;
use crate::grace::Grace;
use crate::journal::Journal;
use crate::label::Label;
use crate::load::{Loaded, LoadedDisk};
use crate::map::{Place, Run};
use crate::metadata::Metadata;
use crate::record::Record;

/// What happens when a record is written.
pub(crate) enum Then {
    Nothing,
    /// The extent is open: the requests that wait for it go on.
    Open {
        replica: u32,
        logical: u32,
    },
    /// The request is done.
    Answer(Ticket),
}

/// ```text
/// Online ──► Closing ──► Closed
///    └──────────┴──────► Faulted
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Online,
    /// No new requests; what is under way ends.
    Closing,
    Closed,
    /// A metadata write or a flush failed: what is on the disks is no longer known. Only a new import finds out.
    Faulted(String),
}

/// A background task, started when there is something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    Idle,
    Running,
}

/// The duties of the background, see `upkeep`.
#[derive(Clone, Copy)]
pub(crate) enum Duty {
    Write,
    Checkpoint,
    Refill,
}

/// A request for one extent that waits until the extent has a place.
pub(crate) struct Parked {
    pub request: Request,
    pub ticket: Ticket,
}

/// What an open pool remembers of a replica beyond its metadata.
#[derive(Default)]
pub(crate) struct Live {
    /// Extents that are about to get a place, and who waits for that.
    ///
    /// ```text
    /// not here, unmapped ──► here, unmapped ──────────► here, mapped ─────────► not here, mapped
    ///             first write        a clean extent, record      record written
    /// ```
    pub opening: BTreeMap<u32, Vec<Parked>>,
    /// The disks on which it has, or had, extents: one bit each.
    pub disks: u64,
    /// The newest record that gave it a place.
    pub last_map: u64,
    /// The newest record that took one away.
    pub last_unmap: u64,
}

impl Live {
    /// The newest record that changed its map.
    pub fn last_change(&self) -> u64 {
        self.last_map.max(self.last_unmap)
    }
}

/// A disk of an open pool.
pub(crate) struct PoolDisk {
    pub uri: String,
    pub disk: DiskRef,
    pub label: Label,
    /// The first block of extent 0.
    pub data_start: Lba,
}

impl From<LoadedDisk> for PoolDisk {
    fn from(d: LoadedDisk) -> PoolDisk {
        let data_start = Lba(d.label.data_offset >> d.label.block_size.shift());
        PoolDisk { uri: d.member.uri, disk: d.member.disk, label: d.label, data_start }
    }
}

pub(crate) struct State {
    pub phase: Phase,
    pub meta: Metadata,
    pub alloc: Allocator,
    pub journal: Journal<Then>,
    pub live: BTreeMap<u32, Live>,
    pub disks: Vec<PoolDisk>,
    /// Extents that wait for a clean extent: replica, logical extent.
    pub waiting: VecDeque<(u32, u32)>,
    /// How many of them belong to thin replicas, so that no reserve is counted for them.
    pub waiting_thin: u64,
    /// Extents that thick replicas may still claim.
    pub reserved: u64,
    /// Who waits until records up to a number are written.
    pub awaited: Vec<(u64, oneshot::Sender<()>)>,
    /// The tasks, by [`Duty`].
    pub tasks: [Task; 3],
}

/// An open pool.
pub(crate) struct Core {
    pub host: Host,
    pub name: String,
    pub uuid: Uuid,
    pub cluster: Uuid,
    /// log2 of the blocks in an extent.
    pub extent_shift: u32,
    pub extent_bytes: u64,
    /// Of disk 0.
    pub label: Label,
    /// URIs of disks that were given but hold nothing.
    pub unused: RefCell<Vec<String>>,
    pub state: RefCell<State>,
    pub grace: Grace,
    /// Journal room, and the end of a task.
    pub room: Notify,
    pub ended: Notify,
    /// One administrative operation at a time.
    pub admin: Mutex<()>,
}

impl Core {
    /// A pool whose last checkpoint, the one in `loaded`, has just become durable.
    pub fn new(host: &Host, loaded: Loaded) -> Rc<Core> {
        let label = loaded.label().clone();
        let header = &loaded.header;
        let ring = u64::from(label.metadata.journal_blocks);
        let journal = Journal::new(label.pool, ring, header.sequence, header.next_block, header.applied);
        let mut used: Vec<Vec<u32>> = loaded.disks.iter().map(|_| Vec::new()).collect();
        let mut live = BTreeMap::new();
        for (id, replica) in &loaded.meta.replicas {
            let mut disks = 0;
            for (_, place) in replica.map.mapped_in(0, replica.map.extents()) {
                used[usize::from(place.disk)].push(place.extent);
                disks |= 1 << place.disk;
            }
            live.insert(*id, Live { disks, ..Live::default() });
        }
        let mut alloc = Allocator::default();
        for (disk, used) in loaded.disks.iter().zip(used) {
            alloc.add_disk(disk.label.extents, used);
        }
        let state = State {
            phase: Phase::Online,
            reserved: loaded.meta.replicas.values().map(|r| r.reserved()).sum(),
            meta: loaded.meta,
            alloc,
            journal,
            live,
            disks: loaded.disks.into_iter().map(PoolDisk::from).collect(),
            waiting: VecDeque::new(),
            waiting_thin: 0,
            awaited: Vec::new(),
            tasks: [Task::Idle; 3],
        };
        Rc::new(Core {
            host: host.clone(),
            name: label.name.clone(),
            uuid: label.pool,
            cluster: label.cluster,
            extent_shift: (label.extent_bytes >> label.block_size.shift()).trailing_zeros(),
            extent_bytes: label.extent_bytes,
            unused: RefCell::new(loaded.strays.iter().map(|d| d.member.uri.clone()).collect()),
            label,
            state: RefCell::new(state),
            grace: Grace::default(),
            room: Notify::default(),
            ended: Notify::default(),
            admin: Mutex::new(()),
        })
    }

    /// The shape of a replica of `size` bytes.
    pub fn geometry(&self, size: u64) -> Geometry {
        let disks: Vec<Features> = self.state.borrow().disks.iter().map(|d| d.disk.geometry().features).collect();
        let volatile_cache = disks.iter().any(|f| f.volatile_cache);
        let ends_with_process = disks.iter().any(|f| f.ends_with_process);
        let block_size = self.label.block_size;
        let features = Features { unmap: true, write_zeroes: true, volatile_cache, ends_with_process };
        Geometry { block_size, blocks: block_size.blocks_in(block::Bytes(size)), features }
    }

    /// Whether the pool takes requests; the error says why not.
    pub fn check_online(&self) -> Result<(), PoolError> {
        self.state.borrow().check_online(&self.name)
    }

    /// Stops the pool: everything that waits fails, everything new fails, nothing more is written.
    pub fn fault(&self, why: String) {
        let mut s = self.state.borrow_mut();
        if matches!(s.phase, Phase::Faulted(_) | Phase::Closed) {
            return;
        }
        mark(Mark::PoolStopped);
        s.phase = Phase::Faulted(why);
        s.awaited.clear();
        let mut tickets = s.give_up_parked();
        for then in s.journal.give_up() {
            if let Then::Answer(ticket) = then {
                tickets.push(ticket);
            }
        }
        drop(s);
        self.room.notify();
        tickets.into_iter().for_each(|ticket| ticket.fail(Fault::Gone));
    }

    /// Starts a background task unless it runs.
    pub fn kick(self: &Rc<Core>, duty: Duty) {
        {
            let mut s = self.state.borrow_mut();
            if s.tasks[duty as usize] == Task::Running || matches!(s.phase, Phase::Faulted(_) | Phase::Closed) {
                return;
            }
            s.tasks[duty as usize] = Task::Running;
        }
        let core = self.clone();
        self.host.spawn(async move {
            match duty {
                Duty::Write => core.write_journal().await,
                Duty::Checkpoint => core.checkpoint_when_due().await,
                Duty::Refill => core.refill().await,
            }
            core.state.borrow_mut().tasks[duty as usize] = Task::Idle;
            core.ended.notify();
            // Something may have come up between the task's last look and its end.
            core.kick_due();
        });
    }

    /// Starts whatever task has something to do.
    pub fn kick_due(self: &Rc<Core>) {
        let (write, refill, checkpoint) = {
            let s = self.state.borrow();
            (s.journal.has_pending(), !s.waiting.is_empty(), s.journal.wants_checkpoint())
        };
        if checkpoint {
            self.kick(Duty::Checkpoint);
        }
        if write {
            self.kick(Duty::Write);
        }
        if refill {
            self.kick(Duty::Refill);
        }
    }

    /// Starts filling the reserve of clean extents when it is low.
    pub fn keep_reserve(self: &Rc<Core>) {
        let is_low = self.state.borrow().reserve_is_low(self);
        if is_low {
            self.kick(Duty::Refill);
        }
    }

    /// Waits until record `number` is written and durable.
    pub async fn durable(self: &Rc<Core>, number: u64) -> Result<(), PoolError> {
        self.written(number).await?;
        if self.state.borrow().journal.durable() >= number {
            return Ok(());
        }
        self.flush_disk(0).await.map_err(|_| self.closed_error())
    }

    /// Waits until record `number` is written.
    pub async fn written(self: &Rc<Core>, number: u64) -> Result<(), PoolError> {
        self.kick_due();
        let waiting = {
            let mut s = self.state.borrow_mut();
            if s.journal.written() >= number {
                return Ok(());
            }
            if let Phase::Faulted(_) = s.phase {
                return Err(s.check_online(&self.name).expect_err("it is faulted"));
            }
            let (tx, rx) = oneshot::channel();
            s.awaited.push((number, tx));
            rx
        };
        waiting.await.map_err(|_| self.closed_error())
    }

    /// Why the pool takes no requests.
    pub fn closed_error(&self) -> PoolError {
        self.check_online().err().unwrap_or_else(|| PoolError::Closed(self.name.clone()))
    }
}

impl State {
    pub fn check_online(&self, pool: &str) -> Result<(), PoolError> {
        match &self.phase {
            Phase::Online => Ok(()),
            Phase::Closing | Phase::Closed => Err(PoolError::Closed(pool.into())),
            Phase::Faulted(why) => Err(PoolError::Faulted { pool: pool.into(), why: why.clone() }),
        }
    }

    /// Changes the metadata and queues the record; returns its number.
    pub fn record(&mut self, grace: &Grace, record: Record, then: Then) -> u64 {
        let id = match &record {
            Record::Map { replica, .. }
            | Record::Unmap { replica, .. }
            | Record::CreateReplica { replica, .. }
            | Record::DestroyReplica { replica }
            | Record::Reserve { replica, .. }
            | Record::Grow { replica, .. } => *replica,
            Record::AddDisk { .. } => 0,
        };
        let before = self.meta.replicas.get(&id).map_or(0, |r| r.reserved());
        let freed = self.meta.apply(&record).expect("our own records are possible");
        let after = self.meta.replicas.get(&id).map_or(0, |r| r.reserved());
        self.reserved = self.reserved - before + after;
        let is_map = matches!(record, Record::Map { .. });
        let number = self.journal.push(record, then);
        if let Some(live) = self.live.get_mut(&id) {
            *(if is_map { &mut live.last_map } else { &mut live.last_unmap }) = number;
        }
        if !freed.is_empty() {
            let epoch = grace.turn();
            freed.into_iter().for_each(|place| self.alloc.release(place, number, epoch));
        }
        number
    }

    /// Whether a thin replica may claim one more extent.
    pub fn has_room(&self) -> bool {
        self.alloc.free() > self.reserved + self.waiting_thin
    }

    /// Gives clean extents to those who wait for one.
    pub fn serve_waiting(&mut self, grace: &Grace) {
        while let Some((id, logical)) = self.waiting.front().copied() {
            let Some(place) = self.alloc.allocate() else { return };
            self.waiting.pop_front();
            let thin = self.meta.replicas[&id].thin;
            self.waiting_thin -= u64::from(thin);
            let run = Run { logical, place, count: 1 };
            self.live.get_mut(&id).expect("replicas that wait exist").disks |= 1 << place.disk;
            self.record(grace, Record::Map { replica: id, run }, Then::Open { replica: id, logical });
        }
    }

    /// Nobody waits for a clean extent any more; returns the requests that did, which have to be failed.
    pub fn give_up_waiting(&mut self) -> Vec<Ticket> {
        self.waiting_thin = 0;
        let waiting = std::mem::take(&mut self.waiting);
        let mut tickets = Vec::new();
        for (id, logical) in waiting {
            let parked = self.live.get_mut(&id).and_then(|live| live.opening.remove(&logical));
            tickets.extend(parked.into_iter().flatten().map(|p| p.ticket));
        }
        tickets
    }

    /// Nobody waits for a place any more, nor for its record; returns the requests that did.
    fn give_up_parked(&mut self) -> Vec<Ticket> {
        let mut tickets = self.give_up_waiting();
        for live in self.live.values_mut() {
            let opening = std::mem::take(&mut live.opening);
            tickets.extend(opening.into_values().flatten().map(|parked| parked.ticket));
        }
        tickets
    }

    /// Takes no new requests from now on; returns the requests that have not reached a disk.
    pub fn begin_closing(&mut self) -> Vec<Ticket> {
        self.phase = Phase::Closing;
        self.give_up_parked()
    }

    /// Where blocks within one extent are on their disk.
    pub fn on_disk(&self, place: Place, extent_shift: u32, offset: u64, len: u64) -> BlockRange {
        let start =
            self.disks[usize::from(place.disk)].data_start.0 + (u64::from(place.extent) << extent_shift) + offset;
        BlockRange { start: Lba(start), len: Blocks(len) }
    }
}

/// A ticket whose outcome can be awaited.
pub(crate) fn awaited_ticket() -> (Ticket, impl Future<Output = Result<Data, Fault>>) {
    let (tx, rx) = oneshot::channel();
    let ticket = Ticket::new(move |outcome| {
        // Nobody may be waiting any more.
        let _ = tx.send(outcome);
    });
    (ticket, async move { rx.await.unwrap_or(Err(Fault::Gone)) })
}
