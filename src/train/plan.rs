//! What a run will take, before it takes it: parameters, FLOPs, memory by a dry run of the very code that will
//! run, and time from a measurement of this machine. A run that does not fit is refused here, with the arithmetic.

use serde::{Deserialize, Serialize};

use super::{
    config::{Precision, RunConfig},
    data::Data,
    learner::Needs,
    loader::KEPT_TOKENS_MAX,
    machine,
    recipe::{DataFacts, Recipe},
    shape::Flops,
};
use crate::{
    base::{Error, Id, Monitor, Result, units::Bytes},
    device::{Choice, Device},
    tensor::DType,
    vault::Depot,
};

/// What is to be planned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanSpec {
    pub config: RunConfig,
    pub tokenizer: Id,
    pub shards: Vec<Id>,
    pub device: Choice,
    pub threads: Option<usize>,
}

/// The numbers of a run that has not begun.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub recipe: Recipe,
    pub data: DataFacts,
    pub parameters: u64,
    pub flops_per_token: Flops,
    /// Of the whole run, evaluation left out.
    pub flops: f64,
    pub tokens: u64,
    pub epochs: f64,
    pub memory: Memory,
    /// None where the machine does not say.
    pub available_bytes: Option<u64>,
    /// Measured just now with as many threads as the run will have.
    pub matrix_flops_per_s: f64,
    /// Steps alone, at [`UTILISATION_ASSUMED`] of that rate.
    pub estimated_s: f64,
}

/// What the run holds in memory at its highest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    pub ranks: u64,
    /// Each rank's, from the dry run: exactly what it will use.
    pub rank: Needs,
    /// A checkpoint's copy while it is sealed: weights and both moments; and better weights that wait meanwhile.
    pub checkpoint_copy_bytes: u64,
    /// Documents the loader keeps.
    pub tokens_bytes: u64,
}

/// The share of the machine's matrix rate that training usually reaches on a CPU; the run's own progress line
/// measures it.
pub const UTILISATION_ASSUMED: f64 = 0.5;

/// What each kind of number is stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Formats {
    /// Activations too.
    pub weights: DType,
    pub gradients: DType,
    /// What the optimizer updates, where the weights themselves are too short for that.
    pub master: Option<DType>,
    pub moments: DType,
}

impl Precision {
    /// The precision table. Reductions are in f32 within a row and in f64 over rows, whatever the row.
    pub fn formats(self) -> Formats {
        let (short, full) = (DType::Bf16, DType::F32);
        match self {
            Self::F32 => Formats { weights: full, gradients: full, master: None, moments: full },
            Self::Bf16 => Formats { weights: short, gradients: short, master: Some(full), moments: full },
        }
    }
}

impl Memory {
    /// Of a run of `recipe` over `data`, by a dry run.
    pub fn rehearse(recipe: &Recipe, data: &DataFacts, device: &Device) -> Result<Self> {
        Ok(Self {
            ranks: recipe.ranks,
            rank: Needs::rehearse(recipe, device)?,
            checkpoint_copy_bytes: 16 * recipe.shape.parameters(),
            tokens_bytes: recipe.ranks * 4 * data.train_tokens.min(KEPT_TOKENS_MAX as u64),
        })
    }

    pub fn total_bytes(&self) -> u64 {
        self.ranks * self.rank.total_bytes() + self.checkpoint_copy_bytes + self.tokens_bytes
    }

    /// # Errors
    /// `Unavailable` with the sum written out, where the device has less than the run needs.
    pub fn check_fits(&self, device: &Device) -> Result<()> {
        match device {
            Device::Cpu(_) => self.check_fits_host(machine::available_memory_bytes()),
            Device::Cuda(cuda) => {
                cuda.check_fits(self.rank.pass_bytes as usize, self.rank.persistent_bytes as usize)
            }
        }
    }

    /// What the machine has left beside the run, by half: for what a run is faster with and can do without.
    pub fn spare_bytes(&self) -> u64 {
        machine::available_memory_bytes()
            .map_or(0, |available| available.saturating_sub(self.total_bytes()) / 2)
    }

    fn check_fits_host(&self, available_bytes: Option<u64>) -> Result<()> {
        let Some(available) = available_bytes.filter(|available| *available < self.total_bytes()) else {
            return Ok(());
        };
        Err(Error::unavailable(format!(
            "the run needs {}, and {} is available: {} rank(s) of {} for weights, gradients and optimizer state \
             and {} for activations, {} for a checkpoint's copy, {} for tokens",
            Bytes(self.total_bytes()),
            Bytes(available),
            self.ranks,
            Bytes(self.rank.persistent_bytes),
            Bytes(self.rank.pass_bytes),
            Bytes(self.checkpoint_copy_bytes),
            Bytes(self.tokens_bytes),
        ))
        .remedy("set recompute = true, or lower micro_batch, context, ranks or params"))
    }
}

impl Plan {
    pub fn new(recipe: Recipe, data: DataFacts, device: &Device, matrix_flops_per_s: f64) -> Result<Self> {
        Ok(Self {
            data,
            parameters: recipe.shape.parameters(),
            flops_per_token: recipe.shape.flops_per_token(),
            flops: recipe.flops(),
            tokens: recipe.tokens(),
            epochs: recipe.tokens() as f64 / data.train_tokens as f64,
            memory: Memory::rehearse(&recipe, &data, device)?,
            available_bytes: machine::available_memory_bytes(),
            matrix_flops_per_s,
            estimated_s: recipe.flops() / (matrix_flops_per_s * UTILISATION_ASSUMED),
            recipe,
        })
    }
}

/// Plans a run without training.
///
/// # Errors
/// What [`Recipe::settle`] refuses, and a run that does not fit in memory.
pub fn run(spec: &PlanSpec, depot: &dyn Depot, _monitor: &dyn Monitor) -> Result<Plan> {
    let data = Data::open(spec.tokenizer, &spec.shards, depot)?;
    let device = spec.device.open(spec.threads)?;
    let config = spec.config.clone().on(&device);
    let precision = config.precision.unwrap_or_default();
    let rate = machine::matrix_flops_per_s(&device, precision.formats().weights)?;
    let recipe = Recipe::settle(&config, &data.facts, Some(rate * UTILISATION_ASSUMED))?;
    let plan = Plan::new(recipe, data.facts, &device, rate)?;
    plan.memory.check_fits(&device)?;
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_the_sum() {
        let memory = Memory {
            ranks: 2,
            rank: Needs { persistent_bytes: 3 << 30, pass_bytes: 1 << 30 },
            checkpoint_copy_bytes: 1 << 30,
            tokens_bytes: 1 << 30,
        };
        assert_eq!(memory.total_bytes(), 10 << 30);
        assert!(memory.check_fits_host(Some(10 << 30)).is_ok() && memory.check_fits_host(None).is_ok());
        let error = memory.check_fits_host(Some((10 << 30) - 1)).unwrap_err();
        for part in ["10.0 GiB", "2 rank(s) of 3.00 GiB", "1.00 GiB for activations"] {
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
