//! Replays the fuzzers' corpora. What a fuzzer ever found is kept there.

mod support;

#[path = "../../../fuzz/bodies/nvme_pdu.rs"]
mod nvme_pdu;
#[path = "../../../fuzz/bodies/nvme_target.rs"]
mod nvme_target;

use std::path::Path;

#[allow(clippy::disallowed_methods, reason = "a test reads its own data")]
fn replay(name: &str, run: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let mut files: Vec<_> =
        std::fs::read_dir(&folder).expect("the corpus").map(|f| f.expect("a file").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "the corpus is there");
    for file in files {
        let input = std::fs::read(&file).expect("readable");
        println!("{}", file.display());
        run(&input);
    }
}

#[test]
fn target() {
    replay("nvme_target", nvme_target::run);
}

#[test]
fn pdu() {
    replay("nvme_pdu", nvme_pdu::run);
}
