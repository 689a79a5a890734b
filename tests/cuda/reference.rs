//! Whole passes of the unmodified product on the emulator, beside the same on the processor.

use serde_json::Value;

use super::emulator::Emulator;
use crate::harness::{Ran, Site, finish, spawn};

/// Four steps of a small model, ragged in all that may be.
const PRETRAIN: &[&str] = &[
    "bench",
    "pretrain",
    "--json",
    "--dim",
    "80",
    "--layers",
    "2",
    "--heads",
    "2",
    "--kv-heads",
    "1",
    "--ffn",
    "93",
    "--vocab",
    "301",
    "--ctx",
    "37",
    "--batch",
    "2",
    "--steps",
    "2",
];

/// Arguments, device, what is asked of the emulator, and what the error says.
type Case<'a> = (&'a [&'a str], &'a str, &'a [(&'a str, &'a str)], &'a str);

/// None where the build has no kernels: there is then nothing to run.
#[track_caller]
#[allow(clippy::print_stderr)] // A skipped test says why.
fn run(arguments: &[&str], device: &str, wishes: &[(&str, &str)]) -> Option<Ran> {
    let site = Site::empty();
    let mut command = site.command(&[arguments, &["--device", device]].concat());
    Emulator::built().lend_to(&mut command).envs(wishes.iter().copied());
    let ran = finish(spawn(command));
    assert!(!ran.stderr.contains("panicked"), "{}", ran.all());
    if ran.stderr.contains("no CUDA kernels") {
        eprintln!("skipped: this build has no CUDA kernels; packaging/cuda-toolchain fetches nvcc");
        return None;
    }
    Some(ran)
}

#[track_caller]
fn loss(dtype: &str, device: &str, wishes: &[(&str, &str)]) -> Option<f64> {
    let ran = run(&[PRETRAIN, &["--dtype", dtype]].concat(), device, wishes)?;
    let report: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{}", ran.all()));
    report["loss"].as_f64()
}

/// With cuBLASLt and without, in any order of threads.
#[test]
fn steps_on_the_card_lose_what_they_lose_on_the_processor() {
    for (dtype, tolerance) in [("f32", 1e-6), ("bf16", 1e-3)] {
        let expected = loss(dtype, "cpu", &[]).expect("a loss");
        for wishes in [[("CUDA_ON_CPU_ORDER", "reverse")], [("CLOISTER_CUDA_LIBRARIES", "/nonexistent")]] {
            let Some(found) = loss(dtype, "cuda:0", &wishes) else { return };
            assert!((found / expected - 1.0).abs() < tolerance, "{dtype} {wishes:?}: {found} for {expected}");
        }
    }
}

#[test]
fn what_a_card_cannot_do_is_said_in_one_line() {
    let narrow = ["bench", "decode", "--dim", "24", "--heads", "4", "--ctx", "96", "--tokens", "4"];
    let wide = ["bench", "decode", "--vocab", "60000", "--ctx", "96", "--tokens", "4", "--times", "1"];
    let cases: [Case; 5] = [
        (&narrow, "cuda:0", &[], "6 wide"),
        (PRETRAIN, "cuda:7", &[], "no card 7"),
        (PRETRAIN, "cuda:0", &[("CUDA_ON_CPU_DEVICES", "0")], "0 card(s)"),
        (&wide, "cuda:0", &[("CUDA_ON_CPU_MEMORY", "200000000")], "of the card's memory are needed"),
        (PRETRAIN, "cuda:0", &[("CUDA_ON_CPU_FAIL_KERNEL", "rmsnorm_backward_f32")], "rmsnorm_backward"),
    ];
    for (arguments, device, wishes, says) in cases {
        let Some(ran) = run(arguments, device, wishes) else { return };
        assert!(ran.code != Some(0), "{}", ran.all());
        let errors: Vec<_> = ran.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert!(errors.len() == 1 && errors[0].contains(says), "{says}: {}", ran.all());
    }
}

/// Every kernel against the processor's f64 over ragged shapes, its threads in another order than it was written for.
#[test]
fn every_kernel_passes_the_selftest_in_shuffled_order() {
    let shuffled = [("CUDA_ON_CPU_ORDER", "11")];
    let Some(ran) = run(&["selftest", "--json"], "cuda:0", &shuffled) else { return };
    let ran = ran.done();
    let report: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{}", ran.all()));
    assert_eq!(report["passed"], true, "{}", ran.stdout);
    assert!(report["device"].as_str().is_some_and(|device| device.contains("emulator")), "{}", ran.stdout);
    assert!(report["findings"].as_array().is_some_and(|findings| findings.len() > 30), "{}", ran.stdout);
}
