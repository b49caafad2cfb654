//! Replays the fuzzer's corpus: tapes of the simulator. What a fuzzer ever found is kept there.
#![allow(clippy::disallowed_methods, reason = "a test reads and writes its own data")]

#[path = "../../../fuzz/bodies/corpus.rs"]
mod corpus;
#[path = "../../../fuzz/bodies/sim_tape.rs"]
mod sim_tape;

#[test]
fn tapes() {
    corpus::replay("sim_tape", sim_tape::run_tape);
}
