//! How other threads wake a data thread that sleeps in the kernel, at no cost while it does not sleep.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// Shared between a data thread and those who give it work.
///
/// The sleeper says that it sleeps and *then* looks for work once more; the giver leaves the work and *then* looks
/// whether the thread sleeps. So one of them sees the other.
pub(crate) struct Parker {
    asleep: AtomicBool,
    bell: OwnedFd,
}

impl Parker {
    pub(crate) fn new() -> io::Result<Parker> {
        Ok(Parker { asleep: AtomicBool::new(false), bell: eventfd(0, EventfdFlags::CLOEXEC)? })
    }

    /// The descriptor that becomes readable when the bell rings.
    pub(crate) fn bell(&self) -> io::Result<OwnedFd> {
        self.bell.try_clone()
    }

    /// Called by whoever has left work for the thread.
    pub(crate) fn unpark(&self) {
        if self.asleep.load(Ordering::SeqCst) && self.asleep.swap(false, Ordering::SeqCst) {
            // It can only fail when the counter is full, and then the thread will wake anyway.
            let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        }
    }

    /// Says that the thread is about to sleep.
    pub(crate) fn prepare(&self) {
        self.asleep.store(true, Ordering::SeqCst);
    }

    /// Says that the thread is awake.
    pub(crate) fn awake(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bell_rings_once_and_only_for_a_sleeper() {
        let parker = Parker::new().expect("an eventfd");
        let bell = parker.bell().expect("a copy");
        parker.unpark();
        parker.prepare();
        parker.unpark();
        parker.unpark();
        let mut count = [0; 8];
        assert_eq!(rustix::io::read(&bell, &mut count), Ok(8));
        assert_eq!(u64::from_ne_bytes(count), 1);
    }
}
