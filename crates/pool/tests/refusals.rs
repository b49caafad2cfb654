//! What a pool refuses, and that the disks are as they were afterwards.

mod common;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use block::{BlockRange, Bytes, Fault, Geometry, Request, Ticket};
use common::*;
use host::{Disk, DiskExt, DiskRef};
use pool::{CreateOptions, PoolError, PoolState, Probe, ReplicaSpec, ReplicaState};
use sim::{DiskImage, DiskOptions, World};

const FIRST: u64 = 400 << 10;
const OTHER: u64 = 192 << 10;

fn images(world: &World) -> Vec<DiskImage> {
    world.disks().into_iter().map(|(_, disk)| disk.image()).collect()
}

/// Makes a pool with some data on the first `disks` disks, and lets the process die.
fn made(world: &World, disks: usize) {
    let host = world.host();
    world.run(async move {
        let pool = create(&host, 0..disks).await;
        let a = replica(&pool, "a", 10, true).await;
        for extent in 0..10 {
            put(&a, extent * BLOCKS, 1, 7).await.unwrap();
        }
        a.flush().await.unwrap();
    });
    world.kill("main");
}

/// Imports these disks, which must fail; nothing may be written.
fn refused(world: &World, disks: &[usize], name: Option<&'static str>) -> PoolError {
    let before = images(world);
    let (host, disks) = (world.host(), disks.to_vec());
    let error = world.run(async move {
        let members = open(&host, disks).await;
        pool::import(&host, members, name).await.err().expect("it is refused")
    });
    assert!(images(world) == before, "a refused import has written: {error}");
    world.kill("main");
    error
}

/// Creates a pool on these disks, which must fail; nothing may be written.
fn not_created(world: &World, disks: &[usize], options: CreateOptions) -> PoolError {
    let before = images(world);
    let (host, disks) = (world.host(), disks.to_vec());
    let error = world.run(async move {
        let members = open(&host, disks).await;
        pool::create(&host, members, options).await.err().expect("it is refused")
    });
    assert!(images(world) == before, "a refused create has written: {error}");
    world.kill("main");
    error
}

fn forced() -> CreateOptions {
    CreateOptions { force: true, ..options() }
}

#[test]
fn foreign_disks_are_overwritten_with_force_only() {
    for (offset, magic) in [
        (512, &b"EFI PART"[..]),
        (FIRST - 512, b"EFI PART"),
        (1080, b"\x53\xef"),
        (0, b"XFSB"),
        (65600, b"_BHRfS_M"),
        (510, b"\x55\xaa"),
        (FIRST - 8192, b"\xfc\x4e\x2b\xa9"),
    ] {
        let w = world(1, &[FIRST]);
        w.disk("/d0").corrupt(offset, magic);
        assert!(matches!(not_created(&w, &[0], options()), PoolError::Foreign { .. }));
        assert!(matches!(refused(&w, &[0], None), PoolError::NotAPool { .. }));
        let host = w.host();
        w.run(async move {
            let members = open(&host, [0]).await;
            let pool = pool::create(&host, members.clone(), forced()).await.expect("forced");
            pool.destroy().await.unwrap();
            assert_eq!(pool::probe(&members[0].disk).await, Ok(Probe::Blank), "nothing of the old format is left");
        });
    }
}

#[test]
fn a_disk_of_ours_is_never_overwritten() {
    let w = world(2, &[FIRST, OTHER, FIRST]);
    made(&w, 2);
    for disks in [&[0][..], &[2, 1]] {
        let error = not_created(&w, disks, forced());
        assert!(matches!(error, PoolError::InUse { .. }), "{disks:?}: {error}");
    }
    // The start of disk 0 is overwritten by a file system: the second label still tells.
    w.disk("/d0").corrupt(0, &[0; 512]);
    w.disk("/d0").corrupt(1080, b"\x53\xef");
    let error = not_created(&w, &[0], forced());
    assert!(error.to_string().contains("overwritten by an ext2"), "{error}");
    assert!(matches!(refused(&w, &[0, 1], None), PoolError::Damaged { .. }));
}

