//! Hostile and broken hosts: every violation ends its own connection with the right termination request, and nothing
//! else; a connection that is lost at any byte leaves nothing behind.

mod support;

use block::limits;
use nvme::command::{FLAGS_SGL, Sgl, Sqe, admin, io as op};
use nvme::fabrics::DYNAMIC_CONTROLLER;
use nvme::pdu::{self, Digests, FatalError, Kind, Transfer};
use nvme::status::Status;
use nvme::target::Phase;
use proptest::prelude::*;
use support::*;

const HEADER: u16 = FatalError::InvalidHeader as u16;
const SEQUENCE: u16 = FatalError::Sequence as u16;
const RANGE: u16 = FatalError::DataOutOfRange as u16;

fn flagged(sqe: Sqe, cid: u16) -> Sqe {
    Sqe { flags: FLAGS_SGL, cid: cid.into(), ..sqe }
}

/// Changes one byte of a PDU.
fn with(mut bytes: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    bytes[at] = value;
    bytes
}

#[test]
fn violations_before_the_connection_is_initialised() {
    let good = bytemuck::bytes_of(&pdu::ic_req(0, Digests::default(), 1)).to_vec();
    let capsule = bytemuck::bytes_of(&pdu::command(Digests::default(), 0, Sqe::default(), 0)).to_vec();
    let cases = [
        ("an unknown type", with(good.clone(), 0, 0x55), (HEADER, 0)),
        ("a PDU that only controllers send", with(good.clone(), 0, 0x01), (HEADER, 0)),
        ("a wrong HLEN", with(good.clone(), 2, 127), (HEADER, 2)),
        ("a digest flag", with(good.clone(), 1, 1), (HEADER, 1)),
        ("a PLEN that is too small", with(good.clone(), 4, 64), (HEADER, 4)),
        ("a PLEN that is too large", with(good.clone(), 4, 129), (HEADER, 4)),
        ("an unknown format", with(good.clone(), 8, 1), (FatalError::UnsupportedParameter as u16, 8)),
        ("an HPDA out of range", with(good.clone(), 10, 32), (HEADER, 10)),
        ("unknown digests", with(good.clone(), 11, 4), (HEADER, 11)),
        ("a command first", capsule, (SEQUENCE, 0)),
    ];
    for (what, bytes, expected) in cases {
        let mut world = World::with_volume();
        let mut wire = Wire::raw(&mut world, usize::MAX);
        wire.send(&mut world, &bytes);
        assert_eq!(wire.term(&mut world), expected, "{what}");
        // What follows is ignored until the host closes.
        wire.send(&mut world, &good);
        assert_eq!(wire.said(&mut world), [], "{what}");
        world.lose(wire.id);
        assert_eq!(world.target.phase(wire.id), Phase::Ended, "{what}");
        world.target.remove(wire.id);
    }
}

