//! One queue pair over one TCP connection.

use block::link::Outgoing;
pub use block::link::Receive;
use block::{Buf, BufMut};

use super::{Command, Payload, Violation};
use crate::Status;
use crate::command::Sgl;
use crate::completion::Cqe;
use crate::digest::{DIGEST_BYTES, Digest};
use crate::pdu::{self, Digests, Header, Kind, Layout, MAX_HEADER_BYTES, flags};
use crate::wire::Le16;

/// Data that is still to come is received straight into the command's buffer from this size on; less is received with
/// whatever follows it and copied, because one more system call costs more than the copy.
const DIRECT: usize = 16 << 10;
/// How much to receive at a time while large reads are in flight: enough for the headers, and little payload to copy.
const SIP: usize = 4 << 10;
/// What may travel inside a capsule before the controller has said more (TCP 3.4).
const CONNECT_IN_CAPSULE: usize = 8192;

/// Headers of a full queue's batch fit into one page.
type Output = Outgoing<{ 12 << 10 }>;

/// How a queue is set up.
#[derive(Clone, Copy, Debug)]
pub struct QueueOptions {
    /// Entries of the submission queue (NVMe's SQSIZE + 1), at least 2; one less can be in flight.
    pub entries: u16,
    /// The digests to ask for.
    pub digests: Digests,
    /// Bytes of the receive buffer, at least 4096.
    pub receive_bytes: usize,
}

/// A command that the target has answered.
#[derive(Debug)]
pub struct Completed<T> {
    /// What [`Queue::submit`] was given.
    pub token: T,
    /// DW0 and DW1 of the completion; 0 when the data came with the SUCCESS flag.
    pub result: u64,
    /// How it ended.
    pub status: Status,
    /// The data of a command with [`Payload::In`] that succeeded.
    pub data: Option<BufMut>,
}

/// The data transfer of one command.
#[derive(Debug)]
enum Transfer {
    /// None, or all of it went with the capsule.
    Done,
    /// The target asks for it piece by piece, in order.
    Out { data: Buf, sent: usize },
    /// The target sends it piece by piece, in order. The buffer is away while the driver receives into it.
    In { buf: Option<BufMut>, got: usize, len: usize },
}

#[derive(Debug)]
struct Slot<T> {
    token: T,
    transfer: Transfer,
}

/// ```text
/// Negotiating ──ICResp──▶ Ready
/// ```
/// After a [`Violation`] the driver drops the queue; there is no state for that.
#[derive(Clone, Copy, Debug)]
enum State {
    Negotiating,
    Ready(Agreed),
}

/// What ICReq and ICResp agreed on.
#[derive(Clone, Copy, Debug)]
struct Agreed {
    digests: Digests,
    /// CPDA: alignment of the data that we send, 0's based dwords.
    alignment: u8,
    /// MAXH2CDATA: the most data in one H2CData PDU.
    max_h2c_data: usize,
}

/// What the next bytes of the stream are.
///
/// ```text
///   ┌──────────────────────────── all other PDUs ─┐
///   ▼                                             │
/// Header ──C2HData──▶ Padding ──▶ Data ──▶ DataDigest
///   ▲                              │          │
///   └──────── without digest ──────┴──────────┘
/// ```
#[derive(Clone, Copy, Debug)]
enum Incoming {
    Header,
    Padding { left: usize, data: DataPdu },
    Data(DataPdu),
    DataDigest(DataPdu),
}

#[derive(Clone, Copy, Debug)]
struct DataPdu {
    cid: u16,
    left: usize,
    last: bool,
    success: bool,
    digest: Digest,
}

