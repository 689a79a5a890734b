//! The life of a job: a row from the queue to its end, one at a time on the processors, stopped by whoever asked
//! for it or by `job cancel`. What a job committed and nobody kept is gone when it ends.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::Value;

use super::{
    host::{self, Leave},
    policy::Actor,
    protocol::Task,
    request::Request,
    warden::Warden,
};
use crate::{
    base::{Context, Error, ErrorKind, Id, IdKind, Monitor, Progress, Result},
    seal::new_id,
    store::JobState,
};

/// How often a job in the queue looks whether it is its turn.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The jobs of this process.
#[derive(Default)]
pub(super) struct Jobs {
    running: Mutex<HashMap<Id, Arc<AtomicBool>>>,
    /// Held by the job that computes: two at once would each take twice as long and the memory of both.
    compute: Mutex<()>,
}

impl Jobs {
    /// Asks a job to stop; false where none of this number runs.
    pub(super) fn cancel(&self, job: Id) -> bool {
        let running = lock(&self.running);
        let cancelled = running.get(&job);
        cancelled.inspect(|flag| flag.store(true, Ordering::Relaxed)).is_some()
    }
}

/// A running job, as the code of one request sees it.
pub(super) struct Job<'a> {
    pub id: Id,
    pub warden: &'a Warden,
    /// Who asked for it.
    pub actor: &'a Actor,
    pub monitor: &'a dyn Monitor,
}

impl Job<'_> {
    /// Runs one task in a worker process and reads its outcome.
    pub(super) fn stage<T: serde::de::DeserializeOwned>(&self, task: Task, leave: Leave) -> Result<T> {
        host::outcome(host::run(self.warden, self.id, task, leave, self.monitor)?)
    }

    /// Says which run the job works on, so that `job show` does too.
    pub(super) fn works_on(&self, run: Id) -> Result<()> {
        self.warden.store.write(|rows| rows.set_job_run(self.id, run))
    }
}

/// Runs a request as a job.
pub(super) fn run<T>(
    warden: &Warden,
    actor: &Actor,
    request: &Request,
    monitor: &dyn Monitor,
    body: impl FnOnce(&Job<'_>) -> Result<T>,
) -> Result<T> {
    warden.keyring_must_stand()?;
    let id = new_id(IdKind::Job)?;
    let asked = serde_json::to_value(request).context("recording a job")?;
    let kind = request.action().as_str();
    warden.store.write(|rows| rows.add_job(id, kind, &actor.to_string(), &asked, warden.now_ms()))?;
    let cancelled = Arc::new(AtomicBool::new(false));
    lock(&warden.jobs.running).insert(id, Arc::clone(&cancelled));
    let watched = Watched { monitor, cancelled: &cancelled };
    let outcome = take_turn(warden, &watched).and_then(|_turn| {
        warden.store.write(|rows| rows.start_job(id, warden.now_ms()))?;
        body(&Job { id, warden, actor, monitor: &watched })
    });
    lock(&warden.jobs.running).remove(&id);
    let ended = end(warden, id, outcome.as_ref().err(), cancelled.load(Ordering::Relaxed))
        .and_then(|()| warden.bear_witness());
    // The work's own failure is what the asker must hear.
    let value = outcome?;
    ended.map(|()| value)
}

fn end(warden: &Warden, id: Id, error: Option<&Error>, cancelled: bool) -> Result<()> {
    let state = match error {
        None => JobState::Done,
        Some(_) if cancelled => JobState::Cancelled,
        Some(error) if error.kind() == ErrorKind::Interrupted => JobState::Interrupted,
        Some(_) => JobState::Failed,
    };
    let staged = warden.store.read(|rows| rows.staged_objects(id))?;
    warden.store.write(|rows| {
        staged.iter().try_for_each(|&object| rows.remove_object(object))?;
        rows.end_job(id, state, error, warden.now_ms())
    })?;
    let left: Vec<Id> = staged.into_iter().filter(|&object| warden.vault.contains(object)).collect();
    if left.is_empty() { Ok(()) } else { warden.vault.delete_all(&left) }
}

/// The turn, where no job computes.
pub(super) fn turn_if_free(warden: &Warden) -> Option<MutexGuard<'_, ()>> {
    match warden.jobs.compute.try_lock() {
        Ok(turn) => Some(turn),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Waits until no other job computes; none does as long as the value is held.
pub(super) fn take_turn<'a>(warden: &'a Warden, monitor: &dyn Monitor) -> Result<MutexGuard<'a, ()>> {
    let mut said = false;
    loop {
        if let Some(turn) = turn_if_free(warden) {
            return Ok(turn);
        }
        if monitor.stop_requested() {
            return Err(Error::interrupted("stopped before its turn came"));
        }
        if !said {
            monitor.note("another job is at work; this one waits for its turn");
            said = true;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The asker's monitor, which `job cancel` can stop too.
struct Watched<'a> {
    monitor: &'a dyn Monitor,
    cancelled: &'a AtomicBool,
}

impl Monitor for Watched<'_> {
    fn progress(&self, progress: &Progress) {
        self.monitor.progress(progress);
    }

    fn note(&self, message: &str) {
        self.monitor.note(message);
    }

    fn record(&self, kind: &str, fact: &Value) -> Result<()> {
        self.monitor.record(kind, fact)
    }

    fn text(&self, piece: &str) {
        self.monitor.text(piece);
    }

    fn stop_requested(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed) || self.monitor.stop_requested()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
