//! The ingest job: walk, read each file in a cage, hand over what was found. Files are read in parallel and
//! handed over in the order of the walk; nothing that one file holds stops the others, and every one of them
//! ends up either with the [`Intake`] or in its quarantine.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    Admitted, Format, Intake, NewDocument, Reason, Refusal,
    cage::{Cage, Program, Walls},
    extract::{Event, Options, SOURCE_BYTES_MAX},
    parallel,
    refusal::Refused,
    sample::{self, SampleFile},
    walk::{self, Found, Walk},
};
use crate::base::{Context, Error, Monitor, Progress, Result};

/// A batch is handed over when it holds this many documents, or this much text, or has waited this long. Each document of a
/// batch may hold a file open.
const BATCH_DOCUMENTS: usize = 256;
const BATCH_TEXT_BYTES: usize = 16 << 20;
const BATCH_WAIT: Duration = Duration::from_secs(2);
/// How long a stop may go unheeded while a document is read.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How many findings of one file may wait for the files before it.
const WAITING_PER_FILE: usize = 64;
/// How many files may be read ahead of the one that is handed over, per reader.
const AHEAD_PER_READER: usize = 4;

/// What to ingest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngestSpec {
    /// Files and folders.
    pub paths: Vec<PathBuf>,
    /// The documents that ship with cloister, before the paths.
    #[serde(default)]
    pub sample: bool,
    pub collection: String,
    /// Whom every document of this ingest concerns.
    #[serde(default)]
    pub subjects: Vec<String>,
    #[serde(default)]
    pub licence: Option<String>,
    /// Columns or fields of a table that hold the text; empty: the usual names.
    #[serde(default)]
    pub text_fields: Vec<String>,
    #[serde(default)]
    pub subject_field: Option<String>,
    /// Readers at a time; 0: one per core.
    #[serde(default)]
    pub threads: usize,
    /// Read on though the kernel cannot build the cage's walls.
    #[serde(default)]
    pub allow_weak_sandbox: bool,
}

/// What an ingest did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IngestReport {
    /// Files looked at.
    pub files: u64,
    pub source_bytes: u64,
    pub new: u64,
    pub new_versions: u64,
    pub unchanged: u64,
    pub refused: u64,
    /// Hidden files and folders, passed over.
    pub hidden: u64,
    pub empty_folders: u64,
    /// Bytes of extracted text, unchanged documents included.
    pub text_bytes: u64,
    pub by_format: BTreeMap<Format, u64>,
    pub by_reason: BTreeMap<Reason, u64>,
    pub elapsed_s: f64,
    /// What stood around the readers beside their limits.
    #[serde(default)]
    pub walls: Walls,
}

impl IngestReport {
    /// Documents now held of those that were looked at.
    pub fn documents(&self) -> u64 {
        self.new + self.new_versions + self.unchanged
    }
}

/// Ingests. What the returned report, or a progress line before it, called done is durable.
///
/// # Errors
/// `Usage` when the paths hold no file at all; `Unavailable` where the kernel cannot cage the readers; `Interrupted`
/// on a stop request; whatever `intake` fails with.
/// A file that cannot be taken is no error: it is in the report and in the quarantine.
pub fn run(spec: &IngestSpec, intake: &dyn Intake, monitor: &dyn Monitor) -> Result<IngestReport> {
    let walls = Walls::of_this_kernel();
    walls.must_hold(spec.allow_weak_sandbox)?;
    let sample = if spec.sample { sample::files()? } else { Vec::new() };
    let sample_bytes = sample.iter().map(|file| file.source.len() as u64).sum::<u64>();
    let total_bytes = sample_bytes + survey(spec, monitor)?;
    let readers = parallel::threads_or_all(spec.threads);
    let stop = Arc::<AtomicBool>::default();
    // Each file that is being read has its own channel; the queue holds them in the order of the walk.
    let (enqueue, queue) = sync_channel::<Receiver<Finding>>(readers * AHEAD_PER_READER);
    let next = Mutex::new(Upcoming {
        sample: sample.into_iter(),
        walk: Walk::new(&spec.paths),
        enqueue: Some(enqueue),
    });
    let mut handover = Handover::new(spec, intake, monitor, total_bytes);
    let started = |process| intake.reads(process);
    let outcome = std::thread::scope(|scope| {
        for _ in 0..readers {
            let cage = Cage::until(stop.clone(), Program::own(spec.allow_weak_sandbox), &started);
            scope.spawn(|| Reader { spec, next: &next, stop: &stop, cage }.run());
        }
        let outcome = handover.all(&queue);
        stop.store(true, Ordering::Relaxed);
        // Readers that wait for room are let go.
        drop(queue);
        outcome
    });
    outcome?;
    Ok(IngestReport { walls, ..handover.report })
}

