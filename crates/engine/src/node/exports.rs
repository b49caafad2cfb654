//! What the node offers to other machines, over NVMe/TCP, iSCSI and NBD.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use host::{DiskRef, Host};
use uuid::Uuid;

use super::nbd_portal::{NBD_PREFIX, NbdPortal};
use super::portals::{IQN_PREFIX, Portal, Portals};
use super::{NodeOptions, Result};
use crate::config::NexusOpts;
use crate::guard::Guard;
use crate::model::{Error, Protocol};
use crate::target::{TargetError, TargetOptions, TargetServer};

/// How long the sockets of a predecessor that was killed may linger.
const PREDECESSOR: Duration = Duration::from_secs(5);
/// The pause between two attempts to listen.
pub(crate) const AGAIN: Duration = Duration::from_millis(50);

/// The target, and how others reach it.
pub(crate) struct Exports {
    server: Rc<TargetServer>,
    /// `host:port` in the URIs for hosts.
    address: String,
    /// `host:port` in the URIs for other engines. They are in the network that we listen in, while hosts may come from
    /// another one, in which we have the advertised address.
    peers: String,
    portals: Portals,
    nbd: NbdPortal,
}

/// The protocol of a name under which something is shared.
pub(crate) fn protocol_of(name: &str) -> Protocol {
    match name {
        _ if name.starts_with(IQN_PREFIX) => Protocol::Iscsi,
        _ if name.starts_with(NBD_PREFIX) => Protocol::Nbd,
        _ => Protocol::Nvmf,
    }
}

/// Starts the target. The kernel may hold the sockets of a process that was just killed a moment longer than the
/// process: an address that is in use is tried again for a while.
async fn start_target(host: &Host, options: TargetOptions) -> std::result::Result<Rc<TargetServer>, TargetError> {
    let until = host.now() + PREDECESSOR;
    loop {
        match TargetServer::start(host, options.clone()).await {
            Err(TargetError::Listen { source, .. })
                if source.kind() == io::ErrorKind::AddrInUse && host.now() < until =>
            {
                host.sleep(AGAIN).await;
            }
            done => return done,
        }
    }
}

