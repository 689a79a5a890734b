//! The power cut, at many more places than the first tier tries.

use crate::power_cut::{cut_again_and_again, scenarios};

/// Of each scenario.
const CUTS: u64 = 200;

#[test]
#[ignore = "long: the power cut 2,000 times"]
fn the_power_cut_two_thousand_times() {
    for scenario in scenarios::ALL {
        cut_again_and_again(scenario, CUTS, 2);
    }
}
