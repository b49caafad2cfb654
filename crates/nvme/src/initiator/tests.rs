use block::{BlockRange, Buf, Durability};
use proptest::prelude::*;

use super::*;
use crate::Status;
use crate::completion::Cqe;
use crate::digest::Digest;
use crate::pdu::{CommonHeader, Digests, Header, Kind, Layout, Transfer, flags};
use crate::wire::{Le16, Le64, view};

const BOTH: Digests = Digests { header: true, data: true };

fn options(digests: Digests) -> QueueOptions {
    QueueOptions { entries: 8, digests, receive_bytes: 8192 }
}

/// The target's side of one connection: it reads what the queue sends and builds answers.
struct Peer {
    digests: Digests,
    alignment: u8,
    max_h2c_data: u32,
    bytes: Vec<u8>,
}

/// A PDU that the queue sent.
#[derive(Debug)]
struct Sent {
    header: Header,
    flags: u8,
    data: Vec<u8>,
}

impl Peer {
    fn new(digests: Digests) -> Peer {
        Peer { digests, alignment: 0, max_h2c_data: 8192, bytes: Vec::new() }
    }

    fn welcome(&self) -> Vec<u8> {
        bytemuck::bytes_of(&pdu::ic_resp(self.alignment, self.digests, self.max_h2c_data)).to_vec()
    }

    /// Parses everything that the queue wants to send, digests and padding included.
    fn take(&mut self, queue: &mut Queue<u32>) -> Vec<Sent> {
        for buf in queue.output() {
            self.bytes.extend_from_slice(&buf);
        }
        let mut sent = Vec::new();
        while let Some(common) = view::<CommonHeader>(&self.bytes) {
            let layout = Layout::of(&common, self.digests, self.alignment).expect("what we send is well-formed");
            assert!(self.bytes.len() >= layout.pdu_len, "the queue sends whole PDUs");
            let rest = self.bytes.split_off(layout.pdu_len);
            let pdu = std::mem::replace(&mut self.bytes, rest);
            if layout.has_header_digest {
                assert!(Digest::of(&pdu[..layout.header_len]).matches(&pdu[layout.header_len..layout.header_len + 4]));
            }
            let data = pdu[layout.data_start..layout.data_start + layout.data_len].to_vec();
            if layout.has_data_digest {
                assert!(Digest::of(&data).matches(&pdu[layout.data_start + layout.data_len..]));
            }
            let header = Header::parse(&layout, &pdu).expect("what we send is well-formed");
            sent.push(Sent { header, flags: layout.flags, data });
        }
        sent
    }

    fn finish(&self, header: &[u8], common: CommonHeader, data: &[u8]) -> Vec<u8> {
        let mut out = header.to_vec();
        if self.digests.header {
            out.extend_from_slice(&Digest::of(header).to_bytes());
        }
        out.resize(out.len().max(usize::from(common.data_offset)), 0);
        out.extend_from_slice(data);
        if self.digests.data && !data.is_empty() {
            out.extend_from_slice(&Digest::of(data).to_bytes());
        }
        out
    }
    fn respond(&self, cid: u16, status: Status, result: u64) -> Vec<u8> {
        let cqe = Cqe {
            cid: Le16::new(cid),
            status: Le16::new(status.to_wire()),
            result: Le64::new(result),
            ..Cqe::default()
        };
        let pdu = pdu::response(self.digests, cqe);
        self.finish(bytemuck::bytes_of(&pdu), pdu.common, &[])
    }
    fn data(&self, cid: u16, offset: u32, data: &[u8], bits: u8) -> Vec<u8> {
        let transfer = Transfer { cid, tag: 0, offset, len: data.len() as u32 };
        let pdu = pdu::transfer(Kind::C2hData, bits, self.digests, 0, transfer);
        self.finish(bytemuck::bytes_of(&pdu), pdu.common, data)
    }
    fn r2t(&self, cid: u16, tag: u16, offset: u32, len: u32) -> Vec<u8> {
        let pdu = pdu::transfer(Kind::R2t, 0, self.digests, 0, Transfer { cid, tag, offset, len });
        self.finish(bytemuck::bytes_of(&pdu), pdu.common, &[])
    }
}

