//! Huge pages.

use std::alloc::{Layout, alloc, handle_alloc_error};

use block::LargePage;

/// A page of zeroes, in one huge page if Linux has one to spare.
pub(crate) fn large_page() -> Box<LargePage> {
    let layout = Layout::new::<LargePage>();
    // SAFETY: the layout is not empty. A LargePage is bytes, for which zeroes are a value, so that the memory holds one
    // when it is filled. The box will free it with this very layout. The advice changes no contents.
    unsafe {
        let memory = alloc(layout);
        if memory.is_null() {
            handle_alloc_error(layout);
        }
        // Linux without huge pages refuses; then it is ordinary memory.
        libc::madvise(memory.cast(), layout.size(), libc::MADV_HUGEPAGE);
        memory.write_bytes(0, layout.size());
        Box::from_raw(memory.cast())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_large_page_is_zero_and_writable_also_when_its_memory_is_used_again() {
        for _ in 0..3 {
            let mut page = super::large_page();
            assert!(page.bytes().iter().all(|&b| b == 0));
            assert!((page.bytes().as_ptr() as usize).is_multiple_of(page.bytes().len()));
            page.bytes_mut().fill(1);
        }
    }
}
