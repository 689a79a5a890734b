//! What a card is.

use cudarc::driver::sys::{self, CUdevice_attribute};

use super::driver::{Driver, check};
use crate::{
    base::{Error, Result},
    tensor::DType,
};

/// Ampere: the first cards with bf16 and asynchronous copies.
const COMPUTE_CAPABILITY_MIN: (u32, u32) = (8, 0);

/// One card, before anything is done with it.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Info {
    pub ordinal: u32,
    pub name: String,
    pub memory_bytes: u64,
    /// Major and minor.
    pub compute_capability: (u32, u32),
    /// Streaming multiprocessors.
    pub processors: u32,
    /// The highest clock that it may run at.
    pub clock_hz: f64,
    /// Its memory's clock times what it moves at each beat.
    pub memory_bytes_per_s: f64,
}

impl Info {
    /// Asks the driver, and the driver about the card.
    ///
    /// # Errors
    /// No driver, too old a one, no such card, or one from before Ampere.
    pub fn of(ordinal: u32) -> Result<Self> {
        let cards = Driver::look().cards()?;
        if ordinal >= cards {
            return Err(Error::usage(format!("there is no card {ordinal}: the driver has {cards}"))
                .remedy(format!("choose --device cuda:0 to cuda:{}, or --device cpu", cards - 1)));
        }
        let device = device(ordinal)?;
        let mut name = [0; 256];
        let mut memory_bytes = 0;
        // SAFETY: the symbols were looked for; the name is written with its zero within its length.
        unsafe {
            check(
                sys::cuDeviceGetName(name.as_mut_ptr(), name.len() as i32, device),
                "asking a card's name",
            )?;
            check(sys::cuDeviceTotalMem_v2(&mut memory_bytes, device), "asking a card's memory")?;
        }
        let name: Vec<u8> = name.iter().take_while(|&&byte| byte != 0).map(|&byte| byte as u8).collect();
        let info = Self {
            ordinal,
            name: String::from_utf8_lossy(&name).into_owned(),
            memory_bytes: memory_bytes as u64,
            compute_capability: (
                attribute(device, CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(device, CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            processors: attribute(device, CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            clock_hz: KHZ
                * attribute(device, CUdevice_attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE).map(f64::from)?,
            memory_bytes_per_s: memory_bytes_per_s(device)?,
        };
        if info.compute_capability < COMPUTE_CAPABILITY_MIN {
            let ((major, minor), (most, least)) = (info.compute_capability, COMPUTE_CAPABILITY_MIN);
            return Err(Error::unavailable(format!(
                "card {ordinal}, {}, has compute capability {major}.{minor}; {most}.{least} is needed",
                info.name
            ))
            .remedy("use a card from Ampere on, or --device cpu"));
        }
        Ok(info)
    }

    /// What multiplying matrices of this type could reach at the highest clock; None for cards that are not known.
    ///
    /// Per multiprocessor and cycle, from NVIDIA's architecture white papers: dense bf16 on tensor cores with sums in f32,
    /// f32 on ordinary cores.
    pub fn matrix_flops_per_s(&self, dtype: DType) -> Option<f64> {
        let (f32, bf16) = match self.compute_capability {
            (8, 0) => (128, 2048),
            (8, 6 | 9) => (256, 1024),
            (9, 0) => (256, 4096),
            (10, 0) => (256, 8192),
            (12, 0) => (256, 1024),
            _ => return None,
        };
        let flops = if dtype == DType::Bf16 { bf16 } else { f32 };
        Some(f64::from(flops) * f64::from(self.processors) * self.clock_hz)
    }
}

const KHZ: f64 = 1e3;

/// Twice a cycle the whole bus.
fn memory_bytes_per_s(device: sys::CUdevice) -> Result<f64> {
    let clock = attribute(device, CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?;
    let bits = attribute(device, CUdevice_attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?;
    Ok(2.0 * KHZ * f64::from(clock) * f64::from(bits / 8))
}

pub(super) fn device(ordinal: u32) -> Result<sys::CUdevice> {
    let mut device = 0;
    // SAFETY: the symbol was looked for; it writes one number, or nothing and says so.
    check(unsafe { sys::cuDeviceGet(&mut device, ordinal as i32) }, "asking for a card")?;
    Ok(device)
}

fn attribute(device: sys::CUdevice, which: CUdevice_attribute) -> Result<u32> {
    let mut value = 0;
    // SAFETY: as above.
    check(unsafe { sys::cuDeviceGetAttribute(&mut value, which, device) }, "asking what a card is")?;
    Ok(value.unsigned_abs())
}
