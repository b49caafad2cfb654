//! The ciphers, on blocks of a device. AES itself is `aes`'s, which uses the processor's instructions.

use std::fmt;

use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt};
use aes::{Aes128, Aes256, Block};
use serde::{Deserialize, Serialize};

/// Bytes of a block of AES.
const AES_BYTES: usize = 16;
/// How many of them are given to the processor at a time.
const BATCH: usize = 32;

/// How blocks are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cipher {
    /// XTS with AES-256 (IEEE 1619): the data unit is a block of the device, its number the tweak. The same as Linux's
    /// `aes-xts-plain64` with the device's block size as sector size and, for 4096, `iv_large_sectors`.
    #[serde(rename = "aes-xts-256")]
    AesXts256,
    /// CBC with AES-128, each block by itself; the initialisation vector is the block's number, little-endian. v0.3.0's
    /// form. Weaker: equal changes to one block at different times show from which byte on they differ, and whoever knows
    /// the contents can turn bits of his choice.
    #[serde(rename = "aes-cbc-128")]
    AesCbc128,
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cipher::AesXts256 => "aes-xts-256",
            Cipher::AesCbc128 => "aes-cbc-128",
        })
    }
}

/// A cipher with its key. The key is gone from memory when it is dropped.
pub struct BlockCipher(Kind);

enum Kind {
    Xts { data: Box<Aes256>, tweak: Box<Aes256> },
    Cbc(Box<Aes128>),
}

impl BlockCipher {
    pub(super) fn xts(data: Aes256, tweak: Aes256) -> BlockCipher {
        BlockCipher(Kind::Xts { data: Box::new(data), tweak: Box::new(tweak) })
    }
    pub(super) fn cbc(key: Aes128) -> BlockCipher {
        BlockCipher(Kind::Cbc(Box::new(key)))
    }

    /// Which one it is.
    pub fn cipher(&self) -> Cipher {
        match &self.0 {
            Kind::Xts { .. } => Cipher::AesXts256,
            Kind::Cbc(_) => Cipher::AesCbc128,
        }
    }

    /// Encrypts block number `lba`, in place. Its length must be a multiple of 16.
    pub fn encrypt(&self, lba: u64, block: &mut [u8]) {
        self.encrypt_at(lba.into(), block);
    }

    pub(super) fn encrypt_at(&self, lba: u128, block: &mut [u8]) {
        let blocks = aes_blocks(block);
        match &self.0 {
            Kind::Xts { data, tweak } => xts(tweak, lba, blocks, |batch| data.encrypt_blocks(batch)),
            Kind::Cbc(key) => {
                let mut before = lba.to_le_bytes();
                for block in blocks {
                    xor(block, before);
                    key.encrypt_block(block);
                    before = (*block).into();
                }
            }
        }
    }

    /// Decrypts block number `lba`, in place. Its length must be a multiple of 16.
    pub fn decrypt(&self, lba: u64, block: &mut [u8]) {
        let blocks = aes_blocks(block);
        match &self.0 {
            Kind::Xts { data, tweak } => xts(tweak, lba.into(), blocks, |batch| data.decrypt_blocks(batch)),
            Kind::Cbc(key) => {
                let mut before = u128::from(lba).to_le_bytes();
                let mut secret = [[0; AES_BYTES]; BATCH];
                for batch in blocks.chunks_mut(BATCH) {
                    for (kept, block) in secret.iter_mut().zip(batch.iter()) {
                        *kept = (*block).into();
                    }
                    key.decrypt_blocks(batch);
                    for (block, next) in batch.iter_mut().zip(secret) {
                        xor(block, before);
                        before = next;
                    }
                }
            }
        }
    }
}

fn aes_blocks(block: &mut [u8]) -> &mut [Block] {
    let (blocks, rest) = Block::slice_as_chunks_mut(block);
    assert!(rest.is_empty(), "a block is a whole number of AES blocks");
    blocks
}

fn xor(block: &mut Block, with: [u8; AES_BYTES]) {
    let mixed = u128::from_ne_bytes((*block).into()) ^ u128::from_ne_bytes(with);
    *block = mixed.to_ne_bytes().into();
}

/// XTS (IEEE 1619, 5.3 and 5.4) without ciphertext stealing, which no block of a device needs.
fn xts(tweak: &Aes256, unit: u128, blocks: &mut [Block], run: impl Fn(&mut [Block])) {
    let mut first: Block = unit.to_le_bytes().into();
    tweak.encrypt_block(&mut first);
    let mut next = u128::from_le_bytes(first.into());
    let mut tweaks = [[0; AES_BYTES]; BATCH];
    for batch in blocks.chunks_mut(BATCH) {
        for (tweak, block) in tweaks.iter_mut().zip(batch.iter_mut()) {
            *tweak = next.to_le_bytes();
            xor(block, *tweak);
            // Times α in GF(2¹²⁸).
            next = (next << 1) ^ ((next >> 127) * 0x87);
        }
        run(batch);
        for (tweak, block) in tweaks.iter().zip(batch.iter_mut()) {
            xor(block, *tweak);
        }
    }
}
