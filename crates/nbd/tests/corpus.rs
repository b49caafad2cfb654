//! Replays the fuzzers' corpora. What a fuzzer ever found is kept there.
#![allow(clippy::disallowed_methods, reason = "a test reads its own data")]

mod support;

#[path = "../../../fuzz/bodies/corpus.rs"]
mod corpus;
#[path = "../../../fuzz/bodies/nbd_client.rs"]
mod nbd_client;
#[path = "../../../fuzz/bodies/nbd_server.rs"]
mod nbd_server;

use nbd::proto::{ChunkHeader, GREETING, RequestHeader, chunk, option, option_bytes, option_reply_bytes, reply};
use support::{NAME, go, queries};

#[test]
fn server() {
    corpus::replay("nbd_server", nbd_server::run);
}

#[test]
fn client() {
    corpus::replay("nbd_client", nbd_client::run);
}

#[test]
#[ignore = "writes the seeds"]
fn seeds() {
    let request = |kind: u16, flags: u16, length: u64, extended: bool, payload: &[u8]| {
        let (bytes, len) = RequestHeader { flags, kind, cookie: 7, offset: 512, length }.to_bytes(extended);
        [&bytes[..len], payload].concat()
    };
    let commands = |extended: bool| {
        let mut all: Vec<u8> = (0..9)
            .flat_map(|kind| request(kind, 0, 512, extended, &[3; 512][..if kind == 1 { 512 } else { 0 }]))
            .collect();
        all.extend(request(1, 1 | u16::from(extended) << 5, 8192, extended, &[4; 8192]));
        all.extend(request(6, 0x13, 1 << 20, extended, &[]));
        all
    };
    let options = [
        option_bytes(option::LIST, &[]),
        option_bytes(option::STARTTLS, &[]),
        option_bytes(option::STRUCTURED_REPLY, &[]),
        option_bytes(option::EXTENDED_HEADERS, &[]),
        option_bytes(option::LIST_META_CONTEXT, &queries(NAME, &[])),
        option_bytes(option::SET_META_CONTEXT, &queries(NAME, &["base:allocation", "x:y"])),
        option_bytes(option::INFO, &go(NAME, &[0, 1, 2, 3])),
        option_bytes(option::GO, &go(NAME, &[3])),
    ]
    .concat();
    let with = |start: u8, piece: u8, bytes: &[u8]| [&[start, piece][..], bytes].concat();
    corpus::write(
        "nbd_server",
        &[
            ("greeting", with(0, 3, &[&[0, 0, 0, 3][..], &options].concat())),
            ("options", with(1, 200, &options)),
            ("export_name", with(1, 9, &[option_bytes(1, NAME.as_bytes()), request(0, 0, 512, false, &[])].concat())),
            ("simple", with(2, 255, &commands(false))),
            ("simple_late", with(6, 30, &commands(false))),
            ("extended", with(3, 100, &commands(true))),
            ("retired", with(11, 255, &commands(true))),
        ],
    );
    let piece = |kind: u16, cookie: u64, payload: &[u8], extended: bool| {
        let header = ChunkHeader { flags: chunk::DONE, kind, cookie, offset: 0, length: payload.len() as u64 };
        let (bytes, len) = header.to_bytes(extended);
        [&bytes[..len], payload].concat()
    };
    let answers = |extended: bool| {
        [
            piece(chunk::OFFSET_DATA, 0, &[&[0; 8][..], &[5; 1024]].concat(), extended),
            piece(chunk::NONE, 1 << 32 | 1, &[], extended),
            piece(chunk::ERROR, 2 << 32 | 2, &[0, 0, 0, 5, 0, 1, b'x'], extended),
        ]
        .concat()
    };
    let greeting = [&GREETING[..], &[0, 3]].concat();
    let refused = option_reply_bytes(option::STRUCTURED_REPLY, reply::ERR_UNSUP, b"no");
    corpus::write(
        "nbd_client",
        &[
            (
                "greeting",
                with(0, 3, &[greeting, refused, option_reply_bytes(option::GO, reply::ERR_UNKNOWN, &[])].concat()),
            ),
            ("structured", with(1, 255, &answers(false))),
            ("extended", with(3, 60, &answers(true))),
            ("hole", with(1, 255, &piece(chunk::OFFSET_HOLE, 0, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0], false))),
        ],
    );
}
