//! Damaged disks for whatever opens a pool.
#![no_main]

#[path = "../bodies/pool_disk.rs"]
mod body;
#[path = "../../crates/pool/tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(|input: &[u8]| body::run(input));
