//! Numbers and headers as they are on the wire. All numbers are big-endian.

use block::Fault;

/// What a server says first, twice eight bytes: NBDMAGIC and IHAVEOPT.
pub const GREETING: [u8; 16] = *b"NBDMAGICIHAVEOPT";
/// Begins each option of a client.
pub const OPTION_MAGIC: [u8; 8] = *b"IHAVEOPT";
/// Begins each answer to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Begins a request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Begins a request once extended headers are agreed on.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// Begins a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Begins a chunk of a structured reply.
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;
/// Begins a chunk once extended headers are agreed on.
pub const EXTENDED_CHUNK_MAGIC: u32 = 0x6e8a_278c;

/// Bytes of an option's header.
pub const OPTION_HEADER_BYTES: usize = 16;
/// Bytes of the header of an answer to an option.
pub const OPTION_REPLY_HEADER_BYTES: usize = 20;
/// Bytes of a request's header.
pub const REQUEST_BYTES: usize = 28;
/// Bytes of an extended request's header.
pub const EXTENDED_REQUEST_BYTES: usize = 32;
/// Bytes of a simple reply's header.
pub const SIMPLE_REPLY_BYTES: usize = 16;
/// Bytes of a chunk's header.
pub const CHUNK_BYTES: usize = 20;
/// Bytes of an extended chunk's header.
pub const EXTENDED_CHUNK_BYTES: usize = 32;
/// Zeroes after the answer to EXPORT_NAME, unless both sides leave them out.
pub const EXPORT_NAME_ZEROES: usize = 124;

/// Handshake flags of the server, and (the same values) of the client.
pub mod handshake {
    /// Fixed newstyle: unknown options are answered.
    pub const FIXED_NEWSTYLE: u16 = 1;
    /// No zeroes after the answer to EXPORT_NAME.
    pub const NO_ZEROES: u16 = 2;
}

/// Options.
pub mod option {
    /// Choose an export and begin; there is no way to refuse but to close.
    pub const EXPORT_NAME: u32 = 1;
    /// End the session.
    pub const ABORT: u32 = 2;
    /// List the exports.
    pub const LIST: u32 = 3;
    /// Begin TLS.
    pub const STARTTLS: u32 = 5;
    /// Ask about an export.
    pub const INFO: u32 = 6;
    /// Choose an export and begin.
    pub const GO: u32 = 7;
    /// Agree on structured replies.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// List metadata contexts.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Choose metadata contexts.
    pub const SET_META_CONTEXT: u32 = 10;
    /// Agree on extended headers.
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Answers to options.
pub mod reply {
    /// Done.
    pub const ACK: u32 = 1;
    /// An export's name.
    pub const SERVER: u32 = 2;
    /// Something about an export.
    pub const INFO: u32 = 3;
    /// A metadata context.
    pub const META_CONTEXT: u32 = 4;
    /// Set in all errors.
    pub const ERROR: u32 = 1 << 31;
    /// The option is not known here.
    pub const ERR_UNSUP: u32 = ERROR | 1;
    /// The option is malformed.
    pub const ERR_INVALID: u32 = ERROR | 3;
    /// There is no such export.
    pub const ERR_UNKNOWN: u32 = ERROR | 6;
    /// The server is going away.
    pub const ERR_SHUTDOWN: u32 = ERROR | 7;
    /// The option is too long.
    pub const ERR_TOO_BIG: u32 = ERROR | 9;
}

/// What can be told about an export.
pub mod info {
    /// Its size and flags.
    pub const EXPORT: u16 = 0;
    /// Its canonical name.
    pub const NAME: u16 = 1;
    /// A sentence for people.
    pub const DESCRIPTION: u16 = 2;
    /// Its block sizes: smallest, preferred, largest.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags of an export.
pub mod flag {
    /// There are flags.
    pub const HAS_FLAGS: u16 = 1;
    /// It can not be written.
    pub const READ_ONLY: u16 = 1 << 1;
    /// FLUSH is there.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// Commands can ask for Force Unit Access.
    pub const SEND_FUA: u16 = 1 << 3;
    /// TRIM is there.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// WRITE_ZEROES is there.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// Reads can ask not to be fragmented.
    pub const SEND_DF: u16 = 1 << 7;
    /// A flush on one connection covers what was answered on all.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// CACHE is there.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// WRITE_ZEROES can be asked to be fast or fail.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// Commands.
pub mod command {
    /// Read.
    pub const READ: u16 = 0;
    /// Write.
    pub const WRITE: u16 = 1;
    /// End the session; not answered.
    pub const DISC: u16 = 2;
    /// Make durable what was answered.
    pub const FLUSH: u16 = 3;
    /// The contents are not needed any more.
    pub const TRIM: u16 = 4;
    /// The range will be read soon.
    pub const CACHE: u16 = 5;
    /// Make the range read as zeroes.
    pub const WRITE_ZEROES: u16 = 6;
    /// Ask what a range is made of.
    pub const BLOCK_STATUS: u16 = 7;
}

/// Flags of commands.
pub mod command_flag {
    /// Durable when answered.
    pub const FUA: u16 = 1;
    /// Do not free the space.
    pub const NO_HOLE: u16 = 1 << 1;
    /// Do not fragment the answer.
    pub const DF: u16 = 1 << 2;
    /// One extent is enough.
    pub const REQ_ONE: u16 = 1 << 3;
    /// Be faster than writing zeroes, or fail.
    pub const FAST_ZERO: u16 = 1 << 4;
    /// The length of an extended request is that of a payload.
    pub const PAYLOAD_LEN: u16 = 1 << 5;
}

/// Kinds and flags of chunks.
pub mod chunk {
    /// Flag: the last of its reply.
    pub const DONE: u16 = 1;
    /// Nothing but the end.
    pub const NONE: u16 = 0;
    /// An offset, and data from there on.
    pub const OFFSET_DATA: u16 = 1;
    /// An offset, and how many zeroes are there.
    pub const OFFSET_HOLE: u16 = 2;
    /// Extents with numbers of 32 bits.
    pub const BLOCK_STATUS: u16 = 5;
    /// Extents with numbers of 64 bits.
    pub const BLOCK_STATUS_EXT: u16 = 6;
    /// Set in all kinds that are errors.
    pub const IS_ERROR: u16 = 1 << 15;
    /// An error with a message.
    pub const ERROR: u16 = IS_ERROR | 1;
    /// The same, with an offset.
    pub const ERROR_OFFSET: u16 = IS_ERROR | 2;
}

/// Why a command failed, as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub u32);

impl Errno {
    /// Operation not permitted.
    pub const PERM: Errno = Errno(1);
    /// Input/output error.
    pub const IO: Errno = Errno(5);
    /// Invalid argument.
    pub const INVAL: Errno = Errno(22);
    /// No space left, or a write beyond the end.
    pub const NOSPC: Errno = Errno(28);
    /// Too large.
    pub const OVERFLOW: Errno = Errno(75);
    /// Not supported.
    pub const NOTSUP: Errno = Errno(95);
    /// The server is shutting down.
    pub const SHUTDOWN: Errno = Errno(108);

