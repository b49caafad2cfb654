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
