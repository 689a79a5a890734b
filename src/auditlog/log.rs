//! The log open for appending.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{
    Checkpoint, Entry, LogKey, Outcome,
    note::Body,
    segment::{
        GROUP_ENTRIES_MAX, Place, SEGMENT_BYTES, Walked, checkpoint_line, header_line, segment_path, walk,
    },
    tree::leaf_hash,
    verify::{Newest, newest_checkpoint},
};
use crate::{
    base::{
        Context, Error, Id, Result,
        fs::{SECTOR_BYTES, create_private_dir, remove_temporaries, sync_parent, write_atomic},
        group::Group,
    },
    seal::Signer,
};

/// How often a log that could not be written is tried again.
const MEND_EVERY: Duration = Duration::from_secs(1);

/// The newest checkpoint, beside the segments: a log that was cut at its end no longer reaches it.
pub const CHECKPOINT_FILE: &str = "checkpoint";

/// The audit log of an installation. Any number of threads append; those who wait share one sync.
pub struct AuditLog {
    writer: Mutex<Writer>,
    group: Group<Entry, u64>,
    recovered: Recovered,
}

/// What opening the log cut away: an append that was going on when the machine stopped. Nobody had been told
/// that it was done, and an entry of its own says that it was cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    pub entries_cut: u64,
    pub bytes_cut: u64,
}

/// The log as it stood at one moment.
#[derive(Clone, Debug)]
pub struct Extent {
    /// Each segment, and how many of its bytes count.
    pub segments: Vec<(PathBuf, u64)>,
    pub entries: u64,
    /// The newest checkpoint, as it lies beside them.
    pub checkpoint: String,
}

struct Writer {
    directory: PathBuf,
    key: LogKey,
    signer: Signer,
    segment: u64,
    file: File,
    end_bytes: u64,
    place: Place,
    checkpoint_file: CheckpointFile,
    /// A segment that has grown beyond this is followed by another.
    segment_bytes: u64,
    /// Why nothing more is written.
    broken: Option<Broken>,
}

/// A log that could not be written, until it can be again.
struct Broken {
    why: Error,
    since_ms: u64,
    /// When mending was tried last.
    tried: Instant,
    /// Entries that were refused since.
    refused: u64,
}

impl AuditLog {
    /// Opens the log in `directory`, or begins one. `witness` is a checkpoint that was kept where whoever can
    /// write this directory cannot (the vault's keyring, sealed): a log that no longer reaches it was cut.
    ///
    /// # Errors
    /// `Integrity`, naming the entry, when the end of the log is not what was signed. All of it is checked by
    /// [`super::verify`].
    pub fn open(directory: &Path, install: Id, signer: Signer, witness: Option<&str>) -> Result<Self> {
        create_private_dir(directory)?;
        remove_temporaries(directory)?;
        let key = LogKey::new(install, signer.public_key());
        let segment = last_segment(directory)?;
        if segment == 0 {
            sync_parent(directory)?;
            begin_segment(directory, key.name(), 1, &mut Place::default())?;
        }
        let segment = segment.max(1);
        let (file, walked) = open_segment(directory, &key, segment)?;
        let kept = kept_checkpoints(directory, &key, &walked, witness)?;
        kept.iter().try_for_each(|checkpoint| must_reach(&walked, checkpoint))?;
        let mut writer = Writer {
            checkpoint_file: CheckpointFile::replace(directory, &note_of(&key, &signer, &walked.end))?,
            directory: directory.to_owned(),
            key,
            signer,
            segment,
            file,
            end_bytes: walked.good_bytes as u64,
            place: walked.end,
            segment_bytes: SEGMENT_BYTES,
            broken: None,
        };
        let recovered = Recovered { entries_cut: walked.entries_after, bytes_cut: walked.bytes_after as u64 };
        if recovered != Recovered::default() {
            writer.recover(recovered)?;
        }
        Ok(Self { writer: Mutex::new(writer), group: Group::default(), recovered })
    }

