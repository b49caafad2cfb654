//! Little-endian integers as they lie on the wire: byte arrays, so that a structure of them has no padding and may be
//! viewed at any address.

use std::fmt;

use bytemuck::{Pod, Zeroable};

macro_rules! little_endian {
    ($(#[$doc:meta])* $name:ident, $int:ty, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
        #[repr(transparent)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// The wire form of a number.
            pub const fn new(value: $int) -> $name {
                $name(value.to_le_bytes())
            }
            /// The number.
            pub const fn get(self) -> $int {
                <$int>::from_le_bytes(self.0)
            }
        }
        impl From<$int> for $name {
            fn from(value: $int) -> $name {
                $name::new(value)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.get())
            }
        }
    };
}

little_endian!(
    /// A 16-bit little-endian number.
    Le16, u16, 2
);
little_endian!(
    /// A 32-bit little-endian number.
    Le32, u32, 4
);
little_endian!(
    /// A 64-bit little-endian number.
    Le64, u64, 8
);
little_endian!(
    /// A 128-bit little-endian number.
    Le128, u128, 16
);

/// The structure at the start of `bytes`; `None` when there are too few.
pub fn view<T: Pod>(bytes: &[u8]) -> Option<T> {
    bytes.get(..size_of::<T>()).map(bytemuck::pod_read_unaligned)
}

/// Copies ASCII text into a field that the specification pads with spaces (serial and model number and the like).
/// Text that is too long is cut.
pub fn pad_with_spaces(field: &mut [u8], text: &str) {
    field.fill(b' ');
    for (to, from) in field.iter_mut().zip(text.bytes()) {
        *to = from;
    }
}

/// Copies text into a field that is filled up with NUL bytes. Text that is too long is cut.
pub fn pad_with_nul(field: &mut [u8], text: &str) {
    field.fill(0);
    for (to, from) in field.iter_mut().zip(text.bytes()) {
        *to = from;
    }
}

/// The text of a field that ends at the first NUL or at the field's end, without trailing spaces; `None` when it is not
/// UTF-8.
pub fn text(field: &[u8]) -> Option<&str> {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    std::str::from_utf8(&field[..end]).ok().map(|t| t.trim_end_matches(' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_little_endian() {
        assert_eq!(bytemuck::bytes_of(&Le32::new(0x0102_0304)), [4, 3, 2, 1]);
        assert_eq!(view::<Le16>(&[0x34, 0x12, 9]).map(Le16::get), Some(0x1234));
        assert!(view::<Le64>(&[0; 7]).is_none());
    }

    #[test]
    fn text_is_padded_cut_and_read_back() {
        let mut field = [0xff; 6];
        pad_with_spaces(&mut field, "abc");
        assert_eq!((&field, text(&field)), (b"abc   ", Some("abc")));
        pad_with_nul(&mut field, "too long");
        assert_eq!(text(&field), Some("too lo"));
        assert_eq!(text(&[0xff, 0]), None);
    }
}
