//! TCP.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use block::{Buf, BufMut};
use host::{AnyStream, LocalFuture};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, ipproto, sockopt};

use crate::action::{Action, Message};
use crate::core::{Core, Slot};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// One connection.
pub(crate) struct TcpStream {
    core: Rc<Core>,
    fd: Rc<OwnedFd>,
    peer: SocketAddr,
    incoming: Rc<Slot>,
    outgoing: Rc<Slot>,
    /// The message of the last send, for the next one.
    spare: RefCell<Option<Box<Message>>>,
    end: Cell<End>,
}

/// Whether the connection can still be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It can.
    Open,
    /// A send was given up half way: what the peer has of it is not known, so nothing may follow.
    Torn,
    /// Shut down by us.
    Shut,
}

/// Marks the stream when a send is dropped before its end.
struct Tear<'a>(&'a TcpStream);

impl Drop for Tear<'_> {
    fn drop(&mut self) {
        if self.0.end.get() == End::Open {
            self.0.end.set(End::Torn);
        }
        self.0.core.cancel_slot(&self.0.outgoing);
    }
}

impl TcpStream {
    fn new(core: Rc<Core>, fd: OwnedFd, peer: SocketAddr) -> io::Result<TcpStream> {
        sockopt::set_tcp_nodelay(&fd, true)?;
        let (incoming, outgoing) = Default::default();
        Ok(TcpStream {
            core,
            fd: Rc::new(fd),
            peer,
            incoming,
            outgoing,
            spare: RefCell::default(),
            end: Cell::new(End::Open),
        })
    }

    fn usable(&self) -> io::Result<()> {
        match self.end.get() {
            _ if self.core.is_closed() => Err(io::ErrorKind::NotConnected.into()),
            End::Open => Ok(()),
            End::Torn => Err(io::Error::new(io::ErrorKind::BrokenPipe, "an earlier send was given up half way")),
            End::Shut => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    async fn recv(&self, mut buf: BufMut, from: usize, max: usize) -> (BufMut, io::Result<usize>) {
        let max = max.min(buf.len().saturating_sub(from));
        assert!(max > 0, "a receive of no bytes");
        if self.end.get() == End::Shut || self.core.is_closed() {
            return (buf, Err(io::ErrorKind::NotConnected.into()));
        }
        if !self.incoming.is_idle() {
            // An earlier receive was dropped; its bytes come first.
            let (action, result) = self.incoming.wait().await;
            let result = self.adopt(action, result, &mut buf[from..from + max]);
            return (buf, result);
        }
        self.core.start_slot(&self.fd, Action::Recv { buf, from, to: from + max }, &self.incoming);
        loop {
            let (action, result) = self.incoming.wait().await;
            let Action::Recv { buf, from, to } = action else { unreachable!("a receive landed") };
            match result {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                    self.core.start_slot(&self.fd, Action::Recv { buf, from, to }, &self.incoming);
                }
                Ok(0) if self.end.get() == End::Shut => return (buf, Err(io::ErrorKind::NotConnected.into())),
                result => return (buf, result),
            }
        }
    }

    /// Hands over what a dropped receive has received; keeps what does not fit.
    fn adopt(&self, action: Action, result: io::Result<usize>, target: &mut [u8]) -> io::Result<usize> {
        let Action::Recv { buf, from, to } = action else { unreachable!("a receive landed") };
        let got = result?;
        let n = got.min(target.len());
        target[..n].copy_from_slice(&buf[from..from + n]);
        if n < got {
            self.incoming.put_back(Action::Recv { buf, from: from + n, to }, Ok(got - n));
        }
        Ok(n)
    }

    async fn send(&self, bufs: Vec<Buf>) -> io::Result<()> {
        self.usable()?;
        assert!(self.outgoing.is_idle(), "one send at a time");
        let mut message = self.spare.take().unwrap_or_else(Message::empty);
        message.load(bufs);
        let tear = Tear(self);
        while !message.is_done() {
            self.core.start_slot(&self.fd, Action::Send(message), &self.outgoing);
            let (action, result) = self.outgoing.wait().await;
            let Action::Send(back) = action else { unreachable!("a send landed") };
            message = back;
            match result {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => (),
                result => message.advance(result?),
            }
        }
        std::mem::forget(tear);
        message.clear();
        self.spare.replace(Some(message));
        Ok(())
    }
}

impl host::Stream for TcpStream {
    fn recv(&self, buf: BufMut, from: usize, max: usize) -> LocalFuture<'_, (BufMut, io::Result<usize>)> {
        Box::pin(self.recv(buf, from, max))
    }
    fn send(&self, bufs: Vec<Buf>) -> LocalFuture<'_, io::Result<()>> {
        Box::pin(self.send(bufs))
    }
    fn shutdown(&self) {
        self.end.set(End::Shut);
        // It fails when the connection is gone already.
        let _ = rustix::net::shutdown(&*self.fd, Shutdown::Both);
    }
    fn peer(&self) -> SocketAddr {
        self.peer
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        // The socket closes when the kernel has given back the last operation on it.
        self.core.cancel_slot(&self.incoming);
        self.core.cancel_slot(&self.outgoing);
    }
}

