//! The daemon: the API and the admin socket over one warden, from the first connection to the last record.

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio_rustls::TlsAcceptor;

use super::{
    api::{Api, Limits},
    listen::{self, ConnectionLimits},
    models,
    records::{Records, WardenRecords},
    routes::router,
    tls::Identity,
};
use crate::{
    auditlog::{Entry, Outcome},
    base::{Context, Id, Result, fs::write_atomic},
    device::{Choice, Device},
    improve::receipt,
    work::{Actor, Warden, admin},
};

/// How soon a stop is noticed.
const TICK: Duration = Duration::from_millis(50);
/// Strangers' requests are counted over so long for one audit entry.
const STRANGERS_WINDOW: Duration = Duration::from_secs(60);
/// How soon a new model is served.
const MODELS_WINDOW: Duration = Duration::from_secs(5);
/// For the records of answers that were cut off.
const SETTLING_MAX: Duration = Duration::from_secs(10);

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
        }
    }
}

/// Where the API listens, and what a client needs to know.
#[derive(Clone, Debug)]
pub struct Bound {
    pub address: SocketAddr,
    /// SHA-256 of the certificate, in hexadecimal with colons.
    pub fingerprint: String,
    /// The public certificate's file.
    pub certificate_pem: PathBuf,
    /// Names of the models that are served.
    pub models: Vec<String>,
}

/// The server's identity, made where there is none yet, and beside it the public key of its receipts.
pub fn identity(warden: &Warden) -> Result<Identity> {
    let keys = warden.data_dir().join("keys");
    let identity = Identity::ensure(&keys, &warden.purpose_key("tls")?)?;
    let (path, text) = (keys.join("receipts.pub"), receipt::key_text(&warden.signer().public_key()) + "\n");
    if std::fs::read_to_string(&path).ok().as_ref() != Some(&text) {
        write_atomic(&path, text.as_bytes())?;
    }
    Ok(identity)
}

/// Serves until `stop` is set; then finishes what runs, within bounds, and returns. `ready` is called once
/// requests are taken.
///
/// # Errors
/// An address that cannot be had, an identity that does not open, an admin socket that cannot be made.
pub fn run(
    warden: Arc<Warden>,
    options: ServeOptions,
    stop: Arc<AtomicBool>,
    ready: impl FnOnce(&Bound),
) -> Result<()> {
    let identity = identity(&warden)?;
    let tls = TlsAcceptor::from(identity.server_config(&warden.purpose_key("tls")?)?);
    let listener = bind(options.listen)?;
    let address = listener.local_addr().context("asking for the address")?;
    let device = options.device.open(options.threads)?;
    let records = Arc::new(WardenRecords(Arc::clone(&warden)));
    let api = Arc::new(Api::new(records, Vec::new(), options.limits.clone()));
    api.replace_models(models::refresh(&warden, &[], &device)?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("api")
        .build()
        .context("starting the API's threads")?;
    let listener = {
        let _inside = runtime.enter();
        tokio::net::TcpListener::from_std(listener).context("preparing to listen")?
    };
    let daemon = Daemon { warden, api, device, stop };
    daemon.note("serve.start", &address)?;
    let bound = Bound {
        address,
        fingerprint: identity.fingerprint.clone(),
        certificate_pem: identity.certificate_pem.clone(),
        models: daemon.api.models().iter().map(|served| served.facts.name.clone()).collect(),
    };
    let closed = AtomicBool::new(false);
    let admin = std::thread::scope(|threads| {
        let admin = threads.spawn(|| daemon.serve_admin(&closed));
        ready(&bound);
        runtime.block_on(daemon.serve_api(listener, tls, &options, &closed));
        closed.store(true, Ordering::Release);
        admin.join().expect("the admin socket's thread does not panic")
    });
    // Waits for records that are being written.
    drop(runtime);
    daemon.note("serve.stop", &address)?;
    admin
}

struct Daemon {
    warden: Arc<Warden>,
    api: Arc<Api>,
    device: Device,
    stop: Arc<AtomicBool>,
}

impl Daemon {
    fn note(&self, action: &str, address: &SocketAddr) -> Result<()> {
        let entry = Entry::new(Actor::this_process().to_string(), action, Outcome::Done);
        self.warden.audit(entry.detail("address", address.to_string())).map(|_| ())
    }

    fn serve_admin(&self, closed: &AtomicBool) -> Result<()> {
        let served = admin::serve(self.warden.data_dir(), closed, &|uid, request, monitor| {
            self.warden.execute(Actor::Local { uid }, request, monitor)
        });
        // Half a daemon is none.
        self.stop.store(true, Ordering::Release);
        served
    }

    async fn serve_api(
        &self,
        listener: tokio::net::TcpListener,
        tls: TlsAcceptor,
        options: &ServeOptions,
        closed: &AtomicBool,
    ) {
        let strangers = tokio::spawn(count_strangers(Arc::clone(&self.api)));
        let newcomers =
            tokio::spawn(watch_models(Arc::clone(&self.warden), Arc::clone(&self.api), self.device.clone()));
        let stopped = async {
            while !self.stop.load(Ordering::Acquire) {
                tokio::time::sleep(TICK).await;
            }
            // Work that came over the admin socket hears of it as early as the API's.
            closed.store(true, Ordering::Release);
            self.api.stop_accepting();
        };
        let limits = options.connections.clone();
        listen::serve(listener, tls, router(&self.api), limits, stopped, options.grace).await;
        newcomers.abort();
        strangers.abort();
        let api = Arc::clone(&self.api);
        // Joins the engines' threads, which takes as long as a step.
        let _ = tokio::task::spawn_blocking(move || api.stop_engines()).await;
        self.api.settle(SETTLING_MAX).await;
        note_strangers(&self.api).await;
    }
}

fn bind(address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address)
        .with_context(|| format!("listening on {address}"))
        .map_err(|error| error.remedy("choose another place with --listen ADDRESS:PORT"))?;
    listener.set_nonblocking(true).context("preparing to listen")?;
    Ok(listener)
}

