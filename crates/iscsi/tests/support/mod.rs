//! A target machine with disks in memory, and initiators that speak to it PDU by PDU.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::{BTreeMap, VecDeque};

use block::{BlockSize, Blocks, Buf, Data, Fault, Features, Geometry, Instant, Outcome, Request};
use iscsi::IscsiName;
use iscsi::chap::Chap;
use iscsi::digest::Digest;
use iscsi::pdu::{self, BHS_BYTES, Bhs, Lengths, NO_TAG, opcode, padding};
use iscsi::target::{ConnectionId, Effect, Export, ExportId, Outbox, Phase, Target, TargetOptions};
use iscsi::text;
use iscsi::wire::{get16, get32, put32, put64};
use uuid::Uuid;

pub const DISK: &str = "iqn.2019-05.io.openebs:disk";
pub const HOST: &str = "iqn.2000-01.org.example:host";
pub const BLOCKS: u64 = 8192;
pub const BLOCK: usize = 512;

/// A request that a disk has not answered.
pub struct Waiting {
    pub connection: ConnectionId,
    pub slot: u32,
    pub export: ExportId,
    pub request: Request,
}

pub struct World {
    pub target: Target,
    pub disks: BTreeMap<ExportId, Vec<u8>>,
    pub waiting: VecDeque<Waiting>,
    /// Whether disks answer at once.
    pub prompt: bool,
    pub idle: Vec<ExportId>,
    pub fault: Option<Fault>,
    pub now: Instant,
}

impl World {
    pub fn new() -> World {
        World::with(None)
    }

    pub fn with(chap: Option<Chap>) -> World {
        let options = TargetOptions {
            advertised: "10.0.0.1:3260".into(),
            portal_group: 1,
            revision: "0001".into(),
            run: [5; 16],
            chap,
        };
        World {
            target: Target::new(options),
            disks: BTreeMap::new(),
            waiting: VecDeque::new(),
            prompt: true,
            idle: Vec::new(),
            fault: None,
            now: Instant(0),
        }
    }

    pub fn geometry() -> Geometry {
        let features = Features { volatile_cache: true, unmap: true, ..Features::default() };
        Geometry { block_size: BlockSize::B512, blocks: Blocks(BLOCKS), features }
    }

    pub fn export(&mut self, name: &str) -> ExportId {
        let export = Export {
            name: IscsiName::new(name).expect("a name"),
            uuid: Uuid::from_u128(7),
            product: "Disk".into(),
            geometry: World::geometry(),
        };
        let id = self.target.export(export).expect("a new name");
        self.disks.insert(id, vec![0; BLOCKS as usize * BLOCK]);
        id
    }

    pub fn accept(&mut self) -> ConnectionId {
        let mut out = Outbox::new();
        let id = self.target.accept(self.now, *b"0123456789abcdef", &mut out).expect("room");
        self.apply(out);
        id
    }

    pub fn apply(&mut self, mut out: Outbox) {
        let mut next = Outbox::new();
        while !out.is_empty() {
            for effect in out.drain(..) {
                match effect {
                    Effect::Submit { connection, slot, export, request } => {
                        request.check(&World::geometry()).expect("the target checks requests");
                        self.waiting.push_back(Waiting { connection, slot, export, request });
                    }
                    Effect::Idle(id) => self.idle.push(id),
                    Effect::Wake(_) | Effect::Timer => {}
                }
            }
            if self.prompt {
                while let Some(waiting) = self.waiting.pop_front() {
                    self.answer(waiting, &mut next);
                }
            }
            std::mem::swap(&mut out, &mut next);
        }
    }

    fn answer(&mut self, waiting: Waiting, out: &mut Outbox) {
        let Waiting { connection, slot, export, request } = waiting;
        let outcome = self.perform(export, request);
        self.target.on_done(connection, slot, outcome, out);
    }

    /// The disks answer what waits, including what comes of that.
    pub fn answer_all(&mut self) {
        while let Some(waiting) = self.waiting.pop_front() {
            let mut out = Outbox::new();
            self.answer(waiting, &mut out);
            self.apply(out);
        }
    }

    fn perform(&mut self, export: ExportId, request: Request) -> Outcome {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let disk = self.disks.get_mut(&export).expect("a disk");
        let Some(range) = request.range() else { return Ok(Data::empty()) };
        let place = range.start.0 as usize * BLOCK..range.end().0 as usize * BLOCK;
        match request {
            Request::Read { .. } => {
                // In two buffers, as a disk may.
                let half = place.start + place.len() / 2;
                let mut data = Data::from(Buf::copy_of(&disk[place.start..half]));
                data.push(Buf::copy_of(&disk[half..place.end]));
                return Ok(data);
            }
            Request::Write { data, .. } => disk[place].copy_from_slice(&data),
            Request::Unmap { .. } | Request::WriteZeroes { .. } => disk[place].fill(0),
            Request::Flush => {}
        }
        Ok(Data::empty())
    }

