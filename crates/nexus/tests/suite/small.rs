//! A small world in which every order of events can be tried: a few members, two blocks, a script of requests, and a
//! budget of each kind of trouble.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::time::Duration;

use block::{BlockRange, BlockSize, Blocks, Bytes, Durability, Fault, Instant, Outcome, Request, Ticket};
use nexus::ledger::{Ledger, Version};
use nexus::machine::{Area, Effect, FlightId, Nexus, Outbox, Phase, StoreFault};
use nexus::map::Shape;
use nexus::{MemberId, MemberState, Reason, Settings};
use uuid::Uuid;

use crate::device::{Device, payload};
use crate::opening;
use crate::oracle::Oracle;
use crate::scope::{Action, Before, Budget, Op, Scope, StoreAnswer};

/// A request on its way to a member.
pub struct Flying {
    member: MemberId,
    flight: FlightId,
    area: Area,
    request: Request,
    device: usize,
    sent: u64,
}

/// One nexus, from its opening on.
pub struct Life {
    pub machine: Nexus,
    pub places: BTreeMap<MemberId, usize>,
    pub flying: Vec<Flying>,
    pub recording: Vec<Ledger>,
    /// Which nexus it is; devices that a later one has opened refuse its requests.
    pub number: u64,
    /// Devices that it is cut off from.
    pub cut: BTreeSet<usize>,
}

pub struct World {
    pub scope: &'static Scope,
    pub devices: Vec<Device>,
    /// By device: the nexus that opened it last.
    pub owners: Vec<u64>,
    /// By device: it lost what was not flushed while it counted.
    pub lossy: Vec<bool>,
    pub lives: Vec<Life>,
    pub oracle: Oracle,
    pub stored: Option<Version>,
    /// The nexus that the store takes records from: the control plane names a volume's owner before it opens it.
    owner: u64,
    /// What dead nexuses have sent to the store, and what was in force for them.
    ghosts: Vec<(Version, Version)>,
    pub left: Budget,
    /// How far each script is; the last is `to_first`.
    asked: Vec<usize>,
    answers: Rc<RefCell<Vec<(u64, Outcome)>>>,
    pub now: Instant,
    opened: u64,
}

impl World {
    /// The volume is new, and opened from all devices.
    pub fn new(scope: &'static Scope) -> World {
        let shape = shape(scope);
        let devices: Vec<Device> =
            (0..scope.members).map(|i| Device::new(Uuid::from_u128(100 + i as u128), &shape)).collect();
        let mut world = World {
            scope,
            owners: vec![0; devices.len()],
            lossy: vec![false; devices.len()],
            devices,
            lives: Vec::new(),
            oracle: Oracle::new(scope.blocks),
            stored: None,
            owner: 0,
            ghosts: Vec::new(),
            left: scope.budget,
            asked: vec![0; scope.scripts.len() + 1],
            answers: Rc::default(),
            now: Instant(1),
            opened: 0,
        };
        world.open((1 << scope.members) - 1).expect("a new volume opens");
        let (last, steps) = scope.before.split_last().map_or((None, &[][..]), |(last, steps)| (Some(*last), steps));
        for step in steps {
            world.prepare(*step);
            world.settle();
        }
        last.into_iter().for_each(|step| world.prepare(step));
        world
    }

    fn prepare(&mut self, step: Before) {
        let last = self.devices.len() - 1;
        match step {
            Before::Serving => {
                self.settle();
                // What was never served is one with a volume that was never made.
                self.oracle.served = true;
            }
            Before::Written => {
                let range = BlockRange::new(0, 1);
                let data = payload(range, |_| 1000);
                self.request(1000, Request::Write { range, data, durability: Durability::Volatile }, 0);
            }
            Before::Paused => self.pass(0, false),
            Before::Out => {
                let id = self.member_at(0, last).expect("it is a member");
                self.with(0, |m, now, out| m.take_out(now, id, Reason::Offline, out)).expect("others are there");
            }
            Before::Back => self.online(last),
            Before::Growing => {
                self.online(last);
                while self.state_of(last as u8) != Some(MemberState::Growing) {
                    self.settle_one();
                }
            }
        }
    }

    /// What is on its way arrives, first things first.
    fn settle(&mut self) {
        while self.lives.iter().any(|l| !l.flying.is_empty() || !l.recording.is_empty()) {
            self.settle_one();
        }
    }
    fn settle_one(&mut self) {
        match self.lives[0].flying.is_empty() {
            false => self.deliver(0, 0, None),
            true => self.store(0, StoreAnswer::Taken),
        }
    }

