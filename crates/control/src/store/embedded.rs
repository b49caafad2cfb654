//! The store of one machine: a single file, crash-safe, locked against a second process.

use std::path::Path;
use std::sync::Arc;

use redb::{Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use super::{Change, Entry, Store, StoreError, StoreFuture, Urgency};

/// Keys to an 8-byte little-endian revision followed by the value.
const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
/// "last" to the highest revision given.
const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");

/// See the module.
pub struct EmbeddedStore(Arc<Database>);

fn failed(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Failed(error.into().to_string())
}

fn entry(key: &str, bytes: &[u8]) -> Result<Entry, StoreError> {
    let Some((revision, value)) = bytes.split_first_chunk::<8>() else {
        return Err(StoreError::Corrupt { key: key.to_owned(), why: "it is too short".to_owned() });
    };
    Ok(Entry { value: value.to_vec(), revision: u64::from_le_bytes(*revision) })
}

impl EmbeddedStore {
    /// Opens the store, or makes an empty one when there is no such file.
    pub fn open(path: &Path) -> Result<EmbeddedStore, StoreError> {
        let database = Database::create(path).map_err(|e| match e {
            DatabaseError::DatabaseAlreadyOpen => StoreError::Busy(path.display().to_string()),
            e => StoreError::Failed(format!("{}: {e}", path.display())),
        })?;
        let begin = database.begin_write().map_err(failed)?;
        begin.open_table(OBJECTS).map_err(failed)?;
        begin.open_table(COUNTERS).map_err(failed)?;
        begin.commit().map_err(failed)?;
        Ok(EmbeddedStore(Arc::new(database)))
    }

    /// Runs a transaction where it may block.
    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, StoreError> + Send + 'static,
    ) -> StoreFuture<'_, T> {
        let database = self.0.clone();
        Box::pin(async move {
            let done = tokio::task::spawn_blocking(move || work(&database)).await;
            done.unwrap_or_else(|e| Err(StoreError::Failed(e.to_string())))
        })
    }
}

impl Store for EmbeddedStore {
    fn get(&self, key: &str) -> StoreFuture<'_, Option<Entry>> {
        let key = key.to_owned();
        self.run(move |database| {
            let table = database.begin_read().map_err(failed)?.open_table(OBJECTS).map_err(failed)?;
            let found = table.get(key.as_str()).map_err(failed)?;
            found.map(|bytes| entry(&key, bytes.value())).transpose()
        })
    }

    fn list(&self, prefix: &str) -> StoreFuture<'_, Vec<(String, Entry)>> {
        let prefix = prefix.to_owned();
        self.run(move |database| {
            let table = database.begin_read().map_err(failed)?.open_table(OBJECTS).map_err(failed)?;
            let mut found = Vec::new();
            for item in table.range(prefix.as_str()..).map_err(failed)? {
                let (key, bytes) = item.map_err(failed)?;
                if !key.value().starts_with(&prefix) {
                    break;
                }
                found.push((key.value().to_owned(), entry(key.value(), bytes.value())?));
            }
            Ok(found)
        })
    }

    fn commit(&self, change: Change) -> StoreFuture<'_, u64> {
        self.run(move |database| {
            let mut transaction = database.begin_write().map_err(failed)?;
            if change.urgency == Urgency::Lazy {
                transaction.set_durability(Durability::None).map_err(|e| StoreError::Failed(e.to_string()))?;
            }
            let revision = apply(&transaction, change)?;
            transaction.commit().map_err(failed)?;
            Ok(revision)
        })
    }
}

fn apply(transaction: &redb::WriteTransaction, change: Change) -> Result<u64, StoreError> {
    let Change { key, expected, value, .. } = change;
    let mut table = transaction.open_table(OBJECTS).map_err(failed)?;
    let found = table.get(key.as_str()).map_err(failed)?.map(|bytes| entry(&key, bytes.value())).transpose()?;
    if !expected.fits(found.map(|e| e.revision)) {
        return Err(StoreError::Conflict(key));
    }
    let mut counters = transaction.open_table(COUNTERS).map_err(failed)?;
    let revision = counters.get("last").map_err(failed)?.map_or(0, |v| v.value()) + 1;
    counters.insert("last", revision).map_err(failed)?;
    match value {
        Some(value) => drop(
            table.insert(key.as_str(), [&revision.to_le_bytes()[..], &value].concat().as_slice()).map_err(failed)?,
        ),
        None => drop(table.remove(key.as_str()).map_err(failed)?),
    }
    Ok(revision)
}