    /// Gives bytes to a connection, `piece` at a time. Returns how many it took.
    pub fn deliver(&mut self, id: ConnectionId, bytes: &[u8], piece: usize) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let Some(mut place) = self.target.receive(id) else { break };
            let n = place.max.min(piece).min(bytes.len() - at);
            assert!(n > 0, "there is room");
            place.buf[place.from..place.from + n].copy_from_slice(&bytes[at..at + n]);
            at += n;
            let mut out = Outbox::new();
            self.target.on_received(id, place.buf, n, &mut out);
            self.apply(out);
        }
        at
    }

    pub fn output(&mut self, id: ConnectionId) -> Vec<u8> {
        self.target.take_output(id).iter().flat_map(|b| b.to_vec()).collect()
    }

    pub fn lose(&mut self, id: ConnectionId) {
        let mut out = Outbox::new();
        self.target.on_lost(id, &mut out);
        self.apply(out);
    }

    pub fn unexport(&mut self, id: ExportId) {
        let mut out = Outbox::new();
        self.target.unexport(id, &mut out);
        self.apply(out);
    }

    /// Lets `seconds` pass.
    pub fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now = Instant(self.now.0 + 1_000_000_000);
            let mut out = Outbox::new();
            self.target.on_time(self.now, &mut out);
            self.apply(out);
        }
    }

    pub fn phase(&self, id: ConnectionId) -> Phase {
        self.target.phase(id)
    }
}

/// A received PDU.
#[derive(Debug, Clone)]
pub struct Pdu {
    pub bhs: Bhs,
    pub data: Vec<u8>,
}

impl Pdu {
    pub fn opcode(&self) -> u8 {
        self.bhs[0] & 0x3f
    }
    pub fn itt(&self) -> u32 {
        get32(&self.bhs, 16)
    }
    /// Login status: class and detail.
    pub fn login_status(&self) -> u16 {
        get16(&self.bhs, 36)
    }
    pub fn keys(&self) -> BTreeMap<String, String> {
        text::parse(&self.data).expect("text").into_iter().collect()
    }
}

/// How a command ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    pub status: u8,
    /// Additional sense code and qualifier.
    pub sense: u16,
    pub data: Vec<u8>,
    /// Negative: underflow.
    pub residual: i64,
    pub r2ts: u32,
}

impl Ended {
    pub fn good(&self) -> &[u8] {
        assert_eq!((self.status, self.sense), (0, 0), "GOOD");
        &self.data
    }
}

pub struct Initiator {
    pub id: ConnectionId,
    pub isid: [u8; 6],
    pub cmd_sn: u32,
    pub itt: u32,
    pub piece: usize,
    pub header_digest: bool,
    pub data_digest: bool,
    /// Bytes of data in one PDU that we send.
    pub segment: usize,
    inbox: Vec<u8>,
}

impl Initiator {
    pub fn new(world: &mut World) -> Initiator {
        Initiator {
            id: world.accept(),
            isid: [0x80, 0, 0, 0, 0, 1],
            cmd_sn: 100,
            itt: 1,
            piece: usize::MAX,
            header_digest: false,
            data_digest: false,
            segment: 8192,
            inbox: Vec::new(),
        }
    }

    /// A session in the full feature phase.
    pub fn normal(world: &mut World, keys: &[(&str, &str)]) -> Initiator {
        Initiator::of_port(world, [0x80, 0, 0, 0, 0, 1], keys)
    }

    pub fn of_port(world: &mut World, isid: [u8; 6], keys: &[(&str, &str)]) -> Initiator {
        let mut initiator = Initiator::new(world);
        initiator.isid = isid;
        let answer = initiator.log_in(world, keys);
        assert_eq!(answer.expect("an answer").login_status(), 0);
        initiator
    }

    /// One request from the operational stage into the full feature phase; `None` while it is held.
    pub fn log_in(&mut self, world: &mut World, keys: &[(&str, &str)]) -> Option<Pdu> {
        let identity = [("InitiatorName", HOST), ("TargetName", DISK), ("SessionType", "Normal")];
        let all: Vec<_> = identity.iter().chain(keys).copied().collect();
        let answer = self.login(world, 0x87, &all);
        for (key, value) in keys {
            self.header_digest |= (*key, *value) == ("HeaderDigest", "CRC32C");
            self.data_digest |= (*key, *value) == ("DataDigest", "CRC32C");
        }
        answer
    }

