//! Peers that do not keep to the protocol, or go at a bad moment.

mod support;

use block::{BlockSize, limits};
use nbd::client::{Client, ClientOptions, Command, Violation};
use nbd::proto::{self, Errno, RequestHeader, command, command_flag, get32, get64, info, option, reply};
use nbd::server::{Export, ExportError, Phase, Server};
use proptest::prelude::*;
use support::*;

fn request(kind: u16, flags: u16, offset: u64, length: u64) -> RequestHeader {
    RequestHeader { flags, kind, cookie: 0x1122_3344_5566_7788, offset, length }
}

/// The error of a simple reply.
fn simple_error(world: &mut World, id: nbd::server::ConnectionId) -> u32 {
    let said = world.output(id);
    assert_eq!((said.len(), get32(&said, 0), get64(&said, 8)), (16, Some(0x6744_6698), Some(0x1122_3344_5566_7788)));
    get32(&said, 4).expect("an error")
}

#[test]
fn options_are_answered_as_specified() {
    let mut w = World::new();
    let id = w.greeted();
    assert_eq!(w.option(id, option::LIST, &[]), [(2, [&[0, 0, 0, 4], &b"disk"[..]].concat()), (1, vec![])]);
    assert_eq!(w.option(id, option::LIST, b"x"), [(reply::ERR_INVALID, vec![])]);
    assert_eq!(w.option(id, option::STARTTLS, &[]), [(reply::ERR_UNSUP, vec![])]);
    assert_eq!(w.option(id, 4711, b"whatever"), [(reply::ERR_UNSUP, vec![])]);
    assert_eq!(w.option(id, 4711, &vec![0; limits::NBD_OPTION_BYTES + 1]), [(reply::ERR_TOO_BIG, vec![])]);
    assert_eq!(w.option(id, option::INFO, &go("other", &[])), [(reply::ERR_UNKNOWN, vec![])]);
    assert_eq!(w.option(id, option::GO, &go("", &[])), [(reply::ERR_UNKNOWN, vec![])]);
    for wrong in [&[][..], &[0, 0, 0, 9, 1], &[0xff; 4], &go(NAME, &[1])[..11], &[&go(NAME, &[])[..], &[0]].concat()] {
        assert_eq!(w.option(id, option::INFO, wrong), [(reply::ERR_INVALID, vec![])], "{wrong:?}");
    }
    // Contexts need structured replies.
    let set = queries(NAME, &["base:allocation"]);
    assert_eq!(w.option(id, option::SET_META_CONTEXT, &set), [(reply::ERR_INVALID, vec![])]);
    assert_eq!(w.option(id, option::STRUCTURED_REPLY, b"x"), [(reply::ERR_INVALID, vec![])]);
    assert_eq!(w.option(id, option::STRUCTURED_REPLY, &[]), [(1, vec![])]);
    assert_eq!(w.option(id, option::STRUCTURED_REPLY, &[]), [(reply::ERR_INVALID, vec![])]);
    let context = |number: u8| (4, [&[0, 0, 0, number], &b"base:allocation"[..]].concat());
    for asked in [&[][..], &["base:"], &["qemu:dirty-bitmap:x", "base:allocation"]] {
        assert_eq!(w.option(id, option::LIST_META_CONTEXT, &queries(NAME, asked)), [context(0), (1, vec![])]);
    }
    assert_eq!(w.option(id, option::SET_META_CONTEXT, &queries(NAME, &["base:"])), [(1, vec![])]);
    assert_eq!(w.option(id, option::SET_META_CONTEXT, &queries("x", &[])), [(reply::ERR_UNKNOWN, vec![])]);
    assert_eq!(w.option(id, option::SET_META_CONTEXT, &set), [context(1), (1, vec![])]);
    let told = w.option(id, option::INFO, &go(NAME, &[info::NAME, info::DESCRIPTION]));
    let kinds: Vec<u8> = told.iter().filter(|(kind, _)| *kind == 3).map(|(_, data)| data[1]).collect();
    assert_eq!(kinds, [3, 1, 2, 0]);
    let sizes = [512u32, 4096, 32 << 20].map(u32::to_be_bytes).concat();
    assert_eq!(told[0].1[2..], sizes);
    assert_eq!(w.option(id, option::ABORT, &[]), [(1, vec![])]);
    assert_eq!(w.server.phase(id), Phase::Flush);
}

