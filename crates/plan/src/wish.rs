//! What an operator wants of nodes, of where copies lie, and of how much is done at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use uuid::Uuid;

use crate::{Desired, PoolId, Replica, Volume};

/// What an operator wants of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeWish {
    /// Whether it is used.
    pub service: Service,
    /// Its labels, such as zone = a.
    pub labels: BTreeMap<String, String>,
}

/// Whether a node is used.
///
/// ```text
///   InService ◄──► Cordoned ◄──► Draining      (each may follow each, as the operator says)
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Service {
    /// It is.
    #[default]
    InService,
    /// What it has stays; no new copies or targets.
    Cordoned,
    /// What it has moves away; no new copies or targets.
    Draining,
}

/// How much may be done. Zero is no special value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How much of a pool may be promised to new copies, in percent of its size: 1 to 100.
    pub fill_percent: u32,
    /// What all replicas of a pool may be together, if they were written in full, for another thin one to be made: in
    /// percent of its size, 100 to 100,000.
    pub overcommit_percent: u32,
    /// How many copies may be rebuilt at a time from or to one node, 1 to 1,000.
    pub rebuilds_per_node: u32,
}
impl Default for Limits {
    fn default() -> Limits {
        Limits { fill_percent: 100, overcommit_percent: 500, rebuilds_per_node: 4 }
    }
}

/// Where copies of a volume may lie, and where they should.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// Labels that a node must have to hold a copy.
    pub required_labels: BTreeMap<String, String>,
    /// Labels whose nodes are taken first.
    pub preferred_labels: BTreeMap<String, String>,
    /// Copies lie on nodes with different values of these labels.
    pub spread: BTreeSet<Rule>,
    /// Copies lie on nodes with the same value of these labels.
    pub together: BTreeSet<Rule>,
}

/// What copies do with a label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// The label's key.
    pub key: String,
    /// Whether a copy is rather not made than made against the rule.
    pub hard: bool,
}
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.key, if self.hard { "" } else { ":soft" })
    }
}

/// A copy that is to move to another pool: a new one is made there first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Which copy goes.
    pub replica: Uuid,
    /// Where the one that takes its place is made.
    pub to: PoolId,
}

impl Service {
    /// Whether new copies and targets may come.
    pub fn takes_new(self) -> bool {
        self == Service::InService
    }
    /// `in-service`, `cordoned` or `draining`.
    pub fn word(self) -> &'static str {
        match self {
            Service::InService => "in-service",
            Service::Cordoned => "cordoned",
            Service::Draining => "draining",
        }
    }
}

impl Desired {
    /// Whether new copies and targets may come to a node.
    pub fn takes_new(&self, node: &str) -> bool {
        self.nodes.get(node).is_none_or(|n| n.service.takes_new())
    }
    /// Whether what a node has is to move away.
    pub fn is_draining(&self, node: &str) -> bool {
        self.nodes.get(node).is_some_and(|n| n.service == Service::Draining)
    }
    /// The value of a node's label.
    pub fn label(&self, node: &str, key: &str) -> Option<&str> {
        self.nodes.get(node)?.labels.get(key).map(String::as_str)
    }
    /// Whether a copy that is wanted is to be replaced by one elsewhere.
    pub fn is_leaving(&self, volume: &Volume, id: Uuid, copy: &Replica) -> bool {
        let moves = volume.moving.as_ref().is_some_and(|m| m.replica == id);
        copy.life.is_wanted() && (moves || self.is_draining(&copy.pool.node))
    }
    /// Whether a node may hold copies of a volume, as far as its name and its labels go.
    pub fn is_allowed(&self, volume: &Volume, node: &str) -> bool {
        let topology = &volume.topology;
        let has = |rule: &Rule| !rule.hard || self.label(node, &rule.key).is_some();
        (volume.required_nodes.is_empty() || volume.required_nodes.contains(node))
            && self.has_labels(node, &topology.required_labels)
            && topology.spread.iter().chain(&topology.together).all(has)
    }
    /// Whether a volume's copies and target should rather lie there than elsewhere; true when it has no preference.
    pub fn is_preferred(&self, volume: &Volume, node: &str) -> bool {
        (volume.preferred_nodes.is_empty() || volume.preferred_nodes.contains(node))
            && self.has_labels(node, &volume.topology.preferred_labels)
    }
    fn has_labels(&self, node: &str, labels: &BTreeMap<String, String>) -> bool {
        labels.iter().all(|(key, value)| self.label(node, key) == Some(value))
    }
}
