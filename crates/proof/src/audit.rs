//! What is looked at on the disks themselves: pools are well-formed after every crash, and mirrors are identical at rest.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use block::{BlockRange, BlockSize, Bytes};
use host::{Claim, Disk, DiskExt, DiskRef, Host, OpenOptions};
use pool::{Member, Pool, PoolError};
use sim::World;
use uuid::Uuid;

use crate::cluster::{Cluster, disk_path, volume_id};
use crate::oracle::{Wrong, short};
use crate::run_world;

/// Opens a disk and says what a pool needs to know.
async fn member(host: &Host, path: &str, block_size: BlockSize) -> Member {
    let options = OpenOptions { block_size, claim: Claim::Exclusive };
    let disk: DiskRef = host.open_disk(path, options).await.expect("nobody else has it open");
    Member { uri: path.to_owned(), disk }
}

/// Checks the pool on the disk of a node that does not run (invariant 8), on a copy of the disk.
pub fn pool(cluster: &Cluster, node: &str) {
    let path = disk_path(node);
    let disk = cluster.world.disk(&path);
    let world = World::new(1);
    world.add_disk(&path, disk.options()).set_image(disk.image());
    let (host, block_size) = (world.host(), disk.options().block_size);
    let checked: Result<pool::Report, PoolError> = world.run(async move {
        let member = member(&host, &path, block_size).await;
        pool::check(&host, vec![member]).await
    });
    cluster.shared.oracle.check(checked.is_ok(), || {
        let why = checked.err().map(|e| e.to_string()).unwrap_or_default();
        format!("the pool of {node} is not well-formed after a crash: {why}")
    });
}

/// At rest, all copies in sync hold the same bytes (invariant 6).
pub fn mirrors(cluster: &mut Cluster) {
    for name in cluster.node_names() {
        cluster.kill_process(&name);
    }
    // What was on its way to a disk lands now or never.
    cluster.world.run_for(Duration::from_millis(100));
    let block_size = BlockSize::from_bytes(cluster.shared.scenario.knobs.block_bytes).expect("512 or 4096");
    let mut pools: BTreeMap<String, Rc<Pool>> = BTreeMap::new();
    for name in cluster.node_names() {
        let host = cluster.world.node("auditor");
        let path = disk_path(&name);
        let imported = run_world(&cluster.world, async move {
            let member = member(&host, &path, block_size).await;
            pool::import(&host, vec![member], None).await
        });
        match imported {
            Ok(pool) => drop(pools.insert(name, pool)),
            Err(why) => {
                cluster.shared.oracle.accuse(Wrong::Safety(format!("the pool of {name} can not be imported: {why}")));
                return;
            }
        }
    }
    for (k, plan) in cluster.shared.scenario.volumes.iter().enumerate() {
        compare(cluster, &pools, k, Bytes(plan.bytes));
    }
}

fn compare(cluster: &Cluster, pools: &BTreeMap<String, Rc<Pool>>, k: usize, size: Bytes) {
    let shared = &cluster.shared;
    let id = volume_id(k);
    let Some(record) = shared.store.volume(id) else { return };
    let members = record.ledger.map(|l| l.in_sync).unwrap_or_default();
    let images: RefCell<Vec<(Uuid, Vec<u8>)>> = RefCell::default();
    for member in members {
        let node = shared.copies.borrow().get(&member).cloned().unwrap_or_default();
        let found = pools.get(&node).and_then(|p| p.replica(&member.to_string()));
        let Some(replica) = found else {
            let text = format!("volume {}: {} is in sync, and not there", short(id), shared.copy_name(member));
            return shared.oracle.accuse(Wrong::Safety(text));
        };
        let read = run_world(&cluster.world, async move {
            let block = replica.geometry().block_size;
            let start = block.blocks_in(nexus::label::DATA_OFFSET).0;
            let step = block.blocks_in(Bytes(256 << 10)).0;
            let (mut bytes, mut at) = (Vec::new(), 0);
            let blocks = block.blocks_in(size).0;
            while at < blocks {
                let range = BlockRange::new(start + at, step.min(blocks - at));
                bytes.extend_from_slice(&replica.read(range).await?);
                at += step;
            }
            Ok::<_, block::Fault>(bytes)
        });
        match read {
            Ok(bytes) => images.borrow_mut().push((member, bytes)),
            Err(fault) => {
                let name = shared.copy_name(member);
                return shared.oracle.accuse(Wrong::Safety(format!("{name} can not be read at rest: {fault}")));
            }
        }
    }
    let images = images.into_inner();
    for (member, bytes) in images.iter().skip(1) {
        let differs = bytes.iter().zip(&images[0].1).position(|(a, b)| a != b);
        shared.oracle.check(differs.is_none(), || {
            let (one, other) = (shared.copy_name(*member), shared.copy_name(images[0].0));
            let block = differs.unwrap_or_default() as u64 / u64::from(shared.scenario.knobs.block_bytes);
            format!("volume {}: {one} and {other} differ at rest, first in block {block}", short(id))
        });
    }
}
