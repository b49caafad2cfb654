//! Encrypted connections by TLS 1.2 and 1.3, and certificates as credentials.
//!
//! A certificate names its bearer and role by a URI among its subject's alternative names:
//! `mayastor://ROLE/NAME`, for example `mayastor://operate/csi`. The authority in `--tls-client-ca` vouches for it.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::role::{Caller, is_name};

/// Which files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The certificate and those that lead to its authority, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn wrong(path: &Path, why: impl std::fmt::Display) -> String {
    format!("{}: {why}", path.display())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).map_err(|e| wrong(path, e))?;
    let all = read.collect::<Result<Vec<_>, _>>().map_err(|e| wrong(path, e))?;
    if all.is_empty() { Err(wrong(path, "there is no certificate in it")) } else { Ok(all) }
}

fn roots(path: &Path) -> Result<Arc<RootCertStore>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|e| wrong(path, e))?;
    }
    Ok(Arc::new(roots))
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(path).map_err(|e| wrong(path, e))
}

/// The server's side. A certificate that is replaced on the disk is used for the next connection.
#[derive(Clone, Debug)]
pub struct Tls(Arc<Server>);

#[derive(Debug)]
struct Server {
    identity: Identity,
    client_ca: Option<PathBuf>,
    loaded: Mutex<Loaded>,
}

struct Loaded {
    at: Option<SystemTime>,
    config: Arc<ServerConfig>,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Loaded({:?})", self.at)
    }
}

impl Server {
    fn read(identity: &Identity, client_ca: Option<&Path>) -> Result<Arc<ServerConfig>, String> {
        let builder = ServerConfig::builder_with_provider(provider());
        let builder = builder.with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(roots(path)?, provider());
                // Who has none may show a token.
                let verifier = verifier.allow_unauthenticated().build().map_err(|e| wrong(path, e))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let (chain, key) = (certificates(&identity.certificate)?, key(&identity.key)?);
        let mut config = builder.with_single_cert(chain, key).map_err(|e| wrong(&identity.certificate, e))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// The latest time that one of the files was changed.
    fn changed(&self) -> Option<SystemTime> {
        let files = [Some(&self.identity.certificate), Some(&self.identity.key), self.client_ca.as_ref()];
        files.into_iter().flatten().filter_map(|p| std::fs::metadata(p).and_then(|m| m.modified()).ok()).max()
    }

    fn config(&self) -> Arc<ServerConfig> {
        let mut loaded = self.loaded.lock().expect("nobody panics while holding it");
        let now = self.changed();
        if now != loaded.at {
            loaded.at = now;
            match Server::read(&self.identity, self.client_ca.as_deref()) {
                Ok(config) => loaded.config = config,
                // Between the change of one file and that of the other they may not fit.
                Err(why) => tracing::error!("{why}; the certificate from before is used"),
            }
        }
        loaded.config.clone()
    }
}

impl Tls {
    /// Serves with this certificate; with `client_ca`, certificates that it signed are credentials.
    ///
    /// # Errors
    /// A file cannot be read or understood.
    pub fn new(identity: Identity, client_ca: Option<PathBuf>) -> Result<Tls, String> {
        let config = Server::read(&identity, client_ca.as_deref())?;
        let loaded = Mutex::new(Loaded { at: None, config });
        let server = Server { identity, client_ca, loaded };
        server.config();
        Ok(Tls(Arc::new(server)))
    }

    /// Does the handshake, and says whom the peer's certificate names.
    ///
    /// # Errors
    /// The peer speaks no TLS, or its certificate is not valid.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<(server::TlsStream<TcpStream>, Option<Caller>)> {
        let stream = TlsAcceptor::from(self.0.config()).accept(stream).await?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let caller = chain.first().and_then(named);
        Ok((stream, caller))
    }
}

/// Whom a certificate names, see the module. Its signature was checked in the handshake.
fn named(certificate: &CertificateDer<'_>) -> Option<Caller> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    certificate.valid_uri_names().find_map(caller)
}

fn caller(uri: &str) -> Option<Caller> {
    let (role, name) = uri.strip_prefix("mayastor://")?.split_once('/')?;
    is_name(name).then_some(())?;
    Some(Caller { name: name.to_owned(), role: role.parse().ok()? })
}

/// The caller's side: a connector for `tonic`.
#[derive(Clone)]
pub struct Client {
    config: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({:?})", self.name)
    }
}

impl Client {
    /// Trusts servers whose certificates an authority in `ca` signed for the name that is called, or for `name`. Shows the
    /// certificate of `identity`.
    ///
    /// # Errors
    /// A file cannot be read or understood.
    pub fn new(ca: &Path, identity: Option<&Identity>, name: Option<&str>) -> Result<Client, String> {
        let builder = ClientConfig::builder_with_provider(provider());
        let builder = builder.with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
        let builder = builder.with_root_certificates(roots(ca)?);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => builder
                .with_client_auth_cert(certificates(&identity.certificate)?, key(&identity.key)?)
                .map_err(|e| wrong(&identity.certificate, e))?,
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let parse = |name: &str| ServerName::try_from(name.to_owned()).map_err(|e| format!("{name:?}: {e}"));
        Ok(Client { config: Arc::new(config), name: name.map(parse).transpose()? })
    }
}

impl tower_service::Service<http::Uri> for Client {
    type Response = hyper_util::rt::TokioIo<client::TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: http::Uri) -> Self::Future {
        let Client { config, name } = self.clone();
        Box::pin(async move {
            let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
            let host = uri.host().ok_or_else(|| invalid(format!("{uri} has no host")))?;
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let port = uri.port_u16().ok_or_else(|| invalid(format!("{uri} has no port")))?;
            let stream = TcpStream::connect((host.as_str(), port)).await?;
            stream.set_nodelay(true)?;
            let name = match name {
                Some(name) => name,
                None => ServerName::try_from(host).map_err(|e| invalid(e.to_string()))?,
            };
            TlsConnector::from(config).connect(name, stream).await.map(hyper_util::rt::TokioIo::new)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::role::Role;

    #[test]
    fn a_uri_names_a_role_and_a_bearer() {
        let known = caller("mayastor://operate/csi-1");
        assert_eq!(known, Some(Caller { name: "csi-1".into(), role: Role::Operate }));
        for other in [
            "mayastor://root/x",
            "mayastor://admin",
            "mayastor://admin/",
            "mayastor://admin/a/b",
            "mayastor://admin/a b",
            "https://admin/x",
            "",
        ] {
            assert_eq!(caller(other), None, "{other}");
        }
    }
}
