//! What is recorded, in memory: every change is in the store before it is seen here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use plan::{Desired, Limits, Volume};
use uuid::Uuid;

use crate::record::{self, NodeRecord, RebalanceRecord};
use crate::store::{Change, Expected, Store, StoreError};

const CLUSTER_KEY: &str = "meta/cluster";
const LIMITS_KEY: &str = "meta/limits";
const REBALANCE_KEY: &str = "meta/rebalance";
const TERM_KEY: &str = "meta/term";

/// See the module.
pub(crate) struct State {
    store: Arc<dyn Store>,
    cluster_id: Uuid,
    term: u64,
    /// Volumes of which nobody knows what the store holds: a change failed, and so did the look at what became of it.
    doubts: Mutex<BTreeSet<Uuid>>,
    /// Held over each change, so that changes follow one another.
    commit: tokio::sync::Mutex<()>,
    cache: Mutex<Cache>,
}

/// The records.
pub(crate) struct Cache {
    pub desired: Desired,
    pub nodes: BTreeMap<String, NodeRecord>,
    /// The rebalance that is under way.
    pub rebalance: Option<RebalanceRecord>,
    /// What changed since the planner was told.
    pub news: Changes,
    revisions: BTreeMap<Uuid, u64>,
    names: BTreeMap<String, Uuid>,
}

/// What changed in the records.
#[derive(Default)]
pub(crate) struct Changes {
    pub volumes: BTreeSet<Uuid>,
    /// Nodes whose service or labels changed.
    pub nodes: BTreeSet<String>,
    pub limits: bool,
}

impl Cache {
    fn put(&mut self, id: Uuid, volume: Volume, revision: u64) {
        self.names.insert(volume.name.clone(), id);
        self.desired.volumes.insert(id, volume);
        self.revisions.insert(id, revision);
        self.news.volumes.insert(id);
    }
    fn remove(&mut self, id: Uuid) {
        if let Some(volume) = self.desired.volumes.remove(&id)
            && self.names.get(&volume.name) == Some(&id)
        {
            self.names.remove(&volume.name);
        }
        self.revisions.remove(&id);
        self.news.volumes.insert(id);
    }
    fn put_node(&mut self, id: &str, node: NodeRecord) {
        self.desired.nodes.insert(id.to_owned(), node.wish());
        self.nodes.insert(id.to_owned(), node);
        self.news.nodes.insert(id.to_owned());
    }
    /// The wish that the actions of a volume follow: that it leaves a node that is drained, else a rebalance, else the last
    /// one about itself; empty: none. The last comes last, since it is forgotten in memory only: after a start, the records
    /// still name wishes that came true long ago.
    pub fn operation(&self, volume: &Volume) -> String {
        let held =
            volume.copies.values().map(|r| r.pool.node.as_str()).chain(volume.nexus_nodes.iter().map(String::as_str));
        let drain = held.filter(|n| self.desired.is_draining(n)).find_map(|n| self.nodes.get(n)?.drain.as_ref());
        let moving = self.rebalance.as_ref().filter(|_| volume.moving.is_some()).map(|r| &r.operation);
        drain.map(|d| &d.operation).or(moving).unwrap_or(&volume.operation).clone()
    }
}

/// What becomes of a record that is being changed.
pub(crate) enum Fate<T> {
    /// It is as it was.
    Unchanged(T),
    /// It was changed, or is new.
    Put(T),
    /// It goes.
    Delete(T),
}

fn volume_key(id: Uuid) -> String {
    format!("volume/{id}")
}
fn node_key(id: &str) -> String {
    format!("node/{id}")
}

