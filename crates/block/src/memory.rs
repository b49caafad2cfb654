//! Memory for much data.

use bytemuck::Zeroable;

/// 2 MiB of memory, aligned to its size: what Linux can back with one huge page, so that random accesses to much memory
/// miss fewer translations.
#[derive(Zeroable)]
#[repr(C, align(2_097_152))]
pub struct LargePage([u8; LargePage::BYTES]);

impl LargePage {
    /// Its size.
    pub const BYTES: usize = 2 << 20;

    /// A page of zeroes. It is better taken from the world (`host::World::large_page`), which can ask for a huge one.
    pub fn zeroed() -> Box<LargePage> {
        bytemuck::allocation::zeroed_box()
    }
    /// The contents.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
    /// The contents, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl std::fmt::Debug for LargePage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LargePage")
    }
}
