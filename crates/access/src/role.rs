//! What callers may do.

use std::fmt;
use std::str::FromStr;

/// What a credential allows. Each role may do what the ones before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// See everything, change nothing.
    Read,
    /// Make, change, use and destroy volumes.
    Operate,
    /// Everything: pools, nodes, settings, and what engines and the control plane say to each other.
    Admin,
}

impl Role {
    /// All of them, the weakest first.
    pub const ALL: [Role; 3] = [Role::Read, Role::Operate, Role::Admin];

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Role::Read => "read",
            Role::Operate => "operate",
            Role::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Role {
    type Err = String;
    fn from_str(text: &str) -> Result<Role, String> {
        let found = Role::ALL.into_iter().find(|r| r.word() == text);
        found.ok_or_else(|| format!("{text:?} is no role: read, operate or admin"))
    }
}

/// What a call needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing: what every copy of the program contains, such as the files of the page.
    Nothing,
    /// A credential with this role or a higher one.
    Role(Role),
}

/// Whoever is behind a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The name of the credential; empty where none was needed.
    pub name: String,
    /// What it allows.
    pub role: Role,
}

/// Whether a text can be the name of a credential: 1 to 63 of letters, digits, `-`, `_` and `.`.
pub fn is_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=63).contains(&text.len()) && text.chars().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_ordered_and_have_words() {
        assert!(Role::Read < Role::Operate && Role::Operate < Role::Admin);
        for role in Role::ALL {
            assert_eq!(role.to_string().parse(), Ok(role));
        }
        assert!("root".parse::<Role>().is_err());
    }

    #[test]
    fn names() {
        assert!(is_name("csi-controller") && is_name("a.b_C9"));
        assert!(!is_name("") && !is_name("a b") && !is_name("a/b") && !is_name(&"x".repeat(64)));
    }
}
