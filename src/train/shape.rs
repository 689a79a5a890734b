//! The one dial: from a number of parameters to sound widths, depth and heads, every one overridable.

use serde::{Deserialize, Serialize};

use super::config::RunConfig;
use crate::base::{Error, Result};

/// The shape of a decoder: RMSNorm, rotary attention with grouped keys and values, SwiGLU.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    pub layers: u64,
    /// C
    pub dim: u64,
    /// H
    pub heads: u64,
    /// Key and value heads, each shared by `heads / kv_heads` query heads.
    pub kv_heads: u64,
    /// D; `heads * head_dim` is C.
    pub head_dim: u64,
    /// F
    pub ffn: u64,
    /// V
    pub vocab: u64,
    /// T
    pub context: u64,
    /// The output head is the embedding.
    pub tied: bool,
    pub rope_theta: f64,
}

/// Above this many parameters the embedding is a small part, and a head of its own pays for itself.
const TIED_UP_TO: u64 = 300_000_000;
/// From here on keys and values are shared by four query heads: the KV cache is what limits serving.
const GROUPED_FROM: u64 = 1_000_000_000;

impl Shape {
    /// The shape nearest to `params` parameters that keeps what `config` fixes.
    ///
    /// # Errors
    /// `Usage` where the fixed numbers contradict one another, with the ones that do.
    pub fn choose(config: &RunConfig, params: u64, vocab: u64) -> Result<Self> {
        let fixed_depth = config.layers.map(u64::from);
        let fixed_dim = config.dim.map(u64::from);
        let head_dim = head_dim(config, params);
        let depths = fixed_depth.map_or(1..=160, |depth| depth..=depth);
        let best = depths
            .flat_map(|layers| {
                let dims = fixed_dim.map_or(1..=256, |_| 1..=1);
                dims.map(move |heads| (layers, fixed_dim.unwrap_or(heads * head_dim)))
            })
            .map(|(layers, dim)| Self::with(config, params, vocab, layers, dim, head_dim))
            .min_by(|a, b| a.misfit(params).total_cmp(&b.misfit(params)))
            .expect("the ranges are not empty");
        best.check()?;
        Ok(best)
    }

    fn with(config: &RunConfig, params: u64, vocab: u64, layers: u64, dim: u64, head_dim: u64) -> Self {
        let heads = config.heads.map_or((dim / head_dim).max(1), u64::from);
        let grouped = if params >= GROUPED_FROM && heads.is_multiple_of(4) { heads / 4 } else { heads };
        Self {
            layers,
            dim,
            heads,
            kv_heads: config.kv_heads.map_or(grouped, u64::from),
            head_dim: dim.checked_div(heads).unwrap_or(0),
            // SwiGLU has three matrices where an older feed-forward had two: 8/3 C keeps the count.
            ffn: config.ffn.map_or((dim * 8).div_ceil(3).next_multiple_of(64), u64::from),
            vocab,
            context: config.context.map_or(context_for(params), u64::from),
            tied: config.tied.unwrap_or(params < TIED_UP_TO),
            rope_theta: config.rope_theta.unwrap_or(10_000.0),
        }
    }

    /// How far this is from what was asked: first the count, then the ratio of width to depth.
    fn misfit(&self, params: u64) -> f64 {
        let count = (self.parameters() as f64 / params as f64).ln().abs();
        // Width over depth grows slowly with size: 64 at 10M parameters, about 128 at 7B (Llama).
        let sound = 64.0 * (params as f64 / 1e7).powf(0.106);
        let ratio = (self.dim as f64 / self.layers as f64 / sound).ln().abs();
        4.0 * count + ratio
    }

    fn check(&self) -> Result<()> {
        let Self { layers, dim, heads, kv_heads, ffn, vocab, context, .. } = *self;
        let refuse = |what: String, remedy: &str| Err(Error::usage(what).remedy(remedy));
        for (name, value) in [
            ("layers", layers),
            ("dim", dim),
            ("heads", heads),
            ("kv_heads", kv_heads),
            ("ffn", ffn),
            ("vocab", vocab),
            ("context", context),
        ] {
            if value == 0 || value > 1 << 24 {
                return refuse(
                    format!("{name} = {value} makes no model"),
                    "give it a value from 1 to 16777216",
                );
            }
        }
        if !dim.is_multiple_of(heads) || !(dim / heads).is_multiple_of(2) {
            return refuse(
                format!("dim = {dim} does not divide into {heads} heads of an even width"),
                "rotary positions turn pairs: choose dim as heads times an even number, such as 64",
            );
        }
        if !heads.is_multiple_of(kv_heads) {
            return refuse(
                format!("{heads} query heads cannot share {kv_heads} key and value heads"),
                "choose kv_heads so that it divides heads",
            );
        }
        Ok(())
    }

    /// Every trained number, exactly.
    pub fn parameters(&self) -> u64 {
        let Self { layers, dim, vocab, .. } = *self;
        let norms = 2 * dim;
        let block = self.block_matrices() + norms;
        let embedding = vocab * dim * if self.tied { 1 } else { 2 };
        embedding + layers * block + dim
    }