    /// Appends an entry and returns its number when it is on the disk, under a signed checkpoint.
    ///
    /// # Errors
    /// `Usage` when the entry is too long. `Unavailable` when the log cannot be written: every append fails at
    /// once then, and nothing that must be recorded is to be done, until the disk takes entries again. The
    /// first of them says since when and why it did not.
    pub fn append(&self, entry: Entry) -> Result<u64> {
        // Before it can stand in the way of others.
        entry.to_line(u64::MAX)?;
        self.group.submit(entry, |entries| self.writer().append(&entries))
    }

    /// The newest checkpoint as a signed note, to be kept elsewhere.
    pub fn checkpoint(&self) -> String {
        self.writer().note()
    }

    pub fn key(&self) -> LogKey {
        self.writer().key.clone()
    }

    /// What of the log's files holds all entries so far, closed by the newest checkpoint.
    ///
    /// # Errors
    /// `Unavailable` when the log cannot be written, and so may hold more than was signed.
    pub fn extent(&self) -> Result<Extent> {
        let writer = self.writer();
        if let Some(broken) = &writer.broken {
            return Err(broken.why.clone());
        }
        let mut segments = Vec::new();
        for number in 1..writer.segment {
            let path = segment_path(&writer.directory, number);
            let length =
                std::fs::metadata(&path).with_context(|| format!("looking at {}", path.display()))?.len();
            segments.push((path, length));
        }
        segments.push((segment_path(&writer.directory, writer.segment), writer.end_bytes));
        Ok(Extent { segments, entries: writer.place.tree.size(), checkpoint: writer.note() })
    }

    /// Number of entries.
    pub fn size(&self) -> u64 {
        self.writer().place.tree.size()
    }

