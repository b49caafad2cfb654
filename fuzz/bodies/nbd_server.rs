//! Feeds arbitrary bytes to a connection of the server machine in one of several states, loses the connection, and checks
//! that nothing is left.

use nbd::proto::option;
use nbd::server::Phase;

use crate::support::World;

/// The first byte says how the conversation begins, the second how the bytes are cut; the rest is sent.
///
/// * bits 1:0 of the first: a new connection, after the greeting, transmission with simple or extended replies;
/// * bit 2: disks answer only after the connection is lost; bit 3: the export goes in the middle.
pub fn run(input: &[u8]) {
    let [start, piece, bytes @ ..] = input else { return };
    let piece = usize::from(*piece) + 1;
    let mut world = World::new();
    let id = match start & 3 {
        0 => world.accept(),
        1 => world.greeted(),
        2 => world.ready(&[]),
        _ => world.ready(&[option::EXTENDED_HEADERS]),
    };
    world.prompt = start & 4 == 0;
    let (first, second) = bytes.split_at(bytes.len() / 2);
    world.deliver(id, first, piece);
    world.output(id);
    let goes = start & 8 != 0;
    if goes {
        world.unexport();
    }
    world.deliver(id, second, piece);
    world.output(id);
    world.pass(60);
    world.lose(id);
    world.answer_all();
    assert_eq!(world.server.phase(id), Phase::Ended);
    world.server.remove(id);
    assert_eq!((world.server.connections(), world.idle.len()), (0, usize::from(goes)));
}
