//! The loop: look, plan, act; woken by every report and every change, and by a slow tick.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use block::Generation;
use plan::{Action, Ledger};
use uuid::Uuid;

use crate::Inner;
use crate::cluster::uuid_of;
use crate::state::Fate;
use crate::store::StoreError;
use crate::{execute, nodes, rebalance};

/// What is under way, by volume.
#[derive(Default)]
pub(crate) struct Work(Mutex<BTreeMap<Uuid, Doing>>);

/// Where the actions of one volume stand.
///
/// ```text
///   (none) ─► Busy ─► (none)
///              │ ▲
///              ▼ │ the pause is over
///             Resting
/// ```
#[derive(Clone, Debug)]
pub(crate) enum Doing {
    /// A set of actions is under way; what failed before, if anything.
    Busy(Option<Trouble>),
    /// The last set failed.
    Resting(Trouble),
}

/// A failed action.
#[derive(Clone, Debug)]
pub(crate) struct Trouble {
    /// What was tried.
    pub action: String,
    /// Why it failed.
    pub why: String,
    /// When it is tried again.
    pub until_ms: u64,
    pause: Duration,
}

const LONGEST_PAUSE: Duration = Duration::from_secs(30);

impl Work {
    fn begin(&self, id: Uuid, now_ms: u64) -> bool {
        let mut all = self.0.lock().expect("nobody panics while holding the work");
        let before = match all.get(&id) {
            Some(Doing::Busy(_)) => return false,
            Some(Doing::Resting(trouble)) if trouble.until_ms > now_ms => return false,
            Some(Doing::Resting(trouble)) => Some(trouble.clone()),
            None => None,
        };
        all.insert(id, Doing::Busy(before));
        true
    }

    fn end(&self, id: Uuid, failed: Option<(String, String)>, now_ms: u64, first: Duration) {
        let mut all = self.0.lock().expect("nobody panics while holding the work");
        let before = all.remove(&id);
        let Some((action, why)) = failed else { return };
        let pause = match before {
            Some(Doing::Busy(Some(t)) | Doing::Resting(t)) => (t.pause * 2).min(LONGEST_PAUSE),
            _ => first,
        };
        let until_ms = now_ms + u64::try_from(pause.as_millis()).expect("a short pause");
        all.insert(id, Doing::Resting(Trouble { action, why, until_ms, pause }));
    }

    /// What went wrong last with this volume, unless it went well since.
    pub fn trouble(&self, id: Uuid) -> Option<Trouble> {
        match self.0.lock().expect("nobody panics while holding the work").get(&id)? {
            Doing::Busy(trouble) => trouble.clone(),
            Doing::Resting(trouble) => Some(trouble.clone()),
        }
    }

    /// Wishes changed: do not wait before the next try.
    pub fn hurry(&self, id: Uuid) {
        let mut all = self.0.lock().expect("nobody panics while holding the work");
        if let Some(Doing::Resting(trouble)) = all.get_mut(&id) {
            trouble.until_ms = 0;
        }
    }
}

/// Everything is looked at once in so many ticks, whatever was reported: should a change ever be missed, it is found then.
const SWEEP_TICKS: usize = 60;
/// How many volumes a tick looks at for that at the least.
const SWEEP_LEAST: usize = 100;

/// Runs until the control plane is dropped, or leads no more.
pub(crate) async fn run(inner: Weak<Inner>) {
    let mut swept: Option<tokio::time::Instant> = None;
    loop {
        let Some(strong) = inner.upgrade().filter(|inner| inner.reign.is_valid()) else { return };
        let begun = tokio::time::Instant::now();
        let tick = strong.options.tick;
        let due = swept.is_none_or(|at| at + tick <= begun);
        if due {
            swept = Some(begun);
        }
        adopt_ledgers(&strong, due).await;
        let planned = tokio::time::Instant::now();
        turn(&strong);
        // In a very large cluster reports come faster than everything can be looked at: leave time for all else.
        let rest = planned.elapsed() * 4;
        nodes::follow_drains(&strong).await;
        rebalance::step(&strong).await;
        // Waits without keeping the control plane alive for longer than a tick.
        let _ = tokio::time::timeout(tick, strong.wake.notified()).await;
        tokio::time::sleep(rest).await;
    }
}

