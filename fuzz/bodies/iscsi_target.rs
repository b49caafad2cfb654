//! Feeds arbitrary bytes to a connection of the target machine in one of several states, loses the connection, and
//! checks that nothing is left.

use iscsi::target::Phase;

use crate::support::{DISK, HOST, Initiator, World, cdb10};

/// The first byte says how the conversation begins, the second how the bytes are cut; the rest is sent.
///
/// * bits 1:0 of the first: a new connection, one in the operational stage, a normal session, a discovery session;
/// * bit 2: header and data digests; bit 3: unsolicited data is allowed;
/// * bit 4: disks answer only after the connection is lost;
/// * bit 5: another session has a write at the disk; bit 6: the target goes in the middle.
pub fn run(input: &[u8]) {
    let [start, piece, bytes @ ..] = input else { return };
    let piece = usize::from(*piece) + 1;
    let mut world = World::new();
    let disk = world.export(DISK);
    let mut other = Initiator::of_port(&mut world, [0x80, 0, 0, 0, 0, 2], &[]);
    let mut keys = Vec::new();
    if start & 4 != 0 {
        keys.extend([("HeaderDigest", "CRC32C"), ("DataDigest", "CRC32C")]);
    }
    if start & 8 != 0 {
        keys.push(("InitialR2T", "No"));
    }
    let id = match start & 3 {
        0 => world.accept(),
        1 => {
            let mut initiator = Initiator::new(&mut world);
            initiator.login(&mut world, 0x81, &[("InitiatorName", HOST), ("TargetName", DISK), ("AuthMethod", "None")]);
            initiator.id
        }
        2 => Initiator::normal(&mut world, &keys).id,
        _ => {
            let mut initiator = Initiator::new(&mut world);
            initiator.login(&mut world, 0x87, &[("InitiatorName", HOST), ("SessionType", "Discovery")]);
            initiator.id
        }
    };
    world.prompt = start & 0x10 == 0;
    if start & 0x20 != 0 {
        world.prompt = false;
        other.start_write(&mut world, &cdb10(0x2a, 0, 1), &[1; 512], 512);
    }
    let (first, second) = bytes.split_at(bytes.len() / 2);
    world.deliver(id, first, piece);
    world.output(id);
    world.pass(1);
    let goes = start & 0x40 != 0;
    if goes {
        world.unexport(disk);
    }
    world.deliver(id, second, piece);
    world.output(id);
    for id in [id, other.id] {
        world.lose(id);
    }
    world.answer_all();
    for id in [id, other.id] {
        assert_eq!(world.target.phase(id), Phase::Ended);
        world.target.remove(id);
    }
    assert!(world.target.initiators(disk).is_empty());
    if !goes {
        world.unexport(disk);
    }
    assert_eq!(world.idle, [disk]);
}