#[test]
fn violations_of_a_connected_queue_end_only_that_queue() {
    let write = flagged(io(op::WRITE, 0, 32, Sgl::transport(16384)), 1);
    // The tag of the first command of a queue is 0, since Connect is answered.
    let data = |offset: u32, len: u32| Transfer { cid: 1, tag: 0, offset, len };
    let bytes = pattern(20_000, 3);
    type Case<'a> = (&'a str, Box<dyn Fn(&Wire) -> Vec<u8> + 'a>, (u16, u32));
    let cases: Vec<Case> = vec![
        (
            "ICReq again",
            Box::new(|_| bytemuck::bytes_of(&pdu::ic_req(0, Digests::default(), 1)).to_vec()),
            (SEQUENCE, 0),
        ),
        ("an unknown type", Box::new(|w| with(w.capsule(write, &[]), 0, 8)), (HEADER, 0)),
        ("a response capsule", Box::new(|_| vec![5, 0, 24, 0, 24, 0, 0, 0]), (HEADER, 0)),
        (
            "a data digest flag",
            Box::new(|w| with(w.capsule(flagged(io(op::WRITE, 0, 1, Sgl::in_capsule(512)), 2), &[0; 512]), 1, 2)),
            (HEADER, 1),
        ),
        (
            "in-capsule data inside of the header",
            Box::new(|w| with(w.capsule(flagged(io(op::WRITE, 0, 1, Sgl::in_capsule(512)), 2), &[0; 512]), 3, 64)),
            (HEADER, 3),
        ),
        (
            "too much in-capsule data",
            Box::new(|w| w.capsule(flagged(io(op::WRITE, 0, 17, Sgl::in_capsule(8704)), 2), &bytes[..8704])),
            (HEADER, 4),
        ),
        (
            "data that nobody asked for",
            Box::new(|w| w.h2c(Transfer { tag: 9, ..data(0, 4096) }, true, &bytes[..4096])),
            (HEADER, 10),
        ),
        (
            "data for another command",
            Box::new(|w| w.h2c(Transfer { cid: 7, ..data(0, 4096) }, true, &bytes[..4096])),
            (HEADER, 8),
        ),
        ("data from the middle", Box::new(|w| w.h2c(data(4096, 4096), false, &bytes[..4096])), (RANGE, 12)),
        ("more data than asked for", Box::new(|w| w.h2c(data(0, 20_000), true, &bytes)), (RANGE, 16)),
        ("an early last PDU", Box::new(|w| w.h2c(data(0, 4096), true, &bytes[..4096])), (HEADER, 1)),
        ("no last PDU", Box::new(|w| w.h2c(data(0, 16384), false, &bytes[..16384])), (HEADER, 1)),
        ("an odd offset", Box::new(|w| w.h2c(data(2, 4096), false, &bytes[..4096])), (HEADER, 12)),
        (
            "a length that is not the data's",
            Box::new(|w| with(w.h2c(data(0, 4096), false, &bytes[..4096]), 17, 0x20)),
            (HEADER, 16),
        ),
        (
            "H2CData beyond MAXH2CDATA",
            Box::new(|w| with(w.h2c(data(0, 4096), false, &bytes[..4096]), 7, 1)),
            (FatalError::LimitExceeded as u16, 16),
        ),
    ];
    for piece in [usize::MAX, 1] {
        for (what, make, expected) in &cases {
            let mut world = World::with_volume();
            let (mut admin, mut queue) = joined(&mut world);
            let mut other = Wire::plain(&mut world);
            Who::new(HOST, VOLUME).io(&mut world, &mut other, 1, 2);
            queue.piece = piece;
            let capsule = queue.capsule(write, &[]);
            queue.send(&mut world, &capsule);
            assert!(matches!(queue.said(&mut world).as_slice(), [Said::R2t(t)] if t.tag == 0));
            let bad = make(&queue);
            queue.send(&mut world, &bad);
            assert_eq!(queue.term(&mut world), *expected, "{what}");
            assert!(!world.requests.iter().any(|r| r.is_change()), "{what}: nothing was written");
            // The other queues go on.
            other.ok(&mut world, io(op::WRITE, 0, 1, Sgl::in_capsule(512)), &[1; 512]);
            admin.ok(&mut world, Sqe { opcode: admin::KEEP_ALIVE, ..Sqe::default() }, &[]);
            // A host that does not close is closed.
            world.pass(1);
            world.pass(5_000);
            assert_eq!(world.target.phase(queue.id), Phase::Ended, "{what}");
        }
    }
}

#[test]
fn a_termination_carries_the_offending_header() {
    let mut world = World::with_volume();
    let (_admin, mut queue) = joined(&mut world);
    let bad = with(queue.capsule(flagged(io(op::READ, 0, 1, Sgl::transport(512)), 5), &[]), 2, 71);
    queue.send(&mut world, &bad);
    let bytes = world.output(queue.id);
    assert_eq!(bytes[0], Kind::C2hTerm as u8);
    assert_eq!(bytes[4..8], (bytes.len() as u32).to_le_bytes());
    assert_eq!(bytes[24..], bad);
}