    pub fn recovered(&self) -> Recovered {
        self.recovered
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl AuditLog {
    /// Small segments, so that a test sees many.
    pub(super) fn with_segment_bytes(self, bytes: u64) -> Self {
        self.writer().segment_bytes = bytes;
        self
    }

    /// As a disk that fails from now on.
    pub(super) fn fail(&self) {
        self.writer().file = File::open("/dev/null").expect("there is one");
    }

    /// Several entries in one group, as when many threads append at once.
    pub(super) fn append_together(&self, entries: &[Entry]) {
        assert!(self.writer().append(entries).iter().all(Result::is_ok));
    }
}

impl Writer {
    fn append(&mut self, entries: &[Entry]) -> Vec<Result<u64>> {
        if self.broken.as_ref().is_some_and(|broken| broken.tried.elapsed() >= MEND_EVERY) {
            self.mend();
        }
        let first = self.place.tree.size();
        let written = match &mut self.broken {
            Some(broken) => {
                broken.refused += entries.len() as u64;
                Err(broken.why.clone())
            }
            None => self.write(entries).map_err(|error| self.break_off(error, entries.len() as u64)),
        };
        let answer = |number: usize| written.clone().map(|()| first + number as u64);
        (0..entries.len()).map(answer).collect()
    }

    fn write(&mut self, entries: &[Entry]) -> Result<()> {
        self.still_there()?;
        if self.end_bytes >= self.segment_bytes {
            let mut place = self.place.clone();
            (self.file, self.end_bytes) =
                begin_segment(&self.directory, self.key.name(), self.segment + 1, &mut place)?;
            (self.segment, self.place) = (self.segment + 1, place);
        }
        let (mut bytes, mut place) = (Vec::new(), self.place.clone());
        for group in entries.chunks(GROUP_ENTRIES_MAX) {
            let mut leaves = Vec::with_capacity(group.len());
            for entry in group {
                let line = entry.to_line(place.tree.size())?;
                let leaf = leaf_hash(&line);
                place.tree.push(leaf);
                leaves.push(leaf);
                bytes.extend_from_slice(&line);
                bytes.push(b'\n');
            }
            bytes.extend_from_slice(&checkpoint_line(&self.key, &self.signer, &mut place, &leaves)?);
        }
        self.file.write_all_at(&bytes, self.end_bytes).context("appending to the audit log")?;
        self.file.sync_data().context("syncing the audit log")?;
        self.end_bytes += bytes.len() as u64;
        self.place = place;
        // After the log itself, never before: what it points to is on the disk. Its own sync can wait, since an
        // older checkpoint is a true one too.
        self.checkpoint_file.write(&self.directory, &self.note())
    }

    /// A file that was removed, replaced or cut takes writes all the same, and keeps none of them.
    fn still_there(&self) -> Result<()> {
        let path = segment_path(&self.directory, self.segment);
        let stands = std::fs::metadata(&path).with_context(|| format!("looking at {}", path.display()))?;
        let held = self.file.metadata().context("looking at the audit log")?;
        let is_same = (stands.dev(), stands.ino()) == (held.dev(), held.ino());
        if is_same && stands.len() == self.end_bytes {
            return Ok(());
        }
        Err(Error::integrity(format!("{} was replaced or cut while it was in use", path.display())))
    }

    fn note(&self) -> String {
        note_of(&self.key, &self.signer, &self.place)
    }

    /// Cuts an append that nobody was told of, and says so in the log.
    fn recover(&mut self, recovered: Recovered) -> Result<()> {
        self.file
            .set_len(self.end_bytes)
            .and_then(|()| self.file.sync_all())
            .context("cutting an unfinished append from the audit log")?;
        let entry = Entry::new("cloister", "audit.recover", Outcome::Done)
            .detail("entries_cut", recovered.entries_cut)
            .detail("bytes_cut", recovered.bytes_cut);
        self.write(&[entry])
    }

    /// After a failed write or sync nobody knows what the disk holds: mending, or the next opening, finds out.
    fn break_off(&mut self, error: Error, refused: u64) -> Error {
        let why = error
            .with_kind(crate::base::ErrorKind::Unavailable)
            .context("the audit log cannot be written, so nothing that must be in it is done any more")
            .remedy("make room on the disk, or put back what was moved; it goes on by itself then");
        let since_ms = now_ms();
        self.broken = Some(Broken { why: why.clone(), since_ms, tried: Instant::now(), refused });
        why
    }

    /// Goes on where the disk takes entries again: cuts what nobody was told of, and says what happened.
    fn mend(&mut self) {
        let Some(mut broken) = self.broken.take() else { return };
        let entry = Entry::new("cloister", "audit.unavailable", Outcome::Done)
            .detail("since_ms", broken.since_ms)
            .detail("entries_refused", broken.refused)
            .detail("reason", broken.why.to_string().chars().take(500).collect::<String>());
        if self.take_up().and_then(|()| self.write(&[entry])).is_err() {
            broken.tried = Instant::now();
            self.broken = Some(broken);
        }
    }

    /// Opens the files anew, if they hold what was signed.
    fn take_up(&mut self) -> Result<()> {
        let path = segment_path(&self.directory, self.segment);
        let file = open_for_writing(&path)?;
        let mut bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        bytes.truncate(usize::try_from(self.end_bytes).unwrap_or(usize::MAX));
        if walk(&bytes, &self.key, self.segment, &[])?.end != self.place {
            return Err(Error::integrity("the audit log is not what was signed"));
        }
        file.set_len(self.end_bytes)
            .and_then(|()| file.sync_all())
            .context("cutting an unfinished append from the audit log")?;
        self.file = file;
        self.checkpoint_file = CheckpointFile::replace(&self.directory, &self.note())?;
        Ok(())
    }
}

/// The number of the last segment; zero when there is none. A gap before it is a missing segment.
pub(super) fn last_segment(directory: &Path) -> Result<u64> {
    let listing = std::fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))?;
    let mut numbers = Vec::new();
    for file in listing {
        let name = file.with_context(|| format!("listing {}", directory.display()))?.file_name();
        numbers.extend(
            name.to_str().and_then(|name| name.strip_suffix(".log")?.parse::<u64>().ok()).filter(|&n| n > 0),
        );
    }
    Ok(numbers.into_iter().max().unwrap_or(0))
}

fn begin_segment(directory: &Path, origin: &str, number: u64, place: &mut Place) -> Result<(File, u64)> {
    let path = segment_path(directory, number);
    let header = header_line(origin, number, place)?;
    // In one step: a segment without a whole header would be a log that cannot be opened.
    write_atomic(&path, &header)?;
    let file = open_for_writing(&path)?;
    Ok((file, header.len() as u64))
}

