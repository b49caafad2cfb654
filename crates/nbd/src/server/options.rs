//! The handshake (spec, "Fixed newstyle negotiation").

use block::limits;

use super::connection::{Chosen, Connection, Replies, Stage, Timer};
use super::receive::Mode;
use super::{ConnectionId, Effect, ExportId, Outbox, Server};
use crate::proto::{
    EXPORT_NAME_ZEROES, OPTION_HEADER_BYTES, OPTION_MAGIC, get16, get32, handshake, info, option, reply,
};

/// The only metadata context, and its number.
pub const ALLOCATION: &str = "base:allocation";
pub(super) const ALLOCATION_ID: u32 = 1;

/// An answer that is an error.
type Refusal = u32;

impl Server {
    /// The client's flags; whether there was something to do.
    pub(super) fn greeting(&mut self, id: ConnectionId, out: &mut Outbox) -> bool {
        let connection = self.connection(id);
        let Some(flags) = get32(connection.receiver.bytes(), 0) else { return false };
        connection.receiver.consume(4);
        let known = u32::from(handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES);
        if flags & !known != 0 {
            // The spec wants it so: what else the client expects is not known.
            self.close(id, out);
            return false;
        }
        connection.no_zeroes = flags & u32::from(handshake::NO_ZEROES) != 0;
        connection.stage = Stage::Options;
        true
    }

    /// One option; whether there was something to do.
    pub(super) fn option(&mut self, id: ConnectionId, out: &mut Outbox) -> bool {
        let connection = self.connection(id);
        if let Mode::Skip { .. } = connection.receiver.mode {
            return connection.receiver.skip();
        }
        let bytes = connection.receiver.bytes();
        let (Some(option), Some(length)) = (get32(bytes, 8), get32(bytes, 12)) else { return false };
        if bytes[..8] != OPTION_MAGIC {
            self.close(id, out);
            return false;
        }
        let length = length as usize;
        if length > limits::NBD_OPTION_BYTES {
            if option == option::EXPORT_NAME {
                // It has no error answer.
                self.close(id, out);
                return false;
            }
            connection.receiver.consume(OPTION_HEADER_BYTES);
            connection.receiver.mode = Mode::Skip { left: length as u64 };
            connection.answer_option(option, reply::ERR_TOO_BIG, &[]);
            return true;
        }
        let Some(data) = bytes.get(OPTION_HEADER_BYTES..OPTION_HEADER_BYTES + length) else { return false };
        let data = data.to_vec();
        connection.receiver.consume(OPTION_HEADER_BYTES + length);
        self.on_option(id, option, &data, out);
        true
    }

    fn on_option(&mut self, id: ConnectionId, option: u32, data: &[u8], out: &mut Outbox) {
        let done = match option {
            option::EXPORT_NAME => return self.export_name(id, data, out),
            option::ABORT => {
                self.connection(id).answer_option(option, reply::ACK, &[]);
                return self.finish(id, out);
            }
            option::LIST => self.list(id, data),
            option::INFO | option::GO => match self.describe(id, option, data) {
                Ok(export) if option == option::GO => return self.choose(id, export, Chosen::Go, out),
                other => other.map(|_| ()),
            },
            option::STRUCTURED_REPLY => self.connection(id).agree(Replies::Structured, data),
            option::EXTENDED_HEADERS => self.connection(id).agree(Replies::Extended, data),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.contexts(id, option, data),
            // STARTTLS among them: there is no TLS here.
            _ => Err(reply::ERR_UNSUP),
        };
        let answer = done.err().unwrap_or(reply::ACK);
        self.connection(id).answer_option(option, answer, &[]);
    }

    fn export_name(&mut self, id: ConnectionId, name: &[u8], out: &mut Outbox) {
        match self.find(name) {
            Some(export) => self.choose(id, export, Chosen::Name, out),
            None => self.close(id, out),
        }
    }

    fn find(&self, name: &[u8]) -> Option<ExportId> {
        self.serves(std::str::from_utf8(name).ok()?)
    }

    fn list(&mut self, id: ConnectionId, data: &[u8]) -> Result<(), Refusal> {
        if !data.is_empty() {
            return Err(reply::ERR_INVALID);
        }
        for name in self.by_name.keys() {
            let entry = [&(name.len() as u32).to_be_bytes()[..], name.as_bytes()].concat();
            self.connections[id.index()].answer_option(option::LIST, reply::SERVER, &entry);
        }
        Ok(())
    }