impl State {
    /// Reads all records.
    pub async fn load(store: Arc<dyn Store>) -> Result<State, StoreError> {
        let cluster_id = match store.get(CLUSTER_KEY).await? {
            Some(entry) => record::decode(CLUSTER_KEY, &entry.value)?,
            None => {
                let id = Uuid::new_v4();
                store.commit(Change::new(CLUSTER_KEY, Expected::Absent, Some(record::encode(&id)))).await?;
                id
            }
        };
        let term = begin_term(&*store).await?;
        let mut cache = Cache {
            desired: Desired::default(),
            nodes: BTreeMap::new(),
            rebalance: None,
            news: Changes::default(),
            revisions: BTreeMap::new(),
            names: BTreeMap::new(),
        };
        for (key, entry) in store.list("volume/").await? {
            let id = key.strip_prefix("volume/").and_then(|id| id.parse::<Uuid>().ok());
            let id =
                id.ok_or_else(|| StoreError::Corrupt { key: key.clone(), why: "its key has no uuid".to_owned() })?;
            cache.put(id, record::decode_volume(&key, &entry.value)?, entry.revision);
        }
        for (key, entry) in store.list("node/").await? {
            cache.put_node(&key["node/".len()..], record::decode(&key, &entry.value)?);
        }
        if let Some(entry) = store.get(LIMITS_KEY).await? {
            cache.desired.limits = record::decode_limits(LIMITS_KEY, &entry.value)?;
        }
        if let Some(entry) = store.get(REBALANCE_KEY).await? {
            cache.rebalance = Some(record::decode(REBALANCE_KEY, &entry.value)?);
        }
        // Names of volumes had keys of their own once.
        for (key, _) in store.list("name/").await? {
            store.commit(Change::lazy(key, None)).await?;
        }
        let (commit, doubts) = (tokio::sync::Mutex::new(()), Mutex::default());
        Ok(State { store, cluster_id, term, doubts, commit, cache: Mutex::new(cache) })
    }

    /// The term of this control plane: larger than that of every one before it on this store.
    pub fn term(&self) -> u64 {
        self.term
    }
    /// Asks the store whether this control plane still is the one that makes changes: then what it knows is true.
    pub async fn confirm(&self) -> Result<(), StoreError> {
        self.store.confirm().await
    }

    /// The identity of the cluster, made once.
    pub fn cluster_id(&self) -> Uuid {
        self.cluster_id
    }
    /// The records, to look at. Not to be held over an await.
    pub fn read(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().expect("nobody panics while holding the records")
    }
    /// The nodes that registered once, with their endpoints.
    pub fn nodes(&self) -> Vec<(String, String)> {
        self.read().nodes.iter().map(|(id, n)| (id.clone(), n.endpoint.clone())).collect()
    }

    /// Changes what is recorded about a node; one that is not known gets a record.
    pub async fn change_node<T>(&self, id: &str, edit: impl FnOnce(&mut NodeRecord) -> T) -> Result<T, StoreError> {
        let _one_at_a_time = self.commit.lock().await;
        let before = self.read().nodes.get(id).cloned();
        let mut node = before.clone().unwrap_or_default();
        let result = edit(&mut node);
        if before.as_ref() != Some(&node) {
            let value = record::encode(&node);
            self.store.commit(Change::new(node_key(id), Expected::Anything, Some(value))).await?;
            self.read().put_node(id, node);
        }
        Ok(result)
    }

    /// Sets the limits.
    pub async fn put_limits(&self, limits: Limits) -> Result<(), StoreError> {
        let _one_at_a_time = self.commit.lock().await;
        let value = record::encode_limits(&limits);
        self.store.commit(Change::new(LIMITS_KEY, Expected::Anything, Some(value))).await?;
        let mut cache = self.read();
        cache.desired.limits = limits;
        cache.news.limits = true;
        Ok(())
    }

    /// Remembers how far a rebalance is; `None`: there is none.
    pub async fn put_rebalance(&self, rebalance: Option<RebalanceRecord>) -> Result<(), StoreError> {
        let _one_at_a_time = self.commit.lock().await;
        let value = rebalance.as_ref().map(record::encode);
        self.store.commit(Change::new(REBALANCE_KEY, Expected::Anything, value)).await?;
        self.read().rebalance = rebalance;
        Ok(())
    }

    /// Forgets a node.
    pub async fn remove_node(&self, id: &str) -> Result<(), StoreError> {
        let _one_at_a_time = self.commit.lock().await;
        self.store.commit(Change::new(node_key(id), Expected::Anything, None)).await?;
        let mut cache = self.read();
        cache.nodes.remove(id);
        cache.desired.nodes.remove(id);
        cache.news.nodes.insert(id.to_owned());
        Ok(())
    }

