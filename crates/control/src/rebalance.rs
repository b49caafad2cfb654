//! Copies move from the fullest pools to the emptiest, on request: one after the other, each made anew where it goes before
//! the old one is let go. The moves are on record, so a control plane that starts again goes on with them.

use std::sync::Arc;

use api::v1;
use plan::{Move, PoolId, Shift, Volume};
use tonic::Status;

use crate::Inner;
use crate::cluster::View;
use crate::record::{RebalanceRecord, StepRecord, StepState};
use crate::service::Refused;
use crate::state::{Cache, Fate};

/// How many moves a rebalance has at the most; then it can be asked for again.
const MOST: usize = 1_000;

/// Plans a rebalance, begins one, stops it, or says how far it is.
///
/// # Errors
/// UNAVAILABLE when the store fails.
pub(crate) async fn ask(
    inner: &Arc<Inner>,
    request: v1::RebalanceRequest,
    operation: &str,
) -> Result<v1::RebalanceReport, Status> {
    let running = inner.state.read().rebalance.clone();
    if request.stop {
        let Some(record) = running else { return Ok(v1::RebalanceReport::default()) };
        finish(inner, record.clone(), "rebalance-stopped").await?;
        return Ok(report(&record, ""));
    }
    if let Some(record) = running {
        let operation = record.operation.clone();
        return Ok(report(&record, &operation));
    }
    let moves = {
        let (mut cache, mut view) = (inner.state.read(), inner.cluster.lock());
        let (cache, view) = (&mut *cache, &mut *view);
        view.take_news(cache);
        plan(cache, view)
    };
    let record = RebalanceRecord { operation: operation.to_owned(), moves };
    if request.dry_run || record.moves.is_empty() {
        return Ok(report(&record, ""));
    }
    inner.state.put_rebalance(Some(record.clone())).await.map_err(|e| Status::unavailable(e.to_string()))?;
    let text = format!("copies are moved from full pools to empty ones: {} moves", record.moves.len());
    inner.events.note_for(operation, "rebalance-started", "cluster".to_owned(), text).await;
    inner.changed();
    Ok(report(&record, operation))
}

fn plan(cache: &Cache, view: &mut View) -> Vec<StepRecord> {
    let room = view.planner.room_now(&cache.desired, &view.observed);
    let weight = |id, volume: &Volume, copy: &plan::Replica| {
        let wire = view.nodes.get(&copy.pool.node).and_then(|p| p.replicas.get(&id));
        wire.map_or(0, |r| if volume.thin { r.allocated } else { r.size })
    };
    let in_order = |id| view.planner.is_settled(id);
    let shifts = plan::balance(&cache.desired, &view.observed, &room, in_order, weight, MOST);
    let step = |Shift { volume, from, wish, bytes }: Shift| StepRecord {
        volume,
        name: cache.desired.volumes[&volume].name.clone(),
        replica: wish.replica,
        from_node: from.node,
        from_pool: from.pool,
        to_node: wish.to.node,
        to_pool: wish.to.pool,
        bytes,
        state: StepState::Waiting,
    };
    shifts.into_iter().map(step).collect()
}

fn report(record: &RebalanceRecord, operation: &str) -> v1::RebalanceReport {
    let over = |s: &&StepRecord| matches!(s.state, StepState::Done | StepState::Skipped);
    let one = |s: &StepRecord| v1::RebalanceMove {
        volume: s.name.clone(),
        replica: s.replica.to_string(),
        from: format!("{}/{}", s.from_node, s.from_pool),
        to: format!("{}/{}", s.to_node, s.to_pool),
        bytes: s.bytes,
        state: match s.state {
            StepState::Waiting if operation.is_empty() => "planned",
            StepState::Waiting => "waiting",
            StepState::Moving => "moving",
            StepState::Done => "done",
            StepState::Skipped => "skipped",
        }
        .to_owned(),
    };
    v1::RebalanceReport {
        operation: operation.to_owned(),
        done: u32::try_from(record.moves.iter().filter(over).count()).unwrap_or(u32::MAX),
        moves: record.moves.iter().map(one).collect(),
    }
}

/// Which move is next, and what is to be done about it: the one that is under way, else the first that can be begun or
/// given up. No move: all are over. `None`: wait, as for volumes that are not well or were not looked at since the start.
fn choose(inner: &Inner, record: &RebalanceRecord) -> Option<(Option<usize>, Next)> {
    let (mut cache, mut view) = (inner.state.read(), inner.cluster.lock());
    let (cache, view) = (&mut *cache, &mut *view);
    view.take_news(cache);
    let in_state = |state| record.moves.iter().enumerate().filter(move |(_, s)| s.state == state);
    let candidates: Vec<_> = match in_state(StepState::Moving).next() {
        Some(moving) => vec![moving],
        None => in_state(StepState::Waiting).collect(),
    };
    if candidates.is_empty() {
        return Some((None, Next::Wait));
    }
    let mut judged = candidates.into_iter().map(|(at, step)| {
        let lost = match view.observed.nodes.get(&step.to_node).map(|node| node.reach) {
            Some(plan::Reach::Online { .. }) => false,
            Some(plan::Reach::Unreachable { since_ms }) => {
                since_ms.saturating_add(inner.options.settings.node_grace_ms) <= inner.now_ms()
            }
            None => true,
        };
        (Some(at), judge(step, cache, view, lost))
    });
    judged.find(|(_, next)| !matches!(next, Next::Wait))
}

