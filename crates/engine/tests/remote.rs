//! The remote disk against the real target, in the simulated world: conformance, lost connections, deadlines, restarts.
//! Every block is checked against a model.

mod common;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use block::{BlockRange, BlockSize, Blocks, Buf, Durability, Fault, Geometry};
use common::{NQN, TARGET_PORT, UUID, nexus_host, serve_as, serve_disk, spec};
use engine::load::{self, Model, OnFault, Pattern, Stop, Workload};
use engine::remote::{self, OnRestart, RemoteError, RemoteOptions, RemoteState};
use host::conformance::check_disk;
use host::{Disk, DiskExt, DiskRef};
use sim::{DiskOptions, World};

/// A world with a target on node `target` that serves the disk `/disk`.
fn world(seed: u64, disk: DiskOptions) -> World {
    let world = World::new(seed);
    world.add_disk("/disk", disk);
    start(&world);
    world
}

/// Starts the target's node (again).
fn start(world: &World) {
    let host = world.node("target");
    host.clone().spawn(serve_disk(host, "/disk"));
}

fn quick() -> RemoteOptions {
    RemoteOptions { command_deadline: Duration::from_secs(2), ..RemoteOptions::default() }
}

#[test]
fn it_is_a_disk() {
    for (seed, block, options) in [
        (1, DiskOptions::mib(16), RemoteOptions::default()),
        (2, DiskOptions::mib_4k(16), RemoteOptions { queues: 3, depth: 4, ..RemoteOptions::default() }),
        (3, DiskOptions::mib(16), RemoteOptions { header_digest: true, ..RemoteOptions::default() }),
        (4, DiskOptions::mib(16), RemoteOptions { header_digest: true, data_digest: true, ..quick() }),
    ] {
        let world = world(seed, block);
        let host = world.host();
        world.run(async move {
            let disk = remote::connect(&host, spec(), options).await.expect("it connects");
            assert_eq!(disk.uuid(), Some(UUID));
            check_disk(&host, disk.clone()).await;
            assert_eq!(disk.state(), RemoteState::Up);
            disk.close().await;
            assert_eq!(disk.state(), RemoteState::Closed);
            assert_eq!(disk.read(BlockRange::new(0, 1)).await.err(), Some(Fault::Aborted));
        });
    }
}

#[test]
fn large_and_small_requests_with_few_slots_keep_every_byte() {
    for seed in 0..2 {
        let world = world(seed, DiskOptions::mib(8));
        let host = world.host();
        world.run(async move {
            let options = RemoteOptions { queues: 2, depth: 3, data_digest: seed % 2 == 0, ..RemoteOptions::default() };
            let disk: DiskRef = remote::connect(&host, spec(), options).await.expect("it connects");
            let mut model = Model::new(seed);
            for bytes in [4096, 65536, 1 << 20, 3 << 20] {
                let requests = Stop::Requests(if bytes > 65536 { 10 } else { 200 });
                let work = Workload { request_bytes: bytes, unmap_percent: 10, stop: requests, seed, ..mixed() };
                let report = load::run(&host, &disk, &work, Some(&mut model)).await.expect("no fault");
                assert_eq!(report.mismatches, 0, "{:?}", report.examples);
            }
            assert_eq!(model.verify_all(&disk).await.expect("no fault").mismatches, 0);
        });
    }
}

fn mixed() -> Workload {
    Workload { pattern: Pattern::Random, depth: 16, on_fault: OnFault::Count, ..Workload::default() }
}

