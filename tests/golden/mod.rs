//! Tiny models, a llama and a Qwen2, beside what PyTorch computed for them (`make.py` says how, with versions and seed
//! inside): logits, the gradient of every parameter, the losses of ten AdamW steps. The files are imported the way a
//! user's are.

mod company;

use std::path::{Path, PathBuf};

use cloister::{
    device::{Choice, Device, host},
    model::{
        Decoder, Options,
        import::Import,
        weights::{self, WeightsFile},
    },
    nn::{Batch, Contributions, Ctx, Grads, Params},
    ops::{Exec, adamw, cross_entropy::IGNORE, elementwise, reduce},
    tensor::{Buf, DType},
};
use safetensors::SafeTensors;

/// Two libraries sum in different orders in f32; nothing here is deeper than two layers of a few dozen channels.
const TOLERANCE_F32: f64 = 2e-5;
/// Root mean square, relative to that of the f32 logits. PyTorch's own bf16 is off by 0.023.
const TOLERANCE_BF16: f64 = 0.03;
/// Relative to the loss; ten steps let differences of rounding grow.
const TOLERANCE_LOSSES: f64 = 2e-5;

/// The folder of each family, and how many tensors its model has.
const FAMILIES: [(&str, usize); 2] = [("llama", 3 + 2 * 9), ("qwen2", 2 + 2 * 12)];

fn directory(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(family)
}

struct Expected(Vec<u8>);

impl Expected {
    fn read(family: &str) -> Self {
        Self(std::fs::read(directory(family).join("expected.safetensors")).expect("checked in"))
    }

    fn bytes<const N: usize>(&self, name: &str) -> Vec<[u8; N]> {
        let file = SafeTensors::deserialize(&self.0).expect("as safetensors wrote it");
        file.tensor(name).expect("written by make.py").data().as_chunks().0.to_vec()
    }

    fn f32(&self, name: &str) -> Vec<f32> {
        self.bytes(name).into_iter().map(f32::from_le_bytes).collect()
    }

    fn f64(&self, name: &str) -> Vec<f64> {
        self.bytes(name).into_iter().map(f64::from_le_bytes).collect()
    }

    /// PyTorch's integers; -1 becomes [`IGNORE`].
    fn u32(&self, name: &str) -> Vec<u32> {
        let id = |x: i64| u32::try_from(x).unwrap_or(IGNORE);
        self.bytes(name).into_iter().map(i64::from_le_bytes).map(id).collect()
    }

    fn lengths(&self) -> Vec<usize> {
        self.u32("lengths").into_iter().map(|length| length as usize).collect()
    }
}

struct Model {
    exec: Exec,
    decoder: Decoder,
    params: Params,
}

/// The processor, or what `CLOISTER_TEST_DEVICE` names.
fn device() -> Device {
    let choice = std::env::var("CLOISTER_TEST_DEVICE").map_or(Ok(Choice::Cpu), |name| name.parse());
    choice.and_then(|choice| choice.open(Some(2))).expect("a device")
}

impl Model {
    fn import(family: &str, dtype: DType) -> Self {
        let import = Import::open(&directory(family)).expect("a directory as transformers writes it");
        let mut copy = Vec::new();
        import.write(&mut copy).expect("in memory");
        let exec = Exec::new(device(), 16 << 20, 16 << 20).expect("memory");
        let options = Options { dtype, recompute: false, positions: 64 };
        let file = WeightsFile::open(copy.as_slice()).expect("our own form");
        let decoder = Decoder::new(&exec, &file.config().expect("inside"), options).expect("valid");
        let mut params = decoder.new_params(&exec).expect("memory");
        weights::load(&mut params, &[file]).expect("all weights");
        Self { exec, decoder, params }
    }

    fn logits(&self, expected: &Expected) -> Vec<f32> {
        let batch = Batch::packed(&self.exec, &expected.u32("tokens"), &expected.lengths()).expect("memory");
        let logits = self.decoder.logits(&mut Ctx::new(&self.exec, &self.params), &batch).expect("forward");
        self.exec.read(&logits).expect("a sound pass")
    }

    /// Forward and backward of the mean loss, which is returned.
    fn pass(
        &self,
        grads: &mut Grads,
        contributions: &Contributions,
        tokens: &[u32],
        targets: &[u32],
        lengths: &[usize],
    ) -> f64 {
        let exec = &self.exec;
        let counted = targets.iter().filter(|&&target| target != IGNORE).count();
        grads.begin_step(contributions);
        let batch = Batch::packed(exec, tokens, lengths).expect("memory");
        let batch = batch.with_targets(exec, targets, 1.0 / counted as f32).expect("memory");
        let mut cx = Ctx::new(exec, &self.params).with_grads(grads);
        let (losses, saved) = self.decoder.forward_loss(&mut cx, &batch).expect("forward");
        self.decoder.backward(&mut cx, &batch, saved).expect("backward");
        grads.end_step().expect("every gradient");
        reduce::sum(exec, losses.view()).expect("memory") / counted as f64
    }
}

