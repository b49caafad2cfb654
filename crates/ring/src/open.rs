//! Opening files and block devices: the claim, the size, and what the file system wants of direct I/O.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use block::{BlockSize, Bytes, Features, Geometry, PAGE_SIZE};
use host::{Claim, OpenError, OpenOptions};
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, SeekFrom, StatxFlags};
use rustix::io::Errno;

/// A claim that is refused is tried again for `CLAIM_ATTEMPTS * CLAIM_PAUSE`: the kernel gives a device free a moment
/// after the last request to it has ended.
const CLAIM_ATTEMPTS: u32 = 10;
const CLAIM_PAUSE: Duration = Duration::from_millis(20);

/// What is behind a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A regular file.
    Regular,
    /// A block device.
    Block,
}

/// What was learnt while opening.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) geometry: Geometry,
    pub(crate) kind: Kind,
    pub(crate) writable: bool,
    /// Whether requests go around Linux's page cache.
    pub(crate) is_direct: bool,
    /// Alignment that payload memory needs, in bytes.
    pub(crate) align: usize,
    pub(crate) label: String,
}

/// Opens, claims and measures. Blocks; runs on a helper thread.
pub(crate) fn open(path: &Path, options: &OpenOptions) -> Result<(OwnedFd, Opened), OpenError> {
    let kind = kind_of(path)?;
    let writable = options.claim == Claim::Exclusive;
    let (fd, is_direct) = open_fd(path, kind, writable)?;
    if writable && kind == Kind::Regular {
        claimed(|| rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive))?;
    }
    let (fd, is_direct, align) =
        match is_direct.then(|| direct_limits(&fd, path, kind, options.block_size)).transpose()?.flatten() {
            Some(align) => (fd, true, align),
            None => (buffered(fd)?, false, 1),
        };
    let size = Bytes(rustix::fs::seek(&fd, SeekFrom::End(0)).map_err(io::Error::from)?);
    let blocks = options.block_size.blocks_in(size);
    if blocks.0 == 0 {
        return Err(OpenError::Invalid(format!("its size of {size} bytes is less than one block")));
    }
    let geometry = Geometry { block_size: options.block_size, blocks, features: features(&fd, kind)? };
    Ok((fd, Opened { geometry, kind, writable, is_direct, align, label: path.display().to_string() }))
}

fn kind_of(path: &Path) -> Result<Kind, OpenError> {
    let stat = rustix::fs::stat(path).map_err(refusal)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(Kind::Regular),
        FileType::BlockDevice => Ok(Kind::Block),
        other => Err(OpenError::Invalid(format!("neither a file nor a block device, but a {other:?}"))),
    }
}

/// Opens for direct I/O if the file system can; the second value says whether.
fn open_fd(path: &Path, kind: Kind, writable: bool) -> Result<(OwnedFd, bool), OpenError> {
    let mut flags = OFlags::CLOEXEC | OFlags::NOCTTY;
    flags |= if writable { OFlags::RDWR } else { OFlags::RDONLY };
    if writable && kind == Kind::Block {
        flags |= OFlags::EXCL;
    }
    let open = |flags| claimed(|| rustix::fs::open(path, flags, Mode::empty()));
    match open(flags | OFlags::DIRECT) {
        // The file system has no direct I/O.
        Err(OpenError::Io(e)) if e.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => Ok((open(flags)?, false)),
        opened => Ok((opened?, true)),
    }
}

/// Tries until it is ours, or is clearly somebody else's.
fn claimed<T>(attempt: impl Fn() -> Result<T, Errno>) -> Result<T, OpenError> {
    let mut left = CLAIM_ATTEMPTS;
    loop {
        match attempt() {
            Err(Errno::BUSY | Errno::WOULDBLOCK | Errno::TXTBSY) if left > 0 => left -= 1,
            result => return result.map_err(refusal),
        }
        std::thread::sleep(CLAIM_PAUSE);
    }
}

fn refusal(errno: Errno) -> OpenError {
    match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::NXIO | Errno::NODEV => OpenError::NotFound,
        Errno::BUSY | Errno::WOULDBLOCK | Errno::TXTBSY => OpenError::Busy,
        other => OpenError::Io(other.into()),
    }
}

/// The memory alignment that direct I/O in blocks of `block_size` needs; `None` when the file cannot do it, and Linux's
/// page cache has to put blocks together.
fn direct_limits(fd: &OwnedFd, path: &Path, kind: Kind, block_size: BlockSize) -> Result<Option<usize>, OpenError> {
    let block = block_size.bytes();
    if kind == Kind::Block {
        let logical = rustix::fs::ioctl_blksszget(fd).map_err(io::Error::from)?;
        if logical > block {
            return Err(OpenError::Invalid(format!(
                "it has blocks of {logical} bytes, and cannot be used with {block}"
            )));
        }
        return Ok(Some(logical as usize));
    }
    let limits = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN);
    match limits {
        Ok(s) if s.stx_mask & StatxFlags::DIOALIGN.bits() != 0 => {
            let fits = s.stx_dio_offset_align != 0 && s.stx_dio_offset_align <= block;
            Ok((fits && s.stx_dio_mem_align as usize <= PAGE_SIZE).then_some(s.stx_dio_mem_align as usize))
        }
        // The kernel does not say: try.
        _ => {
            let mut probe = block::BufMut::new(block as usize);
            match rustix::io::pread(fd, &mut probe[..], 0) {
                Ok(_) => Ok(Some(block as usize)),
                Err(Errno::INVAL) => Ok(None),
                Err(e) => Err(OpenError::Io(io::Error::other(format!("{}: {e}", path.display())))),
            }
        }
    }
}

/// What is cheap here. File systems give space back and clear it without writing; disks say so, or not.
///
/// Neither direct nor buffered I/O reaches behind the disk's own cache, so a flush is always needed.
fn features(fd: &OwnedFd, kind: Kind) -> Result<Features, OpenError> {
    let (unmap, write_zeroes) = match kind {
        Kind::Regular => (true, true),
        Kind::Block => {
            let device = rustix::fs::fstat(fd).map_err(io::Error::from)?.st_rdev;
            (queue_limit(device, "discard_max_bytes"), queue_limit(device, "write_zeroes_max_bytes"))
        }
    };
    Ok(Features { unmap, write_zeroes, volatile_cache: true, ends_with_process: false })
}

/// Whether the kernel's limit for a kind of request to the device is above zero. Of a partition, its disk's is asked.
fn queue_limit(device: rustix::fs::Dev, name: &str) -> bool {
    let own = format!("/sys/dev/block/{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let limit = ["queue", "../queue"].iter().find_map(|q| std::fs::read_to_string(format!("{own}/{q}/{name}")).ok());
    limit.is_some_and(|limit| limit.trim() != "0")
}

/// Turns direct I/O off.
fn buffered(fd: OwnedFd) -> Result<OwnedFd, OpenError> {
    let flags = rustix::fs::fcntl_getfl(&fd).map_err(io::Error::from)?;
    rustix::fs::fcntl_setfl(&fd, flags - OFlags::DIRECT).map_err(io::Error::from)?;
    Ok(fd)
}
