//! The one integration-test binary.

mod command_line;
mod harness;
mod house;
mod long;
