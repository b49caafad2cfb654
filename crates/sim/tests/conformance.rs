//! The simulated world passes the checks that every world has to pass.

use block::BlockSize;
use host::conformance::{check_clock, check_disk, check_files, check_streams};
use host::{Claim, OpenOptions};
use sim::{DiskOptions, World};

#[test]
fn a_simulated_disk_is_a_disk() {
    for (seed, options, block_size) in
        [(1, DiskOptions::mib(8), BlockSize::B512), (2, DiskOptions::mib_4k(8), BlockSize::B4096)]
    {
        let world = World::new(seed);
        world.add_disk("/dev/a", options);
        let host = world.host();
        world.run(async move {
            let disk = host.open_disk("/dev/a", OpenOptions { block_size, claim: Claim::Exclusive }).await;
            check_disk(&host, disk.expect("it opens")).await;
        });
    }
}

#[test]
fn simulated_connections_clocks_and_files_pass() {
    for seed in 0..3 {
        let world = World::new(seed);
        let host = world.host();
        world.run(async move {
            check_clock(&host).await;
            check_files(&host, "/etc/mayastor".as_ref()).await;
            let listener = host.listen("127.0.0.1:0".parse().expect("an address")).expect("a port");
            check_streams(&host, listener, "localhost").await;
        });
    }
}
