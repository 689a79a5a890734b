//! The API: HTTPS in, text out, in the shapes that OpenAI's clients know. It promises that nothing is answered
//! without a valid token, a role that may, and a durable record, and nothing at all while the appliance is sealed;
//! models, keys and records are other rooms' work.

pub mod allowance;
pub mod answering;
pub mod api;
mod attempts;
pub mod clients;
pub mod daemon;
pub mod error;
pub mod handlers;
pub mod intake;
pub mod listen;
mod managing;
pub mod metrics;
pub mod models;
mod places;
pub mod records;
pub mod routes;
pub mod sealed;
mod service;
mod sessions;
mod strangers;
pub mod tls;
pub mod wire;

pub use allowance::Allowance;
pub use api::{Api, Limits, Served};
pub use daemon::{Ended, News, ServeOptions, Start, run};
pub use routes::router;
pub use service::identity;

#[cfg(test)]
mod tests;