    /// Tells what INFO and GO ask for.
    fn describe(&mut self, id: ConnectionId, option: u32, data: &[u8]) -> Result<ExportId, Refusal> {
        let (name, rest) = string(data).ok_or(reply::ERR_INVALID)?;
        let count = usize::from(get16(rest, 0).ok_or(reply::ERR_INVALID)?);
        let wanted = &rest[2..];
        if wanted.len() != 2 * count {
            return Err(reply::ERR_INVALID);
        }
        let export = self.find(name).ok_or(reply::ERR_UNKNOWN)?;
        let served = &self.exports[export.0 as usize];
        let geometry = served.export.geometry;
        let block_size = geometry.block_size.bytes();
        let connection = &mut self.connections[id.index()];
        let mut tell = |kind: u16, data: &[u8]| {
            connection.answer_option(option, reply::INFO, &[&kind.to_be_bytes()[..], data].concat());
        };
        let sizes = [block_size, block_size.max(4096), limits::NBD_PAYLOAD_BYTES as u32];
        tell(info::BLOCK_SIZE, &sizes.map(u32::to_be_bytes).concat());
        let wants = |kind| (0..count).any(|i| get16(wanted, 2 * i) == Some(kind));
        if wants(info::NAME) {
            tell(info::NAME, served.export.name.as_bytes());
        }
        if wants(info::DESCRIPTION) {
            tell(info::DESCRIPTION, served.export.description.as_bytes());
        }
        let flags = served.flags(self.connections[id.index()].replies > Replies::Simple);
        let size = geometry.bytes().0;
        let export_info = [&info::EXPORT.to_be_bytes()[..], &size.to_be_bytes(), &flags.to_be_bytes()].concat();
        self.connections[id.index()].answer_option(option, reply::INFO, &export_info);
        Ok(export)
    }

    fn contexts(&mut self, id: ConnectionId, option: u32, data: &[u8]) -> Result<(), Refusal> {
        let sets = option == option::SET_META_CONTEXT;
        if sets {
            self.connection(id).allocation_of = None;
        }
        if self.connection(id).replies == Replies::Simple {
            return Err(reply::ERR_INVALID);
        }
        let (name, rest) = string(data).ok_or(reply::ERR_INVALID)?;
        let count = get32(rest, 0).ok_or(reply::ERR_INVALID)?;
        let mut rest = &rest[4..];
        // An empty list asks for everything there is, and chooses nothing.
        let mut found = count == 0 && !sets;
        for _ in 0..count {
            let (query, more) = string(rest).ok_or(reply::ERR_INVALID)?;
            found |= query == ALLOCATION.as_bytes() || !sets && query == b"base:";
            rest = more;
        }
        if !rest.is_empty() {
            return Err(reply::ERR_INVALID);
        }
        let export = self.find(name).ok_or(reply::ERR_UNKNOWN)?;
        if found {
            let number = if sets { ALLOCATION_ID } else { 0 };
            let entry = [&number.to_be_bytes()[..], ALLOCATION.as_bytes()].concat();
            let connection = self.connection(id);
            connection.answer_option(option, reply::META_CONTEXT, &entry);
            if sets {
                connection.allocation_of = Some(export);
            }
        }
        Ok(())
    }

    /// An export is chosen: transmission begins when nothing of a lost connection is at its disk.
    fn choose(&mut self, id: ConnectionId, export: ExportId, how: Chosen, out: &mut Outbox) {
        let connection = self.connection(id);
        connection.export = Some(export);
        connection.stage = Stage::Held(how);
        // The disk has its own deadlines.
        connection.timer = Timer::Off;
        out.push(Effect::Timer);
        self.release(id);
    }

    /// Lets a connection go on that was held, if it may.
    pub(super) fn release(&mut self, id: ConnectionId) -> bool {
        let connection = &self.connections[id.index()];
        let (Stage::Held(how), Some(export)) = (connection.stage, connection.export) else { return false };
        let lost = |c: &Connection| c.export == Some(export) && c.stage == Stage::Closed && c.at_disk > 0;
        if self.connections.iter().any(|(_, c)| lost(c)) {
            return false;
        }
        let served = &self.exports[export.0 as usize];
        let (size, flags) = (served.export.geometry.bytes().0, served.flags(connection.replies > Replies::Simple));
        let connection = self.connection(id);
        connection.stage = Stage::Transmission;
        match how {
            Chosen::Go => connection.answer_option(option::GO, reply::ACK, &[]),
            Chosen::Name => {
                connection.output.small(&size.to_be_bytes());
                connection.output.small(&flags.to_be_bytes());
                if !connection.no_zeroes {
                    connection.output.zeroes(EXPORT_NAME_ZEROES);
                }
            }
        }
        true
    }
}

impl Connection {
    /// Agrees on a better kind of replies.
    fn agree(&mut self, replies: Replies, data: &[u8]) -> Result<(), Refusal> {
        if !data.is_empty() || self.replies >= replies {
            return Err(reply::ERR_INVALID);
        }
        self.replies = replies;
        Ok(())
    }
}

/// A string with its length before it, and what comes after it.
fn string(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let len = get32(data, 0)? as usize;
    data[4..].split_at_checked(len).filter(|_| len <= limits::NBD_NAME_BYTES)
}
