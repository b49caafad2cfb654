//! How associations replace each other, expire, and end with their subsystem.

mod support;

use nvme::command::{FLAGS_SGL, Sgl, Sqe, admin, io as op};
use nvme::fabrics::{self, DYNAMIC_CONTROLLER, property};
use nvme::status::Status;
use nvme::target::{Outbox, Phase, Reserving};
use support::*;

const NEXUS: &str = "nqn.2019-05.io.openebs:nexus-00000000-0000-0000-0000-0000000000aa";

/// Leaves a write at the disk.
fn write_at_disk(world: &mut World, queue: &mut Wire) {
    world.prompt = false;
    let sqe = Sqe { flags: FLAGS_SGL, cid: 77.into(), ..io(op::WRITE, 0, 1, Sgl::in_capsule(512)) };
    let capsule = queue.capsule(sqe, &[9; 512]);
    queue.send(world, &capsule);
    assert_eq!(world.at_disk.len(), 1);
}

fn joined_as(world: &mut World, who: &Who) -> (Wire, Wire) {
    let (mut admin, mut queue) = (Wire::plain(world), Wire::plain(world));
    let controller = who.admin(world, &mut admin);
    who.io(world, &mut queue, controller, 1);
    (admin, queue)
}

/// Sends an admin Connect without waiting for its answer.
fn begin_connect(world: &mut World, who: &Who) -> Wire {
    let mut wire = Wire::plain(world);
    let capsule = wire.capsule(Sqe { cid: 1.into(), ..who.connect(0, 32) }, &who.data(DYNAMIC_CONTROLLER));
    wire.send(world, &capsule);
    wire
}

#[test]
fn a_new_association_of_a_nexus_supersedes_the_old_and_waits_for_its_commands() {
    let mut world = World::with_volume();
    let who = Who::new(NEXUS, VOLUME);
    let (admin, mut queue) = joined_as(&mut world, &who);
    write_at_disk(&mut world, &mut queue);
    let mut newer = begin_connect(&mut world, &who);
    assert_eq!(world.target.phase(admin.id), Phase::Ended);
    assert_eq!(world.target.phase(queue.id), Phase::Closed);
    assert_eq!(newer.said(&mut world), [], "the old write is still at the disk");
    // The new controller can not be used before its Connect is answered.
    let early = Sqe { cid: 2.into(), ..fabrics::property_set(2, property::CC, 0x460001) };
    let capsule = newer.capsule(early, &[]);
    newer.send(&mut world, &capsule);
    match newer.said(&mut world).as_slice() {
        [Said::Response(cqe)] => assert_eq!((cqe.cid.get(), cqe.status()), (2, Status::SEQUENCE)),
        other => panic!("{other:?}"),
    }
    world.answer_all();
    assert_eq!(world.target.phase(queue.id), Phase::Ended);
    assert!(matches!(newer.said(&mut world).as_slice(), [Said::Response(cqe)] if cqe.status().is_success()));
    world.prompt = true;
    enable(&mut world, &mut newer);
}

#[test]
fn a_third_association_waits_for_the_first() {
    let mut world = World::with_volume();
    let who = Who::new(NEXUS, VOLUME);
    let (_admin, mut queue) = joined_as(&mut world, &who);
    write_at_disk(&mut world, &mut queue);
    let mut second = begin_connect(&mut world, &who);
    let mut third = begin_connect(&mut world, &who);
    assert_eq!(world.target.phase(second.id), Phase::Ended);
    assert_eq!((second.said(&mut world), third.said(&mut world)), (vec![], vec![]));
    world.answer_all();
    assert!(matches!(third.said(&mut world).as_slice(), [Said::Response(cqe)] if cqe.status().is_success()));
}

