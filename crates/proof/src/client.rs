//! A client of one volume: an initiator that reads, writes, flushes, clears, follows the volume to wherever it is, and
//! tells the oracle what it saw.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use block::{BlockRange, BlockSize, Buf, Durability, Fault, Instant, Request};
use engine::remote::{self, RemoteDisk, RemoteOptions, RemoteSpec, RemoteState};
use futures_util::future::join_all;
use host::{DiskExt, Host, Notify};
use uuid::Uuid;

use crate::cluster::{Place, Shared};
use crate::oracle::short;
use crate::payload;
use crate::scenario::Work;

/// A client.
pub struct Client {
    shared: Weak<Shared>,
    host: Host,
    name: String,
    volume: Uuid,
    /// What the payload calls the volume.
    tag: u64,
    block_size: BlockSize,
    blocks: u64,
    work: Work,
    next_write: Cell<u64>,
    /// The node to which requests went last.
    last_node: RefCell<String>,
    /// Since when they go there, when no change was answered there yet.
    moved: Cell<Option<Instant>>,
    /// Requests that were answered well.
    pub done: Cell<u64>,
}

/// A connection that works, and the node at its other end.
struct Link {
    disk: Rc<RemoteDisk>,
    node: String,
    /// Set at the first sign of trouble: the connection is not used any more, and what is under way on it stays
    /// unanswered. A request is sent once in its life.
    broken: Rc<Cell<bool>>,
}

/// Starts a client called `name` for a volume of `blocks` blocks.
pub fn start(shared: &Rc<Shared>, host: Host, name: &str, volume: Uuid, tag: u64, blocks: u64) -> Rc<Client> {
    let block_size = BlockSize::from_bytes(shared.scenario.knobs.block_bytes).expect("512 or 4096");
    let client = Rc::new(Client {
        shared: Rc::downgrade(shared),
        host: host.clone(),
        name: name.to_owned(),
        volume,
        tag,
        block_size,
        blocks,
        work: shared.scenario.work.clone(),
        next_write: Cell::new(1),
        last_node: RefCell::default(),
        moved: Cell::new(None),
        done: Cell::new(0),
    });
    host.spawn(run(client.clone()));
    client
}

async fn run(client: Rc<Client>) {
    while let Some(shared) = client.shared.upgrade() {
        let Some(link) = client.connect(&shared).await else {
            drop(shared);
            client.host.sleep(Duration::from_millis(50)).await;
            continue;
        };
        let link = Rc::new(link);
        let workers = (0..client.work.depth).map(|_| worker(client.clone(), link.clone()));
        join_all(workers).await;
        if shared.calm.get() && !link.broken.get() && client.finish(&shared, &link).await {
            link.disk.close().await;
            shared.finished.set(shared.finished.get() + 1);
            shared.trace.note(shared.watcher.now(), &client.name, "finished", &[client.done.get()], String::new);
            return;
        }
        let limit = Duration::from_secs(1);
        // Whoever does not answer is left.
        let _ = client.host.timeout(limit, link.disk.close()).await;
        drop(shared);
        client.host.sleep(Duration::from_millis(20)).await;
    }
}

/// Sends requests one by one until the link breaks, or until there is peace.
async fn worker(client: Rc<Client>, link: Rc<Link>) {
    while let Some(shared) = client.shared.upgrade() {
        if link.broken.get() || shared.calm.get() {
            return;
        }
        let moved = shared.directory.borrow().get(&client.volume).is_some_and(|p| p.node != link.node);
        if moved {
            link.broken.set(true);
            return;
        }
        client.one(&shared, &link).await;
        drop(shared);
        let think = client.host.random() % (client.work.think_ms * 1000 + 1);
        client.host.sleep(Duration::from_micros(think)).await;
    }
}

