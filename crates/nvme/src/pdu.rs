//! PDUs of the TCP transport (TCP 3.6): raw headers, their parsed form, and the checks that need no connection state.
//!
//! ```text
//! | common header 8 | type specific header | HDGST 0/4 | pad | data | DDGST 0/4 |
//! |<------- HLEN bytes ----------------->|                  |
//! |<------- PDO bytes (0: no data) ------------------------>|
//! |<------- PLEN bytes ------------------------------------------------------->|
//! ```

use bytemuck::{Pod, Zeroable};

use crate::command::Sqe;
use crate::completion::Cqe;
use crate::digest::DIGEST_BYTES;
use crate::wire::{Le16, Le32, view};

/// The common header (TCP 3.6.1.2 figure 19).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct CommonHeader {
    /// PDU-Type; see [`Kind`].
    pub kind: u8,
    /// FLAGS; see [`flags`].
    pub flags: u8,
    /// HLEN: length of the header without the digest.
    pub header_len: u8,
    /// PDO: offset of the data from the start of the PDU, 0 when there is none.
    pub data_offset: u8,
    /// PLEN: length of the whole PDU.
    pub pdu_len: Le32,
}

/// Offsets of fields, as termination requests name them (FEI).
pub mod offset {
    /// PDU-Type.
    pub const KIND: u32 = 0;
    /// FLAGS.
    pub const FLAGS: u32 = 1;
    /// HLEN.
    pub const HEADER_LEN: u32 = 2;
    /// PDO.
    pub const DATA_OFFSET: u32 = 3;
    /// PLEN.
    pub const PDU_LEN: u32 = 4;
    /// PFV of ICReq and ICResp.
    pub const PFV: u32 = 8;
    /// HPDA of ICReq, CPDA of ICResp.
    pub const DATA_ALIGNMENT: u32 = 10;
    /// DGST of ICReq and ICResp.
    pub const DIGESTS: u32 = 11;
    /// MAXR2T of ICReq, MAXH2CDATA of ICResp.
    pub const MAXIMUM: u32 = 12;
    /// CCCID of data PDUs and R2T.
    pub const CID: u32 = 8;
    /// TTAG of H2CData and R2T.
    pub const TAG: u32 = 10;
    /// DATAO of data PDUs, R2TO of R2T.
    pub const TRANSFER_OFFSET: u32 = 12;
    /// DATAL of data PDUs, R2TL of R2T.
    pub const TRANSFER_LEN: u32 = 16;
}

/// FLAGS of the common header.
pub mod flags {
    /// HDGSTF: a header digest follows the header.
    pub const HEADER_DIGEST: u8 = 1 << 0;
    /// DDGSTF: a data digest follows the data.
    pub const DATA_DIGEST: u8 = 1 << 1;
    /// LAST_PDU: the last data PDU of an R2T or of the command.
    pub const LAST: u8 = 1 << 2;
    /// SUCCESS (C2HData only): the command succeeded, no response capsule follows.
    pub const SUCCESS: u8 = 1 << 3;
}

/// PDU types (TCP figure 18).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// ICReq: the host opens the connection.
    IcReq = 0x00,
    /// ICResp: the controller's answer.
    IcResp = 0x01,
    /// H2CTermReq: the host ends the connection.
    H2cTerm = 0x02,
    /// C2HTermReq: the controller ends the connection.
    C2hTerm = 0x03,
    /// CapsuleCmd: a command.
    Command = 0x04,
    /// CapsuleResp: a completion.
    Response = 0x05,
    /// H2CData: data that an R2T asked for.
    H2cData = 0x06,
    /// C2HData: data for the host.
    C2hData = 0x07,
    /// R2T: the controller asks for data.
    R2t = 0x09,
}

