//! Cloister: an embedded, on-premise, secure LLM appliance.
//!
//! The crate is a house of rooms on floors; a room imports only rooms on lower floors, and
//! `tests/house.rs` keeps it so. `docs/architecture.md` is the plan of the house.
//!
//! | floor | rooms |
//! |---|---|
//! | 0 | [`base`] |
//! | 1 | `seal`, `tensor`, `text` |
//! | 2 | `store`, `auditlog`, `device` |
//! | 3 | `vault`, `ops` |
//! | 4 | `corpus`, `nn` |
//! | 5 | `model` |
//! | 6 | `train`, `infer` |
//! | 7 | `evaluate`, `qualify` |
//! | 8 | `improve` |
//! | 9 | `work` |
//! | 10 | `serve` |
//! | 11 | `cli` |

pub mod auditlog;
pub mod base;
pub mod cli;
pub mod corpus;
pub mod device;
pub mod evaluate;
pub mod improve;
pub mod infer;
pub mod model;
pub mod nn;
pub mod ops;
pub mod qualify;
pub mod seal;
pub mod serve;
pub mod store;
pub mod tensor;
pub mod text;
pub mod train;
pub mod vault;
pub mod work;
