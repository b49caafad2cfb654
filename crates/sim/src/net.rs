//! TCP in a box: ordered bytes inside one connection, arbitrary segmentation, no order between connections.
//!
//! | fault | model |
//! |---|---|
//! | reset | both ends get an error at once, at whatever byte they are |
//! | cut, in one direction or both | bytes and ends of connections wait, without an error; new connections time out |
//! | slow | each segment takes longer |
//! | half-open | a connection whose bytes and end never arrive; new ones work |
//! | refused | new connections get an error |
//! | machine gone | no end is told; whoever sends to it is reset once the machine is there again |

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
/// How long a connection attempt waits for an answer.
const CONNECT_PATIENCE: Duration = Duration::from_secs(30);

/// The network of a world.
#[derive(Default)]
pub struct Net {
    names: RefCell<Vec<String>>,
    listeners: RefCell<BTreeMap<SocketAddr, Weak<SimListener>>>,
    connections: RefCell<Vec<Weak<Pipe>>>,
    isolated: RefCell<BTreeSet<IpAddr>>,
    /// Directions in which nothing arrives.
    cuts: RefCell<BTreeSet<(IpAddr, IpAddr)>>,
    /// Directions in which everything takes so much longer.
    slow: RefCell<BTreeMap<(IpAddr, IpAddr), Duration>>,
    refusing: RefCell<BTreeSet<IpAddr>>,
    /// Machines that have no power now.
    down: RefCell<BTreeSet<IpAddr>>,
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
    /// What the sender did to its end.
    end: Cell<End>,
    /// What the reader knows of that.
    seen: Cell<End>,
    fate: Cell<Fate>,
    readable: Notify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    /// The sender closed; the reader sees it after the last byte.
    Closed,
    /// Reset: both sides get an error at once.
    Reset,
}

