//! Looks for an NVIDIA driver without ever calling what may not be there: `cudarc` panics where the library or one
//! of its symbols is missing, so both are asked for first.

use std::fmt;

use cudarc::driver::sys::{self, CUresult};

use crate::base::{Error, Result};

/// CUDA 13.0, which came with driver 580.
const VERSION_MIN: i32 = 13000;

/// Every function of the driver that this program calls.
const SYMBOLS: [&str; 38] = [
    "cuCtxSetCurrent",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDeviceTotalMem_v2",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuFuncGetParamInfo",
    "cuFuncSetAttribute",
    "cuGetErrorName",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuInit",
    "cuLaunchKernel",
    "cuMemAlloc_v2",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamSynchronize",
];

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driver {
    /// No `libcuda`.
    Absent,
    /// A `libcuda` that cannot be used, and why.
    Unusable(String),
    Found {
        /// The newest CUDA version that it runs: 13000 is 13.0.
        version: i32,
        cards: i32,
    },
}

impl Driver {
    /// Loads the driver if there is one, and asks for its version and its cards.
    pub fn look() -> Self {
        // SAFETY: opens a shared library by its well-known name and closes it again.
        if !unsafe { sys::is_culib_present() } {
            return Self::Absent;
        }
        let (mut version, mut cards) = (0, 0);
        if !has("cuDriverGetVersion") {
            return Self::Unusable("it has no cuDriverGetVersion".into());
        }
        // SAFETY: the symbol is there; it writes one number, or nothing and says so.
        let outcome = unsafe { sys::cuDriverGetVersion(&mut version) };
        if outcome != CUresult::CUDA_SUCCESS {
            return Self::Unusable(format!("asked for its version it answers {outcome:?}"));
        }
        if version < VERSION_MIN {
            return Self::Found { version, cards: 0 };
        }
        if let Some(missing) = SYMBOLS.into_iter().find(|symbol| !has(symbol)) {
            return Self::Unusable(format!("it has no {missing}"));
        }
        // SAFETY: the symbols are there; the second writes one number, or nothing and says so.
        let outcomes =
            unsafe { [("to start", sys::cuInit(0)), ("for the cards", sys::cuDeviceGetCount(&mut cards))] };
        match outcomes.iter().find(|(_, outcome)| *outcome != CUresult::CUDA_SUCCESS) {
            Some((_, CUresult::CUDA_ERROR_NO_DEVICE)) => Self::Found { version, cards: 0 },
            Some((asked, outcome)) => Self::Unusable(format!("asked {asked} it answers {outcome:?}")),
            None => Self::Found { version, cards },
        }
    }

    /// How many cards there are, at least one.
    ///
    /// # Errors
    /// `Unavailable` where none can be used.
    pub fn cards(&self) -> Result<u32> {
        match self {
            Self::Found { version, cards } if *version >= VERSION_MIN && *cards > 0 => {
                Ok(cards.unsigned_abs())
            }
            _ => Err(Error::unavailable(self.to_string()).remedy(self.remedy())),
        }
    }

    /// What to do where no card can be used.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Found { version, .. } if *version < VERSION_MIN => {
                "install NVIDIA driver 580 or later, or use --device cpu"
            }
            Self::Found { .. } => "see whether nvidia-smi lists a card, or use --device cpu",
            Self::Unusable(_) => "install NVIDIA driver 580 or later again, whole, or use --device cpu",
            Self::Absent => "install NVIDIA driver 580 or later, or use --device cpu",
        }
    }
}

fn has(symbol: &str) -> bool {
    // SAFETY: called where the library is known to be there; the symbol's address is not used.
    unsafe { sys::culib().get::<*const ()>(symbol.as_bytes()).is_ok() }
}

/// Turns what the driver answers into an error that says what was being done.
pub(super) fn check(outcome: CUresult, doing: &str) -> Result<()> {
    match outcome {
        CUresult::CUDA_SUCCESS => Ok(()),
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
            Err(Error::unavailable(format!("{doing}: the card's memory does not suffice"))
                .remedy("end other programs on the card, or choose a smaller model, batch or context"))
        }
        other => Err(Error::failed(format!("{doing}: CUDA answers {}", name(other)))),
    }
}

/// The driver's name of an outcome, `CUDA_ERROR_ILLEGAL_ADDRESS` for example.
fn name(outcome: CUresult) -> String {
    let mut name = std::ptr::null();
    // SAFETY: the symbol was looked for; it writes the address of a constant string, or nothing and says so.
    let found = unsafe { sys::cuGetErrorName(outcome, &mut name) };
    if found != CUresult::CUDA_SUCCESS || name.is_null() {
        return format!("error {}", outcome as u32);
    }
    // SAFETY: the driver's strings end in zero and stay.
    unsafe { std::ffi::CStr::from_ptr(name) }.to_string_lossy().into_owned()
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = |version: &i32| format!("{}.{}", version / 1000, version % 1000 / 10);
        match self {
            Self::Absent => f.write_str("CUDA driver not found"),
            Self::Unusable(why) => write!(f, "CUDA driver found, but {why}"),
            Self::Found { version: old, .. } if *old < VERSION_MIN => {
                write!(f, "CUDA driver for {}, where {} is needed", version(old), version(&VERSION_MIN))
            }
            Self::Found { version: found, cards } => {
                write!(f, "CUDA driver for {} and {cards} card(s) found", version(found))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_never_panics_and_says_one_line() {
        let line = Driver::look().to_string();
        assert!(line.starts_with("CUDA driver") && !line.contains('\n'), "{line}");
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_a_remedy() {
        let unusable = [
            Driver::Absent,
            Driver::Unusable("it has no cuInit".into()),
            Driver::Found { version: 12080, cards: 1 },
            Driver::Found { version: 13000, cards: 0 },
        ];
        for driver in unusable {
            let error = driver.cards().expect_err("refused");
            assert_eq!(error.to_string(), driver.to_string());
            assert!(error.remedy_text().is_some());
        }
        assert_eq!(
            Driver::Found { version: 12080, cards: 0 }.to_string(),
            "CUDA driver for 12.8, where 13.0 is needed"
        );
        assert_eq!(Driver::Found { version: 13010, cards: 2 }.cards().expect("two"), 2);
    }
}
