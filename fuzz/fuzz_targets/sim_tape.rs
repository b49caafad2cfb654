//! Arbitrary tapes for the simulator: whole clusters of which the fuzzer chooses everything.
#![no_main]

#[path = "../bodies/sim_tape.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|input: &[u8]| body::run_tape(input));
