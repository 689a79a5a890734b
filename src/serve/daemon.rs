//! The daemon, from its start to its end: sealed until people bring what unseals it, then serving, or serving from the
//! start. The lock, the admin socket and the API's address are the same all the way. Nothing leads from serving back
//! to sealed but the end of the process: memory that held keys and texts is given back to the kernel, which clears it.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    time::Duration,
};

use serde_json::Value;
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

use super::{
    api::Limits,
    listen::{self, ConnectionLimits},
    sealed,
    service::Service,
    tls,
};
use crate::{
    base::{Context, Error, Monitor, Result},
    device::Choice,
    seal::Secret,
    vault::RootKey,
    work::{
        Actor, Doors, Sealed, Warden,
        question::{Bound, DaemonState, Question, Sealing, SecretKind},
    },
};

/// How soon a stop is noticed.
pub(super) const TICK: Duration = Duration::from_millis(50);
/// For whoever is told that the appliance is sealed when it no longer is.
const SEALED_GRACE: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub struct ServeOptions {
    pub listen: SocketAddr,
    /// How long what runs may take to finish when the daemon is told to stop.
    pub grace: Duration,
    pub device: Choice,
    /// Threads that compute; None takes every core.
    pub threads: Option<usize>,
    pub limits: Limits,
    pub connections: ConnectionLimits,
    /// Nobody gets past the handshake without a certificate that this one signed; None lets everybody.
    pub client_ca: Option<PathBuf>,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8443)),
            grace: Duration::from_secs(30),
            device: Choice::Auto,
            threads: None,
            limits: Limits::default(),
            connections: ConnectionLimits::default(),
            client_ca: None,
        }
    }
}

/// What a daemon begins as.
pub enum Start {
    Open(Arc<Warden>),
    Sealed(Sealed),
    /// Sealed, behind the doors of the daemon that it was.
    HandedOver(Sealed, Doors),
}

/// What became of the daemon.
pub enum Ended {
    Stopped,
    /// It was sealed: whoever called it goes on as another process, behind the same doors.
    Sealed(Doors),
}

