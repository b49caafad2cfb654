//! The verbs: each is the gRPC call of the same name, so both say and do the same.

use api::v1;
use api::v1::control_server::Control;
use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio_stream::StreamExt;
use tonic::Request;
use utoipa::IntoParams;

use super::Rest;
use super::model::{Copies, Event, NewPool, NewVolume, Node, Pool, Publish, Size, Status, Volume};
use super::problem::Problem;
use crate::statistics::History;

pub type Answer<T> = Result<Json<T>, Problem>;

/// A JSON body; whatever is wrong with it becomes a problem document.
pub struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;
    async fn from_request(request: axum::extract::Request, state: &S) -> Result<Body<T>, Problem> {
        // An object, not a list of its fields' values, which serde would take as well.
        let read = Json::<serde_json::Map<String, serde_json::Value>>::from_request(request, state).await;
        let Json(object) = read.map_err(|e: JsonRejection| {
            // What the schema forbids is a bad request here, like what the control plane itself refuses.
            let status =
                if e.status() == StatusCode::UNPROCESSABLE_ENTITY { StatusCode::BAD_REQUEST } else { e.status() };
            Problem::unreadable(status, e.body_text())
        })?;
        T::deserialize(serde_json::Value::Object(object)).map(Body).map_err(|e| Problem::invalid(e.to_string()))
    }
}

/// Parts of the path.
pub struct In<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for In<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut axum::http::request::Parts, state: &S) -> Result<In<T>, Problem> {
        let read = Path::<T>::from_request_parts(parts, state).await;
        read.map(|Path(value)| In(value)).map_err(|e: PathRejection| Problem::unreadable(e.status(), e.body_text()))
    }
}

/// The query.
pub struct Asked<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut axum::http::request::Parts, state: &S) -> Result<Asked<T>, Problem> {
        let read = Query::<T>::from_request_parts(parts, state).await;
        read.map(|Query(value)| Asked(value))
            .map_err(|e: QueryRejection| Problem::unreadable(e.status(), e.body_text()))
    }
}

/// Everything: nodes, pools and volumes, with what is wrong and what is being done about it.
#[utoipa::path(get, path = "/v1/status", tag = "cluster", responses((status = 200, body = Status)))]
pub async fn status(State(rest): State<Rest>) -> Json<Status> {
    Json(rest.status())
}

/// The storage nodes that ever registered.
#[utoipa::path(get, path = "/v1/nodes", tag = "nodes", responses((status = 200, body = Vec<Node>)))]
pub async fn list_nodes(State(rest): State<Rest>) -> Json<Vec<Node>> {
    Json(rest.status().nodes)
}

/// One node.
#[utoipa::path(
    get, path = "/v1/nodes/{node}", tag = "nodes",
    params(("node" = String, Path, description = "Its name")),
    responses((status = 200, body = Node), (status = "4XX", body = Problem, content_type = "application/problem+json"))
)]
pub async fn get_node(State(rest): State<Rest>, In(node): In<String>) -> Answer<Node> {
    let found = rest.status().nodes.into_iter().find(|n| n.id == node);
    found.map(Json).ok_or_else(|| Problem::not_found(format!("there is no node {node}")))
}

/// The pools of all nodes.
#[utoipa::path(get, path = "/v1/pools", tag = "nodes", responses((status = 200, body = Vec<Pool>)))]
pub async fn list_pools(State(rest): State<Rest>) -> Json<Vec<Pool>> {
    Json(rest.status().pools)
}

/// Makes a pool of disks of a node, or imports the pool of that name which is on them.
#[utoipa::path(
    post, path = "/v1/nodes/{node}/pools", tag = "nodes", request_body = NewPool,
    params(("node" = String, Path, description = "The node")),
    responses(
        (status = 201, body = Pool),
        (status = "4XX", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", body = Problem, content_type = "application/problem+json")
    )
)]
pub async fn create_pool(
    State(rest): State<Rest>,
    In(node): In<String>,
    Body(pool): Body<NewPool>,
) -> Result<(StatusCode, Json<Pool>), Problem> {
    let NewPool { name, disks, force } = pool;
    let pool = v1::CreatePoolRequest { name, disks, force, cluster: String::new() };
    let request = Request::new(v1::NodePoolRequest { node, pool: Some(pool) });
    let made = rest.service.create_pool(request).await?.into_inner();
    Ok((StatusCode::CREATED, Json(made.into())))
}

