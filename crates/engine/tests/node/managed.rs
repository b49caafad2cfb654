//! Nexuses whose ledger the control plane keeps.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use engine::model::{ErrorKind, Health, LedgerInfo};
use engine::volume::{LedgerError, LedgerStore, StoredLedger};
use host::LocalFuture;

use super::nexuses::{UUID, nexus};
use super::*;

/// A control plane in memory that can be away, or give a volume to somebody else.
#[derive(Default)]
struct Plane {
    ledgers: RefCell<BTreeMap<Uuid, StoredLedger>>,
    answer: RefCell<Option<LedgerError>>,
}

impl LedgerStore for Plane {
    fn record(&self, volume: Uuid, ledger: StoredLedger) -> LocalFuture<'static, Result<(), LedgerError>> {
        if let Some(error) = self.answer.borrow().clone() {
            return Box::pin(std::future::ready(Err(error)));
        }
        let mut ledgers = self.ledgers.borrow_mut();
        let known = ledgers.get(&volume).filter(|k| k.generation >= ledger.generation && **k != ledger);
        let answer = if known.is_some() { Err(LedgerError::Fenced) } else { Ok(()) };
        if answer.is_ok() {
            ledgers.insert(volume, ledger);
        }
        Box::pin(std::future::ready(answer))
    }
}

fn managed(plane: &Rc<Plane>) -> NodeOptions {
    NodeOptions { managed_ledgers: Some(plane.clone()), ..options("10.0.0.1") }
}

fn request(ledger: Option<LedgerInfo>) -> CreateNexus {
    CreateNexus { ledger, managed: true, ..nexus(UUID, 20 * MIB, &["bdev:///r1", "bdev:///r2"]) }
}

/// A published managed nexus over two local replicas; then the node is killed.
fn prepared(plane: &Rc<Plane>) -> World {
    let world = world();
    let (host, plane) = (world.host(), plane.clone());
    world.run(async move {
        let node = Node::start(host, managed(&plane)).await.unwrap();
        for (name, disk, uuid) in [("p1", "/dev/a", "r1"), ("p2", "/dev/b", "r2")] {
            node.create_pool(pool(name, &[disk])).await.unwrap();
            node.create_replica(replica(uuid, name, 32)).await.unwrap();
        }
        let made = node.create_nexus(request(None)).await.unwrap();
        assert!(made.managed);
        let known = plane.ledgers.borrow()[&UUID.parse().unwrap()].clone();
        assert_eq!((known.generation.0, known.in_sync), (made.ledger.generation, made.ledger.in_sync));
        node.publish_nexus(UUID.into(), String::new(), Protocol::Nvmf).await.unwrap();
    });
    world.kill("main");
    world
}

#[test]
fn it_comes_back_when_the_control_plane_says_so() {
    let plane = Rc::new(Plane::default());
    let world = prepared(&plane);
    *plane.answer.borrow_mut() = Some(LedgerError::Unavailable("nobody is there".into()));
    let host = world.host();
    world.run(async move {
        let node = Node::start(host.clone(), managed(&plane)).await.unwrap();
        host.sleep(Duration::from_secs(5)).await;
        let lost = node.nexuses().remove(0);
        assert_eq!((lost.state, lost.device_uri.as_str()), (Health::Faulted, ""));
        assert!(lost.reason.contains("nobody is there"), "{}", lost.reason);
        let error = node.publish_nexus(UUID.into(), String::new(), Protocol::Nvmf).await.expect_err("lost");
        assert_eq!(error.kind, ErrorKind::Unavailable);
        *plane.answer.borrow_mut() = None;
        host.sleep(Duration::from_secs(5)).await;
        let back = node.nexuses().remove(0);
        assert_eq!(back.state, Health::Online, "{back:#?}");
        assert_ne!(back.device_uri, "");
        assert!(back.ledger.generation > lost.ledger.generation);
    });
}

#[test]
fn it_stays_away_when_another_node_has_the_volume() {
    let plane = Rc::new(Plane::default());
    let world = prepared(&plane);
    let volume: Uuid = UUID.parse().unwrap();
    let newer = {
        let mut ledgers = plane.ledgers.borrow_mut();
        let ledger = ledgers.get_mut(&volume).expect("known");
        ledger.generation.0 += 1 << 40;
        ledger.clone()
    };
    let host = world.host();
    world.run(async move {
        let node = Node::start(host.clone(), managed(&plane)).await.unwrap();
        host.sleep(Duration::from_secs(20)).await;
        let lost = node.nexuses().remove(0);
        assert_eq!(lost.state, Health::Faulted);
        assert!(lost.reason.contains("another node"), "{}", lost.reason);
        assert_eq!(plane.ledgers.borrow()[&volume], newer, "nothing was recorded");
        // The control plane gives it back, and says what it knows.
        let ledger = LedgerInfo { generation: newer.generation.0, in_sync: newer.in_sync };
        let refused = node.create_nexus(request(Some(ledger))).await;
        // The members have never seen that ledger: nobody can tell that they are not behind it.
        let error = refused.expect_err("the members are older than the store");
        assert_eq!(error.kind, ErrorKind::FailedPrecondition, "{error}");
        node.destroy_nexus(UUID.into()).await.unwrap();
        assert_eq!(node.nexuses(), vec![]);
    });
}

