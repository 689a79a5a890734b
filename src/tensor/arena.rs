//! The arena: one region of memory and a deterministic first-fit list of its free stretches.
//!
//! The same requests in the same order find the same offsets, with memory behind the arena or without. A dry
//! run therefore foretells the peak exactly, fragmentation included, and an arena of just that size suffices.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{DType, Shape, Tensor, TensorMut};
use crate::base::{Error, Result, units::Bytes};

/// Every block begins on a cache line, which is also the widest vector.
pub const ALIGNMENT_BYTES: usize = 64;

/// Whose address space a tensor's address belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// No memory at all: a dry run.
    Nowhere,
    Host,
    /// The memory of the device that computes, where that is not the host.
    Card,
}

/// The memory behind an arena, brought by `device`.
///
/// # Safety
/// `address()..address() + len_bytes()` must stay valid, exclusively this object's, aligned to [`ALIGNMENT_BYTES`] and,
/// where the host can read it, initialised for as long as the object lives.
#[allow(unsafe_code)] // A declaration alone: what it promises is made good where `device` implements it.
pub unsafe trait Backing: Send + Sync {
    fn address(&self) -> usize;
    fn len_bytes(&self) -> usize;
    fn place(&self) -> Place;
    /// Overwrites a stretch that was given back (NaN in every float type), so that a read of it shows.
    fn poison(&self, offset_bytes: usize, len_bytes: usize);
}

/// A region from which [`Buf`]s are taken. Clones share the region.
#[derive(Clone)]
pub struct Arena(Arc<Inner>);

struct Inner {
    backing: Option<Box<dyn Backing>>,
    poison: bool,
    list: Mutex<FreeList>,
}

impl Arena {
    pub fn new(backing: Box<dyn Backing>) -> Self {
        let list = FreeList::new(backing.len_bytes());
        Self(Arc::new(Inner { backing: Some(backing), poison: cfg!(test), list: Mutex::new(list) }))
    }

    /// An arena without memory and without end: it finds out what a run needs.
    pub fn dry() -> Self {
        let list = FreeList::new(usize::MAX / 2);
        Self(Arc::new(Inner { backing: None, poison: false, list: Mutex::new(list) }))
    }

    pub fn is_dry(&self) -> bool {
        self.0.backing.is_none()
    }

    /// Takes a block. Its content is whatever was there before.
    ///
    /// # Errors
    /// When no free stretch is long enough.
    pub fn take(&self, shape: impl Into<Shape>, dtype: DType) -> Result<Buf> {
        self.take_noting(shape, dtype).map(|(buf, _)| buf)
    }

    /// The same, and whether nobody had any of the block before: then it is as the backing began.
    pub fn take_noting(&self, shape: impl Into<Shape>, dtype: DType) -> Result<(Buf, bool)> {
        let shape = shape.into();
        let bytes = shape.checked_count().and_then(|count| count.checked_mul(dtype.size_bytes()));
        let len_bytes = bytes.and_then(|bytes| bytes.checked_next_multiple_of(ALIGNMENT_BYTES));
        let len_bytes =
            len_bytes.ok_or_else(|| Error::failed(format!("no memory holds a tensor of shape {shape}")))?;
        let (offset_bytes, is_first) = {
            let mut list = self.list();
            let used_before = list.peak;
            let offset = list.take(len_bytes).ok_or_else(|| list.exhausted(len_bytes))?;
            (offset, offset >= used_before)
        };
        Ok((Buf { arena: self.clone(), offset_bytes, len_bytes, shape, dtype }, is_first))
    }

    /// The highest byte ever in use: the size of region that these requests need.
    pub fn peak_bytes(&self) -> usize {
        self.list().peak
    }

    pub fn used_bytes(&self) -> usize {
        self.list().used
    }

    fn list(&self) -> MutexGuard<'_, FreeList> {
        // Every change to the list is complete before anything can panic.
        self.0.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An owned block of an arena: neither `Copy` nor `Clone`, given back on drop.
#[must_use]
pub struct Buf {
    arena: Arena,
    offset_bytes: usize,
    len_bytes: usize,
    shape: Shape,
    dtype: DType,
}

impl Buf {
    pub fn view(&self) -> Tensor<'_> {
        Tensor::new(self.address(), self.place(), self.shape, self.dtype)
    }

    pub fn view_mut(&mut self) -> TensorMut<'_> {
        TensorMut::new(self.address(), self.place(), self.shape, self.dtype)
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where the block lies in its arena; equal in a dry run and a real one.
    pub fn offset_bytes(&self) -> usize {
        self.offset_bytes
    }

    fn address(&self) -> usize {
        self.arena.0.backing.as_ref().map_or(0, |backing| backing.address()) + self.offset_bytes
    }

    fn place(&self) -> Place {
        self.arena.0.backing.as_ref().map_or(Place::Nowhere, |backing| backing.place())
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        let inner = &self.arena.0;
        if let Some(backing) = inner.backing.as_ref().filter(|_| inner.poison) {
            backing.poison(self.offset_bytes, self.len_bytes);
        }
        self.arena.list().give_back(self.offset_bytes, self.len_bytes);
    }
}