/// Connections are reset at many moments while a checked workload runs: nothing fails, nothing is lost.
#[test]
fn lost_connections_are_not_seen() {
    for seed in 0..12 {
        let world = Rc::new(world(seed, DiskOptions::mib(2)));
        let host = world.host();
        let running = Rc::new(Cell::new(true));
        let cuts = Rc::new(Cell::new(0));
        let breaker = {
            let (world, host, running, cuts) = (Rc::downgrade(&world), host.clone(), running.clone(), cuts.clone());
            async move {
                host.sleep(Duration::from_millis(2)).await;
                while running.get() {
                    world.upgrade().expect("runs").net().reset("target");
                    cuts.set(cuts.get() + 1);
                    // Now and then while the next association is being made, else soon after it should be there.
                    let pause = world
                        .upgrade()
                        .expect("runs")
                        .entropy(|e| if e.chance(30) { e.between(0, 140_000) } else { 120_000 + e.between(0, 15_000) });
                    host.sleep(Duration::from_micros(pause)).await;
                }
            }
        };
        let report = world.run(async move {
            let options = RemoteOptions { queues: 1 + (seed % 3) as u16, depth: 8, ..RemoteOptions::default() };
            let disk: DiskRef = remote::connect(&host, spec(), options).await.expect("it connects");
            host.spawn(breaker);
            let mut model = Model::new(seed);
            let work = Workload {
                unmap_percent: 5,
                request_bytes: 12288,
                depth: 3,
                stop: Stop::Requests(1200),
                seed,
                ..mixed()
            };
            let mut report = load::run(&host, &disk, &work, Some(&mut model)).await.expect("no fault");
            running.set(false);
            report.mismatches += model.verify_all(&disk).await.expect("no fault").mismatches;
            report
        });
        assert_eq!((report.mismatches, report.faults), (0, 0), "seed {seed}: {:?}", report.examples);
        assert!(cuts.get() >= 3, "seed {seed}: only {} cuts", cuts.get());
    }
}

/// A target that falls silent without a word: the loss is noticed, requests wait for their deadline, later ones are
/// refused at once, and all is well again when the target comes back.
#[test]
fn a_silent_target_is_noticed() {
    for seed in 0..5 {
        let world = Rc::new(world(seed, DiskOptions::mib(2)));
        let host = world.host();
        let w = world.clone();
        world.run(async move {
            let disk = remote::connect(&host, spec(), quick()).await.expect("it connects");
            let states = Rc::new(RefCell::new(Vec::new()));
            let seen = states.clone();
            disk.on_change(move |state| seen.borrow_mut().push(state.clone()));
            let range = BlockRange::new(0, 8);
            disk.write(range, Buf::zeroes(4096), Durability::Volatile).await.expect("it writes");

            w.net().isolate("target", true);
            let before = host.now();
            let outcome = disk.write(range, Buf::copy_of(&[7; 4096]), Durability::Volatile).await;
            assert_eq!(outcome, Err(Fault::TimedOut));
            let took = host.now().since(before);
            assert!((Duration::from_secs(2)..Duration::from_secs(3)).contains(&took), "{took:?}");
            while disk.state() != RemoteState::Lost {
                host.sleep(Duration::from_millis(100)).await;
            }
            let before = host.now();
            assert_eq!(disk.read(range).await.err(), Some(Fault::Gone));
            assert_eq!(host.now(), before, "a lost disk answers at once");

            w.net().isolate("target", false);
            while disk.state() != RemoteState::Up {
                host.sleep(Duration::from_millis(100)).await;
            }
            let found = disk.read(range).await.expect("it reads");
            assert!(found.iter().all(|b| *b == 0) || found.iter().all(|b| *b == 7));
            use RemoteState::{Lost, Reconnecting, Up};
            assert_eq!(*states.borrow(), [Reconnecting, Lost, Up]);
        });
    }
}

