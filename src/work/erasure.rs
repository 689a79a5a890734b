//! Erasing documents, in steps of which each can be taken again: the rows first, in one transaction that marks the
//! erasure as pending; its tombstone; the keys and the objects; the entry in the audit log; the certificate. Whatever
//! step a process dies in, the next start finishes it before anything else. That start also erases again whatever a
//! tombstone names and an older database or keyring brought back.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    time::Duration,
};

use serde_json::Value;

use super::{
    jobs,
    policy::{Action, Actor},
    request::Erase,
    requests::reached,
    warden::Warden,
};
use crate::{
    auditlog::{self, Entry, Outcome},
    base::{Context, Error, Id, IdKind, Monitor, Result, hex},
    improve::{Certificate, SignedCertificate, certificate::RESIDUAL},
    seal::new_id,
    store::{Document, DocumentState, Erasure, ErasureState, Rows, Taken, Writes},
    vault::Tombstone,
};

/// How often it is looked whether a backup still reads.
const LOOK_EVERY: Duration = Duration::from_millis(400);
/// What stands where a row quoted a name.
const ERASED: &str = "(erased)";

/// What an erasure takes, found in one state of the database.
pub(super) struct Target {
    /// In every version that is there.
    pub documents: Vec<Document>,
    /// Refused inputs of the same names.
    pub quarantined: Vec<Id>,
    pub answers: Vec<Id>,
    pub feedback: Vec<Id>,
    subjects: Vec<String>,
    asked: Vec<Id>,
    words: Words,
}

impl Target {
    /// # Errors
    /// `NotFound` for a subject or document of which nothing is left, saying which erasure took it.
    pub(super) fn find(rows: &Rows<'_>, wanted: &Erase) -> Result<Self> {
        let mut documents = BTreeMap::new();
        let (mut tokens, mut subjects) = (Vec::new(), Vec::new());
        for subject in &wanted.subjects {
            let hash = subject_hash(rows, subject);
            let carrying = rows.documents_of_subject(subject)?;
            let theirs = tokens_of_user(rows, subject)?;
            let (answers, feedback) = rows.texts_of_tokens(&theirs)?;
            if carrying.is_empty() && answers.is_empty() && feedback.is_empty() {
                let what = format!("subject '{subject}'");
                return Err(nothing_left(rows, &what, |taken| taken.subjects.contains(&hash))?);
            }
            add_versions(rows, &carrying, &mut documents)?;
            tokens.extend(theirs);
            subjects.push(hash);
        }
        for &id in &wanted.documents {
            if rows.versions_of(id)?.is_empty() {
                return Err(nothing_left(rows, &id.to_string(), |taken| taken.documents.contains_key(&id))?);
            }
            add_versions(rows, &[id], &mut documents)?;
        }
        let (answers, feedback) = rows.texts_of_tokens(&tokens)?;
        let target = Self::of(rows, documents.into_values().collect(), &wanted.subjects)?;
        Ok(Self { answers, feedback, subjects, asked: wanted.documents.clone(), ..target })
    }

    /// These documents, and what quotes their names.
    fn of(rows: &Rows<'_>, documents: Vec<Document>, subjects: &[String]) -> Result<Self> {
        let gone: HashSet<Id> = documents.iter().map(|document| document.id).collect();
        let (_, stay): (Vec<_>, Vec<_>) =
            rows.standing_documents()?.into_iter().partition(|document| gone.contains(&document.id));
        let mut words = Words::new(&documents, &stay, subjects);
        let (quarantined, refused): (Vec<_>, Vec<_>) =
            rows.quarantine(None)?.into_iter().partition(|row| words.cover(&row.name));
        words.stay.extend(refused.into_iter().map(|row| row.name));
        Ok(Self {
            documents,
            quarantined: quarantined.into_iter().map(|row| row.id).collect(),
            answers: Vec::new(),
            feedback: Vec::new(),
            subjects: Vec::new(),
            asked: Vec::new(),
            words,
        })
    }

    pub(super) fn ids(&self) -> Vec<Id> {
        self.documents.iter().map(|document| document.id).collect()
    }

