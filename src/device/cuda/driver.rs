//! Looks for an NVIDIA driver without ever calling what may not be there: `cudarc` panics where the library or one
//! of its symbols is missing, so both are asked for first.

#![allow(unsafe_code)] // Calls the driver's C functions.

use std::fmt;

use cudarc::driver::sys;

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
        for symbol in ["cuDriverGetVersion", "cuInit", "cuDeviceGetCount"] {
            // SAFETY: the library is there by the line above; the symbol's address is not used.
            let found = unsafe { sys::culib().get::<*const ()>(symbol.as_bytes()).is_ok() };
            if !found {
                return Self::Unusable(format!("it has no {symbol}"));
            }
        }
        let (mut version, mut cards) = (0, 0);
        // SAFETY: the three symbols are there; each writes one number, or nothing and says so.
        let outcomes = unsafe {
            [("its version", sys::cuDriverGetVersion(&mut version)), ("a start", sys::cuInit(0)), {
                ("the cards", sys::cuDeviceGetCount(&mut cards))
            }]
        };
        match outcomes.iter().find(|(_, outcome)| *outcome != sys::CUresult::CUDA_SUCCESS) {
            Some((_, sys::CUresult::CUDA_ERROR_NO_DEVICE)) => Self::Found { version, cards: 0 },
            Some((asked, outcome)) => Self::Unusable(format!("asked for {asked} it answers {outcome:?}")),
            None => Self::Found { version, cards },
        }
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("CUDA driver not found"),
            Self::Unusable(why) => write!(f, "CUDA driver found, but {why}"),
            Self::Found { version, cards } => write!(
                f,
                "CUDA driver for {}.{} and {cards} card(s) found; this build has no CUDA kernels yet",
                version / 1000,
                version % 1000 / 10
            ),
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
        let found = Driver::Found { version: 13010, cards: 2 };
        assert_eq!(
            found.to_string(),
            "CUDA driver for 13.1 and 2 card(s) found; this build has no CUDA kernels yet"
        );
    }
}
