//! Commands and their answers.

use block::BufMut;
use smallvec::SmallVec;

use super::{Client, Command, Completed, DIRECT_BYTES, Incoming, Reading, Slot, State, Violation};
use crate::proto::{
    CHUNK_BYTES, CHUNK_MAGIC, ChunkHeader, EXTENDED_CHUNK_BYTES, EXTENDED_CHUNK_MAGIC, Errno, RequestHeader,
    SIMPLE_REPLY_BYTES, SIMPLE_REPLY_MAGIC, chunk, command, command_flag, get16, get32, get64,
};

/// The longest payload of a chunk that is no data.
const CHUNK_TEXT_BYTES: u64 = 8 << 10;

impl<T> Client<T> {
    /// Sends a command. Panics before the connection is ready.
    pub fn submit(&mut self, command: Command, token: T) {
        assert_eq!(self.state, State::Ready, "a command before the connection is ready");
        let (kind, mut flags, offset, length, payload) = match command {
            Command::Read { offset, length } => (command::READ, 0, offset, length as u64, None),
            Command::Write { offset, data, durable } => {
                (command::WRITE, fua(durable), offset, data.len() as u64, Some(data))
            }
            Command::Flush => (command::FLUSH, 0, 0, 0, None),
            Command::Trim { offset, length } => (command::TRIM, 0, offset, length, None),
            Command::WriteZeroes { offset, length, may_unmap, durable } => {
                let no_hole = if may_unmap { 0 } else { command_flag::NO_HOLE };
                (command::WRITE_ZEROES, fua(durable) | no_hole, offset, length, None)
            }
        };
        if payload.is_some() && self.info.extended {
            flags |= command_flag::PAYLOAD_LEN;
        }
        assert!(self.info.extended || length <= u64::from(u32::MAX), "a length that the header can not tell");
        let read = (kind == command::READ).then(|| {
            let len = length as usize;
            self.large_reads += usize::from(len >= DIRECT_BYTES);
            Reading { offset, len, buf: Some(BufMut::new(len)), got: SmallVec::new() }
        });
        let serial = self.serial;
        self.serial = (self.serial + 1) & 0xffff_ffff;
        let slot = self.slots.insert(Slot { token, serial, read, errno: None });
        let cookie = serial << 32 | slot as u64;
        let (bytes, len) = RequestHeader { flags, kind, cookie, offset, length }.to_bytes(self.info.extended);
        self.output.small(&bytes[..len]);
        if let Some(data) = payload {
            self.output.large(data);
        }
    }

    /// Says goodbye; nothing may be submitted after it.
    pub fn disconnect(&mut self) {
        if self.state == State::Ready {
            let request = RequestHeader { flags: 0, kind: command::DISC, cookie: 0, offset: 0, length: 0 };
            let (bytes, len) = request.to_bytes(self.info.extended);
            self.output.small(&bytes[..len]);
        }
    }

    fn slot(&self, cookie: u64) -> Result<usize, Violation> {
        let slot = cookie as u32 as usize;
        match self.slots.get(slot) {
            Some(found) if found.serial == cookie >> 32 => Ok(slot),
            _ => Err(Violation::Protocol("an answer for a command that is not in flight")),
        }
    }

    /// The header of a reply or of a chunk, with its payload when that is no data.
    pub(super) fn reply(&mut self, done: &mut Vec<Completed<T>>) -> Result<bool, Violation> {
        let Some(magic) = get32(self.bytes(), 0) else { return Ok(false) };
        match magic {
            SIMPLE_REPLY_MAGIC if !self.info.extended => self.simple(done),
            CHUNK_MAGIC if self.chunks && !self.info.extended => self.chunk(done),
            EXTENDED_CHUNK_MAGIC if self.info.extended => self.chunk(done),
            _ => Err(Violation::Protocol("a wrong magic number in a reply")),
        }
    }

    fn simple(&mut self, done: &mut Vec<Completed<T>>) -> Result<bool, Violation> {
        let bytes = self.bytes();
        let (Some(errno), Some(cookie)) = (get32(bytes, 4), get64(bytes, 8)) else { return Ok(false) };
        let slot = self.slot(cookie)?;
        self.start += SIMPLE_REPLY_BYTES;
        if errno != 0 {
            self.slots[slot].errno = Some(Errno(errno));
            return self.complete(slot, done);
        }
        match self.slots[slot].read.as_mut() {
            Some(_) if self.chunks => Err(Violation::Protocol("a simple reply to a read, with structured replies")),
            Some(reading) => {
                let len = reading.len;
                reading.got.push((0, len));
                self.incoming = Incoming::Data { slot, at: 0, left: len, done: true };
                Ok(true)
            }
            None => self.complete(slot, done),
        }
    }

