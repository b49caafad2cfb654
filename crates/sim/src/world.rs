//! Time, tasks, nodes and files of a simulated world.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::time::Duration;

use block::{BlockSize, Instant};
use futures_channel::oneshot;
use host::{AnyListener, AnyStream, Claim, DiskRef, Executor, Host, LocalFuture, OpenError, OpenOptions};

use crate::disk::{DiskOptions, SimDisk};
use crate::entropy::Entropy;
use crate::net::Net;

/// Tasks that may run at one instant before the world says that something spins.
const TASKS_AT_ONE_INSTANT: u64 = 5_000_000;

/// A simulated world: nodes, disks, network, files and one clock. Dropping it ends everything in it.
pub struct World {
    core: Rc<Core>,
    nodes: RefCell<BTreeMap<String, Executor>>,
    /// Nodes whose tasks do not run now.
    paused: RefCell<BTreeSet<String>>,
}

type Event = Box<dyn FnOnce()>;

/// What the parts of a world share.
pub(crate) struct Core {
    pub(crate) entropy: RefCell<Entropy>,
    now: Cell<Instant>,
    events: RefCell<BTreeMap<(Instant, u64), Event>>,
    sequence: Cell<u64>,
    disks: RefCell<BTreeMap<PathBuf, SimDisk>>,
    files: RefCell<BTreeMap<PathBuf, Vec<u8>>>,
    boots: RefCell<BTreeMap<String, u64>>,
    stores_fail: Cell<bool>,
    clocks: RefCell<BTreeMap<String, Skew>>,
    /// Changes with each event and each task that runs, so that two runs can be compared.
    pulse: Cell<u64>,
    pub(crate) net: Net,
}

/// How a node's clock differs from the world's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skew {
    /// How far it is ahead at the beginning of the world.
    pub ahead: Duration,
    /// How much faster it runs, in millionths (negative: slower).
    pub drift_ppm: i32,
}

impl Skew {
    /// What the node's clock shows.
    fn local(self, now: Instant) -> Instant {
        let drift = i128::from(now.0) * i128::from(self.drift_ppm) / 1_000_000;
        let shown = i128::from(now.0) + drift;
        Instant(u64::try_from(shown).unwrap_or(0)) + self.ahead
    }
    /// How long the world takes for what the node thinks of as `time`.
    fn real(self, time: Duration) -> Duration {
        if self.drift_ppm == 0 {
            return time;
        }
        let nanos = time.as_nanos() as i128 * 1_000_000 / (1_000_000 + i128::from(self.drift_ppm));
        // Rounded up: a sleeper never wakes early.
        Duration::from_nanos(u64::try_from(nanos + 2).unwrap_or(u64::MAX))
    }
}

impl Core {
    pub(crate) fn now(&self) -> Instant {
        self.now.get()
    }
    /// Lets `event` happen after `delay`. Events of one instant happen in the order in which they were asked for.
    pub(crate) fn after(&self, delay: Duration, event: impl FnOnce() + 'static) {
        let sequence = self.sequence.replace(self.sequence.get() + 1);
        self.events.borrow_mut().insert((self.now() + delay, sequence), Box::new(event));
    }
    pub(crate) fn between(&self, low: Duration, high: Duration) -> Duration {
        let (low, high) = (low.as_nanos() as u64, high.as_nanos() as u64);
        Duration::from_nanos(self.entropy.borrow_mut().between(low, high.max(low)))
    }
    fn next_event(&self) -> Option<Event> {
        let ((at, sequence), event) = self.events.borrow_mut().pop_first()?;
        self.now.set(at);
        self.beat(at.0 ^ sequence.rotate_left(40));
        Some(event)
    }
    fn beat(&self, word: u64) {
        self.pulse.set((self.pulse.get() ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23));
    }
    fn skew(&self, node: &str) -> Skew {
        self.clocks.borrow().get(node).copied().unwrap_or_default()
    }
}