    /// What a fault is on the wire.
    pub fn of(fault: Fault) -> Errno {
        match fault {
            Fault::NoSpace => Errno::NOSPC,
            Fault::OutOfRange => Errno::INVAL,
            Fault::Unsupported => Errno::NOTSUP,
            Fault::Aborted => Errno::SHUTDOWN,
            Fault::Fenced => Errno::PERM,
            Fault::Medium | Fault::Gone | Fault::TimedOut | Fault::Miscompare => Errno::IO,
        }
    }

    /// What an error of a server means for a device. "Not permitted" is no proof that somebody else has taken the device
    /// over, as [`Fault::Fenced`] would be: NBD has no reservations.
    pub fn fault(self) -> Fault {
        match self {
            Errno::NOSPC => Fault::NoSpace,
            Errno::INVAL | Errno::OVERFLOW | Errno::NOTSUP => Fault::Unsupported,
            _ => Fault::Medium,
        }
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}
/// The 16-bit number at `at`.
pub fn get16(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}
/// The 32-bit number at `at`.
pub fn get32(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_be_bytes)
}
/// The 64-bit number at `at`.
pub fn get64(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_be_bytes)
}

/// A request, in either form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// Flags of the command.
    pub flags: u16,
    /// The command.
    pub kind: u16,
    /// Names the request in its reply.
    pub cookie: u64,
    /// Bytes from the start of the export.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

impl RequestHeader {
    /// Reads a request from its 28 or 32 bytes; `None`: the magic is wrong, the stream makes no sense any more.
    pub fn parse(bytes: &[u8], extended: bool) -> Option<RequestHeader> {
        let magic = if extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
        if get32(bytes, 0)? != magic {
            return None;
        }
        let length = if extended { get64(bytes, 24)? } else { get32(bytes, 24)?.into() };
        Some(RequestHeader {
            flags: get16(bytes, 4)?,
            kind: get16(bytes, 6)?,
            cookie: get64(bytes, 8)?,
            offset: get64(bytes, 16)?,
            length,
        })
    }

