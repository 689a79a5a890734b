//! Whole runs on a vault of their own: small models on text with a pattern in it.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{
    Precision, Purpose, RunConfig,
    data::Data,
    plan,
    pretrain::{self, Checkpoints, PretrainOutcome, PretrainSpec},
};
use crate::{
    base::{ErrorKind, Id, IdKind, Monitor, Philox, Progress, Result, fs::write_atomic},
    corpus::{
        DocumentRef, SnapshotSpec, extents,
        extents::ExtentsSpec,
        snapshot,
        split::{SplitSpec, Unit},
        tokenizer,
        tokenizer::TokenizerSpec,
    },
    device::Choice,
    vault::{Depot, Unsealer, Vault},
};

/// Sentences of a small grammar: nouns agree with what they do, so there is something to learn.
fn sentences(rng: &mut Philox, count: u64) -> String {
    let subjects = ["the clerk", "the judge", "a notary", "the registrar"];
    let verbs = ["signs", "reads", "files", "returns"];
    let objects = ["the deed", "the will", "a letter", "the record"];
    let pick = |rng: &mut Philox| rng.below(4) as usize;
    let mut text = String::new();
    for _ in 0..count {
        let subject = pick(rng);
        // The verb follows from the subject three times out of four.
        let verb = if rng.below(4) > 0 { subject } else { pick(rng) };
        text += &format!("{} {} {}. ", subjects[subject], verbs[verb], objects[pick(rng)]);
    }
    text
}

pub struct House {
    pub vault: Vault,
    pub tokenizer: Id,
    pub shards: Vec<Id>,
}

fn unsealer(directory: &Path) -> Unsealer {
    Unsealer::KeyFile(directory.join("root.key"))
}

impl House {
    pub fn build(directory: &Path) -> Self {
        Self::build_with(directory, Unit::Document)
    }

    fn build_with(directory: &Path, unit: Unit) -> Self {
        let vault = Vault::init(&directory.join("data"), &unsealer(directory)).expect("a new vault");
        let mut rng = Philox::new(17, 0);
        let documents = (0..30).map(|_| {
            let count = 5 + rng.below(40) * if unit == Unit::Part { 20 } else { 1 };
            let text = sentences(&mut rng, count);
            let mut object = vault.create(IdKind::Document, text.len() as u64).expect("room");
            object.write_all(text.as_bytes()).expect("room");
            let document = vault.commit(object).expect("room");
            DocumentRef { document, version: 1, object: document }
        });
        let split = SplitSpec { held_out_share: 0.1, seed: 1, unit: Some(unit) };
        let spec =
            SnapshotSpec { documents: documents.collect(), clean: Default::default(), split, threads: 1 };
        let snapshot = snapshot::run(&spec, &vault, &Heard::default()).expect("text").snapshot;
        let spec = TokenizerSpec { snapshot, vocab_size: Some(300), threads: 1 };
        let tokenizer = tokenizer::run(&spec, &vault, &Heard::default()).expect("text").tokenizer;
        let spec = ExtentsSpec { snapshot, tokenizer, threads: 1 };
        let shards = extents::run(&spec, &vault, &Heard::default()).expect("text").shards;
        Self { vault, tokenizer, shards }
    }

    fn reopen(directory: &Path) -> Vault {
        let data = directory.join("data");
        let root = Vault::unseal(&data, Some(&unsealer(directory))).expect("the key file");
        Vault::open(&data, root).expect("a vault")
    }

    fn spec(&self, config: RunConfig) -> PretrainSpec {
        static RUNS: AtomicU64 = AtomicU64::new(1);
        let run = Id::from_parts(IdKind::Run, RUNS.fetch_add(1, Ordering::Relaxed), [0; 10]);
        let (tokenizer, shards) = (self.tokenizer, self.shards.clone());
        PretrainSpec { run, config, tokenizer, shards, device: Choice::Cpu, threads: Some(2), resume: None }
    }

    pub fn run(&self, config: RunConfig) -> PretrainOutcome {
        pretrain::run(&self.spec(config), &self.vault, &Heard::default()).expect("a sound run")
    }
}

pub fn small() -> RunConfig {
    RunConfig {
        purpose: Some(Purpose::trial()),
        layers: Some(2),
        dim: Some(32),
        heads: Some(4),
        kv_heads: Some(2),
        ffn: Some(64),
        context: Some(32),
        batch_tokens: Some(256),
        micro_batch: Some(4),
        steps: Some(30),
        learning_rate: Some(5e-3),
        evaluate_every: Some(10),
        ..RunConfig::default()
    }
}

