//! Pretraining from the first step to the last: what a job is told, what it does in which order, and what it
//! hands back. How a step is made is in `mesh` and `learner`.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{
    calibrate,
    checkpoint::{Reading, RunState},
    config::RunConfig,
    data::Data,
    learner::Learner,
    machine,
    mesh::{self, Job, Member},
    meter::{Meter, Scale},
    plan::Memory,
    recipe::Recipe,
    saver::{Keep, Saver, Store},
};
use crate::{
    base::{Context, Error, Id, IdKind, Monitor, Progress, Result},
    device::{Choice, Device},
    model::weights,
    vault::{Depot, ObjectReader},
};

/// What a pretraining job is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PretrainSpec {
    pub run: Id,
    pub config: RunConfig,
    pub tokenizer: Id,
    /// Token shards of the snapshot, training and held-out documents alike.
    pub shards: Vec<Id>,
    pub device: Choice,
    /// Threads of all ranks together; None takes every core.
    pub threads: Option<usize>,
    /// The last fact of kind [`Checkpoints::FACT`] that this run recorded.
    pub resume: Option<Checkpoints>,
}

/// The checkpoints of a run that stand in the vault: what a later start needs to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoints {
    /// With optimizer state, newest last; never more than two.
    pub latest: Vec<Id>,
    /// Weights alone, where the held-out loss was lowest.
    pub best: Option<Id>,
}

impl Checkpoints {
    /// The name under which a run records them with `Monitor::record`.
    pub const FACT: &str = "checkpoints";
}

/// One measurement on the way.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Optimizer steps done.
    pub step: u64,
    /// Nats per token over the steps since the point before.
    pub loss: f64,
    /// Nats per token on a sample of the held-out documents, the same at every point; None where the snapshot
    /// has none.
    pub heldout_loss: Option<f64>,
    /// The same loss with the tokens per byte of all held-out documents.
    pub heldout_bits_per_byte: Option<f64>,
    pub learning_rate: f64,
}

/// How well a model foretells held-out documents.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldOut {
    /// Nats per predicted position.
    pub loss: f64,
    pub bits_per_byte: f64,
    /// Predicted positions: every token, and every document's end.
    pub positions: u64,
    /// UTF-8 bytes of the documents' text.
    pub bytes: u64,
}

impl HeldOut {
    /// `nats` summed over `positions` that stand for `bytes` of text. Foretelling where a document ends is
    /// charged to the model; its beginning is given.
    pub fn new(nats: f64, positions: u64, bytes: u64) -> Self {
        Self {
            loss: nats / positions as f64,
            bits_per_byte: nats / std::f64::consts::LN_2 / bytes as f64,
            positions,
            bytes,
        }
    }
}

/// What a pretraining job hands back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PretrainOutcome {
    pub run: Id,
    /// The weights where the held-out loss was lowest: safetensors with Hugging Face's names.
    pub model: Id,
    /// The step those weights are from.
    pub model_step: u64,
    pub checkpoints: Checkpoints,
    /// What the run followed, the purpose included.
    pub recipe: Recipe,
    pub parameters: u64,
    pub steps_done: u64,
    pub tokens_seen: u64,
    /// Of `model` over every held-out document; None where the snapshot has none.
    pub heldout: Option<HeldOut>,
    pub curve: Vec<CurvePoint>,
    pub peak_memory_bytes: u64,
    pub tokens_per_s: f64,
    /// Time spent training in this process and those before it.
    pub elapsed_s: f64,
}

impl PretrainOutcome {
    /// The name under which a finished run records its outcome.
    pub const FACT: &str = "outcome";
}

/// Trains, from the beginning or from where the run stopped.
///
/// # Errors
/// `Interrupted` when it was asked to stop: its checkpoint then stands. `Failed` where the loss is no longer a
/// number; the last checkpoint is kept. What the plan refuses, and what opening the data says.
pub fn run(spec: &PretrainSpec, depot: &dyn Depot, monitor: &dyn Monitor) -> Result<PretrainOutcome> {
    let mut data = Data::open(spec.tokenizer, &spec.shards, depot)?;
    let device = spec.device.open(spec.threads)?;
    let kept = newest(spec, depot, monitor)?;
    let config = spec.config.clone().on(&device);
    let stated = config.precision.unwrap_or_default();
    let precision = kept.as_ref().map_or(stated, |(_, state)| state.recipe.precision);
    let matrix_flops_per_s = machine::matrix_flops_per_s(&device, precision.formats().weights)?;
    let (from, state) = match kept {
        Some((from, state)) => (Some(from), state),
        None => (None, begin(spec, &config, &data, &device, matrix_flops_per_s, monitor)?),
    };
    let recipe = state.recipe.clone();
    let memory = Memory::rehearse(&recipe, &data.facts, &device)?;
    memory.check_fits(&device)?;
    data.load(memory.spare_bytes())?;
    if recipe.ranks > 1 && matches!(device, Device::Cuda(_)) {
        return Err(Error::usage("ranks that share a card are not supported")
            .remedy("set ranks = 1, or use --device cpu"));
    }
    let job = Job {
        data: &data,
        depot,
        recipe: &recipe,
        needs: memory.rank,
        from,
        first_step: state.step,
        device: &device,
    };
    let store = Store::new(depot, monitor, spec.resume.clone().unwrap_or_default());
    let scale = Scale {
        steps: recipe.steps,
        tokens_per_step: recipe.tokens_per_step(),
        flops_per_token: recipe.shape.flops_per_token().training,
        matrix_flops_per_s,
    };
    let outcome = std::thread::scope(|scope| {
        let (member, followers) = mesh::form(scope, &job)?;
        let meter = Meter::new(scale, state.elapsed_s);
        let saver = Saver::new(scope, &store);
        let leader = Leader { job: &job, member, store: &store, saver, state, meter, monitor };
        followers.join(leader.run())
    })?;
    let fact = serde_json::to_value(&outcome).context("writing the outcome")?;
    monitor.record(PretrainOutcome::FACT, &fact)?;
    Ok(outcome)
}

