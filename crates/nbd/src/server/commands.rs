//! Commands: what they ask for, their way to the disk, and their answers (spec, "Transmission phase").

use block::{BlockRange, Blocks, BufMut, Bytes, Data, Durability, Geometry, Lba, Outcome, Request, limits};
use smallvec::SmallVec;

use super::connection::{Clear, Op, Replies, Stage, Task};
use super::options::ALLOCATION_ID;
use super::receive::Mode;
use super::{ConnectionId, Effect, ExportStats, Outbox, Server};
use crate::proto::{EXTENDED_REQUEST_BYTES, Errno, REQUEST_BYTES, RequestHeader, command, command_flag};

/// What a command comes to before it has reached the disk.
enum Plan {
    /// It goes to the disk.
    Disk(Op),
    /// It is done.
    Done,
    /// It asks what its range is made of.
    Status,
    /// It ends the session.
    Disconnect,
}

impl Server {
    /// Bytes have been received into the buffer that [`Server::receive`] gave.
    pub fn on_received(&mut self, id: ConnectionId, buf: BufMut, received: usize, out: &mut Outbox) {
        let connection = self.connection(id);
        connection.take_back(buf, received);
        if connection.listens() {
            self.advance(id, out);
        } else {
            connection.receiver.discard();
        }
    }

    /// What [`Server::take_output`] gave is sent: commands that waited for room go on.
    pub fn on_sent(&mut self, id: ConnectionId, out: &mut Outbox) {
        self.advance(id, out);
    }

    /// Goes on with what is staged, as far as there is room for it.
    pub(super) fn advance(&mut self, id: ConnectionId, out: &mut Outbox) {
        loop {
            let moved = match self.connection(id).stage {
                Stage::Greeting => self.greeting(id, out),
                Stage::Options => self.option(id, out),
                Stage::Transmission => self.transmission(id, out),
                Stage::Held(_) | Stage::Finishing | Stage::Closed | Stage::Ended => false,
            };
            if !moved {
                return;
            }
        }
    }

    fn transmission(&mut self, id: ConnectionId, out: &mut Outbox) -> bool {
        let connection = self.connection(id);
        match connection.receiver.mode {
            Mode::Skip { .. } => connection.receiver.skip(),
            Mode::Header => self.header(id, out),
            Mode::Payload { slot, left: 0, .. } => {
                connection.receiver.mode = Mode::Header;
                self.submit(id, slot, out);
                true
            }
            Mode::Payload { slot, .. } => {
                if connection.receiver.bytes().is_empty() {
                    return false;
                }
                let Some(payload) = &mut connection.tasks[slot as usize].buf else { return false };
                connection.receiver.copy_into(payload);
                true
            }
        }
    }

    /// One request, if all of its header is there and there is room for it.
    fn header(&mut self, id: ConnectionId, out: &mut Outbox) -> bool {
        let connection = self.connection(id);
        let extended = connection.replies == Replies::Extended;
        let len = if extended { EXTENDED_REQUEST_BYTES } else { REQUEST_BYTES };
        if connection.receiver.bytes().len() < len || !connection.has_room() {
            return false;
        }
        let Some(request) = RequestHeader::parse(connection.receiver.bytes(), extended) else {
            self.close(id, out);
            return false;
        };
        let plan = self.plan(id, &request);
        let connection = self.connection(id);
        let takes_memory = matches!(plan, Ok(Plan::Disk(Op::Read | Op::Write { .. })));
        if takes_memory && !connection.has_memory(request.length as usize) {
            return false;
        }
        connection.receiver.consume(len);
        let has_payload = request.kind == command::WRITE || extended && request.flags & command_flag::PAYLOAD_LEN != 0;
        match plan {
            Ok(Plan::Disk(op)) => {
                let length = request.length as usize;
                let buf = matches!(op, Op::Write { .. }).then(|| BufMut::new(length));
                let task = Task { header: request, op, pending: 0, parts: SmallVec::new(), fault: None, buf };
                let slot = connection.begin(task);
                if let Op::Write { .. } = op {
                    connection.receiver.mode = Mode::Payload { slot, at: 0, left: length };
                } else {
                    self.submit(id, slot, out);
                }
            }
            Ok(Plan::Disconnect) => self.finish(id, out),
            Ok(Plan::Done) => connection.answer(&request, Ok(())),
            Ok(Plan::Status) => connection.answer_status(&request, ALLOCATION_ID, request.length, 0),
            Err(_) if has_payload && request.length > u64::from(u32::MAX) => self.close(id, out),
            Err(errno) => {
                if has_payload && request.length > 0 {
                    connection.receiver.mode = Mode::Skip { left: request.length };
                }
                connection.answer(&request, Err(errno));
            }
        }
        true
    }

