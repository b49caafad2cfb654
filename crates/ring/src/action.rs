//! What the kernel may be asked to do. Each action owns the memory that the kernel reads or fills, so that it lives as
//! long as the operation, whoever else loses interest meanwhile.
//!
//! The only place, with `sys`, that holds raw pointers.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use block::{Buf, BufMut};
use io_uring::{opcode, squeue, types};

/// Pieces in one `sendmsg` (Linux's `UIO_MAXIOV`); longer messages take several.
const PIECES: usize = 1024;
/// Bytes that one read or write asks for at most; the rest follows (Linux stops at 2 GiB).
const TRANSFER: usize = 1 << 30;

/// One operation, with its memory.
pub(crate) enum Action {
    /// Fills `buf[from..to]` from the file's byte `offset`.
    Read { buf: BufMut, from: usize, to: usize, offset: u64 },
    /// Writes `buf[from..to]` to the file's byte `offset`; `durable` waits for stable storage.
    Write { buf: Buf, from: usize, to: usize, offset: u64, durable: bool },
    /// Makes earlier writes durable (`fdatasync`).
    Sync,
    /// Changes how a byte range is stored (`fallocate`).
    Allocate { mode: i32, offset: u64, len: u64 },
    /// Receives into `buf[from..to]`.
    Recv { buf: BufMut, from: usize, to: usize },
    /// Sends what is left of a message.
    Send(Box<Message>),
    /// Accepts a connection; holds it afterwards.
    Accept(Option<OwnedFd>),
    /// Waits until a socket can be written (a connect has ended).
    Writable,
    /// Reads the counter of an eventfd.
    Wake(Box<[u8; 8]>),
}

impl Action {
    /// The kernel's form of the action.
    ///
    /// The entry points into memory that the action owns on the heap: it stays valid while the action lives, also when
    /// the action itself is moved.
    pub(crate) fn entry(&mut self, fd: &OwnedFd) -> squeue::Entry {
        let fd = types::Fd(fd.as_raw_fd());
        match self {
            Action::Read { buf, from, to, offset } => {
                let part = &mut buf[*from..*to];
                opcode::Read::new(fd, part.as_mut_ptr(), part.len().min(TRANSFER) as u32).offset(*offset).build()
            }
            Action::Write { buf, from, to, offset, durable } => {
                let part = &buf[*from..*to];
                opcode::Write::new(fd, part.as_ptr(), part.len().min(TRANSFER) as u32)
                    .offset(*offset)
                    .rw_flags(if *durable { libc::RWF_DSYNC } else { 0 })
                    .build()
            }
            Action::Sync => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
            Action::Allocate { mode, offset, len } => {
                opcode::Fallocate::new(fd, *len).offset(*offset).mode(*mode).build()
            }
            Action::Recv { buf, from, to } => {
                let part = &mut buf[*from..*to];
                opcode::Recv::new(fd, part.as_mut_ptr(), part.len().min(TRANSFER) as u32).build()
            }
            Action::Send(message) => opcode::SendMsg::new(fd, message.header())
                .flags((libc::MSG_NOSIGNAL | libc::MSG_WAITALL) as u32)
                .build(),
            Action::Accept(_) => {
                opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut()).flags(libc::SOCK_CLOEXEC).build()
            }
            Action::Writable => opcode::PollAdd::new(fd, libc::POLLOUT as u32).build(),
            Action::Wake(counter) => opcode::Read::new(fd, counter.as_mut_ptr(), 8).build(),
        }
    }

    /// Takes over what the kernel's answer hands to us: the descriptor that an accept made.
    ///
    /// # Safety
    ///
    /// `answer` is the non-negative result of this action's completion, and the caller passes it on only once.
    pub(crate) unsafe fn landed(&mut self, answer: RawFd) {
        if let Action::Accept(slot) = self {
            // SAFETY: the kernel has just made this descriptor for us, so nobody else owns it.
            *slot = Some(unsafe { OwnedFd::from_raw_fd(answer) });
        }
    }
}

/// Buffers on their way into a socket, in order. Reused from send to send, so that a send allocates nothing.
pub(crate) struct Message {
    bufs: Vec<Buf>,
    /// The first buffer that is not wholly sent, and how much of it is.
    first: usize,
    sent: usize,
    pieces: Vec<libc::iovec>,
    header: libc::msghdr,
}

impl Message {
    /// A message without bytes.
    pub(crate) fn empty() -> Box<Message> {
        // SAFETY: msghdr is a C struct of integers and pointers; all zeroes is its empty value.
        let header = unsafe { std::mem::zeroed() };
        Box::new(Message { bufs: Vec::new(), first: 0, sent: 0, pieces: Vec::new(), header })
    }

    /// Replaces the contents.
    pub(crate) fn load(&mut self, bufs: Vec<Buf>) {
        (self.bufs, self.first, self.sent) = (bufs, 0, 0);
        self.advance(0);
    }

    /// Lets go of the buffers.
    pub(crate) fn clear(&mut self) {
        self.load(Vec::new());
    }

    /// Notes that `n` more bytes have left.
    pub(crate) fn advance(&mut self, n: usize) {
        self.sent += n;
        while self.bufs.get(self.first).is_some_and(|b| self.sent >= b.len()) {
            self.sent -= self.bufs[self.first].len();
            self.first += 1;
        }
        assert!(self.first < self.bufs.len() || self.sent == 0, "the kernel sent more than the message has");
    }

    /// Whether all bytes have left.
    pub(crate) fn is_done(&self) -> bool {
        self.first == self.bufs.len()
    }

    /// The header of the next `sendmsg`: what is left, up to the most pieces that one call takes.
    fn header(&mut self) -> *const libc::msghdr {
        self.pieces.clear();
        let mut skip = self.sent;
        for buf in self.bufs[self.first..].iter().take(PIECES) {
            let part = &buf[skip..];
            self.pieces.push(libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() });
            skip = 0;
        }
        self.header.msg_iov = self.pieces.as_mut_ptr();
        self.header.msg_iovlen = self.pieces.len() as _;
        &self.header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(message: &mut Message) -> Vec<usize> {
        message.header();
        message.pieces.iter().map(|p| p.iov_len).collect()
    }

    #[test]
    fn a_message_continues_where_the_kernel_stopped() {
        let mut m = Message::empty();
        assert!(m.is_done());
        m.load([3, 0, 4, 5].map(Buf::zeroes).to_vec());
        assert_eq!(left(&mut m), [3, 0, 4, 5]);
        m.advance(2);
        assert_eq!(left(&mut m), [1, 0, 4, 5]);
        m.advance(1);
        assert_eq!(left(&mut m), [4, 5], "empty pieces are passed over");
        m.advance(6);
        assert_eq!(left(&mut m), [3]);
        assert!(!m.is_done());
        m.advance(3);
        assert!(m.is_done());
    }

    #[test]
    fn many_pieces_take_several_calls() {
        let mut m = Message::empty();
        m.load(vec![Buf::zeroes(1); PIECES + 10]);
        assert_eq!(left(&mut m).len(), PIECES);
        m.advance(PIECES);
        assert_eq!(left(&mut m).len(), 10);
        m.advance(10);
        assert!(m.is_done());
    }

    #[test]
    #[should_panic(expected = "more than the message has")]
    fn a_kernel_that_sends_too_much_is_noticed() {
        let mut m = Message::empty();
        m.load(vec![Buf::zeroes(1)]);
        m.advance(2);
    }
}
