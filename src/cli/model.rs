//! `cloister model`: train one, go on with a run that was stopped, look at what there is, let it write.

use std::path::{Path, PathBuf};

use super::{
    data::absolute,
    screen::{Screen, Table},
    session::{Session, run_id, time},
};
use crate::{
    base::{
        Context, Error, ErrorKind, Id, Result,
        units::{Count, Seconds},
    },
    train::{Purpose, RunConfig},
    work::request::{Choice, Evaluation, Generate, Generated, ModelRow, Pretrain, Request, RunRow},
};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Train a model from scratch on a collection
    Pretrain(PretrainArgs),
    /// Go on with a run that was stopped, bit for bit as if it had not been
    Resume {
        /// [default: the latest that was stopped]
        #[arg(value_parser = run_id, value_name = "RUN")]
        run: Option<Id>,
    },
    /// List the models
    Ls,
    /// Show one, with its purpose and what was measured
    Show {
        /// A name or an identifier
        #[arg(value_name = "MODEL")]
        model: String,
    },
    /// Let a model go on from a prompt
    Generate(GenerateArgs),
    /// Take a model of the llama or Qwen2 family in from a Hugging Face directory
    Import {
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// The name it gets here
        #[arg(long, value_name = "NAME")]
        name: String,
    },
}

#[derive(Debug, clap::Args)]
pub struct PretrainArgs {
    /// The collection to learn from
    #[arg(long = "data", value_name = "COLLECTION")]
    collection: String,
    /// The model's name [default: the collection's]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The run file: the purpose, and any number that the dial should not choose
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The one dial: about how many parameters, as 10M
    #[arg(long, value_name = "N")]
    params: Option<String>,
    /// Train for about so many minutes
    #[arg(long, value_name = "MINUTES")]
    minutes: Option<f64>,
    /// Override one key of the run file; may be given more than once
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// With this tokenizer [default: the collection's newest, or a new one]
    #[arg(long, value_parser = super::session::tokenizer_id, value_name = "ID")]
    tokenizer: Option<Id>,
    /// Entries of a tokenizer that is trained now [default: chosen from the amount of text]
    #[arg(long, value_name = "N")]
    vocab_size: Option<u32>,
    /// Fold the text to lower case before a tokenizer is trained now
    #[arg(long)]
    lower_case: bool,
    /// Print parameters, FLOPs per token, peak memory and time, and train nothing
    #[arg(long)]
    plan: bool,
}

#[derive(Debug, clap::Args)]
pub struct GenerateArgs {
    /// A name or an identifier
    #[arg(value_name = "MODEL")]
    model: String,
    /// What to go on from
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// At most so many tokens
    #[arg(long, value_name = "K", default_value_t = 128)]
    max_tokens: u32,
    #[command(flatten)]
    sampling: Sampling,
    /// Write on past the end of the text
    #[arg(long)]
    ignore_eos: bool,
    /// Type of weights and activations [default: f32 on the CPU, bf16 on a card]
    #[arg(long, value_name = "DTYPE", value_parser = ["f32", "bf16"])]
    dtype: Option<String>,
}

#[derive(Clone, Debug, clap::Args)]
pub struct Sampling {
    /// 0 takes the likeliest token each time
    #[arg(long, value_name = "T", default_value_t = 0.8)]
    pub temperature: f32,
    /// Choose among the K likeliest tokens
    #[arg(long, value_name = "K")]
    pub top_k: Option<u32>,
    /// Choose among the likeliest tokens that make up this share
    #[arg(long, value_name = "P")]
    pub top_p: Option<f32>,
    /// Leave out tokens below this share of the likeliest one
    #[arg(long, value_name = "P")]
    pub min_p: Option<f32>,
    /// The same seed, prompt and model give the same text
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// Stop before this text; may be given more than once
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
}

