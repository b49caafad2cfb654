//! `mayastor control`: the control plane as a process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::control::store::EmbeddedStore;
use ::control::{Control, Options};
use clap::Args;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::access::{Credentials, Doors, Place};
use crate::failure::{Done, Failure};
use crate::output;
use crate::serve::Signals;

/// The examples of its help.
pub const EXAMPLES: &str = "Examples:
  mayastor control
  mayastor control --grpc 0.0.0.0:10125 --data-dir /var/lib/mayastor --node-grace 60";

/// How a control plane is run.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Where the gRPC services listen, for engines and clients
    #[arg(short, long, value_name = "IP:PORT", default_value = "127.0.0.1:10125")]
    grpc: SocketAddr,
    /// Where the page, the REST API and /metrics are served; "none": nowhere [default: 127.0.0.1:10123, when it is free]
    #[arg(long, value_name = "IP:PORT|none", value_parser = http)]
    http: Option<Http>,
    /// Where it keeps what it must not forget
    #[arg(long, value_name = "DIR", default_value = "mayastor-control")]
    data_dir: PathBuf,
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
    let store = EmbeddedStore::open(&dir.join("control.redb")).map_err(Failure::failed)?;
    Control::start(Arc::new(store), options).await.map_err(Failure::failed)
}

/// Runs the role until SIGTERM or SIGINT.
pub async fn run(arguments: Arguments, own: Credentials) -> Done {
    let cannot = |e| Failure::failed(format!("cannot listen on {} for gRPC: {e}", arguments.grpc));
    let listener = TcpListener::bind(arguments.grpc).await.map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    let http = listen_http(arguments.http).await?;
    let mut signals = Signals::new()?;
    let page = http.as_ref().map(TcpListener::local_addr).transpose().map_err(cannot)?;
    let ports: Vec<SocketAddr> = std::iter::once(address).chain(page).collect();
    let place = Place { ports: &ports, data_dir: Some(&arguments.data_dir) };
    let (access, note) = arguments.doors.open(&own, place)?;
    let scheme = if access.tls.is_some() { "https" } else { "http" };
    let options = Options { access, ..options(arguments.node_grace, arguments.heartbeat) };
    let control = open(&arguments.data_dir, options).await?;
    let page = page.map(|at| format!(", page {scheme}://{at}")).unwrap_or_default();
    output::print(&format!("control plane ready: gRPC {address}{page}, data in {}\n", arguments.data_dir.display()))?;
    if let Some(note) = note {
        output::print(&format!("{note}\n"))?;
    }
    let (stop, stopped) = watch::channel(());
    let web = http.map(|http| tokio::spawn(serve_http(control.clone(), http, stopped)));
    let signalled = async move {
        let signal = signals.next().await;
        tracing::info!("{signal}: stopping");
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
