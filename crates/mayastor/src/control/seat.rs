//! One of several control planes: stands by, leads, stands by again.
//!
//! ```text
//!   Standby ──chosen──► Leading ──another one may lead──► Standby
//!      │                   │
//!      └──────signal───────┴──► (stopped; the lease is given back)
//! ```

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::control::store::StoreError;
use ::control::store::election::{Candidate, Election, Leadership};
use ::control::store::etcd::{self, Etcd};
use ::control::{Control, Options, Standby};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::Records;
use crate::connect::with_port;
use crate::failure::{Done, Failure};
use crate::output;
use crate::serve::Signals;

/// How long connections may take to end when the seat changes.
const CHANGE: Duration = Duration::from_secs(2);
/// The pause after a store that failed in the very moment in which it was taken over.
const REST: Duration = Duration::from_secs(1);

/// Which store, as a user names it.
#[derive(Clone, Debug)]
pub enum StoreName {
    /// A file of this process alone.
    Embedded,
    /// An etcd cluster.
    Etcd(String, etcd::Options),
    /// The API server of Kubernetes: a namespace, or that of the environment.
    Kubernetes(Option<String>),
}

impl std::fmt::Display for StoreName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StoreName::Embedded => f.write_str("embedded"),
            StoreName::Etcd(address, _) => write!(f, "etcd://{address}"),
            StoreName::Kubernetes(None) => f.write_str("kubernetes"),
            StoreName::Kubernetes(Some(namespace)) => write!(f, "kubernetes://{namespace}"),
        }
    }
}

/// `embedded`, `etcd://…`, `kubernetes`, or `kubernetes://…`.
pub fn store(text: &str) -> Result<StoreName, String> {
    match text.split_once("://") {
        None if text == "embedded" => Ok(StoreName::Embedded),
        Some(("etcd", rest)) => Ok(StoreName::Etcd(rest.to_owned(), etcd::Options::parse(rest)?)),
        None if text == "kubernetes" => Ok(StoreName::Kubernetes(None)),
        Some(("kubernetes", namespace)) if !namespace.is_empty() => {
            Ok(StoreName::Kubernetes(Some(namespace.to_owned())))
        }
        _ => Err("embedded, etcd://HOST:PORT[,HOST:PORT...][/PREFIX], or kubernetes[://NAMESPACE]".to_owned()),
    }
}

/// Where a leader is chosen, and Kubernetes, when it is there.
type Elected = (Arc<dyn Election>, Option<Kubernetes>);

/// Where the leader is chosen; `None`: this control plane is the only one.
pub async fn election(arguments: &Records) -> Result<Option<Elected>, Failure> {
    match &arguments.store {
        StoreName::Embedded => Ok(None),
        StoreName::Etcd(_, options) => {
            let mut options = options.clone();
            options.user = arguments.etcd_user.as_deref().map(user).transpose()?;
            options.lease = Duration::from_secs(arguments.lease);
            Ok(Some((Arc::new(Etcd::new(options).map_err(Failure::failed)?), None)))
        }
        StoreName::Kubernetes(namespace) => {
            let (client, namespace) = operator::connect(namespace.as_deref()).await.map_err(Failure::failed)?;
            let lease = Duration::from_secs(arguments.lease);
            let election = operator::KubernetesElection::new(client.clone(), &namespace, lease);
            Ok(Some((Arc::new(election), Some(Kubernetes { client, namespace }))))
        }
    }
}

/// A namespace of Kubernetes.
pub struct Kubernetes {
    client: operator::Client,
    namespace: String,
}

impl Kubernetes {
    /// The operator, which works beside the control plane that leads; a service, when one is named, leads to it.
    pub fn beside(self, service: Option<String>, candidate: &Candidate) -> Result<Beside, Failure> {
        let at = |text: &str| {
            let wrong = |_| format!("{text}: --kubernetes-service needs an IP address in --grpc-advertise");
            text.parse::<SocketAddr>().map_err(wrong).map_err(Failure::usage)
        };
        let http = Some(candidate.http.as_str()).filter(|http| !http.is_empty());
        let service = match service {
            Some(name) => Some(operator::Service { name, grpc: at(&candidate.grpc)?, http: http.map(at).transpose()? }),
            None => None,
        };
        Ok(Beside { kubernetes: self, service })
    }
}

/// What works beside a control plane that leads.
pub struct Beside {
    kubernetes: Kubernetes,
    service: Option<operator::Service>,
}

