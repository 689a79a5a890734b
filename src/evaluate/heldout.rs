//! How well a finished model foretells held-out text, in bits per byte, and what the baselines reach on the very
//! same documents.

use serde::{Deserialize, Serialize};

use super::baselines::{Baselines, Fit};
use crate::{
    base::{Error, Id, Monitor, Progress, Result},
    device::Choice,
    model::{
        Config, Decoder, Options,
        weights::{self, WeightsFile},
    },
    nn::{Batch, Ctx, Params},
    ops::{Exec, reduce},
    tensor::DType,
    train::{
        data::Data,
        loader::{Entry, Packed},
        pretrain::HeldOut,
    },
    vault::Depot,
};

/// What an evaluation job is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvaluateSpec {
    pub model: Id,
    pub tokenizer: Id,
    pub shards: Vec<Id>,
    pub device: Choice,
    /// None takes every core.
    pub threads: Option<usize>,
}

/// What it hands back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvaluateOutcome {
    pub model: Id,
    /// Extents of held-out text that were foretold.
    pub extents: u64,
    pub heldout: HeldOut,
    pub baselines: Baselines,
}

/// Positions of one pass.
const PASS_POSITIONS: usize = 4096;

/// Measures a model.
///
/// # Errors
/// `Usage` where the snapshot holds nothing out, or the tokenizer is not the model's; `Interrupted`.
pub fn run(spec: &EvaluateSpec, depot: &dyn Depot, monitor: &dyn Monitor) -> Result<EvaluateOutcome> {
    let data = Data::open(spec.tokenizer, &spec.shards, depot)?;
    if data.heldout.is_empty() {
        return Err(Error::usage("the snapshot holds no text out to measure the model on")
            .remedy("make a snapshot with a held-out share above 0"));
    }
    let heldout = measure(spec, &data, depot, monitor)?;
    let baselines = fit_and_score(&data, monitor)?;
    Ok(EvaluateOutcome { model: spec.model, extents: data.heldout.len() as u64, heldout, baselines })
}

fn measure(spec: &EvaluateSpec, data: &Data, depot: &dyn Depot, monitor: &dyn Monitor) -> Result<HeldOut> {
    let model = Model::open(spec, depot)?;
    if model.decoder.config().vocab_size as u64 != data.facts.vocab {
        return Err(Error::usage(format!(
            "the model has {} tokens and the tokenizer {}: it is not the model's",
            model.decoder.config().vocab_size,
            data.facts.vocab
        )));
    }
    let rows = data.heldout_rows(model.context as u64, None);
    let (mut reader, mut packed) = (data.reader(), Packed::default());
    let mut nats = 0.0;
    for (done, pass) in rows.chunks(model.pass_rows).enumerate() {
        heed(monitor, "evaluate", (done * model.pass_rows) as u64, rows.len() as u64)?;
        packed.clear();
        for row in pass {
            reader.append(row, &mut packed)?;
        }
        packed.pad(model.pass_rows * model.context, model.context);
        nats += model.nats(&packed)?;
    }
    Ok(HeldOut::new(nats, data.facts.heldout_tokens, data.facts.heldout_bytes))
}

/// A model in memory of just the size it needs.
struct Model {
    exec: Exec,
    decoder: Decoder,
    params: Params,
    context: usize,
    pass_rows: usize,
}

impl Model {
    fn open(spec: &EvaluateSpec, depot: &dyn Depot) -> Result<Self> {
        let file = WeightsFile::open(depot.open(spec.model)?)?;
        let config = file.config()?;
        let device = spec.device.open(spec.threads)?;
        let dry = Self::on(Exec::dry(device.clone()), &config)?;
        let mut packed = Packed::default();
        packed.pad(dry.pass_rows * dry.context, dry.context);
        dry.nats(&packed)?;
        let exec = Exec::new(device, dry.exec.arena.peak_bytes(), dry.exec.persistent.peak_bytes())?;
        let mut model = Self::on(exec, &config)?;
        weights::load(&mut model.params, &[file])?;
        Ok(model)
    }

