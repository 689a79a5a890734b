//! Raw memory for arenas: aligned to a cache line, zero until written, taken from the system page by page as
//! it is touched, on huge pages where the system has them. Who owns which part is the arena's affair.

#![allow(unsafe_code)] // Maps and unmaps anonymous memory.

use crate::base::{Error, Result};

/// Gives an empty block the alignment of the others.
#[repr(align(4096))]
struct Page;

/// A block of memory of its own mapping. Zeroed; counted by the system only where it has been touched.
pub struct Block {
    start: std::ptr::NonNull<u8>,
    length_bytes: usize,
}

// SAFETY: the block owns its mapping; access goes through `&self` and `&mut self`.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Block {
    /// Every block starts at a multiple of this: a page, and so of a cache line and of any vector.
    pub const ALIGN_BYTES: usize = 4096;

    /// Maps `length_bytes` of zeros.
    pub fn zeroed(length_bytes: usize) -> Result<Self> {
        if length_bytes == 0 {
            return Ok(Self { start: std::ptr::NonNull::<Page>::dangling().cast(), length_bytes });
        }
        // SAFETY: a fresh private anonymous mapping touches nothing that exists.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        let refused = || {
            Error::unavailable(format!(
                "{} of memory could not be had",
                crate::base::units::Bytes(length_bytes as u64)
            ))
            .remedy("close other programs, or choose a smaller model, batch or context")
        };
        if start == libc::MAP_FAILED {
            return Err(refused());
        }
        let start = std::ptr::NonNull::new(start.cast::<u8>()).ok_or_else(refused)?;
        // SAFETY: the mapping was made above with this length. It is advice: refusal changes nothing.
        unsafe { libc::madvise(start.as_ptr().cast(), length_bytes, libc::MADV_HUGEPAGE) };
        Ok(Self { start, length_bytes })
    }

    pub fn len(&self) -> usize {
        self.length_bytes
    }

    pub fn is_empty(&self) -> bool {
        self.length_bytes == 0
    }

    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is readable, initialised (zeros) and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length_bytes) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length_bytes) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if self.length_bytes > 0 {
            // SAFETY: the mapping is ours, of this length, and nothing borrows it any more.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.length_bytes) };
        }
    }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Block({} bytes)", self.length_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_aligned_zero_and_writable() {
        let mut block = Block::zeroed(3 << 20).expect("three mebibytes");
        assert_eq!(block.as_ptr() as usize % Block::ALIGN_BYTES, 0);
        assert!(block.bytes().iter().all(|byte| *byte == 0));
        block.bytes_mut()[(3 << 20) - 1] = 7;
        assert_eq!(block.bytes()[(3 << 20) - 1], 7);
    }

    #[test]
    fn an_empty_block_and_an_impossible_one() {
        assert!(Block::zeroed(0).expect("nothing").bytes().is_empty());
        let error = Block::zeroed(usize::MAX / 2).expect_err("more than the address space");
        assert!(error.remedy_text().is_some());
    }
}
