//! The storage node in a simulated world: calls, wrong calls, restarts, and files that cannot be written.

mod encryption;
mod fencing;
mod files;
mod grow;
mod iscsi_children;
mod losses;
mod managed;
mod nexuses;
mod pools;
mod remote;
mod shares;
mod together;
mod wrong;

use std::future::Future;
use std::rc::Rc;

use engine::model::{CreateNexus, CreatePool, CreateReplica, NodeReport, Protocol};
use engine::node::{IscsiNodeOptions, Node, NodeOptions};
use host::Host;
use sim::{DiskOptions, World};
use uuid::Uuid;

const CONFIG: &str = "/etc/mayastor.yaml";
const MIB: u64 = 1 << 20;

fn options(host: &str) -> NodeOptions {
    NodeOptions {
        id: "node-1".into(),
        nvmf_bind: format!("{host}:8420").parse().expect("an address"),
        nvmf_advertised: None,
        iscsi: IscsiNodeOptions::default(),
        nbd_port: 10809,
        config_path: Some(CONFIG.into()),
        managed_ledgers: None,
    }
}

/// A world with three disks of 64 MiB. Its seed is fixed, or what SIM_SEED says, to look at other orders of events.
fn world() -> World {
    let seed = std::env::var("SIM_SEED").ok().and_then(|seed| seed.parse().ok());
    let world = World::new(seed.unwrap_or(7));
    for path in ["/dev/a", "/dev/b", "/dev/c"] {
        world.add_disk(path, DiskOptions::mib(64));
    }
    world
}

/// Starts the node on the world's main machine and runs a story with it.
fn with_node<T: 'static, F: Future<Output = T> + 'static>(
    world: &World,
    story: impl FnOnce(Rc<Node>, Host) -> F + 'static,
) -> T {
    let host = world.host();
    world.run(async move {
        let node = Node::start(host.clone(), options("10.0.0.1")).await.expect("the node starts");
        story(node, host).await
    })
}

fn pool(name: &str, disks: &[&str]) -> CreatePool {
    CreatePool { name: name.into(), disks: disks.iter().map(|&d| d.into()).collect(), ..CreatePool::default() }
}

fn replica(uuid: &str, pool: &str, mib: u64) -> CreateReplica {
    CreateReplica { uuid: uuid.into(), pool: pool.into(), size: mib * MIB, thin: false, share: None }
}

/// The report without what changes by itself.
fn picture(node: &Node) -> NodeReport {
    NodeReport { sequence: 0, instance: Uuid::nil(), ..node.report() }
}

fn shared(request: CreateReplica) -> CreateReplica {
    CreateReplica { share: Some(Protocol::Nvmf), ..request }
}
