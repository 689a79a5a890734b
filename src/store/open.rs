//! Opening the database file: pragmas, forward-only migrations, and what is said when the disk, the file or the
//! version is not as it should be.

use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use crate::base::{Context, Error, Result, error::IntoCause};

/// Applied in order and once; a migration that was released is never edited.
const MIGRATIONS: &[&str] = &[
    include_str!("../../migrations/0001_first_road.sql"),
    include_str!("../../migrations/0002_erasures.sql"),
    include_str!("../../migrations/0003_token_scope.sql"),
    include_str!("../../migrations/0004_sessions.sql"),
    include_str!("../../migrations/0005_deployments.sql"),
    include_str!("../../migrations/0006_carried_tokens.sql"),
    include_str!("../../migrations/0007_withdrawals.sql"),
];

/// How long a statement waits for a lock: only a checkpoint of our own other connection can hold one.
pub(super) const BUSY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

pub(super) fn connection(path: &Path) -> Result<Connection> {
    let opening = || format!("opening the database {}", path.display());
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(path, flags).map_err(explain).with_context(opening)?;
    restrict(path).with_context(opening)?;
    connection.busy_timeout(BUSY_TIMEOUT).with_context(opening)?;
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL;
             PRAGMA secure_delete = ON;
             PRAGMA foreign_keys = ON;
             PRAGMA temp_store = MEMORY;
             PRAGMA trusted_schema = OFF;
             PRAGMA cell_size_check = ON;",
        )
        .map_err(explain)
        .with_context(opening)?;
    Ok(connection)
}

/// SQLite gives its WAL and shared-memory files the mode of the database file.
fn restrict(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("restricting {} to its owner", path.display()))
}

/// Brings the schema up to date, all steps in one transaction.
pub(super) fn migrate(connection: &mut Connection) -> Result<()> {
    migrate_with(connection, MIGRATIONS)
}

pub(super) fn migrate_with(connection: &mut Connection, migrations: &[&str]) -> Result<()> {
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(explain)
        .context("starting a migration of the database")?;
    let version: usize = transaction
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(explain)
        .context("reading the version of the database")?;
    if version > migrations.len() {
        return Err(Error::failed(format!(
            "the database has version {version}, and this cloister knows versions up to {}",
            migrations.len()
        ))
        .remedy("use the cloister that wrote it, or a newer one; there is no way back to an older version"));
    }
    for (number, migration) in migrations.iter().enumerate().skip(version) {
        transaction
            .execute_batch(migration)
            .map_err(explain)
            .with_context(|| format!("migrating the database to version {}", number + 1))?;
    }
    transaction
        .pragma_update(None, "user_version", migrations.len())
        .context("recording the version of the database")?;
    transaction.commit().map_err(explain).context("migrating the database")
}

/// SQLite's failures as an administrator needs to hear them.
pub(super) fn explain(error: rusqlite::Error) -> Error {
    let code = error.sqlite_error_code();
    let cause = error.into_cause();
    match code {
        Some(ErrorCode::DiskFull) => Error::unavailable(format!("the disk is full ({cause})"))
            .remedy("free some space on the disk and run the same command again"),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::unavailable(cause.to_string())
            .remedy("another program holds the database; close it and run the same command again"),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            Error::integrity(format!("the database is damaged ({cause})"))
                .remedy("restore the data directory from a backup")
        }
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            cause.remedy("check who owns the data directory and its permissions")
        }
        _ => cause,
    }
}

/// WAL needs shared memory and honest locks, which network filesystems do not give.
pub(super) fn filesystem_warning(path: &Path) -> Option<String> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let magic = rustix::fs::statfs(directory).ok()?.f_type;
    let name = network_filesystem(magic as u32)?;
    Some(format!(
        "{} is on {name}, a network filesystem: the database may be damaged there; use a local disk",
        directory.display()
    ))
}

