//! A scripted host and memory disks around the target machine, without sockets and clocks.
#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::{BTreeMap, VecDeque};

use block::{
    BlockSize, Blocks, Buf, BufMut, Data, Fault, Features, Geometry, HostId, Instant, Outcome, Request, Reservations,
};
use nvme::command::{FLAGS_SGL, Sgl, Sqe, admin};
use nvme::digest::Digest;
use nvme::fabrics::{self, ConnectData, DYNAMIC_CONTROLLER};
use nvme::pdu::{self, CommonHeader, Digests, Header, Kind, Layout, Transfer};
use nvme::target::{ConnectionId, Effect, Export, Outbox, Phase, Reserving, SubsystemId, Target, TargetOptions};
use nvme::wire::view;
use nvme::{Cqe, Nqn, Status};

pub const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555";
pub const VOLUME: &str = "nqn.2019-05.io.openebs:00000000-0000-0000-0000-000000000001";
pub const UUID: u128 = 0x1111_2222_3333_4444_5555_6666_7777_8888;

/// A disk in memory.
pub struct Memory {
    pub geometry: Geometry,
    pub bytes: Vec<u8>,
}

impl Memory {
    fn run(&mut self, request: &Request) -> Outcome {
        request.check(&self.geometry)?;
        let size = self.geometry.block_size;
        let place = request.range().map(|r| {
            let start = size.offset_of(r.start) as usize;
            start..start + size.bytes_of(r.len).0 as usize
        });
        match (request, place) {
            (Request::Read { .. }, Some(place)) => return Ok(Data::from(Buf::copy_of(&self.bytes[place]))),
            (Request::Write { data, .. }, Some(place)) => self.bytes[place].copy_from_slice(data),
            (Request::Unmap { .. } | Request::WriteZeroes { .. }, Some(place)) => self.bytes[place].fill(0),
            _ => {}
        }
        Ok(Data::empty())
    }
}

/// A request that the disk has not answered.
#[derive(Debug)]
pub struct AtDisk {
    pub connection: ConnectionId,
    pub slot: u16,
    pub subsystem: SubsystemId,
    pub host: HostId,
    pub request: Request,
}

/// Everything around the machine.
pub struct World {
    pub target: Target,
    pub disks: BTreeMap<SubsystemId, Memory>,
    pub reservations: BTreeMap<SubsystemId, Reservations>,
    pub at_disk: VecDeque<AtDisk>,
    /// Whether the disks answer at once.
    pub prompt: bool,
    pub requests: Vec<Request>,
    pub idle: Vec<SubsystemId>,
    pub fault: Option<Fault>,
    pub now: Instant,
}

impl World {
    pub fn new() -> World {
        let advertised = "10.1.2.3:8420".parse().expect("an address");
        let options = TargetOptions {
            advertised,
            firmware: "0.1".into(),
            discovery_nqn: None,
            instance: [1; 16],
            boot_id: [2; 16],
        };
        World {
            target: Target::new(options),
            disks: BTreeMap::new(),
            reservations: BTreeMap::new(),
            at_disk: VecDeque::new(),
            prompt: true,
            requests: Vec::new(),
            idle: Vec::new(),
            fault: None,
            now: Instant(1_000_000_000),
        }
    }

    pub fn with_volume() -> World {
        let mut world = World::new();
        world.export(VOLUME, BlockSize::B512, 16384);
        world
    }

    pub fn export(&mut self, nqn: &str, block_size: BlockSize, blocks: u64) -> SubsystemId {
        let geometry = Geometry { block_size, blocks: Blocks(blocks), features: Features::default() };
        let nqn = Nqn::new(nqn).expect("a name");
        let export = Export { nqn, uuid: uuid::Uuid::from_u128(UUID), geometry, reserving: Reserving::Persistent };
        let mut out = Outbox::new();
        let id = self.target.export(export, &mut out).expect("exported");
        self.reservations.insert(id, Reservations::new(4));
        self.disks.insert(id, Memory { geometry, bytes: vec![0; geometry.bytes().0 as usize] });
        self.apply(out);
        id
    }

