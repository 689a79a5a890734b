//! Files copied and hashed in one pass.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use super::manifest::FileRow;
use crate::{
    base::{Context, Error, Monitor, Progress, Result, fs::create_private_dir, hex},
    seal::Sha256,
};

const PIECE_BYTES: usize = 1 << 20;

/// How far a copy or a check has come.
pub(super) struct Tally<'m> {
    stage: &'static str,
    done_bytes: u64,
    total_bytes: u64,
    monitor: &'m dyn Monitor,
}

impl<'m> Tally<'m> {
    pub(super) fn new(stage: &'static str, total_bytes: u64, monitor: &'m dyn Monitor) -> Self {
        Self { stage, done_bytes: 0, total_bytes, monitor }
    }

    fn add(&mut self, bytes: usize) -> Result<()> {
        self.done_bytes += bytes as u64;
        self.monitor.progress(&Progress {
            stage: self.stage.to_owned(),
            done: self.done_bytes,
            total: self.total_bytes.max(self.done_bytes),
            unit: "byte".to_owned(),
            ..Progress::default()
        });
        if self.monitor.stop_requested() {
            return Err(Error::interrupted(format!("the {} was stopped", self.stage)));
        }
        Ok(())
    }
}

/// Copies `from`, up to `bytes_max`, to `root`/`path` and says what it was. The whole file stands there or none; that it
/// outlasts a power cut is for [`sync`].
pub(super) fn copy(
    from: impl Read,
    bytes_max: u64,
    root: &Path,
    path: &str,
    tally: &mut Tally<'_>,
) -> Result<FileRow> {
    let place = root.join(path);
    let copying = || format!("copying to {}", place.display());
    create_private_dir(place.parent().unwrap_or(root))?;
    let mut temporary = place.clone().into_os_string();
    temporary.push(".tmp");
    let mut options = OpenOptions::new();
    let mut to =
        options.write(true).create(true).truncate(true).mode(0o600).open(&temporary).with_context(copying)?;
    let row = pass(from.take(bytes_max), path, tally, |piece| to.write_all(piece)).with_context(copying)?;
    std::fs::rename(&temporary, &place).with_context(copying)?;
    Ok(row)
}

/// What a file is.
pub(super) fn examine(root: &Path, path: &str, tally: &mut Tally<'_>) -> Result<FileRow> {
    let place = root.join(path);
    let file = File::open(&place).with_context(|| format!("opening {}", place.display()))?;
    pass(file, path, tally, |_| Ok(())).with_context(|| format!("reading {}", place.display()))
}

fn pass(
    mut from: impl Read,
    path: &str,
    tally: &mut Tally<'_>,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<FileRow> {
    let (mut hash, mut bytes, mut piece) = (Sha256::default(), 0, vec![0; PIECE_BYTES]);
    loop {
        let read = match from.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("reading"),
        };
        hash.update(&piece[..read]);
        take(&piece[..read]).context("writing")?;
        bytes += read as u64;
        tally.add(read)?;
    }
    Ok(FileRow { path: path.to_owned(), bytes, sha256: hex(&hash.finish()) })
}

/// Returns when everything that was written to the file system of `directory` is on the disk.
pub(super) fn sync(directory: &Path) -> Result<()> {
    File::open(directory)
        .and_then(|folder| rustix::fs::syncfs(folder).map_err(io::Error::from))
        .with_context(|| format!("syncing {}", directory.display()))
}