#[test]
fn the_old_way_to_choose_an_export() {
    for (flags, zeroes) in [(3, 0), (1, 124)] {
        let mut w = World::new();
        let id = w.accept();
        w.output(id);
        w.deliver(id, &[0, 0, 0, flags], 1);
        w.deliver(id, &proto::option_bytes(option::EXPORT_NAME, NAME.as_bytes()), 3);
        let said = w.output(id);
        assert_eq!((said.len(), get64(&said, 0)), (10 + zeroes, Some(BLOCKS * 512)));
        w.send(id, request(command::READ, 0, 0, 512), false, &[]);
        assert_eq!(w.output(id).len(), 16 + 512);
    }
    let mut w = World::new();
    let id = w.greeted();
    w.deliver(id, &proto::option_bytes(option::EXPORT_NAME, b"nothing"), 100);
    assert_eq!(w.server.phase(id), Phase::Ended, "there is no way to say no but to close");
}

#[test]
fn what_can_not_be_understood_ends_the_connection() {
    let mut w = World::new();
    let id = w.accept();
    w.deliver(id, &[0, 0, 0, 8], 4);
    assert_eq!(w.server.phase(id), Phase::Ended, "unknown flags");
    let id = w.greeted();
    w.deliver(id, &[b'x'; 16], 16);
    assert_eq!(w.server.phase(id), Phase::Ended, "no option");
    let id = w.ready(&[]);
    w.deliver(id, &[0; 28], 28);
    assert_eq!(w.server.phase(id), Phase::Ended, "no request");
    let id = w.ready(&[option::EXTENDED_HEADERS]);
    w.send(id, request(command::READ, 0, 0, 512), false, &[0; 4]);
    assert_eq!(w.server.phase(id), Phase::Ended, "a short request after long ones were agreed on");
    let id = w.accept();
    w.pass(14);
    assert_eq!(w.server.phase(id), Phase::Open);
    w.pass(1);
    assert_eq!(w.server.phase(id), Phase::Ended, "it took too long");
}

#[test]
fn wrong_commands_fail_and_the_stream_goes_on() {
    let mut w = World::new();
    let id = w.ready(&[]);
    let end = BLOCKS * 512;
    let wrong = [
        (request(command::READ, 0, 0, 0), Errno::INVAL),
        (request(command::READ, 0, 1, 512), Errno::INVAL),
        (request(command::READ, 0, 0, 511), Errno::INVAL),
        (request(command::READ, 0, end, 512), Errno::INVAL),
        (request(command::READ, 0, u64::MAX - 511, 512), Errno::INVAL),
        (request(command::READ, command_flag::DF, 0, 512), Errno::INVAL),
        (request(command::READ, 0x8000, 0, 512), Errno::INVAL),
        (request(command::WRITE, 0, end - 512, 1024), Errno::NOSPC),
        (request(command::WRITE, 0, 3, 512), Errno::INVAL),
        (request(command::WRITE, command_flag::PAYLOAD_LEN, 0, 512), Errno::INVAL),
        (request(command::TRIM, 0, end, 512), Errno::INVAL),
        (request(command::WRITE_ZEROES, 0, end, 512), Errno::NOSPC),
        (request(command::BLOCK_STATUS, 0, 0, 512), Errno::INVAL),
        (request(command::CACHE, 0, end, 512), Errno::INVAL),
        (request(8, 0, 0, 512), Errno::INVAL),
        (request(4711, 0, 0, 0), Errno::INVAL),
    ];
    for (header, errno) in wrong {
        let payload = if header.kind == command::WRITE { header.length as usize } else { 0 };
        w.send(id, header, false, &vec![0xee; payload]);
        assert_eq!(simple_error(&mut w, id), errno.0, "{header:?}");
    }
    // What was refused is passed over, not taken for something else.
    w.send(id, request(command::WRITE, 0, 0, 512), false, &[5; 512]);
    assert_eq!((simple_error(&mut w, id), w.bytes[0]), (0, 5));
    for kind in [command::CACHE, command::TRIM] {
        w.send(id, request(kind, 0, 0, 512), false, &[]);
        assert_eq!(simple_error(&mut w, id), 0);
    }
    assert!(w.bytes.iter().all(|byte| *byte == 0));
}

