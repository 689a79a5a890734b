//! CUDA without a card: the kernels and the unmodified product on an emulator, which is built here and first shown to
//! notice what it is there to notice.

mod emulator;
mod failures;

use std::process::Command;

use emulator::Emulator;

/// Planted faults, each found; right kernels, each right; the driver's calls and cuBLASLt's as the product makes them.
#[test]
fn the_emulator_notices_planted_faults() {
    let (emulator, selfcheck) = Emulator::with_planted_faults();
    let output = emulator.lend_to(&mut Command::new(selfcheck)).output().expect("the self-check runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}
