//! The unmodified product, computing on the emulator.

use serde_json::Value;

use super::emulator::Emulator;
use crate::harness::{Ran, Site, finish, spawn};

/// Runs a command on the emulated card, unless this build has no kernels: then it says so and there is nothing to run.
fn on_card(arguments: &[&str], wishes: &[(&str, &str)]) -> Option<Ran> {
    let site = Site::empty();
    let mut command = site.command(arguments);
    Emulator::built().lend_to(&mut command).envs(wishes.iter().copied());
    let ran = finish(spawn(command));
    assert!(!ran.stderr.contains("panicked"), "{}", ran.all());
    if ran.stderr.contains("no CUDA kernels") {
        eprintln!("skipped: this build has no CUDA kernels; packaging/cuda-toolchain fetches what compiles them");
        return None;
    }
    Some(ran)
}

/// Every kernel against the processor's f64, over ragged shapes, with threads in another order than they were written for.
#[test]
fn selftest_passes_in_shuffled_order() {
    let arguments = ["selftest", "--device", "cuda:0", "--json"];
    let Some(ran) = on_card(&arguments, &[("CUDA_ON_CPU_ORDER", "11")]) else { return };
    let ran = ran.done();
    let report: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.all()));
    assert_eq!(report["passed"], true, "{}", ran.stdout);
    assert!(report["device"].as_str().is_some_and(|device| device.contains("emulator")), "{}", ran.stdout);
    assert!(report["findings"].as_array().is_some_and(|findings| findings.len() > 30), "{}", ran.stdout);
}

/// A kernel that fails ends the command with its name, and no panic.
#[test]
fn a_kernel_that_fails_is_named() {
    let arguments = ["selftest", "--device", "cuda:0"];
    let Some(ran) = on_card(&arguments, &[("CUDA_ON_CPU_FAIL_KERNEL", "swiglu_forward_f32")]) else { return };
    ran.refused(1, &["swiglu_forward"]);
}
