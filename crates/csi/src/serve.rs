//! A plugin on its Unix socket.

use std::io;
use std::path::{Path, PathBuf};

use api::csi::controller_server::ControllerServer;
use api::csi::identity_server::IdentityServer;
use api::csi::node_server::NodeServer;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;

use crate::control_plane::ControlPlane;
use crate::controller::Controller;
use crate::identity::{Always, Identity, Ready};

/// Which plugin.
pub enum Plugin<C> {
    /// The controller, for the cluster.
    Controller(Controller<C>),
    /// The node plugin.
    Node(crate::node::Node),
}

/// Why a plugin does not run.
#[derive(Debug)]
pub enum ServeError {
    /// The socket cannot be had.
    Socket(PathBuf, io::Error),
    /// Another process serves on it.
    InUse(PathBuf),
    /// The server failed.
    Server(tonic::transport::Error),
}

impl std::fmt::Display for ServeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ServeError::Socket(path, e) => write!(f, "cannot listen on {}: {e}", path.display()),
            ServeError::InUse(path) => write!(f, "another process serves on {}", path.display()),
            ServeError::Server(e) => write!(f, "the gRPC server failed: {e}"),
        }
    }
}

impl std::error::Error for ServeError {}

/// Listens; a socket that a dead process left is replaced.
async fn listen(path: &Path) -> Result<UnixListener, ServeError> {
    let socket = |e| ServeError::Socket(path.to_owned(), e);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(socket)?;
    }
    match tokio::net::UnixStream::connect(path).await {
        Ok(_) => return Err(ServeError::InUse(path.to_owned())),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path).map_err(socket)?,
        Err(_) => {}
    }
    UnixListener::bind(path).map_err(socket)
}

/// Serves a plugin on the socket until `shutdown` ends. The socket is gone afterwards.
pub async fn serve<C: ControlPlane + Ready + Clone>(
    socket: &Path,
    plugin: Plugin<C>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let incoming = UnixListenerStream::new(listen(socket).await?);
    let mut server = tonic::transport::Server::builder();
    let served = match plugin {
        Plugin::Controller(controller) => {
            let identity = Identity(controller.control_plane().clone());
            let router = server.add_service(IdentityServer::new(identity));
            let router = router.add_service(ControllerServer::new(controller));
            router.serve_with_incoming_shutdown(incoming, shutdown).await
        }
        Plugin::Node(node) => {
            let router = server.add_service(IdentityServer::new(Identity(Always)));
            router.add_service(NodeServer::new(node)).serve_with_incoming_shutdown(incoming, shutdown).await
        }
    };
    // It may have been replaced already; what matters is that none is left that nobody serves.
    let _ = std::fs::remove_file(socket);
    served.map_err(ServeError::Server)
}
