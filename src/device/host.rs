//! Host memory behind an arena, and the one door from a tensor to the slice of numbers it stands for.

#![allow(unsafe_code)] // Turns addresses that `tensor` keeps apart by borrowing into slices.

use super::{Device, memory::Block};
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
/// it need not know where they lie: on the host they are lent in place, from a card a copy.
///
/// # Errors
/// The first thing that went wrong on the card.
pub fn with_slice<T: Element, R>(device: &Device, tensor: Tensor, look: impl FnOnce(&[T]) -> R) -> Result<R> {
    match device {
        Device::Cpu(_) => Ok(look(slice(tensor))),
        Device::Cuda(cuda) => {
            let mut copy = Vec::new();
            cuda.download(tensor, &mut copy)?;
            Ok(look(&copy))
        }
    }
}

/// Appends a tensor's elements to `to`.
///
/// # Errors
/// As [`with_slice`].
pub fn append<T: Element>(device: &Device, tensor: Tensor, to: &mut Vec<T>) -> Result<()> {
    match device {
        Device::Cpu(_) => to.extend_from_slice(slice(tensor)),
        Device::Cuda(cuda) => cuda.download(tensor, to)?,
    }
    Ok(())
}

/// Lends a tensor's elements to `fill`, which overwrites them all. As [`with_slice`], but what goes wrong is heard of
/// when something is read.
pub fn with_slice_mut<T: Element, R>(
    device: &Device,
    tensor: TensorMut,
    fill: impl FnOnce(&mut [T]) -> R,
) -> R {
    match device {
        Device::Cpu(_) => fill(slice_mut(tensor)),
        Device::Cuda(cuda) => {
            let mut copy = vec![T::zeroed(); tensor.shape().count()];
            let filled = fill(&mut copy);
            cuda.upload(tensor, &copy);
            filled
        }
    }
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

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::tensor::DType;

    /// Whatever reads memory that it does not hold any more, or has not written yet, computes NaN in tests.
    #[test]
    fn what_was_given_back_is_not_a_number() {
        let arena = arena(1 << 16).expect("memory");
        let mut buf = arena.take([100], DType::F32).expect("room");
        slice_mut::<f32>(buf.view_mut()).fill(1.0);
        let offset = buf.offset_bytes();
        drop(buf);
        let again = arena.take([200], DType::Bf16).expect("room");
        assert_eq!(again.offset_bytes(), offset);
        assert!(slice::<bf16>(again.view()).iter().all(|x| x.is_nan()));
    }

    #[test]
    fn views_are_parts_of_their_tensor() {
        let arena = arena(1 << 16).expect("memory");
        let mut buf = arena.take([5, 3], DType::U32).expect("room");
        let numbers: Vec<u32> = (0..15).collect();
        slice_mut(buf.view_mut()).copy_from_slice(&numbers);
        assert_eq!(slice::<u32>(buf.view().slice_rows(1..3)), &numbers[3..9]);
        assert_eq!(slice::<u32>(buf.view().window(7, [2, 4])), &numbers[7..15]);
        slice_mut::<u32>(buf.view_mut().slice_rows(4..5)).fill(0);
        assert_eq!(slice::<u32>(buf.view())[11..], [11, 0, 0, 0]);
    }

    #[test]
    #[should_panic(expected = "of another type")]
    fn a_slice_of_another_type_is_refused() {
        let arena = arena(1 << 12).expect("memory");
        let buf = arena.take([4], DType::F32).expect("room");
        slice::<u32>(buf.view());
    }

    #[test]
    #[should_panic(expected = "only host memory")]
    fn a_dry_tensor_has_no_slice() {
        let buf = Arena::dry().take([4], DType::F32).expect("no end");
        slice::<f32>(buf.view());
    }

    #[test]
    #[should_panic(expected = "[2, 8] from 0")]
    fn a_view_cannot_reach_past_its_tensor() {
        let buf = Arena::dry().take([15], DType::F32).expect("no end");
        buf.view().window(0, [2, 8]);
    }
}