impl Beside {
    async fn run(&self, control: Control) {
        let Kubernetes { client, namespace } = &self.kubernetes;
        operator::run(client.clone(), namespace, control, self.service.clone()).await;
    }
}

/// A name and a password in a file.
fn user(file: &Path) -> Result<(String, String), Failure> {
    let wrong = |why: String| Failure::usage(format!("--etcd-user {}: {why}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|e| wrong(e.to_string()))?;
    let pair = text.trim().split_once(char::is_whitespace);
    let (name, password) = pair.ok_or_else(|| wrong("it is to hold NAME PASSWORD".into()))?;
    Ok((name.to_owned(), password.trim().to_owned()))
}

/// Who this is, and how others reach it.
pub fn candidate(advertise: Option<&str>, grpc: SocketAddr, page: Option<SocketAddr>) -> Result<Candidate, Failure> {
    let endpoint = match advertise {
        Some(text) => with_port(text, grpc.port())?,
        None if grpc.ip().is_unspecified() => {
            let text = format!("{grpc} is no address that others can connect to; name one with --grpc-advertise");
            return Err(Failure::usage(text));
        }
        None => grpc.to_string(),
    };
    let host = endpoint.rsplit_once(':').map_or(endpoint.as_str(), |(host, _)| host);
    // A page that only this machine reaches is of no use to those who are sent to it from elsewhere.
    let reaches = |page: &SocketAddr| page.ip().is_unspecified() || page.ip() == grpc.ip();
    let http = page.filter(reaches).map(|page| format!("{host}:{}", page.port())).unwrap_or_default();
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let machine = if machine.trim().is_empty() { "control" } else { machine.trim() };
    let id = uuid::Uuid::new_v4().simple().to_string();
    Ok(Candidate { name: format!("{machine}-{}", &id[..8]), grpc: endpoint, http })
}

/// See the module.
pub struct Seat {
    /// Where the leader is chosen.
    pub election: Arc<dyn Election>,
    /// Who this is.
    pub candidate: Candidate,
    /// What works beside it when it leads.
    pub beside: Option<Beside>,
    /// How it behaves when it leads.
    pub options: Options,
    /// Where its gRPC services listen.
    pub listener: TcpListener,
    /// Where its page is.
    pub http: Option<TcpListener>,
}

/// The same socket once more: what is served on it changes, the socket stays.
fn again(listener: TcpListener) -> std::io::Result<(TcpListener, TcpListener)> {
    let listener = listener.into_std()?;
    let other = listener.try_clone()?;
    Ok((TcpListener::from_std(listener)?, TcpListener::from_std(other)?))
}

/// Why a turn ended.
enum End {
    /// It goes on in the other state.
    Turned(Sockets),
    /// Somebody wants the process to stop.
    Stopped,
}

struct Sockets {
    grpc: TcpListener,
    http: Option<TcpListener>,
}

impl Sockets {
    fn again(self) -> std::io::Result<(Sockets, Sockets)> {
        let (grpc, other) = again(self.grpc)?;
        let (http, other_http) = self.http.map(again).transpose()?.unzip();
        Ok((Sockets { grpc, http }, Sockets { grpc: other, http: other_http }))
    }
}

impl Seat {
    /// Runs until SIGTERM or SIGINT.
    pub async fn run(self, mut signals: Signals) -> Done {
        let Seat { election, candidate, beside, options, listener, http } = self;
        let mut sockets = Sockets { grpc: listener, http };
        loop {
            let (now, next) = sockets.again().map_err(Failure::failed)?;
            let Some(leadership) = stand_by(&election, &candidate, &options.access, now, &mut signals).await? else {
                return Ok(());
            };
            sockets = match reign(leadership, &candidate, beside.as_ref(), &options, next, &mut signals).await? {
                End::Turned(sockets) => sockets,
                End::Stopped => return Ok(()),
            };
        }
    }
}

/// Says who leads until this one is chosen; `None`: it was told to stop.
async fn stand_by(
    election: &Arc<dyn Election>,
    candidate: &Candidate,
    access: &access::Access,
    sockets: Sockets,
    signals: &mut Signals,
) -> Result<Option<Leadership>, Failure> {
    tracing::info!("{} stands by", candidate.name);
    let standby = Standby::new(election.clone(), access.clone());
    let (stop, stopped) = watch::channel(());
    let until = |mut stopped: watch::Receiver<()>| async move {
        // That the sender is gone is the sign.
        let _ = stopped.changed().await;
    };
    let mut servers = tokio::task::JoinSet::new();
    let (grpc, end) = (standby.clone(), until(stopped.clone()));
    servers.spawn(async move { grpc.serve(sockets.grpc, end).await.map_err(|e| e.to_string()) });
    if let Some(http) = sockets.http {
        let end = until(stopped);
        servers.spawn(async move { standby.serve_http(http, end).await.map_err(|e| e.to_string()) });
    }
    let chosen = tokio::select! {
        chosen = election.campaign(candidate.clone()) => Some(chosen.map_err(Failure::failed)?),
        signal = signals.next() => {
            tracing::info!("{signal}: stopping");
            None
        }
        Some(Ok(Err(error))) = servers.join_next() => {
            return Err(Failure::failed(format!("a server failed: {error}")));
        }
    };
    drop(stop);
    // Whoever does not let go of its connection is let go of.
    let _ = tokio::time::timeout(CHANGE, async { while servers.join_next().await.is_some() {} }).await;
    Ok(chosen)
}

/// Leads for as long as it may.
async fn reign(
    leadership: Leadership,
    candidate: &Candidate,
    beside: Option<&Beside>,
    options: &Options,
    sockets: Sockets,
    signals: &mut Signals,
) -> Result<End, Failure> {
    let lease = leadership.reign.clone();
    let (now, next) = sockets.again().map_err(Failure::failed)?;
    let control = match Control::lead(leadership, candidate.clone(), options.clone()).await {
        Ok(control) => control,
        // What cannot be read now cannot be read by the next one either.
        Err(error @ StoreError::Corrupt { .. }) => return Err(Failure::failed(error)),
        Err(error) => {
            tracing::warn!("the records were not taken over: {error}");
            lease.resign().await;
            tokio::time::sleep(REST).await;
            return Ok(End::Turned(next));
        }
    };
    output::print(&format!("control plane leads: {}, term {}\n", candidate.name, control.term()))?;
    let (end, mut ended) = watch::channel(false);
    let mut late = ended.clone();
    let shutdown = async move {
        // An error means that the sender is gone, which is the end, too.
        let _ = ended.wait_for(|ended| *ended).await;
    };
    let served = async {
        tokio::select! {
            served = super::serve(&control, now.grpc, now.http, shutdown) => served,
            () = async {
                let _ = late.wait_for(|ended| *ended).await;
                tokio::time::sleep(CHANGE).await;
            } => Ok(()),
        }
    };
    let watched = async {
        let signalled = tokio::select! {
            () = lease.lost() => {
                tracing::warn!("{} leads no more", candidate.name);
                false
            }
            signal = signals.next() => {
                tracing::info!("{signal}: stopping");
                true
            }
        };
        end.send_replace(true);
        control.resign().await;
        signalled
    };
    let beside = async {
        match beside {
            Some(beside) => beside.run(control.clone()).await,
            None => std::future::pending().await,
        }
    };
    let (served, signalled) = tokio::select! {
        done = async { tokio::join!(served, watched) } => done,
        () = beside => return Err(Failure::failed("the operator ended")),
    };
    served?;
    Ok(if signalled { End::Stopped } else { End::Turned(next) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_stores() {
        for (text, shown) in [
            ("embedded", "embedded"),
            ("etcd://a:1", "etcd://a:1"),
            ("etcd://a:1,b:2/x", "etcd://a:1,b:2/x"),
            ("kubernetes", "kubernetes"),
            ("kubernetes://mayastor", "kubernetes://mayastor"),
        ] {
            assert_eq!(store(text).map(|s| s.to_string()).as_deref(), Ok(shown));
        }
        for wrong in ["", "file", "etcd://", "etcd:a:1", "http://a:1", "kubernetes://"] {
            assert!(store(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn candidates_say_how_they_are_reached() {
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let own = candidate(None, at("10.0.0.9:10125"), Some(at("10.0.0.9:10123"))).expect("valid");
        assert_eq!((own.grpc.as_str(), own.http.as_str()), ("10.0.0.9:10125", "10.0.0.9:10123"));
        let hidden = candidate(None, at("10.0.0.9:10125"), Some(at("127.0.0.1:10123"))).expect("valid");
        assert_eq!(hidden.http, "");
        let named = candidate(Some("c1"), at("0.0.0.0:7"), Some(at("0.0.0.0:8"))).expect("valid");
        assert_eq!((named.grpc.as_str(), named.http.as_str()), ("c1:7", "c1:8"));
        assert_ne!(named.name, candidate(Some("c1"), at("0.0.0.0:7"), None).expect("valid").name);
        assert!(candidate(None, at("0.0.0.0:7"), None).is_err());
    }
}
