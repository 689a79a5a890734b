//! Shapes: up to four dimensions, slowest first, always contiguous.

use std::fmt;

const RANK_MAX: usize = 4;

/// The dimensions of a tensor. `Copy`, so that it travels with every view.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; RANK_MAX],
    rank: usize,
}

impl Shape {
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank]
    }

    /// The number of elements.
    pub fn count(&self) -> usize {
        self.dims().iter().product()
    }

    /// As [`Shape::count`], None where a number cannot hold it.
    pub fn checked_count(&self) -> Option<usize> {
        self.dims().iter().try_fold(1usize, |count, &dim| count.checked_mul(dim))
    }

    /// The first dimension: what a batch of rows is cut along.
    pub fn rows(&self) -> usize {
        self.dims().first().copied().unwrap_or(1)
    }

    /// The elements of one row: the product of all dimensions but the first.
    pub fn row_count(&self) -> usize {
        self.dims().iter().skip(1).product()
    }

    /// The same rows' shape with another number of them.
    pub fn with_rows(mut self, rows: usize) -> Self {
        self.dims[0] = rows;
        self
    }
}

impl<const R: usize> From<[usize; R]> for Shape {
    fn from(from: [usize; R]) -> Self {
        const { assert!(R >= 1 && R <= RANK_MAX) };
        let mut dims = [1; RANK_MAX];
        dims[..R].copy_from_slice(&from);
        Self { dims, rank: R }
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.dims().fmt(f)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
