//! What every handler works with: the models that are served, the records, the numbers and the limits.

use std::{
    net::IpAddr,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

use super::{
    allowance::{Allowance, Allowances},
    attempts::Attempts,
    error::{ApiError, ApiResult},
    managing,
    metrics::Metrics,
    records::{ModelFacts, Noted, Records},
    routes::ROUTES,
    sessions,
    strangers::{Failures, Strangers},
};
use crate::{
    base::{Error, ErrorKind, Result},
    infer::{Engine, Prompt},
    text::ChatTemplate,
    work::{Precedence, policy::Caller},
};

/// The bounds of what one client, or all of them, can take.
#[derive(Clone, Debug)]
pub struct Limits {
    pub body_bytes_max: usize,
    /// A body that is larger is read and thrown away up to here, so that its sender hears the answer.
    pub drained_bytes_max: usize,
    pub body_time_max: Duration,
    /// Answers being given or waiting for their turn.
    pub answers_max: usize,
    /// How long a log-in holds.
    pub session_time: Duration,
    /// Of one token.
    pub each: Allowance,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: 4 << 20,
            drained_bytes_max: 512 << 20,
            body_time_max: Duration::from_secs(60),
            answers_max: 256,
            session_time: Duration::from_secs(12 * 60 * 60),
            each: Allowance::default(),
        }
    }
}

/// A model in service.
pub struct Served {
    pub facts: Arc<ModelFacts>,
    /// Shared by the names that one model is served under.
    pub engine: Arc<Engine>,
    template: Arc<ChatTemplate>,
    longest_piece_bytes: usize,
}

impl Served {
    pub fn new(facts: ModelFacts, engine: Engine, template: ChatTemplate) -> Self {
        let longest_piece_bytes = engine.tokenizer().summary().longest_piece_bytes;
        Self {
            facts: Arc::new(facts),
            engine: Arc::new(engine),
            template: Arc::new(template),
            longest_piece_bytes,
        }
    }

    /// The same model, by another name or deployment.
    pub fn with_facts(&self, facts: ModelFacts) -> Self {
        Self {
            facts: Arc::new(facts),
            engine: Arc::clone(&self.engine),
            template: Arc::clone(&self.template),
            longest_piece_bytes: self.longest_piece_bytes,
        }
    }

    /// Whether a prompt cannot fit the context, as far as its length alone tells.
    pub fn is_hopeless(&self, prompt: &Prompt) -> bool {
        prompt.tokens_at_least(self.longest_piece_bytes) >= self.engine.context_tokens()
    }

    /// # Errors
    /// `Usage` for a conversation that the template refuses.
    pub fn encode(&self, prompt: &Prompt) -> Result<Vec<u32>> {
        let encoded = prompt.encode(self.engine.tokenizer(), &self.template);
        encoded.map_err(|error| error.with_kind(ErrorKind::Usage))
    }
}

pub struct Api {
    pub records: Arc<dyn Records>,
    models: RwLock<Vec<Arc<Served>>>,
    pub metrics: Metrics,
    pub limits: Limits,
    /// Answers go before documents that are read beside them.
    pub precedence: Arc<Precedence>,
    /// One permit an answer, kept until its outcome is recorded.
    pub answers: Arc<Semaphore>,
    pub allowances: Arc<Allowances>,
    /// Set when a record could not be written, cleared when one could again.
    unrecorded: AtomicBool,
    stopping: AtomicBool,
    /// Requests without a valid token.
    strangers: Strangers,
    /// Of logging in.
    pub attempts: Attempts,
    /// One permit a password that is being tried.
    pub trying: Arc<Semaphore>,
    /// One permit a request of the management API that is being worked on.
    pub managing: Arc<Semaphore>,
    /// Counted until the audit log has them.
    failed_log_ins: AtomicU64,
    /// The same of looks at health and metrics.
    probes: AtomicU64,
    /// The same of requests beyond what their token may take.
    limited: AtomicU64,
}

impl Api {
    pub fn new(
        records: Arc<dyn Records>,
        models: Vec<Served>,
        limits: Limits,
        precedence: Arc<Precedence>,
    ) -> Self {
        Self {
            records,
            models: RwLock::new(models.into_iter().map(Arc::new).collect()),
            metrics: Metrics::new(ROUTES.iter().map(|route| route.label())),
            precedence,
            answers: Arc::new(Semaphore::new(limits.answers_max)),
            allowances: Arc::new(Allowances::new(limits.each)),
            limits,
            limited: AtomicU64::new(0),
            unrecorded: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            strangers: Strangers::default(),
            attempts: Attempts::default(),
            trying: Arc::new(Semaphore::new(sessions::TRIED_AT_ONCE)),
            managing: Arc::new(Semaphore::new(managing::AT_ONCE)),
            failed_log_ins: AtomicU64::new(0),
            probes: AtomicU64::new(0),
        }
    }

