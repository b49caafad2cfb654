//! Arbitrary bytes for the formats of a pool.
#![no_main]

#[path = "../bodies/pool_formats.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|input: &[u8]| body::run(input));
