//! A small cluster in a box obeys the planner while nodes die, return, lose their disks or their way to the control plane,
//! and actions fail before or after they took effect. No acknowledged write may ever be lost, and when the faults end,
//! everything must come to rest as it was asked for.

#[allow(dead_code, reason = "each suite uses a part of it")]
mod cluster;

use cluster::Cluster;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn faults_lose_nothing_and_the_cluster_comes_to_rest(seed in any::<u64>(), nodes in 2usize..7, pools in 1usize..3) {
        let mut cluster = Cluster::new(seed, nodes, pools);
        for _ in 0..4 {
            cluster.create_volume();
        }
        for _ in 0..400 {
            cluster.trouble();
            cluster.step();
        }
        cluster.peace();
        cluster.assert_rest();
    }
}

#[test]
fn many_fixed_seeds() {
    for seed in 0..300 {
        let mut cluster = Cluster::new(seed, 3 + (seed as usize % 3), 1 + (seed as usize % 2));
        for _ in 0..3 {
            cluster.create_volume();
        }
        for _ in 0..250 {
            cluster.trouble();
            cluster.step();
        }
        cluster.peace();
        cluster.assert_rest();
    }
}