/// Keeps the facts, in memory and in a file where one is named; stops after so many progress lines.
#[derive(Default)]
struct Heard {
    facts: Mutex<HashMap<String, serde_json::Value>>,
    file: Option<std::path::PathBuf>,
    stop_after: Option<u64>,
    lines: AtomicU64,
    pause: Duration,
}

impl Heard {
    fn fact<T: serde::de::DeserializeOwned>(&self, kind: &str) -> Option<T> {
        let facts = self.facts.lock().expect("no panic");
        facts.get(kind).map(|fact| serde_json::from_value(fact.clone()).expect("its type"))
    }
}

impl Monitor for Heard {
    fn progress(&self, _: &Progress) {
        self.lines.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(self.pause);
    }

    fn note(&self, _: &str) {}

    fn record(&self, kind: &str, fact: &serde_json::Value) -> Result<()> {
        self.facts.lock().expect("no panic").insert(kind.into(), fact.clone());
        self.file.as_ref().map_or(Ok(()), |file| write_atomic(file, fact.to_string().as_bytes()))
    }

    fn stop_requested(&self) -> bool {
        self.stop_after.is_some_and(|after| self.lines.load(Ordering::Relaxed) >= after)
    }
}

fn bytes_of(vault: &Vault, id: Id) -> Vec<u8> {
    vault.open(id).expect("it was kept").read_all().expect("it is whole")
}

/// The numbers of a safetensors object, without its header.
fn weights_of(vault: &Vault, id: Id) -> Vec<u8> {
    let bytes = bytes_of(vault, id);
    let header = u64::from_le_bytes(*bytes.first_chunk().expect("a header")) as usize;
    bytes[8 + header..].to_vec()
}

/// Everything that must not depend on where a run was stopped or on how many threads it had.
fn assert_same(vault: &Vault, a: &PretrainOutcome, b: &PretrainOutcome) {
    assert_eq!(a.curve, b.curve);
    assert_eq!((a.heldout, a.model_step, a.steps_done), (b.heldout, b.model_step, b.steps_done));
    assert!(weights_of(vault, a.model) == weights_of(vault, b.model), "the models differ");
}

#[test]
fn a_run_learns_and_uses_the_memory_it_foretold() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let house = House::build(directory.path());
    let config = RunConfig { steps: Some(80), ..small() };
    let spec = plan::PlanSpec {
        config: config.clone(),
        tokenizer: house.tokenizer,
        shards: house.shards.clone(),
        device: Choice::Cpu,
        threads: Some(2),
    };
    let plan = plan::run(&spec, &house.vault, &Heard::default()).expect("it fits");
    let outcome = house.run(config);
    assert_eq!(outcome.recipe, plan.recipe);
    assert_eq!(outcome.peak_memory_bytes, plan.memory.rank.total_bytes());
    assert_eq!(outcome.tokens_seen, plan.tokens);

    let heldout = outcome.heldout.expect("text is held out");
    let first = outcome.curve[0].heldout_bits_per_byte.expect("text is held out");
    assert!(heldout.bits_per_byte < 0.8 * first, "{first} -> {}", heldout.bits_per_byte);
    assert_eq!(heldout.positions, plan.data.heldout_tokens);
    let bits = heldout.loss * heldout.positions as f64 / heldout.bytes as f64 / std::f64::consts::LN_2;
    assert!((bits - heldout.bits_per_byte).abs() < 1e-12);
    assert_eq!(outcome.checkpoints.latest.len(), 1);
    assert!(outcome.checkpoints.best.is_some_and(|best| house.vault.contains(best)));
}

#[test]
fn a_document_cut_by_the_split_ends_once() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let house = House::build_with(directory.path(), Unit::Part);
    let data = Data::open(house.tokenizer, &house.shards, &house.vault).expect("tokens");
    let all = || data.train.iter().chain(&data.heldout);
    assert!(all().count() > 35, "documents are cut into parts");
    assert_eq!(all().filter(|entry| entry.ends).count(), 30, "each of the documents ends once");
    let tokens: u64 = data.heldout.iter().map(|entry| entry.tokens).sum();
    let ends = data.heldout.iter().filter(|entry| entry.ends).count() as u64;
    assert_eq!(data.facts.heldout_tokens, tokens + ends);
}

