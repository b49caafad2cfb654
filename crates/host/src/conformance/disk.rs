//! Checks of a disk.

use block::{BlockRange, Buf, BufMut, Durability, Fault, Request};
use futures_util::future::join_all;

use crate::{DiskExt, DiskRef, Host};

/// The least size of a disk that [`check_disk`] takes, in bytes.
pub const LEAST_BYTES: u64 = 4 << 20;

/// Bytes that tell which write they come from: the `tag`, and the place in the payload.
fn pattern(tag: u64, len: usize) -> Buf {
    let mut buf = BufMut::new(len);
    for (i, word) in buf.chunks_mut(8).enumerate() {
        let bytes = (tag.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ i as u64).to_le_bytes();
        word.copy_from_slice(&bytes[..word.len()]);
    }
    buf.freeze()
}

fn bytes(disk: &DiskRef, blocks: u64) -> usize {
    (blocks << disk.geometry().block_size.shift()) as usize
}

async fn expect(disk: &DiskRef, range: BlockRange, want: &[u8], what: &str) {
    let got = disk.read(range).await.unwrap_or_else(|e| panic!("{what}: reading {range}: {e}"));
    assert_eq!(got.len(), want.len(), "{what}: the length of {range}");
    if let Some(at) = (0..want.len()).find(|&i| got[i] != want[i]) {
        panic!("{what}: {range} differs from byte {at} on: {:#x}, not {:#x}", got[at], want[at]);
    }
}

async fn put(disk: &DiskRef, range: BlockRange, data: Buf) {
    disk.write(range, data, Durability::Volatile).await.unwrap_or_else(|e| panic!("writing {range}: {e}"));
}

/// All checks of a disk of at least [`LEAST_BYTES`].
pub async fn check_disk(host: &Host, disk: DiskRef) {
    let geometry = disk.geometry();
    assert!(geometry.bytes().0 >= LEAST_BYTES, "the disk is too small for these checks");
    assert_eq!(geometry, disk.geometry(), "the geometry is constant");
    check_read_back(&disk).await;
    check_overlap(&disk).await;
    check_zeroes(&disk).await;
    check_durable(&disk).await;
    check_bounds(&disk).await;
    check_unaligned_memory(&disk).await;
    check_large(&disk).await;
    check_many(host, &disk).await;
}

/// A block that was written reads back, and its neighbours are as they were.
async fn check_read_back(disk: &DiskRef) {
    let last = disk.geometry().blocks.0 - 1;
    put(disk, BlockRange::new(0, 8), pattern(1, bytes(disk, 8))).await;
    for (tag, block) in [(2, 0), (3, 3), (4, 7), (5, last)] {
        put(disk, BlockRange::new(block, 1), pattern(tag, bytes(disk, 1))).await;
    }
    let base = pattern(1, bytes(disk, 8));
    for block in 0..8 {
        let want = match block {
            0 => pattern(2, bytes(disk, 1)),
            3 => pattern(3, bytes(disk, 1)),
            7 => pattern(4, bytes(disk, 1)),
            _ => base.slice(bytes(disk, block)..bytes(disk, block + 1)),
        };
        expect(disk, BlockRange::new(block, 1), &want, "a single block").await;
    }
    expect(disk, BlockRange::new(last, 1), &pattern(5, bytes(disk, 1)), "the last block").await;
}

/// Later writes win where ranges overlap.
async fn check_overlap(disk: &DiskRef) {
    let mut model = vec![0; bytes(disk, 64)];
    put(disk, BlockRange::new(0, 64), Buf::zeroes(model.len())).await;
    for tag in 0..40u64 {
        let (start, len) = (tag * 7 % 50, 1 + tag * 5 % 14);
        let data = pattern(100 + tag, bytes(disk, len));
        model[bytes(disk, start)..bytes(disk, start + len)].copy_from_slice(&data);
        put(disk, BlockRange::new(start, len), data).await;
    }
    expect(disk, BlockRange::new(0, 64), &model, "overlapping writes").await;
}

/// Cleared and forgotten blocks read as zeroes, their neighbours do not change.
async fn check_zeroes(disk: &DiskRef) {
    let whole = BlockRange::new(0, 600);
    for (tag, clear) in [
        Request::Unmap { range: BlockRange::new(5, 580) },
        Request::WriteZeroes { range: BlockRange::new(5, 580), may_unmap: true, durability: Durability::Volatile },
        Request::WriteZeroes { range: BlockRange::new(5, 580), may_unmap: false, durability: Durability::Volatile },
        Request::WriteZeroes { range: BlockRange::new(5, 580), may_unmap: false, durability: Durability::Durable },
        Request::WriteZeroes { range: BlockRange::new(5, 1), may_unmap: true, durability: Durability::Durable },
        Request::Unmap { range: BlockRange::new(5, 1) },
    ]
    .into_iter()
    .enumerate()
    {
        let what = format!("{clear:?}");
        let range = clear.range().expect("it has a range");
        let mut model = pattern(200 + tag as u64, bytes(disk, 600)).to_vec();
        put(disk, whole, Buf::copy_of(&model)).await;
        // Cleared twice: blocks that are clear already are cleared like others.
        for _ in 0..2 {
            let answer = disk.call(clear.clone()).await.unwrap_or_else(|e| panic!("{what}: {e}"));
            assert!(answer.is_empty(), "{what}: an answer without payload");
        }
        model[bytes(disk, range.start.0)..bytes(disk, range.end().0)].fill(0);
        expect(disk, whole, &model, &what).await;
        put(disk, BlockRange::new(5, 1), pattern(300, bytes(disk, 1))).await;
        expect(disk, BlockRange::new(5, 1), &pattern(300, bytes(disk, 1)), "a write after clearing").await;
    }
}

