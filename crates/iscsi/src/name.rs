//! iSCSI names (4.2.7): of initiators and targets.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The longest name, in bytes (4.2.7.1).
pub const NAME_BYTES: usize = 223;

/// A name in one of the three formats `iqn.`, `eui.` and `naa.`, in lower case.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IscsiName(String);

/// Why a text is not an iSCSI name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// It is empty or too long.
    #[error("an iSCSI name has 5 to {NAME_BYTES} bytes, this one has {0}")]
    Length(usize),
    /// It begins with none of the three formats.
    #[error("'{0}' is no iSCSI name: it must begin with iqn., eui. or naa.")]
    Format(String),
    /// It has characters that a name cannot have.
    #[error("'{0}' is no iSCSI name: only letters, digits, '-', '.', ':' are allowed")]
    Characters(String),
}

impl IscsiName {
    /// Checks a name. Upper case letters become lower case, as the preparation of names does (4.2.7.2).
    pub fn new(text: &str) -> Result<IscsiName, NameError> {
        if !(5..=NAME_BYTES).contains(&text.len()) {
            return Err(NameError::Length(text.len()));
        }
        let name = text.to_lowercase();
        if !["iqn.", "eui.", "naa."].iter().any(|format| name.starts_with(format)) {
            return Err(NameError::Format(text.to_owned()));
        }
        // Initiators in the field use '_' although the standard's profile does not have it.
        if !name.chars().all(|c| c.is_alphanumeric() || "-.:_".contains(c)) {
            return Err(NameError::Characters(text.to_owned()));
        }
        Ok(IscsiName(name))
    }
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IscsiName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<IscsiName, NameError> {
        IscsiName::new(text)
    }
}
impl fmt::Display for IscsiName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for IscsiName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::borrow::Borrow<str> for IscsiName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in
            ["iqn.2019-05.io.openebs:nexus-1", "eui.0123456789abcdef", "iqn.2005-03.org.x:a_b", "naa.52004567BA64678D"]
        {
            assert_eq!(IscsiName::new(good).map(|n| n.to_string()), Ok(good.to_lowercase()));
        }
        let long = format!("iqn.{}", "x".repeat(NAME_BYTES));
        for bad in [
            "",
            "iqn.",
            "nqn.2019-05.io.openebs:x",
            "iqn.2019-05.x:a b",
            "iqn.2019-05.x:a/b",
            "iqn.x\0y",
            long.as_str(),
        ] {
            assert!(IscsiName::new(bad).is_err(), "{bad:?}");
        }
    }
}