/// Feeds bytes, at most `step` at a time, each where the queue wants it.
fn feed(queue: &mut Queue<u32>, mut bytes: &[u8], step: usize) -> Result<Vec<Completed<u32>>, Violation> {
    let mut done = Vec::new();
    while !bytes.is_empty() {
        let Receive { mut buf, from, max } = queue.receive();
        let n = step.min(max).min(bytes.len());
        assert!(n > 0 && from + n <= buf.len(), "the queue has room");
        buf[from..from + n].copy_from_slice(&bytes[..n]);
        queue.received(buf, n, &mut done)?;
        bytes = &bytes[n..];
    }
    Ok(done)
}

fn ready(peer: &mut Peer, digests: Digests) -> Queue<u32> {
    let mut queue = Queue::new(options(digests));
    assert_eq!(queue.free(), 0, "nothing may be sent before the parameters are agreed");
    let request: Vec<u8> = queue.output().iter().flat_map(|b| b.to_vec()).collect();
    assert_eq!(request, bytemuck::bytes_of(&pdu::ic_req(0, digests, 1)));
    feed(&mut queue, &peer.welcome(), usize::MAX).expect("a good answer");
    assert_eq!((queue.free(), queue.in_flight()), (7, 0));
    queue
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}

fn cid_of(sent: &Sent) -> u16 {
    let Header::Command(sqe) = sent.header else { panic!("a command, not {sent:?}") };
    sqe.cid.get()
}

fn write(bytes: &[u8]) -> Command {
    let range = BlockRange::new(3, (bytes.len() / 512) as u64);
    command::write(1, range, Buf::copy_of(bytes), Durability::Durable)
}
fn read(bytes: usize) -> Command {
    command::read(1, BlockRange::new(5, (bytes / 512) as u64), bytes)
}

#[test]
fn small_writes_travel_in_the_capsule() {
    for digests in [Digests::default(), BOTH] {
        let mut peer = Peer { alignment: 3, ..Peer::new(digests) };
        let mut queue = ready(&mut peer, digests);
        let payload = pattern(4096);
        queue.submit(write(&payload), 11);
        let sent = peer.take(&mut queue);
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].data, payload);
        let Header::Command(sqe) = sent[0].header else { panic!("{sent:?}") };
        assert_eq!((sqe.slba(), sqe.cdw12.get() & 0xffff), (3, 7));
        assert_eq!((sqe.sgl.kind, sqe.sgl.len.get()), (crate::command::Sgl::IN_CAPSULE, 4096));
        let done = feed(&mut queue, &peer.respond(cid_of(&sent[0]), Status::SUCCESS, 5), 1).expect("a good answer");
        assert_eq!((done.len(), done[0].token, done[0].result), (1, 11, 5));
        assert!(done[0].status.is_success() && done[0].data.is_none() && queue.in_flight() == 0);
    }
}

#[test]
fn large_writes_wait_for_requests_and_are_cut_to_the_targets_limit() {
    for digests in [Digests::default(), BOTH] {
        let mut peer = Peer { alignment: 31, ..Peer::new(digests) };
        let mut queue = ready(&mut peer, digests);
        let payload = pattern(40960);
        queue.submit(write(&payload), 1);
        let sent = peer.take(&mut queue);
        assert!(sent.len() == 1 && sent[0].data.is_empty());
        let cid = cid_of(&sent[0]);
        let mut arrived = Vec::new();
        for (tag, offset, len, pdus) in [(7, 0, 20480u32, 3), (9, 20480, 20480, 3)] {
            feed(&mut queue, &peer.r2t(cid, tag, offset, len), 3).expect("a good request");
            let sent = peer.take(&mut queue);
            assert_eq!(sent.len(), pdus);
            for (i, pdu) in sent.iter().enumerate() {
                let Header::H2cData(transfer) = pdu.header else { panic!("{pdu:?}") };
                assert_eq!((transfer.cid, transfer.tag, transfer.offset as usize), (cid, tag, arrived.len()));
                assert!(pdu.data.len() <= 8192);
                assert_eq!(pdu.flags & flags::LAST != 0, i + 1 == pdus);
                arrived.extend_from_slice(&pdu.data);
            }
        }
        assert_eq!(arrived, payload);
        let done = feed(&mut queue, &peer.respond(cid, Status::SUCCESS, 0), 1).expect("a good answer");
        assert_eq!(done.len(), 1);
    }
}

