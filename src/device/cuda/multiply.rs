//! Matrix products on a card: by cuBLASLt where it is and rows are many, else by our own kernels.
//!
//! A gradient of weights has a small C and a long sum: `[768,768]` out of 16,384 tokens is 36 tiles, and an H100 has 132
//! multiprocessors. cuBLASLt splits no sum there that is to be added in order, so such a sum is split here, into as many
//! slices as give every multiprocessor a tile: one batch of products, each into a slab of f32, and a kernel that adds the
//! slabs in order and rounds once. The number of multiprocessors and the shape decide, so a card gives the same bits
//! each time. What it costs is the slabs' way to memory and back, `slices * M * N * 4` bytes written and as many read,
//! in part from the L2 cache: 7 MB each way in the example, 5 microseconds where 60 are to be saved.

use std::sync::{MutexGuard, PoisonError};

use super::{
    Arg, Cuda, Grid, Info, Products,
    context::Stream,
    cublaslt::{Addresses, CublasLt, Epilogue, Shape},
    gemm_own::{self, Layout},
};
use crate::{
    base::{Error, Result},
    tensor::{DType, Tensor, TensorMut},
};

/// A side of the tile of C that a multiprocessor makes at a time.
const TILE: usize = 128;
/// Products that a slice's sum has at least: a shorter one is over before a multiprocessor is at its rate.
const SLICE_MIN: usize = 128;
/// By how many products the sum must become shorter to pay for the slabs. A multiprocessor of an H100 multiplies a tile's 2048
/// in bf16 in the time in which its slab, 64 KiB, goes to memory and back and one more kernel starts.
const SPARED_MIN: usize = 2048;
/// Bytes that an epilogue's operands begin at multiples of. The library does not ask; elsewhere some of its
/// kernels fault.
const EPILOGUE_ALIGNMENT: u64 = 16;
/// Elements that rows of what an epilogue takes or keeps are a multiple of, by the library's documentation.
const KEPT_ROW_UNIT: usize = 8;
const SUM_THREADS: u32 = 256;
const SUM_ACCESS_BYTES: usize = 16;

/// Alignments beyond this make no difference to cuBLASLt.
const ALIGNMENT_BYTES_MAX: u32 = 256;

/// Memory for the slabs of any product that is split: no more tiles than there are multiprocessors.
pub(super) fn slabs_bytes(info: &Info) -> usize {
    info.processors as usize * TILE * TILE * size_of::<f32>()
}

/// Into how many slices the sum is split; 1 where it is not.
fn slices(shape: &Shape, processors: usize) -> usize {
    let tiles = shape.m.div_ceil(TILE) * shape.n.div_ceil(TILE);
    let slices = (processors / tiles).min(shape.k / SLICE_MIN);
    let pays = shape.layout == Layout::Tn && slices > 1 && shape.k - shape.k / slices >= SPARED_MIN;
    if pays { slices } else { 1 }
}

/// The alignment of all that lie so many bytes apart from this address on.
fn alignment(address: u64, apart_bytes: usize) -> u32 {
    1 << (address | apart_bytes as u64).trailing_zeros().min(ALIGNMENT_BYTES_MAX.ilog2())
}

/// A plain product.
fn described(layout: Layout, a: Tensor, b: Tensor, c: &TensorMut) -> (Shape, Addresses) {
    let (m, n) = (c.rows(), c.row_count());
    let k = if layout == Layout::Tn { a.rows() } else { a.row_count() };
    assert!(a.dtype() == b.dtype() && (c.dtype() == a.dtype() || c.dtype() == DType::F32));
    assert_eq!([a.count(), b.count()], [m * k, n * k], "A and B");
    let dtypes = [a.dtype(), c.dtype()];
    let [a, b, c] = [a, b, c.as_ref()].map(|x| x.address() as u64);
    let alignments = [a, b, c].map(|address| alignment(address, 0));
    let shape = Shape { layout, m, n, k, batch: 1, epilogue: Epilogue::None, dtypes, alignments };
    (shape, Addresses { a, b, c, bias: 0, kept: 0 })
}