/// The largest difference, relative to the largest expected number.
fn difference(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    let furthest = found.iter().zip(expected).fold(0f32, |furthest, (a, b)| furthest.max((a - b).abs()));
    assert!(found.iter().all(|x| x.is_finite()));
    f64::from(furthest / largest)
}

#[test]
fn logits_are_those_of_transformers() {
    FAMILIES.iter().for_each(|(family, _)| check_logits(family));
}

fn check_logits(family: &str) {
    let expected = Expected::read(family);
    let logits = expected.f32("logits");
    let found = difference(&Model::import(family, DType::F32).logits(&expected), &logits);
    assert!(found < TOLERANCE_F32, "{family} f32: {found}");
    let short = Model::import(family, DType::Bf16).logits(&expected);
    let squares = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|x| f64::from(x * x)).sum::<f64>();
    let error = squares(&mut short.iter().zip(&logits).map(|(a, b)| a - b));
    let found = (error / squares(&mut logits.iter().copied())).sqrt();
    assert!(found < TOLERANCE_BF16, "{family} bf16: {found}");
}

#[test]
fn every_gradient_is_that_of_pytorch() {
    FAMILIES.iter().for_each(|&(family, tensors)| check_gradients(family, tensors));
}

fn check_gradients(family: &str, tensors: usize) {
    let expected = Expected::read(family);
    let model = Model::import(family, DType::F32);
    let mut grads = Grads::new(&model.exec, &model.params).expect("memory");
    let contributions = model.decoder.contributions(&model.exec).expect("a dry run");
    let (tokens, targets) = (expected.u32("tokens"), expected.u32("targets"));
    model.pass(&mut grads, &contributions, &tokens, &targets, &expected.lengths());
    let mut compared = 0;
    for (name, id, first, shape) in model.decoder.table().parts() {
        let grad = grads.view(id).slice_rows(first..first + shape.rows());
        let wanted = expected.f32(&format!("grad.{name}"));
        let found = host::with_slice(&model.exec.device, grad, |grad| difference(grad, &wanted));
        let found = found.expect("a sound pass");
        assert!(found < TOLERANCE_F32, "{family} {name}: {found}");
        compared += 1;
    }
    assert_eq!(compared, tensors);
}

#[test]
fn ten_steps_of_adamw_lose_what_they_lose_in_pytorch() {
    FAMILIES.iter().for_each(|(family, _)| check_steps(family));
}

fn check_steps(family: &str) {
    let expected = Expected::read(family);
    let mut model = Model::import(family, DType::F32);
    let exec = model.exec.clone();
    let table = model.decoder.table().clone();
    let mut grads = Grads::new(&exec, &model.params).expect("memory");
    let contributions = model.decoder.contributions(&exec).expect("a dry run");
    let zeros = || {
        let mut zeros = exec.persistent.take([table.buffer_len()], DType::F32).expect("memory");
        elementwise::zero(&exec, zeros.view_mut());
        zeros
    };
    let (mut m, mut v): (Buf, Buf) = (zeros(), zeros());
    let decays = table.decay_table();
    let decays = exec.upload([decays.len()], &decays).expect("memory");
    let lengths = expected.lengths();
    let rows = lengths.iter().sum();
    let (tokens, targets) = (expected.u32("steps.tokens"), expected.u32("steps.targets"));
    let batches = tokens.chunks_exact(rows).zip(targets.chunks_exact(rows));
    for ((step, (tokens, targets)), loss) in (1..).zip(batches).zip(expected.f64("losses")) {
        let found = model.pass(&mut grads, &contributions, tokens, targets, &lengths);
        assert!(
            (found / loss - 1.0).abs() < TOLERANCE_LOSSES,
            "{family} step {step}: {found} against {loss}"
        );
        let numbers = adamw::Step {
            learning_rate: 1e-2,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            clip: 1.0,
            step,
        };
        let mut numbers = exec.upload([adamw::NUMBERS], &numbers.to_array()).expect("memory");
        let mut squares = exec.take([1], DType::F64).expect("memory");
        reduce::sum_of_squares_into(&exec, grads.flat(), squares.view_mut()).expect("memory");
        adamw::clip(&exec, squares.view(), numbers.view_mut());
        let (m, v, w) = (m.view_mut(), v.view_mut(), model.params.flat_mut());
        adamw::step(&exec, numbers.view(), Some(decays.view()), grads.flat(), m, v, None, w);
    }
}
