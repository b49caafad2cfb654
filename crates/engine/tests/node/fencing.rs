//! One writer: a nexus that was replaced never writes to a member again, whatever happens to the members' nodes meanwhile.
//! docs/replication.md, section 3.4.

use std::time::Duration;

use block::{BlockRange, Buf, Durability, Fault, Request, Ticket};
use engine::model::{Health, LedgerInfo, NexusInfo};
use engine::remote::{RemoteDisk, RemoteOptions, RemoteSpec, connect};
use host::{Disk, DiskExt, DiskRef};

use super::nexuses::{UUID, nexus};
use super::*;

const SIZE: u64 = 20 * MIB;

/// The storage nodes `s1`, `s2` with a shared replica of 32 MiB each, and the nodes `n1` and `n2`.
pub(super) struct Cluster {
    pub(super) world: World,
}

fn address(name: &str) -> String {
    let names = ["main", "s1", "s2", "n1", "n2"];
    format!("10.0.0.{}", 1 + names.iter().position(|n| *n == name).expect("a node"))
}

fn options_of(name: &str) -> NodeOptions {
    let config_path = Some(format!("/etc/{name}.yaml").into());
    NodeOptions { id: name.into(), config_path, ..options(&address(name)) }
}

pub(super) fn replica_uri(node: &str, replica: &str) -> String {
    format!("nvmf://{}:8420/nqn.2019-05.io.openebs:{replica}", address(node))
}

fn fill(byte: u8) -> Buf {
    Buf::copy_of(&[byte; 4096])
}
pub(super) const AT: BlockRange = BlockRange { start: block::Lba(800), len: block::Blocks(8) };

/// The same blocks of a replica: its MayaData begins at 5 MiB.
fn in_replica() -> BlockRange {
    AT.shifted(block::Blocks(5 * MIB / 512))
}

impl Cluster {
    pub(super) fn new() -> Cluster {
        let world = world();
        for name in ["main", "s1", "s2", "n1", "n2"] {
            world.net().address_of(name);
        }
        let cluster = Cluster { world };
        for (name, disk, uuid) in [("s1", "/dev/a", "r1"), ("s2", "/dev/b", "r2")] {
            let node = cluster.start(name);
            cluster.world.run(async move {
                node.create_pool(pool(name, &[disk])).await.expect("a pool");
                node.create_replica(shared(replica(uuid, name, 32))).await.expect("a replica");
            });
        }
        cluster
    }

    pub(super) fn start(&self, name: &'static str) -> Rc<Node> {
        let host = self.world.node(name);
        self.world.run(async move { Node::start(host, options_of(name)).await.expect("the node starts") })
    }

    /// Restart of both storage nodes: of the processes alone, which forget who was connected, or after a loss of power.
    fn restart_storage(&self, restart: Restart) {
        for (name, disk) in [("s1", "/dev/a"), ("s2", "/dev/b")] {
            match restart {
                Restart::Process => self.world.kill_process(name),
                Restart::Power => {
                    self.world.kill(name);
                    self.world.disk(disk).power_cut();
                }
            }
            self.start(name);
        }
        self.world.run_for(Duration::from_secs(5));
    }

    /// A client on the machine of the nexus, so that what cuts off the nexus cuts off its client too.
    fn client(&self, name: &'static str) -> Rc<RemoteDisk> {
        self.client_with(name, RemoteOptions::default())
    }

    pub(super) fn client_with(&self, name: &'static str, options: RemoteOptions) -> Rc<RemoteDisk> {
        let host = self.world.node(name);
        let spec = RemoteSpec {
            host: address(name),
            port: 8420,
            nqn: format!("nqn.2019-05.io.openebs:nexus-{UUID}"),
            host_nqn: format!("nqn.2019-05.io.openebs:client-{name}"),
            uuid: None,
        };
        self.world.run(async move { connect(&host, spec, options).await.expect("it is published") })
    }

    /// A plain host of a replica.
    fn stranger(&self, node: &'static str, replica: &str) -> Rc<RemoteDisk> {
        let host = self.world.host();
        let spec = RemoteSpec {
            host: address(node),
            port: 8420,
            nqn: format!("nqn.2019-05.io.openebs:{replica}"),
            host_nqn: "nqn.2019-05.io.openebs:stranger".into(),
            uuid: None,
        };
        self.world.run(async move { connect(&host, spec, Default::default()).await.expect("it is shared") })
    }

    /// The byte at the place of the tests in a replica.
    pub(super) fn peek(&self, node: &'static str, replica: &str) -> u8 {
        self.read(&self.stranger(node, replica), in_replica())
    }

    pub(super) fn write_volatile(&self, disk: &Rc<RemoteDisk>, byte: u8) -> Result<(), Fault> {
        let disk: DiskRef = disk.clone();
        self.world.run(async move { disk.write(AT, fill(byte), Durability::Volatile).await })
    }

    pub(super) fn flush(&self, disk: &Rc<RemoteDisk>) -> Result<(), Fault> {
        let disk: DiskRef = disk.clone();
        self.world.run(async move { disk.flush().await })
    }

    pub(super) fn write(&self, disk: &Rc<RemoteDisk>, byte: u8) -> Result<(), Fault> {
        let disk: DiskRef = disk.clone();
        self.world.run(async move { disk.write(AT, fill(byte), Durability::Durable).await })
    }

    pub(super) fn read(&self, disk: &Rc<RemoteDisk>, at: BlockRange) -> u8 {
        let disk: DiskRef = disk.clone();
        self.world.run(async move { disk.read(at).await.expect("it can be read")[0] })
    }

