//! Ordinary conversations with the target, in every shape that the transport allows.

mod support;

use block::{BlockSize, Fault, Request, limits};
use nvme::Status;
use nvme::command::{DatasetRange, Sgl, Sqe, admin, feature as features, io as op, notice};
use nvme::fabrics::{self, DISABLE_SQ_FLOW_CONTROL, DYNAMIC_CONTROLLER, cc, csts, property};
use nvme::identify::{Descriptor, IdentifyController, IdentifyNamespace, cns, parse_descriptor_list};
use nvme::log::{DiscoveryEntry, DiscoveryHeader, page};
use nvme::nqn::DISCOVERY;
use nvme::pdu::Digests;
use nvme::target::{Outbox, Phase};
use nvme::wire::{text, view};
use support::*;

#[test]
fn discovery_lists_what_is_served_at_the_advertised_address() {
    let mut world = World::with_volume();
    world.export("nqn.2019-05.io.openebs:b", BlockSize::B4096, 100);
    let mut wire = Wire::plain(&mut world);
    Who::new(HOST, DISCOVERY).admin(&mut world, &mut wire);
    let (_, page) = wire.ok(&mut world, identify(cns::CONTROLLER, 0), &[]);
    let controller: IdentifyController = view(&page).expect("4096 bytes");
    assert_eq!((controller.controller_type, controller.nn.get()), (2, 0));
    assert_eq!(text(&controller.subsystem_nqn), Some(DISCOVERY));

    let (_, head) = wire.ok(&mut world, get_log(page::DISCOVERY, 0, 1024), &[]);
    let head: DiscoveryHeader = view(&head).expect("1024 bytes");
    assert_eq!(head.records.get(), 2);
    let (_, whole) = wire.ok(&mut world, get_log(page::DISCOVERY, 0, 3 * 1024), &[]);
    let entry: DiscoveryEntry = view(&whole[2048..]).expect("an entry");
    assert_eq!(text(&entry.subsystem_nqn), Some("nqn.2019-05.io.openebs:b"));
    assert_eq!((text(&entry.address), text(&entry.service)), (Some("10.1.2.3"), Some("8420")));
    // Any part of the log is the same as that part of the whole.
    for (from, len) in [(0, 4), (1020, 8), (1024, 1024), (1500, 1200), (2044, 1028), (3000, 512)] {
        let (_, part) = wire.ok(&mut world, get_log(page::DISCOVERY, from, len), &[]);
        let mut expected = whole.get(from as usize..).unwrap_or_default().to_vec();
        expected.resize(len as usize, 0);
        assert_eq!(part, expected, "from {from}, {len} bytes");
    }
    assert_eq!(wire.fails(&mut world, get_log(page::DISCOVERY, 4096, 1024), &[]), Status::INVALID_FIELD);
}