    /// What a request asks for, or why it fails.
    fn plan(&self, id: ConnectionId, request: &RequestHeader) -> Result<Plan, Errno> {
        let connection = &self.connections[id.index()];
        let Some(export) = connection.export else { unreachable!("transmission has an export") };
        let geometry = self.exports[export.0 as usize].export.geometry;
        check_flags(request, connection.replies)?;
        let durable = request.flags & command_flag::FUA != 0;
        let op = match request.kind {
            command::DISC => return Ok(Plan::Disconnect),
            command::FLUSH => Op::Flush,
            command::READ | command::WRITE => {
                range(request, &geometry)?;
                if request.length > limits::NBD_PAYLOAD_BYTES as u64 {
                    return Err(Errno::INVAL);
                }
                if request.kind == command::READ { Op::Read } else { Op::Write { durable } }
            }
            command::TRIM => Op::Clear { rest: range(request, &geometry)?, how: Clear::Unmap, flush: durable },
            command::WRITE_ZEROES => {
                let rest = range(request, &geometry)?;
                if request.flags & command_flag::FAST_ZERO != 0 && !geometry.features.write_zeroes {
                    return Err(Errno::NOTSUP);
                }
                let may_unmap = request.flags & command_flag::NO_HOLE == 0;
                Op::Clear { rest, how: Clear::Zero { may_unmap, durable }, flush: false }
            }
            command::CACHE => {
                range(request, &geometry)?;
                // A hint; devices read as fast without it.
                return Ok(Plan::Done);
            }
            command::BLOCK_STATUS => {
                range(request, &geometry)?;
                if connection.allocation_of != Some(export) {
                    return Err(Errno::INVAL);
                }
                // Devices do not tell what is allocated, and to call all of it allocated is always right.
                return Ok(Plan::Status);
            }
            _ => return Err(Errno::INVAL),
        };
        Ok(Plan::Disk(op))
    }

    /// Gives a command's requests, or the next of them, to the disk.
    fn submit(&mut self, id: ConnectionId, slot: u32, out: &mut Outbox) {
        let connection = &mut self.connections[id.index()];
        let Some(export) = connection.export else { unreachable!("transmission has an export") };
        let geometry = self.exports[export.0 as usize].export.geometry;
        let task = &mut connection.tasks[slot as usize];
        let is_new = task.parts.is_empty() && task.pending == 0;
        let before = out.len();
        let mut emit = |piece: usize, request: Request| {
            out.push(Effect::Submit { connection: id, slot, piece: piece as u32, export, request });
        };
        let whole = block_range(&task.header, &geometry);
        match &mut task.op {
            Op::Read => pieces(whole, &geometry).enumerate().for_each(|(n, (range, _))| {
                emit(n, Request::Read { range });
            }),
            Op::Write { durable } => {
                let durability = if *durable { Durability::Durable } else { Durability::Volatile };
                let data = task.buf.take().expect("all of the payload is there").freeze();
                for (n, (range, at)) in pieces(whole, &geometry).enumerate() {
                    let len = geometry.block_size.bytes_of(range.len).0 as usize;
                    emit(n, Request::Write { range, data: data.slice(at..at + len), durability });
                }
            }
            Op::Flush => emit(0, Request::Flush),
            Op::Clear { rest, how, flush } => {
                if rest.is_empty() {
                    *flush = false;
                    emit(0, Request::Flush);
                } else {
                    let most = geometry.block_size.blocks_in(Bytes(limits::NBD_CLEAR_BYTES));
                    let range = BlockRange { start: rest.start, len: rest.len.min(most) };
                    *rest = BlockRange { start: Lba(range.start.0 + range.len.0), len: rest.len - range.len };
                    emit(0, clear(range, *how));
                }
            }
        }
        task.pending = (out.len() - before) as u32;
        if is_new {
            // What the pieces read is put together in their order.
            let reads = if task.op == Op::Read { task.pending as usize } else { 1 };
            task.parts.resize_with(reads, Data::empty);
            connection.at_disk += 1;
        }
    }

