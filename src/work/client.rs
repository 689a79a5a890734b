//! How a command reaches the warden: over the admin socket where a daemon holds the data directory, else by
//! becoming the warden for as long as the command takes. Question and answer are the same either way. Sealing is asked
//! of a daemon alone: there is nobody else who would be sealed. Unsealing is too, but for the mark of a seal that a daemon
//! left behind when it ended.

use std::{
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use super::{
    admin,
    policy::Actor,
    question::{DaemonState, Question, SecretKind},
    request::Request,
    seal_mark,
    sealed::Sealed,
    warden::Warden,
};
use crate::{
    base::{Context, Error, ErrorKind, Monitor, Result, Silent},
    device::Choice,
    seal::Secret,
};

/// How often a daemon that is being sealed is asked how far it is.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// Which data directory, and what opens it.
#[derive(Clone, Debug)]
pub struct Site {
    pub data_dir: PathBuf,
    /// None: the key file that `init` remembered.
    pub unsealer: Option<Unsealer>,
    /// What computes.
    pub device: Choice,
    /// Threads that compute; None takes every core.
    pub threads: Option<usize>,
}

/// Where the secret that unwraps the root key is read from. Never the secret itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsealer {
    KeyFile(PathBuf),
    PassphraseFile(PathBuf),
    /// One share in each.
    ShareFiles(Vec<PathBuf>),
}

/// Asks the daemon, or does it here: the same question, the same answer.
pub fn run(site: &Site, request: Request, monitor: &dyn Monitor) -> Result<Value> {
    run_with(site, request, &Secret::new(Vec::new()), monitor)
}

/// As [`run`], with a secret that comes with the request.
pub fn run_with(site: &Site, request: Request, secret: &Secret, monitor: &dyn Monitor) -> Result<Value> {
    if let Some(daemon) = admin::connect(&site.data_dir)? {
        return admin::ask(daemon, Question::Warden(Box::new(request)), Some(secret), monitor);
    }
    let warden = Warden::open(site)?;
    warden.notices().for_each(|notice| monitor.note(notice));
    warden.execute_with(Actor::this_process(), request, secret, monitor)
}

/// What the daemon is at; None where none runs.
pub fn state(data_dir: &Path) -> Result<Option<DaemonState>> {
    let Some(daemon) = admin::connect(data_dir)? else { return Ok(None) };
    read_state(admin::ask(daemon, Question::State, None, &Silent)?).map(Some)
}

/// As [`state`], where a daemon must run.
///
/// # Errors
/// `Unavailable` where none does.
pub fn state_of_daemon(data_dir: &Path) -> Result<DaemonState> {
    state(data_dir)?.ok_or_else(|| no_daemon(data_dir))
}

/// Brings a secret to the daemon, and gives its state after that.
///
/// # Errors
/// `Sealed` where the secret does not open, `Usage` where it cannot be used, `Unavailable` where no daemon runs.
pub fn unseal(
    data_dir: &Path,
    kind: SecretKind,
    secret: &Secret,
    monitor: &dyn Monitor,
) -> Result<DaemonState> {
    read_state(admin::ask(daemon(data_dir)?, Question::Unseal(kind), Some(secret), monitor)?)
}

/// Why nothing that is at hand is used: somebody sealed it. None where nobody did.
pub fn kept_sealed(data_dir: &Path) -> Option<Error> {
    seal_mark::is_set(data_dir).then(seal_mark::refusal)
}

/// Lifts a seal that outlived the daemon which it was asked of: these secrets must open the vault, all in one go, since
/// there is nobody who would keep some of them. False where a daemon runs, or there is no such seal.
///
/// # Errors
/// `Sealed` where they do not open it, `Usage` where they are too few.
pub fn lift_seal(
    site: &Site,
    secrets: impl FnOnce() -> Result<Vec<(SecretKind, Secret)>>,
    monitor: &dyn Monitor,
) -> Result<bool> {
    if state(&site.data_dir)?.is_some() || !seal_mark::is_set(&site.data_dir) {
        return Ok(false);
    }
    let sealed = Sealed::hold(site)?;
    for (kind, secret) in secrets()? {
        if let Some(root) = sealed.bring(rustix::process::geteuid().as_raw(), kind, secret, monitor)? {
            let warden = sealed.open(root)?;
            warden.notices().for_each(|notice| monitor.note(notice));
            return sealed.lift().map(|()| true);
        }
    }
    Err(Error::usage(format!(
        "these shares are too few, and no daemon keeps them: it is {}",
        sealed.state()?
    ))
    .remedy("name all of them in one command, each with --share-file F; or start `cloister serve` first"))
}

/// Has the daemon forget the shares that were given so far.
pub fn forget_shares(data_dir: &Path) -> Result<DaemonState> {
    read_state(admin::ask(daemon(data_dir)?, Question::ForgetShares, None, &Silent)?)
}

/// Has the daemon end what it serves, and waits until it is sealed.
///
/// # Errors
/// `Unavailable` where no daemon runs, or it ended altogether.
pub fn seal(data_dir: &Path, monitor: &dyn Monitor) -> Result<DaemonState> {
    let asked = Question::Warden(Box::new(Request::Seal));
    match admin::ask(daemon(data_dir)?, asked, None, monitor) {
        // Sealed already.
        Err(error) if error.kind() == ErrorKind::Sealed => {}
        answer => drop(answer?),
    }
    loop {
        match state(data_dir) {
            Ok(Some(sealed @ DaemonState::Sealed(_))) => return Ok(sealed),
            Ok(None) => {
                return Err(Error::unavailable("the daemon ended: it holds no key, and serves nothing")
                    .remedy("start it again with `cloister serve --sealed`"));
            }
            Ok(Some(DaemonState::Opening | DaemonState::Serving(_))) => {}
            // It was between its two lives.
            Err(error) if error.kind() == ErrorKind::Unavailable => {}
            Err(error) => return Err(error),
        }
        if monitor.stop_requested() {
            return Err(Error::interrupted("the daemon was told to seal, and was not sealed yet"));
        }
        std::thread::sleep(ASK_EVERY);
    }
}

fn daemon(data_dir: &Path) -> Result<UnixStream> {
    admin::connect(data_dir)?.ok_or_else(|| no_daemon(data_dir))
}

fn no_daemon(data_dir: &Path) -> Error {
    Error::unavailable(format!("no daemon runs on {}", data_dir.display()))
        .remedy("start one with `cloister serve`, or name the right place with --data-dir")
}

fn read_state(answer: Value) -> Result<DaemonState> {
    serde_json::from_value(answer).context("reading the daemon's answer")
}
