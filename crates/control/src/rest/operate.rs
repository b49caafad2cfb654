//! The verbs of operators: nodes in service or not, labels, limits, balance.

use api::v1;
use api::v1::control_server::Control;
use axum::Json;
use axum::extract::State;
use tonic::Request;

use super::Rest;
use super::calls::{Answer, Body, In};
use super::model::{Balance, Labels, Limit, NewLimit, Node, Rebalance};
use super::problem::Problem;

async fn set_service(rest: &Rest, id: String, service: &str) -> Answer<Node> {
    let request = v1::SetNodeServiceRequest { id, service: service.to_owned() };
    Ok(Json(rest.service.set_node_service(Request::new(request)).await?.into_inner().into()))
}

/// What the node has stays; it gets no new copies or targets.
#[utoipa::path(
    post, path = "/v1/nodes/{node}/cordon", tag = "nodes",
    params(("node" = String, Path, description = "The node")),
    responses(
        (status = 200, body = Node),
        (status = "4XX", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", body = Problem, content_type = "application/problem+json")
    )
)]
pub async fn cordon(State(rest): State<Rest>, In(node): In<String>) -> Answer<Node> {
    set_service(&rest, node, "cordoned").await
}

/// The node is in service again; a drain of it ends, and what has not moved stays.
#[utoipa::path(
    post, path = "/v1/nodes/{node}/uncordon", tag = "nodes",
    params(("node" = String, Path, description = "The node")),
    responses(
        (status = 200, body = Node),
        (status = "4XX", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", body = Problem, content_type = "application/problem+json")
    )
)]
pub async fn uncordon(State(rest): State<Rest>, In(node): In<String>) -> Answer<Node> {
    set_service(&rest, node, "in-service").await
}

/// Everything moves off the node: each copy is made elsewhere before it goes. The answer says how much is left.
#[utoipa::path(
    post, path = "/v1/nodes/{node}/drain", tag = "nodes",
    params(("node" = String, Path, description = "The node")),
    responses(
        (status = 200, body = Node),
        (status = "4XX", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", body = Problem, content_type = "application/problem+json")
    )
)]
pub async fn drain(State(rest): State<Rest>, In(node): In<String>) -> Answer<Node> {
    set_service(&rest, node, "draining").await
}

/// Sets and removes labels of a node; they count for copies that are made from then on.
#[utoipa::path(
    post, path = "/v1/nodes/{node}/labels", tag = "nodes", request_body = Labels,
    params(("node" = String, Path, description = "The node")),
    responses(
        (status = 200, body = Node),
        (status = "4XX", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", body = Problem, content_type = "application/problem+json")
    )
)]
pub async fn label(
    State(rest): State<Rest>,
    In(id): In<String>,
    Body(Labels { set, mut remove }): Body<Labels>,
) -> Answer<Node> {
    remove.retain(|key| !set.contains_key(key));
    let request = v1::SetNodeLabelsRequest { id, set, remove };
    Ok(Json(rest.service.set_node_labels(Request::new(request)).await?.into_inner().into()))
}

/// How much may be done at a time, and how full pools may become.
#[utoipa::path(get, path = "/v1/limits", tag = "cluster", responses((status = 200, body = Vec<Limit>)))]
pub async fn limits(State(rest): State<Rest>) -> Answer<Vec<Limit>> {
    let all = rest.service.get_limits(Request::new(v1::Empty {})).await?.into_inner();
    Ok(Json(all.settings.into_iter().map(Limit::from).collect()))
}

/// Sets a limit, from now on.
#[utoipa::path(
    put, path = "/v1/limits/{limit}", tag = "cluster", request_body = NewLimit,
    params(("limit" = String, Path, description = "Its name")),
    responses(
        (status = 200, body = Vec<Limit>),
        (status = "4XX", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", body = Problem, content_type = "application/problem+json")
    )
)]
pub async fn set_limit(
    State(rest): State<Rest>,
    In(name): In<String>,
    Body(NewLimit { value }): Body<NewLimit>,
) -> Answer<Vec<Limit>> {
    let request = v1::Setting { name, value: value.to_string(), ..Default::default() };
    let all = rest.service.set_limit(Request::new(request)).await?.into_inner();
    Ok(Json(all.settings.into_iter().map(Limit::from).collect()))
}

/// Moves copies from the fullest pools to the emptiest, one at a time. While a rebalance is under way: how far it is.
#[utoipa::path(
    post, path = "/v1/rebalance", tag = "cluster", request_body = Rebalance,
    responses(
        (status = 200, body = Balance),
        (status = "4XX", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", body = Problem, content_type = "application/problem+json")
    )
)]
pub async fn rebalance(State(rest): State<Rest>, Body(Rebalance { dry_run }): Body<Rebalance>) -> Answer<Balance> {
    let request = v1::RebalanceRequest { dry_run, stop: false };
    Ok(Json(rest.service.rebalance(Request::new(request)).await?.into_inner().into()))
}

/// Ends the rebalance that is under way; what has moved stays moved.
#[utoipa::path(
    delete, path = "/v1/rebalance", tag = "cluster",
    responses(
        (status = 200, body = Balance),
        (status = "5XX", body = Problem, content_type = "application/problem+json")
    )
)]
pub async fn stop_rebalance(State(rest): State<Rest>) -> Answer<Balance> {
    let request = v1::RebalanceRequest { dry_run: false, stop: true };
    Ok(Json(rest.service.rebalance(Request::new(request)).await?.into_inner().into()))
}
