//! TCP in a box: ordered bytes inside one connection, arbitrary segmentation, no order between connections; connections
//! can be cut, refused or fall silent.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::{Rc, Weak};
use std::time::Duration;

use block::{Buf, BufMut};
use futures_channel::oneshot;
use host::{AnyListener, AnyStream, Listener, LocalFuture, Notify, Queue, Stream};

use crate::world::Core;

/// One-way latency of a segment.
const LATENCY: (Duration, Duration) = (Duration::from_micros(10), Duration::from_micros(200));

/// The network of a world.
#[derive(Default)]
pub struct Net {
    names: RefCell<Vec<String>>,
    listeners: RefCell<BTreeMap<SocketAddr, Weak<SimListener>>>,
    connections: RefCell<Vec<Weak<Pipe>>>,
    isolated: RefCell<BTreeSet<IpAddr>>,
    next_port: Cell<u16>,
}

/// One direction of a connection.
struct Pipe {
    from: SocketAddr,
    to: SocketAddr,
    /// Bytes that have arrived, in order.
    arrived: RefCell<VecDeque<u8>>,
    /// Bytes on their way, in order; each delivery event moves some.
    flying: RefCell<VecDeque<u8>>,
    end: Cell<End>,
    readable: Notify,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    /// The sender closed; the reader sees it after the last byte.
    Closed,
    /// Reset: both sides get an error at once.
    Reset,
}

impl Net {
    /// The address of a node; the first name asked for gets 10.0.0.1.
    pub fn address_of(&self, name: &str) -> IpAddr {
        let mut names = self.names.borrow_mut();
        let k = names.iter().position(|n| n == name).unwrap_or_else(|| {
            names.push(name.to_owned());
            names.len() - 1
        });
        Ipv4Addr::new(10, 0, 0, u8::try_from(k + 1).expect("fewer than 255 nodes")).into()
    }

    /// Resets every connection from or to a node, at whatever byte they are.
    pub fn reset(&self, name: &str) {
        let ip = self.address_of(name);
        for pipe in self.pipes_of(ip) {
            pipe.end(End::Reset);
        }
    }

    /// Cuts a node off (`true`): bytes to and from it wait without an error, new connections time out. Or lets it back.
    pub fn isolate(&self, name: &str, cut_off: bool) {
        let ip = self.address_of(name);
        if cut_off {
            self.isolated.borrow_mut().insert(ip);
            return;
        }
        self.isolated.borrow_mut().remove(&ip);
        for pipe in self.pipes_of(ip) {
            pipe.deliver(usize::MAX);
        }
    }

    pub(crate) fn forget(&self, ip: IpAddr) {
        self.listeners.borrow_mut().retain(|address, _| address.ip() != ip);
        for pipe in self.pipes_of(ip) {
            pipe.end(End::Reset);
        }
    }

    pub(crate) fn resolve(&self, host: &str, own: IpAddr) -> io::Result<IpAddr> {
        if host == "localhost" || host == "127.0.0.1" {
            return Ok(own);
        }
        if let Ok(ip) = host.parse() {
            return Ok(ip);
        }
        let known = self.names.borrow().iter().any(|n| n == host);
        known.then(|| self.address_of(host)).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "unknown host"))
    }

    fn pipes_of(&self, ip: IpAddr) -> Vec<Rc<Pipe>> {
        let all = self.connections.borrow();
        all.iter().filter_map(Weak::upgrade).filter(|p| p.from.ip() == ip || p.to.ip() == ip).collect()
    }

    fn is_cut(&self, a: IpAddr, b: IpAddr) -> bool {
        let isolated = self.isolated.borrow();
        a != b && (isolated.contains(&a) || isolated.contains(&b))
    }

    fn port(&self) -> u16 {
        let port = self.next_port.get().max(40_000);
        self.next_port.set(if port == 65_000 { 40_000 } else { port + 1 });
        port
    }

    pub(crate) fn listen(&self, core: &Rc<Core>, mut address: SocketAddr) -> io::Result<AnyListener> {
        if address.port() == 0 {
            address.set_port(self.port());
        }
        let mut listeners = self.listeners.borrow_mut();
        if listeners.get(&address).is_some_and(|l| l.strong_count() > 0) {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "address already in use"));
        }
        let _ = core;
        let listener = Rc::new(SimListener { address, backlog: Queue::default() });
        listeners.insert(address, Rc::downgrade(&listener));
        Ok(listener)
    }

    pub(crate) async fn connect(&self, core: &Rc<Core>, from: IpAddr, to: SocketAddr) -> io::Result<AnyStream> {
        let (tx, rx) = oneshot::channel();
        core.after(core.between(LATENCY.0, LATENCY.1) * 2, move || {
            let _ = tx.send(());
        });
        let _ = rx.await;
        if self.is_cut(from, to.ip()) {
            let (tx, rx) = oneshot::channel();
            core.after(Duration::from_secs(30), move || {
                let _ = tx.send(());
            });
            let _ = rx.await;
            return Err(io::ErrorKind::TimedOut.into());
        }
        let listener = self.listeners.borrow().get(&to).and_then(Weak::upgrade);
        let Some(listener) = listener else { return Err(io::ErrorKind::ConnectionRefused.into()) };
        let from = SocketAddr::new(from, self.port());
        let there = Rc::new(Pipe::new(from, to));
        let back = Rc::new(Pipe::new(to, from));
        let mut connections = self.connections.borrow_mut();
        connections.retain(|c| c.strong_count() > 0);
        connections.push(Rc::downgrade(&there));
        connections.push(Rc::downgrade(&back));
        let core = Rc::downgrade(core);
        listener.backlog.push(Rc::new(SimStream {
            core: core.clone(),
            incoming: there.clone(),
            outgoing: back.clone(),
        }));
        Ok(Rc::new(SimStream { core, incoming: back, outgoing: there }))
    }
}