/// A listening socket.
pub(crate) struct TcpListener {
    core: Rc<Core>,
    fd: Rc<OwnedFd>,
    local: SocketAddr,
    incoming: Rc<Slot>,
}

/// Binds and listens.
pub(crate) fn listen(core: &Rc<Core>, address: SocketAddr) -> io::Result<TcpListener> {
    let fd = rustix::net::socket_with(family(address), SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    rustix::net::bind(&fd, &address)?;
    rustix::net::listen(&fd, BACKLOG)?;
    let local = SocketAddr::try_from(rustix::net::getsockname(&fd)?)?;
    Ok(TcpListener { core: core.clone(), fd: Rc::new(fd), local, incoming: Rc::default() })
}

impl TcpListener {
    async fn accept(&self) -> io::Result<AnyStream> {
        loop {
            if self.core.is_closed() {
                return Err(io::ErrorKind::NotConnected.into());
            }
            if self.incoming.is_idle() {
                self.core.start_slot(&self.fd, Action::Accept(None), &self.incoming);
            }
            // When an earlier accept was dropped, this is its connection.
            let (action, result) = self.incoming.wait().await;
            match (action, result) {
                (Action::Accept(Some(fd)), Ok(_)) => {
                    // It may be reset by now; then it never was.
                    let Ok(Some(peer)) = rustix::net::getpeername(&fd) else { continue };
                    return Ok(Rc::new(TcpStream::new(self.core.clone(), fd, peer.try_into()?)?));
                }
                (_, Err(e)) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) => (),
                (_, Err(e)) => return Err(e),
                (_, Ok(_)) => unreachable!("an accept makes a descriptor"),
            }
        }
    }
}

impl host::Listener for TcpListener {
    fn accept(&self) -> LocalFuture<'_, io::Result<AnyStream>> {
        Box::pin(self.accept())
    }
    fn local(&self) -> SocketAddr {
        self.local
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        self.core.cancel_slot(&self.incoming);
        // Peers are refused from now on, not when the kernel has given back the accept.
        let _ = rustix::net::shutdown(&*self.fd, Shutdown::Both);
    }
}

/// Resolves the name and connects to the first of its addresses that answers.
pub(crate) async fn connect(core: Rc<Core>, name: String, port: u16) -> io::Result<AnyStream> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, format!("{name} has no address"));
    for address in resolve(&core, name, port).await? {
        match connect_to(&core, address).await {
            Ok(stream) => return Ok(Rc::new(stream)),
            Err(e) => failure = e,
        }
    }
    Err(failure)
}

async fn resolve(core: &Core, name: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = name.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    core.helpers.run(move || Ok((name.as_str(), port).to_socket_addrs()?.collect())).await
}

/// Ends the wait for a connect that nobody wants any more.
struct Pending<'a>(&'a Core, Rc<Slot>);

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.cancel_slot(&self.1);
    }
}

async fn connect_to(core: &Rc<Core>, address: SocketAddr) -> io::Result<TcpStream> {
    if core.is_closed() {
        return Err(io::ErrorKind::NotConnected.into());
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(family(address), SocketType::STREAM, flags, Some(ipproto::TCP))?;
    let fd = match rustix::net::connect(&fd, &address) {
        Ok(()) => fd,
        Err(Errno::INPROGRESS) => {
            let fd = Rc::new(fd);
            let pending = Pending(core, Rc::default());
            core.start_slot(&fd, Action::Writable, &pending.1);
            pending.1.wait().await.1?;
            sockopt::socket_error(&*fd)??;
            Rc::try_unwrap(fd).expect("the wait has ended")
        }
        Err(e) => return Err(e.into()),
    };
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    rustix::fs::fcntl_setfl(&fd, flags - OFlags::NONBLOCK)?;
    TcpStream::new(core.clone(), fd, address)
}

fn family(address: SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}
