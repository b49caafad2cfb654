//! The options of `mayastor engine`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use engine::iscsi::Chap;
use engine::node::IscsiNodeOptions;

use crate::access::Doors;
use crate::connect::{addresses, with_port};
use crate::failure::Failure;

/// The port of a NATS server.
const NATS_PORT: u16 = 4222;

/// The examples of its help.
pub const EXAMPLES: &str = "Examples:
  mayastor engine
  mayastor engine -N node-1 -g 10.0.0.1 --nvme 10.0.0.1:8420 -y /var/local/mayastor/config.yaml --token-file cluster.token
  mayastor engine -N node-1 -g 0.0.0.0 --grpc-advertise node-1 --control 10.0.0.9:10125 --label zone=a
  mayastor engine -N node-1 -g 10.0.0.1 -n nats -y /var/local/mayastor/config.yaml --token-file cluster.token
  mayastor engine -N node-1 -g 10.0.0.1 --control 10.0.0.7,10.0.0.8,10.0.0.9 --token-file cluster.token";

/// How a storage node is run.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Where the gRPC services listen
    #[arg(short, long, value_name = "IP[:PORT]", default_value = "127.0.0.1:10124")]
    grpc: String,
    /// What the control plane is told to connect to, when that is not the address of --grpc
    #[arg(long, value_name = "HOST[:PORT]")]
    grpc_advertise: Option<String>,
    /// The name of the node
    #[arg(
        short = 'N',
        long,
        value_name = "NAME",
        env = "MY_NODE_NAME",
        default_value = "mayastor-node",
        hide_env_values = true
    )]
    node_name: String,
    /// A label of the node, such as zone=a: volumes may ask for it, or be spread by it
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = crate::client::node::label)]
    labels: Vec<(String, String)>,
    /// The configuration file (YAML): without one, nothing is remembered when the process ends
    #[arg(short = 'y', long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Register with a control plane of v0.3.0 through this NATS server (port 4222 when none is given)
    #[arg(short = 'n', long, value_name = "HOST[:PORT]")]
    nats: Option<String>,
    /// Register over NATS every so many seconds
    #[arg(long, value_name = "SECONDS", env = "MAYASTOR_HB_INTERVAL", default_value_t = 10, hide_env_values = true, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    nats_interval: u64,
    /// Where the NVMe/TCP target listens [default: 127.0.0.1:8420, or the address in MY_POD_IP]
    #[arg(long, value_name = "IP[:PORT]")]
    nvme: Option<String>,
    /// What hosts are told to connect to, when that is not the address of --nvme
    #[arg(long, value_name = "HOST[:PORT]")]
    nvme_advertise: Option<String>,
    /// The port of the iSCSI target for nexuses; 0: any. It listens once something is shared over iSCSI
    #[arg(long, value_name = "PORT", default_value_t = 3260)]
    iscsi_nexus_port: u16,
    /// The port of the iSCSI target for replicas; 0: any
    #[arg(long, value_name = "PORT", default_value_t = 3262)]
    iscsi_replica_port: u16,
    /// Initiators must prove who they are by CHAP: a file with NAME SECRET, and on a second line our own for mutual CHAP
    #[arg(long, value_name = "FILE")]
    iscsi_chap: Option<PathBuf>,
    /// The port of the NBD server; 0: any. It listens once something is shared over NBD
    #[arg(long, value_name = "PORT", default_value_t = 10809)]
    nbd_port: u16,
    /// Watch for completions up to so many microseconds before sleeping, while that pays; 0: never
    #[arg(long, value_name = "MICROSECONDS", default_value_t = ring::DEFAULT_SPIN.as_micros() as u64, value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    spin: u64,
    /// Whom it lets in.
    #[command(flatten)]
    pub doors: Doors,
    /// Keep the data thread on this processor, counted from 0
    #[arg(long, value_name = "N")]
    cpu: Option<usize>,
    /// What is logged: error, warn, info, debug, trace, or a filter such as info,mayastor=debug
    #[arg(short = 'L', long, value_name = "FILTER", env = "RUST_LOG", default_value = "info", hide_env_values = true)]
    pub log: String,
}