    /// The bytes of the request and how many they are. The short form takes the lower 32 bits of the length.
    pub fn to_bytes(self, extended: bool) -> ([u8; EXTENDED_REQUEST_BYTES], usize) {
        let mut bytes = [0; EXTENDED_REQUEST_BYTES];
        let magic = if extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
        bytes[..4].copy_from_slice(&magic.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.kind.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_be_bytes());
        if extended {
            bytes[24..32].copy_from_slice(&self.length.to_be_bytes());
            (bytes, EXTENDED_REQUEST_BYTES)
        } else {
            bytes[24..28].copy_from_slice(&(self.length as u32).to_be_bytes());
            (bytes, REQUEST_BYTES)
        }
    }
}

/// A chunk of a reply, in either form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkHeader {
    /// [`chunk::DONE`].
    pub flags: u16,
    /// What it holds.
    pub kind: u16,
    /// Whose reply.
    pub cookie: u64,
    /// The request's offset; only in the extended form.
    pub offset: u64,
    /// Bytes of the payload.
    pub length: u64,
}

impl ChunkHeader {
    /// Reads a chunk's header; `None`: its magic is wrong.
    pub fn parse(bytes: &[u8], extended: bool) -> Option<ChunkHeader> {
        let magic = if extended { EXTENDED_CHUNK_MAGIC } else { CHUNK_MAGIC };
        if get32(bytes, 0)? != magic {
            return None;
        }
        let (offset, length) =
            if extended { (get64(bytes, 16)?, get64(bytes, 24)?) } else { (0, get32(bytes, 16)?.into()) };
        Some(ChunkHeader { flags: get16(bytes, 4)?, kind: get16(bytes, 6)?, cookie: get64(bytes, 8)?, offset, length })
    }

    /// The bytes of the header and how many they are.
    pub fn to_bytes(self, extended: bool) -> ([u8; EXTENDED_CHUNK_BYTES], usize) {
        let mut bytes = [0; EXTENDED_CHUNK_BYTES];
        let magic = if extended { EXTENDED_CHUNK_MAGIC } else { CHUNK_MAGIC };
        bytes[..4].copy_from_slice(&magic.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.kind.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        if extended {
            bytes[16..24].copy_from_slice(&self.offset.to_be_bytes());
            bytes[24..32].copy_from_slice(&self.length.to_be_bytes());
            (bytes, EXTENDED_CHUNK_BYTES)
        } else {
            bytes[16..20].copy_from_slice(&(self.length as u32).to_be_bytes());
            (bytes, CHUNK_BYTES)
        }
    }
}

/// An option with its data.
pub fn option_bytes(option: u32, data: &[u8]) -> Vec<u8> {
    [&OPTION_MAGIC[..], &option.to_be_bytes(), &(data.len() as u32).to_be_bytes(), data].concat()
}

/// An answer to an option.
pub fn option_reply_bytes(option: u32, reply: u32, data: &[u8]) -> Vec<u8> {
    let magic = OPTION_REPLY_MAGIC.to_be_bytes();
    [&magic[..], &option.to_be_bytes(), &reply.to_be_bytes(), &(data.len() as u32).to_be_bytes(), data].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn requests_come_back(flags: u16, kind: u16, cookie: u64, offset: u64, length: u64, extended: bool) {
            let length = if extended { length } else { length & 0xffff_ffff };
            let header = RequestHeader { flags, kind, cookie, offset, length };
            let (bytes, len) = header.to_bytes(extended);
            prop_assert_eq!(RequestHeader::parse(&bytes[..len], extended), Some(header));
            prop_assert_eq!(RequestHeader::parse(&bytes[..len], !extended), None);
            prop_assert_eq!(RequestHeader::parse(&bytes[..len - 1], extended), None);
        }
        #[test]
        fn chunks_come_back(flags: u16, kind: u16, cookie: u64, offset: u64, length: u64, extended: bool) {
            let (offset, length) = if extended { (offset, length) } else { (0, length & 0xffff_ffff) };
            let header = ChunkHeader { flags, kind, cookie, offset, length };
            let (bytes, len) = header.to_bytes(extended);
            prop_assert_eq!(ChunkHeader::parse(&bytes[..len], extended), Some(header));
            prop_assert_eq!(ChunkHeader::parse(&bytes[..len], !extended), None);
        }
    }

    #[test]
    fn every_fault_is_an_error() {
        for fault in [
            Fault::Medium,
            Fault::NoSpace,
            Fault::OutOfRange,
            Fault::Unsupported,
            Fault::Aborted,
            Fault::Gone,
            Fault::TimedOut,
            Fault::Fenced,
            Fault::Miscompare,
        ] {
            assert_ne!(Errno::of(fault).0, 0, "{fault}");
        }
        assert_eq!(Errno::NOSPC.fault(), Fault::NoSpace);
        assert_eq!(Errno(4711).fault(), Fault::Medium);
    }
}
