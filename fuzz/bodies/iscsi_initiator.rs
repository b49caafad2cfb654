//! Feeds arbitrary bytes to a session of the initiator, before or after its login, and checks that each command is
//! answered once, or still there when the session ends.

use std::collections::BTreeSet;

use block::{BlockRange, Buf, Durability};
use iscsi::IscsiName;
use iscsi::initiator::{Ask, Session, SessionOptions, command};

use crate::support::{DISK, HOST, World};

/// The first byte says how the conversation begins, the second how the bytes are cut; the rest is what the target says.
///
/// * bit 0: the login is done before; bit 1: header and data digests; bit 2: a read, bit 3: a write, bit 4: a ping is sent.
pub fn run(input: &[u8]) {
    let [start, piece, bytes @ ..] = input else { return };
    let piece = usize::from(*piece) + 1;
    let mut session: Session<u32> = Session::new(SessionOptions {
        initiator: IscsiName::new(HOST).expect("a name"),
        isid: [0x80, 0, 0, 0, 0, 1],
        target: IscsiName::new(DISK).expect("a name"),
        lun: 0,
        depth: 4,
        header_digest: start & 2 != 0,
        data_digest: start & 2 != 0,
        chap: None,
        seed: [7; 16],
    });
    let mut open = BTreeSet::new();
    if start & 1 != 0 {
        let mut world = World::new();
        world.export(DISK);
        let id = world.accept();
        while !session.is_ready() {
            let out: Vec<u8> = session.output().iter().flat_map(|b| b.to_vec()).collect();
            world.deliver(id, &out, usize::MAX);
            let back = world.output(id);
            feed(&mut session, &back, usize::MAX, &mut open);
        }
        let range = BlockRange::new(0, 64);
        let asks = [
            Ask::Command(command::read(range, 32 << 10)),
            Ask::Command(command::write(BlockRange::new(0, 512), Buf::zeroes(256 << 10), Durability::Durable)),
            Ask::Ping,
        ];
        for (n, ask) in (0u32..).zip(asks).filter(|(n, _)| start >> (n + 2) & 1 != 0) {
            session.submit(ask, n);
            open.insert(n);
        }
    }
    feed(&mut session, bytes, piece, &mut open);
    session.output();
    for token in session.drain() {
        open.remove(&token);
    }
    assert!(open.is_empty(), "forgotten: {open:?}");
}

fn feed(session: &mut Session<u32>, bytes: &[u8], piece: usize, open: &mut BTreeSet<u32>) {
    let (mut at, mut done) = (0, Vec::new());
    while at < bytes.len() {
        let mut place = session.receive();
        let n = place.max.min(piece).min(bytes.len() - at);
        place.buf[place.from..place.from + n].copy_from_slice(&bytes[at..at + n]);
        at += n;
        let fed = session.received(place.buf, n, &mut done);
        for completed in done.drain(..) {
            assert!(open.remove(&completed.token), "answered twice");
        }
        if fed.is_err() {
            return;
        }
    }
}
