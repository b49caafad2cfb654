//! Replays the fuzzers' corpus. What a fuzzer ever found is kept there.
#![allow(clippy::disallowed_methods, reason = "a test reads and writes its own data")]

#[path = "../../../fuzz/bodies/corpus.rs"]
mod corpus;
#[path = "../../../fuzz/bodies/nexus_formats.rs"]
mod nexus_formats;

use block::{BlockSize, Blocks, Bytes, Generation};
use nexus::ledger::{Entry, Ledger, Role, Version};
use nexus::map::{Maps, Shape};
use nexus::meta::Identity;
use uuid::Uuid;

#[test]
fn formats() {
    corpus::replay("nexus_formats", nexus_formats::run);
}

fn ledger(version: u64, parent: u64, roles: &[Role], doubts: &[&[u128]]) -> Ledger {
    let entry = |(i, role): (usize, &Role)| Entry { member: Uuid::from_u128(i as u128 + 1), role: *role, uri_tag: 7 };
    Ledger {
        volume: Uuid::from_u128(9),
        version: Version::from_number(Generation(version)),
        size: Bytes(64 << 20),
        region: Bytes(4 << 20),
        entries: roles.iter().enumerate().map(entry).collect(),
        parent: Version::from_number(Generation(parent)),
        doubts: doubts.iter().map(|d| d.iter().map(|m| Uuid::from_u128(*m)).collect()).collect(),
    }
}

/// Writes the seeds of the corpus: what the encoders write.
#[test]
#[ignore = "changes the repository: run it when a format has changed"]
fn write_seeds() {
    use Role::{Behind, Gone, InSync};
    let with = |what: u8, bytes: &[u8]| [&[what], bytes].concat();
    let identity = Identity { volume: Uuid::from_u128(5), member: Uuid::from_u128(6) }.encode(BlockSize::B512);
    let three = ledger(5 << 32, 4 << 32, &[InSync, InSync, InSync], &[]).encode();
    let two = ledger(6 << 32, 5 << 32, &[InSync, InSync, Behind], &[&[1, 2, 3]]).encode();
    let other = ledger(6 << 32 | 1 << 20, 5 << 32, &[Gone, InSync, InSync], &[&[1, 2, 3], &[2, 3]]).encode();
    let shape = Shape { block_size: BlockSize::B512, blocks: Blocks(5000 * 8 - 3), region: Blocks(8) };
    let mut maps = Maps::clean(&shape);
    for region in [0, 7, 1983, 1984, 4999] {
        maps.dirty.set(region);
    }
    maps.behind.set(4000);
    let map = maps.encode(Uuid::from_u128(77 << 64), &shape);
    let open = |store: u64, members: &[&[u8]]| {
        let parts: Vec<&[u8]> = members.iter().map(|m| &m[..256]).collect();
        [&[3], &store.to_le_bytes()[..], &parts.concat()].concat()
    };
    let seeds = [
        ("identity", with(0, &identity)),
        ("identity_sealed", with(8, &identity[..48])),
        ("ledger", with(1, &three)),
        ("ledger_sealed", with(9, &two[..256])),
        ("ledger_doubts_sealed", with(9, &other[..256])),
        ("map", with(2, &map)),
        ("map_sealed", with(10, &map[..600])),
        ("map_4k_short", with(26, &map[..40])),
        ("open_all", open(5 << 32, &[&three, &three, &three])),
        ("open_two", open(6 << 32, &[&two, &two, &three])),
        ("open_store_unknown", open(0, &[&two, &two, &three])),
        ("open_apart", open(5 << 32, &[&two, &other, &other])),
        ("open_stale", open(9 << 32, &[&three])),
        ("gpt_good", vec![4]),
        ("gpt_good_4k", vec![20]),
        ("gpt_front_lost", with(4, &[0, 2, 0, 0, 4, 0, 0xfe, 1, 0])),
        ("gpt_back_rot", with(4, &[40, 0x80, 1])),
        ("gpt_end_moved_sealed", with(12, &[40, 4, 1])),
        ("gpt_sealed_4k", with(28, &[0x20, 0x10, 9])),
    ];
    corpus::write("nexus_formats", &seeds);
}