#[test]
fn neither_threads_nor_recomputation_change_a_bit() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let house = House::build(directory.path());
    let straight = house.run(small());
    let threads = PretrainSpec { threads: Some(3), ..house.spec(small()) };
    let threads = pretrain::run(&threads, &house.vault, &Heard::default()).expect("a sound run");
    assert_same(&house.vault, &straight, &threads);
    let recomputed = house.run(RunConfig { recompute: Some(true), ..small() });
    assert_same(&house.vault, &straight, &recomputed);
    assert!(recomputed.peak_memory_bytes < straight.peak_memory_bytes);
}

#[test]
fn a_stopped_run_says_so_and_goes_on_to_the_same_bits() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let house = House::build(directory.path());
    let straight = house.run(small());
    let mut spec = house.spec(small());
    // Twice: the second stop comes after a resume.
    for stop_after in [7, 9] {
        let heard = Heard { stop_after: Some(stop_after), ..Heard::default() };
        let error = pretrain::run(&spec, &house.vault, &heard).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
        spec.resume = heard.fact(Checkpoints::FACT);
        assert!(spec.resume.is_some());
    }
    spec.threads = Some(1);
    let heard = Heard::default();
    let resumed = pretrain::run(&spec, &house.vault, &heard).expect("a sound run");
    assert_same(&house.vault, &straight, &resumed);
    assert_eq!(heard.fact(PretrainOutcome::FACT), Some(resumed));
}

const CHILD: &str = "CLOISTER_TEST_TRAINING_CHILD";
const FACTS: &str = "checkpoints.json";

/// Not a test of its own: the child that `a_killed_run_goes_on_to_the_same_bits` starts and kills.
#[test]
fn child_that_is_killed() {
    let Some(directory) = std::env::var_os(CHILD).map(std::path::PathBuf::from) else {
        eprintln!("skipped: it runs only as another test's child");
        return;
    };
    let spec = std::fs::read(directory.join("spec.json")).expect("the parent wrote it");
    let spec: PretrainSpec = serde_json::from_slice(&spec).expect("the parent wrote it");
    let heard =
        Heard { file: Some(directory.join(FACTS)), pause: Duration::from_millis(25), ..Heard::default() };
    let outcome = pretrain::run(&spec, &House::reopen(&directory), &heard);
    panic!("the parent should have killed this: {outcome:?}");
}

#[test]
fn a_killed_run_goes_on_to_the_same_bits() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let house = House::build(directory.path());
    let config = RunConfig { steps: Some(400), evaluate_every: Some(100), ..small() };
    let straight = house.run(config.clone());
    // A checkpoint after every step: the kill falls into one as often as between two.
    let config = RunConfig { checkpoint_minutes: Some(1e-6), ..config };
    let mut spec = house.spec(config);
    drop(house);
    for kill in 0..2u64 {
        let json = serde_json::to_vec(&spec).expect("plain data");
        std::fs::write(directory.path().join("spec.json"), json).expect("room");
        spec.resume = Some(killed(directory.path(), Duration::from_millis(150 + 97 * kill)));
        spec.threads = Some(1 + kill as usize);
    }
    let vault = House::reopen(directory.path());
    spec.threads = Some(3);
    let mut resumed = pretrain::run(&spec, &vault, &Heard::default()).expect("a sound run");
    resumed.recipe.checkpoint_minutes = straight.recipe.checkpoint_minutes;
    assert_eq!(resumed.recipe, straight.recipe);
    assert_same(&vault, &straight, &resumed);
}

/// Starts the child, lets it make a checkpoint and go on for a while, and kills it. What it then had recorded.
fn killed(directory: &Path, after: Duration) -> Checkpoints {
    let facts = directory.join(FACTS);
    let before = std::fs::read(&facts).ok();
    let this = std::env::current_exe().expect("the test binary");
    let mut child = Command::new(this)
        .args(["--exact", "train::tests::child_that_is_killed", "--nocapture"])
        .env(CHILD, directory)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the test binary runs");
    for _ in 0..3000 {
        std::thread::sleep(Duration::from_millis(10));
        if std::fs::read(&facts).ok() != before {
            break;
        }
    }
    std::thread::sleep(after);
    child.kill().expect("SIGKILL");
    assert_eq!(child.wait().expect("it was ours").code(), None, "it had ended before it was killed");
    serde_json::from_slice(&std::fs::read(&facts).expect("a checkpoint")).expect("a whole fact")
}

