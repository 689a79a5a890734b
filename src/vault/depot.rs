//! What a job reads from and writes to.

use super::{ObjectReader, ObjectWriter};
use crate::{
    base::{Id, IdKind, Result},
    seal::Key,
};

/// The vault itself in the warden, the port to it in a worker: a job cannot tell, and need not.
pub trait Depot: Sync {
    /// Opens an object. Its header is authentic when this returns, and each chunk before it is handed out.
    fn open(&self, id: Id) -> Result<ObjectReader>;

    /// Begins an object of exactly `length_bytes` under a fresh key. Nothing of it is left if it is dropped.
    fn create(&self, kind: IdKind, length_bytes: u64) -> Result<ObjectWriter>;

    /// As [`Depot::create`], of an object that carries ciphertext of other keys beside its own `length_bytes`.
    fn create_carrying(&self, kind: IdKind, length_bytes: u64) -> Result<ObjectWriter>;

    /// Makes a written object durable and lists it.
    fn commit(&self, written: ObjectWriter) -> Result<Id>;

    /// Makes several durable at the price of one, or nearly.
    fn commit_all(&self, written: Vec<ObjectWriter>) -> Result<Vec<Id>> {
        written.into_iter().map(|object| self.commit(object)).collect()
    }

    /// Forgets an object and its key.
    fn delete(&self, id: Id) -> Result<()>;

    /// The key that seals a document's token extents: derived from the document's own, so that it opens
    /// tokens and not text, and is gone when the document is erased.
    fn extent_key(&self, document: Id) -> Result<Key>;
}
