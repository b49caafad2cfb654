//! Arbitrary bytes for the NBD server.
#![no_main]

#[path = "../bodies/nbd_server.rs"]
mod body;
#[path = "../../crates/nbd/tests/support/mod.rs"]
mod support;

libfuzzer_sys::fuzz_target!(|input: &[u8]| body::run(input));