/// Free stretches in the order of their offsets, no two adjoining.
struct FreeList {
    free: Vec<Stretch>,
    capacity: usize,
    used: usize,
    peak: usize,
}

#[derive(Clone, Copy)]
struct Stretch {
    offset: usize,
    len: usize,
}

impl FreeList {
    fn new(capacity: usize) -> Self {
        let capacity = capacity / ALIGNMENT_BYTES * ALIGNMENT_BYTES;
        Self { free: vec![Stretch { offset: 0, len: capacity }], capacity, used: 0, peak: 0 }
    }

    /// The lowest free stretch that is long enough. An empty block takes no room.
    fn take(&mut self, len: usize) -> Option<usize> {
        if len == 0 {
            return Some(0);
        }
        let place = self.free.iter().position(|stretch| stretch.len >= len)?;
        let stretch = &mut self.free[place];
        let offset = stretch.offset;
        *stretch = Stretch { offset: offset + len, len: stretch.len - len };
        if stretch.len == 0 {
            self.free.remove(place);
        }
        self.used += len;
        self.peak = self.peak.max(offset + len);
        Some(offset)
    }

    fn give_back(&mut self, offset: usize, len: usize) {
        if len == 0 {
            return;
        }
        self.used -= len;
        let place = self.free.partition_point(|stretch| stretch.offset < offset);
        self.free.insert(place, Stretch { offset, len });
        self.join(place);
        if place > 0 {
            self.join(place - 1);
        }
    }

    /// Makes one of the stretch at `place` and its successor, where they touch.
    fn join(&mut self, place: usize) {
        let Some(&next) = self.free.get(place + 1) else { return };
        let stretch = &mut self.free[place];
        if stretch.offset + stretch.len == next.offset {
            stretch.len += next.len;
            self.free.remove(place + 1);
        }
    }

    fn exhausted(&self, len: usize) -> Error {
        Error::failed(format!(
            "no {} left in one piece in a memory arena of {} ({} in use)",
            Bytes(len as u64),
            Bytes(self.capacity as u64),
            Bytes(self.used as u64)
        ))
        .remedy("use a smaller batch, a shorter context or activation checkpointing; --plan says what fits")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Philox;

    fn bytes(arena: &Arena, count: usize) -> Buf {
        arena.take([count], DType::U32).expect("room")
    }

    #[test]
    fn takes_the_lowest_stretch_that_fits_and_joins_what_comes_back() {
        let arena = Arena::dry();
        let (a, b, c) = (bytes(&arena, 16), bytes(&arena, 32), bytes(&arena, 16));
        assert_eq!([a.offset_bytes(), b.offset_bytes(), c.offset_bytes()], [0, 64, 192]);
        drop(a);
        assert_eq!(bytes(&arena, 17).offset_bytes(), 256, "the first hole is too small");
        drop(b);
        assert_eq!(bytes(&arena, 48).offset_bytes(), 0, "two holes have become one");
        drop(c);
        assert_eq!((arena.used_bytes(), arena.peak_bytes()), (0, 256 + 128));
    }

    #[test]
    fn says_of_a_block_that_nobody_had_it_before() {
        let arena = Arena::dry();
        let noting = |count| arena.take_noting([count], DType::U32).expect("room");
        let (first, second) = (noting(16), noting(16));
        assert!(first.1 && second.1);
        drop(first);
        let (again, is_first) = noting(8);
        assert_eq!((again.offset_bytes(), is_first), (0, false));
        drop((again, second));
        let (joined, is_first) = noting(40);
        assert_eq!((joined.offset_bytes(), is_first), (0, false), "part of it was had");
        assert!(noting(16).1);
    }

    #[test]
    fn what_no_number_can_count_is_refused() {
        for shape in [[usize::MAX, 2], [1 << 33, 1 << 33], [usize::MAX - 30, 1], [1 << 61, 1]] {
            assert!(Arena::dry().take(shape, DType::F64).is_err(), "{shape:?}");
        }
    }

    /// A dry run's peak is enough for the real run, one cache line less is not, and every offset agrees.
    #[test]
    fn a_dry_run_foretells_offsets_and_peak() {
        let run = |arena: &Arena| -> Result<Vec<usize>> {
            let mut rng = Philox::new(11, 0);
            let mut held: Vec<Buf> = Vec::new();
            let mut offsets = Vec::new();
            for _ in 0..2000 {
                if held.len() > 20 || (!held.is_empty() && rng.below(2) == 0) {
                    drop(held.swap_remove(rng.below(held.len() as u64) as usize));
                } else {
                    let buf = arena.take([1 + rng.below(300) as usize], DType::F32)?;
                    offsets.push(buf.offset_bytes());
                    held.push(buf);
                }
            }
            Ok(offsets)
        };
        let dry = Arena::dry();
        let foretold = run(&dry).expect("no end");
        let sized = |capacity| {
            let list = Mutex::new(FreeList::new(capacity));
            Arena(Arc::new(Inner { backing: None, poison: false, list }))
        };
        assert_eq!(run(&sized(dry.peak_bytes())).expect("exactly enough"), foretold);
        assert!(run(&sized(dry.peak_bytes() - ALIGNMENT_BYTES)).is_err());
    }
}
