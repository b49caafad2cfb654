//! The objects of a kind, as the API server tells of them. After a loss of the connection, or when what happened meanwhile
//! is not kept any more, everything is listed again.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::{StreamExt, pin_mut};
use kube::api::Api;
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt, utils};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

/// What is known of the objects of a kind.
pub(crate) struct Seen<K>(Mutex<Known<K>>);

struct Known<K> {
    objects: BTreeMap<String, Arc<K>>,
    complete: bool,
}

impl<K> Seen<K> {
    pub fn new() -> Arc<Seen<K>> {
        Arc::new(Seen(Mutex::new(Known { objects: BTreeMap::new(), complete: false })))
    }
    fn lock(&self) -> MutexGuard<'_, Known<K>> {
        self.0.lock().expect("nobody panics while holding the objects")
    }
    /// All objects by name; `None` until they were listed once.
    pub fn all(&self) -> Option<BTreeMap<String, Arc<K>>> {
        let known = self.lock();
        known.complete.then(|| known.objects.clone())
    }
}

/// Follows the objects for as long as it is polled, and says when something is new.
pub(crate) async fn follow<K>(api: Api<K>, seen: Arc<Seen<K>>, news: Arc<Notify>)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let events = watcher(api, watcher::Config::default()).default_backoff();
    let events: utils::StreamBackoff<_, _> = events;
    pin_mut!(events);
    let mut listed: BTreeMap<String, Arc<K>> = BTreeMap::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => drop(listed.insert(object.name_any(), Arc::new(object))),
            Ok(Event::InitDone) => {
                let mut known = seen.lock();
                known.objects = std::mem::take(&mut listed);
                known.complete = true;
            }
            Ok(Event::Apply(object)) => drop(seen.lock().objects.insert(object.name_any(), Arc::new(object))),
            Ok(Event::Delete(object)) => drop(seen.lock().objects.remove(&object.name_any())),
            Err(error) => {
                tracing::warn!("the watch of {} broke and is begun anew: {error}", K::plural(&()));
                continue;
            }
        }
        news.notify_one();
    }
}
