//! What the node offers over NBD: nexuses, replicas and devices, all on one port. It listens from the first time that
//! something is shared there.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::IpAddr;
use std::rc::Rc;

use futures_util::lock::Mutex;
use host::{DiskRef, Host};

use super::Result;
use crate::config::NexusOpts;
use crate::model::Error;
use crate::nbd::{NbdError, NbdServer};

/// How the names begin under which devices are shared over NBD; the export's name is what follows.
pub(crate) const NBD_PREFIX: &str = "nbd:";
/// How often listening is tried while the sockets of a predecessor that was killed may linger.
const ATTEMPTS: usize = 100;

/// The place where NBD is served.
pub(crate) struct NbdPortal {
    host: Host,
    ip: IpAddr,
    /// What clients are told to connect to, when that is not the address listened on; IPv6 in brackets.
    name: Option<String>,
    /// Where to listen; 0 for any port.
    port: Cell<u16>,
    server: RefCell<Option<Rc<NbdServer>>>,
    /// One start at a time.
    turn: Mutex<()>,
}

fn export_name(name: &str) -> &str {
    name.strip_prefix(NBD_PREFIX).unwrap_or(name)
}

impl NbdPortal {
    /// A portal that does not listen yet. `name`: what others call this node, when that is not `ip`; `before`: the ports of
    /// the last run.
    pub(crate) fn new(host: &Host, ip: IpAddr, name: Option<String>, port: u16, before: &NexusOpts) -> NbdPortal {
        let name = name.map(|n| if n.contains(':') { format!("[{n}]") } else { n });
        let port = if port == 0 { before.nbd_port.unwrap_or(0) } else { port };
        let (server, turn) = Default::default();
        NbdPortal { host: host.clone(), ip, name, port: Cell::new(port), server, turn }
    }

    fn server(&self) -> Option<Rc<NbdServer>> {
        self.server.borrow().clone()
    }

    /// Offers a device.
    pub(crate) async fn add(&self, name: &str, description: &str, disk: DiskRef) -> Result<()> {
        let server = self.started().await?;
        let name = export_name(name);
        server.export(name, description, disk).map_err(|e| Error::internal(format!("cannot share it as {name}: {e}")))
    }

    async fn started(&self) -> Result<Rc<NbdServer>> {
        let _turn = self.turn.lock().await;
        if let Some(server) = self.server() {
            return Ok(server);
        }
        let server = self.start().await.map_err(|e| Error::unavailable(format!("NBD server: {e}")))?;
        self.port.set(server.address().port());
        *self.server.borrow_mut() = Some(server.clone());
        Ok(server)
    }

    async fn start(&self) -> std::result::Result<Rc<NbdServer>, NbdError> {
        let bind = (self.ip, self.port.get()).into();
        for _ in 0..ATTEMPTS {
            match NbdServer::start(&self.host, bind).await {
                Err(NbdError::Listen { source, .. }) if source.kind() == io::ErrorKind::AddrInUse => {
                    self.host.sleep(super::exports::AGAIN).await;
                }
                done => return done,
            }
        }
        NbdServer::start(&self.host, bind).await
    }

    /// The size of a device may have changed. Clients learn of it when they ask for the export anew.
    pub(crate) fn refresh(&self, name: &str) {
        if let Some(server) = self.server() {
            // It fails only when there is no such export; then there is nothing to tell.
            let _ = server.refresh(export_name(name));
        }
    }

    /// Takes a device back; requests in flight are answered first.
    pub(crate) async fn remove(&self, name: &str) {
        if let Some(server) = self.server() {
            // It fails only when there is no such export; then there is nothing to take back.
            let _ = server.unexport(export_name(name)).await;
        }
    }

    /// The URI of an offered device.
    pub(crate) fn uri(&self, name: &str) -> String {
        let host = match &self.name {
            Some(name) => name.clone(),
            None if self.ip.is_ipv6() => format!("[{}]", self.ip),
            None => self.ip.to_string(),
        };
        format!("nbd://{host}:{}/{}", self.port.get(), export_name(name))
    }

    /// The port, for the configuration file: where something was shared once.
    pub(crate) fn remember(&self, opts: &mut NexusOpts) {
        let port = Some(self.port.get()).filter(|port| *port != 0 && self.server.borrow().is_some());
        opts.nbd_port = port.or(opts.nbd_port);
    }

    /// Ends all connections in order.
    pub(crate) async fn stop(&self) {
        if let Some(server) = self.server() {
            server.stop().await;
        }
    }
}
