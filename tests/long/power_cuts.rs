//! The power cut, at many more places than the first tier tries.

use crate::power_cut::{
    cut_again_and_again,
    scenarios::{self, Scenario},
};

/// Of each scenario.
const CUTS: u64 = 200;

fn cut(scenario: &Scenario) {
    cut_again_and_again(scenario, CUTS, 2);
}

#[test]
#[ignore = "long: 200 power cuts"]
fn two_hundred_times_while_it_is_made() {
    cut(&scenarios::INIT);
}

#[test]
#[ignore = "long: 200 power cuts"]
fn two_hundred_times_while_it_ingests() {
    cut(&scenarios::INGEST);
}

#[test]
#[ignore = "long: 200 power cuts"]
fn two_hundred_times_while_keys_rotate() {
    cut(&scenarios::ROTATE);
}

#[test]
#[ignore = "long: 200 power cuts"]
fn two_hundred_times_while_the_root_key_is_replaced() {
    cut(&scenarios::REKEY);
}

#[test]
#[ignore = "long: 200 power cuts"]
fn two_hundred_times_while_a_token_is_made() {
    cut(&scenarios::TOKEN);
}

#[test]
#[ignore = "long: 200 power cuts"]
fn two_hundred_times_while_a_token_is_revoked() {
    cut(&scenarios::REVOKE);
}

#[test]
#[ignore = "long: 200 power cuts"]
fn two_hundred_times_while_it_is_backed_up() {
    cut(&scenarios::BACKUP);
}

#[test]
#[ignore = "long: 200 power cuts"]
fn two_hundred_times_while_backups_are_forgotten() {
    cut(&scenarios::FORGET);
}

#[test]
#[ignore = "long: 200 power cuts"]
fn two_hundred_times_while_it_is_restored() {
    cut(&scenarios::RESTORE);
}

#[test]
#[ignore = "long: 200 power cuts"]
fn two_hundred_times_while_it_trains() {
    cut(&scenarios::PRETRAIN);
}

#[test]
#[ignore = "long: 200 power cuts"]
fn two_hundred_times_while_it_erases() {
    cut(&scenarios::ERASE);
}

#[test]
#[ignore = "long: 200 power cuts"]
fn two_hundred_times_while_it_serves() {
    cut(&scenarios::SERVE);
}

#[test]
#[ignore = "long: 200 power cuts"]
fn two_hundred_times_while_a_model_is_proposed() {
    cut(&scenarios::PROPOSE);
}

#[test]
#[ignore = "long: 200 power cuts"]
fn two_hundred_times_while_a_model_is_approved() {
    cut(&scenarios::DEPLOY);
}