impl World {
    /// A world without disks, with one node called `main` at 10.0.0.1.
    pub fn new(seed: u64) -> World {
        let core = Rc::new(Core {
            entropy: RefCell::new(Entropy::new(seed)),
            now: Cell::new(Instant(1)),
            events: RefCell::default(),
            sequence: Cell::new(0),
            disks: RefCell::default(),
            files: RefCell::default(),
            boots: RefCell::default(),
            stores_fail: Cell::new(false),
            clocks: RefCell::default(),
            pulse: Cell::new(seed),
            net: Net::default(),
        });
        World { core, nodes: RefCell::default(), paused: RefCell::default() }
    }

    /// The host of the node `main`.
    pub fn host(&self) -> Host {
        self.node("main")
    }

    /// The host of a node, which is started when there is none of that name. Node k (from 1, in order of appearance)
    /// has the address 10.0.0.k, and its name is known to the resolver.
    pub fn node(&self, name: &str) -> Host {
        let address = self.core.net.address_of(name);
        self.core.net.appear(address);
        let mut nodes = self.nodes.borrow_mut();
        let executor = nodes.entry(name.to_owned()).or_insert_with(|| Executor::new(|| ()));
        let world = NodeWorld { core: self.core.clone(), name: name.to_owned(), address };
        Host::new(Rc::new(world), executor.spawner())
    }

    /// Ends a node: its tasks stop where they are, its sockets close, writes that it had in flight land later or never.
    /// What its disks had answered stays, unless [`SimDisk::power_cut`] follows; to others it looks like a new boot.
    /// [`World::node`] starts it again, empty.
    pub fn kill(&self, name: &str) {
        *self.core.boots.borrow_mut().entry(name.to_owned()).or_default() += 1;
        self.kill_process(name);
    }

    /// The same for the process alone, as SIGKILL does: the machine runs on.
    pub fn kill_process(&self, name: &str) {
        self.end_node(name, false);
    }

    /// The machine loses power: like [`World::kill`], but nobody is told. Its disks' caches are another matter, see
    /// [`SimDisk::power_cut`].
    pub fn power_off(&self, name: &str) {
        *self.core.boots.borrow_mut().entry(name.to_owned()).or_default() += 1;
        self.end_node(name, true);
    }

    fn end_node(&self, name: &str, machine_gone: bool) {
        let executor = self.nodes.borrow_mut().remove(name);
        self.paused.borrow_mut().remove(name);
        let address = self.core.net.address_of(name);
        if machine_gone {
            self.core.net.vanish(address);
        } else {
            self.core.net.forget(&self.core, address);
        }
        for disk in self.core.disks.borrow().values() {
            disk.opener_died(name);
        }
        drop(executor);
    }

    /// Stops a node where it stands (`true`), as SIGSTOP does: its connections stay open, its disks go on, it does not
    /// notice; or lets it go on, and find out how late it is.
    pub fn pause(&self, name: &str, paused: bool) {
        if paused && self.nodes.borrow().contains_key(name) {
            self.paused.borrow_mut().insert(name.to_owned());
        } else {
            self.paused.borrow_mut().remove(name);
        }
    }

    /// Lets a node's clock differ from the world's. To be said before the node is started.
    pub fn skew(&self, name: &str, skew: Skew) {
        self.core.clocks.borrow_mut().insert(name.to_owned(), skew);
    }

    /// A number that depends on everything that has happened in the world, in order. Equal in two runs of one scenario.
    pub fn pulse(&self) -> u64 {
        self.core.pulse.get()
    }

    /// Adds a disk at a path, blank.
    pub fn add_disk(&self, path: impl Into<PathBuf>, options: DiskOptions) -> SimDisk {
        let path = path.into();
        let disk = SimDisk::new(&self.core, path.display().to_string(), options);
        self.core.disks.borrow_mut().insert(path, disk.clone());
        disk
    }

    /// The disk at a path. Panics when there is none: scenarios name their own disks.
    pub fn disk(&self, path: impl AsRef<Path>) -> SimDisk {
        let path = path.as_ref();
        self.core.disks.borrow().get(path).unwrap_or_else(|| panic!("no disk at {}", path.display())).clone()
    }

    /// All disks by path.
    pub fn disks(&self) -> Vec<(PathBuf, SimDisk)> {
        self.core.disks.borrow().iter().map(|(p, d)| (p.clone(), d.clone())).collect()
    }

