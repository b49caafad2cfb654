//! What a world offers to the logic.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use block::{BlockSize, Buf, BufMut, Instant, LargePage};
use thiserror::Error;

use crate::{DiskRef, JoinHandle, Spawner};

/// A future on one thread.
pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// How a file or block device is opened.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Logical block size that the device shall have. A block device with larger blocks refuses a smaller one.
    pub block_size: BlockSize,
    /// Whether two openers may share it.
    pub claim: Claim,
}

/// Whether two openers may share a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nobody else, in this process or another, may hold it (O_EXCL on block devices, a lock on files).
    Exclusive,
    /// Look only; nothing is written.
    ReadOnly,
}

/// Why a device could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// There is nothing with that name.
    #[error("no such file or device")]
    NotFound,
    /// It is mounted, claimed by another process, or already open here.
    #[error("in use by another process, mounted, or already open")]
    Busy,
    /// It is neither a regular file nor a block device, or its size or block size does not fit.
    #[error("{0}")]
    Invalid(String),
    /// The system refused.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// One TCP connection. Dropping it closes the socket. At most one receive and one send may be pending.
pub trait Stream {
    /// Receives at least one byte, at most `max`, into `buf[from..]`. `Ok(0)` means that the peer closed.
    /// The buffer comes back in any case.
    fn recv(&self, buf: BufMut, from: usize, max: usize) -> LocalFuture<'_, (BufMut, io::Result<usize>)>;
    /// Sends all bytes, in order, or fails.
    fn send(&self, bufs: Vec<Buf>) -> LocalFuture<'_, io::Result<()>>;
    /// Ends both directions now: pending calls fail, the peer sees the end.
    fn shutdown(&self);
    /// The peer's address.
    fn peer(&self) -> SocketAddr;
}
/// A connection of whichever world.
pub type AnyStream = Rc<dyn Stream>;

/// A listening TCP socket. Dropping it stops listening.
pub trait Listener {
    /// Waits for the next connection.
    fn accept(&self) -> LocalFuture<'_, io::Result<AnyStream>>;
    /// The address that it is bound to (with the port that was chosen, when 0 was asked).
    fn local(&self) -> SocketAddr;
}
/// A listener of whichever world.
pub type AnyListener = Rc<dyn Listener>;

/// Everything outside the logic.
pub trait World {
    /// Opens a file or block device.
    fn open_disk(&self, path: &Path, options: OpenOptions) -> LocalFuture<'_, Result<DiskRef, OpenError>>;
    /// Listens on a TCP address.
    fn listen(&self, address: SocketAddr) -> io::Result<AnyListener>;
    /// Connects to a host name or address and a port.
    fn connect(&self, host: &str, port: u16) -> LocalFuture<'_, io::Result<AnyStream>>;
    /// The monotonic clock.
    fn now(&self) -> Instant;
    /// The wall clock, in milliseconds since 1970. For people only: it may jump.
    fn wall_clock_ms(&self) -> u64;
    /// Waits until the clock has reached `until`.
    fn sleep_until(&self, until: Instant) -> LocalFuture<'_, ()>;
    /// 64 random bits.
    fn random(&self) -> u64;
    /// Names this run of the machine: another after it lost power or was booted again, and not zero. A process that ends
    /// and starts again finds the same, and with it everything that its disks had answered.
    fn boot_id(&self) -> [u8; 16];
    /// A page of zeroes for much data, huge where the world has such pages.
    fn large_page(&self) -> Box<LargePage> {
        LargePage::zeroed()
    }
    /// The contents of a file; `None` when there is none.
    fn load(&self, path: &Path) -> LocalFuture<'_, io::Result<Option<Vec<u8>>>>;
    /// Replaces a file as a whole: after a power cut it holds the old contents or the new, and the new for certain once
    /// this has returned.
    fn store(&self, path: &Path, contents: Vec<u8>) -> LocalFuture<'_, io::Result<()>>;
}

/// The world and its executor, in one handle that is cheap to clone.
#[derive(Clone)]
pub struct Host {
    world: Rc<dyn World>,
    spawner: Spawner,
}

impl Host {
    /// A handle to a world.
    pub fn new(world: Rc<dyn World>, spawner: Spawner) -> Host {
        Host { world, spawner }
    }
    /// Starts a task.
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> JoinHandle<T> {
        self.spawner.spawn(future)
    }
    /// Waits.
    pub async fn sleep(&self, duration: Duration) {
        self.world.sleep_until(self.world.now() + duration).await;
    }
    /// Waits for `future`, at most `limit`; `None` when it did not end in time (it is dropped then).
    pub async fn timeout<T>(&self, limit: Duration, future: impl Future<Output = T>) -> Option<T> {
        use futures_util::future::{Either, select};
        let limit = self.world.sleep_until(self.world.now() + limit);
        match select(std::pin::pin!(future), limit).await {
            Either::Left((value, _)) => Some(value),
            Either::Right(((), _)) => None,
        }
    }
    /// 16 random bytes.
    pub fn random_bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.world.random().to_le_bytes());
        bytes[8..].copy_from_slice(&self.world.random().to_le_bytes());
        bytes
    }
    /// Opens a file or block device.
    pub async fn open_disk(&self, path: impl Into<PathBuf>, options: OpenOptions) -> Result<DiskRef, OpenError> {
        self.world.open_disk(&path.into(), options).await
    }
}

impl std::ops::Deref for Host {
    type Target = dyn World;
    fn deref(&self) -> &(dyn World + 'static) {
        &*self.world
    }
}
