//! The kernels that this build carries, and those of them that a card has loaded.

use std::{
    collections::HashMap,
    ffi::{CString, c_void},
    ptr,
    sync::{Arc, Mutex, PoisonError},
};

use cudarc::driver::sys;

use super::{context::Context, driver::check, info::Info};
use crate::{
    base::{Error, Result},
    tensor::DType,
};

/// A fat binary where the driver wants it.
#[repr(C, align(16))]
pub struct Aligned<Bytes: ?Sized>(Bytes);

type Image = Aligned<[u8]>;

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// Shared memory that a block may have without asking.
const SHARED_BYTES_UNASKED: u32 = 48 << 10;

/// One kernel of a card.
#[derive(Clone)]
pub struct Kernel {
    pub function: sys::CUfunction,
    pub parameter_bytes: Arc<[usize]>,
    /// Dynamic shared memory that it may have.
    shared_bytes: u32,
}

/// The modules of one card.
pub struct Kernels {
    modules: Vec<sys::CUmodule>,
    found: Mutex<HashMap<(&'static str, DType), Kernel>>,
}

// SAFETY: the driver lets any thread use modules and functions.
unsafe impl Send for Kernels {}
// SAFETY: as above; the table of what was found is locked.
unsafe impl Sync for Kernels {}

/// Whether this build carries kernels.
pub fn are_embedded() -> bool {
    !FATBINS.is_empty()
}

impl Kernels {
    /// Loads everything into the current context.
    pub fn load(info: &Info) -> Result<Self> {
        if !are_embedded() {
            return Err(Error::unavailable("this build carries no CUDA kernels")
                .remedy("run packaging/cuda-toolchain and build again, or use --device cpu"));
        }
        let mut kernels = Self { modules: Vec::new(), found: Mutex::default() };
        for (name, image) in FATBINS {
            let mut module = ptr::null_mut();
            // SAFETY: the image is a whole fat binary of nvcc's; the module is written where it is loaded.
            let outcome = unsafe { sys::cuModuleLoadData(&mut module, image.0.as_ptr().cast::<c_void>()) };
            if outcome == sys::CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU {
                let (major, minor) = info.compute_capability;
                return Err(Error::unavailable(format!(
                    "the kernels of this build are for compute capabilities {}, and {} has {major}.{minor}",
                    ARCHITECTURES.join(", "),
                    info.name
                ))
                .remedy("build with CLOISTER_CUDA_ARCHS unset, or use --device cpu"));
            }
            check(outcome, &format!("loading the kernels of {name}"))?;
            kernels.modules.push(module);
        }
        Ok(kernels)
    }

    /// The kernel's variant for `dtype`, allowed so much dynamic shared memory.
    pub fn find(
        &self,
        context: &Context,
        name: &'static str,
        dtype: DType,
        shared_bytes: u32,
    ) -> Result<Kernel> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = found.get(&(name, dtype)).filter(|kernel| shared_bytes <= kernel.shared_bytes) {
            return Ok(kernel.clone());
        }
        context.bind()?;
        let function = self.function(&format!("{name}_{dtype}"))?;
        if shared_bytes > SHARED_BYTES_UNASKED {
            let limit = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function belongs to a loaded module.
            let outcome = unsafe { sys::cuFuncSetAttribute(function, limit, shared_bytes as i32) };
            check(outcome, &format!("asking for {shared_bytes} bytes of shared memory for {name}_{dtype}"))?;
        }
        let parameter_bytes = (0..).map_while(|index| parameter_bytes(function, index)).collect();
        let kernel =
            Kernel { function, parameter_bytes, shared_bytes: shared_bytes.max(SHARED_BYTES_UNASKED) };
        found.insert((name, dtype), kernel.clone());
        Ok(kernel)
    }

    fn function(&self, name: &str) -> Result<sys::CUfunction> {
        let missing = || Error::failed(format!("this build has no kernel {name}"));
        let c_name = CString::new(name).map_err(|_| missing())?;
        for &module in &self.modules {
            let mut function = ptr::null_mut();
            // SAFETY: the module is loaded, the name ends in zero, the function is written where it is found.
            match unsafe { sys::cuModuleGetFunction(&mut function, module, c_name.as_ptr()) } {
                sys::CUresult::CUDA_ERROR_NOT_FOUND => {}
                outcome => return check(outcome, &format!("looking for {name}")).map(|()| function),
            }
        }
        Err(missing())
    }
}

/// None past the last parameter.
fn parameter_bytes(function: sys::CUfunction, index: usize) -> Option<usize> {
    let (mut offset, mut bytes) = (0, 0);
    // SAFETY: the function belongs to a loaded module; both numbers are written on success.
    let outcome = unsafe { sys::cuFuncGetParamInfo(function, index, &mut offset, &mut bytes) };
    (outcome == sys::CUresult::CUDA_SUCCESS).then_some(bytes)
}

impl Drop for Kernels {
    fn drop(&mut self) {
        for &module in &self.modules {
            // SAFETY: loaded by us, and no kernel runs any more. After a fault the driver refuses, which changes nothing.
            unsafe { sys::cuModuleUnload(module) };
        }
    }
}