/// Durable writes and flushes succeed, also with nothing to flush.
async fn check_durable(disk: &DiskRef) {
    disk.flush().await.expect("a flush");
    let range = BlockRange::new(9, 3);
    disk.write(range, pattern(400, bytes(disk, 3)), Durability::Durable).await.expect("a durable write");
    expect(disk, range, &pattern(400, bytes(disk, 3)), "a durable write").await;
    let answer = disk.call(Request::Flush).await.expect("a flush");
    assert!(answer.is_empty(), "a flush is answered without payload");
}

/// Requests that do not fit the disk are refused and change nothing.
async fn check_bounds(disk: &DiskRef) {
    let blocks = disk.geometry().blocks.0;
    let last = BlockRange::new(blocks - 1, 1);
    put(disk, last, pattern(500, bytes(disk, 1))).await;
    for range in [
        BlockRange::new(blocks, 1),
        BlockRange::new(blocks - 1, 2),
        BlockRange::new(u64::MAX, 1),
        BlockRange::new(u64::MAX, u64::MAX),
        BlockRange::new(0, blocks + 1),
        BlockRange::new(0, 0),
    ] {
        let data = Buf::zeroes(512);
        for request in [
            Request::Read { range },
            Request::Write { range, data, durability: Durability::Volatile },
            Request::Unmap { range },
            Request::WriteZeroes { range, may_unmap: true, durability: Durability::Volatile },
        ] {
            let what = format!("{request:?}");
            assert_eq!(disk.call(request).await.err(), Some(Fault::OutOfRange), "{what}");
        }
    }
    for len in [0, bytes(disk, 1) - 1, bytes(disk, 2)] {
        let request = Request::Write { range: last, data: Buf::zeroes(len), durability: Durability::Volatile };
        assert_eq!(disk.call(request).await.err(), Some(Fault::Unsupported), "{len} bytes for one block");
    }
    expect(disk, last, &pattern(500, bytes(disk, 1)), "refused requests").await;
}

/// Payload may begin anywhere in memory.
async fn check_unaligned_memory(disk: &DiskRef) {
    for (tag, shift) in [1, 24, 72, 511, 512, 4095].into_iter().enumerate() {
        let len = bytes(disk, 4);
        let whole = pattern(600 + tag as u64, len + shift);
        put(disk, BlockRange::new(2, 4), whole.slice(shift..shift + len)).await;
        expect(disk, BlockRange::new(2, 4), &whole[shift..], "payload from unaligned memory").await;
    }
}

/// Requests of 1 MiB, and larger than what the data path sends.
async fn check_large(disk: &DiskRef) {
    for (tag, mib) in [(700, 1), (701, 3)] {
        let len = mib << 20;
        let range = BlockRange::new(3, len >> disk.geometry().block_size.shift());
        put(disk, range, pattern(tag, len as usize)).await;
        expect(disk, range, &pattern(tag, len as usize), "a large request").await;
        disk.unmap(range).await.expect("a large unmap");
        expect(disk, range, &vec![0; len as usize], "a large unmap").await;
    }
}

/// Many requests at once, more than any queue of the system is deep.
async fn check_many(host: &Host, disk: &DiskRef) {
    const TASKS: u64 = 64;
    let share = disk.geometry().blocks.0 / TASKS;
    let blocks = share.min(48);
    let tasks = (0..TASKS).map(|task| {
        let disk = disk.clone();
        host.spawn(async move {
            let first = task * share;
            let writes = (0..blocks).map(|i| {
                let data = pattern(task << 32 | i, bytes(&disk, 1));
                disk.write(BlockRange::new(first + i, 1), data, Durability::Volatile)
            });
            for written in join_all(writes).await {
                written.expect("one of many writes");
            }
            let reads = join_all((0..blocks).map(|i| disk.read(BlockRange::new(first + i, 1)))).await;
            for (i, read) in reads.into_iter().enumerate() {
                let want = pattern(task << 32 | i as u64, bytes(&disk, 1));
                assert!(read.expect("one of many reads") == want, "block {i} of task {task}");
            }
            disk.flush().await.expect("a flush among others");
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("not cancelled");
    }
}
