//! The store of the control plane in Kubernetes: each record is part of an object.
//!
//! | key | object |
//! |---|---|
//! | `volume/UUID` | the MayastorVolume with the volume's name |
//! | `node/ID` | the MayastorNode of that name |
//! | `event/NUMBER` | an Event about the object that it tells of; Kubernetes forgets it after a time |
//! | all others | a ConfigMap of its own |
//!
//! A record has a revision of its own, kept beside it and tested by the API server in the same request that changes it: what
//! people write into `spec`, and what is written into `status`, does not get in its way. A change of a record that people
//! see in `spec` (replicas, size) is made there in the same request, unless a person's edit waits there to be taken over.

mod configs;
pub(crate) mod events;
mod object;
pub(crate) mod spec;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use control::store::election::Reign;
use control::store::{Change, Entry, Store, StoreError, StoreFuture, Urgency};
use futures_util::future::try_join_all;
use kube::Client;

use crate::lease::Lease;
use object::{Kind, Objects};

/// How long a call to the API server may take.
pub(crate) const CALL: Duration = Duration::from_secs(10);
/// How many objects a new leader claims at a time.
const CLAIMS: usize = 16;

/// See the module.
pub struct KubernetesStore(Arc<Inner>);

struct Inner {
    client: Client,
    namespace: String,
    lease: Lease,
    reign: Reign,
    volumes: Objects,
    nodes: Objects,
    /// The names of the volumes' objects, by key.
    names: Mutex<BTreeMap<String, String>>,
}

/// What the API server said, or why it could not be asked.
pub(crate) fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("the API server refused: {}", status.message),
        other => {
            let mut text = format!("the API server cannot be used: {other}");
            let mut source = std::error::Error::source(other);
            while let Some(error) = source {
                text = format!("the API server cannot be used: {error}");
                source = error.source();
            }
            text
        }
    }
}

/// A call with a limit. What it did is unknown when the limit is over.
pub(crate) async fn call<T>(future: impl Future<Output = kube::Result<T>>) -> Result<T, CallError> {
    match tokio::time::timeout(CALL, future).await {
        Ok(done) => done.map_err(CallError::Answered),
        Err(_) => Err(CallError::Silent),
    }
}

/// Why a call did not succeed.
pub(crate) enum CallError {
    /// The client or the server says so.
    Answered(kube::Error),
    /// No answer within [`CALL`].
    Silent,
}
impl CallError {
    /// The server's status code; 0 when it did not answer.
    pub fn code(&self) -> u16 {
        match self {
            CallError::Answered(kube::Error::Api(status)) => status.code,
            _ => 0,
        }
    }
    pub fn text(&self) -> String {
        match self {
            CallError::Answered(error) => words(error),
            CallError::Silent => format!("the API server did not answer within {} s", CALL.as_secs()),
        }
    }
}
impl From<CallError> for StoreError {
    fn from(error: CallError) -> StoreError {
        StoreError::Failed(error.text())
    }
}

/// Where a key is kept.
enum Place {
    Volume,
    Node(String),
    Event,
    Config,
}

fn place(key: &str) -> Place {
    match key.split_once('/') {
        Some(("volume", _)) => Place::Volume,
        Some(("node", id)) => Place::Node(id.to_owned()),
        Some(("event", _)) => Place::Event,
        _ => Place::Config,
    }
}

impl KubernetesStore {
    pub(crate) fn new(client: Client, namespace: String, lease: Lease, reign: Reign) -> KubernetesStore {
        let volumes = Objects::new(&client, &namespace, Kind::Volume);
        let nodes = Objects::new(&client, &namespace, Kind::Node);
        let names = Mutex::default();
        KubernetesStore(Arc::new(Inner { client, namespace, lease, reign, volumes, nodes, names }))
    }

    /// Makes each record ours, so that no conditional change that a former leader sent meets the revision that it knew.
    pub(crate) async fn claim(&self) -> Result<(), StoreError> {
        let inner = &self.0;
        for objects in [&inner.volumes, &inner.nodes] {
            for some in objects.list().await?.chunks(CLAIMS) {
                let mut claims = Vec::new();
                for object in some {
                    claims.push(objects.claim(object));
                }
                try_join_all(claims).await?;
            }
        }
        configs::claim(&inner.client, &inner.namespace).await
    }
}