    /// Takes a disk away: whoever has it open gets [`block::Fault::Gone`].
    pub fn remove_disk(&self, path: impl AsRef<Path>) {
        if let Some(disk) = self.core.disks.borrow_mut().remove(path.as_ref()) {
            disk.remove();
        }
    }

    /// Whether durable file writes ([`host::World::store`]) fail from now on.
    pub fn fail_stores(&self, fail: bool) {
        self.core.stores_fail.set(fail);
    }

    /// The contents of a file that somebody stored.
    pub fn file(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        self.core.files.borrow().get(path.as_ref()).cloned()
    }

    /// Puts a file there, as if somebody had stored it.
    pub fn put_file(&self, path: impl Into<PathBuf>, contents: Vec<u8>) {
        self.core.files.borrow_mut().insert(path.into(), contents);
    }

    /// The network, to break it.
    pub fn net(&self) -> &Net {
        &self.core.net
    }

    /// A handle to look at the world with from inside, from its tasks.
    pub fn watcher(&self) -> Watcher {
        Watcher(Rc::downgrade(&self.core))
    }

    /// Random numbers from the world's seed, for the scenario's own choices.
    pub fn entropy<T>(&self, f: impl FnOnce(&mut Entropy) -> T) -> T {
        f(&mut self.core.entropy.borrow_mut())
    }

    /// The clock.
    pub fn now(&self) -> Instant {
        self.core.now()
    }

    /// Runs the world until `future` (a task of node `main`) has ended, and returns its result. Panics when nothing can
    /// happen any more before that: a deadlock.
    pub fn run<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> T {
        let result = Rc::new(RefCell::new(None));
        let slot = result.clone();
        self.host().spawn(async move {
            let value = future.await;
            *slot.borrow_mut() = Some(value);
        });
        loop {
            self.run_tasks();
            if let Some(value) = result.borrow_mut().take() {
                return value;
            }
            match self.core.next_event() {
                Some(event) => event(),
                None => panic!("deadlock at {:?}: no task is ready and no event is due", self.now()),
            }
        }
    }

    /// Runs the world until the clock shows `until`, whether anything happens or not. To be called from outside only.
    pub fn run_until(&self, until: Instant) {
        loop {
            self.run_tasks();
            let due = self.core.events.borrow().first_key_value().is_some_and(|((at, _), _)| *at <= until);
            if !due {
                break;
            }
            if let Some(event) = self.core.next_event() {
                event();
            }
        }
        self.core.now.set(self.core.now.get().max(until));
    }

    /// Runs the world for a time.
    pub fn run_for(&self, time: Duration) {
        let host = self.host();
        self.run(async move { host.sleep(time).await });
    }

    fn run_tasks(&self) {
        for _ in 0..TASKS_AT_ONE_INSTANT {
            if !self.run_one_task() {
                return;
            }
        }
        panic!("tasks run without end at {:?}", self.now());
    }

    fn run_one_task(&self) -> bool {
        let (nodes, paused) = (self.nodes.borrow(), self.paused.borrow());
        let ready = || nodes.iter().filter(|(name, e)| e.has_ready() && !paused.contains(*name));
        let entropy = &self.core.entropy;
        let choice = match ready().count() {
            0 => return false,
            1 => 0,
            n => entropy.borrow_mut().below(n as u64) as usize,
        };
        let (_, executor) = ready().nth(choice).expect("it was counted");
        self.core.beat(choice as u64);
        executor.run_one(|n| if n == 1 { 0 } else { entropy.borrow_mut().below(n as u64) as usize })
    }
}

/// Looks at a world without keeping it alive. Harmless once the world has ended.
#[derive(Clone)]
pub struct Watcher(Weak<Core>);

impl Watcher {
    /// The world's clock, which no node sees.
    pub fn now(&self) -> Instant {
        self.0.upgrade().map(|core| core.now()).unwrap_or_default()
    }
    /// Whether bytes from one node reach another now, and how much longer than usual they take.
    pub fn way(&self, from: &str, to: &str) -> Option<Duration> {
        let core = self.0.upgrade()?;
        core.net.reaches(from, to).then(|| core.net.delay(from, to))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let nodes = std::mem::take(&mut *self.nodes.borrow_mut());
        let events = std::mem::take(&mut *self.core.events.borrow_mut());
        block::at_world_end(|| {
            drop(nodes);
            drop(events);
            self.core.disks.borrow_mut().clear();
        });
    }
}