    /// One login request with these flags and keys.
    pub fn login(&mut self, world: &mut World, flags: u8, keys: &[(&str, &str)]) -> Option<Pdu> {
        let mut data = Vec::new();
        keys.iter().for_each(|(key, value)| text::push(&mut data, key, value));
        self.login_raw(world, flags, &data)
    }

    pub fn login_raw(&mut self, world: &mut World, flags: u8, data: &[u8]) -> Option<Pdu> {
        let mut bhs = pdu::header(opcode::LOGIN | pdu::IMMEDIATE, flags, self.itt);
        bhs[8..14].copy_from_slice(&self.isid);
        put32(&mut bhs, 24, self.cmd_sn);
        self.send(world, bhs, data);
        self.pdus(world).into_iter().find(|p| p.opcode() == opcode::LOGIN_RESPONSE)
    }

    /// The bytes of a PDU.
    pub fn bytes(&self, mut bhs: Bhs, data: &[u8]) -> Vec<u8> {
        pdu::set_data_len(&mut bhs, data.len());
        let mut bytes = bhs.to_vec();
        if self.header_digest {
            bytes.extend(Digest::of(&bhs).to_bytes());
        }
        if !data.is_empty() {
            let mut padded = data.to_vec();
            padded.resize(data.len() + padding(data.len()), 0);
            bytes.extend_from_slice(&padded);
            if self.data_digest {
                bytes.extend(Digest::of(&padded).to_bytes());
            }
        }
        bytes
    }

    pub fn send(&mut self, world: &mut World, bhs: Bhs, data: &[u8]) {
        let bytes = self.bytes(bhs, data);
        world.deliver(self.id, &bytes, self.piece);
    }

    /// What the target has sent.
    pub fn pdus(&mut self, world: &mut World) -> Vec<Pdu> {
        self.inbox.extend(world.output(self.id));
        let mut pdus = Vec::new();
        let mut at = 0;
        while let Some(bhs) = self.inbox[at..].first_chunk::<BHS_BYTES>().copied() {
            // A login response never has digests.
            let is_login = bhs[0] == opcode::LOGIN_RESPONSE;
            at += BHS_BYTES;
            if self.header_digest && !is_login {
                assert!(Digest::of(&bhs).matches(&self.inbox[at..at + 4]), "header digest");
                at += 4;
            }
            let len = Lengths::of(&bhs).data;
            let padded = len + padding(len);
            let data = self.inbox[at..at + len].to_vec();
            if len > 0 && self.data_digest && !is_login {
                let digest = &self.inbox[at + padded..at + padded + 4];
                assert!(Digest::of(&self.inbox[at..at + padded]).matches(digest), "data digest");
                at += 4;
            }
            at += padded;
            pdus.push(Pdu { bhs, data });
        }
        self.inbox.drain(..at);
        pdus
    }

    /// The header of a command.
    pub fn command_bhs(&mut self, cdb: &[u8], flags: u8, expected: usize) -> Bhs {
        self.itt += 1;
        let mut bhs = pdu::header(opcode::COMMAND, flags, self.itt);
        put32(&mut bhs, 20, expected as u32);
        put32(&mut bhs, 24, self.cmd_sn);
        bhs[32..32 + cdb.len()].copy_from_slice(cdb);
        self.cmd_sn += 1;
        bhs
    }

    /// Sends a command that reads up to `expected` bytes. Returns its tag.
    pub fn start_read(&mut self, world: &mut World, cdb: &[u8], expected: usize) -> u32 {
        let bhs = self.command_bhs(cdb, 0xc1, expected);
        self.send(world, bhs, &[]);
        self.itt
    }

    /// Sends a command with `data`, of which `immediate` bytes go with it. Returns its tag.
    pub fn start_write(&mut self, world: &mut World, cdb: &[u8], data: &[u8], immediate: usize) -> u32 {
        let bhs = self.command_bhs(cdb, 0xa1, data.len());
        self.send(world, bhs, &data[..immediate]);
        self.itt
    }

    pub fn read(&mut self, world: &mut World, cdb: &[u8], expected: usize) -> Ended {
        let itt = self.start_read(world, cdb, expected);
        self.end(world, itt, &[])
    }

    pub fn write(&mut self, world: &mut World, cdb: &[u8], data: &[u8]) -> Ended {
        let itt = self.start_write(world, cdb, data, 0);
        self.end(world, itt, data)
    }

    /// Answers R2Ts until the command has ended.
    pub fn end(&mut self, world: &mut World, itt: u32, data: &[u8]) -> Ended {
        self.try_end(world, itt, data).expect("the command is answered")
    }

