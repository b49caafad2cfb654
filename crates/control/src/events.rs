//! What happened, for people: kept in the store, the oldest forgotten.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::broadcast;

use crate::record::{self, EventRecord};
use crate::store::{Change, Store, StoreError};

/// See the module.
pub(crate) struct Events {
    store: Arc<dyn Store>,
    keep: usize,
    log: Mutex<Log>,
    news: broadcast::Sender<api::v1::Event>,
}

struct Log {
    next: u64,
    events: VecDeque<(u64, EventRecord)>,
}

fn key(number: u64) -> String {
    format!("event/{number:020}")
}

fn wire(e: &EventRecord) -> api::v1::Event {
    api::v1::Event {
        time_ms: e.time_ms,
        kind: e.kind.clone(),
        object: e.object.clone(),
        text: e.text.clone(),
        actor: e.actor.clone(),
        operation: e.operation.clone(),
    }
}

impl Events {
    pub async fn load(store: Arc<dyn Store>, keep: usize) -> Result<Events, StoreError> {
        let mut log = Log { next: 0, events: VecDeque::new() };
        for (key, entry) in store.list("event/").await? {
            // An event that cannot be read is no reason to stop.
            let number = key["event/".len()..].parse();
            if let (Ok(number), Ok(event)) = (number, record::decode(&key, &entry.value)) {
                log.next = number + 1;
                log.events.push_back((number, event));
            }
        }
        Ok(Events { store, keep, log: Mutex::new(log), news: broadcast::Sender::new(1024) })
    }

    /// Notes that something happened by itself. A store that fails is no reason to stop what happens.
    pub async fn note(&self, kind: &str, object: String, text: String) {
        self.note_for("", kind, object, text).await;
    }

    /// Notes that something happened because of a wish; empty: of none.
    pub async fn note_for(&self, operation: &str, kind: &str, object: String, text: String) {
        self.write(operation, kind, object, text, access::call::note_actor()).await;
    }

    /// Notes that something happened because somebody asked for it.
    async fn write(&self, operation: &str, kind: &str, object: String, text: String, actor: String) {
        tracing::info!(kind, object, operation, actor, "{text}");
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let operation = operation.to_owned();
        let event = EventRecord { time_ms, kind: kind.to_owned(), object, text, actor, operation };
        let mut changes = Vec::new();
        {
            let mut log = self.log.lock().expect("nobody panics while holding the events");
            let number = log.next;
            log.next += 1;
            changes.push(Change::lazy(key(number), Some(record::encode(&event))));
            log.events.push_back((number, event.clone()));
            while log.events.len() > self.keep {
                changes.extend(log.events.pop_front().map(|(number, _)| Change::lazy(key(number), None)));
            }
        }
        // Nobody may be listening.
        let _ = self.news.send(wire(&event));
        for change in changes {
            if let Err(error) = self.store.commit(change).await {
                tracing::warn!("an event was not stored: {error}");
            }
        }
    }

    /// The last `last` events (0: all) about `object` (empty: everything) that `operation` (empty: anything) caused, oldest
    /// first, and those to come.
    pub fn read(
        &self,
        last: usize,
        object: &str,
        operation: &str,
    ) -> (Vec<api::v1::Event>, broadcast::Receiver<api::v1::Event>) {
        let log = self.log.lock().expect("nobody panics while holding the events");
        let fitting = log.events.iter().filter(|(_, e)| {
            (object.is_empty() || e.object == object) && (operation.is_empty() || e.operation == operation)
        });
        let all: Vec<_> = fitting.map(|(_, e)| wire(e)).collect();
        let skip = if last == 0 { 0 } else { all.len().saturating_sub(last) };
        (all.into_iter().skip(skip).collect(), self.news.subscribe())
    }
}

/// Notes calls that changed something, when whoever served them noted nothing.
pub(crate) fn notary(inner: &Arc<crate::Inner>) -> access::layer::Notary {
    let weak = Arc::downgrade(inner);
    Arc::new(move |call| {
        let Some(inner) = weak.upgrade() else { return };
        let object = Some(call.about()).filter(|o| !o.is_empty()).unwrap_or_else(|| "cluster".into());
        let what = call.what.rsplit_once("/mayastor.").map_or(call.what.as_str(), |(_, w)| w);
        let (text, actor) = (format!("{what} was called"), call.caller.name.clone());
        tokio::spawn(async move { inner.events.write("", "called", object, text, actor).await });
    })
}

/// What happens from now on, for whoever shows it.
pub struct EventStream(broadcast::Receiver<api::v1::Event>);

impl EventStream {
    pub(crate) fn new(events: &Events) -> EventStream {
        EventStream(events.news.subscribe())
    }
    /// Waits for the next event; `None` when the control plane has ended. One that was too slow misses some.
    pub async fn next(&mut self) -> Option<api::v1::Event> {
        loop {
            match self.0.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Closed) => return None,
                Err(broadcast::error::RecvError::Lagged(_)) => {}
            }
        }
    }
    /// The next event, if one is there.
    pub fn ready(&mut self) -> Option<api::v1::Event> {
        loop {
            match self.0.try_recv() {
                Ok(event) => return Some(event),
                Err(broadcast::error::TryRecvError::Lagged(_)) => {}
                Err(_) => return None,
            }
        }
    }
}
