//! Text keys: `key=value` pairs, each ended by a NUL (6.1).

use thiserror::Error;

/// The longest key name, in bytes (6.1).
pub const KEY_BYTES: usize = 63;
/// Bytes of text in one request or answer, also when it comes in several PDUs.
pub const TEXT_BYTES: usize = 64 << 10;

/// A key and its value.
pub type Pair = (String, String);

/// Why a text is not a list of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TextError {
    /// A part without `=`.
    #[error("a key has no value")]
    NoValue,
    /// A key name is empty, too long, or has characters that it cannot have.
    #[error("a key name is not valid")]
    Key,
    /// A value has bytes that are not text.
    #[error("a value is not text")]
    Value,
}

/// The pairs of a text, in order.
pub fn parse(bytes: &[u8]) -> Result<Vec<Pair>, TextError> {
    bytes.split(|b| *b == 0).filter(|part| !part.is_empty()).map(parse_pair).collect()
}

fn parse_pair(part: &[u8]) -> Result<Pair, TextError> {
    let equals = part.iter().position(|b| *b == b'=').ok_or(TextError::NoValue)?;
    let (key, value) = (&part[..equals], &part[equals + 1..]);
    let is_key = |b: &u8| b.is_ascii_alphanumeric() || b".-+@_/#".contains(b);
    if key.is_empty() || key.len() > KEY_BYTES || !key.iter().all(is_key) {
        return Err(TextError::Key);
    }
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| TextError::Value);
    let value = text(value)?;
    if value.chars().any(char::is_control) {
        return Err(TextError::Value);
    }
    Ok((text(key)?, value))
}

/// Adds a pair to a text.
pub fn push(text: &mut Vec<u8>, key: &str, value: &str) {
    text.extend_from_slice(key.as_bytes());
    text.push(b'=');
    text.extend_from_slice(value.as_bytes());
    text.push(0);
}

/// A number: decimal or, with `0x`, hexadecimal (6.1).
pub fn number(value: &str) -> Option<u64> {
    match value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        Some(hex) if hex.bytes().all(|b| b.is_ascii_hexdigit()) => u64::from_str_radix(hex, 16).ok(),
        None if value.bytes().all(|b| b.is_ascii_digit()) => value.parse().ok(),
        _ => None,
    }
}

/// A binary value: `0x` and hexadecimal digits, or `0b` and Base64 (6.1), at most `max` bytes.
pub fn binary(value: &str, max: usize) -> Option<Vec<u8>> {
    if value.len() > 2 * max + 4 {
        return None;
    }
    let bytes = match value.get(..2)? {
        "0x" | "0X" => from_hex(&value.as_bytes()[2..])?,
        "0b" | "0B" => from_base64(&value.as_bytes()[2..])?,
        _ => return None,
    };
    (bytes.len() <= max).then_some(bytes)
}

/// Bytes as a binary value.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("0x".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

fn from_hex(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
    // An odd number of digits: the first byte has one.
    let (first, rest) = digits.split_at(digits.len() % 2);
    let mut bytes: Vec<u8> = first.iter().map(|b| digit(*b)).collect::<Option<_>>()?;
    for pair in rest.chunks(2) {
        bytes.push(digit(pair[0])? << 4 | digit(pair[1])?);
    }
    Some(bytes)
}

fn from_base64(digits: &[u8]) -> Option<Vec<u8>> {
    let digits = digits.strip_suffix(b"==").or_else(|| digits.strip_suffix(b"=")).unwrap_or(digits);
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    let (mut bits, mut held) = (0u32, 0);
    for digit in digits {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<Pair> {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn pairs_are_parsed_and_written() {
        let mut text = Vec::new();
        push(&mut text, "AuthMethod", "CHAP,None");
        push(&mut text, "TargetAlias", "a=b c");
        assert_eq!(text, b"AuthMethod=CHAP,None\0TargetAlias=a=b c\0");
        assert_eq!(parse(&text), Ok(pairs(&[("AuthMethod", "CHAP,None"), ("TargetAlias", "a=b c")])));
        assert_eq!(parse(b"X="), Ok(pairs(&[("X", "")])));
        assert_eq!(parse(b"\0\0"), Ok(vec![]));
    }

    #[test]
    fn wrong_texts_are_refused() {
        assert_eq!(parse(b"novalue\0"), Err(TextError::NoValue));
        assert_eq!(parse(b"=x\0"), Err(TextError::Key));
        assert_eq!(parse(&[&[b'k'; 64][..], b"=v"].concat()), Err(TextError::Key));
        assert_eq!(parse(b"k y=v\0"), Err(TextError::Key));
        assert_eq!(parse(b"k=\xff\0"), Err(TextError::Value));
        assert_eq!(parse(b"k=a\nb\0"), Err(TextError::Value));
    }

    #[test]
    fn numbers_and_binary_values() {
        assert_eq!([number("0"), number("262144"), number("0x10")], [Some(0), Some(262_144), Some(16)]);
        for wrong in ["", "-1", "+1", "1k", "0x", "0xg", "99999999999999999999"] {
            assert_eq!(number(wrong), None, "{wrong}");
        }
        assert_eq!(binary("0x0aFf", 16), Some(vec![10, 255]));
        assert_eq!(binary("0xabc", 16), Some(vec![0xa, 0xbc]));
        assert_eq!(binary("0bTWFu", 16), Some(b"Man".to_vec()));
        assert_eq!(binary("0bTWE=", 16), Some(b"Ma".to_vec()));
        assert_eq!(binary("0bTQ==", 16), Some(b"M".to_vec()));
        for wrong in ["", "0", "ab", "0xzz", "0b*", "0x0102030405"] {
            assert_eq!(binary(wrong, 4), None, "{wrong}");
        }
        assert_eq!(hex(&[1, 0xfe]), "0x01fe");
    }
}
