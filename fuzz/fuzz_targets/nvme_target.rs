//! Arbitrary bytes for the NVMe/TCP target.
#![no_main]

#[path = "../bodies/nvme_target.rs"]
mod body;
#[path = "../../crates/nvme/tests/support/mod.rs"]
mod support;

libfuzzer_sys::fuzz_target!(|input: &[u8]| body::run(input));