impl Pipe {
    fn new(from: SocketAddr, to: SocketAddr) -> Pipe {
        Pipe {
            from,
            to,
            arrived: RefCell::default(),
            flying: RefCell::default(),
            end: Cell::new(End::Open),
            readable: Notify::default(),
        }
    }
    fn end(&self, how: End) {
        if self.end.get() != End::Reset {
            self.end.set(how);
        }
        if how == End::Reset {
            self.flying.borrow_mut().clear();
        }
        self.readable.notify();
    }
    fn deliver(&self, at_most: usize) {
        let mut flying = self.flying.borrow_mut();
        let n = at_most.min(flying.len());
        self.arrived.borrow_mut().extend(flying.drain(..n));
        self.readable.notify();
    }
}

struct SimListener {
    address: SocketAddr,
    backlog: Queue<Rc<SimStream>>,
}

impl Listener for SimListener {
    fn accept(&self) -> LocalFuture<'_, io::Result<AnyStream>> {
        Box::pin(async move { Ok(self.backlog.next().await as AnyStream) })
    }
    fn local(&self) -> SocketAddr {
        self.address
    }
}

struct SimStream {
    core: Weak<Core>,
    incoming: Rc<Pipe>,
    outgoing: Rc<Pipe>,
}

impl Stream for SimStream {
    fn recv(&self, mut buf: BufMut, from: usize, max: usize) -> LocalFuture<'_, (BufMut, io::Result<usize>)> {
        Box::pin(async move {
            loop {
                let pipe = &self.incoming;
                if pipe.end.get() == End::Reset {
                    return (buf, Err(io::ErrorKind::ConnectionReset.into()));
                }
                let n = pipe.arrived.borrow().len().min(max).min(buf.len().saturating_sub(from));
                if n > 0 {
                    for (slot, byte) in buf[from..from + n].iter_mut().zip(pipe.arrived.borrow_mut().drain(..n)) {
                        *slot = byte;
                    }
                    return (buf, Ok(n));
                }
                if pipe.end.get() == End::Closed && pipe.flying.borrow().is_empty() {
                    return (buf, Ok(0));
                }
                pipe.readable.notified().await;
            }
        })
    }

    fn send(&self, bufs: Vec<Buf>) -> LocalFuture<'_, io::Result<()>> {
        Box::pin(async move {
            let Some(core) = self.core.upgrade() else { return Err(io::ErrorKind::BrokenPipe.into()) };
            if self.outgoing.end.get() != End::Open {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let total: usize = bufs.iter().map(|b| b.len()).sum();
            for buf in &bufs {
                self.outgoing.flying.borrow_mut().extend(buf.iter());
            }
            // The bytes arrive in a few segments; which ones is a matter of chance.
            let mut left = total;
            let mut latest = Duration::ZERO;
            while left > 0 {
                let n = core.entropy.borrow_mut().between(1, left as u64) as usize;
                let n = if n * 8 < total { left } else { n };
                left -= n;
                let delay = core.between(LATENCY.0, LATENCY.1);
                latest = latest.max(delay);
                let pipe = self.outgoing.clone();
                let weak = self.core.clone();
                core.after(delay, move || {
                    let Some(core) = weak.upgrade() else { return };
                    if !core.net.is_cut(pipe.from.ip(), pipe.to.ip()) {
                        pipe.deliver(n);
                    }
                });
            }
            let (tx, rx) = oneshot::channel();
            core.after(latest / 2, move || {
                let _ = tx.send(());
            });
            let _ = rx.await;
            if self.outgoing.end.get() == End::Reset { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
        })
    }

    fn shutdown(&self) {
        self.outgoing.end(End::Closed);
        self.incoming.end(End::Reset);
    }

    fn peer(&self) -> SocketAddr {
        self.outgoing.to
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        self.outgoing.end(End::Closed);
        self.incoming.end(End::Closed);
    }
}

#[cfg(test)]
mod tests {
    use crate::World;
    use block::{Buf, BufMut};

    #[test]
    fn bytes_arrive_in_order_and_the_end_is_seen() {
        let world = World::new(3);
        let (server, client) = (world.node("server"), world.node("client"));
        let listener = server.listen("0.0.0.0:0".parse().expect("an address")).expect("a free port");
        let port = listener.local().port();
        server.spawn(async move {
            let stream = listener.accept().await.expect("a connection");
            for k in 0..100u8 {
                stream.send(vec![Buf::copy_of(&[k; 100]), Buf::copy_of(&[k; 7])]).await.expect("sent");
            }
        });
        let got = world.run(async move {
            let stream = client.connect("server", port).await.expect("connected");
            let mut all = Vec::new();
            loop {
                let (buf, n) = stream.recv(BufMut::new(64), 0, 64).await;
                match n.expect("no error") {
                    0 => return all,
                    n => all.extend_from_slice(&buf[..n]),
                }
            }
        });
        let want: Vec<u8> = (0..100u8).flat_map(|k| [k; 107]).collect();
        assert_eq!(got, want);
    }

    #[test]
    fn nobody_listens_is_refused() {
        let world = World::new(3);
        let host = world.host();
        let answer = world.run(async move { host.connect("10.0.0.9", 1).await.map(|_| ()) });
        assert_eq!(answer.expect_err("refused").kind(), std::io::ErrorKind::ConnectionRefused);
    }
}
