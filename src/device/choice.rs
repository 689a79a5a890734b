//! Which device computes, as it is asked for on the command line and told to worker processes.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Cuda, Device, Pool, cuda::Driver, threads};
use crate::base::{Error, Result};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The first card where it can be used, else the processor.
    #[default]
    Auto,
    Cpu,
    Cuda(u32),
}

impl Choice {
    /// Opens the device, with so many host threads, or one for each core this process may use.
    ///
    /// # Errors
    /// A card that was asked for by its number and cannot be used.
    pub fn open(self, threads: Option<usize>) -> Result<Device> {
        let pool = || Arc::new(Pool::new(threads.unwrap_or_else(threads::available)));
        match self {
            Self::Cpu => Ok(Device::Cpu(pool())),
            Self::Cuda(ordinal) => Cuda::open(ordinal, pool()).map(Device::Cuda),
            Self::Auto => Ok(Self::first_card(&pool).map_or_else(|| Device::Cpu(pool()), Device::Cuda)),
        }
    }

    /// None where there is none. One that is there and cannot be used is worth a word: somebody paid for it.
    fn first_card(pool: &impl Fn() -> Arc<Pool>) -> Option<Arc<Cuda>> {
        if Driver::look() == Driver::Absent {
            return None;
        }
        match Cuda::open(0, pool()) {
            Ok(card) => Some(card),
            Err(error) => {
                tracing::warn!("computing on the CPU, though there is a CUDA driver: {error}");
                None
            }
        }
    }
}

impl FromStr for Choice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|index| index.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| Error::usage(format!("`{text}` is no device; try auto, cpu or cuda:0"))),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl<'de> Deserialize<'de> for Choice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Choice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_as_it_is_written() {
        for choice in [Choice::Auto, Choice::Cpu, Choice::Cuda(3)] {
            assert_eq!(choice.to_string().parse::<Choice>().expect("its own form"), choice);
        }
        for bad in ["", "gpu", "cuda", "cuda:", "cuda:-1", "cuda:x"] {
            assert!(bad.parse::<Choice>().is_err(), "{bad}");
        }
    }
}
