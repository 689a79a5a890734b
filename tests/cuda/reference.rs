//! Whole passes of the unmodified product on the emulator, beside the same on the processor.

use std::process::Command;

use cloister::device::cuda::are_embedded;
use serde_json::Value;

use super::emulator::Emulator;
use crate::harness::{Ran, Site, finish, spawn};

/// Four steps of a small model, ragged in all that may be.
const PRETRAIN: &str = "bench pretrain --json --dim 80 --layers 2 --heads 2 --kv-heads 1 --ffn 93 --vocab 301 --ctx 37 --batch 2 --steps 2";

/// Without cuBLASLt our own kernels multiply.
const OWN_PRODUCTS: (&str, &str) = ("CLOISTER_CUDA_LIBRARIES", "/nonexistent");

/// Arguments, device, what is asked of the emulator, and what the error says.
type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a str);

/// Whether there is anything to run.
#[allow(clippy::print_stderr)] // A skipped test says why.
pub(super) fn has_kernels() -> bool {
    let has_kernels = are_embedded();
    if !has_kernels {
        eprintln!("skipped: this build has no CUDA kernels; packaging/cuda-toolchain fetches nvcc");
    }
    has_kernels
}

#[track_caller]
pub(super) fn run(arguments: &str, device: &str, wishes: &[(&str, &str)]) -> Ran {
    let site = Site::empty();
    let arguments: Vec<&str> = arguments.split(' ').chain(["--device", device]).collect();
    let mut command = site.command(&arguments);
    Emulator::built().lend_to(&mut command).envs(wishes.iter().copied());
    let ran = finish(spawn(command));
    assert!(!ran.stderr.contains("panicked"), "{}", ran.all());
    ran
}

#[track_caller]
fn loss(dtype: &str, device: &str, wishes: &[(&str, &str)]) -> f64 {
    loss_of(&format!("{PRETRAIN} --dtype {dtype}"), device, wishes)
}

#[track_caller]
fn loss_of(steps: &str, device: &str, wishes: &[(&str, &str)]) -> f64 {
    let ran = run(steps, device, wishes).done();
    let report: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{}", ran.all()));
    report["loss"].as_f64().expect("a loss")
}

/// With cuBLASLt and without, in any order of threads.
#[test]
fn steps_on_the_card_lose_what_they_lose_on_the_processor() {
    if !has_kernels() {
        return;
    }
    for (dtype, tolerance) in [("f32", 1e-6), ("bf16", 1e-3)] {
        let expected = loss(dtype, "cpu", &[]);
        for wishes in [("CUDA_ON_CPU_ORDER", "reverse"), OWN_PRODUCTS] {
            let found = loss(dtype, "cuda:0", &[wishes]);
            assert!((found / expected - 1.0).abs() < tolerance, "{dtype} {wishes:?}: {found} for {expected}");
        }
    }
}

/// Rows of many short sequences make gradients of weights whose sums are split, the third step as a graph; and a library
/// that does no batch changes nothing.
#[test]
fn split_sums_lose_what_whole_ones_do() {
    if !has_kernels() {
        return;
    }
    let steps = "bench pretrain --json --dim 16 --layers 1 --heads 1 --kv-heads 1 --ffn 17 --vocab 31 --ctx 8 --batch 277 \
                 --steps 3 --dtype f32";
    let site = Site::empty();
    let log = site.at("log");
    let log_to = ("CUDA_ON_CPU_LOG", log.to_str().expect("UTF-8"));
    let expected = loss_of(steps, "cpu", &[]);
    let plain = ("CUDA_ON_CPU_CUBLASLT", "plain");
    for (wishes, is_split) in [(vec![log_to], true), (vec![log_to, plain], false)] {
        let found = loss_of(steps, "cuda:0", &wishes);
        assert!((found / expected - 1.0).abs() < 1e-6, "{wishes:?}: {found} for {expected}");
        let ran = std::fs::read_to_string(&log).expect("a log of kernels");
        assert_eq!(ran.contains("reduce_slabs_f32"), is_split, "{wishes:?}");
        std::fs::remove_file(&log).expect("the log");
    }
}

