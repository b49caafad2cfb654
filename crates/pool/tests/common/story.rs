//! A story is told to a pool while the disks are recorded; then, for each state in which a crash may leave the disks, the
//! pool is opened again and compared with what the story had been promised up to that moment.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use block::{BlockRange, Bytes, Durability, Request};
use host::{DiskExt, Host};
use pool::{Member, Pool, PoolError, Probe};
use sim::crash::{Crash, Effort, Log, Recorder};
use sim::{Entropy, World};

use super::{BLOCKS, EXTENT, fill, get, open, options, put, replica};

/// Something that the user asks for.
#[derive(Clone, Debug)]
pub enum Ask {
    Make {
        disks: Vec<usize>,
    },
    Grow {
        disk: usize,
    },
    Create {
        name: &'static str,
        extents: u64,
        thin: bool,
    },
    Destroy {
        name: &'static str,
    },
    Write {
        name: &'static str,
        start: u64,
        len: u64,
        byte: u8,
        durable: bool,
    },
    Unmap {
        name: &'static str,
        start: u64,
        len: u64,
    },
    Clear {
        name: &'static str,
        start: u64,
        len: u64,
        may_unmap: bool,
        durable: bool,
    },
    Flush {
        name: &'static str,
    },
    /// Makes a replica larger.
    Enlarge {
        name: &'static str,
        extents: u64,
    },
    /// Keeps reservations: so many bytes, all the same.
    Reserve {
        name: &'static str,
        len: usize,
        byte: u8,
    },
    Export,
    Unmake,
}

#[derive(Clone, Debug)]
enum Event {
    Begin(Ask),
    /// The request that began at this event was answered, with success.
    Done(usize),
}

/// The user.
#[derive(Clone)]
pub struct Teller {
    pub host: Host,
    pool: Rc<RefCell<Option<Rc<Pool>>>>,
    events: Rc<RefCell<Vec<Event>>>,
    recorder: Rc<RefCell<Option<Recorder>>>,
}

impl Teller {
    pub fn new(world: &World) -> Teller {
        let host = world.host();
        Teller { host, pool: Rc::default(), events: Rc::default(), recorder: Rc::default() }
    }

    pub fn pool(&self) -> Rc<Pool> {
        self.pool.borrow().clone().expect("the pool is open")
    }

    fn event(&self, event: Event) -> usize {
        self.events.borrow_mut().push(event);
        if let Some(recorder) = &*self.recorder.borrow() {
            recorder.mark("");
        }
        self.events.borrow().len() - 1
    }

    /// Asks for something, and waits for success.
    pub async fn ask(&self, ask: Ask) {
        let begun = self.event(Event::Begin(ask.clone()));
        self.perform(ask).await;
        self.event(Event::Done(begun));
    }

    async fn perform(&self, ask: Ask) {
        let on = |name: &str, request: Request| {
            let replica = self.pool().replica(name).expect("it exists");
            async move { replica.call(request).await.map(drop).expect("it works") }
        };
        match ask {
            Ask::Make { disks } => {
                let pool = super::create(&self.host, disks).await;
                *self.pool.borrow_mut() = Some(pool);
            }
            Ask::Grow { disk } => {
                let member = open(&self.host, [disk]).await.remove(0);
                self.pool().add_disk(member, false).await.expect("it can be added");
            }
            Ask::Create { name, extents, thin } => drop(replica(&self.pool(), name, extents, thin).await),
            Ask::Destroy { name } => self.pool().destroy_replica(name).await.expect("it exists"),
            Ask::Write { name, start, len, byte, durable } => {
                let durability = if durable { Durability::Durable } else { Durability::Volatile };
                let range = BlockRange::new(start, len);
                on(name, Request::Write { range, data: fill(byte, len), durability }).await;
            }
            Ask::Unmap { name, start, len } => on(name, Request::Unmap { range: BlockRange::new(start, len) }).await,
            Ask::Clear { name, start, len, may_unmap, durable } => {
                let durability = if durable { Durability::Durable } else { Durability::Volatile };
                let range = BlockRange::new(start, len);
                on(name, Request::WriteZeroes { range, may_unmap, durability }).await;
            }
            Ask::Flush { name } => on(name, Request::Flush).await,
            Ask::Reserve { name, len, byte } => {
                let replica = self.pool().replica(name).expect("it exists");
                replica.keep_reservation(vec![byte; len]).await.expect("there is room");
            }
            Ask::Enlarge { name, extents } => {
                self.pool().grow_replica(name, Bytes(extents * EXTENT)).await.expect("there is room");
            }
            Ask::Export => self.pool().export().await.expect("it is online"),
            Ask::Unmake => self.pool().destroy().await.expect("it is empty"),
        }
    }
}

