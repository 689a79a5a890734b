//! Models: what a configuration says, the decoder that it describes, and its weights in files. A model holds no
//! numbers: weights are `nn::Params`, so that training, serving and a dry run use one structure.

mod config;
mod decoder;
pub mod families;
pub mod import;
pub mod weights;

pub use config::Config;
pub use decoder::{Decoder, Options, Saved};

#[cfg(test)]
mod tests;
