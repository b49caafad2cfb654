//! A server with disks in memory, and clients that are one function call away.
#![allow(dead_code, reason = "not every test uses all of it")]

use block::{
    BlockRange, BlockSize, Blocks, Buf, BufMut, Data, Durability, Fault, Features, Geometry, Instant, Outcome, Request,
};
use nbd::client::{Client, ClientOptions, Completed};
use nbd::proto::{GREETING, option, option_bytes};
use nbd::server::{ConnectionId, Effect, Export, ExportId, Outbox, Phase, Server};

pub const BLOCKS: u64 = 20_000;
pub const NAME: &str = "disk";

/// A request at the disk.
pub struct AtDisk {
    pub connection: ConnectionId,
    pub slot: u32,
    pub piece: u32,
    pub request: Request,
}

/// The world of a server.
pub struct World {
    pub server: Server,
    pub export: ExportId,
    pub geometry: Geometry,
    pub bytes: Vec<u8>,
    pub flushed: Vec<u8>,
    pub at_disk: Vec<AtDisk>,
    pub idle: Vec<ExportId>,
    pub faults: Vec<Fault>,
    /// Whether disks answer at once.
    pub prompt: bool,
    pub now: Instant,
}

pub fn geometry(block_size: BlockSize) -> Geometry {
    let features = Features { unmap: true, write_zeroes: true, volatile_cache: true, ends_with_process: false };
    Geometry { block_size, blocks: Blocks(BLOCKS), features }
}

impl World {
    pub fn new() -> World {
        World::of(geometry(BlockSize::B512))
    }

    pub fn of(geometry: Geometry) -> World {
        let mut server = Server::new();
        let export = Export { name: NAME.into(), description: "a disk".into(), geometry };
        let export = server.export(export).expect("a new name");
        let size = geometry.bytes().0 as usize;
        World {
            server,
            export,
            geometry,
            bytes: vec![0; size],
            flushed: vec![0; size],
            at_disk: Vec::new(),
            idle: Vec::new(),
            faults: Vec::new(),
            prompt: true,
            now: Instant(0),
        }
    }

    pub fn accept(&mut self) -> ConnectionId {
        let mut out = Outbox::new();
        let id = self.server.accept(self.now, &mut out).expect("room for a connection");
        self.apply(out);
        id
    }

    /// Gives bytes to a connection, at most `piece` at a time, as long as it listens.
    pub fn deliver(&mut self, id: ConnectionId, mut bytes: &[u8], piece: usize) -> usize {
        let whole = bytes.len();
        while !bytes.is_empty() && self.server.phase(id) == Phase::Open {
            let Some(mut place) = self.server.receive(id) else { break };
            assert!(place.max > 0 && place.from + place.max <= place.buf.len());
            let n = bytes.len().min(place.max).min(piece);
            place.buf[place.from..place.from + n].copy_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            let mut out = Outbox::new();
            self.server.on_received(id, place.buf, n, &mut out);
            self.apply(out);
        }
        whole - bytes.len()
    }

    /// What a connection has to say.
    pub fn output(&mut self, id: ConnectionId) -> Vec<u8> {
        let bytes: Vec<u8> = self.server.take_output(id).iter().flat_map(|b| b.to_vec()).collect();
        if !bytes.is_empty() {
            let mut out = Outbox::new();
            self.server.on_sent(id, &mut out);
            self.apply(out);
        }
        bytes
    }

    fn apply(&mut self, out: Outbox) {
        for effect in out {
            match effect {
                Effect::Submit { connection, slot, piece, export, request } => {
                    assert_eq!(export, self.export);
                    request.check(&self.geometry).expect("only good requests reach the disk");
                    self.at_disk.push(AtDisk { connection, slot, piece, request });
                }
                Effect::Idle(export) => self.idle.push(export),
                Effect::Wake(_) | Effect::Timer => {}
            }
        }
        while self.prompt && !self.at_disk.is_empty() {
            self.answer(0);
        }
    }

    /// The disk answers one request.
    pub fn answer(&mut self, which: usize) {
        let AtDisk { connection, slot, piece, request } = self.at_disk.remove(which);
        let outcome = match self.faults.pop() {
            Some(fault) => Err(fault),
            None => self.carry_out(request),
        };
        let mut out = Outbox::new();
        self.server.on_done(connection, slot, piece, outcome, &mut out);
        self.apply(out);
    }

    pub fn answer_all(&mut self) {
        while !self.at_disk.is_empty() {
            self.answer(0);
        }
    }

    fn place(&self, range: BlockRange) -> std::ops::Range<usize> {
        let size = self.geometry.block_size;
        size.bytes_of(Blocks(range.start.0)).0 as usize..size.bytes_of(Blocks(range.end().0)).0 as usize
    }

    fn carry_out(&mut self, request: Request) -> Outcome {
        let is_durable = matches!(
            request,
            Request::Write { durability: Durability::Durable, .. }
                | Request::WriteZeroes { durability: Durability::Durable, .. }
        );
        let place = request.range().map(|range| self.place(range));
        let data = match request {
            Request::Read { .. } => Data::from(Buf::copy_of(&self.bytes[place.clone().expect("a range")])),
            Request::Write { data, .. } => {
                self.bytes[place.clone().expect("a range")].copy_from_slice(&data);
                Data::empty()
            }
            Request::Unmap { .. } | Request::WriteZeroes { .. } => {
                self.bytes[place.clone().expect("a range")].fill(0);
                Data::empty()
            }
            Request::Flush => {
                self.flushed.copy_from_slice(&self.bytes);
                Data::empty()
            }
        };
        if let Some(place) = place.filter(|_| is_durable) {
            let (bytes, flushed) = (&self.bytes[place.clone()], &mut self.flushed[place]);
            flushed.copy_from_slice(bytes);
        }
        Ok(data)
    }

