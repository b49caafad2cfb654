//! `mayastor support`: what a report of a problem needs, in one file, without secrets.

mod redact;

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::v1;
use clap::Subcommand;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_stream::StreamExt;

use crate::connect::{Client, with_port};
use crate::failure::{Done, Failure};
use redact::redact;

/// How much of the end of a log is taken.
const LOG_BYTES: u64 = 4 << 20;
/// How many events are taken.
const EVENTS: u32 = 5000;
/// How much of the metrics is taken, at most.
const METRICS_BYTES: u64 = 64 << 20;
/// How long one part may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Help for those who help
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Collect what a report of a problem needs: status, events, metrics, statistics, settings, logs; no secrets, no data
    ///
    /// It asks the control plane and each node's engine, for which a token with the role read is enough. What cannot be
    /// had is named in problems.txt. Look at it before you send it: names of volumes, nodes and disks are in it.
    #[command(after_help = "Examples:
  mayastor support bundle
  mayastor support bundle --out /tmp/incident.tar.gz --logs mayastor-data --page 127.0.0.1:10123")]
    Bundle {
        /// The file to write [default: mayastor-support-SECONDS.tar.gz]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Where the control plane serves /metrics [default: port 10123 of the control plane's host]
        #[arg(long, value_name = "HOST:PORT")]
        page: Option<String>,
        /// Take the ends of the logs (*.log) in this directory and those below it, such as that of `mayastor up`
        #[arg(long, value_name = "DIR")]
        logs: Option<PathBuf>,
    },
}

/// Runs it.
pub async fn run(command: Command, client: &Client) -> Done {
    let Command::Bundle { out, page, logs } = command;
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let out = out.unwrap_or_else(|| format!("mayastor-support-{seconds}.tar.gz").into());
    if out.exists() {
        return Err(Failure::failed(format!("{}: it exists; choose another", out.display())));
    }
    let mut parts = Parts::default();
    parts.json(
        "versions.json",
        &Versions { program: env!("CARGO_PKG_VERSION"), seconds_since_1970: seconds, kernel: kernel() },
    );
    let nodes = control(client, &mut parts).await;
    metrics(client, page.as_deref(), &mut parts).await;
    if nodes.is_empty() {
        // Without a control plane, the one engine that is named.
        engine(client, "engine", &client.engine.clone(), &mut parts).await;
    }
    for node in nodes {
        engine(client, &node.id, &node.grpc_endpoint, &mut parts).await;
    }
    if let Some(dir) = logs {
        self::logs(&dir, &dir, 3, &mut parts);
    }
    let (files, problems) = (parts.files.len(), parts.problems.len());
    parts.write(&out, seconds).map_err(|e| Failure::failed(format!("{}: {e}", out.display())))?;
    let missing =
        if problems == 0 { String::new() } else { format!("; {problems} parts could not be had, see problems.txt") };
    client.output.done(format!("Wrote {} with {files} files{missing}", out.display()))
}

#[derive(Serialize)]
struct Versions {
    program: &'static str,
    seconds_since_1970: u64,
    kernel: String,
}

fn kernel() -> String {
    let uname = rustix::system::uname();
    format!("{} {}", uname.release().to_string_lossy(), uname.machine().to_string_lossy())
}

/// What is collected.
#[derive(Default)]
struct Parts {
    files: Vec<(String, Vec<u8>)>,
    problems: Vec<String>,
}

impl Parts {
    fn text(&mut self, name: impl Into<String>, text: &str) {
        self.files.push((name.into(), redact(text).into_bytes()));
    }
    fn json(&mut self, name: impl Into<String>, value: &impl Serialize) {
        let name = name.into();
        match serde_json::to_string_pretty(value) {
            Ok(text) => self.text(name, &text),
            Err(why) => self.problem(&name, why),
        }
    }
    fn problem(&mut self, what: &str, why: impl std::fmt::Display) {
        self.problems.push(redact(&format!("{what}: {why}")));
    }

    /// Writes all of it, for its owner only.
    fn write(mut self, out: &Path, seconds: u64) -> std::io::Result<()> {
        use std::os::unix::fs::OpenOptionsExt;
        let text = self.problems.iter().fold(String::new(), |all, p| all + p + "\n");
        self.files.push(("problems.txt".into(), text.into_bytes()));
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(out)?;
        let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
        for (name, bytes) in self.files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(seconds);
            archive.append_data(&mut header, format!("mayastor-support/{name}"), &bytes[..])?;
        }
        let mut file = archive.into_inner()?.finish()?;
        file.flush()?;
        file.sync_all()
    }
}

/// A file's name from that of a node or a log.
fn safe(name: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name: String = name.chars().map(|c| if fits(c) { c } else { '_' }).collect();
    if name.chars().all(|c| c == '.') { "_".into() } else { name }
}