impl Cuda {
    /// C = A B, or C += A B. A and B are f32 or both bf16; C is as they are, or f32. Sums are kept in f32; no TF32.
    pub fn multiply(&self, layout: Layout, a: Tensor, b: Tensor, c: &TensorMut, add: bool) {
        let Some(products) = self.products_for(layout, a, b) else {
            return gemm_own::multiply(self, layout, a, b, c, add);
        };
        let (shape, addresses) = described(layout, a, b, c);
        if shape.m > 0 && shape.n > 0 && !self.has_failed() {
            self.keep(self.try_multiply(products, shape, addresses, add));
        }
    }

    /// C = A B with an epilogue that takes a bias `[N]` and takes or keeps GELU's argument `[M,N]`, all of one type.
    /// False, with nothing done, where both are not done in one pass: without cuBLASLt, for few rows, or where the
    /// library has no way.
    pub fn multiply_with(
        &self,
        (layout, a, b, c): (Layout, Tensor, Tensor, &TensorMut),
        epilogue: Epilogue,
        bias: Option<Tensor>,
        kept: Option<Tensor>,
    ) -> bool {
        let Some(products) = self.products_for(layout, a, b) else { return false };
        let (shape, addresses) = described(layout, a, b, c);
        let besides = [bias, kept];
        for (count, tensor) in [shape.n, shape.m * shape.n].into_iter().zip(besides) {
            assert!(
                tensor.is_none_or(|x| x.count() == count && x.dtype() == c.dtype()),
                "an epilogue's operand"
            );
        }
        if shape.m == 0 || shape.n == 0 || self.has_failed() {
            return true;
        }
        let [bias, kept] = besides.map(|tensor| tensor.map_or(0, |x| x.address() as u64));
        let aligned = [bias, kept].iter().all(|address| address.is_multiple_of(EPILOGUE_ALIGNMENT));
        if !aligned || kept != 0 && !shape.n.is_multiple_of(KEPT_ROW_UNIT) {
            return false;
        }
        let (shape, addresses) = (Shape { epilogue, ..shape }, Addresses { bias, kept, ..addresses });
        self.enqueue(products, shape, addresses, false).unwrap_or_else(|error| {
            self.keep(Err(error));
            true
        })
    }

    /// cuBLASLt, where it is what multiplies these.
    fn products_for(&self, layout: Layout, a: Tensor, b: Tensor) -> Option<&Products> {
        self.products.as_ref().filter(|_| !gemm_own::has_few_rows(layout, a, b))
    }

    fn try_multiply(&self, products: &Products, shape: Shape, addresses: Addresses, add: bool) -> Result<()> {
        let slices = slices(&shape, self.info.processors as usize);
        if slices > 1 && self.multiply_in_slices(products, shape, slices, addresses, add)? {
            return Ok(());
        }
        match self.enqueue(products, shape, addresses, add)? {
            true => Ok(()),
            false => Err(Error::failed(format!("cuBLASLt has no way to multiply {shape:?}"))),
        }
    }

    /// False where the library has no way to make such a product.
    fn enqueue(&self, products: &Products, shape: Shape, addresses: Addresses, add: bool) -> Result<bool> {
        if !products.lt().prepare(shape, addresses, &self.context)? {
            return Ok(false);
        }
        self.queue().product(self, shape, addresses, add).map(|()| true)
    }

