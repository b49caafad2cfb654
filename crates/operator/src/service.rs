//! The leader is what the control plane's Service leads to: the Service selects no pods, and the leader writes the one
//! endpoint that it has. Standbys are ready, too, but nobody is sent to them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use kube::Client;
use kube::api::{Api, Patch, PatchParams};

use crate::store::call;

/// How often the endpoint is written again, lest somebody took it away.
const AGAIN: Duration = Duration::from_secs(30);
/// How often it is tried when that fails.
const RETRY: Duration = Duration::from_secs(1);

/// The Service of the control plane, and where this one is.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Where this control plane's gRPC services are.
    pub grpc: SocketAddr,
    /// Where its page and REST API are.
    pub http: Option<SocketAddr>,
}

fn slice(service: &Service) -> EndpointSlice {
    let port = |name: &str, at: SocketAddr| EndpointPort {
        name: Some(name.to_owned()),
        port: Some(i32::from(at.port())),
        protocol: Some("TCP".to_owned()),
        app_protocol: None,
    };
    let mut slice = EndpointSlice {
        address_type: if service.grpc.is_ipv4() { "IPv4" } else { "IPv6" }.to_owned(),
        endpoints: vec![Endpoint {
            addresses: vec![service.grpc.ip().to_string()],
            conditions: Some(EndpointConditions { ready: Some(true), ..EndpointConditions::default() }),
            ..Endpoint::default()
        }],
        ports: Some(
            [Some(("grpc", service.grpc)), service.http.map(|at| ("http", at))]
                .into_iter()
                .flatten()
                .map(|(n, at)| port(n, at))
                .collect(),
        ),
        ..EndpointSlice::default()
    };
    slice.metadata.name = Some(format!("{}-leader", service.name));
    slice.metadata.labels = Some(BTreeMap::from([
        ("kubernetes.io/service-name".to_owned(), service.name.clone()),
        ("endpointslice.kubernetes.io/managed-by".to_owned(), "mayastor".to_owned()),
    ]));
    slice
}

/// Keeps the endpoint, for as long as it is polled.
pub(crate) async fn keep(client: &Client, namespace: &str, service: &Service) {
    let api: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    let ours = PatchParams::apply("mayastor-control").force();
    loop {
        let slice = slice(service);
        let name = format!("{}-leader", service.name);
        let pause = match call(api.patch(&name, &ours, &Patch::Apply(&slice))).await {
            Ok(_) => AGAIN,
            Err(error) => {
                tracing::warn!("the endpoint of {} was not written: {}", service.name, error.text());
                RETRY
            }
        };
        tokio::time::sleep(pause).await;
    }
}
