//! What is written: each block of each write says which it is, so that a read names the write that it saw.

use block::{Buf, BufMut};

const MAGIC: u64 = 0x6d61_7961_7072_6f6f;

/// What one block of a read holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Zeroes.
    Zero,
    /// The block as that write left it.
    Written(u64),
    /// Neither: torn, of another block, of another volume, or garbage.
    Alien,
}

/// The payload of a write: `blocks` blocks of `block_bytes` from `lba`.
pub fn fill(volume: u64, lba: u64, blocks: u64, block_bytes: usize, write: u64) -> Buf {
    let mut buf = BufMut::new(blocks as usize * block_bytes);
    for (k, block) in buf.chunks_exact_mut(block_bytes).enumerate() {
        fill_block(block, volume, lba + k as u64, write);
    }
    buf.freeze()
}

fn fill_block(block: &mut [u8], volume: u64, lba: u64, write: u64) {
    for (k, word) in block.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&pattern(k as u64, volume, lba, write).to_le_bytes());
    }
    let header = [MAGIC, volume, lba, write];
    for (word, value) in block.chunks_exact_mut(8).zip(header) {
        word.copy_from_slice(&value.to_le_bytes());
    }
}

fn pattern(k: u64, volume: u64, lba: u64, write: u64) -> u64 {
    (write ^ lba.rotate_left(32) ^ volume.rotate_left(48)).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(k)
}

/// Whether a unit of a disk begins like a block that a client wrote.
pub fn is_ours(unit: &[u8]) -> bool {
    unit.starts_with(&MAGIC.to_le_bytes())
}

/// What a block of a read holds.
pub fn read(block: &[u8], volume: u64, lba: u64) -> Content {
    let word = |k: usize| u64::from_le_bytes(block[k * 8..k * 8 + 8].try_into().expect("eight bytes"));
    if word(0) != MAGIC {
        return if block.iter().all(|b| *b == 0) { Content::Zero } else { Content::Alien };
    }
    let write = word(3);
    let whole = (4..block.len() / 8).all(|k| word(k) == pattern(k as u64, volume, lba, write));
    if word(1) == volume && word(2) == lba && whole { Content::Written(write) } else { Content::Alien }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_names_its_write_and_nothing_else_does() {
        let buf = fill(3, 10, 2, 512, 77);
        assert_eq!(read(&buf[512..], 3, 11), Content::Written(77));
        assert_eq!(read(&buf[512..], 3, 10), Content::Alien);
        assert_eq!(read(&buf[512..], 4, 11), Content::Alien);
        assert_eq!(read(&[0; 512], 3, 11), Content::Zero);
        let mut torn = buf[..512].to_vec();
        torn[256..].copy_from_slice(&fill(3, 10, 1, 512, 78)[256..]);
        assert_eq!(read(&torn, 3, 10), Content::Alien);
    }
}
