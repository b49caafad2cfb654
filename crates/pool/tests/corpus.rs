//! Replays the fuzzers' corpora. What a fuzzer ever found is kept there.
#![allow(clippy::disallowed_methods, reason = "a test reads and writes its own data")]

mod common;

#[path = "../../../fuzz/bodies/corpus.rs"]
mod corpus;
#[path = "../../../fuzz/bodies/pool_disk.rs"]
mod pool_disk;
#[path = "../../../fuzz/bodies/pool_formats.rs"]
mod pool_formats;

use block::BlockSize;
use pool::label::{Label, LabelState, MetadataArea};
use pool::map::{Place, Run};
use pool::metadata::{DiskMeta, Metadata};
use pool::record::{Block, Record};
use uuid::Uuid;

#[test]
fn formats() {
    corpus::replay("pool_formats", pool_formats::run);
}

#[test]
fn disk() {
    corpus::replay("pool_disk", pool_disk::run);
}

fn label(index: u16) -> Label {
    let slots = [128 << 10, 256 << 10];
    let area = MetadataArea { slots, slot_bytes: 128 << 10, journal: 384 << 10, journal_blocks: 16 };
    Label {
        state: if index == 0 { LabelState::Member } else { LabelState::Preparing },
        sequence: 3,
        cluster: Uuid::from_u128(1),
        pool: Uuid::from_u128(2),
        name: "p0".into(),
        disk: Uuid::from_u128(3),
        index,
        block_size: BlockSize::B512,
        disk_bytes: 8 << 20,
        extent_bytes: 1 << 20,
        data_offset: 1 << 20,
        extents: 7,
        metadata: if index == 0 { area } else { MetadataArea::default() },
        features: 0,
    }
}

fn records() -> Vec<Record> {
    let run = Run { logical: 1, place: Place { disk: 0, extent: 2 }, count: 2 };
    vec![
        Record::CreateReplica { replica: 1, name: "r1".into(), size: 5 << 20, thin: true },
        Record::CreateReplica { replica: 2, name: "r2".into(), size: 1 << 20, thin: false },
        Record::Map { replica: 1, run },
        Record::Unmap { replica: 1, logical: 2, count: 1 },
        Record::AddDisk { index: 1, uuid: Uuid::from_u128(4), extents: 9 },
        Record::DestroyReplica { replica: 2 },
    ]
}

/// Writes the seeds of the corpora: what the encoders write, and disks with a little damage in each place.
#[test]
#[ignore = "changes the repository: run it when a format has changed"]
fn write_seeds() {
    let with = |what: u8, bytes: &[u8]| [&[what], bytes].concat();
    let all = Block {
        pool: Uuid::from_u128(2),
        epoch: 1,
        sequence: 2,
        first_record: 3,
        durable_record: 2,
        checkpoint: 1,
        records: records(),
    };
    let mut meta = Metadata::new(1 << 20, vec![DiskMeta { uuid: Uuid::from_u128(3), extents: 7 }]);
    records().iter().for_each(|r| drop(meta.apply(r).expect("in order")));
    let header = pool::checkpoint::CheckpointHeader {
        pool: Uuid::from_u128(2),
        sequence: 4,
        epoch: 2,
        next_block: 9,
        applied: 8,
        purpose: pool::checkpoint::Purpose::Running,
        extent_bytes: 0,
        next_replica: 0,
        disks: 0,
        replicas: 0,
        body_crc: 0,
        body_len: 0,
    };
    let checkpoint = pool::checkpoint::encode(header, &meta);
    let whole = [&checkpoint[..128], &checkpoint[4096..4096 + 2 * 24 + 88 + 16]].concat();
    let formats = [
        ("label_first", with(8, &label(0).encode()[..216])),
        ("label_first_sealed", with(24, &label(0).encode()[..216])),
        ("label_other_sealed", with(24, &label(1).encode()[..216])),
        ("label_short", with(16, &label(1).encode()[..100])),
        ("journal_block_sealed", with(25, &all.encode()[..300])),
        ("journal_block_whole", with(1, &Block { records: records()[..1].to_vec(), ..all }.encode())),
        ("header_sealed", with(26, &checkpoint[..96])),
        ("checkpoint_sealed", with(27, &whole)),
        ("checkpoint", with(3, &whole)),
        ("signature_swap", with(4, &[&[0; 4086], &b"SWAPSPACE2"[..], &[0; 4096]].concat())),
        ("signature_gpt", with(4, &[&[0; 512], &b"EFI PART"[..], &[0; 600]].concat())),
        ("signature_short", with(4, b"XFSBSPDKBLOB")),
    ];
    corpus::write("pool_formats", &formats);
    let mut disks = vec![("as_killed".to_string(), vec![0]), ("as_exported".to_string(), vec![1])];
    for area in 0..8u8 {
        disks.push((format!("area_{area}_rot"), vec![area & 1, area, 20 * area, 0, 1, 0x5a]));
        disks.push((format!("area_{area}_second_disk_rot"), vec![area & 1, 0x80 | area, 3, 0, 1, 0x5a]));
        disks.push((format!("area_{area}_sealed"), vec![2 | area & 1, area, 66, 0, 2, 1, 0]));
    }
    for (name, area, at, bytes) in [
        ("purpose_destroyed", 2, 10, &[2][..]),
        ("feature_bit", 0, 208, &[1]),
        ("next_block_high", 2, 48, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
        ("many_replicas", 2, 80, &[0xff, 0xff]),
        ("huge_body", 3, 88, &[0xff, 0xff, 0xff, 0xff]),
    ] {
        disks.push((name.into(), [&[3, area, at, 0, bytes.len() as u8], bytes].concat()));
    }
    corpus::write("pool_disk", &disks);
}
