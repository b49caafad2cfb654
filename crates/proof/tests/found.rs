//! What the simulator found, each as a scenario that must pass; and that a run is the same run each time.

use proof::scenario::{Event, Fault, Knobs, NodePlan, Scenario, VolumePlan, Work};
use proof::{Tape, run};

/// Three nodes, one volume with two copies; its nexus comes to be on n1. Nothing is flushed, everything stays dirty.
fn small(seed: u64, events: Vec<Event>) -> Scenario {
    Scenario {
        seed,
        nodes: vec![NodePlan { disk_mib: 64, drift_ppm: 0 }; 3],
        volumes: vec![VolumePlan { bytes: 256 << 10, replicas: 2, thin: true }],
        knobs: Knobs {
            block_bytes: 4096,
            member_deadline_ms: 1000,
            clear_after_ms: 5000,
            error_threshold: 64,
            segment_kib: 64,
            rebuild_tasks: 4,
            node_grace_ms: 10_000,
            heartbeat_ms: 200,
            rpc_ms: 1000,
        },
        work: Work { depth: 2, think_ms: 20, blocks: 8, changes: 60, flushes: 0, zeroes: 0, forced: 0 },
        run_ms: 4000,
        events,
    }
}

fn passes(scenario: &Scenario) {
    let report = run(scenario, true);
    let tail: Vec<&String> = report.lines.iter().rev().take(40).collect();
    assert!(report.wrong.is_none(), "seed {}: {:?}\n{tail:#?}", scenario.seed, report.wrong);
    assert!(report.requests > 100, "the clients worked: {}", report.requests);
}

/// A machine that held the nexus and a copy lost power, and was back in a moment. Its copy, which had lost what was not
/// flushed, became the source for the one that had lost nothing: acknowledged writes were gone.
#[test]
fn a_copy_that_lost_its_cache_with_the_nexus_is_not_the_source() {
    for seed in 0..4 {
        let fault = Fault::PowerCut { node: "n1".into(), down_ms: 300 };
        passes(&small(seed, vec![Event { at_ms: 1500, fault }]));
    }
}

/// The same with the two copies without power one after the other, the nexus's first.
#[test]
fn copies_without_power_in_turn() {
    for seed in 0..2 {
        let cut = |node: &str, at_ms| {
            let fault = Fault::PowerCut { node: node.into(), down_ms: 1500 };
            Event { at_ms, fault }
        };
        passes(&small(seed, vec![cut("n1", 1000), cut("n2", 1600), cut("n3", 2200)]));
    }
}

/// The nexus and a copy lost power together; the other copy had kept its own, but was slow. It was given up while the volume
/// was opened, as if it were away, and the volume served from the copy that had lost what was not flushed.
#[test]
fn a_slow_copy_is_not_left_behind_at_the_opening() {
    for seed in 0..6 {
        let slow = Fault::DiskSlow { node: "copy-1-0".into(), by_ms: 400, ms: 5000 };
        let cut = Fault::PowerCut { node: "nexus-1".into(), down_ms: 50 };
        let events = vec![Event { at_ms: 1000, fault: slow }, Event { at_ms: 2000, fault: cut }];
        let scenario = Scenario { run_ms: 9000, ..small(seed, events) };
        passes(&scenario);
    }
}

#[test]
fn a_seed_is_the_same_run_each_time() {
    let scenario = Scenario::generate(&mut Tape::of_seed(7));
    let (one, two) = (run(&scenario, false), run(&scenario, false));
    assert_eq!((one.hash, one.events, one.requests), (two.hash, two.events, two.requests));
    let other = run(&Scenario::generate(&mut Tape::of_seed(8)), false);
    assert_ne!(one.hash, other.hash);
}

#[test]
fn a_scenario_survives_its_file() {
    for seed in 0..50 {
        let scenario = Scenario::generate(&mut Tape::of_seed(seed));
        let text = serde_json::to_string(&scenario).expect("plain data");
        assert_eq!(serde_json::from_str::<Scenario>(&text).expect("reads back"), scenario);
    }
    let bytes: Vec<u8> = (0..255).collect();
    let tape = || Scenario::generate(&mut Tape::of_bytes(&bytes));
    assert_eq!(tape(), tape());
}