/// The magic numbers of statfs(2).
fn network_filesystem(magic: u32) -> Option<&'static str> {
    match magic {
        0x6969 => Some("NFS"),
        0x517B | 0xFE53_4D42 => Some("SMB"),
        0xFF53_4D42 => Some("CIFS"),
        0x0102_1997 => Some("9P"),
        0x00C3_6400 => Some("Ceph"),
        0x0BD0_0BD0 => Some("Lustre"),
        0x5346_414F => Some("AFS"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn migrations_apply_once_and_a_failing_one_leaves_the_old_version() {
        let directory = tempfile::tempdir().unwrap();
        let mut connection = connection(&directory.path().join("t.db")).unwrap();
        let first = "CREATE TABLE one (n INTEGER) STRICT;";
        migrate_with(&mut connection, &[first]).unwrap();
        migrate_with(&mut connection, &[first]).unwrap();
        let broken = "CREATE TABLE two (n INTEGER) STRICT; CREATE TABLE one (n INTEGER) STRICT;";
        assert!(migrate_with(&mut connection, &[first, broken]).is_err());
        let tables: usize = connection
            .query_row("SELECT count(*) FROM sqlite_schema WHERE type = 'table'", [], |row| row.get(0))
            .unwrap();
        assert_eq!(tables, 1);
        migrate_with(&mut connection, &[first, "CREATE TABLE two (n INTEGER) STRICT;"]).unwrap();
    }

    /// Every row of every table, as SQLite quotes its values.
    fn rows(connection: &Connection) -> BTreeSet<String> {
        let column = |sql: &str| -> Vec<String> {
            let mut query = connection.prepare(sql).unwrap();
            query.query_map([], |row| row.get(0)).unwrap().map(rusqlite::Result::unwrap).collect()
        };
        let of_table = |table: &String| {
            let names = column(&format!("SELECT 'quote(' || name || ')' FROM pragma_table_info('{table}')"));
            column(&format!("SELECT '{table} ' || {} FROM {table}", names.join(" || ' ' || ")))
        };
        column("SELECT name FROM sqlite_schema WHERE type = 'table'").iter().flat_map(of_table).collect()
    }

    #[test]
    fn old_token_shards_are_let_go_with_the_runs_that_were_stopped_over_them_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let mut connection = connection(&directory.path().join("t.db")).unwrap();
        migrate_with(&mut connection, &MIGRATIONS[..5]).unwrap();
        connection
            .execute_batch(
                "INSERT INTO collections VALUES (1, x'01', 1, 1, x'02');
                 INSERT INTO documents VALUES ('doc', 1, x'01', x'02', 'current', NULL, 'txt', 9, 8, NULL, 1, 1, x'03');
                 INSERT INTO snapshots VALUES ('snp', 1, x'04', 1, 0, 8, 0, 1, 1, x'05');
                 INSERT INTO snapshot_members VALUES ('snp', 0, 'doc');
                 INSERT INTO tokenizers VALUES ('tok', 'snp', 300, 2.5, 1, 1, x'06');
                 INSERT INTO shards VALUES ('shd', 'snp', 'tok', 1);
                 INSERT INTO jobs VALUES ('job', 'model.pretrain', 'interrupted', 'local:0', 'stopped', 1, 1, 2, 1, x'07');
                 INSERT INTO objects VALUES ('shd', 'kept', 'job', 1), ('tok', 'kept', NULL, 1), ('ckp', 'kept', 'job', 1);
                 INSERT INTO runs VALUES ('done', 'snp', 'tok', 'done', 1, 2, 6, 6, 10, 20, 0.5, 1, x'08'),
                                         ('failed', 'snp', 'tok', 'failed', 1, 2, 3, 6, 10, 20, 0.5, 1, x'08'),
                                         ('stopped', 'snp', 'tok', 'interrupted', 1, 2, 3, 6, 10, 20, 0.5, 1, x'08'),
                                         ('cut off', 'snp', 'tok', 'running', 1, NULL, 3, 6, 10, 20, 0.5, 1, x'08');
                 INSERT INTO facts VALUES ('stopped', 'checkpoints', 1, 1, x'09');
                 INSERT INTO lineage VALUES ('snp', 'shd', 'tokenized into', 1), ('shd', 'stopped', 'read by', 1);
                 INSERT INTO models VALUES ('mdl', x'01', 'done', 'tok', 10, 2.5, 2, 1, x'0A');",
            )
            .unwrap();
        let before = rows(&connection);
        migrate_with(&mut connection, &MIGRATIONS[..6]).unwrap();
        let after = rows(&connection);
        let only = |these: &BTreeSet<String>, those: &BTreeSet<String>| -> Vec<String> {
            these.difference(those).cloned().collect()
        };
        let gone = [
            "objects 'shd' 'kept' 'job' 1",
            "runs 'cut off' 'snp' 'tok' 'running' 1 NULL 3 6 10 20 0.5 1 X'08'",
            "runs 'stopped' 'snp' 'tok' 'interrupted' 1 2 3 6 10 20 0.5 1 X'08'",
            "shards 'shd' 'snp' 'tok' 1",
        ];
        assert_eq!(only(&before, &after), gone);
        let come = [
            "objects 'shd' 'staged' NULL 1",
            "runs 'cut off' 'snp' 'tok' 'failed' 1 NULL 3 6 10 20 0.5 1 X'08'",
            "runs 'stopped' 'snp' 'tok' 'failed' 1 2 3 6 10 20 0.5 1 X'08'",
        ];
        assert_eq!(only(&after, &before), come);
    }

    #[test]
    fn deployments_keep_their_rows_and_rules_and_can_be_withdrawn() {
        let directory = tempfile::tempdir().unwrap();
        let mut connection = connection(&directory.path().join("t.db")).unwrap();
        migrate_with(&mut connection, &MIGRATIONS[..6]).unwrap();
        connection
            .execute_batch(
                "INSERT INTO models VALUES ('mdl', x'01', NULL, NULL, 10, 2.5, 2, 1, x'0A');
                 INSERT INTO deployments VALUES ('one', x'01', 'mdl', 'retired', 1, 3, x'0B'),
                                                ('two', x'01', 'mdl', 'active', 2, 2, x'0C'),
                                                ('three', x'01', 'mdl', 'rejected', 3, 2, x'0D'),
                                                ('four', x'01', 'mdl', 'proposed', 4, 1, x'0E');",
            )
            .unwrap();
        let before = rows(&connection);
        migrate_with(&mut connection, &MIGRATIONS[..7]).unwrap();
        assert_eq!(rows(&connection), before);
        let add = |id: &str, model: &str, state: &str| {
            let sql = "INSERT INTO deployments VALUES (?1, x'01', ?2, ?3, 5, 1, x'0F')";
            connection.execute(sql, [id, model, state])
        };
        assert!(add("five", "mdl", "active").is_err(), "two active of one name");
        assert!(add("five", "none", "proposed").is_err(), "of no model");
        assert!(add("five", "mdl", "taken back").is_err(), "in no state");
        add("five", "mdl", "withdrawn").unwrap();
        let of_name = "EXPLAIN QUERY PLAN SELECT * FROM deployments WHERE name_hash = x'01'";
        let plan: String = connection.query_row(of_name, [], |row| row.get(3)).unwrap();
        assert!(plan.contains("deployments_name"), "{plan}");
    }

    #[test]
    fn a_database_from_the_future_is_refused_by_version() {
        let directory = tempfile::tempdir().unwrap();
        let mut connection = connection(&directory.path().join("t.db")).unwrap();
        connection.pragma_update(None, "user_version", 77).unwrap();
        let error = migrate(&mut connection).unwrap_err();
        assert!(error.to_string().contains("version 77"), "{error}");
    }

    #[test]
    fn opens_with_the_promised_pragmas() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.db");
        let connection = connection(&path).unwrap();
        let value = |name: &str| -> String {
            connection
                .pragma_query_value(None, name, |row| {
                    row.get::<_, rusqlite::types::Value>(0).map(|value| format!("{value:?}"))
                })
                .unwrap()
        };
        assert!(value("journal_mode").contains("wal"));
        assert_eq!(value("synchronous"), "Integer(2)");
        assert_eq!(value("secure_delete"), "Integer(1)");
        assert_eq!(value("foreign_keys"), "Integer(1)");
        assert_eq!(value("temp_store"), "Integer(2)");
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_is_not_a_database_is_an_integrity_failure() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.db");
        std::fs::write(&path, vec![b'x'; 8192]).unwrap();
        let error = connection(&path).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), crate::base::ErrorKind::Integrity);
    }

    #[test]
    fn network_filesystems_are_known_by_their_magic() {
        assert_eq!(network_filesystem(0x6969), Some("NFS"));
        assert_eq!(network_filesystem(0xEF53), None, "ext4");
    }
}
