//! The database: what the appliance holds, in the clear only where it is structure (identifiers, times, sizes,
//! states), sealed where it is content (names, paths, reasons, prompts, answers). A write is one transaction and
//! durable when it returns. Objects, keys and the audit log live elsewhere; `work` keeps their order.

mod answers;
mod cell;
mod collections;
mod copy;
mod deployments;
mod documents;
mod erasures;
mod install;
mod jobs;
mod lineage;
mod makers;
mod models;
mod objects;
mod open;
mod people;
mod quarantine;
mod runs;
mod snapshots;
#[cfg(test)]
mod tests;

use std::{
    ops::Deref,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use rusqlite::{Connection, OptionalExtension, Params, TransactionBehavior};

pub use self::{
    answers::{
        Answer, AnswerKind, AnswerState, Feedback, FeedbackState, FinishedAnswer, NewAnswer, NewFeedback,
    },
    collections::Collection,
    copy::Pinned,
    deployments::{Act, Deed, Deployment, DeploymentState},
    documents::{Document, DocumentState, NewDocument},
    erasures::{Erasure, ErasureState, Taken},
    install::{Governance, Install},
    jobs::{Job, JobState},
    lineage::{Direction, Edge, Relation, Step},
    makers::Made,
    models::{Evaluation, Model, NewModel},
    objects::{ObjectState, StoredObject},
    people::{ApiToken, NewToken, User},
    quarantine::{NewQuarantined, Quarantined},
    runs::{NewRun, Run, RunState},
    snapshots::{NewSnapshot, Shard, Snapshot, TokenizerRow},
};
use crate::{
    base::{Context, Error, Id, Result},
    seal::{self, Key},
};

crate::into_cause!(rusqlite::Error);

/// A keyed hash: equal for equal inputs of this installation, and telling nothing to anybody else.
pub type KeyedHash = [u8; 32];

/// How long a checkpoint waits for those who read an older state.
const CHECKPOINT_WITHIN: std::time::Duration = std::time::Duration::from_millis(100);

/// The open database. Reads and writes go over two connections, so that a reader never waits for a disk to sync.
pub struct Store {
    writer: Mutex<Connection>,
    reader: Mutex<Connection>,
    /// Replaced when there is a newer key; whoever reads or writes goes on with those it began with.
    keys: RwLock<Arc<Keys>>,
    warnings: Vec<String>,
}

struct Keys {
    /// Seal the `content` columns, through a key derived for each row: the newest first, which alone seals.
    content: Vec<Key>,
    /// For [`KeyedHash`]es. Of the first version always: a hash under another key would find nothing.
    equality: Key,
}

/// A reading view: one consistent state of the database.
pub struct Rows<'a> {
    connection: &'a Connection,
    keys: &'a Keys,
}

/// A transaction that may write, and reads what it wrote.
pub struct Writes<'a>(Rows<'a>);

impl<'a> Deref for Writes<'a> {
    type Target = Rows<'a>;

    fn deref(&self) -> &Rows<'a> {
        &self.0
    }
}

impl Store {
    /// Makes the database of a new installation.
    ///
    /// # Errors
    /// If one is already there, or the directory cannot be written.
    pub fn create(path: &Path, install: Id, column_keys: &[Key], now_ms: u64) -> Result<Self> {
        let store = Self::connect(path, column_keys)?;
        if store.read(|rows| rows.install())?.is_some() {
            return Err(Error::failed(format!("{} already exists", path.display())));
        }
        store.write(|rows| rows.add_install(install, now_ms))?;
        Ok(store)
    }

    /// Opens the database, brings its schema up to date and proves that `column_keys`, the newest first, are its keys.
    ///
    /// # Errors
    /// `Integrity` where the database is missing or belongs to another installation or key, `Failed` where it is
    /// newer than this binary.
    pub fn open(path: &Path, install: Id, column_keys: &[Key]) -> Result<Self> {
        if !path.exists() {
            return Err(Error::integrity(format!("the database {} is missing", path.display()))
                .remedy("restore the data directory from a backup"));
        }
        let store = Self::connect(path, column_keys)?;
        store.read(|rows| rows.prove_install(install))?;
        Ok(store)
    }

    /// Whether there is a database of some installation at `path`: one whose making was cut short is none.
    pub fn is_made(path: &Path) -> bool {
        path.exists() && open::connection(path).is_ok_and(|connection| install::is_there(&connection))
    }