#[test]
fn wrong_disks_are_not_imported() {
    let w = world(3, &[FIRST, OTHER, FIRST]);
    made(&w, 2);
    assert!(matches!(refused(&w, &[0, 1], Some("q")), PoolError::WrongName { .. }));
    let missing = refused(&w, &[0], None);
    assert!(missing.to_string().contains("disk 1"), "{missing}");
    assert!(matches!(refused(&w, &[1], None), PoolError::MissingDisk { .. }));
    assert!(matches!(refused(&w, &[0, 1, 2], None), PoolError::NotAPool { .. }));
    assert!(matches!(refused(&w, &[], None), PoolError::Invalid(_)));
    let host = w.host();
    w.run(async move {
        let members = open(&host, [2]).await;
        pool::create(&host, members, options()).await.unwrap();
    });
    w.kill("main");
    assert!(matches!(refused(&w, &[0, 1, 2], None), PoolError::Mixed { .. }));
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    let w = world(4, &[FIRST, 64 << 10, 140 << 10]);
    w.add_disk("/d3", DiskOptions::mib_4k(1));
    let named = |name: &str| CreateOptions { name: name.into(), ..options() };
    for name in ["", "a b", "ä", "a/b", &"x".repeat(64)] {
        assert!(matches!(not_created(&w, &[0], named(name)), PoolError::Invalid(_)), "{name}");
    }
    for size in [0, 2048, 5000, 128 << 20] {
        let options = CreateOptions { extent_size: Some(size), ..options() };
        assert!(matches!(not_created(&w, &[0], options), PoolError::Invalid(_)), "{size}");
    }
    assert!(matches!(not_created(&w, &[], options()), PoolError::Invalid(_)));
    assert!(matches!(not_created(&w, &[1], options()), PoolError::TooSmall { .. }));
    assert!(matches!(not_created(&w, &[2], options()), PoolError::TooSmall { .. }));
    let host = w.host();
    w.run(async move {
        let pool = create(&host, [0]).await;
        let make = |name: &str, size: u64, thin| {
            pool.create_replica(ReplicaSpec { name: name.into(), size: Bytes(size), thin })
        };
        assert!(matches!(make("", 4096, true).await, Err(PoolError::Invalid(_))));
        assert!(matches!(make("a", 0, true).await, Err(PoolError::Invalid(_))));
        assert!(matches!(make("a", 1000, true).await, Err(PoolError::Invalid(_))));
        assert!(matches!(make("a", !511, true).await, Err(PoolError::Invalid(_))));
        assert!(matches!(make("a", 1 << 30, false).await, Err(PoolError::NoSpace { .. })));
        let odd = make("a", 4096 + 512, true).await.expect("half an extent is fine");
        assert_eq!(odd.geometry().blocks.0, 9);
        assert!(matches!(make("a", 4096, true).await, Err(PoolError::Exists { .. })));
        assert!(matches!(pool.destroy_replica("b").await, Err(PoolError::NotFound { .. })));
        assert!(matches!(pool.destroy().await, Err(PoolError::NotEmpty { .. })));
        let past_end = odd.read(BlockRange::new(8, 2)).await;
        assert_eq!(past_end.err(), Some(Fault::OutOfRange));
        assert_eq!(pool.info().replicas, 1);
    });
}

#[test]
fn a_pool_grows_until_its_metadata_area_is_full() {
    let w = world(5, &[FIRST, OTHER, 64 << 20]);
    w.add_disk("/d3", DiskOptions::mib_4k(1));
    let host = w.host();
    w.run(async move {
        let pool = create(&host, [0]).await;
        let more = open(&host, [1, 2]).await;
        pool.add_disk(more[0].clone(), false).await.unwrap();
        assert!(matches!(pool.add_disk(more[0].clone(), true).await, Err(PoolError::InUse { .. })));
        assert!(matches!(pool.add_disk(more[1].clone(), true).await, Err(PoolError::Limit { .. })));
        let options = host::OpenOptions { block_size: block::BlockSize::B4096, claim: host::Claim::Exclusive };
        let disk = host.open_disk("/d3", options).await.unwrap();
        let other = pool::Member { uri: "/d3".into(), disk };
        assert!(matches!(pool.add_disk(other, true).await, Err(PoolError::Mixed { .. })));
        assert_eq!(pool.info().disks.len(), 2);
        // Replicas until the limit: each is refused or there, and the pool still imports.
        let mut count = 0;
        while pool.create_replica(ReplicaSpec { name: format!("r{count}"), size: Bytes(512), thin: true }).await.is_ok()
        {
            count += 1;
        }
        assert!(count > 300, "{count}");
        pool.export().await.unwrap();
        drop(more);
        drop(pool);
        assert_eq!(import(&host, [0, 1]).await.unwrap().info().replicas, count);
    });
}

