//! Arbitrary bytes for the formats of a nexus and its members.
#![no_main]

#[path = "../bodies/nexus_formats.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|input: &[u8]| body::run(input));
