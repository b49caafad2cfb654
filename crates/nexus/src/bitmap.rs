//! A plain bitmap over the regions of a volume.

/// One bit a region.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bitmap {
    words: Vec<u64>,
    len: usize,
    ones: usize,
}

impl Bitmap {
    /// `len` bits, all 0.
    pub fn zeroes(len: usize) -> Bitmap {
        Bitmap { words: vec![0; len.div_ceil(64)], len, ones: 0 }
    }
    /// `len` bits, all 1.
    pub fn ones(len: usize) -> Bitmap {
        let mut map = Bitmap::zeroes(len);
        (0..len).for_each(|i| {
            map.set(i);
        });
        map
    }
    /// Makes it longer; the new bits are 0.
    pub fn grow(&mut self, len: usize) {
        assert!(len >= self.len, "a bitmap of {} bits can not have {len}", self.len);
        self.words.resize(len.div_ceil(64), 0);
        self.len = len;
    }
    /// The number of bits.
    pub fn bits(&self) -> usize {
        self.len
    }
    /// Whether no bit is 1.
    pub fn is_zero(&self) -> bool {
        self.ones == 0
    }
    /// How many bits are 1.
    pub fn count(&self) -> usize {
        self.ones
    }
    /// The bit.
    pub fn get(&self, i: usize) -> bool {
        assert!(i < self.len, "bit {i} of {}", self.len);
        self.words[i / 64] >> (i % 64) & 1 == 1
    }
    /// Makes the bit 1; whether it was 0.
    pub fn set(&mut self, i: usize) -> bool {
        let was = self.get(i);
        self.words[i / 64] |= 1 << (i % 64);
        self.ones += usize::from(!was);
        !was
    }
    /// Makes the bit 0; whether it was 1.
    pub fn clear(&mut self, i: usize) -> bool {
        let was = self.get(i);
        self.words[i / 64] &= !(1 << (i % 64));
        self.ones -= usize::from(was);
        was
    }
    /// Makes every bit 0.
    pub fn clear_all(&mut self) {
        self.words.fill(0);
        self.ones = 0;
    }
    /// Sets each bit that is 1 in `other`, which has as many bits.
    pub fn add(&mut self, other: &Bitmap) {
        assert_eq!(self.len, other.len, "bitmaps of one volume have one length");
        self.words.iter_mut().zip(&other.words).for_each(|(a, b)| *a |= b);
        self.ones = self.words.iter().map(|w| w.count_ones() as usize).sum();
    }
    /// The first bit from `from` on that is 1.
    pub fn next_one(&self, from: usize) -> Option<usize> {
        let mut word = from / 64;
        let mut bits = *self.words.get(word)? & (!0 << (from % 64));
        loop {
            if bits != 0 {
                return Some(word * 64 + bits.trailing_zeros() as usize);
            }
            word += 1;
            bits = *self.words.get(word)?;
        }
    }
    /// The bits that are 1, in order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        std::iter::successors(self.next_one(0), |i| self.next_one(i + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_found_across_words() {
        let mut m = Bitmap::zeroes(200);
        for i in [0, 63, 64, 199] {
            assert!(m.set(i) && !m.set(i));
        }
        assert_eq!(m.iter().collect::<Vec<_>>(), [0, 63, 64, 199]);
        assert_eq!((m.next_one(65), m.next_one(200), m.count()), (Some(199), None, 4));
        assert!(m.clear(63) && !m.clear(63));
        let mut longer = m.clone();
        longer.grow(700);
        assert_eq!((longer.count(), longer.bits(), longer.next_one(200)), (3, 700, None));
        let mut all = Bitmap::ones(200);
        assert_eq!(all.count(), 200);
        all.add(&m);
        all.clear_all();
        assert!(all.is_zero());
        all.add(&m);
        assert_eq!(all, m);
    }
}
