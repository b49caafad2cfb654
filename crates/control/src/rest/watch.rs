//! What changes, as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;

use super::{Rest, model};

/// A status at most so often.
const PACE: Duration = Duration::from_millis(250);
/// A status at least so often: times go on even when nothing happens.
const TICK: Duration = Duration::from_secs(1);

/// A stream of server-sent events: `status` (everything, as GET /v1/status; now and after each change), `event` (what
/// happens, as in GET /v1/events) and `sample` (a new point of each course of GET /v1/history, every two seconds).
#[utoipa::path(
    get, path = "/v1/watch", tag = "cluster", operation_id = "watch",
    responses((status = 200, description = "The stream", content_type = "text/event-stream", body = String))
)]
pub async fn watch(State(rest): State<Rest>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let (send, receive) = mpsc::channel(4);
    tokio::spawn(feed(rest, send));
    Sse::new(ReceiverStream::new(receive)).keep_alive(KeepAlive::default())
}

fn event(name: &str, data: &impl Serialize) -> Result<Event, Infallible> {
    Ok(Event::default().event(name).data(serde_json::to_string(data).expect("plain data")))
}

async fn feed(rest: Rest, send: mpsc::Sender<Result<Event, Infallible>>) {
    let (inner, mut stopped) = (rest.inner.clone(), rest.stopped.clone());
    let mut version = inner.version.subscribe();
    let (_, mut events) = inner.events.read(1, "", "");
    let mut samples = inner.statistics.news();
    let mut last = tokio::time::Instant::now() - TICK;
    version.mark_changed();
    let mut due = Due::Later;
    loop {
        let at = match due {
            Due::Soon => last + PACE,
            Due::Later => last + TICK,
        };
        let next = tokio::select! {
            _ = stopped.changed() => return,
            () = send.closed() => return,
            happened = events.recv() => match happened {
                Ok(happened) => event("event", &model::Event::from(happened)),
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return,
            },
            sample = samples.recv() => match sample {
                Ok(sample) => event("sample", Arc::as_ref(&sample)),
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return,
            },
            // The sender lives as long as the control plane, which this task keeps alive.
            _ = version.changed(), if due == Due::Later => {
                due = Due::Soon;
                continue;
            }
            () = tokio::time::sleep_until(at) => {
                (last, due) = (tokio::time::Instant::now(), Due::Later);
                version.mark_unchanged();
                event("status", &rest.status())
            }
        };
        if send.send(next).await.is_err() {
            return;
        }
    }
}

/// When the next status is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Due {
    /// Something changed.
    Soon,
    /// Nothing did; only times go on.
    Later,
}