/// What is to be done about a move now.
enum Next {
    Wait,
    Begin,
    End(StepState),
}

/// Goes on with the rebalance that is under way.
pub(crate) async fn step(inner: &Arc<Inner>) {
    let Some(mut record) = inner.state.read().rebalance.clone() else { return };
    let Some((at, next)) = choose(inner, &record) else { return };
    let Some(at) = at else {
        let _ = finish(inner, record, "rebalance-completed").await;
        return;
    };
    let now = &mut record.moves[at];
    let state = match next {
        Next::Wait => return,
        Next::Begin => StepState::Moving,
        Next::End(state) => state,
    };
    let to = PoolId { node: now.to_node.clone(), pool: now.to_pool.clone() };
    let wish = matches!(state, StepState::Moving).then(|| Move { replica: now.replica, to });
    // The volume first: a record that says "moving" of a volume that is not told would wait for ever.
    if set(inner, now, wish).await.is_err() {
        return;
    }
    now.state = state;
    if let Err(error) = inner.state.put_rebalance(Some(record)).await {
        tracing::warn!("how far the rebalance is was not stored: {error}");
    }
    inner.changed();
}

/// `is_lost`: the node that the copy moves to has been away for so long that copies on it would be replaced.
fn judge(step: &StepRecord, cache: &Cache, view: &mut View, is_lost: bool) -> Next {
    let Some(volume) = cache.desired.volumes.get(&step.volume) else { return Next::End(StepState::Skipped) };
    let copy = volume.copies.get(&step.replica);
    let settled = view.planner.is_settled(step.volume);
    let mine = volume.moving.as_ref().is_some_and(|m| m.replica == step.replica);
    match step.state {
        StepState::Waiting if copy.is_none_or(|r| !r.life.is_wanted()) => Next::End(StepState::Skipped),
        StepState::Waiting if mine => Next::Begin,
        StepState::Waiting if settled => Next::Begin,
        // The old copy is gone, and all is well.
        StepState::Moving if copy.is_none() && settled => Next::End(StepState::Done),
        StepState::Moving if mine => {
            // No replacement is under way, and none can be made: something else took the room.
            let wanted = volume.wanted_copies().count();
            let room = view.planner.room_now(&cache.desired, &view.observed);
            let to = PoolId { node: step.to_node.clone(), pool: step.to_pool.clone() };
            let possible = room.free(&to) >= plan::replica_size(volume.size) || volume.thin;
            let is_away = !is_lost && !view.observed.is_online(&to.node);
            let usable = cache.desired.takes_new(&to.node) && !is_lost;
            if wanted > volume.replicas as usize || is_away || (possible && usable) {
                Next::Wait
            } else {
                Next::End(StepState::Skipped)
            }
        }
        _ => Next::Wait,
    }
}

/// Tells the volume that a copy is to move, or, with `None`, that this copy is not to move any more.
async fn set(inner: &Arc<Inner>, step: &StepRecord, wish: Option<Move>) -> Result<(), Status> {
    let edit = |volume: Option<&mut Volume>| -> Result<Fate<()>, Refused> {
        let Some(volume) = volume else { return Ok(Fate::Unchanged(())) };
        let mine = volume.moving.as_ref().is_some_and(|m| m.replica == step.replica);
        if volume.moving == wish || (wish.is_none() && !mine) {
            return Ok(Fate::Unchanged(()));
        }
        volume.moving = wish;
        Ok(Fate::Put(()))
    };
    inner.state.change(step.volume, edit).await.map_err(|Refused(status)| status)
}

/// Ends it: a copy that is on its way stays where it is, unless its replacement is in sync.
async fn finish(inner: &Arc<Inner>, record: RebalanceRecord, kind: &str) -> Result<(), Status> {
    for step in record.moves.iter().filter(|s| s.state != StepState::Done) {
        set(inner, step, None).await?;
    }
    inner.state.put_rebalance(None).await.map_err(|e| Status::unavailable(e.to_string()))?;
    let done = record.moves.iter().filter(|s| s.state == StepState::Done).count();
    let text = format!("{done} of {} copies were moved from full pools to empty ones", record.moves.len());
    inner.events.note_for(&record.operation, kind, "cluster".to_owned(), text).await;
    inner.changed();
    Ok(())
}
