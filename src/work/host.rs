//! The warden's side of a worker: start the process, grant it what its task needs and nothing else, write down
//! what it made, and say clearly how it ended. A worker that crashes, is killed or speaks nonsense costs its job.

use std::{
    collections::HashSet,
    io::Read,
    os::unix::{
        net::UnixStream,
        process::{CommandExt, ExitStatusExt},
    },
    process::{Child, Command, ExitStatus, Stdio},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    documents, frame,
    precedence::Readers,
    protocol::{Call, FromWorker, Reply, Task, ToWorker},
    warden::Warden,
};
use crate::{
    base::{Context, Error, Id, IdKind, Monitor, Result},
    device::cuda::LIBRARIES_VARIABLE,
    seal::{KEY_BYTES, WipedVec},
    store::ObjectState,
    vault::Depot,
};

/// How often the warden looks whether it should ask the worker to stop.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a worker that was asked to stop may take to write its checkpoint.
const STOP_WITHIN: Duration = Duration::from_secs(300);
/// How long the rest of a message may take once it has begun.
const MESSAGE_WITHIN: Duration = Duration::from_secs(60);
/// How much of what a dying worker says is kept.
const LAST_WORDS_BYTES: usize = 4096;

/// What a task may touch. Whatever it made itself, it may also read and delete.
#[derive(Clone, Debug, Default)]
pub(super) struct Leave {
    pub read: HashSet<Id>,
    /// Documents whose token extents it may seal or open, without their text.
    pub extents: HashSet<Id>,
    pub create: &'static [IdKind],
    /// Whether it may take in documents.
    pub intake: bool,
    /// Whose facts it states; none for a task that states nothing.
    pub facts_of: Option<Id>,
}

/// Runs a task in a worker process to its end.
pub(super) fn run(
    warden: &Warden,
    job: Id,
    task: Task,
    leave: Leave,
    monitor: &dyn Monitor,
) -> Result<Value> {
    let (ours, theirs) = UnixStream::pair().context("making a worker's socket")?;
    let mut worker = Worker::start(theirs)?;
    let outcome = Host::new(warden, job, leave, monitor, ours).of(worker.child.id()).serve(task);
    worker.end(outcome)
}

/// Reads what a task reported at its end.
pub(super) fn outcome<T: DeserializeOwned>(reported: Value) -> Result<T> {
    serde_json::from_value(reported).context("reading a worker's outcome")
}

/// Whether a variable says where CUDA's libraries are, or is read by its driver: workers compute on the card that the
/// warden would.
fn is_for_cuda(variable: &str) -> bool {
    variable.starts_with("CUDA_") || [LIBRARIES_VARIABLE, "LD_LIBRARY_PATH"].contains(&variable)
}

struct Worker {
    child: Child,
    last_words: Option<JoinHandle<Vec<u8>>>,
}

impl Worker {
    fn start(socket: UnixStream) -> Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .arg("worker")
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| is_for_cuda(&name.to_string_lossy())))
            .stdin(std::os::fd::OwnedFd::from(socket))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Ctrl-C on the terminal is for the warden, which asks the worker to stop.
            .process_group(0)
            .spawn()
            .context("starting a worker process")?;
        let stderr = child.stderr.take();
        let last_words = stderr.map(|stderr| std::thread::spawn(move || tail(stderr)));
        Ok(Self { child, last_words })
    }

    /// Waits for the process and, where it did not report how it ended, finds out.
    fn end(&mut self, outcome: Result<Option<Value>>) -> Result<Value> {
        if !matches!(outcome, Ok(Some(_))) {
            // It may hang, or still be at work for nobody.
            let _ = self.child.kill();
        }
        let status = self.child.wait().context("waiting for a worker process")?;
        match outcome? {
            Some(value) => Ok(value),
            None => Err(self.died(status)),
        }
    }

    fn died(&mut self, status: ExitStatus) -> Error {
        let words = self.last_words.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        let words = String::from_utf8_lossy(&words);
        let error = match (status.signal(), panicked_at(&words)) {
            (Some(9), _) => Error::unavailable("the worker process was killed")
                .remedy("the system may have run out of memory; what was reported done is kept"),
            (Some(signal), _) => Error::unavailable(format!("the worker process crashed (signal {signal})")),
            (None, None) => Error::unavailable("the worker process ended without a word"),
            (None, Some(place)) => Error::unavailable(format!("the worker process crashed at {place}")),
        };
        error.remedy("what was reported done is kept")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // After `end` both say that there is nothing left to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The place in the source where a process panicked. Its message stays unsaid: it may quote a document.
pub(super) fn panicked_at(words: &str) -> Option<&str> {
    let (_, after) = words.rsplit_once("panicked at ")?;
    after.lines().next().map(|place| place.trim_end_matches(':'))
}

/// The end of what a process said.
fn tail(mut from: impl Read) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut bytes = [0; 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        kept.extend_from_slice(&bytes[..count]);
        kept.drain(..kept.len().saturating_sub(LAST_WORDS_BYTES));
    }
    kept
}