impl Inner {
    fn may_write(&self) -> Result<(), StoreError> {
        if self.reign.is_valid() {
            return Ok(());
        }
        Err(StoreError::Deposed("its lease ran out".to_owned()))
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        match place(key) {
            Place::Volume => Ok(self.volume(key).await?.and_then(|object| object.entry())),
            Place::Node(id) => Ok(self.nodes.get(&id).await?.and_then(|object| object.entry())),
            Place::Event => events::get(&self.client, &self.namespace, key).await,
            Place::Config => configs::get(&self.client, &self.namespace, key).await,
        }
    }

    /// The object of a volume, found by its name when that is known.
    async fn volume(&self, key: &str) -> Result<Option<object::Object>, StoreError> {
        let name = self.names.lock().expect("nobody panics while holding the names").get(key).cloned();
        if let Some(name) = name
            && let Some(object) = self.volumes.get(&name).await?
            && object.key() == Some(key)
        {
            return Ok(Some(object));
        }
        let found = self.volumes.list().await?.into_iter().find(|object| object.key() == Some(key));
        if let Some(object) = &found {
            self.remember(key, object.name());
        }
        Ok(found)
    }

    fn remember(&self, key: &str, name: &str) {
        self.names.lock().expect("nobody panics while holding the names").insert(key.to_owned(), name.to_owned());
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Entry)>, StoreError> {
        let mut found = match place(prefix) {
            Place::Volume => {
                let all = self.volumes.list().await?;
                for object in &all {
                    if let Some(key) = object.key() {
                        self.remember(key, object.name());
                    }
                }
                all.iter().filter_map(object::Object::keyed).collect()
            }
            Place::Node(_) => self.nodes.list().await?.iter().filter_map(object::Object::keyed).collect(),
            Place::Event => events::list(&self.client, &self.namespace).await?,
            Place::Config => configs::list(&self.client, &self.namespace).await?,
        };
        found.retain(|(key, _): &(String, Entry)| key.starts_with(prefix));
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(found)
    }

    async fn commit(&self, change: Change) -> Result<u64, StoreError> {
        self.may_write()?;
        let Change { key, expected, value, urgency } = change;
        match (place(&key), value) {
            (Place::Event, value) if urgency == Urgency::Lazy => {
                events::put(&self.client, &self.namespace, &key, value).await
            }
            (Place::Config | Place::Event, value) => {
                configs::commit(&self.client, &self.namespace, &key, expected, value).await
            }
            (Place::Volume, Some(value)) => {
                let data = object::data(&key, &value)?;
                let name = spec::name(&key, &data)?;
                let revision = self.volumes.put(&name, &key, expected, data).await?;
                self.remember(&key, &name);
                Ok(revision)
            }
            (Place::Volume, None) => {
                let found = self.volume(&key).await?;
                let revision = self.volumes.remove(found, &key, expected).await?;
                self.names.lock().expect("nobody panics while holding the names").remove(&key);
                Ok(revision)
            }
            (Place::Node(id), Some(value)) => self.nodes.put(&id, &key, expected, object::data(&key, &value)?).await,
            (Place::Node(id), None) => {
                let found = self.nodes.get(&id).await?;
                self.nodes.remove(found, &key, expected).await
            }
        }
    }
}

impl Store for KubernetesStore {
    fn get(&self, key: &str) -> StoreFuture<'_, Option<Entry>> {
        let key = key.to_owned();
        Box::pin(async move { self.0.get(&key).await })
    }
    fn list(&self, prefix: &str) -> StoreFuture<'_, Vec<(String, Entry)>> {
        let prefix = prefix.to_owned();
        Box::pin(async move { self.0.list(&prefix).await })
    }
    fn commit(&self, change: Change) -> StoreFuture<'_, u64> {
        Box::pin(self.0.commit(change))
    }
    fn confirm(&self) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            self.0.may_write()?;
            self.0.lease.confirm().await
        })
    }
}
