//! The control plane over HTTP: the verbs of the gRPC service as REST with an OpenAPI document, a stream of what changes,
//! metrics for Prometheus, and the page.
//!
//! * `model`: what is said, as JSON. `calls`: the verbs. `watch`: server-sent events. `problem`: refusals (RFC 9457).
//! * `metrics`: `/metrics`. `page`: the files of `web/`, which are part of the program. `guard`: who may ask.

mod calls;
mod guard;
mod metrics;
mod model;
mod page;
mod problem;
mod watch;

use std::future::Future;
use std::sync::Arc;

use axum::response::IntoResponse;
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio::sync::watch as channel;
use utoipa::OpenApi;

use crate::Inner;
use crate::service::Service;
use problem::Problem;

/// What the handlers share.
#[derive(Clone)]
struct Rest {
    inner: Arc<Inner>,
    service: Arc<Service>,
    /// Ends when the server stops.
    stopped: channel::Receiver<()>,
}

impl Rest {
    fn status(&self) -> model::Status {
        crate::words::status(&self.inner).into()
    }
}

/// The description of the whole, generated from the handlers and the types.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Mayastor control plane",
        description = "Nodes, pools and replicated volumes. Sizes are bytes, times milliseconds. Refusals are \
                       problem documents (RFC 9457) whose `detail` is meant for people.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    paths(
        calls::status,
        calls::list_nodes,
        calls::get_node,
        calls::list_pools,
        calls::create_pool,
        calls::destroy_pool,
        calls::list_volumes,
        calls::create_volume,
        calls::get_volume,
        calls::destroy_volume,
        calls::publish_volume,
        calls::unpublish_volume,
        calls::set_replica_count,
        calls::resize_volume,
        calls::list_events,
        calls::history,
        watch::watch,
    ),
    tags(
        (name = "cluster", description = "Everything at once, and what happens"),
        (name = "nodes", description = "Storage nodes and their pools"),
        (name = "volumes", description = "Replicated volumes")
    )
)]
struct Api;

fn api() -> Router<Rest> {
    Router::new()
        .route("/v1/status", get(calls::status))
        .route("/v1/nodes", get(calls::list_nodes))
        .route("/v1/nodes/{node}", get(calls::get_node))
        .route("/v1/pools", get(calls::list_pools))
        .route("/v1/nodes/{node}/pools", post(calls::create_pool))
        .route("/v1/nodes/{node}/pools/{pool}", delete(calls::destroy_pool))
        .route("/v1/volumes", get(calls::list_volumes).post(calls::create_volume))
        .route("/v1/volumes/{volume}", get(calls::get_volume).delete(calls::destroy_volume))
        .route("/v1/volumes/{volume}/publish", post(calls::publish_volume))
        .route("/v1/volumes/{volume}/unpublish", post(calls::unpublish_volume))
        .route("/v1/volumes/{volume}/replicas", put(calls::set_replica_count))
        .route("/v1/volumes/{volume}/size", put(calls::resize_volume))
        .route("/v1/events", get(calls::list_events))
        .route("/v1/history", get(calls::history))
        .route("/v1/watch", get(watch::watch))
}

fn router(rest: Rest, reach: guard::Reach) -> Router {
    api()
        .route("/metrics", get(metrics::metrics))
        .route("/openapi.json", get(async || Json(Api::openapi()).into_response()))
        .route("/", get(page::index))
        .route("/{file}", get(page::file))
        .fallback(async || Problem::not_found("there is nothing here; /openapi.json lists what there is"))
        .method_not_allowed_fallback(async || Problem::method())
        .layer(axum::middleware::from_fn_with_state(reach, guard::guard))
        .with_state(rest)
}

/// Serves until `shutdown` ends.
pub(crate) async fn serve(
    inner: Arc<Inner>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let (stop, stopped) = channel::channel(());
    let (end, mut ended) = channel::channel(());
    let service = Arc::new(Service::new(inner.clone(), stopped.clone()));
    let loopback = listener.local_addr()?.ip().is_loopback();
    let reach = if loopback { guard::Reach::Loopback } else { guard::Reach::Network };
    let router = router(Rest { inner, service, stopped }, reach);
    let server = axum::serve(listener, router).with_graceful_shutdown(async move {
        // The sender is dropped, which is the sign.
        let _ = ended.changed().await;
    });
    let mut server = std::pin::pin!(server.into_future());
    tokio::select! {
        done = &mut server => return done,
        () = shutdown => {}
    }
    // Streams would otherwise keep the server from ending.
    drop(stop);
    drop(end);
    server.await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_names_every_route_and_only_those() {
        let document = Api::openapi();
        let documented: Vec<&String> = document.paths.paths.keys().collect();
        let source = include_str!("rest.rs");
        let routes: Vec<&str> =
            source.lines().filter_map(|l| l.trim().strip_prefix(".route(\"/v1/")?.split('"').next()).collect();
        assert_eq!(documented.len(), routes.len());
        for route in routes {
            assert!(documented.contains(&&format!("/v1/{route}")), "{route} is not in the document");
        }
    }
}
