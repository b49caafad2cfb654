//! The mirrored volume. Owns all of its state; performs no I/O and reads no clock.
//!
//! Methods come in four kinds: getters (`&self`), inputs (`on_*`, `expire`), commands ([`command`]), and outputs: the
//! [`Outbox`] that each input and command fills, and [`Nexus::deadline`]. The files beside this one hold one duty each:
//!
//! | file | duty |
//! |---|---|
//! | `request` | clients' reads, changes and flushes |
//! | `leg` | what one member answered: retries, failures, members that leave |
//! | `record` | the ledger |
//! | `mark` | the dirty map |
//! | `resync` | copying: rebuilds, and after an unclean stop |
//! | `grow` | a larger size |
//! | `timer` | deadlines |
//! | `command` | what operators ask |
//! | `digest` | the state as a number, for searches |
//! | `invariant` | the promises, looked at from within by the simulator |

mod command;
mod digest;
mod flight;
mod grow;
mod invariant;
mod leg;
mod mark;
mod record;
mod request;
mod resync;
mod timer;

use std::collections::{BTreeSet, VecDeque};

use block::probe::{Mark, Mutant, mark, mutant};
use block::{BlockSize, Blocks, Bytes, Data, Fault, Features, Geometry, Instant, Outcome, Request, Ticket};
use slab::Slab;
use uuid::Uuid;

pub use command::{Denied, MemberView};
pub use flight::FlightId;
pub use record::StoreFault;

use crate::bitmap::Bitmap;
use crate::copy::Copier;
use crate::ledger::{Ledger, Set, Version};
use crate::map::{Maps, Shape};
use crate::member::{Member, MemberId, MemberState, Reason, Tracking};
use crate::ranges::Ranges;
use crate::settings::Settings;
use flight::{Flight, Kind};
use grow::Growth;
use mark::Round;
use record::Record;

/// Which part of a child a request is for; its blocks count from the start of that part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Area {
    /// MayaMeta.
    Meta,
    /// MayaData.
    Data,
}

/// What the machine wants done. The driver does all of it, in order, before the next input.
#[derive(Debug)]
pub enum Effect {
    /// Send a request to a member; its outcome comes back by [`Nexus::on_member_done`].
    Submit {
        /// The member.
        member: MemberId,
        /// To be given back with the outcome.
        flight: FlightId,
        /// The part of the child.
        area: Area,
        /// The request.
        request: Request,
    },
    /// Answer a client.
    Answer(Ticket, Outcome),
    /// Record the ledger in the store; what became of it comes back by [`Nexus::on_stored`].
    Record(Box<Ledger>),
    /// Something changed that a person may want to know.
    Changed(String),
    /// The volume is closed: nothing more will be sent.
    Closed,
}

/// Where effects are left.
pub type Outbox = Vec<Effect>;

/// What the volume does with requests.
///
/// ```text
///  Opening ──first record in force──▶ Serving ──close──▶ Draining ──all answered──▶ Cleaning ──▶ Closed
///     └───────────────────── a newer nexus owns the volume ─────────────────▶ Fenced ──close──────▲
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The first record of this generation is not in force: requests wait.
    Opening,
    /// Requests are carried out.
    Serving,
    /// New requests are refused, old ones end.
    Draining,
    /// The members are flushed and marked as clean.
    Cleaning,
    /// It is over.
    Closed,
    /// Another nexus owns the volume; every request fails.
    Fenced,
}

/// A member with which a volume is opened.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Its uuid.
    pub uuid: Uuid,
    /// The hash of its URI.
    pub uri_tag: u64,
    /// How it stands.
    pub standing: Standing,
    /// The ledger slot that may be overwritten.
    pub slot: usize,
}

/// How a member stands when the volume is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// In sync.
    InSync,
    /// Reachable; what it lacks is within the map.
    Behind,
    /// Reachable, never a member before.
    New,
    /// The ledger names it, but it cannot be reached.
    Absent,
}

/// All that is known when a volume is opened.
pub struct Opening {
    /// The volume.
    pub volume: Uuid,
    /// Its size in bytes.
    pub size: Bytes,
    /// How it is cut into regions.
    pub shape: Shape,
    /// The settings.
    pub settings: Settings,
    /// Its members. At least one is in sync.
    pub members: Vec<Opened>,
    /// The union of the maps of the members in sync.
    pub maps: Maps,
    /// The sets against which the first record must come into force; none for a new volume.
    pub bases: Vec<Set>,
    /// The highest ledger version seen.
    pub highest: Version,
    /// The version in force, on which this nexus builds; 0 for a new volume.
    pub parent: Version,
    /// A random number: makes this nexus's ledger versions its own.
    pub salt: u64,
    /// What the store has.
    pub stored: Option<Version>,
}

