//! Header and data digests: CRC32C (13.1), sent as four little-endian bytes.

/// The length of a digest on the wire.
pub const DIGEST_BYTES: usize = 4;

/// A CRC32C over bytes that arrive in pieces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest(u32);

impl Digest {
    /// The digest of one piece.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(crc32c::crc32c(bytes))
    }
    /// Adds the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0 = crc32c::crc32c_append(self.0, bytes);
    }
    /// The digest as it goes onto the wire.
    pub fn to_bytes(self) -> [u8; DIGEST_BYTES] {
        self.0.to_le_bytes()
    }
    /// Whether the four bytes from the wire are this digest.
    pub fn matches(self, wire: &[u8]) -> bool {
        wire == self.to_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_crc32c() {
        // The check value that every catalogue of CRCs gives for "123456789".
        assert_eq!(Digest::of(b"123456789").to_bytes(), 0xe306_9283_u32.to_le_bytes());
    }

    #[test]
    fn pieces_give_the_same_digest() {
        let mut pieces = Digest::default();
        pieces.update(b"1234");
        pieces.update(b"");
        pieces.update(b"56789");
        assert_eq!(pieces, Digest::of(b"123456789"));
        assert!(pieces.matches(&0xe306_9283_u32.to_le_bytes()) && !pieces.matches(&[0; 4]) && !pieces.matches(&[]));
    }
}