    /// The disk has answered a request.
    pub fn on_done(&mut self, id: ConnectionId, slot: u32, piece: u32, outcome: Outcome, out: &mut Outbox) {
        let connection = self.connection(id);
        let is_closed = connection.stage == Stage::Closed;
        let task = &mut connection.tasks[slot as usize];
        task.pending -= 1;
        match outcome {
            Ok(data) if task.op == Op::Read => task.parts[piece as usize] = data,
            Ok(_) => {}
            Err(fault) => drop(task.fault.get_or_insert(fault)),
        }
        if task.pending > 0 {
            return;
        }
        let goes_on = matches!(task.op, Op::Clear { rest, flush, .. } if flush || !rest.is_empty());
        // Nothing new is begun for a client that is gone.
        if goes_on && task.fault.is_none() && !is_closed {
            return self.submit(id, slot, out);
        }
        let task = connection.end(slot);
        connection.at_disk -= 1;
        let Some(export) = connection.export else { unreachable!("a command at a disk has an export") };
        count(&mut self.served(export).stats, &task);
        let connection = self.connection(id);
        if !is_closed {
            match task.fault {
                None if task.op == Op::Read => connection.answer_read(&task.header, task.parts),
                None => connection.answer(&task.header, Ok(())),
                Some(fault) => connection.answer(&task.header, Err(Errno::of(fault))),
            }
            // There is room for another command now.
            self.advance(id, out);
        }
        self.end_if_drained(id, out);
    }
}

/// Refuses flags that a command can not have.
fn check_flags(request: &RequestHeader, replies: Replies) -> Result<(), Errno> {
    let special = match request.kind {
        command::READ if replies > Replies::Simple => command_flag::DF,
        command::WRITE if replies == Replies::Extended => command_flag::PAYLOAD_LEN,
        command::WRITE_ZEROES => command_flag::NO_HOLE | command_flag::FAST_ZERO,
        command::BLOCK_STATUS => command_flag::REQ_ONE,
        _ => 0,
    };
    // FUA means nothing to commands that do not write, and is no mistake.
    if request.flags & !(special | command_flag::FUA) == 0 { Ok(()) } else { Err(Errno::INVAL) }
}

/// The blocks of a request; an error when it is not made of whole blocks inside the export.
fn range(request: &RequestHeader, geometry: &Geometry) -> Result<BlockRange, Errno> {
    let is_write = matches!(request.kind, command::WRITE | command::WRITE_ZEROES);
    let end = request.offset.checked_add(request.length);
    if end.is_none_or(|end| end > geometry.bytes().0) {
        return Err(if is_write { Errno::NOSPC } else { Errno::INVAL });
    }
    let is_whole = geometry.block_size.divides(request.offset) && geometry.block_size.divides(request.length);
    if !is_whole || request.length == 0 {
        return Err(Errno::INVAL);
    }
    Ok(block_range(request, geometry))
}

fn block_range(request: &RequestHeader, geometry: &Geometry) -> BlockRange {
    let shift = geometry.block_size.shift();
    BlockRange { start: Lba(request.offset >> shift), len: Blocks(request.length >> shift) }
}

/// A range as requests of at most [`limits::TRANSFER_BYTES`], each with its distance from the start in bytes.
fn pieces(range: BlockRange, geometry: &Geometry) -> impl Iterator<Item = (BlockRange, usize)> {
    let size = geometry.block_size;
    let most = size.blocks_in(Bytes(limits::TRANSFER_BYTES as u64)).0;
    (0..range.len.0).step_by(most as usize).map(move |at| {
        let len = Blocks(most.min(range.len.0 - at));
        (BlockRange { start: Lba(range.start.0 + at), len }, size.bytes_of(Blocks(at)).0 as usize)
    })
}

fn clear(range: BlockRange, how: Clear) -> Request {
    match how {
        Clear::Unmap => Request::Unmap { range },
        Clear::Zero { may_unmap, durable } => {
            let durability = if durable { Durability::Durable } else { Durability::Volatile };
            Request::WriteZeroes { range, may_unmap, durability }
        }
    }
}

fn count(stats: &mut ExportStats, task: &Task) {
    match task.op {
        _ if task.fault.is_some() => stats.errors += 1,
        Op::Read => {
            stats.reads += 1;
            stats.read_bytes += task.header.length;
        }
        Op::Write { .. } => {
            stats.writes += 1;
            stats.written_bytes += task.header.length;
        }
        Op::Flush | Op::Clear { .. } => stats.others += 1,
    }
}