impl Exports {
    /// Starts the NVMe/TCP target; iSCSI and NBD start when they are first used. Port 0 in the options: the port of the last time,
    /// in `before`, or any that is free.
    pub(crate) async fn start(host: &Host, options: &NodeOptions, before: &NexusOpts) -> Result<Exports> {
        let mut bind = options.nvmf_bind;
        if bind.port() == 0 {
            bind.set_port(before.nvmf_replica_port.unwrap_or(0));
        }
        let (name, port) = match &options.nvmf_advertised {
            Some(text) => split(text)?,
            None => (bind.ip().to_string(), 0),
        };
        let other_name = options.nvmf_advertised.is_some().then(|| name.clone());
        // Discovery tells addresses, not names: a host that knows us by a name needs none from there.
        let advertised = name.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, port));
        let server = start_target(host, TargetOptions { bind, advertised }).await;
        let server = server.map_err(|e| Error::unavailable(format!("NVMe/TCP target: {e}")))?;
        let port = if port == 0 { server.address().port() } else { port };
        let address = if name.contains(':') { format!("[{name}]:{port}") } else { format!("{name}:{port}") };
        let peers = match server.address() {
            any if any.ip().is_unspecified() => address.clone(),
            bound => bound.to_string(),
        };
        let nbd = NbdPortal::new(host, bind.ip(), other_name.clone(), options.nbd_port, before);
        let portals = Portals::new(host, bind.ip(), other_name, options.iscsi.clone(), before);
        Ok(Exports { server, address, peers, portals, nbd })
    }

    /// The port that it listens on.
    pub(crate) fn port(&self) -> u16 {
        self.server.address().port()
    }

    /// What hosts connect to, as `host:port`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The URI of an exported nexus, for hosts.
    pub(crate) fn host_uri(&self, name: &str) -> String {
        match protocol_of(name) {
            Protocol::Iscsi => self.portals.uri(name),
            Protocol::Nbd => self.nbd.uri(name),
            Protocol::Nvmf => format!("nvmf://{}/{name}", self.address),
        }
    }

    /// The URI of an exported replica or device, for other engines.
    pub(crate) fn peer_uri(&self, name: &str) -> String {
        match protocol_of(name) {
            Protocol::Iscsi => self.portals.uri(name),
            Protocol::Nbd => self.nbd.uri(name),
            Protocol::Nvmf => format!("nvmf://{}/{name}", self.peers),
        }
    }

    /// The ports, for the configuration file.
    pub(crate) fn remember(&self, opts: &mut NexusOpts) {
        self.portals.remember(opts);
        self.nbd.remember(opts);
    }

    /// Offers a device over iSCSI. To the device's reservations all initiators are one host; those among them are the
    /// target's.
    pub(crate) async fn add_iscsi(
        &self,
        portal: Portal,
        name: &str,
        uuid: Uuid,
        product: &str,
        disk: DiskRef,
    ) -> Result<()> {
        self.portals.add(portal, name, uuid, product, disk).await
    }

    /// Offers a device over NBD. To the device's reservations all clients are one host.
    pub(crate) async fn add_nbd(&self, name: &str, description: &str, disk: DiskRef) -> Result<()> {
        self.nbd.add(name, description, disk).await
    }

    /// Offers a device over NVMe/TCP.
    pub(crate) async fn add(&self, nqn: &str, uuid: Uuid, device: Rc<Guard>) -> Result<()> {
        self.server
            .export_guarded(nqn, uuid, device)
            .map_err(|e| Error::internal(format!("cannot share it as {nqn}: {e}")))
    }

    /// The size of a device may have changed: its hosts are told.
    pub(crate) fn refresh(&self, name: &str) {
        match protocol_of(name) {
            Protocol::Iscsi => self.portals.refresh(name),
            Protocol::Nbd => self.nbd.refresh(name),
            Protocol::Nvmf => {
                // It fails only when there is no such subsystem; then nobody is to be told.
                let _ = self.server.refresh(name);
            }
        }
    }

    /// Takes a device back; requests in flight are answered first.
    pub(crate) async fn remove(&self, name: &str) {
        match protocol_of(name) {
            Protocol::Iscsi => self.portals.remove(name).await,
            Protocol::Nbd => self.nbd.remove(name).await,
            Protocol::Nvmf => {
                // It fails only when there is no such subsystem; then there is nothing to take back.
                let _ = self.server.unexport(name).await;
            }
        }
    }

    /// Ends all connections in order.
    pub(crate) async fn stop(&self) {
        self.server.stop().await;
        self.portals.stop().await;
        self.nbd.stop().await;
    }
}

/// A host name or address, and the port (0 when there is none).
fn split(text: &str) -> Result<(String, u16)> {
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok((ip.to_string(), 0));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok((address.ip().to_string(), address.port()));
    }
    let (name, port) = match text.split_once(':') {
        Some((name, port)) => (name, port.parse().ok()),
        None => (text, Some(0)),
    };
    match port {
        Some(port) if !name.is_empty() && !name.contains(['/', ' ']) => Ok((name.into(), port)),
        _ => Err(Error::invalid(format!("advertised address '{text}': it must be host, host:port or [ipv6]:port"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advertised_addresses() {
        for (text, host, port) in [
            ("10.0.0.1", "10.0.0.1", 0),
            ("10.0.0.1:9", "10.0.0.1", 9),
            ("[::1]:9", "::1", 9),
            ("::1", "::1", 0),
            ("storage.example", "storage.example", 0),
            ("storage.example:8420", "storage.example", 8420),
        ] {
            assert_eq!(split(text), Ok((host.into(), port)), "{text}");
        }
        for text in ["", ":1", "a:b", "a:1:2", "a:70000", "a b"] {
            assert!(split(text).is_err_and(|e| e.message.contains(text)), "{text}");
        }
    }
}
