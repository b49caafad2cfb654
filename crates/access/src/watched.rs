//! Files that are read again when they change.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    seconds: i64,
    nanos: i64,
}

impl From<&Metadata> for Stamp {
    fn from(m: &Metadata) -> Stamp {
        Stamp { inode: m.ino(), size: m.size(), seconds: m.mtime(), nanos: m.mtime_nsec() }
    }
}

/// The content of a file as a value. A file that cannot be read or understood is the default value, and that is logged
/// once: what is not known to be allowed is not.
pub(crate) struct Watched<T> {
    path: PathBuf,
    read: fn(&str) -> Result<T, String>,
    seen: Mutex<Option<(Option<Stamp>, Arc<T>)>>,
}

impl<T> std::fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Watched({})", self.path.display())
    }
}

impl<T: Default> Watched<T> {
    /// The file at `path`, understood by `read`.
    pub fn new(path: &Path, read: fn(&str) -> Result<T, String>) -> Watched<T> {
        Watched { path: path.to_owned(), read, seen: Mutex::new(None) }
    }

    /// What is in it now.
    pub fn get(&self) -> Arc<T> {
        let stamp = std::fs::metadata(&self.path).ok().map(|m| Stamp::from(&m));
        let mut seen = self.seen.lock().expect("nobody panics while holding it");
        if let Some((at, value)) = &*seen
            && *at == stamp
        {
            return value.clone();
        }
        let text = std::fs::read_to_string(&self.path).map_err(|e| e.to_string());
        let value = Arc::new(text.and_then(|text| (self.read)(&text)).unwrap_or_else(|why| {
            tracing::error!("{}: {why}; nothing in it counts", self.path.display());
            T::default()
        }));
        *seen = Some((stamp, value.clone()));
        value
    }

    /// Reads it now.
    ///
    /// # Errors
    /// It cannot be read or understood.
    pub fn check(&self) -> Result<(), String> {
        let wrong = |why: String| format!("{}: {why}", self.path.display());
        let text = std::fs::read_to_string(&self.path).map_err(|e| wrong(e.to_string()))?;
        (self.read)(&text).map(drop).map_err(wrong)?;
        let mode = std::fs::metadata(&self.path).map_or(0, |m| m.mode());
        if mode & 0o007 != 0 {
            tracing::warn!("{}: everybody on this machine can read it; chmod 600 it", self.path.display());
        }
        Ok(())
    }
}