    pub fn try_end(&mut self, world: &mut World, itt: u32, data: &[u8]) -> Option<Ended> {
        let mut ended = Ended { status: 0, sense: 0, data: Vec::new(), residual: 0, r2ts: 0 };
        let mut pdus: VecDeque<Pdu> = self.pdus(world).into();
        while let Some(pdu) = pdus.pop_front() {
            if pdu.itt() != itt {
                continue;
            }
            let flags = pdu.bhs[1];
            let residual = i64::from(get32(&pdu.bhs, 44)) * if flags & 2 != 0 { -1 } else { 1 };
            match pdu.opcode() {
                opcode::DATA_IN => {
                    assert_eq!(get32(&pdu.bhs, 40) as usize, ended.data.len(), "data in order");
                    ended.data.extend_from_slice(&pdu.data);
                    if flags & 1 != 0 {
                        return Some(Ended { residual, ..ended });
                    }
                }
                opcode::R2T => {
                    ended.r2ts += 1;
                    let (at, len) = (get32(&pdu.bhs, 40) as usize, get32(&pdu.bhs, 44) as usize);
                    self.data_out(world, itt, get32(&pdu.bhs, 20), at, &data[at..at + len]);
                    pdus.extend(self.pdus(world));
                }
                opcode::RESPONSE => {
                    let sense = pdu.data.get(14..16).map_or(0, |s| get16(s, 0));
                    return Some(Ended { status: pdu.bhs[3], sense, residual, ..ended });
                }
                other => panic!("{other:#x} for a command"),
            }
        }
        None
    }

    /// Sends data for a command.
    pub fn data_out(&mut self, world: &mut World, itt: u32, ttt: u32, offset: usize, data: &[u8]) {
        let pieces = data.chunks(self.segment).count();
        for (n, piece) in data.chunks(self.segment).enumerate() {
            let bhs = data_out(itt, ttt, n as u32, offset + n * self.segment, n + 1 == pieces);
            self.send(world, bhs, piece);
        }
    }

    /// A task management request for immediate delivery. Returns the response when there is one.
    pub fn manage(&mut self, world: &mut World, function: u8, referenced: u32) -> Option<u8> {
        self.itt += 1;
        let mut bhs = pdu::header(opcode::TASK | pdu::IMMEDIATE, pdu::FINAL | function, self.itt);
        put32(&mut bhs, 20, referenced);
        put32(&mut bhs, 24, self.cmd_sn);
        self.send(world, bhs, &[]);
        self.managed(world)
    }

    pub fn managed(&mut self, world: &mut World) -> Option<u8> {
        let pdus = self.pdus(world);
        pdus.iter().find(|p| p.opcode() == opcode::TASK_RESPONSE).map(|p| p.bhs[2])
    }

    pub fn text(&mut self, world: &mut World, ttt: u32, data: &[u8]) -> Pdu {
        self.itt += 1;
        let mut bhs = pdu::header(opcode::TEXT | pdu::IMMEDIATE, pdu::FINAL, self.itt);
        put32(&mut bhs, 20, ttt);
        put32(&mut bhs, 24, self.cmd_sn);
        self.send(world, bhs, data);
        self.pdus(world).pop().expect("an answer")
    }

    pub fn logout(&mut self, world: &mut World) -> Option<Pdu> {
        self.itt += 1;
        let mut bhs = pdu::header(opcode::LOGOUT | pdu::IMMEDIATE, pdu::FINAL, self.itt);
        put32(&mut bhs, 24, self.cmd_sn);
        self.send(world, bhs, &[]);
        self.pdus(world).into_iter().find(|p| p.opcode() == opcode::LOGOUT_RESPONSE)
    }
}

/// The header of a Data-Out.
pub fn data_out(itt: u32, ttt: u32, data_sn: u32, offset: usize, is_final: bool) -> Bhs {
    let mut bhs = pdu::header(opcode::DATA_OUT, if is_final { pdu::FINAL } else { 0 }, itt);
    put32(&mut bhs, 20, ttt);
    put32(&mut bhs, 36, data_sn);
    put32(&mut bhs, 40, offset as u32);
    bhs
}

/// READ (10) or WRITE (10) and their kin.
pub fn cdb10(opcode: u8, lba: u32, blocks: u16) -> Vec<u8> {
    let mut cdb = vec![opcode, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    put32(&mut cdb, 2, lba);
    cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

/// READ (16), WRITE (16) and their kin.
pub fn cdb16(opcode: u8, lba: u64, blocks: u32) -> Vec<u8> {
    let mut cdb = vec![0; 16];
    cdb[0] = opcode;
    put64(&mut cdb, 2, lba);
    put32(&mut cdb, 10, blocks);
    cdb
}

/// Bytes that differ from place to place.
pub fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i / 7) as u8 ^ (i as u8).wrapping_mul(31) ^ seed).collect()
}

pub const NONE: u32 = NO_TAG;