/// What the control plane knows; the nodes that there are.
async fn control(client: &Client, parts: &mut Parts) -> Vec<v1::Node> {
    let control = match client.control().await {
        Ok(control) => control,
        Err(why) => {
            parts.problem("the control plane", why);
            return Vec::new();
        }
    };
    let mut calls = control.v1();
    let mut status = v1::Status::default();
    match control.check(calls.list_nodes(v1::Empty {}).await) {
        Ok(list) => status.nodes = list.nodes,
        Err(why) => parts.problem("control/status.json, nodes", why),
    }
    match control.check(calls.list_pools(v1::Empty {}).await) {
        Ok(list) => status.pools = list.pools,
        Err(why) => parts.problem("control/status.json, pools", why),
    }
    match control.check(calls.list_volumes(v1::Empty {}).await) {
        Ok(list) => status.volumes = list.volumes,
        Err(why) => parts.problem("control/status.json, volumes", why),
    }
    parts.json("control/status.json", &status);
    let wanted = v1::ListEventsRequest { follow: false, last: EVENTS, object: String::new(), operation: String::new() };
    match control.check(calls.list_events(wanted).await) {
        Ok(mut events) => {
            let mut text = String::new();
            while let Some(Ok(event)) = events.next().await {
                text += &serde_json::to_string(&event).unwrap_or_default();
                text.push('\n');
            }
            parts.text("control/events.jsonl", &text);
        }
        Err(why) => parts.problem("control/events.jsonl", why),
    }
    status.nodes
}

/// What an engine knows.
async fn engine(client: &Client, name: &str, address: &str, parts: &mut Parts) {
    let folder = format!("nodes/{}", safe(name));
    let client = Client { engine: address.to_owned(), timeout: client.timeout.min(PATIENCE), ..client.clone() };
    let engine = match client.engine().await {
        Ok(engine) => engine,
        Err(why) => return parts.problem(&folder, why),
    };
    let mut calls = engine.v1();
    match engine.check(calls.get_node(v1::Empty {}).await) {
        Ok(report) => parts.json(format!("{folder}/report.json"), &report),
        Err(why) => parts.problem(&format!("{folder}/report.json"), why),
    }
    match engine.check(calls.get_statistics(v1::Empty {}).await) {
        Ok(statistics) => parts.json(format!("{folder}/statistics.json"), &statistics),
        Err(why) => parts.problem(&format!("{folder}/statistics.json"), why),
    }
    match engine.check(calls.get_config(v1::Empty {}).await) {
        Ok(settings) => parts.json(format!("{folder}/settings.json"), &settings),
        Err(why) => parts.problem(&format!("{folder}/settings.json"), why),
    }
}

/// What Prometheus gets.
async fn metrics(client: &Client, page: Option<&str>, parts: &mut Parts) {
    let asked = async {
        let host = with_port(&client.control, api::CONTROL_PORT)?;
        let host = host.rsplit_once(':').map_or(host.as_str(), |(host, _)| host).to_owned();
        let at = with_port(page.unwrap_or(&host), api::HTTP_PORT)?;
        let io = |e: std::io::Error| Failure::unreachable(format!("{at}: {e}"));
        let mut stream = tokio::net::TcpStream::connect(&at).await.map_err(io)?;
        let bearer = client.credentials.dial()?.header().map(|h| format!("Authorization: {h}\r\n")).unwrap_or_default();
        let request = format!("GET /metrics HTTP/1.0\r\nHost: {at}\r\n{bearer}\r\n");
        stream.write_all(request.as_bytes()).await.map_err(io)?;
        let mut answer = Vec::new();
        stream.take(METRICS_BYTES).read_to_end(&mut answer).await.map_err(io)?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let first = head.lines().next().unwrap_or_default();
        if first.split(' ').nth(1) == Some("200") {
            Ok(body.to_owned())
        } else {
            Err(Failure::failed(format!("{at} answered {first:?}")))
        }
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(text)) => parts.text("control/metrics.txt", &text),
        Ok(Err(why)) => parts.problem("control/metrics.txt", why),
        Err(_) => parts.problem("control/metrics.txt", "no answer in time"),
    }
}

/// The ends of the logs in a directory, and in those below it.
fn logs(root: &Path, dir: &Path, depth: u32, parts: &mut Parts) {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(why) => return parts.problem(&dir.display().to_string(), why),
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    paths.sort();
    for path in paths {
        let kind = std::fs::symlink_metadata(&path).map(|m| m.file_type());
        if kind.as_ref().is_ok_and(std::fs::FileType::is_dir) && depth > 0 {
            logs(root, &path, depth - 1, parts);
        } else if kind.is_ok_and(|k| k.is_file()) && path.extension().is_some_and(|e| e == "log") {
            let name: Vec<String> = path
                .strip_prefix(root)
                .unwrap_or(&path)
                .components()
                .map(|c| safe(&c.as_os_str().to_string_lossy()))
                .collect();
            match tail(&path) {
                Ok(text) => parts.text(format!("logs/{}", name.join("/")), &text),
                Err(why) => parts.problem(&path.display().to_string(), why),
            }
        }
    }
}

/// The end of a file, whole lines.
fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let size = file.metadata()?.len();
    let from = size.saturating_sub(LOG_BYTES);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(if from == 0 { text } else { text.split_once('\n').map(|(_, rest)| rest.to_owned()).unwrap_or_default() })
}
