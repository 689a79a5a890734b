//! What makes an answer traceable and a model better: receipts that say where an answer came from, signed by the
//! appliance, and opinions about answers, checked before they are kept. Storage is `store`'s, access `serve`'s.

pub mod feedback;
pub mod receipt;

pub use feedback::Opinion;
pub use receipt::{Receipt, SignedReceipt};
