//! A block device in memory. Pages are taken when they are first written. They are shared buffers: a read of whole
//! pages returns references, and a write to a page that a reader still holds makes a new one.

use std::cell::RefCell;

use block::{BlockSize, Buf, BufMut, Bytes, Data, Features, Geometry, Outcome, PAGE_SIZE, Request, Ticket};
use host::Disk;

/// Pages in one chunk of the table (2 MiB of data).
const CHUNK_PAGES: usize = 512;
/// A written buffer is kept as it is, without a copy, when it keeps no more than this alive; a page must not hold on to
/// a large receive buffer.
const KEEP_BYTES: usize = 2 * PAGE_SIZE;

type Chunk = Box<[Option<Buf>]>;

/// Memory as a block device.
pub struct Malloc {
    name: String,
    geometry: Geometry,
    /// Grows up to the highest page that was written.
    chunks: RefCell<Vec<Option<Chunk>>>,
}

impl Malloc {
    /// A device of `size` zero bytes (a whole number of blocks; what is above is cut off).
    pub fn new(name: &str, size: Bytes, block_size: BlockSize) -> Malloc {
        let features = Features { unmap: true, write_zeroes: true, volatile_cache: false, ends_with_process: true };
        let geometry = Geometry { block_size, blocks: block_size.blocks_in(size), features };
        Malloc { name: name.into(), geometry, chunks: RefCell::default() }
    }

    fn read(&self, start: u64, len: usize) -> Data {
        let chunks = self.chunks.borrow();
        let mut data = Data::empty();
        for (page, from, n) in pages(start, len) {
            let (chunk, slot) = place(page);
            let held = chunks.get(chunk).and_then(Option::as_ref).and_then(|c| c[slot].as_ref());
            data.push(match held {
                Some(buf) if n == PAGE_SIZE => buf.clone(),
                Some(buf) => buf.slice(from..from + n),
                None => Buf::zeroes(n),
            });
        }
        data
    }

    fn write(&self, start: u64, data: &Buf) {
        let mut chunks = self.chunks.borrow_mut();
        let mut at = 0;
        for (page, from, n) in pages(start, data.len()) {
            let (chunk, slot) = place(page);
            if chunks.len() <= chunk {
                chunks.resize_with(chunk + 1, || None);
            }
            let slots = chunks[chunk].get_or_insert_with(|| vec![None; CHUNK_PAGES].into_boxed_slice());
            put(&mut slots[slot], from, data.slice(at..at + n));
            at += n;
        }
    }

    fn clear(&self, start: u64, len: u64) {
        let mut chunks = self.chunks.borrow_mut();
        let mut at = start;
        let end = start + len;
        while at < end {
            let (chunk, slot) = place(at / PAGE_SIZE as u64);
            let chunk_end = (chunk as u64 + 1) * (CHUNK_PAGES * PAGE_SIZE) as u64;
            let Some(entry) = chunks.get_mut(chunk) else { return };
            if at.is_multiple_of((CHUNK_PAGES * PAGE_SIZE) as u64) && chunk_end <= end {
                *entry = None;
            }
            let Some(slots) = entry else {
                at = chunk_end;
                continue;
            };
            let from = (at % PAGE_SIZE as u64) as usize;
            let n = (end - at).min((PAGE_SIZE - from) as u64) as usize;
            if n == PAGE_SIZE {
                slots[slot] = None;
            } else if slots[slot].is_some() {
                put(&mut slots[slot], from, Buf::zeroes(n));
            }
            at += n as u64;
        }
    }

    fn perform(&self, request: Request) -> Outcome {
        request.check(&self.geometry)?;
        let size = self.geometry.block_size;
        match request {
            Request::Read { range } => Ok(self.read(size.offset_of(range.start), size.bytes_of(range.len).0 as usize)),
            Request::Write { range, data, .. } => {
                self.write(size.offset_of(range.start), &data);
                Ok(Data::empty())
            }
            Request::Unmap { range } | Request::WriteZeroes { range, .. } => {
                self.clear(size.offset_of(range.start), size.bytes_of(range.len).0);
                Ok(Data::empty())
            }
            Request::Flush => Ok(Data::empty()),
        }
    }
}

impl Disk for Malloc {
    fn geometry(&self) -> Geometry {
        self.geometry
    }
    fn submit(&self, request: Request, ticket: Ticket) {
        let outcome = self.perform(request);
        ticket.answer(outcome);
    }
    fn label(&self) -> String {
        format!("malloc:///{}", self.name)
    }
}

/// The chunk and the slot of a page.
fn place(page: u64) -> (usize, usize) {
    ((page / CHUNK_PAGES as u64) as usize, (page % CHUNK_PAGES as u64) as usize)
}

