//! A [`Decoder`](crate::model::Decoder) with its weights and KV pages, run step by step: the same forward as in
//! training. Memory is measured by a dry run before any is taken.

use super::runner::{Choice, Draw, Part, Shape, StepModel};
use crate::{
    base::{Result, units::Bytes},
    device::Device,
    model::{Config, Decoder, Options},
    nn::{Batch, Ctx, PagedKv, Params, Sequence},
    ops::{
        Exec,
        sample::{self, Settings},
    },
    tensor::{Buf, DType},
};

/// Rows of a pass over single tokens. Up to here a matrix product takes each row alone, in one order of sums.
const SINGLES_MAX: usize = 32;
/// Sequences that a step continues on a card: several passes of single tokens.
const SEQUENCES_ON_CARD: usize = 128;
/// Of the memory that a card has free, the share that pages of keys and values may take.
const KV_SHARE_ON_CARD: u64 = 4;
/// Positions of a block: small enough to waste little, large enough to be read in one go.
pub const BLOCK_TOKENS: usize = 16;
/// Smaller passes than the measured ones may leave gaps between their buffers; pages cost nothing until they
/// are touched.
const PASS_SLACK: usize = 2;

/// What a runner is built for.
#[derive(Clone, Copy, Debug)]
pub struct RunnerOptions {
    pub dtype: DType,
    /// Sequences whose whole context the KV pool should hold.
    pub whole_sequences: usize,
    /// Bounds the KV pool; one whole sequence always fits.
    pub kv_bytes_max: usize,
    /// Tokens of the longest part.
    pub prompt_piece: usize,
    /// Sequences that a step may continue.
    pub sequences: usize,
}

impl Default for RunnerOptions {
    fn default() -> Self {
        Self {
            dtype: DType::F32,
            whole_sequences: SINGLES_MAX,
            kv_bytes_max: 2 << 30,
            prompt_piece: 256,
            sequences: SINGLES_MAX,
        }
    }
}

impl RunnerOptions {
    /// On the processor f32; on a card bf16, which its matrix units are made for, and larger passes.
    ///
    /// # Errors
    /// Where a card does not say how much memory it has left.
    pub fn on(device: &Device) -> Result<Self> {
        let Device::Cuda(cuda) = device else { return Ok(Self::default()) };
        let (free, _) = cuda.free_bytes()?;
        Ok(Self {
            dtype: DType::Bf16,
            whole_sequences: SEQUENCES_ON_CARD,
            kv_bytes_max: (free / KV_SHARE_ON_CARD) as usize,
            prompt_piece: 1024,
            sequences: SEQUENCES_ON_CARD,
        })
    }
}

pub struct DecoderRunner {
    exec: Exec,
    decoder: Decoder,
    params: Params,
    kv: PagedKv,
    shape: Shape,
}

impl DecoderRunner {
    /// `fill` puts the weights into the parameters, which come as zeros.
    ///
    /// # Errors
    /// A configuration that makes no model, memory that is not there, and what `fill` fails with.
    pub fn new(
        device: Device,
        config: &Config,
        options: RunnerOptions,
        fill: impl FnOnce(&Exec, &mut Params) -> Result<()>,
    ) -> Result<Self> {
        config.validate()?;
        let shape = shape(config, options);
        let dry = Self::build(Exec::dry(device.clone()), config, options, shape)?;
        let persistent_bytes = dry.exec.persistent.peak_bytes();
        let pass_bytes = dry.measured_pass_bytes(options)? * PASS_SLACK;
        let exec = Exec::new(device, pass_bytes, persistent_bytes).map_err(|error| {
            let needed = Bytes((persistent_bytes + pass_bytes) as u64);
            error.context(format!("taking {needed} of memory for the model and its cache"))
        })?;
        let mut runner = Self::build(exec, config, options, shape)?;
        fill(&runner.exec, &mut runner.params)?;
        Ok(runner)
    }

    /// What weights, cache and passes have taken of the device's memory at most.
    pub fn memory_bytes(&self) -> u64 {
        (self.exec.persistent.peak_bytes() + self.exec.arena.peak_bytes()) as u64
    }

    fn build(exec: Exec, config: &Config, options: RunnerOptions, shape: Shape) -> Result<Self> {
        let positions = shape.context_tokens;
        let decoder =
            Decoder::new(&exec, config, Options { dtype: options.dtype, recompute: false, positions })?;
        let params = decoder.new_params(&exec)?;
        let kv = decoder.new_kv(&exec, shape.blocks, BLOCK_TOKENS)?;
        Ok(Self { decoder, params, kv, shape, exec })
    }

