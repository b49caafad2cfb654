//! Where a scenario's choices come from: a seed, or bytes that somebody else chose (a fuzzer).

use sim::Entropy;

/// A source of choices. Equal tapes give equal scenarios.
pub struct Tape(Source);

enum Source {
    Seed(Box<Entropy>),
    /// Bytes, and how many of them are used up. After the end come zeroes.
    Bytes(Vec<u8>, usize),
}

impl Tape {
    /// The tape of a seed.
    pub fn of_seed(seed: u64) -> Tape {
        Tape(Source::Seed(Box::new(Entropy::new(seed))))
    }

    /// A tape of bytes, for coverage-guided search.
    pub fn of_bytes(bytes: &[u8]) -> Tape {
        Tape(Source::Bytes(bytes.to_vec(), 0))
    }

    fn word(&mut self, below: u64) -> u64 {
        match &mut self.0 {
            Source::Seed(entropy) => entropy.bits(),
            Source::Bytes(bytes, at) => {
                // As few bytes as the choice needs, so that a small change of the tape is a small change of the run.
                let width = if below <= 1 << 8 { 1 } else { 8 };
                let taken = (0..width).map(|k| bytes.get(*at + k).copied().unwrap_or(0));
                let word = taken.fold(0, |word, byte| word << 8 | u64::from(byte));
                *at += width;
                word
            }
        }
    }

    /// A number in `0..n`; `n` is not 0.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "a choice among nothing");
        self.word(n) % n
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tape_of_bytes_ends_in_zeroes() {
        let mut tape = Tape::of_bytes(&[7, 9]);
        assert_eq!((tape.below(10), tape.below(10), tape.below(10)), (7, 9, 0));
        assert_eq!(tape.between(3, 3), 3);
    }
}
