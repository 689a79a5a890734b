//! `cloister quickstart`: the whole road once, on sample documents or one's own, in the order in which anybody
//! would go it by hand. What a step finds done it leaves as it is, so that a second run, or one after Ctrl-C,
//! goes on from what is there.

use std::{
    fmt::Display,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    data, init, model,
    screen::{Screen, printable},
    serve,
    session::Session,
    settings::Unsealer,
};
use crate::{
    base::{
        Error, Result,
        units::{Bytes, Count},
    },
    corpus::sample,
    serve::Start,
    train::{Purpose, RunConfig},
    vault::Vault,
    work::{
        Warden,
        request::{
            Choice, Evaluation, Generate, Generated, Ingest, Ingested, ModelRow, NewToken, Pretrain, Request,
            RunRow, Status, TokenSpec, TokenizerRow,
        },
    },
};

/// The collection and the model that a trial makes.
const NAME: &str = "trial";
const TRIAL_KEY: &str = "trial-root.key";
const TOKEN_DAYS: u32 = 30;
const SAMPLE_TOKENS: u32 = 120;
const QUOTE_COLUMNS: usize = 80;
/// A young model writes many line breaks.
const SAMPLE_LINES_MAX: usize = 12;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Your documents: files or folders [default: the sample documents that ship with Cloister]
    #[arg(value_name = "DOCS")]
    documents: Vec<PathBuf>,
    /// Train for about so many minutes
    #[arg(long, value_name = "N", default_value_t = 3.0)]
    minutes: f64,
    /// Stop before serving
    #[arg(long)]
    no_serve: bool,
    /// Go on where this kernel cannot cage the process that reads documents; the audit log records it
    #[arg(long)]
    allow_weak_sandbox: bool,
    #[command(flatten)]
    serve: serve::ApiArgs,
}

pub fn run(args: Args, mut session: Session) -> Result<()> {
    if !(args.minutes.is_finite() && args.minutes > 0.0) {
        return Err(Error::usage("--minutes must be above zero"));
    }
    let paths: Vec<PathBuf> = args.documents.into_iter().map(data::absolute).collect::<Result<_>>()?;
    data_directory(&mut session)?;
    let before: Status = session.ask(Request::Status)?;
    what_is_there(&session.screen, &before)?;
    let changed = documents(&session, &before, paths, args.allow_weak_sandbox)?;
    let tokenizer = tokenizer(&session, &before, changed)?;
    let (model, measured) = model(&session, &before, &tokenizer, args.minutes, changed)?;
    measurements(&session, &measured)?;
    sample(&session, &model)?;
    if args.no_serve {
        return finish(&session.screen, &model, &measured);
    }
    serve_it(&session, &args.serve)
}

/// Makes the data directory under a trial key, or finds the one that is there.
fn data_directory(session: &mut Session) -> Result<()> {
    let directory = session.settings.data_dir.clone();
    let trial_key = directory.join(TRIAL_KEY);
    if Vault::exists(&directory) {
        return Ok(());
    }
    let is_trial = session.settings.unsealer.is_none();
    if is_trial {
        session.settings.unsealer = Some(Unsealer::KeyFile(trial_key.clone()));
    }
    let made = init::make(session)?;
    let heading = Heading(&session.screen);
    heading.say("data directory", directory.display())?;
    if is_trial {
        heading.say(
            "root key",
            format_args!(
                "a TRIAL key, {}: it lies beside what it protects.\n{:16}For real documents use \
                 `cloister init` with a key file or passphrase of your own.",
                trial_key.display(),
                "",
            ),
        )?;
    }
    heading.say(
        "certificate",
        format_args!("{}\n{:16}SHA-256 {}", made.certificate.display(), "", made.fingerprint),
    )
}

/// A second quickstart begins by saying what it goes on from.
fn what_is_there(screen: &Screen, status: &Status) -> Result<()> {
    let heading = Heading(screen);
    for collection in status.collections.iter().filter(|collection| collection.name == NAME) {
        heading.say(
            "already here",
            format_args!(
                "{} documents, {} of text, {} refused",
                collection.documents,
                Bytes(collection.text_bytes),
                collection.quarantined
            ),
        )?;
    }
    for run in status.runs.iter().filter(|run| run.name == NAME && run.state == "interrupted") {
        heading.say(
            "already here",
            format_args!("a run stopped at step {} of {}", run.steps_done, run.steps_total),
        )?;
    }
    for model in status.models.iter().filter(|model| model.name == NAME) {
        heading.say(
            "already here",
            format_args!("model {}, {} parameters", model.id, Count(model.parameters as f64)),
        )?;
    }
    Ok(())
}

