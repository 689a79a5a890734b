//! `cloister data erase` and `cloister data certificate`: destroy documents for good, and prove it.

use std::{
    fs::{self, File},
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
};

use super::{
    backup::read_key,
    screen::{Screen, printable},
    session::{Session, document_id, erasure_id, time},
};
use crate::{
    base::{Context, Error, Id, Result},
    improve::{Reached, SignedCertificate},
    work::request::{Erase, ErasurePlan, Request},
};

/// What is typed to go on.
const WORD: &str = "erase";
/// Documents that are shown one by one; `--json` shows all.
const SHOWN_MAX: usize = 20;

#[derive(Debug, clap::Args)]
pub struct EraseArgs {
    /// Everything about this subject; may be given more than once
    #[arg(long = "subject", value_name = "SUBJECT", required_unless_present = "documents")]
    subjects: Vec<String>,
    /// This document, in every version; may be given more than once
    #[arg(long = "document", value_name = "ID", value_parser = document_id)]
    documents: Vec<Id>,
    /// List what would be erased and what was made of it, and change nothing
    #[arg(long)]
    plan: bool,
    /// Do not ask
    #[arg(long, conflicts_with = "plan")]
    yes: bool,
    /// Write the signed certificate into this new file
    #[arg(long, value_name = "FILE", conflicts_with = "plan")]
    certificate: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct CertificateArgs {
    /// Of this erasure
    #[arg(value_name = "ERASURE", value_parser = erasure_id, required_unless_present = "check")]
    erasure: Option<Id>,
    /// Say whether it was asked for this subject: a certificate itself names none
    #[arg(long, value_name = "SUBJECT", requires = "erasure")]
    subject: Option<String>,
    /// Check a certificate that was handed over; no data directory is opened
    #[arg(long, value_name = "FILE", requires = "public_key", conflicts_with = "erasure")]
    check: Option<PathBuf>,
    /// The appliance's `keys/receipts.pub`, kept elsewhere
    #[arg(long, value_name = "FILE", requires = "check")]
    public_key: Option<PathBuf>,
}

pub fn erase(args: EraseArgs, session: &Session) -> Result<()> {
    let EraseArgs { subjects, documents, plan, yes, certificate } = args;
    let wanted = Erase { subjects, documents };
    if plan {
        let plan: ErasurePlan = session.ask(Request::DataErasePlan(wanted))?;
        return session.screen.show(&plan, draw_plan);
    }
    if !yes {
        confirm(&wanted, session)?;
    }
    // Before anything is erased: a place that cannot be written must not cost the certificate.
    let file = certificate.map(|path| NewFile::create(&path)).transpose()?;
    let signed: SignedCertificate = session.ask(Request::DataErase(wanted))?;
    if let Some(file) = file {
        let erasure = signed.certificate.erasure;
        file.write(&serde_json::to_string(&signed).context("writing the certificate")?).map_err(|error| {
            error.remedy(format!(
                "it is erased; `cloister data certificate {erasure}` shows the certificate again"
            ))
        })?;
    }
    session.screen.show(&signed, draw)
}

/// Shows what it would take and waits for the word.
fn confirm(wanted: &Erase, session: &Session) -> Result<()> {
    if session.screen.is_json() || !std::io::stdin().is_terminal() {
        return Err(Error::usage("erasing cannot be undone, and nobody confirmed it")
            .remedy("look at what it takes with --plan, then run it again with --yes"));
    }
    let plan: ErasurePlan = session.ask(Request::DataErasePlan(wanted.clone()))?;
    draw_plan(&session.screen, &plan)?;
    session.screen.piece(&format!("\nThis cannot be undone. Type {WORD} to go on: "))?;
    let mut typed = String::new();
    std::io::stdin().read_line(&mut typed).context("reading the answer")?;
    if typed.trim() == WORD {
        return Ok(());
    }
    Err(Error::interrupted("nothing was erased"))
}

/// A file that was made for something to come, and goes again where that does not.
struct NewFile {
    path: PathBuf,
    file: Option<File>,
}

impl NewFile {
    fn create(path: &Path) -> Result<Self> {
        let file = File::create_new(path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self { path: path.to_owned(), file: Some(file) })
    }