#[test]
fn broken_digests() {
    let digests = Digests { header: true, data: true };
    let who = Who::new(HOST, VOLUME);
    let start = |world: &mut World| {
        let mut admin = Wire::open(world, digests, 0, usize::MAX);
        let controller = who.admin(world, &mut admin);
        let mut queue = Wire::open(world, digests, 0, usize::MAX);
        who.io(world, &mut queue, controller, 1);
        (admin, queue)
    };
    // A header digest: the connection is lost.
    let mut world = World::with_volume();
    let (_admin, mut queue) = start(&mut world);
    let capsule = queue.capsule(flagged(io(op::READ, 0, 1, Sgl::transport(512)), 50), &[]);
    let received = u32::from_le_bytes(capsule[72..76].try_into().expect("four")) ^ 1;
    queue.send(&mut world, &with(capsule.clone(), 72, capsule[72] ^ 1));
    assert_eq!(queue.term(&mut world), (FatalError::HeaderDigest as u16, received));
    // A data digest: only the command is lost, in the capsule or by R2T.
    let mut world = World::with_volume();
    let (_admin, mut queue) = start(&mut world);
    let capsule = queue.capsule(flagged(io(op::WRITE, 0, 1, Sgl::in_capsule(512)), 51), &[3; 512]);
    queue.send(&mut world, &with(capsule, 100, 4));
    match queue.said(&mut world).as_slice() {
        [Said::Response(cqe)] => assert_eq!(cqe.status(), Status::TRANSIENT_TRANSPORT),
        other => panic!("{other:?}"),
    }
    let capsule = queue.capsule(flagged(io(op::WRITE, 0, 2, Sgl::transport(1024)), 52), &[]);
    queue.send(&mut world, &capsule);
    let Some(Said::R2t(r2t)) = queue.said(&mut world).pop() else { panic!("no R2T") };
    let first = queue.h2c(Transfer { len: 512, ..r2t }, false, &[1; 512]);
    queue.send(&mut world, &with(first, 60, 9));
    assert_eq!(queue.said(&mut world), [], "the rest is still to come");
    let second = queue.h2c(Transfer { offset: 512, len: 512, ..r2t }, true, &[1; 512]);
    queue.send(&mut world, &second);
    match queue.said(&mut world).as_slice() {
        [Said::Response(cqe)] => assert_eq!(cqe.status(), Status::TRANSIENT_TRANSPORT),
        other => panic!("{other:?}"),
    }
    assert!(world.requests.is_empty(), "damaged data reaches no disk");
    queue.ok(&mut world, io(op::WRITE, 0, 2, Sgl::transport(1024)), &[1; 1024]);
}

#[test]
fn queues_are_limited() {
    let mut world = World::with_volume();
    let (_admin, mut queue) = joined(&mut world);
    world.prompt = false;
    for cid in 0..limits::QUEUE_ENTRIES {
        let capsule = queue.capsule(flagged(io(op::READ, 0, 1, Sgl::transport(512)), cid), &[]);
        queue.send(&mut world, &capsule);
    }
    assert_eq!((world.at_disk.len(), queue.said(&mut world)), (usize::from(limits::QUEUE_ENTRIES), vec![]));
    // An identifier in use: a status, and the first command is not touched.
    let again = queue.capsule(flagged(io(op::WRITE, 0, 1, Sgl::in_capsule(512)), 5), &[0; 512]);
    queue.send(&mut world, &again);
    match queue.said(&mut world).as_slice() {
        [Said::Response(cqe)] => assert_eq!(cqe.status().without_flags(), Status::ID_CONFLICT),
        other => panic!("{other:?}"),
    }
    // One command more than the queue has entries.
    let more = queue.capsule(flagged(io(op::READ, 0, 1, Sgl::transport(512)), 5000), &[]);
    queue.send(&mut world, &more);
    assert_eq!(queue.term(&mut world), (SEQUENCE, 0));
    world.lose(queue.id);
    assert_eq!(world.target.phase(queue.id), Phase::Closed, "the disk still works for it");
    world.answer_all();
    assert_eq!(world.target.phase(queue.id), Phase::Ended);
}

#[test]
fn large_writes_wait_for_room() {
    let mut world = World::with_volume();
    let (_admin, mut queue) = joined(&mut world);
    let len = 1u32 << 20;
    for cid in 0..20 {
        let capsule = queue.capsule(flagged(io(op::WRITE, 0, len / 512, Sgl::transport(len)), cid), &[]);
        queue.send(&mut world, &capsule);
    }
    let said = queue.said(&mut world);
    assert_eq!(said.len(), 16, "16 MiB at a time");
    let Some(Said::R2t(first)) = said.first().cloned() else { panic!("an R2T") };
    let data = queue.h2c(first, true, &pattern(len as usize, 1));
    queue.send(&mut world, &data);
    let said = queue.said(&mut world);
    assert!(matches!(said.as_slice(), [Said::R2t(_), Said::Response(_)]), "the next one may come");
}