/// One worker's socket, and what may be done over it.
pub(super) struct Host<'a> {
    warden: &'a Warden,
    job: Id,
    leave: Leave,
    monitor: &'a dyn Monitor,
    socket: UnixStream,
    /// Reserved and not yet committed.
    reserved: HashSet<Id>,
    /// What this task committed.
    own: HashSet<Id>,
    /// The processes that read documents for it, where its own is known.
    readers: Option<Readers>,
    /// Of a training run: optimizer steps done, and in all.
    steps: Option<(u64, u64)>,
}

impl<'a> Host<'a> {
    pub(super) fn new(
        warden: &'a Warden,
        job: Id,
        leave: Leave,
        monitor: &'a dyn Monitor,
        socket: UnixStream,
    ) -> Self {
        let (reserved, own) = (HashSet::new(), HashSet::new());
        Self { warden, job, leave, monitor, socket, reserved, own, readers: None, steps: None }
    }

    /// Of the worker in that process.
    fn of(mut self, worker: u32) -> Self {
        self.readers = Some(Readers::of(&self.warden.precedence, worker));
        self
    }

    /// Serves the worker until it reports how it ended; None where it went away without.
    pub(super) fn serve(mut self, task: Task) -> Result<Option<Value>> {
        self.socket.set_read_timeout(Some(MESSAGE_WITHIN)).context("setting up a worker's socket")?;
        let served = self.send(&ToWorker::Begin(Box::new(task))).and_then(|()| self.listen());
        let abandoned = self.reserved.iter().try_for_each(|&id| self.warden.vault.abandon(id));
        // What went wrong first is what must be heard.
        served.and_then(|outcome| abandoned.map(|()| outcome))
    }

    fn listen(&mut self) -> Result<Option<Value>> {
        let mut asked_to_stop: Option<Instant> = None;
        loop {
            if asked_to_stop.is_none() && self.monitor.stop_requested() {
                asked_to_stop = Some(Instant::now());
                // A worker that is just ending does not hear it, and need not.
                let _ = self.send(&ToWorker::Stop);
            }
            if asked_to_stop.is_some_and(|asked| asked.elapsed() > STOP_WITHIN) {
                return Err(Error::interrupted("the worker did not stop in time and was ended"));
            }
            if !readable(&self.socket, LOOK_EVERY)? {
                continue;
            }
            let Some(frame) = frame::receive::<FromWorker>(&mut self.socket)? else { return Ok(None) };
            match frame.message {
                FromWorker::Progress(progress) => {
                    if progress.unit == "step" {
                        self.steps = Some((progress.done, progress.total));
                    }
                    self.monitor.progress(&progress);
                }
                FromWorker::Note(text) => self.monitor.note(&text),
                FromWorker::Reader(process) => {
                    self.readers.iter_mut().for_each(|readers| readers.add(process))
                }
                FromWorker::Text(piece) => self.monitor.text(&piece),
                FromWorker::Finished(outcome) => return outcome.map(Some),
                FromWorker::Call(call) => self.answer(call)?,
            }
        }
    }

    fn answer(&mut self, call: Call) -> Result<()> {
        let mut secret = WipedVec::default();
        let reply = self.perform(call, &mut secret);
        let sent = frame::send_with_secret(&mut self.socket, &ToWorker::Reply(reply), &secret);
        // A worker that died between its question and the answer is found out by the next read.
        match sent {
            Err(error) if !alive(&self.socket) => drop(error),
            other => other?,
        }
        Ok(())
    }

