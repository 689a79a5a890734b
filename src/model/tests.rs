use std::sync::mpsc;

use super::*;
use crate::{
    base::Philox,
    device::{Comm, Device, host},
    nn::{Batch, Contributions, Ctx, GradReady, Grads, ParamId, Params, Sequence},
    ops::{Exec, cross_entropy::IGNORE, reduce},
    tensor::{DType, TensorMut},
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
        let exec = Exec::new(Device::cpu(Some(threads)), 64 << 20, 64 << 20).expect("memory");
        let decoder =
            Decoder::new(&exec, config, Options { dtype, recompute, positions: 256 }).expect("valid");
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
        reduce::sum(exec, losses.view()).expect("memory")
    }

    fn loss(&self, tokens: &[u32], targets: &[u32], lengths: &[usize]) -> f64 {
        let exec = &self.exec;
        let batch = Batch::packed(exec, tokens, lengths).expect("memory");
        let batch = batch.with_targets(exec, targets, 1.0).expect("memory");
        let losses = self.decoder.loss(&mut Ctx::new(exec, &self.params), &batch).expect("forward");
        reduce::sum(exec, losses.view()).expect("memory")
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
    let full: Vec<f64> = exec.read(&full).expect("on the host");

    let mut kv = bench.decoder.new_kv(exec, 8, 4).expect("memory");
    let (ours, others) = ([5, 0, 3], [1, 6, 2]);
    // The first token of a prompt without logits, two more, two in one pass, then one by one.
    for (past, new) in [(0, 1), (1, 2), (3, 2), (5, 1), (6, 1), (7, 1), (8, 1), (9, 1), (10, 1)] {
        let other = [tokens[past]];
        let sequences = [
            Sequence { tokens: &other, past: past / 2, pages: &others },
            Sequence { tokens: &tokens[past..past + new], past, pages: &ours },
        ];
        let rows: Vec<u32> = if past == 0 { vec![] } else { (1..=new as u32).collect() };
        let batch =
            Batch::paged(exec, &sequences, 4).expect("memory").with_logits_of(exec, &rows).expect("memory");
        let mut cx = Ctx::new(exec, &bench.params).with_kv(&mut kv);
        let logits = bench.decoder.logits(&mut cx, &batch).expect("forward");
        let logits: Vec<f64> = exec.read(&logits).expect("on the host");
        assert_eq!(logits.len(), rows.len() * VOCABULARY);
        for (found, expected) in logits.iter().zip(&full[past * VOCABULARY..]) {
            assert!((found - expected).abs() < 1e-12, "after {past}: {found} against {expected}");
        }
    }
}

/// All gradients, as bits.
fn grad_bits(bench: &Bench) -> Vec<u8> {
    let flat = bench.grads.flat();
    match flat.dtype() {
        DType::Bf16 => bytemuck::cast_slice(host::slice::<half::bf16>(flat)).to_vec(),
        _ => bytemuck::cast_slice(host::slice::<f32>(flat)).to_vec(),
    }
}

/// A batch large enough that every operation cuts it into several tasks.
fn long_batch() -> (Vec<u32>, Vec<u32>, Vec<usize>) {
    let lengths = vec![64, 1, 63, 130, 40];
    let rows = lengths.iter().sum();
    (tokens(11, rows), targets(12, rows), lengths)
}

fn wide_config() -> Config {
    Config { hidden_size: 48, intermediate_size: 80, num_hidden_layers: 3, ..config() }
}

#[test]
fn threads_change_no_bit() {
    let (tokens, targets, lengths) = long_batch();
    for dtype in [DType::F32, DType::Bf16] {
        let run = |threads| {
            let mut bench = Bench::new(&wide_config(), dtype, threads, false);
            let loss = bench.step(&tokens, &targets, &lengths, 1.0 / 297.0);
            (loss.to_bits(), grad_bits(&bench))
        };
        let one = run(1);
        assert!(run(3) == one, "{dtype}");
        assert!(f64::from_bits(one.0).is_finite());
    }
}

#[test]
fn recomputing_saves_memory_and_changes_no_bit() {
    let (tokens, targets, lengths) = long_batch();
    for dtype in [DType::F32, DType::Bf16] {
        let run = |recompute| {
            let mut bench = Bench::new(&wide_config(), dtype, 2, recompute);
            bench.step(&tokens, &targets, &lengths, 1.0 / 297.0);
            (grad_bits(&bench), bench.exec.arena.peak_bytes())
        };
        let ((kept, kept_peak), (again, again_peak)) = (run(false), run(true));
        assert!(kept == again, "{dtype}");
        assert!(again_peak * 3 < kept_peak * 2, "{again_peak} of {kept_peak}");
    }
}