impl Kind {
    /// The kind with that number.
    pub fn from_wire(number: u8) -> Option<Kind> {
        use Kind::*;
        [IcReq, IcResp, H2cTerm, C2hTerm, Command, Response, H2cData, C2hData, R2t]
            .into_iter()
            .find(|k| *k as u8 == number)
    }
    /// HLEN of the kind: fixed for each.
    pub const fn header_len(self) -> usize {
        match self {
            Kind::IcReq | Kind::IcResp => size_of::<InitPdu>(),
            Kind::Command => size_of::<CommandPdu>(),
            Kind::Response => size_of::<ResponsePdu>(),
            Kind::H2cTerm | Kind::C2hTerm => size_of::<TermPdu>(),
            Kind::H2cData | Kind::C2hData | Kind::R2t => size_of::<TransferPdu>(),
        }
    }
    /// Whether the kind may carry digests (the initialisation and termination PDUs never do, TCP 3.6.1.1).
    const fn may_have_digests(self) -> bool {
        !matches!(self, Kind::IcReq | Kind::IcResp | Kind::H2cTerm | Kind::C2hTerm)
    }
    /// Whether the kind may carry data.
    const fn may_have_data(self) -> bool {
        matches!(self, Kind::Command | Kind::H2cData | Kind::C2hData | Kind::H2cTerm | Kind::C2hTerm)
    }
}

/// ICReq and ICResp share one layout (TCP 3.6.2.1 and 3.6.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct InitPdu {
    /// Common header.
    pub common: CommonHeader,
    /// PFV: PDU format version, 0.
    pub format: Le16,
    /// HPDA (ICReq) or CPDA (ICResp): alignment that the sender wants for data that it receives, in dwords, 0's based.
    pub data_alignment: u8,
    /// DGST: bit 0 header digest, bit 1 data digest.
    pub digests: u8,
    /// MAXR2T (ICReq, 0's based, per command) or MAXH2CDATA (ICResp, bytes).
    pub maximum: Le32,
    /// Reserved.
    pub reserved: [u8; 112],
}

/// CapsuleCmd (TCP 3.6.2.5), without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct CommandPdu {
    /// Common header.
    pub common: CommonHeader,
    /// CCSQE: the submission queue entry.
    pub sqe: Sqe,
}

/// CapsuleResp (TCP 3.6.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ResponsePdu {
    /// Common header.
    pub common: CommonHeader,
    /// RCCQE: the completion queue entry.
    pub cqe: Cqe,
}

/// H2CData, C2HData and R2T share one layout (TCP 3.6.2.7 to 3.6.2.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct TransferPdu {
    /// Common header.
    pub common: CommonHeader,
    /// CCCID: the command.
    pub cid: Le16,
    /// TTAG: the controller's tag of the R2T; reserved in C2HData.
    pub tag: Le16,
    /// DATAO or R2TO: offset within the command's data, in bytes, a multiple of four.
    pub offset: Le32,
    /// DATAL or R2TL: length in bytes.
    pub len: Le32,
    /// Reserved.
    pub reserved: [u8; 4],
}

/// H2CTermReq and C2HTermReq (TCP 3.6.2.3 and 3.6.2.4), without the copied header in their data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct TermPdu {
    /// Common header.
    pub common: CommonHeader,
    /// FES: fatal error status; see [`FatalError`].
    pub status: Le16,
    /// FEI: what is wrong: a field's offset, or the received digest.
    pub info: Le32,
    /// Reserved.
    pub reserved: [u8; 10],
}

const _: () = assert!(size_of::<CommonHeader>() == 8);
const _: () = assert!(size_of::<InitPdu>() == 128);
const _: () = assert!(size_of::<CommandPdu>() == 72);
const _: () = assert!(size_of::<ResponsePdu>() == 24);
const _: () = assert!(size_of::<TransferPdu>() == 24);
const _: () = assert!(size_of::<TermPdu>() == 24);

/// The size of the common header.
pub const COMMON_BYTES: usize = size_of::<CommonHeader>();
/// The longest header of any PDU.
pub const MAX_HEADER_BYTES: usize = size_of::<InitPdu>();
/// The most bytes of the offending PDU that a termination request carries (TCP 3.6.2.3).
pub const MAX_TERM_DATA: usize = 128;

/// Why a connection is ended with a termination request (FES, TCP figure 24 and 26).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum FatalError {
    /// A field of a header is not valid; the information is the field's offset.
    InvalidHeader = 1,
    /// The PDU is not allowed in this state.
    Sequence = 2,
    /// The header digest is wrong; the information is the received digest.
    HeaderDigest = 3,
    /// Data outside of what was asked for.
    DataOutOfRange = 4,
    /// More data (or more R2Ts) than the receiver's limit.
    LimitExceeded = 5,
    /// A parameter that the receiver does not support; the information is the field's offset.
    UnsupportedParameter = 6,
}

