//! `mayastor control`: the control plane as a process.

mod recover;
mod seat;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::control::store::EmbeddedStore;
use ::control::{Control, Options};
use clap::{Args, Subcommand};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::access::{Credentials, Doors, Place};
use crate::failure::{Done, Failure};
use crate::output::{self, Output};
use crate::serve::Signals;

/// The examples of its help.
pub const EXAMPLES: &str = "Examples:
  mayastor control
  mayastor control --grpc 0.0.0.0:10125 --data-dir /var/lib/mayastor --node-grace 60
  mayastor control --grpc 10.0.0.9:10125 --store etcd://10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379/mayastor
  mayastor control --grpc 0.0.0.0:10125 --grpc-advertise 10.1.0.7 --store kubernetes://mayastor";

/// Where a control plane's records are.
#[derive(Debug, Args)]
pub struct Records {
    /// Where it keeps what it must not forget, with the embedded store
    #[arg(long, value_name = "DIR", default_value = "mayastor-control")]
    pub data_dir: PathBuf,
    /// The store: embedded (a file in --data-dir); or, for several control planes, etcd://HOST:PORT[,HOST:PORT...][/PREFIX]
    /// or kubernetes[://NAMESPACE]
    #[arg(long, value_name = "STORE", default_value = "embedded", value_parser = seat::store)]
    pub store: seat::StoreName,
    /// A file with NAME PASSWORD, when etcd wants to know who we are
    #[arg(long, value_name = "FILE")]
    pub etcd_user: Option<PathBuf>,
    /// After how many silent seconds another control plane takes over
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(2..=300))]
    pub lease: u64,
}

/// What else a control plane can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make lost records anew from what the storage nodes hold
    #[command(after_help = recover::EXAMPLES)]
    Recover(Box<recover::Arguments>),
    /// Print the CustomResourceDefinitions for Kubernetes
    #[command(after_help = "Examples:
  mayastor control crds")]
    Crds,
}

/// How a control plane is run.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Where the gRPC services listen, for engines and clients
    #[arg(short, long, value_name = "IP:PORT", default_value = "127.0.0.1:10125")]
    grpc: SocketAddr,
    /// Where the page, the REST API and /metrics are served; "none": nowhere [default: 127.0.0.1:10123, when it is free]
    #[arg(long, value_name = "IP:PORT|none", value_parser = http)]
    http: Option<Http>,
    #[command(flatten)]
    records: Records,
    /// What clients and engines are told to connect to, when that is not the address of --grpc
    #[arg(long, value_name = "HOST[:PORT]")]
    grpc_advertise: Option<String>,
    /// With --store kubernetes: the Service whose endpoint this control plane becomes when it leads
    #[arg(long, value_name = "NAME")]
    kubernetes_service: Option<String>,
    /// After how many seconds copies on a node that is away are replaced
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = seconds)]
    node_grace: f64,
    /// How often engines report, in seconds; after three silent ones a node is unreachable
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = seconds)]
    heartbeat: f64,
    /// Whom it lets in.
    #[command(flatten)]
    doors: Doors,
    /// What is logged: error, warn, info, debug, trace, or a filter such as info,control=debug
    #[arg(short = 'L', long, value_name = "FILTER", env = "RUST_LOG", default_value = "info", hide_env_values = true)]
    pub log: String,
}

/// The embedded store's file.
const FILE: &str = "control.redb";

/// Where HTTP is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http {
    /// Nowhere.
    None,
    /// At this address.
    At(SocketAddr),
}

fn http(text: &str) -> Result<Http, String> {
    if text == "none" {
        return Ok(Http::None);
    }
    text.parse().map(Http::At).map_err(|_| "an address with a port, or none".to_owned())
}

/// Listens for HTTP. An address that nobody asked for is taken only when it is free: volumes need no page.
pub async fn listen_http(wanted: Option<Http>) -> Result<Option<TcpListener>, Failure> {
    let default = SocketAddr::from(([127, 0, 0, 1], api::HTTP_PORT));
    let at = match wanted {
        Some(Http::None) => return Ok(None),
        Some(Http::At(at)) => at,
        None => default,
    };
    match TcpListener::bind(at).await {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if wanted.is_none() => {
            tracing::warn!("there is no page: {at} cannot be used: {error}");
            Ok(None)
        }
        Err(error) => Err(Failure::failed(format!("cannot listen on {at} for HTTP: {error}; choose another"))),
    }
}