    /// The same with the sum in slices of equal length; what is left of it goes to the last slab. False where the library
    /// has no way to multiply a batch, and nothing was done.
    fn multiply_in_slices(
        &self,
        products: &Products,
        shape: Shape,
        slices: usize,
        addresses: Addresses,
        add: bool,
    ) -> Result<bool> {
        let (Shape { m, n, k, dtypes: [operand, out], .. }, slab) = (shape, shape.slab());
        let (length, rest) = (k / slices, k % slices);
        let (Addresses { a, b, c, .. }, slabs) = (addresses, products.slabs.address);
        let bytes = |rows: usize, row_count: usize| rows * row_count * operand.size_bytes();
        let of_f32 =
            |k, batch, alignments| Shape { k, batch, dtypes: [operand, DType::F32], alignments, ..shape };
        let whole = {
            let [a, b] = [alignment(a, bytes(length, m)), alignment(b, bytes(length, n))];
            (of_f32(length, slices, [a, b, alignment(slabs, 0)]), Addresses { c: slabs, ..addresses })
        };
        let last = {
            let (a, b) = (a + bytes(k - rest, m) as u64, b + bytes(k - rest, n) as u64);
            let c = slabs + ((slices - 1) * slab * size_of::<f32>()) as u64;
            let alignments = [a, b, c].map(|address| alignment(address, 0));
            (of_f32(rest, 1, alignments), Addresses { a, b, c, ..addresses })
        };
        let has_way = |(shape, addresses)| products.lt().prepare(shape, addresses, &self.context);
        if !has_way(whole)? || rest > 0 && !has_way(last)? {
            return Ok(false);
        }
        let threads = (m * n).div_ceil(SUM_ACCESS_BYTES / out.size_bytes());
        let grid = Grid::linear(threads.div_ceil(SUM_THREADS as usize), SUM_THREADS);
        let [slabs, c] = [slabs, c].map(Arg::Address);
        let [slices, slab, count] = [slices, slab, m * n].map(Arg::from);
        let args = [slabs, c, slices, slab, count, u32::from(add).into()];
        let name = "reduce_slabs";
        let kernel = self.kernel_for(name, out, grid, &args)?;
        // Nobody else comes in between: there is one place for slabs.
        let mut queue = self.queue();
        queue.product(self, whole.0, whole.1, false)?;
        if rest > 0 {
            queue.product(self, last.0, last.1, true)?;
        }
        queue.kernel(self, (name, out), &kernel, grid, &args)?;
        Ok(true)
    }

    /// Enqueues a product that was put into the queue.
    pub(super) fn start_product(
        &self,
        shape: Shape,
        addresses: Addresses,
        add: bool,
        stream: &Stream,
    ) -> Result<()> {
        let Some(products) = &self.products else { return Ok(()) };
        // SAFETY: the tensors were of these shapes when the product was asked for, and live until it is enqueued; the
        // workspace is of its size.
        unsafe { products.lt().multiply(shape, addresses, add, products.workspace.address, stream.0.cast()) }
    }
}

impl Products {
    fn lt(&self) -> MutexGuard<'_, CublasLt> {
        self.lt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(layout: Layout, [m, n, k]: [usize; 3]) -> Shape {
        let (dtypes, alignments) = ([DType::Bf16; 2], [256; 3]);
        Shape { layout, m, n, k, batch: 1, epilogue: Epilogue::None, dtypes, alignments }
    }

    /// Worked out by hand for the 132 multiprocessors of an H100.
    #[test]
    fn sums_are_split_where_that_fills_the_card_and_pays() {
        let cases = [
            // 36 tiles: three slices of 5,461 are 108, four would be 144.
            ([768, 768, 16_384], 3),
            // One tile more than half of the multiprocessors have.
            ([128, 67 * 128, 16_384], 1),
            ([128, 66 * 128, 16_384], 2),
            // One tile, and slices that would be shorter than 128; too short a sum.
            ([1, 1, 2_304], 18),
            ([64, 64, 2_048], 1),
            // Two slices of 2,047 and 2,048 spare too little, and just enough.
            ([128, 66 * 128, 4_094], 1),
            ([128, 66 * 128, 4_096], 2),
            ([128, 128, 0], 1),
        ];
        for (sizes, due) in cases {
            assert_eq!(slices(&shape(Layout::Tn, sizes), 132), due, "{sizes:?}");
            assert_eq!(slices(&shape(Layout::Nt, sizes), 132), 1, "{sizes:?}");
        }
    }

    #[test]
    fn the_slabs_of_whatever_is_split_fit_into_their_memory() {
        let (mut widest, processors) = (0, 132);
        for (m, n) in (1..1200).step_by(7).flat_map(|m| (1..1200).step_by(61).map(move |n| (m, n))) {
            let shape = shape(Layout::Tn, [m, n, 16_384]);
            let slices = slices(&shape, processors);
            if slices > 1 {
                widest = widest.max(slices * shape.slab());
            }
        }
        let room = processors * TILE * TILE;
        assert!(widest <= room && widest > room / 2, "{widest} of {room}");
    }

    #[test]
    fn what_lies_apart_is_as_aligned_as_its_distance() {
        assert_eq!(alignment(1 << 20, 0), 256);
        assert_eq!(alignment(1 << 20, 24), 8);
        assert_eq!(alignment(0x1002, 24), 2);
    }
}