/// One queue pair over one TCP connection: command slots, data in both directions, digests.
///
/// The driver keeps one send and one receive pending: it sends [`output`](Queue::output) and feeds what it received
/// where [`receive`](Queue::receive) said.
pub struct Queue<T> {
    options: QueueOptions,
    state: State,
    in_capsule: usize,
    slots: Vec<Option<Slot<T>>>,
    /// Slots that are free, the one used last on top (its memory is warm).
    free: Vec<u16>,
    /// Reads in flight of [`DIRECT`] bytes and more.
    large_reads: usize,
    output: Output,
    incoming: Incoming,
    /// The receive buffer (away while the driver receives into it) and the part of it that is not consumed yet.
    rx: Option<BufMut>,
    rx_start: usize,
    rx_end: usize,
    /// The command whose buffer the driver receives into.
    direct: Option<u16>,
}

impl<T> Queue<T> {
    /// A new connection; its [`output`](Queue::output) is the initialisation request.
    pub fn new(options: QueueOptions) -> Queue<T> {
        assert!(options.entries >= 2 && options.receive_bytes >= 4096, "unusable queue options: {options:?}");
        let slots = options.entries - 1;
        let mut output = Output::default();
        // Data for us needs no alignment, and one R2T per command at a time is enough: it asks for all of the data.
        output.small(bytemuck::bytes_of(&pdu::ic_req(0, options.digests, 1)));
        Queue {
            options,
            state: State::Negotiating,
            in_capsule: CONNECT_IN_CAPSULE,
            slots: (0..slots).map(|_| None).collect(),
            free: (0..slots).rev().collect(),
            large_reads: 0,
            output,
            incoming: Incoming::Header,
            rx: Some(BufMut::new(options.receive_bytes)),
            rx_start: 0,
            rx_end: 0,
            direct: None,
        }
    }

