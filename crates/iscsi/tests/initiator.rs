//! The initiator's machine against the target's: login with and without secrets, every size of data, digests, and targets
//! that do not keep to the protocol.

mod support;

use block::{BlockRange, Buf, Durability};
use iscsi::IscsiName;
use iscsi::chap::{Chap, Credentials};
use iscsi::initiator::{Ask, Command, Completed, Session, SessionOptions, Violation, command};
use iscsi::pdu::{self, opcode};
use iscsi::target::ConnectionId;
use iscsi::wire::put32;
use proptest::prelude::*;
use support::*;

fn options() -> SessionOptions {
    SessionOptions {
        initiator: IscsiName::new(HOST).expect("a name"),
        isid: [0x80, 1, 2, 3, 4, 5],
        target: IscsiName::new(DISK).expect("a name"),
        lun: 0,
        depth: 8,
        header_digest: false,
        data_digest: false,
        chap: None,
        seed: *b"another 16 bytes",
    }
}

/// A session and the target's end of its connection.
struct Link {
    session: Session<u32>,
    id: ConnectionId,
    piece: usize,
}

impl Link {
    fn new(world: &mut World, options: SessionOptions) -> Link {
        Link { session: Session::new(options), id: world.accept(), piece: 1000 }
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Completed<u32>>, Violation> {
        let (mut at, mut done) = (0, Vec::new());
        while at < bytes.len() {
            let mut place = self.session.receive();
            let n = place.max.min(self.piece).min(bytes.len() - at);
            assert!(n > 0 && place.from + n <= place.buf.len());
            place.buf[place.from..place.from + n].copy_from_slice(&bytes[at..at + n]);
            at += n;
            self.session.received(place.buf, n, &mut done)?;
        }
        Ok(done)
    }

    /// Carries bytes to and fro until both sides have nothing more to say.
    fn settle(&mut self, world: &mut World) -> Result<Vec<Completed<u32>>, Violation> {
        let mut done = Vec::new();
        loop {
            let out: Vec<u8> = self.session.output().iter().flat_map(|b| b.to_vec()).collect();
            world.deliver(self.id, &out, self.piece);
            let back = world.output(self.id);
            if out.is_empty() && back.is_empty() {
                return Ok(done);
            }
            done.extend(self.feed(&back)?);
        }
    }

    fn call(&mut self, world: &mut World, command: Command) -> Completed<u32> {
        self.session.submit(Ask::Command(command), 7);
        let mut done = self.settle(world).expect("no violation");
        assert_eq!((done.len(), self.session.in_flight()), (1, 0));
        done.remove(0)
    }
}

fn connected(options: SessionOptions) -> (World, Link) {
    let mut world = World::new();
    world.export(DISK);
    let mut link = Link::new(&mut world, options);
    link.settle(&mut world).expect("a login");
    assert!(link.session.is_ready());
    (world, link)
}

#[test]
fn data_of_every_size_comes_back() {
    for (header_digest, data_digest, piece) in [(false, false, 70_000), (true, false, 313), (true, true, 4096)] {
        let (mut world, mut link) = connected(SessionOptions { header_digest, data_digest, ..options() });
        link.piece = piece;
        // Immediate, with unsolicited data, and with several requests for data.
        for (start, blocks) in [(0, 1), (3, 16), (100, 128), (400, 129), (1000, 2048)] {
            let (range, len) = (BlockRange::new(start, blocks), blocks as usize * BLOCK);
            let data = pattern(len, start as u8);
            let write = command::write(range, Buf::copy_of(&data), Durability::Durable);
            assert_eq!(link.call(&mut world, write).status, 0);
            let read = link.call(&mut world, command::read(range, len));
            assert!(read.status == 0 && *read.data.expect("data") == *data, "{blocks} blocks");
        }
        let zeroed = link.call(&mut world, command::zero(BlockRange::new(4, 8), BLOCK, true));
        assert_eq!(zeroed.status, 0, "{:?}", zeroed.sense);
        let read = link.call(&mut world, command::read(BlockRange::new(4, 8), 8 * BLOCK)).data.expect("data");
        assert!(read.iter().all(|b| *b == 0));
        assert_eq!(link.call(&mut world, command::flush()).status, 0);
        let outside = link.call(&mut world, command::read(BlockRange::new(BLOCKS, 1), BLOCK));
        let fault = command::verdict(outside.status, &outside.sense);
        assert_eq!(fault, command::Verdict::Done(Err(block::Fault::OutOfRange)));
        assert!(outside.data.is_none());
    }
}

#[test]
fn what_the_unit_says_of_itself() {
    let (mut world, mut link) = connected(options());
    let data = |done: Completed<u32>| done.data.expect("data").to_vec();
    assert_eq!(link.call(&mut world, command::ready()).status, 0);
    let standard = data(link.call(&mut world, command::inquiry(None)));
    assert_eq!((standard[0], &standard[8..16]), (0, &b"MAYADATA"[..]));
    let capacity = data(link.call(&mut world, command::capacity()));
    assert_eq!(command::parse_capacity(&capacity), Some((BLOCKS, 512, true)));
    let caching = command::parse_caching(&data(link.call(&mut world, command::caching())));
    assert!(caching.volatile && caching.fua && !caching.protected);
    let page = data(link.call(&mut world, command::inquiry(Some(0x83))));
    let names = command::parse_identification(&page);
    assert!(names.iter().any(|(kind, value)| *kind == 1 && value.starts_with(b"MAYADATA0000")), "{names:?}");
    let limits = data(link.call(&mut world, command::inquiry(Some(0xb0))));
    assert_eq!(command::parse_limits(&limits), (2048, 32768));
}

#[test]
fn signs_of_life_and_the_orderly_end() {
    let (mut world, mut link) = connected(options());
    link.session.submit(Ask::Ping, 1);
    assert!(link.session.is_pinging() && link.session.in_flight() == 1);
    assert_eq!(link.settle(&mut world).expect("an answer")[0].token, 1);
    link.session.submit(Ask::Logout, 2);
    assert_eq!(link.session.free(), 0);
    assert_eq!(link.settle(&mut world).expect("an answer")[0].token, 2);
    // The target asks, too: it gets an answer.
    let (_, mut link) = connected(options());
    let mut nop = pdu::header(opcode::NOP_IN, pdu::FINAL, NONE);
    put32(&mut nop, 20, 99);
    link.feed(&nop).expect("allowed");
    let answer: Vec<u8> = link.session.output().iter().flat_map(|b| b.to_vec()).collect();
    assert_eq!((answer[0], &answer[16..24]), (0x40, &[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 99][..]));
}

fn secrets(initiator: &str, target: Option<&str>) -> Chap {
    let who = |name: &str, secret: &str| Credentials { name: name.into(), secret: secret.into() };
    Chap { initiator: who("alice", initiator), target: target.map(|secret| who("storage", secret)) }
}

fn log_in(theirs: Option<Chap>, ours: Option<Chap>) -> Result<(), Violation> {
    let mut world = World::with(theirs);
    world.export(DISK);
    let mut link = Link::new(&mut world, SessionOptions { chap: ours, ..options() });
    link.settle(&mut world)?;
    assert!(link.session.is_ready());
    Ok(())
}

#[test]
fn both_sides_insist_on_their_proof() {
    let (one, both) = (secrets("0123456789ab", None), secrets("0123456789ab", Some("secret of it")));
    assert_eq!(log_in(Some(one.clone()), Some(one.clone())), Ok(()));
    assert_eq!(log_in(Some(both.clone()), Some(both.clone())), Ok(()));
    assert_eq!(log_in(Some(both.clone()), Some(one.clone())), Ok(()));
    let refused = |result| assert!(matches!(result, Err(Violation::Refused { status: 0x0201 })), "{result:?}");
    refused(log_in(Some(one.clone()), Some(secrets("something else", None))));
    refused(log_in(Some(one.clone()), None));
    // It cannot prove what it is, or with another secret, or does not care who we are.
    refused(log_in(Some(one.clone()), Some(both.clone())));
    let wrong = log_in(Some(secrets("0123456789ab", Some("another secret"))), Some(both.clone()));
    assert_eq!(wrong, Err(Violation::Authentication("it did not prove who it is")));
    assert!(log_in(None, Some(both)).is_err());
}

#[test]
fn a_login_that_is_refused_says_why() {
    let mut world = World::new();
    let mut link = Link::new(&mut world, options());
    let error = link.settle(&mut world).map(|_| ()).expect_err("no such target");
    assert_eq!(error.to_string(), "it refused the login: there is no such target (0x0203)");
}

/// Answers that belong to nothing, or come too early.
#[test]
fn wrong_answers_end_the_session() {
    let read = || Ask::Command(command::read(BlockRange::new(0, 8), 4096));
    let write = || Ask::Command(command::write(BlockRange::new(0, 512), Buf::zeroes(256 << 10), Durability::Volatile));
    let good = |itt| pdu::response(itt, 0, pdu::Residual::default(), 0);
    let cases: [(&str, Ask, pdu::Bhs); 8] = [
        ("another task", read(), good(3)),
        ("no task", read(), good(0x7fff_ffff)),
        ("good too early", write(), good(0)),
        ("data for a write", write(), pdu::data_in(0, true, 0, 0)),
        ("data out of order", read(), pdu::data_in(0, true, 1, 0)),
        ("data request for a read", read(), pdu::r2t(0, 1, 0, 0, 512)),
        ("data request out of order", write(), pdu::r2t(0, 1, 0, 512, 512)),
        ("login again", read(), pdu::header(opcode::LOGIN_RESPONSE, 0x87, 0)),
    ];
    for (name, ask, mut bhs) in cases {
        let (_, mut link) = connected(options());
        link.session.submit(ask, 1);
        // The number that comes next, so that nothing else is wrong.
        put32(&mut bhs, 24, 2);
        let ended = link.feed(&bhs).map(|_| ());
        let stat_sn = matches!(ended, Err(Violation::Missing { .. }));
        assert!(ended.is_err() && (!stat_sn || name == "login again"), "{name}: {ended:?}");
        assert_eq!(link.session.drain().len(), 1, "{name}: it is not forgotten");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(start: u8, bytes in prop::collection::vec(any::<u8>(), 0..400), piece in 1usize..200) {
        let input = [&[start, piece as u8][..], &bytes].concat();
        iscsi_initiator::run(&input);
    }
}

#[path = "../../../fuzz/bodies/iscsi_initiator.rs"]
mod iscsi_initiator;
