//! Breadth-first search through a small world. A state is reached again by its actions (the machine cannot be copied: it
//! holds tickets), and known by its digest.

use std::any::Any;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::scope::{Action, Scope};
use crate::small::World;

/// A state: how it is reached.
struct Node {
    parent: u32,
    action: Option<Action>,
    depth: u16,
}

/// What a search has seen.
#[derive(Debug)]
pub struct Seen {
    pub states: usize,
    pub steps: usize,
    pub depth: u16,
    /// Whether there was nothing more to see.
    pub complete: bool,
}

/// What breaks the contract: the shortest way to it.
#[derive(Debug)]
pub struct Broken {
    pub states: usize,
    pub way: Vec<Action>,
    pub why: String,
}

fn way(nodes: &[Node], mut at: usize) -> Vec<Action> {
    let mut way = Vec::new();
    while let Some(action) = nodes[at].action {
        way.push(action);
        at = nodes[at].parent as usize;
    }
    way.reverse();
    way
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default()
}

/// Goes the way again from the beginning.
pub fn follow(scope: &'static Scope, way: &[Action]) -> World {
    let mut world = World::new(scope);
    way.iter().for_each(|action| world.step(*action));
    world
}

/// Looks at every state within the scope, `limit` of them at most.
pub fn search(scope: &'static Scope, limit: usize) -> Result<Seen, Broken> {
    let mut nodes = vec![Node { parent: 0, action: None, depth: 0 }];
    let mut known: BTreeSet<u64> = BTreeSet::from([World::new(scope).digest()]);
    let mut seen = Seen { states: 1, steps: 0, depth: 0, complete: false };
    let mut at = 0;
    while at < nodes.len() {
        let before = way(&nodes, at);
        let mut world = Some(follow(scope, &before));
        let (actions, at_rest) = world.as_ref().map(|w| (w.actions(), w.is_at_rest())).expect("just made");
        for &action in &actions {
            let next = catch_unwind(AssertUnwindSafe(|| {
                let mut next = world.take().unwrap_or_else(|| follow(scope, &before));
                next.step(action);
                let digest = next.digest();
                if known.insert(digest) {
                    next.check();
                    return true;
                }
                false
            }));
            seen.steps += 1;
            match next {
                Ok(false) => {}
                Ok(true) => {
                    let depth = nodes[at].depth + 1;
                    nodes.push(Node { parent: at as u32, action: Some(action), depth });
                    seen.depth = depth;
                }
                Err(panic) => {
                    let why = text(panic.as_ref());
                    let way = before.into_iter().chain([action]).collect();
                    return Err(Broken { states: nodes.len(), way, why });
                }
            }
        }
        if actions.is_empty() || at_rest {
            let rest = catch_unwind(|| follow(scope, &before).rest());
            if let Err(panic) = rest {
                let why = text(panic.as_ref());
                return Err(Broken { states: nodes.len(), way: before, why: format!("then, at rest: {why}") });
            }
        }
        at += 1;
        if nodes.len() >= limit {
            seen.states = nodes.len();
            return Ok(seen);
        }
    }
    seen.states = nodes.len();
    seen.complete = true;
    Ok(seen)
}