    fn perform(&mut self, call: Call, secret: &mut WipedVec) -> Result<Reply> {
        match call {
            Call::Open(id) => {
                self.may(self.leave.read.contains(&id) || self.own.contains(&id), "read", id)?;
                *secret = self.warden.vault.grant(id)?.danger_to_wire()?;
                Ok(Reply::Granted)
            }
            Call::ExtentKey(document) => {
                self.may(self.leave.extents.contains(&document), "use the tokens of", document)?;
                let key = self.warden.vault.extent_key(document)?;
                let mut bytes = WipedVec::zeroed(KEY_BYTES);
                key.danger_expose(|exposed| bytes.copy_from_slice(exposed));
                *secret = bytes;
                Ok(Reply::Granted)
            }
            Call::Create { kind, length_bytes } => {
                if !self.leave.create.contains(&kind) {
                    return Err(Error::denied(format!("this work may not make objects of kind {kind:?}")));
                }
                let grant = self.warden.vault.reserve(kind, length_bytes)?;
                self.reserved.insert(grant.id());
                *secret = grant.danger_to_wire()?;
                Ok(Reply::Granted)
            }
            Call::Commit(ids) => {
                self.adopt(&ids)?;
                let rows = self.warden.store.write(|rows| {
                    let now = self.warden.now_ms();
                    ids.iter()
                        .try_for_each(|&id| rows.add_object(id, ObjectState::Staged, Some(self.job), now))
                });
                self.or_take_back(rows, &ids)?;
                self.own.extend(ids);
                Ok(Reply::Done)
            }
            Call::Delete(id) => {
                self.may(self.own.contains(&id) || self.leave.read.contains(&id), "delete", id)?;
                self.may(id.kind() == IdKind::Checkpoint || self.own.contains(&id), "delete", id)?;
                self.warden.store.write(|rows| rows.remove_object(id))?;
                self.warden.vault.delete(id)?;
                self.own.remove(&id);
                Ok(Reply::Done)
            }
            Call::Record { kind, fact } => self.record(&kind, &fact).map(|()| Reply::Done),
            Call::Offer(offered) => {
                self.may_take_in()?;
                documents::offer(self.warden, &offered).map(Reply::Offered)
            }
            Call::Admit(taken) => {
                self.may_take_in()?;
                let ids: Vec<Id> = taken.iter().map(|taken| taken.object).collect();
                self.adopt(&ids)?;
                let rows = documents::admit(self.warden, self.job, &taken);
                self.or_take_back(rows, &ids)?;
                Ok(Reply::Done)
            }
            Call::Quarantine(refusals) => {
                self.may_take_in()?;
                documents::quarantine(self.warden, self.job, &refusals).map(|()| Reply::Done)
            }
        }
    }

    /// Takes written objects into the vault.
    fn adopt(&mut self, ids: &[Id]) -> Result<()> {
        for &id in ids {
            self.may(self.reserved.contains(&id), "commit", id)?;
        }
        self.warden.vault.adopt_all(ids)?;
        ids.iter().for_each(|id| {
            self.reserved.remove(id);
        });
        Ok(())
    }

    /// Objects whose rows could not be written are of no use: they go, and the reason stays.
    fn or_take_back(&self, rows: Result<()>, ids: &[Id]) -> Result<()> {
        if rows.is_err() {
            self.warden.vault.delete_all(ids)?;
        }
        rows
    }

    /// A fact that must outlive the worker. The objects that it names are kept from now on.
    fn record(&self, kind: &str, fact: &Value) -> Result<()> {
        let owner = self.leave.facts_of.ok_or_else(|| Error::denied("this work states no facts"))?;
        let named = ids_in(fact);
        self.warden.store.write(|rows| {
            rows.set_fact(owner, kind, fact, self.warden.now_ms())?;
            if let Some((done, total)) = self.steps.filter(|_| owner.kind() == IdKind::Run) {
                rows.set_run_steps(owner, done, total)?;
            }
            named.iter().filter(|id| self.own.contains(id)).try_for_each(|&id| rows.keep_object(id))
        })
    }

    fn may(&self, granted: bool, doing: &str, id: Id) -> Result<()> {
        if granted { Ok(()) } else { Err(Error::denied(format!("this work may not {doing} {id}"))) }
    }

    fn may_take_in(&self) -> Result<()> {
        if self.leave.intake { Ok(()) } else { Err(Error::denied("this work may not take in documents")) }
    }

    fn send(&mut self, message: &ToWorker) -> Result<()> {
        frame::send(&mut self.socket, message)
    }
}

/// Every identifier that stands anywhere in a JSON value.
pub(super) fn ids_in(value: &Value) -> Vec<Id> {
    match value {
        Value::String(text) => text.parse().into_iter().collect(),
        Value::Array(items) => items.iter().flat_map(ids_in).collect(),
        Value::Object(fields) => fields.values().flat_map(ids_in).collect(),
        _ => Vec::new(),
    }
}

/// Whether something can be read, the end of the stream included, within `wait`.
fn readable(socket: &UnixStream, wait: Duration) -> Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
    match poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(std::io::Error::from(error)).context("waiting for a worker"),
    }
}

/// Whether the other side still has the socket open.
fn alive(socket: &UnixStream) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut polled = [PollFd::new(socket, PollFlags::empty())];
    let asked = poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    asked.is_ok() && !polled[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}
