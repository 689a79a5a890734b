//! Overwriting what was secret, in a way that the optimiser keeps.
#![allow(unsafe_code)] // volatile writes, and bytes of library types that have no wiping of their own

use std::{
    mem::needs_drop,
    ops::{Deref, DerefMut},
    sync::atomic::{Ordering, compiler_fence},
};

/// Overwrites `bytes` with zeros, even where nothing reads them afterwards.
pub fn wipe(bytes: &mut [u8]) {
    // SAFETY: the slice is valid for writes over its whole length.
    unsafe { wipe_raw(bytes.as_mut_ptr(), bytes.len()) }
}

/// # Safety
/// `start` must be valid for writes of `length` bytes.
unsafe fn wipe_raw(start: *mut u8, length: usize) {
    // One plain memset, then an empty assembly block that claims to read the memory: as fast as memset, and
    // it cannot be left out as a dead store.
    // SAFETY: the caller's promise.
    unsafe {
        start.write_bytes(0, length);
        std::arch::asm!("/* {} */", in(reg) start, options(readonly, nostack, preserves_flags));
    }
    compiler_fence(Ordering::SeqCst);
}

/// A library's key object (an expanded AES key, an HMAC state) whose memory is wiped when it goes. `ring`'s
/// own types are plain bytes and do not do so.
pub(super) struct Wiped<T>(T);

impl<T> Wiped<T> {
    /// Takes the object over. Copies that the compiler made while building and moving it are beyond our reach;
    /// that is why such objects live for one call only, and why core dumps are off.
    pub(super) fn new(value: T) -> Self {
        const { assert!(!needs_drop::<T>(), "wiping would run before the destructor that reads it") };
        Self(value)
    }
}

impl<T> Deref for Wiped<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Drop for Wiped<T> {
    fn drop(&mut self) {
        // SAFETY: `self.0` is a live object of this size, is never used again, and has no destructor.
        unsafe { wipe_raw((&raw mut self.0).cast(), size_of::<T>()) }
    }
}

/// A buffer of plaintext or key material that is wiped when it goes. It never grows: growing would leave a
/// copy behind.
#[derive(Default)]
pub struct WipedVec(Vec<u8>);

impl WipedVec {
    pub fn zeroed(length: usize) -> Self {
        Self(vec![0; length])
    }
}

impl From<Vec<u8>> for WipedVec {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Deref for WipedVec {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for WipedVec {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for WipedVec {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wiped_is_zero() {
        let mut bytes = *b"a secret of some length";
        wipe(&mut bytes);
        assert_eq!(bytes, [0; 23]);
    }

    #[test]
    fn a_wiped_value_leaves_zeros_behind() {
        let mut place = std::mem::MaybeUninit::new(Wiped::new([0xA5u8; 64]));
        // SAFETY: initialised above and dropped once; the bytes are read as plain memory afterwards.
        let left = unsafe {
            place.assume_init_drop();
            place.as_ptr().cast::<[u8; 64]>().read_volatile()
        };
        assert_eq!(left, [0; 64]);
    }
}
