//! Memory that numbers live in: element types, shapes, an arena with a deterministic allocator, and views.
//! A [`Buf`] owns a block and gives it back when it is dropped; a [`Tensor`] is borrowed from it, so the
//! borrow checker refuses use after free and aliasing writes. What the numbers mean is left to `ops`.

mod arena;
mod dtype;
mod shape;
mod view;

pub use arena::{ALIGNMENT_BYTES, Arena, Backing, Buf, Place};
pub use dtype::{DType, Element};
pub use shape::Shape;
pub use view::{Tensor, TensorMut};