/// Destroys a pool that holds no copy.
#[utoipa::path(
    delete, path = "/v1/nodes/{node}/pools/{pool}", tag = "nodes",
    params(("node" = String, Path, description = "The node"), ("pool" = String, Path, description = "The pool")),
    responses(
        (status = 204, description = "It is gone"),
        (status = "4XX", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", body = Problem, content_type = "application/problem+json")
    )
)]
pub async fn destroy_pool(
    State(rest): State<Rest>,
    In((node, pool)): In<(String, String)>,
) -> Result<StatusCode, Problem> {
    rest.service.destroy_pool(Request::new(v1::NodePoolName { node, pool })).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// All volumes.
#[utoipa::path(get, path = "/v1/volumes", tag = "volumes", responses((status = 200, body = Vec<Volume>)))]
pub async fn list_volumes(State(rest): State<Rest>) -> Json<Vec<Volume>> {
    Json(rest.status().volumes)
}

/// Makes a volume; answered once it is usable. Asked again with equal arguments, it answers the same.
#[utoipa::path(
    post, path = "/v1/volumes", tag = "volumes", request_body = NewVolume,
    responses(
        (status = 201, body = Volume),
        (status = "4XX", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", body = Problem, content_type = "application/problem+json")
    )
)]
pub async fn create_volume(
    State(rest): State<Rest>,
    Body(volume): Body<NewVolume>,
) -> Result<(StatusCode, Json<Volume>), Problem> {
    let request = v1::CreateVolumeRequest {
        name: volume.name,
        size: volume.size,
        replicas: volume.replicas,
        thin: volume.thin,
        required_nodes: volume.required_nodes,
        preferred_nodes: volume.preferred_nodes,
        uuid: volume.uuid.map(|u| u.to_string()).unwrap_or_default(),
        required_labels: volume.required_labels,
        preferred_labels: volume.preferred_labels,
        spread: volume.spread,
        together: volume.together,
    };
    let made = rest.service.create_volume(Request::new(request)).await?.into_inner();
    Ok((StatusCode::CREATED, Json(made.into())))
}

/// One volume, by its name or uuid.
#[utoipa::path(
    get, path = "/v1/volumes/{volume}", tag = "volumes",
    params(("volume" = String, Path, description = "Its name or uuid")),
    responses((status = 200, body = Volume), (status = "4XX", body = Problem, content_type = "application/problem+json"))
)]
pub async fn get_volume(State(rest): State<Rest>, In(name): In<String>) -> Answer<Volume> {
    let found = rest.service.get_volume(Request::new(v1::VolumeName { name })).await?;
    Ok(Json(found.into_inner().into()))
}

/// Destroys a volume with all its data. One that is not there is fine.
#[utoipa::path(
    delete, path = "/v1/volumes/{volume}", tag = "volumes",
    params(("volume" = String, Path, description = "Its name or uuid")),
    responses(
        (status = 204, description = "It is gone, or goes as its nodes return"),
        (status = "4XX", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", body = Problem, content_type = "application/problem+json")
    )
)]
pub async fn destroy_volume(State(rest): State<Rest>, In(name): In<String>) -> Result<StatusCode, Problem> {
    rest.service.destroy_volume(Request::new(v1::VolumeName { name })).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lets hosts reach a volume; the answer has its address.
#[utoipa::path(
    post, path = "/v1/volumes/{volume}/publish", tag = "volumes", request_body = Publish,
    params(("volume" = String, Path, description = "Its name or uuid")),
    responses(
        (status = 200, body = Volume),
        (status = "4XX", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", body = Problem, content_type = "application/problem+json")
    )
)]
pub async fn publish_volume(
    State(rest): State<Rest>,
    In(name): In<String>,
    Body(Publish { node }): Body<Publish>,
) -> Answer<Volume> {
    let request = v1::PublishVolumeRequest { name, node: node.unwrap_or_default() };
    Ok(Json(rest.service.publish_volume(Request::new(request)).await?.into_inner().into()))
}

