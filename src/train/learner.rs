//! One rank's model in training: weights, gradients and moments in a persistent region, activations in an arena
//! of exactly the size that a dry run found. It takes passes and makes steps; which rows and what learning rate
//! is the run's business.

use std::io::Read;

use super::{
    checkpoint::{Copied, Named, Reading, RunState},
    loader::Packed,
    recipe::Recipe,
    saver::Keep,
    shape::Shape,
};
use crate::{
    base::{Error, Result},
    device::{Device, host},
    model::{Config, Decoder, Options},
    nn::{Batch, Contributions, Ctx, GradReady, Grads, ParamTable, Params},
    ops::{Exec, adamw, elementwise, reduce},
    tensor::{Buf, DType, Tensor, TensorMut},
};

/// Bytes that one rank needs, found by a dry run: exactly what the real one uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Needs {
    /// Weights, gradients, moments and master weights.
    pub persistent_bytes: u64,
    /// Activations and what else a pass makes and drops, at its highest.
    pub pass_bytes: u64,
}

impl Needs {
    pub fn total_bytes(self) -> u64 {
        self.persistent_bytes + self.pass_bytes
    }

    /// What `recipe` will need of each rank's memory: everything a run does, without memory.
    pub fn rehearse(recipe: &Recipe, device: &Device) -> Result<Self> {
        let mut learner = Learner::new(Exec::dry(device.clone()), recipe)?;
        let rows = (recipe.micro_batch * recipe.shape.context) as usize;
        let packed = Packed {
            inputs: vec![0; rows],
            targets: vec![0; rows],
            pieces: vec![recipe.shape.context as u32; recipe.micro_batch as usize],
        };
        learner.begin_step();
        for _ in 0..recipe.accumulate {
            learner.accumulate(&packed, 1.0)?;
        }
        learner.update(0.0, 1)?;
        learner.nats(&packed)?;
        Ok(learner.used())
    }

    /// Memory of just this size where the device computes.
    pub fn exec(self, device: &Device) -> Result<Exec> {
        Exec::new(device.clone(), self.pass_bytes as usize, self.persistent_bytes as usize)
    }
}

pub struct Learner {
    exec: Exec,
    decoder: Decoder,
    params: Params,
    grads: Grads,
    /// First and second moments, f32, in the order of the parameters; as are the master weights of a short type.
    moments: [Buf; 2],
    master: Option<Buf>,
    /// What AdamW reads: the step's numbers, and which elements decay.
    numbers: Buf,
    decays: Buf,
    /// What each pass of a step lost, f64: read when the whole step is under way, so that nothing waits in between.
    losses: Buf,
    /// Passes of this step.
    passes: usize,
    expected: Contributions,
    optimizer: Optimizer,
}

/// The constants of a step.
#[derive(Clone, Copy, Debug)]
struct Optimizer {
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    weight_decay: f64,
    clip: f64,
}

impl Learner {
    /// Memory for everything, all zero.
    pub fn new(exec: Exec, recipe: &Recipe) -> Result<Self> {
        let formats = recipe.precision.formats();
        let positions = recipe.shape.context as usize;
        let options = Options { dtype: formats.weights, recompute: recipe.recompute, positions };
        let decoder = Decoder::new(&exec, &recipe.shape.config(), options)?;
        let params = decoder.new_params(&exec)?;
        let grads = Grads::new(&exec, &params)?;
        debug_assert_eq!(grads.flat().dtype(), formats.gradients);
        let zeros = |len: usize, dtype| exec.take_zeros([len], dtype);
        let len = decoder.table().buffer_len();
        let moments = [zeros(len, formats.moments)?, zeros(len, formats.moments)?];
        let master = formats.master.map(|dtype| zeros(len, dtype)).transpose()?;
        let numbers = zeros(adamw::NUMBERS, DType::F64)?;
        let losses = zeros(recipe.accumulate as usize, DType::F64)?;
        let table = decoder.table().decay_table();
        let mut decays = exec.persistent.take([table.len()], DType::U32)?;
        exec.write(&mut decays, &table);
        let expected = decoder.contributions(&exec)?.times(recipe.accumulate as u32);
        let Recipe { beta1, beta2, epsilon, weight_decay, clip, .. } = *recipe;
        let optimizer = Optimizer { beta1, beta2, epsilon, weight_decay, clip };
        Ok(Self {
            exec,
            decoder,
            params,
            grads,
            moments,
            master,
            numbers,
            decays,
            losses,
            passes: 0,
            expected,
            optimizer,
        })
    }

