//! `cloister bench pretrain`: the step that `model pretrain` makes, on random tokens. The shape that stands as
//! default is the one that the figures in `docs/performance.md` are for.

use super::{Dtype, ModelShape, Report, Work, clocked, timed};
use crate::{
    base::{Philox, Result},
    device::Device,
    train::{
        DataFacts, Purpose, Recipe, RunConfig,
        learner::{Learner, Needs},
        loader::Packed,
    },
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Width of the residual stream
    #[arg(long, default_value_t = 384, value_name = "C")]
    dim: u32,
    #[arg(long, default_value_t = 6, value_name = "L")]
    layers: u32,
    /// Query heads
    #[arg(long, default_value_t = 6, value_name = "H")]
    heads: u32,
    /// Key and value heads [default: as many as query heads]
    #[arg(long, value_name = "K")]
    kv_heads: Option<u32>,
    /// Width of the feed-forward layer
    #[arg(long, default_value_t = 1024, value_name = "F")]
    ffn: u32,
    #[arg(long, default_value_t = 8192, value_name = "V")]
    vocab: u32,
    /// Tokens of a sequence
    #[arg(long, default_value_t = 256, value_name = "T")]
    ctx: u32,
    /// Sequences of a step
    #[arg(long, default_value_t = 16, value_name = "B")]
    batch: u32,
    /// Steps to time
    #[arg(long, default_value_t = 6, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Type of weights, activations and gradients; bf16 keeps f32 master weights and moments
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    dtype: Dtype,
}

pub fn run(args: &Args, device: &Device) -> Result<Report> {
    let recipe = args.recipe()?;
    let exec = Needs::rehearse(&recipe, device)?.exec(device)?;
    let mut learner = Learner::new(exec, &recipe)?;
    learner.init(recipe.seed);
    let packed = args.packed();
    let tokens = packed.inputs.len() as f64;
    let (mut loss, mut step) = (0.0, 0);
    let seconds = timed(args.steps as usize, || {
        step += 1;
        clocked(|| {
            learner.begin_step();
            learner.accumulate(&packed, 1.0 / tokens)?;
            let nats = learner.step_nats()?;
            // How many steps warm up is the clock's affair; the loss is that of the same step everywhere.
            if step == u64::from(args.steps) {
                loss = nats / tokens;
            }
            learner.update(recipe.schedule.peak, step).map(drop)
        })
    })?;
    let work = Work {
        bench: "pretrain",
        dtype: args.dtype,
        parameters: Some(recipe.shape.parameters()),
        tokens,
        flops: tokens * recipe.shape.flops_per_token().training,
        bytes: args.bytes_per_step(recipe.shape.parameters() as f64),
        memory_bytes: learner.used().total_bytes(),
    };
    work.report(device, seconds, Some(loss))
}

impl Args {
    fn recipe(&self) -> Result<Recipe> {
        let Self { dim, layers, heads, kv_heads, ffn, vocab, ctx, batch, steps, dtype } = *self;
        let shape = ModelShape { dim, layers, heads, kv_heads, ffn, vocab, context: ctx }.settle()?;
        let tokens = u64::from(batch) * u64::from(ctx);
        let config = RunConfig {
            purpose: Some(Purpose::trial()),
            dim: Some(dim),
            layers: Some(layers),
            heads: Some(heads),
            kv_heads: Some(shape.kv_heads as u32),
            ffn: Some(ffn),
            context: Some(ctx),
            tied: Some(false),
            batch_tokens: Some(tokens),
            micro_batch: Some(batch),
            steps: Some(u64::from(steps)),
            learning_rate: Some(3e-4),
            precision: Some(dtype.precision()),
            ..RunConfig::default()
        };
        let data = DataFacts {
            vocab: u64::from(vocab),
            train_tokens: tokens,
            heldout_tokens: tokens,
            heldout_bytes: tokens,
        };
        Recipe::settle(&config, &data, None)
    }

    /// Random tokens and random targets: what is learnt does not matter, what is computed does not depend on it.
    fn packed(&self) -> Packed {
        let rows = self.batch as usize * self.ctx as usize;
        let mut rng = Philox::new(0, 0);
        let mut tokens = || (0..rows).map(|_| rng.below(u64::from(self.vocab)) as u32).collect();
        Packed { inputs: tokens(), targets: tokens(), pieces: vec![self.ctx; self.batch as usize] }
    }

    /// Weights are read forward and backward, gradients written and read; AdamW reads and writes two moments and
    /// the weights, the master copy too where there is one.
    fn bytes_per_step(&self, parameters: f64) -> f64 {
        let per_parameter = match self.dtype {
            Dtype::F32 => 2 * 4 + 2 * 4 + 4 * 4 + 2 * 4,
            Dtype::Bf16 => 2 * 2 + 2 * 2 + 4 * 4 + 2 * 4 + 2,
        };
        parameters * f64::from(per_parameter)
    }
}