/// Keep-alives hold an idle association, whatever the deadline is, and they alone find a dead target.
#[test]
fn keep_alives_find_a_dead_target() {
    for deadline in [100, 5_000, 60_000] {
        let world = Rc::new(world(5, DiskOptions::mib(2)));
        let host = world.host();
        let w = world.clone();
        world.run(async move {
            let command_deadline = Duration::from_millis(deadline);
            let options = RemoteOptions { command_deadline, ..RemoteOptions::default() };
            let disk = remote::connect(&host, spec(), options).await.expect("it connects");
            let changes = Rc::new(Cell::new(0));
            let counter = changes.clone();
            disk.on_change(move |_| counter.set(counter.get() + 1));
            host.sleep(Duration::from_secs(60)).await;
            assert_eq!((disk.state(), changes.get()), (RemoteState::Up, 0), "deadline {deadline} ms");
            w.net().isolate("target", true);
            host.sleep(Duration::from_millis(4_000 + deadline)).await;
            assert_ne!(disk.state(), RemoteState::Up, "deadline {deadline} ms");
        });
    }
}

/// A disk of the target that does not answer: the request gets its deadline, others as well, and once the disk is back
/// so is the remote disk.
#[test]
fn a_stuck_command_has_a_deadline() {
    for seed in 0..5 {
        let world = Rc::new(world(seed, DiskOptions::mib(2)));
        let host = world.host();
        let w = world.clone();
        world.run(async move {
            let disk = remote::connect(&host, spec(), quick()).await.expect("it connects");
            w.disk("/disk").stall(true);
            let range = BlockRange::new(0, 8);
            let stuck = disk.write(range, Buf::copy_of(&[1; 4096]), Durability::Volatile).await;
            assert_eq!(stuck, Err(Fault::TimedOut));
            w.disk("/disk").stall(false);
            while disk.state() != RemoteState::Up || disk.read(range).await.is_err() {
                host.sleep(Duration::from_millis(50)).await;
            }
            // The write that timed out has happened or never will: what a read has seen once stays.
            disk.write(range, Buf::copy_of(&[2; 4096]), Durability::Volatile).await.expect("it writes");
            host.sleep(Duration::from_secs(20)).await;
            assert!(disk.read(range).await.expect("it reads").iter().all(|b| *b == 2), "a ghost write has landed");
        });
    }
}

/// The target's process is killed and started again. With flushed data the disk goes on; with unflushed writes it says
/// that they may be lost, unless it was told to go on all the same.
#[test]
fn a_restarted_target() {
    for (seed, flush, on_restart) in
        [(1, true, OnRestart::Fail), (2, false, OnRestart::Fail), (3, false, OnRestart::Resume)]
    {
        let world = world(seed, DiskOptions::mib(2));
        let host = world.host();
        let range = BlockRange::new(8, 8);
        let disk = world.run(async move {
            let options = RemoteOptions { on_restart, ..quick() };
            let disk = remote::connect(&host, spec(), options).await.expect("it connects");
            disk.write(range, Buf::copy_of(&[3; 4096]), Durability::Volatile).await.expect("it writes");
            if flush {
                disk.flush().await.expect("it flushes");
            }
            disk
        });
        world.kill("target");
        start(&world);
        world.run(async move {
            let found = disk.read(range).await;
            if flush || on_restart == OnRestart::Resume {
                assert!(found.expect("it reads").iter().all(|b| *b == 3));
                assert_eq!(disk.state(), RemoteState::Up);
            } else {
                assert_eq!(found.err(), Some(Fault::Gone));
                let RemoteState::Failed(why) = disk.state() else { panic!("{:?}", disk.state()) };
                assert!(why.contains("1 writes that were not flushed"), "{why}");
                disk.close().await;
            }
        });
    }
}

/// A process that is killed on a machine that runs on loses nothing that its disks had answered: no reason to give up.
#[test]
fn a_killed_process_on_a_running_machine_is_waited_for() {
    let world = world(5, DiskOptions::mib(2));
    let host = world.host();
    let range = BlockRange::new(8, 8);
    let disk = world.run(async move {
        let disk = remote::connect(&host, spec(), quick()).await.expect("it connects");
        disk.write(range, Buf::copy_of(&[3; 4096]), Durability::Volatile).await.expect("it writes");
        disk
    });
    world.kill_process("target");
    start(&world);
    world.run(async move {
        assert!(disk.read(range).await.expect("it reads").iter().all(|b| *b == 3));
        assert_eq!(disk.state(), RemoteState::Up);
    });
}

