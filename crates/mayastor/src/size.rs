//! Sizes as people write and read them.

use std::fmt::Write as _;

use clap::ValueEnum;

/// How sizes are shown in tables. JSON and YAML always have plain bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Units {
    /// Binary: KiB, MiB, GiB
    #[default]
    #[value(name = "i")]
    Binary,
    /// Decimal: kB, MB, GB
    #[value(name = "d")]
    Decimal,
    /// Plain bytes
    #[value(name = "b")]
    Bytes,
}

const BINARY: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
const DECIMAL: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];

impl Units {
    /// The size as text, with up to two digits after the point.
    pub fn show(self, bytes: u64) -> String {
        let (base, names) = match self {
            Units::Bytes => return bytes.to_string(),
            Units::Binary => (1024_u64, BINARY),
            Units::Decimal => (1000, DECIMAL),
        };
        let mut unit = 1_u64;
        let mut name = 0;
        while name + 1 < names.len() && bytes / unit >= base {
            unit *= base;
            name += 1;
        }
        let mut text = (bytes / unit).to_string();
        let hundredths = u128::from(bytes % unit) * 100 / u128::from(unit);
        if hundredths != 0 {
            let _ = write!(text, ".{hundredths:02}");
            if text.ends_with('0') {
                text.pop();
            }
        }
        format!("{text} {}", names[name])
    }
}

/// Reads a size: a number with an optional fraction, and a unit. Case does not matter; without a unit it is bytes, and
/// `K`, `M`, `G` and `T` alone are binary.
pub fn parse(text: &str) -> Result<u64, String> {
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let factor = factor(unit.trim())
        .ok_or_else(|| format!("unknown unit {:?}; use B, KiB, MiB, GiB, TiB or kB, MB, GB, TB", unit.trim()))?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || number.ends_with('.') || fraction.len() > 9 {
        return Err("not a size; write for example 10MiB, 1.5GiB or 500MB".into());
    }
    let too_large = || "larger than any device (16 EiB)".to_owned();
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    let mut bytes = u128::from(whole) * u128::from(factor);
    if !fraction.is_empty() {
        let scale = 10_u128.pow(u32::try_from(fraction.len()).expect("at most 9"));
        let parts: u128 = fraction.parse().expect("at most 9 digits");
        if !(parts * u128::from(factor)).is_multiple_of(scale) {
            return Err("not a whole number of bytes".into());
        }
        bytes += parts * u128::from(factor) / scale;
    }
    u64::try_from(bytes).map_err(|_| too_large())
}

fn factor(unit: &str) -> Option<u64> {
    Some(match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "ki" | "kib" => 1 << 10,
        "m" | "mi" | "mib" => 1 << 20,
        "g" | "gi" | "gib" => 1 << 30,
        "t" | "ti" | "tib" => 1 << 40,
        "p" | "pi" | "pib" => 1 << 50,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "pb" => 1_000_000_000_000_000,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("10MiB", 10 << 20),
            ("1000Mib", 1000 << 20),
            ("1GiB", 1 << 30),
            ("500MB", 500_000_000),
            ("1.5 GiB", 3 << 29),
            ("64k", 65536),
            ("2tb", 2_000_000_000_000),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn wrong_sizes_are_refused() {
        for text in [
            "",
            "MiB",
            "-1",
            "1 parsec",
            "1..5G",
            "1.",
            ".5G",
            "1.0001",
            "1e9",
            "16EiB",
            "16384PiB",
            "20000000000000000000",
            "1,5GiB",
            "0x10",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown() {
        assert_eq!(Units::Binary.show(0), "0 B");
        assert_eq!(Units::Binary.show(1023), "1023 B");
        assert_eq!(Units::Binary.show(10 << 20), "10 MiB");
        assert_eq!(Units::Binary.show(3 << 29), "1.5 GiB");
        assert_eq!(Units::Binary.show(u64::MAX), "15.99 EiB");
        assert_eq!(Units::Decimal.show(1_250_000), "1.25 MB");
        assert_eq!(Units::Decimal.show(u64::MAX), "18.44 EB");
        assert_eq!(Units::Bytes.show(1 << 20), "1048576");
    }

    proptest::proptest! {
        #[test]
        fn what_is_shown_in_bytes_reads_back(bytes in proptest::prelude::any::<u64>()) {
            proptest::prop_assert_eq!(parse(&Units::Bytes.show(bytes)), Ok(bytes));
        }
        #[test]
        fn no_text_makes_it_panic(text in ".{0,40}") {
            let _ = parse(&text);
        }
    }
}
