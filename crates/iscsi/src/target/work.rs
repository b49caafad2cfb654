//! Commands at the disk: their steps, their end, and the gate before changes.

use block::{BufMut, Data, Outcome, Request};

use super::connection::Success;
use super::execute::fill;
use super::tasks::{Fate, Job, Pass, Step, Work};
use super::{ConnectionId, Effect, ExportId, ExportStats, Outbox, Target};
use crate::scsi::cdb::{Access, Command};
use crate::scsi::{Failure, Sense};

/// What comes after a step.
enum Next {
    /// Another step.
    Go(Step, Request),
    /// The end.
    End(Result<Success, Failure>),
}

impl Target {
    /// Gives the requests of a command to the disk.
    pub(super) fn start(&mut self, id: ConnectionId, slot: u32, step: Step, requests: Vec<Request>, out: &mut Outbox) {
        let connection = self.connection(id);
        let Some(export) = connection.export() else { return };
        let job = Job { step, pending: requests.len(), failure: None };
        connection.tasks.set(slot, Work::AtDisk(job));
        let submit = |request| Effect::Submit { connection: id, slot, export, request };
        out.extend(requests.into_iter().map(submit));
    }

    /// The disk has answered a request of a command.
    pub(super) fn disk_answered(&mut self, id: ConnectionId, slot: u32, outcome: Outcome, out: &mut Outbox) {
        out.push(Effect::Wake(id));
        let connection = self.connection(id);
        let Some(export) = connection.export() else { unreachable!("a command at a disk belongs to a session") };
        let Some(task) = connection.tasks.get_mut(slot) else { unreachable!("a command at the disk keeps its slot") };
        let (fate, needed) = (task.fate, task.needed);
        let is_read = task.plan.is_ok_and(|c| c.access() == Access::Read);
        let Work::AtDisk(job) = &mut task.work else { unreachable!("the disk answers only what it was given") };
        job.pending -= 1;
        let data = match outcome {
            Ok(data) => data,
            Err(fault) => {
                job.failure.get_or_insert(Failure::of_fault(fault, is_read));
                Data::empty()
            }
        };
        if job.pending > 0 {
            return;
        }
        let (failure, step) = (job.failure, std::mem::replace(&mut job.step, Step::Done));
        let geometry = self.lun(export).unit.geometry;
        let next = match failure {
            Some(failure) => {
                self.lun(export).stats.errors += 1;
                Next::End(Err(failure))
            }
            // Nothing new is begun for a command that nobody waits for.
            None if fate == Fate::Aborted => Next::End(Ok(Success::Sent(0))),
            None => after(step, data, needed as u64, &geometry),
        };
        match next {
            Next::Go(step, request) => self.start(id, slot, step, vec![request], out),
            Next::End(outcome) => self.end_task(id, slot, outcome, out),
        }
    }

    /// A command has ended: it is answered unless it was aborted, and whoever waited for its end goes on.
    pub(super) fn end_task(
        &mut self,
        id: ConnectionId,
        slot: u32,
        outcome: Result<Success, Failure>,
        out: &mut Outbox,
    ) {
        let connection = self.connection(id);
        let export = connection.export();
        let task = connection.tasks.remove(slot);
        let was_at_disk = task.is_at_disk();
        if task.fate == Fate::Answer {
            if let (Some(export), Ok(success), Ok(command), true) = (export, &outcome, task.plan, was_at_disk) {
                count(&mut self.lun(export).stats, &command, success);
            }
            let outcome = outcome.map_err(|failure| (failure, task.needed as u64));
            self.connection(id).answer(task.itt, task.expected, task.r2ts, outcome);
        }
        if let Some(export) = export {
            if was_at_disk {
                self.lun(export).gate.leave(task.pass);
            }
            self.open_gate(export, out);
        }
        out.push(Effect::Wake(id));
        if was_at_disk {
            self.abort_settled(id, slot, out);
            self.end_if_drained(id, out);
        }
    }