pub fn run(command: Command, session: &Session) -> Result<()> {
    let screen = &session.screen;
    match command {
        Command::Pretrain(args) => pretrain(args, session),
        Command::Resume { run } => {
            screen.show(&session.ask::<RunRow>(Request::ModelResume { run })?, draw_run)
        }
        Command::Ls => {
            let rows: Vec<ModelRow> = session.ask(Request::ModelLs)?;
            screen.rows(&rows, ["id", "name", "parameters", "bits per byte", "made"], |row| {
                let bits = row.evaluation.map(|measured| measured.held_out_bits_per_byte);
                [
                    row.id.to_string(),
                    row.name.clone(),
                    Count(row.parameters as f64).to_string(),
                    bits.map_or_else(String::new, |bits| format!("{bits:.3}")),
                    time(row.created_at_ms),
                ]
            })
        }
        Command::Show { model } => {
            screen.show(&session.ask::<ModelRow>(Request::ModelShow { model })?, draw_model)
        }
        Command::Generate(args) => generate(args, session),
        Command::Import { directory, name } => {
            let directory = absolute(directory)?;
            screen.show(&session.ask::<ModelRow>(Request::ModelImport { directory, name })?, draw_model)
        }
    }
}

fn pretrain(args: PretrainArgs, session: &Session) -> Result<()> {
    let plan_only = args.plan;
    let request = args.into_request()?;
    if plan_only {
        let plan: serde_json::Value = session.ask(Request::ModelPlan(request))?;
        return session.screen.show(&plan, draw_plan);
    }
    session.screen.show(&session.ask::<RunRow>(Request::ModelPretrain(request))?, draw_run)
}

impl PretrainArgs {
    fn into_request(self) -> Result<Pretrain> {
        let written = match &self.config {
            Some(path) => read_run_file(path)?,
            None => RunConfig::default(),
        };
        let mut flags = overridden(&self.overrides)?;
        flags.params = self.params.map(|text| text.parse()).transpose()?.or(flags.params);
        flags.minutes = self.minutes.or(flags.minutes);
        let config = written.overlaid(flags);
        config.stated_purpose()?;
        let name = self.name.unwrap_or_else(|| self.collection.clone());
        let Self { collection, tokenizer, vocab_size, lower_case, .. } = self;
        Ok(Pretrain { collection, name, tokenizer, vocab_size, lower_case, config })
    }
}

fn read_run_file(path: &Path) -> Result<RunConfig> {
    let reading = || format!("reading the run file {}", path.display());
    let text = std::fs::read_to_string(path).with_context(reading)?;
    RunConfig::from_toml(&text).with_context(reading)
}

/// `--set key=value`, the value as TOML or, where it is none, as text: `--set schedule=wsd` needs no quotes.
fn overridden(overrides: &[String]) -> Result<RunConfig> {
    overrides.iter().try_fold(RunConfig::default(), |config, assignment| {
        let refused = |why: String| Error::usage(format!("--set {assignment}: {why}"));
        let (key, value) = assignment.split_once('=').ok_or_else(|| {
            refused("it has no `=`".into()).remedy("write --set key=value, as --set learning_rate=1e-3")
        })?;
        let (key, value) = (key.trim(), value.trim());
        let quoted = toml::Value::String(value.into()).to_string();
        let one = toml::from_str(&format!("{key} = {value}"))
            .or_else(|_| toml::from_str::<RunConfig>(&format!("{key} = {quoted}")))
            .map_err(|error| refused(error.message().to_owned()).with_kind(ErrorKind::Usage))?;
        Ok(config.overlaid(one))
    })
}

fn generate(args: GenerateArgs, session: &Session) -> Result<()> {
    let choice = args.sampling.choice(args.max_tokens, args.ignore_eos);
    let GenerateArgs { model, prompt, dtype, .. } = args;
    let request = Request::ModelGenerate(Generate { model, prompt, dtype, choice });
    session.ask_aloud::<Generated>(request).map(drop)
}

