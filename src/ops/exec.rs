//! Where operations run and take their memory from.

use super::elementwise;
use crate::{
    base::Result,
    device::{Device, Pool, host},
    tensor::{Arena, Buf, DType, Element, Shape},
};

/// A device, an arena for what a pass makes and drops, and one for what stays: parameters, gradients, optimizer
/// state, KV pages. A dry one runs no kernel and has no memory, but takes and gives back as the real one does.
#[derive(Clone)]
pub struct Exec {
    pub device: Device,
    pub arena: Arena,
    pub persistent: Arena,
    /// Whether kernels that only some cards run are left aside: so that the others are tried on those cards too.
    pub portable: bool,
}

impl Exec {
    /// Memory where the device computes: `pass_bytes` for passes, `persistent_bytes` for what stays.
    ///
    /// # Errors
    /// `Unavailable` where there is not as much.
    pub fn new(device: Device, pass_bytes: usize, persistent_bytes: usize) -> Result<Self> {
        let [arena, persistent] = match &device {
            Device::Cpu(_) => [host::arena(pass_bytes)?, host::arena(persistent_bytes)?],
            Device::Cuda(cuda) => cuda.arenas(pass_bytes, persistent_bytes)?,
        };
        Ok(Self { device, arena, persistent, portable: false })
    }

    /// The same without memory, to find out how much both arenas need.
    pub fn dry(device: Device) -> Self {
        Self { device, arena: Arena::dry(), persistent: Arena::dry(), portable: false }
    }

    pub fn is_dry(&self) -> bool {
        self.arena.is_dry()
    }

    pub fn pool(&self) -> &Pool {
        self.device.pool()
    }

    /// Takes a buffer for this pass. Its content is undefined until it is written.
    pub fn take(&self, shape: impl Into<Shape>, dtype: DType) -> Result<Buf> {
        self.arena.take(shape, dtype)
    }

    /// Takes a buffer of zeros for what stays. The system's own zeros take time and memory only when they are touched.
    pub fn take_zeros(&self, shape: impl Into<Shape>, dtype: DType) -> Result<Buf> {
        let (mut buf, is_first) = self.persistent.take_noting(shape, dtype)?;
        if !(is_first && matches!(self.device, Device::Cpu(_))) {
            elementwise::zero(self, buf.view_mut());
        }
        Ok(buf)
    }

    /// Takes a buffer for this pass and fills it from host memory.
    pub fn upload<T: Element>(&self, shape: impl Into<Shape>, from: &[T]) -> Result<Buf> {
        let mut buf = self.arena.take(shape, T::DTYPE)?;
        self.write(&mut buf, from);
        Ok(buf)
    }

    /// Overwrites a buffer from host memory.
    pub fn write<T: Element>(&self, buf: &mut Buf, from: &[T]) {
        assert_eq!(buf.shape().count(), from.len(), "host data of another size");
        if self.is_dry() {
            return;
        }
        match &self.device {
            Device::Cpu(_) => host::slice_mut(buf.view_mut()).copy_from_slice(from),
            Device::Cuda(cuda) => cuda.write(buf, from),
        }
    }

    /// Copies a buffer to host memory; zeros in a dry run.
    ///
    /// # Errors
    /// The first thing that went wrong on a card.
    pub fn read<T: Element>(&self, buf: &Buf) -> Result<Vec<T>> {
        if self.is_dry() {
            return Ok(vec![T::zeroed(); buf.shape().count()]);
        }
        let mut copy = Vec::new();
        host::append(&self.device, buf.view(), &mut copy).map(|()| copy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_zeros_where_memory_is_new_and_where_it_was_used() {
        let exec = Exec::new(Device::cpu(Some(1)), 0, 4096).expect("memory");
        let zeros = || exec.take_zeros([1000], DType::F32).expect("room");
        for _ in 0..2 {
            let mut buf = zeros();
            assert!(host::slice::<f32>(buf.view()).iter().all(|number| number.to_bits() == 0));
            exec.write(&mut buf, &[1f32; 1000]);
        }
    }
}
