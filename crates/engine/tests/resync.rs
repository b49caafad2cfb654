//! How much is copied: after an absence, after a crash, and when a rebuild is interrupted. docs/replication.md, section 4.

use std::rc::Rc;
use std::time::Duration;

use block::{BlockRange, BlockSize, Buf, Bytes, Durability};
use engine::volume::{ChildSpec, Nexus, NexusSpec, NexusState, NoStore, Settings};
use host::{Claim, DiskExt, DiskRef, Host, OpenOptions, Queue};
use sim::{DiskOptions, World};
use uuid::Uuid;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const REGION: u64 = 4 * MIB;
const VOLUME: Uuid = Uuid::from_u128(0x4444);
const PATHS: [&str; 3] = ["/d0", "/d1", "/d2"];

fn world() -> Rc<World> {
    let world = World::new(11);
    for path in PATHS {
        world.add_disk(path, DiskOptions::mib(1024 + 6));
    }
    Rc::new(world)
}

async fn disk(host: &Host, path: &str) -> DiskRef {
    let options = OpenOptions { block_size: BlockSize::B512, claim: Claim::Exclusive };
    host.open_disk(path, options).await.expect("the disk is free")
}

/// The volume of 1 GiB; without a store, majorities decide.
async fn open(host: &Host, fresh: bool) -> Rc<Nexus> {
    let mut children = Vec::new();
    for path in PATHS {
        children.push(ChildSpec { uri: path.into(), disk: Ok(disk(host, path).await) });
    }
    let spec = NexusSpec {
        uuid: VOLUME,
        size: Bytes(GIB),
        children,
        ledger: Some(engine::volume::StoredLedger { generation: block::Generation(0), in_sync: Vec::new() })
            .filter(|_| !fresh),
        store: Rc::new(NoStore),
        settings: Settings::default(),
        fresh,
        force: false,
        events: Queue::default(),
    };
    Nexus::open(host, spec).await.expect("the volume opens")
}

/// Lets time pass until what was written before is marked as clean: until then it counts as different.
async fn rest(host: &Host) {
    host.sleep(Settings::default().clear_after * 3).await;
}

/// Writes `len` bytes from `at`.
async fn fill(nexus: &Nexus, at: u64, len: u64, byte: u8) {
    let piece = 256 << 10;
    let data = Buf::copy_of(&vec![byte; piece as usize]);
    for from in (at..at + len).step_by(piece as usize) {
        let part = data.slice(0..piece.min(at + len - from) as usize);
        let range = BlockRange::new(from / 512, part.len() as u64 / 512);
        nexus.write(range, part, Durability::Volatile).await.expect("the write succeeds");
    }
}

/// Waits until all members are in sync; the most that a rebuild said it has to copy, and that it said it has copied.
async fn healed(host: &Host, nexus: &Nexus) -> (u64, u64) {
    let (mut total, mut done) = (0, 0);
    for _ in 0..200_000 {
        let info = nexus.info();
        if info.state == NexusState::Online {
            return (total, done);
        }
        for rebuild in info.children.iter().filter_map(|c| c.rebuild.as_ref()) {
            total = total.max(rebuild.bytes_total.0);
            done = done.max(rebuild.bytes_done.0);
        }
        host.sleep(Duration::from_millis(1)).await;
    }
    panic!("not healed: {:#?}", nexus.info());
}

/// Bytes of the volume that lie on a disk and are not zero, to compare members.
fn contents(world: &World, path: &str) -> Vec<(u64, Vec<u8>)> {
    let image = world.disk(path).image().0;
    let units = image.into_iter().filter(|(at, unit)| at * 512 >= 5 * MIB && unit.iter().any(|b| *b != 0));
    units.filter(|(at, _)| at * 512 < 5 * MIB + GIB).map(|(at, unit)| (at, unit.to_vec())).collect()
}

fn assert_same(world: &World) {
    let first = contents(world, PATHS[0]);
    assert!(PATHS[1..].iter().all(|path| contents(world, path) == first), "the members differ");
}