    pub fn apply(&mut self, mut out: Outbox) {
        let mut todo: VecDeque<Effect> = out.drain(..).collect();
        while let Some(effect) = todo.pop_front() {
            match effect {
                Effect::Reserve { connection, slot, subsystem, host, ask } => {
                    let done = self.reservations.get_mut(&subsystem).expect("served").apply(host, ask);
                    self.target.on_done(connection, slot, done.map(|()| Data::empty()), &mut out);
                    todo.extend(out.drain(..));
                }
                Effect::Report { connection, slot, subsystem } => {
                    self.target.on_reported(connection, slot, &self.reservations[&subsystem], &mut out);
                    todo.extend(out.drain(..));
                }
                Effect::Submit { connection, slot, subsystem, host, request } => {
                    self.requests.push(request.clone());
                    let job = AtDisk { connection, slot, subsystem, host, request };
                    if self.prompt {
                        let outcome = self.execute(&job);
                        self.target.on_done(connection, slot, outcome, &mut out);
                        todo.extend(out.drain(..));
                    } else {
                        self.at_disk.push_back(job);
                    }
                }
                Effect::Idle(id) => self.idle.push(id),
                Effect::Wake(_) | Effect::Timer => {}
            }
        }
    }

    fn execute(&mut self, job: &AtDisk) -> Outcome {
        match self.fault {
            Some(fault) => Err(fault),
            None if !self.reservations[&job.subsystem]
                .allows(job.host, !matches!(job.request, Request::Read { .. })) =>
            {
                Err(Fault::Fenced)
            }
            None => self.disks.get_mut(&job.subsystem).expect("a disk").run(&job.request),
        }
    }

    /// Lets the disks answer everything that waits.
    pub fn answer_all(&mut self) {
        while let Some(job) = self.at_disk.pop_front() {
            let outcome = self.execute(&job);
            let mut out = Outbox::new();
            self.target.on_done(job.connection, job.slot, outcome, &mut out);
            self.apply(out);
        }
    }

    pub fn accept(&mut self) -> ConnectionId {
        let mut out = Outbox::new();
        let id = self.target.accept(self.now, &mut out).expect("room");
        self.apply(out);
        id
    }

    /// Delivers bytes in pieces of at most `piece`. Stops when the machine receives nothing more.
    pub fn deliver(&mut self, id: ConnectionId, mut bytes: &[u8], piece: usize) {
        while !bytes.is_empty() && self.target.phase(id) == Phase::Open {
            let Some(mut place) = self.target.receive(id) else { return };
            let n = bytes.len().min(place.max).min(piece);
            place.buf[place.from..place.from + n].copy_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            let mut out = Outbox::new();
            self.target.on_received(id, place.buf, n, &mut out);
            self.apply(out);
        }
    }

    pub fn lose(&mut self, id: ConnectionId) {
        let mut out = Outbox::new();
        self.target.on_lost(id, &mut out);
        self.apply(out);
    }

    pub fn pass(&mut self, ms: u64) {
        self.now.0 += ms * 1_000_000;
        let mut out = Outbox::new();
        self.target.on_time(self.now, &mut out);
        self.apply(out);
    }

    pub fn output(&mut self, id: ConnectionId) -> Vec<u8> {
        self.target.take_output(id).iter().flat_map(|b| b.to_vec()).collect()
    }
}

/// One connection as the host sees it.
pub struct Wire {
    pub id: ConnectionId,
    pub digests: Digests,
    pub alignment: u8,
    /// Bytes per delivery.
    pub piece: usize,
    /// The longest H2CData that the host sends.
    pub h2c: usize,
    input: Vec<u8>,
    cid: u16,
    /// Everything that the host has sent.
    pub sent: Vec<u8>,
}

/// What the target said.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    Response(Cqe),
    Data { transfer: Transfer, flags: u8, bytes: Vec<u8> },
    R2t(Transfer),
    IcResp(Digests),
    Term { status: u16, info: u32 },
}

impl Wire {
    /// A connection with ICReq and ICResp behind it.
    pub fn open(world: &mut World, digests: Digests, alignment: u8, piece: usize) -> Wire {
        let mut wire = Wire::raw(world, piece);
        wire.send(world, bytemuck::bytes_of(&pdu::ic_req(alignment, digests, 1)));
        assert_eq!(wire.said(world), [Said::IcResp(digests)]);
        wire.digests = digests;
        wire.alignment = alignment;
        wire
    }

    pub fn plain(world: &mut World) -> Wire {
        Wire::open(world, Digests::default(), 0, usize::MAX)
    }

    pub fn raw(world: &mut World, piece: usize) -> Wire {
        let id = world.accept();
        Wire {
            id,
            digests: Digests::default(),
            alignment: 0,
            piece,
            h2c: usize::MAX,
            input: Vec::new(),
            cid: 0,
            sent: Vec::new(),
        }
    }

    pub fn next_cid(&mut self) -> u16 {
        self.cid += 1;
        self.cid
    }

    pub fn send(&mut self, world: &mut World, bytes: &[u8]) {
        self.sent.extend_from_slice(bytes);
        world.deliver(self.id, bytes, self.piece);
    }

