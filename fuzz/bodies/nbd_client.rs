//! Feeds arbitrary bytes to the client machine: it says what is wrong, or answers each command at most once.

use nbd::client::{Client, ClientOptions, Command};
use nbd::proto::{GREETING, info, option, option_reply_bytes, reply};

/// The first byte: bit 0, after the handshake; bit 1, extended headers. The second says how the bytes are cut.
pub fn run(input: &[u8]) {
    let [start, piece, bytes @ ..] = input else { return };
    let extended = start & 2 != 0;
    let mut client = Client::new(ClientOptions { export: "disk".into(), extended });
    let mut done = Vec::new();
    let mut feed = |client: &mut Client<u32>, mut bytes: &[u8], piece: usize| {
        while !bytes.is_empty() {
            let mut place = client.receive();
            assert!(place.max > 0 && place.from + place.max <= place.buf.len());
            let n = bytes.len().min(place.max).min(piece);
            place.buf[place.from..place.from + n].copy_from_slice(&bytes[..n]);
            if client.received(place.buf, n, &mut done).is_err() {
                return false;
            }
            bytes = &bytes[n..];
        }
        true
    };
    if start & 1 != 0 {
        let agreed = if extended { option::EXTENDED_HEADERS } else { option::STRUCTURED_REPLY };
        let export = [&info::EXPORT.to_be_bytes()[..], &(1u64 << 30).to_be_bytes(), &[0x0d, 0xff]].concat();
        let greeting = [&GREETING[..], &[0, 3]].concat();
        let begin = [
            greeting,
            option_reply_bytes(agreed, reply::ACK, &[]),
            option_reply_bytes(option::GO, reply::INFO, &export),
            option_reply_bytes(option::GO, reply::ACK, &[]),
        ];
        assert!(feed(&mut client, &begin.concat(), usize::MAX));
        client.submit(Command::Read { offset: 0, length: 1024 }, 0);
        client.submit(Command::Flush, 1);
        client.submit(Command::Read { offset: 4096, length: 20 << 10 }, 2);
    }
    feed(&mut client, bytes, usize::from(*piece) + 1);
    let mut tokens: Vec<u32> = done.into_iter().map(|d| d.token).chain(client.drain()).collect();
    tokens.sort_unstable();
    assert_eq!(tokens, if start & 1 != 0 { vec![0, 1, 2] } else { vec![] });
}
