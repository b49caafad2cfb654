//! Arbitrary bytes for iSCSI text keys, CDBs and parameter lists.
#![no_main]

#[path = "../bodies/iscsi_text.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|input: &[u8]| body::run(input));