#[test]
fn one_without_a_control_plane_is_not_opened_by_guess() {
    let plane = Rc::new(Plane::default());
    let world = prepared(&plane);
    with_node(&world, |node, host| async move {
        host.sleep(Duration::from_secs(5)).await;
        assert_eq!(node.nexuses()[0].state, Health::Faulted);
        assert!(node.nexuses()[0].reason.contains("control plane"), "{}", node.nexuses()[0].reason);
    });
}

/// A node with a pool and a replica on each of three disks, and a managed nexus over the first `copies` of them.
fn over(plane: &Rc<Plane>, copies: usize) -> (World, Rc<Node>, Vec<String>) {
    let world = world();
    let (host, plane) = (world.host(), plane.clone());
    let children: Vec<String> = (1..=copies).map(|i| format!("bdev:///r{i}")).collect();
    let given = children.clone();
    let node = world.run(async move {
        let node = Node::start(host, managed(&plane)).await.unwrap();
        for (name, disk, uuid) in [("p1", "/dev/a", "r1"), ("p2", "/dev/b", "r2"), ("p3", "/dev/c", "r3")] {
            node.create_pool(pool(name, &[disk])).await.unwrap();
            node.create_replica(replica(uuid, name, 32)).await.unwrap();
        }
        let given: Vec<&str> = given.iter().map(String::as_str).collect();
        let request = CreateNexus { managed: true, ..nexus(UUID, 20 * MIB, &given) };
        node.create_nexus(request).await.unwrap();
        node.publish_nexus(UUID.into(), String::new(), Protocol::Nvmf).await.unwrap();
        node
    });
    (world, node, children)
}

async fn write(host: &Host, byte: u8) -> Result<(), block::Fault> {
    let spec = engine::remote::RemoteSpec {
        host: "10.0.0.1".into(),
        port: 8420,
        nqn: format!("nqn.2019-05.io.openebs:nexus-{UUID}"),
        host_nqn: "nqn.2019-05.io.openebs:client".into(),
        uuid: None,
    };
    let patient = engine::remote::RemoteOptions { command_deadline: Duration::from_secs(90), ..Default::default() };
    let disk = engine::remote::connect_disk(host, spec, patient).await.expect("it is published");
    let data = block::Buf::copy_of(&[byte; 4096]);
    host::DiskExt::write(&*disk, block::BlockRange::new(0, 8), data, block::Durability::Durable).await
}

#[test]
fn three_copies_lose_one_while_the_control_plane_is_away() {
    let plane = Rc::new(Plane::default());
    let (world, node, _) = over(&plane, 3);
    let before = plane.ledgers.borrow()[&UUID.parse().unwrap()].clone();
    *plane.answer.borrow_mut() = Some(LedgerError::Unavailable("nobody is there".into()));
    world.disk("/dev/b").stall(true);
    let host = world.host();
    let (told, volume) = (plane.clone(), UUID.parse::<Uuid>().unwrap());
    world.run(async move {
        assert_eq!(write(&host, 2).await, Ok(()), "two of three are a majority");
        let info = node.nexuses().remove(0);
        assert_eq!((info.state, info.ledger.in_sync.len()), (Health::Degraded, 2), "{info:#?}");
        assert_eq!(told.ledgers.borrow()[&volume], before, "it was not told");
        *told.answer.borrow_mut() = None;
        host.sleep(Duration::from_secs(40)).await;
        assert_eq!(told.ledgers.borrow()[&volume].in_sync, ["bdev:///r1", "bdev:///r3"], "it is told later");
    });
    world.disk("/dev/b").stall(false);
}

#[test]
fn two_copies_wait_for_the_control_plane_and_the_stale_one_never_serves() {
    let plane = Rc::new(Plane::default());
    let (world, node, children) = over(&plane, 2);
    let volume = UUID.parse::<Uuid>().unwrap();
    *plane.answer.borrow_mut() = Some(LedgerError::Unavailable("nobody is there".into()));
    world.disk("/dev/b").stall(true);
    let host = world.host();
    let acknowledged = Rc::new(RefCell::new(None));
    let answer = acknowledged.clone();
    let client = host.clone();
    host.spawn(async move { *answer.borrow_mut() = Some(write(&client, 2).await) });
    world.run_for(Duration::from_secs(60));
    assert_eq!(*acknowledged.borrow(), None, "one of two is no majority: nobody may be told yet");
    *plane.answer.borrow_mut() = None;
    world.run_for(Duration::from_secs(5));
    assert_eq!(*acknowledged.borrow(), Some(Ok(())), "the smaller set is recorded");
    assert_eq!(plane.ledgers.borrow()[&volume].in_sync, ["bdev:///r1"]);
    drop(node);
    world.kill("main");
    world.disk("/dev/b").stall(false);
    // Only the stale disk is there now, and the volume is asked for with what the control plane knows.
    world.remove_disk("/dev/a");
    let known = plane.ledgers.borrow()[&volume].clone();
    let ledger = Some(LedgerInfo { generation: known.generation.0, in_sync: known.in_sync });
    let (host, plane) = (world.host(), plane.clone());
    world.run(async move {
        let node = Node::start(host.clone(), managed(&plane)).await.unwrap();
        host.sleep(Duration::from_secs(10)).await;
        assert_eq!(node.nexuses().remove(0).state, Health::Faulted);
        let given: Vec<&str> = children.iter().map(String::as_str).collect();
        let request = CreateNexus { managed: true, ledger, ..nexus(UUID, 20 * MIB, &given) };
        node.create_nexus(request).await.expect_err("the stale copy must not serve");
    });
}
