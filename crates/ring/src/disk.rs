//! A file or block device as a [`host::Disk`].

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use block::{Buf, BufMut, Data, Durability, Fault, Geometry, Outcome, Request, Ticket};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::action::Action;
use crate::core::Core;
use crate::open::{Kind, Opened};

/// How often one operation is tried again when the kernel says that it was interrupted or is short of memory.
const ATTEMPTS: u32 = 100;
/// Zeroes that one write carries.
const ZEROES: u64 = 1 << 20;

/// The open file and what was learnt about it. Requests in flight share it, so it outlives the [`FileDisk`].
pub(crate) struct File {
    fd: Rc<OwnedFd>,
    opened: Opened,
    /// Ways to clear blocks that the file system has refused; not tried again.
    refused: [Cell<bool>; 2],
    /// Linux reports a failed flush once, forgets which writes were lost, and lets the next flush succeed. We don't: no
    /// flush succeeds any more until the disk is opened again.
    flush_failed: Cell<bool>,
}

/// The disk.
pub(crate) struct FileDisk {
    core: Rc<Core>,
    file: Rc<File>,
}

/// A request that the kernel works on.
pub(crate) struct Job {
    file: Rc<File>,
    ticket: Ticket,
    work: Work,
    attempts: u32,
}

/// What a request still has to do. The operation in flight knows its own progress.
///
/// ```text
///   Transfer ──────────────> answered        Flush ──> answered
///   Clear(Punch | Reserve) ─ refused ─> Clear(the next way .. Write)
///   Clear(any) ── the whole range is clear ──> answered, or Flush when it must be durable
/// ```
enum Work {
    Transfer,
    Flush,
    Clear { way: Way, offset: u64, end: u64, durability: Durability },
}

/// Ways to make blocks read as zeroes, in the order in which they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Give the space back.
    Punch,
    /// Keep the space, mark it as zero.
    Reserve,
    /// Write zeroes. Always possible.
    Write,
}

impl Way {
    fn next(self) -> Way {
        match self {
            Way::Punch => Way::Reserve,
            Way::Reserve | Way::Write => Way::Write,
        }
    }
}

impl FileDisk {
    pub(crate) fn new(core: Rc<Core>, fd: OwnedFd, opened: Opened) -> FileDisk {
        let file = File { fd: Rc::new(fd), opened, refused: Default::default(), flush_failed: Cell::new(false) };
        FileDisk { core, file: Rc::new(file) }
    }
}

impl host::Disk for FileDisk {
    fn geometry(&self) -> Geometry {
        self.file.opened.geometry
    }

    fn label(&self) -> String {
        self.file.opened.label.clone()
    }

    fn submit(&self, request: Request, ticket: Ticket) {
        let geometry = self.geometry();
        if let Err(fault) = request.check(&geometry) {
            return ticket.fail(fault);
        }
        if self.core.is_closed() {
            return ticket.fail(Fault::Gone);
        }
        if request.is_change() && !self.file.opened.writable {
            return ticket.fail(Fault::Unsupported);
        }
        let bytes =
            request.range().map(|r| (geometry.block_size.offset_of(r.start), geometry.block_size.bytes_of(r.len).0));
        let (offset, len) = bytes.unwrap_or_default();
        let job = |work| Job { file: self.file.clone(), ticket, work, attempts: 0 };
        match request {
            Request::Read { .. } => {
                let (from, to) = (0, len as usize);
                let action = Action::Read { buf: BufMut::new(to), from, to, offset };
                job(Work::Transfer).start(&self.core, action);
            }
            Request::Write { data, durability, .. } => {
                let buf = if data.is_aligned(self.file.opened.align) { data } else { Buf::copy_of(&data) };
                let (from, to, durable) = (0, buf.len(), durability == Durability::Durable);
                job(Work::Transfer).start(&self.core, Action::Write { buf, from, to, offset, durable });
            }
            Request::Flush => job(Work::Flush).start(&self.core, Action::Sync),
            Request::Unmap { .. } => {
                let durability = Durability::Volatile;
                job(Work::Clear { way: Way::Punch, offset, end: offset + len, durability }).clear(&self.core);
            }
            Request::WriteZeroes { may_unmap, durability, .. } => {
                let way = if may_unmap { Way::Punch } else { Way::Reserve };
                job(Work::Clear { way, offset, end: offset + len, durability }).clear(&self.core);
            }
        }
    }
}

impl Job {
    fn start(self, core: &Core, action: Action) {
        let fd = self.file.fd.clone();
        core.start_job(&fd, action, self);
    }

    fn answer(self, outcome: Outcome) {
        self.ticket.answer(outcome);
    }

