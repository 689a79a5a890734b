//! `cloister backup`: copies of an installation on another disk, and the way back from them.

use std::path::{Path, PathBuf};

use super::{
    progress::Line,
    session::{Session, backup_id, time},
};
use crate::{
    base::{Context, Error, Id, Result, unhex, units::Bytes},
    seal::PublicKey,
    work::{
        Warden,
        backup::{Manifest, Repository},
        request::{BackupRow, Request},
    },
};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Back up to a folder, while everything goes on; what it holds already is not copied again
    Create {
        #[arg(value_name = "DIR")]
        to: PathBuf,
        #[command(flatten)]
        keys: Keys,
    },
    /// The backups in a folder
    Ls {
        #[arg(value_name = "DIR")]
        from: PathBuf,
    },
    /// Read every file of a backup again, and check that it is what was signed
    Verify {
        #[arg(value_name = "DIR")]
        from: PathBuf,
        /// Which; the newest if none is named
        #[arg(long, value_name = "ID", value_parser = backup_id)]
        backup: Option<Id>,
        /// Check the keys too
        #[arg(long, value_name = "DIR")]
        keys: Option<PathBuf>,
        /// The installation's public key (keys/receipts.pub), kept elsewhere
        #[arg(long, value_name = "FILE")]
        public_key: Option<PathBuf>,
    },
    /// Make an installation of a backup, in a data directory that is not there yet
    Restore {
        #[arg(value_name = "DIR")]
        from: PathBuf,
        /// Which; the newest if none is named
        #[arg(long, value_name = "ID", value_parser = backup_id)]
        backup: Option<Id>,
        #[command(flatten)]
        keys: Keys,
        #[command(flatten)]
        erasures: Erasures,
    },
    /// Remove old backups, their keys, and what only they hold
    Forget {
        #[arg(value_name = "DIR")]
        from: PathBuf,
        /// So many stay, the newest
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        keep: u32,
        #[command(flatten)]
        keys: Keys,
    },
}

/// What a backup holds may have been erased since: whoever restores must say.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Erasures {
    /// The newest `keys/tombstones` that was kept: what it names is erased again
    #[arg(long, value_name = "FILE")]
    tombstones: Option<PathBuf>,
    /// Nothing was erased after the newest backup here; what its tombstones name is erased again
    #[arg(long)]
    no_later_erasures: bool,
}

#[derive(Debug, clap::Args)]
pub struct Keys {
    /// Where the wrapped keys of the backups lie: another place than the backups, and the first to be thrown away
    #[arg(long = "keys", value_name = "DIR")]
    folder: PathBuf,
}

pub fn run(command: Command, session: &Session) -> Result<()> {
    match command {
        Command::Create { to, keys } => create(to, keys, session),
        Command::Ls { from } => list(from, session),
        Command::Verify { from, backup, keys, public_key } => verify(from, backup, keys, public_key, session),
        Command::Restore { from, backup, keys, erasures } => {
            restore(&from, backup, &keys, erasures.tombstones.as_deref(), session)
        }
        Command::Forget { from, keep, keys } => {
            let request =
                Request::BackupForget { from: whole(from)?, keys: whole(keys.folder)?, keep: keep as usize };
            let gone: Vec<Id> = session.ask(request)?;
            session.screen.rows(&gone, ["forgotten"], |id| [id.to_string()])
        }
    }
}

/// A daemon stands elsewhere, and what is named may not be there yet.
fn whole(path: PathBuf) -> Result<PathBuf> {
    std::path::absolute(&path).with_context(|| format!("finding {}", path.display()))
}

fn create(to: PathBuf, keys: Keys, session: &Session) -> Result<()> {
    let row: BackupRow = session.ask(Request::BackupCreate { to: whole(to)?, keys: whole(keys.folder)? })?;
    session.screen.show(&row, |screen, row| {
        screen.line(format_args!("backup   {}", row.id))?;
        screen.line(format_args!(
            "objects  {}, {} of them new",
            row.objects,
            row.new_objects.unwrap_or(0)
        ))?;
        screen.line(format_args!(
            "bytes    {}, {} of objects copied",
            Bytes(row.bytes),
            Bytes(row.new_bytes.unwrap_or(0))
        ))
    })
}

fn list(from: PathBuf, session: &Session) -> Result<()> {
    let repository = Repository::open(&from)?;
    let row = |id: Id| repository.manifest(id, None).map(|manifest| row_of(&manifest));
    let rows = repository.backups()?.into_iter().map(row).collect::<Result<Vec<_>>>()?;
    session.screen.rows(&rows, ["id", "taken", "objects", "bytes"], |row| {
        [row.id.to_string(), time(row.taken_at_ms), row.objects.to_string(), row.bytes.to_string()]
    })
}

fn row_of(manifest: &Manifest) -> BackupRow {
    BackupRow {
        id: manifest.backup,
        install: manifest.install,
        taken_at_ms: manifest.taken_at_ms,
        objects: manifest.objects.len() as u64,
        bytes: manifest.bytes(),
        new_objects: None,
        new_bytes: None,
        vault_epoch: manifest.vault_epoch,
    }
}

fn verify(
    from: PathBuf,
    backup: Option<Id>,
    keys: Option<PathBuf>,
    public_key: Option<PathBuf>,
    session: &Session,
) -> Result<()> {
    let key = public_key.as_deref().map(read_key).transpose()?;
    let repository = Repository::open(&from)?;
    let backup = repository.choose(backup)?;
    let line = Line::new();
    let verified = repository.verify(backup, keys.as_deref(), key.as_ref(), &line)?;
    drop(line);
    session.screen.show(&verified, |screen, verified| {
        screen.line(format_args!(
            "{} of {}: {} files, {}, all as they were signed",
            verified.backup,
            time(verified.taken_at_ms),
            verified.files,
            Bytes(verified.bytes)
        ))?;
        if !verified.key_was_given {
            screen.line(format_args!(
                "signed by {}: compare it with keys/receipts.pub, or give that file with --public-key",
                verified.signed_by
            ))?;
        }
        if !verified.keys_checked {
            screen.line("the keys were not looked at: name their folder with --keys")?;
        }
        Ok(())
    })
}

/// The public key of receipts, certificates and backups.
pub fn read_key(path: &Path) -> Result<PublicKey> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let bytes = unhex(text.trim()).and_then(|bytes| bytes.try_into().ok());
    bytes.map(PublicKey).ok_or_else(|| {
        Error::usage(format!("{} holds no public key", path.display()))
            .remedy("give the file keys/receipts.pub of the installation")
    })
}

/// In this process alone: there is no installation yet that could be asked.
fn restore(
    from: &Path,
    backup: Option<Id>,
    keys: &Keys,
    tombstones: Option<&Path>,
    session: &Session,
) -> Result<()> {
    let line = Line::new();
    let restored = Warden::restore(&session.settings.site(), from, &keys.folder, backup, tombstones, &line)?;
    drop(line);
    let data_dir = session.settings.data_dir.display();
    session.screen.show(&restored, |screen, restored| {
        screen.line(format_args!("restored  {} of {}", restored.backup, time(restored.taken_at_ms)))?;
        screen.line(format_args!("into      {data_dir}"))?;
        screen.line(format_args!("objects   {}, {}", restored.objects, Bytes(restored.bytes)))?;
        restored.notices.iter().try_for_each(|notice| screen.line(format_args!("note      {notice}")))
    })
}
