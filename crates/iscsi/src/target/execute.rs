//! What commands do: those that only look at the unit's description or reservations, and the requests of the others.

use block::{BlockRange, Blocks, Buf, BufMut, Data, Durability, Geometry, Lba, Request, limits};

use super::connection::Success;
use super::tasks::{Pass, Step, Work};
use super::{ConnectionId, ExportId, Outbox, Target};
use crate::scsi::cdb::{self, Command, Compare};
use crate::scsi::reserve::{News, Port};
use crate::scsi::{Failure, Sense, mode, pages};

impl Target {
    /// Runs a command whose data is there.
    pub(super) fn execute(&mut self, id: ConnectionId, slot: u32, out: &mut Outbox) {
        let connection = self.connection(id);
        let export = connection.export();
        let (Some(task), Some(export)) = (connection.tasks.get_mut(slot), export) else { return };
        let command = match task.plan {
            Ok(command) => command,
            Err(failure) => return self.end_task(id, slot, Err(failure), out),
        };
        let data = task.data();
        let (has_unit, needed) = (task.has_unit, task.needed);
        if let Some(answer) = self.control(id, export, &command, has_unit, &data, out) {
            let answer = answer.map(|bytes| match bytes.is_empty() {
                true => Success::Sent(needed as u64),
                false => Success::Data(Data::from(Buf::copy_of(&bytes))),
            });
            return self.end_task(id, slot, answer, out);
        }
        let geometry = self.lun(export).unit.geometry;
        match prepare(&command, data, &geometry) {
            Err(failure) => self.end_task(id, slot, Err(failure), out),
            // It asks for nothing.
            Ok((_, requests)) if requests.is_empty() => {
                self.end_task(id, slot, Ok(Success::Sent(needed as u64)), out);
            }
            Ok((step, requests)) => {
                let pass = match command {
                    _ if command.is_exclusive() => Pass::Exclusive,
                    _ if command.is_change() => Pass::Change,
                    _ => Pass::None,
                };
                let gate = &mut self.lun(export).gate;
                if pass != Pass::None && (!gate.waiting.is_empty() || !gate.admits(pass)) {
                    gate.waiting.push_back((id, slot));
                    let tasks = &mut self.connection(id).tasks;
                    tasks.set(slot, Work::Gated(step, requests));
                    if let Some(task) = tasks.get_mut(slot) {
                        task.pass = pass;
                    }
                    return;
                }
                gate.enter(pass);
                if let Some(task) = self.connection(id).tasks.get_mut(slot) {
                    task.pass = pass;
                }
                self.start(id, slot, step, requests, out);
            }
        }
    }

    /// A command that needs no disk: its data, or `None` when it is another one.
    fn control(
        &mut self,
        id: ConnectionId,
        export: ExportId,
        command: &Command,
        has_unit: bool,
        list: &[u8],
        out: &mut Outbox,
    ) -> Option<Result<Vec<u8>, Failure>> {
        let port = self.connection(id).session.as_ref().map(|s| s.port.clone())?;
        let lun = self.lun(export);
        let unit = has_unit.then_some(&lun.unit);
        let geometry = lun.unit.geometry;
        let (answer, allocation) = match *command {
            Command::Nothing | Command::Prefetch => (Ok(Vec::new()), 0),
            Command::RequestSense { allocation } => (Ok(self.request_sense(id, has_unit)), allocation),
            Command::Inquiry { page: None, allocation } => (Ok(pages::standard(unit)), allocation),
            Command::Inquiry { page: Some(page), allocation } => {
                let pages = unit.ok_or(Sense::NO_LUN).and_then(|unit| pages::vital(unit, page));
                (pages, allocation)
            }
            Command::ReportLuns { select, allocation } => (Ok(pages::luns(select)), allocation),
            Command::ReadCapacity10 => (Ok(pages::capacity10(&geometry)), usize::MAX),
            Command::ReadCapacity16 { allocation } => (Ok(pages::capacity16(&geometry)), allocation),
            Command::ModeSense(sense) => (sense.answer(&geometry), sense.allocation),
            Command::ModeSelect { is_long, .. } => (mode::select(list, is_long, &geometry).map(|()| Vec::new()), 0),
            Command::ReportOpcodes { option, opcode, action, timeouts, allocation } => {
                (pages::opcodes(option, opcode, action, timeouts), allocation)
            }
            Command::PersistentIn { action, allocation } => (Ok(lun.reservations.report(action)), allocation),
            Command::PersistentOut { action, kind, .. } => {
                let news = lun.reservations.change(&port, action, kind, list);
                return Some(news.map(|news| {
                    self.tell(export, &port, id, news, out);
                    Vec::new()
                }));
            }
            Command::Reserve => {
                lun.reservations.reserve_old(&port);
                (Ok(Vec::new()), 0)
            }
            Command::Release => {
                lun.reservations.release_old(&port);
                (Ok(Vec::new()), 0)
            }
            _ => return None,
        };
        Some(answer.map_err(Failure::Check).map(|mut bytes| {
            bytes.truncate(allocation);
            bytes
        }))
    }

