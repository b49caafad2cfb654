//! Our client against our server: everything that is written comes back, however the bytes are cut.

mod support;

use block::Fault;
use nbd::client::Command;
use nbd::proto::{Errno, flag, option};
use nbd::server::Phase;
use proptest::prelude::*;
use support::*;

#[derive(Clone, Debug)]
enum Step {
    Write { block: u64, blocks: u64, seed: u8, durable: bool },
    Read { block: u64, blocks: u64 },
    Zero { block: u64, blocks: u64, may_unmap: bool, durable: bool },
    Trim { block: u64, blocks: u64 },
    Flush,
    Answer(usize),
    Talk,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Mostly small; some longer than one request of the device.
    let range = prop_oneof![
        4 => (0..64u64, 1..16u64),
        1 => (0..64u64, 2040..2200u64),
    ];
    let step = prop_oneof![
        3 => (range.clone(), any::<u8>(), any::<bool>())
            .prop_map(|((block, blocks), seed, durable)| Step::Write { block, blocks, seed, durable }),
        3 => range.clone().prop_map(|(block, blocks)| Step::Read { block, blocks }),
        1 => (range.clone(), any::<bool>(), any::<bool>())
            .prop_map(|((block, blocks), may_unmap, durable)| Step::Zero { block, blocks, may_unmap, durable }),
        1 => range.prop_map(|(block, blocks)| Step::Trim { block, blocks }),
        1 => Just(Step::Flush),
        3 => any::<usize>().prop_map(Step::Answer),
        2 => Just(Step::Talk),
    ];
    proptest::collection::vec(step, 1..40)
}

fn pattern(blocks: u64, seed: u8) -> Vec<u8> {
    (0..blocks * 512).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed) ^ (i >> 8) as u8).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn all_that_is_asked_is_done(steps in steps(), extended: bool, piece in prop_oneof![7..60usize, 1000..100_000usize]) {
        let mut world = World::new();
        let mut peer = Peer::new(&mut world, extended, piece);
        peer.talk(&mut world);
        let info = peer.client.export().expect("ready");
        prop_assert_eq!((info.size, info.smallest, info.extended), (BLOCKS * 512, 512, extended));
        prop_assert!(info.has(flag::CAN_MULTI_CONN) && info.has(flag::SEND_DF));
        world.prompt = false;
        // The disk carries out a request when it answers; what a read gives is compared with what the disk had then.
        let mut asked = 0;
        let mut expected = Vec::new();
        for step in steps {
            let command = match step {
                Step::Write { block, blocks, seed, durable } => {
                    Command::Write { offset: block * 512, data: buf(&pattern(blocks, seed)), durable }
                }
                Step::Read { block, blocks } => Command::Read { offset: block * 512, length: blocks as usize * 512 },
                Step::Zero { block, blocks, may_unmap, durable } => {
                    Command::WriteZeroes { offset: block * 512, length: blocks * 512, may_unmap, durable }
                }
                Step::Trim { block, blocks } => Command::Trim { offset: block * 512, length: blocks * 512 },
                Step::Flush => Command::Flush,
                Step::Answer(which) => {
                    if !world.at_disk.is_empty() {
                        let which = which % world.at_disk.len();
                        world.answer(which);
                    }
                    continue;
                }
                Step::Talk => {
                    peer.talk(&mut world);
                    continue;
                }
            };
            // One at a time where the outcome depends on the order.
            peer.talk(&mut world);
            world.answer_all();
            if let Command::Read { offset, length } = &command {
                expected.push((asked, world.bytes[*offset as usize..*offset as usize + length].to_vec()));
            }
            peer.client.submit(command, asked);
            asked += 1;
            peer.talk(&mut world);
        }
        for _ in 0..3 {
            peer.talk(&mut world);
            world.answer_all();
        }
        peer.talk(&mut world);
        prop_assert_eq!((peer.done.len(), peer.client.in_flight()), (asked as usize, 0));
        for done in peer.done.drain(..) {
            let data = done.result.expect("all of it succeeds");
            match expected.iter().find(|(token, _)| *token == done.token) {
                Some((_, bytes)) => prop_assert_eq!(&data.expect("data")[..], &bytes[..]),
                None => prop_assert!(data.is_none()),
            }
        }
        peer.client.disconnect();
        peer.talk(&mut world);
        prop_assert_eq!(world.server.phase(peer.id), Phase::Flush);
    }
}