#[test]
fn a_host_that_does_not_read_gets_no_more_work_done() {
    let mut world = World::with_volume();
    let (_admin, mut queue) = joined(&mut world);
    let len = 1u32 << 20;
    for cid in 0..40u16 {
        let capsule = queue.capsule(flagged(io(op::READ, 0, len / 512, Sgl::transport(len)), cid), &[]);
        queue.send(&mut world, &capsule);
    }
    assert!(world.target.receive(queue.id).is_none());
    assert!(world.requests.len() < 20);
    world.output(queue.id);
    assert!(world.target.receive(queue.id).is_some());
}

#[test]
fn connections_are_limited() {
    let mut world = World::new();
    let ids: Vec<_> = (0..limits::CONNECTIONS).map(|_| world.accept()).collect();
    let mut out = Vec::new();
    assert!(world.target.accept(world.now, &mut out).is_none());
    // Those that say nothing are closed in time.
    world.pass(11_000);
    for id in ids {
        assert_eq!(world.target.phase(id), Phase::Ended);
        world.target.remove(id);
    }
    assert!(world.target.accept(world.now, &mut out).is_some());
}

#[test]
fn controllers_are_limited() {
    let mut world = World::with_volume();
    let who = Who::new(HOST, VOLUME);
    let mut wires = Vec::new();
    let refused = loop {
        let mut wire = Wire::plain(&mut world);
        let (cqe, _) = wire.call(&mut world, who.connect(0, 32), &who.data(DYNAMIC_CONTROLLER));
        if !cqe.status().is_success() {
            break cqe.status();
        }
        wires.push(wire);
    };
    assert_eq!((refused.without_flags(), wires.len()), (Status::CONNECT_BUSY, 256));
    world.lose(wires[0].id);
    let mut wire = Wire::plain(&mut world);
    wire.ok(&mut world, who.connect(0, 32), &who.data(DYNAMIC_CONTROLLER));
}

/// The host's bytes of a short conversation: handshake, Connect, enable, writes in the capsule and by R2T, a read.
fn conversation() -> (Vec<u8>, Vec<u8>) {
    let mut world = World::with_volume();
    let (mut admin, mut queue) = joined(&mut world);
    let capsule = admin.capsule(flagged(Sqe { opcode: admin::ASYNC_EVENT, ..Sqe::default() }, 900), &[]);
    admin.send(&mut world, &capsule);
    queue.ok(&mut world, io(op::WRITE, 0, 2, Sgl::in_capsule(1024)), &pattern(1024, 1));
    queue.ok(&mut world, io(op::WRITE, 9, 3, Sgl::transport(1536)), &pattern(1536, 2));
    queue.ok(&mut world, io(op::READ, 0, 4, Sgl::transport(2048)), &[]);
    (admin.sent, queue.sent)
}