/// Hosts cannot reach the volume any more; its data stays.
#[utoipa::path(
    post, path = "/v1/volumes/{volume}/unpublish", tag = "volumes",
    params(("volume" = String, Path, description = "Its name or uuid")),
    responses(
        (status = 200, body = Volume),
        (status = "4XX", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", body = Problem, content_type = "application/problem+json")
    )
)]
pub async fn unpublish_volume(State(rest): State<Rest>, In(name): In<String>) -> Answer<Volume> {
    let done = rest.service.unpublish_volume(Request::new(v1::VolumeName { name })).await?;
    Ok(Json(done.into_inner().into()))
}

/// Sets how many copies a volume has; they are made, or let go, from now on.
#[utoipa::path(
    put, path = "/v1/volumes/{volume}/replicas", tag = "volumes", request_body = Copies,
    params(("volume" = String, Path, description = "Its name or uuid")),
    responses(
        (status = 200, body = Volume),
        (status = "4XX", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", body = Problem, content_type = "application/problem+json")
    )
)]
pub async fn set_replica_count(
    State(rest): State<Rest>,
    In(name): In<String>,
    Body(Copies { replicas }): Body<Copies>,
) -> Answer<Volume> {
    let request = v1::SetReplicaCountRequest { name, replicas };
    Ok(Json(rest.service.set_replica_count(Request::new(request)).await?.into_inner().into()))
}

/// Makes a volume larger, also while it is in use; hosts are told. It never shrinks.
#[utoipa::path(
    put, path = "/v1/volumes/{volume}/size", tag = "volumes", request_body = Size,
    params(("volume" = String, Path, description = "Its name or uuid")),
    responses(
        (status = 200, body = Volume),
        (status = "4XX", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", body = Problem, content_type = "application/problem+json")
    )
)]
pub async fn resize_volume(
    State(rest): State<Rest>,
    In(name): In<String>,
    Body(Size { size }): Body<Size>,
) -> Answer<Volume> {
    let request = v1::ResizeVolumeRequest { name, size };
    Ok(Json(rest.service.resize_volume(Request::new(request)).await?.into_inner().into()))
}

/// How many events can be asked for.
const MOST_EVENTS: u32 = 100_000;

/// Which events.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Which {
    /// Only the last so many; 0: all that are kept.
    #[serde(default)]
    #[param(maximum = 100_000)]
    last: u32,
    /// Only those about this object, such as volume/data or node/node-1.
    #[serde(default)]
    object: String,
    /// Only those that this wish caused.
    #[serde(default)]
    operation: String,
}

/// What happened, oldest first.
#[utoipa::path(
    get, path = "/v1/events", tag = "cluster", params(Which),
    responses((status = 200, body = Vec<Event>), (status = "4XX", body = Problem, content_type = "application/problem+json"))
)]
pub async fn list_events(State(rest): State<Rest>, Asked(which): Asked<Which>) -> Answer<Vec<Event>> {
    if which.last > MOST_EVENTS {
        return Err(Problem::invalid(format!("last: {} events are too many; {MOST_EVENTS} are possible", which.last)));
    }
    let request =
        v1::ListEventsRequest { follow: false, last: which.last, object: which.object, operation: which.operation };
    let mut stream = rest.service.list_events(Request::new(request)).await?.into_inner();
    let mut events = Vec::new();
    while let Some(event) = stream.next().await {
        events.push(Event::from(event?));
    }
    Ok(Json(events))
}

/// What was read and written over the last ten minutes: a point every two seconds, for the cluster, each node and each
/// volume that did something.
#[utoipa::path(get, path = "/v1/history", tag = "cluster", responses((status = 200, body = History)))]
pub async fn history(State(rest): State<Rest>) -> Json<History> {
    Json(rest.inner.statistics.history())
}
