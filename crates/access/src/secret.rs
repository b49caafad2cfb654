//! Tokens: random text that whoever has it may show.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// How new tokens begin: to recognise one that was left where it does not belong.
const PREFIX: &str = "mayastor_";
/// Shorter ones could be guessed. A word of 32 hexadecimal digits has 128 bits.
const SHORTEST: usize = 32;
/// Longer ones do not fit into a header that every proxy passes on.
const LONGEST: usize = 1024;

/// A token. It is never shown by accident: only [`Secret::expose`] does.
#[derive(Clone)]
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    /// A new one, with 256 bits from the system's generator.
    pub fn generate() -> Secret {
        let mut bytes = [0_u8; 32];
        let mut have = 0;
        while have < bytes.len() {
            match rustix::rand::getrandom(&mut bytes[have..], rustix::rand::GetRandomFlags::empty()) {
                Ok(n) => have += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("the system gives no random numbers: {error}"),
            }
        }
        Secret(format!("{PREFIX}{}", hex(&bytes)))
    }

    /// A token from text.
    ///
    /// # Errors
    /// It is not 32 to 1024 printable ASCII characters. The text is not repeated.
    pub fn parse(text: &str) -> Result<Secret, String> {
        let text = text.trim();
        if !(SHORTEST..=LONGEST).contains(&text.len()) || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(format!("a token is {SHORTEST} to {LONGEST} printable characters without spaces"));
        }
        Ok(Secret(text.to_owned()))
    }

    /// The text.
    pub fn expose(&self) -> &str {
        &self.0
    }
    /// What is kept of it.
    pub fn hash(&self) -> Hash {
        Hash::of(self.0.as_bytes())
    }
}

/// The SHA-256 of a token. The tokens are random, so nobody finds one by trying, and no slow function is needed.
#[derive(Clone, Copy, Debug)]
pub struct Hash([u8; 32]);

impl Hash {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Hash {
        Hash(Sha256::digest(bytes).into())
    }
    /// Compares in a time that does not depend on what is compared.
    pub fn matches(&self, other: &Hash) -> subtle::Choice {
        self.0.ct_eq(&other.0)
    }
    /// From 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Hash> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (n, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * n..2 * n + 2], 16).ok()?;
        }
        Some(Hash(bytes))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_random_and_never_shown_by_accident() {
        let (a, b) = (Secret::generate(), Secret::generate());
        assert_ne!(a.expose(), b.expose());
        assert_eq!(a.expose().len(), PREFIX.len() + 64);
        assert!(!format!("{a:?}").contains(&a.expose()[PREFIX.len()..]));
        assert!(bool::from(a.hash().matches(&a.hash())) && !bool::from(a.hash().matches(&b.hash())));
    }

    #[test]
    fn a_hash_is_the_sha256_and_survives_as_text() {
        let hash = Hash::of(b"abc");
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash.to_string(), text);
        assert!(bool::from(Hash::parse(text).expect("a hash").matches(&hash)));
        for wrong in ["", "ba78", &text.replace('b', "x"), &format!("{text}00"), &"é".repeat(32)] {
            assert!(Hash::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn short_or_strange_tokens_are_refused_without_repeating_them() {
        for wrong in ["", "hunter2", &"x".repeat(31), &"x ".repeat(32), &"x".repeat(1025)] {
            let error = Secret::parse(wrong).expect_err(wrong);
            assert!(wrong.is_empty() || !error.contains(wrong));
        }
        assert!(Secret::parse(&format!(" {}\n", "x".repeat(32))).is_ok());
    }
}