    /// Lets pass what may pass now.
    pub(super) fn open_gate(&mut self, export: ExportId, out: &mut Outbox) {
        while let Some((id, slot)) = self.luns[export.0 as usize].gate.waiting.front().copied() {
            let pass = self.connection(id).tasks.get(slot).map_or(Pass::None, |t| t.pass);
            let gate = &mut self.lun(export).gate;
            if !gate.admits(pass) {
                return;
            }
            gate.waiting.pop_front();
            gate.enter(pass);
            let Some(Work::Gated(step, requests)) = self.connection(id).tasks.set(slot, Work::Unsolicited) else {
                unreachable!("only gated commands wait at the gate");
            };
            self.start(id, slot, step, requests, out);
        }
    }
}

/// What comes after the requests of a step have succeeded.
fn after(step: Step, data: Data, needed: u64, geometry: &block::Geometry) -> Next {
    let done = || Next::End(Ok(Success::Sent(needed)));
    match step {
        Step::Read => Next::End(Ok(Success::Data(data))),
        Step::FlushThenRead(range) => Next::Go(Step::Read, Request::Read { range }),
        Step::Done | Step::Verify(None) => done(),
        Step::Verify(Some(with)) => match first_difference(&data, &with) {
            Some(at) => Next::End(Err(Sense::miscompare(at).into())),
            None => done(),
        },
        Step::WriteVerify(range, with) => Next::Go(Step::Verify(with), Request::Read { range }),
        Step::CompareAndWrite(range, both, durability) => {
            let half = both.len() / 2;
            match first_difference(&data, &both[..half]) {
                Some(at) => Next::End(Err(Sense::miscompare(at).into())),
                None => Next::Go(Step::Done, Request::Write { range, data: both.slice(half..2 * half), durability }),
            }
        }
        Step::OrWrite(range, with, durability) => {
            let mut result = BufMut::copy_of(&with);
            let old = data.iter().flat_map(|buf| buf.iter());
            result.iter_mut().zip(old).for_each(|(new, old)| *new |= old);
            Next::Go(Step::Done, Request::Write { range, data: result.freeze(), durability })
        }
        Step::Fill(rest, _) if rest.is_empty() => done(),
        Step::Fill(range, pattern) => {
            let (request, rest) = fill(range, &pattern, geometry);
            Next::Go(Step::Fill(rest, pattern), request)
        }
    }
}

/// Where data differs from a pattern that is repeated as often as it takes.
fn first_difference(data: &Data, pattern: &[u8]) -> Option<usize> {
    let mut at = 0;
    for buf in data.iter() {
        let mut rest = &buf[..];
        while !rest.is_empty() {
            let expected = &pattern[at % pattern.len()..];
            let n = rest.len().min(expected.len());
            if rest[..n] != expected[..n] {
                let differs = rest.iter().zip(expected).position(|(a, b)| a != b);
                return differs.map(|i| at + i);
            }
            at += n;
            rest = &rest[n..];
        }
    }
    None
}

fn count(stats: &mut ExportStats, command: &Command, success: &Success) {
    match (command, success) {
        (Command::Read { .. }, Success::Data(data)) => {
            stats.reads += 1;
            stats.read_bytes += data.len() as u64;
        }
        (Command::Write { .. } | Command::WriteVerify { .. } | Command::OrWrite { .. }, Success::Sent(bytes)) => {
            stats.writes += 1;
            stats.written_bytes += bytes;
        }
        (Command::CompareAndWrite { .. }, Success::Sent(bytes)) => {
            stats.writes += 1;
            stats.written_bytes += bytes / 2;
        }
        _ => stats.others += 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::Buf;

    #[test]
    fn differences_are_found_over_buffers_and_repetitions() {
        let mut data = Data::from(Buf::copy_of(b"abcd"));
        data.push(Buf::copy_of(b"abXd"));
        assert_eq!(first_difference(&data, b"abcdabXd"), None);
        assert_eq!(first_difference(&data, b"abcd"), Some(6));
        assert_eq!(first_difference(&data, b"ab"), Some(2));
        assert_eq!(first_difference(&Data::empty(), b""), None);
    }
}
