//! The corpora as the tests see them.

use std::path::{Path, PathBuf};

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target)
}

/// Runs a target's body with each file of its corpus.
pub fn replay(target: &str, run: impl Fn(&[u8])) {
    let mut files: Vec<_> =
        std::fs::read_dir(folder(target)).expect("the corpus").map(|f| f.expect("a file").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "the corpus is there");
    for file in files {
        println!("{}", file.display());
        run(&std::fs::read(&file).expect("readable"));
    }
}

/// Writes seeds into a target's corpus.
#[allow(dead_code, reason = "not every crate makes its seeds with its encoders")]
pub fn write(target: &str, seeds: &[(impl AsRef<str>, Vec<u8>)]) {
    std::fs::create_dir_all(folder(target)).expect("writable");
    for (name, bytes) in seeds {
        std::fs::write(folder(target).join(name.as_ref()), bytes).expect("writable");
    }
}