impl Client {
    async fn connect(&self, shared: &Rc<Shared>) -> Option<Link> {
        let Place { node, uri } = shared.directory.borrow().get(&self.volume).cloned()?;
        let spec = spec_of(&uri, &self.name)?;
        let options = RemoteOptions {
            depth: 32,
            command_deadline: Duration::from_secs(8),
            connect_timeout: Duration::from_secs(1),
            keep_alive: Duration::from_secs(1),
            data_digest: self.tag.is_multiple_of(2),
            header_digest: self.tag.is_multiple_of(3),
            ..RemoteOptions::default()
        };
        let disk = match remote::connect(&self.host, spec, options).await {
            Ok(disk) => disk,
            Err(error) => {
                let text = || format!("{node}: {error}");
                shared.trace.note(shared.watcher.now(), &self.name, "no link", &[], text);
                return None;
            }
        };
        let broken = Rc::new(Cell::new(false));
        let (flag, trouble) = (broken.clone(), Rc::new(Notify::default()));
        let bell = trouble.clone();
        disk.on_change(move |state| {
            if *state != RemoteState::Up {
                flag.set(true);
                bell.notify();
            }
        });
        // Closed before it can connect again by itself and send anything twice.
        let closing = Rc::downgrade(&disk);
        self.host.spawn(async move {
            trouble.notified().await;
            if let Some(disk) = closing.upgrade() {
                disk.close().await;
            }
        });
        shared.trace.note(shared.watcher.now(), &self.name, "connected", &[], || node.clone());
        if self.last_node.replace(node.clone()) != node {
            self.moved.set(Some(shared.watcher.now()));
        }
        Some(Link { disk, node, broken })
    }

    /// One of the blocks that are used: runs of eight, spread over the volume.
    fn pick(&self, len: u64) -> BlockRange {
        let used = self.work.blocks.min(self.blocks);
        let k = self.host.random() % used;
        let (run, within) = (k / 8, k % 8);
        let runs = used.div_ceil(8);
        let start = run * (self.blocks / runs) + within;
        let end = self.blocks.min(run * (self.blocks / runs) + 8);
        BlockRange::new(start, len.min(end.saturating_sub(start)).max(1))
    }

    async fn one(&self, shared: &Rc<Shared>, link: &Link) {
        let dice = self.host.random() % 100;
        let range = self.pick(1 + self.host.random() % 6);
        if dice < self.work.flushes {
            self.flush(shared, link).await;
        } else if dice < self.work.flushes + self.work.changes {
            self.change(shared, link, range).await;
        } else {
            self.read(shared, link, range).await;
        }
    }

    /// Sends a request; `None` when it was not answered as long as the link was good.
    async fn ask(&self, link: &Link, request: Request) -> Option<Result<block::Data, Fault>> {
        let outcome = link.disk.call(request).await;
        if link.broken.get() {
            return None;
        }
        match outcome {
            Err(Fault::Gone | Fault::TimedOut | Fault::Aborted | Fault::Fenced) => {
                link.broken.set(true);
                None
            }
            outcome => Some(outcome),
        }
    }

    /// Whether the block is one of those that are used. The others stay zeroes.
    fn is_used(&self, lba: u64) -> bool {
        let runs = self.work.blocks.min(self.blocks).div_ceil(8);
        let stride = self.blocks / runs;
        lba / stride < runs && lba % stride < 8
    }

    /// Whole extents, which a pool takes back when they are cleared.
    fn pick_wide(&self) -> Option<BlockRange> {
        let extent = (1 << 20) / u64::from(self.block_size.bytes());
        let count = self.blocks / extent;
        let first = self.host.random().checked_rem(count)?;
        Some(BlockRange::new(first * extent, extent * (1 + self.host.random() % (count - first).min(3))))
    }