    fn pass(&mut self, life: usize, late: bool) {
        self.now = self.now + if late { Duration::from_millis(2100) } else { Duration::from_millis(1000) };
        self.with(life, |m, now, out| m.expire(now, out));
    }

    /// Everything that may happen now.
    pub fn actions(&self) -> Vec<Action> {
        let mut all = Vec::new();
        let serving = self.lives.iter().filter(|l| !l.is_over()).count() > 0;
        for script in 0..self.asked.len() {
            let first = script == self.scope.scripts.len();
            let there = if first { self.lives.first().is_some_and(|l| l.number == 1) } else { serving };
            if there && self.asked[script] < self.script(script).len() {
                all.push(Action::Ask { script: script as u8 });
            }
        }
        for (life, l) in self.lives.iter().enumerate() {
            self.life_actions(life as u8, l, &mut all);
        }
        self.trouble(&mut all);
        all
    }

    fn script(&self, at: usize) -> &'static [Op] {
        self.scope.scripts.get(at).copied().unwrap_or(self.scope.to_first)
    }

    fn life_actions(&self, life: u8, l: &Life, all: &mut Vec<Action>) {
        for (at, flying) in l.flying.iter().enumerate() {
            let at = at as u8;
            all.push(Action::Deliver { life, at });
            let fails = self.left.errors > 0 && !self.devices[flying.device].gone && !l.is_over();
            if fails {
                all.push(Action::Fail { life, at, written: false });
                if flying.request.is_change() {
                    all.push(Action::Fail { life, at, written: true });
                }
            }
        }
        if !l.recording.is_empty() {
            all.push(Action::Store { life, answer: StoreAnswer::Taken });
            if self.left.store > 0 {
                all.push(Action::Store { life, answer: StoreAnswer::Lost });
                all.push(Action::Store { life, answer: StoreAnswer::AnswerLost });
            }
        }
        for device in (0..self.devices.len()).filter(|d| self.left.cuts > 0 && !l.cut.contains(d)) {
            all.push(Action::Cut { life, device: device as u8 });
        }
        if self.left.ticks > 0 && l.machine.deadline().is_some() {
            all.push(Action::Tick { life, late: false });
            all.push(Action::Tick { life, late: true });
        }
    }

    fn trouble(&self, all: &mut Vec<Action>) {
        if !self.ghosts.is_empty() && self.left.store > 0 {
            all.push(Action::Ghost);
        }
        for device in 0..self.devices.len() {
            let gone = self.devices[device].gone;
            let device = device as u8;
            if self.left.deaths > 0 && !gone {
                all.push(Action::Die { device, loses: false });
                all.push(Action::Die { device, loses: true });
            }
            if self.left.commands > 0 && self.lives.len() == 1 {
                let state = self.state_of(device);
                if matches!(state, Some(MemberState::Out(_))) {
                    all.push(Action::Online { device });
                } else if matches!(state, Some(MemberState::InSync | MemberState::Growing | MemberState::Rebuilding)) {
                    all.push(Action::Offline { device });
                }
            }
        }
        if let [l] = &self.lives[..] {
            let changes = l.flying.iter().filter(|f| f.request.is_change()).count().min(6);
            for landed in 0..1u16 << changes {
                if self.left.crashes > 0 {
                    all.push(Action::Crash { landed, power: None });
                }
                if self.left.outages > 0 {
                    let mut devices = self.devices.clone();
                    self.land(&mut devices, landed);
                    let ways: usize = devices.iter().flat_map(|d| &d.since).map(|s| s.len() + 1).product();
                    all.extend((0..ways.min(256) as u16).map(|way| Action::Crash { landed, power: Some(way) }));
                }
            }
        }
        let may_open = self.lives.is_empty() || (self.left.takeovers > 0 && self.lives.len() == 1);
        if may_open {
            let gone = |set: u8| (0..self.devices.len()).any(|d| set >> d & 1 == 1 && self.devices[d].gone);
            all.extend((1..1u8 << self.devices.len()).filter(|s| !gone(*s)).map(|devices| Action::Open { devices }));
        }
    }

    fn state_of(&self, device: u8) -> Option<MemberState> {
        let life = self.lives.first()?;
        let (id, _) = life.places.iter().find(|(_, d)| **d == usize::from(device))?;
        life.machine.members(self.now).iter().find(|m| m.id == *id).map(|m| m.state)
    }

    /// Lets it happen. Panics when the contract is broken.
    pub fn step(&mut self, action: Action) {
        match action {
            Action::Ask { script } => self.ask(usize::from(script)),
            Action::Deliver { life, at } => self.deliver(life, at, None),
            Action::Fail { life, at, written } => {
                self.left.errors -= 1;
                self.deliver(life, at, Some(written));
            }
            Action::Store { life, answer } => self.store(usize::from(life), answer),
            Action::Tick { life, late } => {
                self.left.ticks -= 1;
                self.pass(usize::from(life), late);
            }
            Action::Ghost => {
                self.left.store -= 1;
                let (version, parent) = self.ghosts.remove(0);
                // The store takes nothing from a nexus that did not know what the store has.
                if self.stored.is_none_or(|s| s <= parent) {
                    self.stored = Some(version);
                }
            }
            Action::Cut { life, device } => {
                self.left.cuts -= 1;
                self.lives[usize::from(life)].cut.insert(usize::from(device));
            }
            Action::Die { device, loses } => self.die(usize::from(device), loses),
            Action::Online { device } => {
                self.left.commands -= 1;
                self.online(usize::from(device));
            }
            Action::Offline { device } => {
                self.left.commands -= 1;
                let id = self.member_at(0, usize::from(device)).expect("it is a member");
                // The last copy stays.
                let _ = self.with(0, |m, now, out| m.take_out(now, id, Reason::Offline, out));
            }
            Action::Crash { landed, power } => self.crash(landed, power),
            Action::Open { devices } => {
                if !self.lives.is_empty() {
                    self.left.takeovers -= 1;
                }
                // A refusal is an answer; others are tried beside it.
                let _ = self.open(devices);
            }
        }
        self.lives.retain(|l| !(l.is_over() && l.flying.is_empty()));
    }

    fn ask(&mut self, script: usize) {
        let at = self.asked[script];
        self.asked[script] += 1;
        // A request's id and the number that it writes are those of its place in the script, whatever the order was.
        let value = (script * 8 + at + 1) as u64;
        let range = |b| BlockRange::new(b, 1);
        let write = |b, durability| Request::Write { range: range(b), data: payload(range(b), |_| value), durability };
        let request = match self.script(script)[at] {
            Op::Read(b) => Request::Read { range: range(b) },
            Op::Write(b) => write(b, Durability::Volatile),
            Op::Fua(b) => write(b, Durability::Durable),
            Op::Flush => Request::Flush,
        };
        let life = if script == self.scope.scripts.len() { 0 } else { self.lives.len() - 1 };
        self.request(value, request, life);
    }

    fn request(&mut self, id: u64, request: Request, life: usize) {
        self.oracle.ask(id, &request);
        let answers = self.answers.clone();
        let ticket = Ticket::new(move |outcome| answers.borrow_mut().push((id, outcome)));
        self.with(life, |m, now, out| m.on_request(now, request, ticket, out));
    }

    pub fn with<T>(&mut self, life: usize, act: impl FnOnce(&mut Nexus, Instant, &mut Outbox) -> T) -> T {
        let mut out = Vec::new();
        let result = act(&mut self.lives[life].machine, self.now, &mut out);
        self.carry_out(life, out);
        result
    }

    fn carry_out(&mut self, life: usize, out: Outbox) {
        for effect in out {
            match effect {
                Effect::Submit { member, flight, area, request } => {
                    let device = self.lives[life].places[&member];
                    let sent = self.devices[device].flush_sent();
                    if area == Area::Data && matches!(request, Request::Read { .. }) {
                        let uuid = self.devices[device].uuid;
                        let (_, set) = self.lives[life].machine.in_force();
                        assert!(set.contains(&uuid), "a read went to a member that is not in the ledger in force");
                    }
                    self.lives[life].flying.push(Flying { member, flight, area, request, device, sent });
                }
                Effect::Answer(ticket, outcome) => ticket.answer(outcome),
                Effect::Record(ledger) => self.lives[life].recording.push(*ledger),
                Effect::Changed(_) | Effect::Closed => {}
            }
        }
        let answers: Vec<(u64, Outcome)> = std::mem::take(&mut *self.answers.borrow_mut());
        for (id, outcome) in answers {
            let counting = self.lives[life].machine.counting();
            // A device that went away while it counted is not looked at: what it holds will be judged when it is opened.
            let there = self.devices.iter().zip(&self.lossy).filter(|(_, lossy)| !**lossy).map(|(d, _)| d);
            self.oracle.answered(id, outcome, &counting, there);
        }
    }

    /// A request reaches its member; with `fails` it is failed, having been written or not.
    pub fn deliver(&mut self, life: u8, at: u8, fails: Option<bool>) {
        let number = self.lives[usize::from(life)].number;
        let Flying { member, flight, area, request, device, sent } =
            self.lives[usize::from(life)].flying.remove(usize::from(at));
        let is_cut = self.lives[usize::from(life)].cut.contains(&device);
        let d = &mut self.devices[device];
        let write = |d: &mut Device| match area {
            Area::Meta => d.apply_meta(&request),
            Area::Data => d.apply(&request, u64::MAX),
        };
        let outcome = match (&request, fails) {
            _ if d.gone || is_cut => Err(Fault::Gone),
            _ if self.owners[device] != number => Err(Fault::Fenced),
            (_, Some(written)) => {
                if written {
                    write(d);
                }
                Err(Fault::Medium)
            }
            (Request::Read { range }, None) => Ok(d.read(*range).into()),
            (Request::Flush, None) => {
                d.flush(sent);
                Ok(Default::default())
            }
            _ => {
                write(d);
                Ok(Default::default())
            }
        };
        let is_refused = matches!(outcome, Err(Fault::Fenced))
            && self.lives[usize::from(life)].machine.flight_digest_of(flight) != 0;
        let failed_flush = fails.is_some() && matches!(request, Request::Flush);
        if failed_flush {
            self.devices[device].flush_failed();
        }
        self.with(usize::from(life), |m, now, out| m.on_member_done(now, member, flight, outcome, out));
        let phase = self.lives[usize::from(life)].machine.phase();
        assert!(!is_refused || phase == Phase::Fenced, "a nexus that a member refused goes on");
    }

    pub fn store(&mut self, life: usize, answer: StoreAnswer) {
        let ledger = self.lives[life].recording.remove(0);
        let owns = self.lives[life].number == self.owner;
        let taken = owns && self.stored.is_none_or(|s| s <= ledger.version);
        if taken && answer != StoreAnswer::Lost {
            self.stored = Some(ledger.version);
        }
        let outcome = match answer {
            StoreAnswer::Taken if taken => Ok(()),
            StoreAnswer::Taken => Err(StoreFault::Fenced),
            StoreAnswer::Lost | StoreAnswer::AnswerLost => {
                self.left.store -= 1;
                Err(StoreFault::Unavailable)
            }
        };
        self.with(life, |m, now, out| m.on_stored(now, ledger.version, outcome, out));
    }

    fn die(&mut self, device: usize, loses: bool) {
        self.left.deaths -= 1;
        self.devices[device].gone = true;
        if loses {
            self.devices[device].lose_power(|_| 0);
        }
        self.lossy[device] = true;
    }

    fn member_at(&self, life: usize, device: usize) -> Option<MemberId> {
        self.lives[life].places.iter().find(|(_, d)| **d == device).map(|(id, _)| *id)
    }

    /// A member comes back, on a new connection: the old one's requests have all been answered.
    pub fn online(&mut self, device: usize) {
        let id = self.member_at(0, device).expect("it is a member");
        let slot = self.devices[device].free_slot();
        self.devices[device].gone = false;
        self.owners[device] = self.owners[device].max(self.lives[0].number);
        self.lives[0].cut.remove(&device);
        let back = self.with(0, |m, now, out| m.online(now, id, slot, 0, out));
        if back.is_ok() {
            assert!(self.lives[0].flying.iter().all(|f| f.device != device), "requests from before may still land");
            self.lossy[device] = false;
            let _ = self.with(0, |m, now, out| m.start_rebuild(now, id, out));
        }
    }

    /// Carries out what lands of what is in flight.
    fn land(&self, devices: &mut [Device], landed: u16) {
        let changes = self.lives[0].flying.iter().filter(|f| f.request.is_change());
        for (at, f) in changes.enumerate() {
            let number = self.lives[0].number;
            let may = !devices[f.device].gone && self.owners[f.device] == number;
            if may && landed >> at.min(15) & 1 == 1 {
                match f.area {
                    Area::Meta => devices[f.device].apply_meta(&f.request),
                    Area::Data => devices[f.device].apply(&f.request, u64::MAX),
                }
            }
        }
    }

    fn crash(&mut self, landed: u16, power: Option<u16>) {
        let mut devices = std::mem::take(&mut self.devices);
        self.land(&mut devices, landed);
        match power {
            None => self.left.crashes -= 1,
            Some(way) => {
                self.left.outages -= 1;
                let mut way = usize::from(way);
                for device in &mut devices {
                    device.lose_power(|n| (way % n, way /= n).0);
                    device.gone = false;
                }
            }
        }
        self.devices = devices;
        let lossy = std::mem::replace(&mut self.lossy, vec![false; self.devices.len()]).contains(&true);
        self.ghosts.extend(self.lives.iter().flat_map(|l| &l.recording).map(|l| (l.version, l.parent)));
        block::at_world_end(|| self.lives.clear());
        self.oracle.nexus_lost(power.is_some() || lossy);
    }

    pub fn open(&mut self, set: u8) -> Result<(), String> {
        let reachable: Vec<usize> = (0..self.devices.len()).filter(|d| set >> d & 1 == 1).collect();
        let is_new = !self.oracle.served && reachable.len() == self.devices.len();
        let number = self.opened + 1;
        let first_name = 1000 * u128::from(number);
        let mut names = first_name..;
        let name = || Uuid::from_u128(names.next().expect("endless"));
        let plan_for = (shape(self.scope), settings(), number);
        let (opening, places) = opening::plan(&mut self.devices, &reachable, self.stored, is_new, plan_for, name)?;
        (self.opened, self.owner) = (number, number);
        // From now on they refuse whoever came before.
        reachable.iter().for_each(|&d| self.owners[d] = number);
        let mut out = Vec::new();
        let machine = Nexus::new(opening, self.now, &mut out);
        self.lives.push(Life {
            machine,
            places,
            flying: Vec::new(),
            recording: Vec::new(),
            number,
            cut: BTreeSet::new(),
        });
        let life = self.lives.len() - 1;
        self.carry_out(life, out);
        self.start_rebuilds(life);
        Ok(())
    }

    pub fn start_rebuilds(&mut self, life: usize) {
        let members = self.lives[life].machine.members(self.now);
        for m in members.iter().filter(|m| m.state == MemberState::Joining) {
            // It may be refused: the machine says when a rebuild makes sense.
            let _ = self.with(life, |machine, now, out| machine.start_rebuild(now, m.id, out));
        }
    }

    pub fn shape(&self) -> Shape {
        shape(self.scope)
    }

    /// The state as a number: worlds with the same digest go on alike.
    pub fn digest(&self) -> u64 {
        let mut h = DefaultHasher::new();
        for (d, (owner, lossy)) in self.devices.iter().zip(self.owners.iter().zip(&self.lossy)) {
            (&d.data, &d.durable, d.gone, owner, lossy, d.uuid).hash(&mut h);
            let of = |s: &Vec<(u64, u64)>| s.iter().map(|(at, v)| (*at == u64::MAX, *v)).collect::<Vec<_>>();
            d.since.iter().for_each(|s| of(s).hash(&mut h));
            (&d.slots, &d.map).hash(&mut h);
        }
        for l in &self.lives {
            (l.number, &l.cut, l.machine.digest(), &l.recording).hash(&mut h);
            let mut flying: Vec<u64> = l.flying.iter().map(|f| self.flying_digest(l, f)).collect();
            flying.sort_unstable();
            flying.hash(&mut h);
        }
        (&self.oracle, self.stored, &self.ghosts, self.left, &self.asked, self.opened).hash(&mut h);
        h.finish()
    }

    fn flying_digest(&self, l: &Life, f: &Flying) -> u64 {
        let mut h = DefaultHasher::new();
        (f.member, f.area, l.machine.flight_digest_of(f.flight), f.device, f.request.range()).hash(&mut h);
        std::mem::discriminant(&f.request).hash(&mut h);
        if let Request::Write { data, durability, .. } = &f.request {
            (&data[..], durability).hash(&mut h);
        }
        if matches!(f.request, Request::Flush) {
            let covered = |s: &Vec<(u64, u64)>| s.iter().rposition(|(at, _)| *at < f.sent);
            self.devices[f.device].since.iter().map(covered).collect::<Vec<_>>().hash(&mut h);
        }
        h.finish()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        block::at_world_end(|| self.lives.clear());
    }
}

impl Life {
    pub fn is_over(&self) -> bool {
        matches!(self.machine.phase(), Phase::Fenced | Phase::Closed)
    }
}

fn shape(scope: &Scope) -> Shape {
    Shape { block_size: BlockSize::B512, blocks: Blocks(scope.blocks), region: Blocks(scope.region) }
}

fn settings() -> Settings {
    Settings {
        error_threshold: 12,
        error_window: Duration::from_secs(10),
        member_deadline: Duration::from_secs(2),
        rebuild_tasks: 2,
        rebuild_segment: Bytes(512),
        clear_after: Duration::from_secs(1),
    }
}