/// A mirrored volume.
pub struct Nexus {
    volume: Uuid,
    /// What ledgers say from now on.
    size: Bytes,
    /// What the map covers.
    shape: Shape,
    /// What clients have: less than the shape while the volume grows.
    served: Blocks,
    growth: Option<Growth>,
    settings: Settings,
    phase: Phase,
    now: Instant,
    members: Vec<Member>,
    next_member: u32,
    last_read: MemberId,
    flights: Slab<Flight>,
    next_serial: u32,
    next_job: u64,
    /// Client requests in flight.
    clients: usize,
    backlog: VecDeque<(Request, Ticket)>,
    locks: Ranges<u32>,
    /// Flights of which a leg changed.
    ready: VecDeque<u32>,
    record: Record,
    /// Regions that may differ between members in sync, as they shall be on the members.
    dirty: Bitmap,
    /// Dirty regions that are marked durably on every member that counts.
    durable: Bitmap,
    /// Regions written since the last look.
    touched: Bitmap,
    /// Regions that do differ, or may: after an unclean stop, or a change that failed.
    unequal: Bitmap,
    equalizer: Option<Copier>,
    /// Units of the map that are not yet on the members.
    stale: BTreeSet<usize>,
    rounds_started: u64,
    rounds_done: u64,
    round: Option<Round>,
    marking: Vec<u32>,
    clearing: bool,
    next_clear: Option<Instant>,
    next_scan: Option<Instant>,
    next_retry: Option<Instant>,
    next_round_retry: Option<Instant>,
}

impl Nexus {
    /// A machine for a volume that may be served; its first effects record the new generation.
    pub fn new(opening: Opening, now: Instant, out: &mut Outbox) -> Nexus {
        let regions = opening.shape.regions();
        let mut lacking = opening.maps.behind.clone();
        lacking.add(&opening.maps.dirty);
        let in_sync = opening.members.iter().filter(|m| m.standing == Standing::InSync).count();
        assert!(in_sync > 0, "a volume is opened with at least one member in sync");
        let members: Vec<Member> = (0..).zip(&opening.members).map(|(i, m)| member(MemberId(i), m, &lacking)).collect();
        // Rule: after an unclean stop the dirty regions of the members in sync may differ, and are made equal.
        let may_differ = in_sync > 1 && !mutant(Mutant::ForgetDirtyMap);
        let unequal = if may_differ { opening.maps.dirty.clone() } else { Bitmap::zeroes(regions) };
        if !unequal.is_zero() {
            mark(Mark::UncleanOpen);
        }
        let mut nexus = Nexus {
            volume: opening.volume,
            size: opening.size,
            shape: opening.shape,
            served: opening.shape.blocks,
            growth: None,
            settings: opening.settings,
            phase: Phase::Opening,
            now,
            next_member: members.len() as u32,
            members,
            last_read: MemberId(0),
            flights: Slab::new(),
            next_serial: 0,
            next_job: 0,
            clients: 0,
            backlog: VecDeque::new(),
            locks: Ranges::default(),
            ready: VecDeque::new(),
            record: Record::new(
                opening.highest.next_generation(opening.salt),
                opening.parent,
                opening.bases,
                opening.stored,
            ),
            dirty: opening.maps.dirty,
            durable: Bitmap::zeroes(regions),
            touched: Bitmap::zeroes(regions),
            unequal,
            equalizer: None,
            stale: (0..opening.shape.units()).collect(),
            rounds_started: 0,
            rounds_done: 0,
            round: None,
            marking: Vec::new(),
            clearing: false,
            next_clear: None,
            next_scan: None,
            next_retry: None,
            next_round_retry: None,
        };
        nexus.settle(out);
        nexus
    }

    /// A client's request.
    pub fn on_request(&mut self, now: Instant, request: Request, ticket: Ticket, out: &mut Outbox) {
        self.tick(now);
        if let Err(fault) = request.check(&self.geometry()) {
            return out.push(Effect::Answer(ticket, Err(fault)));
        }
        match self.phase {
            Phase::Serving if self.clients < block::limits::NEXUS_FLIGHTS && self.backlog.is_empty() => {
                self.admit(request, ticket, out);
            }
            Phase::Opening | Phase::Serving => self.backlog.push_back((request, ticket)),
            Phase::Draining | Phase::Cleaning | Phase::Closed => {
                out.push(Effect::Answer(ticket, Err(Fault::Aborted)));
            }
            Phase::Fenced => out.push(Effect::Answer(ticket, Err(Fault::Fenced))),
        }
        self.settle(out);
    }

    /// Goes on until every consequence of the last input is in the outbox.
    fn settle(&mut self, out: &mut Outbox) {
        loop {
            if let Some(id) = self.ready.pop_front() {
                self.advance(id, out);
            } else if self.record.wanted {
                self.issue_record(out);
            } else if !self.has_chores() || !self.chores(out) {
                return;
            }
        }
    }

