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

impl Chap {
    /// The contents of a file with a line `NAME SECRET` for the initiator, and for mutual CHAP a second one for the target.
    /// Secrets have 12 bytes or more.
    ///
    /// # Errors
    /// What is wrong with it. No secret is repeated.
    pub fn parse(text: &str) -> Result<Chap, &'static str> {
        let mut lines = text.lines().filter(|line| !line.trim().is_empty()).map(|line| {
            let (name, secret) = line.trim().split_once(char::is_whitespace).ok_or("a line is NAME SECRET")?;
            let secret = secret.trim().to_owned();
            // 9.2.1: what is shorter can be guessed.
            if secret.len() < 12 {
                Err("a secret has 12 bytes or more")
            } else {
                Ok(Credentials { name: name.into(), secret })
            }
        });
        let initiator = lines.next().ok_or("it is empty")??;
        let target = lines.next().transpose()?;
        if lines.next().is_some() {
            return Err("it has more than two lines");
        }
        if target.as_ref().is_some_and(|t| t.secret == initiator.secret) {
            return Err("both sides have the same secret");
        }
        Ok(Chap { initiator, target })
    }
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
    fn names_and_secrets() {
        let one = Chap::parse("alice 0123456789ab\n").expect("valid");
        assert_eq!((one.initiator.name.as_str(), one.initiator.secret.as_str()), ("alice", "0123456789ab"));
        assert!(one.target.is_none());
        let both = Chap::parse("\nalice 0123456789ab\nstorage  another secret \n").expect("valid");
        assert_eq!(both.target.map(|t| t.secret), Some("another secret".into()));
        for wrong in
            ["", "alice", "alice short", "a 0123456789ab\nb 0123456789ab", "a 0123456789ab\nb 0123456789cd\nc 1"]
        {
            assert!(Chap::parse(wrong).is_err(), "{wrong:?}");
        }
    }

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