/// The dry run's peak and persistent bytes are those of the real run, and an arena of just that size is enough.
#[test]
fn a_dry_run_foretells_the_memory() {
    let (tokens, targets, lengths) = long_batch();
    let run = |exec: Exec| -> crate::base::Result<(usize, usize)> {
        let options = Options { dtype: DType::F32, recompute: false, positions: 256 };
        let decoder = Decoder::new(&exec, &wide_config(), options)?;
        let mut params = decoder.new_params(&exec)?;
        params.init(&exec, 1);
        let mut grads = Grads::new(&exec, &params)?;
        for _ in 0..2 {
            let batch = Batch::packed(&exec, &tokens, &lengths)?.with_targets(&exec, &targets, 1.0)?;
            let mut cx = Ctx::new(&exec, &params).with_grads(&mut grads);
            let (losses, saved) = decoder.forward_loss(&mut cx, &batch)?;
            decoder.backward(&mut cx, &batch, saved)?;
            drop(losses);
        }
        assert_eq!(exec.arena.used_bytes(), 0, "everything went back");
        Ok((exec.arena.peak_bytes(), exec.persistent.peak_bytes()))
    };
    let device = Device::cpu(Some(2));
    let (pass, persistent) = run(Exec::dry(device.clone())).expect("a dry run has no end");
    let exact = Exec::new(device.clone(), pass, persistent).expect("memory");
    assert_eq!(run(exact).expect("exactly enough"), (pass, persistent));
    let short = Exec::new(device, pass - 64, persistent).expect("memory");
    assert!(run(short).is_err_and(|error| error.remedy_text().is_some()));
}

/// Sums gradients over ranks as they become ready, and notes their order.
struct Exchange {
    comm: Comm,
    order: mpsc::Sender<ParamId>,
}

impl GradReady for Exchange {
    fn grad_ready(&mut self, _: &Exec, id: ParamId, grad: TensorMut) -> crate::base::Result<()> {
        self.order.send(id).expect("the test listens");
        self.comm.all_reduce(grad)
    }
}

/// A tied head, two micro-batches and two ranks together give what one rank gets from the whole batch at once.
#[test]
fn ranks_and_micro_batches_give_one_ranks_gradients() {
    let config = Config { tie_word_embeddings: true, ..config() };
    let parts: Vec<_> = (0..4).map(|part| (tokens(20 + part, 9), targets(30 + part, 9))).collect();
    let mut whole = Bench::new(&config, DType::F64, 2, false);
    let (all_tokens, all_targets) =
        (parts.iter().flat_map(|p| p.0.clone()), parts.iter().flat_map(|p| p.1.clone()));
    let (all_tokens, all_targets): (Vec<_>, Vec<_>) = (all_tokens.collect(), all_targets.collect());
    let loss = whole.step(&all_tokens, &all_targets, &[9; 4], 0.125);

    let ranks: Vec<_> = Comm::group(2)
        .into_iter()
        .zip(parts.chunks(2))
        .map(|(comm, parts)| {
            let (config, parts) = (config.clone(), parts.to_vec());
            std::thread::spawn(move || {
                let mut bench = Bench::new(&config, DType::F64, 1, false);
                let (order, ready) = mpsc::channel();
                bench.grads.on_ready(Box::new(Exchange { comm, order }));
                let expected = bench.contributions.times(2);
                bench.grads.begin_step(&expected);
                let pass =
                    |(tokens, targets): &(Vec<u32>, Vec<u32>)| bench.pass(tokens, targets, &[9], 0.125);
                let loss: f64 = parts.iter().map(pass).sum();
                bench.grads.end_step().expect("all contributions");
                (bench, loss, ready.try_iter().collect::<Vec<_>>())
            })
        })
        .collect();
    let ranks: Vec<_> = ranks.into_iter().map(|rank| rank.join().expect("a rank")).collect();
    assert!((ranks.iter().map(|rank| rank.1).sum::<f64>() - loss).abs() < 1e-10);
    assert_eq!(ranks[0].2, ranks[1].2, "one order on every rank");
    assert_eq!(ranks[0].2.len(), whole.decoder.table().iter().len(), "each once");
    for (bench, ..) in &ranks {
        for (id, param) in whole.decoder.table().iter() {
            for (found, expected) in bench.grad(id).iter().zip(whole.grad(id)) {
                let close = (found - expected).abs() < 1e-12 * (1.0 + expected.abs());
                assert!(close, "{}: {found} against {expected}", param.parts[0].0);
            }
        }
    }
}

#[test]
fn a_step_that_lacks_a_contribution_is_no_step() {
    let mut bench = Bench::new(&config(), DType::F64, 1, false);
    let expected = bench.contributions.times(2);
    bench.grads.begin_step(&expected);
    bench.pass(&tokens(1, ROWS), &targets(2, ROWS), &LENGTHS, 1.0);
    let error = bench.grads.end_step().expect_err("one pass of two");
    assert!(error.to_string().contains("1 contributions where 2"), "{error}");
}

#[test]
fn the_same_seed_draws_the_same_weights_in_every_type() {
    let weights = |dtype, threads| {
        let bench = Bench::new(&wide_config(), dtype, threads, false);
        let id = bench.decoder.table().iter().next().expect("the embedding").0;
        let rms = reduce::sum_of_squares(&bench.exec, bench.params.view(id)).expect("memory")
            / bench.params.view(id).count() as f64;
        (bench, id, rms.sqrt())
    };
    let ((single, id, rms), (double, _, _)) = (weights(DType::F32, 1), weights(DType::F64, 3));
    assert!((rms - 0.4).abs() < 0.02, "{rms}");
    let pairs =
        host::slice::<f32>(single.params.view(id)).iter().zip(host::slice::<f64>(double.params.view(id)));
    assert!(pairs.into_iter().all(|(&a, &b)| a == b as f32));
}