    fn chunk(&mut self, done: &mut Vec<Completed<T>>) -> Result<bool, Violation> {
        let extended = self.info.extended;
        let head = if extended { EXTENDED_CHUNK_BYTES } else { CHUNK_BYTES };
        let bytes = self.bytes();
        if bytes.len() < head {
            return Ok(false);
        }
        let Some(header) = ChunkHeader::parse(bytes, extended) else { unreachable!("the magic was looked at") };
        let slot = self.slot(header.cookie)?;
        let is_last = header.flags & chunk::DONE != 0;
        if header.kind == chunk::OFFSET_DATA {
            let Some(offset) = get64(bytes, head) else { return Ok(false) };
            let len = header.length.checked_sub(8).ok_or(Violation::Protocol("data without an offset"))?;
            let at = self.arrives(slot, offset, len)?;
            self.start += head + 8;
            self.incoming = Incoming::Data { slot, at, left: len as usize, done: is_last };
            return Ok(true);
        }
        if header.length > CHUNK_TEXT_BYTES {
            return Err(Violation::Protocol("a chunk that is too long"));
        }
        let Some(payload) = bytes.get(head..head + header.length as usize) else { return Ok(false) };
        let too_short = Violation::Protocol("a chunk that is too short");
        match header.kind {
            chunk::NONE if is_last => {}
            chunk::OFFSET_HOLE => {
                let (Some(offset), Some(len)) = (get64(payload, 0), get32(payload, 8)) else { return Err(too_short) };
                let at = self.arrives(slot, offset, len.into())?;
                let buf = self.slots[slot].read.as_mut().and_then(|r| r.buf.as_mut()).expect("it is here");
                buf[at..at + len as usize].fill(0);
            }
            kind if kind & chunk::IS_ERROR != 0 => {
                let (Some(errno), Some(_)) = (get32(payload, 0), get16(payload, 4)) else { return Err(too_short) };
                if errno == 0 {
                    return Err(Violation::Protocol("an error chunk without an error"));
                }
                self.slots[slot].errno.get_or_insert(Errno(errno));
            }
            _ => return Err(Violation::Protocol("a chunk of a kind that was not asked for")),
        }
        self.start += head + header.length as usize;
        if is_last { self.complete(slot, done) } else { Ok(true) }
    }

    /// Notes that a part of a read comes; where it goes in the buffer.
    fn arrives(&mut self, slot: usize, offset: u64, len: u64) -> Result<usize, Violation> {
        let Some(reading) = self.slots[slot].read.as_mut() else {
            return Err(Violation::Protocol("data for a command that reads none"));
        };
        let at = offset
            .checked_sub(reading.offset)
            .filter(|at| at.checked_add(len).is_some_and(|e| e <= reading.len as u64));
        let Some(at) = at.map(|at| at as usize).filter(|_| len > 0) else {
            return Err(Violation::Protocol("data outside of what was asked for"));
        };
        let end = at + len as usize;
        if reading.got.iter().any(|&(from, to)| at < to && from < end) {
            return Err(Violation::Protocol("the same data twice"));
        }
        match reading.got.last_mut() {
            Some(last) if last.1 == at => last.1 = end,
            _ => reading.got.push((at, end)),
        }
        Ok(at)
    }

    /// Data of a read.
    pub(super) fn data(&mut self, done: &mut Vec<Completed<T>>) -> Result<bool, Violation> {
        let Incoming::Data { slot, at, left, done: is_last } = self.incoming else { return Ok(false) };
        if left == 0 {
            self.incoming = Incoming::Header;
            return if is_last { self.complete(slot, done) } else { Ok(true) };
        }
        // The receive buffer is here: the driver has none.
        let Some(rx) = &self.rx else { return Ok(false) };
        let n = left.min(self.end - self.start);
        if n == 0 {
            return Ok(false);
        }
        let buf = self.slots[slot].read.as_mut().and_then(|r| r.buf.as_mut()).expect("it is here");
        buf[at..at + n].copy_from_slice(&rx[self.start..self.start + n]);
        self.start += n;
        self.incoming = Incoming::Data { slot, at: at + n, left: left - n, done: is_last };
        Ok(true)
    }

    /// Ends a command. Success is believed only when all of its data has come.
    fn complete(&mut self, slot: usize, done: &mut Vec<Completed<T>>) -> Result<bool, Violation> {
        let Slot { token, read, errno, .. } = self.slots.remove(slot);
        let result = match (errno, read) {
            (Some(errno), read) => {
                self.large_reads -= read.map_or(0, |r| usize::from(r.len >= DIRECT_BYTES));
                Err(errno)
            }
            (None, None) => Ok(None),
            (None, Some(reading)) => {
                self.large_reads -= usize::from(reading.len >= DIRECT_BYTES);
                if reading.got.iter().map(|(from, to)| to - from).sum::<usize>() != reading.len {
                    // The owner learns of it by the end of the connection.
                    self.slots.insert(Slot { token, serial: u64::MAX, read: None, errno: None });
                    return Err(Violation::Protocol("success before all data has come"));
                }
                Ok(reading.buf)
            }
        };
        done.push(Completed { token, result });
        Ok(true)
    }
}

fn fua(durable: bool) -> u16 {
    if durable { command_flag::FUA } else { 0 }
}
