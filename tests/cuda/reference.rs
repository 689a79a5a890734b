//! The golden tests on the emulator: the same bodies as on the processor, against the same numbers of PyTorch's.

use std::process::Command;

use super::emulator::Emulator;

/// Runs them in this program once more, with what `more` sets.
#[track_caller]
fn golden_tests(more: &[(&str, &str)]) {
    let mut tests = Command::new(std::env::current_exe().expect("this program"));
    tests.args(["golden::", "--test-threads=1"]).env("CLOISTER_TEST_DEVICE", "cuda:0");
    let tests = Emulator::built().lend_to(&mut tests).envs(more.iter().copied());
    let output = tests.output().expect("the tests run");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("ten_steps_of_adamw_lose_what_they_lose_in_pytorch ... ok"), "{said}");
}

#[test]
fn numbers_of_pytorch_with_cublaslt() {
    golden_tests(&[]);
}

#[test]
fn numbers_of_pytorch_with_our_own_products() {
    golden_tests(&[("CLOISTER_CUDA_LIBRARIES", "/nonexistent")]);
}