/// What was asked, and when it began and was answered.
struct Deed {
    ask: Ask,
    begun: usize,
    done: Option<usize>,
}

fn deeds(events: &[Event]) -> Vec<Deed> {
    let mut deeds: Vec<Deed> = Vec::new();
    for (at, event) in events.iter().enumerate() {
        match event {
            Event::Begin(ask) => deeds.push(Deed { ask: ask.clone(), begun: at, done: None }),
            Event::Done(begun) => deeds.iter_mut().find(|d| d.begun == *begun).expect("it began").done = Some(at),
        }
    }
    deeds
}

/// A write to a block: its value, when it began, when it was answered, and whether the crash must not undo it.
struct Stroke {
    byte: u8,
    begun: usize,
    done: Option<usize>,
    is_hard: bool,
}

/// What a replica must hold: for each block, the strokes on it.
struct Canvas {
    extents: u64,
    /// A size that it was asked to have, perhaps in vain: more than `extents`.
    perhaps: Option<u64>,
    may_be_missing: bool,
    blocks: Vec<Vec<Stroke>>,
    /// What was kept of its reservations; 0 for nothing.
    reservations: Vec<Stroke>,
}

impl Canvas {
    fn new(extents: u64, may_be_missing: bool) -> Canvas {
        let blocks = (0..extents * BLOCKS).map(|_| Vec::new()).collect();
        Canvas { extents, perhaps: None, may_be_missing, blocks, reservations: Vec::new() }
    }

    fn allows(strokes: &[Stroke], byte: u8) -> bool {
        let hidden = |done: Option<usize>| strokes.iter().any(|s| s.is_hard && done.is_some_and(|done| done < s.begun));
        let blank = byte == 0 && !strokes.iter().any(|s| s.is_hard);
        blank || strokes.iter().any(|s| s.byte == byte && !hidden(s.done))
    }
}

/// What must be there after a crash.
fn canvases(deeds: &[Deed], power: bool) -> BTreeMap<&'static str, Canvas> {
    let mut all = BTreeMap::new();
    for deed in deeds {
        let is_flushed = |name: &str| {
            deeds.iter().any(|f| {
                let covers = matches!(&f.ask, Ask::Flush { name: n } if *n == name) || matches!(f.ask, Ask::Export);
                covers && f.done.is_some() && deed.done.is_some_and(|done| done < f.begun)
            })
        };
        let (name, start, len, byte, durable) = match deed.ask {
            Ask::Create { name, extents, .. } => {
                all.insert(name, Canvas::new(extents, deed.done.is_none()));
                continue;
            }
            Ask::Destroy { name } => {
                all.get_mut(name).expect("it was created").may_be_missing = true;
                if deed.done.is_some() {
                    all.remove(name);
                }
                continue;
            }
            Ask::Enlarge { name, extents } => {
                let canvas = all.get_mut(name).expect("it was created");
                canvas.blocks.resize_with((extents * BLOCKS) as usize, Vec::new);
                match deed.done {
                    Some(_) => canvas.extents = extents,
                    None => canvas.perhaps = Some(extents),
                }
                continue;
            }
            Ask::Reserve { name, byte, .. } => {
                if let Some(canvas) = all.get_mut(name) {
                    let (begun, done) = (deed.begun, deed.done);
                    canvas.reservations.push(Stroke { byte, begun, done, is_hard: done.is_some() });
                }
                continue;
            }
            Ask::Write { name, start, len, byte, durable } => (name, start, len, byte, durable),
            Ask::Unmap { name, start, len } => (name, start, len, 0, false),
            Ask::Clear { name, start, len, durable, .. } => (name, start, len, 0, durable),
            _ => continue,
        };
        let Some(canvas) = all.get_mut(name) else { continue };
        let is_hard = deed.done.is_some() && (!power || durable || is_flushed(name));
        for block in start..start + len {
            canvas.blocks[block as usize].push(Stroke { byte, begun: deed.begun, done: deed.done, is_hard });
        }
    }
    all
}

