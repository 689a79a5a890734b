//! The worker process: the same binary, started by the warden as `cloister worker` with a socket as its standard
//! input. It gets one task and the keys for it over that socket, does the task, says how it ended, and is gone.
//! It opens neither database nor keyring nor audit log, and dies with the warden.

use std::{
    os::{fd::AsFd, unix::net::UnixStream},
    process::ExitCode,
};

use serde_json::Value;

use super::{import, port::Port, protocol::Task};
use crate::{
    base::{Context, Result},
    corpus, evaluate, infer, seal, train,
};

/// Runs one task. The exit code says whether its end could be reported.
pub fn main() -> ExitCode {
    match serve_one() {
        Ok(()) => ExitCode::SUCCESS,
        // There is nobody to tell: the socket is what failed.
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve_one() -> Result<()> {
    seal::forbid_core_dumps()?;
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(std::io::Error::from)
        .context("binding the worker to the warden")?;
    let socket = std::io::stdin().as_fd().try_clone_to_owned().context("taking the worker's socket")?;
    work(UnixStream::from(socket))
}

/// Takes the task that comes over `socket` and reports how it ended.
pub(super) fn work(socket: UnixStream) -> Result<()> {
    let (port, task) = Port::open(socket)?;
    let outcome = perform(task, &port);
    port.finish(outcome)
}

fn perform(task: Task, port: &Port) -> Result<Value> {
    if !matches!(task, Task::Generate(_)) {
        yield_to_who_serves()?;
    }
    match task {
        Task::Ingest(spec) => json(corpus::ingest::run(&spec, port, port)),
        Task::Snapshot(spec) => json(corpus::snapshot::run(&spec, port, port)),
        Task::Tokenizer(spec) => json(corpus::tokenizer::run(&spec, port, port)),
        Task::Extents(spec) => json(corpus::extents::run(&spec, port, port)),
        Task::Plan(spec) => json(train::plan::run(&spec, port, port)),
        Task::Pretrain(spec) => json(train::pretrain::run(&spec, port, port)),
        Task::Evaluate(spec) => json(evaluate::run(&spec, port, port)),
        Task::Generate(spec) => json(infer::generate::run(&spec, port, port)),
        Task::Import(spec) => json(import::run(&spec, port, port)),
    }
}

/// A job can wait; people who ask cannot. All jobs yield alike, so that a long one does not starve another; the readers
/// of documents in their cages yield further.
fn yield_to_who_serves() -> Result<()> {
    const LAST: i32 = 19;
    rustix::process::nice(LAST).map_err(std::io::Error::from).context("yielding to whoever serves")?;
    Ok(())
}

fn json<T: serde::Serialize>(outcome: Result<T>) -> Result<Value> {
    serde_json::to_value(outcome?).context("reporting how the work ended")
}