    fn on(exec: Exec, config: &Config) -> Result<Self> {
        let context = config.max_position_embeddings;
        let options = Options { dtype: DType::F32, recompute: false, positions: context };
        let decoder = Decoder::new(&exec, config, options)?;
        let params = decoder.new_params(&exec)?;
        Ok(Self { exec, decoder, params, context, pass_rows: (PASS_POSITIONS / context).max(1) })
    }

    fn nats(&self, packed: &Packed) -> Result<f64> {
        let lengths: Vec<usize> = packed.pieces.iter().map(|&len| len as usize).collect();
        let batch = Batch::packed(&self.exec, &packed.inputs, &lengths)?;
        let batch = batch.with_targets(&self.exec, &packed.targets, 1.0)?;
        let losses = self.decoder.loss(&mut Ctx::new(&self.exec, &self.params), &batch)?;
        reduce::sum(&self.exec, losses.view())
    }
}

/// Fits the baselines on the training text and scores them on the held-out text, both as the tokens spell it.
fn fit_and_score(data: &Data, monitor: &dyn Monitor) -> Result<Baselines> {
    let mut fit = Fit::default();
    for (done, &entry) in data.train.iter().enumerate() {
        heed(monitor, "fit the baselines", done as u64, data.train.len() as u64)?;
        if fit.is_full() {
            break;
        }
        fit.learn(&text(data, entry)?);
    }
    let heldout = data.heldout.iter().map(|&entry| text(data, entry)).collect::<Result<Vec<_>>>()?;
    let bytes: u64 = heldout.iter().map(|text| text.len() as u64).sum();
    if bytes != data.facts.heldout_bytes {
        return Err(Error::integrity(format!(
            "the held-out tokens spell {bytes} bytes and their index says {}",
            data.facts.heldout_bytes
        )));
    }
    fit.score(heldout.iter().map(Vec::as_slice))
}

fn text(data: &Data, entry: Entry) -> Result<Vec<u8>> {
    let mut tokens = Vec::new();
    data.tokens.read(entry.document, &mut tokens)?;
    Ok(tokens.iter().flat_map(|&token| data.tokenizer.piece(token)).copied().collect())
}

fn heed(monitor: &dyn Monitor, stage: &str, done: u64, total: u64) -> Result<()> {
    if monitor.stop_requested() {
        return Err(Error::interrupted("the evaluation was stopped"));
    }
    let unit = "row".into();
    monitor.progress(&Progress { stage: stage.into(), done, total, unit, ..Progress::default() });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::{ErrorKind, Silent},
        train::{
            RunConfig,
            tests::{House, small},
        },
    };

    #[test]
    fn a_trained_model_is_measured_beside_the_baselines() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let house = House::build(directory.path());
        let outcome = house.run(RunConfig { steps: Some(60), ..small() });
        let (tokenizer, shards) = (house.tokenizer, house.shards.clone());
        let spec =
            EvaluateSpec { model: outcome.model, tokenizer, shards, device: Choice::Cpu, threads: Some(2) };
        let evaluated = run(&spec, &house.vault, &Silent).expect("a sound model");
        let at_the_end = outcome.heldout.expect("text is held out");
        assert!((evaluated.heldout.loss / at_the_end.loss - 1.0).abs() < 1e-5);
        assert_eq!(evaluated.heldout.bytes, at_the_end.bytes);
        let Baselines { unigram, order2, gzip, fitted_bytes } = evaluated.baselines;
        assert!(unigram > order2 && order2 > 0.0 && gzip > 0.0 && fitted_bytes > 10_000);
        assert!(
            evaluated.heldout.bits_per_byte < unigram,
            "it has learnt more than the frequencies of bytes"
        );

        let nothing = EvaluateSpec { shards: Vec::new(), ..spec };
        let error = run(&nothing, &house.vault, &Silent).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
    }
}