    /// Draws the initial weights.
    pub fn init(&mut self, seed: u64) {
        self.params.init(&self.exec, seed);
        if let Some(master) = &mut self.master {
            elementwise::cast(&self.exec, self.params.flat(), master.view_mut());
        }
    }

    /// Whom to tell of complete gradients: the exchange between ranks.
    pub fn on_ready(&mut self, ready: Box<dyn GradReady>) {
        self.grads.on_ready(ready);
    }

    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The highest that this rank's memory has stood.
    pub fn used(&self) -> Needs {
        Needs {
            persistent_bytes: self.exec.persistent.peak_bytes() as u64,
            pass_bytes: self.exec.arena.peak_bytes() as u64,
        }
    }

    pub fn begin_step(&mut self) {
        self.passes = 0;
        self.grads.begin_step(&self.expected);
    }

    /// One pass, forward and backward. Gradients of `scale` times the sum of its losses are added to the step's.
    ///
    /// # Panics
    /// If the step has more passes than the recipe says.
    pub fn accumulate(&mut self, packed: &Packed, scale: f64) -> Result<()> {
        let batch = batch(&self.exec, packed, scale)?;
        let mut cx = Ctx::new(&self.exec, &self.params).with_grads(&mut self.grads);
        let (losses, saved) = self.decoder.forward_loss(&mut cx, &batch)?;
        let sum = self.losses.view_mut().slice_rows(self.passes..self.passes + 1);
        reduce::sum_into(&self.exec, losses.view(), sum)?;
        self.passes += 1;
        drop(losses);
        self.decoder.backward(&mut cx, &batch, saved)
    }

    /// The sum of the losses of the step's passes in nats.
    pub fn step_nats(&self) -> Result<f64> {
        let losses = self.exec.read::<f64>(&self.losses)?;
        Ok(losses[..self.passes].iter().sum())
    }

    /// One AdamW step with the gradients of the passes, clipped by their global norm, which is given back.
    ///
    /// # Errors
    /// Where the norm is not finite: nothing has then been changed.
    pub fn update(&mut self, learning_rate: f64, step: u64) -> Result<f64> {
        self.grads.end_step()?;
        let Optimizer { beta1, beta2, epsilon, weight_decay, clip } = self.optimizer;
        let numbers =
            adamw::Step { learning_rate, beta1, beta2, eps: epsilon, weight_decay, clip, step }.to_array();
        self.exec.write(&mut self.numbers, &numbers);
        let mut squares = self.exec.take([1], DType::F64)?;
        reduce::sum_of_squares_into(&self.exec, self.grads.flat(), squares.view_mut())?;
        adamw::clip(&self.exec, squares.view(), self.numbers.view_mut());
        let [first, second] = &mut self.moments;
        adamw::step(
            &self.exec,
            self.numbers.view(),
            Some(self.decays.view()),
            self.grads.flat(),
            first.view_mut(),
            second.view_mut(),
            self.master.as_mut().map(Buf::view_mut),
            self.params.flat_mut(),
        );
        let norm = self.exec.read::<f64>(&self.numbers)?[adamw::NORM];
        if !norm.is_finite() {
            return Err(Error::failed(format!("the gradient's norm is {norm}")));
        }
        Ok(norm)
    }

    /// The sum of the losses in nats; nothing is learnt.
    pub fn nats(&self, packed: &Packed) -> Result<f64> {
        let batch = batch(&self.exec, packed, 1.0)?;
        let mut cx = Ctx::new(&self.exec, &self.params);
        let losses = self.decoder.loss(&mut cx, &batch)?;
        reduce::sum(&self.exec, losses.view())
    }

