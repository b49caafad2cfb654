//! The commands that one queue has outstanding.

use std::collections::VecDeque;

use block::{Buf, BufMut};

use super::io::IoCommand;
use crate::Status;
use crate::command::Sqe;

/// Marks a free slot in the table of command identifiers.
const FREE: u32 = u32::MAX;

/// A command whose payload is still to come.
#[derive(Debug)]
pub(super) enum Pending {
    /// An I/O command.
    Io(IoCommand),
    /// An admin or fabrics command; boxed, since it is rare and large.
    Admin(Box<Sqe>),
}

/// Where a command is.
///
/// ```text
///  capsule ──┬──────────────────────────────► AtDisk ──► answered (Free)
///            ├─► Queued ──► Receiving ──┬───► AtDisk    (Queued, aborted ──► answered)
///            │                          └───► answered
///            ├─► Held (a Connect that waits for another association's end) ──► answered
///            └─► Event (until something happens) ──► answered
/// ```
#[derive(Debug, Default)]
pub(super) enum Work {
    /// Nothing here.
    #[default]
    Free,
    /// Just arrived, being looked at.
    New,
    /// Waits until there is room to receive its payload.
    Queued {
        /// What to do with the payload.
        pending: Pending,
        /// Bytes of payload.
        len: usize,
    },
    /// An R2T was sent.
    Receiving {
        /// What to do with the payload.
        pending: Pending,
        /// The payload; `None` while it is lent for receiving.
        buf: Option<BufMut>,
        /// Bytes of payload.
        len: usize,
        /// Bytes that have arrived.
        got: usize,
        /// A data digest was wrong: the command will fail.
        damaged: bool,
    },
    /// The disk works on it.
    AtDisk(DiskWork),
    /// A Connect that is answered when older associations have ended.
    Held,
    /// An asynchronous event request.
    Event,
}

/// What the disk does for a command.
#[derive(Debug)]
pub(super) struct DiskWork {
    /// The command, for its answer.
    pub kind: DiskKind,
    /// Requests that are not answered.
    pub pending: usize,
    /// The first failure.
    pub failure: Option<Status>,
}

/// The kinds of work for the disk.
#[derive(Debug)]
pub(super) enum DiskKind {
    /// An I/O command.
    Io(IoCommand),
    /// A Compare, with the host's data.
    Compare(IoCommand, Buf),
    /// The flush of an orderly shutdown (CC.SHN).
    Shutdown,
}

/// The commands of one queue, by slot.
#[derive(Debug, Default)]
pub(super) struct Slots {
    work: Vec<Work>,
    /// The command identifier of each slot, or [`FREE`].
    cids: Vec<u32>,
    /// One bit for each command identifier up to the largest seen: whether it is in use.
    taken: Vec<u64>,
    free: Vec<u16>,
    limit: usize,
    at_disk: usize,
    /// Commands that wait for room, oldest first.
    pub queued: VecDeque<u16>,
    /// Bytes for which R2Ts were sent and that have not all arrived.
    pub receiving: usize,
}

/// Why a command got no slot.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoSlot {
    /// Its identifier is in use.
    Conflict,
    /// The queue is full.
    Full,
}

