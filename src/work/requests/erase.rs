//! Erasing: what it would take, doing it, and showing its certificate.

use serde_json::Value;

use super::{Performed, data, reached};
use crate::{
    base::{Context, Error, Id, Monitor, Result},
    improve::{SignedCertificate, certificate::RESIDUAL},
    work::{
        erasure::{Target, subject_hash},
        jobs,
        policy::Actor,
        request::{Erase, ErasurePlan},
        warden::Warden,
    },
};

/// So many subjects and documents in one erasure: the audit log's entry has a hash of each.
const ASKED_MAX: usize = 100;

/// What the intent says of it: no name.
pub(super) fn about(warden: &Warden, wanted: &Erase) -> Vec<(&'static str, Value)> {
    if wanted.subjects.len() + wanted.documents.len() > ASKED_MAX {
        return Vec::new();
    }
    let hashed = warden.store.read(|rows| {
        Ok(wanted.subjects.iter().map(|subject| subject_hash(rows, subject)).collect::<Vec<_>>())
    });
    let documents: Vec<String> = wanted.documents.iter().map(ToString::to_string).collect();
    // A database that cannot be read is found out by what follows.
    vec![("subjects", hashed.unwrap_or_default().into()), ("documents", documents.into())]
}

pub(super) fn plan(warden: &Warden, wanted: &Erase) -> Result<Performed> {
    check(wanted)?;
    let plan = warden.store.read(|rows| {
        let target = Target::find(rows, wanted)?;
        let reached = reached::by(rows, &target.ids())?;
        let names = data::collection_names(rows)?;
        let (quarantined, answers) = (target.quarantined.len() as u64, target.answers.len() as u64);
        Ok(ErasurePlan {
            quarantined,
            answers,
            feedback: target.feedback.len() as u64,
            documents: target.documents.into_iter().map(|row| data::document_row(row, &names)).collect(),
            reached,
            residual: RESIDUAL.map(str::to_owned).to_vec(),
        })
    })?;
    Ok(Performed::new(&plan)?.detail("plan", true))
}

pub(super) fn erase(
    warden: &Warden,
    actor: &Actor,
    wanted: &Erase,
    monitor: &dyn Monitor,
) -> Result<Performed> {
    check(wanted)?;
    // A job that computes reads documents, and one that waits may be about to.
    let _turn = jobs::take_turn(warden, monitor)?;
    warden.keyring_must_stand()?;
    for notice in warden.finish_erasures(Some(monitor))? {
        monitor.note(&notice);
    }
    let erasure = warden.begin_erasure(actor, wanted)?;
    let certificate = warden.finish_erasure(erasure, Some(actor), Some(monitor)).map_err(|error| {
        error.context(format!("{erasure} is begun, and not finished")).remedy(format!(
            "it is finished after the backup, else by the next erasure or the next start; then `cloister data \
             certificate {erasure}` shows its certificate"
        ))
    })?;
    Ok(Performed::new(&certificate)?.made(erasure).logged())
}

fn check(wanted: &Erase) -> Result<()> {
    match wanted.subjects.len() + wanted.documents.len() {
        0 => {
            Err(Error::usage("nothing is named that could be erased")
                .remedy("name a --subject or a --document"))
        }
        1..=ASKED_MAX => Ok(()),
        _ => Err(Error::usage(format!("an erasure is of {ASKED_MAX} subjects and documents at the most"))
            .remedy("erase the others by a second one")),
    }
}

pub(super) fn certificate(warden: &Warden, erasure: Id, subject: Option<&str>) -> Result<Performed> {
    let (found, hash) = warden
        .store
        .read(|rows| Ok((rows.erasure(erasure)?, subject.map(|subject| subject_hash(rows, subject)))))?;
    let found = found.ok_or_else(|| {
        Error::not_found(format!("there is no erasure {erasure}"))
            .remedy("`cloister audit ls` names those that were made, as data.erase")
    })?;
    let text = found
        .certificate
        .ok_or_else(|| Error::unavailable(format!("{erasure} is not finished: it has no certificate yet")))?;
    let signed: SignedCertificate = serde_json::from_str(&text).context("reading a certificate")?;
    signed.verify(&warden.signer().public_key())?;
    if hash.is_some_and(|hash| !signed.certificate.subjects.contains(&hash)) {
        return Err(Error::not_found(format!("{erasure} was not asked for this subject")));
    }
    Ok(Performed::new(&signed)?.made(erasure))
}