    /// Starts clearing what is left of the range, in the cheapest way that the file system has not refused.
    fn clear(mut self, core: &Core) {
        let Work::Clear { way, offset, end, .. } = &mut self.work else { unreachable!("only called while clearing") };
        while *way != Way::Write && self.file.refused[*way as usize].get() {
            *way = way.next();
        }
        let (offset, len) = (*offset, *end - *offset);
        let action = match way {
            Way::Punch => allocate(FallocateFlags::PUNCH_HOLE, offset, len),
            Way::Reserve => allocate(FallocateFlags::ZERO_RANGE, offset, len),
            Way::Write => {
                let to = len.min(ZEROES) as usize;
                Action::Write { buf: Buf::zeroes(to), from: 0, to, offset, durable: false }
            }
        };
        self.start(core, action);
    }

    /// Goes on after the kernel's answer.
    pub(crate) fn landed(self, core: &Core, action: Action, result: io::Result<usize>) {
        let done = match result {
            Ok(done) => done,
            Err(e) => return self.failed(core, action, &e),
        };
        match action {
            Action::Read { buf, from, to, offset } => match done {
                // The end of the file, inside the device: somebody has cut it short, or the device is gone.
                0 => {
                    let fault = self.file.lost();
                    self.answer(Err(fault));
                }
                _ if from + done == to => self.answer(Ok(Data::from(buf.freeze()))),
                _ => self.start(core, Action::Read { buf, from: from + done, to, offset: offset + done as u64 }),
            },
            Action::Write { buf, from, to, offset, durable } => match done {
                0 => self.answer(Err(Fault::Medium)),
                _ if from + done == to => self.advance(core, offset + done as u64),
                _ => self
                    .start(core, Action::Write { buf, from: from + done, to, offset: offset + done as u64, durable }),
            },
            Action::Sync if self.file.flush_failed.get() => self.answer(Err(Fault::Medium)),
            Action::Sync => self.answer(Ok(Data::empty())),
            Action::Allocate { offset, len, .. } => self.advance(core, offset + len),
            Action::Recv { .. } | Action::Send(_) | Action::Accept(_) | Action::Writable | Action::Wake(_) => {
                unreachable!("a disk starts no such operation")
            }
        }
    }

    /// Everything before byte `at` is written or clear.
    fn advance(mut self, core: &Core, at: u64) {
        match &mut self.work {
            Work::Clear { offset, end, .. } if at < *end => {
                *offset = at;
                self.clear(core);
            }
            Work::Clear { durability: Durability::Durable, .. } => {
                self.work = Work::Flush;
                self.start(core, Action::Sync);
            }
            Work::Transfer | Work::Flush | Work::Clear { .. } => self.answer(Ok(Data::empty())),
        }
    }

    fn failed(mut self, core: &Core, action: Action, error: &io::Error) {
        let errno = Errno::from_io_error(error).unwrap_or(Errno::IO);
        if matches!(errno, Errno::INTR | Errno::AGAIN) && self.attempts < ATTEMPTS {
            self.attempts += 1;
            return self.start(core, action);
        }
        let is_final = matches!(errno, Errno::NOSPC | Errno::DQUOT | Errno::NODEV | Errno::NXIO);
        match (&action, &mut self.work) {
            // A file system that refuses, for whatever reason, takes plain zeroes instead.
            (Action::Allocate { .. }, Work::Clear { way, .. }) if !is_final => {
                if matches!(errno, Errno::OPNOTSUPP | Errno::NOSYS) {
                    self.file.refused[*way as usize].set(true);
                }
                *way = way.next();
                return self.clear(core);
            }
            (Action::Sync, _) => self.file.flush_failed.set(true),
            // Without direct I/O a durable write is a write to the page cache and a flush.
            (Action::Write { durable: true, .. }, _) if !self.file.opened.is_direct => self.file.flush_failed.set(true),
            _ => (),
        }
        let fault = self.file.fault(errno);
        self.answer(Err(fault));
    }
}

fn allocate(way: FallocateFlags, offset: u64, len: u64) -> Action {
    Action::Allocate { mode: (way | FallocateFlags::KEEP_SIZE).bits() as i32, offset, len }
}

impl File {
    fn fault(&self, errno: Errno) -> Fault {
        match errno {
            Errno::NODEV | Errno::NXIO => Fault::Gone,
            // A block device that was pulled out has no bytes any more, and so "no space" at any offset.
            Errno::NOSPC if self.opened.kind == Kind::Block && self.is_cut() => Fault::Gone,
            Errno::NOSPC | Errno::DQUOT => Fault::NoSpace,
            _ => Fault::Medium,
        }
    }

    /// What a read that met the end of the file means.
    fn lost(&self) -> Fault {
        if self.opened.kind == Kind::Block { Fault::Gone } else { Fault::Medium }
    }

    /// Whether the device is smaller than it was when it was opened.
    fn is_cut(&self) -> bool {
        rustix::fs::seek(&*self.fd, rustix::fs::SeekFrom::End(0))
            .map_or(true, |size| size < self.opened.geometry.bytes().0)
    }
}