impl Slots {
    /// No commands, and room for `limit`.
    pub fn new(limit: usize) -> Slots {
        Slots { limit, ..Slots::default() }
    }
    /// Changes the number of commands that may be outstanding.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }
    /// Takes a slot for a new command.
    pub fn insert(&mut self, cid: u16) -> Result<u16, NoSlot> {
        let (word, bit) = bit_of(cid);
        if self.taken.get(word).is_some_and(|w| w & bit != 0) {
            return Err(NoSlot::Conflict);
        }
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.work.len() < self.limit => {
                self.work.push(Work::Free);
                self.cids.push(FREE);
                (self.work.len() - 1) as u16
            }
            None => return Err(NoSlot::Full),
        };
        if self.taken.len() <= word {
            self.taken.resize(word + 1, 0);
        }
        self.taken[word] |= bit;
        self.cids[usize::from(slot)] = u32::from(cid);
        self.work[usize::from(slot)] = Work::New;
        Ok(slot)
    }
    /// The identifier of the command in a slot in use.
    pub fn cid(&self, slot: u16) -> u16 {
        let cid = self.cids[usize::from(slot)];
        assert_ne!(cid, FREE, "the slot is in use");
        cid as u16
    }
    /// Whether the slot is that of the command with that identifier.
    pub fn is(&self, slot: u16, cid: u16) -> bool {
        self.cids.get(usize::from(slot)) == Some(&u32::from(cid))
    }
    /// The slot of the command with that identifier.
    pub fn find(&self, cid: u16) -> Option<u16> {
        self.cids.iter().position(|c| *c == u32::from(cid)).map(|i| i as u16)
    }
    /// The command in a slot; `None` for a slot that does not exist.
    pub fn get_mut(&mut self, slot: u16) -> Option<&mut Work> {
        self.work.get_mut(usize::from(slot))
    }
    /// Moves a command on.
    pub fn set(&mut self, slot: u16, work: Work) -> Work {
        let place = &mut self.work[usize::from(slot)];
        self.at_disk += usize::from(matches!(work, Work::AtDisk(_)));
        self.at_disk -= usize::from(matches!(place, Work::AtDisk(_)));
        std::mem::replace(place, work)
    }
    /// Ends a command; its slot and identifier are free.
    pub fn remove(&mut self, slot: u16) -> Work {
        let (word, bit) = bit_of(self.cid(slot));
        self.taken[word] &= !bit;
        self.cids[usize::from(slot)] = FREE;
        self.free.push(slot);
        self.set(slot, Work::Free)
    }
    /// Takes a command out of those that wait for room; whether it was one of them. It still has to be answered.
    pub fn forget_queued(&mut self, slot: u16) -> bool {
        let waiting = self.queued.len();
        self.queued.retain(|waiting| *waiting != slot);
        let is_queued = self.queued.len() < waiting;
        if is_queued {
            self.set(slot, Work::New);
        }
        is_queued
    }
    /// Commands that the disk works on.
    pub fn at_disk(&self) -> usize {
        self.at_disk
    }
    /// Commands that are not answered.
    #[cfg(test)]
    pub fn in_use(&self) -> usize {
        self.work.len() - self.free.len()
    }
    /// Forgets every command that the disk does not work on.
    pub fn drop_waiting(&mut self) {
        self.queued.clear();
        self.receiving = 0;
        for slot in 0..self.work.len() as u16 {
            if !matches!(self.work[usize::from(slot)], Work::Free | Work::AtDisk(_)) {
                self.remove(slot);
            }
        }
    }
}

/// Where an identifier's bit is.
fn bit_of(cid: u16) -> (usize, u64) {
    (usize::from(cid / 64), 1 << (cid % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_limited_and_identifiers_unique() {
        let mut slots = Slots::new(2);
        let a = slots.insert(7).expect("room");
        assert_eq!(slots.insert(7), Err(NoSlot::Conflict));
        let b = slots.insert(8).expect("room");
        assert_eq!(slots.insert(9), Err(NoSlot::Full));
        assert_eq!((slots.cid(a), slots.cid(b), slots.find(8), slots.find(9)), (7, 8, Some(b), None));
        slots.remove(a);
        assert_eq!(slots.insert(9), Ok(a));
        assert_eq!(slots.in_use(), 2);
    }

    #[test]
    fn only_commands_at_the_disk_outlive_the_connection() {
        let mut slots = Slots::new(8);
        let (a, b) = (slots.insert(1).expect("room"), slots.insert(2).expect("room"));
        slots.set(a, Work::AtDisk(DiskWork { kind: DiskKind::Shutdown, pending: 1, failure: None }));
        slots.set(b, Work::Event);
        slots.drop_waiting();
        assert_eq!((slots.at_disk(), slots.in_use()), (1, 1));
        slots.remove(a);
        assert_eq!((slots.at_disk(), slots.in_use()), (0, 0));
    }
}
