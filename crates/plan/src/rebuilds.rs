//! How many copies are being rebuilt, by node.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::{ChildState, Observed, Volume};

/// Counts rebuilds at both ends: the node whose nexus reads and writes, and the node of the copy.
#[derive(Clone, Debug, Default)]
pub struct Rebuilds(BTreeMap<String, u32>);

impl Rebuilds {
    /// Counts those of a volume that run.
    pub fn count(&mut self, id: Uuid, volume: &Volume, observed: &Observed) {
        let Some(target) = &volume.target else { return };
        let Some(nexus) = observed.nexus(target, id) else { return };
        for (replica, _) in nexus.children.iter().filter(|(_, c)| c.state == ChildState::Rebuilding) {
            let home = volume.copies.get(replica).map_or(target.as_str(), |r| r.pool.node.as_str());
            self.add(target, home);
        }
    }

    /// Whether one more may begin; if so, it is counted.
    pub fn admit(&mut self, target: &str, home: &str, limit: u32) -> bool {
        let admitted = self.at(target) < limit && self.at(home) < limit;
        if admitted {
            self.add(target, home);
        }
        admitted
    }

    /// How many there are from or to a node, those included that the last plan begins.
    pub fn at(&self, node: &str) -> u32 {
        self.0.get(node).copied().unwrap_or(0)
    }

    fn add(&mut self, target: &str, home: &str) {
        for node in BTreeSet::from([target, home]) {
            match self.0.get_mut(node) {
                Some(n) => *n += 1,
                None => drop(self.0.insert(node.to_owned(), 1)),
            }
        }
    }
}
