//! Every order of events, in worlds that are small enough for it.
//!
//! `NEXUS_STATES=n` looks at up to n states of each scope instead of the usual number.

use crate::scope::Before::{Back, Growing, Out, Paused, Serving, Written};
use crate::scope::Op::{Flush, Fua, Read, Write};
use crate::scope::{Budget, Scope};
use crate::search::{Seen, search};

const NONE: Budget =
    Budget { errors: 0, deaths: 0, commands: 0, ticks: 0, store: 0, crashes: 0, outages: 0, cuts: 0, takeovers: 0 };

/// What is looked at.
pub static SCOPES: &[Scope] = &[
    Scope {
        name: "two members, a new volume",
        members: 2,
        blocks: 1,
        region: 1,
        before: &[],
        scripts: &[&[Write(0), Read(0)]],
        to_first: &[],
        budget: Budget { store: 1, errors: 1, crashes: 1, ..NONE },
    },
    Scope {
        name: "two members, errors",
        members: 2,
        blocks: 2,
        region: 1,
        before: &[Serving],
        scripts: &[&[Write(0), Read(0)]],
        to_first: &[],
        budget: Budget { errors: 2, ticks: 2, store: 1, ..NONE },
    },
    Scope {
        name: "two members, two writers of a block",
        members: 2,
        blocks: 1,
        region: 1,
        before: &[Serving],
        scripts: &[&[Write(0), Flush], &[Fua(0), Read(0)]],
        to_first: &[],
        budget: Budget { errors: 1, ..NONE },
    },
    Scope {
        name: "two members, a region is cleared",
        members: 2,
        blocks: 1,
        region: 1,
        before: &[Serving, Written, Paused],
        scripts: &[&[Write(0), Flush]],
        to_first: &[],
        budget: Budget { ticks: 1, errors: 1, ..NONE },
    },
    Scope {
        name: "two members, one goes and comes back",
        members: 2,
        blocks: 2,
        region: 1,
        before: &[Serving],
        scripts: &[&[Write(0), Write(1)], &[Read(0)]],
        to_first: &[],
        budget: Budget { deaths: 1, commands: 1, ticks: 1, ..NONE },
    },
    Scope {
        name: "two members, one was taken out",
        members: 2,
        blocks: 2,
        region: 1,
        before: &[Serving],
        scripts: &[&[Write(0)]],
        to_first: &[],
        budget: Budget { commands: 2, ticks: 1, ..NONE },
    },
    Scope {
        name: "two members, one is rebuilt",
        members: 2,
        blocks: 2,
        region: 2,
        before: &[Serving, Out, Written, Paused, Paused, Back],
        scripts: &[&[Write(0), Read(0)]],
        to_first: &[],
        budget: Budget { crashes: 1, ..NONE },
    },
    Scope {
        name: "two members, a rebuild fails",
        members: 2,
        blocks: 2,
        region: 1,
        before: &[Serving, Written, Out, Back],
        scripts: &[&[Write(0), Read(1)]],
        to_first: &[],
        budget: Budget { errors: 1, commands: 1, ..NONE },
    },
    Scope {
        name: "two members, one grows",
        members: 2,
        blocks: 1,
        region: 1,
        before: &[Serving, Written, Out, Growing],
        scripts: &[&[Read(0), Write(0)]],
        to_first: &[],
        budget: Budget { store: 1, commands: 1, crashes: 1, ..NONE },
    },
    Scope {
        name: "two members, crash",
        members: 2,
        blocks: 2,
        region: 1,
        before: &[Serving],
        scripts: &[&[Write(0), Read(0), Read(0)], &[Write(0)]],
        to_first: &[],
        budget: Budget { crashes: 1, ..NONE },
    },
    Scope {
        name: "two members, two crashes",
        members: 2,
        blocks: 1,
        region: 1,
        before: &[Serving],
        scripts: &[&[Write(0), Read(0)]],
        to_first: &[],
        budget: Budget { crashes: 2, store: 1, ..NONE },
    },
    Scope {
        name: "two members, power loss",
        members: 2,
        blocks: 2,
        region: 1,
        before: &[Serving],
        scripts: &[&[Write(0), Flush, Read(0)], &[Write(0)]],
        to_first: &[],
        budget: Budget { outages: 1, ticks: 1, ..NONE },
    },
    Scope {
        name: "two members, takeover",
        members: 2,
        blocks: 1,
        region: 1,
        before: &[Serving],
        scripts: &[&[Write(0), Read(0)]],
        to_first: &[Write(0)],
        budget: Budget { takeovers: 1, cuts: 1, store: 1, ..NONE },
    },
    Scope {
        name: "three members, one goes",
        members: 3,
        blocks: 1,
        region: 1,
        before: &[Serving],
        scripts: &[&[Write(0), Read(0)]],
        to_first: &[],
        budget: Budget { deaths: 1, store: 1, ticks: 1, ..NONE },
    },
    Scope {
        name: "three members, two go, crash",
        members: 3,
        blocks: 1,
        region: 1,
        before: &[Serving],
        scripts: &[&[Write(0)]],
        to_first: &[],
        budget: Budget { deaths: 2, store: 1, crashes: 1, ..NONE },
    },
    Scope {
        name: "three members, rebuild and crash",
        members: 3,
        blocks: 1,
        region: 1,
        before: &[Serving],
        scripts: &[&[Write(0), Read(0)]],
        to_first: &[],
        budget: Budget { commands: 2, crashes: 1, ..NONE },
    },
    Scope {
        name: "three members, takeover",
        members: 3,
        blocks: 1,
        region: 1,
        before: &[Serving],
        scripts: &[&[Write(0)]],
        to_first: &[Write(0)],
        budget: Budget { takeovers: 1, cuts: 1, store: 1, ..NONE },
    },
];

/// How many states are looked at in each scope.
pub const STATES: usize = 10_000;

#[test]
fn no_order_of_events_breaks_the_contract() {
    let limit = std::env::var("NEXUS_STATES").ok().and_then(|v| v.parse().ok()).unwrap_or(STATES);
    let only = std::env::var("NEXUS_SCOPE").ok();
    for scope in SCOPES.iter().filter(|s| only.as_ref().is_none_or(|o| s.name.contains(o))) {
        match search(scope, limit) {
            Ok(Seen { states, steps, depth, complete }) => {
                let all = if complete { "all" } else { "" };
                println!("{:<40} {states:>8} states {steps:>9} steps, depth {depth:>2} {all}", scope.name);
            }
            Err(broken) => {
                broken.way.iter().for_each(|action| println!("  {action:?}"));
                panic!("{}: after {} states: {}", scope.name, broken.states, broken.why);
            }
        }
    }
}