/// What the daemon has come to.
pub enum News<'a> {
    Sealed { address: SocketAddr, sealing: &'a Sealing },
    Serving(&'a Bound),
}

/// Runs the daemon until `stop` is set, or it is sealed; then finishes what runs, within bounds, and returns. `tell` is
/// called once requests are taken, sealed or not.
///
/// # Errors
/// An address that cannot be had, an identity that does not open, an admin socket that cannot be made.
pub fn run(
    start: Start,
    options: &ServeOptions,
    stop: &AtomicBool,
    tell: impl FnMut(News<'_>),
) -> Result<Ended> {
    let (beginning, doors) = match start {
        Start::Open(warden) => {
            let doors = warden.doors(options.listen)?;
            (Beginning::Open(warden), doors)
        }
        Start::Sealed(sealed) => {
            let doors = sealed.doors(options.listen)?;
            (Beginning::Sealed(sealed), doors)
        }
        Start::HandedOver(sealed, doors) => (Beginning::Sealed(sealed), doors),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("api")
        .build()
        .context("starting the API's threads")?;
    let (unseal, unsealed) = mpsc::channel();
    let front = Front { unseal, phase: Mutex::new(Phase::Opening) };
    let closed = AtomicBool::new(false);
    let served = std::thread::scope(|threads| {
        threads.spawn(|| {
            doors.admin().serve(&closed, &|uid, question, secret, monitor| {
                front.answer(uid, question, secret, monitor)
            });
        });
        let life = Life { front: &front, doors: &doors, options, runtime: &runtime, stop, closed: &closed };
        let served = life.live(beginning, unsealed, tell);
        closed.store(true, Ordering::Release);
        served
    });
    // Waits for records that are being written.
    drop(runtime);
    let Some(service) = served? else { return Ok(Ended::Stopped) };
    service.note("serve.stop", doors.address())?;
    let seal = service.warden.is_sealing() && !stop.load(Ordering::Acquire);
    Ok(if seal { Ended::Sealed(doors) } else { Ended::Stopped })
}

enum Beginning {
    Open(Arc<Warden>),
    Sealed(Sealed),
}

/// One run of the daemon.
struct Life<'a> {
    front: &'a Front,
    doors: &'a Doors,
    options: &'a ServeOptions,
    runtime: &'a Runtime,
    stop: &'a AtomicBool,
    closed: &'a AtomicBool,
}

/// The root key, and who waits to hear what came of it.
type Unsealed = (RootKey, Sender<Result<()>>);

impl Life<'_> {
    /// Gives what served, to be ended; None where it was sealed to its end.
    fn live(
        &self,
        beginning: Beginning,
        unsealed: Receiver<Unsealed>,
        mut tell: impl FnMut(News<'_>),
    ) -> Result<Option<Service>> {
        let (service, waiting) = match beginning {
            Beginning::Open(warden) => (Service::prepare(warden, self.options)?, None),
            Beginning::Sealed(sealed) => match self.stay_sealed(sealed, &unsealed, &mut tell)? {
                Some((service, waiting)) => (service, Some(waiting)),
                None => return Ok(None),
            },
        };
        let address = self.doors.address();
        service.note("serve.start", address)?;
        let listener = self.listener()?;
        let bound = service.bound(address)?;
        self.front.enter(Phase::Serving(Arc::clone(&service.warden), bound.clone()));
        // Who brought the same key a moment later hears that it was not needed.
        drop(unsealed);
        tell(News::Serving(&bound));
        if let Some(waiting) = waiting {
            // Whoever unsealed it may have gone away meanwhile.
            let _ = waiting.send(Ok(()));
        }
        self.runtime.block_on(service.serve(listener, self.doors, self.options, self.stop, self.closed));
        self.front.enter(Phase::Opening);
        Ok(Some(service))
    }

    /// Says that it is sealed until it no longer is, everything is open and ready, and nothing but the first request
    /// is wanting; None where it was told to stop before.
    fn stay_sealed(
        &self,
        sealed: Sealed,
        unsealed: &Receiver<Unsealed>,
        tell: &mut impl FnMut(News<'_>),
    ) -> Result<Option<(Service, Sender<Result<()>>)>> {
        let leave = Arc::new(AtomicBool::new(false));
        let left = {
            let leave = Arc::clone(&leave);
            async move {
                while !leave.load(Ordering::Acquire) {
                    tokio::time::sleep(TICK).await;
                }
            }
        };
        let tls = TlsAcceptor::from(tls::throwaway()?);
        let limits = self.options.connections.clone();
        let api = listen::serve(self.listener()?, tls, sealed::router(), limits, left, SEALED_GRACE);
        let api = self.runtime.spawn(api);
        let sealing = sealed.state()?;
        let sealed = Arc::new(sealed);
        self.front.enter(Phase::Sealed(Arc::clone(&sealed)));
        tell(News::Sealed { address: self.doors.address(), sealing: &sealing });
        let opened = self.open_when_unsealed(&sealed, unsealed);
        if opened.is_none() {
            self.doors.close_api();
        }
        leave.store(true, Ordering::Release);
        // It ends within its grace, and has nothing to report.
        let _ = self.runtime.block_on(api);
        Ok(opened)
    }

    fn open_when_unsealed(
        &self,
        sealed: &Arc<Sealed>,
        unsealed: &Receiver<Unsealed>,
    ) -> Option<(Service, Sender<Result<()>>)> {
        while !self.stop.load(Ordering::Acquire) {
            let (root, waiting) = match unsealed.recv_timeout(TICK) {
                Ok(unsealed) => unsealed,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return None,
            };
            self.front.enter(Phase::Opening);
            let service = sealed
                .open(root)
                .and_then(|warden| Service::prepare(Arc::new(warden), self.options))
                .and_then(|service| sealed.lift().map(|()| service));
            match service {
                Ok(service) => return Some((service, waiting)),
                Err(error) => {
                    self.front.enter(Phase::Sealed(Arc::clone(sealed)));
                    // Whoever unsealed it may have gone away meanwhile.
                    let _ = waiting.send(Err(error));
                }
            }
        }
        None
    }

    fn listener(&self) -> Result<tokio::net::TcpListener> {
        let _inside = self.runtime.enter();
        tokio::net::TcpListener::from_std(self.doors.api()?).context("preparing to listen")
    }
}

/// Who answers at the admin socket.
struct Front {
    unseal: Sender<Unsealed>,
    phase: Mutex<Phase>,
}

enum Phase {
    Sealed(Arc<Sealed>),
    /// On its way to serving, or to its end.
    Opening,
    Serving(Arc<Warden>, Bound),
}

impl Front {
    fn enter(&self, phase: Phase) {
        *self.phase() = phase;
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, uid: u32, question: Question, secret: Secret, monitor: &dyn Monitor) -> Result<Value> {
        match question {
            Question::Warden(request) => {
                let warden = self.warden(monitor)?;
                return warden.execute_with(Actor::Local { uid }, *request, &secret, monitor);
            }
            Question::State => {}
            Question::Unseal(kind) => self.unseal(uid, kind, secret, monitor)?,
            Question::ForgetShares => {
                if let Phase::Sealed(sealed) = &*self.phase() {
                    sealed.forget_shares(uid);
                }
            }
        }
        serde_json::to_value(self.state()?).context("writing an answer")
    }

    fn state(&self) -> Result<DaemonState> {
        match &*self.phase() {
            Phase::Sealed(sealed) => sealed.state().map(DaemonState::Sealed),
            Phase::Opening => Ok(DaemonState::Opening),
            Phase::Serving(warden, bound) => {
                let policy = warden.deploy_policy()?;
                Ok(DaemonState::Serving(Bound { policy, ..bound.clone() }))
            }
        }
    }

    /// The warden, once there is one.
    fn warden(&self, monitor: &dyn Monitor) -> Result<Arc<Warden>> {
        loop {
            match &*self.phase() {
                Phase::Sealed(sealed) => return Err(sealed.state()?.refusal()),
                Phase::Opening => {}
                Phase::Serving(warden, _) => return Ok(Arc::clone(warden)),
            }
            if monitor.stop_requested() {
                return Err(Error::interrupted("stopped before the daemon was ready"));
            }
            std::thread::sleep(TICK);
        }
    }

    /// Where it is sealed no longer, somebody else was sooner, and the secret is let go of.
    fn unseal(&self, uid: u32, kind: SecretKind, secret: Secret, monitor: &dyn Monitor) -> Result<()> {
        let sealed = match &*self.phase() {
            Phase::Sealed(sealed) => Arc::clone(sealed),
            Phase::Opening | Phase::Serving(..) => return Ok(()),
        };
        let Some(root) = sealed.bring(uid, kind, secret, monitor)? else { return Ok(()) };
        let (told, outcome) = mpsc::channel();
        // Where nobody takes it any more, or nobody says what came of it, the daemon was opened meanwhile or is on
        // its way out: its state tells which.
        if self.unseal.send((root, told)).is_err() {
            return Ok(());
        }
        outcome.recv().unwrap_or(Ok(()))
    }
}

#[cfg(test)]
#[path = "daemon_tests.rs"]
mod tests;