    /// The memory of the largest passes: the last piece of a full context, and a full batch of single tokens.
    fn measured_pass_bytes(mut self, options: RunnerOptions) -> Result<usize> {
        let context = self.shape.context_tokens;
        let blocks = vec![0; context.div_ceil(BLOCK_TOKENS)];
        let piece = options.prompt_piece.min(context);
        let tokens = vec![0; piece];
        let history = vec![0; self.shape.vocabulary];
        let draw = Some(Draw { settings: Settings::GREEDY, history: Some(&history) });
        let part = |tokens, past| Part { tokens, past, blocks: &blocks, draw };
        self.pass(&[part(&tokens, context - piece)])?;
        self.pass(&[part(&tokens[..1], context - 1); SINGLES_MAX])?;
        Ok(self.exec.arena.peak_bytes())
    }

    /// One pass over the parts, and the choices of those that draw.
    fn pass(&mut self, parts: &[Part<'_>]) -> Result<Vec<Choice>> {
        let draws: Vec<Draw<'_>> = parts.iter().filter_map(|part| part.draw).collect();
        let tables = Tables::new(&self.exec, &draws)?;
        let Some(logits) = self.forward(parts)? else { return Ok(Vec::new()) };
        let mut ids = self.exec.take([draws.len()], DType::U32)?;
        let mut logprobs = self.exec.take([draws.len()], DType::F32)?;
        let (floats, words) = (tables.floats.view(), tables.words.view());
        let histories = tables.histories.as_ref().map(Buf::view);
        let (ids_view, logprobs_view) = (ids.view_mut(), logprobs.view_mut());
        sample::choose(&self.exec, logits.view(), (floats, words), histories, ids_view, logprobs_view);
        let (ids, logprobs) = (self.exec.read::<u32>(&ids)?, self.exec.read::<f32>(&logprobs)?);
        Ok(ids.into_iter().zip(logprobs).map(|(token, logprob)| Choice { token, logprob }).collect())
    }

    /// One pass over the parts, and the logits `[R,V]` after those that draw; None where none does.
    fn forward(&mut self, parts: &[Part<'_>]) -> Result<Option<Buf>> {
        let sequences: Vec<Sequence<'_>> = parts
            .iter()
            .map(|part| Sequence { tokens: part.tokens, past: part.past, pages: part.blocks })
            .collect();
        let mut end = 0;
        let last_rows = parts.iter().filter_map(|part| {
            end += part.tokens.len() as u32;
            part.draw.map(|_| end - 1)
        });
        let last_rows: Vec<u32> = last_rows.collect();
        let batch = Batch::paged(&self.exec, &sequences, BLOCK_TOKENS)?;
        if last_rows.is_empty() {
            let mut cx = Ctx::new(&self.exec, &self.params).with_kv(&mut self.kv);
            return self.decoder.read(&mut cx, &batch).map(|()| None);
        }
        let batch = batch.with_logits_of(&self.exec, &last_rows)?;
        let mut cx = Ctx::new(&self.exec, &self.params).with_kv(&mut self.kv);
        self.decoder.logits(&mut cx, &batch).map(Some)
    }
}

/// What [`sample::choose`] reads of the draws of a pass.
struct Tables {
    floats: Buf,
    words: Buf,
    histories: Option<Buf>,
}

impl Tables {
    fn new(exec: &Exec, draws: &[Draw<'_>]) -> Result<Self> {
        let (mut floats, mut words, mut histories) = (Vec::new(), Vec::new(), Vec::new());
        for draw in draws {
            let history = draw.history.map(|_| histories.len() as u32);
            histories.extend(draw.history);
            let (row_floats, row_words) = Settings { history, ..draw.settings }.to_tables();
            floats.extend(row_floats);
            words.extend(row_words);
        }
        let upload = |rows: Vec<&[u32]>| exec.upload([rows.len(), rows[0].len()], &rows.concat());
        Ok(Self {
            floats: exec.upload([draws.len(), sample::FLOATS], &floats)?,
            words: exec.upload([draws.len(), sample::WORDS], &words)?,
            histories: (!histories.is_empty()).then(|| upload(histories)).transpose()?,
        })
    }
}

/// The places of the parts that run together: single tokens, as many as a pass takes. A piece of a prompt is a pass of its
/// own: how a product sums depends on the rows of its pass, and those must be the sequence's own.
fn passes(parts: &[Part<'_>]) -> Vec<Vec<usize>> {
    let (singles, pieces): (Vec<usize>, Vec<usize>) =
        (0..parts.len()).partition(|&place| parts[place].tokens.len() == 1);
    singles.chunks(SINGLES_MAX).chain(pieces.chunks(1)).map(<[usize]>::to_vec).collect()
}

fn shape(config: &Config, options: RunnerOptions) -> Shape {
    let context_tokens = config.max_position_embeddings;
    let heads = config.heads();
    let row_bytes = 2 * config.num_hidden_layers * heads.key_value * heads.dim * options.dtype.size_bytes();
    let per_sequence = context_tokens.div_ceil(BLOCK_TOKENS);
    let affordable = options.kv_bytes_max / (row_bytes * BLOCK_TOKENS);
    let blocks = affordable.min(per_sequence * options.whole_sequences).max(per_sequence);
    Shape { vocabulary: config.vocab_size, context_tokens, blocks, block_tokens: BLOCK_TOKENS }
}

impl StepModel for DecoderRunner {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn step(&mut self, parts: &[Part<'_>]) -> Result<Vec<Choice>> {
        let mut choices = vec![None; parts.len()];
        for places in passes(parts) {
            let together: Vec<Part<'_>> = places.iter().map(|&place| parts[place]).collect();
            let drawing = places.into_iter().filter(|&place| parts[place].draw.is_some());
            for (place, choice) in drawing.zip(self.pass(&together)?) {
                choices[place] = Some(choice);
            }
        }
        Ok(choices.into_iter().flatten().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{base::Philox, device::host};

    const CONTEXT: usize = 640;
    const VOCABULARY: usize = 310;

    fn config() -> Config {
        Config {
            architectures: vec!["LlamaForCausalLM".to_owned()],
            vocab_size: VOCABULARY,
            hidden_size: 96,
            intermediate_size: 272,
            num_hidden_layers: 3,
            num_attention_heads: 6,
            num_key_value_heads: 2,
            head_dim: 16,
            max_position_embeddings: CONTEXT,
            rms_norm_eps: 1e-5,
            rope_theta: 10000.0,
            tie_word_embeddings: true,
            initializer_range: 0.2,
        }
    }

    fn runner(dtype: DType) -> DecoderRunner {
        let options = RunnerOptions { dtype, whole_sequences: 6, ..RunnerOptions::default() };
        DecoderRunner::new(Device::cpu(Some(2)), &config(), options, |exec, params| {
            params.init(exec, 3);
            Ok(())
        })
        .expect("a runner")
    }

    fn tokens(seed: u64, count: usize) -> Vec<u32> {
        let mut rng = Philox::new(seed, 0);
        (0..count).map(|_| rng.below(VOCABULARY as u64) as u32).collect()
    }

    const GREEDY: Draw<'_> = Draw { settings: Settings::GREEDY, history: None };

    /// The logits that a step would choose from, and the token that it does choose.
    fn step(runner: &mut DecoderRunner, parts: &[Part<'_>]) -> Vec<Vec<f32>> {
        let mut all = vec![None; parts.len()];
        for places in passes(parts) {
            let together: Vec<Part<'_>> = places.iter().map(|&place| parts[place]).collect();
            let Some(logits) = runner.forward(&together).expect("a pass") else { continue };
            let drawing = places.into_iter().filter(|&place| parts[place].draw.is_some());
            for (place, row) in drawing.zip(host::slice::<f32>(logits.view()).chunks_exact(VOCABULARY)) {
                all[place] = Some(row.to_vec());
            }
        }
        let logits: Vec<Vec<f32>> = all.into_iter().flatten().collect();
        let choices = runner.step(parts).expect("a step");
        let chosen: Vec<Choice> = logits.iter().map(|row| GREEDY.choose(row)).collect();
        assert_eq!(choices, chosen);
        logits
    }

    /// Tokens, past and blocks of somebody else's part.
    type Other = (Vec<u32>, usize, Vec<u32>);

    /// The logits after each pass of `tokens`, whose first `prompt` are cut into pieces, run beside what
    /// `company` brings to each step.
    fn run(
        runner: &mut DecoderRunner,
        tokens: &[u32],
        prompt: usize,
        blocks: &[u32],
        company: &dyn Fn(usize) -> Vec<Other>,
    ) -> Vec<Vec<f32>> {
        let mut rows = Vec::new();
        let mut past = 0;
        while past < tokens.len() {
            let count = if past < prompt { 256.min(prompt - past) } else { 1 };
            let draw = Some(GREEDY);
            let ours = Part { tokens: &tokens[past..past + count], past, blocks, draw };
            let others = company(rows.len());
            let mut parts: Vec<Part<'_>> = others
                .iter()
                .map(|(tokens, past, blocks)| Part {
                    tokens,
                    past: *past,
                    blocks,
                    draw: (past % 2 == 0).then_some(GREEDY),
                })
                .collect();
            let place = parts.len() / 2;
            let wanting_before = parts[..place].iter().filter(|part| part.draw.is_some()).count();
            parts.insert(place, ours);
            rows.push(step(runner, &parts).swap_remove(wanting_before));
            past += count;
        }
        rows
    }

    /// The guarantee on which greedy answers rest, with real arithmetic and in both types.
    #[test]
    fn logits_have_the_same_bits_in_any_company_and_in_any_blocks() {
        for dtype in [DType::F32, DType::Bf16] {
            let mut runner = runner(dtype);
            let (ours, prompt) = (tokens(1, 320), 300);
            let blocks: Vec<u32> = (0..20).collect();
            let alone = run(&mut runner, &ours, prompt, &blocks, &|_| vec![]);
            let scattered: Vec<u32> = (0..20).map(|block| 60 - 3 * block).collect();
            for crowd in [1, 2, 7, 31] {
                let company = |step: usize| {
                    (0..crowd)
                        .map(|other| {
                            let block = 100 + other as u32;
                            // Some bring one token, some a piece.
                            let count = if (step + other).is_multiple_of(3) { 9 } else { 1 };
                            (tokens(other as u64, count), step % 5, vec![block])
                        })
                        .collect()
                };
                let crowded = run(&mut runner, &ours, prompt, &scattered, &company);
                for (pass, (alone, crowded)) in alone.iter().zip(&crowded).enumerate() {
                    let same = alone.iter().zip(crowded).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{dtype:?}: pass {pass} beside {crowd} others gives other bits");
                }
            }
        }
    }

    #[test]
    fn pieces_and_single_tokens_equal_the_whole_sequence() {
        let mut runner = runner(DType::F32);
        let ours = tokens(5, 290);
        let blocks: Vec<u32> = (0..19).rev().collect();
        let cut = run(&mut runner, &ours, 280, &blocks, &|_| vec![]);
        let exec = Exec::new(Device::cpu(Some(2)), 256 << 20, 64 << 20).expect("memory");
        let options = Options { dtype: DType::F32, recompute: false, positions: CONTEXT };
        let decoder = Decoder::new(&exec, &config(), options).expect("valid");
        let mut params = decoder.new_params(&exec).expect("memory");
        params.init(&exec, 3);
        let batch = Batch::packed(&exec, &ours, &[ours.len()]).expect("memory");
        let whole = decoder.logits(&mut Ctx::new(&exec, &params), &batch).expect("forward");
        let whole: &[f32] = host::slice(whole.view());
        let ends = [256, 280].into_iter().chain(281..=290);
        for (end, cut) in ends.zip(cut) {
            let row = &whole[(end - 1) * VOCABULARY..][..VOCABULARY];
            let off = row.iter().zip(&cut).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let scale = row.iter().fold(0.0f32, |most, logit| most.max(logit.abs()));
            assert!(off <= 1e-4 * scale, "after {end} tokens: {off} of {scale}");
        }
    }

    #[test]
    fn the_cache_is_bounded_and_holds_at_least_one_whole_sequence() {
        let shape_with =
            |kv_bytes_max| shape(&config(), RunnerOptions { kv_bytes_max, ..RunnerOptions::default() });
        assert_eq!(shape_with(0).blocks, CONTEXT / BLOCK_TOKENS);
        assert_eq!(shape_with(1 << 30).blocks, SINGLES_MAX * CONTEXT / BLOCK_TOKENS);
        // 3 layers, keys and values, 2 heads of 16 in f32: 768 bytes a position, 12288 a block.
        assert_eq!(shape_with(100 * 12288 + 5).blocks, 100);
    }
}