    pub fn models(&self) -> Vec<Arc<Served>> {
        self.models.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The models that a caller's token may ask.
    pub fn models_of(&self, caller: &Caller) -> Vec<Arc<Served>> {
        let mut models = self.models();
        models.retain(|served| caller.scope.allows_model(&served.facts.name));
        models
    }

    /// # Errors
    /// 404 for one that is not there, and for one that is not there for this caller.
    pub fn model(&self, caller: &Caller, name: &str) -> ApiResult<Arc<Served>> {
        let served = self.models_of(caller).into_iter().find(|served| served.facts.name == name);
        served.ok_or_else(|| ApiError::model_not_found(name))
    }

    /// Serves `models` from now on. Answers that one of the former is giving are finished by it.
    pub fn replace_models(&self, models: Vec<Arc<Served>>) {
        *self.models.write().unwrap_or_else(PoisonError::into_inner) = models;
    }

    /// Asks the records away from the asynchronous threads.
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&dyn Records) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let records = Arc::clone(&self.records);
        tokio::task::spawn_blocking(move || question(&*records))
            .await
            .unwrap_or_else(|_| Err(Error::failed("a record's thread ended before its work")))
    }

    /// Remembers whether records can be written: while not, nothing is served.
    pub fn recorded<T>(&self, outcome: Result<T>) -> ApiResult<T> {
        self.unrecorded.store(outcome.is_err(), Ordering::Release);
        outcome.map_err(|error| ApiError::unrecorded(&error))
    }

    /// Counts a request without a valid token, and makes it wait where others came before it.
    pub async fn slow_stranger(&self, from: Option<IpAddr>) {
        self.metrics.unauthenticated.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(self.strangers.count(from, Instant::now())).await;
    }

    pub fn count_failed_log_in(&self) {
        self.failed_log_ins.fetch_add(1, Ordering::Relaxed);
    }

    pub fn take_strangers(&self) -> Failures {
        Failures { log_ins: self.failed_log_ins.swap(0, Ordering::Relaxed), ..self.strangers.take() }
    }

    pub fn count_probe(&self) {
        self.probes.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_limited(&self) {
        self.limited.fetch_add(1, Ordering::Relaxed);
    }

    pub fn take_limited(&self) -> u64 {
        self.limited.swap(0, Ordering::Relaxed)
    }

    pub fn take_probes(&self) -> u64 {
        self.probes.swap(0, Ordering::Relaxed)
    }

    /// Writes down what becomes of a request.
    ///
    /// # Errors
    /// 503 where that cannot be written down: then it is not done either.
    pub async fn note(&self, caller: Caller, noted: Noted) -> ApiResult<()> {
        let outcome = self.ask(move |records| records.note(&caller, &noted)).await;
        self.recorded(outcome)
    }

    pub fn stop_accepting(&self) {
        self.stopping.store(true, Ordering::Release);
        for served in self.models() {
            served.engine.stop_accepting();
        }
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Ends the engines; what they are still at is cancelled.
    pub fn stop_engines(&self) {
        for served in self.models() {
            served.engine.shutdown(Duration::ZERO);
        }
    }

    /// Waits until every answer's outcome is on record, but no longer than `within`.
    pub async fn settle(&self, within: Duration) {
        let all = u32::try_from(self.limits.answers_max).unwrap_or(u32::MAX);
        if tokio::time::timeout(within, self.answers.acquire_many(all)).await.is_err() {
            tracing::error!("some answers could not be recorded before the time to stop was up");
        }
    }

    /// Why no request for text would be answered now; None where one would.
    pub fn unreadiness(&self) -> Option<&'static str> {
        if self.is_stopping() {
            Some("stopping")
        } else if self.unrecorded.load(Ordering::Acquire) {
            Some("records cannot be written")
        } else if self.models().is_empty() {
            Some("no model is served")
        } else if !self.models().iter().all(|served| served.engine.is_ready()) {
            Some("an engine has stopped")
        } else {
            None
        }
    }
}
