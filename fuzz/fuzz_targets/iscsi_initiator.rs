//! Arbitrary bytes for the iSCSI initiator.
#![no_main]

#[path = "../bodies/iscsi_initiator.rs"]
mod body;
#[path = "../../crates/iscsi/tests/support/mod.rs"]
mod support;

libfuzzer_sys::fuzz_target!(|input: &[u8]| body::run(input));
