//! The one integration-test binary.

mod backup;
mod bad_input;
mod command_line;
mod cuda;
mod daemon;
mod deploy;
mod docs;
mod erase;
mod golden;
mod harness;
mod house;
mod keys;
mod kills;
mod long;
mod people;
mod power_cut;
mod road;
mod sealed;