    fn request_sense(&mut self, id: ConnectionId, has_unit: bool) -> Vec<u8> {
        let attention = self.connection(id).attentions.pop_front();
        let sense = if has_unit { attention.unwrap_or(Sense::NONE) } else { Sense::NO_LUN };
        sense.to_bytes().to_vec()
    }

    /// Tells others what a PERSISTENT RESERVE OUT has done to them.
    fn tell(&mut self, export: ExportId, port: &Port, by: ConnectionId, news: News, out: &mut Outbox) {
        let sessions = self.sessions_of(export);
        let of = |target: &Target, port: &Port| -> Vec<ConnectionId> {
            let is_of =
                |id: &&ConnectionId| target.connections[id.index()].session.as_ref().is_some_and(|s| s.port == *port);
            sessions.iter().filter(is_of).copied().collect()
        };
        for (whom, sense) in &news.attentions {
            for id in of(self, whom) {
                self.connection(id).attention(*sense);
            }
        }
        for whom in news.aborts.iter().filter(|p| *p != port) {
            for id in of(self, whom).into_iter().filter(|id| *id != by) {
                self.abort_session(id, out);
            }
        }
    }
}

/// The requests of a command, and what their answers mean.
fn prepare(command: &Command, data: Buf, geometry: &Geometry) -> Result<(Step, Vec<Request>), Failure> {
    let read = |range| vec![Request::Read { range }];
    Ok(match *command {
        Command::Read { range, durability } => {
            // FUA: what the cache of the disk holds must be what the medium holds.
            let flush = durability == Durability::Durable && geometry.features.volatile_cache;
            if flush { (Step::FlushThenRead(range), vec![Request::Flush]) } else { (Step::Read, read(range)) }
        }
        Command::Write { range, durability } => (Step::Done, vec![Request::Write { range, data, durability }]),
        Command::WriteVerify { range, compare } => {
            let with = match compare {
                Compare::Nothing => None,
                Compare::Data => Some(data.clone()),
                Compare::OneBlock => return Err(Sense::invalid_field(1).into()),
            };
            let write = Request::Write { range, data, durability: Durability::Durable };
            (Step::WriteVerify(range, with), vec![write])
        }
        Command::Verify { range, compare } => {
            (Step::Verify((compare != Compare::Nothing).then_some(data)), read(range))
        }
        Command::CompareAndWrite { range, .. } if range.is_empty() => (Step::Done, Vec::new()),
        Command::CompareAndWrite { range, durability } => (Step::CompareAndWrite(range, data, durability), read(range)),
        Command::OrWrite { range, durability } => (Step::OrWrite(range, data, durability), read(range)),
        Command::Flush => (Step::Done, vec![Request::Flush]),
        Command::Unmap { .. } => {
            let ranges = cdb::unmap_ranges(&data, geometry)?;
            (Step::Done, ranges.into_iter().map(|range| Request::Unmap { range }).collect())
        }
        Command::WriteSame { range, unmap, zeroes } => {
            if zeroes || data.iter().all(|byte| *byte == 0) {
                let request = Request::WriteZeroes { range, may_unmap: unmap, durability: Durability::Volatile };
                (Step::Done, vec![request])
            } else {
                let pattern = repeated(&data, range, geometry);
                let (first, rest) = fill(range, &pattern, geometry);
                (Step::Fill(rest, pattern), vec![first])
            }
        }
        _ => unreachable!("{command:?} needs no disk"),
    })
}

/// As many copies of a block as a request takes, or as the range needs.
fn repeated(block: &[u8], range: BlockRange, geometry: &Geometry) -> Buf {
    let whole = geometry.block_size.bytes_of(range.len).0.min(limits::TRANSFER_BYTES as u64) as usize;
    let mut pattern = BufMut::new(whole);
    pattern.chunks_exact_mut(block.len()).for_each(|place| place.copy_from_slice(block));
    pattern.freeze()
}

/// The first write of a range that is filled with a pattern, and what is left of the range.
pub(super) fn fill(range: BlockRange, pattern: &Buf, geometry: &Geometry) -> (Request, BlockRange) {
    let most = Blocks(pattern.len() as u64 >> geometry.block_size.shift());
    let len = range.len.min(most);
    let data = pattern.slice(0..geometry.block_size.bytes_of(len).0 as usize);
    let first = BlockRange { start: range.start, len };
    let rest = BlockRange { start: Lba(range.start.0 + len.0), len: range.len - len };
    (Request::Write { range: first, data, durability: Durability::Volatile }, rest)
}