fn open_segment(directory: &Path, key: &LogKey, number: u64) -> Result<(File, Walked)> {
    let walked = walk_signed(directory, key, number)?;
    if walked.last_note.is_none() {
        // It has only a header, which no signature covers yet: what is before it must lead here.
        let before =
            if number == 1 { Place::default() } else { walk_signed(directory, key, number - 1)?.end };
        if walked.begin != before {
            let size = before.tree.size();
            return Err(Error::integrity(format!(
                "the audit log was tampered with: segment {number} does not follow from entry {size} before it"
            )));
        }
    }
    Ok((open_for_writing(&segment_path(directory, number))?, walked))
}

/// A segment in which nothing is wrong, up to a last checkpoint whose signature is right.
fn walk_signed(directory: &Path, key: &LogKey, number: u64) -> Result<Walked> {
    let path = segment_path(directory, number);
    let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let mut walked = walk(&bytes, key, number, &[])?;
    if let Some(wrong) = walked.wrong.take() {
        return Err(wrong.into());
    }
    if let Some(note) = &walked.last_note {
        let size = walked.end.tree.size();
        key.open(note).map_err(|error| error.context(format!("the last checkpoint, over {size} entries")))?;
    }
    Ok(walked)
}

/// The checkpoints that the log must reach: the one beside it and the one from elsewhere.
fn kept_checkpoints(
    directory: &Path,
    key: &LogKey,
    walked: &Walked,
    witness: Option<&str>,
) -> Result<Vec<Checkpoint>> {
    let mut kept = Vec::new();
    match newest_checkpoint(directory, key)? {
        Newest::Signed(checkpoint) => kept.push(checkpoint),
        // Only a log that has no entry may still be without one.
        Newest::Missing if walked.end.tree.size() == 0 => {}
        Newest::Missing => return Err(Error::integrity("the newest checkpoint of the audit log is missing")),
        Newest::Altered => {
            return Err(Error::integrity("the newest checkpoint of the audit log was altered"));
        }
    }
    if let Some(note) = witness.filter(|note| !note.is_empty()) {
        kept.push(key.open_checkpoint(note).context("reading the audit checkpoint that the keyring keeps")?);
    }
    Ok(kept)
}

fn must_reach(walked: &Walked, kept: &Checkpoint) -> Result<()> {
    let size = walked.end.tree.size();
    if size < kept.size {
        return Err(Error::integrity(format!(
            "the audit log was cut: entry {size} is missing, and {} entries were signed for",
            kept.size
        ))
        .remedy("keep the log as it is for whoever investigates; restore it from a backup beside it"));
    }
    if size == kept.size && walked.end.tree.root() != kept.root {
        return Err(Error::integrity(format!(
            "the audit log's {size} entries are not those that were signed"
        )));
    }
    Ok(())
}

/// The file of the newest checkpoint, and how long that is.
struct CheckpointFile {
    file: File,
    bytes: usize,
}

impl CheckpointFile {
    fn replace(directory: &Path, note: &str) -> Result<Self> {
        let path = directory.join(CHECKPOINT_FILE);
        write_atomic(&path, note.as_bytes())?;
        Ok(Self { file: open_for_writing(&path)?, bytes: note.len() })
    }

    /// In its place, where a disk does that at once: within a sector, and without another length, which is written
    /// elsewhere.
    fn write(&mut self, directory: &Path, note: &str) -> Result<()> {
        if note.len() != self.bytes || note.len() > SECTOR_BYTES {
            *self = Self::replace(directory, note)?;
            return Ok(());
        }
        self.file.write_all_at(note.as_bytes(), 0).context("writing the newest checkpoint")
    }
}

/// What the log held at `place`.
fn note_of(key: &LogKey, signer: &Signer, place: &Place) -> String {
    key.sign(signer, &Body { size: place.tree.size(), root: &place.tree.root(), group: None })
}

fn open_for_writing(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    let file =
        options.write(true).mode(0o600).open(path).with_context(|| format!("opening {}", path.display()))?;
    sync_parent(path)?;
    Ok(file)
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_millis() as u64)
}
