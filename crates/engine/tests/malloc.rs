//! The memory device passes the checks that every disk has to pass.

use std::rc::Rc;

use block::{BlockSize, Bytes};
use engine::malloc::Malloc;
use host::DiskRef;
use sim::World;

#[test]
fn memory_is_a_disk() {
    for block_size in [BlockSize::B512, BlockSize::B4096] {
        let world = World::new(1);
        let host = world.host();
        let disk: DiskRef = Rc::new(Malloc::new("m", Bytes(16 << 20), block_size));
        world.run(async move { host::conformance::check_disk(&host, disk).await });
    }
}
