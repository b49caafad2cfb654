//! The engine's talk with the control plane: it says that it is there, and has the ledgers of managed nexuses recorded.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use access::{Channel, Dial};
use api::v1::registry_client::RegistryClient;
use api::v1::{DeregisterRequest, Ledger, RecordLedgerRequest, RegisterRequest};
use engine::volume::{LedgerError, LedgerStore, StoredLedger};
use host::LocalFuture;
use tokio::sync::{mpsc, oneshot, watch};
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use uuid::Uuid;

use crate::failure::Failure;

/// How often the engine says that it is there, until the control plane names another interval.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// A connection takes at most so long.
const CONNECT: Duration = Duration::from_secs(2);
/// A call takes at most so long; then the control plane counts as unreachable.
const CALL: Duration = Duration::from_secs(5);
/// The last word takes at most so long.
const FAREWELL: Duration = Duration::from_secs(1);

/// A record that waits to be sent from the control thread.
struct Letter {
    request: RecordLedgerRequest,
    answer: oneshot::Sender<Result<(), LedgerError>>,
}

/// The control planes, of which one leads. Connections are made when they are used, and again after they were lost.
#[derive(Clone)]
struct Planes(Arc<Known>);

struct Known {
    clients: Vec<RegistryClient<Channel>>,
    /// The one that answered last.
    at: AtomicUsize,
}

impl Planes {
    /// Asks the one that answered last, and when it is away or stands by, each of the others once.
    async fn ask<R, F>(&self, call: impl Fn(RegistryClient<Channel>) -> F) -> Result<R, Status>
    where
        F: Future<Output = Result<tonic::Response<R>, Status>>,
    {
        let Known { clients, at } = &*self.0;
        let first = at.load(Ordering::Relaxed);
        let mut best: Option<Status> = None;
        for n in first..first + clients.len() {
            match call(clients[n % clients.len()].clone()).await {
                Err(status) if is_elsewhere(&status) => {
                    // The leader's own trouble says more than that the others stand by.
                    let stands_by = |s: &Status| s.metadata().contains_key(api::LEADER_METADATA);
                    if best.as_ref().is_none_or(|best| stands_by(best) && !stands_by(&status)) {
                        best = Some(status);
                    }
                }
                answer => {
                    at.store(n % clients.len(), Ordering::Relaxed);
                    return answer.map(tonic::Response::into_inner);
                }
            }
        }
        Err(best.unwrap_or_else(|| Status::unavailable("there is no control plane")))
    }
}

/// Whether another control plane is to be asked: nothing was recorded here, or what was may be recorded again.
fn is_elsewhere(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown)
}

/// The connection to the control plane.
#[derive(Clone)]
pub struct Link {
    planes: Planes,
    letters: mpsc::UnboundedSender<Letter>,
    node: String,
}

impl Link {
    /// A link to the control planes at `host:port` for the node of that name. To be called on the control thread, which
    /// sends what the data thread wants recorded.
    pub fn new(addresses: &[String], node: String, dial: &Dial) -> Result<Link, Failure> {
        let client = |address: &String| {
            let endpoint = Endpoint::from_shared(format!("http://{address}"))
                .map_err(|error| Failure::usage(format!("--control {address:?}: {error}")))?
                .connect_timeout(CONNECT)
                .timeout(CALL)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(Duration::from_secs(2))
                .keep_alive_timeout(Duration::from_secs(3));
            Ok(RegistryClient::new(dial.lazy(&endpoint)))
        };
        let clients = addresses.iter().map(client).collect::<Result<_, Failure>>()?;
        let planes = Planes(Arc::new(Known { clients, at: AtomicUsize::new(0) }));
        let (letters, inbox) = mpsc::unbounded_channel();
        tokio::spawn(deliver(planes.clone(), inbox));
        Ok(Link { planes, letters, node })
    }

