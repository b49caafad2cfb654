//! Big-endian fields of PDUs, CDBs, parameter lists and pages.

/// The `N` bytes at `at`; bytes beyond the end read as zero, as SCSI wants it of a parameter list that was cut short.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    for (to, from) in array.iter_mut().zip(bytes.get(at..).unwrap_or_default()) {
        *to = *from;
    }
    array
}

/// The 16-bit number at `at`.
pub fn get16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array(bytes, at))
}
/// The 24-bit number at `at`.
pub fn get24(bytes: &[u8], at: usize) -> u32 {
    let [a, b, c] = array(bytes, at);
    u32::from_be_bytes([0, a, b, c])
}
/// The 32-bit number at `at`.
pub fn get32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(bytes, at))
}
/// The 64-bit number at `at`.
pub fn get64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(array(bytes, at))
}
/// Writes a 16-bit number at `at`, which lies inside.
pub fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
/// Writes a 24-bit number at `at`, which lies inside.
pub fn put24(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 3].copy_from_slice(&value.to_be_bytes()[1..]);
}
/// Writes a 32-bit number at `at`, which lies inside.
pub fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}
/// Writes a 64-bit number at `at`, which lies inside.
pub fn put64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
}
/// `text` in `N` bytes, cut or filled up with spaces.
pub fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [b' '; N];
    for (to, from) in field.iter_mut().zip(text.bytes().filter(|b| (0x20..0x7f).contains(b))) {
        *to = from;
    }
    field
}

/// Whether serial number `a` comes before `b` (serial number arithmetic, 3.2.2).
pub fn before(a: u32, b: u32) -> bool {
    a != b && b.wrapping_sub(a) < 1 << 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_big_endian_and_missing_bytes_zero() {
        let mut bytes = [0; 8];
        put24(&mut bytes, 1, 0x01_0203);
        assert_eq!((bytes, get24(&bytes, 1), get16(&bytes, 2)), ([0, 1, 2, 3, 0, 0, 0, 0], 0x01_0203, 0x0203));
        put64(&mut bytes, 0, 0x0102_0304_0506_0708);
        assert_eq!(
            (get64(&bytes, 0), get32(&bytes, 4), get32(&bytes, 6)),
            (0x0102_0304_0506_0708, 0x0506_0708, 0x0708_0000)
        );
        assert_eq!(get64(&bytes, 9), 0);
    }

    #[test]
    fn serial_numbers_wrap() {
        assert!(before(1, 2) && !before(2, 1) && !before(2, 2));
        assert!(before(u32::MAX, 0) && !before(0, u32::MAX));
    }

    #[test]
    fn text_is_padded_and_cut() {
        assert_eq!(&padded::<5>("ab"), b"ab   ");
        assert_eq!(&padded::<2>("a\nbc"), b"ab");
    }
}
