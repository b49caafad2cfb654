//! Feeds arbitrary bytes to a connection of the target machine in one of several states, loses the connection, and
//! checks that nothing is left.

use block::BlockSize;
use nvme::pdu::Digests;
use nvme::target::Phase;

use crate::support::{HOST, VOLUME, Who, Wire, World};

/// The first byte says how the conversation begins, the second how the bytes are cut; the rest is sent.
///
/// * bits 1:0 of the first: a new connection, one after ICReq, an admin queue, an I/O queue;
/// * bits 3:2: header and data digests (not for a new connection);
/// * bit 4: disks answer only after the connection is lost;
/// * bit 5: the other queue is lost first.
pub fn run(input: &[u8]) {
    let [start, piece, bytes @ ..] = input else { return };
    let piece = usize::from(*piece) + 1;
    let digests = Digests::from_wire(start >> 2 & 3);
    let mut world = World::new();
    let volume = world.export(VOLUME, BlockSize::B512, 4096);
    let (wire, other) = match start & 3 {
        0 => (Wire::raw(&mut world, piece), None),
        1 => (Wire::open(&mut world, digests, 0, usize::MAX), None),
        queue => {
            let who = Who::new(HOST, VOLUME);
            let mut admin = Wire::open(&mut world, digests, 0, usize::MAX);
            let mut io = Wire::open(&mut world, digests, 0, usize::MAX);
            let controller = who.admin(&mut world, &mut admin);
            who.io(&mut world, &mut io, controller, 1);
            if queue == 2 { (admin, Some(io)) } else { (io, Some(admin)) }
        }
    };
    world.prompt = start & 0x10 == 0;
    let (first, second) = bytes.split_at(bytes.len() / 2);
    world.deliver(wire.id, first, piece);
    world.output(wire.id);
    world.pass(1);
    world.deliver(wire.id, second, piece);
    world.output(wire.id);
    let mut ids = vec![wire.id];
    ids.extend(other.map(|o| o.id));
    if start & 0x20 != 0 {
        ids.reverse();
    }
    for id in &ids {
        world.lose(*id);
    }
    world.answer_all();
    for id in ids {
        assert_eq!(world.target.phase(id), Phase::Ended);
        world.target.remove(id);
    }
    assert!(world.target.hosts(volume).is_empty());
    let mut out = Vec::new();
    world.target.unexport(volume, &mut out);
    world.apply(out);
    assert_eq!(world.idle, [volume]);
}
