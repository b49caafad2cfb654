//! The control plane over HTTP: the verbs of the gRPC service as REST with an OpenAPI document, a stream of what changes,
//! metrics for Prometheus, and the page.
//!
//! * `model`: what is said, as JSON. `calls`, `operate`: the verbs. `watch`: server-sent events. `problem`: refusals (RFC 9457).
//! * `metrics`: `/metrics`. `page`: the files of `web/`, which are part of the program. `guard`: who may ask.

mod calls;
mod guard;
mod metrics;
mod model;
mod operate;
mod page;
pub(crate) mod problem;
mod watch;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use access::Access;
use access::conn::{Conn, Incoming, Peer};
use axum::extract::connect_info::Connected;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::serve::{IncomingStream, Listener};
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio::sync::watch as channel;
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, Ref, RefOr, ResponseBuilder};

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
        operate::cordon,
        operate::uncordon,
        operate::drain,
        operate::label,
        operate::limits,
        operate::set_limit,
        operate::rebalance,
        operate::stop_rebalance,
        watch::watch,
    ),
    tags(
        (name = "cluster", description = "Everything at once, and what happens"),
        (name = "nodes", description = "Storage nodes and their pools"),
        (name = "volumes", description = "Replicated volumes")
    )
)]
struct Api;

/// The document as this server means it: where a token is needed, it says so.
async fn openapi(State(rest): State<Rest>) -> Response {
    Json(document(!rest.inner.options.access.gate.is_open())).into_response()
}

fn document(locked: bool) -> utoipa::openapi::OpenApi {
    let mut document = Api::openapi();
    if !locked {
        return document;
    }
    let text = "A token with the role read, operate or admin, as `mayastor token create` makes it.";
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(text)).build();
    let components = document.components.get_or_insert_default();
    components.add_security_scheme("token", SecurityScheme::Http(scheme));
    document.security = Some(vec![SecurityRequirement::new("token", Vec::<String>::new())]);
    let refused = |what: &str| {
        let content = Content::new(Some(Ref::from_schema_name("Problem")));
        ResponseBuilder::new().description(what).content("application/problem+json", content).build()
    };
    for item in document.paths.paths.values_mut() {
        for operation in [&mut item.get, &mut item.post, &mut item.put, &mut item.delete].into_iter().flatten() {
            let responses = &mut operation.responses.responses;
            responses.insert("401".into(), RefOr::T(refused("No token that is known")));
            responses.insert("403".into(), RefOr::T(refused("The token's role is too low")));
        }
    }
    document
}

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
        .route("/v1/nodes/{node}/cordon", post(operate::cordon))
        .route("/v1/nodes/{node}/uncordon", post(operate::uncordon))
        .route("/v1/nodes/{node}/drain", post(operate::drain))
        .route("/v1/nodes/{node}/labels", post(operate::label))
        .route("/v1/limits", get(operate::limits))
        .route("/v1/limits/{limit}", put(operate::set_limit))
        .route("/v1/rebalance", post(operate::rebalance).delete(operate::stop_rebalance))
        .route("/v1/watch", get(watch::watch))
}

/// Nobody asks a control plane that leads no more.
async fn leads(State(inner): State<Arc<Inner>>, request: Request, next: Next) -> Response {
    match inner.leads() {
        Ok(()) => next.run(request).await,
        Err(status) => Problem::from(status).into_response(),
    }
}

fn router(rest: Rest, door: guard::Door) -> Router {
    let leading = from_fn_with_state(rest.inner.clone(), leads);
    api()
        .route("/metrics", get(metrics::metrics))
        .route("/openapi.json", get(openapi))
        .route("/", get(page::index))
        .route("/{file}", get(page::file))
        .fallback(async || Problem::not_found("there is nothing here; /openapi.json lists what there is"))
        .method_not_allowed_fallback(async || Problem::method())
        .layer(leading)
        .layer(from_fn_with_state(door, guard::guard))
        .with_state(rest)
}

/// Connections as axum takes them.
pub(crate) struct Doorway(pub Incoming);

impl Listener for Doorway {
    type Io = Conn;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Conn, SocketAddr) {
        match self.0.next().await {
            Some(conn) => {
                let address = conn.peer().address.unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
                (conn, address)
            }
            // It ends with the runtime only.
            None => std::future::pending().await,
        }
    }
    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// Who is at the other end of a connection.
#[derive(Clone)]
struct Caller(Peer);

impl Connected<IncomingStream<'_, Doorway>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Doorway>) -> Caller {
        Caller(stream.io().peer().clone())
    }
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
    let Access { gate, tls, .. } = inner.options.access.clone();
    let door = guard::Door { reach, gate, notary: crate::events::notary(&inner) };
    let router = router(Rest { inner, service, stopped }, door);
    let listener = Doorway(Incoming::new(listener, tls));
    let server = axum::serve(listener, router.into_make_service_with_connect_info::<Caller>()).with_graceful_shutdown(
        async move {
            // The sender is dropped, which is the sign.
            let _ = ended.changed().await;
        },
    );
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
    fn the_table_of_roles_has_every_route_and_only_those() {
        let source = include_str!("rest.rs");
        let mut routes = std::collections::BTreeSet::new();
        for line in source.lines().filter_map(|l| l.trim().strip_prefix(".route(\"")) {
            let (route, handlers) = line.split_once('"').expect("a route");
            for method in ["get", "post", "put", "delete", "patch"] {
                if handlers.contains(&format!("{method}(")) {
                    routes.insert((method.to_uppercase(), route.to_owned()));
                }
            }
        }
        let table: std::collections::BTreeSet<_> =
            access::table::ROUTES.iter().map(|(m, r, _)| ((*m).to_owned(), (*r).to_owned())).collect();
        assert_eq!(routes, table, "crates/access/src/table.rs says what each route needs");
    }

    #[test]
    fn the_document_says_whether_a_token_is_needed() {
        let json = |locked| serde_json::to_value(document(locked)).expect("plain data");
        assert!(json(false)["security"].is_null());
        assert!(json(true)["security"][0]["token"].is_array());
        assert_eq!(json(true)["components"]["securitySchemes"]["token"]["scheme"], "bearer");
        assert!(json(true)["paths"]["/v1/status"]["get"]["responses"]["401"].is_object());
        assert!(json(true)["components"]["schemas"]["Problem"].is_object());
    }

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
