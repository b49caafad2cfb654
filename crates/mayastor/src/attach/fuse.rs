//! The volume as one file in a folder. Its only reader is the loop device, which asks for whole blocks.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use block::{BlockRange, BlockSize, Blocks, Buf, Durability, Fault, Lba, Request};
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite,
    Request as Caller, WriteFlags,
};

use super::path::Volume;

const FOLDER: INodeNo = INodeNo::ROOT;
const FILE: INodeNo = INodeNo(2);
/// Nothing is cached: the size may change.
const TTL: Duration = Duration::ZERO;
/// The largest transfer of one request.
const TRANSFER: u32 = block::limits::TRANSFER_BYTES as u32;
/// Requests that the kernel may have under way in the background.
const BACKGROUND: u16 = 128;
/// `fallocate` modes (linux/falloc.h).
const KEEP_SIZE: i32 = 0x01;
const PUNCH_HOLE: i32 = 0x02;
const ZERO_RANGE: i32 = 0x10;

/// See the module.
pub struct Disk {
    volume: Arc<Volume>,
    name: &'static str,
    read_only: bool,
}

/// What a failed request is to the kernel.
fn errno(fault: Fault) -> Errno {
    match fault {
        Fault::NoSpace => Errno::ENOSPC,
        Fault::Unsupported => Errno::EOPNOTSUPP,
        Fault::OutOfRange => Errno::EINVAL,
        Fault::TimedOut => Errno::ETIMEDOUT,
        _ => Errno::EIO,
    }
}

/// Whole blocks of a device of `size` bytes.
fn blocks(at: u64, len: u64, block: u32, size: u64) -> Option<BlockRange> {
    let unit = BlockSize::from_bytes(block)?;
    let bytes = u64::from(block);
    let whole = at.is_multiple_of(bytes) && len.is_multiple_of(bytes) && len > 0;
    let fits = at.checked_add(len).is_some_and(|end| end <= size);
    (whole && fits).then(|| BlockRange { start: Lba(at / bytes), len: Blocks(len >> unit.bytes().trailing_zeros()) })
}

impl Disk {
    /// A file of that name.
    pub fn new(volume: Arc<Volume>, name: &'static str, read_only: bool) -> Disk {
        Disk { volume, name, read_only }
    }

    fn range(&self, at: u64, len: u64) -> Option<BlockRange> {
        blocks(at, len, self.volume.block_size(), self.volume.bytes())
    }

    fn attributes(&self, ino: INodeNo) -> FileAttr {
        let folder = ino == FOLDER;
        let size = if folder { 0 } else { self.volume.bytes() };
        let time = SystemTime::UNIX_EPOCH;
        FileAttr {
            ino,
            size,
            blocks: size / 512,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind: if folder { FileType::Directory } else { FileType::RegularFile },
            perm: if folder { 0o700 } else { 0o600 },
            nlink: if folder { 2 } else { 1 },
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: self.volume.block_size(),
            flags: 0,
        }
    }
}

impl Filesystem for Disk {
    fn init(&mut self, _: &Caller, config: &mut KernelConfig) -> io::Result<()> {
        // Older kernels have smaller limits, or lack a feature; they work, only slower.
        let _ = config.set_max_write(TRANSFER);
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO | InitFlags::FUSE_PARALLEL_DIROPS);
        let _ = config.set_max_background(BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _: &Caller, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == FOLDER && name == self.name {
            reply.entry(&TTL, &self.attributes(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Caller, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attributes(ino));
    }

    fn open(&self, _: &Caller, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Caller,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let left = self.volume.bytes().saturating_sub(offset);
        let len = u64::from(size).min(left);
        if len == 0 {
            return reply.data(&[]);
        }
        let Some(range) = self.range(offset, len) else { return reply.error(Errno::EINVAL) };
        self.volume.submit(Request::Read { range }, move |outcome| match outcome {
            Ok(data) => reply.data(&data.into_buf()),
            Err(fault) => reply.error(errno(fault)),
        });
    }

    fn write(
        &self,
        _: &Caller,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if self.read_only {
            return reply.error(Errno::EROFS);
        }
        let Some(range) = self.range(offset, data.len() as u64) else { return reply.error(Errno::EINVAL) };
        let len = data.len() as u32;
        let request = Request::Write { range, data: Buf::copy_of(data), durability: Durability::Volatile };
        self.volume.submit(request, move |outcome| match outcome {
            Ok(_) => reply.written(len),
            Err(fault) => reply.error(errno(fault)),
        });
    }

    fn fsync(&self, _: &Caller, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.volume.submit(Request::Flush, move |outcome| match outcome {
            Ok(_) => reply.ok(),
            Err(fault) => reply.error(errno(fault)),
        });
    }

    /// A close. Whatever must be durable was flushed by `fsync`.
    fn flush(&self, _: &Caller, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fallocate(&self, _: &Caller, _: INodeNo, _: FileHandle, offset: u64, length: u64, mode: i32, reply: ReplyEmpty) {
        if self.read_only {
            return reply.error(Errno::EROFS);
        }
        // Both must read as zeroes afterwards; only a hole gives space back.
        let may_unmap = match mode & !KEEP_SIZE {
            PUNCH_HOLE => true,
            ZERO_RANGE => false,
            _ => return reply.error(Errno::EOPNOTSUPP),
        };
        let Some(range) = self.range(offset, length) else { return reply.error(Errno::EINVAL) };
        let request = if may_unmap {
            Request::Unmap { range }
        } else {
            Request::WriteZeroes { range, may_unmap, durability: Durability::Volatile }
        };
        self.volume.submit(request, move |outcome| match outcome {
            Ok(_) => reply.ok(),
            Err(fault) => reply.error(errno(fault)),
        });
    }

    fn readdir(&self, _: &Caller, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        if ino != FOLDER {
            return reply.error(Errno::ENOTDIR);
        }
        let all = [
            (FOLDER, FileType::Directory, "."),
            (FOLDER, FileType::Directory, ".."),
            (FILE, FileType::RegularFile, self.name),
        ];
        for (index, (ino, kind, name)) in all.into_iter().enumerate().skip(usize::try_from(offset).unwrap_or(3)) {
            if reply.add(ino, index as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_blocks_inside_the_device() {
        let range = |at, len| blocks(at, len, 512, 8192).map(|r| (r.start.0, r.len.0));
        assert_eq!(range(0, 512), Some((0, 1)));
        assert_eq!(range(4096, 4096), Some((8, 8)));
        for (at, len) in [(0, 0), (1, 512), (0, 511), (8192, 512), (7680, 1024), (u64::MAX - 511, 512)] {
            assert_eq!(range(at, len), None, "{at} {len}");
        }
    }
}
