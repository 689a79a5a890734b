//! `cloister bench prefill` and `decode`: the passes that serving makes, over a paged cache, on random tokens and
//! random weights.

use super::{Dtype, ModelShape, Report, Work, clocked, timed};
use crate::{
    base::{Error, Philox, Result},
    device::Device,
    infer::{
        decoder_runner::{DecoderRunner, RunnerOptions},
        runner::{Draw, Part, StepModel},
    },
    ops::sample::Settings,
    train,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Width of the residual stream
    #[arg(long, default_value_t = 1024, value_name = "C")]
    dim: u32,
    #[arg(long, default_value_t = 16, value_name = "L")]
    layers: u32,
    /// Query heads
    #[arg(long, default_value_t = 16, value_name = "H")]
    heads: u32,
    /// Key and value heads [default: as many as query heads]
    #[arg(long, value_name = "K")]
    kv_heads: Option<u32>,
    /// Width of the feed-forward layer
    #[arg(long, default_value_t = 2816, value_name = "F")]
    ffn: u32,
    #[arg(long, default_value_t = 32_000, value_name = "V")]
    vocab: u32,
    /// Positions that the model is made for
    #[arg(long, visible_alias = "ctx", default_value_t = 1024, value_name = "T")]
    context: u32,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,
    /// Sequences that decode together
    #[arg(long, default_value_t = 1, value_name = "B", value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Passes to time [default: 64 for decode, 6 for prefill]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    times: Option<u32>,
    /// Type of weights and activations
    #[arg(long, value_enum, default_value_t = Dtype::Bf16)]
    dtype: Dtype,
}

/// Reads the prompt in one pass, again and again.
pub fn prefill(args: &Args, device: &Device) -> Result<Report> {
    let mut bench = Bench::new(args, device, 0)?;
    let tokens = bench.tokens(args.tokens);
    let seconds = timed(args.times.unwrap_or(6) as usize, || clocked(|| bench.pass(&tokens, 0, 1)))?;
    let work = bench.work("prefill", args, f64::from(args.tokens), 1.0, f64::from(args.tokens) / 2.0);
    work.report(device, seconds, None)
}

/// Reads the prompts, then decodes one token of every sequence in each pass.
pub fn decode(args: &Args, device: &Device) -> Result<Report> {
    let times = args.times.unwrap_or(64);
    let mut bench = Bench::new(args, device, times)?;
    let prompt = bench.tokens(args.tokens);
    for sequence in 0..args.batch as usize {
        bench.pass_of(sequence..sequence + 1, &prompt, 0)?;
    }
    let token = bench.tokens(1);
    let mut pasts = (args.tokens..args.tokens + times).cycle();
    let seconds = timed(times as usize, || {
        let past = pasts.next().unwrap_or(args.tokens) as usize;
        clocked(|| bench.pass(&token, past, args.batch as usize))
    })?;
    let seen = f64::from(args.tokens) + f64::from(times) / 2.0;
    let work = bench.work("decode", args, f64::from(args.batch), f64::from(args.batch), seen);
    work.report(device, seconds, None)
}

struct Bench {
    runner: DecoderRunner,
    shape: train::Shape,
    /// The blocks of each sequence's whole context.
    blocks: Vec<Vec<u32>>,
    rng: Philox,
}

impl Bench {
    fn new(args: &Args, device: &Device, decoded: u32) -> Result<Self> {
        let Args { dim, layers, heads, kv_heads, ffn, vocab, context, tokens, batch, dtype, .. } = *args;
        if tokens.saturating_add(decoded) > context {
            return Err(Error::usage(format!(
                "{tokens} tokens of prompt and {decoded} of answer do not fit a context of {context}"
            ))
            .remedy("choose --context larger, or --tokens smaller"));
        }
        let shape = ModelShape { dim, layers, heads, kv_heads, ffn, vocab, context }.settle()?;
        let options = RunnerOptions {
            dtype: dtype.dtype(),
            whole_sequences: batch as usize,
            kv_bytes_max: usize::MAX,
            prompt_piece: tokens as usize,
            ..RunnerOptions::on(device)?
        };
        let runner = DecoderRunner::new(device.clone(), &shape.config(), options, |exec, params| {
            params.init(exec, 1);
            Ok(())
        })?;
        let per_sequence = u64::from(context).div_ceil(runner.shape().block_tokens as u64) as u32;
        let blocks = (0..batch).map(|index| (index * per_sequence..(index + 1) * per_sequence).collect());
        Ok(Self { blocks: blocks.collect(), runner, shape, rng: Philox::new(0, 0) })
    }

    fn tokens(&mut self, count: u32) -> Vec<u32> {
        (0..count).map(|_| self.rng.below(self.shape.vocab) as u32).collect()
    }

    /// The same tokens after `past` others in the first `sequences` sequences.
    fn pass(&mut self, tokens: &[u32], past: usize, sequences: usize) -> Result<()> {
        self.pass_of(0..sequences, tokens, past)
    }

    fn pass_of(&mut self, sequences: std::ops::Range<usize>, tokens: &[u32], past: usize) -> Result<()> {
        let blocks = self.blocks[sequences].iter();
        let draw = Some(Draw { settings: Settings::GREEDY, history: None });
        let parts: Vec<Part<'_>> = blocks.map(|blocks| Part { tokens, past, blocks, draw }).collect();
        self.runner.step(&parts).map(drop)
    }

    /// What a pass does that runs `tokens` and asks for `rows` of logits, each token seeing `seen` others.
    fn work(&self, bench: &'static str, args: &Args, tokens: f64, rows: f64, seen: f64) -> Work {
        let shape = &self.shape;
        let (dim, layers) = (shape.dim as f64, shape.layers as f64);
        let embedding = (shape.vocab * shape.dim) as f64;
        let matrices = shape.parameters() as f64 - 2.0 * embedding;
        let element_bytes = args.dtype.dtype().size_bytes() as f64;
        // Keys and values are read once by each sequence.
        let cache = 2.0 * layers * (shape.kv_heads * shape.head_dim) as f64 * seen * rows;
        Work {
            bench,
            dtype: args.dtype,
            parameters: Some(shape.parameters()),
            tokens,
            flops: 2.0 * (matrices * tokens + embedding * rows) + 4.0 * layers * dim * seen * tokens,
            // Of the embedding only the tokens' own rows are read.
            bytes: (matrices + embedding + cache) * element_bytes,
            memory_bytes: self.runner.memory_bytes(),
        }
    }
}