/// The newest checkpoint of the run that can be read, if it has any.
fn newest(spec: &PretrainSpec, depot: &dyn Depot, monitor: &dyn Monitor) -> Result<Option<(Id, RunState)>> {
    let Some(resume) = &spec.resume else { return Ok(None) };
    let mut failed = None;
    for &id in resume.latest.iter().rev() {
        match reading(depot, id) {
            Ok(reading) => {
                check_same(spec, &reading.state)?;
                monitor.note(&format!("going on from step {} ({id})", reading.state.step));
                return Ok(Some((id, reading.state)));
            }
            Err(error) => {
                monitor.note(&format!("checkpoint {id} cannot be read: {error}"));
                failed = Some(error);
            }
        }
    }
    // Beginning again would silently throw away what was reported as kept.
    failed.map_or(Ok(None), |error| Err(error.remedy("start a new run, or restore the vault from a backup")))
}

fn reading(depot: &dyn Depot, id: Id) -> Result<Reading<ObjectReader>> {
    Reading::begin(depot.open(id)?).with_context(|| format!("checkpoint {id}"))
}

/// A resumed run must see the same data: the same tokenizer and the same shards, none of them cut.
fn check_same(spec: &PretrainSpec, state: &RunState) -> Result<()> {
    if state.run != spec.run || state.tokenizer != spec.tokenizer || state.shards != spec.shards {
        return Err(Error::usage(format!(
            "the checkpoint belongs to {} over other data than {} is given",
            state.run, spec.run
        ))
        .remedy("start a new run on the snapshot as it is now"));
    }
    Ok(())
}

fn begin(
    spec: &PretrainSpec,
    config: &RunConfig,
    data: &Data,
    device: &Device,
    matrix_flops_per_s: f64,
    monitor: &dyn Monitor,
) -> Result<RunState> {
    let recipe = match config.minutes {
        Some(_) => calibrate::settle(config, data, device, matrix_flops_per_s, monitor)?,
        None => Recipe::settle(config, &data.facts, None)?,
    };
    Ok(RunState {
        run: spec.run,
        recipe,
        tokenizer: spec.tokenizer,
        shards: spec.shards.clone(),
        step: 0,
        loss_sum: 0.0,
        loss_tokens: 0,
        best: None,
        curve: Vec::new(),
        elapsed_s: 0.0,
    })
}

/// The first rank, which alone speaks, evaluates and saves.
struct Leader<'a, 'scope, 'env> {
    job: &'a Job<'a>,
    member: Member<'a>,
    store: &'env Store<'env>,
    saver: Saver<'scope, 'env>,
    state: RunState,
    meter: Meter,
    monitor: &'a dyn Monitor,
}

