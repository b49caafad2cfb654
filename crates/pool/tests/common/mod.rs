//! Shared by the tests: a simulated world with disks, and pools on them.
#![allow(dead_code, reason = "each test program uses its part")]

pub mod story;

use std::rc::Rc;

use block::{BlockRange, BlockSize, Buf, BufMut, Bytes, Durability, Fault};
use host::{Claim, DiskExt, Host, OpenOptions};
use pool::{CreateOptions, Member, Pool, PoolError, Replica, ReplicaSpec};
use sim::{DiskOptions, World};
use uuid::Uuid;

/// Tiny extents, so that little I/O reaches every case.
pub const EXTENT: u64 = 4096;
/// Blocks of 512 bytes in an extent.
pub const BLOCKS: u64 = EXTENT / 512;
/// Bytes before the extents of disk 0 of a pool made by [`create`]: labels, checkpoint slots, journal.
pub const OVERHEAD: u64 = 260 << 10;

/// A world with disks `/d0`, `/d1`... of so many bytes.
pub fn world(seed: u64, sizes: &[u64]) -> World {
    let world = World::new(seed);
    for (i, bytes) in sizes.iter().enumerate() {
        world.add_disk(format!("/d{i}"), DiskOptions { blocks: bytes / 512, ..DiskOptions::mib(1) });
    }
    world
}

/// Opens disks by number.
pub async fn open(host: &Host, disks: impl IntoIterator<Item = usize>) -> Vec<Member> {
    let mut members = Vec::new();
    for i in disks {
        let options = OpenOptions { block_size: BlockSize::B512, claim: Claim::Exclusive };
        let disk = host.open_disk(format!("/d{i}"), options).await.expect("the disk is free");
        members.push(Member { uri: format!("/d{i}"), disk });
    }
    members
}

/// What most tests create.
pub fn options() -> CreateOptions {
    CreateOptions { name: "p".into(), cluster: Uuid::from_u128(7), force: false, extent_size: Some(EXTENT) }
}

/// A pool on the given disks.
pub async fn create(host: &Host, disks: impl IntoIterator<Item = usize>) -> Rc<Pool> {
    let members = open(host, disks).await;
    pool::create(host, members, options()).await.expect("the disks are blank")
}

/// Opens the pool again.
pub async fn import(host: &Host, disks: impl IntoIterator<Item = usize>) -> Result<Rc<Pool>, PoolError> {
    let members = open(host, disks).await;
    pool::import(host, members, None).await
}

/// A replica of so many extents.
pub async fn replica(pool: &Pool, name: &str, extents: u64, thin: bool) -> Rc<Replica> {
    let spec = ReplicaSpec { name: name.into(), size: Bytes(extents * EXTENT), thin };
    pool.create_replica(spec).await.expect("there is room")
}

/// So many blocks filled with a byte.
pub fn fill(byte: u8, blocks: u64) -> Buf {
    let mut buf = BufMut::new((blocks * 512) as usize);
    buf.fill(byte);
    buf.freeze()
}

/// Writes blocks filled with a byte.
pub async fn put(replica: &Replica, start: u64, blocks: u64, byte: u8) -> Result<(), Fault> {
    replica.write(BlockRange::new(start, blocks), fill(byte, blocks), Durability::Volatile).await
}

/// The first byte of each block; asserts that blocks are whole.
pub async fn get(replica: &Replica, start: u64, blocks: u64) -> Vec<u8> {
    let data = replica.read(BlockRange::new(start, blocks)).await.expect("it can be read");
    data.chunks(512)
        .map(|block| {
            assert!(block.iter().all(|b| *b == block[0]), "a torn block");
            block[0]
        })
        .collect()
}
