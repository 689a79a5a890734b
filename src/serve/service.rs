//! The daemon while it serves: the API over one open warden, from the first connection to the last record.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio_rustls::TlsAcceptor;

use super::{
    api::Api,
    daemon::{ServeOptions, TICK},
    listen, models,
    records::{Records, WardenRecords},
    routes::router,
    tls::Identity,
};
use crate::{
    auditlog::{Entry, Outcome},
    base::{Result, fs::write_atomic},
    device::Device,
    improve::receipt,
    work::{Actor, Doors, ServedModel, Warden, question::Bound},
};

/// Strangers' requests are counted over so long for one audit entry.
const STRANGERS_WINDOW: Duration = Duration::from_secs(60);
/// How soon a new model is served under a name that needs no approval.
const MODELS_WINDOW: Duration = Duration::from_secs(5);
/// For the records of answers that were cut off.
const SETTLING_MAX: Duration = Duration::from_secs(10);

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

pub(super) struct Service {
    pub warden: Arc<Warden>,
    api: Arc<Api>,
    device: Device,
    identity: Identity,
    tls: TlsAcceptor,
}

impl Service {
    /// Everything that takes its time, or may fail, before the first request is taken.
    ///
    /// # Errors
    /// An identity that does not open, a device that cannot be had.
    pub fn prepare(warden: Arc<Warden>, options: &ServeOptions) -> Result<Self> {
        let identity = identity(&warden)?;
        let tls = TlsAcceptor::from(
            identity.server_config(&warden.purpose_key("tls")?, options.client_ca.as_deref())?,
        );
        let device = options.device.open(options.threads)?;
        let records = Arc::new(WardenRecords(Arc::clone(&warden)));
        if matches!(device, Device::Cpu(_)) {
            warden.precedence().apply();
        }
        let precedence = Arc::clone(warden.precedence());
        let api = Arc::new(Api::new(records, Vec::new(), options.limits.clone(), precedence));
        api.replace_models(models::refresh(&warden, &[], &device)?);
        Ok(Self { warden, api, device, identity, tls })
    }

    pub fn bound(&self, address: SocketAddr) -> Result<Bound> {
        Ok(Bound {
            address,
            fingerprint: self.identity.fingerprint.clone(),
            certificate_pem: self.identity.certificate_pem.clone(),
            models: self.api.models().iter().map(|served| served.facts.name.clone()).collect(),
            policy: self.warden.deploy_policy()?,
        })
    }

    pub fn note(&self, action: &str, address: SocketAddr) -> Result<()> {
        let entry = Entry::new(Actor::this_process().to_string(), action, Outcome::Done);
        self.warden.audit(entry.detail("address", address.to_string())).map(|_| ())
    }

    /// Serves until `stop` is set or the warden is to seal, then finishes what runs, within bounds. `closed` is set
    /// for whoever works over the admin socket.
    pub async fn serve(
        &self,
        listener: tokio::net::TcpListener,
        doors: &Doors,
        options: &ServeOptions,
        stop: &AtomicBool,
        closed: &AtomicBool,
    ) {
        self.warden.begin_serving();
        let strangers = tokio::spawn(count_strangers(Arc::clone(&self.api)));
        let readers = Arc::clone(self.warden.precedence());
        let readers = tokio::spawn(async move { readers.tend().await });
        let newcomers =
            tokio::spawn(watch_models(Arc::clone(&self.warden), Arc::clone(&self.api), self.device.clone()));
        let stopped = async {
            while !stop.load(Ordering::Acquire) && !self.warden.is_sealing() {
                tokio::time::sleep(TICK).await;
            }
            // Work that came over the admin socket hears of it as early as the API's.
            closed.store(true, Ordering::Release);
            if stop.load(Ordering::Acquire) {
                doors.close_api();
            }
            self.api.stop_accepting();
        };
        let (tls, limits) = (self.tls.clone(), options.connections.clone());
        listen::serve(listener, tls, router(&self.api), limits, stopped, options.grace).await;
        newcomers.abort();
        strangers.abort();
        readers.abort();
        let api = Arc::clone(&self.api);
        // Joins the engines' threads, which takes as long as a step.
        let _ = tokio::task::spawn_blocking(move || api.stop_engines()).await;
        self.api.settle(SETTLING_MAX).await;
        note_strangers(&self.api).await;
    }
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

/// Serves what is approved, trained or imported while the daemon runs, and starts engines again that died.
async fn watch_models(warden: Arc<Warden>, api: Arc<Api>, device: Device) {
    let (mut seen, mut changes) = (None, warden.deployment_changes());
    loop {
        let since = Instant::now();
        while warden.deployment_changes() == changes && since.elapsed() < MODELS_WINDOW {
            tokio::time::sleep(TICK).await;
        }
        changes = warden.deployment_changes();
        let (warden, api, device) = (Arc::clone(&warden), Arc::clone(&api), device.clone());
        // A model that did not load is tried again when something changed, and not every time.
        let refreshing = tokio::task::spawn_blocking(move || -> Result<Vec<ServedModel>> {
            let (wanted, current) = (warden.served_models()?, api.models());
            if seen.as_ref() != Some(&wanted) || current.iter().any(|served| served.engine.has_died()) {
                // What no model stands for any more ends before the first new one is loaded, which takes its time.
                api.replace_models(models::still_named(&current, &wanted));
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
