//! The data of one command: what has gone, what has come.

use block::{Buf, BufMut};

use super::Payload;
use super::session::wire_lun;
use crate::digest::Digest;
use crate::params::Params;
use crate::pdu::{self, Bhs, FINAL, opcode};
use crate::wire::{put32, put64};

/// Data that is still to come is received straight into the command's buffer from this size on.
pub(super) const DIRECT: usize = 16 << 10;

#[derive(Debug)]
pub(super) enum Transfer {
    None,
    /// The target asks for it piece by piece, in order.
    Out {
        data: Buf,
        sent: usize,
    },
    /// The target sends it piece by piece, in order. The buffer is away while the driver receives into it.
    In {
        buf: Option<BufMut>,
        got: usize,
        next: u32,
    },
}

/// One Data-Out.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) data: Buf,
    offset: usize,
    data_sn: u32,
    is_last: bool,
}

impl Piece {
    pub(super) fn header(&self, itt: u32, ttt: u32, lun: u16) -> Bhs {
        let mut bhs = pdu::header(opcode::DATA_OUT, if self.is_last { FINAL } else { 0 }, itt);
        put64(&mut bhs, 8, wire_lun(lun));
        put32(&mut bhs, 20, ttt);
        put32(&mut bhs, 36, self.data_sn);
        put32(&mut bhs, 40, u32::try_from(self.offset).expect("a command moves less than 4 GiB"));
        bhs
    }
}

/// Cuts a sequence of data into PDUs that the target takes.
fn cut(data: &Buf, from: usize, to: usize, params: &Params) -> Vec<Piece> {
    let most = params.peer_segment as usize;
    let starts = (from..to).step_by(most);
    let piece = |(data_sn, offset): (u32, usize)| {
        let end = to.min(offset + most);
        Piece { data: data.slice(offset..end), offset, data_sn, is_last: end == to }
    };
    (0..).zip(starts).map(piece).collect()
}

impl Transfer {
    /// Begins; also the data that goes with the command.
    pub(super) fn new(payload: Payload, params: &Params) -> (Transfer, Option<Buf>) {
        match payload {
            Payload::None => (Transfer::None, None),
            Payload::In(len) => (Transfer::In { buf: Some(BufMut::new(len)), got: 0, next: 0 }, None),
            Payload::Out(data) => {
                let most = (params.first_burst as usize).min(params.peer_segment as usize);
                let sent = if params.immediate_data { data.len().min(most) } else { 0 };
                let first = (sent > 0).then(|| data.slice(0..sent));
                (Transfer::Out { data, sent }, first)
            }
        }
    }

    /// The data that may follow the command without being asked for.
    pub(super) fn unasked(&mut self, params: &Params) -> Vec<Piece> {
        match self {
            Transfer::Out { data, sent } if !params.initial_r2t => {
                let end = data.len().min(params.first_burst as usize).max(*sent);
                let from = std::mem::replace(sent, end);
                cut(data, from, end, params)
            }
            _ => Vec::new(),
        }
    }

    /// The data that the target asks for.
    pub(super) fn asked(&mut self, offset: usize, len: usize, params: &Params) -> Result<Vec<Piece>, &'static str> {
        let Transfer::Out { data, sent } = self else {
            return Err("a request for data that the command does not have");
        };
        if offset != *sent || len == 0 || len > data.len() - *sent {
            return Err("a request for data that is out of order or too long");
        }
        *sent += len;
        Ok(cut(data, offset, offset + len, params))
    }

    /// A Data-In announces data.
    pub(super) fn expect(&mut self, data_sn: u32, offset: usize, len: usize) -> Result<(), &'static str> {
        let Transfer::In { buf, got, next } = self else { return Err("data for a command that reads none") };
        let room = buf.as_ref().map_or(0, |buf| buf.len()) - *got;
        // A Data-In without data only carries the status.
        if data_sn != *next || len > room || len > 0 && offset != *got {
            return Err("data that is out of order or too long");
        }
        *next = next.wrapping_add(1);
        Ok(())
    }

    /// More of what was announced.
    pub(super) fn take(&mut self, piece: &[u8]) {
        let Transfer::In { buf: Some(buf), got, .. } = self else { unreachable!("announced by a header") };
        buf[*got..*got + piece.len()].copy_from_slice(piece);
        *got += piece.len();
    }

    /// The buffer, to be received into, and from where on.
    pub(super) fn lend(&mut self) -> (BufMut, usize) {
        let Transfer::In { buf, got, .. } = self else { unreachable!("announced by a header") };
        (buf.take().expect("one receive at a time"), *got)
    }

    /// The buffer with `n` more bytes in it.
    pub(super) fn give_back(&mut self, back: BufMut, n: usize, digest: Option<&mut Digest>) {
        let Transfer::In { buf, got, .. } = self else { unreachable!("lent before") };
        if let Some(digest) = digest {
            digest.update(&back[*got..*got + n]);
        }
        *buf = Some(back);
        *got += n;
    }

    /// Whether all data for the target has gone.
    pub(super) fn is_sent(&self) -> bool {
        match self {
            Transfer::Out { data, sent } => *sent == data.len(),
            Transfer::None | Transfer::In { .. } => true,
        }
    }

    /// What has come.
    pub(super) fn into_data(self) -> Option<BufMut> {
        let Transfer::In { buf, got, .. } = self else { return None };
        let mut buf = buf.expect("not answered while data is on its way");
        buf.truncate(got);
        Some(buf)
    }
}
