//! The stores, one suite run against each.
#![allow(clippy::disallowed_methods, reason = "tests live in the real world")]

mod conformance;

use std::sync::Arc;

use control::store::{Change, EmbeddedStore, Expected, MemoryStore, Store, StoreError};

struct Dir(std::path::PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let path = std::env::temp_dir().join(format!("mayastor-store-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Dir(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn the_memory_store_conforms() {
    conformance::run(Arc::new(MemoryStore::default())).await;
}

#[tokio::test]
async fn the_embedded_store_conforms() {
    let dir = Dir::new("conforms");
    conformance::run(Arc::new(EmbeddedStore::open(&dir.0.join("s.redb")).unwrap())).await;
}

#[tokio::test]
async fn the_embedded_store_has_one_user_and_remembers() {
    let dir = Dir::new("remembers");
    let path = dir.0.join("s.redb");
    let store = EmbeddedStore::open(&path).unwrap();
    assert!(matches!(EmbeddedStore::open(&path), Err(StoreError::Busy(_))));
    let revision = store.commit(Change::new("node/a", Expected::Absent, Some(b"1".to_vec()))).await.unwrap();
    drop(store);
    let store = EmbeddedStore::open(&path).unwrap();
    let entry = store.get("node/a").await.unwrap().unwrap();
    assert_eq!((entry.revision, entry.value), (revision, b"1".to_vec()));
    let next = store.commit(Change::new("node/a", Expected::Revision(revision), None)).await.unwrap();
    assert_ne!(next, revision);
}
