//! `cloister audit`: who did what, and proof that nobody changed the record of it.

use std::{
    fs::{self, File},
    io::{BufReader, BufWriter, Write},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::{
    session::{Session, time},
    signals,
};
use crate::{
    auditlog::{self, Consistency, LogKey},
    base::{Context, Error, Monitor, Progress, Result, hex},
    work::{
        client,
        request::{AuditReport, AuditRow, Request},
    },
};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Check every entry, the chain of segments and the signed checkpoints
    Verify(Verify),
    /// List entries, newest last
    Ls {
        /// From this entry on [default: the latest]
        #[arg(long, value_name = "NUMBER")]
        from: Option<u64>,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: u64,
    },
    /// Sign the log as it stands; keep what this prints somewhere else
    Checkpoint,
    /// Print the public key that verifies the log; keep it elsewhere from the first day on
    Key,
    /// Hand the whole log over
    Export {
        /// Lines of JSON, which `audit verify` verifies, or a table to read
        #[arg(long, value_enum, default_value = "jsonl")]
        format: Format,
        /// Into this new file [default: standard output]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Prove that the log begins with that of a checkpoint which was kept
    Prove {
        /// The kept checkpoint
        #[arg(long, value_name = "FILE")]
        since: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
pub enum Format {
    Jsonl,
    Csv,
}

#[derive(Debug, clap::Args)]
pub struct Verify {
    /// With this key and the files named alone; no data directory is opened
    #[arg(long, value_name = "FILE")]
    public_key: Option<PathBuf>,
    /// What `audit export` wrote
    #[arg(long, value_name = "FILE", requires = "public_key")]
    export: Option<PathBuf>,
    /// What `audit prove` printed, with the one checkpoint that it starts from
    #[arg(long, value_name = "FILE", requires = "public_key", conflicts_with = "export")]
    proof: Option<PathBuf>,
    /// A checkpoint that was kept, which the log must reach; may be given more than once
    #[arg(long = "checkpoint", value_name = "FILE", requires = "public_key")]
    checkpoints: Vec<PathBuf>,
}

pub fn run(command: Command, session: &Session) -> Result<()> {
    let screen = &session.screen;
    match command {
        Command::Verify(Verify { public_key: Some(key), export, proof, checkpoints }) => {
            let report = verify_alone(&key, export.as_deref(), proof.as_deref(), &checkpoints)?;
            show_report(session, &report)
        }
        Command::Verify(_) => {
            let report: AuditReport = session.ask(Request::AuditVerify)?;
            show_report(session, &report)
        }
        Command::Ls { from, limit } => {
            let rows: Vec<AuditRow> = session.ask(Request::AuditLs { from, limit })?;
            screen.rows(&rows, ["entry", "time", "actor", "action", "outcome", "object"], |row| {
                [
                    row.number.to_string(),
                    time(row.at_ms),
                    row.actor.clone(),
                    row.action.clone(),
                    row.outcome.clone(),
                    row.object.map_or_else(String::new, |id| id.to_string()),
                ]
            })
        }
        Command::Checkpoint => {
            let note: String = session.ask(Request::AuditCheckpoint)?;
            screen.show(&note, |screen, note| screen.line(note.trim_end()))
        }
        Command::Key => {
            let key: String = session.ask(Request::AuditKey)?;
            screen.show(&key, |screen, key| screen.line(key))
        }
        Command::Export { format, out } => export(session, format, out.as_deref()),
        Command::Prove { since } => {
            let proof: Consistency = session.ask(Request::AuditProve { since: read(&since)? })?;
            screen.json(&proof)
        }
    }
}

fn show_report(session: &Session, report: &AuditReport) -> Result<()> {
    session.screen.show(report, |screen, AuditReport { entries, root }| {
        screen.line(format_args!("{entries} entries, each in its place and signed for"))?;
        screen.line(format_args!("root {root}"))
    })
}

/// Verifies with a key and files alone.
fn verify_alone(
    key: &Path,
    export: Option<&Path>,
    proof: Option<&Path>,
    checkpoints: &[PathBuf],
) -> Result<AuditReport> {
    let key = LogKey::parse(&read(key)?)?;
    let kept = checkpoints.iter().map(|path| read(path)).collect::<Result<Vec<_>>>()?;
    let kept: Vec<&str> = kept.iter().map(String::as_str).collect();
    if let Some(proof) = proof {
        let [earlier] = kept[..] else {
            return Err(Error::usage("a proof starts from one checkpoint: name it with --checkpoint"));
        };
        let proof: Consistency = serde_json::from_str(&read(proof)?)
            .map_err(|error| Error::usage(format!("this is no proof: {error}")))?;
        let entries = proof.verify(&key, earlier)?;
        let root = key.open_checkpoint(&proof.checkpoint)?.root;
        return Ok(AuditReport { entries, root: hex(&root) });
    }
    let export = export.ok_or_else(|| Error::usage("name what is to be verified: --export or --proof"))?;
    let file = File::open(export).with_context(|| format!("opening {}", export.display()))?;
    let report = auditlog::verify_export(BufReader::new(file), &key, &kept)?.into_result()?;
    Ok(AuditReport { entries: report.entries, root: hex(&report.root) })
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

fn export(session: &Session, format: Format, out: Option<&Path>) -> Result<()> {
    let to: Box<dyn Write + Send> = match out {
        Some(path) => {
            let made = File::create_new(path).with_context(|| format!("making {}", path.display()))?;
            Box::new(made)
        }
        None => Box::new(std::io::stdout()),
    };
    let writing = Writing(Mutex::new(Sheet { to: BufWriter::new(to), written: Ok(()) }));
    let request = Request::AuditExport { table: format == Format::Csv };
    let answer = client::run(&session.settings.site(), request, &writing)?;
    let Sheet { mut to, written } = writing.0.into_inner().unwrap_or_else(PoisonError::into_inner);
    written.and_then(|()| to.flush()).context("writing the export")?;
    let report: AuditReport = serde_json::from_value(answer).context("reading the warden's answer")?;
    match out {
        Some(_) => session.screen.show(&report, |screen, AuditReport { entries, root }| {
            screen.line(format_args!("{entries} entries, root {root}"))
        }),
        // Standard output holds the log and nothing else.
        None => Ok(()),
    }
}

/// Takes the pieces of an export, byte for byte.
struct Writing(Mutex<Sheet>);

struct Sheet {
    to: BufWriter<Box<dyn Write + Send>>,
    /// The first failure, after which nothing more is written.
    written: std::io::Result<()>,
}

impl Monitor for Writing {
    fn progress(&self, _: &Progress) {}

    fn note(&self, message: &str) {
        tracing::info!("{message}");
    }

    fn text(&self, piece: &str) {
        let mut sheet = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if sheet.written.is_ok() {
            sheet.written = sheet.to.write_all(piece.as_bytes());
        }
    }

    fn stop_requested(&self) -> bool {
        signals::stop_requested()
    }
}
