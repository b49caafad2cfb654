//! The gate before gRPC services, as a tower layer.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tonic::Status;
use tracing::Instrument;

use crate::call::Call;
use crate::conn::Peer;
use crate::gate::Gate;
use crate::table;

/// Is told of each served call that changed something, and was not noted by whoever served it.
pub type Notary = Arc<dyn Fn(&Call) + Send + Sync>;

/// See the module.
#[derive(Clone)]
pub struct GateLayer {
    gate: Gate,
    notary: Option<Notary>,
}

impl GateLayer {
    /// A layer of this gate.
    pub fn new(gate: Gate) -> GateLayer {
        GateLayer { gate, notary: None }
    }
    /// Tells of calls that changed something.
    pub fn with_notary(self, notary: Notary) -> GateLayer {
        GateLayer { notary: Some(notary), ..self }
    }
}

impl<S> tower_layer::Layer<S> for GateLayer {
    type Service = Guarded<S>;
    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, layer: self.clone() }
    }
}

/// A service behind the gate.
#[derive(Clone)]
pub struct Guarded<S> {
    inner: S,
    layer: GateLayer,
}

impl<S, B, R> tower_service::Service<http::Request<B>> for Guarded<S>
where
    S: tower_service::Service<http::Request<B>, Response = http::Response<R>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
    B: Send + 'static,
    R: Default + Send + 'static,
{
    type Response = http::Response<R>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let path = request.uri().path();
        let authorization = request.headers().get(http::header::AUTHORIZATION).map(|v| v.as_bytes());
        let peer = request.extensions().get::<Peer>();
        let certified = peer.and_then(|p| p.certified.as_deref());
        let from = peer.and_then(|p| p.address).map(|a| a.to_string()).unwrap_or_default();
        let caller = match self.layer.gate.check(authorization, certified, table::rpc(path)) {
            Ok(caller) => caller,
            Err(denied) => {
                tracing::warn!(target: "mayastor::audit", call = path, from, "refused: {denied}");
                return Box::pin(std::future::ready(Ok(Status::from(denied).into_http())));
            }
        };
        let call = Call::new(caller, path.to_owned());
        let span = tracing::info_span!("call", id = call.id, what = path, by = %call.caller.name);
        // The clone is as ready as `self` was; `self` is asked again.
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        if !table::is_noted(path) {
            return Box::pin(call.run(inner.call(request)).instrument(span));
        }
        let notary = self.layer.notary.clone();
        let served = async move {
            let answer = call.clone().run(inner.call(request)).await;
            let failed = answer.as_ref().is_ok_and(|a| Status::from_header_map(a.headers()).is_some());
            tracing::info!(target: "mayastor::audit", from, failed, about = call.about(), "{}", call.what);
            if let Some(notary) = notary.filter(|_| !failed && !call.is_noted() && !call.caller.name.is_empty()) {
                notary(&call);
            }
            answer
        };
        Box::pin(served.instrument(span))
    }
}
