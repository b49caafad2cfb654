//! Who says what is right: the invariants of a run, checked from outside while it runs.

pub mod history;
pub mod register;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use history::History;

/// How a run went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// An invariant was broken.
    Safety(String),
    /// It did not come to rest as it was asked for, although nothing was broken any more.
    Liveness(String),
    /// Our own code panicked.
    Panic(String),
}

impl Wrong {
    /// The exit code of `mayastor sim`.
    pub fn exit_code(&self) -> u8 {
        match self {
            Wrong::Safety(_) => 1,
            Wrong::Liveness(_) => 2,
            Wrong::Panic(_) => 3,
        }
    }
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Wrong::Safety(why) => write!(f, "SAFETY: {why}"),
            Wrong::Liveness(why) => write!(f, "LIVENESS: {why}"),
            Wrong::Panic(why) => write!(f, "PANIC: {why}"),
        }
    }
}

/// Who recorded a volume's ledger last.
#[derive(Clone, Debug)]
pub struct Writer {
    /// The node of the nexus.
    pub node: String,
    /// Since when it is this node.
    pub since: u64,
}

/// All that is known to be true, and the first thing that was not.
#[derive(Default)]
pub struct Oracle {
    volumes: RefCell<BTreeMap<Uuid, History>>,
    writers: RefCell<BTreeMap<Uuid, Writer>>,
    wrong: RefCell<Option<Wrong>>,
    checks: Cell<u64>,
}

impl Oracle {
    /// The first thing that went wrong.
    pub fn wrong(&self) -> Option<Wrong> {
        self.wrong.borrow().clone()
    }

    /// Notes what went wrong; only the first counts.
    pub fn accuse(&self, why: Wrong) {
        self.wrong.borrow_mut().get_or_insert(why);
    }

    /// Checks an invariant.
    pub fn check(&self, holds: bool, why: impl FnOnce() -> String) {
        self.checks.set(self.checks.get() + 1);
        if !holds {
            self.accuse(Wrong::Safety(why()));
        }
    }

    /// How many checks there were.
    pub fn checks(&self) -> u64 {
        self.checks.get()
    }

    /// Looks at, or adds to, the history of a volume. An error is a broken invariant.
    pub fn history<T>(&self, volume: Uuid, act: impl FnOnce(&mut History) -> Result<T, String>) -> Option<T> {
        self.checks.set(self.checks.get() + 1);
        match act(self.volumes.borrow_mut().entry(volume).or_default()) {
            Ok(value) => Some(value),
            Err(why) => {
                self.accuse(Wrong::Safety(format!("volume {}: {why}", short(volume))));
                None
            }
        }
    }

    /// Losses of what was not flushed, over all volumes.
    pub fn losses(&self) -> u64 {
        self.volumes.borrow().values().map(|h| h.losses).sum()
    }

    /// A nexus recorded a ledger and the store took it. The new set must share a member with the one before: the good
    /// copies are never all dropped at once (invariant 4). `opened` when it is the first of another opening.
    pub fn recorded(
        &self,
        (volume, node): (Uuid, &str),
        before: &BTreeSet<Uuid>,
        after: &BTreeSet<Uuid>,
        opened: bool,
        now: u64,
    ) {
        self.check(!after.is_empty(), || format!("volume {}: an empty set in sync was recorded", short(volume)));
        let shared = before.is_empty() || !before.is_disjoint(after);
        self.check(shared, || format!("volume {}: no member of the last set is in the new one", short(volume)));
        let mut writers = self.writers.borrow_mut();
        if writers.get(&volume).is_none_or(|w| w.node != node) {
            writers.insert(volume, Writer { node: node.to_owned(), since: now });
        }
        drop(writers);
        self.history(volume, |h| {
            if opened {
                h.opened(after, now);
            }
            h.members(after);
            Ok(())
        });
    }

    /// A write that was sent at `asked` was acknowledged by the nexus on `node`. When the volume was opened by another node
    /// before the write was sent, two nexuses acknowledge writes (invariant 5).
    pub fn acknowledged_by(&self, volume: Uuid, node: &str, asked: u64) {
        let writers = self.writers.borrow();
        let Some(writer) = writers.get(&volume) else { return };
        self.check(writer.node == node || writer.since >= asked, || {
            let (id, other) = (short(volume), &writer.node);
            format!("volume {id}: {node} acknowledged a write that was sent after {other} had opened the volume")
        });
    }
}

/// The last digits of a uuid, which differ in our scenarios.
pub fn short(id: Uuid) -> String {
    let text = id.simple().to_string();
    text[text.len() - 4..].to_owned()
}