    /// Records a new volume. Its name and uuid must be free: since one control plane at a time makes changes, one after the
    /// other, it is enough to look at the records here.
    pub async fn create(&self, id: Uuid, volume: Volume) -> Result<(), StoreError> {
        let _one_at_a_time = self.commit.lock().await;
        self.settle().await?;
        if self.read().names.contains_key(&volume.name) {
            return Err(StoreError::Conflict(format!("the volume {}", volume.name)));
        }
        let change = Change::new(volume_key(id), Expected::Absent, Some(record::encode_volume(&volume)));
        let revision = self.commit(id, change).await?;
        self.read().put(id, volume, revision);
        Ok(())
    }

    /// Changes a volume: `edit` gets a copy of the record (`None` when there is no such volume) and says what becomes of
    /// it. It may be called with a record that changed since the caller looked.
    pub async fn change<T, E: From<StoreError>>(
        &self,
        id: Uuid,
        edit: impl FnOnce(Option<&mut Volume>) -> Result<Fate<T>, E>,
    ) -> Result<T, E> {
        let _one_at_a_time = self.commit.lock().await;
        self.settle().await?;
        let (mut volume, revision) = {
            let cache = self.read();
            (cache.desired.volumes.get(&id).cloned(), cache.revisions.get(&id).copied())
        };
        let fate = edit(volume.as_mut())?;
        let key = volume_key(id);
        let expected = revision.map_or(Expected::Absent, Expected::Revision);
        match (fate, volume) {
            (Fate::Unchanged(result), _) => Ok(result),
            (Fate::Put(result), Some(volume)) => {
                let value = Some(record::encode_volume(&volume));
                let revision = self.commit(id, Change::new(key, expected, value)).await?;
                self.read().put(id, volume, revision);
                Ok(result)
            }
            (Fate::Delete(result), Some(_)) => {
                self.commit(id, Change::new(key, expected, None)).await?;
                self.read().remove(id);
                Ok(result)
            }
            (_, None) => panic!("a record that does not exist was changed"),
        }
    }

    /// Commits; when it fails, nobody knows what the store holds now, so the record is read again.
    async fn commit(&self, id: Uuid, change: Change) -> Result<u64, StoreError> {
        let error = match self.store.commit(change).await {
            Ok(revision) => return Ok(revision),
            Err(error) => error,
        };
        self.doubts.lock().expect("nobody panics while holding the doubts").insert(id);
        // When that fails too, it is tried again before the next change.
        let _ = self.settle().await;
        Err(error)
    }

    /// Reads the records again of which nobody knows what the store holds.
    async fn settle(&self) -> Result<(), StoreError> {
        let doubts = self.doubts.lock().expect("nobody panics while holding the doubts").clone();
        for id in doubts {
            let key = volume_key(id);
            let found = self.store.get(&key).await?;
            let volume = found.as_ref().map(|e| record::decode_volume(&key, &e.value)).transpose()?;
            let mut cache = self.read();
            match found.zip(volume) {
                Some((entry, volume)) => cache.put(id, volume, entry.revision),
                None => cache.remove(id),
            }
            self.doubts.lock().expect("nobody panics while holding the doubts").remove(&id);
        }
        Ok(())
    }

    /// The volume of that name or uuid.
    pub fn find(&self, name: &str) -> Option<Uuid> {
        let cache = self.read();
        let by_uuid = name.parse::<Uuid>().ok().filter(|id| cache.desired.volumes.contains_key(id));
        by_uuid.or_else(|| cache.names.get(name).copied())
    }
}

/// Begins a term: the number that engines hear, so that nothing of a former control plane is done any more. It grows even
/// when the store was lost and made anew, unless the clock was set back too.
async fn begin_term(store: &dyn Store) -> Result<u64, StoreError> {
    let found = store.get(TERM_KEY).await?;
    let last: u64 = found.as_ref().map(|e| record::decode(TERM_KEY, &e.value)).transpose()?.unwrap_or(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let term = u64::try_from(now.as_millis()).unwrap_or(0).max(last + 1);
    let expected = found.map_or(Expected::Absent, |e| Expected::Revision(e.revision));
    store.commit(Change::new(TERM_KEY, expected, Some(record::encode(&term)))).await?;
    Ok(term)
}