    async fn change(&self, shared: &Rc<Shared>, link: &Link, range: BlockRange) {
        let used = |range: BlockRange| (range.start.0..range.end().0).filter(|lba| self.is_used(*lba));
        let calm = |lba| shared.oracle.history(self.volume, |h| Ok(h.is_calm(lba))) == Some(true);
        let mut zero = self.host.random() % 100 < self.work.zeroes;
        let wide = if zero && self.host.random().is_multiple_of(3) { self.pick_wide() } else { None };
        let wide = wide.filter(|range| used(*range).all(calm));
        zero &= wide.is_some() || used(range).all(calm);
        let range = wide.unwrap_or(range);
        let lbas = || used(range);
        let durability =
            if self.host.random() % 100 < self.work.forced { Durability::Durable } else { Durability::Volatile };
        let write = self.next_write.replace(self.next_write.get() + 1);
        let (request, forced) = if zero && self.host.random().is_multiple_of(2) {
            (Request::Unmap { range }, false)
        } else if zero {
            (
                Request::WriteZeroes { range, may_unmap: write.is_multiple_of(2), durability },
                durability == Durability::Durable,
            )
        } else {
            let bytes = self.block_size.bytes() as usize;
            let data: Buf = payload::fill(self.tag, range.start.0, range.len.0, bytes, write);
            (Request::Write { range, data, durability }, durability == Durability::Durable)
        };
        let asked = shared.watcher.now();
        for lba in lbas() {
            shared.oracle.history(self.volume, |h| {
                h.invoke(lba, write, zero, asked.0);
                Ok(())
            });
        }
        self.say(shared, "write", write, || format!("{range} as {write}{}", if zero { " (zeroes)" } else { "" }));
        let outcome = self.ask(link, request).await;
        let now = shared.watcher.now();
        let word = match &outcome {
            Some(Ok(_)) => "written",
            Some(Err(_)) => "refused",
            None => "unanswered",
        };
        self.say(shared, word, write, || {
            format!("{range} as {write} {:?}", outcome.as_ref().and_then(|o| o.as_ref().err()))
        });
        if !matches!(outcome, Some(Ok(_))) {
            return;
        }
        self.done.set(self.done.get() + 1);
        shared.oracle.acknowledged_by(self.volume, &link.node, asked.0);
        shared.observe_ledger(self.volume, &link.node);
        if let Some(since) = self.moved.take() {
            // Rule: a nexus that was replaced writes no more.
            shared.oracle.history(self.volume, |h| {
                h.over(since.0, now.0);
                Ok(())
            });
        }
        for lba in lbas() {
            shared.oracle.history(self.volume, |h| h.answer(lba, write, forced, asked.0, now.0));
        }
    }

    async fn read(&self, shared: &Rc<Shared>, link: &Link, range: BlockRange) -> bool {
        let asked = shared.watcher.now();
        let Some(Ok(data)) = self.ask(link, Request::Read { range }).await else { return false };
        let (now, bytes) = (shared.watcher.now(), data.into_buf());
        self.done.set(self.done.get() + 1);
        let size = self.block_size.bytes() as usize;
        let found = RefCell::new(Vec::new());
        for (k, block) in bytes.chunks_exact(size).enumerate() {
            let lba = range.start.0 + k as u64;
            let content = payload::read(block, self.tag, lba);
            found.borrow_mut().push(content);
            shared.oracle.history(self.volume, |h| h.read(lba, content, asked.0, now.0));
        }
        self.say(shared, "read", bytes.len() as u64, || {
            format!("{range} {:?} since {:.3}", found.borrow(), asked.0 as f64 / 1e6)
        });
        true
    }

    async fn flush(&self, shared: &Rc<Shared>, link: &Link) -> bool {
        let asked = shared.watcher.now();
        let done = matches!(self.ask(link, Request::Flush).await, Some(Ok(_)));
        self.say(shared, if done { "flushed" } else { "no flush" }, 0, String::new);
        if done {
            self.done.set(self.done.get() + 1);
            shared.oracle.history(self.volume, |h| {
                h.flushed(asked.0);
                Ok(())
            });
        }
        done
    }

    /// At the end, in peace: every block is read, written and read again, and flushed.
    async fn finish(&self, shared: &Rc<Shared>, link: &Link) -> bool {
        let used = self.work.blocks.min(self.blocks);
        let runs = used.div_ceil(8);
        for run in 0..runs {
            let start = run * (self.blocks / runs);
            let range = BlockRange::new(start, 8.min(self.blocks - start));
            if !self.read(shared, link, range).await {
                return false;
            }
            // Half of them are left as they are: the copies are compared afterwards.
            if run % 2 == 0 {
                self.change(shared, link, range).await;
                if !self.read(shared, link, range).await {
                    return false;
                }
            }
        }
        self.flush(shared, link).await && !link.broken.get()
    }

    fn say(&self, shared: &Shared, what: &str, word: u64, text: impl FnOnce() -> String) {
        let now = shared.watcher.now();
        shared.trace.note(now, &self.name, what, &[word], || format!("volume {}: {}", short(self.volume), text()));
    }
}

fn spec_of(uri: &str, name: &str) -> Option<RemoteSpec> {
    let (address, nqn) = uri.strip_prefix("nvmf://")?.split_once('/')?;
    let (host, port) = address.rsplit_once(':')?;
    Some(RemoteSpec {
        host: host.to_owned(),
        port: port.parse().ok()?,
        nqn: nqn.split('?').next()?.to_owned(),
        host_nqn: format!("nqn.2019-05.io.openebs:client-{name}"),
        uuid: None,
    })
}