    /// Opens the nexus on a node over both replicas, and publishes it.
    pub(super) fn open(&self, node: &Rc<Node>, ledger: Option<LedgerInfo>) -> NexusInfo {
        let node = node.clone();
        self.world.run(async move {
            let children = [replica_uri("s1", "r1"), replica_uri("s2", "r2")];
            let request = CreateNexus { ledger, ..nexus(UUID, SIZE, &[&children[0], &children[1]]) };
            let made = node.create_nexus(request).await.expect("it opens");
            node.publish_nexus(UUID.into(), String::new(), Protocol::Nvmf).await.expect("it is published");
            made
        })
    }
}

#[derive(Clone, Copy)]
enum Restart {
    Process,
    Power,
}

#[test]
fn a_nexus_that_was_replaced_while_it_was_cut_off_never_writes_again() {
    for restart in [None, Some(Restart::Process), Some(Restart::Power)] {
        replaced_while_cut_off(restart);
    }
}

fn replaced_while_cut_off(restart: Option<Restart>) {
    let cluster = Cluster::new();
    let n1 = cluster.start("n1");
    let first = cluster.open(&n1, None);
    let old = cluster.client("n1");
    assert_eq!(cluster.write(&old, 0xa1), Ok(()));
    cluster.world.net().isolate("n1", true);
    // A write is on its way when the nexus is replaced: it must not land later.
    let late: Rc<std::cell::RefCell<Option<block::Outcome>>> = Rc::default();
    let told = late.clone();
    let request = Request::Write { range: AT, data: fill(0xa2), durability: Durability::Durable };
    old.submit(request, Ticket::new(move |outcome| *told.borrow_mut() = Some(outcome)));

    let n2 = cluster.start("n2");
    cluster.open(&n2, Some(first.ledger));
    let new = cluster.client("n2");
    assert_eq!(cluster.read(&new, AT), 0xa1);
    assert_eq!(cluster.write(&new, 0xb1), Ok(()));
    if let Some(restart) = restart {
        cluster.restart_storage(restart);
    }
    cluster.world.net().isolate("n1", false);
    cluster.world.run_for(Duration::from_secs(30));

    assert!(late.borrow().as_ref().is_some_and(Result::is_err), "{:?}", late.borrow());
    assert!(cluster.write(&old, 0xa3).is_err());
    let fenced = n1.nexuses().remove(0);
    assert_eq!(fenced.state, Health::Faulted, "{fenced:#?}");
    for (node, replica) in [("s1", "r1"), ("s2", "r2")] {
        assert_eq!(cluster.peek(node, replica), 0xb1);
    }
    assert_eq!(cluster.read(&new, AT), 0xb1);
    assert_eq!(cluster.write(&new, 0xb2), Ok(()), "the one that is in charge goes on");
}

#[test]
fn a_nexus_that_uses_the_replica_on_its_own_node_is_fenced_too() {
    let cluster = Cluster::new();
    cluster.world.kill("s1");
    let s1 = cluster.start("s1");
    let node = s1.clone();
    let first = cluster.world.run(async move {
        let request = nexus(UUID, SIZE, &["bdev:///r1", &replica_uri("s2", "r2")]);
        let made = node.create_nexus(request).await.expect("it opens");
        node.publish_nexus(UUID.into(), String::new(), Protocol::Nvmf).await.expect("it is published");
        made
    });
    let old = cluster.client("s1");
    assert_eq!(cluster.write(&old, 0xa1), Ok(()));
    let n2 = cluster.start("n2");
    // The members have other names there, and are known all the same.
    cluster.open(&n2, Some(first.ledger));
    let new = cluster.client("n2");
    assert_eq!(cluster.write(&new, 0xb1), Ok(()));
    assert!(cluster.write(&old, 0xa2).is_err(), "through the network or not");
    assert_eq!(s1.nexuses().remove(0).state, Health::Faulted);
    assert_eq!(cluster.peek("s1", "r1"), 0xb1);
}

#[test]
fn an_opening_that_may_not_serve_takes_no_member_away() {
    let cluster = Cluster::new();
    let n1 = cluster.start("n1");
    cluster.open(&n1, None);
    let client = cluster.client("n1");
    let n2 = cluster.start("n2");
    cluster.world.run(async move {
        // It has never heard of the volume, and only one of two members is named.
        let error = n2.create_nexus(nexus(UUID, SIZE, &[&replica_uri("s1", "r1")])).await.expect_err("half of it");
        assert!(error.message.contains("cannot be opened"), "{error}");
    });
    assert_eq!(cluster.write(&client, 1), Ok(()));
}

#[test]
fn a_member_keeps_strangers_out_through_power_loss_and_after_an_orderly_close() {
    let cluster = Cluster::new();
    let stranger = cluster.stranger("s1", "r1");
    assert_eq!(cluster.write(&stranger, 9), Ok(()), "nobody has it yet");
    let n1 = cluster.start("n1");
    let error = cluster.world.run({
        let n1 = n1.clone();
        async move { n1.create_nexus(nexus(UUID, SIZE, &[&replica_uri("s1", "r1")])).await }
    });
    error.expect("what the stranger wrote is no label");
    assert_eq!(cluster.write(&stranger, 9), Err(Fault::Fenced));
    cluster.world.run(async move { n1.destroy_nexus(UUID.into()).await.expect("it closes") });
    assert_eq!(cluster.write(&stranger, 9), Err(Fault::Fenced), "a late write of a former nexus is kept out as well");
    cluster.restart_storage(Restart::Power);
    let again = cluster.stranger("s1", "r1");
    assert_eq!(cluster.write(&again, 9), Err(Fault::Fenced));
    let report = cluster.world.run(async move {
        let reservations = again.reservable().expect("offered");
        assert!(reservations.remembers());
        reservations.reservations().await.expect("it can be read")
    });
    assert!(report.is_persistent() && report.registrants().len() == 1);
}
