//! The cluster's store: the records of volumes, with revisions, reached over the network; answers may be lost after the
//! change was made.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::{Rc, Weak};
use std::time::Duration;

use engine::volume::{LedgerError, LedgerStore, StoredLedger};
use futures_channel::oneshot;
use host::{Host, LocalFuture};
use nexus::ledger::Version;
use plan::{Desired, Ledger, Volume};
use uuid::Uuid;

use crate::cluster::Shared;

/// Where the store runs.
pub const STORE: &str = "store";

/// The store itself.
#[derive(Default)]
pub struct Store {
    volumes: RefCell<BTreeMap<Uuid, (u64, Volume)>>,
    /// Of 100 answers, how many are lost now.
    pub lost_replies: Cell<u64>,
}

/// The records, and the revision of each.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// The records.
    pub desired: Desired,
    /// By volume.
    pub revisions: BTreeMap<Uuid, u64>,
}

/// Why a change was not made, or not known to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// Somebody else changed the record.
    Conflict,
    /// No answer; the change may have been made.
    Unreachable,
}

impl Store {
    /// All records, as they are.
    pub fn snapshot(&self) -> Snapshot {
        let volumes = self.volumes.borrow();
        Snapshot {
            desired: Desired {
                volumes: volumes.iter().map(|(id, (_, v))| (*id, v.clone())).collect(),
                ..Desired::default()
            },
            revisions: volumes.iter().map(|(id, (revision, _))| (*id, *revision)).collect(),
        }
    }

    /// One record, as it is.
    pub fn volume(&self, id: Uuid) -> Option<Volume> {
        self.volumes.borrow().get(&id).map(|(_, v)| v.clone())
    }

    /// Changes a record at once; `None` from `edit` deletes it. For users, who are not part of what is simulated.
    pub fn edit(&self, id: Uuid, edit: impl FnOnce(Option<Volume>) -> Option<Volume>) {
        let mut volumes = self.volumes.borrow_mut();
        let before = volumes.remove(&id);
        let revision = before.as_ref().map_or(0, |(revision, _)| *revision) + 1;
        if let Some(volume) = edit(before.map(|(_, v)| v)) {
            volumes.insert(id, (revision, volume));
        }
    }

    fn commit(&self, id: Uuid, expected: u64, new: Option<Volume>) -> Result<(), StoreError> {
        if self.volumes.borrow().get(&id).is_none_or(|(revision, _)| *revision != expected) {
            return Err(StoreError::Conflict);
        }
        self.edit(id, |_| new);
        Ok(())
    }
}

/// Asks the store from `node`: the request travels, `act` is carried out there, the answer travels back. The requester may
/// die or give up meanwhile; a request that has left is carried out all the same.
async fn ask<T: 'static>(
    shared: Weak<Shared>,
    host: Host,
    node: String,
    act: impl FnOnce(&Shared) -> T + 'static,
) -> Option<T> {
    let limit = Duration::from_millis(500 + host.random() % 1500);
    let from = node.clone();
    let asking = async {
        let strong = shared.upgrade()?;
        let (there, delay) = (strong.store_host(), strong.watcher.way(&node, STORE)?);
        let delay = delay + Duration::from_micros(100 + host.random() % 3000);
        drop(strong);
        let (tx, rx) = oneshot::channel();
        let store_host = there.clone();
        there.spawn(async move {
            store_host.sleep(delay).await;
            let Some(shared) = shared.upgrade() else { return };
            let answer = act(&shared);
            let lost = store_host.random() % 100 < shared.store.lost_replies.get();
            if let (false, Some(back)) = (lost, shared.watcher.way(STORE, &from)) {
                store_host.sleep(back + Duration::from_micros(100)).await;
                // The requester may be gone.
                let _ = tx.send(answer);
            }
        });
        rx.await.ok()
    };
    let asked = host.timeout(limit, asking).await.flatten();
    if asked.is_none() {
        // No way, or no answer: whoever asked finds out after a while.
        host.sleep(Duration::from_millis(20)).await;
    }
    asked
}