/// After a restart the target listens before it serves; a disk rides through that. Another namespace under the same name
/// is not taken for ours, also when it was not asked for by its UUID.
#[test]
fn what_comes_back_must_be_the_same() {
    let other = uuid::Uuid::from_u128(0xbad);
    for (path, uuid, expected) in [
        ("/disk", UUID, None),
        ("/disk", other, Some(format!("expected the namespace {UUID}, found {other}"))),
        ("/small", UUID, Some("had 4096 blocks of 512 bytes and has 2048 of 512 now".to_owned())),
        ("/large-blocks", UUID, Some("had 4096 blocks of 512 bytes and has 512 of 4096 now".to_owned())),
        ("/larger", UUID, None),
    ] {
        let world = world(6, DiskOptions::mib(2));
        world.add_disk("/small", DiskOptions::mib(1));
        world.add_disk("/large-blocks", DiskOptions::mib_4k(2));
        world.add_disk("/larger", DiskOptions::mib(3));
        let host = world.host();
        let disk = world.run(async move {
            let spec = remote::RemoteSpec { uuid: None, ..spec() };
            remote::connect(&host, spec, RemoteOptions::default()).await.expect("it connects")
        });
        world.kill("target");
        let target = world.node("target");
        target.clone().spawn(serve_as(target, path, uuid, Duration::from_secs(1)));
        world.run(async move {
            let before = disk.geometry();
            let found = disk.read(BlockRange::new(0, 8)).await;
            let grown = if path == "/larger" { Blocks(6144) } else { before.blocks };
            assert_eq!(disk.geometry(), Geometry { blocks: grown, ..before }, "only growing is taken over");
            match expected {
                None => {
                    assert!(found.is_ok() && disk.state() == RemoteState::Up, "{path} {found:?} {:?}", disk.state())
                }
                Some(text) => {
                    assert_eq!(found.err(), Some(Fault::Gone));
                    let RemoteState::Failed(why) = disk.state() else { panic!("{:?}", disk.state()) };
                    assert!(why.contains(&text), "{why}");
                }
            }
        });
    }
}

/// Kills and restarts under load: the process takes nothing with it that it has answered, so every byte is there.
#[test]
fn a_restarted_target_under_load() {
    for seed in 0..3 {
        let world = world(seed, DiskOptions::mib(2));
        let host = world.host();
        let load = world.host().spawn(async move {
            let options = RemoteOptions { on_restart: OnRestart::Resume, ..RemoteOptions::default() };
            let disk: DiskRef = remote::connect(&host, spec(), options).await.expect("it connects");
            let mut model = Model::new(seed);
            let work = Workload { stop: Stop::Requests(6000), depth: 4, seed, ..mixed() };
            let report = load::run(&host, &disk, &work, Some(&mut model)).await.expect("counted");
            let sweep = model.verify_all(&disk).await.expect("no fault");
            (report.faults, report.mismatches + sweep.mismatches, report.examples)
        });
        for _ in 0..4 {
            world.run_for(Duration::from_millis(40));
            world.kill("target");
            world.run_for(Duration::from_millis(300));
            start(&world);
            world.run_for(Duration::from_millis(600));
        }
        let (faults, mismatches, examples) = world.run(async move { load.await.expect("it ends") });
        assert_eq!((faults, mismatches), (0, 0), "seed {seed}: {examples:?}");
    }
}

