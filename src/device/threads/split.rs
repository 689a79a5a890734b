//! A slice that tasks of one job write in parallel, each its own part.

use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice, shared between tasks that each take parts of it no other task takes.
#[derive(Clone, Copy)]
pub struct Split<'a, T> {
    start: *mut T,
    len: usize,
    lent: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a `&mut [T]` whose parts go to different threads; `slice` asks its callers that no two
// parts overlap.
unsafe impl<T: Send> Send for Split<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Split<'_, T> {}

impl<'a, T> Split<'a, T> {
    pub fn new(data: &'a mut [T]) -> Self {
        Self { start: data.as_mut_ptr(), len: data.len(), lent: PhantomData }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The part `range` of the slice; panics where it reaches past the end.
    ///
    /// # Safety
    /// While the part is in use, no other part that overlaps it may be.
    pub unsafe fn slice(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "part {range:?} of {} elements", self.len);
        // SAFETY: inside the slice by the check above, and not aliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// The first element, for code that computes addresses itself.
    pub fn as_mut_ptr(&self) -> *mut T {
        self.start
    }
}