    fn connect(path: &Path, column_keys: &[Key]) -> Result<Self> {
        let warnings = open::filesystem_warning(path).into_iter().collect();
        let mut writer = open::connection(path)?;
        open::migrate(&mut writer)?;
        let reader = open::connection(path)?;
        reader.pragma_update(None, "query_only", true).context("opening the database for reading")?;
        let keys = RwLock::new(Arc::new(Keys::new(column_keys)?));
        Ok(Self { writer: Mutex::new(writer), reader: Mutex::new(reader), keys, warnings })
    }

    /// Seals with the first of these from now on, and opens with any.
    pub fn set_keys(&self, column_keys: &[Key]) -> Result<()> {
        let keys = Arc::new(Keys::new(column_keys)?);
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(())
    }

    fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the administrator should hear about where the database lies.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Reads one consistent state.
    pub fn read<T>(&self, query: impl FnOnce(&Rows<'_>) -> Result<T>) -> Result<T> {
        let connection = lock(&self.reader);
        let transaction = connection.unchecked_transaction().context("starting to read the database")?;
        query(&Rows { connection: &transaction, keys: &self.keys() })
    }

    /// One transaction: all of it is durable when this returns `Ok`, none of it happened when it returns `Err`.
    pub fn write<T>(&self, change: impl FnOnce(&Writes<'_>) -> Result<T>) -> Result<T> {
        let mut connection = lock(&self.writer);
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(open::explain)
            .context("starting to write the database")?;
        let value = change(&Writes(Rows { connection: &transaction, keys: &self.keys() }))?;
        transaction.commit().map_err(open::explain).context("writing the database")?;
        Ok(value)
    }

    /// The keyed hash under which equal contents and names are found.
    pub fn keyed_hash(&self, domain: &str, value: &[u8]) -> KeyedHash {
        self.keys().hash(domain, value)
    }

    /// Folds the write-ahead log into the database file, and says whether it could be emptied: then what it held of
    /// older rows is gone. It cannot while somebody reads an older state, as a backup does.
    pub fn checkpoint(&self) -> Result<bool> {
        let writer = lock(&self.writer);
        // Nobody writes meanwhile: whoever can wait asks again.
        writer.busy_timeout(CHECKPOINT_WITHIN).context("checkpointing the database")?;
        let is_busy = writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0));
        writer.busy_timeout(open::BUSY_TIMEOUT).context("checkpointing the database")?;
        Ok(!is_busy.context("checkpointing the database")?)
    }
}

impl Keys {
    fn new(column_keys: &[Key]) -> Result<Self> {
        let first = column_keys.last().ok_or_else(|| Error::integrity("there is no key for the database"))?;
        let content =
            column_keys.iter().map(|key| key.derive("store/content", b"")).collect::<Result<_>>()?;
        Ok(Self { content, equality: first.derive("store/equality", b"")? })
    }

    fn hash(&self, domain: &str, value: &[u8]) -> KeyedHash {
        let mut message = Vec::with_capacity(domain.len() + 1 + value.len());
        message.extend_from_slice(domain.as_bytes());
        message.push(0);
        message.extend_from_slice(value);
        seal::hmac(&self.equality, &message)
    }
}

impl Rows<'_> {
    /// See [`Store::keyed_hash`].
    pub fn keyed_hash(&self, domain: &str, value: &[u8]) -> KeyedHash {
        self.keys.hash(domain, value)
    }

    /// At most one row.
    fn one<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl Fn(&rusqlite::Row<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        let mut statement = self.connection.prepare_cached(sql).context("preparing a query")?;
        let row = statement.query_row(params, |row| Ok(read(row))).optional();
        row.map_err(open::explain).context("reading the database")?.transpose()
    }

    /// Every row.
    fn all<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl Fn(&rusqlite::Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut statement = self.connection.prepare_cached(sql).context("preparing a query")?;
        let mut rows = statement.query(params).map_err(open::explain).context("reading the database")?;
        let mut found = Vec::new();
        while let Some(row) = rows.next().map_err(open::explain).context("reading the database")? {
            found.push(read(row)?);
        }
        Ok(found)
    }
}

impl Writes<'_> {
    /// Runs one statement and says how many rows it changed.
    fn execute(&self, sql: &str, params: impl Params) -> Result<usize> {
        let mut statement = self.connection.prepare_cached(sql).context("preparing a change")?;
        statement.execute(params).map_err(open::explain).context("changing the database")
    }

    /// Runs one statement that must change exactly the row `what` names.
    fn execute_one(&self, what: &dyn std::fmt::Display, sql: &str, params: impl Params) -> Result<()> {
        match self.execute(sql, params)? {
            1 => Ok(()),
            _ => Err(Error::not_found(format!("there is no {what}, or it is not in the right state"))),
        }
    }
}

/// A panic inside a closure rolled its transaction back: the connection itself is sound.
fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}