impl FatalError {
    /// The error with that number.
    pub fn from_wire(number: u16) -> Option<FatalError> {
        use FatalError::*;
        [InvalidHeader, Sequence, HeaderDigest, DataOutOfRange, LimitExceeded, UnsupportedParameter]
            .into_iter()
            .find(|e| *e as u16 == number)
    }
}

/// A reason to end the connection: error and information (FES and FEI).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// FES.
    pub error: FatalError,
    /// FEI.
    pub info: u32,
}

impl Violation {
    /// A header field that is not valid, by its offset.
    pub const fn field(offset: u32) -> Violation {
        Violation { error: FatalError::InvalidHeader, info: offset }
    }
    /// A PDU that is not allowed now.
    pub const fn sequence() -> Violation {
        Violation { error: FatalError::Sequence, info: 0 }
    }
}

/// Which digests a connection uses. Negotiated by ICReq and ICResp; never in those PDUs themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    /// Every header is followed by a digest.
    pub header: bool,
    /// All data is followed by a digest.
    pub data: bool,
}

impl Digests {
    /// The DGST field's form.
    pub fn from_wire(bits: u8) -> Digests {
        Digests { header: bits & 1 != 0, data: bits & 2 != 0 }
    }
    /// The DGST field's form.
    pub fn to_wire(self) -> u8 {
        u8::from(self.header) | u8::from(self.data) << 1
    }
    /// Bytes of a header digest.
    pub fn header_bytes(self) -> usize {
        if self.header { DIGEST_BYTES } else { 0 }
    }
    /// Bytes of a data digest.
    pub fn data_bytes(self) -> usize {
        if self.data { DIGEST_BYTES } else { 0 }
    }
}

/// Where the parts of a received PDU lie, checked against each other. All numbers are bytes from the PDU's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The PDU's type.
    pub kind: Kind,
    /// FLAGS as received.
    pub flags: u8,
    /// End of the header, where its digest begins if there is one.
    pub header_len: usize,
    /// Whether a header digest is there.
    pub has_header_digest: bool,
    /// Start of the data; the end of header and digest when there is no data.
    pub data_start: usize,
    /// Bytes of data.
    pub data_len: usize,
    /// Whether a data digest follows the data.
    pub has_data_digest: bool,
    /// End of the PDU.
    pub pdu_len: usize,
}

impl Layout {
    /// Checks a common header against the connection's digests. `alignment` is what the receiver asked for (CPDA or
    /// HPDA, 0's based dwords).
    pub fn of(common: &CommonHeader, digests: Digests, alignment: u8) -> Result<Layout, Violation> {
        let kind = Kind::from_wire(common.kind).ok_or(Violation::field(offset::KIND))?;
        let header_len = kind.header_len();
        if usize::from(common.header_len) != header_len {
            return Err(Violation::field(offset::HEADER_LEN));
        }
        let expected = if kind.may_have_digests() { digests } else { Digests::default() };
        let has_header_digest = common.flags & flags::HEADER_DIGEST != 0;
        if has_header_digest != expected.header {
            return Err(Violation::field(offset::FLAGS));
        }
        let pdu_len = common.pdu_len.get() as usize;
        let header_end = header_len + expected.header_bytes();
        if pdu_len < header_end {
            return Err(Violation::field(offset::PDU_LEN));
        }
        let mut layout = Layout {
            kind,
            flags: common.flags,
            header_len,
            has_header_digest,
            data_start: header_end,
            data_len: 0,
            has_data_digest: false,
            pdu_len,
        };
        if pdu_len == header_end {
            return Ok(layout);
        }
        if !kind.may_have_data() {
            return Err(Violation::field(offset::PDU_LEN));
        }
        // Termination requests leave PDO reserved: their data follows the header at once.
        if kind.may_have_digests() {
            let align = (usize::from(alignment) + 1) * 4;
            layout.data_start = usize::from(common.data_offset);
            if layout.data_start < header_end || !layout.data_start.is_multiple_of(align) {
                return Err(Violation::field(offset::DATA_OFFSET));
            }
        }
        layout.has_data_digest = expected.data;
        if (common.flags & flags::DATA_DIGEST != 0) != expected.data {
            return Err(Violation::field(offset::FLAGS));
        }
        let data_end = layout.data_start + expected.data_bytes();
        layout.data_len = pdu_len.checked_sub(data_end).filter(|n| *n > 0).ok_or(Violation::field(offset::PDU_LEN))?;
        Ok(layout)
    }
}

