//! A block device in memory. Memory is taken in large pages when they are first written.
//!
//! A read copies. To hand out references would need a count for each page, and at random places the miss of its cache line
//! costs more than the copy: the kernel then copies the payload from the cache instead of from memory.

use std::cell::RefCell;

use block::{BlockSize, Buf, BufMut, Bytes, Data, Features, Geometry, LargePage, Outcome, Request, Ticket};
use host::{Disk, Host};

const CHUNK_BYTES: usize = LargePage::BYTES;

/// Memory as a block device.
pub struct Malloc {
    name: String,
    geometry: Geometry,
    /// Grows up to the highest chunk that was written. What is not there reads as zeroes.
    chunks: RefCell<Vec<Option<Box<LargePage>>>>,
    new_chunk: Box<dyn Fn() -> Box<LargePage>>,
}

impl Malloc {
    /// A device of `size` zero bytes (a whole number of blocks; what is above is cut off).
    pub fn new(name: &str, size: Bytes, block_size: BlockSize) -> Malloc {
        let features = Features { unmap: true, write_zeroes: true, volatile_cache: false, ends_with_process: true };
        let geometry = Geometry { block_size, blocks: block_size.blocks_in(size), features };
        Malloc { name: name.into(), geometry, chunks: RefCell::default(), new_chunk: Box::new(LargePage::zeroed) }
    }

    /// The same device with memory from the host, which may have huge pages.
    pub fn in_memory_of(self, host: &Host) -> Malloc {
        let host = host.clone();
        Malloc { new_chunk: Box::new(move || host.large_page()), ..self }
    }

    fn read(&self, start: u64, len: usize) -> Data {
        let chunks = self.chunks.borrow();
        let mut buf = BufMut::new(len);
        for piece in pieces(start, len) {
            let target = &mut buf[piece.at..piece.at + piece.len];
            match chunks.get(piece.chunk).and_then(Option::as_ref) {
                Some(chunk) => target.copy_from_slice(&chunk.bytes()[piece.from..piece.from + piece.len]),
                None => target.fill(0),
            }
        }
        Data::from(buf.freeze())
    }

    fn write(&self, start: u64, data: &Buf) {
        let mut chunks = self.chunks.borrow_mut();
        for piece in pieces(start, data.len()) {
            if chunks.len() <= piece.chunk {
                chunks.resize_with(piece.chunk + 1, || None);
            }
            let chunk = chunks[piece.chunk].get_or_insert_with(|| (self.new_chunk)());
            chunk.bytes_mut()[piece.from..piece.from + piece.len]
                .copy_from_slice(&data[piece.at..piece.at + piece.len]);
        }
    }

    fn clear(&self, start: u64, len: u64) {
        let mut chunks = self.chunks.borrow_mut();
        let written = (chunks.len() * CHUNK_BYTES) as u64;
        let end = (start + len).min(written);
        // Above what was written there is nothing to clear, however much it is.
        for piece in pieces(start, end.saturating_sub(start) as usize) {
            let slot = &mut chunks[piece.chunk];
            if piece.len == CHUNK_BYTES {
                *slot = None;
            } else if let Some(chunk) = slot {
                chunk.bytes_mut()[piece.from..piece.from + piece.len].fill(0);
            }
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

/// The part of a byte range that lies in one chunk.
struct Piece {
    chunk: usize,
    /// Its first byte in the chunk.
    from: usize,
    /// Its first byte in the range.
    at: usize,
    len: usize,
}

fn pieces(start: u64, len: usize) -> impl Iterator<Item = Piece> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let place = start + at as u64;
        let from = (place % CHUNK_BYTES as u64) as usize;
        let piece =
            Piece { chunk: (place / CHUNK_BYTES as u64) as usize, from, at, len: (CHUNK_BYTES - from).min(len - at) };
        at += piece.len;
        (piece.len > 0).then_some(piece)
    })
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
    fn a_range_over_several_chunks_is_one_range() {
        let disk = Malloc::new("m", Bytes(16 << 20), BlockSize::B4096);
        let range = BlockRange::new(510, 1028);
        disk.perform(write(range, 5, BlockSize::B4096)).unwrap();
        let around = disk.perform(Request::Read { range: BlockRange::new(509, 1030) }).unwrap().into_buf();
        assert!(around[..4096].iter().chain(&around[1029 * 4096..]).all(|&b| b == 0));
        assert!(around[4096..1029 * 4096].iter().all(|&b| b == 5));
        disk.perform(Request::Unmap { range: BlockRange::new(511, 1026) }).unwrap();
        let left = disk.perform(Request::Read { range }).unwrap().into_buf();
        assert!(left.chunks(4096).enumerate().all(|(k, b)| b.iter().all(|&x| x == 5) == (k == 0 || k == 1027)));
        assert_eq!(disk.chunks.borrow().iter().flatten().count(), 2, "the chunk between is free again");
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