/// What becomes of a direction's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// They arrive.
    Arrive,
    /// They are lost, and nobody is told.
    Lost,
    /// The reader's machine forgot the connection: whoever sends is reset, when the machine is there.
    Unknown,
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
        for pipe in self.pipes(|p| p.touches(ip)) {
            pipe.reset();
        }
    }

    /// Lets the connections that there are between two nodes fall silent for good: nothing arrives any more, and neither
    /// end is told. New ones work.
    pub fn silence(&self, a: &str, b: &str) {
        let (a, b) = (self.address_of(a), self.address_of(b));
        for pipe in self.pipes(|p| a != b && p.touches(a) && p.touches(b)) {
            pipe.fate.set(Fate::Lost);
        }
    }

    /// Cuts a node off (`true`): bytes to and from it wait without an error, new connections time out. Or lets it back.
    pub fn isolate(&self, name: &str, cut_off: bool) {
        let ip = self.address_of(name);
        if cut_off {
            self.isolated.borrow_mut().insert(ip);
        } else {
            self.isolated.borrow_mut().remove(&ip);
            self.release();
        }
    }

    /// Cuts one direction (`true`), or lets what waits there arrive.
    pub fn cut(&self, from: &str, to: &str, cut: bool) {
        let way = (self.address_of(from), self.address_of(to));
        if cut {
            self.cuts.borrow_mut().insert(way);
        } else {
            self.cuts.borrow_mut().remove(&way);
            self.release();
        }
    }

    /// Lets everything in one direction take so much longer from now on; zero for no longer than usual.
    pub fn slow(&self, from: &str, to: &str, by: Duration) {
        let way = (self.address_of(from), self.address_of(to));
        if by.is_zero() {
            self.slow.borrow_mut().remove(&way);
        } else {
            self.slow.borrow_mut().insert(way, by);
        }
    }

    /// Lets a node refuse new connections, or take them again.
    pub fn refuse(&self, name: &str, refused: bool) {
        let ip = self.address_of(name);
        if refused {
            self.refusing.borrow_mut().insert(ip);
        } else {
            self.refusing.borrow_mut().remove(&ip);
        }
    }

    /// Ends all cuts, delays and refusals.
    pub fn heal(&self) {
        self.isolated.borrow_mut().clear();
        self.cuts.borrow_mut().clear();
        self.slow.borrow_mut().clear();
        self.refusing.borrow_mut().clear();
        self.release();
    }

    /// Whether bytes from one node reach another now.
    pub fn reaches(&self, from: &str, to: &str) -> bool {
        let (from, to) = (self.address_of(from), self.address_of(to));
        !self.is_cut(from, to) && !self.down.borrow().contains(&to)
    }

    /// How much longer than usual bytes from one node to another take now.
    pub fn delay(&self, from: &str, to: &str) -> Duration {
        self.slowness(self.address_of(from), self.address_of(to))
    }

    /// A process has ended: its system resets its connections.
    pub(crate) fn forget(&self, core: &Rc<Core>, ip: IpAddr) {
        self.listeners.borrow_mut().retain(|address, _| address.ip() != ip);
        for pipe in self.pipes(|p| p.to.ip() == ip) {
            pipe.see(End::Reset);
            pipe.fate.set(Fate::Unknown);
        }
        for pipe in self.pipes(|p| p.from.ip() == ip) {
            pipe.end.set(End::Reset);
            pipe.tell_end(core);
        }
    }

    /// A machine is gone without a word.
    pub(crate) fn vanish(&self, ip: IpAddr) {
        self.down.borrow_mut().insert(ip);
        self.listeners.borrow_mut().retain(|address, _| address.ip() != ip);
        for pipe in self.pipes(|p| p.to.ip() == ip) {
            pipe.fate.set(Fate::Unknown);
        }
        for pipe in self.pipes(|p| p.from.ip() == ip) {
            pipe.fate.set(Fate::Lost);
        }
    }

    pub(crate) fn appear(&self, ip: IpAddr) {
        self.down.borrow_mut().remove(&ip);
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

    fn pipes(&self, wanted: impl Fn(&Pipe) -> bool) -> Vec<Rc<Pipe>> {
        let all = self.connections.borrow();
        all.iter().filter_map(Weak::upgrade).filter(|p| wanted(p)).collect()
    }

    /// Lets arrive what waited for a cut to end.
    fn release(&self) {
        for pipe in self.pipes(|p| !self.is_cut(p.from.ip(), p.to.ip())) {
            pipe.deliver(usize::MAX);
            if pipe.end.get() != End::Open && pipe.fate.get() == Fate::Arrive {
                pipe.see(pipe.end.get());
            }
        }
    }

    fn is_cut(&self, from: IpAddr, to: IpAddr) -> bool {
        let isolated = self.isolated.borrow();
        from != to && (isolated.contains(&from) || isolated.contains(&to) || self.cuts.borrow().contains(&(from, to)))
    }

    fn slowness(&self, from: IpAddr, to: IpAddr) -> Duration {
        self.slow.borrow().get(&(from, to)).copied().unwrap_or_default()
    }

    fn port(&self) -> u16 {
        let port = self.next_port.get().max(40_000);
        self.next_port.set(if port == 65_000 { 40_000 } else { port + 1 });
        port
    }

    pub(crate) fn listen(&self, mut address: SocketAddr) -> io::Result<AnyListener> {
        if address.port() == 0 {
            address.set_port(self.port());
        }
        let mut listeners = self.listeners.borrow_mut();
        if listeners.get(&address).is_some_and(|l| l.strong_count() > 0) {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "address already in use"));
        }
        let listener = Rc::new(SimListener { address, backlog: Queue::default() });
        listeners.insert(address, Rc::downgrade(&listener));
        Ok(listener)
    }

    pub(crate) async fn connect(&self, core: &Rc<Core>, from: IpAddr, to: SocketAddr) -> io::Result<AnyStream> {
        let there_and_back = self.slowness(from, to.ip()) + self.slowness(to.ip(), from);
        pause(core, core.between(LATENCY.0, LATENCY.1) * 2 + there_and_back).await;
        let silent = self.down.borrow().contains(&to.ip());
        if silent || self.is_cut(from, to.ip()) || self.is_cut(to.ip(), from) {
            pause(core, CONNECT_PATIENCE).await;
            return Err(io::ErrorKind::TimedOut.into());
        }
        let listener = self.listeners.borrow().get(&to).and_then(Weak::upgrade);
        let listener = listener.filter(|_| !self.refusing.borrow().contains(&to.ip()));
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

async fn pause(core: &Rc<Core>, time: Duration) {
    let (tx, rx) = oneshot::channel();
    core.after(time, move || {
        // Whoever waited may have given up.
        let _ = tx.send(());
    });
    let _ = rx.await;
}

impl Pipe {
    fn new(from: SocketAddr, to: SocketAddr) -> Pipe {
        Pipe {
            from,
            to,
            arrived: RefCell::default(),
            flying: RefCell::default(),
            end: Cell::new(End::Open),
            seen: Cell::new(End::Open),
            fate: Cell::new(Fate::Arrive),
            readable: Notify::default(),
        }
    }
    fn touches(&self, ip: IpAddr) -> bool {
        self.from.ip() == ip || self.to.ip() == ip
    }
    /// Both ends get an error.
    fn reset(&self) {
        self.end.set(End::Reset);
        self.see(End::Reset);
    }
    fn see(&self, end: End) {
        if self.seen.get() != End::Reset {
            self.seen.set(end);
        }
        if end == End::Reset {
            self.flying.borrow_mut().clear();
        }
        self.readable.notify();
    }
    /// The sender has ended: the reader hears of it, unless the way is cut.
    fn tell_end(self: &Rc<Pipe>, core: &Rc<Core>) {
        let (pipe, weak) = (self.clone(), Rc::downgrade(core));
        let delay = core.between(LATENCY.0, LATENCY.1) + core.net.slowness(self.from.ip(), self.to.ip());
        core.after(delay, move || {
            let Some(core) = weak.upgrade() else { return };
            if pipe.fate.get() == Fate::Arrive && !core.net.is_cut(pipe.from.ip(), pipe.to.ip()) {
                pipe.see(pipe.end.get());
            }
        });
    }
    fn deliver(&self, at_most: usize) {
        let mut flying = self.flying.borrow_mut();
        let n = at_most.min(flying.len());
        if self.fate.get() == Fate::Arrive && self.seen.get() != End::Reset {
            self.arrived.borrow_mut().extend(flying.drain(..n));
            self.readable.notify();
        } else {
            flying.drain(..n);
        }
    }
    /// Moves bytes that have arrived into `into`.
    fn take(&self, into: &mut [u8]) {
        let mut arrived = self.arrived.borrow_mut();
        let (front, back) = arrived.as_slices();
        let n = front.len().min(into.len());
        into[..n].copy_from_slice(&front[..n]);
        let rest = into.len() - n;
        into[n..].copy_from_slice(&back[..rest]);
        arrived.drain(..into.len());
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

impl SimStream {
    /// Lets a segment arrive after its delay; a machine that does not know the connection answers with a reset.
    fn send_segment(&self, core: &Rc<Core>, bytes: usize, delay: Duration) {
        let (there, back) = (self.outgoing.clone(), self.incoming.clone());
        let weak = self.core.clone();
        core.after(delay, move || {
            let Some(core) = weak.upgrade() else { return };
            let (from, to) = (there.from.ip(), there.to.ip());
            if core.net.is_cut(from, to) {
                return;
            }
            there.deliver(bytes);
            let known = there.fate.get() != Fate::Unknown || core.net.down.borrow().contains(&to);
            if !known && !core.net.is_cut(to, from) {
                there.end.set(End::Reset);
                back.see(End::Reset);
            }
        });
    }

    fn end(&self) {
        if self.outgoing.end.get() == End::Open {
            self.outgoing.end.set(End::Closed);
            if let Some(core) = self.core.upgrade() {
                self.outgoing.tell_end(&core);
            }
        }
        // What the peer still sends meets a closed socket.
        self.incoming.see(End::Reset);
        if self.incoming.fate.get() == Fate::Arrive {
            self.incoming.fate.set(Fate::Unknown);
        }
    }
}

impl Stream for SimStream {
    fn recv(&self, mut buf: BufMut, from: usize, max: usize) -> LocalFuture<'_, (BufMut, io::Result<usize>)> {
        Box::pin(async move {
            loop {
                let pipe = &self.incoming;
                if pipe.seen.get() == End::Reset {
                    return (buf, Err(io::ErrorKind::ConnectionReset.into()));
                }
                let n = pipe.arrived.borrow().len().min(max).min(buf.len().saturating_sub(from));
                if n > 0 {
                    pipe.take(&mut buf[from..from + n]);
                    return (buf, Ok(n));
                }
                if pipe.seen.get() == End::Closed && pipe.flying.borrow().is_empty() {
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
            let more = core.net.slowness(self.outgoing.from.ip(), self.outgoing.to.ip());
            let mut left = total;
            let mut latest = Duration::ZERO;
            while left > 0 {
                let n = core.entropy.borrow_mut().between(1, left as u64) as usize;
                let n = if n * 8 < total { left } else { n };
                left -= n;
                let delay = core.between(LATENCY.0, LATENCY.1);
                latest = latest.max(delay);
                self.send_segment(&core, n, delay + more);
            }
            pause(&core, latest / 2).await;
            if self.outgoing.end.get() == End::Reset { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
        })
    }

    fn shutdown(&self) {
        self.end();
    }

    fn peer(&self) -> SocketAddr {
        self.outgoing.to
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        self.end();
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
