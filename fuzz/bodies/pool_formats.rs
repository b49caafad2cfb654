//! Decodes arbitrary bytes as each structure of a pool's disks. What is understood must survive its own encoding.

use pool::checkpoint::{self, CheckpointHeader};
use pool::label::{Label, LabelCopy};
use pool::record::{Block, BlockCopy};
use pool::signature;

/// The size of a label copy, of a checkpoint's header and of a journal block.
const PAGE: usize = 4096;

/// Makes the checksum of a page right, as if the bytes had been written on purpose.
fn seal(page: &mut [u8], at: usize) {
    if let Some(field) = page.get_mut(at..at + 4) {
        field.fill(0);
        let crc = crc32c::crc32c(page);
        page[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    }
}

/// The bytes as one page.
fn page(bytes: &[u8]) -> Vec<u8> {
    let mut page = bytes[..bytes.len().min(PAGE)].to_vec();
    page.resize(PAGE, 0);
    page
}

/// The first byte says what the rest is (bits 2:0), whether it is filled up to whole pages (bit 3) and whether its
/// checksums are made right (bit 4).
pub fn run(input: &[u8]) {
    let [what, bytes @ ..] = input else { return };
    let (fill, sealed) = (what & 8 != 0, what & 16 != 0);
    let mut bytes = if fill && what & 7 < 3 { page(bytes) } else { bytes.to_vec() };
    match what & 7 {
        0 => {
            if sealed {
                seal(&mut bytes, 12);
            }
            if let LabelCopy::Good(label) = Label::decode(&bytes) {
                assert_eq!(Label::decode(&label.encode()), LabelCopy::Good(label));
            }
        }
        1 => {
            if sealed {
                seal(&mut bytes, 4);
            }
            if let BlockCopy::Good(block) = Block::decode(&bytes) {
                // A name in a record may have been longer than what an encoder makes of it never is.
                assert_eq!(Block::decode(&block.encode()), BlockCopy::Good(block));
            }
        }
        2 => {
            if sealed {
                seal(&mut bytes, 12);
            }
            let _ = CheckpointHeader::decode(&bytes);
        }
        3 => whole_checkpoint(&bytes, fill, sealed),
        _ => {
            let (head, tail) = bytes.split_at(bytes.len() / 2);
            let _ = signature::detect(head, tail, bytes.len() as u64);
        }
    }
}

/// A header of at most 128 bytes, and the body.
fn whole_checkpoint(bytes: &[u8], fill: bool, sealed: bool) {
    let (head, body) = bytes.split_at(bytes.len().min(128));
    let mut all = page(head);
    if sealed {
        all[84..88].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
        all[88..96].copy_from_slice(&(body.len() as u64).to_le_bytes());
        seal(&mut all, 12);
    }
    all.extend(body);
    if fill {
        all.resize(all.len().next_multiple_of(PAGE), 0);
    }
    let Ok(Some((header, meta))) = checkpoint::decode(&all) else { return };
    let problems = meta.problems();
    let again = checkpoint::encode(header.clone(), &meta);
    let (header_again, meta_again) = checkpoint::decode(&again).expect("ours").expect("whole");
    assert_eq!((header_again.sequence, header_again.pool), (header.sequence, header.pool));
    assert_eq!((meta_again.disks, meta_again.replicas.len()), (meta.disks, meta.replicas.len()));
    assert_eq!(problems.is_empty(), checkpoint::decode(&again).expect("ours").expect("whole").1.problems().is_empty());
}
