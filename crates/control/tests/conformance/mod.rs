//! What every store must do. A store's own test gives it empty stores, and the means to open one again.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeSet;
use std::sync::Arc;

use control::store::{Change, Expected, Store, StoreError};

fn put(key: &str, expected: Expected, value: &str) -> Change {
    Change::new(key, expected, Some(value.as_bytes().to_vec()))
}

async fn value(store: &dyn Store, key: &str) -> Option<String> {
    store.get(key).await.unwrap().map(|e| String::from_utf8(e.value).unwrap())
}

/// Runs all of it on an empty store. Keys are those that the control plane uses, so that a store may know their kinds;
/// values are records of their kind.
pub async fn run(store: Arc<dyn Store>) {
    conditions(&*store).await;
    lists(&*store).await;
    large(&*store).await;
    lazy(&*store).await;
    concurrent(store.clone()).await;
    store.confirm().await.unwrap();
}

/// Another record each time, of the kind that the key wants.
fn node(n: u32) -> String {
    format!("{{\"endpoint\":\"127.0.0.1:{n}\"}}")
}

async fn conditions(store: &dyn Store) {
    let key = "node/conditions";
    assert_eq!(store.get(key).await.unwrap(), None);
    assert!(store.list("node/").await.unwrap().is_empty());
    let conflict = |e: Result<u64, StoreError>| assert!(matches!(e, Err(StoreError::Conflict(k)) if k == key));
    conflict(store.commit(put(key, Expected::Revision(7), &node(1))).await);
    conflict(store.commit(Change::new(key, Expected::Revision(7), None)).await);

    let first = store.commit(put(key, Expected::Absent, &node(1))).await.unwrap();
    assert_eq!(store.get(key).await.unwrap().unwrap().revision, first);
    conflict(store.commit(put(key, Expected::Absent, &node(2))).await);
    conflict(store.commit(Change::new(key, Expected::Absent, None)).await);
    assert_eq!(value(store, key).await, Some(node(1)), "a refused change has changed nothing");

    let second = store.commit(put(key, Expected::Revision(first), &node(2))).await.unwrap();
    assert_ne!(first, second);
    conflict(store.commit(put(key, Expected::Revision(first), &node(3))).await);
    let third = store.commit(put(key, Expected::Anything, &node(4))).await.unwrap();
    assert_ne!(second, third);
    let entry = store.get(key).await.unwrap().unwrap();
    assert_eq!((entry.revision, entry.value), (third, node(4).into_bytes()));
    // A put of what is there already: whether the revision changes is the store's affair, but it says so truly.
    let same = store.commit(put(key, Expected::Revision(third), &node(4))).await.unwrap();
    assert_eq!(store.get(key).await.unwrap().unwrap().revision, same);

    conflict(store.commit(Change::new(key, Expected::Revision(first), None)).await);
    store.commit(Change::new(key, Expected::Revision(same), None)).await.unwrap();
    assert_eq!(store.get(key).await.unwrap(), None);
    conflict(store.commit(Change::new(key, Expected::Revision(same), None)).await);
    store.commit(Change::new(key, Expected::Anything, None)).await.unwrap();
    // A key that was deleted and made again is another one.
    let again = store.commit(put(key, Expected::Absent, &node(5))).await.unwrap();
    assert!(![first, second, third, same].contains(&again), "a revision came back");
    store.commit(Change::new(key, Expected::Anything, None)).await.unwrap();
}

async fn lists(store: &dyn Store) {
    for name in ["b", "a", "a-b", "c.d"] {
        store.commit(put(&format!("node/{name}"), Expected::Anything, &node(9))).await.unwrap();
    }
    let cluster = "\"5b0a2f53-3b8a-4a1c-9d57-2f8f6c6d1b11\"";
    store.commit(put("meta/cluster", Expected::Anything, cluster)).await.unwrap();
    let found = store.list("node/").await.unwrap();
    let keys: Vec<&str> = found.iter().map(|(k, _)| k.as_str()).collect();
    assert_eq!(keys, ["node/a", "node/a-b", "node/b", "node/c.d"]);
    for (key, entry) in &found {
        assert_eq!(store.get(key).await.unwrap().as_ref(), Some(entry));
        store.commit(Change::new(key.clone(), Expected::Revision(entry.revision), None)).await.unwrap();
    }
    assert!(store.list("node/").await.unwrap().is_empty());
    assert_eq!(value(store, "meta/cluster").await.as_deref(), Some(cluster));
}

/// A record as large as a volume with all its copies and hosts may become, and far more keys than one answer holds.
async fn large(store: &dyn Store) {
    let long = format!("{{\"endpoint\":\"{}\"}}", "x".repeat(200_000));
    store.commit(put("node/long", Expected::Absent, &long)).await.unwrap();
    assert_eq!(value(store, "node/long").await, Some(long));
    store.commit(Change::new("node/long", Expected::Anything, None)).await.unwrap();
    for n in 0..300 {
        store.commit(put(&format!("node/{n:05}"), Expected::Absent, &node(n))).await.unwrap();
    }
    let found = store.list("node/").await.unwrap();
    assert_eq!(found.len(), 300);
    assert!(found.is_sorted_by(|a, b| a.0 < b.0));
    assert_eq!(found[299].1.value, node(299).into_bytes());
    for (key, _) in found {
        store.commit(Change::new(key, Expected::Anything, None)).await.unwrap();
    }
}

/// Changes that may be lost are seen at once all the same.
async fn lazy(store: &dyn Store) {
    let event = "{\"time_ms\":1,\"kind\":\"k\",\"object\":\"volume/v\",\"text\":\"t\"}";
    let key = format!("event/{:020}", 3);
    store.commit(Change::lazy(key.clone(), Some(event.into()))).await.unwrap();
    assert_eq!(value(store, &key).await.as_deref(), Some(event));
    assert_eq!(store.list("event/").await.unwrap().len(), 1);
    store.commit(Change::lazy(key.clone(), None)).await.unwrap();
    assert_eq!(store.get(&key).await.unwrap(), None);
}

/// Of several who change one key at the same time, one succeeds each time; no revision is given twice.
async fn concurrent(store: Arc<dyn Store>) {
    const TASKS: u32 = 4;
    const ROUNDS: u32 = 10;
    store.commit(put("node/contended", Expected::Absent, &node(0))).await.unwrap();
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let (mut done, mut revisions) = (0, Vec::new());
                while done < ROUNDS {
                    let now = store.get("node/contended").await.unwrap().unwrap();
                    let text = String::from_utf8(now.value).unwrap();
                    let count: u32 = text.trim_end_matches("\"}").rsplit_once(':').unwrap().1.parse().unwrap();
                    let next = put("node/contended", Expected::Revision(now.revision), &node(count + 1));
                    match store.commit(next).await {
                        Ok(revision) => {
                            done += 1;
                            revisions.push(revision);
                        }
                        Err(StoreError::Conflict(_)) => tokio::task::yield_now().await,
                        Err(e) => panic!("{e}"),
                    }
                }
                revisions
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.unwrap());
    }
    assert_eq!(value(&*store, "node/contended").await, Some(node(TASKS * ROUNDS)), "no change was lost");
    let distinct: BTreeSet<u64> = all.iter().copied().collect();
    assert_eq!(distinct.len(), all.len(), "no revision was given twice");
    store.commit(Change::new("node/contended", Expected::Anything, None)).await.unwrap();
}
