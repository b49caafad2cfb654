//! Lets a fuzzer choose what a simulated cluster is made of and what goes wrong in it: the bytes are the tape from which the
//! scenario's choices come. Whatever it is, what docs/replication.md promises is kept.

use proof::{Scenario, Tape, run};

pub fn run_tape(input: &[u8]) {
    let scenario = Scenario::generate(&mut Tape::of_bytes(input));
    let wrong = run(&scenario, false).wrong;
    assert!(wrong.is_none(), "{}\n{}", wrong.expect("just seen"), serde_json::to_string_pretty(&scenario).unwrap());
}