/// A nexus that was replaced by another of the same volume, whether it was connected or cut off at that moment, never
/// writes again: its retries, too, end at the target.
#[test]
fn a_replaced_nexus_stays_out() {
    for seed in 0..8 {
        let cut_off = seed % 2 == 0;
        let world = Rc::new(world(seed, DiskOptions::mib(2)));
        let (old_host, new_host) = (world.node("old"), world.host());
        let w = world.clone();
        world.run(async move {
            let range = BlockRange::new(0, 8);
            let options = RemoteOptions { command_deadline: Duration::from_secs(20), ..RemoteOptions::default() };
            let old = remote::connect(&old_host, spec(), options.clone()).await.expect("it connects");
            old.write(range, Buf::copy_of(&[1; 4096]), Durability::Volatile).await.expect("it writes");
            if cut_off {
                w.net().isolate("old", true);
            }
            let retried = old.clone();
            let late = old_host
                .spawn(async move { retried.write(range, Buf::copy_of(&[9; 4096]), Durability::Volatile).await });
            new_host.sleep(Duration::from_millis(seed)).await;
            let new = remote::connect(&new_host, spec(), options).await.expect("it connects");
            new.write(range, Buf::copy_of(&[2; 4096]), Durability::Volatile).await.expect("it writes");
            new_host.sleep(Duration::from_secs(5)).await;
            w.net().isolate("old", false);
            let late = late.await.expect("answered");
            new_host.sleep(Duration::from_secs(30)).await;
            let found = new.read(range).await.expect("it reads");
            assert!(found.iter().all(|b| *b == 2), "a former nexus has written: {} {late:?}", found[0]);
            assert_eq!((old.state(), new.state()), (RemoteState::Fenced, RemoteState::Up), "seed {seed}");
            assert_eq!(old.read(range).await.err(), Some(Fault::Fenced));
            if cut_off {
                assert_eq!(late, Err(Fault::Fenced));
            }
        });
    }
}

/// A former nexus that comes back, reads the members, learns that it is not wanted and goes, does no harm to the one that
/// serves.
#[test]
fn who_only_reads_takes_nothing_over() {
    for seed in 0..4 {
        let world = world(seed, DiskOptions::mib(2));
        let (former, host) = (world.node("former"), world.host());
        world.run(async move {
            let disk = remote::connect(&host, spec(), RemoteOptions::default()).await.expect("it connects");
            let (h, d) = (host.clone(), disk.clone() as DiskRef);
            let load = host.spawn(async move {
                let mut model = Model::new(seed);
                let work = Workload { stop: Stop::Requests(1500), depth: 4, seed, ..mixed() };
                let report = load::run(&h, &d, &work, Some(&mut model)).await.expect("counted");
                (report.faults, report.mismatches + model.verify_all(&d).await.expect("no fault").mismatches)
            });
            host.sleep(Duration::from_millis(20)).await;
            let visitor = remote::connect(&former, spec(), RemoteOptions::default()).await.expect("it connects");
            visitor.read(BlockRange::new(0, 8)).await.expect("it reads");
            visitor.close().await;
            assert_eq!(load.await, Some((0, 0)), "seed {seed}");
            assert_eq!(disk.state(), RemoteState::Up);
        });
    }
}

#[test]
fn closing_answers_what_is_in_flight() {
    let world = Rc::new(world(9, DiskOptions::mib(2)));
    let host = world.host();
    let w = world.clone();
    world.run(async move {
        let disk = remote::connect(&host, spec(), quick()).await.expect("it connects");
        w.disk("/disk").stall(true);
        let (h, d) = (host.clone(), disk.clone());
        let waiting = host.spawn(async move { d.read(BlockRange::new(0, 1)).await.err() });
        h.sleep(Duration::from_millis(5)).await;
        disk.close().await;
        assert_eq!(waiting.await, Some(Some(Fault::Aborted)));
        w.disk("/disk").stall(false);
        // A handle that is dropped closes as well, in the background; nothing is left that would keep the world busy.
        let other = remote::connect(&host, spec(), quick()).await.expect("it connects");
        drop(other);
        host.sleep(Duration::from_secs(1)).await;
    });
}

