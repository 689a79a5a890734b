//! What makes an answer traceable, an erasure provable and a model better: receipts that say where an answer came from
//! and certificates that say what is gone, signed by the appliance; opinions about answers, checked before they are kept.
//! Storage is `store`'s, access `serve`'s.

pub mod certificate;
pub mod feedback;
pub mod receipt;
mod signed;

pub use certificate::{Certificate, Reached, SignedCertificate};
pub use feedback::Opinion;
pub use receipt::{Receipt, SignedReceipt};
