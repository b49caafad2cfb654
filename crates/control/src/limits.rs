//! How much may be done at a time, and how full pools may become: settable while the control plane runs.

use std::ops::RangeInclusive;
use std::sync::Arc;

use api::v1;
use plan::Limits;
use tonic::Status;

use crate::Inner;

/// A limit as clients know it.
struct Knob {
    name: &'static str,
    help: &'static str,
    range: RangeInclusive<u32>,
    place: fn(&mut Limits) -> &mut u32,
}

const KNOBS: [Knob; 3] = [
    Knob {
        name: "pool.fill_percent",
        help: "how much of a pool may be promised to new copies, in percent of its size: 1 to 100",
        range: 1..=100,
        place: |l| &mut l.fill_percent,
    },
    Knob {
        name: "pool.overcommit_percent",
        help: "what all replicas of a pool may be together, if written in full, for another thin one to be made: in percent \
               of its size, 100 to 100000",
        range: 100..=100_000,
        place: |l| &mut l.overcommit_percent,
    },
    Knob {
        name: "rebuild.per_node",
        help: "how many copies may be rebuilt at a time from or to one node, 1 to 1000; the rest waits for its turn",
        range: 1..=1_000,
        place: |l| &mut l.rebuilds_per_node,
    },
];

/// All limits.
pub(crate) fn list(inner: &Inner) -> v1::Config {
    let (mut now, mut default) = (inner.state.read().desired.limits, Limits::default());
    let settings = KNOBS.iter().map(|k| v1::Setting {
        name: k.name.to_owned(),
        value: (k.place)(&mut now).to_string(),
        default: (k.place)(&mut default).to_string(),
        help: k.help.to_owned(),
    });
    v1::Config { settings: settings.collect() }
}

/// Sets a limit; an empty value: to its default.
///
/// # Errors
/// NOT_FOUND for an unknown name, INVALID_ARGUMENT for a value that is none.
pub(crate) async fn set(inner: &Arc<Inner>, setting: v1::Setting, operation: &str) -> Result<v1::Config, Status> {
    let v1::Setting { name, value, .. } = setting;
    let known = || KNOBS.iter().map(|k| k.name).collect::<Vec<_>>().join(", ");
    let knob = KNOBS.iter().find(|k| k.name == name);
    let knob = knob.ok_or_else(|| Status::not_found(format!("there is no limit {name}; there are {}", known())))?;
    let mut limits = inner.state.read().desired.limits;
    let new = match value.as_str() {
        "" => *(knob.place)(&mut Limits::default()),
        text => text
            .parse()
            .ok()
            .filter(|n| knob.range.contains(n))
            .ok_or_else(|| Status::invalid_argument(format!("{name}: {text:?} is not possible: {}", knob.help)))?,
    };
    let place = (knob.place)(&mut limits);
    if std::mem::replace(place, new) != new {
        inner.state.put_limits(limits).await.map_err(|e| Status::unavailable(e.to_string()))?;
        let text = format!("the limit {name} is {new} now");
        inner.events.note_for(operation, "limit-changed", "cluster".to_owned(), text).await;
        inner.changed();
    }
    Ok(list(inner))
}
