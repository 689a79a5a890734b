//! Bad input and sudden ends, with the numbers that the first tier takes a twentieth of.

use crate::{bad_input, road};

#[test]
#[ignore = "long: 100 MB"]
fn one_hundred_megabytes_on_one_line() {
    bad_input::one_long_line(100_000_000);
}

#[test]
#[ignore = "long: 60 kills"]
fn killed_sixty_times() {
    let after_ms: Vec<u64> = (1..=60).map(|number| number * 97).collect();
    road::killed_again_and_again(&after_ms);
}