/// A number of seconds, a tenth to a day.
pub fn seconds(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "a number of seconds is needed".to_owned())?;
    if (0.1..=86_400.0).contains(&value) { Ok(value) } else { Err("between 0.1 and 86400 seconds".to_owned()) }
}

/// The options of a control plane that replaces copies after `node_grace` and expects reports every `heartbeat` seconds.
pub fn options(node_grace: f64, heartbeat: f64) -> Options {
    let mut options = Options::default();
    options.settings.node_grace_ms = u64::try_from(Duration::from_secs_f64(node_grace).as_millis()).unwrap_or(u64::MAX);
    options.heartbeat = Duration::from_secs_f64(heartbeat);
    options
}

/// Opens the store in a directory and starts a control plane on it. To be called inside a tokio runtime.
pub async fn open(dir: &Path, options: Options) -> Result<Control, Failure> {
    let cannot = |e: std::io::Error| Failure::failed(format!("the directory {} cannot be used: {e}", dir.display()));
    std::fs::create_dir_all(dir).map_err(cannot)?;
    let store = EmbeddedStore::open(&dir.join(FILE)).map_err(Failure::failed)?;
    Control::start(Arc::new(store), options).await.map_err(Failure::failed)
}

/// Runs the role until SIGTERM or SIGINT.
pub async fn run(arguments: Arguments, own: Credentials, output: &Output) -> Done {
    match arguments.command {
        Some(Command::Recover(arguments)) => return recover::run(*arguments, &own, output).await,
        Some(Command::Crds) => return output::print(&operator::crds::yaml()),
        None => {}
    }
    let cannot = |e| Failure::failed(format!("cannot listen on {} for gRPC: {e}", arguments.grpc));
    let listener = TcpListener::bind(arguments.grpc).await.map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    let http = listen_http(arguments.http).await?;
    let signals = Signals::new()?;
    let page = http.as_ref().map(TcpListener::local_addr).transpose().map_err(cannot)?;
    let ports: Vec<SocketAddr> = std::iter::once(address).chain(page).collect();
    let place = Place { ports: &ports, data_dir: Some(&arguments.records.data_dir) };
    let (access, note) = arguments.doors.open(&own, place)?;
    let scheme = if access.tls.is_some() { "https" } else { "http" };
    let told = page.map(|at| format!(", page {scheme}://{at}")).unwrap_or_default();
    let options = Options { access, ..options(arguments.node_grace, arguments.heartbeat) };
    let note = note.map(|note| format!("{note}\n")).unwrap_or_default();
    if let Some((election, kubernetes)) = seat::election(&arguments.records).await? {
        let candidate = seat::candidate(arguments.grpc_advertise.as_deref(), address, page)?;
        let beside = kubernetes.map(|k| k.beside(arguments.kubernetes_service.clone(), &candidate)).transpose()?;
        let records = &arguments.records.store;
        output::print(&format!("control plane ready: gRPC {address}{told}, records in {records}\n{note}"))?;
        return seat::Seat { election, candidate, beside, options, listener, http }.run(signals).await;
    }
    let control = open(&arguments.records.data_dir, options).await?;
    let dir = arguments.records.data_dir.display();
    output::print(&format!("control plane ready: gRPC {address}{told}, data in {dir}\n{note}"))?;
    let mut signals = signals;
    let signalled = async {
        let signal = signals.next().await;
        tracing::info!("{signal}: stopping");
    };
    serve(&control, listener, http, signalled).await
}

/// Serves all that a control plane serves until `shutdown` ends.
async fn serve(
    control: &Control,
    listener: TcpListener,
    http: Option<TcpListener>,
    shutdown: impl Future<Output = ()>,
) -> Done {
    let (stop, stopped) = watch::channel(());
    let web = http.map(|http| tokio::spawn(serve_http(control.clone(), http, stopped)));
    let signalled = async move {
        shutdown.await;
        // Dropped, it stops the other server too.
        drop(stop);
    };
    let served = control.serve(listener, signalled).await;
    if let Some(web) = web {
        // A browser that does not let go is not waited for.
        let _ = tokio::time::timeout(Duration::from_secs(2), web).await;
    }
    served.map_err(|e| Failure::failed(format!("the gRPC server failed: {e}")))
}

/// Serves the page and the REST API until the sender is dropped.
pub async fn serve_http(control: Control, listener: TcpListener, mut stopped: watch::Receiver<()>) {
    let stop = async move {
        // That the sender is gone is the sign.
        let _ = stopped.changed().await;
    };
    if let Err(error) = control.serve_http(listener, stop).await {
        tracing::error!("the HTTP server failed: {error}");
    }
}
