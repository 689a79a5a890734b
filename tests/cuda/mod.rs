//! CUDA without a card: the kernels and the unmodified product on an emulator, which is built here and first shown to
//! notice what it is there to notice.

mod emulator;
mod failures;
mod launches;
mod reference;

use std::process::Command;

use emulator::Emulator;

/// Planted faults, each found; right kernels, each right; the driver's calls and cuBLASLt's as the product makes them.
#[test]
fn the_emulator_notices_planted_faults() {
    let (emulator, selfcheck) = Emulator::with_planted_faults();
    for order in ["forward", "reverse", "7"] {
        let mut command = Command::new(&selfcheck);
        emulator.lend_to(&mut command).env("CUDA_ON_CPU_ORDER", order);
        let output = command.output().expect("the self-check runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{order}: {said}{}", String::from_utf8_lossy(&output.stderr));
    }
}