    /// Takes every word of the target out of the rows.
    fn strip(&self, rows: &Writes<'_>) -> Result<Taken> {
        for &Document { id, .. } in &self.documents {
            rows.erase_document(id)?;
            rows.remove_object(id)?;
        }
        self.quarantined.iter().try_for_each(|&id| rows.remove_quarantined(id))?;
        self.answers.iter().try_for_each(|&id| rows.empty_answer(id))?;
        self.feedback.iter().try_for_each(|&id| rows.empty_feedback(id))?;
        let hashed = |document: &Document| (document.id, name_hash(rows, &document.name));
        Ok(Taken {
            subjects: self.subjects.clone(),
            asked: self.asked.clone(),
            documents: self.documents.iter().map(hashed).collect(),
            quarantined: self.quarantined.len() as u64,
            jobs: rows.redact_jobs(&|text| self.words.redacted(text))?,
            answers: self.answers.len() as u64,
            feedback: self.feedback.len() as u64,
            emptied: self.answers.iter().chain(&self.feedback).copied().collect(),
        })
    }
}

fn add_versions(rows: &Rows<'_>, ids: &[Id], documents: &mut BTreeMap<Id, Document>) -> Result<()> {
    for &id in ids {
        if !documents.contains_key(&id) {
            documents.extend(rows.versions_of(id)?.into_iter().map(|document| (document.id, document)));
        }
    }
    Ok(())
}

/// What ties a prompt to a person is the token that asked: those of the user who is called as the subject is.
fn tokens_of_user(rows: &Rows<'_>, subject: &str) -> Result<Vec<Id>> {
    let Some(user) = rows.user_named(subject)? else { return Ok(Vec::new()) };
    let theirs = rows.tokens()?.into_iter().filter(|token| token.user == Some(user.id));
    Ok(theirs.map(|token| token.id).collect())
}

fn nothing_left(rows: &Rows<'_>, what: &str, took: impl Fn(&Taken) -> bool) -> Result<Error> {
    let earlier = rows.erasures(None)?.into_iter().rfind(|erasure| took(&erasure.taken));
    Ok(match earlier {
        Some(Erasure { id, .. }) => Error::not_found(format!("nothing is left of {what}: {id} erased it"))
            .remedy(format!("`cloister data certificate {id}` shows what went")),
        None => Error::not_found(format!("there is nothing of {what}"))
            .remedy("`cloister data ls --json` shows the documents with their subjects"),
    })
}

/// As it stands in certificates and in the audit log, in hexadecimal.
pub(super) fn subject_hash(rows: &Rows<'_>, subject: &str) -> String {
    hex(&rows.keyed_hash("subject", subject.as_bytes()))
}

fn name_hash(rows: &Rows<'_>, name: &str) -> String {
    hex(&rows.keyed_hash("document name", name.as_bytes()))
}

/// What no row may quote any more: names of documents that go, and of subjects whom none that stays concerns.
#[derive(Default)]
struct Words {
    subjects: BTreeSet<String>,
    gone: BTreeSet<String>,
    /// Names of what stays.
    stay: BTreeSet<String>,
}

impl Words {
    fn new(going: &[Document], staying: &[Document], asked: &[String]) -> Self {
        let names = |documents: &[Document]| -> BTreeSet<String> {
            documents.iter().map(|document| document.name.clone()).collect()
        };
        let subjects = |documents: &[Document]| -> BTreeSet<String> {
            documents.iter().flat_map(|document| document.subjects.iter().cloned()).collect()
        };
        let stay = names(staying);
        let asked = subjects(going).into_iter().chain(asked.iter().cloned()).collect::<BTreeSet<_>>();
        Self {
            subjects: &asked - &subjects(staying),
            // One collection's copy goes, another's of the same name may stay.
            gone: &names(going) - &stay,
            stay,
        }
    }

    /// Whether `path` names what goes and nothing else: a document, its file, or a folder of such files alone.
    fn cover(&self, path: &str) -> bool {
        let holds = |names: &BTreeSet<String>| names.iter().any(|name| lies_in(path, name));
        holds(&self.gone) && !holds(&self.stay)
    }

    fn redacted(&self, text: &str) -> Option<String> {
        if self.subjects.contains(text) || self.cover(text) {
            return Some(ERASED.to_owned());
        }
        // The longest first: one name may begin as another does.
        let mut quoted: Vec<&String> = self.gone.iter().filter(|name| text.contains(*name)).collect();
        quoted.sort_by_key(|name| std::cmp::Reverse(name.len()));
        let redacted = quoted.into_iter().fold(text.to_owned(), |text, name| text.replace(name, ERASED));
        (redacted != text).then_some(redacted)
    }
}

