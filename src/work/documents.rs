//! Taking documents in: which are new, and the rows of those that are.

use super::{
    protocol::{Offered, Taken},
    warden::Warden,
};
use crate::{
    base::{Id, IdKind, Result},
    corpus::{Admitted, Refusal},
    seal::new_id,
    store::{KeyedHash, NewDocument, NewQuarantined, ObjectState},
};

impl Offered {
    fn content_hash(&self, warden: &Warden) -> KeyedHash {
        warden.store.keyed_hash("document content", &self.text_sha256)
    }
}

/// Which of the documents are new, and which are there as they are.
pub(super) fn offer(warden: &Warden, offered: &[Offered]) -> Result<Vec<Admitted>> {
    warden.store.read(|rows| {
        let judge = |offer: &Offered| -> Result<Admitted> {
            let Some(collection) = rows.collection_number(&offer.collection)? else {
                return Ok(Admitted::New);
            };
            let Some(known) = rows.current_document(collection, &offer.name)? else {
                return Ok(Admitted::New);
            };
            let same = known.content_hash == offer.content_hash(warden)
                && known.subjects == offer.subjects
                && known.licence == offer.licence;
            Ok(if same { Admitted::Unchanged } else { Admitted::NewVersion })
        };
        offered.iter().map(judge).collect()
    })
}

/// Writes the rows of documents whose objects the vault already has.
pub(super) fn admit(warden: &Warden, job: Id, taken: &[Taken]) -> Result<()> {
    let now = warden.now_ms();
    warden.store.write(|rows| {
        for document in taken {
            let offered = &document.offered;
            let collection = rows.ensure_collection(&offered.collection, now)?;
            rows.add_object(document.object, ObjectState::Kept, Some(job), now)?;
            rows.add_document(&NewDocument {
                id: document.object,
                collection,
                job: Some(job),
                format: document.format.name(),
                source_bytes: document.source_bytes,
                text_bytes: document.text_bytes,
                content_hash: offered.content_hash(warden),
                ingested_at_ms: now,
                name: &offered.name,
                subjects: &offered.subjects,
                licence: offered.licence.as_deref(),
                remarks: &[],
            })?;
            rows.clear_quarantined(collection, &offered.name)?;
        }
        Ok(())
    })
}

/// Writes down what was refused and why.
pub(super) fn quarantine(warden: &Warden, job: Id, refusals: &[Refusal]) -> Result<()> {
    let now = warden.now_ms();
    warden.store.write(|rows| {
        for refusal in refusals {
            let detail = match refusal.detail.as_str() {
                "" => refusal.reason.says().to_owned(),
                detail => format!("{} ({detail})", refusal.reason.says()),
            };
            rows.add_quarantined(&NewQuarantined {
                id: new_id(IdKind::Quarantine)?,
                collection: rows.ensure_collection(&refusal.collection, now)?,
                job: Some(job),
                reason_code: refusal.reason.name(),
                source_bytes: refusal.source_bytes,
                refused_at_ms: now,
                name: &refusal.name,
                format: refusal.format.map_or("unknown", |format| format.name()),
                reason: &format!("{detail}; {}", refusal.reason.remedy()),
            })?;
        }
        Ok(())
    })
}
