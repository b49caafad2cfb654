//! The wish for a larger volume: whether it can be, and what is in the way.

use block::Bytes;
use plan::{Volume, replica_size};
use tonic::Status;
use uuid::Uuid;

use crate::create::LARGEST;
use crate::{Inner, words};

/// Whether a volume may be asked to have `size` bytes. Only what was seen lately is asked: a pool may still refuse.
pub(crate) fn check(inner: &Inner, id: Uuid, name: &str, size: u64) -> Result<(), Status> {
    if size == 0 || !size.is_multiple_of(4096) || size > LARGEST {
        let text = format!("volume {name}: a size of {size} bytes is not possible; it must be a multiple of 4096");
        return Err(Status::invalid_argument(text));
    }
    let (cache, view) = (inner.state.read(), inner.cluster.lock());
    let observed = &view.observed;
    let Some(volume) = cache.desired.volumes.get(&id) else { return Ok(()) };
    check_larger(volume, size)?;
    if volume.thin {
        return Ok(());
    }
    for (copy, replica) in volume.wanted_copies() {
        let node = observed.nodes.get(&replica.pool.node).filter(|n| n.reach.is_online());
        let seen = node.and_then(|n| Some((n.replicas.get(&copy)?.size, n.pools.get(&replica.pool.pool)?)));
        // What is away is asked when it is back.
        let Some((has, pool)) = seen else { continue };
        let more = replica_size(Bytes(size)).0.saturating_sub(has.0);
        let free = pool.capacity.0.saturating_sub(pool.committed.0);
        if more > free {
            return Err(Status::resource_exhausted(format!(
                "volume {name} cannot grow to {}: its copy in pool {} needs {} more there, {} are free",
                words::bytes(size),
                replica.pool,
                words::bytes(more),
                words::bytes(free)
            )));
        }
    }
    Ok(())
}

/// A volume never shrinks.
pub(crate) fn check_larger(volume: &Volume, size: u64) -> Result<(), Status> {
    if size >= volume.size.0 {
        return Ok(());
    }
    let (name, has, asked) = (&volume.name, words::bytes(volume.size.0), words::bytes(size));
    Err(Status::failed_precondition(format!("volume {name} has {has} and cannot shrink to {asked}")))
}