#[test]
fn a_loss_at_any_byte_leaves_nothing_behind() {
    let (admin_bytes, queue_bytes) = conversation();
    let total = admin_bytes.len() + queue_bytes.len();
    for cut in 0..=total {
        let mut world = World::with_volume();
        let (admin, queue) = (Wire::raw(&mut world, usize::MAX), Wire::raw(&mut world, usize::MAX));
        let first = cut.min(admin_bytes.len());
        world.deliver(admin.id, &admin_bytes[..first], 1024);
        world.prompt = false;
        world.deliver(queue.id, &queue_bytes[..cut - first], 1024);
        let lost_first = if cut % 2 == 0 { [admin.id, queue.id] } else { [queue.id, admin.id] };
        world.lose(lost_first[0]);
        world.lose(lost_first[1]);
        let waiting = world.at_disk.len();
        if waiting > 0 {
            assert_eq!(world.target.phase(queue.id), Phase::Closed, "byte {cut}");
        }
        world.answer_all();
        for id in [admin.id, queue.id] {
            assert_eq!(world.target.phase(id), Phase::Ended, "byte {cut}");
            assert!(world.target.take_output(id).is_empty());
            world.target.remove(id);
        }
        let id = world.target.serves(VOLUME).expect("served");
        assert!(world.target.hosts(id).is_empty(), "byte {cut}: the controller is gone");
        assert_eq!(world.target.connections(), 0);
        let mut out = Vec::new();
        world.target.unexport(id, &mut out);
        world.apply(out);
        assert_eq!(world.idle, [id], "byte {cut}: nothing uses the disk");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever is sent after whichever start: no panic, and everything ends.
    #[test]
    fn arbitrary_bytes_never_panic(
        start in 0usize..4,
        piece in 1usize..200,
        chunks in proptest::collection::vec(arbitrary_pdu(), 0..12),
    ) {
        let mut world = World::with_volume();
        world.prompt = start % 2 == 0;
        let mut ids = Vec::new();
        let wire = match start {
            0 => Wire::raw(&mut world, piece),
            1 => Wire::plain(&mut world),
            _ => {
                let prompt = std::mem::replace(&mut world.prompt, true);
                let (admin, queue) = joined(&mut world);
                world.prompt = prompt;
                let (used, spare) = if start == 2 { (admin, queue) } else { (queue, admin) };
                ids.push(spare.id);
                used
            }
        };
        ids.push(wire.id);
        for chunk in chunks {
            world.deliver(wire.id, &chunk, piece);
            world.output(wire.id);
        }
        ids.into_iter().for_each(|id| world.lose(id));
        world.answer_all();
        prop_assert_eq!(world.target.phase(wire.id), Phase::Ended);
        let id = world.target.serves(VOLUME).expect("served");
        prop_assert!(world.target.hosts(id).is_empty());
    }
}

/// Bytes that look like a PDU more often than not.
fn arbitrary_pdu() -> impl Strategy<Value = Vec<u8>> {
    let random = proptest::collection::vec(any::<u8>(), 0..200).boxed();
    let command =
        (any::<[u8; 8]>(), any::<[u8; 4]>(), 0u8..3, 0u32..40_000, proptest::collection::vec(any::<u8>(), 0..600))
            .prop_map(|(head, cdw, sgl, len, data)| {
                let kinds = [Sgl::IN_CAPSULE, Sgl::TRANSPORT, 0x11];
                let opcodes = [0u8, 1, 2, 5, 6, 8, 9, 10, 12, 24, 127];
                let mut sqe: Sqe = Sqe { flags: FLAGS_SGL, nsid: 1.into(), ..Sqe::default() };
                sqe.opcode = opcodes[usize::from(head[0]) % opcodes.len()];
                sqe.cid = u16::from(head[1] % 8).into();
                if sqe.opcode == 127 {
                    sqe.nsid = u32::from(head[2] % 9).into();
                }
                let len = if head[3] % 2 == 0 { data.len() as u32 } else { len };
                sqe.sgl = Sgl { len: len.into(), kind: kinds[usize::from(sgl)], ..Sgl::default() };
                sqe.cdw10 = u32::from_le_bytes(cdw).into();
                sqe.cdw12 = u32::from(head[4] % 64).into();
                sqe.cdw11 = u32::from(head[5] % 8).into();
                let mut bytes = bytemuck::bytes_of(&pdu::command(Digests::default(), 0, sqe, data.len())).to_vec();
                bytes.extend_from_slice(&data);
                bytes
            })
            .boxed();
    let data = (0u16..8, 0u16..8, 0u32..5, proptest::collection::vec(any::<u8>(), 1..5000), any::<bool>())
        .prop_map(|(cid, tag, offset, data, last)| {
            let transfer = Transfer { cid, tag, offset: offset * 512, len: data.len() as u32 };
            let flags = if last { pdu::flags::LAST } else { 0 };
            let mut bytes =
                bytemuck::bytes_of(&pdu::transfer(Kind::H2cData, flags, Digests::default(), 0, transfer)).to_vec();
            bytes.extend_from_slice(&data);
            bytes
        })
        .boxed();
    let hello = Just(bytemuck::bytes_of(&pdu::ic_req(0, Digests::default(), 1)).to_vec()).boxed();
    prop_oneof![1 => random, 6 => command, 3 => data, 1 => hello]
}
