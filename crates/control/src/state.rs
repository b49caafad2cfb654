//! What is recorded, in memory: every change is in the store before it is seen here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use plan::{Desired, Volume};
use uuid::Uuid;

use crate::record::{self, NodeRecord};
use crate::store::{Change, Store, StoreError};

const CLUSTER_KEY: &str = "meta/cluster";

/// See the module.
pub(crate) struct State {
    store: Arc<dyn Store>,
    cluster_id: Uuid,
    /// Held over each change, so that changes follow one another.
    commit: tokio::sync::Mutex<()>,
    cache: Mutex<Cache>,
}

/// The records.
pub(crate) struct Cache {
    pub desired: Desired,
    revisions: BTreeMap<Uuid, u64>,
    nodes: BTreeMap<String, NodeRecord>,
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
fn name_key(name: &str) -> String {
    format!("name/{name}")
}

impl State {
    /// Reads all records.
    pub async fn load(store: Arc<dyn Store>) -> Result<State, StoreError> {
        let cluster_id = match store.get(CLUSTER_KEY).await? {
            Some(entry) => record::decode(CLUSTER_KEY, &entry.value)?,
            None => {
                let id = Uuid::new_v4();
                let conditions = vec![(CLUSTER_KEY.to_owned(), None)];
                let puts = vec![(CLUSTER_KEY.to_owned(), record::encode(&id))];
                store.commit(Change { conditions, puts, ..Change::default() }).await?;
                id
            }
        };
        let mut cache = Cache { desired: Desired::default(), revisions: BTreeMap::new(), nodes: BTreeMap::new() };
        for (key, entry) in store.list("volume/").await? {
            let id = key.strip_prefix("volume/").and_then(|id| id.parse::<Uuid>().ok());
            let id =
                id.ok_or_else(|| StoreError::Corrupt { key: key.clone(), why: "its key has no uuid".to_owned() })?;
            cache.desired.volumes.insert(id, record::decode_volume(&key, &entry.value)?);
            cache.revisions.insert(id, entry.revision);
        }
        for (key, entry) in store.list("node/").await? {
            let node = record::decode(&key, &entry.value)?;
            cache.nodes.insert(key["node/".len()..].to_owned(), node);
        }
        Ok(State { store, cluster_id, commit: tokio::sync::Mutex::new(()), cache: Mutex::new(cache) })
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

    /// Remembers where a node is.
    pub async fn put_node(&self, id: &str, endpoint: &str) -> Result<(), StoreError> {
        let node = NodeRecord { endpoint: endpoint.to_owned() };
        if self.read().nodes.get(id) == Some(&node) {
            return Ok(());
        }
        let _one_at_a_time = self.commit.lock().await;
        let puts = vec![(format!("node/{id}"), record::encode(&node))];
        self.store.commit(Change { puts, ..Change::default() }).await?;
        self.read().nodes.insert(id.to_owned(), node);
        Ok(())
    }

    /// Forgets a node.
    pub async fn remove_node(&self, id: &str) -> Result<(), StoreError> {
        let _one_at_a_time = self.commit.lock().await;
        self.store.commit(Change { deletes: vec![format!("node/{id}")], ..Change::default() }).await?;
        self.read().nodes.remove(id);
        Ok(())
    }

    /// Records a new volume. The name must be free.
    pub async fn create(&self, id: Uuid, volume: Volume) -> Result<(), StoreError> {
        let _one_at_a_time = self.commit.lock().await;
        let (key, name) = (volume_key(id), name_key(&volume.name));
        let change = Change {
            conditions: vec![(key.clone(), None), (name.clone(), None)],
            puts: vec![(key, record::encode_volume(&volume)), (name, record::encode(&id))],
            ..Change::default()
        };
        let revision = self.store.commit(change).await?;
        let mut cache = self.read();
        cache.desired.volumes.insert(id, volume);
        cache.revisions.insert(id, revision);
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
        let (mut volume, revision) = {
            let cache = self.read();
            (cache.desired.volumes.get(&id).cloned(), cache.revisions.get(&id).copied())
        };
        let fate = edit(volume.as_mut())?;
        let key = volume_key(id);
        let mut change = Change { conditions: vec![(key.clone(), revision)], ..Change::default() };
        match (fate, volume) {
            (Fate::Unchanged(result), _) => Ok(result),
            (Fate::Put(result), Some(volume)) => {
                change.puts.push((key, record::encode_volume(&volume)));
                let revision = self.commit(id, change).await?;
                let mut cache = self.read();
                cache.desired.volumes.insert(id, volume);
                cache.revisions.insert(id, revision);
                Ok(result)
            }
            (Fate::Delete(result), Some(volume)) => {
                change.deletes = vec![key, name_key(&volume.name)];
                self.commit(id, change).await?;
                let mut cache = self.read();
                cache.desired.volumes.remove(&id);
                cache.revisions.remove(&id);
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
        let key = volume_key(id);
        // When that fails too, the revision of the next commit will not fit, and this is tried again.
        if let Ok(found) = self.store.get(&key).await {
            let volume = found.as_ref().map(|e| record::decode_volume(&key, &e.value)).transpose()?;
            let mut cache = self.read();
            match (found, volume) {
                (Some(entry), Some(volume)) => {
                    cache.desired.volumes.insert(id, volume);
                    cache.revisions.insert(id, entry.revision);
                }
                _ => {
                    cache.desired.volumes.remove(&id);
                    cache.revisions.remove(&id);
                }
            }
        }
        Err(error)
    }

    /// The volume of that name or uuid.
    pub fn find(&self, name: &str) -> Option<Uuid> {
        let cache = self.read();
        let by_uuid = name.parse::<Uuid>().ok().filter(|id| cache.desired.volumes.contains_key(id));
        by_uuid.or_else(|| cache.desired.volumes.iter().find(|(_, v)| v.name == name).map(|(id, _)| *id))
    }
}