#[test]
fn growing_is_refused_cleanly() {
    let w = world(7, &[FIRST]);
    let host = w.host();
    w.run(async move {
        let pool = create(&host, [0]).await;
        let extents = pool.info().capacity.0 / EXTENT;
        let (thick, thin) = (replica(&pool, "thick", 4, false).await, replica(&pool, "thin", 2, true).await);
        put(&thin, 0, BLOCKS, 7).await.unwrap();
        let before = (pool.info(), thick.size(), thin.size());
        let grow = |name: &'static str, size: u64| pool.grow_replica(name, Bytes(size));
        assert!(matches!(grow("none", EXTENT).await, Err(PoolError::NotFound { .. })));
        for size in [0, EXTENT, 4 * EXTENT - 512, 4 * EXTENT + 1, !511] {
            let refused = grow("thick", size).await;
            assert!(matches!(&refused, Err(PoolError::Invalid(why)) if why.contains("thick")), "{size}: {refused:?}");
        }
        let full = grow("thick", (extents + 1) * EXTENT).await;
        assert!(matches!(full, Err(PoolError::NoSpace { needed, free, .. }) if needed > free), "{full:?}");
        assert_eq!((pool.info(), thick.size(), thin.size()), before);
        assert_eq!(thick.read(BlockRange::new(4 * BLOCKS, 1)).await, Err(Fault::OutOfRange));
        // Asked again it is fine; to the last extent there is room.
        for _ in 0..2 {
            grow("thick", (extents - 1) * EXTENT).await.expect("there is room");
        }
        assert_eq!(pool.info().committed, pool.info().capacity);
        assert_eq!(put(&thin, BLOCKS, 1, 7).await, Err(Fault::NoSpace), "all is promised");
        put(&thick, (extents - 2) * BLOCKS, BLOCKS, 8).await.expect("what it gained is reserved");
        assert_eq!(get(&thick, 4 * BLOCKS, BLOCKS).await, [0; BLOCKS as usize]);
        // A thin one takes nothing.
        grow("thin", 1 << 30).await.expect("only a number changes");
        assert_eq!(get(&thin, 100_000, 8).await, [0; 8]);
        pool.export().await.unwrap();
        assert!(matches!(grow("thin", 2 << 30).await, Err(PoolError::Closed(_))));
        let pool = import(&host, [0]).await.unwrap();
        let size = |name: &str| pool.replica(name).expect("it is there").size().0;
        assert_eq!((size("thick"), size("thin")), ((extents - 1) * EXTENT, 1 << 30));
    });
}

#[test]
fn a_full_thin_pool_fails_that_write_and_recovers() {
    let w = world(6, &[FIRST]);
    let host = w.host();
    w.run(async move {
        let pool = create(&host, [0]).await;
        let extents = pool.info().capacity.0 / EXTENT;
        let thick = replica(&pool, "thick", 4, false).await;
        let (a, b) = (replica(&pool, "a", 100, true).await, replica(&pool, "b", 100, true).await);
        put(&a, 0, (extents - 4) * BLOCKS, 1).await.unwrap();
        assert_eq!(put(&b, 0, 1, 2).await, Err(Fault::NoSpace));
        // A write that finds space for a part only fails; neither that part nor anything else is corrupt.
        assert_eq!(put(&a, (extents - 5) * BLOCKS, 2 * BLOCKS, 3).await, Err(Fault::NoSpace));
        put(&thick, 0, 4 * BLOCKS, 4).await.expect("thick space is reserved");
        assert_eq!(pool.info().used, pool.info().capacity);
        assert_eq!(get(&b, 0, 8).await, [0; 8]);
        a.unmap(BlockRange::new(0, BLOCKS)).await.unwrap();
        put(&b, 0, 1, 5).await.expect("there is space again");
        assert_eq!(put(&b, BLOCKS, 1, 5).await, Err(Fault::NoSpace));
        pool.destroy_replica("a").await.unwrap();
        assert_eq!((put(&a, 0, 1, 1).await, a.state()), (Err(Fault::Gone), ReplicaState::Gone));
        put(&b, 0, 12 * BLOCKS, 6).await.unwrap();
        assert_eq!(get(&b, 0, 13 * BLOCKS).await, [vec![6; 96], vec![0; 8]].concat());
        assert_eq!(get(&thick, 0, 32).await, [4; 32]);
    });
}

