//! The SCSI commands that one session has outstanding.

use std::collections::{BTreeMap, VecDeque};

use block::{BlockRange, Buf, BufMut, Data, Durability, Request};
use slab::Slab;

use crate::scsi::Failure;
use crate::scsi::cdb::Command;

/// Where a command is.
///
/// ```text
///  Command PDU ─► Unsolicited ─┬─► Queued ─► Solicited ─┬─► (Gated) ─► AtDisk ─► answered
///                              ├────────────────────────┤
///                              └────────────────────────┴─► answered (it failed, or needs no disk)
/// ```
#[derive(Debug)]
pub(super) enum Work {
    /// Data that the initiator sends unasked is arriving.
    Unsolicited,
    /// Waits until there is room to receive its data.
    Queued,
    /// An R2T was sent, for the bytes up to `end`.
    Solicited {
        /// Its target transfer tag.
        ttt: u32,
        /// Where its data ends in the command's.
        end: usize,
    },
    /// Waits for another command that nothing may come between, with what it will do.
    Gated(Step, Vec<Request>),
    /// The disk works on it.
    AtDisk(Job),
}

/// Whether a command is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is.
    Answer,
    /// It was aborted: its end is waited for, and not told.
    Aborted,
}

/// What a command holds of its unit's gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// Nothing.
    None,
    /// It is one of the changes under way.
    Change,
    /// No other change is under way.
    Exclusive,
}

/// What the disk does for a command.
#[derive(Debug)]
pub(super) struct Job {
    /// What its answers mean.
    pub step: Step,
    /// Requests that are not answered.
    pub pending: usize,
    /// The first failure.
    pub failure: Option<Failure>,
}

/// What the answers of the requests under way mean.
#[derive(Debug)]
pub(super) enum Step {
    /// The data of the answer.
    Read,
    /// The cache is flushed before a read from the medium.
    FlushThenRead(BlockRange),
    /// Nothing but success.
    Done,
    /// The data is compared with this one: as long, or one block for each of its blocks.
    Verify(Option<Buf>),
    /// What was written is to be read back and compared.
    WriteVerify(BlockRange, Option<Buf>),
    /// The data is compared with the first half, then the second half is written.
    CompareAndWrite(BlockRange, Buf, Durability),
    /// The data is combined with this one and written.
    OrWrite(BlockRange, Buf, Durability),
    /// These blocks are still to be filled with the pattern.
    Fill(BlockRange, Buf),
}

/// A command.
#[derive(Debug)]
pub(super) struct Task {
    /// Initiator task tag.
    pub itt: u32,
    /// Whether it came for immediate delivery: it takes no place in the window.
    pub immediate: bool,
    /// Expected data transfer length.
    pub expected: u32,
    /// Whether it names the unit that there is.
    pub has_unit: bool,
    /// The command, or why it fails once its data has come.
    pub plan: Result<Command, Failure>,
    /// Bytes of data that it needs, to tell how much more or less was offered.
    pub needed: usize,
    /// Bytes of data that are received: none when it fails.
    pub wanted: usize,
    /// Bytes of data that have come (surplus that is dropped counts too).
    pub got: usize,
    /// The data; `None` while lent for receiving, and when there is none.
    pub buf: Option<BufMut>,
    /// DataSN of the next Data-Out of this sequence.
    pub data_sn: u32,
    /// R2Ts that were sent.
    pub r2ts: u32,
    pub work: Work,
    pub fate: Fate,
    pub pass: Pass,
}

impl Task {
    /// Takes the data, whole.
    pub fn data(&mut self) -> Buf {
        self.buf.take().map_or_else(|| Data::empty().into_buf(), BufMut::freeze)
    }
    pub fn is_at_disk(&self) -> bool {
        matches!(self.work, Work::AtDisk(_))
    }
}

/// The commands of one session, by slot.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    slots: Slab<Task>,
    by_tag: BTreeMap<u32, u32>,
    /// Commands that wait for room, oldest first.
    pub queued: VecDeque<u32>,
    /// Bytes for which R2Ts were sent and that have not all arrived.
    pub receiving: usize,
    at_disk: usize,
    immediate: u32,
}

impl Tasks {
    /// Adds a command whose tag is not in use.
    pub fn insert(&mut self, task: Task) -> u32 {
        self.immediate += u32::from(task.immediate);
        let tag = task.itt;
        let slot = self.slots.insert(task) as u32;
        self.by_tag.insert(tag, slot);
        slot
    }
    /// The slot of the command with that tag.
    pub fn find(&self, itt: u32) -> Option<u32> {
        self.by_tag.get(&itt).copied()
    }
    /// The command in a slot.
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut Task> {
        self.slots.get_mut(slot as usize)
    }
    /// The command in a slot.
    pub fn get(&self, slot: u32) -> Option<&Task> {
        self.slots.get(slot as usize)
    }
    /// All commands.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Task)> {
        self.slots.iter().map(|(slot, task)| (slot as u32, task))
    }
    /// Moves a command on.
    pub fn set(&mut self, slot: u32, work: Work) -> Option<Work> {
        let task = self.slots.get_mut(slot as usize)?;
        self.at_disk += usize::from(matches!(work, Work::AtDisk(_)));
        self.at_disk -= usize::from(task.is_at_disk());
        Some(std::mem::replace(&mut task.work, work))
    }
    /// Ends a command.
    pub fn remove(&mut self, slot: u32) -> Task {
        let task = self.slots.remove(slot as usize);
        self.by_tag.remove(&task.itt);
        self.queued.retain(|s| *s != slot);
        self.at_disk -= usize::from(task.is_at_disk());
        self.immediate -= u32::from(task.immediate);
        if let Work::Solicited { end, .. } = task.work {
            self.receiving -= end - task.got.min(end);
        }
        task
    }
    /// Commands that the disk works on.
    pub fn at_disk(&self) -> usize {
        self.at_disk
    }
    /// Commands that take a place in the window.
    pub fn in_window(&self) -> u32 {
        self.slots.len() as u32 - self.immediate
    }
    /// Commands for immediate delivery.
    pub fn immediate(&self) -> u32 {
        self.immediate
    }
}
