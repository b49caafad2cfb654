//! Time, tasks, nodes and files of a simulated world.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
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
    pub(crate) net: Net,
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
        let ((at, _), event) = self.events.borrow_mut().pop_first()?;
        self.now.set(at);
        Some(event)
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
            net: Net::default(),
        });
        World { core, nodes: RefCell::default() }
    }

    /// The host of the node `main`.
    pub fn host(&self) -> Host {
        self.node("main")
    }

    /// The host of a node, which is started when there is none of that name. Node k (from 1, in order of appearance)
    /// has the address 10.0.0.k, and its name is known to the resolver.
    pub fn node(&self, name: &str) -> Host {
        let address = self.core.net.address_of(name);
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
        let executor = self.nodes.borrow_mut().remove(name);
        let address = self.core.net.address_of(name);
        self.core.net.forget(address);
        for disk in self.core.disks.borrow().values() {
            disk.opener_died(name);
        }
        drop(executor);
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
        let nodes = self.nodes.borrow();
        let ready: Vec<&Executor> = nodes.values().filter(|e| e.has_ready()).collect();
        if ready.is_empty() {
            return false;
        }
        let entropy = &self.core.entropy;
        let executor = ready[entropy.borrow_mut().below(ready.len() as u64) as usize];
        executor.run_one(|n| entropy.borrow_mut().below(n as u64) as usize)
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
        self.core.net.listen(&self.core, SocketAddr::new(ip, address.port()))
    }
    fn connect(&self, host: &str, port: u16) -> LocalFuture<'_, io::Result<AnyStream>> {
        let to = self.core.net.resolve(host, self.address).map(|ip| SocketAddr::new(ip, port));
        Box::pin(async move { self.core.net.connect(&self.core, self.address, to?).await })
    }
    fn now(&self) -> Instant {
        self.core.now()
    }
    fn wall_clock_ms(&self) -> u64 {
        1_600_000_000_000 + self.core.now().0 / 1_000_000
    }
    fn sleep_until(&self, until: Instant) -> LocalFuture<'_, ()> {
        let (tx, rx) = oneshot::channel();
        self.core.after(until.since(self.core.now()), move || {
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
            self.sleep_until(self.core.now() + pause).await;
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
