//! The warden and its jobs: what can be asked, who may ask it, and the processes that do it.

pub mod admin;
pub mod client;
pub mod policy;
pub mod request;
