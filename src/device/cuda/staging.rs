//! Pinned host memory through which everything goes to the card and comes from it. On the way there it is a ring of two
//! halves: while the card fetches from one, the host fills the other, and nobody waits for small things.

use std::ptr;

use cudarc::driver::sys;

use super::{context::Stream, driver::check};
use crate::{base::Result, tensor::ALIGNMENT_BYTES};

/// Of each half, and of what comes back at once.
const HALF_BYTES: usize = 8 << 20;
/// Copies begin where blocks of an arena do.
const STEP_BYTES: usize = ALIGNMENT_BYTES;

/// Host memory that the card reads and writes by itself.
struct Pinned(*mut u8);

impl Pinned {
    fn new() -> Result<Self> {
        let mut start = ptr::null_mut();
        // SAFETY: a context is current; the address is written on success.
        check(unsafe { sys::cuMemHostAlloc(&mut start, HALF_BYTES, 0) }, "pinning host memory")?;
        Ok(Self(start.cast()))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: taken by `new`; the card is done with it.
        unsafe { sys::cuMemFreeHost(self.0.cast()) };
    }
}

struct Half {
    memory: Pinned,
    /// When the card had fetched all that it was filled with last.
    fetched: sys::CUevent,
}

impl Half {
    fn new() -> Result<Self> {
        let memory = Pinned::new()?;
        let mut fetched = ptr::null_mut();
        let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        // SAFETY: a context is current; the event is written on success.
        check(unsafe { sys::cuEventCreate(&mut fetched, flags) }, "making an event")?;
        Ok(Self { memory, fetched })
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and nobody waits for it any more.
        unsafe { sys::cuEventDestroy_v2(self.fetched) };
    }
}

/// A copy to the card that is not enqueued yet.
struct Copy {
    to: u64,
    /// In the current half.
    at: usize,
    len_bytes: usize,
}

pub struct Staging {
    halves: [Half; 2],
    current: usize,
    /// Of the current half.
    used: usize,
    waiting: Option<Copy>,
    returning: Pinned,
}

// SAFETY: plain memory and events of the driver, which any thread may use; access is through `&mut self`.
unsafe impl Send for Staging {}

impl Staging {
    pub fn new() -> Result<Self> {
        let halves = [Half::new()?, Half::new()?];
        Ok(Self { halves, current: 0, used: 0, waiting: None, returning: Pinned::new()? })
    }

    /// Takes a copy to the card. `from` may change as soon as this returns. A copy of `whole` blocks that lie side by side
    /// with those before it on the card, as the parts of a batch do, goes as one with theirs and with what pads them.
    ///
    /// # Safety
    /// `to` begins as many bytes of the card's memory, in the current context.
    pub unsafe fn upload(
        &mut self,
        stream: &Stream,
        mut to: u64,
        mut from: &[u8],
        whole: bool,
    ) -> Result<()> {
        while !from.is_empty() {
            if self.used >= HALF_BYTES {
                self.turn(stream)?;
            }
            let (part, rest) = from.split_at(from.len().min(HALF_BYTES - self.used));
            // SAFETY: the part fits behind `used`, where the card fetches nothing any more.
            unsafe {
                let place = self.halves[self.current].memory.0.add(self.used);
                place.copy_from_nonoverlapping(part.as_ptr(), part.len());
            }
            match &mut self.waiting {
                Some(copy) if whole && to.checked_sub(copy.to) == Some((self.used - copy.at) as u64) => {
                    copy.len_bytes = self.used - copy.at + part.len();
                }
                _ => {
                    self.send(stream)?;
                    self.waiting = Some(Copy { to, at: self.used, len_bytes: part.len() });
                }
            }
            self.used = (self.used + part.len()).next_multiple_of(STEP_BYTES);
            (to, from) = (to + part.len() as u64, rest);
            if !whole {
                self.send(stream)?;
            }
        }
        Ok(())
    }

    /// Enqueues the copies that wait.
    pub fn send(&mut self, stream: &Stream) -> Result<()> {
        let Some(Copy { to, at, len_bytes }) = self.waiting.take() else { return Ok(()) };
        // SAFETY: so many bytes were filled from there on, and by the promise of `upload` begin at `to`; blocks of an arena
        // begin on a multiple of a step, so that what pads the copies pads the blocks.
        let outcome = unsafe {
            let place = self.halves[self.current].memory.0.add(at);
            sys::cuMemcpyHtoDAsync_v2(to, place.cast(), len_bytes, stream.0)
        };
        check(outcome, "copying to the card")
    }

    /// Goes on with the other half, as soon as the card has fetched all of it.
    fn turn(&mut self, stream: &Stream) -> Result<()> {
        self.send(stream)?;
        // SAFETY: stream and event live. An event that was never recorded has happened.
        let outcomes = unsafe {
            let recorded = sys::cuEventRecord(self.halves[self.current].fetched, stream.0);
            self.current = 1 - self.current;
            [recorded, sys::cuEventSynchronize(self.halves[self.current].fetched)]
        };
        self.used = 0;
        outcomes.into_iter().try_for_each(|outcome| check(outcome, "waiting for a copy to the card"))
    }

    /// Waits for all that was enqueued, and copies from the card.
    ///
    /// # Safety
    /// As [`Staging::upload`].
    pub unsafe fn download(&mut self, stream: &Stream, from: u64, to: &mut [u8]) -> Result<()> {
        for (part, to) in to.chunks_mut(HALF_BYTES).enumerate() {
            let from = from + (part * HALF_BYTES) as u64;
            // SAFETY: the part fits; `from` by this function's promise.
            let outcome =
                unsafe { sys::cuMemcpyDtoHAsync_v2(self.returning.0.cast(), from, to.len(), stream.0) };
            check(outcome, "copying from the card")?;
            stream.wait()?;
            // SAFETY: the card has written so many bytes there, and writes no more.
            unsafe { to.as_mut_ptr().copy_from_nonoverlapping(self.returning.0, to.len()) };
        }
        Ok(())
    }
}