/// The bytes that there are to read.
fn survey(spec: &IngestSpec, monitor: &dyn Monitor) -> Result<u64> {
    let (mut total_bytes, mut found_any) = (0, false);
    for found in Walk::new(&spec.paths) {
        match found {
            Found::File { bytes, .. } => {
                total_bytes += bytes;
                found_any = true;
            }
            Found::Refused { .. } => found_any = true,
            Found::Hidden | Found::EmptyFolder { .. } => {}
        }
        if monitor.stop_requested() {
            return Err(Error::interrupted("stopped before anything was ingested"));
        }
    }
    if found_any || spec.sample {
        return Ok(total_bytes);
    }
    let paths: Vec<String> = spec.paths.iter().map(|path| path.display().to_string()).collect();
    Err(Error::usage(format!("no file in {}", paths.join(", ")))
        .remedy("name files, or folders that hold some; names that begin with a dot are passed over"))
}

/// What a reader says of a file, last of all `End`.
enum Finding {
    Document(NewDocument),
    Refused(Refusal),
    Hidden,
    EmptyFolder(String),
    End {
        source_bytes: u64,
    },
    /// The reader itself failed: no ingest without readers.
    Failed(Error),
}

struct Upcoming {
    sample: std::vec::IntoIter<SampleFile>,
    walk: Walk,
    /// `None` once a reader has met the end, so that the queue ends too.
    enqueue: Option<SyncSender<Receiver<Finding>>>,
}

struct Reader<'a> {
    spec: &'a IngestSpec,
    next: &'a Mutex<Upcoming>,
    stop: &'a AtomicBool,
    cage: Cage<'a>,
}

/// What a reader is to look at next.
enum Next {
    Sample(SampleFile),
    Found(Found),
}

/// The receiver has hung up: the ingest is over.
struct Over;

impl Reader<'_> {
    fn run(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            let Some((next, findings)) = self.take() else { return };
            if self.read(next, &findings).is_err() {
                return;
            }
        }
    }

    /// The next thing in the walk, with its place in the queue taken in the same breath.
    fn take(&self) -> Option<(Next, SyncSender<Finding>)> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let sample = next.sample.next().map(Next::Sample);
        let Some(found) = sample.or_else(|| next.walk.next().map(Next::Found)) else {
            next.enqueue = None;
            return None;
        };
        let (findings, receiver) = sync_channel(WAITING_PER_FILE);
        next.enqueue.as_ref()?.send(receiver).ok()?;
        Some((found, findings))
    }

    fn read(&mut self, next: Next, findings: &SyncSender<Finding>) -> Result<(), Over> {
        let send = |finding| findings.send(finding).map_err(|_| Over);
        let source_bytes = match next {
            Next::Found(Found::Hidden) => return send(Finding::Hidden),
            Next::Found(Found::EmptyFolder { path }) => return send(Finding::EmptyFolder(display(&path))),
            Next::Found(Found::Refused { path, refused }) => {
                send(Finding::Refused(refusal(self.spec, display(&path), refused, 0)))?;
                0
            }
            Next::Found(Found::File { path, bytes }) => {
                match open_and_read(&path, bytes) {
                    Ok(source) => self.read_source(&display(&path), &path, &source, findings)?,
                    Err(refused) => {
                        send(Finding::Refused(refusal(self.spec, display(&path), refused, bytes)))?;
                    }
                }
                bytes
            }
            Next::Sample(SampleFile { name, source }) => {
                self.read_source(&name, Path::new(&name), &source, findings)?;
                source.len() as u64
            }
        };
        send(Finding::End { source_bytes })
    }

    fn read_source(
        &mut self,
        name: &str,
        path: &Path,
        source: &[u8],
        findings: &SyncSender<Finding>,
    ) -> Result<(), Over> {
        let (spec, source_bytes) = (self.spec, source.len() as u64);
        let mut over = false;
        let outcome = self.cage.extract(source, &options(spec, path), &mut |event| {
            findings.send(finding(spec, name, source_bytes, event)).map_err(|_| {
                over = true;
                Error::interrupted("the ingest is over")
            })
        });
        let last = match outcome {
            _ if over => return Err(Over),
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(refused)) => Finding::Refused(refusal(spec, name.to_owned(), refused, source_bytes)),
            Err(error) => Finding::Failed(error),
        };
        findings.send(last).map_err(|_| Over)
    }
}