#[test]
fn what_can_not_be_connected_says_why() {
    let world = Rc::new(world(4, DiskOptions::mib(2)));
    let host = world.host();
    let w = world.clone();
    world.run(async move {
        host.sleep(Duration::from_millis(50)).await;
        let error = |spec, options| {
            let host = host.clone();
            async move { remote::connect(&host, spec, options).await.map(|_| ()).expect_err("it must not connect") }
        };
        let options = RemoteOptions { connect_timeout: Duration::from_secs(3), ..RemoteOptions::default() };

        let refused = error(remote::RemoteSpec { port: 1, ..spec() }, options.clone()).await;
        assert!(matches!(refused, RemoteError::Connect { .. }), "{refused}");
        assert!(refused.to_string().starts_with(&format!("nvmf://target:1/{NQN}: cannot connect: ")), "{refused}");

        let unknown = remote::RemoteSpec { nqn: "nqn.2019-05.io.openebs:nothing".into(), ..spec() };
        let unknown = error(unknown, options.clone()).await;
        assert!(matches!(unknown, RemoteError::NoSuchSubsystem { .. }), "{unknown}");

        let other = remote::RemoteSpec { uuid: Some(uuid::Uuid::from_u128(7)), ..spec() };
        let other = error(other, options.clone()).await;
        assert!(matches!(&other, RemoteError::Uuid { found, .. } if *found == UUID.to_string()), "{other}");

        let bad = error(remote::RemoteSpec { nqn: "not a name".into(), ..spec() }, options.clone()).await;
        assert!(matches!(bad, RemoteError::Name { .. }), "{bad}");

        w.net().isolate("target", true);
        let before = host.now();
        let silent = error(spec(), options.clone()).await;
        assert!(matches!(silent, RemoteError::TimedOut { .. }), "{silent}");
        assert!(silent.to_string().ends_with("did not answer within 3000 ms"), "{silent}");
        assert_eq!(host.now().since(before), Duration::from_secs(3));
    });
}

#[test]
fn discovery_lists_the_subsystem() {
    let world = world(4, DiskOptions::mib(2));
    let host = world.host();
    world.run(async move {
        host.sleep(Duration::from_millis(50)).await;
        let found = remote::discover(&host, "target", TARGET_PORT, &nexus_host()).await.expect("it answers");
        let ours: Vec<_> = found.iter().filter(|entry| entry.nqn == NQN).collect();
        assert_eq!(ours.len(), 1, "{found:?}");
        assert!(ours[0].is_tcp && !ours[0].is_discovery);
        assert_eq!(ours[0].service, TARGET_PORT.to_string());
    });
}

/// A target that says nonsense at any point of the conversation ends the attempt with an error, not with a panic or a
/// hang.
#[test]
fn a_hostile_target_is_survived() {
    for seed in 0..40u64 {
        let world = World::new(seed);
        let server = world.node("target");
        server.clone().spawn(common::babble(server, seed));
        let host = world.host();
        world.run(async move {
            host.sleep(Duration::from_millis(1)).await;
            let options = RemoteOptions { connect_timeout: Duration::from_secs(1), ..RemoteOptions::default() };
            let outcome = remote::connect(&host, spec(), options).await;
            assert!(outcome.is_err());
        });
    }
}

/// The size and block size are those of the exported disk.
#[test]
fn the_geometry_is_the_targets() {
    let world = world(4, DiskOptions::mib_4k(3));
    let host = world.host();
    world.run(async move {
        let disk = remote::connect(&host, spec(), RemoteOptions::default()).await.expect("it connects");
        let geometry = disk.geometry();
        assert_eq!((geometry.block_size, geometry.blocks.0), (BlockSize::B4096, 3 << 8));
        assert!(geometry.features.unmap && geometry.features.write_zeroes);
        assert_eq!(disk.label(), format!("nvmf://target:{TARGET_PORT}/{NQN}"));
    });
}