#[test]
fn large_reads_are_received_where_they_belong() {
    let mut peer = Peer::new(Digests::default());
    let mut queue = ready(&mut peer, Digests::default());
    let payload = pattern(128 << 10);
    queue.submit(read(payload.len()), 1);
    let cid = cid_of(&peer.take(&mut queue)[0]);
    let bytes = peer.data(cid, 0, &payload, flags::LAST | flags::SUCCESS);
    assert!(feed(&mut queue, &bytes[..24], usize::MAX).expect("a header").is_empty());
    let Receive { mut buf, from, max } = queue.receive();
    assert_eq!((buf.len(), from, max), (payload.len(), 0, payload.len()), "the command's own buffer");
    buf.copy_from_slice(&payload);
    let mut done = Vec::new();
    queue.received(buf, payload.len(), &mut done).expect("good data");
    assert_eq!(done[0].data.as_deref(), Some(&payload[..]));
}

/// A session with everything in it, as the target's bytes: two reads in pieces and interleaved, a small and a large
/// write, an error.
fn session(peer: &mut Peer, queue: &mut Queue<u32>) -> (Vec<u8>, Vec<u8>) {
    let (a, b) = (pattern(24 << 10), pattern(4096));
    queue.submit(read(a.len()), 0);
    queue.submit(read(b.len()), 1);
    queue.submit(write(&pattern(512)), 2);
    queue.submit(write(&pattern(16384)), 3);
    queue.submit(command::flush(1), 4);
    let cids: Vec<u16> = peer.take(queue).iter().map(cid_of).collect();
    let mut bytes = peer.data(cids[0], 0, &a[..4096], 0);
    bytes.extend(peer.r2t(cids[3], 1, 0, 16384));
    bytes.extend(peer.data(cids[1], 0, &b, flags::LAST | flags::SUCCESS));
    bytes.extend(peer.data(cids[0], 4096, &a[4096..], flags::LAST));
    bytes.extend(peer.respond(cids[2], Status::SUCCESS, 0));
    bytes.extend(peer.respond(cids[0], Status::SUCCESS, 0));
    bytes.extend(peer.respond(cids[3], Status::SUCCESS, 0));
    bytes.extend(peer.respond(cids[4], Status::WRITE_FAULT, 0));
    (bytes, a)
}

fn check_session(done: &[Completed<u32>], a: &[u8]) {
    let mut tokens: Vec<u32> = done.iter().map(|d| d.token).collect();
    tokens.sort_unstable();
    assert_eq!(tokens, [0, 1, 2, 3, 4], "each command is answered exactly once");
    for d in done {
        match d.token {
            0 => assert_eq!(d.data.as_deref(), Some(a)),
            1 => assert_eq!(d.data.as_deref(), Some(&pattern(4096)[..])),
            4 => assert_eq!((d.status, d.data.is_none()), (Status::WRITE_FAULT, true)),
            _ => assert!(d.status.is_success()),
        }
    }
}

