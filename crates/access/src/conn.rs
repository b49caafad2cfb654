//! Accepted connections, encrypted or not, as gRPC and HTTP servers take them.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::role::Caller;
use crate::tls::Tls;

/// A peer that does not finish its handshake in this time is let go.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How many may be in the middle of it.
const HANDSHAKES: usize = 256;
/// The pause after the system refused to accept, as when there are too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// Who is at the other end.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// Its address.
    pub address: Option<SocketAddr>,
    /// Whom its certificate names.
    pub certified: Option<Arc<Caller>>,
}

/// A connection.
pub struct Conn {
    io: Io,
    peer: Peer,
}

enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connected for Conn {
    type ConnectInfo = Peer;
    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl Conn {
    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

impl AsyncRead for Conn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_flush(cx),
            Io::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Io::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

/// Accepts connections until it is dropped. Handshakes run beside each other: one that hangs holds up nobody.
pub struct Incoming {
    conns: mpsc::Receiver<Conn>,
    task: tokio::task::JoinHandle<()>,
    address: io::Result<SocketAddr>,
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Incoming {
    /// Accepts on this socket; with `tls`, encrypted connections only.
    pub fn new(listener: TcpListener, tls: Option<Tls>) -> Incoming {
        let (send, conns) = mpsc::channel(16);
        let address = listener.local_addr();
        Incoming { conns, task: tokio::spawn(accept(listener, tls, send)), address }
    }
    /// The next one.
    pub async fn next(&mut self) -> Option<Conn> {
        self.conns.recv().await
    }
    /// Where it listens.
    ///
    /// # Errors
    /// The system did not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.address.as_ref().copied().map_err(|e| io::Error::new(e.kind(), e.to_string()))
    }
}

impl tokio_stream::Stream for Incoming {
    type Item = Result<Conn, io::Error>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.conns.poll_recv(cx).map(|conn| conn.map(Ok))
    }
}

async fn accept(listener: TcpListener, tls: Option<Tls>, send: mpsc::Sender<Conn>) {
    let slots = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        // A connection without it works too, only slower.
        let _ = stream.set_nodelay(true);
        let peer = Peer { address: Some(address), certified: None };
        let Some(tls) = &tls else {
            if send.send(Conn { io: Io::Plain(stream), peer }).await.is_err() {
                return;
            }
            continue;
        };
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let (tls, send) = (tls.clone(), send.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                Ok(Ok((stream, certified))) => {
                    drop(slot);
                    let peer = Peer { certified: certified.map(Arc::new), ..peer };
                    // The server may be gone.
                    let _ = send.send(Conn { io: Io::Tls(Box::new(stream)), peer }).await;
                }
                Ok(Err(error)) => tracing::info!("{address} speaks no TLS that fits: {error}"),
                Err(_) => tracing::info!("{address} did not finish its TLS handshake"),
            }
        });
    }
}