/// A told story.
pub struct Story {
    events: Vec<Event>,
    before: usize,
    log: Log,
}

/// Tells a story in a world with disks of these sizes: `before` is not recorded, `then` is.
pub fn tell<B, T>(seed: u64, sizes: &[u64], before: impl FnOnce(Teller) -> B, then: impl FnOnce(Teller) -> T) -> Story
where
    B: Future<Output = ()> + 'static,
    T: Future<Output = ()> + 'static,
{
    let world = super::world(seed, sizes);
    let teller = Teller::new(&world);
    world.run(before(teller.clone()));
    let told_before = teller.events.borrow().len();
    // What the disks hold when the recording starts counts as durable.
    let names: Vec<&'static str> = canvases(&deeds(&teller.events.borrow()), true).into_keys().collect();
    for name in names {
        let begun = teller.event(Event::Begin(Ask::Flush { name }));
        teller.event(Event::Done(begun));
    }
    assert!(told_before <= teller.events.borrow().len());
    let before = teller.events.borrow().len();
    // A checkpoint may be on its way.
    world.run_for(Duration::from_secs(1));
    let recorder = Recorder::start(&world);
    *teller.recorder.borrow_mut() = Some(recorder.clone());
    world.run(then(teller.clone()));
    let log = recorder.finish(&world);
    world.kill("main");
    let events = teller.events.borrow().clone();
    Story { events, before, log }
}

impl Story {
    /// Tries every crash. Returns how many there were.
    pub fn survives(&self, effort: Effort) -> usize {
        let mut tried = 0;
        let mut entropy = Entropy::new(self.log.steps() as u64);
        for power in [true, false] {
            let check = |crash: &Crash| self.judge(crash, power);
            tried += match power {
                true => self.log.power_cuts(effort, &mut entropy, check),
                false => self.log.process_kills(effort, &mut entropy, check),
            };
        }
        tried
    }

    /// Crashes while the pool is imported after a crash: some first crashes, `every`th of them, and all second ones.
    pub fn survives_twice(&self, every: usize, effort: Effort) -> usize {
        let mut tried = 0;
        let mut count = 0;
        let few = Effort { exhaustive_units: 3, samples: 4 };
        self.log.power_cuts(few, &mut Entropy::new(5), |first| {
            count += 1;
            if count % every != 0 {
                return;
            }
            let world = first.world(9);
            let (host, events) = (world.host(), self.so_far(first));
            let recorder = Recorder::start(&world);
            let told = events.clone();
            world.run(async move {
                let members = members(&host, &told).await;
                // Whether it works was checked already.
                let _ = pool::import(&host, members, None).await;
            });
            let log = recorder.finish(&world);
            world.kill("main");
            tried += log.power_cuts(effort, &mut Entropy::new(6), |second| {
                let what = format!("{}; then, while importing, {}", first.what, second.what);
                judge(&events, true, second.world(7), &what);
            });
        });
        tried
    }

    fn so_far(&self, crash: &Crash) -> Vec<Event> {
        self.events[..self.before + crash.marks.len()].to_vec()
    }

    fn judge(&self, crash: &Crash, power: bool) {
        judge(&self.so_far(crash), power, crash.world(3), &crash.what);
    }
}

/// The disks of the pool, as far as the user knows.
async fn members(host: &Host, events: &[Event]) -> Vec<Member> {
    let mut members = Vec::new();
    for deed in deeds(events) {
        match deed.ask {
            Ask::Make { disks } => members.extend(open(host, disks).await),
            Ask::Grow { disk } => {
                let member = open(host, [disk]).await.remove(0);
                if deed.done.is_some() || matches!(pool::probe(&member.disk).await, Ok(Probe::Pool(_))) {
                    members.push(member);
                }
            }
            _ => {}
        }
    }
    members
}

fn judge(events: &[Event], power: bool, world: World, what: &str) {
    let (events, host) = (events.to_vec(), world.host());
    let told = format!("{what}\nafter {events:?}");
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        world.run(async move { assess(&host, &events, power).await });
    }));
    if let Err(panic) = outcome {
        eprintln!("the crash: {told}");
        std::panic::resume_unwind(panic);
    }
    world.kill("main");
}

