//! Memory of the card: arenas, and copies there and back.

use std::sync::Arc;

use cudarc::driver::sys;

use super::{Cuda, driver::check};
use crate::{
    base::{Error, Result, units::Bytes},
    tensor::{ALIGNMENT_BYTES, Arena, Backing, Buf, Element, Place, Tensor, TensorMut},
};

/// What the driver aligns memory to, at least.
const DRIVER_ALIGNMENT_BYTES: usize = 256;
const _: () = assert!(DRIVER_ALIGNMENT_BYTES.is_multiple_of(ALIGNMENT_BYTES));

/// A block of a card's memory. What is in it at first is nobody's: on the card everything is written before it is read.
pub(super) struct Block {
    pub address: u64,
    len_bytes: usize,
}

impl Block {
    /// In the current context.
    pub fn new(len_bytes: usize) -> Result<Self> {
        let mut address = 0;
        if len_bytes > 0 {
            // SAFETY: a context is current; the address is written on success.
            let outcome = unsafe { sys::cuMemAlloc_v2(&mut address, len_bytes) };
            check(outcome, &format!("taking {} of the card's memory", Bytes(len_bytes as u64)))?;
        }
        Ok(Self { address, len_bytes })
    }
}

impl Drop for Block {
    /// In the current context.
    fn drop(&mut self) {
        if self.len_bytes > 0 {
            // SAFETY: taken by `new`; the driver waits for what still uses it.
            unsafe { sys::cuMemFree_v2(self.address) };
        }
    }
}

/// What is behind an arena.
struct Region {
    block: Block,
    cuda: Arc<Cuda>,
}

impl Region {
    fn new(cuda: &Arc<Cuda>, len_bytes: usize) -> Result<Self> {
        cuda.context.bind()?;
        Ok(Self { block: Block::new(len_bytes)?, cuda: cuda.clone() })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // What waits still uses the block, which goes next, and is given back to the current context.
        self.cuda.keep(self.cuda.context.bind().and_then(|()| self.cuda.queue().send(&self.cuda)));
    }
}

// SAFETY: the region is its own, aligned by the driver, and stays until it is dropped. Its bytes are never seen as Rust
// values, so that it need not be initialised.
unsafe impl Backing for Region {
    fn address(&self) -> usize {
        self.block.address as usize
    }

    fn len_bytes(&self) -> usize {
        self.block.len_bytes
    }

    fn place(&self) -> Place {
        Place::Card
    }

    fn poison(&self, offset_bytes: usize, len_bytes: usize) {
        assert!(offset_bytes + len_bytes <= self.block.len_bytes);
        let cuda = &self.cuda;
        if !cuda.has_failed() && len_bytes > 0 {
            let start = self.block.address + offset_bytes as u64;
            // SAFETY: in bounds by the assertion; behind all that was enqueued before it was given back.
            let fill = |()| unsafe { cuda.queue().fill(cuda, start, 0xFF, len_bytes) };
            cuda.keep(cuda.context.bind().and_then(fill));
        }
    }
}

impl Cuda {
    /// Bytes of the card's memory that nobody has taken, and all.
    pub fn free_bytes(&self) -> Result<(u64, u64)> {
        self.context.bind()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: a context is current; both numbers are written on success.
        check(unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) }, "asking for free memory")?;
        Ok((free as u64, total as u64))
    }

    /// # Errors
    /// `Unavailable` with the sum written out, where the card has less.
    pub fn check_fits(&self, pass_bytes: usize, persistent_bytes: usize) -> Result<()> {
        let (free, total) = self.free_bytes()?;
        let needed = (pass_bytes + persistent_bytes) as u64;
        if needed > free {
            return Err(Error::unavailable(format!(
                "{} of the card's memory are needed, {} for what stays and {} for passes; {} has {} free of {}",
                Bytes(needed),
                Bytes(persistent_bytes as u64),
                Bytes(pass_bytes as u64),
                self.info.name,
                Bytes(free),
                Bytes(total)
            ))
            .remedy(
                "end other programs on the card, choose a smaller model, batch or context, set recompute = true, or \
                 use --device cpu",
            ));
        }
        Ok(())
    }

    /// Memory for passes and for what stays.
    ///
    /// # Errors
    /// As [`Cuda::check_fits`]: nothing is then taken.
    pub fn arenas(self: &Arc<Self>, pass_bytes: usize, persistent_bytes: usize) -> Result<[Arena; 2]> {
        self.check_fits(pass_bytes, persistent_bytes)?;
        let arena = |len_bytes| Region::new(self, len_bytes).map(|region| Arena::new(Box::new(region)));
        Ok([arena(pass_bytes)?, arena(persistent_bytes)?])
    }

    /// Copies a part of a tensor to the card, or all of it. Errors are kept.
    pub fn upload<T: Element>(&self, to: TensorMut, from: &[T]) {
        self.copy_to(&to, from, false);
    }

    /// Overwrites a whole block of an arena. Errors are kept.
    pub fn write<T: Element>(&self, to: &mut Buf, from: &[T]) {
        self.copy_to(&to.view_mut(), from, true);
    }

    fn copy_to<T: Element>(&self, to: &TensorMut, from: &[T], whole: bool) {
        assert_eq!(
            (to.shape().count(), to.dtype()),
            (from.len(), T::DTYPE),
            "a copy of another size or type"
        );
        assert_eq!(to.as_ref().place(), Place::Card, "a copy to the card goes to its memory");
        if self.has_failed() {
            return;
        }
        let (to, from) = (to.as_ref().address() as u64, bytemuck::cast_slice(from));
        // SAFETY: a tensor on the card has so many bytes there by the assertions.
        let upload = |()| unsafe { self.queue().upload(self, to, from, whole) };
        self.keep(self.context.bind().and_then(upload));
    }

    /// Waits for all that was enqueued, and appends a tensor's elements to `to`.
    ///
    /// # Errors
    /// As [`Cuda::synchronize`].
    pub fn download<T: Element>(&self, from: Tensor, to: &mut Vec<T>) -> Result<()> {
        assert_eq!(from.dtype(), T::DTYPE, "a copy of another type");
        assert_eq!(from.place(), Place::Card, "a copy from the card comes from its memory");
        self.standing()?;
        to.reserve(from.count());
        let (start, len_bytes) = (from.address() as u64, from.count() * size_of::<T>());
        let take = |part: &[u8]| to.extend_from_slice(bytemuck::cast_slice(part));
        // SAFETY: a tensor on the card has so many bytes there by the assertions.
        let download = |()| unsafe { self.queue().download(self, start, len_bytes, take) };
        self.keep(self.context.bind().and_then(download));
        self.standing()?;
        self.state().launched.clear();
        Ok(())
    }
}