#[test]
fn the_discovery_log_changes_with_a_notice() {
    let mut world = World::with_volume();
    let mut wire = Wire::plain(&mut world);
    Who::new(HOST, DISCOVERY).admin(&mut world, &mut wire);
    wire.ok(&mut world, feature(admin::SET_FEATURES, features::ASYNC_EVENTS, notice::DISCOVERY_LOG), &[]);
    let capsule = wire.capsule(Sqe { opcode: admin::ASYNC_EVENT, flags: 0x40, cid: 99.into(), ..Sqe::default() }, &[]);
    wire.send(&mut world, &capsule);
    assert_eq!(wire.said(&mut world), []);
    world.export("nqn.2019-05.io.openebs:b", BlockSize::B4096, 100);
    match wire.said(&mut world).as_slice() {
        [Said::Response(cqe)] => assert_eq!((cqe.cid.get(), cqe.dw0()), (99, 0x70_f002)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn identify_says_what_the_control_plane_relies_on() {
    let mut world = World::with_volume();
    let (mut admin, _io) = joined(&mut world);
    let (_, page) = admin.ok(&mut world, identify(cns::CONTROLLER, 0), &[]);
    let controller: IdentifyController = view(&page).expect("4096 bytes");
    assert_eq!(text(&controller.model), Some("Mayastor NVMe controller"));
    assert_eq!(text(&controller.serial), Some("11112222333344445555"));
    assert_eq!(4096usize << controller.mdts, limits::TRANSFER_BYTES);
    assert_eq!(controller.ioccsz.get() as usize * 16, 64 + limits::IN_CAPSULE_BYTES);
    let (_, page) = admin.ok(&mut world, identify(cns::NAMESPACE, 1), &[]);
    let namespace: IdentifyNamespace = view(&page).expect("4096 bytes");
    assert_eq!((namespace.size.get(), namespace.current_format().data_shift), (16384, 9));
    assert_eq!(namespace.nguid, UUID.to_be_bytes());
    let (_, list) = admin.ok(&mut world, identify(cns::DESCRIPTORS, 1), &[]);
    let uuid = UUID.to_be_bytes();
    let eui64 = [0x46, 0x44, 0x44, 0x44, 0x44, 0x44, 0xcc, 0xcc];
    assert_eq!(namespace.eui64, eui64);
    let descriptors = [Descriptor::Uuid(uuid), Descriptor::Nguid(uuid), Descriptor::Eui64(eui64)];
    assert_eq!(parse_descriptor_list(&list), descriptors);
    let (_, list) = admin.ok(&mut world, identify(cns::ACTIVE_NAMESPACES, 0), &[]);
    assert_eq!(&list[..8], [1, 0, 0, 0, 0, 0, 0, 0]);
    let (_, list) = admin.ok(&mut world, identify(cns::ACTIVE_NAMESPACES, 1), &[]);
    assert!(list.iter().all(|b| *b == 0));
    assert_eq!(admin.fails(&mut world, identify(cns::NAMESPACE, 2), &[]), Status::INVALID_NAMESPACE);
    assert_eq!(admin.fails(&mut world, identify(0x13, 1), &[]), Status::INVALID_FIELD);
    for log in [page::SUPPORTED, page::HEALTH, page::FIRMWARE, page::CHANGED_NAMESPACES, page::EFFECTS] {
        admin.ok(&mut world, get_log(log, 0, 512), &[]);
    }
    assert_eq!(admin.fails(&mut world, get_log(0xc0, 0, 512), &[]), Status::INVALID_LOG_PAGE);
    let queues = feature(admin::SET_FEATURES, features::NUMBER_OF_QUEUES, 0x0003_0001);
    assert_eq!(admin.ok(&mut world, queues, &[]).0, 0x0001_0001);
}

/// Writes, reads and compares in every framing.
#[test]
fn data_arrives_whole_in_every_framing() {
    let shapes = [(false, false), (true, false), (false, true), (true, true)];
    for (header, data) in shapes {
        for (piece, h2c, alignment, flow) in
            [(usize::MAX, usize::MAX, 0, 0), (1, 1 << 20, 3, 4), (7, 4096, 31, 0), (4096, 20_000, 1, 4)]
        {
            let digests = Digests { header, data };
            let mut world = World::with_volume();
            let who = Who { attributes: flow, ..Who::new(HOST, VOLUME) };
            assert!(flow == 0 || flow == DISABLE_SQ_FLOW_CONTROL);
            let mut admin = Wire::open(&mut world, digests, alignment, piece);
            let mut io_queue = Wire::open(&mut world, digests, alignment, piece);
            io_queue.h2c = h2c;
            let controller = who.admin(&mut world, &mut admin);
            who.io(&mut world, &mut io_queue, controller, 1);
            for (slba, len) in [(0, 512), (3, 4096), (100, 8192), (200, 8704), (300, 65536), (2000, 1 << 20)] {
                if piece < 16 && len > 65536 {
                    continue;
                }
                let bytes = pattern(len, slba as u8);
                let blocks = len as u32 / 512;
                let sgl = if len <= 8192 { Sgl::in_capsule(len as u32) } else { Sgl::transport(len as u32) };
                io_queue.ok(&mut world, io(op::WRITE, slba, blocks, sgl), &bytes);
                let (_, read) = io_queue.ok(&mut world, io(op::READ, slba, blocks, Sgl::transport(len as u32)), &[]);
                assert!(read == bytes, "{len} bytes, {digests:?}, pieces of {piece}");
                io_queue.ok(&mut world, io(op::COMPARE, slba, blocks, sgl), &bytes);
                let other = pattern(len, slba as u8 + 1);
                assert_eq!(
                    io_queue.fails(&mut world, io(op::COMPARE, slba, blocks, sgl), &other),
                    Status::COMPARE_FAILURE
                );
            }
        }
    }
}

#[test]
fn payload_by_r2t_reaches_the_disk_aligned() {
    let mut world = World::with_volume();
    let (_admin, mut queue) = joined(&mut world);
    queue.ok(&mut world, io(op::WRITE, 0, 16, Sgl::transport(8192)), &pattern(8192, 1));
    let Some(Request::Write { data, .. }) = world.requests.first() else { panic!("{:?}", world.requests) };
    assert!(data.is_aligned(4096) && (data.as_ptr() as usize).is_multiple_of(4096));
}

#[test]
fn payload_in_capsules_is_not_copied() {
    let mut world = World::with_volume();
    let (_admin, mut queue) = joined(&mut world);
    for n in 0..40 {
        queue.ok(&mut world, io(op::WRITE, n * 16, 16, Sgl::in_capsule(8192)), &pattern(8192, n as u8));
    }
    for (n, request) in world.requests.iter().enumerate() {
        let Request::Write { data, .. } = request else { panic!("{request:?}") };
        assert!(data.whole_len() > data.len(), "a view of what was received");
        assert_eq!(**data, pattern(8192, n as u8)[..], "later receives leave it as it is");
    }
}

#[test]
fn blocks_are_cleared_and_flushed() {
    let mut world = World::with_volume();
    let (_admin, mut queue) = joined(&mut world);
    let all = pattern(8192, 9);
    queue.ok(&mut world, io(op::WRITE, 0, 16, Sgl::in_capsule(8192)), &all);
    let mut zeroes = io(op::WRITE_ZEROES, 1, 2, Sgl::default());
    zeroes.cdw12 = (1 | op::DEALLOCATE | op::FUA).into();
    queue.ok(&mut world, zeroes, &[]);
    let range =
        |slba: u64, blocks: u32| DatasetRange { slba: slba.into(), blocks: blocks.into(), ..Default::default() };
    let ranges = [range(5, 1), range(9, 3)];
    let mut trim = io(op::DATASET_MANAGEMENT, 1, 1, Sgl::in_capsule(32));
    trim.cdw11 = op::ATTRIBUTE_DEALLOCATE.into();
    queue.ok(&mut world, trim, bytemuck::cast_slice(&ranges));
    queue.ok(&mut world, io(op::FLUSH, 0, 1, Sgl::default()), &[]);
    let (_, read) = queue.ok(&mut world, io(op::READ, 0, 16, Sgl::transport(8192)), &[]);
    for (block, bytes) in read.chunks(512).enumerate() {
        let cleared = matches!(block, 1 | 2 | 5 | 9..=11);
        assert!(bytes == if cleared { &[0; 512][..] } else { &all[block * 512..][..512] }, "block {block}");
    }
    assert!(matches!(world.requests.iter().rev().nth(1), Some(Request::Flush)));
    assert_eq!(world.requests.iter().filter(|r| matches!(r, Request::Unmap { .. })).count(), 2);
    // A whole list may be sent although one range is used.
    let mut list = bytemuck::cast_slice::<_, u8>(&ranges).to_vec();
    list.resize(4096, 0xff);
    let whole = Sqe { sgl: Sgl::in_capsule(4096), cdw10: 0.into(), ..trim };
    queue.ok(&mut world, whole, &list);
    assert_eq!(world.requests.iter().filter(|r| matches!(r, Request::Unmap { .. })).count(), 3);
    // Hints ask for nothing.
    let before = world.requests.len();
    trim.cdw11 = 0.into();
    queue.ok(&mut world, trim, bytemuck::cast_slice(&ranges));
    assert_eq!(world.requests.len(), before);
    let id = world.target.serves(VOLUME).expect("served");
    let stats = world.target.stats(id).expect("served");
    assert_eq!((stats.writes, stats.written_bytes, stats.reads, stats.read_bytes), (1, 8192, 1, 8192));
}

#[test]
fn mistakes_in_commands_get_a_status_and_nothing_else() {
    let mut world = World::with_volume();
    let (mut admin, mut queue) = joined(&mut world);
    let before = world.requests.len();
    let small = Sgl::transport(512);
    let cases = [
        ("LBA beyond the end", io(op::READ, 16384, 1, small), Status::LBA_RANGE),
        ("LBA that overflows", io(op::READ, u64::MAX, 2, Sgl::transport(1024)), Status::LBA_RANGE),
        ("namespace", Sqe { nsid: 7.into(), ..io(op::READ, 0, 1, small) }, Status::INVALID_NAMESPACE),
        ("opcode", io(0x91, 0, 1, small), Status::INVALID_OPCODE),
        ("more than MDTS", io(op::READ, 0, 4096, Sgl::transport(2 << 20)), Status::INVALID_FIELD),
        ("SGL shorter than the data", io(op::READ, 0, 2, small), Status::SGL_LENGTH),
        ("SGL longer than the data", io(op::WRITE, 0, 1, Sgl::transport(1024)), Status::SGL_LENGTH),
        ("SGL type", io(op::READ, 0, 1, Sgl { kind: 0x40, ..small }), Status::SGL_TYPE),
        ("in-capsule without data", io(op::WRITE, 0, 1, Sgl::in_capsule(512)), Status::SGL_LENGTH),
        (
            "in-capsule with an offset",
            io(op::WRITE, 0, 1, Sgl { address: 8.into(), ..Sgl::in_capsule(512) }),
            Status::SGL_OFFSET,
        ),
        ("a second Connect", Who::new(HOST, VOLUME).connect(2, 32), Status::SGL_LENGTH),
        ("a property on an I/O queue", fabrics::property_get(0, property::VS, false), Status::SEQUENCE),
    ];
    for (what, sqe, status) in cases {
        assert_eq!(queue.fails(&mut world, sqe, &[]), status, "{what}");
    }
    let data = Who::new(HOST, VOLUME).data(1);
    assert_eq!(queue.fails(&mut world, Who::new(HOST, VOLUME).connect(2, 32), &data), Status::SEQUENCE);
    let cases = [
        ("opcode", Sqe { opcode: 0x80, ..Sqe::default() }, Status::INVALID_OPCODE),
        ("feature", feature(admin::SET_FEATURES, 0x55, 0), Status::INVALID_FIELD),
        (
            "saved feature",
            Sqe { cdw10: (1 << 31 | 7).into(), ..feature(admin::SET_FEATURES, 0, 0) },
            Status::FEATURE_NOT_SAVEABLE,
        ),
        ("no write cache", feature(admin::SET_FEATURES, features::WRITE_CACHE, 0), Status::FEATURE_NOT_CHANGEABLE),
        ("a huge log", Sqe { cdw11: 0xffff.into(), ..get_log(page::HEALTH, 0, 512) }, Status::INVALID_FIELD),
        ("an unknown property", fabrics::property_get(0, 0x40, false), Status::INVALID_FIELD),
        ("a property of the wrong size", fabrics::property_get(0, property::CAP, false), Status::INVALID_FIELD),
        ("a read-only property", fabrics::property_set(0, property::CSTS, 0), Status::INVALID_FIELD),
    ];
    for (what, sqe, status) in cases {
        assert_eq!(admin.fails(&mut world, sqe, &[]), status, "{what}");
    }
    assert_eq!(world.requests.len(), before);
    for queue in [&admin, &queue] {
        assert_eq!(world.target.phase(queue.id), Phase::Open);
    }
}

#[test]
fn faults_of_the_disk_become_statuses() {
    let mut world = World::with_volume();
    let (_admin, mut queue) = joined(&mut world);
    for (fault, read, write) in [
        (Fault::Medium, Status::UNRECOVERED_READ, Status::WRITE_FAULT),
        (Fault::NoSpace, Status::CAPACITY_EXCEEDED, Status::CAPACITY_EXCEEDED),
        (Fault::Gone, Status::INTERNAL, Status::INTERNAL),
        (Fault::Fenced, Status::RESERVATION_CONFLICT, Status::RESERVATION_CONFLICT),
    ] {
        world.fault = Some(fault);
        assert_eq!(queue.fails(&mut world, io(op::READ, 0, 1, Sgl::transport(512)), &[]), read);
        assert_eq!(queue.fails(&mut world, io(op::WRITE, 0, 1, Sgl::in_capsule(512)), &[0; 512]), write);
    }
    world.fault = None;
    queue.ok(&mut world, io(op::READ, 0, 1, Sgl::transport(512)), &[]);
    let id = world.target.serves(VOLUME).expect("served");
    assert_eq!(world.target.stats(id).expect("served").errors, 8);
}

#[test]
fn connect_checks_everything() {
    use nvme::fabrics::{connect_offset as at, invalid_parameter};
    let mut world = World::with_volume();
    let who = Who::new(HOST, VOLUME);
    let mut admin = Wire::plain(&mut world);
    let refused = |world: &mut World, who: &Who, sqe: Sqe, controller: u16| {
        let mut wire = Wire::plain(world);
        let (cqe, _) = wire.call(world, sqe, &who.data(controller));
        (cqe.status().without_flags(), cqe.result.get())
    };
    let bad = |offset, in_data| (Status::CONNECT_PARAMETERS, invalid_parameter(offset, in_data));
    let unknown = Who::new(HOST, "nqn.2019-05.io.openebs:unknown");
    assert_eq!(refused(&mut world, &unknown, unknown.connect(0, 32), 0xffff), bad(at::SUBSYSTEM_NQN, true));
    let nameless = Who::new("", VOLUME);
    assert_eq!(refused(&mut world, &nameless, who.connect(0, 32), 0xffff), bad(at::HOST_NQN, true));
    assert_eq!(refused(&mut world, &who, who.connect(0, 32), 5), bad(at::CONTROLLER_ID, true));
    assert_eq!(refused(&mut world, &who, who.connect(0, 1), 0xffff), bad(at::QUEUE_SIZE, false));
    assert_eq!(refused(&mut world, &who, who.connect(0, 1000), 0xffff), bad(at::QUEUE_SIZE, false));
    let mut format = who.connect(0, 32);
    format.cdw10 = 1.into();
    assert_eq!(refused(&mut world, &who, format, 0xffff), (Status::CONNECT_FORMAT, 0));

    let (result, _) = admin.ok(&mut world, who.connect(0, 32), &who.data(DYNAMIC_CONTROLLER));
    let controller = result as u16;
    assert_eq!(refused(&mut world, &who, who.connect(1, 128), controller), (Status::SEQUENCE, 0));
    assert_eq!(admin.fails(&mut world, identify(1, 0), &[]), Status::SEQUENCE, "not enabled");
    enable(&mut world, &mut admin);
    let mut queue = Wire::plain(&mut world);
    who.io(&mut world, &mut queue, controller, 1);
    assert_eq!(refused(&mut world, &who, who.connect(1, 128), controller), bad(at::QUEUE_ID, false));
    assert_eq!(refused(&mut world, &who, who.connect(65, 128), controller), bad(at::QUEUE_ID, false));
    assert_eq!(refused(&mut world, &who, who.connect(2, 129), controller), bad(at::QUEUE_SIZE, false));
    assert_eq!(refused(&mut world, &who, who.connect(2, 128), controller + 1), bad(at::CONTROLLER_ID, true));
    let other = Who::new("nqn.2014-08.com.example:other", VOLUME);
    assert_eq!(refused(&mut world, &other, who.connect(2, 128), controller), bad(at::HOST_NQN, true));
    let other = Who { host_id: [8; 16], ..who.clone() };
    assert_eq!(refused(&mut world, &other, who.connect(2, 128), controller), bad(at::HOST_ID, true));
    let mut early = Wire::plain(&mut world);
    assert_eq!(early.fails(&mut world, io(op::READ, 0, 1, Sgl::transport(512)), &[]), Status::SEQUENCE);
}

#[test]
fn shutdown_flushes_and_reset_ends_the_io_queues() {
    let mut world = World::with_volume();
    let (mut admin, mut queue) = joined(&mut world);
    let cc_on = cc::ENABLE | cc::ENTRY_SIZES;
    let status = |world: &mut World, admin: &mut Wire| {
        admin.ok(world, fabrics::property_get(0, property::CSTS, false), &[]).0 as u32
    };
    // A reset with a command at the disk: not ready to be enabled again before the disk has answered.
    world.prompt = false;
    let write = queue.capsule(Sqe { flags: 0x40, ..io(op::WRITE, 0, 1, Sgl::in_capsule(512)) }, &[1; 512]);
    queue.send(&mut world, &write);
    admin.ok(&mut world, fabrics::property_set(0, property::CC, 0), &[]);
    assert_eq!(world.target.phase(queue.id), Phase::Closed);
    assert_eq!(status(&mut world, &mut admin), csts::READY);
    world.answer_all();
    assert_eq!(world.target.phase(queue.id), Phase::Ended);
    assert_eq!(status(&mut world, &mut admin), 0);
    enable(&mut world, &mut admin);
    // An orderly shutdown waits for a flush.
    world.prompt = true;
    world.requests.clear();
    admin.ok(&mut world, fabrics::property_set(0, property::CC, cc_on | cc::SHUTDOWN_NORMAL), &[]);
    assert!(matches!(world.requests.as_slice(), [Request::Flush]));
    assert_eq!(status(&mut world, &mut admin), csts::READY | csts::SHUTDOWN_COMPLETE);
    admin.ok(&mut world, fabrics::property_set(0, property::CC, 0), &[]);
    assert_eq!(status(&mut world, &mut admin), 0);
}

#[test]
fn a_change_of_the_namespace_is_told_once_until_it_is_read() {
    let mut world = World::with_volume();
    let (mut admin, _io) = joined(&mut world);
    admin.ok(&mut world, feature(admin::SET_FEATURES, features::ASYNC_EVENTS, notice::NAMESPACE_ATTRIBUTES), &[]);
    for cid in 1000..1000 + limits::ASYNC_EVENTS as u16 {
        let sqe = Sqe { opcode: admin::ASYNC_EVENT, flags: 0x40, cid: cid.into(), ..Sqe::default() };
        let capsule = admin.capsule(sqe, &[]);
        admin.send(&mut world, &capsule);
    }
    assert_eq!(admin.said(&mut world), []);
    assert_eq!(admin.fails(&mut world, Sqe { opcode: admin::ASYNC_EVENT, ..Sqe::default() }, &[]), Status::EVENT_LIMIT);
    let id = world.target.serves(VOLUME).expect("served");
    let mut geometry = world.disks[&id].geometry;
    geometry.blocks.0 += 8;
    for expected in [1, 0] {
        let mut out = Outbox::new();
        world.target.resize(id, geometry, &mut out);
        world.apply(out);
        assert_eq!(admin.said(&mut world).len(), expected);
    }
    let (_, list) = admin.ok(&mut world, get_log(page::CHANGED_NAMESPACES, 0, 4096), &[]);
    assert_eq!(list[0], 1);
    let (_, list) = admin.ok(&mut world, get_log(page::CHANGED_NAMESPACES, 0, 4096), &[]);
    assert_eq!(list[0], 0);
    let (_, page) = admin.ok(&mut world, identify(cns::NAMESPACE, 1), &[]);
    assert_eq!(view::<IdentifyNamespace>(&page).expect("whole").size.get(), 16392);
    // Event requests can be aborted, others can not.
    let abort = |cid: u32| Sqe { opcode: admin::ABORT, cdw10: (cid << 16).into(), ..Sqe::default() };
    let capsule = admin.capsule(Sqe { cid: 500.into(), flags: 0x40, ..abort(1002) }, &[]);
    admin.send(&mut world, &capsule);
    match admin.said(&mut world).as_slice() {
        [Said::Response(aborted), Said::Response(done)] => {
            assert_eq!((aborted.cid.get(), aborted.status()), (1002, Status::ABORT_REQUESTED));
            assert_eq!((done.cid.get(), done.dw0()), (500, 0));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(admin.ok(&mut world, abort(1234), &[]).0, 1);
}

/// Abort: what waits for its turn ends at once; what the host is sending data for, or the disk works on, ends as it would.
#[test]
fn commands_that_wait_can_be_aborted() {
    let mut world = World::with_volume();
    let (mut admin, mut queue) = joined(&mut world);
    let len = 1u32 << 20;
    let flagged = |sqe: Sqe, cid: u16| Sqe { cid: cid.into(), flags: 0x40, ..sqe };
    for cid in 0..20 {
        let capsule = queue.capsule(flagged(io(op::WRITE, 0, len / 512, Sgl::transport(len)), cid), &[]);
        queue.send(&mut world, &capsule);
    }
    let asked = queue.said(&mut world);
    assert_eq!(asked.len(), 16, "four wait for room");
    let abort =
        |queue: u32, cid: u32| Sqe { opcode: admin::ABORT, cdw10: (cid << 16 | queue).into(), ..Sqe::default() };
    let responses = |said: Vec<Said>| -> Vec<(u16, Status)> {
        said.iter()
            .filter_map(|s| if let Said::Response(r) = s { Some((r.cid.get(), r.status())) } else { None })
            .collect()
    };
    assert_eq!(admin.ok(&mut world, abort(1, 17), &[]).0, 0);
    assert_eq!(responses(queue.said(&mut world)), [(17, Status::ABORT_REQUESTED)]);
    // Again, being received, another queue, no such queue, never sent.
    for (of, cid) in [(1, 17), (1, 3), (0, 18), (7, 18), (1, 900)] {
        assert_eq!(admin.ok(&mut world, abort(of, cid), &[]).0, 1, "queue {of}, command {cid}");
    }
    world.prompt = false;
    let mut ended = Vec::new();
    let mut asked: std::collections::VecDeque<Said> = asked.into();
    while let Some(said) = asked.pop_front() {
        match said {
            Said::R2t(r2t) => {
                let data = queue.h2c(r2t, true, &pattern(len as usize, 1));
                queue.send(&mut world, &data);
                // At the disk by now.
                assert_eq!(admin.ok(&mut world, abort(1, r2t.cid.into()), &[]).0, 1);
                world.answer_all();
            }
            Said::Response(response) => ended.push((response.cid.get(), response.status())),
            other => panic!("{other:?}"),
        }
        asked.extend(queue.said(&mut world));
    }
    ended.sort_unstable_by_key(|(cid, _)| *cid);
    let expected: Vec<(u16, Status)> = (0..20).filter(|cid| *cid != 17).map(|cid| (cid, Status::SUCCESS)).collect();
    assert_eq!(ended, expected, "each is answered once");
    // The queue goes on.
    world.prompt = true;
    queue.ok(&mut world, io(op::READ, 0, 1, Sgl::transport(512)), &[]);
}
