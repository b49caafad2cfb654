//! Reservations as two hosts of one subsystem meet them.

mod support;

use block::{Persist, ReservationKind, Reserve};
use nvme::command::{Sgl, Sqe, io as op};
use nvme::fabrics::{cc, csts, property};
use nvme::identify::{IdentifyController, IdentifyNamespace, cns, oncs};
use nvme::wire::view;
use nvme::{Status, fabrics, reservation};
use support::*;

struct Host {
    admin: Wire,
    queue: Wire,
    controller: u16,
}

impl Host {
    fn join(world: &mut World, id: u8) -> Host {
        let host = format!("nqn.2014-08.com.example:host-{id}");
        let who = Who { host_id: [id; 16], ..Who::new(&host, VOLUME) };
        let (mut admin, mut queue) = (Wire::plain(world), Wire::plain(world));
        let controller = who.admin(world, &mut admin);
        who.io(world, &mut queue, controller, 1);
        Host { admin, queue, controller }
    }
    fn ask(&mut self, world: &mut World, ask: Reserve) -> Status {
        let (opcode, cdw10, data) = reservation::encode(ask);
        let sgl = Sgl::in_capsule(data.len() as u32);
        let sqe = Sqe { opcode, nsid: 1.into(), sgl, cdw10: cdw10.into(), ..Sqe::default() };
        self.queue.call(world, sqe, &data).0.status().without_flags()
    }
    fn run(&mut self, world: &mut World, opcode: u8) -> Status {
        let (sgl, data) = match opcode {
            op::WRITE | op::COMPARE => (Sgl::in_capsule(512), vec![0; 512]),
            op::READ => (Sgl::transport(512), Vec::new()),
            op::DATASET_MANAGEMENT => (Sgl::in_capsule(16), [vec![0; 4], vec![1, 0, 0, 0], vec![0; 8]].concat()),
            _ => (Sgl::default(), Vec::new()),
        };
        let mut sqe = io(opcode, 0, 1, sgl);
        if opcode == op::DATASET_MANAGEMENT {
            sqe = Sqe { opcode, nsid: 1.into(), sgl, cdw11: op::ATTRIBUTE_DEALLOCATE.into(), ..Sqe::default() };
        }
        self.queue.call(world, sqe, &data).0.status().without_flags()
    }
    fn report(&mut self, world: &mut World, bytes: u32) -> Vec<u8> {
        let sqe = Sqe {
            opcode: op::RESERVATION_REPORT,
            nsid: 1.into(),
            sgl: Sgl::transport(bytes),
            cdw10: (bytes / 4 - 1).into(),
            cdw11: reservation::EXTENDED.into(),
            ..Sqe::default()
        };
        self.queue.ok(world, sqe, &[]).1
    }
}

fn register(key: u64) -> Reserve {
    Reserve::Register { key, persist: Persist::Keep }
}

const CHANGES: [u8; 4] = [op::WRITE, op::WRITE_ZEROES, op::DATASET_MANAGEMENT, op::FLUSH];
const READS: [u8; 2] = [op::READ, op::COMPARE];

#[test]
fn identify_offers_reservations() {
    let mut world = World::with_volume();
    let mut host = Host::join(&mut world, 1);
    let (_, page) = host.admin.ok(&mut world, identify(cns::CONTROLLER, 0), &[]);
    let page: IdentifyController = view(&page).expect("4096 bytes");
    assert_ne!(page.oncs.get() & oncs::RESERVATIONS, 0);
    let (_, page) = host.admin.ok(&mut world, identify(cns::NAMESPACE, 1), &[]);
    let page: IdentifyNamespace = view(&page).expect("4096 bytes");
    assert_eq!(page.rescap, 0xff);
}

#[test]
fn a_reservation_keeps_the_right_commands_out() {
    for (kind, reads) in [
        (ReservationKind::WriteExclusive, Status::SUCCESS),
        (ReservationKind::WriteExclusiveRegistrants, Status::SUCCESS),
        (ReservationKind::ExclusiveAccess, Status::RESERVATION_CONFLICT),
        (ReservationKind::ExclusiveAccessAll, Status::RESERVATION_CONFLICT),
    ] {
        let mut world = World::with_volume();
        let (mut a, mut b) = (Host::join(&mut world, 1), Host::join(&mut world, 2));
        assert_eq!(a.ask(&mut world, register(5)), Status::SUCCESS);
        assert_eq!(b.run(&mut world, op::WRITE), Status::SUCCESS, "nothing is held yet");
        assert_eq!(a.ask(&mut world, Reserve::Acquire { current: 5, kind }), Status::SUCCESS);
        for opcode in CHANGES {
            assert_eq!(a.run(&mut world, opcode), Status::SUCCESS);
            assert_eq!(b.run(&mut world, opcode), Status::RESERVATION_CONFLICT, "{kind:?} {opcode:x}");
        }
        for opcode in READS {
            assert_eq!(b.run(&mut world, opcode), reads, "{kind:?} {opcode:x}");
        }
        // Shutting down goes well although the host may not flush.
        let value = cc::ENABLE | cc::ENTRY_SIZES | cc::SHUTDOWN_NORMAL;
        b.admin.ok(&mut world, fabrics::property_set(0, property::CC, value), &[]);
        let (status, _) = b.admin.ok(&mut world, fabrics::property_get(0, property::CSTS, false), &[]);
        assert_eq!(status as u32 & csts::SHUTDOWN, csts::SHUTDOWN_COMPLETE);
    }
}

#[test]
fn a_preempted_host_is_out_and_the_report_says_who_is_in() {
    let kind = ReservationKind::WriteExclusiveRegistrants;
    let mut world = World::with_volume();
    let (mut a, mut b) = (Host::join(&mut world, 1), Host::join(&mut world, 2));
    a.ask(&mut world, register(5));
    a.ask(&mut world, Reserve::Acquire { current: 5, kind });
    b.ask(&mut world, register(6));
    assert_eq!(b.run(&mut world, op::WRITE), Status::SUCCESS, "a registrant");
    assert_eq!(b.ask(&mut world, Reserve::Acquire { current: 6, kind }), Status::RESERVATION_CONFLICT);
    assert_eq!(b.ask(&mut world, Reserve::Preempt { current: 6, victim: 5, kind }), Status::SUCCESS);
    assert_eq!(a.run(&mut world, op::WRITE), Status::RESERVATION_CONFLICT);
    assert_eq!(a.ask(&mut world, Reserve::Release { current: 5, kind }), Status::RESERVATION_CONFLICT);
    let page = b.report(&mut world, 4096);
    let state = reservation::parse_report(&page).expect("well-formed");
    assert_eq!(state.held().map(|h| (h.kind, h.holder)), Some((kind, [2; 16])));
    assert_eq!(state.registrants().iter().map(|r| (r.host, r.key)).collect::<Vec<_>>(), [([2; 16], 6)]);
    assert_eq!(page[64..66], b.controller.to_le_bytes());
    assert_eq!(b.report(&mut world, 8), page[..8], "as much as was asked for");
    // A registrant stays one when its connection ends.
    world.lose(b.admin.id);
    let page = a.report(&mut world, 128);
    assert_eq!(page[64..66], reservation::NO_CONTROLLER.to_le_bytes());
}
