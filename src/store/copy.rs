//! One state of the database, copied while others write the next.

use std::path::Path;

use rusqlite::{Connection, backup::Backup};

use super::{Store, lock, open};
use crate::base::{Context, Error, Result};

/// A state of the database that stays readable as it was.
pub struct Pinned(Connection);

impl Store {
    /// Pins the present state, and calls `meanwhile` before anybody writes another.
    pub fn pin<T>(&self, meanwhile: impl FnOnce() -> Result<T>) -> Result<(Pinned, T)> {
        let writer = lock(&self.writer);
        let path = writer.path().map(Path::new).ok_or_else(|| Error::failed("the database has no path"))?;
        let pinned = open::connection(path)?;
        // A reading transaction begins with its first read.
        pinned
            .execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema;")
            .map_err(open::explain)
            .context("pinning the database")?;
        Ok((Pinned(pinned), meanwhile()?))
    }
}

impl Pinned {
    /// Writes this state to a new database at `path`, durable on return.
    pub fn copy_to(&self, path: &Path) -> Result<()> {
        let copying = || format!("copying the database to {}", path.display());
        let mut copy = open::connection(path)?;
        Backup::new(&self.0, &mut copy)
            .and_then(|backup| backup.step(-1))
            .map_err(open::explain)
            .with_context(copying)?;
        copy.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).with_context(copying)?;
        copy.close().map_err(|(_, error)| open::explain(error)).with_context(copying)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::{Id, IdKind},
        seal::Key,
    };

    #[test]
    fn a_copy_is_the_state_that_was_pinned_whatever_is_written_meanwhile() {
        let directory = tempfile::tempdir().unwrap();
        let keys = [Key::generate().unwrap()];
        let install = Id::from_parts(IdKind::Install, 1, [1; 10]);
        let store = Store::create(&directory.path().join("a.db"), install, &keys, 7).unwrap();
        store.write(|rows| rows.ensure_collection("before", 1)).unwrap();
        let (pinned, ()) = store.pin(|| Ok(())).unwrap();
        store.write(|rows| rows.ensure_collection("after", 2)).unwrap();
        store.checkpoint().unwrap();
        let path = directory.path().join("b.db");
        pinned.copy_to(&path).unwrap();
        let files = std::fs::read_dir(directory.path()).unwrap().flatten();
        let beside = files.filter(|file| file.file_name().to_string_lossy().starts_with("b.db")).count();
        assert_eq!(beside, 1, "the copy is one file");
        let copy = Store::open(&path, install, &keys).unwrap();
        let names: Vec<String> =
            copy.read(|rows| rows.collections()).unwrap().into_iter().map(|row| row.name).collect();
        assert_eq!(names, ["before"]);
        assert_eq!(store.read(|rows| rows.collections()).unwrap().len(), 2);
    }
}