    /// The bytes of a PDU with the connection's digests.
    pub fn frame(&self, header: &[u8], data: &[u8]) -> Vec<u8> {
        let mut bytes = header.to_vec();
        if self.digests.header {
            bytes.extend_from_slice(&Digest::of(header).to_bytes());
        }
        if !data.is_empty() {
            bytes.resize(usize::from(header[3]), 0);
            bytes.extend_from_slice(data);
            if self.digests.data {
                bytes.extend_from_slice(&Digest::of(data).to_bytes());
            }
        }
        bytes
    }

    pub fn capsule(&self, sqe: Sqe, data: &[u8]) -> Vec<u8> {
        self.frame(bytemuck::bytes_of(&pdu::command(self.digests, 0, sqe, data.len())), data)
    }

    pub fn h2c(&self, transfer: Transfer, last: bool, data: &[u8]) -> Vec<u8> {
        let flags = if last { pdu::flags::LAST } else { 0 };
        self.frame(bytemuck::bytes_of(&pdu::transfer(Kind::H2cData, flags, self.digests, 0, transfer)), data)
    }

    /// Everything that the target has said since the last call.
    pub fn said(&mut self, world: &mut World) -> Vec<Said> {
        let new = world.output(self.id);
        self.input.extend_from_slice(&new);
        let mut said = Vec::new();
        while let Some(common) = view::<CommonHeader>(&self.input) {
            if self.input.len() < common.pdu_len.get() as usize {
                break;
            }
            let layout = Layout::of(&common, self.digests, self.alignment).expect("a good PDU");
            let pdu: Vec<u8> = self.input.drain(..layout.pdu_len).collect();
            let head = &pdu[..layout.header_len];
            if layout.has_header_digest {
                assert!(Digest::of(head).matches(&pdu[layout.header_len..layout.header_len + 4]));
            }
            let data = &pdu[layout.data_start..layout.data_start + layout.data_len];
            if layout.has_data_digest {
                assert!(Digest::of(data).matches(&pdu[pdu.len() - 4..]));
            }
            said.push(match Header::parse(&layout, head).expect("a good header") {
                Header::Response(cqe) => Said::Response(cqe),
                Header::C2hData(transfer) => Said::Data { transfer, flags: layout.flags, bytes: data.to_vec() },
                Header::R2t(transfer) => Said::R2t(transfer),
                Header::IcResp { digests, .. } => Said::IcResp(digests),
                Header::C2hTerm { status, info } => Said::Term { status, info },
                other => panic!("the target sent {other:?}"),
            });
        }
        said
    }

    /// Sends a command, serves its R2Ts, and returns its completion and data.
    pub fn call(&mut self, world: &mut World, mut sqe: Sqe, data: &[u8]) -> (Cqe, Vec<u8>) {
        let cid = self.next_cid();
        sqe.cid = cid.into();
        sqe.flags = FLAGS_SGL;
        let in_capsule = sqe.sgl.kind == Sgl::IN_CAPSULE;
        let capsule = self.capsule(sqe, if in_capsule { data } else { &[] });
        self.send(world, &capsule);
        let mut read = Vec::new();
        loop {
            let said = self.said(world);
            assert!(!said.is_empty(), "the target is silent");
            for said in said {
                match said {
                    Said::R2t(t) => {
                        assert_eq!((t.cid, t.offset as usize, t.len as usize), (cid, 0, data.len()));
                        self.send_data(world, t, data);
                    }
                    Said::Data { transfer, flags, bytes } => {
                        assert_eq!((transfer.cid, transfer.offset as usize), (cid, read.len()));
                        assert_ne!(flags & pdu::flags::LAST, 0);
                        read.extend_from_slice(&bytes);
                        if flags & pdu::flags::SUCCESS != 0 {
                            return (Cqe { cid: cid.into(), ..Cqe::default() }, read);
                        }
                    }
                    Said::Response(cqe) => {
                        assert_eq!(cqe.cid.get(), cid);
                        return (cqe, read);
                    }
                    other => panic!("{other:?} in the middle of a command"),
                }
            }
        }
    }

    fn send_data(&mut self, world: &mut World, r2t: Transfer, data: &[u8]) {
        let piece = self.h2c.min(data.len());
        let mut at = 0;
        while at < data.len() {
            let part = &data[at..data.len().min(at + piece)];
            let transfer = Transfer { offset: at as u32, len: part.len() as u32, ..r2t };
            at += part.len();
            let bytes = self.h2c(transfer, at == data.len(), part);
            self.send(world, &bytes);
        }
    }

    /// A call that must succeed.
    pub fn ok(&mut self, world: &mut World, sqe: Sqe, data: &[u8]) -> (u64, Vec<u8>) {
        let (cqe, read) = self.call(world, sqe, data);
        assert_eq!(cqe.status(), Status::SUCCESS);
        (cqe.result.get(), read)
    }

