//! The operational qualification of a device: every operation, in every type that models run in, over ragged shapes,
//! held to the same operation on the processor in f64. A regulated site files its report; the emulator's tests and a
//! machine with a new card run the same. It promises that an output which was not written, a result that depends on
//! when it was computed, and an error beyond the tolerance are each found and named.

mod cases;
mod lab;

use std::time::Instant;

use serde::Serialize;

use crate::{
    base::{Error, Monitor, Progress, Result},
    device::Device,
    tensor::DType,
};
use cases::Case;
use lab::Lab;
#[cfg(test)]
use lab::Outputs;

/// Whose outputs may be off by how much: the norm of the difference over the norm of the reference.
///
/// Sums of some thousand products in f32 end within 1e-6; in bf16 inputs are exact and outputs are rounded at 2^-9, some
/// of them after an intermediate that was rounded too.
const fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::Bf16 => 1e-2,
        _ => 2e-5,
    }
}

/// What was found of one operation in one type.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// Operation and direction: "rmsnorm backward".
    pub kernel: &'static str,
    pub dtype: &'static str,
    /// How many shapes it was tried on.
    pub shapes: usize,
    /// Of the output furthest from its reference, relative to that.
    pub worst_error: f64,
    /// Where that was.
    pub worst_shape: String,
    pub tolerance: f64,
    pub passed: bool,
    /// What is wrong, where something is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// Tries every operation on `device`.
///
/// # Errors
/// Where nothing can be tried at all: a device that fails to give memory, a stop request. An operation that is wrong
/// is a finding.
pub fn run(device: &Device, monitor: &dyn Monitor) -> Result<Vec<Finding>> {
    let cases = cases::all();
    let mut findings = Vec::new();
    let total = cases.len() * DTYPES.len();
    let began = Instant::now();
    for (case, dtype) in cases.iter().flat_map(|case| DTYPES.map(|dtype| (case, dtype))) {
        if monitor.stop_requested() {
            return Err(Error::interrupted("the self-test was stopped"));
        }
        findings.push(try_one(device, case, dtype)?);
        monitor.progress(&Progress {
            stage: "selftest".into(),
            done: findings.len() as u64,
            total: total as u64,
            unit: "operation".into(),
            elapsed_s: began.elapsed().as_secs_f64(),
            ..Progress::default()
        });
    }
    Ok(findings)
}

/// What models run in.
const DTYPES: [DType; 2] = [DType::F32, DType::Bf16];

fn try_one(device: &Device, case: &Case, dtype: DType) -> Result<Finding> {
    let mut finding = Finding {
        kernel: case.kernel,
        dtype: if dtype == DType::Bf16 { "bf16" } else { "f32" },
        shapes: case.shapes.len(),
        worst_error: 0.0,
        worst_shape: String::new(),
        tolerance: tolerance(dtype),
        passed: true,
        fault: None,
    };
    for &shape in case.shapes {
        let reference = (case.run)(&mut Lab::reference(dtype)?, shape)?;
        let outputs = (case.run)(&mut Lab::new(device, dtype)?, shape)?;
        let again = (case.run)(&mut Lab::new(device, dtype)?, shape)?;
        let named = || case.describe(shape);
        if let Some(name) = outputs.not_a_number() {
            finding.fail(format!("{name} was not written, or is no number, at {}", named()));
        }
        if outputs.differ(&again) {
            finding.fail(format!("two runs differ at {}", named()));
        }
        let error = outputs.error_against(&reference);
        if error > finding.worst_error || error.is_nan() {
            (finding.worst_error, finding.worst_shape) = (error, named());
        }
    }
    if finding.worst_error > finding.tolerance || finding.worst_error.is_nan() {
        let (error, shape) = (finding.worst_error, finding.worst_shape.clone());
        finding.fail(format!("off by {error:.1e} at {shape}"));
    }
    Ok(finding)
}

impl Finding {
    /// The first fault is the one to look at.
    fn fail(&mut self, fault: String) {
        self.passed = false;
        self.fault.get_or_insert(fault);
    }
}

#[cfg(test)]
mod tests;