async fn assess(host: &Host, events: &[Event], power: bool) {
    let deeds = deeds(events);
    let state = |is: fn(&Ask) -> bool| {
        let deed = deeds.iter().find(|d| is(&d.ask));
        (deed.is_some(), deed.is_some_and(|d| d.done.is_some()))
    };
    let (making, made) = state(|a| matches!(a, Ask::Make { .. }));
    let (unmaking, unmade) = state(|a| matches!(a, Ask::Unmake));
    if !making {
        return;
    }
    let members = members(host, events).await;
    let checked = pool::check(host, members.clone()).await;
    match pool::import(host, members.clone(), None).await {
        Ok(pool) => {
            assert!(!unmade, "a destroyed pool is back");
            checked.expect("what can be imported is well-formed");
            compare(&pool, &canvases(&deeds, power)).await;
            probe_free_space(&pool).await;
            grow(&pool, host, &members, &deeds).await;
            probe_free_space(&pool).await;
            compare(&pool, &canvases(&deeds, power)).await;
            pool.export().await.expect("it can be exported");
            if members.len() == pool.info().disks.len() {
                let report = pool::check(host, members).await.expect("it is well-formed afterwards");
                assert_eq!(report.notes, Vec::<String>::new());
            }
        }
        Err(PoolError::NotAPool { .. } | PoolError::Destroyed(_)) => {
            assert!(!made || unmaking, "a pool is lost");
            pool::create(host, members, options()).await.expect("the disks can be used again");
        }
        Err(e) => panic!("the pool cannot be imported: {e}"),
    }
}

/// All replicas, their sizes and every block of theirs.
async fn compare(pool: &Pool, canvases: &BTreeMap<&'static str, Canvas>) {
    for replica in pool.replicas() {
        assert!(canvases.contains_key(replica.name()) || replica.name() == "fresh", "{} is back", replica.name());
    }
    for (name, canvas) in canvases {
        let Some(replica) = pool.replica(name) else {
            assert!(canvas.may_be_missing, "{name} is lost");
            continue;
        };
        let extents = replica.size().0 / EXTENT;
        assert_eq!(replica.size().0 % EXTENT, 0);
        assert!(extents == canvas.extents || Some(extents) == canvas.perhaps, "{name} has {extents} extents");
        for (block, byte) in get(&replica, 0, extents * BLOCKS).await.into_iter().enumerate() {
            assert!(Canvas::allows(&canvas.blocks[block], byte), "block {block} of {name} is {byte}");
        }
        let kept = replica.reservation();
        let byte = kept.first().copied().unwrap_or(0);
        assert!(kept.iter().all(|b| *b == byte), "mixed reservations of {name}: {kept:?}");
        assert!(Canvas::allows(&canvas.reservations, byte), "the reservations of {name} are {byte}");
    }
}

/// Takes all free space for a new replica: it reads as zeroes, whoever had it before.
async fn probe_free_space(pool: &Pool) {
    let info = pool.info();
    let free = (info.capacity.0 - info.committed.0) / EXTENT;
    if free == 0 {
        return;
    }
    let fresh = replica(pool, "fresh", free, true).await;
    for extent in 0..free {
        put(&fresh, extent * BLOCKS + 1, 1, 0xee).await.expect("there is space");
    }
    let one: Vec<u8> = (0..BLOCKS).map(|b| if b == 1 { 0xee } else { 0 }).collect();
    assert_eq!(get(&fresh, 0, free * BLOCKS).await, one.repeat(free as usize), "fresh space is not zero");
    pool.destroy_replica("fresh").await.expect("it exists");
}

/// An added disk is there; one whose addition was interrupted can be added again.
async fn grow(pool: &Pool, host: &Host, members: &[Member], deeds: &[Deed]) {
    for deed in deeds {
        let Ask::Grow { disk } = deed.ask else { continue };
        let uri = format!("/d{disk}");
        if pool.info().disks.iter().any(|d| d.uri == uri) {
            continue;
        }
        assert!(deed.done.is_none(), "an added disk is not in the pool");
        let given = members.iter().find(|m| m.uri == uri).cloned();
        assert_eq!(pool.info().unused.contains(&uri), given.is_some());
        let member = match given {
            Some(member) => member,
            None => open(host, [disk]).await.remove(0),
        };
        pool.add_disk(member, false).await.expect("it can be added again");
        assert!(pool.info().disks.iter().any(|d| d.uri == uri) && pool.info().unused.is_empty());
    }
}
