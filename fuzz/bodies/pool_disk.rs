//! Damages the disks of a real pool, in a simulated world, and lets everything that opens pools look at them: nothing
//! panics, and what cannot be imported is left as it is, also by `create` with force.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use block::BlockRange;
use host::{Disk, DiskExt, Host};
use pool::label::{Label, LabelCopy};
use pool::{Pool, PoolError, Probe};
use sim::{DiskImage, SimDisk, World};

use crate::common::{self, BLOCKS, EXTENT, OVERHEAD};

/// The size of each of the two disks: 32 extents on the first.
const DISK: u64 = OVERHEAD + 32 * EXTENT;
const PAGE: u64 = 4096;

thread_local! {
    /// The disks before they are damaged: of a pool whose process was killed, and of an exported one.
    static IMAGES: RefCell<Vec<Vec<DiskImage>>> = const { RefCell::new(Vec::new()) };
}

/// The first byte chooses the image (bit 0) and whether checksums are made right after the damage (bit 1). Then
/// follow pieces of damage: disk (bit 7) and area (bits 2:0), offset (two bytes, little endian), length, bytes.
pub fn run(input: &[u8]) {
    let [options, damage @ ..] = input else { return };
    let world = common::world(1, &[DISK, DISK]);
    let disks = [world.disk("/d0"), world.disk("/d1")];
    for (disk, image) in disks.iter().zip(image(usize::from(options & 1))) {
        disk.set_image(image);
    }
    let places = areas(&disks[0]);
    inflict(&disks, &places, damage);
    if options & 2 != 0 {
        disks.iter().for_each(|disk| seal_pages(disk, &places));
    }
    if !nearly_overflows(&disks[0], &places) {
        examine(&world, &disks);
    }
    // What the pool left behind when it was exported is in order; its tasks end with the world.
    world.kill("main");
}

fn image(which: usize) -> Vec<DiskImage> {
    IMAGES.with_borrow_mut(|images| {
        if images.is_empty() {
            images.extend([make(false), make(true)]);
        }
        images[which].clone()
    })
}

fn make(export: bool) -> Vec<DiskImage> {
    let world = common::world(7, &[DISK, DISK]);
    let host = world.host();
    world.run(async move {
        let pool = common::create(&host, [0, 1]).await;
        let thick = common::replica(&pool, "thick", 6, false).await;
        let thin = common::replica(&pool, "thin", 40, true).await;
        for (replica, extent) in [(&thick, 0), (&thick, 5), (&thin, 0), (&thin, 1), (&thin, 39)] {
            common::put(replica, extent * BLOCKS, BLOCKS, extent as u8 + 1).await.expect("there is room");
        }
        thin.unmap(BlockRange::new(BLOCKS, BLOCKS)).await.expect("it works");
        common::replica(&pool, "gone", 2, true).await;
        pool.destroy_replica("gone").await.expect("it is there");
        thick.flush().await.expect("it works");
        if export {
            pool.export().await.expect("it is online");
        }
    });
    world.kill("main");
    ["/d0", "/d1"].map(|d| world.disk(d).image()).to_vec()
}

/// Start and length of: both labels, both slots' headers and bodies, the journal, all of the disk.
fn areas(disk: &SimDisk) -> [(u64, u64); 8] {
    let LabelCopy::Good(label) = Label::decode(&disk.peek(0, PAGE as usize)) else { panic!("the image is good") };
    let m = label.metadata;
    let [a, b] = m.slots;
    let (body, journal) = (m.slot_bytes - PAGE, u64::from(m.journal_blocks) * PAGE);
    let labels = [(0, PAGE), (pool::label::LABEL_B, PAGE)];
    let [l, k] = labels;
    [l, k, (a, PAGE), (b, PAGE), (a + PAGE, body), (b + PAGE, body), (m.journal, journal), (0, DISK)]
}

fn inflict(disks: &[SimDisk; 2], places: &[(u64, u64); 8], mut damage: &[u8]) {
    while let [head, low, high, len, rest @ ..] = damage {
        let (start, size) = places[usize::from(head & 7)];
        // The offset reaches all of an area, if only in steps in a large one.
        let step = size.div_ceil(1 << 16);
        let at = u64::from(u16::from_le_bytes([*low, *high])) * step % size;
        let len = usize::from(*len).min(rest.len()).min((size - at) as usize);
        disks[usize::from(head >> 7)].corrupt(start + at, &rest[..len]);
        damage = &rest[len..];
    }
}