fn display(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn options(spec: &IngestSpec, path: &Path) -> Options {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    Options {
        text_fields: spec.text_fields.clone(),
        subject_field: spec.subject_field.clone(),
        extension: extension.unwrap_or_default(),
    }
}

fn refusal(spec: &IngestSpec, name: String, refused: Refused, source_bytes: u64) -> Refusal {
    let Refused { reason, format, detail } = refused;
    Refusal { name, collection: spec.collection.clone(), reason, format, detail, source_bytes }
}

fn finding(spec: &IngestSpec, name: &str, source_bytes: u64, event: Event) -> Finding {
    let row_name = |row: u64| format!("{name}#{row}");
    match event {
        Event::RowRefused { row, refused } => Finding::Refused(refusal(spec, row_name(row), refused, 0)),
        Event::Piece(piece) => {
            let mut subjects = spec.subjects.clone();
            subjects.extend(piece.subjects);
            subjects.sort_unstable();
            subjects.dedup();
            Finding::Document(NewDocument {
                name: piece.row.map_or_else(|| name.to_owned(), row_name),
                collection: spec.collection.clone(),
                subjects,
                licence: spec.licence.clone(),
                format: piece.format,
                source_bytes: if piece.row.is_some() { piece.text.len() as u64 } else { source_bytes },
                text: piece.text,
            })
        }
    }
}

/// The whole file. It is opened without waiting (it may have become a pipe since the walk) and read to its
/// end or the limit, whatever its size was said to be.
fn open_and_read(path: &Path, bytes: u64) -> Result<Vec<u8>, Refused> {
    let unreadable = |error: std::io::Error| Refused::new(Reason::Unreadable, walk::error_words(&error));
    let too_large = || {
        let limit = crate::base::units::Bytes(SOURCE_BYTES_MAX);
        Refused::new(Reason::TooLarge, format!("more than {limit}"))
    };
    if bytes > SOURCE_BYTES_MAX {
        return Err(too_large());
    }
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(unreadable)?;
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(Refused::new(Reason::NotAFile, ""));
    }
    let mut source = Vec::with_capacity(bytes as usize + 1);
    file.take(SOURCE_BYTES_MAX + 1).read_to_end(&mut source).map_err(unreadable)?;
    if source.len() as u64 > SOURCE_BYTES_MAX {
        return Err(too_large());
    }
    Ok(source)
}

/// The one thread that speaks with the intake.
struct Handover<'a> {
    spec: &'a IngestSpec,
    intake: &'a dyn Intake,
    monitor: &'a dyn Monitor,
    report: IngestReport,
    documents: Vec<NewDocument>,
    refusals: Vec<Refusal>,
    waiting_text_bytes: usize,
    /// Files wholly read whose findings wait in the batch.
    waiting_files: u64,
    waiting_source_bytes: u64,
    total_bytes: u64,
    started: Instant,
    last_flush: Instant,
}

impl<'a> Handover<'a> {
    fn new(spec: &'a IngestSpec, intake: &'a dyn Intake, monitor: &'a dyn Monitor, total_bytes: u64) -> Self {
        Self {
            spec,
            intake,
            monitor,
            report: IngestReport::default(),
            documents: Vec::new(),
            refusals: Vec::new(),
            waiting_text_bytes: 0,
            waiting_files: 0,
            waiting_source_bytes: 0,
            total_bytes,
            started: Instant::now(),
            last_flush: Instant::now(),
        }
    }