    /// The store of managed nexuses, for the data thread.
    pub fn ledgers(self) -> Rc<dyn LedgerStore> {
        Rc::new(self)
    }
}

impl LedgerStore for Link {
    /// One attempt; a nexus whose acknowledgement depends on the record waits and asks again.
    fn record(&self, volume: Uuid, ledger: StoredLedger) -> LocalFuture<'static, Result<(), LedgerError>> {
        let ledger = Ledger { generation: ledger.generation.0, in_sync: ledger.in_sync };
        let (volume, node) = (volume.to_string(), self.node.clone());
        let request = RecordLedgerRequest { volume, ledger: Some(ledger), node };
        let (answer, answered) = oneshot::channel();
        let sent = self.letters.send(Letter { request, answer });
        Box::pin(async move {
            let stopping = || LedgerError::Unavailable("the engine is stopping".into());
            sent.map_err(|_| stopping())?;
            answered.await.map_err(|_| stopping())?
        })
    }
}

/// Sends records, several at a time: a slow answer for one volume does not hold up another.
async fn deliver(planes: Planes, mut inbox: mpsc::UnboundedReceiver<Letter>) {
    while let Some(Letter { request, answer }) = inbox.recv().await {
        let planes = planes.clone();
        tokio::spawn(async move {
            let call = |mut client: RegistryClient<Channel>| {
                let request = request.clone();
                async move { client.record_ledger(request).await }
            };
            let result = planes.ask(call).await;
            // A nexus that was closed meanwhile does not wait any more.
            let _ = answer.send(result.map(drop).map_err(|status| ledger_error(&status)));
        });
    }
}

fn ledger_error(status: &Status) -> LedgerError {
    match status.code() {
        Code::FailedPrecondition => LedgerError::Fenced,
        _ => LedgerError::Unavailable(describe(status)),
    }
}

/// The reason in one line: what the system said where the transport failed, else what the control plane said.
fn describe(status: &Status) -> String {
    let mut source = std::error::Error::source(status);
    let mut text = status.message().to_owned();
    while let Some(error) = source {
        text = error.to_string();
        source = error.source();
    }
    if text.is_empty() { status.code().description().to_owned() } else { text }
}

/// Says that the engine is there, on start and at each heartbeat, until it stops; then says that it goes.
pub async fn register(link: Link, request: RegisterRequest, mut stopping: watch::Receiver<bool>) {
    let planes = link.planes;
    let mut known = None;
    loop {
        let call = |mut client: RegistryClient<Channel>| {
            let request = request.clone();
            async move { client.register(request).await }
        };
        let pause = match planes.ask(call).await {
            Ok(reply) => {
                if known != Some(true) {
                    tracing::info!("registered with the control plane");
                }
                known = Some(true);
                match reply.heartbeat_ms {
                    0 => HEARTBEAT,
                    ms => Duration::from_millis(ms.clamp(100, 60_000)),
                }
            }
            Err(status) => {
                if known != Some(false) {
                    tracing::warn!("cannot register with the control plane: {}; trying again", describe(&status));
                }
                known = Some(false);
                HEARTBEAT
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stopping.wait_for(|stop| *stop) => break,
        }
    }
    let farewell = planes.ask(|mut client: RegistryClient<Channel>| {
        let request = DeregisterRequest { id: request.id.clone() };
        async move { client.deregister(request).await }
    });
    if !matches!(tokio::time::timeout(FAREWELL, farewell).await, Ok(Ok(_))) {
        tracing::info!("the control plane could not be told that the engine stops");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_failed_precondition_means_fenced() {
        assert_eq!(ledger_error(&Status::failed_precondition("newer")), LedgerError::Fenced);
        for status in
            [Status::unavailable("x"), Status::deadline_exceeded("x"), Status::internal("x"), Status::not_found("x")]
        {
            assert_eq!(ledger_error(&status), LedgerError::Unavailable("x".into()));
        }
    }
}
