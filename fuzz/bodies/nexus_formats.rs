//! Decodes arbitrary bytes as each structure that a nexus keeps on its members. What is understood must survive its own
//! encoding, and no set of ledgers may be served by members that it does not hold in sync.

use block::{BlockSize, Blocks};
use nexus::label::{self, Layout, Probe};
use nexus::ledger::Ledger;
use nexus::map::{Maps, SECTOR, Shape};
use nexus::meta::{Identity, SLOT_BYTES};
use nexus::open::{Decision, Found, decide};
use uuid::Uuid;

/// The first byte says what the rest is (bits 2:0), and whether its checksums are made right (bit 3); bit 4 chooses
/// blocks of 4096 bytes.
pub fn run(input: &[u8]) {
    let [what, bytes @ ..] = input else { return };
    let (sealed, block_size) = (what & 8 != 0, if what & 16 == 0 { BlockSize::B512 } else { BlockSize::B4096 });
    match what & 7 {
        0 => identity(bytes, sealed, block_size),
        1 => ledger(bytes, sealed),
        2 => map(bytes, sealed, block_size),
        3 => opening(bytes),
        _ => gpt(bytes, sealed, block_size),
    }
}

fn filled(bytes: &[u8], len: usize) -> Vec<u8> {
    let mut all = bytes[..bytes.len().min(len)].to_vec();
    all.resize(len, 0);
    all
}

fn identity(bytes: &[u8], sealed: bool, block_size: BlockSize) {
    let mut bytes = bytes.to_vec();
    if sealed && bytes.len() >= 48 {
        let crc = crc32c::crc32c(&bytes[16..48]);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    }
    if let Some(identity) = Identity::decode(&bytes) {
        assert_eq!(Identity::decode(&identity.encode(block_size)), Some(identity));
    }
}

fn slot(bytes: &[u8]) -> Option<Ledger> {
    let mut bytes = filled(bytes, SLOT_BYTES);
    let crc = crc32c::crc32c(&bytes[12..]);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    Ledger::decode(&bytes)
}

fn ledger(bytes: &[u8], sealed: bool) {
    let found = if sealed { slot(bytes) } else { Ledger::decode(bytes) };
    if let Some(ledger) = found {
        assert_eq!(Ledger::decode(&ledger.encode()), Some(ledger));
    }
}

fn map(bytes: &[u8], sealed: bool, block_size: BlockSize) {
    let shape = Shape { block_size, blocks: Blocks(5000 * 8 - 3), region: Blocks(8) };
    let mut bytes = filled(bytes, shape.sectors() * SECTOR);
    let volume = Uuid::from_u128(77 << 64);
    if sealed {
        for (index, sector) in bytes.chunks_exact_mut(SECTOR).enumerate() {
            sector[4..8].copy_from_slice(&(index as u32).to_le_bytes());
            sector[8..16].copy_from_slice(&volume.as_bytes()[..8]);
            let crc = crc32c::crc32c(&sector[4..]);
            sector[0..4].copy_from_slice(&crc.to_le_bytes());
        }
    }
    let maps = Maps::decode(&bytes, volume, &shape);
    assert_eq!(Maps::decode(&maps.encode(volume, &shape), volume, &shape), maps);
    // Fewer bytes than the map has: a short read is never asked for, but must not be a panic.
    let _ = Maps::decode(&bytes[..bytes.len() / 3], volume, &shape);
}

/// Up to four members with ledgers, and what the store knows: 8 bytes for the store, then 256 bytes a member.
fn opening(bytes: &[u8]) {
    let Some((store, rest)) = bytes.split_at_checked(8) else { return };
    let store = u64::from_le_bytes(store.try_into().expect("eight bytes"));
    let store = (store != 0).then(|| nexus::ledger::Version::from_number(block::Generation(store)));
    let members = rest.chunks(256).take(4).enumerate();
    let found = members.map(|(i, b)| Found {
        member: Uuid::from_u128(i as u128 + 1),
        ledger: slot(b),
        older: None,
        rotten: false,
    });
    let found: Vec<Found> = found.collect();
    if let Ok(Decision::Serve { ledger, in_sync, bases, .. }) = decide(&found, store) {
        assert!(!in_sync.is_empty() && !bases.is_empty());
        assert!(in_sync.iter().all(|m| found.iter().any(|f| f.member == *m && f.ledger.is_some())));
        let listed = |m: &Uuid| ledger.in_sync().contains(m) || ledger.doubts.iter().any(|d| d.contains(m));
        assert!(in_sync.iter().all(listed), "a member serves that no ledger in question has in sync");
    }
}

/// Damage to a good label: offset (two bytes; above 0x8000: from the end's copy), byte.
fn gpt(bytes: &[u8], sealed: bool, block_size: BlockSize) {
    let layout = Layout::new(block_size, block_size.blocks_in(block::Bytes(8 << 20))).expect("large enough");
    let label = label::Label { volume: Uuid::from_u128(1), meta: Uuid::from_u128(2), data: Uuid::from_u128(3) };
    let mut front = label.front(&layout);
    front.resize(label::PROBE_BYTES.0 as usize, 0);
    let mut back = label.back(&layout);
    for piece in bytes.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([piece[0], piece[1]]));
        let side = if at & 0x8000 == 0 { &mut front } else { &mut back };
        let end = side.len();
        side[(at & 0x7fff) % end] = piece[2];
    }
    if sealed {
        let block = block_size.bytes() as usize;
        seal_gpt(&mut front[block..], block);
        let (table, header) = (back[..16384].to_vec(), back.len() - block);
        let crc = crc32fast::hash(&table[..256]);
        back[header + 88..header + 92].copy_from_slice(&crc.to_le_bytes());
        seal_header(&mut back[header..]);
    }
    match label::probe(&front, &back, &layout) {
        Probe::Blank => assert!(front.iter().all(|b| *b == 0), "what is not zero is not blank"),
        Probe::Labelled { label, whole } => {
            assert!(layout.data().end() <= layout.back().start);
            if whole {
                assert_eq!(
                    front[block_size.bytes() as usize..][..92],
                    label.front(&layout)[block_size.bytes() as usize..][..92]
                );
            }
        }
        Probe::Foreign(what) => assert!(!what.is_empty()),
    }
}

fn seal_gpt(header_and_table: &mut [u8], block: usize) {
    let crc = crc32fast::hash(&header_and_table[block..block + 256]);
    header_and_table[88..92].copy_from_slice(&crc.to_le_bytes());
    seal_header(header_and_table);
}

fn seal_header(header: &mut [u8]) {
    header[16..20].fill(0);
    let crc = crc32fast::hash(&header[..92]);
    header[16..20].copy_from_slice(&crc.to_le_bytes());
}