    fn write(mut self, text: &str) -> Result<()> {
        let Some(mut file) = self.file.take() else { return Ok(()) };
        let written = writeln!(file, "{text}").and_then(|()| file.sync_all());
        written.with_context(|| format!("writing {}", self.path.display()))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if self.file.is_some() {
            // Nothing is in it; what went wrong is said already.
            let _ = fs::remove_file(&self.path);
        }
    }
}

pub fn certificate(args: CertificateArgs, session: &Session) -> Result<()> {
    let CertificateArgs { erasure, subject, check, public_key } = args;
    let signed = match (erasure, check, public_key) {
        (Some(erasure), ..) => session.ask(Request::DataCertificate { erasure, subject })?,
        (None, Some(certificate), Some(key)) => check_alone(&certificate, &key)?,
        _ => return Err(Error::usage("name an erasure, or --check with --public-key")),
    };
    session.screen.show(&signed, draw)
}

/// Verifies with a key and a file alone.
fn check_alone(certificate: &Path, key: &Path) -> Result<SignedCertificate> {
    let key = read_key(key)?;
    let text =
        fs::read_to_string(certificate).with_context(|| format!("reading {}", certificate.display()))?;
    let signed: SignedCertificate = serde_json::from_str(&text).map_err(|error| {
        Error::integrity(format!("{} is no certificate of erasure: {error}", certificate.display()))
    })?;
    signed.verify(&key)?;
    Ok(signed)
}

fn draw_plan(screen: &Screen, plan: &ErasurePlan) -> Result<()> {
    screen.line(format_args!("documents that would be erased, each version: {}", plan.documents.len()))?;
    for row in plan.documents.iter().take(SHOWN_MAX) {
        let subjects: Vec<String> = row.subjects.iter().map(|subject| printable(subject)).collect();
        let (name, state) = (printable(&row.name), &row.state);
        screen.line(format_args!("  {}  {name}  {state}  {}", row.id, subjects.join(", ")))?;
    }
    draw_more(screen, plan.documents.len())?;
    let ErasurePlan { quarantined, answers, feedback, .. } = plan;
    screen.line(format_args!("{quarantined} refused inputs of these names would go"))?;
    screen.line(format_args!("{answers} answers and {feedback} opinions would be emptied"))?;
    draw_reached(screen, &plan.reached)?;
    draw_residual(screen, &plan.residual)
}

fn draw(screen: &Screen, signed: &SignedCertificate) -> Result<()> {
    let certificate = &signed.certificate;
    let when = time(certificate.erased_at_ms);
    screen.line(format_args!("{}  erased {when}, asked by {}", certificate.erasure, certificate.actor))?;
    screen.line(format_args!(
        "{} documents (each version), their keys destroyed; {} refused inputs deleted; {} jobs redacted; {} answers and {} \
         opinions emptied",
        certificate.documents.len(),
        certificate.quarantined,
        certificate.jobs,
        certificate.answers,
        certificate.feedback,
    ))?;
    for id in certificate.documents.keys().take(SHOWN_MAX) {
        screen.line(format_args!("  {id}"))?;
    }
    draw_more(screen, certificate.documents.len())?;
    screen.line(format_args!("entry {} of the audit log", certificate.audit_entry))?;
    draw_reached(screen, &certificate.reached)?;
    draw_residual(screen, &certificate.residual)?;
    screen.line(format_args!("signed by {}", signed.public_key))
}

fn draw_more(screen: &Screen, count: usize) -> Result<()> {
    match count.saturating_sub(SHOWN_MAX) {
        0 => Ok(()),
        more => screen.line(format_args!("  and {more} more; --json names them all")),
    }
}

fn draw_reached(screen: &Screen, reached: &[Reached]) -> Result<()> {
    screen.line(format_args!("reached  {} things that were made of them", reached.len()))?;
    // A run, its checkpoints and its model are made anew by one command.
    for made_alike in reached.chunk_by(|one, next| one.retrain == next.retrain) {
        for Reached { id, because, .. } in made_alike {
            screen.line(format_args!("  {id}  {because}"))?;
        }
        if let Some(command) = &made_alike[0].retrain {
            screen.line(format_args!("      {}", printable(command)))?;
        }
    }
    Ok(())
}

fn draw_residual(screen: &Screen, residual: &[String]) -> Result<()> {
    screen.line("what remains")?;
    residual.iter().try_for_each(|text| screen.line(format_args!("  - {text}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_for_a_certificate_that_never_came_is_gone_and_none_is_overwritten() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("certificate.json");
        drop(NewFile::create(&path).expect("new"));
        assert!(!path.exists());
        NewFile::create(&path).expect("new").write("{}").expect("written");
        assert_eq!(fs::read_to_string(&path).expect("there"), "{}\n");
        assert!(NewFile::create(&path).is_err());
        assert_eq!(fs::read_to_string(&path).expect("there"), "{}\n");
    }
}
