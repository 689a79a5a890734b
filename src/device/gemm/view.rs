//! Strided views of matrices in slices.

use std::marker::PhantomData;

/// A matrix that is read: element (i, j) lies at `i * row_stride + j * col_stride`.
#[derive(Clone, Copy, Debug)]
pub struct MatRef<'a, T> {
    pub(super) data: &'a [T],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
}

/// A matrix that is written; its elements lie apart from each other.
pub struct MatMut<'a, T> {
    pub(super) start: *mut T,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
    lent: PhantomData<&'a mut [T]>,
}

/// Elements from the first to the last of the matrix, both included.
fn extent(rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> usize {
    if rows == 0 || cols == 0 { 0 } else { (rows - 1) * row_stride + (cols - 1) * col_stride + 1 }
}

impl<'a, T> MatRef<'a, T> {
    /// Panics where the slice is too short.
    pub fn new(data: &'a [T], (rows, cols): (usize, usize), row_stride: usize, col_stride: usize) -> Self {
        let extent = extent(rows, cols, row_stride, col_stride);
        assert!(extent <= data.len(), "a matrix of {extent} elements in a slice of {}", data.len());
        Self { data, rows, cols, row_stride, col_stride }
    }

    /// Rows one after the other.
    pub fn row_major(data: &'a [T], rows: usize, cols: usize) -> Self {
        Self::new(data, (rows, cols), cols, 1)
    }

    /// The transpose, without moving anything.
    pub fn t(self) -> Self {
        Self {
            data: self.data,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }

    /// (rows, columns).
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }
}

impl<'a, T> MatMut<'a, T> {
    /// Panics where the slice is too short, or where two elements would share a place.
    pub fn new(
        data: &'a mut [T],
        (rows, cols): (usize, usize),
        row_stride: usize,
        col_stride: usize,
    ) -> Self {
        let extent = extent(rows, cols, row_stride, col_stride);
        assert!(extent <= data.len(), "a matrix of {extent} elements in a slice of {}", data.len());
        // A step along one index must clear everything that the other index reaches.
        let apart = (rows <= 1 || row_stride > (cols.max(1) - 1) * col_stride)
            && (cols <= 1 || col_stride > 0)
            || (cols <= 1 || col_stride > (rows.max(1) - 1) * row_stride) && (rows <= 1 || row_stride > 0);
        assert!(
            apart || extent == 0,
            "elements of a written matrix overlap: strides {row_stride}, {col_stride}"
        );
        Self { start: data.as_mut_ptr(), rows, cols, row_stride, col_stride, lent: PhantomData }
    }

    /// Rows one after the other.
    pub fn row_major(data: &'a mut [T], rows: usize, cols: usize) -> Self {
        Self::new(data, (rows, cols), cols, 1)
    }

    /// The transpose, without moving anything.
    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// (rows, columns).
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }
}
