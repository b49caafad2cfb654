//! Kubernetes as the home of the control plane.
//!
//! * [`resource`], [`crds`]: the kinds that people and the CSI driver use.
//! * [`store`]: the control plane's records, as parts of these objects.
//! * [`KubernetesElection`]: which of several control planes leads, by a Lease.
//! * [`run`]: the operator, beside the control plane that leads; `decide` says what is to be done, `watch` what is there.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "the operator lives in the real world: clock, uuids, sockets")]

pub mod crds;
mod decide;
mod lease;
mod operator;
pub mod resource;
mod service;
pub mod store;
mod watch;

pub use kube::Client;
pub use lease::{KubernetesElection, LEASE};
pub use operator::run;
pub use service::Service;

/// Connects to the API server that the environment names (inside a pod: its own; else a kubeconfig), and says in which
/// namespace this process is.
///
/// # Errors
/// Says why there is none.
pub async fn connect(namespace: Option<&str>) -> Result<(Client, String), String> {
    let config = kube::Config::infer().await.map_err(|e| format!("no Kubernetes is to be found: {e}"))?;
    let namespace = namespace.map_or_else(|| config.default_namespace.clone(), str::to_owned);
    let client = Client::try_from(config).map_err(|e| format!("Kubernetes cannot be used: {e}"))?;
    Ok((client, namespace))
}
