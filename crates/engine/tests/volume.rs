//! The nexus over simulated disks: creation, loss and return of members, rebuild, crash and refusal.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use block::{BlockRange, BlockSize, Buf, Bytes, Durability, Fault, Generation};
use engine::volume::{
    ChildSpec, ChildState, LedgerError, LedgerStore, Nexus, NexusError, NexusSpec, NexusState, RebuildState, Settings,
    StoredLedger,
};
use host::{Claim, Disk, DiskExt, DiskRef, Host, LocalFuture, OpenOptions, Queue};
use sim::{DiskOptions, World};
use uuid::Uuid;

const SIZE: Bytes = Bytes(9 << 20);
const DATA: u64 = 5 << 20;
const VOLUME: Uuid = Uuid::from_u128(0x1234_5678);

/// A store in memory that outlives nexuses.
#[derive(Default)]
struct Memory {
    ledger: RefCell<Option<StoredLedger>>,
    away: std::cell::Cell<bool>,
}

impl LedgerStore for Memory {
    fn record(&self, _: Uuid, ledger: StoredLedger) -> LocalFuture<'static, Result<(), LedgerError>> {
        let known = self.ledger.borrow().as_ref().map_or(Generation(0), |l| l.generation);
        let result = if self.away.get() {
            Err(LedgerError::Unavailable("away".into()))
        } else if ledger.generation < known
            || (ledger.generation == known && Some(&ledger) != self.ledger.borrow().as_ref())
        {
            Err(LedgerError::Fenced)
        } else {
            *self.ledger.borrow_mut() = Some(ledger);
            Ok(())
        };
        Box::pin(std::future::ready(result))
    }
}

async fn disk(host: &Host, path: &str) -> Result<DiskRef, String> {
    let options = OpenOptions { block_size: BlockSize::B512, claim: Claim::Exclusive };
    host.open_disk(path, options).await.map_err(|e| e.to_string())
}

async fn try_open(host: &Host, paths: &[&str], store: &Rc<Memory>, fresh: bool) -> Result<Rc<Nexus>, NexusError> {
    let mut children = Vec::new();
    for path in paths {
        children.push(ChildSpec { uri: (*path).into(), disk: disk(host, path).await });
    }
    let spec = NexusSpec {
        uuid: VOLUME,
        size: SIZE,
        children,
        ledger: store.ledger.borrow().clone(),
        store: store.clone(),
        settings: Settings::default(),
        fresh,
        force: false,
        events: Queue::default(),
    };
    Nexus::open(host, spec).await
}

async fn open(host: &Host, paths: &[&str], store: &Rc<Memory>, fresh: bool) -> Rc<Nexus> {
    try_open(host, paths, store, fresh).await.expect("the volume opens")
}

async fn put(nexus: &Nexus, block: u64, byte: u8) {
    write(nexus, block, byte).await.expect("the write succeeds");
}
async fn write(nexus: &Nexus, block: u64, byte: u8) -> Result<(), Fault> {
    nexus.write(BlockRange::new(block, 8), Buf::copy_of(&[byte; 4096]), Durability::Volatile).await
}
async fn get(nexus: &Nexus, block: u64) -> u8 {
    let buf = nexus.read(BlockRange::new(block, 8)).await.expect("the read succeeds");
    assert!(buf.iter().all(|b| *b == buf[0]), "mixed contents");
    buf[0]
}

async fn until(host: &Host, what: impl Fn() -> bool) {
    for _ in 0..2000 {
        if what() {
            return;
        }
        host.sleep(Duration::from_millis(50)).await;
    }
    panic!("it never happened");
}

fn world(disks: u32) -> World {
    let world = World::new(7);
    for i in 0..disks {
        world.add_disk(format!("/d{i}"), DiskOptions::mib(15));
    }
    world
}

fn assert_same(world: &World, paths: &[&str]) {
    // Units of the volume that are not zero.
    let data = |path: &str| {
        let image = world.disk(path).image().0;
        let units = image
            .into_iter()
            .filter(|(at, unit)| (DATA..DATA + SIZE.0).contains(&(at * 512)) && unit.iter().any(|b| *b != 0));
        units.collect::<Vec<_>>()
    };
    let first = data(paths[0]);
    for path in &paths[1..] {
        assert!(data(path) == first, "{path} differs from {}", paths[0]);
    }
}