impl Sampling {
    pub fn choice(self, max_tokens: u32, ignore_eos: bool) -> Choice {
        let Self { temperature, top_k, top_p, min_p, seed, stop } = self;
        Choice { max_tokens, temperature, top_k, top_p, min_p, seed, stop, ignore_eos }
    }
}

/// What a run came to, and the one line that scripts read last.
pub fn draw_run(screen: &Screen, run: &RunRow) -> Result<()> {
    screen.line(format_args!(
        "{}  {} of {} steps, {} parameters, {} tokens, {}",
        run.id,
        run.steps_done,
        run.steps_total,
        Count(run.parameters as f64),
        Count(run.tokens_seen as f64),
        Seconds(run.elapsed_s),
    ))?;
    match (&run.model, &run.evaluation) {
        (Some(model), Some(measured)) => {
            screen.line(format_args!("model {model} ({})", run.name))?;
            draw_evaluation(screen, measured)?;
            screen.line(held_out_line(measured))
        }
        _ => screen.line(format_args!("stopped; `cloister model resume {}` goes on", run.id)),
    }
}

/// The line that `quickstart --no-serve` ends with.
pub fn held_out_line(measured: &Evaluation) -> String {
    format!("held-out {:.3} bits per byte", measured.held_out_bits_per_byte)
}

/// The model beside what does not learn, on the same held-out text.
pub fn draw_evaluation(screen: &Screen, measured: &Evaluation) -> Result<()> {
    let mut table = Table::new(["bits per byte", "on held-out text"]);
    let mut rows = [
        (measured.unigram_bits_per_byte, "how often each byte occurs"),
        (measured.order2_bits_per_byte, "each byte after the two before it"),
        (measured.gzip_bits_per_byte, "gzip"),
        (measured.held_out_bits_per_byte, "this model"),
    ];
    rows.sort_by(|a, b| b.0.total_cmp(&a.0));
    rows.iter().for_each(|(bits, what)| table.row([format!("{bits:.3}"), (*what).into()]));
    screen.table(&table)
}

fn draw_model(screen: &Screen, row: &ModelRow) -> Result<()> {
    let or_none = |id: Option<Id>| id.map_or_else(|| "none".into(), |id| id.to_string());
    screen.line(format_args!("{}  {}", row.id, row.name))?;
    screen.line(format_args!("parameters  {}", Count(row.parameters as f64)))?;
    screen.line(format_args!("made        {}", time(row.created_at_ms)))?;
    screen.line(format_args!("run         {}", or_none(row.run)))?;
    screen.line(format_args!("tokenizer   {}", or_none(row.tokenizer)))?;
    if row.erased > 0 {
        screen.line(format_args!("erased      {} of the documents that it was trained on", row.erased))?;
    }
    if let Some(Purpose { for_whom, for_what, not_for_what }) = &row.purpose {
        screen.line(format_args!("for whom    {for_whom}"))?;
        screen.line(format_args!("for what    {for_what}"))?;
        screen.line(format_args!("not for     {not_for_what}"))?;
    }
    row.evaluation.iter().try_for_each(|measured| draw_evaluation(screen, measured))
}

/// The plan's own names and numbers, one a line.
fn draw_plan(screen: &Screen, plan: &serde_json::Value) -> Result<()> {
    let mut fields = plan.as_object().into_iter().flatten();
    fields.try_for_each(|(name, value)| screen.line(format_args!("{name:<24} {value}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_override_is_a_number_or_a_word_and_is_refused_by_name() {
        let set = |text: &str| overridden(&[text.to_owned()]);
        assert_eq!(set("learning_rate=1e-3").expect("a number").learning_rate, Some(1e-3));
        assert_eq!(set("schedule = wsd").expect("a word").schedule, Some(crate::train::ScheduleKind::Wsd));
        assert_eq!(set("params=10M").expect("a size").params, Some("10M".parse().expect("a size")));
        for text in ["learning_rate", "learning_rat=1", "dim=wide", "dim=-1", "=3", "dim=1\nheads=2\n[x]"] {
            let error = set(text).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::Usage, "{text}");
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
