//! Host memory behind an arena, and the one door from a tensor to the slice of numbers it stands for.

#![allow(unsafe_code)] // Turns addresses that `tensor` keeps apart by borrowing into slices.

use super::memory::Block;
use crate::{
    base::Result,
    tensor::{ALIGNMENT_BYTES, Arena, Backing, Element, Place, Tensor, TensorMut},
};

const _: () = assert!(Block::ALIGN_BYTES.is_multiple_of(ALIGNMENT_BYTES));

/// An arena in host memory. Pages cost nothing before they are touched, so it may be generous.
pub fn arena(len_bytes: usize) -> Result<Arena> {
    Ok(Arena::new(Box::new(Block::zeroed(len_bytes)?)))
}

// SAFETY: a block's mapping is aligned to a page, zeroed, its own, and stays until it is dropped.
unsafe impl Backing for Block {
    fn address(&self) -> usize {
        self.as_ptr().expose_provenance()
    }

    fn len_bytes(&self) -> usize {
        self.len()
    }

    fn place(&self) -> Place {
        Place::Host
    }

    fn poison(&self, offset_bytes: usize, len_bytes: usize) {
        assert!(offset_bytes + len_bytes <= self.len());
        // SAFETY: in bounds by the line above; the arena calls this for stretches that nobody holds any more.
        unsafe { self.as_ptr().add(offset_bytes).write_bytes(0xFF, len_bytes) };
    }
}

/// Lends a tensor's elements to `look`. What reads whole tensors from outside a pass goes through here, so that
/// it need not know where they lie: on the host they are lent in place.
pub fn with_slice<T: Element, R>(tensor: Tensor, look: impl FnOnce(&[T]) -> R) -> R {
    look(slice(tensor))
}

/// Lends a tensor's elements to `fill`, which overwrites them all. As [`with_slice`].
pub fn with_slice_mut<T: Element, R>(tensor: TensorMut, fill: impl FnOnce(&mut [T]) -> R) -> R {
    fill(slice_mut(tensor))
}

/// The elements of a tensor in host memory.
///
/// # Panics
/// If the tensor is not in host memory, or is of another type: a fault of the caller.
pub fn slice<T: Element>(tensor: Tensor<'_>) -> &[T] {
    check::<T>(tensor);
    let start = std::ptr::with_exposed_provenance(tensor.address());
    // SAFETY: on the host, a tensor's address and extent lie in an aligned initialised mapping that its `Buf`
    // keeps alive for the tensor's lifetime, and a writer would hold that `Buf` exclusively; every bit pattern is
    // an element.
    unsafe { std::slice::from_raw_parts(start, tensor.count()) }
}

/// The elements of a tensor, for writing. Panics as [`slice`].
pub fn slice_mut<T: Element>(tensor: TensorMut<'_>) -> &mut [T] {
    check::<T>(tensor.as_ref());
    let start = std::ptr::with_exposed_provenance_mut(tensor.as_ref().address());
    // SAFETY: as in `slice`, and a `TensorMut` is the only view while it lives; it is consumed here.
    unsafe { std::slice::from_raw_parts_mut(start, tensor.shape().count()) }
}

fn check<T: Element>(tensor: Tensor<'_>) {
    assert_eq!(tensor.place(), Place::Host, "only host memory can be seen as a slice");
    assert_eq!(tensor.dtype(), T::DTYPE, "the tensor's elements are of another type");
}
