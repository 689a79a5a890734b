//! Pinned host memory through which everything goes to the card and comes from it, two halves each way: while the card
//! fetches from one, or writes to it, the host is at work on the other. Nobody waits for small things on the way there.

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
    returning: [Pinned; 2],
}

// SAFETY: plain memory and events of the driver, which any thread may use; access is through `&mut self`.
unsafe impl Send for Staging {}

impl Staging {
    pub fn new() -> Result<Self> {
        let halves = [Half::new()?, Half::new()?];
        Ok(Self { halves, current: 0, used: 0, waiting: None, returning: [Pinned::new()?, Pinned::new()?] })
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

    /// Waits for all that was enqueued, and copies from the card: `take` is given one part after the other, while the next
    /// one is on its way.
    ///
    /// # Safety
    /// `from` begins as many bytes of the card's memory, in the current context.
    pub unsafe fn download(
        &mut self,
        stream: &Stream,
        from: u64,
        len_bytes: usize,
        mut take: impl FnMut(&[u8]),
    ) -> Result<()> {
        let parts = len_bytes.div_ceil(HALF_BYTES);
        let len = |part: usize| HALF_BYTES.min(len_bytes - part * HALF_BYTES);
        let fetch = |part: usize| {
            let place = self.returning[part % 2].0;
            // SAFETY: the part fits; `from` by this function's promise.
            let outcome = unsafe {
                sys::cuMemcpyDtoHAsync_v2(
                    place.cast(),
                    from + (part * HALF_BYTES) as u64,
                    len(part),
                    stream.0,
                )
            };
            check(outcome, "copying from the card")
        };
        if parts > 0 {
            fetch(0)?;
        }
        for part in 0..parts {
            stream.wait()?;
            if part + 1 < parts {
                fetch(part + 1)?;
            }
            // SAFETY: the card has written so many bytes there, and writes no more before this part's turn is over.
            take(unsafe { std::slice::from_raw_parts(self.returning[part % 2].0, len(part)) });
        }
        Ok(())
    }
}
