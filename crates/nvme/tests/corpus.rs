//! Replays the fuzzers' corpora. What a fuzzer ever found is kept there.
#![allow(clippy::disallowed_methods, reason = "a test reads its own data")]

mod support;

#[path = "../../../fuzz/bodies/corpus.rs"]
mod corpus;
#[path = "../../../fuzz/bodies/nvme_pdu.rs"]
mod nvme_pdu;
#[path = "../../../fuzz/bodies/nvme_target.rs"]
mod nvme_target;

#[test]
fn target() {
    corpus::replay("nvme_target", nvme_target::run);
}

#[test]
fn pdu() {
    corpus::replay("nvme_pdu", nvme_pdu::run);
}