#[test]
fn two_ranks_do_what_one_does() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let house = House::build(directory.path());
    let one = house.run(small());
    let two = house.run(RunConfig { ranks: Some(2), micro_batch: Some(2), ..small() });
    assert_eq!((two.recipe.ranks, two.recipe.accumulate), (2, 2));
    assert_eq!(two.tokens_seen, one.tokens_seen);
    for (a, b) in one.curve.iter().zip(&two.curve) {
        let (a, b) = (a.heldout_loss.expect("held out"), b.heldout_loss.expect("held out"));
        assert!((a / b - 1.0).abs() < 2e-3, "{a} {b}");
    }
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_and_keeps_its_checkpoint() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let house = House::build(directory.path());
    let mut spec = house.spec(small());
    let heard = Heard { stop_after: Some(5), ..Heard::default() };
    pretrain::run(&spec, &house.vault, &heard).unwrap_err();
    let kept: Checkpoints = heard.fact(Checkpoints::FACT).expect("a checkpoint");
    let mut sound = bytes_of(&house.vault, kept.latest[0]);
    // The first number of the embedding becomes NaN.
    let header = 8 + u64::from_le_bytes(*sound.first_chunk().expect("a header")) as usize;
    sound[header..header + 4 * 32 * 300].copy_from_slice(&f32::NAN.to_le_bytes().repeat(32 * 300));
    let mut object = house.vault.create(IdKind::Checkpoint, sound.len() as u64).expect("room");
    object.write_all(&sound).expect("room");
    let poisoned = house.vault.commit(object).expect("room");
    spec.resume = Some(Checkpoints { latest: vec![kept.latest[0], poisoned], best: None });
    let error = pretrain::run(&spec, &house.vault, &Heard::default()).unwrap_err();
    assert!(error.to_string().contains("the loss is NaN at step 7"), "{error}");
    assert!(error.to_string().contains(&poisoned.to_string()), "{error}");
    assert!(error.remedy_text().is_some_and(|remedy| remedy.contains("learning_rate")));
    assert!(house.vault.contains(kept.latest[0]));
}

#[test]
fn a_checkpoint_that_cannot_be_read_gives_way_to_the_older_one() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let house = House::build(directory.path());
    let straight = house.run(small());
    let mut spec = house.spec(small());
    let heard = Heard { stop_after: Some(4), ..Heard::default() };
    pretrain::run(&spec, &house.vault, &heard).unwrap_err();
    let mut stand: Checkpoints = heard.fact(Checkpoints::FACT).expect("a checkpoint");
    stand.latest.push(Id::from_parts(IdKind::Checkpoint, 77, [7; 10]));
    spec.resume = Some(stand);
    let resumed = pretrain::run(&spec, &house.vault, &Heard::default()).expect("the older one is sound");
    assert_same(&house.vault, &straight, &resumed);
    spec.resume =
        Some(Checkpoints { latest: vec![Id::from_parts(IdKind::Checkpoint, 78, [7; 10])], best: None });
    assert!(
        pretrain::run(&spec, &house.vault, &Heard::default()).is_err(),
        "it does not begin again unasked"
    );
}

#[test]
fn other_data_is_refused() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let house = House::build(directory.path());
    let mut spec = house.spec(small());
    let heard = Heard { stop_after: Some(2), ..Heard::default() };
    pretrain::run(&spec, &house.vault, &heard).unwrap_err();
    spec.resume = heard.fact(Checkpoints::FACT);
    let other = PretrainSpec { run: house.spec(small()).run, ..spec.clone() };
    let fewer = PretrainSpec { shards: Vec::new(), ..spec };
    for spec in [other, fewer] {
        let error = pretrain::run(&spec, &house.vault, &Heard::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
    }
}

#[test]
fn a_run_by_the_clock_settles_its_own_size() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let house = House::build(directory.path());
    let config = RunConfig {
        purpose: Some(Purpose::trial()),
        minutes: Some(0.05),
        context: Some(64),
        ..RunConfig::default()
    };
    let outcome = house.run(config);
    assert!(outcome.steps_done > 0 && outcome.parameters > 50_000);
}

#[test]
fn bf16_learns_too() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let house = House::build(directory.path());
    let full = house.run(small());
    let short = house.run(RunConfig { precision: Some(Precision::Bf16), ..small() });
    let (full, short) = (full.heldout.expect("held out"), short.heldout.expect("held out"));
    assert!((short.loss / full.loss - 1.0).abs() < 0.05, "{} {}", full.loss, short.loss);
}