/// A received header, parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// ICReq.
    IcReq {
        /// HPDA: alignment of data that the host receives, 0's based dwords.
        data_alignment: u8,
        /// The digests that the host wants.
        digests: Digests,
        /// MAXR2T: outstanding R2Ts per command, 1 or more.
        max_r2t: u32,
    },
    /// ICResp.
    IcResp {
        /// CPDA: alignment of data that the controller receives, 0's based dwords.
        data_alignment: u8,
        /// The digests that are used.
        digests: Digests,
        /// MAXH2CDATA: the most bytes in one H2CData.
        max_h2c_data: u32,
    },
    /// H2CTermReq.
    H2cTerm {
        /// FES as received.
        status: u16,
        /// FEI.
        info: u32,
    },
    /// C2HTermReq.
    C2hTerm {
        /// FES as received.
        status: u16,
        /// FEI.
        info: u32,
    },
    /// CapsuleCmd.
    Command(Sqe),
    /// CapsuleResp.
    Response(Cqe),
    /// H2CData.
    H2cData(Transfer),
    /// C2HData.
    C2hData(Transfer),
    /// R2T.
    R2t(Transfer),
}

/// Which bytes of which command a data PDU carries, or an R2T asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The command.
    pub cid: u16,
    /// The tag of the R2T (0 in C2HData).
    pub tag: u16,
    /// Offset in the command's data.
    pub offset: u32,
    /// Length in bytes.
    pub len: u32,
}

impl Header {
    /// Parses the header of a PDU whose common header gave `layout`. `bytes` has at least `layout.header_len` bytes.
    pub fn parse(layout: &Layout, bytes: &[u8]) -> Result<Header, Violation> {
        // Too few bytes can only be our mistake, but a termination is better than a panic.
        let short = Violation::field(offset::HEADER_LEN);
        match layout.kind {
            Kind::IcReq => {
                let (data_alignment, digests, maximum) = parse_init(view(bytes).ok_or(short)?)?;
                Ok(Header::IcReq { data_alignment, digests, max_r2t: maximum.saturating_add(1) })
            }
            Kind::IcResp => {
                let (data_alignment, digests, max_h2c_data) = parse_init(view(bytes).ok_or(short)?)?;
                // TCP 3.6.2.2: at least 4096, a multiple of four.
                if max_h2c_data < 4096 || !max_h2c_data.is_multiple_of(4) {
                    return Err(Violation::field(offset::MAXIMUM));
                }
                Ok(Header::IcResp { data_alignment, digests, max_h2c_data })
            }
            Kind::H2cTerm | Kind::C2hTerm => {
                let pdu: TermPdu = view(bytes).ok_or(short)?;
                let (status, info) = (pdu.status.get(), pdu.info.get());
                Ok(if layout.kind == Kind::H2cTerm {
                    Header::H2cTerm { status, info }
                } else {
                    Header::C2hTerm { status, info }
                })
            }
            Kind::Command => Ok(Header::Command(view::<CommandPdu>(bytes).ok_or(short)?.sqe)),
            Kind::Response => Ok(Header::Response(view::<ResponsePdu>(bytes).ok_or(short)?.cqe)),
            Kind::H2cData => Ok(Header::H2cData(parse_data(layout, view(bytes).ok_or(short)?)?)),
            Kind::C2hData => Ok(Header::C2hData(parse_data(layout, view(bytes).ok_or(short)?)?)),
            Kind::R2t => Ok(Header::R2t(parse_transfer(view(bytes).ok_or(short)?)?)),
        }
    }
}

fn parse_init(pdu: InitPdu) -> Result<(u8, Digests, u32), Violation> {
    if pdu.format.get() != 0 {
        return Err(Violation { error: FatalError::UnsupportedParameter, info: offset::PFV });
    }
    // TCP 3.6.2.1: the value is 0 to 31, and DGST has two bits.
    if pdu.data_alignment > 31 {
        return Err(Violation::field(offset::DATA_ALIGNMENT));
    }
    if pdu.digests & !3 != 0 {
        return Err(Violation::field(offset::DIGESTS));
    }
    Ok((pdu.data_alignment, Digests::from_wire(pdu.digests), pdu.maximum.get()))
}

