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