#[test]
fn a_payload_that_is_too_long_is_passed_over() {
    let mut w = World::of(block::Geometry { blocks: block::Blocks(1 << 20), ..geometry(BlockSize::B512) });
    let id = w.ready(&[]);
    let long = limits::NBD_PAYLOAD_BYTES + 512;
    w.send(id, request(command::WRITE, 0, 0, long as u64), false, &vec![1; long]);
    assert_eq!((simple_error(&mut w, id), w.bytes[0]), (Errno::INVAL.0, 0));
    w.send(id, request(command::READ, 0, 0, long as u64), false, &[]);
    assert_eq!(simple_error(&mut w, id), Errno::INVAL.0);
    // The longest that is allowed works, in pieces.
    let most = limits::NBD_PAYLOAD_BYTES;
    w.send(id, request(command::WRITE, 0, 0, most as u64), false, &vec![1; most]);
    assert_eq!((simple_error(&mut w, id), w.bytes[most - 1], w.bytes[most]), (0, 1, 0));
    // With extended headers a length may be beyond all sense.
    let id = w.ready(&[option::EXTENDED_HEADERS]);
    w.send(id, request(command::WRITE, command_flag::PAYLOAD_LEN, 0, u64::MAX), true, &[]);
    assert_eq!(w.server.phase(id), Phase::Ended);
}

#[test]
fn a_payload_where_none_belongs_is_passed_over() {
    let mut w = World::new();
    let id = w.ready(&[option::EXTENDED_HEADERS]);
    w.send(id, request(command::BLOCK_STATUS, command_flag::PAYLOAD_LEN, 0, 512), true, &[9; 512]);
    let said = w.output(id);
    let chunk = proto::ChunkHeader::parse(&said, true).expect("a chunk");
    assert_eq!((chunk.kind, get32(&said, 32)), (proto::chunk::ERROR, Some(Errno::INVAL.0)));
    w.send(id, request(command::FLUSH, 0, 0, 0), true, &[]);
    assert_eq!(w.output(id).len(), 32);
}

#[test]
fn fast_zeroes_are_fast_or_refused() {
    let slow = block::Geometry { features: block::Features::default(), ..geometry(BlockSize::B512) };
    for (geometry, expected) in [(geometry(BlockSize::B512), 0), (slow, Errno::NOTSUP.0)] {
        let mut w = World::of(geometry);
        let id = w.ready(&[]);
        let flags = command_flag::FAST_ZERO | command_flag::NO_HOLE;
        w.send(id, request(command::WRITE_ZEROES, flags, 0, 4096), false, &[]);
        assert_eq!(simple_error(&mut w, id), expected);
        w.send(id, request(command::WRITE_ZEROES, command_flag::NO_HOLE, 0, 4096), false, &[]);
        assert_eq!(simple_error(&mut w, id), 0);
    }
}

#[test]
fn what_a_range_is_made_of() {
    for (kind, extended) in [(option::STRUCTURED_REPLY, false), (option::EXTENDED_HEADERS, true)] {
        let mut w = World::new();
        let id = w.greeted();
        w.option(id, kind, &[]);
        w.option(id, option::SET_META_CONTEXT, &queries(NAME, &["base:allocation"]));
        w.option(id, option::GO, &go(NAME, &[]));
        w.send(id, request(command::BLOCK_STATUS, 0, 512, 1 << 20), extended, &[]);
        let said = w.output(id);
        if extended {
            assert_eq!((get32(&said, 32), get32(&said, 36), get64(&said, 40)), (Some(1), Some(1), Some(1 << 20)));
        } else {
            assert_eq!((get32(&said, 20), get32(&said, 24), get32(&said, 28)), (Some(1), Some(1 << 20), Some(0)));
        }
    }
}