#[test]
fn durable_writes_are_durable_and_others_wait_for_a_flush() {
    let mut world = World::new();
    let mut peer = Peer::new(&mut world, false, usize::MAX);
    peer.talk(&mut world);
    peer.client.submit(Command::Write { offset: 0, data: buf(&[1; 512]), durable: true }, 0);
    peer.client.submit(Command::Write { offset: 512, data: buf(&[2; 512]), durable: false }, 1);
    peer.talk(&mut world);
    assert_eq!((world.flushed[0], world.flushed[512], world.bytes[512]), (1, 0, 2));
    peer.client.submit(Command::Flush, 2);
    peer.talk(&mut world);
    assert_eq!(world.flushed[512], 2);
    peer.client.submit(Command::WriteZeroes { offset: 0, length: 512, may_unmap: true, durable: true }, 3);
    peer.talk(&mut world);
    assert_eq!((world.flushed[0], peer.done.len()), (0, 4));
    // NBD knows FUA for trims, our devices do not: a flush follows.
    let trim = nbd::proto::RequestHeader { flags: 1, kind: 4, cookie: 9, offset: 512, length: 512 };
    let raw = world.ready(&[]);
    world.send(raw, trim, false, &[]);
    assert_eq!(world.flushed[512], 0);
}

#[test]
fn a_flush_on_one_connection_covers_the_writes_of_another() {
    let mut world = World::new();
    let mut one = Peer::new(&mut world, true, usize::MAX);
    let mut two = Peer::new(&mut world, false, usize::MAX);
    one.talk(&mut world);
    two.talk(&mut world);
    one.client.submit(Command::Write { offset: 4096, data: buf(&[7; 4096]), durable: false }, 0);
    one.talk(&mut world);
    assert_eq!((one.done.len(), world.flushed[4096]), (1, 0));
    two.client.submit(Command::Flush, 0);
    two.talk(&mut world);
    assert_eq!(world.flushed[4096..8192], [7; 4096]);
}

#[test]
fn faults_are_told() {
    let faults = [
        (Fault::NoSpace, Errno::NOSPC),
        (Fault::Medium, Errno::IO),
        (Fault::Fenced, Errno::PERM),
        (Fault::Aborted, Errno::SHUTDOWN),
        (Fault::TimedOut, Errno::IO),
    ];
    for extended in [false, true] {
        let mut world = World::new();
        let mut peer = Peer::new(&mut world, extended, usize::MAX);
        peer.talk(&mut world);
        for (token, (fault, errno)) in (0..).zip(faults) {
            world.faults.push(fault);
            peer.client.submit(Command::Read { offset: 0, length: 512 }, token);
            peer.talk(&mut world);
            world.faults.push(fault);
            peer.client.submit(Command::Write { offset: 0, data: buf(&[0; 512]), durable: false }, token);
            peer.talk(&mut world);
            for done in peer.done.drain(..) {
                assert_eq!(done.result.map(|_| ()), Err(errno), "{fault}");
            }
        }
        let stats = world.server.stats(world.export).expect("served");
        assert_eq!((stats.errors, stats.reads, stats.writes), (10, 0, 0));
    }
}

#[test]
fn a_client_that_asks_for_extended_headers_lives_without() {
    // A server of before: it knows no such option.
    let mut client = nbd::client::Client::<()>::new(nbd::client::ClientOptions { export: "x".into(), extended: true });
    let mut done = Vec::new();
    let mut feed = |client: &mut nbd::client::Client<()>, bytes: &[u8]| {
        let mut place = client.receive();
        place.buf[place.from..place.from + bytes.len()].copy_from_slice(bytes);
        client.received(place.buf, bytes.len(), &mut done).expect("it is allowed");
        client.output().iter().flat_map(|b| b.to_vec()).collect::<Vec<u8>>()
    };
    let said = feed(&mut client, &[&nbd::proto::GREETING[..], &[0, 3]].concat());
    assert_eq!(said[4..], nbd::proto::option_bytes(option::EXTENDED_HEADERS, &[]));
    let unknown = nbd::proto::reply::ERR_UNSUP;
    let said = feed(&mut client, &nbd::proto::option_reply_bytes(option::EXTENDED_HEADERS, unknown, b"what?"));
    assert_eq!(said, nbd::proto::option_bytes(option::STRUCTURED_REPLY, &[]));
    let said = feed(&mut client, &nbd::proto::option_reply_bytes(option::STRUCTURED_REPLY, unknown, &[]));
    assert_eq!(said, nbd::proto::option_bytes(option::GO, &go("x", &[3])));
}
