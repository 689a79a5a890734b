use super::*;
use crate::{
    base::Philox,
    device::{Device, host},
    nn::{Batch, Contributions, Ctx, Grads, ParamId, Params, Sequence},
    ops::{Exec, cross_entropy::IGNORE, reduce},
    tensor::DType,
};

const VOCABULARY: usize = 29;
const LENGTHS: [usize; 3] = [7, 1, 9];
const ROWS: usize = 17;

pub(super) fn config() -> Config {
    Config {
        architectures: vec!["LlamaForCausalLM".to_owned()],
        vocab_size: VOCABULARY,
        hidden_size: 12,
        intermediate_size: 10,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 6,
        max_position_embeddings: 64,
        rms_norm_eps: 1e-5,
        rope_theta: 10000.0,
        tie_word_embeddings: false,
        initializer_range: 0.4,
    }
}

/// A decoder with weights and room for gradients.
struct Bench {
    exec: Exec,
    decoder: Decoder,
    params: Params,
    grads: Grads,
    contributions: Contributions,
}

impl Bench {
    fn new(config: &Config, dtype: DType, threads: usize, recompute: bool) -> Self {
        let exec = Exec::host(Device::cpu(Some(threads)), 64 << 20, 64 << 20).expect("memory");
        let decoder =
            Decoder::new(&exec, config, Options { dtype, recompute, positions: 64 }).expect("valid");
        let mut params = decoder.new_params(&exec).expect("memory");
        params.init(&exec, 5);
        let grads = Grads::new(&exec, &params).expect("memory");
        let contributions = decoder.contributions(&exec).expect("a dry run");
        Self { exec, decoder, params, grads, contributions }
    }

    /// The sum of losses over the batch, and gradients of scale times that.
    fn step(&mut self, tokens: &[u32], targets: &[u32], lengths: &[usize], scale: f32) -> f64 {
        let expected = self.contributions.clone();
        self.grads.begin_step(&expected);
        let sum = self.pass(tokens, targets, lengths, scale);
        self.grads.end_step().expect("all contributions");
        sum
    }

    fn pass(&mut self, tokens: &[u32], targets: &[u32], lengths: &[usize], scale: f32) -> f64 {
        let exec = &self.exec;
        let batch = Batch::packed(exec, tokens, lengths).expect("memory");
        let batch = batch.with_targets(exec, targets, scale).expect("memory");
        let mut cx = Ctx::new(exec, &self.params).with_grads(&mut self.grads);
        let (losses, saved) = self.decoder.forward_loss(&mut cx, &batch).expect("forward");
        self.decoder.backward(&mut cx, &batch, saved).expect("backward");
        reduce::sum(exec, losses.view())
    }

    fn loss(&self, tokens: &[u32], targets: &[u32], lengths: &[usize]) -> f64 {
        let exec = &self.exec;
        let batch = Batch::packed(exec, tokens, lengths).expect("memory");
        let batch = batch.with_targets(exec, targets, 1.0).expect("memory");
        let losses = self.decoder.loss(&mut Ctx::new(exec, &self.params), &batch).expect("forward");
        reduce::sum(exec, losses.view())
    }

    fn grad(&self, id: ParamId) -> &[f64] {
        host::slice(self.grads.view(id))
    }
}

fn tokens(seed: u64, count: usize) -> Vec<u32> {
    let mut rng = Philox::new(seed, 0);
    (0..count).map(|_| rng.below(VOCABULARY as u64) as u32).collect()
}

fn targets(seed: u64, count: usize) -> Vec<u32> {
    let mut targets = tokens(seed, count);
    targets[1] = IGNORE;
    targets
}

#[test]
fn gradients_are_central_differences() {
    for tied in [false, true] {
        let config = Config { tie_word_embeddings: tied, ..config() };
        let mut bench = Bench::new(&config, DType::F64, 2, false);
        let (tokens, targets) = (tokens(1, ROWS), targets(2, ROWS));
        bench.step(&tokens, &targets, &LENGTHS, 0.25);
        let ids: Vec<_> = bench.decoder.table().iter().map(|(id, param)| (id, param.clone())).collect();
        let mut rng = Philox::new(3, 0);
        for (id, param) in ids {
            for _ in 0..6 {
                let index = rng.below(param.shape.count() as u64) as usize;
                let h = 1e-5;
                let mut at = |change: f64| {
                    host::slice_mut::<f64>(bench.params.view_mut(id))[index] += change;
                    bench.loss(&tokens, &targets, &LENGTHS)
                };
                let (above, below) = (at(h), at(-2.0 * h));
                at(h);
                let expected = 0.25 * (above - below) / (2.0 * h);
                let found = bench.grad(id)[index];
                assert!(
                    (found - expected).abs() <= 1e-7 * (1.0 + expected.abs()),
                    "{}[{index}] tied {tied}: {found} against {expected}",
                    param.parts[0].0
                );
            }
        }
    }
}

/// Token by token over pages in a strange order, beside another sequence, equals the whole sequence at once.
#[test]
fn decoding_equals_the_full_forward() {
    let bench = Bench::new(&config(), DType::F64, 2, false);
    let exec = &bench.exec;
    let tokens = tokens(7, 11);
    let batch = Batch::packed(exec, &tokens, &[11]).expect("memory");
    let full = bench.decoder.logits(&mut Ctx::new(exec, &bench.params), &batch).expect("forward");
    let full: Vec<f64> = exec.read(&full);

    let mut kv = bench.decoder.new_kv(exec, 8, 4).expect("memory");
    let (ours, others) = ([5, 0, 3], [1, 6, 2]);
    // A prompt of three, then two in one pass, then one by one.
    for (past, new) in [(0, 3), (3, 2), (5, 1), (6, 1), (7, 1), (8, 1), (9, 1), (10, 1)] {
        let other = [tokens[past]];
        let sequences = [
            Sequence { tokens: &other, past: past / 2, pages: &others },
            Sequence { tokens: &tokens[past..past + new], past, pages: &ours },
        ];
        let rows: Vec<u32> = (1..=new as u32).collect();
        let batch =
            Batch::paged(exec, &sequences, 4).expect("memory").with_logits_of(exec, &rows).expect("memory");
        let mut cx = Ctx::new(exec, &bench.params).with_kv(&mut kv);
        let logits = bench.decoder.logits(&mut cx, &batch).expect("forward");
        let logits: Vec<f64> = exec.read(&logits);
        for (found, expected) in logits.iter().zip(&full[past * VOCABULARY..]) {
            assert!((found - expected).abs() < 1e-12, "after {past}: {found} against {expected}");
        }
    }
}
