//! Documents: taking them in, looking at what is there and what was refused, and proving that all of it is what
//! it was.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;

use super::Performed;
use crate::{
    base::{Error, Id, IdKind, Monitor, Result, hex},
    corpus::{IngestReport, IngestSpec},
    store::{Document, ErasureState, Quarantined, Rows, Taken},
    vault::{KEYRING, Problem},
    work::{
        host::Leave,
        jobs,
        policy::Actor,
        protocol::Task,
        request::{DocumentRow, Ingest, Ingested, QuarantineRow, Request, Verified},
        warden::Warden,
    },
};

pub(super) fn ingest(
    warden: &Warden,
    actor: &Actor,
    request: &Request,
    monitor: &dyn Monitor,
) -> Result<Performed> {
    let Request::DataIngest(Ingest { paths, sample, collection, subjects, licence, allow_weak_sandbox }) =
        request
    else {
        return Err(Error::failed("this is no ingest"));
    };
    let spec = IngestSpec {
        paths: paths.clone(),
        sample: *sample,
        collection: collection.clone(),
        subjects: subjects.clone(),
        licence: licence.clone(),
        threads: warden.readers(),
        allow_weak_sandbox: *allow_weak_sandbox,
        ..IngestSpec::default()
    };
    jobs::run(warden, actor, request, monitor, |job| {
        let leave = Leave { create: &[IdKind::Document], intake: true, ..Leave::default() };
        let report: IngestReport = job.stage(Task::Ingest(spec), leave)?;
        let refused = warden.store.read(|rows| {
            let names = collection_names(rows)?;
            let refused = rows.quarantine_of_job(job.id)?;
            Ok(refused.into_iter().map(|row| quarantine_row(row, &names)).collect::<Vec<_>>())
        })?;
        let ingested = Ingested {
            job: Some(job.id),
            new: report.new,
            new_versions: report.new_versions,
            unchanged: report.unchanged,
            text_bytes: report.text_bytes,
            formats: report.by_format.iter().map(|(format, &count)| (format.to_string(), count)).collect(),
            refused,
        };
        let taken = report.new + report.new_versions;
        Ok(Performed::new(&ingested)?
            .made(job.id)
            .detail("taken", taken)
            .detail("unchanged", report.unchanged)
            .detail("refused", report.refused)
            .detail("refused_for", refused_for(&report))
            .detail("sandbox", report.walls.to_string())
            .detail("vault_epoch", warden.vault.root().epoch))
    })
}

/// How many inputs were refused for which reason: no name, no text.
fn refused_for(report: &IngestReport) -> Value {
    report.by_reason.iter().map(|(reason, &count)| (reason.name().to_owned(), Value::from(count))).collect()
}

pub(super) fn list(warden: &Warden, collection: Option<&str>) -> Result<Performed> {
    let rows: Vec<DocumentRow> = warden.store.read(|rows| {
        let names = collection_names(rows)?;
        let number = collection.map(|name| number_of(rows, name)).transpose()?;
        let documents = rows.documents(number)?;
        Ok(documents.into_iter().map(|document| document_row(document, &names)).collect())
    })?;
    Performed::new(&rows)
}

pub(super) fn document_row(document: Document, names: &HashMap<i64, String>) -> DocumentRow {
    DocumentRow {
        id: document.id,
        name: document.name,
        collection: names.get(&document.collection).cloned().unwrap_or_default(),
        format: document.format,
        bytes: document.source_bytes,
        state: document.state.to_string(),
        reason: None,
        subjects: document.subjects,
        licence: document.licence,
        ingested_at_ms: document.ingested_at_ms,
    }
}

pub(super) fn quarantine(warden: &Warden, collection: Option<&str>) -> Result<Performed> {
    let rows: Vec<QuarantineRow> = warden.store.read(|rows| {
        let names = collection_names(rows)?;
        let number = collection.map(|name| number_of(rows, name)).transpose()?;
        Ok(rows.quarantine(number)?.into_iter().map(|row| quarantine_row(row, &names)).collect())
    })?;
    Performed::new(&rows)
}

