//! Arbitrary bytes for the codecs of NVMe/TCP.
#![no_main]

#[path = "../bodies/nvme_pdu.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|input: &[u8]| body::run(input));