#[test]
fn a_client_that_does_not_read_gets_no_more_work_done() {
    let mut w = World::new();
    let id = w.ready(&[]);
    let (bytes, len) = request(command::READ, 0, 0, 1 << 20).to_bytes(false);
    let many = bytes[..len].repeat(2000);
    let taken = w.deliver(id, &many, usize::MAX);
    assert!(taken < many.len(), "it is not read on for ever");
    let waiting: usize = w.server.take_output(id).iter().map(|b| b.len()).sum();
    assert!(waiting <= (8 << 20) + limits::NBD_CONNECTION_BYTES + (2 << 20), "{waiting} bytes");
    // As it reads again, all of it is answered.
    let (mut given, mut answered) = (taken, waiting);
    for _ in 0..2000 {
        let mut out = Vec::new();
        w.server.on_sent(id, &mut out);
        for effect in out {
            if let nbd::server::Effect::Submit { connection, slot, piece, request, .. } = effect {
                w.at_disk.push(AtDisk { connection, slot, piece, request });
            }
        }
        w.answer_all();
        given += w.deliver(id, &many[given..], usize::MAX);
        answered += w.server.take_output(id).iter().map(|b| b.len()).sum::<usize>();
    }
    assert_eq!((given, answered), (many.len(), 2000 * (16 + (1 << 20))));
}

#[test]
fn commands_and_memory_are_limited() {
    let mut w = World::new();
    w.prompt = false;
    let id = w.ready(&[]);
    let (bytes, len) = request(command::READ, 0, 0, 512).to_bytes(false);
    w.deliver(id, &bytes[..len].repeat(300), usize::MAX);
    assert_eq!(w.at_disk.len(), limits::NBD_COMMANDS);
    w.answer_all();
    assert_eq!(w.server.stats(w.export).expect("served").reads, 300);
    let other = w.ready(&[]);
    let (bytes, len) = request(command::READ, 0, 0, 8 << 20).to_bytes(false);
    w.deliver(other, &bytes[..len].repeat(20), usize::MAX);
    assert_eq!(w.at_disk.len() << 20, limits::NBD_CONNECTION_BYTES, "requests of 1 MiB each");
}

#[test]
fn a_lost_connection_holds_the_next_one_until_its_commands_are_at_rest() {
    let mut w = World::new();
    let (old, other) = (w.ready(&[]), w.ready(&[]));
    w.prompt = false;
    w.send(old, request(command::WRITE, 0, 0, 512), false, &[1; 512]);
    w.lose(old);
    assert_eq!(w.server.phase(old), Phase::Closed);
    let new = w.greeted();
    let told = w.option(new, option::GO, &go(NAME, &[]));
    assert!(told.iter().all(|(kind, _)| *kind == reply::INFO), "no ACK yet: {told:?}");
    // Others are not disturbed.
    w.send(other, request(command::READ, 0, 0, 512), false, &[]);
    w.answer(1);
    assert_eq!(w.output(other).len(), 16 + 512);
    w.answer_all();
    assert_eq!(w.server.phase(old), Phase::Ended);
    assert_eq!(option_replies(&w.output(new), option::GO), [(reply::ACK, vec![])]);
}

#[test]
fn an_export_that_goes_answers_what_is_at_the_disk_first() {
    let mut w = World::new();
    let id = w.ready(&[]);
    w.prompt = false;
    w.send(id, request(command::WRITE, 0, 0, 512), false, &[1; 512]);
    w.send(id, request(command::WRITE, 0, 0, 512), false, &[1; 100]);
    w.unexport();
    assert_eq!((w.server.phase(id), w.idle.len()), (Phase::Finishing, 0));
    w.answer_all();
    assert_eq!(simple_error(&mut w, id), 0);
    assert_eq!(w.server.phase(id), Phase::Flush);
    w.lose(id);
    assert_eq!((w.server.phase(id), w.idle.len(), w.server.serves(NAME)), (Phase::Ended, 1, None));
    w.server.remove(id);
    let late = w.greeted();
    assert_eq!(w.option(late, option::GO, &go(NAME, &[])), [(reply::ERR_UNKNOWN, vec![])]);
}

#[test]
fn names_of_exports() {
    let mut server = Server::new();
    let export = |name: String| Export { name, description: String::new(), geometry: geometry(BlockSize::B4096) };
    assert_eq!(server.export(export(String::new())), Err(ExportError::Name));
    assert_eq!(server.export(export("x".repeat(4097))), Err(ExportError::Name));
    assert!(server.export(export("x".into())).is_ok());
    assert_eq!(server.export(export("x".into())), Err(ExportError::Exists("x".into())));
}

