//! What happened, in order: a rolling hash of all of it, and lines of it for whoever wants to read.

use std::cell::{Cell, RefCell};

use block::Instant;

/// The events of one run.
#[derive(Default)]
pub struct Trace {
    hash: Cell<u64>,
    events: Cell<u64>,
    /// Lines are kept only when asked for.
    lines: Option<RefCell<Vec<String>>>,
}

impl Trace {
    /// A trace that keeps lines, or only the hash.
    pub fn new(keep_lines: bool) -> Trace {
        Trace { lines: keep_lines.then(RefCell::default), ..Trace::default() }
    }

    /// Something happened: `words` say what, for the hash; `text` says it to people.
    pub fn note(&self, now: Instant, who: &str, what: &str, words: &[u64], text: impl FnOnce() -> String) {
        let bytes = who.bytes().chain(what.bytes()).map(u64::from);
        let hash = bytes
            .chain(words.iter().copied())
            .chain([now.0])
            .fold(self.hash.get(), |hash, word| (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29));
        self.hash.set(hash);
        self.events.set(self.events.get() + 1);
        if let Some(lines) = &self.lines {
            let ms = now.0 as f64 / 1e6;
            lines.borrow_mut().push(format!("{ms:>12.3}  {who:<10} {what:<10} {}", text()));
        }
    }

    /// The hash of everything so far.
    pub fn hash(&self) -> u64 {
        self.hash.get()
    }

    /// How many events there were.
    pub fn events(&self) -> u64 {
        self.events.get()
    }

    /// The lines, if they were kept.
    pub fn take_lines(&self) -> Vec<String> {
        self.lines.as_ref().map(RefCell::take).unwrap_or_default()
    }
}