impl Leader<'_, '_, '_> {
    fn run(mut self) -> Result<PretrainOutcome> {
        let recipe = self.job.recipe;
        let between = Duration::from_secs_f64(60.0 * recipe.checkpoint_minutes);
        let mut saved = Instant::now();
        while self.state.step < recipe.steps {
            let stop = self.monitor.stop_requested();
            if let Err(error) = self.step(stop) {
                // What was begun is finished: it is the last good checkpoint.
                self.saver.finish()?;
                return Err(self.kept(error));
            }
            if self.state.step.is_multiple_of(recipe.evaluate_every) || self.state.step == recipe.steps {
                self.evaluate()?;
            }
            self.report();
            self.saver.tend()?;
            if stop {
                return Err(self.interrupted()?);
            }
            if saved.elapsed() >= between {
                self.save(Keep::Latest)?;
                saved = Instant::now();
            }
        }
        self.finish()
    }

    fn step(&mut self, stop: bool) -> Result<()> {
        let recipe = self.job.recipe;
        let nats = self.member.step(self.state.step, stop)?.nats;
        self.state.step += 1;
        self.state.loss_sum += nats;
        self.state.loss_tokens += recipe.tokens_per_step();
        self.meter.step_ended(self.state.step, nats / recipe.tokens_per_step() as f64);
        Ok(())
    }

    fn report(&self) {
        let learning_rate = self.job.recipe.schedule.at(self.state.step - 1);
        let heldout = self.state.curve.last().and_then(|point| point.heldout_bits_per_byte);
        self.monitor.progress(&self.meter.progress(self.state.step, learning_rate, heldout));
    }

    /// Adds a point to the curve, and keeps the weights where they are the best so far.
    fn evaluate(&mut self) -> Result<()> {
        let (job, step) = (self.job, self.state.step);
        let rows = job.data.heldout_rows(job.recipe.shape.context, Some(job.recipe.evaluate_tokens));
        let heldout = self.meter.aside(|| self.member.heldout(&rows))?;
        let heldout = heldout.map(|(nats, positions)| {
            // The sample's own bytes are not known: all held-out documents say how many bytes a position has.
            let facts = job.data.facts;
            let bytes = positions as f64 * facts.heldout_bytes as f64 / facts.heldout_tokens as f64;
            (nats / positions as f64, nats / std::f64::consts::LN_2 / bytes)
        });
        if let Some((loss, _)) = heldout.filter(|(loss, _)| !loss.is_finite()) {
            return Err(self.kept(not_finite("the held-out loss", loss, step)));
        }
        self.state.curve.push(CurvePoint {
            step,
            loss: self.state.loss_sum / self.state.loss_tokens as f64,
            heldout_loss: heldout.map(|(loss, _)| loss),
            heldout_bits_per_byte: heldout.map(|(_, bits)| bits),
            learning_rate: job.recipe.schedule.at(step - 1),
        });
        (self.state.loss_sum, self.state.loss_tokens) = (0.0, 0);
        if let Some((loss, _)) =
            heldout.filter(|(loss, _)| self.state.best.is_none_or(|(best, _)| *loss < best))
        {
            self.state.best = Some((loss, step));
            self.save(Keep::Best)?;
        }
        Ok(())
    }

    fn save(&mut self, keep: Keep) -> Result<()> {
        self.state.elapsed_s = self.meter.elapsed_s();
        let copied = self.member.learner.copied(&self.state, keep)?;
        self.saver.save(copied, keep)
    }

    fn interrupted(&mut self) -> Result<Error> {
        self.save(Keep::Latest)?;
        self.saver.finish()?;
        let (step, steps) = (self.state.step, self.job.recipe.steps);
        Ok(Error::interrupted(format!("stopped after step {step} of {steps}; its checkpoint is kept"))
            .remedy("`cloister model resume` goes on from there"))
    }

    /// Adds to an error what is left of the run.
    fn kept(&self, error: Error) -> Error {
        match self.store.stand().latest.last() {
            Some(id) => error.context(format!("the run stopped; its last good checkpoint is {id}")),
            None => error.context("the run stopped before its first checkpoint"),
        }
    }

    /// The last checkpoint, then the model: the best weights, measured on every held-out document.
    fn finish(mut self) -> Result<PretrainOutcome> {
        let tokens_per_s = self.meter.mean_tokens_per_s();
        self.save(Keep::Latest)?;
        self.saver.finish()?;
        let job = self.job;
        let last = self.state.step;
        let model_step = self.state.best.map_or(last, |(_, step)| step);
        if let Some(best) = self.store.stand().best.filter(|_| model_step != last) {
            self.member.learner.restore(reading(job.depot, best)?, Keep::Best)?;
        }
        let rows = job.data.heldout_rows(job.recipe.shape.context, None);
        let stage = "measure on all held-out text".into();
        self.monitor.progress(&Progress { stage, elapsed_s: self.meter.elapsed_s(), ..Progress::default() });
        let heldout = self.member.heldout(&rows)?;
        let heldout =
            heldout.map(|(nats, positions)| HeldOut::new(nats, positions, job.data.facts.heldout_bytes));
        Ok(PretrainOutcome {
            run: self.state.run,
            model: save_model(&self.member.learner, job.depot)?,
            model_step,
            checkpoints: self.store.stand(),
            recipe: job.recipe.clone(),
            parameters: job.recipe.shape.parameters(),
            steps_done: last,
            tokens_seen: last * job.recipe.tokens_per_step(),
            heldout,
            curve: std::mem::take(&mut self.state.curve),
            peak_memory_bytes: job.recipe.ranks * self.member.learner.used().total_bytes(),
            tokens_per_s,
            elapsed_s: self.meter.elapsed_s(),
        })
    }
}

/// The error of a run whose numbers have left the real ones.
pub fn not_finite(what: &str, value: f64, step: u64) -> Error {
    Error::failed(format!("{what} is {value} at step {}", step + 1)).remedy(
        "start a run with a lower learning_rate or more warmup_steps; look for broken text if it happens again",
    )
}

fn save_model(learner: &Learner, depot: &dyn Depot) -> Result<Id> {
    let (params, config) = (learner.params(), learner.decoder().config());
    let mut object = depot.create(IdKind::Model, weights::len_bytes(params, config)?)?;
    weights::save(params, config, &mut object)?;
    depot.commit(object)
}