/// Whether the document `name` is the file `path`, a row of it, or lies below the folder.
fn lies_in(path: &str, name: &str) -> bool {
    let below = name.strip_prefix(path.trim_end_matches('/')).filter(|_| !path.is_empty());
    below.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '#']))
}

impl Warden {
    /// The first step: in one transaction, no row says anything of the target any more.
    pub(super) fn begin_erasure(&self, actor: &Actor, wanted: &Erase) -> Result<Id> {
        let id = new_id(IdKind::Erasure)?;
        self.store.write(|rows| {
            let taken = Target::find(rows, wanted)?.strip(rows)?;
            rows.add_erasure(id, &actor.to_string(), &taken, self.now_ms())
        })?;
        Ok(id)
    }

    /// The other steps. `actor` is None where another process or request began it, `waiting` where nobody waits for a
    /// backup that still reads older pages of the database.
    pub(super) fn finish_erasure(
        &self,
        id: Id,
        actor: Option<&Actor>,
        waiting: Option<&dyn Monitor>,
    ) -> Result<SignedCertificate> {
        let erasure = self.store.read(|rows| rows.erasure(id))?;
        let erasure = erasure.ok_or_else(|| Error::not_found(format!("there is no erasure {id}")))?;
        let tombstone = self.destroy_keys(&erasure)?;
        self.empty_older_pages(waiting)?;
        let known = if actor.is_none() { self.outcome_of(id)? } else { None };
        let entry = match known {
            Some(number) => number,
            None => self.record_outcome(&erasure, tombstone, actor)?,
        };
        let signed = self.certify(&erasure, entry)?;
        let text = serde_json::to_string(&signed).context("writing a certificate")?;
        self.store.write(|rows| rows.end_erasure(id, &text, signed.certificate.erased_at_ms))?;
        if actor.is_some() {
            // At a start the last root that was recorded is for `verify` to hold against what is there.
            self.bear_witness()?;
        }
        Ok(signed)
    }