#[test]
fn a_volume_is_made_written_closed_and_opened_again_without_a_copy() {
    let world = Rc::new(world(3));
    let (host, store) = (world.host(), Rc::new(Memory::default()));
    let w = world.clone();
    world.run(async move {
        let all = ["/d0", "/d1", "/d2"];
        let nexus = open(&host, &all, &store, true).await;
        assert_eq!(nexus.geometry().bytes(), SIZE);
        put(&nexus, 0, 1).await;
        put(&nexus, SIZE.0 / 512 - 8, 2).await;
        assert_eq!((get(&nexus, 0).await, get(&nexus, 16).await), (1, 0));
        assert_eq!(nexus.read(BlockRange::new(SIZE.0 / 512, 1)).await, Err(Fault::OutOfRange));
        nexus.flush().await.expect("flush");
        let info = nexus.info();
        assert_eq!((info.state, info.in_sync.len()), (NexusState::Online, 3));
        nexus.close().await.expect("closes");
        assert_eq!(write(&nexus, 0, 9).await, Err(Fault::Aborted));
        drop(nexus);
        assert_same(&w, &all);

        let writes: u64 = w.disks().iter().map(|(_, d)| d.counts().1).sum();
        let nexus = open(&host, &all, &store, false).await;
        assert!(nexus.info().generation > info.generation);
        assert_eq!((get(&nexus, 0).await, get(&nexus, SIZE.0 / 512 - 8).await), (1, 2));
        host.sleep(Duration::from_secs(20)).await;
        let after: u64 = w.disks().iter().map(|(_, d)| d.counts().1).sum();
        assert!(after - writes < 20, "a ledger and a map for each, no copy: {}", after - writes);
        nexus.close().await.expect("closes");
    });
}

#[test]
fn a_member_that_hangs_leaves_and_comes_back_by_what_differs() {
    let world = Rc::new(world(3));
    let (host, store) = (world.host(), Rc::new(Memory::default()));
    let w = world.clone();
    world.run(async move {
        let all = ["/d0", "/d1", "/d2"];
        let nexus = open(&host, &all, &store, true).await;
        put(&nexus, 0, 1).await;
        w.disk("/d1").stall(true);
        store.away.set(true); // two of three are a majority
        put(&nexus, 8, 2).await;
        let info = nexus.info();
        assert_eq!((info.state, info.children[1].state), (NexusState::Degraded, ChildState::Faulted));
        assert!(info.children[1].reason.contains("deadline"), "{}", info.children[1].reason);
        assert_eq!(info.in_sync, ["/d0", "/d2"]);
        put(&nexus, 16, 3).await;
        assert!(nexus.online_child("/d1", None).await.is_err(), "its old requests are unanswered");
        w.disk("/d1").stall(false);
        store.away.set(false);
        nexus.online_child("/d1", None).await.expect("back");
        assert!(nexus.rebuild_info("/d1").is_ok());
        until(&host, || nexus.info().state == NexusState::Online).await;
        assert_eq!(get(&nexus, 16).await, 3);
        nexus.close().await.expect("closes");
        assert_same(&w, &all);
    });
}

#[test]
fn a_new_child_is_copied_under_load_and_a_lone_stale_one_never_serves() {
    let world = Rc::new(world(3));
    let (host, store) = (world.host(), Rc::new(Memory::default()));
    let w = world.clone();
    world.run(async move {
        let nexus = open(&host, &["/d0", "/d1"], &store, true).await;
        for i in 0..200 {
            put(&nexus, i * 80, i as u8).await;
        }
        let spec = ChildSpec { uri: "/d2".into(), disk: disk(&host, "/d2").await };
        nexus.add_child(spec, true, false).await.expect("added");
        nexus.pause_rebuild("/d2").expect("paused");
        assert_eq!(nexus.rebuild_info("/d2").expect("there").state, RebuildState::Paused);
        for i in 0..100 {
            put(&nexus, i * 160, 77).await;
            if i == 50 {
                nexus.resume_rebuild("/d2").expect("goes on");
            }
        }
        until(&host, || nexus.info().state == NexusState::Online).await;
        assert!(matches!(nexus.rebuild_info("/d2"), Err(NexusError::NoRebuild { .. })));
        nexus.flush().await.expect("flush");
        assert_same(&w, &["/d0", "/d1", "/d2"]);

        nexus.offline_child("/d0").await.expect("out");
        assert_eq!(nexus.info().children[0].state, ChildState::Offline);
        put(&nexus, 0, 99).await;
        nexus.close().await.expect("closes");
        drop(nexus);
        let refused = try_open(&host, &["/d0"], &store, false).await.err().expect("refused");
        assert!(matches!(refused, NexusError::NoQuorum { .. }), "{refused}");
        store.ledger.borrow_mut().take();
        assert!(try_open(&host, &["/d0"], &store, true).await.is_err(), "not as a new volume either");
        // All of them: the one that was away is brought up to date.
        let nexus = open(&host, &["/d0", "/d1", "/d2"], &store, false).await;
        assert_eq!(get(&nexus, 0).await, 99);
        until(&host, || nexus.info().state == NexusState::Online).await;
        nexus.remove_child("/d1").await.expect("removed");
        nexus.remove_child("/d2").await.expect("removed");
        assert!(matches!(nexus.remove_child("/d0").await, Err(NexusError::LastCopy { .. })));
        assert_eq!(get(&nexus, 0).await, 99);
        nexus.close().await.expect("closes");
    });
}