/// The golden tests, run in this program once more: the same bodies as on the processor, against PyTorch's numbers.
#[test]
fn numbers_are_those_of_pytorch() {
    if !has_kernels() {
        return;
    }
    for wish in [("CUDA_ON_CPU_ORDER", "forward"), OWN_PRODUCTS] {
        let mut tests = Command::new(std::env::current_exe().expect("this program"));
        tests.args(["golden::", "--test-threads=1"]);
        let tests = Emulator::built().lend_to(&mut tests).env("CLOISTER_TEST_DEVICE", "cuda:0").envs([wish]);
        let output = tests.output().expect("the tests run");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{wish:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
        assert!(said.contains("ten_steps_of_adamw_lose_what_they_lose_in_pytorch ... ok"), "{said}");
    }
}

#[test]
fn what_a_card_cannot_do_is_said_in_one_line() {
    if !has_kernels() {
        return;
    }
    let narrow = "bench decode --dim 24 --heads 4 --ctx 96 --tokens 4";
    let wide = "bench decode --vocab 60000 --ctx 96 --tokens 4 --times 1";
    let cases: [Case; 5] = [
        (narrow, "cuda:0", &[], "6 wide"),
        (PRETRAIN, "cuda:7", &[], "no card 7"),
        (PRETRAIN, "cuda:0", &[("CUDA_ON_CPU_DEVICES", "0")], "0 card(s)"),
        (wide, "cuda:0", &[("CUDA_ON_CPU_MEMORY", "200000000")], "of the card's memory are needed"),
        (PRETRAIN, "cuda:0", &[("CUDA_ON_CPU_FAIL_KERNEL", "rmsnorm_backward_f32")], "rmsnorm_backward"),
    ];
    for (arguments, device, wishes, says) in cases {
        let ran = run(arguments, device, wishes);
        assert!(ran.code != Some(0), "{}", ran.all());
        let errors: Vec<_> = ran.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert!(errors.len() == 1 && errors[0].contains(says), "{says}: {}", ran.all());
    }
}

/// Every kernel against the processor's f64 over ragged shapes, its threads in another order than it was written for;
/// with our own products; and with a library that does one product at a time and nothing besides.
#[test]
fn every_kernel_passes_the_selftest_in_shuffled_order() {
    if !has_kernels() {
        return;
    }
    let site = Site::empty();
    let log = site.at("log");
    let log_to = ("CUDA_ON_CPU_LOG", log.to_str().expect("UTF-8"));
    // What cuBLASLt does besides: a bias, a bias and GELU, GELU's gradient; and that sums are split.
    let besides = ["epilogue 4\n", "epilogue 164\n", "epilogue 192\n", "reduce_slabs_bf16\n"];
    let plain = ("CUDA_ON_CPU_CUBLASLT", "plain");
    for (wish, does_more) in [(("CUDA_ON_CPU_ORDER", "11"), true), (OWN_PRODUCTS, false), (plain, false)] {
        let ran = run("selftest --json", "cuda:0", &[wish, log_to]).done();
        let report: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{}", ran.all()));
        assert_eq!(report["passed"], true, "{}", ran.stdout);
        assert!(
            report["device"].as_str().is_some_and(|device| device.contains("emulator")),
            "{}",
            ran.stdout
        );
        assert!(report["findings"].as_array().is_some_and(|findings| findings.len() > 60), "{}", ran.stdout);
        let kernels = std::fs::read_to_string(&log).expect("a log of kernels");
        let found = besides.map(|kernel| kernels.contains(kernel));
        assert_eq!(found, [does_more; 4], "{wish:?}");
        std::fs::remove_file(&log).expect("the log");
    }
}
