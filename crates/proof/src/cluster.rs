//! The machines of a cluster: which run, what runs on them, and how one calls another.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use block::BlockSize;
use engine::model::Error;
use engine::node::{Node, NodeOptions};
use futures_channel::oneshot;
use host::{Host, LocalFuture};
use sim::{DiskOptions, Skew, Watcher, World};
use uuid::Uuid;

use crate::oracle::{Oracle, Wrong};
use crate::scenario::{Scenario, node_name};
use crate::store::{STORE, Store, StoreLink};
use crate::trace::Trace;

/// The port of every engine's target.
const PORT: u16 = 8420;

/// An engine that runs.
#[derive(Clone)]
pub struct Machine {
    /// Its world.
    pub host: Host,
    /// The engine.
    pub node: Rc<Node>,
}

/// Where a client finds its volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The node of its nexus.
    pub node: String,
    /// The URI.
    pub uri: String,
}

/// What all parts of a simulated cluster share.
pub struct Shared {
    /// What is simulated.
    pub scenario: Scenario,
    /// The world's clock and ways.
    pub watcher: Watcher,
    /// The cluster's store.
    pub store: Store,
    /// What happens.
    pub trace: Trace,
    /// What must be true.
    pub oracle: Oracle,
    /// The engines that run.
    pub machines: RefCell<BTreeMap<String, Machine>>,
    /// Where each volume is published, as the operator said last.
    pub directory: RefCell<BTreeMap<Uuid, Place>>,
    /// The node of each copy that was ever placed.
    pub copies: RefCell<BTreeMap<Uuid, String>>,
    /// Whether things have stopped to go wrong.
    pub calm: Cell<bool>,
    /// Clients that have finished.
    pub finished: Cell<usize>,
    store_host: Host,
}

impl Shared {
    /// The store's own host.
    pub fn store_host(&self) -> Host {
        self.store_host.clone()
    }

    /// What a copy is called in traces: its node, and the end of its uuid.
    pub fn copy_name(&self, copy: Uuid) -> String {
        let node = self.copies.borrow().get(&copy).cloned().unwrap_or_else(|| "?".into());
        format!("{node}/{}", crate::oracle::short(copy))
    }

    /// Calls an engine from another machine: the call travels, is carried out there, and the answer travels back. When the
    /// caller gives up, the call may still be carried out.
    pub async fn call<T: 'static>(
        self: &Rc<Self>,
        from: (&Host, &str),
        to: &str,
        act: impl FnOnce(Rc<Node>) -> LocalFuture<'static, Result<T, Error>> + 'static,
    ) -> Result<T, Error> {
        let (host, name) = from;
        let limit = Duration::from_millis(self.scenario.knobs.rpc_ms);
        let calling = async {
            let Some(delay) = self.watcher.way(name, to) else { return std::future::pending().await };
            host.sleep(delay + Duration::from_micros(50 + host.random() % 2000)).await;
            let machine = self.machines.borrow().get(to).cloned();
            let Some(machine) = machine else { return Err(Error::unavailable(format!("{to} does not run"))) };
            let (tx, rx) = oneshot::channel();
            let node = machine.node.clone();
            machine.host.spawn(async move {
                let answer = act(node).await;
                // The caller may have given up.
                let _ = tx.send(answer);
            });
            drop(machine);
            let answer = rx.await.map_err(|_| Error::unavailable(format!("{to} has died")))?;
            let Some(delay) = self.watcher.way(to, name) else { return std::future::pending().await };
            host.sleep(delay + Duration::from_micros(50)).await;
            answer
        };
        let late = || Err(Error::unavailable(format!("{to} did not answer in time")));
        host.timeout(limit, calling).await.unwrap_or_else(late)
    }
}

/// A cluster: the world and what runs in it. Only its owner, outside, kills and starts.
pub struct Cluster {
    /// The world.
    pub world: World,
    /// What the parts share.
    pub shared: Rc<Shared>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let machines = self.shared.machines.take();
        block::at_world_end(|| drop(machines));
    }
}

impl Cluster {
    /// A world with the scenario's disks; nothing runs yet.
    pub fn new(scenario: Scenario, keep_lines: bool) -> Cluster {
        let world = World::new(scenario.seed);
        let block_size = BlockSize::from_bytes(scenario.knobs.block_bytes).expect("512 or 4096");
        for (k, plan) in scenario.nodes.iter().enumerate() {
            let name = node_name(k);
            // The names get their addresses in this order.
            world.net().address_of(&name);
            let atomic_unit = scenario.knobs.block_bytes;
            let blocks = block_size.blocks_in(block::Bytes(plan.disk_mib << 20)).0;
            let options = DiskOptions { block_size, blocks, atomic_unit, ..DiskOptions::mib(1) };
            world.add_disk(disk_path(&name), options);
            let drift_ppm = plan.drift_ppm;
            world.skew(&name, Skew { ahead: Duration::from_secs(k as u64 * 1000), drift_ppm });
        }
        let shared = Rc::new(Shared {
            watcher: world.watcher(),
            store: Store::default(),
            trace: Trace::new(keep_lines),
            oracle: Oracle::default(),
            machines: RefCell::default(),
            directory: RefCell::default(),
            copies: RefCell::default(),
            calm: Cell::new(false),
            finished: Cell::new(0),
            store_host: world.node(STORE),
            scenario,
        });
        Cluster { world, shared }
    }

