//! Cloister's side of docs/learning-curve.svg. It writes what `tests/peers/learning_curve.py` needs to train the
//! same model in PyTorch (initial weights, rows in their order, learning rates), and trains it here.
//!
//!     CLOISTER_CURVE_TEXT=input.txt CLOISTER_CURVE_DIR=/tmp/curve \
//!         cargo test --release --test tests -- --ignored --nocapture learning_curve
//!
//! CLOISTER_CURVE_STEPS (1000) is the length of the schedule, CLOISTER_CURVE_THREADS the number of threads.
//! CLOISTER_CURVE_STOP ends it after that step; the same command goes on from there, or from where it was killed.
//! CLOISTER_CURVE_DEVICE (cpu) and CLOISTER_CURVE_PRECISION (f32) say where and in what.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use cloister::base::{ErrorKind, Id, IdKind, Monitor, Progress, fs::write_atomic};
use cloister::corpus::{
    DocumentRef, SnapshotSpec, extents, extents::ExtentsSpec, snapshot, split::SplitSpec, tokenizer,
    tokenizer::TokenizerSpec,
};
use cloister::device::{Choice, Device};
use cloister::train::{
    Precision, Purpose, Recipe, RunConfig, ScheduleKind,
    checkpoint::{Reading, RunState},
    data::Data,
    learner::{Learner, Needs},
    loader::{Order, Packed, Piece, Reader},
    pretrain::{self, Checkpoints, CurvePoint, PretrainSpec},
    saver::Keep,
};
use cloister::vault::{Depot, Unsealer, Vault};

/// 384 wide, 6 deep: about 10.7M parameters over bytes and seven special tokens.
fn config(steps: u64) -> RunConfig {
    RunConfig {
        purpose: Some(Purpose::trial()),
        layers: Some(6),
        dim: Some(384),
        heads: Some(6),
        kv_heads: Some(6),
        ffn: Some(1024),
        context: Some(256),
        tied: Some(true),
        batch_tokens: Some(4096),
        micro_batch: Some(16),
        steps: Some(steps),
        learning_rate: Some(1e-3),
        warmup_steps: Some(100),
        schedule: Some(ScheduleKind::Cosine),
        evaluate_every: Some(50),
        evaluate_tokens: Some(16_384),
        checkpoint_minutes: Some(5.0),
        ..RunConfig::default()
    }
}

/// The held-out last row is padded to a whole one with positions that count for nothing.
const IGNORE: u32 = u32::MAX;

#[test]
#[ignore = "long: some ten minutes on a free machine, more on a shared one; run by hand beside tests/peers/learning_curve.py"]
fn learning_curve() {
    let (Some(text), Some(directory)) = (variable("CLOISTER_CURVE_TEXT"), variable("CLOISTER_CURVE_DIR"))
    else {
        eprintln!("skipped: CLOISTER_CURVE_TEXT and CLOISTER_CURVE_DIR say where to read and write");
        return;
    };
    let steps = number("CLOISTER_CURVE_STEPS").unwrap_or(1000);
    let threads = number("CLOISTER_CURVE_THREADS").map(|threads| threads as usize);
    let vault = open(&directory);
    let says = Says {
        directory: directory.clone(),
        stop_at: number("CLOISTER_CURVE_STOP"),
        step: AtomicU64::new(0),
    };
    let spec = match std::fs::read(directory.join("spec.json")) {
        // A run that was stopped goes on.
        Ok(spec) => {
            let mut spec: PretrainSpec = serde_json::from_slice(&spec).expect("our own file");
            let facts = std::fs::read(directory.join("checkpoints.json")).ok();
            spec.resume = facts.map(|facts| serde_json::from_slice(&facts).expect("our own file"));
            PretrainSpec { threads, ..spec }
        }
        Err(_) => {
            let (tokenizer, shards) =
                tokenise(&vault, &std::fs::read_to_string(text).expect("the text"), &says);
            let run = Id::from_parts(IdKind::Run, 1, [0; 10]);
            PretrainSpec {
                run,
                config: RunConfig { precision: Some(precision()), ..config(steps) },
                tokenizer,
                shards,
                device: text_of("CLOISTER_CURVE_DEVICE")
                    .map_or(Choice::Cpu, |name| name.parse().expect("a device")),
                threads,
                resume: None,
            }
        }
    };
    if spec.resume.is_none() {
        export(&spec, &vault, &directory);
        let json = serde_json::to_vec(&spec).expect("plain data");
        std::fs::write(directory.join("spec.json"), json).expect("room");
    }
    if std::env::var_os("CLOISTER_CURVE_EXPORT_ONLY").is_some() {
        return;
    }
    let ours = match pretrain::run(&spec, &vault, &says) {
        Ok(outcome) => {
            let heldout = outcome.heldout.expect("text is held out");
            assert_eq!(outcome.model_step, outcome.steps_done, "both sides are measured after the same step");
            serde_json::json!({ "curve": outcome.curve, "heldout_loss": heldout.loss, "heldout": heldout })
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
            serde_json::json!({ "curve": curve_so_far(&vault, &directory) })
        }
    };
    write_atomic(&directory.join("ours.json"), ours.to_string().as_bytes()).expect("room");
}

