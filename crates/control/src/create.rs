//! What a new volume is to be, checked.

use std::collections::BTreeSet;

use api::v1;
use block::Bytes;
use plan::{Life, Publish, Rule, Topology, Volume};
use tonic::Status;
use uuid::Uuid;

use crate::{Inner, nodes, words};

/// The largest volume: what a 64-bit block address of 512-byte blocks and the label leave is more; this is a sane bound.
pub(crate) const LARGEST: u64 = 1 << 50;

/// Checks a request for a volume, as far as it can be without looking at anything else.
pub(crate) fn parse(request: &v1::CreateVolumeRequest) -> Result<(Uuid, Volume), Status> {
    let name = &request.name;
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if name.is_empty() || name.len() > block::limits::NAME_BYTES || !name.chars().all(fits) {
        let text = format!("{name:?} is no name for a volume: 1 to 63 of a-z, 0-9, '-' and '.' are needed");
        return Err(Status::invalid_argument(text));
    }
    if request.size == 0 || !request.size.is_multiple_of(4096) || request.size > LARGEST {
        let text =
            format!("volume {name}: a size of {} bytes is not possible; it must be a multiple of 4096", request.size);
        return Err(Status::invalid_argument(text));
    }
    let most = block::limits::NEXUS_MEMBERS;
    if request.replicas == 0 || request.replicas as usize > most {
        let text = format!("volume {name}: {} replicas are not possible; 1 to {most} are", request.replicas);
        return Err(Status::invalid_argument(text));
    }
    let id = match request.uuid.as_str() {
        "" => Uuid::new_v4(),
        text => text.parse().map_err(|_| Status::invalid_argument(format!("volume {name}: {text:?} is no uuid")))?,
    };
    nodes::check_labels(&request.required_labels)?;
    nodes::check_labels(&request.preferred_labels)?;
    let topology = Topology {
        required_labels: request.required_labels.clone(),
        preferred_labels: request.preferred_labels.clone(),
        spread: rules(&request.spread)?,
        together: rules(&request.together)?,
    };
    let volume = Volume {
        name: name.clone(),
        size: Bytes(request.size),
        replicas: request.replicas,
        thin: request.thin,
        required_nodes: request.required_nodes.iter().cloned().collect(),
        preferred_nodes: request.preferred_nodes.iter().cloned().collect(),
        topology,
        moving: None,
        operation: String::new(),
        publish: Publish::No,
        hosts: std::collections::BTreeMap::new(),
        life: Life::Wanted,
        target: None,
        nexus_nodes: BTreeSet::new(),
        ledger: None,
        copies: std::collections::BTreeMap::new(),
    };
    Ok((id, volume))
}

/// Rules about labels: `KEY` or `KEY:soft`.
fn rules(texts: &[String]) -> Result<BTreeSet<Rule>, Status> {
    let rule = |text: &String| match text.split_once(':') {
        None => Ok(Rule { key: text.clone(), hard: true }),
        Some((key, "soft")) => Ok(Rule { key: key.to_owned(), hard: false }),
        Some((key, "hard")) => Ok(Rule { key: key.to_owned(), hard: true }),
        Some(_) => Err(Status::invalid_argument(format!("{text:?} is no rule about a label: KEY or KEY:soft is"))),
    };
    let rules = texts.iter().map(rule).collect::<Result<BTreeSet<Rule>, Status>>()?;
    nodes::check_keys(rules.iter().map(|r| &r.key))?;
    Ok(rules)
}

/// Whether the cluster has room for all copies of a new volume.
pub(crate) fn check_room(inner: &Inner, volume: &Volume) -> Result<(), Status> {
    let (mut cache, mut view) = (inner.state.read(), inner.cluster.lock());
    let (cache, view) = (&mut *cache, &mut *view);
    view.take_news(cache);
    let mut room = view.planner.room_now(&cache.desired, &view.observed);
    let (desired, observed) = (&cache.desired, &view.observed);
    let mut pools = Vec::new();
    while let Some(pool) = room.take(desired, observed, volume, |_| true, &pools) {
        pools.push(pool);
        if pools.len() == volume.replicas as usize {
            return Ok(());
        }
    }
    let online = observed.nodes.values().filter(|n| n.reach.is_online()).count();
    let all: usize = observed.nodes.values().map(|n| n.pools.len()).sum();
    let nodes = if volume.required_nodes.is_empty() {
        String::new()
    } else {
        format!(" on {}", volume.required_nodes.iter().cloned().collect::<Vec<_>>().join(", "))
    };
    let why = room.shortage(desired, observed, volume, |_| true, &pools).unwrap_or_default();
    Err(Status::resource_exhausted(format!(
        "volume {} needs {} pools{nodes} with {} free each; there are {} ({all} pools on {online} nodes that are online): {why}",
        volume.name,
        volume.replicas,
        words::bytes(plan::replica_size(volume.size).0),
        pools.len(),
    )))
}
