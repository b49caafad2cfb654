//! What leaves its place, how far it is, and what it waits for.

use std::collections::BTreeMap;

use api::v1;
use plan::{Life, Standing, Volume};
use uuid::Uuid;

use super::{Reasons, Scene, rebuild_words};
use crate::cluster::uuid_of;
use crate::nodes;
use crate::record::ServiceRecord;

/// Of how many volumes a drain says what they wait for.
const MOST_WAITING: usize = 50;

impl Scene<'_> {
    /// Whether a node is used, and how far its drain is.
    pub(super) fn service(&self, id: &str, reasons: &mut Reasons) -> (&'static str, Option<v1::Drain>) {
        let Some(record) = self.cache.nodes.get(id) else { return ("in-service", None) };
        let drain = record.drain.clone().unwrap_or_default();
        match record.service {
            ServiceRecord::InService => return ("in-service", None),
            ServiceRecord::Cordoned => {
                reasons.doing.push("cordoned: it gets no new copies or targets".to_owned());
                return ("cordoned", None);
            }
            ServiceRecord::Draining => {}
        }
        let left = nodes::left(self.cache, self.view, id);
        let waiting = left.volumes.iter().take(MOST_WAITING).filter_map(|v| {
            let volume = self.desired.volumes.get(v)?;
            Some(v1::DrainItem { volume: volume.name.clone(), waits_for: self.waits_for(*v, volume, id) })
        });
        let wire = v1::Drain {
            operation: drain.operation,
            copies_total: drain.copies.max(left.copies),
            copies_left: left.copies,
            targets_left: left.targets,
            waiting: waiting.collect(),
        };
        if left.volumes.is_empty() {
            reasons.doing.push("drained: it holds nothing any more and gets nothing new".to_owned());
            return ("drained", Some(wire));
        }
        reasons.doing.push(format!(
            "draining: {} of {} copies and {} targets are left",
            wire.copies_left, wire.copies_total, wire.targets_left
        ));
        ("draining", Some(wire))
    }

    /// What a volume waits for to leave a node that is drained.
    fn waits_for(&self, id: Uuid, v: &Volume, node: &str) -> String {
        if v.life == Life::Deleting {
            return "it is being deleted".to_owned();
        }
        let here = |r: &plan::Replica| r.pool.node == node;
        if v.wanted_copies().any(|(_, r)| here(r)) {
            let words = self.why_moving(id, v, &self.standings(id, v));
            return words.unwrap_or_else(|| "the volume is repaired first".to_owned());
        }
        if v.copies.values().any(here) {
            return "its old copy is being destroyed".to_owned();
        }
        let other = self.observed.nodes.iter().any(|(n, x)| x.reach.is_online() && self.desired.takes_new(n));
        if other {
            "its target is being moved".to_owned()
        } else {
            "no other node is in service for its target".to_owned()
        }
    }

    /// What becomes of the copy of a volume that leaves its place; `None` when none does, or the volume lacks a copy.
    pub(super) fn why_moving(&self, id: Uuid, v: &Volume, standings: &BTreeMap<Uuid, Standing>) -> Option<String> {
        let leaves = |r: &Uuid| self.desired.is_leaving(v, *r, &v.copies[r]);
        let leaving = standings.keys().find(|r| leaves(r))?;
        let good = standings.values().filter(|s| **s == Standing::Good).count();
        if good < v.replicas as usize {
            return None;
        }
        let from = &v.copies[leaving].pool;
        let wire = v.target.as_deref().and_then(|t| self.wire_nexus(t, id));
        let child = |r: &Uuid| wire.and_then(|n| n.children.iter().find(|c| uuid_of(&c.uri) == Some(*r)));
        let coming = standings.iter().find(|(r, s)| !leaves(r) && **s != Standing::Good && s.counts());
        let how = match coming {
            Some((r, Standing::Joining)) => {
                rebuild_words(&v.copies[r].pool.node, child(r).and_then(|c| c.rebuild.as_ref()))
            }
            Some((r, Standing::Ready)) => self.turn_words(v, *r),
            Some((r, _)) => format!("a new copy is being made on {}", v.copies[r].pool.node),
            None if good > v.replicas as usize => "the new copy is in sync, the old one is being let go".to_owned(),
            None => match self.shortage(v, standings) {
                Some(why) if v.moving.is_none() => format!("there is no place for a new copy: {why}"),
                _ => "a new copy is being placed".to_owned(),
            },
        };
        Some(format!("its copy in {from} moves: {how}"))
    }

    /// A copy that is there and not in its nexus: it is being taken in, or waits for its turn.
    pub(super) fn turn_words(&self, v: &Volume, replica: Uuid) -> String {
        let home = v.copies[&replica].pool.node.as_str();
        let limit = self.desired.limits.rebuilds_per_node;
        let full = v.target.as_deref().into_iter().chain([home]).find(|n| self.view.planner.rebuilds(n) >= limit);
        match full {
            Some(node) => format!(
                "the new copy on {home} waits for its turn: {} of {limit} rebuilds run at {node}",
                self.view.planner.rebuilds(node)
            ),
            None => format!("a new copy is being made on {home}"),
        }
    }
}
