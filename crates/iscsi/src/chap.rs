//! CHAP (12.1.3, RFC 1994): a side proves that it knows a secret without sending it.

use std::fmt;

use md5::Digest as _;

/// A name and the secret that proves it.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The name.
    pub name: String,
    /// The secret.
    pub secret: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.name)
    }
}

/// Who may log in, and what we prove in turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chap {
    /// What initiators have to prove.
    pub initiator: Credentials,
    /// What the target proves when it is asked to (mutual CHAP).
    pub target: Option<Credentials>,
}

/// Hash functions by their CHAP number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// 5, which every implementation has.
    Md5,
    /// 7.
    Sha256,
}

impl Algorithm {
    /// Our favourite among the numbers of a list.
    pub fn choose(list: &str) -> Option<Algorithm> {
        let offers = |number: &str| list.split(',').any(|n| n.trim() == number);
        if offers("7") {
            Some(Algorithm::Sha256)
        } else if offers("5") {
            Some(Algorithm::Md5)
        } else {
            None
        }
    }
    /// The number.
    pub fn number(self) -> &'static str {
        match self {
            Algorithm::Md5 => "5",
            Algorithm::Sha256 => "7",
        }
    }
    /// The response to a challenge: the hash of identifier, secret and challenge.
    pub fn respond(self, identifier: u8, secret: &str, challenge: &[u8]) -> Vec<u8> {
        match self {
            Algorithm::Md5 => md5::Md5::new()
                .chain_update([identifier])
                .chain_update(secret)
                .chain_update(challenge)
                .finalize()
                .to_vec(),
            Algorithm::Sha256 => sha2::Sha256::new()
                .chain_update([identifier])
                .chain_update(secret)
                .chain_update(challenge)
                .finalize()
                .to_vec(),
        }
    }
}

/// Whether two responses are the same, in a time that does not tell where they differ.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (x, y)| difference | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_hashes_of_all_three() {
        // md5("\x01" "secret" "challenge"), by md5sum.
        let expected = crate::text::binary("0x46e47770030e2b4e26a0db72a7efec00", 16);
        let got = Algorithm::Md5.respond(1, "secret", b"challenge");
        assert_eq!(got.len(), 16);
        assert_eq!(Some(got), expected);
        assert_eq!(Algorithm::Sha256.respond(1, "secret", b"challenge").len(), 32);
    }

    #[test]
    fn the_stronger_algorithm_is_chosen() {
        assert_eq!(Algorithm::choose("5"), Some(Algorithm::Md5));
        assert_eq!(Algorithm::choose("5,6, 7"), Some(Algorithm::Sha256));
        assert_eq!(Algorithm::choose("6,55"), None);
    }

    #[test]
    fn secrets_are_not_printed() {
        let who = Credentials { name: "alice".into(), secret: "hidden".into() };
        assert_eq!(format!("{who:?}"), "Credentials(alice)");
        assert!(same(b"ab", b"ab") && !same(b"ab", b"ac") && !same(b"ab", b"abc"));
    }
}