fn parse_transfer(pdu: TransferPdu) -> Result<Transfer, Violation> {
    let transfer = Transfer { cid: pdu.cid.get(), tag: pdu.tag.get(), offset: pdu.offset.get(), len: pdu.len.get() };
    if !transfer.offset.is_multiple_of(4) {
        return Err(Violation::field(offset::TRANSFER_OFFSET));
    }
    if transfer.len == 0 {
        return Err(Violation::field(offset::TRANSFER_LEN));
    }
    Ok(transfer)
}

fn parse_data(layout: &Layout, pdu: TransferPdu) -> Result<Transfer, Violation> {
    let transfer = parse_transfer(pdu)?;
    if transfer.len as usize != layout.data_len {
        return Err(Violation::field(offset::TRANSFER_LEN));
    }
    Ok(transfer)
}

/// The common header of a PDU that we send. `data` is the number of data bytes and `alignment` what the receiver asked
/// for; PDO and PLEN follow from them. Data begins at `data_offset` bytes; pad with zeroes up to there.
pub fn common(kind: Kind, extra_flags: u8, digests: Digests, data: usize, alignment: u8) -> CommonHeader {
    let digests = if kind.may_have_digests() { digests } else { Digests::default() };
    let mut bits = extra_flags;
    let mut end = kind.header_len() + digests.header_bytes();
    let mut data_offset = 0;
    if digests.header {
        bits |= flags::HEADER_DIGEST;
    }
    if data > 0 {
        if kind.may_have_digests() {
            end = end.next_multiple_of((usize::from(alignment & 31) + 1) * 4);
            data_offset = end;
        }
        if digests.data {
            bits |= flags::DATA_DIGEST;
        }
        end += data + digests.data_bytes();
    }
    CommonHeader {
        kind: kind as u8,
        flags: bits,
        header_len: kind.header_len() as u8,
        // At most 72 + 4 rounded up to 128: it fits.
        data_offset: data_offset as u8,
        pdu_len: Le32::new(u32::try_from(end).expect("a PDU is shorter than 4 GiB")),
    }
}

/// An ICReq: what the host wants.
pub fn ic_req(data_alignment: u8, digests: Digests, max_r2t: u32) -> InitPdu {
    init(Kind::IcReq, data_alignment, digests, max_r2t.saturating_sub(1))
}

/// An ICResp: what the controller agreed to.
pub fn ic_resp(data_alignment: u8, digests: Digests, max_h2c_data: u32) -> InitPdu {
    init(Kind::IcResp, data_alignment, digests, max_h2c_data)
}

fn init(kind: Kind, data_alignment: u8, digests: Digests, maximum: u32) -> InitPdu {
    InitPdu {
        common: common(kind, 0, Digests::default(), 0, 0),
        format: Le16::new(0),
        data_alignment,
        digests: digests.to_wire(),
        maximum: Le32::new(maximum),
        reserved: [0; 112],
    }
}

/// A termination request, ready to send: the header and the first bytes of the PDU that was wrong.
pub fn termination(kind: Kind, violation: Violation, offending: &[u8]) -> Vec<u8> {
    let data = &offending[..offending.len().min(MAX_TERM_DATA)];
    let pdu = TermPdu {
        common: common(kind, 0, Digests::default(), data.len(), 0),
        status: Le16::new(violation.error as u16),
        info: Le32::new(violation.info),
        reserved: [0; 10],
    };
    let mut bytes = bytemuck::bytes_of(&pdu).to_vec();
    bytes.extend_from_slice(data);
    bytes
}

/// A data PDU's or R2T's header; `data` is 0 for an R2T.
pub fn transfer(kind: Kind, extra_flags: u8, digests: Digests, alignment: u8, transfer: Transfer) -> TransferPdu {
    let data = if kind == Kind::R2t { 0 } else { transfer.len as usize };
    TransferPdu {
        common: common(kind, extra_flags, digests, data, alignment),
        cid: Le16::new(transfer.cid),
        tag: Le16::new(transfer.tag),
        offset: Le32::new(transfer.offset),
        len: Le32::new(transfer.len),
        reserved: [0; 4],
    }
}

/// A response capsule.
pub fn response(digests: Digests, cqe: Cqe) -> ResponsePdu {
    ResponsePdu { common: common(Kind::Response, 0, digests, 0, 0), cqe }
}

/// A command capsule's header for `data` bytes of in-capsule data.
pub fn command(digests: Digests, alignment: u8, sqe: Sqe, data: usize) -> CommandPdu {
    CommandPdu { common: common(Kind::Command, 0, digests, data, alignment), sqe }
}
