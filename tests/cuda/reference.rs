//! The golden tests on the emulator: the same bodies as on the processor, against the same numbers of PyTorch's.

use std::process::Command;

use super::emulator::Emulator;

fn all_golden(emulator: &Emulator) {
    let mut tests = Command::new(std::env::current_exe().expect("this program"));
    tests.args(["golden::", "--test-threads=1"]).env("CLOISTER_TEST_DEVICE", "cuda:0");
    let output = emulator.lend_to(&mut tests).output().expect("the tests run");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("ten_steps_of_adamw_lose_what_they_lose_in_pytorch ... ok"), "{said}");
}

#[test]
fn numbers_of_pytorch_with_cublaslt() {
    all_golden(Emulator::built());
}

#[test]
fn numbers_of_pytorch_with_kernels_alone() {
    all_golden(&Emulator::without_cublaslt());
}