impl Shared {
    /// All records, as `node` gets to see them.
    pub async fn read_store(self: &Rc<Self>, host: &Host, node: &str) -> Result<Snapshot, StoreError> {
        let asked = ask(Rc::downgrade(self), host.clone(), node.to_owned(), |shared| shared.store.snapshot());
        asked.await.ok_or(StoreError::Unreachable)
    }

    /// Changes a record, when it still has that revision.
    pub async fn write_store(
        self: &Rc<Self>,
        host: &Host,
        node: &str,
        id: Uuid,
        expected: u64,
        new: Option<Volume>,
    ) -> Result<(), StoreError> {
        let act = move |shared: &Shared| shared.store.commit(id, expected, new);
        let asked = ask(Rc::downgrade(self), host.clone(), node.to_owned(), act);
        asked.await.ok_or(StoreError::Unreachable)?
    }

    /// The store's part of recording a ledger, with the control plane's rules: only the volume's target may, and only with
    /// a newer ledger than the one on record.
    fn record_ledger(&self, id: Uuid, new: &StoredLedger, node: &str) -> Result<(), LedgerError> {
        let members: BTreeSet<Uuid> = new.in_sync.iter().filter_map(|uri| uuid_of(uri)).collect();
        let ledger = Ledger { generation: new.generation, in_sync: members };
        let Some(volume) = self.store.volume(id) else { return Err(LedgerError::Fenced) };
        let allowed = volume.target.as_deref() == Some(node);
        let known = volume.ledger.clone();
        match known {
            _ if !allowed => return Err(LedgerError::Fenced),
            Some(known) if known == ledger => return Ok(()),
            Some(known) if known.generation >= ledger.generation => return Err(LedgerError::Fenced),
            known => self.note_ledger(id, node, known.as_ref(), &ledger),
        }
        self.store.edit(id, |volume| volume.map(|v| Volume { ledger: Some(ledger), ..v }));
        Ok(())
    }

    /// Tells the oracle and the trace of a ledger that the store takes.
    pub fn note_ledger(&self, id: Uuid, node: &str, before: Option<&Ledger>, after: &Ledger) {
        let empty = BTreeSet::new();
        let now = self.watcher.now();
        let writer = |l: &Ledger| Version::from_number(l.generation).writer();
        let opened = before.is_some_and(|l| writer(l) != writer(after));
        let set_before = before.map_or(&empty, |l| &l.in_sync);
        self.oracle.recorded((id, node), set_before, &after.in_sync, opened, now.0);
        self.trace.note(now, STORE, "ledger", &[after.generation.0, after.in_sync.len() as u64], || {
            let names: Vec<String> = after.in_sync.iter().map(|m| self.copy_name(*m)).collect();
            let id = crate::oracle::short(id);
            format!("volume {id}: {node} records {:x} with {}", after.generation.0, names.join(" "))
        });
    }
}

/// The replica that a child's URI ends with.
pub fn uuid_of(uri: &str) -> Option<Uuid> {
    uri.split(['?', '#']).next()?.rsplit(['/', ':']).next()?.parse().ok()
}

/// The store as the engine of one node sees it.
pub struct StoreLink {
    /// The cluster.
    pub shared: Weak<Shared>,
    /// The node.
    pub node: String,
    /// The node's host.
    pub host: Host,
}

impl LedgerStore for StoreLink {
    fn record(&self, volume: Uuid, ledger: StoredLedger) -> LocalFuture<'static, Result<(), LedgerError>> {
        let (shared, host, node) = (self.shared.clone(), self.host.clone(), self.node.clone());
        Box::pin(async move {
            let from = node.clone();
            let act = move |shared: &Shared| shared.record_ledger(volume, &ledger, &from);
            let asked = ask(shared, host, node, act).await;
            asked.unwrap_or_else(|| Err(LedgerError::Unavailable("no answer in time".into())))
        })
    }
}