    fn all(&mut self, queue: &Receiver<Receiver<Finding>>) -> Result<()> {
        while let Some(file) = self.next_of(queue)? {
            while let Some(finding) = self.next_of(&file)? {
                self.take(finding)?;
                if self.is_due() {
                    self.flush()?;
                    self.heed_stop()?;
                }
            }
            self.heed_stop()?;
        }
        self.flush()
    }

    /// The next of what comes, None at its end. A document may take long: a stop is heeded meanwhile.
    fn next_of<T>(&mut self, queue: &Receiver<T>) -> Result<Option<T>> {
        loop {
            match queue.recv_timeout(LOOK_EVERY) {
                Ok(next) => return Ok(Some(next)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => self.heed_stop()?,
            }
        }
    }

    fn heed_stop(&mut self) -> Result<()> {
        if !self.monitor.stop_requested() {
            return Ok(());
        }
        self.flush()?;
        Err(Error::interrupted(format!("stopped after {} files", self.report.files))
            .remedy("run the same command again: what was taken is kept and will be passed over"))
    }

    fn take(&mut self, finding: Finding) -> Result<()> {
        match finding {
            Finding::Document(document) => {
                self.waiting_text_bytes += document.text.len();
                self.documents.push(document);
            }
            Finding::Refused(refusal) => self.refusals.push(refusal),
            Finding::Hidden => self.report.hidden += 1,
            Finding::EmptyFolder(path) => {
                self.monitor.note(&format!("{path}: the folder is empty"));
                self.report.empty_folders += 1;
            }
            Finding::End { source_bytes } => {
                self.waiting_files += 1;
                self.waiting_source_bytes += source_bytes;
            }
            Finding::Failed(error) => return Err(error),
        }
        Ok(())
    }

    fn is_due(&self) -> bool {
        self.documents.len() >= BATCH_DOCUMENTS
            || self.waiting_text_bytes >= BATCH_TEXT_BYTES
            || self.refusals.len() >= BATCH_DOCUMENTS
            || self.last_flush.elapsed() >= BATCH_WAIT
    }

    fn flush(&mut self) -> Result<()> {
        let documents = std::mem::take(&mut self.documents);
        let refusals = std::mem::take(&mut self.refusals);
        for document in &documents {
            *self.report.by_format.entry(document.format).or_default() += 1;
        }
        if !documents.is_empty() {
            let outcomes = self.intake.admit(documents).context("keeping documents")?;
            for outcome in outcomes {
                match outcome {
                    Admitted::New => self.report.new += 1,
                    Admitted::NewVersion => self.report.new_versions += 1,
                    Admitted::Unchanged => self.report.unchanged += 1,
                }
            }
            self.report.text_bytes += self.waiting_text_bytes as u64;
        }
        if !refusals.is_empty() {
            for refusal in &refusals {
                self.monitor.note(&format!("refused {refusal}"));
                *self.report.by_reason.entry(refusal.reason).or_default() += 1;
            }
            self.report.refused += refusals.len() as u64;
            self.intake.quarantine(refusals).context("keeping the reasons of refusal")?;
        }
        self.report.files += std::mem::take(&mut self.waiting_files);
        self.report.source_bytes += std::mem::take(&mut self.waiting_source_bytes);
        self.waiting_text_bytes = 0;
        self.report.elapsed_s = self.started.elapsed().as_secs_f64();
        self.last_flush = Instant::now();
        self.monitor.progress(&self.progress());
        Ok(())
    }

    fn progress(&self) -> Progress {
        let (done, elapsed_s) = (self.report.source_bytes, self.report.elapsed_s);
        let left = self.total_bytes.saturating_sub(done) as f64;
        Progress {
            stage: format!("ingest {}", self.spec.collection),
            done,
            total: self.total_bytes,
            unit: "byte".to_owned(),
            elapsed_s,
            remaining_s: (done > 0).then(|| left * elapsed_s / done as f64),
            gauges: vec![
                ("documents".to_owned(), self.report.documents().to_string()),
                ("refused".to_owned(), self.report.refused.to_string()),
            ],
        }
    }
}

#[cfg(test)]
#[path = "ingest_tests.rs"]
mod tests;
