//! The journal's ring: numbers, order, room. Pure: it makes blocks and is told when they are written and durable.
//!
//! One block is on its way at a time, so that a written block is never behind a lost one; records that come meanwhile
//! share the next block.

use std::collections::VecDeque;

use uuid::Uuid;

use crate::record::{Block, Record};

/// What the journal's writer has to do next.
pub enum Next<T> {
    /// Nothing.
    Idle,
    /// To wait for a checkpoint: the ring is full.
    Full,
    /// To write a block.
    Write {
        /// Its place in the ring.
        index: u64,
        /// Its contents.
        bytes: Vec<u8>,
        /// The number of its last record.
        last: u64,
        /// What the records' owners wait for.
        then: Vec<T>,
    },
}

/// The state of the journal while the pool is open. `T` is what to do when a record is written.
pub struct Journal<T> {
    pool: Uuid,
    epoch: u64,
    blocks: u64,
    next_block: u64,
    /// The first block that the newest durable checkpoint does not cover.
    tail_block: u64,
    checkpoint: u64,
    enqueued: u64,
    written: u64,
    durable: u64,
    pending: VecDeque<(Record, T)>,
}

impl<T> Journal<T> {
    /// An empty ring of `blocks` blocks, behind the checkpoint `checkpoint` that has just become durable, which began
    /// an epoch, covers records up to `applied` and says that the journal goes on at `next_block`.
    pub fn new(pool: Uuid, blocks: u64, checkpoint: u64, next_block: u64, applied: u64) -> Journal<T> {
        Journal {
            pool,
            epoch: checkpoint,
            blocks,
            next_block,
            tail_block: next_block,
            checkpoint,
            enqueued: applied,
            written: applied,
            durable: applied,
            pending: VecDeque::new(),
        }
    }

    /// Adds a record; returns its number.
    pub fn push(&mut self, record: Record, then: T) -> u64 {
        self.pending.push_back((record, then));
        self.enqueued += 1;
        self.enqueued
    }

    /// The next thing to do. A block that is returned must be written before this is called again.
    pub fn take_next(&mut self) -> Next<T> {
        if self.pending.is_empty() {
            return Next::Idle;
        }
        if self.next_block - self.tail_block >= self.blocks {
            return Next::Full;
        }
        let n = Block::fits(self.pending.iter().map(|(r, _)| r));
        let first_record = self.enqueued - self.pending.len() as u64 + 1;
        let (records, then) = self.pending.drain(..n).unzip();
        let sequence = self.next_block;
        self.next_block += 1;
        let (durable_record, checkpoint) = (self.durable, self.checkpoint);
        let block =
            Block { pool: self.pool, epoch: self.epoch, sequence, first_record, durable_record, checkpoint, records };
        Next::Write { index: sequence % self.blocks, bytes: block.encode(), last: first_record + n as u64 - 1, then }
    }

    /// The block whose last record is `last` is written.
    pub fn on_written(&mut self, last: u64) {
        assert!(last > self.written, "blocks are written in order");
        self.written = last;
    }
    /// A flush that began when records up to `covered` were written has succeeded.
    pub fn on_flushed(&mut self, covered: u64) {
        self.durable = self.durable.max(covered);
    }
    /// A checkpoint, made when [`Journal::snapshot`] returned these numbers, is durable.
    pub fn on_checkpoint(&mut self, (sequence, next_block, applied): (u64, u64, u64)) {
        self.checkpoint = sequence;
        self.tail_block = next_block;
        self.durable = self.durable.max(applied);
    }

    /// The numbers of a checkpoint made now: its sequence, the next journal block, the last record that it covers.
    pub fn snapshot(&self) -> (u64, u64, u64) {
        (self.checkpoint + 1, self.next_block, self.enqueued)
    }
    /// Whether a record waits to be written.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }
    /// Whether it is time for a checkpoint.
    pub fn wants_checkpoint(&self) -> bool {
        (self.next_block - self.tail_block) * 2 >= self.blocks
    }
    /// The epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
    /// The last record that is written.
    pub fn written(&self) -> u64 {
        self.written
    }
    /// The last record that is durable.
    pub fn durable(&self) -> u64 {
        self.durable
    }
    /// Gives up what is not written yet.
    pub fn give_up(&mut self) -> Vec<T> {
        self.pending.drain(..).map(|(_, then)| then).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::BlockCopy;

    fn take(j: &mut Journal<u32>) -> (u64, Block, Vec<u32>) {
        match j.take_next() {
            Next::Write { index, bytes, last, then } => {
                let BlockCopy::Good(block) = Block::decode(&bytes) else { panic!("a block of ours is good") };
                assert_eq!(last, block.first_record + block.records.len() as u64 - 1);
                j.on_written(last);
                (index, block, then)
            }
            _ => panic!("there is something to write"),
        }
    }
    fn record(replica: u32) -> Record {
        Record::DestroyReplica { replica }
    }

    #[test]
    fn records_share_blocks_and_numbers_go_on() {
        let mut j = Journal::new(Uuid::nil(), 4, 6, 10, 100);
        assert!(matches!(j.take_next(), Next::Idle));
        for i in 0..1000 {
            assert_eq!(j.push(record(i), i), 101 + u64::from(i));
        }
        let (index, block, then) = take(&mut j);
        assert_eq!((index, block.sequence, block.first_record, block.epoch), (2, 10, 101, 6));
        assert_eq!((block.durable_record, block.checkpoint), (100, 6));
        assert!(then.len() > 400 && then[0] == 0);
        j.on_flushed(j.written());
        let (index, block, _) = take(&mut j);
        assert_eq!((index, block.first_record), (3, 101 + then.len() as u64));
        assert_eq!(block.durable_record, 100 + then.len() as u64);
    }

    #[test]
    fn a_full_ring_waits_for_a_checkpoint_made_at_any_moment() {
        let mut j = Journal::new(Uuid::nil(), 2, 1, 0, 0);
        j.push(record(1), 1);
        take(&mut j);
        assert!(j.wants_checkpoint());
        j.push(record(2), 2);
        let snapshot = j.snapshot();
        assert_eq!(snapshot, (2, 1, 2), "it covers a record that is not written yet");
        take(&mut j);
        j.push(record(3), 3);
        assert!(matches!(j.take_next(), Next::Full));
        j.on_checkpoint(snapshot);
        let (index, block, _) = take(&mut j);
        assert_eq!((index, block.sequence, block.first_record, block.checkpoint), (0, 2, 3, 2));
        j.push(record(4), 4);
        assert!(matches!(j.take_next(), Next::Full), "block 1 is behind the checkpoint, it is still needed");
        assert_eq!(j.give_up(), vec![4]);
    }
}