    /// They hold the rows as they were.
    fn empty_older_pages(&self, waiting: Option<&dyn Monitor>) -> Result<()> {
        let mut said = false;
        while !self.store.checkpoint()? {
            let monitor = waiting.filter(|monitor| !monitor.stop_requested()).ok_or_else(|| {
                Error::unavailable("older pages of the database are still being read, by a backup perhaps")
            })?;
            if !said {
                monitor.note(
                    "a backup still reads older pages of the database: waiting until it has copied them",
                );
                said = true;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Tombstone first: from then on the documents are erased again wherever they come from.
    fn destroy_keys(&self, erasure: &Erasure) -> Result<Option<String>> {
        let Taken { documents, emptied, .. } = &erasure.taken;
        if documents.is_empty() && emptied.is_empty() {
            return Ok(None);
        }
        let tombstone = self.vault.bury(erasure.id, erasure.created_at_ms, documents, emptied)?;
        if !documents.is_empty() {
            let ids: Vec<Id> = documents.keys().copied().collect();
            self.vault.erase(&ids)?;
        }
        Ok(Some(tombstone))
    }

    fn record_outcome(
        &self,
        erasure: &Erasure,
        tombstone: Option<String>,
        actor: Option<&Actor>,
    ) -> Result<u64> {
        let Taken { subjects, documents, .. } = &erasure.taken;
        let detail: [(&str, Value); 4] = [
            ("subjects", subjects.clone().into()),
            ("documents", documents.len().into()),
            ("tombstone", tombstone.into()),
            ("vault_epoch", self.vault.root().epoch.into()),
        ];
        if let Some(actor) = actor {
            return self.record(actor, Action::DataErase, Some(erasure.id), Outcome::Done, &detail);
        }
        let entry = Entry::new(&erasure.actor, Action::DataErase.as_str(), Outcome::Done).object(erasure.id);
        self.audit(detail.into_iter().fold(entry, |entry, (name, value)| entry.detail(name, value)))
    }

    /// The number of the entry that says it was done, where the last one about it says so.
    fn outcome_of(&self, id: Id) -> Result<Option<u64>> {
        let mut last = None;
        for entry in auditlog::read(&self.data_dir.join("audit"), 0)? {
            let (number, entry) = entry?;
            if entry.object == Some(id) && entry.action == Action::DataErase.as_str() {
                last = (entry.outcome == Outcome::Done).then_some(number);
            }
        }
        Ok(last)
    }

    fn certify(&self, erasure: &Erasure, audit_entry: u64) -> Result<SignedCertificate> {
        let Taken { subjects, asked, documents, quarantined, jobs, answers, feedback, emptied: _ } =
            erasure.taken.clone();
        let ids: Vec<Id> = documents.keys().copied().collect();
        let certificate = Certificate {
            version: Certificate::version(),
            install: self.install(),
            erasure: erasure.id,
            actor: erasure.actor.clone(),
            asked_at_ms: erasure.created_at_ms,
            erased_at_ms: self.now_ms(),
            subjects,
            asked,
            documents,
            quarantined,
            jobs,
            answers,
            feedback,
            audit_entry,
            audit_checkpoint: self.log.checkpoint(),
            reached: self.store.read(|rows| reached::by(rows, &ids))?,
            residual: RESIDUAL.map(str::to_owned).to_vec(),
        };
        certificate.sign(self.signer())
    }

    /// Finishes what was begun, and erases again what an older copy brought back. Returns what the administrator should
    /// hear.
    pub(super) fn finish_erasures(&self, waiting: Option<&dyn Monitor>) -> Result<Vec<String>> {
        let mut notices = Vec::new();
        for tombstone in self.vault.tombstones()? {
            if self.obey(&tombstone)? {
                notices.push(format!(
                    "what {} had erased was back: the keyring or the database was put back from an older day; it is \
                     erased again",
                    tombstone.erasure
                ));
            }
        }
        for erasure in self.store.read(|rows| rows.erasures(Some(ErasureState::Pending)))? {
            self.finish_erasure(erasure.id, None, waiting)?;
            notices.push(format!("erasure {} was not finished; it is now", erasure.id));
        }
        Ok(notices)
    }

    /// Finishes, after a backup, the erasure that it stood in the way of and that nobody waits for any more. Where a job
    /// computes, which may read documents, that is left to the next erasure or start.
    pub(super) fn finish_erasures_held_up(&self) -> Result<()> {
        let Some(_turn) = jobs::turn_if_free(self) else { return Ok(()) };
        let pending = self.store.read(|rows| rows.erasures(Some(ErasureState::Pending)))?;
        pending.into_iter().try_for_each(|erasure| self.finish_erasure(erasure.id, None, None).map(drop))
    }

    /// Whether anything that the tombstone names had come back: then its erasure is pending again.
    fn obey(&self, tombstone: &Tombstone) -> Result<bool> {
        let ids: Vec<Id> = tombstone.documents.keys().copied().collect();
        let (known, standing, (answers, feedback)) = self.store.read(|rows| {
            let found: Result<Vec<_>> = ids.iter().map(|&id| rows.document(id)).collect();
            let stands = |document: &Document| document.state != DocumentState::Erased;
            let standing: Vec<Document> = found?.into_iter().flatten().filter(stands).collect();
            let known = rows.erasure(tombstone.erasure)?.map(|erasure| erasure.state);
            // A database that knows the erasure emptied them in the same transaction.
            let emptied = if known.is_none() { &tombstone.emptied[..] } else { &[] };
            Ok((known, standing, rows.texts_among(emptied)?))
        })?;
        let held = ids.iter().any(|&id| self.vault.contains(id));
        let cut_off = known == Some(ErasureState::Pending) && standing.is_empty();
        let words = !answers.is_empty() || !feedback.is_empty();
        if cut_off || (standing.is_empty() && !held && !words) {
            return Ok(false);
        }
        self.store.write(|rows| {
            let stripped = Target { answers, feedback, ..Target::of(rows, standing, &[])? }.strip(rows)?;
            let (documents, emptied) = (tombstone.documents.clone(), tombstone.emptied.clone());
            let taken = Taken { documents, emptied, ..stripped };
            match known {
                Some(_) => rows.reopen_erasure(tombstone.erasure),
                None => rows.add_erasure(tombstone.erasure, "cloister", &taken, tombstone.at_ms),
            }
        })?;
        let again = Entry::new("cloister", Action::DataErase.as_str(), Outcome::Intent);
        self.audit(again.object(tombstone.erasure).detail("because", "an older copy brought it back"))?;
        Ok(true)
    }
}

#[cfg(test)]
#[path = "erasure_tests.rs"]
mod tests;
