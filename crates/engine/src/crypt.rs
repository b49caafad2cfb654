//! Encryption above replication: a nexus that is published with a key keeps ciphertext on all of its children, and its
//! hosts see plain text. Ciphers, keys and what is promised: docs/decisions/0010-encryption.md.
//!
//! **Zeroes.** A block that holds nothing but zeroes below reads as zeroes through every key. So a block that was never
//! written, unmapped or cleared reads as zeroes as it must, thin space stays thin, and a rebuild may leave holes out. No
//! ciphertext is ever all zeroes (the chance is 2⁻⁴⁰⁹⁶ or less for a block), so nothing that was written is mistaken for one.

mod cipher;
mod key;

use std::rc::Rc;

use block::{BlockSize, BufMut, Data, Geometry, Lba, Request, Ticket};
use host::{Disk, DiskRef};

pub use cipher::{BlockCipher, Cipher};
pub use key::{KeyCheck, KeyError};

/// A device of which everything is encrypted on the way down and decrypted on the way up.
pub struct Encrypted {
    disk: DiskRef,
    cipher: Rc<BlockCipher>,
}

impl Encrypted {
    /// A view of `disk` through the cipher.
    pub fn over(disk: DiskRef, cipher: Rc<BlockCipher>) -> DiskRef {
        Rc::new(Encrypted { disk, cipher })
    }
}

/// Decrypts what was read from `first` on.
fn decrypted(cipher: &BlockCipher, size: BlockSize, first: Lba, data: Data) -> Data {
    let read = data.into_buf();
    if is_zero(&read) {
        return read.into();
    }
    let mut plain = read.try_into_mut().unwrap_or_else(|shared| BufMut::copy_of(&shared));
    let bytes = size.bytes() as usize;
    for (lba, block) in (first.0..).zip(plain.chunks_exact_mut(bytes)) {
        if !is_zero(block) {
            cipher.decrypt(lba, block);
        }
    }
    plain.freeze().into()
}

fn is_zero(bytes: &[u8]) -> bool {
    // Ciphertext is told from zeroes at its first bytes.
    bytes.iter().take(16).all(|b| *b == 0) && bytes.iter().all(|b| *b == 0)
}

impl Disk for Encrypted {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }

    fn submit(&self, request: Request, ticket: Ticket) {
        let geometry = self.disk.geometry();
        if let Err(fault) = request.check(&geometry) {
            return ticket.fail(fault);
        }
        match request {
            Request::Read { range } => {
                let (cipher, size) = (self.cipher.clone(), geometry.block_size);
                let decrypt = Ticket::new(move |outcome| {
                    ticket.answer(outcome.map(|data| decrypted(&cipher, size, range.start, data)));
                });
                self.disk.submit(Request::Read { range }, decrypt);
            }
            Request::Write { range, data, durability } => {
                // The sender may still use its buffer.
                let mut secret = BufMut::copy_of(&data);
                let bytes = geometry.block_size.bytes() as usize;
                for (lba, block) in (range.start.0..).zip(secret.chunks_exact_mut(bytes)) {
                    self.cipher.encrypt(lba, block);
                }
                self.disk.submit(Request::Write { range, data: secret.freeze(), durability }, ticket);
            }
            Request::Flush | Request::Unmap { .. } | Request::WriteZeroes { .. } => self.disk.submit(request, ticket),
        }
    }

    fn label(&self) -> String {
        self.disk.label()
    }

    fn run(&self) -> Option<[u8; 16]> {
        self.disk.run()
    }
}

#[cfg(test)]
mod tests;