/// The pages that a byte range touches: page number, first byte within it, number of bytes within it.
fn pages(start: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut at = start;
    let end = start + len as u64;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let from = (at % PAGE_SIZE as u64) as usize;
        let n = (end - at).min((PAGE_SIZE - from) as u64) as usize;
        let item = (at / PAGE_SIZE as u64, from, n);
        at += n as u64;
        Some(item)
    })
}

/// Puts bytes into a page, in place when nobody else holds it.
fn put(slot: &mut Option<Buf>, from: usize, data: Buf) {
    if data.len() == PAGE_SIZE && data.whole_len() <= KEEP_BYTES {
        *slot = Some(data);
        return;
    }
    let mut page = match slot.take() {
        None if data.len() == PAGE_SIZE => BufMut::new(PAGE_SIZE),
        None => BufMut::zeroed(PAGE_SIZE),
        Some(old) => old.try_into_mut().unwrap_or_else(|shared| BufMut::copy_of(&shared)),
    };
    page[from..from + data.len()].copy_from_slice(&data);
    *slot = Some(page.freeze());
}

#[cfg(test)]
mod tests {
    use block::{BlockRange, Durability, Fault};
    use proptest::prelude::*;

    use super::*;

    fn write(range: BlockRange, byte: u8, size: BlockSize) -> Request {
        let mut data = BufMut::new(size.bytes_of(range.len).0 as usize);
        data.fill(byte);
        Request::Write { range, data: data.freeze(), durability: Durability::Volatile }
    }

    #[test]
    fn a_reader_keeps_what_it_read() {
        let disk = Malloc::new("m", Bytes(1 << 20), BlockSize::B4096);
        let one = BlockRange::new(3, 1);
        disk.perform(write(one, 1, BlockSize::B4096)).unwrap();
        let read = disk.perform(Request::Read { range: one }).unwrap();
        disk.perform(write(one, 2, BlockSize::B4096)).unwrap();
        assert!(read.into_buf().iter().all(|&b| b == 1));
        assert!(disk.perform(Request::Read { range: one }).unwrap().into_buf().iter().all(|&b| b == 2));
    }

    #[test]
    fn a_device_of_more_than_4_gib_takes_memory_only_where_it_is_written() {
        let disk = Malloc::new("m", Bytes(8 << 40), BlockSize::B512);
        let last = BlockRange::new(disk.geometry.blocks.0 - 1, 1);
        disk.perform(write(last, 9, BlockSize::B512)).unwrap();
        assert!(disk.perform(Request::Read { range: last }).unwrap().into_buf().iter().all(|&b| b == 9));
        assert_eq!(disk.chunks.borrow().iter().flatten().count(), 1);
        disk.perform(Request::Unmap { range: disk.geometry.all() }).unwrap();
        assert_eq!(disk.chunks.borrow().iter().flatten().count(), 0);
    }

    #[test]
    fn what_is_outside_is_refused() {
        let disk = Malloc::new("m", Bytes(4096), BlockSize::B512);
        for request in [
            Request::Read { range: BlockRange::new(8, 1) },
            Request::Unmap { range: BlockRange::new(u64::MAX, 2) },
            Request::Read { range: BlockRange::new(0, 0) },
        ] {
            assert_eq!(disk.perform(request).err(), Some(Fault::OutOfRange));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_is_an_array_of_bytes(ops in prop::collection::vec((0u8..4, 0u64..64, 1u64..40, any::<u8>()), 1..60)) {
            let disk = Malloc::new("m", Bytes(64 * 512), BlockSize::B512);
            let mut model = vec![0u8; 64 * 512];
            let mut held = Vec::new();
            for (kind, start, len, byte) in ops {
                let range = BlockRange::new(start, len.min(64 - start));
                let bytes = (start * 512) as usize..(range.end().0 * 512) as usize;
                match kind {
                    0 => {
                        let data = disk.perform(Request::Read { range }).unwrap();
                        held.push((data, model[bytes].to_vec()));
                    }
                    1 | 2 => {
                        disk.perform(write(range, byte, BlockSize::B512)).unwrap();
                        model[bytes].fill(byte);
                    }
                    _ => {
                        disk.perform(Request::Unmap { range }).unwrap();
                        model[bytes].fill(0);
                    }
                }
            }
            for (data, expected) in held {
                prop_assert_eq!(&*data.into_buf(), &expected[..]);
            }
            let all = disk.perform(Request::Read { range: disk.geometry.all() }).unwrap();
            prop_assert_eq!(&*all.into_buf(), &model[..]);
        }
    }
}