    pub fn lose(&mut self, id: ConnectionId) {
        let mut out = Outbox::new();
        self.server.on_lost(id, &mut out);
        self.apply(out);
    }

    pub fn unexport(&mut self) {
        let mut out = Outbox::new();
        self.server.unexport(self.export, &mut out);
        self.apply(out);
    }

    pub fn pass(&mut self, seconds: u64) {
        self.now = Instant(self.now.0 + seconds * 1_000_000_000);
        let mut out = Outbox::new();
        self.server.on_time(self.now, &mut out);
        self.apply(out);
    }

    /// A connection that has heard the greeting and sent flags.
    pub fn greeted(&mut self) -> ConnectionId {
        let id = self.accept();
        assert_eq!(self.output(id), [&GREETING[..], &[0, 3]].concat());
        self.deliver(id, &[0, 0, 0, 3], 4);
        id
    }

    /// Sends an option; the answers as kind and data.
    pub fn option(&mut self, id: ConnectionId, option: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.deliver(id, &option_bytes(option, data), 7);
        option_replies(&self.output(id), option)
    }

    /// A connection in transmission.
    pub fn ready(&mut self, replies: &[u32]) -> ConnectionId {
        let id = self.greeted();
        for kind in replies {
            assert_eq!(self.option(id, *kind, &[]), [(1, vec![])]);
        }
        let answers = self.option(id, option::GO, &go(NAME, &[]));
        assert_eq!(answers.last(), Some(&(1, vec![])));
        id
    }

    /// Sends a request.
    pub fn send(&mut self, id: ConnectionId, request: nbd::proto::RequestHeader, extended: bool, payload: &[u8]) {
        let (bytes, len) = request.to_bytes(extended);
        self.deliver(id, &[&bytes[..len], payload].concat(), usize::MAX);
    }
}

/// The data of INFO and GO.
pub fn go(name: &str, wanted: &[u16]) -> Vec<u8> {
    let mut data = [&(name.len() as u32).to_be_bytes()[..], name.as_bytes()].concat();
    data.extend((wanted.len() as u16).to_be_bytes());
    wanted.iter().for_each(|kind| data.extend(kind.to_be_bytes()));
    data
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
pub fn queries(name: &str, queries: &[&str]) -> Vec<u8> {
    let text = |t: &str| [&(t.len() as u32).to_be_bytes()[..], t.as_bytes()].concat();
    let mut data = text(name);
    data.extend((queries.len() as u32).to_be_bytes());
    queries.iter().for_each(|query| data.extend(text(query)));
    data
}

/// Answers to an option.
pub fn option_replies(mut bytes: &[u8], option: u32) -> Vec<(u32, Vec<u8>)> {
    let number = |at: usize, bytes: &[u8]| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let mut found = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(number(8, bytes), option);
        let len = number(16, bytes) as usize;
        found.push((number(12, bytes), bytes[20..20 + len].to_vec()));
        bytes = &bytes[20 + len..];
    }
    found
}

/// Our client on a connection of the world.
pub struct Peer {
    pub client: Client<u32>,
    pub id: ConnectionId,
    pub piece: usize,
    pub done: Vec<Completed<u32>>,
    unsent: Vec<u8>,
    unread: Vec<u8>,
}

impl Peer {
    pub fn new(world: &mut World, extended: bool, piece: usize) -> Peer {
        let options = ClientOptions { export: NAME.into(), extended };
        let id = world.accept();
        Peer { client: Client::new(options), id, piece, done: Vec::new(), unsent: Vec::new(), unread: Vec::new() }
    }

    /// Moves bytes both ways until nothing moves.
    pub fn talk(&mut self, world: &mut World) {
        loop {
            self.unread.extend(world.output(self.id));
            let mut moved = false;
            let unread = std::mem::take(&mut self.unread);
            let mut rest = &unread[..];
            while !rest.is_empty() {
                let mut place = self.client.receive();
                let n = rest.len().min(place.max).min(self.piece);
                place.buf[place.from..place.from + n].copy_from_slice(&rest[..n]);
                rest = &rest[n..];
                self.client.received(place.buf, n, &mut self.done).expect("our server keeps to the protocol");
                moved = true;
            }
            self.unsent.extend(self.client.output().iter().flat_map(|b| b.to_vec()));
            let sent = world.deliver(self.id, &self.unsent, self.piece);
            self.unsent.drain(..sent);
            if !moved && sent == 0 && world.server.phase(self.id) == Phase::Open {
                self.unread.extend(world.output(self.id));
                if self.unread.is_empty() {
                    return;
                }
            } else if world.server.phase(self.id) != Phase::Open {
                return;
            }
        }
    }
}

pub fn buf(bytes: &[u8]) -> Buf {
    BufMut::copy_of(bytes).freeze()
}