    /// A copy of what a checkpoint holds: master weights and, to resume from, the moments.
    pub fn copied(&self, state: &RunState, keep: Keep) -> Result<Copied> {
        let table = self.decoder.table();
        let blocks = match keep {
            Keep::Best => vec![("", self.weights())],
            Keep::Latest => {
                let [first, second] = &self.moments;
                vec![("", self.weights()), (FIRST, first.view()), (SECOND, second.view())]
            }
        };
        let names = blocks.iter().flat_map(|(prefix, flat)| {
            parts(table).map(move |(name, start, shape)| (format!("{prefix}{name}"), start, shape, *flat))
        });
        let names: Vec<_> = names.collect();
        Copied::new(
            state,
            blocks.iter().map(|(_, flat)| flat.count()).sum(),
            names.iter().map(|(name, start, shape, flat)| {
                let count: usize = shape.iter().product();
                (Named { name, shape }, flat.window(*start, [count]))
            }),
            |part, numbers| host::append(&self.exec.device, part, numbers),
        )
    }

    /// Takes over what a checkpoint holds; the moments too where it has them and `keep` asks for them.
    pub fn restore(&mut self, mut from: Reading<impl Read>, keep: Keep) -> Result<()> {
        let table = self.decoder.table().clone();
        let device = &self.exec.device;
        let mut fill = |prefix: &str, mut flat: TensorMut| {
            parts(&table).try_for_each(|(name, start, shape)| {
                let name = format!("{prefix}{name}");
                let count: usize = shape.iter().product();
                let part = flat.reborrow().window(start, [count]);
                host::with_slice_mut(device, part, |into| {
                    from.fill(Named { name: &name, shape: &shape }, into)
                })
            })
        };
        match &mut self.master {
            Some(master) => fill("", master.view_mut())?,
            None => fill("", self.params.flat_mut())?,
        }
        if keep == Keep::Latest {
            let [first, second] = &mut self.moments;
            fill(FIRST, first.view_mut())?;
            fill(SECOND, second.view_mut())?;
        }
        if let Some(master) = &self.master {
            elementwise::cast(&self.exec, master.view(), self.params.flat_mut());
        }
        Ok(())
    }

    /// The weights in f32.
    fn weights(&self) -> Tensor<'_> {
        self.master.as_ref().map_or(self.params.flat(), Buf::view)
    }
}

const FIRST: &str = "adamw.first.";
const SECOND: &str = "adamw.second.";

/// Every named matrix or vector with the place of its first element.
fn parts(table: &ParamTable) -> impl Iterator<Item = (&str, usize, Vec<usize>)> {
    table.parts().map(|(name, id, first_row, shape)| {
        let param = &table[id];
        (name, param.start + first_row * param.shape.row_count(), shape.dims().to_vec())
    })
}

fn batch(exec: &Exec, packed: &Packed, scale: f64) -> Result<Batch> {
    let lengths: Vec<usize> = packed.pieces.iter().map(|&len| len as usize).collect();
    Batch::packed(exec, &packed.inputs, &lengths)?.with_targets(exec, &packed.targets, scale as f32)
}