    /// Whether anything but clients' requests goes on: false on the usual path.
    fn has_chores(&self) -> bool {
        !self.stale.is_empty()
            || !self.record.in_force
            || self.record.is_untold()
            || !self.backlog.is_empty()
            || !self.unequal.is_zero()
            || self.equalizer.is_some()
            || self.growth.is_some()
            || !matches!(self.phase, Phase::Serving | Phase::Closed | Phase::Fenced)
            || self.members.iter().any(|m| m.state != MemberState::InSync)
    }

    /// One step of the work beside requests; whether there was any.
    fn chores(&mut self, out: &mut Outbox) -> bool {
        if matches!(self.phase, Phase::Closed | Phase::Fenced) {
            return false;
        }
        self.check_record(out)
            || self.start_round(out)
            || self.check_growth()
            || self.admit_backlog(out)
            || self.feed(out)
            || self.drain(out)
    }

    fn tick(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    /// The shape of the volume as a device.
    pub fn geometry(&self) -> Geometry {
        let features = Features { unmap: true, write_zeroes: true, volatile_cache: true, ends_with_process: false };
        Geometry { block_size: self.shape.block_size, blocks: self.served, features }
    }
    /// How the volume is cut into regions. While it grows this is the new size already, which members must have room for.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }
    /// What the volume does with requests.
    pub fn phase(&self) -> Phase {
        self.phase
    }
    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
    /// Regions that are marked as dirty, and of them those that are not known to be equal on all members in sync.
    pub fn dirty_regions(&self) -> (usize, usize) {
        (self.dirty.count(), self.unequal.count())
    }
    /// Whether no client's request is unanswered and nothing is being copied, marked or recorded.
    pub fn is_quiet(&self) -> bool {
        self.flights.is_empty()
            && self.locks.is_empty()
            && self.backlog.is_empty()
            && self.record.in_force
            && self.round.is_none()
    }
    /// The uuids of the members of which acknowledgements wait: the ledger in force and those that may be.
    pub fn counting(&self) -> Set {
        self.record.bases.iter().flatten().chain(self.record.set.iter()).copied().collect()
    }

    fn member(&self, id: MemberId) -> Option<&Member> {
        self.members.iter().find(|m| m.id == id)
    }
    fn member_mut(&mut self, id: MemberId) -> Option<&mut Member> {
        self.members.iter_mut().find(|m| m.id == id)
    }
    fn in_sync(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|m| m.state == MemberState::InSync)
    }

    /// Another nexus owns the volume: nothing more is sent, every request fails.
    fn fence(&mut self, out: &mut Outbox) {
        if matches!(self.phase, Phase::Fenced | Phase::Closed) {
            return;
        }
        mark(Mark::ReplacedNexusStopped);
        self.phase = Phase::Fenced;
        out.push(Effect::Changed("a newer nexus owns the volume: this one stops serving".into()));
        self.drop_all(Fault::Fenced, out);
    }

    /// Answers everything with a fault and forgets what is in flight.
    fn drop_all(&mut self, fault: Fault, out: &mut Outbox) {
        let flights = std::mem::take(&mut self.flights);
        let tickets = flights.into_iter().filter_map(|(_, f)| f.ticket);
        let waiting = std::mem::take(&mut self.backlog).into_iter().map(|(_, ticket)| ticket);
        out.extend(tickets.chain(waiting).map(|ticket| Effect::Answer(ticket, Err(fault))));
        self.locks = Ranges::default();
        self.ready.clear();
        self.marking.clear();
        self.round = None;
        self.equalizer = None;
        self.clients = 0;
        self.record.wanted = false;
        self.members.iter_mut().for_each(|m| m.job = None);
    }
}

fn member(id: MemberId, opened: &Opened, lacking: &Bitmap) -> Member {
    let (state, missing) = match opened.standing {
        Standing::InSync => (MemberState::InSync, Bitmap::zeroes(lacking.bits())),
        Standing::Behind => (MemberState::Joining, lacking.clone()),
        Standing::New => (MemberState::Joining, Bitmap::ones(lacking.bits())),
        Standing::Absent => (MemberState::Out(Reason::Absent), lacking.clone()),
    };
    Member {
        id,
        uuid: opened.uuid,
        uri_tag: opened.uri_tag,
        state,
        slot: opened.slot,
        recorded: Version::default(),
        recording: false,
        tracking: if opened.standing == Standing::New { Tracking::From(1) } else { Tracking::Tracked },
        map_from: 1,
        missing,
        unanswered: 0,
        errors: VecDeque::new(),
        errors_total: 0,
        job: None,
    }
}

/// Blocks in so many bytes, at least one.
fn blocks_in(block_size: BlockSize, bytes: Bytes) -> Blocks {
    block_size.blocks_in(bytes).max(Blocks(1))
}

/// Whether a payload is all zeroes.
fn is_zero(data: &Data) -> bool {
    data.iter().all(|buf| buf.chunks(64).all(|c| c.iter().fold(0, |a, b| a | b) == 0))
}

fn is_client(kind: &Kind) -> bool {
    matches!(kind, Kind::Read | Kind::Change | Kind::Flush)
}