/// A client that is ready, or what it says of a server that sends these bytes.
fn client_of(more: &[u8]) -> Result<(), Violation> {
    let mut client = Client::<u32>::new(ClientOptions { export: NAME.into(), extended: false });
    let mut done = Vec::new();
    let mut feed = |client: &mut Client<u32>, mut bytes: &[u8]| {
        while !bytes.is_empty() {
            let mut place = client.receive();
            let n = bytes.len().min(place.max);
            place.buf[place.from..place.from + n].copy_from_slice(&bytes[..n]);
            client.received(place.buf, n, &mut done)?;
            bytes = &bytes[n..];
        }
        Ok(())
    };
    let reply = proto::option_reply_bytes;
    let mut begin = [&proto::GREETING[..], &[0, 3]].concat();
    begin.extend(reply(option::STRUCTURED_REPLY, reply::ACK, &[]));
    begin.extend(reply(option::GO, reply::INFO, &[&[0, 0][..], &(1u64 << 20).to_be_bytes(), &[0, 0x0d]].concat()));
    begin.extend(reply(option::GO, reply::ACK, &[]));
    feed(&mut client, &begin)?;
    client.submit(Command::Read { offset: 0, length: 1024 }, 1);
    client.submit(Command::Flush, 2);
    feed(&mut client, more)
}

fn chunk(flags: u16, kind: u16, cookie: u64, payload: &[u8]) -> Vec<u8> {
    let header = proto::ChunkHeader { flags, kind, cookie, offset: 0, length: payload.len() as u64 };
    let (bytes, len) = header.to_bytes(false);
    [&bytes[..len], payload].concat()
}

#[test]
fn servers_that_lie_are_not_believed() {
    let data = |offset: u64, len: usize| [&offset.to_be_bytes()[..], &vec![1; len]].concat();
    let flush = 1 << 32 | 1;
    let good = [chunk(0, 1, 0, &data(512, 512)), chunk(1, 1, 0, &data(0, 512)), chunk(1, 0, flush, &[])].concat();
    assert_eq!(client_of(&good), Ok(()));
    let hole = [&0u64.to_be_bytes()[..], &1024u32.to_be_bytes()].concat();
    assert_eq!(client_of(&chunk(1, 2, 0, &hole)), Ok(()));
    assert_eq!(client_of(&chunk(1, proto::chunk::ERROR, 0, &[0, 0, 0, 5, 0, 0])), Ok(()));
    for (bytes, why) in [
        (chunk(1, 1, 0, &data(0, 512)), "before all data"),
        ([chunk(0, 1, 0, &data(0, 512)), chunk(1, 1, 0, &data(256, 512))].concat(), "twice"),
        (chunk(0, 1, 0, &data(512, 1024)), "outside"),
        (chunk(0, 1, 0, &data(u64::MAX, 1)), "outside"),
        (chunk(1, 1, flush, &data(0, 512)), "reads none"),
        (chunk(1, 0, 77, &[]), "not in flight"),
        (chunk(1, 0, 2 << 32, &[]), "not in flight"),
        (chunk(0, 0, 0, &[]), "not asked for"),
        (chunk(1, 9, 0, &[]), "not asked for"),
        (chunk(1, proto::chunk::ERROR, 0, &[0; 6]), "without an error"),
        (chunk(1, proto::chunk::ERROR, 0, &[0; 2]), "too short"),
        (chunk(1, 5, flush, &vec![0; 9000]), "too long"),
        (vec![0; 32], "magic"),
        ([&0x6744_6698u32.to_be_bytes()[..], &[0; 12]].concat(), "structured"),
    ] {
        let error = client_of(&bytes).expect_err(why).to_string();
        assert!(error.contains(why), "{error} is not about '{why}'");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn any_bytes_are_survived(
        start in 0..4usize,
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        piece in 1..100usize,
        prompt: bool,
    ) {
        let mut w = World::new();
        let id = match start {
            0 => w.accept(),
            1 => w.greeted(),
            2 => w.ready(&[]),
            _ => w.ready(&[option::EXTENDED_HEADERS]),
        };
        w.prompt = prompt;
        w.deliver(id, &bytes, piece);
        w.lose(id);
        w.answer_all();
        prop_assert_eq!(w.server.phase(id), Phase::Ended);
        let _ = client_of(&bytes);
    }
}