impl Shape {
    /// The same in Hugging Face's names.
    pub fn config(&self) -> Config {
        Config {
            architectures: vec!["LlamaForCausalLM".into()],
            vocab_size: self.vocab as usize,
            hidden_size: self.dim as usize,
            intermediate_size: self.ffn as usize,
            num_hidden_layers: self.layers as usize,
            num_attention_heads: self.heads as usize,
            num_key_value_heads: self.kv_heads as usize,
            head_dim: self.head_dim as usize,
            max_position_embeddings: self.context as usize,
            rms_norm_eps: 1e-5,
            rope_theta: self.rope_theta,
            tie_word_embeddings: self.tied,
            initializer_range: 0.02,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::{
        base::Philox,
        device::Comm,
        train::{DataFacts, Purpose, RunConfig},
    };

    /// A step of four sequences, by `ranks` ranks in `accumulate` passes each.
    fn recipe(ranks: u32, micro_batch: u32, tied: bool) -> Recipe {
        let config = RunConfig {
            purpose: Some(Purpose::trial()),
            layers: Some(2),
            dim: Some(32),
            heads: Some(4),
            kv_heads: Some(2),
            ffn: Some(48),
            context: Some(16),
            batch_tokens: Some(64),
            micro_batch: Some(micro_batch),
            ranks: Some(ranks),
            tied: Some(tied),
            ..RunConfig::default()
        };
        let data = DataFacts { vocab: 50, train_tokens: 9999, heldout_tokens: 0, heldout_bytes: 0 };
        Recipe::settle(&config, &data, None).expect("sound")
    }

    fn learner(recipe: &Recipe) -> Learner {
        let device = Device::cpu(Some(1));
        let exec = Needs::rehearse(recipe, &device).and_then(|needs| needs.exec(&device)).expect("small");
        let mut learner = Learner::new(exec, recipe).expect("small");
        learner.init(7);
        learner
    }

    fn rows(first: u64, count: u64) -> Packed {
        let mut packed = Packed::default();
        for row in first..first + count {
            let mut rng = Philox::new(1, row);
            packed.inputs.extend((0..16).map(|_| rng.below(50) as u32));
            packed.targets.extend((0..16).map(|_| rng.below(50) as u32));
            packed.pieces.extend([5, 11]);
        }
        packed
    }

    /// The gradient of one step and the sum of its losses, as each rank has it.
    fn step(recipe: &Recipe) -> Vec<(Vec<f32>, f64)> {
        thread::scope(|scope| {
            let ranks: Vec<_> = Comm::group(recipe.ranks as usize)
                .into_iter()
                .map(|comm| {
                    scope.spawn(move || {
                        let mut learner = learner(recipe);
                        learner.on_ready(Box::new(super::super::mesh::Exchange(comm.clone())));
                        learner.begin_step();
                        for pass in 0..recipe.accumulate {
                            let turn = pass * recipe.ranks + comm.rank() as u64;
                            let packed = rows(turn * recipe.micro_batch, recipe.micro_batch);
                            learner.accumulate(&packed, 1.0 / 64.0).expect("a sound pass");
                        }
                        let mut nats = [learner.step_nats().expect("sound passes")];
                        comm.sum(&mut nats).expect("both are here");
                        learner.grads.end_step().expect("every gradient is whole");
                        (host::slice::<f32>(learner.grads.flat()).to_vec(), nats[0])
                    })
                })
                .collect();
            ranks.into_iter().map(|rank| rank.join().expect("no panic")).collect()
        })
    }

    /// Ranks have the same bits as one another; against one rank the sums are taken in another order, so they
    /// agree up to rounding.
    #[test]
    fn ranks_and_passes_give_one_ranks_gradients() {
        for tied in [true, false] {
            let one = step(&recipe(1, 4, tied)).remove(0);
            let largest = one.0.iter().fold(0f32, |largest, x| largest.max(x.abs()));
            for (ranks, micro_batch) in [(1, 1), (2, 2), (2, 1), (4, 1)] {
                let all = step(&recipe(ranks, micro_batch, tied));
                assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "ranks differ");
                let apart = one.0.iter().zip(&all[0].0).map(|(a, b)| (a - b).abs());
                let apart = apart.fold(0f32, f32::max);
                assert!(apart <= 2e-6 * largest, "{ranks} x {micro_batch}: {apart} of {largest}");
                assert!((one.1 / all[0].1 - 1.0).abs() < 1e-6, "{} {}", one.1, all[0].1);
            }
        }
    }

    #[test]
    fn a_step_that_fails_changes_nothing() {
        let recipe = recipe(1, 4, true);
        let mut learner = learner(&recipe);
        let before = host::slice::<f32>(learner.params.flat()).to_vec();
        learner.begin_step();
        assert!(learner.update(1e-3, 1).is_err(), "a step without its passes");
        learner.begin_step();
        learner.accumulate(&rows(0, 4), f64::from(f32::MAX)).expect("finite losses");
        assert!(learner.update(1e-3, 1).is_err(), "a gradient that is not finite");
        assert!(host::slice::<f32>(learner.params.flat()) == before, "nothing was changed");
        learner.begin_step();
        learner.accumulate(&rows(0, 4), 1.0 / 64.0).expect("finite losses");
        let norm = learner.update(1e-3, 1).expect("a sound step");
        assert!(norm > 0.0 && host::slice::<f32>(learner.params.flat()) != before);
    }
}
