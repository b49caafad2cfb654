//! What an object's status is to say, and what is to be done about it: pure functions of what is asked for and what is.

pub(crate) mod node;
pub(crate) mod pool;
pub(crate) mod volume;

use std::collections::BTreeMap;

use api::v1;

/// What is, by name.
pub(crate) struct View {
    pub nodes: BTreeMap<String, v1::Node>,
    /// By node and name.
    pub pools: BTreeMap<(String, String), v1::Pool>,
    pub volumes: BTreeMap<String, v1::Volume>,
}

impl View {
    pub fn new(status: v1::Status) -> View {
        let pools = status.pools.into_iter().filter_map(|p| {
            let pool = p.pool?;
            Some(((p.node, pool.name.clone()), pool))
        });
        View {
            nodes: status.nodes.into_iter().map(|n| (n.id.clone(), n)).collect(),
            pools: pools.collect(),
            volumes: status.volumes.into_iter().map(|v| (v.name.clone(), v)).collect(),
        }
    }

    /// The volumes that have a copy in a pool, wanted or not.
    pub fn users(&self, node: &str, pool: &str) -> Vec<&str> {
        let uses = |v: &&v1::Volume| v.replicas.iter().any(|r| r.node == node && r.pool == pool);
        self.volumes.values().filter(uses).map(|v| v.name.as_str()).collect()
    }
}

/// A decision: the status, and what is to be done.
#[derive(Debug, PartialEq)]
pub(crate) struct Decision<S, A> {
    pub status: S,
    pub action: Option<A>,
}

/// A number for people and for Kubernetes, which has no unsigned ones.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// At most a few names, and how many more.
pub(crate) fn some(names: &[&str]) -> String {
    const FEW: usize = 5;
    match names.len() {
        0..=FEW => names.join(", "),
        n => format!("{} and {} more", names[..FEW].join(", "), n - FEW),
    }
}