    /// A call that must fail.
    pub fn fails(&mut self, world: &mut World, sqe: Sqe, data: &[u8]) -> Status {
        let (cqe, _) = self.call(world, sqe, data);
        assert!(!cqe.status().is_success(), "it should fail");
        cqe.status().without_flags()
    }

    pub fn term(&mut self, world: &mut World) -> (u16, u32) {
        match self.said(world).as_slice() {
            [Said::Term { status, info }] => (*status, *info),
            other => panic!("expected a termination, not {other:?}"),
        }
    }
}

/// How a host connects.
#[derive(Clone, Debug)]
pub struct Who {
    pub host: String,
    pub host_id: [u8; 16],
    pub subsystem: String,
    pub attributes: u8,
    pub keep_alive_ms: u32,
}

impl Who {
    pub fn new(host: &str, subsystem: &str) -> Who {
        Who { host: host.into(), host_id: [7; 16], subsystem: subsystem.into(), attributes: 0, keep_alive_ms: 0 }
    }

    pub fn data(&self, controller: u16) -> Vec<u8> {
        let mut data: ConnectData = bytemuck::Zeroable::zeroed();
        data.host_id = self.host_id;
        data.controller_id = controller.into();
        nvme::wire::pad_with_nul(&mut data.subsystem_nqn, &self.subsystem);
        nvme::wire::pad_with_nul(&mut data.host_nqn, &self.host);
        bytemuck::bytes_of(&data).to_vec()
    }

    pub fn connect(&self, queue: u16, entries: u16) -> Sqe {
        fabrics::connect(0, queue, entries - 1, self.attributes, self.keep_alive_ms)
    }

    /// Connects an admin queue and enables the controller; its number.
    pub fn admin(&self, world: &mut World, wire: &mut Wire) -> u16 {
        let (result, _) = wire.ok(world, self.connect(0, 32), &self.data(DYNAMIC_CONTROLLER));
        enable(world, wire);
        result as u16
    }

    pub fn io(&self, world: &mut World, wire: &mut Wire, controller: u16, queue: u16) {
        wire.ok(world, self.connect(queue, 128), &self.data(controller));
    }
}

pub fn enable(world: &mut World, wire: &mut Wire) {
    let cc = fabrics::cc::ENABLE | fabrics::cc::ENTRY_SIZES;
    wire.ok(world, fabrics::property_set(0, fabrics::property::CC, cc), &[]);
    let (csts, _) = wire.ok(world, fabrics::property_get(0, fabrics::property::CSTS, false), &[]);
    assert_eq!(csts as u32, fabrics::csts::READY);
}

/// An admin queue and one I/O queue.
pub fn joined(world: &mut World) -> (Wire, Wire) {
    let who = Who::new(HOST, VOLUME);
    let (mut admin, mut io) = (Wire::plain(world), Wire::plain(world));
    let controller = who.admin(world, &mut admin);
    who.io(world, &mut io, controller, 1);
    (admin, io)
}

pub fn identify(cns: u8, nsid: u32) -> Sqe {
    Sqe {
        opcode: admin::IDENTIFY,
        nsid: nsid.into(),
        sgl: Sgl::transport(4096),
        cdw10: u32::from(cns).into(),
        ..Sqe::default()
    }
}

pub fn get_log(page: u8, offset: u64, len: u32) -> Sqe {
    let dwords = len / 4 - 1;
    Sqe {
        opcode: admin::GET_LOG_PAGE,
        sgl: Sgl::transport(len),
        cdw10: (u32::from(page) | (dwords & 0xffff) << 16).into(),
        cdw11: (dwords >> 16).into(),
        cdw12: (offset as u32).into(),
        cdw13: ((offset >> 32) as u32).into(),
        ..Sqe::default()
    }
}

pub fn io(opcode: u8, slba: u64, blocks: u32, sgl: Sgl) -> Sqe {
    let mut sqe = Sqe { opcode, nsid: 1.into(), sgl, cdw12: blocks.wrapping_sub(1).into(), ..Sqe::default() };
    sqe.set_slba(slba);
    sqe
}

pub fn feature(opcode: u8, feature: u8, value: u32) -> Sqe {
    Sqe { opcode, cdw10: u32::from(feature).into(), cdw11: value.into(), ..Sqe::default() }
}

/// Bytes that differ from place to place.
pub fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add((i >> 8) as u8).wrapping_add(seed)).collect()
}

pub fn buffer(bytes: &[u8]) -> BufMut {
    BufMut::copy_of(bytes)
}
