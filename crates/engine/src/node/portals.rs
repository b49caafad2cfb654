//! What the node offers over iSCSI: nexuses (and devices) on one port, replicas on another. A portal listens from the
//! first time that something is shared there.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::IpAddr;
use std::rc::Rc;

use futures_util::lock::Mutex;
use host::{DiskRef, Host};
use uuid::Uuid;

use super::{IscsiNodeOptions, Result};
use crate::config::NexusOpts;
use crate::iscsi::{Export, IscsiError, IscsiOptions, IscsiServer};
use crate::model::Error;

/// How the names of our targets begin.
pub(crate) const IQN_PREFIX: &str = "iqn.2019-05.io.openebs:";
/// How often listening is tried while the sockets of a predecessor that was killed may linger.
const ATTEMPTS: usize = 100;

/// Who is offered where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Portal {
    /// Nexuses and devices.
    Nexus,
    /// Replicas.
    Replica,
}

/// Both portals.
pub(crate) struct Portals {
    host: Host,
    ip: IpAddr,
    /// What initiators are told to connect to, when that is not the address listened on; IPv6 in brackets.
    name: Option<String>,
    options: IscsiNodeOptions,
    nexus: Door,
    replica: Door,
}

struct Door {
    /// The tag of the portal group, as v0.3.0 has it.
    group: u16,
    /// Where to listen; 0 for any port.
    port: Cell<u16>,
    server: RefCell<Option<Rc<IscsiServer>>>,
    /// One start at a time.
    turn: Mutex<()>,
}

impl Door {
    fn new(group: u16, wanted: u16, before: Option<u16>) -> Door {
        let port = if wanted == 0 { before.unwrap_or(0) } else { wanted };
        Door { group, port: Cell::new(port), server: RefCell::default(), turn: Mutex::default() }
    }
    fn server(&self) -> Option<Rc<IscsiServer>> {
        self.server.borrow().clone()
    }
    /// The port that it listens on, or did before.
    fn known_port(&self) -> Option<u16> {
        Some(self.port.get()).filter(|port| *port != 0 && self.server.borrow().is_some())
    }
}

impl Portals {
    /// Portals that do not listen yet. `name`: what others call this node, when that is not `ip`; `before`: the ports of
    /// the last run.
    pub(crate) fn new(
        host: &Host,
        ip: IpAddr,
        name: Option<String>,
        options: IscsiNodeOptions,
        before: &NexusOpts,
    ) -> Portals {
        let name = name.map(|n| if n.contains(':') { format!("[{n}]") } else { n });
        let nexus = Door::new(0, options.nexus_port, before.iscsi_nexus_port);
        let replica = Door::new(2, options.replica_port, before.iscsi_replica_port);
        Portals { host: host.clone(), ip, name, options, nexus, replica }
    }

    fn door(&self, portal: Portal) -> &Door {
        match portal {
            Portal::Nexus => &self.nexus,
            Portal::Replica => &self.replica,
        }
    }

    /// Offers a device as a target of that name.
    pub(crate) async fn add(&self, portal: Portal, name: &str, uuid: Uuid, product: &str, disk: DiskRef) -> Result<()> {
        let server = self.started(portal).await?;
        let export = Export { name: name.into(), uuid, product: product.into(), disk };
        server.export(export).map_err(|e| Error::internal(format!("cannot share it as {name}: {e}")))
    }

    async fn started(&self, portal: Portal) -> Result<Rc<IscsiServer>> {
        let door = self.door(portal);
        let _turn = door.turn.lock().await;
        if let Some(server) = door.server() {
            return Ok(server);
        }
        let server = self.start(door).await.map_err(|e| Error::unavailable(format!("iSCSI target: {e}")))?;
        door.port.set(server.address().port());
        *door.server.borrow_mut() = Some(server.clone());
        Ok(server)
    }

    async fn start(&self, door: &Door) -> std::result::Result<Rc<IscsiServer>, IscsiError> {
        let options = IscsiOptions {
            bind: (self.ip, door.port.get()).into(),
            advertised: self.name.clone(),
            portal_group: door.group,
            chap: self.options.chap.clone(),
        };
        for _ in 0..ATTEMPTS {
            match IscsiServer::start(&self.host, options.clone()).await {
                Err(IscsiError::Listen { source, .. }) if source.kind() == io::ErrorKind::AddrInUse => {
                    self.host.sleep(super::exports::AGAIN).await;
                }
                done => return done,
            }
        }
        IscsiServer::start(&self.host, options).await
    }

    /// The size of a device may have changed: its initiators are told.
    pub(crate) fn refresh(&self, name: &str) {
        for server in [&self.nexus, &self.replica].into_iter().filter_map(Door::server) {
            // It fails only when there is no such target; then nobody is to be told.
            let _ = server.refresh(name);
        }
    }

    /// Takes a device back; requests in flight are answered first.
    pub(crate) async fn remove(&self, name: &str) {
        for door in [&self.nexus, &self.replica] {
            if let Some(server) = door.server().filter(|s| s.serves(name)) {
                // It fails only when there is no such target; then there is nothing to take back.
                let _ = server.unexport(name).await;
            }
        }
    }

    /// The URI of an offered device.
    pub(crate) fn uri(&self, name: &str) -> String {
        let serves = |door: &&&Door| door.server().is_some_and(|s| s.serves(name));
        let door = [&self.nexus, &self.replica].iter().find(serves).map_or(&self.nexus, |door| *door);
        let host = match &self.name {
            Some(name) => name.clone(),
            None if self.ip.is_ipv6() => format!("[{}]", self.ip),
            None => self.ip.to_string(),
        };
        format!("iscsi://{host}:{}/{name}/0", door.port.get())
    }

    /// The ports, for the configuration file: where something was shared once.
    pub(crate) fn remember(&self, opts: &mut NexusOpts) {
        opts.iscsi_nexus_port = self.nexus.known_port().or(opts.iscsi_nexus_port);
        opts.iscsi_replica_port = self.replica.known_port().or(opts.iscsi_replica_port);
    }

    /// Ends all sessions in order.
    pub(crate) async fn stop(&self) {
        for door in [&self.nexus, &self.replica] {
            if let Some(server) = door.server() {
                server.stop().await;
            }
        }
    }
}
