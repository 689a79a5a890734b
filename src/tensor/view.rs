//! Views: where a tensor's elements lie, how many, and of what type; borrowed from the [`Buf`](super::Buf) that
//! owns them. All views are contiguous; parts are taken along the first dimension.

use std::{marker::PhantomData, ops::Range};

use super::{DType, Place, Shape};

/// A view for reading. `Copy`: any number may stand beside each other.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    address: usize,
    place: Place,
    shape: Shape,
    dtype: DType,
    borrowed: PhantomData<&'a ()>,
}

/// The one view for writing while it lives.
#[derive(Debug)]
pub struct TensorMut<'a> {
    tensor: Tensor<'a>,
    borrowed: PhantomData<&'a mut ()>,
}

impl<'a> Tensor<'a> {
    pub(super) fn new(address: usize, place: Place, shape: Shape, dtype: DType) -> Self {
        Self { address, place, shape, dtype, borrowed: PhantomData }
    }

    pub fn address(&self) -> usize {
        self.address
    }

    pub fn place(&self) -> Place {
        self.place
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn rows(&self) -> usize {
        self.shape.rows()
    }

    /// Elements in one row.
    pub fn row_count(&self) -> usize {
        self.shape.row_count()
    }

    pub fn count(&self) -> usize {
        self.shape.count()
    }

    /// Part of the rows.
    ///
    /// # Panics
    /// If the range reaches past the last row.
    pub fn slice_rows(self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows(), "rows {rows:?} of {}", self.shape);
        let start_bytes = rows.start * self.row_count() * self.dtype.size_bytes();
        Self { address: self.address + start_bytes, shape: self.shape.with_rows(rows.len()), ..self }
    }

    /// `shape.count()` elements from element `start` on, seen in that shape.
    ///
    /// # Panics
    /// If they reach past the end.
    pub fn window(self, start: usize, shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        assert!(start + shape.count() <= self.count(), "{shape} from {start} of {}", self.shape);
        Self { address: self.address + start * self.dtype.size_bytes(), shape, ..self }
    }
}

impl<'a> TensorMut<'a> {
    pub(super) fn new(address: usize, place: Place, shape: Shape, dtype: DType) -> Self {
        Self { tensor: Tensor::new(address, place, shape, dtype), borrowed: PhantomData }
    }

    pub fn shape(&self) -> Shape {
        self.tensor.shape
    }

    pub fn dtype(&self) -> DType {
        self.tensor.dtype
    }

    pub fn rows(&self) -> usize {
        self.tensor.rows()
    }

    pub fn row_count(&self) -> usize {
        self.tensor.row_count()
    }

    /// The same place for reading, while this view rests.
    pub fn as_ref(&self) -> Tensor<'_> {
        self.tensor
    }

    /// The same place for a shorter time.
    pub fn reborrow(&mut self) -> TensorMut<'_> {
        TensorMut { tensor: self.tensor, borrowed: PhantomData }
    }

    /// Gives up writing for good.
    pub fn freeze(self) -> Tensor<'a> {
        self.tensor
    }

    /// As [`Tensor::slice_rows`].
    pub fn slice_rows(self, rows: Range<usize>) -> Self {
        Self { tensor: self.tensor.slice_rows(rows), borrowed: PhantomData }
    }

    /// As [`Tensor::window`].
    pub fn window(self, start: usize, shape: impl Into<Shape>) -> Self {
        Self { tensor: self.tensor.window(start, shape), borrowed: PhantomData }
    }
}