async fn count_strangers(api: Arc<Api>) {
    loop {
        tokio::time::sleep(STRANGERS_WINDOW).await;
        note_strangers(&api).await;
    }
}

async fn note_strangers(api: &Arc<Api>) {
    let failures = api.take_strangers();
    if failures.requests > 0 {
        // A failure makes the API unready, which is all there is to do about it.
        let _ =
            api.recorded(api.ask(move |records: &dyn Records| records.note_unauthenticated(&failures)).await);
    }
    let _ = api.recorded(api.ask(|records: &dyn Records| records.keep_last_uses()).await);
    let limited = api.take_limited();
    if limited > 0 {
        let _ = api.recorded(api.ask(move |records: &dyn Records| records.note_limited(limited)).await);
    }
    let probes = api.take_probes();
    if probes > 0 {
        let _ = api.recorded(api.ask(move |records: &dyn Records| records.note_probes(probes)).await);
    }
}

/// Serves what is trained or imported while the daemon runs, and starts engines again that died.
async fn watch_models(warden: Arc<Warden>, api: Arc<Api>, device: Device) {
    let mut seen = None;
    loop {
        tokio::time::sleep(MODELS_WINDOW).await;
        let (warden, api, device) = (Arc::clone(&warden), Arc::clone(&api), device.clone());
        // A model that did not load is tried again when something changed, and not every time.
        let refreshing = tokio::task::spawn_blocking(move || -> Result<Vec<Id>> {
            let (wanted, current) = (models::wanted(&warden)?, api.models());
            if seen.as_ref() != Some(&wanted) || current.iter().any(|served| served.engine.has_died()) {
                api.replace_models(models::refresh(&warden, &current, &device)?);
            }
            Ok(wanted)
        });
        seen = match refreshing.await {
            Ok(Ok(wanted)) => Some(wanted),
            Ok(Err(error)) => {
                tracing::warn!(%error, "looking for new models");
                None
            }
            Err(_) => None,
        };
    }
}

#[cfg(test)]
#[path = "daemon_tests.rs"]
mod tests;