/// Ingests what was named, or the samples the first time. Says whether the collection changed.
fn documents(session: &Session, before: &Status, paths: Vec<PathBuf>, weak: bool) -> Result<bool> {
    let is_filled = before.collections.iter().any(|row| row.name == NAME && row.documents > 0);
    if paths.is_empty() && is_filled {
        return Ok(false);
    }
    let heading = Heading(&session.screen);
    let sample = paths.is_empty();
    if sample {
        heading.say(
            "documents",
            "the contracts that ship with Cloister; name your own folder to use that instead",
        )?;
    }
    let licence = sample.then(|| sample::LICENCE.to_owned());
    let wanted = Ingest {
        paths,
        sample,
        collection: NAME.into(),
        subjects: Vec::new(),
        licence,
        allow_weak_sandbox: weak,
    };
    let done: Ingested = session.ask(Request::DataIngest(wanted))?;
    if !session.screen.is_json() {
        data::draw_ingested(&session.screen, &done)?;
    }
    if done.new + done.new_versions + done.unchanged == 0 {
        return Err(Error::failed("none of the documents could be read, so there is nothing to learn from")
            .remedy("the reasons stand above, and in `cloister data quarantine`"));
    }
    Ok(done.new + done.new_versions > 0)
}

/// The collection's tokenizer, trained now where it has none or has changed.
fn tokenizer(session: &Session, before: &Status, changed: bool) -> Result<TokenizerRow> {
    let there = before
        .tokenizers
        .iter()
        .filter(|row| row.collection == NAME && row.erased == 0)
        .max_by_key(|row| row.created_at_ms);
    let (row, what) = match there {
        Some(row) if !changed => (row.clone(), "already here"),
        _ => {
            let collection = NAME.into();
            let request = Request::TokenizerTrain { collection, vocab_size: None, lower_case: false };
            (session.ask(request)?, "tokenizer")
        }
    };
    let packed = row
        .bytes_per_token
        .map_or_else(String::new, |ratio| format!(", {ratio:.2} bytes per token on held-out text"));
    Heading(&session.screen).say(what, format_args!("vocabulary of {}{packed}", row.vocab_size))?;
    Ok(row)
}

/// The trial's model: the one that is there, the run that was stopped, or a new one.
fn model(
    session: &Session,
    before: &Status,
    tokenizer: &TokenizerRow,
    minutes: f64,
    changed: bool,
) -> Result<(String, Evaluation)> {
    let newest = before
        .models
        .iter()
        .filter(|row| row.name == NAME && row.erased == 0)
        .max_by_key(|row| row.created_at_ms);
    if let Some(ModelRow { id, evaluation: Some(measured), .. }) = newest.filter(|_| !changed) {
        return Ok((id.to_string(), *measured));
    }
    let goes_on = |row: &&RunRow| row.name == NAME && row.state == "interrupted" && row.erased == 0;
    let stopped = before.runs.iter().filter(goes_on);
    let run: RunRow = match stopped.max_by_key(|row| row.id).filter(|_| !changed) {
        Some(stopped) => session.ask(Request::ModelResume { run: Some(stopped.id) })?,
        None => {
            let config =
                RunConfig { purpose: Some(Purpose::trial()), minutes: Some(minutes), ..RunConfig::default() };
            session.ask(Request::ModelPretrain(Pretrain {
                collection: NAME.into(),
                name: NAME.into(),
                tokenizer: Some(tokenizer.id),
                vocab_size: None,
                lower_case: false,
                config,
            }))?
        }
    };
    match (run.model, run.evaluation) {
        (Some(model), Some(measured)) => Ok((model.to_string(), measured)),
        _ => Err(Error::interrupted(format!(
            "training stopped at step {} of {}",
            run.steps_done, run.steps_total
        ))
        .remedy("everything so far is kept; `cloister quickstart` goes on from here")),
    }
}

fn measurements(session: &Session, measured: &Evaluation) -> Result<()> {
    if session.screen.is_json() {
        return Ok(());
    }
    session.screen.line("")?;
    model::draw_evaluation(&session.screen, measured)
}

