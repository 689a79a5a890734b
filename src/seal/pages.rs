//! What the kernel is told of memory that much will be read into. Wishes: nothing fails without them.

#![allow(unsafe_code)] // madvise on the heap, which no crate that is used here offers

use std::ops::Range;

const PAGE: usize = 4096;
const LARGE_PAGE: usize = 2 << 20;

/// Where bytes lie.
pub fn place_of(bytes: &[u8]) -> Range<usize> {
    let Range { start, end } = bytes.as_ptr_range();
    start as usize..end as usize
}

/// Pages of 2 MiB: a large buffer costs more to page in, 4 KiB at a time, than to decrypt.
pub fn prefer_large(buffer: &[u8]) {
    let Range { start, end } = place_of(buffer);
    advise(start.next_multiple_of(LARGE_PAGE)..end / LARGE_PAGE * LARGE_PAGE, libc::MADV_HUGEPAGE);
}

/// Has the kernel take and zero now, of the large pages that begin in `place`, what would be taken when it is written to.
/// The page before belongs to who has the bytes before: two that take a page at once both zero it.
pub fn take(place: &Range<usize>) {
    let pages = place.start.next_multiple_of(LARGE_PAGE)..place.end.next_multiple_of(PAGE);
    advise(pages, libc::MADV_POPULATE_WRITE);
}

fn advise(pages: Range<usize>, advice: libc::c_int) {
    if !pages.is_empty() {
        // SAFETY: neither advice changes what is in the pages, whoever has them by now; where there are none, it is an error.
        unsafe { libc::madvise(pages.start as *mut libc::c_void, pages.len(), advice) };
    }
}