    /// Whether the connection parameters are agreed, so that commands can be submitted.
    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready(_))
    }
    /// Commands that can be submitted now.
    pub fn free(&self) -> usize {
        if self.is_ready() { self.free.len() } else { 0 }
    }
    /// Commands that were submitted and not answered.
    pub fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }
    /// Whether there is something to send.
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }
    /// The bytes to send, in order; empty when there is nothing.
    pub fn output(&mut self) -> Vec<Buf> {
        self.output.take()
    }
    /// How much data may travel inside a command capsule: 8192 bytes on the admin queue and for Connect (TCP 3.4), on
    /// an I/O queue afterwards what the controller says (IOCCSZ).
    pub fn set_in_capsule(&mut self, bytes: usize) {
        self.in_capsule = bytes;
    }
    /// Ends the queue: what was in flight, in no order. The target may or may not have carried it out.
    pub fn drain(&mut self) -> impl Iterator<Item = T> {
        self.free.clear();
        self.slots.drain(..).flatten().map(|slot| slot.token)
    }

    /// Sends a command. Panics when [`free`](Queue::free) is 0.
    pub fn submit(&mut self, command: Command, token: T) {
        let State::Ready(agreed) = self.state else { panic!("a command before the connection is ready") };
        let cid = self.free.pop().expect("a command needs a free slot");
        let mut sqe = command.sqe;
        sqe.cid = Le16::new(cid);
        let (capsule_data, transfer) = match command.payload {
            Payload::None => (None, Transfer::Done),
            Payload::In(len) => {
                sqe.sgl = Sgl::transport(wire_len(len));
                self.large_reads += usize::from(len >= DIRECT);
                (None, Transfer::In { buf: Some(BufMut::new(len)), got: 0, len })
            }
            Payload::Out(data) if data.len() <= self.in_capsule => {
                sqe.sgl = Sgl::in_capsule(wire_len(data.len()));
                (Some(data), Transfer::Done)
            }
            Payload::Out(data) => {
                sqe.sgl = Sgl::transport(wire_len(data.len()));
                (None, Transfer::Out { data, sent: 0 })
            }
        };
        let len = capsule_data.as_ref().map_or(0, |d| d.len());
        let header = pdu::command(agreed.digests, agreed.alignment, sqe, len);
        self.send(&agreed, header.common.data_offset, bytemuck::bytes_of(&header), capsule_data);
        self.slots[usize::from(cid)] = Some(Slot { token, transfer });
    }

    /// Adds a PDU: header, its digest, padding up to the data, data, its digest.
    fn send(&mut self, agreed: &Agreed, data_offset: u8, header: &[u8], data: Option<Buf>) {
        let digest = agreed.digests.header.then(|| Digest::of(header).to_bytes());
        self.output.small(header);
        if let Some(digest) = digest {
            self.output.small(&digest);
        }
        let Some(data) = data else { return };
        let before = header.len() + agreed.digests.header_bytes();
        self.output.zeroes(usize::from(data_offset) - before);
        let digest = agreed.digests.data.then(|| Digest::of(&data).to_bytes());
        self.output.large(data);
        if let Some(digest) = digest {
            self.output.small(&digest);
        }
    }

    /// Where the next bytes shall go. To be called once before each receive.
    pub fn receive(&mut self) -> Receive {
        if let Incoming::Data(pdu) = self.incoming
            && pdu.left >= DIRECT
            && self.rx_start == self.rx_end
        {
            let slot = self.slots[usize::from(pdu.cid)].as_mut().expect("checked with the header");
            let Transfer::In { buf, got, .. } = &mut slot.transfer else { unreachable!("checked with the header") };
            self.direct = Some(pdu.cid);
            return Receive { buf: buf.take().expect("one receive at a time"), from: *got, max: pdu.left };
        }
        let mut buf = self.rx.take().expect("one receive at a time");
        // What is left over is less than a header, so that moving it costs nothing.
        buf.copy_within(self.rx_start..self.rx_end, 0);
        self.rx_end -= self.rx_start;
        self.rx_start = 0;
        let room = buf.len() - self.rx_end;
        let max = if self.large_reads > 0 { room.min(SIP) } else { room };
        Receive { buf, from: self.rx_end, max }
    }

    /// Takes back the buffer with `n` more bytes in it and adds the commands that are answered by them to `done`.
    /// After an error the queue is of no more use: its [`output`](Queue::output) is a termination request, what was in
    /// flight comes from [`drain`](Queue::drain).
    pub fn received(&mut self, buf: BufMut, n: usize, done: &mut Vec<Completed<T>>) -> Result<(), Violation> {
        match self.direct.take() {
            Some(cid) => {
                let slot = self.slots[usize::from(cid)].as_mut().expect("not answered while data is on its way");
                let Transfer::In { buf: home, .. } = &mut slot.transfer else { unreachable!("as in receive") };
                *home = Some(buf);
                self.took_data(n, None);
            }
            None => {
                self.rx = Some(buf);
                self.rx_end += n;
            }
        }
        self.consume(done).inspect_err(|violation| {
            self.output = Output::default();
            if let Some(reason) = violation.reason() {
                self.output.small(&pdu::termination(Kind::H2cTerm, reason, &[]));
            }
        })
    }

    fn available(&self) -> &[u8] {
        &self.rx.as_ref().expect("back from the driver")[self.rx_start..self.rx_end]
    }

    fn consume(&mut self, done: &mut Vec<Completed<T>>) -> Result<(), Violation> {
        loop {
            match self.incoming {
                Incoming::Header => {
                    if !self.header(done)? {
                        return Ok(());
                    }
                }
                Incoming::Padding { left, data } => {
                    let n = left.min(self.available().len());
                    self.rx_start += n;
                    if n < left {
                        self.incoming = Incoming::Padding { left: left - n, data };
                        return Ok(());
                    }
                    self.incoming = Incoming::Data(data);
                }
                Incoming::Data(pdu) if pdu.left > 0 => {
                    let n = pdu.left.min(self.available().len());
                    if n == 0 {
                        return Ok(());
                    }
                    self.took_data(n, Some(self.rx_start));
                    self.rx_start += n;
                }
                Incoming::Data(pdu) => match self.state {
                    State::Ready(agreed) if agreed.digests.data => self.incoming = Incoming::DataDigest(pdu),
                    _ => self.end_of_data(&pdu, done)?,
                },
                Incoming::DataDigest(pdu) => {
                    let Some(digest) = self.available().get(..DIGEST_BYTES) else { return Ok(()) };
                    if !pdu.digest.matches(digest) {
                        return Err(Violation::Digest("data"));
                    }
                    self.rx_start += DIGEST_BYTES;
                    self.end_of_data(&pdu, done)?;
                }
            }
        }
    }

    /// Takes one header, if all of it is there, and acts on it.
    fn header(&mut self, done: &mut Vec<Completed<T>>) -> Result<bool, Violation> {
        let bytes = self.available();
        let Some(common) = crate::wire::view(bytes) else { return Ok(false) };
        let agreed = match self.state {
            State::Ready(agreed) => agreed.digests,
            State::Negotiating => Digests::default(),
        };
        let layout = Layout::of(&common, agreed, 0).map_err(Violation::Header)?;
        let digest_len = if layout.has_header_digest { DIGEST_BYTES } else { 0 };
        let len = layout.header_len + digest_len;
        debug_assert!(len <= MAX_HEADER_BYTES);
        if bytes.len() < len {
            return Ok(false);
        }
        if layout.has_header_digest && !Digest::of(&bytes[..layout.header_len]).matches(&bytes[layout.header_len..len])
        {
            return Err(Violation::Digest("header"));
        }
        let header = Header::parse(&layout, bytes).map_err(Violation::Header)?;
        self.rx_start += len;
        match (self.state, header) {
            (_, Header::C2hTerm { status, info }) => return Err(Violation::Terminated { status, info }),
            (State::Negotiating, Header::IcResp { data_alignment, digests, max_h2c_data }) => {
                // A digest needs both sides (TCP 3.6.2.2): the target may decline ours, it can not demand its own.
                let asked = self.options.digests;
                if digests.header && !asked.header || digests.data && !asked.data {
                    return Err(Violation::UnwantedDigest);
                }
                let max_h2c_data = max_h2c_data as usize;
                self.state = State::Ready(Agreed { digests, alignment: data_alignment, max_h2c_data });
            }
            (State::Ready(_), Header::Response(cqe)) => self.complete(cqe, done)?,
            (State::Ready(_), Header::C2hData(transfer)) => self.data_header(&layout, len, transfer)?,
            (State::Ready(agreed), Header::R2t(transfer)) => self.ready_to_transfer(&agreed, transfer)?,
            _ => return Err(Violation::Unexpected(layout.kind)),
        }
        Ok(true)
    }

    fn slot(&mut self, cid: u16) -> Result<&mut Slot<T>, Violation> {
        self.slots.get_mut(usize::from(cid)).and_then(Option::as_mut).ok_or(Violation::UnknownCommand(cid))
    }

    /// Answers a command. Success is believed only when all of its data has moved.
    fn complete(&mut self, cqe: Cqe, done: &mut Vec<Completed<T>>) -> Result<(), Violation> {
        let (cid, status) = (cqe.cid.get(), cqe.status());
        let slot = self.slot(cid)?;
        if status.is_success() {
            match &slot.transfer {
                Transfer::Out { data, sent } if *sent != data.len() => {
                    return Err(Violation::Transfer(cid, "success before all data was asked for"));
                }
                Transfer::In { got, len, .. } if got != len => {
                    return Err(Violation::Transfer(cid, "success before all data was sent"));
                }
                _ => {}
            }
        }
        let slot = self.slots[usize::from(cid)].take().expect("looked at above");
        self.free.push(cid);
        let data = match slot.transfer {
            Transfer::In { buf, len, .. } => {
                self.large_reads -= usize::from(len >= DIRECT);
                buf.filter(|_| status.is_success())
            }
            _ => None,
        };
        done.push(Completed { token: slot.token, result: cqe.result.get(), status, data });
        Ok(())
    }

    /// The header of C2HData, `taken` bytes long with its digest (TCP 3.6.2.8).
    fn data_header(&mut self, layout: &Layout, taken: usize, transfer: pdu::Transfer) -> Result<(), Violation> {
        let cid = transfer.cid;
        let (last, success) = (layout.flags & flags::LAST != 0, layout.flags & flags::SUCCESS != 0);
        if success && !last {
            return Err(Violation::Transfer(cid, "success before the last data"));
        }
        let Transfer::In { got, len: total, .. } = self.slot(cid)?.transfer else {
            return Err(Violation::Transfer(cid, "data for a command that reads none"));
        };
        let (offset, len) = (transfer.offset as usize, transfer.len as usize);
        if offset != got || len > total - got {
            return Err(Violation::Transfer(cid, "data that is out of order or too long"));
        }
        let data = DataPdu { cid, left: len, last, success, digest: Digest::default() };
        self.incoming = Incoming::Padding { left: layout.data_start - taken, data };
        Ok(())
    }

    /// `n` more bytes of the data PDU are there: in the receive buffer at `at`, or already where they belong.
    fn took_data(&mut self, n: usize, at: Option<usize>) {
        let digested = matches!(self.state, State::Ready(agreed) if agreed.digests.data);
        let Incoming::Data(pdu) = &mut self.incoming else { unreachable!("only while data is received") };
        let slot = self.slots[usize::from(pdu.cid)].as_mut().expect("checked with the header");
        let Transfer::In { buf: Some(buf), got, .. } = &mut slot.transfer else { unreachable!("as above") };
        let here = &mut buf[*got..*got + n];
        if let Some(at) = at {
            here.copy_from_slice(&self.rx.as_ref().expect("back from the driver")[at..at + n]);
        }
        if digested {
            pdu.digest.update(here);
        }
        *got += n;
        pdu.left -= n;
    }

    fn end_of_data(&mut self, pdu: &DataPdu, done: &mut Vec<Completed<T>>) -> Result<(), Violation> {
        self.incoming = Incoming::Header;
        if pdu.last {
            let Transfer::In { got, len, .. } = self.slot(pdu.cid)?.transfer else { unreachable!("as in the header") };
            if got != len {
                return Err(Violation::Transfer(pdu.cid, "the last data comes too early"));
            }
        }
        if pdu.success { self.complete(Cqe { cid: Le16::new(pdu.cid), ..Cqe::default() }, done) } else { Ok(()) }
    }

    /// R2T (TCP 3.6.2.9): all that it asks for goes out at once, in PDUs of at most MAXH2CDATA.
    fn ready_to_transfer(&mut self, agreed: &Agreed, asked: pdu::Transfer) -> Result<(), Violation> {
        let cid = asked.cid;
        let (offset, len) = (asked.offset as usize, asked.len as usize);
        let Transfer::Out { data, sent } = &mut self.slot(cid)?.transfer else {
            return Err(Violation::Transfer(cid, "a request for data that the command does not have"));
        };
        if offset != *sent || len > data.len() - *sent {
            return Err(Violation::Transfer(cid, "a request for data that is out of order or too long"));
        }
        *sent += len;
        let data = data.slice(offset..offset + len);
        for at in (0..len).step_by(agreed.max_h2c_data) {
            let n = agreed.max_h2c_data.min(len - at);
            let last = if at + n == len { flags::LAST } else { 0 };
            let piece = pdu::Transfer { cid, tag: asked.tag, offset: wire_len(offset + at), len: wire_len(n) };
            let header = pdu::transfer(Kind::H2cData, last, agreed.digests, agreed.alignment, piece);
            let data = data.slice(at..at + n);
            self.send(agreed, header.common.data_offset, bytemuck::bytes_of(&header), Some(data));
        }
        Ok(())
    }
}

fn wire_len(len: usize) -> u32 {
    u32::try_from(len).expect("a command moves less than 4 GiB")
}