#[test]
fn a_failed_journal_write_stops_the_pool_until_it_is_imported() {
    let w = world(7, &[FIRST]);
    made(&w, 1);
    let host = w.host();
    let disk = w.disk("/d0");
    w.run(async move {
        let pool = import(&host, [0]).await.unwrap();
        let a = pool.replica("a").unwrap();
        // The journal: everything between the slots and the extents.
        disk.fail_writes(BlockRange::new(256, 600));
        a.unmap(BlockRange::new(0, BLOCKS)).await.expect_err("the record cannot be written");
        assert!(matches!(pool.state(), PoolState::Faulted(_)), "{:?}", pool.state());
        disk.heal();
        for _ in 0..2 {
            assert_eq!(put(&a, BLOCKS, 1, 9).await, Err(Fault::Gone));
            assert_eq!(a.flush().await, Err(Fault::Gone));
            assert!(matches!(a.state(), ReplicaState::Faulted(_)));
            let spec = ReplicaSpec { name: "x".into(), size: Bytes(512), thin: true };
            assert!(matches!(pool.create_replica(spec).await, Err(PoolError::Faulted { .. })));
        }
        // Closing it lets go of the disk, although `a` is still held.
        assert!(matches!(pool.export().await, Err(PoolError::Faulted { .. })));
        let pool = import(&host, [0]).await.unwrap();
        assert_eq!(get(&pool.replica("a").unwrap(), 0, 1).await, [7], "the failed unmap did not happen");
    });
}

#[test]
pub(crate) fn a_failed_flush_stops_the_pool() {
    let w = world(9, &[FIRST]);
    made(&w, 1);
    let (host, disk) = (w.host(), w.disk("/d0"));
    w.run(async move {
        let pool = import(&host, [0]).await.unwrap();
        let a = pool.replica("a").unwrap();
        put(&a, 0, 1, 9).await.unwrap();
        disk.fail_flushes(1);
        a.flush().await.expect_err("the disk fails it");
        assert!(matches!(pool.state(), PoolState::Faulted(_)), "{:?}", pool.state());
        assert_eq!(a.flush().await, Err(Fault::Gone), "a second flush would succeed without what is lost");
    });
}

/// Whoever places copies has to see it before anything is flushed.
#[test]
fn a_disk_that_is_gone_stops_the_pool() {
    let w = Rc::new(world(9, &[FIRST]));
    made(&w, 1);
    let (host, inner) = (w.host(), w.clone());
    w.run(async move {
        let pool = import(&host, [0]).await.unwrap();
        let a = pool.replica("a").unwrap();
        inner.remove_disk("/d0");
        assert_eq!(a.read(BlockRange::new(0, 1)).await, Err(Fault::Gone));
        host.sleep(Duration::from_millis(1)).await;
        assert!(matches!(pool.state(), PoolState::Faulted(why) if why.contains("gone")), "{:?}", pool.state());
    });
}

#[test]
fn a_bad_data_block_fails_its_request_only() {
    let w = world(8, &[FIRST]);
    made(&w, 1);
    let (host, disk) = (w.host(), w.disk("/d0"));
    w.run(async move {
        let pool = import(&host, [0]).await.unwrap();
        let a = pool.replica("a").unwrap();
        disk.fail_reads(BlockRange::new(600, 200));
        let mut failed = 0;
        for extent in 0..10 {
            failed += u32::from(a.read(BlockRange::new(extent * BLOCKS, 1)).await == Err(Fault::Medium));
        }
        assert!(failed > 0 && pool.state() == PoolState::Online);
    });
}

