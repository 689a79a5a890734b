//! The memory that keys live in: pages locked against swapping, left out of core dumps, zeroed in a forked
//! child, with an unmapped page on either side. Slots are handed out and taken back, wiped.
#![allow(unsafe_code)] // memory from the kernel, and slots in it

use std::{
    ptr::{NonNull, null_mut},
    sync::{Mutex, PoisonError},
};

use super::{key::KEY_BYTES, wipe};
use crate::base::{Error, Result};

/// Locked memory is scarce (64 KiB on an old default), so the slab grows by little: 512 keys at a time.
const ARENA_BYTES: usize = 16 << 10;

/// Slots that are free. Arenas are never given back: a process that had many keys will have them again.
static FREE: Mutex<Vec<Slot>> = Mutex::new(Vec::new());

/// One key's place. Whoever holds it owns the bytes.
pub(super) struct Slot(NonNull<[u8; KEY_BYTES]>);

// SAFETY: the memory belongs to whoever holds the slot, from whichever thread; nothing in it is thread-bound.
unsafe impl Send for Slot {}
// SAFETY: a shared slot gives shared references to plain bytes only.
unsafe impl Sync for Slot {}

/// A zeroed slot of locked memory.
///
/// # Errors
/// `Unavailable` when the system gives no more locked memory.
pub(super) fn take() -> Result<Slot> {
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    if free.is_empty() {
        grow(&mut free)?;
    }
    Ok(free.pop().expect("grown just above"))
}

impl Slot {
    pub(super) fn bytes(&self) -> &[u8; KEY_BYTES] {
        // SAFETY: the slot points into an arena that is never unmapped, and nobody else holds it.
        unsafe { self.0.as_ref() }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8; KEY_BYTES] {
        // SAFETY: as above, and `&mut self` makes this the only reference.
        unsafe { self.0.as_mut() }
    }

    /// Wipes the slot and returns it to the slab.
    pub(super) fn give_back(&mut self) {
        wipe(self.bytes_mut());
        FREE.lock().unwrap_or_else(PoisonError::into_inner).push(Slot(self.0));
    }
}

fn grow(free: &mut Vec<Slot>) -> Result<()> {
    let arena = map_locked(ARENA_BYTES)?;
    free.reserve(ARENA_BYTES / KEY_BYTES);
    for place in (0..ARENA_BYTES).step_by(KEY_BYTES) {
        // SAFETY: inside the arena, aligned for bytes, zeroed by the kernel, and each place is used once.
        free.push(Slot(unsafe { arena.byte_add(place).cast() }));
    }
    Ok(())
}

fn map_locked(length: usize) -> Result<NonNull<u8>> {
    // SAFETY: plain questions and a fresh anonymous mapping; every pointer stays inside that mapping.
    unsafe {
        let page = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)).unwrap_or(4096);
        let whole = libc::mmap(
            null_mut(),
            length + 2 * page,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        if whole == libc::MAP_FAILED {
            return Err(refused("mapping memory for keys"));
        }
        let inner = whole.byte_add(page);
        let prepared = libc::mprotect(inner, length, libc::PROT_READ | libc::PROT_WRITE) == 0
            && libc::madvise(inner, length, libc::MADV_DONTDUMP) == 0
            && (libc::mlock(inner, length) == 0 || (raise_lock_limit() && libc::mlock(inner, length) == 0));
        if !prepared {
            let error = refused("locking memory for keys");
            libc::munmap(whole, length + 2 * page);
            return Err(error);
        }
        // Kernels before 4.14 do not know it; a child of ours executes at once in any case.
        libc::madvise(inner, length, libc::MADV_WIPEONFORK);
        Ok(NonNull::new_unchecked(inner.cast()))
    }
}

/// Raises the soft limit on locked memory to the hard one; says whether that changed anything.
fn raise_lock_limit() -> bool {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid structure for both calls.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) != 0 || limit.rlim_cur == limit.rlim_max {
            return false;
        }
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) == 0
    }
}

fn refused(doing: &str) -> Error {
    Error::unavailable(format!("{doing}: {}", std::io::Error::last_os_error()))
        .remedy("raise the limit on locked memory (`ulimit -l`, or LimitMEMLOCK= in the service unit)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_distinct_and_come_back_wiped() {
        let mut slots: Vec<Slot> = (0..1000).map(|_| take().expect("locked memory")).collect();
        for (number, slot) in slots.iter_mut().enumerate() {
            assert_eq!(slot.bytes(), &[0; KEY_BYTES]);
            *slot.bytes_mut() = [number as u8 | 1; KEY_BYTES];
        }
        assert!(slots.iter().enumerate().all(|(number, slot)| slot.bytes()[0] == number as u8 | 1));
        slots.iter_mut().for_each(Slot::give_back);
        assert_eq!(take().map(|slot| *slot.bytes()).expect("a slot"), [0; KEY_BYTES]);
    }

    /// What the kernel itself says of the pages: locked (`lo`) and left out of dumps (`dd`).
    #[test]
    fn the_kernel_confirms_locked_and_not_dumped() {
        let slot = take().expect("locked memory");
        let address = slot.bytes().as_ptr() as usize;
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("Linux");
        let flags = maps
            .lines()
            .skip_while(|line| {
                let range = line.split(' ').next().and_then(|range| range.split_once('-'));
                !range.is_some_and(|(from, to)| {
                    let bound = |text| usize::from_str_radix(text, 16).unwrap_or(0);
                    (bound(from)..bound(to)).contains(&address)
                })
            })
            .find(|line| line.starts_with("VmFlags"))
            .expect("flags of the mapping");
        for flag in [" lo", " dd"] {
            assert!(flags.contains(flag), "{flag} in {flags}");
        }
    }
}