#[test]
fn bytes_may_arrive_in_any_pieces() {
    for digests in [Digests::default(), BOTH] {
        for step in [1, 2, 3, 7, 64, 1000, usize::MAX] {
            let mut peer = Peer::new(digests);
            let mut queue = ready(&mut peer, digests);
            let (bytes, a) = session(&mut peer, &mut queue);
            let done = feed(&mut queue, &bytes, step).expect("a good session");
            check_session(&done, &a);
            let uploads = peer.take(&mut queue);
            assert_eq!(uploads.iter().map(|s| s.data.len()).sum::<usize>(), 16384);
        }
    }
}

#[test]
fn a_session_may_be_cut_anywhere() {
    let mut peer = Peer::new(BOTH);
    let mut queue = ready(&mut peer, BOTH);
    let whole = session(&mut peer, &mut queue).0.len();
    // Each byte of the first headers, then each 31st: 31 is prime, so that every kind of boundary is met.
    for cut in (0..whole).filter(|cut| *cut < 200 || cut % 31 == 0) {
        let mut peer = Peer::new(BOTH);
        let mut queue = ready(&mut peer, BOTH);
        let (bytes, a) = session(&mut peer, &mut queue);
        let mut done = feed(&mut queue, &bytes[..cut], usize::MAX).expect("the first part");
        if cut % 2 == 0 {
            // The connection ends here: every command is either answered or handed back, never both.
            let mut all: Vec<u32> = done.iter().map(|d| d.token).chain(queue.drain()).collect();
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2, 3, 4]);
            continue;
        }
        done.extend(feed(&mut queue, &bytes[cut..], usize::MAX).expect("the second part"));
        check_session(&done, &a);
    }
}

#[test]
fn a_target_that_breaks_the_protocol_ends_the_connection() {
    type Script = fn(&Peer, u16, u16, u16) -> Vec<u8>;
    let good = pattern(4096);
    // The commands in flight: a read of 4096 bytes, a write of 16384 bytes, a flush.
    let table: &[(&str, Script, Violation)] = &[
        ("unknown command", |p, _, _, _| p.respond(77, Status::SUCCESS, 0), Violation::UnknownCommand(77)),
        ("idle slot", |p, _, _, _| p.respond(6, Status::SUCCESS, 0), Violation::UnknownCommand(6)),
        (
            "read without data",
            |p, r, _, _| p.respond(r, Status::SUCCESS, 0),
            Violation::Transfer(0, "success before all data was sent"),
        ),
        (
            "write without data",
            |p, _, w, _| p.respond(w, Status::SUCCESS, 0),
            Violation::Transfer(1, "success before all data was asked for"),
        ),
        (
            "too much data",
            |p, r, _, _| p.data(r, 0, &[0; 4100], flags::LAST),
            Violation::Transfer(0, "data that is out of order or too long"),
        ),
        (
            "data with a gap",
            |p, r, _, _| p.data(r, 512, &[0; 512], 0),
            Violation::Transfer(0, "data that is out of order or too long"),
        ),
        (
            "too little data",
            |p, r, _, _| p.data(r, 0, &[0; 512], flags::LAST | flags::SUCCESS),
            Violation::Transfer(0, "the last data comes too early"),
        ),
        (
            "success before the end",
            |p, r, _, _| p.data(r, 0, &[0; 512], flags::SUCCESS),
            Violation::Transfer(0, "success before the last data"),
        ),
        (
            "data for a write",
            |p, _, w, _| p.data(w, 0, &[0; 512], 0),
            Violation::Transfer(1, "data for a command that reads none"),
        ),
        (
            "request for a flush",
            |p, _, _, f| p.r2t(f, 0, 0, 512),
            Violation::Transfer(2, "a request for data that the command does not have"),
        ),
        (
            "request beyond the end",
            |p, _, w, _| p.r2t(w, 0, 0, 20480),
            Violation::Transfer(1, "a request for data that is out of order or too long"),
        ),
        (
            "request with an offset that overflows",
            |p, _, w, _| p.r2t(w, 0, u32::MAX - 3, u32::MAX),
            Violation::Transfer(1, "a request for data that is out of order or too long"),
        ),
        ("a second welcome", |p, _, _, _| p.welcome(), Violation::Unexpected(Kind::IcResp)),
        (
            "a host's PDU",
            |_, _, _, _| bytemuck::bytes_of(&pdu::ic_req(0, Digests::default(), 1)).to_vec(),
            Violation::Unexpected(Kind::IcReq),
        ),
        (
            "a termination",
            |_, _, _, _| pdu::termination(Kind::C2hTerm, pdu::Violation::field(3), &[0; 24]),
            Violation::Terminated { status: 1, info: 3 },
        ),
        ("an unknown type", |_, _, _, _| vec![0xee; 8], Violation::Header(pdu::Violation::field(0))),
    ];
    for (what, script, expected) in table {
        for step in [1, usize::MAX] {
            let mut peer = Peer::new(Digests::default());
            let mut queue = ready(&mut peer, Digests::default());
            queue.submit(read(good.len()), 0);
            queue.submit(write(&pattern(16384)), 1);
            queue.submit(command::flush(1), 2);
            let cids: Vec<u16> = peer.take(&mut queue).iter().map(cid_of).collect();
            let found = feed(&mut queue, &script(&peer, cids[0], cids[1], cids[2]), step);
            assert_eq!(found.err(), Some(*expected), "{what}");
            let goodbye = peer.take(&mut queue);
            let terminated = matches!(expected, Violation::Terminated { .. });
            assert_eq!(goodbye.len(), usize::from(!terminated), "{what}");
            assert!(goodbye.iter().all(|pdu| matches!(pdu.header, Header::H2cTerm { .. })), "{what}");
            assert_eq!(queue.drain().count(), 3, "{what}: what was in flight is handed back");
        }
    }
}

