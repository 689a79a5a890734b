//! `cloister data`: bring documents in, see what was taken and what was refused, check that all still is what
//! it was, erase what must go.

use std::path::PathBuf;

use super::{
    erase::{self, CertificateArgs, EraseArgs},
    screen::{Screen, printable},
    session::Session,
};
use crate::{
    base::{Context, ErrorKind, Result, units::Bytes},
    work::request::{DocumentRow, Ingest, Ingested, QuarantineRow, Request, Verified},
};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Take documents in: txt, md, html, csv, jsonl, pdf, docx, told by content
    Ingest {
        /// Files and folders
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// The collection that they go into
        #[arg(long, short, value_name = "NAME")]
        collection: String,
        /// Whom the documents are about; may be given more than once
        #[arg(long = "subject", value_name = "SUBJECT")]
        subjects: Vec<String>,
        /// Under which licence they may be used
        #[arg(long, value_name = "LICENCE")]
        licence: Option<String>,
        /// Go on where this kernel cannot cage the process that reads documents; the audit log records it
        #[arg(long)]
        allow_weak_sandbox: bool,
    },
    /// List the documents
    Ls(Filter),
    /// List what was refused, and why
    Quarantine(Filter),
    /// Read every sealed object again and check it against its seal
    Verify,
    /// Destroy documents for good, and list what was made of them
    Erase(EraseArgs),
    /// Show the signed certificate of an erasure, or check one that was handed over
    Certificate(CertificateArgs),
}

#[derive(Debug, clap::Args)]
pub struct Filter {
    /// Of this collection alone
    #[arg(long, short, value_name = "NAME")]
    collection: Option<String>,
}

pub fn run(command: Command, session: &Session) -> Result<()> {
    let screen = &session.screen;
    match command {
        Command::Ingest { paths, collection, subjects, licence, allow_weak_sandbox } => {
            let paths = paths.into_iter().map(absolute).collect::<Result<_>>()?;
            let wanted = Ingest { paths, sample: false, collection, subjects, licence, allow_weak_sandbox };
            let done: Ingested = session.ask(Request::DataIngest(wanted))?;
            screen.show(&done, draw_ingested)
        }
        Command::Ls(Filter { collection }) => {
            let rows: Vec<DocumentRow> = session.ask(Request::DataLs { collection })?;
            screen.rows(&rows, ["id", "name", "collection", "format", "bytes", "state"], |row| {
                let DocumentRow { id, name, collection, format, bytes, state, .. } = row;
                [
                    id.to_string(),
                    name.clone(),
                    collection.clone(),
                    format.clone(),
                    bytes.to_string(),
                    state.clone(),
                ]
            })
        }
        Command::Quarantine(Filter { collection }) => {
            let rows: Vec<QuarantineRow> = session.ask(Request::DataQuarantine { collection })?;
            screen.rows(&rows, ["id", "name", "collection", "bytes", "reason"], |row| {
                let QuarantineRow { id, name, collection, bytes, reason, .. } = row;
                [id.to_string(), name.clone(), collection.clone(), bytes.to_string(), reason.clone()]
            })
        }
        Command::Erase(args) => erase::erase(args, session),
        Command::Certificate(args) => erase::certificate(args, session),
        Command::Verify => {
            let verified: Verified = session.ask(Request::DataVerify)?;
            screen.show(&verified, |screen, Verified { objects, bytes }| {
                screen.line(format_args!("{objects} objects, {}: every seal holds", Bytes(*bytes)))
            })
        }
    }
}

/// A daemon stands elsewhere: what is meant must not depend on where. Symbolic links stay as they are.
///
/// # Errors
/// `NotFound` for what is not there: a slip of the pen is not an input to be quarantined.
pub fn absolute(path: PathBuf) -> Result<PathBuf> {
    let finding = || format!("finding {}", path.display());
    path.symlink_metadata().with_context(finding).map_err(|error| error.with_kind(ErrorKind::NotFound))?;
    std::path::absolute(&path).with_context(finding)
}

/// What was taken, and what was refused with the reason for each.
pub fn draw_ingested(screen: &Screen, done: &Ingested) -> Result<()> {
    let formats: Vec<String> =
        done.formats.iter().map(|(format, count)| format!("{count} {format}")).collect();
    screen.line(format_args!(
        "taken    {} new, {} new versions, {} unchanged; {} of text{}",
        done.new,
        done.new_versions,
        done.unchanged,
        Bytes(done.text_bytes),
        if formats.is_empty() { String::new() } else { format!(" ({})", formats.join(", ")) },
    ))?;
    screen.line(format_args!("refused  {}", done.refused.len()))?;
    done.refused.iter().try_for_each(|row| {
        screen.line(format_args!("  {}: {}", printable(&row.name), printable(&row.reason)))
    })
}