    /// Parameters of one block's seven matrices.
    fn block_matrices(&self) -> u64 {
        let kv_dim = self.kv_heads * self.head_dim;
        2 * self.dim * self.dim + 2 * self.dim * kv_dim + 3 * self.dim * self.ffn
    }

    /// FLOPs (a multiply and an add are two) of matrix products per token: forward, and the same twice over for
    /// the gradients of inputs and weights. Attention is counted over the causal half that is computed,
    /// `(T+1)/2` keys on average for a full sequence; norms, softmax and the like are not counted.
    pub fn flops_per_token(&self) -> Flops {
        let matrices = 2 * (self.layers * self.block_matrices() + self.vocab * self.dim);
        // Scores and their product with the values: 2 FLOPs each per key, head and element.
        let attention = self.layers as f64 * 4.0 * self.dim as f64 * (self.context + 1) as f64 / 2.0;
        let forward = matrices as f64 + attention;
        Flops { forward, training: 3.0 * forward }
    }
}

/// FLOPs of matrix products per token.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flops {
    pub forward: f64,
    /// Forward and backward; what recomputation adds is not useful work and is left out.
    pub training: f64,
}

fn head_dim(config: &RunConfig, params: u64) -> u64 {
    if let (Some(dim), Some(heads)) = (config.dim, config.heads) {
        return (u64::from(dim) / u64::from(heads).max(1)).max(1);
    }
    match params {
        0..2_000_000 => 32,
        2_000_000..GROUPED_FROM => 64,
        _ => 128,
    }
}

fn context_for(params: u64) -> u64 {
    match params {
        0..50_000_000 => 256,
        50_000_000..150_000_000 => 512,
        150_000_000..1_000_000_000 => 1024,
        _ => 4096,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialled(params: u64, vocab: u64) -> Shape {
        Shape::choose(&RunConfig::default(), params, vocab).expect("a sound shape")
    }

    #[test]
    fn the_dial_lands_near_what_was_asked_with_sound_ratios() {
        for params in
            [500_000, 1_000_000, 5_000_000, 10_000_000, 60_000_000, 125_000_000, 1_100_000_000, 7_000_000_000]
        {
            let vocab = if params < 50_000_000 { 2048 } else { 32_000 };
            let shape = dialled(params, vocab);
            let off = shape.parameters() as f64 / params as f64;
            assert!((0.85..1.18).contains(&off), "{params}: {off} {shape:?}");
            let ratio = shape.dim as f64 / shape.layers as f64;
            assert!((20.0..260.0).contains(&ratio), "{params}: {shape:?}");
            assert_eq!(shape.heads * shape.head_dim, shape.dim);
        }
        assert!(dialled(10_000_000, 2048).tied && !dialled(1_100_000_000, 32_000).tied);
    }

    /// Llama 2 7B as Meta published it: 6,738,415,616 parameters.
    #[test]
    fn counts_llama_2_7b_exactly() {
        let config = RunConfig {
            layers: Some(32),
            dim: Some(4096),
            heads: Some(32),
            kv_heads: Some(32),
            ffn: Some(11008),
            context: Some(4096),
            ..RunConfig::default()
        };
        let shape = Shape::choose(&config, 7_000_000_000, 32_000).expect("sound");
        assert_eq!(shape.parameters(), 6_738_415_616);
    }

    /// One block of C 4, H 2, F 8, V 10, T 3, by hand: matrices 4·16 + 3·32 = 160, head 40;
    /// 2·200 = 400; attention 4·4·2 = 32.
    #[test]
    fn counts_flops_by_hand() {
        let config = RunConfig {
            layers: Some(1),
            dim: Some(4),
            heads: Some(2),
            ffn: Some(8),
            context: Some(3),
            ..RunConfig::default()
        };
        let shape = Shape::choose(&config, 1, 10).expect("sound");
        assert_eq!(shape.flops_per_token(), Flops { forward: 432.0, training: 1296.0 });
    }

    #[test]
    fn what_is_fixed_stays_and_what_contradicts_is_refused() {
        let config = RunConfig { dim: Some(192), heads: Some(3), ..RunConfig::default() };
        let shape = Shape::choose(&config, 5_000_000, 2048).expect("sound");
        assert_eq!((shape.dim, shape.heads, shape.head_dim), (192, 3, 64));
        let bad = [
            RunConfig { dim: Some(100), heads: Some(3), ..RunConfig::default() },
            RunConfig { dim: Some(6), heads: Some(2), ..RunConfig::default() },
            RunConfig { dim: Some(64), heads: Some(4), kv_heads: Some(3), ..RunConfig::default() },
            RunConfig { heads: Some(0), dim: Some(64), ..RunConfig::default() },
            RunConfig { kv_heads: Some(0), ..RunConfig::default() },
            RunConfig { layers: Some(0), ..RunConfig::default() },
            RunConfig { context: Some(0), ..RunConfig::default() },
            RunConfig { ffn: Some(u32::MAX), ..RunConfig::default() },
        ];
        for config in bad {
            let error = Shape::choose(&config, 1_000_000, 512).unwrap_err();
            assert!(error.remedy_text().is_some(), "{error}");
        }
    }
}