    /// The names of the storage nodes.
    pub fn node_names(&self) -> Vec<String> {
        (0..self.shared.scenario.nodes.len()).map(node_name).collect()
    }

    /// Starts an engine. It is there once it has read its configuration.
    pub fn start(&self, name: &str) {
        let host = self.world.node(name);
        let address = self.world.net().address_of(name);
        let link = StoreLink { shared: Rc::downgrade(&self.shared), node: name.to_owned(), host: host.clone() };
        let options = NodeOptions {
            id: name.to_owned(),
            nvmf_bind: (address, PORT).into(),
            nvmf_advertised: None,
            config_path: Some(format!("/etc/{name}.yaml").into()),
            managed_ledgers: Some(Rc::new(link)),
            iscsi: engine::node::IscsiNodeOptions::default(),
            nbd_port: 10809,
        };
        let (shared, id) = (Rc::downgrade(&self.shared), name.to_owned());
        self.note(name, "start", String::new);
        self.world.node(name).spawn(async move {
            let started = Node::start(host.clone(), options).await;
            let Some(shared) = shared.upgrade() else { return };
            match started {
                Ok(node) => {
                    shared.trace.note(shared.watcher.now(), &id, "up", &[], String::new);
                    shared.machines.borrow_mut().insert(id, Machine { host, node });
                }
                Err(error) => shared.oracle.accuse(Wrong::Safety(format!("{id} does not start: {error}"))),
            }
        });
    }

    /// Ends an engine as SIGKILL does.
    pub fn kill_process(&self, name: &str) {
        let machine = self.shared.machines.borrow_mut().remove(name);
        block::at_world_end(|| {
            drop(machine);
            self.world.kill_process(name);
        });
        self.note(name, "killed", String::new);
    }

    /// Takes the power from machines, all at once, and with it what their disks had not flushed.
    pub fn cut_power(&self, names: &[String]) {
        self.observe_ledgers();
        for name in names {
            let machine = self.shared.machines.borrow_mut().remove(name);
            block::at_world_end(|| {
                drop(machine);
                self.world.power_off(name);
            });
        }
        let disks = self.world.disks();
        for name in names {
            // A disk that was pulled has nothing left to lose.
            let path = std::path::PathBuf::from(disk_path(name));
            if let Some((_, disk)) = disks.iter().find(|(p, _)| *p == path) {
                disk.power_cut();
            }
            self.note(name, "power cut", String::new);
        }
        self.lose_caches(names);
    }

    /// Tells the oracle that disks of these nodes may have lost what they had not flushed.
    pub fn lose_caches(&self, names: &[String]) {
        self.observe_ledgers();
        let now = self.world.now().0;
        let copies = self.shared.copies.borrow();
        let lost: BTreeSet<Uuid> = copies.iter().filter(|(_, node)| names.contains(node)).map(|(id, _)| *id).collect();
        for k in 0..self.shared.scenario.volumes.len() {
            self.shared.oracle.history(volume_id(k), |h| {
                h.power_cut(&lost, now);
                Ok(())
            });
        }
    }

    /// Tells the oracle of the sets in sync that nexuses have in force now, which the store may not have yet.
    pub fn observe_ledgers(&self) {
        for k in 0..self.shared.scenario.volumes.len() {
            let id = volume_id(k);
            let Some(target) = self.shared.store.volume(id).and_then(|v| v.target) else { continue };
            self.shared.observe_ledger(id, &target);
        }
    }

    /// Something happened to a node.
    pub fn note(&self, who: &str, what: &str, text: impl FnOnce() -> String) {
        self.shared.trace.note(self.world.now(), who, what, &[], text);
    }
}

impl Shared {
    /// Tells the oracle which members the nexus on `node` has in sync.
    pub fn observe_ledger(&self, id: Uuid, node: &str) {
        let machine = self.machines.borrow().get(node).cloned();
        let Some(info) = machine.and_then(|m| m.node.nexus(id)).filter(|n| n.block_size > 0) else { return };
        let members: BTreeSet<Uuid> = info.ledger.in_sync.iter().filter_map(|uri| crate::store::uuid_of(uri)).collect();
        if !members.is_empty() {
            self.oracle.history(id, |h| {
                h.members(&members);
                Ok(())
            });
        }
    }
}

/// The path of a node's disk.
pub fn disk_path(node: &str) -> String {
    format!("/dev/{node}")
}

/// The identity of the `k`-th volume, from 0.
pub fn volume_id(k: usize) -> Uuid {
    Uuid::from_u128(0xA000 + k as u128 + 1)
}
