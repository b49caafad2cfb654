//! Keys as people and programs give them, and what may be remembered of one.

use std::fmt;

use aes::cipher::KeyInit;
use aes::{Aes128, Aes256};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

use super::cipher::{BlockCipher, Cipher};

/// Bytes of a key for AES-CBC-128: the string as it is.
const CBC_BYTES: usize = 16;
/// Bytes of each of the two keys of AES-XTS-256.
const XTS_HALF_BYTES: usize = 32;
/// Hexadecimal digits of both.
const XTS_DIGITS: usize = 4 * XTS_HALF_BYTES;
/// The block that a check encrypts: no device has it.
const CHECK_BLOCK: u128 = u128::MAX;
/// Bytes of a check: far too few to find the key by, enough to tell keys apart.
const CHECK_BYTES: usize = 8;

/// Why a text is no key. It never repeats the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Neither of the lengths that a key can have.
    #[error(
        "a key of {0} bytes: it must have {XTS_DIGITS} hexadecimal digits (AES-XTS-256), or {CBC_BYTES} bytes \
         (AES-CBC-128, as v0.3.0 has it)"
    )]
    Length(usize),
    /// As long as an XTS key, but something else.
    #[error("a key of {XTS_DIGITS} bytes must have hexadecimal digits only")]
    Digits,
    /// XTS must not be used with one key for both purposes (NIST SP 800-38E, FIPS 140 IG A.9).
    #[error("both halves of the key are the same")]
    Halves,
}

/// What is remembered of a key, to know it again: its cipher, and what that makes of a block which no device has. Nothing
/// of the key or of the data can be computed from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyCheck {
    /// The cipher.
    pub cipher: Cipher,
    /// 16 hexadecimal digits.
    pub check: String,
}

impl BlockCipher {
    /// The cipher of a key; `None` for the empty text, which means no encryption.
    ///
    /// # Errors
    /// [`KeyError`] when the text is no key.
    pub fn of_key(text: &str) -> Result<Option<BlockCipher>, KeyError> {
        let bytes = text.as_bytes();
        match bytes.len() {
            0 => Ok(None),
            CBC_BYTES => Ok(Some(BlockCipher::cbc(new::<Aes128>(bytes)))),
            XTS_DIGITS => {
                let digit = |d: &u8| char::from(*d).to_digit(16).ok_or(KeyError::Digits);
                let byte = |pair: &[u8]| Ok((digit(&pair[0])? << 4 | digit(&pair[1])?) as u8);
                let key: Zeroizing<Vec<u8>> =
                    Zeroizing::new(bytes.chunks_exact(2).map(byte).collect::<Result<_, _>>()?);
                let (data, tweak) = key.split_at(XTS_HALF_BYTES);
                if data == tweak {
                    return Err(KeyError::Halves);
                }
                Ok(Some(BlockCipher::xts(new::<Aes256>(data), new::<Aes256>(tweak))))
            }
            other => Err(KeyError::Length(other)),
        }
    }

    /// What may be remembered of the key.
    pub fn check(&self) -> KeyCheck {
        let mut block = [0; 16];
        self.encrypt_at(CHECK_BLOCK, &mut block);
        let check = block[..CHECK_BYTES].iter().map(|b| format!("{b:02x}")).collect();
        KeyCheck { cipher: self.cipher(), check }
    }
}

fn new<C: KeyInit>(key: &[u8]) -> C {
    C::new_from_slice(key).expect("the length was looked at")
}

impl fmt::Debug for BlockCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockCipher({})", self.cipher())
    }
}
