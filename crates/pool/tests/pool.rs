//! What a pool does for its users, on simulated disks.

mod common;

use block::{Bytes, Fault};
use common::*;
use pool::{CreateOptions, PoolError, PoolState, ReplicaSpec, ReplicaState};

#[test]
fn a_replica_keeps_its_data_through_export_and_import() {
    let w = world(1, &[1 << 20, 1 << 20]);
    let host = w.host();
    w.run(async move {
        let pool = create(&host, [0, 1]).await;
        let (a, b) = (replica(&pool, "a", 20, false).await, replica(&pool, "b", 1000, true).await);
        put(&a, 3, 30, 1).await.unwrap();
        put(&b, 7990, 10, 2).await.unwrap();
        assert_eq!(get(&a, 0, 40).await, [vec![0; 3], vec![1; 30], vec![0; 7]].concat());
        assert_eq!((a.allocated().0, b.allocated().0), (5 * EXTENT, 2 * EXTENT));
        let info = pool.info();
        assert_eq!((info.used.0, info.committed.0), (7 * EXTENT, 22 * EXTENT));
        let before = (info.capacity, info.used, info.committed, info.uuid);
        pool.export().await.unwrap();
        assert_eq!(pool.state(), PoolState::Closed);
        assert_eq!((put(&a, 0, 1, 1).await, a.state()), (Err(Fault::Gone), ReplicaState::Gone));
        assert!(matches!(pool.export().await, Err(PoolError::Closed(_))));
        // A closed pool has let go of its disks, whoever still holds a replica.

        let report = pool::check(&host, open(&host, [0, 1]).await).await.unwrap();
        assert_eq!((report.used, report.journal_records, report.notes.len()), (7, 0, 0));
        let pool = import(&host, [1, 0]).await.unwrap();
        let info = pool.info();
        assert_eq!((info.capacity, info.used, info.committed, info.uuid), before);
        assert_eq!(pool.replicas().len(), 2);
        assert_eq!(get(&pool.replica("a").unwrap(), 0, 40).await, [vec![0; 3], vec![1; 30], vec![0; 7]].concat());
        let b = pool.replica("b").unwrap();
        assert_eq!((b.size().0, b.thin()), (1000 * EXTENT, true));
        assert_eq!(get(&b, 7980, 20).await, [vec![0; 10], vec![2; 10]].concat());
    });
}

#[test]
fn a_replica_conforms_to_what_disks_promise() {
    for seed in 0..5 {
        for thin in [false, true] {
            let w = world(seed, &[6 << 20, 6 << 20]);
            let host = w.host();
            w.run(async move {
                let members = open(&host, [0, 1]).await;
                let options = CreateOptions { extent_size: Some(16 << 10), ..options() };
                let pool = pool::create(&host, members, options).await.unwrap();
                let spec = ReplicaSpec { name: "r".into(), size: Bytes(5 << 20), thin };
                let replica = pool.create_replica(spec).await.unwrap();
                host::conformance::check_disk(&host, replica).await;
            });
        }
    }
}

/// The flush behind a new checkpoint fails, so the pool stops; the next opening still reads it, and the power goes while that
/// one writes its own: one of the two checkpoints must be whole.
#[test]
fn a_checkpoint_whose_flush_failed_is_not_relied_on() {
    for seed in 0..200 {
        let world = common::world(seed, &[2 << 20]);
        let host = world.host();
        world.run(async move {
            let pool = common::create(&host, [0]).await;
            common::replica(&pool, "a", 4, true).await;
        });
        world.kill("main");
        world.disk("/d0").power_cut();
        // An opening that is stopped by its first flush, then one that goes on for a short while.
        for (failing, micros) in [(1, 100_000), (0, seed * 20)] {
            world.disk("/d0").fail_flushes(failing);
            let host = world.host();
            host.clone().spawn(async move {
                let opened = common::import(&host, [0]).await;
                // It is open until the machine dies.
                if let Ok(pool) = opened {
                    host.sleep(std::time::Duration::from_secs(3600)).await;
                    drop(pool);
                }
            });
            world.run_for(std::time::Duration::from_micros(micros));
            world.kill_process("main");
        }
        world.kill("main");
        world.disk("/d0").power_cut();
        let host = world.host();
        let replicas = world.run(async move {
            let pool = common::import(&host, [0]).await.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            pool.replicas().len()
        });
        assert_eq!(replicas, 1, "seed {seed}");
        world.kill("main");
    }
}