#[test]
fn wrong_digests_are_noticed() {
    let mut peer = Peer::new(BOTH);
    let mut queue = ready(&mut peer, BOTH);
    queue.submit(read(4096), 0);
    let cid = cid_of(&peer.take(&mut queue)[0]);
    let good = peer.data(cid, 0, &pattern(4096), flags::LAST | flags::SUCCESS);
    for (at, what) in [(24, "header"), (100, "data"), (good.len() - 1, "data")] {
        let mut queue = ready(&mut peer, BOTH);
        queue.submit(read(4096), 0);
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        assert_eq!(feed(&mut queue, &bad, usize::MAX).err(), Some(Violation::Digest(what)));
    }
    let mut queue: Queue<u32> = Queue::new(options(Digests::default()));
    let unwanted = feed(&mut queue, &peer.welcome(), usize::MAX).err();
    assert_eq!(unwanted, Some(Violation::UnwantedDigest));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
        agreed in any::<bool>(),
        step in 1usize..80,
    ) {
        let mut peer = Peer::new(Digests::default());
        let mut queue = if agreed { ready(&mut peer, Digests::default()) } else { Queue::new(options(BOTH)) };
        if agreed {
            session(&mut peer, &mut queue);
        }
        let _ = feed(&mut queue, &bytes, step);
    }

    #[test]
    fn damaged_sessions_never_panic_and_answer_nothing_twice(
        flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
        digests in any::<bool>(),
        step in 1usize..5000,
    ) {
        let digests = if digests { BOTH } else { Digests::default() };
        let mut peer = Peer::new(digests);
        let mut queue = ready(&mut peer, digests);
        let (mut bytes, _) = session(&mut peer, &mut queue);
        // Headers are few and data is much: damage the headers more often than chance would.
        for (at, value) in flips {
            let at = at.index(bytes.len());
            let at = if value % 2 == 0 { at % 64 } else { at };
            bytes[at] ^= value;
        }
        if let Ok(done) = feed(&mut queue, &bytes, step) {
            let mut tokens: Vec<u32> = done.iter().map(|d| d.token).chain(queue.drain()).collect();
            tokens.sort_unstable();
            prop_assert_eq!(tokens, [0, 1, 2, 3, 4]);
        }
    }
}
