//! NVMe qualified names (Base 4.5).

use std::fmt;
use std::str::FromStr;

use thiserror::Error;
use uuid::Uuid;

/// The longest name, in bytes (Base 4.5).
pub const NQN_BYTES: usize = 223;
/// The size of a name's field in every structure; the rest is NUL.
pub const NQN_FIELD: usize = 256;
/// The name under which every discovery controller answers (Base 4.5).
pub const DISCOVERY: &str = "nqn.2014-08.org.nvmexpress.discovery";
/// What the host names of our nexuses begin with. A nexus has exactly one association with each replica.
pub const NEXUS_HOST_PREFIX: &str = "nqn.2019-05.io.openebs:nexus-";

/// Why a text is not an NVMe qualified name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NqnError {
    /// More bytes than the specification allows.
    #[error("an NVMe qualified name has at most {NQN_BYTES} bytes, this one {0}")]
    TooLong(usize),
    /// Not of the form `nqn.yyyy-mm.domain[:name]`.
    #[error("{0:?} is not an NVMe qualified name (nqn.yyyy-mm.reversed.domain:name)")]
    Malformed(String),
    /// The field of a structure has no NUL, or is not UTF-8.
    #[error("the field does not hold a terminated name")]
    Unterminated,
}

/// An NVMe qualified name that was checked.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nqn(Box<str>);

impl Nqn {
    /// Checks a text: at most 223 bytes, `nqn.yyyy-mm.` and a domain, no control characters or spaces.
    pub fn new(text: &str) -> Result<Nqn, NqnError> {
        if text.len() > NQN_BYTES {
            return Err(NqnError::TooLong(text.len()));
        }
        if is_well_formed(text) { Ok(Nqn(text.into())) } else { Err(NqnError::Malformed(text.to_string())) }
    }
    /// The name in a 256-byte field of a structure.
    pub fn from_field(field: &[u8; NQN_FIELD]) -> Result<Nqn, NqnError> {
        let end = field.iter().position(|&b| b == 0).ok_or(NqnError::Unterminated)?;
        Nqn::new(std::str::from_utf8(&field[..end]).map_err(|_| NqnError::Unterminated)?)
    }
    /// The well-known name of the discovery subsystem.
    pub fn discovery() -> Nqn {
        Nqn(DISCOVERY.into())
    }
    /// The name of an object that only has a UUID (Base 4.5, second form).
    pub fn of_uuid(uuid: Uuid) -> Nqn {
        Nqn(format!("nqn.2014-08.org.nvmexpress:uuid:{uuid}").into())
    }
    /// Whether this is the well-known discovery name.
    pub fn is_discovery(&self) -> bool {
        &*self.0 == DISCOVERY
    }
    /// Whether this is the host name of one of our nexuses.
    pub fn is_nexus_host(&self) -> bool {
        self.0.starts_with(NEXUS_HOST_PREFIX)
    }
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The name as a field, filled up with NUL.
    pub fn to_field(&self) -> [u8; NQN_FIELD] {
        let mut field = [0; NQN_FIELD];
        crate::wire::pad_with_nul(&mut field, &self.0);
        field
    }
}

fn is_well_formed(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("nqn.") else { return false };
    let Some((date, name)) = rest.split_once('.') else { return false };
    let is_date = match date.split_once('-') {
        Some((year, month)) => {
            year.len() == 4
                && month.len() == 2
                && year.bytes().all(|b| b.is_ascii_digit())
                && matches!(month.parse::<u8>(), Ok(1..=12))
        }
        None => false,
    };
    is_date && !name.is_empty() && !name.starts_with(':') && !text.chars().any(|c| c.is_control() || c.is_whitespace())
}

impl FromStr for Nqn {
    type Err = NqnError;
    fn from_str(text: &str) -> Result<Nqn, NqnError> {
        Nqn::new(text)
    }
}
impl fmt::Display for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}
impl std::borrow::Borrow<str> for Nqn {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names() {
        for text in [
            DISCOVERY,
            "nqn.2019-05.io.openebs:nexus-0d4f4a2c-8a2b-4f3b-9f0e-111111111111",
            "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555",
            "nqn.2014-08.com.example",
        ] {
            let nqn = Nqn::new(text).expect(text);
            assert_eq!(Nqn::from_field(&nqn.to_field()), Ok(nqn));
        }
        assert!(Nqn::discovery().is_discovery());
        assert!(Nqn::new("nqn.2019-05.io.openebs:nexus-1").expect("good").is_nexus_host());
    }

    #[test]
    fn bad_names() {
        for text in
            ["", "nqn.", "iqn.2014-08.org:x", "nqn.2014-13.org:x", "nqn.14-08.org", "nqn.2014-08.", "nqn.2014-08.a b"]
        {
            assert!(matches!(Nqn::new(text), Err(NqnError::Malformed(_))), "{text:?}");
        }
        assert_eq!(Nqn::new(&format!("nqn.2014-08.org:{}", "x".repeat(220))), Err(NqnError::TooLong(236)));
        assert_eq!(Nqn::from_field(&[b'n'; NQN_FIELD]), Err(NqnError::Unterminated));
        assert_eq!(Nqn::from_field(&[0xff, 0].repeat(128).try_into().expect("256")), Err(NqnError::Unterminated));
    }
}