#[test]
fn foreign_and_small_children_are_refused_and_stay_as_they_are() {
    let world = Rc::new(world(2));
    let (host, store) = (world.host(), Rc::new(Memory::default()));
    world.add_disk("/small", DiskOptions::mib(12));
    world.disk("/d1").corrupt(0x438, &[0x53, 0xef]);
    let w = world.clone();
    world.run(async move {
        let before = w.disk("/d1").image();
        let ext = try_open(&host, &["/d0", "/d1"], &store, true).await.err().expect("refused");
        assert!(ext.to_string().contains("/d1: it holds an ext file system"), "{ext}");
        assert!(w.disk("/d1").image() == before && w.disk("/d0").peek(0, 4096).iter().all(|b| *b == 0));
        let small = try_open(&host, &["/d0", "/small"], &store, true).await.err().expect("refused");
        assert!(small.to_string().contains("/small: the volume needs"), "{small}");
        let missing = try_open(&host, &["/d0", "/none"], &store, true).await.err().expect("refused");
        assert!(matches!(&missing, NexusError::BadChild { uri, .. } if uri == "/none"), "{missing}");
        let twice = try_open(&host, &["/d0", "/d0"], &store, true).await.err().expect("refused");
        assert!(matches!(twice, NexusError::ChildExists { .. }), "{twice}");
        // Nothing was labelled, so the same disk serves another volume.
        open(&host, &["/d0"], &store, true).await.close().await.expect("closes");
    });
}

#[test]
fn a_bad_block_is_read_elsewhere_and_rewritten() {
    let world = Rc::new(world(2));
    let (host, store) = (world.host(), Rc::new(Memory::default()));
    let w = world.clone();
    world.run(async move {
        let nexus = open(&host, &["/d0", "/d1"], &store, true).await;
        put(&nexus, 64, 5).await;
        w.disk("/d1").fail_reads(BlockRange::new(DATA / 512 + 64, 8));
        for _ in 0..4 {
            assert_eq!(get(&nexus, 64).await, 5);
        }
        let info = nexus.info();
        assert_eq!((info.state, info.children[1].errors), (NexusState::Online, 1), "once, then it was rewritten");
        nexus.close().await.expect("closes");
    });
}

/// Writes while the power is cut; afterwards the members are equal, and flushed data is there.
#[test]
fn power_cuts_leave_equal_members_and_flushed_data() {
    for seed in 0..8 {
        let world = Rc::new(World::new(seed));
        for i in 0..2 {
            world.add_disk(format!("/d{i}"), DiskOptions::mib(15));
        }
        let store = Rc::new(Memory::default());
        let (host, s) = (world.node("a"), store.clone());
        let w = world.clone();
        world.run(async move {
            let nexus = open(&host, &["/d0", "/d1"], &s, true).await;
            put(&nexus, 0, 1).await;
            nexus.flush().await.expect("flush");
            for i in 0..40u64 {
                put(&nexus, 8 + (i * 7919) % 18000, 3).await;
            }
            let last = host.spawn({
                let nexus = nexus.clone();
                async move { write(&nexus, 0, 2).await }
            });
            let pause = w.entropy(|e| e.below(300));
            host.sleep(Duration::from_micros(pause)).await;
            last.cancel();
            std::mem::forget(nexus); // the process ends here, in the middle
        });
        world.kill("a");
        world.disks().iter().for_each(|(_, d)| d.power_cut());
        let (host, w) = (world.node("b"), world.clone());
        world.run(async move {
            let nexus = open(&host, &["/d0", "/d1"], &store, false).await;
            assert_eq!(nexus.info().in_sync.len(), 2);
            // Each block is the old one or the new one, and stays what it was at the first read.
            let first = nexus.read(BlockRange::new(0, 8)).await.expect("the read succeeds");
            let whole = |block: &[u8]| block.iter().all(|b| *b == block[0]) && (block[0] == 1 || block[0] == 2);
            assert!(first.chunks(512).all(whole), "flushed data is there, or what followed");
            for _ in 0..4 {
                let again = nexus.read(BlockRange::new(0, 8)).await.expect("the read succeeds");
                assert!(again == first, "the answer does not change");
            }
            host.sleep(Duration::from_secs(30)).await;
            nexus.close().await.expect("closes");
            assert_same(&w, &["/d0", "/d1"]);
        });
    }
}
