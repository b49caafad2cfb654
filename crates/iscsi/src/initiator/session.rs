//! One session over one TCP connection.

use block::link::{Outgoing, Receive};
use block::{Buf, BufMut, limits};

use super::login::{FULL_FEATURE, Login, Say};
use super::transfer::{DIRECT, Transfer};
use super::{Command, Payload, Violation, command};
use crate::IscsiName;
use crate::chap::Chap;
use crate::digest::{DIGEST_BYTES, Digest};
use crate::params::Params;
use crate::pdu::{self, BHS_BYTES, Bhs, FINAL, IMMEDIATE, Lengths, NO_TAG, opcode, padding};
use crate::scsi::status;
use crate::wire::{before, get16, get32, put16, put32, put64};

/// The receive buffer.
const RECEIVE_BYTES: usize = 64 << 10;
/// The tags of what is no command.
const LOGIN_TAG: u32 = 0x8000_0000;
const PING_TAG: u32 = 0x8000_0001;
const LOGOUT_TAG: u32 = 0x8000_0002;
/// The first CmdSN.
const FIRST: u32 = 1;

/// Whom to log in to, and as whom.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Our name.
    pub initiator: IscsiName,
    /// Our part of the session's identity. A login with the same takes the place of an earlier session (6.3.5).
    pub isid: [u8; 6],
    /// The target.
    pub target: IscsiName,
    /// The logical unit.
    pub lun: u16,
    /// Commands in flight, at least 1; the target may allow fewer.
    pub depth: u16,
    /// Ask for header digests.
    pub header_digest: bool,
    /// Ask for data digests.
    pub data_digest: bool,
    /// What we prove, and what the target has to prove in turn. We insist on both.
    pub chap: Option<Chap>,
    /// Random bytes: our challenge.
    pub seed: [u8; 16],
}

/// What can be asked of a target.
#[derive(Clone, Debug)]
pub enum Ask {
    /// A SCSI command.
    Command(Command),
    /// A sign of life. One at a time.
    Ping,
    /// The end of the session. One at a time; nothing is to be asked afterwards.
    Logout,
}

/// An answer.
#[derive(Debug)]
pub struct Completed<T> {
    /// What [`Session::submit`] was given.
    pub token: T,
    /// The SCSI status.
    pub status: u8,
    /// Sense data, if there is any.
    pub sense: Vec<u8>,
    /// The data of a command with [`Payload::In`] that ended with GOOD; it may be shorter than there was room for.
    pub data: Option<BufMut>,
}

#[derive(Debug)]
struct Slot<T> {
    token: T,
    transfer: Transfer,
}

/// ```text
/// Login ──the last answer──▶ Full
/// ```
/// After a [`Violation`] the driver drops the session; there is no state for that.
#[derive(Debug)]
enum State {
    Login(Box<Login>),
    Full(Params),
}

/// What the next bytes of the stream are.
///
/// ```text
///   ┌───────────── a PDU without data ─┐
///   ▼                                  │
/// Header ───────────────────────▶ Data ──▶ Trailer (padding, digest)
///   ▲                                            │
///   └────────────────────────────────────────────┘
/// ```
#[derive(Debug)]
enum Incoming {
    Header,
    Data { bhs: Bhs, left: usize, digest: Digest },
    Trailer { bhs: Bhs, padding: usize, digest: Digest },
}

/// One session. The driver keeps one send and one receive pending: it sends [`output`](Session::output) and feeds what it
/// received where [`receive`](Session::receive) said.
#[derive(Debug)]
pub struct Session<T> {
    options: SessionOptions,
    state: State,
    cmd_sn: u32,
    /// The highest CmdSN that the target takes.
    max_cmd_sn: u32,
    exp_stat_sn: Option<u32>,
    slots: Vec<Option<Slot<T>>>,
    free: Vec<u32>,
    ping: Option<T>,
    logout: Option<T>,
    output: Outgoing,
    incoming: Incoming,
    /// Data of a PDU that is not for a command's buffer.
    segment: Vec<u8>,
    rx: Option<BufMut>,
    rx_start: usize,
    rx_end: usize,
    /// The command whose buffer the driver receives into.
    direct: Option<u32>,
}

