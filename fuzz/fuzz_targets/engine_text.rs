//! Arbitrary text for the configuration file and the device URIs.
#![no_main]

#[path = "../bodies/engine_text.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|input: &[u8]| body::run(input));