/// The world as one node sees it.
struct NodeWorld {
    core: Rc<Core>,
    name: String,
    address: IpAddr,
}

impl host::World for NodeWorld {
    fn open_disk(&self, path: &Path, options: OpenOptions) -> LocalFuture<'_, Result<DiskRef, OpenError>> {
        let found = self.core.disks.borrow().get(path).cloned();
        Box::pin(async move {
            let disk = found.ok_or(OpenError::NotFound)?;
            if options.block_size == BlockSize::B512 && disk.options().block_size == BlockSize::B4096 {
                return Err(OpenError::Invalid("the device has blocks of 4096 bytes, not 512".into()));
            }
            disk.open(&self.name, options.block_size, options.claim == Claim::Exclusive)
        })
    }
    fn listen(&self, address: SocketAddr) -> io::Result<AnyListener> {
        let ip = if address.ip().is_unspecified() || address.ip() == Ipv4Addr::LOCALHOST {
            self.address
        } else {
            address.ip()
        };
        self.core.net.listen(SocketAddr::new(ip, address.port()))
    }
    fn connect(&self, host: &str, port: u16) -> LocalFuture<'_, io::Result<AnyStream>> {
        let to = self.core.net.resolve(host, self.address).map(|ip| SocketAddr::new(ip, port));
        Box::pin(async move { self.core.net.connect(&self.core, self.address, to?).await })
    }
    fn now(&self) -> Instant {
        self.core.skew(&self.name).local(self.core.now())
    }
    fn wall_clock_ms(&self) -> u64 {
        1_600_000_000_000 + self.now().0 / 1_000_000
    }
    fn sleep_until(&self, until: Instant) -> LocalFuture<'_, ()> {
        let (tx, rx) = oneshot::channel();
        let skew = self.core.skew(&self.name);
        self.core.after(skew.real(until.since(self.now())), move || {
            // The sleeper may have given up.
            let _ = tx.send(());
        });
        Box::pin(async move {
            let _ = rx.await;
        })
    }
    fn boot_id(&self) -> [u8; 16] {
        let mut id = [1; 16];
        id[..8].copy_from_slice(&self.core.boots.borrow().get(&self.name).copied().unwrap_or(0).to_le_bytes());
        id
    }
    fn random(&self) -> u64 {
        self.core.entropy.borrow_mut().bits()
    }
    fn load(&self, path: &Path) -> LocalFuture<'_, io::Result<Option<Vec<u8>>>> {
        let contents = self.core.files.borrow().get(path).cloned();
        Box::pin(async move { Ok(contents) })
    }
    fn store(&self, path: &Path, contents: Vec<u8>) -> LocalFuture<'_, io::Result<()>> {
        let path = path.to_owned();
        Box::pin(async move {
            let pause = self.core.between(Duration::from_micros(50), Duration::from_millis(2));
            self.sleep_until(self.now() + pause).await;
            if self.core.stores_fail.get() {
                return Err(io::Error::other("simulated failure of the file system"));
            }
            self.core.files.borrow_mut().insert(path, contents);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_jumps_and_equal_seeds_give_equal_runs() {
        let run = |seed| {
            let world = World::new(seed);
            let order = Rc::new(RefCell::new(Vec::new()));
            for k in 0..20u32 {
                let (host, order) = (world.host(), order.clone());
                world.host().spawn(async move {
                    let pause = host.random() % 1000;
                    host.sleep(Duration::from_secs(pause)).await;
                    order.borrow_mut().push(k);
                });
            }
            world.run_for(Duration::from_secs(2000));
            order.take()
        };
        assert_eq!(run(7).len(), 20);
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    #[should_panic(expected = "deadlock")]
    fn a_deadlock_is_noticed() {
        World::new(1).run(std::future::pending::<()>());
    }
}
