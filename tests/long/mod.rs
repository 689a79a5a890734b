//! The long tier, ignored by default: the product's own code with larger numbers. `docs/qualification.md` has the
//! results.

mod audit_log;
mod inputs_and_kills;
mod learning_curve;
mod power_cuts;
