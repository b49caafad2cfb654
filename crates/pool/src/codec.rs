//! Little-endian fields in byte slices. Reading never panics: whatever is missing is an error.

use uuid::Uuid;

/// The bytes end before the field.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Short;

impl From<Short> for String {
    fn from(_: Short) -> String {
        "it ends too early".into()
    }
}

/// Takes fields off the front of a slice.
pub(crate) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn bytes(&mut self, n: usize) -> Result<&'a [u8], Short> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(Short)?;
        self.0 = rest;
        Ok(taken)
    }
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        Ok(self.bytes(N)?.try_into().expect("that many bytes were taken"))
    }
    pub fn u8(&mut self) -> Result<u8, Short> {
        Ok(self.array::<1>()?[0])
    }
    pub fn u16(&mut self) -> Result<u16, Short> {
        self.array().map(u16::from_le_bytes)
    }
    pub fn u32(&mut self) -> Result<u32, Short> {
        self.array().map(u32::from_le_bytes)
    }
    pub fn u64(&mut self) -> Result<u64, Short> {
        self.array().map(u64::from_le_bytes)
    }
    pub fn uuid(&mut self) -> Result<Uuid, Short> {
        self.array().map(Uuid::from_bytes)
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Adds fields at the end of a buffer.
#[derive(Default)]
pub(crate) struct Writer(pub Vec<u8>);

impl Writer {
    pub fn bytes(&mut self, b: &[u8]) -> &mut Self {
        self.0.extend_from_slice(b);
        self
    }
    pub fn u8(&mut self, v: u8) -> &mut Self {
        self.bytes(&[v])
    }
    pub fn u16(&mut self, v: u16) -> &mut Self {
        self.bytes(&v.to_le_bytes())
    }
    pub fn u32(&mut self, v: u32) -> &mut Self {
        self.bytes(&v.to_le_bytes())
    }
    pub fn u64(&mut self, v: u64) -> &mut Self {
        self.bytes(&v.to_le_bytes())
    }
    pub fn uuid(&mut self, v: Uuid) -> &mut Self {
        self.bytes(v.as_bytes())
    }
    /// Zero bytes up to a length.
    pub fn pad_to(&mut self, len: usize) -> &mut Self {
        assert!(self.0.len() <= len, "{} bytes do not fit into {len}", self.0.len());
        self.0.resize(len, 0);
        self
    }
}

/// The CRC-32C of `bytes` as if the four bytes at `at` were zero.
pub(crate) fn crc_without(bytes: &[u8], at: usize) -> u32 {
    let crc = crc32c::crc32c(&bytes[..at]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc32c::crc32c_append(crc, &bytes[at + 4..])
}

/// Puts the CRC-32C of the whole into the four bytes at `at`.
pub(crate) fn seal(bytes: &mut [u8], at: usize) {
    let crc = crc_without(bytes, at);
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

/// Whether [`seal`] made the four bytes at `at`.
pub(crate) fn is_sealed(bytes: &[u8], at: usize) -> bool {
    bytes.len() >= at + 4 && bytes[at..at + 4] == crc_without(bytes, at).to_le_bytes()
}

/// A pool's or replica's name, if it is a valid one: 1 to 63 of `A-Z a-z 0-9 . _ -`.
pub(crate) fn valid_name(name: &str) -> bool {
    (1..=block::limits::NAME_BYTES).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// A stored name.
pub(crate) fn name_from(bytes: &[u8]) -> Result<String, String> {
    let name = std::str::from_utf8(bytes).map_err(|_| "a name is not text".to_string())?;
    if valid_name(name) { Ok(name.to_string()) } else { Err(format!("{name:?} is not a valid name")) }
}
