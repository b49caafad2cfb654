//! The client commands: each module is one noun, its verbs as the command line has them and what they do.

pub mod bdev;
pub mod config;
pub mod events;
pub mod explain;
pub mod limits;
pub mod nexus;
pub mod node;
pub mod pool;
pub mod progress;
pub mod rebalance;
pub mod rebuild;
pub mod replica;
pub mod status;
pub mod support;
pub mod token;
pub mod volume;

use api::v0::{ShareProtocolNexus, ShareProtocolReplica};
use clap::ValueEnum;

/// How a replica is offered to other machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReplicaProtocol {
    /// Not at all
    None,
    /// NVMe over TCP
    Nvmf,
    /// iSCSI
    Iscsi,
}

impl From<ReplicaProtocol> for ShareProtocolReplica {
    fn from(protocol: ReplicaProtocol) -> Self {
        match protocol {
            ReplicaProtocol::None => ShareProtocolReplica::ReplicaNone,
            ReplicaProtocol::Nvmf => ShareProtocolReplica::ReplicaNvmf,
            ReplicaProtocol::Iscsi => ShareProtocolReplica::ReplicaIscsi,
        }
    }
}

/// How a nexus or device is offered to hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// NVMe over TCP
    Nvmf,
    /// iSCSI
    Iscsi,
    /// NBD: nbd-client, qemu, libnbd
    Nbd,
}

impl From<Protocol> for ShareProtocolNexus {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Nvmf => ShareProtocolNexus::NexusNvmf,
            Protocol::Iscsi => ShareProtocolNexus::NexusIscsi,
            Protocol::Nbd => ShareProtocolNexus::NexusNbd,
        }
    }
}

/// yes or no, as tables say it.
fn yes(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}
