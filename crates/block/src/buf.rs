//! Payload buffers: page-aligned, so that a disk can take them with O_DIRECT, and shared by reference count, so that
//! one received payload serves the disk request and every member's socket without a copy.
//!
//! Freed buffers of common sizes wait on a thread-local free list. Their old contents are *not* cleared: whoever makes
//! a buffer with [`BufMut::new`] fills all of it before anybody else sees it.

use std::cell::RefCell;
use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use smallvec::SmallVec;

/// The alignment of every buffer, and the unit in which memory for them is taken.
pub const PAGE_SIZE: usize = 4096;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(4096))]
struct Page([u8; PAGE_SIZE]);

/// Buffers of up to `1 << MAX_CLASS` pages (1 MiB) are kept for reuse.
const MAX_CLASS: usize = 8;
/// How many bytes of free buffers one thread keeps in each size class.
const KEEP_BYTES: usize = 4 << 20;

thread_local! {
    static FREE: RefCell<[Vec<Vec<Page>>; MAX_CLASS + 1]> = const { RefCell::new([const { Vec::new() }; MAX_CLASS + 1]) };
    static ZEROES: Buf = BufMut::zeroed(1 << 20).freeze();
}

fn class_of(pages: usize) -> usize {
    pages.next_power_of_two().trailing_zeros() as usize
}

/// A page-aligned buffer with one owner, who may write to it.
pub struct BufMut {
    pages: Vec<Page>,
    len: usize,
}

impl BufMut {
    /// A buffer of `len` bytes whose contents are unspecified: fill all of it.
    pub fn new(len: usize) -> BufMut {
        let pages = len.div_ceil(PAGE_SIZE);
        let class = class_of(pages.max(1));
        let reused = (class <= MAX_CLASS).then(|| FREE.try_with(|f| f.borrow_mut()[class].pop()).ok().flatten());
        let pages = match reused.flatten() {
            Some(pages) => pages,
            None if class <= MAX_CLASS => bytemuck::allocation::zeroed_vec(1 << class),
            None => bytemuck::allocation::zeroed_vec(pages),
        };
        BufMut { pages, len }
    }

    /// A buffer of `len` zero bytes.
    pub fn zeroed(len: usize) -> BufMut {
        let mut buf = BufMut::new(len);
        buf.fill(0);
        buf
    }

    /// A buffer with a copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> BufMut {
        let mut buf = BufMut::new(bytes.len());
        buf.copy_from_slice(bytes);
        buf
    }

    /// Forgets the bytes after the first `len`.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Gives up the right to write, for the right to share.
    pub fn freeze(self) -> Buf {
        let len = self.len;
        Buf { whole: Arc::new(self), start: 0, len }
    }
}

impl Drop for BufMut {
    fn drop(&mut self) {
        let pages = std::mem::take(&mut self.pages);
        if pages.is_empty() || !pages.len().is_power_of_two() {
            return;
        }
        let class = class_of(pages.len());
        if class <= MAX_CLASS {
            // The list may be gone when the thread is ending; then the memory is simply freed.
            let _ = FREE.try_with(|free| {
                let list = &mut free.borrow_mut()[class];
                if list.len() * (PAGE_SIZE << class) < KEEP_BYTES {
                    list.push(pages);
                }
            });
        }
    }
}

impl Deref for BufMut {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.pages)[..self.len]
    }
}
impl DerefMut for BufMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        let len = self.len;
        &mut bytemuck::cast_slice_mut(&mut self.pages)[..len]
    }
}
impl fmt::Debug for BufMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufMut({} bytes)", self.len)
    }
}

/// A shared, read-only view of a page-aligned buffer. Cloning and slicing copy no payload.
#[derive(Clone)]
pub struct Buf {
    whole: Arc<BufMut>,
    start: usize,
    len: usize,
}

