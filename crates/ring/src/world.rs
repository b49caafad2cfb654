//! The world of one data thread.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use block::{Instant, LargePage};
use host::{AnyListener, AnyStream, DiskRef, LocalFuture, OpenError, OpenOptions};
use rustix::rand::{GetRandomFlags, getrandom};
use rustix::time::{ClockId, clock_gettime};

use crate::core::Core;
use crate::disk::FileDisk;
use crate::timers::TimerKey;
use crate::{files, memory, net, open};

/// Linux, as seen from one data thread.
pub(crate) struct Linux(pub(crate) Rc<Core>);

impl host::World for Linux {
    fn open_disk(&self, path: &Path, options: OpenOptions) -> LocalFuture<'_, Result<DiskRef, OpenError>> {
        let path = path.to_path_buf();
        Box::pin(async move {
            let (fd, opened) = self.0.helpers.run(move || Ok(open::open(&path, &options))).await??;
            let disk: DiskRef = Rc::new(FileDisk::new(self.0.clone(), fd, opened));
            Ok(disk)
        })
    }

    fn listen(&self, address: SocketAddr) -> io::Result<AnyListener> {
        Ok(Rc::new(net::listen(&self.0, address)?))
    }

    fn connect(&self, host: &str, port: u16) -> LocalFuture<'_, io::Result<AnyStream>> {
        Box::pin(net::connect(self.0.clone(), host.to_owned(), port))
    }

    fn now(&self) -> Instant {
        self.0.now()
    }

    fn wall_clock_ms(&self) -> u64 {
        let t = clock_gettime(ClockId::Realtime);
        u64::try_from(t.tv_sec).unwrap_or(0) * 1000 + t.tv_nsec as u64 / 1_000_000
    }

    fn sleep_until(&self, until: Instant) -> LocalFuture<'_, ()> {
        Box::pin(Sleep { core: self.0.clone(), until, timer: None })
    }

    fn boot_id(&self) -> [u8; 16] {
        // Linux makes a random UUID at each boot. Without /proc each process counts as a boot: safe, only slower.
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let hex: Vec<u8> = text.bytes().filter_map(|c| (c as char).to_digit(16)).map(|d| d as u8).collect();
        let mut id = [0; 16];
        if hex.len() == 32 {
            for (byte, pair) in id.iter_mut().zip(hex.chunks_exact(2)) {
                *byte = pair[0] << 4 | pair[1];
            }
        } else {
            id[..8].copy_from_slice(&self.random().to_le_bytes());
            id[8] = 1;
        }
        id
    }
    fn random(&self) -> u64 {
        let mut bytes = [0; 8];
        // Up to 256 bytes are never cut short, and nothing else can fail once the system has started.
        let got = getrandom(&mut bytes[..], GetRandomFlags::empty());
        assert_eq!(got, Ok(8), "Linux has no randomness for us");
        u64::from_ne_bytes(bytes)
    }

    fn large_page(&self) -> Box<LargePage> {
        memory::large_page()
    }

    fn load(&self, path: &Path) -> LocalFuture<'_, io::Result<Option<Vec<u8>>>> {
        let path = path.to_path_buf();
        Box::pin(self.0.helpers.run(move || files::load(&path)))
    }

    fn store(&self, path: &Path, contents: Vec<u8>) -> LocalFuture<'_, io::Result<()>> {
        let path = path.to_path_buf();
        Box::pin(self.0.helpers.run(move || files::store(&path, &contents)))
    }
}

struct Sleep {
    core: Rc<Core>,
    until: Instant,
    timer: Option<TimerKey>,
}

impl Future for Sleep {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.core.now() >= self.until {
            return Poll::Ready(());
        }
        let mut timers = self.core.timers.borrow_mut();
        let timer = match self.timer {
            Some(timer) if timers.update(timer, cx.waker()) => timer,
            _ => timers.set(self.until, cx.waker().clone()),
        };
        drop(timers);
        self.timer = Some(timer);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            self.core.timers.borrow_mut().clear(timer);
        }
    }
}
