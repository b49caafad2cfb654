//! Small files that are replaced as a whole.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// The contents, or `None` when there is no such file. Blocks.
pub(crate) fn load(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(contents) => Ok(Some(contents)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Writes a new file beside the old one, makes it durable, gives it the name, and makes the name durable. Blocks.
pub(crate) fn store(path: &Path, contents: &[u8]) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let (Some(name), Some(parent)) = (path.file_name(), path.parent()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} names no file", path.display())));
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let new = parent.join(format!(".{}.{}.{count}.new", name.to_string_lossy(), std::process::id()));
    let stored = write(&new, contents).and_then(|()| fs::rename(&new, path));
    if stored.is_err() {
        // The first error is the one that matters.
        let _ = fs::remove_file(&new);
    }
    stored?;
    fs::File::open(parent)?.sync_all()
}

fn write(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    file.write_all(contents)?;
    file.sync_all()
}