/// The promise: 1 GiB, a member away while 16 MiB are written, at most 64 MiB are copied. Where the writes lie decides:
/// a region of 4 MiB is copied whole.
#[test]
fn a_member_that_was_away_gets_only_the_regions_that_differ() {
    // One run of 16 MiB that begins inside a region; and 16 runs of 1 MiB, each in a region of its own.
    let run = vec![(100 * MIB + 512, 16 * MIB)];
    let scattered: Vec<(u64, u64)> = (0..16).map(|i| (i * 60 * MIB + MIB, MIB)).collect();
    for (runs, regions) in [(run, 5), (scattered, 16)] {
        let world = world();
        let (w, host) = (world.clone(), world.host());
        world.run(async move {
            let nexus = open(&host, true).await;
            fill(&nexus, 0, 64 * MIB, 1).await;
            rest(&host).await;
            nexus.offline_child("/d2").await.expect("it leaves");
            for (at, len) in &runs {
                fill(&nexus, *at, *len, 2).await;
            }
            let (before, _) = w.disk("/d2").counts();
            nexus.online_child("/d2", None).await.expect("it comes back");
            let (total, done) = healed(&host, &nexus).await;
            let (after, _) = w.disk("/d2").counts();
            println!("16 MiB of differences: {} MiB copied, {} writes", total / MIB, after - before);
            assert_eq!(total, regions * REGION);
            assert!(total <= 64 * MIB && done <= total && done > 0);
            assert!((after - before) * (64 << 10) <= 66 * MIB, "{} writes of 64 KiB", after - before);
            nexus.close().await.expect("it closes");
            assert_same(&w);
        });
    }
}

#[test]
fn after_a_crash_of_the_nexus_only_dirty_regions_are_copied() {
    let world = world();
    let host = world.host();
    world.run(async move {
        let nexus = open(&host, true).await;
        fill(&nexus, 0, 64 * MIB, 1).await;
        nexus.flush().await.expect("flush");
        rest(&host).await;
        fill(&nexus, 200 * MIB, 16 * MIB, 2).await;
        std::mem::forget(nexus);
    });
    world.kill_process("main");
    let (w, host) = (world.clone(), world.host());
    world.run(async move {
        let writes = |path| w.disk(path).counts().0;
        let before = PATHS.map(writes);
        let nexus = open(&host, false).await;
        let info = nexus.info();
        assert_eq!(info.in_sync.len(), 3, "nobody leaves for a crash: {info:#?}");
        host.sleep(Duration::from_secs(60)).await;
        let copied: u64 = PATHS.map(writes).iter().zip(before).map(|(now, then)| now - then).sum();
        println!("16 MiB dirty: {copied} writes on three members together");
        // Two members are made equal to the third: 2 * 16 MiB in writes of 64 KiB, and what the ledger and the map take.
        assert!(copied >= 2 * 256 && copied * (64 << 10) <= 2 * 20 * MIB, "{copied} writes");
        nexus.close().await.expect("it closes");
        assert_same(&w);
    });
}

#[test]
fn a_rebuild_goes_on_where_it_was_after_a_restart() {
    let world = world();
    let host = world.host();
    let (total, copied) = world.run(async move {
        let nexus = open(&host, true).await;
        nexus.offline_child("/d2").await.expect("it leaves");
        fill(&nexus, 0, 256 * MIB, 3).await;
        rest(&host).await;
        nexus.online_child("/d2", None).await.expect("it comes back");
        let progress = loop {
            host.sleep(Duration::from_millis(1)).await;
            let rebuild = nexus.rebuild_info("/d2").expect("it runs");
            if rebuild.bytes_done.0 >= 160 * MIB {
                break (rebuild.bytes_total.0, rebuild.bytes_done.0);
            }
        };
        std::mem::forget(nexus);
        progress
    });
    world.kill_process("main");
    let (w, host) = (world.clone(), world.host());
    world.run(async move {
        let nexus = open(&host, false).await;
        let (left, _) = healed(&host, &nexus).await;
        println!("of {} MiB {} were copied before the restart, {} after", total / MIB, copied / MIB, left / MIB);
        assert_eq!(total, 256 * MIB);
        // What was copied last, twice 8 regions at most, may not be flushed and taken from the map yet.
        assert!(
            left > 0 && left <= total - copied + 16 * REGION,
            "{left} of {total} bytes, {copied} were copied before"
        );
        nexus.close().await.expect("it closes");
        assert_same(&w);
    });
}