/// Makes the checksums of all metadata right, as if it had been written on purpose.
fn seal_pages(disk: &SimDisk, places: &[(u64, u64); 8]) {
    for (header, body) in [(2, 4), (3, 5)] {
        let (header, (body, room)) = (places[header].0, places[body]);
        let len = u64::from_le_bytes(disk.peek(header + 88, 8).try_into().expect("eight bytes"));
        if len <= room {
            let crc = crc32c::crc32c(&disk.peek(body, len as usize));
            disk.corrupt(header + 84, &crc.to_le_bytes());
        }
    }
    for (start, len) in [places[0], places[1], places[2], places[3], places[6]] {
        for at in (start..start + len).step_by(PAGE as usize) {
            let mut page = disk.peek(at, PAGE as usize);
            let field = match &page[..8] {
                b"MAYAPOOL" | b"MAYACKPT" => 12,
                [b'M', b'J', b'R', b'N', ..] => 4,
                _ => continue,
            };
            page[field..field + 4].fill(0);
            disk.corrupt(at + field as u64, &crc32c::crc32c(&page).to_le_bytes());
        }
    }
}

/// Whether a number that only counts up is so close to its limit that going on would pass it: no pool gets there.
fn nearly_overflows(disk: &SimDisk, places: &[(u64, u64); 8]) -> bool {
    let number = |slot: usize, at: u64| disk.peek(places[slot].0 + at, 8).try_into().map(u64::from_le_bytes);
    [2, 3].iter().any(|slot| [32, 40, 48, 56].iter().any(|at| number(*slot, *at).expect("eight bytes") > u64::MAX / 4))
}

fn contents(disks: &[SimDisk; 2]) -> Vec<DiskImage> {
    disks.iter().map(SimDisk::image).collect()
}

fn examine(world: &World, disks: &[SimDisk; 2]) {
    let (host, before) = (world.host(), contents(disks));
    let checked = world.run(async move { pool::check(&host, common::open(&host, [0, 1]).await).await.map(drop) });
    assert!(contents(disks) == before, "a check wrote");
    let host = world.host();
    let imported = world.run(async move { common::import(&host, [0, 1]).await });
    match imported {
        Ok(pool) => {
            checked.expect("what can be imported passes the check");
            let host = world.host();
            world.run(async move { use_it(&host, pool).await });
        }
        // The only error after which something may have been written: the wiping was completed.
        Err(PoolError::Destroyed(_)) => checked.expect("what can be destroyed passes the check"),
        Err(_) => {
            assert!(contents(disks) == before, "an import that failed wrote");
            assert!(checked.is_err(), "the check finds what the import finds");
            never_formatted(world, disks);
        }
    }
}

/// Neither an import nor a creation, with force or without, writes to a disk that holds something of ours.
fn never_formatted(world: &World, disks: &[SimDisk; 2]) {
    for (number, disk) in disks.iter().enumerate() {
        let before = disk.image();
        for force in [false, true] {
            let host = world.host();
            let refused = world.run(async move {
                let members = common::open(&host, [number]).await;
                let vacant = match pool::probe(&members[0].disk).await.expect("it can be read") {
                    Probe::Blank => true,
                    Probe::Pool(info) => info.unused,
                    Probe::Foreign(_) => force,
                    Probe::Damaged(_) | Probe::Newer(_) => false,
                };
                if vacant {
                    return true;
                }
                let options = pool::CreateOptions { force, ..common::options() };
                pool::create(&host, members, options).await.is_err()
            });
            assert!(refused && disk.image() == before, "disk {number} was formatted");
        }
    }
}

/// Uses a pool that was imported, whatever is in it: faults are answers, panics are not.
async fn use_it(host: &Host, pool: Rc<Pool>) {
    for replica in pool.replicas() {
        let blocks = replica.geometry().blocks.0;
        for at in [0, blocks / 2, blocks - 1] {
            replica.read(BlockRange::new(at, 1)).await.expect("its disks work");
            let _ = common::put(&replica, at, 1, 0xaa).await;
        }
        let _ = replica.unmap(BlockRange::new(0, blocks.min(64))).await;
    }
    let spec = pool::ReplicaSpec { name: "new".into(), size: block::Bytes(EXTENT), thin: true };
    if let Ok(new) = pool.create_replica(spec).await {
        assert_eq!(common::get(&new, 0, BLOCKS).await, vec![0; BLOCKS as usize], "new space is not zero");
    }
    let uris: Vec<usize> = pool.info().disks.iter().map(|d| usize::from(d.uri == "/d1")).collect();
    if pool.export().await.is_ok() {
        drop(pool);
        host.sleep(Duration::from_secs(1)).await;
        pool::check(host, common::open(host, uris).await).await.expect("it is well-formed afterwards");
    }
}