#[test]
fn other_hosts_may_have_several_associations_but_wait_for_their_dead_ones() {
    let mut world = World::with_volume();
    let who = Who::new(HOST, VOLUME);
    let (first_admin, mut first_queue) = joined_as(&mut world, &who);
    let (mut second_admin, mut second_queue) = joined_as(&mut world, &who);
    second_admin.ok(&mut world, Sqe { opcode: admin::KEEP_ALIVE, ..Sqe::default() }, &[]);
    write_at_disk(&mut world, &mut first_queue);
    world.lose(first_admin.id);
    assert_eq!(world.target.phase(first_queue.id), Phase::Closed, "the admin queue was the association");
    let mut third = begin_connect(&mut world, &who);
    assert_eq!(third.said(&mut world), []);
    // Neither other hosts nor other subsystems wait.
    let mut stranger = begin_connect(&mut world, &Who::new("nqn.2014-08.com.example:other", VOLUME));
    assert_eq!(stranger.said(&mut world).len(), 1);
    world.export("nqn.2019-05.io.openebs:b", block::BlockSize::B512, 64);
    let mut elsewhere = begin_connect(&mut world, &Who::new(HOST, "nqn.2019-05.io.openebs:b"));
    assert_eq!(elsewhere.said(&mut world).len(), 1);
    world.answer_all();
    assert_eq!(third.said(&mut world).len(), 1);
    world.prompt = true;
    second_queue.ok(&mut world, io(op::READ, 0, 1, Sgl::transport(512)), &[]);
}

#[test]
fn a_host_that_falls_silent_loses_its_controller() {
    let mut world = World::with_volume();
    let who = Who { keep_alive_ms: 10_000, ..Who::new(HOST, VOLUME) };
    let (admin, mut queue) = joined_as(&mut world, &who);
    let start = world.now;
    // I/O alone keeps it alive.
    for _ in 0..20 {
        queue.ok(&mut world, io(op::READ, 0, 1, Sgl::transport(512)), &[]);
        let deadline = world.target.deadline().expect("a timer runs");
        assert!(deadline.since(world.now).as_millis() <= 10_000);
        world.pass(2_500);
    }
    assert_eq!(world.target.phase(admin.id), Phase::Open);
    assert_eq!(world.now.since(start).as_secs(), 50);
    for _ in 0..5 {
        world.pass(2_500);
    }
    assert_eq!(world.target.phase(admin.id), Phase::Ended);
    assert_eq!(world.target.phase(queue.id), Phase::Ended);
    assert_eq!(world.target.deadline(), None);
}

#[test]
fn unexport_answers_what_is_at_the_disk_and_then_closes() {
    let mut world = World::with_volume();
    let (admin, mut queue) = joined_as(&mut world, &Who::new(HOST, VOLUME));
    write_at_disk(&mut world, &mut queue);
    let id = world.target.serves(VOLUME).expect("served");
    let mut out = Outbox::new();
    world.target.unexport(id, &mut out);
    world.apply(out);
    assert_eq!(world.target.phase(queue.id), Phase::Finishing);
    assert_eq!(world.target.phase(admin.id), Phase::Finishing, "a host that misses one connection gives up all");
    assert!(world.target.serves(VOLUME).is_none());
    world.lose(admin.id);
    assert_eq!(world.target.phase(queue.id), Phase::Finishing, "its answer is still to come");
    world.answer_all();
    assert_eq!(world.target.phase(queue.id), Phase::Flush);
    assert!(matches!(queue.said(&mut world).as_slice(), [Said::Response(cqe)] if cqe.status().is_success()));
    assert!(world.idle.is_empty());
    world.lose(queue.id);
    assert_eq!(world.idle, [id]);
    // The name can be served again, and a host finds its way back.
    world.prompt = true;
    world.export(VOLUME, block::BlockSize::B512, 64);
    joined_as(&mut world, &Who::new(HOST, VOLUME));
}

#[test]
fn unexport_does_not_wait_for_hosts_that_do_not_read() {
    let mut world = World::with_volume();
    let (admin, queue) = joined_as(&mut world, &Who::new(HOST, VOLUME));
    let id = world.target.serves(VOLUME).expect("served");
    let mut out = Outbox::new();
    world.target.unexport(id, &mut out);
    world.apply(out);
    world.pass(1);
    assert!(world.idle.is_empty());
    world.pass(6_000);
    assert_eq!(world.idle, [id]);
    for wire in [admin, queue] {
        assert_eq!(world.target.phase(wire.id), Phase::Ended);
    }
}

#[test]
fn names_are_served_once() {
    use nvme::target::{Export, ExportError};
    let mut world = World::with_volume();
    let id = world.target.serves(VOLUME).expect("served");
    let geometry = world.disks[&id].geometry;
    for nqn in [VOLUME, nvme::nqn::DISCOVERY] {
        let nqn = nvme::Nqn::new(nqn).expect("a name");
        let export = Export { nqn: nqn.clone(), uuid: uuid::Uuid::nil(), geometry, reserving: Reserving::No };
        assert_eq!(world.target.export(export, &mut Outbox::new()), Err(ExportError::Exists(nqn)));
    }
}