/// One look at what changed and at what is not as it shall be, and everything started that is to be done.
fn turn(inner: &Arc<Inner>) {
    let now_ms = inner.now_ms();
    let actions = {
        let (mut cache, mut view) = (inner.state.read(), inner.cluster.lock());
        let (cache, view) = (&mut *cache, &mut *view);
        view.take_news(cache);
        let due = view.planner.due(&cache.desired);
        view.prepare(&due, &mut cache.desired, now_ms);
        let actions = view.planner.plan(&cache.desired, &view.observed, now_ms, &inner.options.settings);
        for id in due.into_iter().filter(|id| view.planner.is_settled(*id)) {
            // What happens to it from now on is not for the sake of the last wish any more.
            if let Some(volume) = cache.desired.volumes.get_mut(&id) {
                volume.operation.clear();
            }
        }
        actions
    };
    let mut sets: BTreeMap<Uuid, Vec<Action>> = BTreeMap::new();
    for action in actions {
        sets.entry(action.volume()).or_default().push(action);
    }
    for (id, actions) in sets {
        if !inner.work.begin(id, now_ms) {
            continue;
        }
        let inner = inner.clone();
        tokio::spawn(async move {
            let failed = carry_out(&inner, actions).await;
            inner.work.end(id, failed, inner.now_ms(), inner.options.retry);
            inner.changed();
        });
    }
}

/// Carries out a set; on the first failure the rest is dropped.
async fn carry_out(inner: &Arc<Inner>, actions: Vec<Action>) -> Option<(String, String)> {
    for action in actions {
        if let Err(failure) = execute::execute(inner, &action).await {
            tracing::warn!(volume = %action.volume(), %action, "failed: {}", failure.0);
            return Some((action.to_string(), failure.0));
        }
        tracing::debug!(volume = %action.volume(), %action, "done");
    }
    None
}

/// A nexus that could not reach the control plane records its ledger on its members alone; its report tells of it later.
/// Ledgers are numbered, so a newer one of the volume's target is simply taken over.
async fn adopt_ledgers(inner: &Arc<Inner>, sweep: bool) {
    let mut found: Vec<(Uuid, String, Ledger)> = Vec::new();
    {
        let (mut cache, mut view) = (inner.state.read(), inner.cluster.lock());
        let (cache, view) = (&mut *cache, &mut *view);
        view.take_news(cache);
        if sweep {
            let some = (cache.desired.volumes.len() / SWEEP_TICKS).max(SWEEP_LEAST);
            view.planner.sweep(&cache.desired, some);
        }
        for id in view.planner.due(&cache.desired) {
            let Some(volume) = cache.desired.volumes.get(&id) else { continue };
            let Some(node) = volume.target.as_ref().filter(|n| view.observed.is_online(n)) else { continue };
            let Some(nexus) = view.nodes.get(node).and_then(|p| p.nexuses.get(&id)) else { continue };
            let known = volume.ledger.as_ref().map_or(0, |l| l.generation.0);
            if nexus.generation > known {
                found.push((id, node.clone(), ledger(nexus.generation, &nexus.in_sync)));
            }
        }
    }
    for (id, node, ledger) in found {
        let adopted: Result<(), StoreError> = inner
            .state
            .change(id, |volume| match volume {
                Some(volume) if is_news(volume, &node, &ledger) => {
                    volume.ledger = Some(ledger);
                    Ok(Fate::Put(()))
                }
                _ => Ok(Fate::Unchanged(())),
            })
            .await;
        if let Err(error) = adopted {
            tracing::warn!(volume = %id, "its ledger was not recorded: {error}");
        }
    }
}

fn is_news(volume: &plan::Volume, node: &str, ledger: &Ledger) -> bool {
    let known = volume.ledger.as_ref().map_or(0, |l| l.generation.0);
    volume.target.as_deref() == Some(node) && ledger.generation.0 > known && !ledger.in_sync.is_empty()
}

/// A ledger from the wire.
pub(crate) fn ledger(generation: u64, in_sync: &[String]) -> Ledger {
    Ledger { generation: Generation(generation), in_sync: in_sync.iter().filter_map(|uri| uuid_of(uri)).collect() }
}
