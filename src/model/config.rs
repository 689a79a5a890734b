//! A model's shape, in the field names of Hugging Face's `config.json`.

use serde::{Deserialize, Serialize};

use crate::{
    base::{Error, Result, units::Count},
    ops::attention::Heads,
};

/// Beyond this a number in the file is wrong, and sizes could overflow.
const PARAMETERS_MAX: f64 = 1e14;

/// A llama-like decoder. This is our own form, every field there; [`Config::from_hugging_face`] reads others'.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    pub architectures: Vec<String>,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    pub tie_word_embeddings: bool,
    /// Standard deviation of the initial weights.
    pub initializer_range: f64,
}

impl Config {
    pub fn heads(&self) -> Heads {
        Heads { query: self.num_attention_heads, key_value: self.num_key_value_heads, dim: self.head_dim }
    }

    /// Checks that the numbers make a model.
    ///
    /// # Errors
    /// Of kind `Usage`, with the field that is wrong.
    pub fn validate(&self) -> Result<()> {
        let positive = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        if let Some((field, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(Error::usage(format!("{field} must be at least 1")));
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return Err(Error::usage(format!(
                "num_attention_heads ({}) must be a multiple of num_key_value_heads ({})",
                self.num_attention_heads, self.num_key_value_heads
            )));
        }
        let wide = |x: usize| x as f64;
        let heads = (wide(self.num_attention_heads) + wide(self.num_key_value_heads)) * wide(self.head_dim);
        let layer = wide(self.hidden_size) * (2.0 * heads + 3.0 * wide(self.intermediate_size));
        let parameters =
            2.0 * wide(self.vocab_size) * wide(self.hidden_size) + wide(self.num_hidden_layers) * layer;
        if parameters > PARAMETERS_MAX {
            return Err(Error::usage(format!(
                "{} parameters are more than any machine holds",
                Count(parameters)
            )));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(Error::usage(format!("head_dim ({}) must be even to be rotated", self.head_dim)));
        }
        Ok(())
    }
}