/// One flipped byte anywhere in what is in use of label, checkpoint and journal: either nothing is lost, or the import
/// is refused, and nothing is written then.
#[test]
fn rot_in_metadata_is_found() {
    let w = world(9, &[FIRST]);
    made(&w, 1);
    let healthy = w.disk("/d0").image();
    let data = u64::from_le_bytes(w.disk("/d0").peek(160, 8).try_into().unwrap());
    let (mut refusals, mut survivals) = (0, 0);
    for unit in healthy.0.keys().copied().filter(|unit| unit * 512 < data) {
        for at in [0, 9, 13, 30, 64, 90, 140, 300] {
            let disk = w.disk("/d0");
            disk.set_image(healthy.clone());
            let old = disk.peek(unit * 512 + at, 1)[0];
            disk.corrupt(unit * 512 + at, &[old ^ 0x10]);
            let (host, before) = (w.host(), disk.image());
            let result = w.run(async move {
                let pool = import(&host, [0]).await?;
                let a = pool.replica("a").expect("a flushed replica");
                let mut all = Vec::new();
                for extent in 0..10 {
                    all.extend(get(&a, extent * BLOCKS, 1).await);
                }
                Ok::<_, PoolError>(all)
            });
            match result {
                Ok(data) => {
                    survivals += 1;
                    // The tail of the journal may be lost: nothing behind it proves that it was durable.
                    let whole = data.iter().take_while(|b| **b == 7).count();
                    assert!(data[whole..].iter().all(|b| *b == 0), "unit {unit}+{at}: {data:?}");
                }
                Err(e) => {
                    refusals += 1;
                    assert!(disk.image() == before, "unit {unit}+{at}: refused, but written: {e}");
                }
            }
            w.kill("main");
        }
    }
    assert!(refusals > 20 && survivals > 8, "{refusals} {survivals}");
}

/// A disk that holds back reads and writes of a whole extent while it is closed.
struct Gate {
    disk: DiskRef,
    held: RefCell<Option<Vec<(Request, Ticket)>>>,
}

impl Gate {
    fn close(&self) {
        *self.held.borrow_mut() = Some(Vec::new());
    }
    /// From now on nothing new is held back; what is held stays.
    fn pass_new(&self) -> Vec<(Request, Ticket)> {
        self.held.take().expect("the gate was closed")
    }
}

impl Disk for Gate {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }
    fn submit(&self, request: Request, ticket: Ticket) {
        let is_extent = request.range().is_some_and(|r| r.len.0 == BLOCKS);
        let is_slow = is_extent && matches!(request, Request::Read { .. } | Request::Write { .. });
        match &mut *self.held.borrow_mut() {
            Some(held) if is_slow => return held.push((request, ticket)),
            _ => {}
        }
        self.disk.submit(request, ticket);
    }
    fn label(&self) -> String {
        self.disk.label()
    }
}

/// A read and a write that are slow, while the extent under them is taken away and another replica wants it.
#[test]
pub(crate) fn slow_requests_never_meet_the_next_owner() {
    let w = world(10, &[FIRST]);
    let host = w.host();
    w.run(async move {
        let disk = open(&host, [0]).await.remove(0).disk;
        let gate = Rc::new(Gate { disk, held: RefCell::default() });
        let member = pool::Member { uri: "/d0".into(), disk: gate.clone() };
        let pool = pool::create(&host, vec![member], options()).await.unwrap();
        let extents = pool.info().capacity.0 / EXTENT;
        let (a, b) = (replica(&pool, "a", 100, true).await, replica(&pool, "b", 100, true).await);
        put(&a, 0, extents * BLOCKS, 1).await.unwrap();
        gate.close();
        let slow_read = host.spawn({
            let a = a.clone();
            async move { get(&a, 0, BLOCKS).await }
        });
        let slow_write = host.spawn({
            let a = a.clone();
            async move { put(&a, 0, BLOCKS, 3).await }
        });
        host.sleep(Duration::from_millis(1)).await;
        let held = gate.pass_new();
        assert_eq!(held.len(), 2, "both are on their way to the disk");
        a.unmap(BlockRange::new(0, BLOCKS)).await.unwrap();
        let next = host.spawn({
            let b = b.clone();
            async move { put(&b, 0, BLOCKS, 2).await }
        });
        host.sleep(Duration::from_secs(1)).await;
        for (request, ticket) in held {
            gate.disk.submit(request, ticket);
        }
        let read = slow_read.await.expect("it ends");
        assert!(!read.contains(&2), "a read of a sees b: {read:?}");
        slow_write.await.expect("it ends").expect("it had its place");
        next.await.expect("it ends").expect("there is space once the slow requests have ended");
        assert_eq!(get(&b, 0, BLOCKS).await, [2; 8], "a write to a hit b");
        assert_eq!(get(&a, 0, BLOCKS).await, [0; 8]);
    });
}