impl Buf {
    /// A buffer with a copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Buf {
        BufMut::copy_of(bytes).freeze()
    }

    /// `len` zero bytes. Up to 1 MiB costs no allocation.
    pub fn zeroes(len: usize) -> Buf {
        ZEROES.with(|z| if len <= z.len { z.slice(0..len) } else { BufMut::zeroed(len).freeze() })
    }

    /// The part of the view in `range`. Panics when the range is out of bounds.
    pub fn slice(&self, range: Range<usize>) -> Buf {
        assert!(range.start <= range.end && range.end <= self.len, "a slice of {range:?} from {} bytes", self.len);
        Buf { whole: self.whole.clone(), start: self.start + range.start, len: range.end - range.start }
    }

    /// How many bytes of memory the view keeps alive: the length of the whole buffer.
    pub fn whole_len(&self) -> usize {
        self.whole.len
    }

    /// Whether the view begins on an address that is a multiple of `align` (a power of two up to [`PAGE_SIZE`]).
    pub fn is_aligned(&self, align: usize) -> bool {
        self.start.is_multiple_of(align)
    }

    /// The buffer itself, when nobody else shares it and the view covers all of it.
    pub fn try_into_mut(self) -> Result<BufMut, Buf> {
        if self.start != 0 || self.len != self.whole.len {
            return Err(self);
        }
        let len = self.len;
        Arc::try_unwrap(self.whole).map_err(|whole| Buf { whole, start: 0, len })
    }
}

impl Deref for Buf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.whole[self.start..self.start + self.len]
    }
}
impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buf({} bytes)", self.len)
    }
}
impl PartialEq for Buf {
    fn eq(&self, other: &Buf) -> bool {
        **self == **other
    }
}
impl Eq for Buf {}

/// The payload of a completed read: one or more buffers whose bytes follow one another. Empty for other requests.
#[derive(Clone, Debug, Default)]
pub struct Data(SmallVec<[Buf; 1]>);

impl Data {
    /// No payload.
    pub fn empty() -> Data {
        Data::default()
    }
    /// `len` zero bytes.
    pub fn zeroes(len: usize) -> Data {
        Data::from(Buf::zeroes(len))
    }
    /// Adds bytes at the end.
    pub fn push(&mut self, buf: Buf) {
        if !buf.is_empty() {
            self.0.push(buf);
        }
    }
    /// Adds another payload at the end.
    pub fn append(&mut self, other: Data) {
        self.0.extend(other.0);
    }
    /// The number of bytes.
    pub fn len(&self) -> usize {
        self.0.iter().map(|b| b.len()).sum()
    }
    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// The buffers, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Buf> {
        self.0.iter()
    }
    /// The payload as one buffer; copies only when there are several.
    pub fn into_buf(self) -> Buf {
        if self.0.len() == 1 {
            return self.0.into_iter().next().expect("one buffer");
        }
        let mut whole = BufMut::new(self.len());
        let mut at = 0;
        for part in &self.0 {
            whole[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        whole.freeze()
    }
}

impl From<Buf> for Data {
    fn from(buf: Buf) -> Data {
        let mut data = Data::default();
        data.push(buf);
        data
    }
}
impl IntoIterator for Data {
    type Item = Buf;
    type IntoIter = smallvec::IntoIter<[Buf; 1]>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_page_aligned_and_reused() {
        for len in [1, 512, 4096, 5000, 1 << 20, (1 << 20) + 1] {
            let mut b = BufMut::new(len);
            assert_eq!(b.len(), len);
            assert_eq!(b.as_ptr() as usize % PAGE_SIZE, 0);
            b.fill(7);
            assert!(b.freeze().iter().all(|&x| x == 7));
        }
    }

    #[test]
    fn a_slice_shares_and_knows_its_alignment() {
        let b = Buf::copy_of(&[1, 2, 3, 4]);
        let s = b.slice(1..3);
        assert_eq!(&*s, &[2, 3]);
        assert!(b.is_aligned(4096) && !s.is_aligned(512));
        assert!(s.try_into_mut().is_err());
        assert!(b.try_into_mut().is_ok(), "the slice is gone, so the buffer has one owner again");
    }

    #[test]
    fn zeroes_are_zero_also_after_reuse() {
        let mut dirty = BufMut::new(8192);
        dirty.fill(0xff);
        drop(dirty);
        assert!(BufMut::zeroed(8192).iter().all(|&x| x == 0));
        assert!(Buf::zeroes(3 << 20).iter().all(|&x| x == 0));
    }

    #[test]
    fn data_joins_its_parts() {
        let mut d = Data::empty();
        d.push(Buf::copy_of(b"ab"));
        d.push(Buf::copy_of(b""));
        d.append(Data::from(Buf::copy_of(b"cde")));
        assert_eq!((d.len(), d.iter().count()), (5, 2));
        assert_eq!(&*d.into_buf(), b"abcde");
    }
}