/// Every object against the keyring, the keyring against the database, and the tombstones against the erasures.
pub(super) fn verify(warden: &Warden, monitor: &dyn Monitor) -> Result<Performed> {
    let mut report = warden.vault.verify(warden.recorded_root().as_ref(), monitor)?;
    let told = report.problems.iter().any(|problem| problem.object == KEYRING);
    if let Some(error) = warden.keyring_must_stand().err().filter(|_| !told) {
        // It has grown since: its number of commits no longer shows that it was put back.
        report.problems.insert(0, Problem { object: KEYRING.into(), what: error.to_string() });
    }
    let report = report.into_result()?;
    let kept = warden.store.read(|rows| rows.kept_objects())?;
    let mut lost: Vec<Id> = kept.into_iter().filter(|&id| !warden.vault.contains(id)).collect();
    lost.sort_unstable();
    if let Some(first) = lost.first() {
        return Err(Error::integrity(format!(
            "{} objects that the database lists have no key, {first} for one: the keyring is older than the \
             database, or was damaged",
            lost.len()
        ))
        .remedy("restore the whole data directory from one backup"));
    }
    every_erasure_has_its_tombstone(warden)?;
    every_revocation_holds(warden)?;
    Ok(Performed::new(&Verified { objects: report.root.objects, bytes: report.bytes })?
        .detail("vault_epoch", report.root.epoch)
        .detail("vault_root", hex(&report.root.hash)))
}

/// Lines that are missing at the end of the tombstones' file are missed here; the others its chain tells.
fn every_erasure_has_its_tombstone(warden: &Warden) -> Result<()> {
    let stones: HashSet<Id> = warden.vault.tombstones()?.iter().map(|stone| stone.erasure).collect();
    let done = warden.store.read(|rows| rows.erasures(Some(ErasureState::Done)))?;
    let missing =
        done.iter().find(|erasure| needs_a_tombstone(&erasure.taken) && !stones.contains(&erasure.id));
    missing.map_or(Ok(()), |erasure| {
        Err(Error::integrity(format!("the tombstone of {} is missing from keys/tombstones", erasure.id))
            .remedy("put the file back from the newest backup"))
    })
}

fn needs_a_tombstone(taken: &Taken) -> bool {
    !taken.documents.is_empty() || !taken.emptied.is_empty()
}

fn every_revocation_holds(warden: &Warden) -> Result<()> {
    let undone = warden.undone_revocations()?;
    undone.first().map_or(Ok(()), |first| {
        let more = if undone.len() > 1 { format!("; and {} more", undone.len() - 1) } else { String::new() };
        Err(Error::integrity(format!("{first}{more}"))
            .remedy("find out who writes to the database, and revoke it again to put the row in order"))
    })
}

/// Names by number.
pub(super) fn collection_names(rows: &Rows<'_>) -> Result<HashMap<i64, String>> {
    Ok(rows.collections()?.into_iter().map(|collection| (collection.number, collection.name)).collect())
}

/// # Errors
/// `NotFound`, naming the collections that there are.
pub(super) fn number_of(rows: &Rows<'_>, name: &str) -> Result<i64> {
    if let Some(number) = rows.collection_number(name)? {
        return Ok(number);
    }
    let known: BTreeMap<String, ()> =
        rows.collections()?.into_iter().map(|collection| (collection.name, ())).collect();
    let error = Error::not_found(format!("there is no collection '{name}'"));
    Err(if known.is_empty() {
        error.remedy("nothing was ingested yet: `cloister data ingest PATH --collection NAME`")
    } else {
        let names: Vec<String> = known.into_keys().collect();
        error.remedy(format!("the collections are {}", names.join(", ")))
    })
}

fn quarantine_row(row: Quarantined, names: &HashMap<i64, String>) -> QuarantineRow {
    QuarantineRow {
        id: row.id,
        name: row.name,
        collection: names.get(&row.collection).cloned().unwrap_or_default(),
        format: row.format,
        bytes: row.source_bytes,
        state: "quarantined".to_owned(),
        reason: row.reason,
    }
}