/// The curve in the newest checkpoint of a run that was stopped.
fn curve_so_far(vault: &Vault, directory: &Path) -> Vec<CurvePoint> {
    let facts = std::fs::read(directory.join("checkpoints.json")).expect("a stopped run has a checkpoint");
    let stand: Checkpoints = serde_json::from_slice(&facts).expect("our own file");
    let newest = *stand.latest.last().expect("a stopped run has a checkpoint");
    Reading::begin(vault.open(newest).expect("it is kept")).expect("it is whole").state.curve
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

fn text_of(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn number(name: &str) -> Option<u64> {
    text_of(name).map(|number| number.parse().expect("a number"))
}

fn precision() -> Precision {
    match text_of("CLOISTER_CURVE_PRECISION").as_deref() {
        None | Some("f32") => Precision::F32,
        Some("bf16") => Precision::Bf16,
        Some(other) => panic!("{other} is neither f32 nor bf16"),
    }
}

fn open(directory: &Path) -> Vault {
    let data = directory.join("data");
    let unsealer = Unsealer::KeyFile(directory.join("root.key"));
    if !Vault::exists(&data) {
        return Vault::init(&data, &unsealer).expect("a new vault");
    }
    Vault::open(&data, Vault::unseal(&data, Some(&unsealer)).expect("the key file")).expect("a vault")
}

/// One document, a twentieth of it held out in parts, as bytes: nothing is learnt from the order of merges.
fn tokenise(vault: &Vault, text: &str, says: &Says) -> (Id, Vec<Id>) {
    let mut object = vault.create(IdKind::Document, text.len() as u64).expect("room");
    object.write_all(text.as_bytes()).expect("room");
    let document = vault.commit(object).expect("room");
    let documents = vec![DocumentRef { document, version: 1, object: document }];
    let split = SplitSpec { held_out_share: 0.1, ..SplitSpec::default() };
    let spec = SnapshotSpec { documents, clean: Default::default(), split, threads: 1 };
    let snapshot = snapshot::run(&spec, vault, says).expect("text").snapshot;
    let spec = TokenizerSpec { snapshot, vocab_size: Some(264), threads: 1 };
    let tokenizer = tokenizer::run(&spec, vault, says).expect("text").tokenizer;
    let spec = ExtentsSpec { snapshot, tokenizer, threads: 1 };
    (tokenizer, extents::run(&spec, vault, says).expect("text").shards)
}

fn export(spec: &PretrainSpec, vault: &Vault, directory: &Path) {
    let data = Data::open(spec.tokenizer, &spec.shards, vault).expect("tokens");
    let recipe = Recipe::settle(&spec.config, &data.facts, None).expect("sound");
    let context = recipe.shape.context;
    write_init(spec, &recipe, directory);

    let mut reader = data.reader();
    let mut order = Order::new(data.train.clone(), context, recipe.seed).expect("long enough");
    let rows = (0..recipe.steps * recipe.rows_per_step()).map(|row| order.row(row));
    write_rows(&directory.join("rows.bin"), rows, &mut reader, context);
    let all = data.heldout_rows(context, None);
    write_rows(&directory.join("heldout.bin"), all.iter().cloned(), &mut reader, context);
    let sample = data.heldout_rows(context, Some(recipe.evaluate_tokens));
    let sample: Vec<usize> =
        sample.iter().map(|row| all.iter().position(|one| one == row).expect("one of all")).collect();

    let learning_rates: Vec<f64> = (0..recipe.steps).map(|step| recipe.schedule.at(step)).collect();
    let run = serde_json::json!({
        "config": recipe.shape.config(), "parameters": recipe.shape.parameters(), "context": context,
        "rows_per_step": recipe.rows_per_step(), "learning_rates": learning_rates,
        "beta1": recipe.beta1, "beta2": recipe.beta2, "epsilon": recipe.epsilon,
        "weight_decay": recipe.weight_decay, "clip": recipe.clip,
        "evaluate_every": recipe.evaluate_every, "heldout_sample": sample, "data": data.facts,
    });
    std::fs::write(directory.join("run.json"), run.to_string()).expect("room");
}

/// The initial weights: a checkpoint of weights alone is a safetensors file.
fn write_init(spec: &PretrainSpec, recipe: &Recipe, directory: &Path) {
    let device = Device::cpu(Some(1));
    let exec = Needs::rehearse(recipe, &device).and_then(|needs| needs.exec(&device)).expect("it fits");
    let mut learner = Learner::new(exec, recipe).expect("it fits");
    learner.init(recipe.seed);
    let state = RunState {
        run: spec.run,
        recipe: recipe.clone(),
        tokenizer: spec.tokenizer,
        shards: spec.shards.clone(),
        step: 0,
        loss_sum: 0.0,
        loss_tokens: 0,
        best: None,
        curve: Vec::new(),
        elapsed_s: 0.0,
    };
    let mut file = File::create(directory.join("init.safetensors")).expect("room");
    learner.copied(&state, Keep::Best).and_then(|copied| copied.write(&mut file)).expect("room");
}

/// For each row: inputs, targets, and each input's place within its piece.
fn write_rows(path: &Path, rows: impl Iterator<Item = Vec<Piece>>, reader: &mut Reader, context: u64) {
    let mut file = std::io::BufWriter::new(File::create(path).expect("room"));
    for row in rows {
        let mut packed = Packed::default();
        reader.append(&row, &mut packed).expect("tokens");
        packed.pad(context as usize, context as usize);
        assert!(packed.targets.iter().all(|&target| target < 264 || target == IGNORE));
        let places: Vec<u32> = packed.pieces.iter().flat_map(|&len| 0..len).collect();
        for numbers in [&packed.inputs, &packed.targets, &places] {
            for number in numbers {
                file.write_all(&number.to_le_bytes()).expect("room");
            }
        }
    }
    file.flush().expect("room");
}

/// Writes facts and progress beside the results, and stops where it is told to.
struct Says {
    directory: PathBuf,
    stop_at: Option<u64>,
    step: AtomicU64,
}

impl Monitor for Says {
    fn progress(&self, progress: &Progress) {
        if progress.stage == "pretrain" {
            self.step.store(progress.done, Ordering::Relaxed);
        }
        if progress.done.is_multiple_of(10) {
            let line = serde_json::to_string(progress).expect("plain data");
            std::fs::write(self.directory.join("progress.json"), line).expect("room");
        }
    }

    fn note(&self, _: &str) {}

    fn record(&self, kind: &str, fact: &serde_json::Value) -> cloister::base::Result<()> {
        write_atomic(&self.directory.join(format!("{kind}.json")), fact.to_string().as_bytes())
    }

    fn stop_requested(&self) -> bool {
        // One more step is made after this is heard.
        self.stop_at.is_some_and(|stop_at| self.step.load(Ordering::Relaxed) + 1 >= stop_at)
    }
}