impl<T> Session<T> {
    /// A new session; its [`output`](Session::output) is the first login request.
    pub fn new(options: SessionOptions) -> Session<T> {
        let depth = u32::from(options.depth.max(1));
        let login = Box::new(Login::new());
        let first = login.begin(&options);
        let mut session = Session {
            options,
            state: State::Login(login),
            cmd_sn: FIRST,
            max_cmd_sn: FIRST,
            exp_stat_sn: None,
            slots: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            ping: None,
            logout: None,
            output: Outgoing::default(),
            incoming: Incoming::Header,
            segment: Vec::new(),
            rx: Some(BufMut::new(RECEIVE_BYTES)),
            rx_start: 0,
            rx_end: 0,
            direct: None,
        };
        session.say(first);
        session
    }

    /// Whether the login is complete, so that commands can be submitted.
    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Full(_))
    }
    /// Commands that can be submitted now.
    pub fn free(&self) -> usize {
        if !self.is_ready() || self.logout.is_some() || before(self.max_cmd_sn, self.cmd_sn) {
            return 0;
        }
        let window = self.max_cmd_sn.wrapping_sub(self.cmd_sn).saturating_add(1);
        self.free.len().min(window as usize)
    }
    /// Commands and pings that were submitted and not answered.
    pub fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len() + usize::from(self.ping.is_some())
    }
    /// Whether a sign of life is awaited.
    pub fn is_pinging(&self) -> bool {
        self.ping.is_some()
    }
    /// Whether there is something to send.
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }
    /// The bytes to send, in order; empty when there is nothing.
    pub fn output(&mut self) -> Vec<Buf> {
        self.output.take()
    }
    /// Ends the session: what was in flight, in no order. The target may or may not have carried it out.
    pub fn drain(&mut self) -> Vec<T> {
        self.free.clear();
        let slots = self.slots.drain(..).flatten().map(|slot| slot.token);
        slots.chain(self.ping.take()).chain(self.logout.take()).collect()
    }

    fn params(&self) -> Params {
        match &self.state {
            State::Login(_) => Params::default(),
            State::Full(params) => *params,
        }
    }

    /// Adds a PDU.
    fn send(&mut self, mut bhs: Bhs, data: Option<Buf>) {
        let params = self.params();
        put32(&mut bhs, 28, self.exp_stat_sn.unwrap_or(0));
        let len = data.as_ref().map_or(0, |d| d.len());
        pdu::set_data_len(&mut bhs, len);
        self.output.small(&bhs);
        if params.header_digest {
            self.output.small(&Digest::of(&bhs).to_bytes());
        }
        let Some(data) = data.filter(|d| !d.is_empty()) else { return };
        let digest = params.data_digest.then(|| {
            let mut digest = Digest::of(&data);
            digest.update(&[0; 3][..padding(len)]);
            digest.to_bytes()
        });
        self.output.large(data);
        self.output.zeroes(padding(len));
        if let Some(digest) = digest {
            self.output.small(&digest);
        }
    }

    /// A login request.
    fn say(&mut self, say: Say) {
        let flags = say.next.map_or(0, |next| FINAL | next) | say.stage << 2;
        let mut bhs = pdu::header(opcode::LOGIN | IMMEDIATE, flags, LOGIN_TAG);
        bhs[8..14].copy_from_slice(&self.options.isid);
        put32(&mut bhs, 24, self.cmd_sn);
        self.send(bhs, Some(Buf::copy_of(&say.text)));
    }

    /// Sends something. For a command [`free`](Session::free) must not be 0.
    pub fn submit(&mut self, ask: Ask, token: T) {
        match ask {
            Ask::Command(command) => self.command(command, token),
            Ask::Ping => {
                assert!(self.ping.is_none(), "one ping at a time");
                self.ping = Some(token);
                let mut bhs = pdu::header(opcode::NOP_OUT | IMMEDIATE, FINAL, PING_TAG);
                put64(&mut bhs, 8, wire_lun(self.options.lun));
                put32(&mut bhs, 20, NO_TAG);
                put32(&mut bhs, 24, self.cmd_sn);
                self.send(bhs, None);
            }
            Ask::Logout => {
                assert!(self.logout.is_none(), "one logout");
                self.logout = Some(token);
                let mut bhs = pdu::header(opcode::LOGOUT | IMMEDIATE, FINAL, LOGOUT_TAG);
                put32(&mut bhs, 24, self.cmd_sn);
                self.send(bhs, None);
            }
        }
    }

    fn command(&mut self, command: Command, token: T) {
        let params = self.params();
        let itt = self.free.pop().expect("a command needs a free slot");
        let (flags, expected) = match &command.payload {
            Payload::None => (0, 0),
            Payload::In(len) => (0x40, *len),
            Payload::Out(data) => (0x20, data.len()),
        };
        let (mut transfer, first) = Transfer::new(command.payload, &params);
        let unasked = transfer.unasked(&params);
        let is_final = if unasked.is_empty() { FINAL } else { 0 };
        // ATTR: simple.
        let mut bhs = pdu::header(opcode::COMMAND, is_final | flags | 1, itt);
        put64(&mut bhs, 8, wire_lun(self.options.lun));
        put32(&mut bhs, 20, u32::try_from(expected).expect("a command moves less than 4 GiB"));
        put32(&mut bhs, 24, self.cmd_sn);
        bhs[32..].copy_from_slice(&command.cdb);
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        self.send(bhs, first);
        for piece in unasked {
            self.send(piece.header(itt, NO_TAG, self.options.lun), Some(piece.data));
        }
        self.slots[itt as usize] = Some(Slot { token, transfer });
    }

    /// Where the next bytes shall go. To be called once before each receive.
    pub fn receive(&mut self) -> Receive {
        if let Incoming::Data { bhs, left, .. } = &self.incoming
            && bhs[0] & 0x3f == opcode::DATA_IN
            && *left >= DIRECT
            && self.rx_start == self.rx_end
        {
            let itt = get32(bhs, 16);
            let slot = self.slots[itt as usize].as_mut().expect("checked with the header");
            let (buf, from) = slot.transfer.lend();
            self.direct = Some(itt);
            return Receive { buf, from, max: *left };
        }
        let mut buf = self.rx.take().expect("one receive at a time");
        buf.copy_within(self.rx_start..self.rx_end, 0);
        self.rx_end -= self.rx_start;
        self.rx_start = 0;
        let max = buf.len() - self.rx_end;
        Receive { buf, from: self.rx_end, max }
    }

    /// Takes back the buffer with `n` more bytes in it and adds what is answered by them to `done`. After an error the
    /// session is of no more use; what was in flight comes from [`drain`](Session::drain).
    pub fn received(&mut self, buf: BufMut, n: usize, done: &mut Vec<Completed<T>>) -> Result<(), Violation> {
        match self.direct.take() {
            Some(itt) => {
                let digests = self.params().data_digest;
                let slot = self.slots[itt as usize].as_mut().expect("not answered while data is on its way");
                let Incoming::Data { left, digest, .. } = &mut self.incoming else { unreachable!("as in receive") };
                slot.transfer.give_back(buf, n, digests.then_some(digest));
                *left -= n;
            }
            None => {
                self.rx = Some(buf);
                self.rx_end += n;
            }
        }
        while self.step(done)? {}
        Ok(())
    }

    /// Takes one piece of what was received; false when more is needed.
    fn step(&mut self, done: &mut Vec<Completed<T>>) -> Result<bool, Violation> {
        let params = self.params();
        let Some(rx) = &self.rx else { return Ok(false) };
        let available = &rx[self.rx_start..self.rx_end];
        match &mut self.incoming {
            Incoming::Header => {
                let Some(head) = available.get(..BHS_BYTES) else { return Ok(false) };
                let bhs: Bhs = head.try_into().expect("48 bytes");
                let Lengths { extra, data } = Lengths::of(&bhs);
                let head_len = BHS_BYTES + extra;
                let len = head_len + if params.header_digest { DIGEST_BYTES } else { 0 };
                let Some(head) = available.get(..len) else { return Ok(false) };
                if params.header_digest && !Digest::of(&head[..head_len]).matches(&head[head_len..]) {
                    return Err(Violation::Digest("header"));
                }
                if data > limits::ISCSI_SEGMENT_BYTES {
                    return Err(Violation::TooLong(data));
                }
                self.rx_start += len;
                self.segment.clear();
                if bhs[0] & 0x3f == opcode::DATA_IN {
                    self.begin_data(&bhs, data)?;
                }
                if data == 0 {
                    self.act(&bhs, done)?;
                } else {
                    self.incoming = Incoming::Data { bhs, left: data, digest: Digest::default() };
                }
                Ok(true)
            }
            Incoming::Data { bhs, left, digest } if *left > 0 => {
                let n = available.len().min(*left);
                if n == 0 {
                    return Ok(false);
                }
                let piece = &available[..n];
                if params.data_digest {
                    digest.update(piece);
                }
                if bhs[0] & 0x3f == opcode::DATA_IN {
                    let slot = self.slots[get32(&bhs[..], 16) as usize].as_mut().expect("checked with the header");
                    slot.transfer.take(piece);
                } else {
                    self.segment.extend_from_slice(piece);
                }
                *left -= n;
                self.rx_start += n;
                Ok(true)
            }
            Incoming::Data { bhs, digest, .. } => {
                let padding = padding(Lengths::of(bhs).data);
                self.incoming = Incoming::Trailer { bhs: *bhs, padding, digest: *digest };
                Ok(true)
            }
            Incoming::Trailer { bhs, padding, digest } => {
                let len = *padding + if params.data_digest { DIGEST_BYTES } else { 0 };
                let Some(trailer) = available.get(..len) else { return Ok(false) };
                let (pad, wire) = trailer.split_at(*padding);
                digest.update(pad);
                if params.data_digest && !digest.matches(wire) {
                    return Err(Violation::Digest("data"));
                }
                let bhs = *bhs;
                self.rx_start += len;
                self.incoming = Incoming::Header;
                self.act(&bhs, done)?;
                Ok(true)
            }
        }
    }

    fn slot(&mut self, itt: u32) -> Result<&mut Slot<T>, Violation> {
        self.slots.get_mut(itt as usize).and_then(Option::as_mut).ok_or(Violation::UnknownTask(itt))
    }

    /// The header of a Data-In says where its data belongs (11.7).
    fn begin_data(&mut self, bhs: &Bhs, len: usize) -> Result<(), Violation> {
        if !self.is_ready() {
            return Err(Violation::Unexpected(bhs[0] & 0x3f));
        }
        let itt = get32(bhs, 16);
        let (data_sn, offset) = (get32(bhs, 36), get32(bhs, 40) as usize);
        self.slot(itt)?.transfer.expect(data_sn, offset, len).map_err(|why| Violation::Transfer(itt, why))
    }

    /// What the sequence numbers of a PDU say (4.2.2). With error recovery level 0 no answer may be missing.
    fn count(&mut self, bhs: &Bhs, has_status: bool) -> Result<(), Violation> {
        if has_status {
            let found = get32(bhs, 24);
            match self.exp_stat_sn {
                Some(expected) if expected != found => return Err(Violation::Missing { expected, found }),
                _ => self.exp_stat_sn = Some(found.wrapping_add(1)),
            }
        }
        let (exp, max) = (get32(bhs, 28), get32(bhs, 32));
        // A window that ends before it begins is to be ignored; an old one too.
        if !before(max, exp.wrapping_sub(1)) && before(self.max_cmd_sn, max) {
            self.max_cmd_sn = max;
        }
        Ok(())
    }

    /// A PDU is there as a whole.
    fn act(&mut self, bhs: &Bhs, done: &mut Vec<Completed<T>>) -> Result<(), Violation> {
        let (kind, itt) = (bhs[0] & 0x3f, get32(bhs, 16));
        if kind == opcode::LOGIN_RESPONSE {
            return self.login(bhs);
        }
        if !self.is_ready() {
            return Err(Violation::Unexpected(kind));
        }
        match kind {
            opcode::DATA_IN => {
                let has_status = bhs[1] & 1 != 0;
                self.count(bhs, has_status)?;
                if has_status {
                    self.complete(itt, bhs[3], Vec::new(), done)?;
                }
            }
            opcode::RESPONSE => {
                self.count(bhs, true)?;
                let code = if bhs[2] == 0 { bhs[3] } else { TARGET_FAILURE };
                let len = usize::from(get16(&self.segment, 0));
                let sense = self.segment.get(2..).unwrap_or_default();
                let sense = sense[..len.min(sense.len())].to_vec();
                self.complete(itt, code, sense, done)?;
            }
            opcode::R2T => {
                self.count(bhs, false)?;
                self.ready_to_transfer(bhs)?;
            }
            opcode::NOP_IN => self.nop(bhs, itt, done)?,
            opcode::LOGOUT_RESPONSE if itt == LOGOUT_TAG => {
                self.count(bhs, true)?;
                let token = self.logout.take().ok_or(Violation::UnknownTask(itt))?;
                done.push(Completed { token, status: status::GOOD, sense: Vec::new(), data: None });
            }
            opcode::REJECT => return Err(Violation::Rejected(bhs[2])),
            opcode::ASYNC => {
                self.count(bhs, true)?;
                // 0 brings sense data, which the next command brings as well; 4 and above are of no concern to us.
                if matches!(bhs[36], 1..=4) {
                    return Err(Violation::Ended(bhs[36]));
                }
            }
            other => return Err(Violation::Unexpected(other)),
        }
        Ok(())
    }

    fn nop(&mut self, bhs: &Bhs, itt: u32, done: &mut Vec<Completed<T>>) -> Result<(), Violation> {
        let ttt = get32(bhs, 20);
        self.count(bhs, itt != NO_TAG)?;
        if itt == PING_TAG {
            let token = self.ping.take().ok_or(Violation::UnknownTask(itt))?;
            done.push(Completed { token, status: status::GOOD, sense: Vec::new(), data: None });
        } else if itt != NO_TAG {
            return Err(Violation::UnknownTask(itt));
        }
        if ttt != NO_TAG {
            // It wants a sign of life.
            let mut answer = pdu::header(opcode::NOP_OUT | IMMEDIATE, FINAL, NO_TAG);
            answer[8..16].copy_from_slice(&bhs[8..16]);
            put32(&mut answer, 20, ttt);
            put32(&mut answer, 24, self.cmd_sn);
            self.send(answer, None);
        }
        Ok(())
    }

    /// A login answer.
    fn login(&mut self, bhs: &Bhs) -> Result<(), Violation> {
        self.count(bhs, true)?;
        let State::Login(login) = &mut self.state else { return Err(Violation::Unexpected(opcode::LOGIN_RESPONSE)) };
        let status = get16(bhs, 36);
        if status != 0 {
            return Err(Violation::Refused { status });
        }
        let flags = bhs[1];
        let granted = (flags & FINAL != 0).then_some(flags & 3);
        let segment = std::mem::take(&mut self.segment);
        match login.answer(&self.options, (flags >> 2 & 3, flags & pdu::CONTINUE != 0, granted), &segment)? {
            Some(say) => self.say(say),
            None => {
                if granted != Some(FULL_FEATURE) {
                    return Err(Violation::Login("it leads to no known stage"));
                }
                let params = login.params;
                let unwanted = params.header_digest && !self.options.header_digest
                    || params.data_digest && !self.options.data_digest;
                if unwanted {
                    return Err(Violation::Login("it turned on a digest that was not asked for"));
                }
                self.state = State::Full(params);
            }
        }
        Ok(())
    }

    /// Answers a command. GOOD is believed of a write only when all of its data has gone.
    fn complete(&mut self, itt: u32, code: u8, sense: Vec<u8>, done: &mut Vec<Completed<T>>) -> Result<(), Violation> {
        let is_good = matches!(command::verdict(code, &sense), command::Verdict::Done(Ok(())));
        if !self.slot(itt)?.transfer.is_sent() && is_good {
            return Err(Violation::Transfer(itt, "success before all data was asked for"));
        }
        let Slot { token, transfer } = self.slots[itt as usize].take().expect("looked at above");
        self.free.push(itt);
        done.push(Completed { token, status: code, sense, data: transfer.into_data().filter(|_| is_good) });
        Ok(())
    }

    /// R2T (11.8): all that it asks for goes out at once.
    fn ready_to_transfer(&mut self, bhs: &Bhs) -> Result<(), Violation> {
        let (itt, ttt, params, lun) = (get32(bhs, 16), get32(bhs, 20), self.params(), self.options.lun);
        let (offset, len) = (get32(bhs, 40) as usize, get32(bhs, 44) as usize);
        let wrong = |why| Violation::Transfer(itt, why);
        if ttt == NO_TAG || len > params.max_burst as usize {
            return Err(wrong("a request for data that makes no sense"));
        }
        let pieces = self.slot(itt)?.transfer.asked(offset, len, &params).map_err(wrong)?;
        for piece in pieces {
            self.send(piece.header(itt, ttt, lun), Some(piece.data));
        }
        Ok(())
    }
}

/// The status of a command that the target could not carry out (11.4.3, response 01h): none of SCSI's.
const TARGET_FAILURE: u8 = 0xff;

/// A logical unit number as it is on the wire (SAM 4.7): peripheral up to 255, flat above.
pub(super) fn wire_lun(lun: u16) -> u64 {
    let mut bytes = [0; 8];
    put16(&mut bytes, 0, if lun < 256 { lun } else { 0x4000 | lun & 0x3fff });
    u64::from_be_bytes(bytes)
}
