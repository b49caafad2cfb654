use std::cell::RefCell;
use std::rc::Rc;

use block::{BlockSize, Blocks, Features};
use host::{Disk, OpenOptions};
use sim::{DiskOptions, World};

use super::*;

fn options() -> OpenOptions {
    OpenOptions { block_size: BlockSize::B512, claim: host::Claim::Exclusive }
}

/// A disk that forgets what it is told to: each `n`th write is acknowledged and dropped.
struct Liar {
    below: DiskRef,
    left: RefCell<u64>,
}

impl Disk for Liar {
    fn geometry(&self) -> Geometry {
        self.below.geometry()
    }
    fn submit(&self, request: Request, ticket: Ticket) {
        if matches!(request, Request::Write { .. }) {
            let mut left = self.left.borrow_mut();
            *left = left.saturating_sub(1);
            if *left == 0 {
                *left = 50;
                drop(left);
                return ticket.done();
            }
        }
        self.below.submit(request, ticket);
    }
    fn label(&self) -> String {
        "liar".into()
    }
}

fn mixed(requests: u64) -> Workload {
    Workload {
        unmap_percent: 10,
        request_bytes: 8192,
        depth: 16,
        stop: Stop::Requests(requests),
        ..Workload::default()
    }
}

#[test]
fn an_honest_disk_passes() {
    for seed in 0..4 {
        let world = World::new(seed);
        world.add_disk("/d", DiskOptions::mib(4));
        let host = world.host();
        let (report, sweep) = world.run(async move {
            let disk = host.open_disk("/d", options()).await.expect("the disk is there");
            let mut model = Model::new(seed);
            let report = run(&host, &disk, &mixed(2000), Some(&mut model)).await.expect("no fault");
            (report, model.verify_all(&disk).await.expect("no fault"))
        });
        assert_eq!(report.requests(), 2000);
        assert_eq!((report.mismatches, sweep.mismatches), (0, 0), "{:?}", report.examples);
        assert!(report.checked_units > 100 && sweep.checked_units > 100);
        let latency = report.latency();
        assert!(latency.p50 > Duration::ZERO && latency.p50 <= latency.p99 && latency.p999 <= latency.max);
    }
}

#[test]
fn a_lost_write_is_found() {
    let world = World::new(7);
    world.add_disk("/d", DiskOptions::mib(1));
    let host = world.host();
    let found = world.run(async move {
        let below = host.open_disk("/d", options()).await.expect("the disk is there");
        let disk: DiskRef = Rc::new(Liar { below, left: RefCell::new(50) });
        let mut model = Model::new(1);
        let report = run(&host, &disk, &mixed(3000), Some(&mut model)).await.expect("no fault");
        report.mismatches + model.verify_all(&disk).await.expect("no fault").mismatches
    });
    assert!(found > 0, "a disk that drops writes must not pass");
}

#[test]
fn faults_end_the_run_or_are_counted() {
    let world = World::new(3);
    let d = world.add_disk("/d", DiskOptions::mib(1));
    d.fail_reads(BlockRange::new(0, 64));
    let host = world.host();
    world.run(async move {
        let disk = host.open_disk("/d", options()).await.expect("the disk is there");
        let work = Workload { read_percent: 100, pattern: Pattern::Sequential, stop: Stop::Requests(200), ..mixed(0) };
        let work = Workload { unmap_percent: 0, ..work };
        let ended = run(&host, &disk, &work, None).await;
        assert!(matches!(ended, Err(LoadError::Fault { fault: Fault::Medium, .. })), "{ended:?}");
        let counted = run(&host, &disk, &Workload { on_fault: OnFault::Count, ..work }, None).await.expect("counted");
        assert!(counted.faults > 0);
        assert_eq!(counted.faults + counted.requests(), 200);
    });
}

#[test]
fn a_write_that_failed_may_have_happened_but_not_twice_differently() {
    let size = BlockSize::B4096;
    let range = BlockRange::new(0, 1);
    let mut model = Model::new(0);
    let first = model.begin_write(size, range);
    model.end_change(size, range, true);
    let second = model.begin_write(size, range);
    model.end_change(size, range, false);
    assert!(model.check(size, range, second.into()).1.is_empty(), "the failed write may be seen");
    assert_eq!(model.check(size, range, first.into()).1.len(), 1, "but then the old contents may not come back");
    assert_eq!(model.check(size, range, Data::zeroes(4096)).1.len(), 1);
}

#[test]
fn a_workload_that_does_not_fit_is_refused() {
    struct Tiny;
    impl Disk for Tiny {
        fn geometry(&self) -> Geometry {
            Geometry { block_size: BlockSize::B4096, blocks: Blocks(4), features: Features::default() }
        }
        fn submit(&self, _: Request, ticket: Ticket) {
            ticket.fail(Fault::Unsupported);
        }
        fn label(&self) -> String {
            "tiny".into()
        }
    }
    let world = World::new(0);
    let host = world.host();
    world.run(async move {
        let disk: DiskRef = Rc::new(Tiny);
        for bad in [
            Workload { request_bytes: 512, ..Workload::default() },
            Workload { request_bytes: 0, ..Workload::default() },
            Workload { request_bytes: 1 << 20, ..Workload::default() },
            Workload { depth: 0, ..Workload::default() },
            Workload { read_percent: 60, unmap_percent: 60, ..Workload::default() },
            Workload { region: Some(BlockRange::new(2, 3)), ..Workload::default() },
        ] {
            assert!(matches!(run(&host, &disk, &bad, None).await, Err(LoadError::Workload { .. })), "{bad:?}");
        }
    });
}