/// The options, checked.
#[derive(Clone, Debug)]
pub struct Plan {
    pub grpc: SocketAddr,
    grpc_advertise: Option<String>,
    pub node_name: String,
    pub config: Option<PathBuf>,
    pub nvme: SocketAddr,
    pub nvme_advertise: Option<String>,
    pub iscsi: IscsiNodeOptions,
    pub nbd_port: u16,
    /// The control planes; empty: none.
    pub control: Vec<String>,
    /// A NATS server, and how often to register there.
    pub nats: Option<(String, Duration)>,
    pub labels: BTreeMap<String, String>,
    pub spin: Duration,
    pub cpu: Option<usize>,
}

impl Arguments {
    /// Checks the options.
    pub fn plan(self, control: Option<String>) -> Result<Plan, Failure> {
        if self.node_name.is_empty() || self.node_name.len() > 253 || self.node_name.contains(char::is_whitespace) {
            let name = self.node_name;
            return Err(Failure::usage(format!("--node-name {name:?}: a name has 1 to 253 bytes and no spaces")));
        }
        let nvme = match self.nvme {
            Some(text) => bind_address("--nvme", &text, api::NVME_PORT)?,
            None => SocketAddr::new(pod_ip()?, api::NVME_PORT),
        };
        let advertise = |option, text: Option<String>, port| match text {
            None => Ok(None),
            Some(text) => with_port(&text, port).map(Some).map_err(|e| Failure::usage(format!("{option}: {e}"))),
        };
        let iscsi = IscsiNodeOptions {
            nexus_port: self.iscsi_nexus_port,
            replica_port: self.iscsi_replica_port,
            chap: self.iscsi_chap.map(|file| chap(&file)).transpose()?,
        };
        Ok(Plan {
            iscsi,
            nbd_port: self.nbd_port,
            grpc: bind_address("--grpc", &self.grpc, api::ENGINE_PORT)?,
            grpc_advertise: self.grpc_advertise,
            node_name: self.node_name,
            config: self.config,
            nvme,
            nvme_advertise: advertise("--nvme-advertise", self.nvme_advertise, nvme.port())?,
            nats: match self.nats {
                Some(text) => {
                    let server = with_port(&text, NATS_PORT).map_err(|e| Failure::usage(format!("--nats: {e}")))?;
                    Some((server, Duration::from_secs(self.nats_interval)))
                }
                None => None,
            },
            control: control.map(|text| addresses(&text)).transpose()?.unwrap_or_default().into(),
            labels: self.labels.into_iter().collect(),
            spin: Duration::from_micros(self.spin),
            cpu: self.cpu,
        })
    }
}

impl Plan {
    /// What others connect to, given what the socket is bound to.
    pub fn grpc_endpoint(&self, bound: SocketAddr) -> String {
        match &self.grpc_advertise {
            None => bound.to_string(),
            Some(host) => with_port(host, bound.port()).unwrap_or_else(|_| host.clone()),
        }
    }
}

/// `IP`, `IP:PORT`, `[IPv6]:PORT`; the port may be 0, then the system chooses one.
fn bind_address(option: &str, text: &str, port: u16) -> Result<SocketAddr, Failure> {
    let ip: Result<IpAddr, _> = text.trim_start_matches('[').trim_end_matches(']').parse();
    if let Ok(ip) = ip {
        return Ok(SocketAddr::new(ip, port));
    }
    text.parse().map_err(|_| Failure::usage(format!("{option} {text:?}: write an IP address, or IP:PORT")))
}

/// The names and secrets in a file: the initiators', and the target's for mutual CHAP.
fn chap(file: &Path) -> Result<Chap, Failure> {
    let wrong = |why: &str| Failure::usage(format!("--iscsi-chap {}: {why}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|e| wrong(&e.to_string()))?;
    Chap::parse(&text).map_err(wrong)
}

/// The address that the deployment gives to the process.
fn pod_ip() -> Result<IpAddr, Failure> {
    match std::env::var("MY_POD_IP") {
        Err(_) => Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        Ok(text) => text.parse().map_err(|_| Failure::usage(format!("MY_POD_IP {text:?} is not an IP address"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_to_listen_on() {
        for (text, address) in [
            ("127.0.0.1", "127.0.0.1:7"),
            ("0.0.0.0:0", "0.0.0.0:0"),
            ("::1", "[::1]:7"),
            ("[::1]", "[::1]:7"),
            ("[::]:9", "[::]:9"),
        ] {
            assert_eq!(bind_address("--grpc", text, 7).expect(text).to_string(), address);
        }
        for text in ["", "localhost", "127.0.0.1:", "127.0.0.1:65536", "1.2.3", "127.0.0.1:x"] {
            assert!(bind_address("--grpc", text, 7).is_err(), "{text}");
        }
    }
}