fn sample(session: &Session, model: &str) -> Result<()> {
    let generated: Generated = session.ask(Request::ModelGenerate(Generate {
        model: model.into(),
        prompt: String::new(),
        dtype: None,
        choice: Choice {
            max_tokens: SAMPLE_TOKENS,
            temperature: 0.7,
            top_k: None,
            top_p: Some(0.95),
            min_p: None,
            seed: Some(1),
            stop: Vec::new(),
            ignore_eos: false,
        },
    }))?;
    let heading = Heading(&session.screen);
    heading.say("", "")?;
    heading.say("it writes", "")?;
    let lines = generated.text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.take(SAMPLE_LINES_MAX).try_for_each(|line| heading.quote(line))
}

fn finish(screen: &Screen, model: &str, measured: &Evaluation) -> Result<()> {
    if screen.is_json() {
        return screen.json(&serde_json::json!({ "model": model, "evaluation": measured }));
    }
    screen.line("")?;
    screen.line(model::held_out_line(measured))
}

fn serve_it(session: &Session, args: &serve::ApiArgs) -> Result<()> {
    let token: NewToken = session
        .ask(Request::TokenNew(TokenSpec { days: Some(TOKEN_DAYS), ..TokenSpec::of_role("service") }))?;
    let warden = Arc::new(Warden::open(&session.settings.site())?);
    serve::until_stopped(Start::Open(warden), args, session, |bound| {
        let certificate = &bound.certificate_pem;
        let url = format!("https://{}", bound.address);
        let curl = curl_line(&url, certificate, &token.token, NAME);
        if session.screen.is_json() {
            return session.screen.json(&serde_json::json!({
                "url": url, "fingerprint": bound.fingerprint, "token": token.token, "model": NAME,
                "certificate": certificate, "curl": curl,
            }));
        }
        let heading = Heading(&session.screen);
        session.screen.line("")?;
        heading.say("serving", &url)?;
        heading.say("fingerprint", format_args!("SHA-256 {}", bound.fingerprint))?;
        heading.say("token", format_args!("{} (for {TOKEN_DAYS} days)", token.token))?;
        heading.say("model", NAME)?;
        session.screen.line("\nAsk it something from another terminal (Ctrl-C here stops the server):\n")?;
        session.screen.line(curl)
    })
}

/// One line that works when it is pasted, whatever the path of the certificate.
fn curl_line(url: &str, certificate: &Path, token: &str, model: &str) -> String {
    let body = serde_json::json!({ "model": model, "prompt": "The", "max_tokens": 60, "temperature": 0.5 });
    let certificate = certificate.display().to_string();
    format!(
        "curl --cacert {} {url}/v1/completions -H 'Authorization: Bearer {token}' -H 'Content-Type: application/json' -d {}",
        shell_word(&certificate),
        shell_word(&body.to_string()),
    )
}

/// Quoted for a shell where it must be.
fn shell_word(text: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+:@".contains(letter);
    if !text.is_empty() && text.chars().all(plain) {
        text.into()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Two columns: what it is, and what there is to say; nothing when JSON was asked for.
struct Heading<'a>(&'a Screen);

impl Heading<'_> {
    fn say(&self, what: &str, text: impl Display) -> Result<()> {
        if self.0.is_json() {
            return Ok(());
        }
        self.0.line(format!("{what:<15} {text}").trim_end())
    }

    /// A line of somebody else's, folded between words.
    fn quote(&self, line: &str) -> Result<()> {
        let mut folded = String::new();
        for word in printable(line).split(' ') {
            if !folded.is_empty() && folded.chars().count() + word.chars().count() > QUOTE_COLUMNS {
                self.say("", std::mem::take(&mut folded))?;
            }
            folded += word;
            folded.push(' ');
        }
        self.say("", folded.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curl_line_survives_a_shell() {
        let line =
            curl_line("https://127.0.0.1:8443", Path::new("/tmp/it's here/tls.pem"), "clst_x", "mdl_1");
        let echoed = std::process::Command::new("sh")
            .arg("-c")
            .arg(format!("printf '%s\\n' {}", line.trim_start_matches("curl ")))
            .output()
            .expect("a shell");
        let words = String::from_utf8(echoed.stdout).expect("UTF-8");
        let words: Vec<&str> = words.lines().collect();
        assert_eq!(words[1], "/tmp/it's here/tls.pem");
        assert_eq!(words[4], "Authorization: Bearer clst_x");
        let body: serde_json::Value = serde_json::from_str(words[8]).expect("JSON");
        assert_eq!(body["model"], "mdl_1");
    }
}
