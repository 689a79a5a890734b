//! The warden: the one process that holds a data directory. It opens lock, vault, database and audit log
//! together, and does what it is asked between a durable intent and a durable outcome.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

use super::{
    client::{self, Site},
    jobs::Jobs,
    lock::{self, Attempt, Lock},
    policy::{Action, Actor, Caller},
    precedence::Precedence,
    question::DaemonState,
    reconcile,
    request::Request,
    requests,
    sealed::Sealed,
    witness::Witness,
};
use crate::{
    auditlog::{AuditLog, Entry, Outcome, open_detail},
    base::{Error, ErrorKind, Id, Monitor, Result, hex},
    device::Choice,
    seal::{self, Key, Secret, Signer},
    store::Store,
    vault::{Depot, Purpose, Vault},
};

/// Where `quickstart` puts its key, in the data directory.
const TRIAL_KEY: &str = "trial-root.key";

/// An open installation.
pub struct Warden {
    pub(super) data_dir: PathBuf,
    pub(super) vault: Vault,
    pub(super) store: Store,
    pub(super) log: AuditLog,
    pub(super) jobs: Jobs,
    /// What computes.
    pub(super) device: Choice,
    /// Threads that compute; None takes every core.
    pub(super) threads: Option<usize>,
    /// For the HMACs of API tokens, the newest first: a token is known by the one that it was made under.
    pub(super) tokens_keys: RwLock<Vec<Key>>,
    /// When tokens were last used, until that is written down.
    pub(super) tokens_used: Mutex<BTreeMap<Id, u64>>,
    /// Seals personal details of audit entries, and keys the hashes of prompts and answers there.
    details_key: Key,
    signer: Signer,
    pub(super) witness: Mutex<Witness>,
    /// What opening it found out of order.
    pub(super) notices: Vec<String>,
    /// Moves whenever what is served by approval does.
    pub(super) deployment_changes: AtomicU64,
    /// Set while somebody is answered beside the work.
    serving: AtomicBool,
    pub(super) precedence: Arc<Precedence>,
    /// Set by a request to seal.
    pub(super) sealing: AtomicBool,
    /// Let go of last.
    pub(super) lock: Arc<Lock>,
}

impl Warden {
    /// Becomes the warden of a data directory.
    ///
    /// # Errors
    /// `NotFound` where there is none, `Unavailable` where another process holds it, `Sealed` where the secret
    /// does not open it, `Integrity` where its parts do not belong together.
    pub fn open(site: &Site) -> Result<Self> {
        Sealed::hold(site)?.open_with_what_is_at_hand()
    }

    /// Opens the rest around an open vault, and puts in order what an earlier process left.
    pub(super) fn assemble(site: &Site, lock: Arc<Lock>, vault: Vault) -> Result<Self> {
        let path = site.data_dir.join("cloister.db");
        let column_keys = vault.purpose_keys(Purpose::Columns)?;
        // Entries of the log are never written again: what is sealed in them stays under the first version.
        let first_columns_key =
            column_keys.last().ok_or_else(|| Error::integrity("the keyring has no key for the database"))?;
        // A vault that never committed anything was cut off while it was made, before or in its database.
        let store = if vault.root().epoch <= 1 && !Store::is_made(&path) {
            Store::create(&path, vault.install(), &column_keys, now_ms())?
        } else {
            Store::open(&path, vault.install(), &column_keys)?
        };
        let witness = String::from_utf8(vault.witness()).unwrap_or_default();
        let witness = Some(witness.as_str()).filter(|witness| !witness.is_empty());
        let audit_dir = site.data_dir.join("audit");
        let log = AuditLog::open(&audit_dir, vault.install(), vault.signer(Purpose::Audit)?, witness)?;
        let witness = Mutex::new(Witness::find(&log, &audit_dir, &vault.root())?);
        let mut warden = Self {
            data_dir: site.data_dir.clone(),
            device: site.device,
            threads: site.threads,
            tokens_keys: RwLock::new(vault.purpose_keys(Purpose::Tokens)?),
            tokens_used: Mutex::default(),
            details_key: first_columns_key.derive("audit details", b"")?,
            signer: vault.signer(Purpose::Signing)?,
            witness,
            vault,
            store,
            log,
            jobs: Jobs::default(),
            notices: Vec::new(),
            deployment_changes: AtomicU64::new(0),
            serving: AtomicBool::new(false),
            precedence: Arc::default(),
            sealing: AtomicBool::new(false),
            lock,
        };
        warden.notices = reconcile::run(&warden)?;
        Ok(warden)
    }

    /// Does what is asked, if the asker may: an intent is durable before, an outcome after.
    ///
    /// # Errors
    /// `Denied` where the policy does not grant it, `Unavailable` where the audit log cannot be written, and
    /// whatever the request itself fails with.
    pub fn execute(&self, actor: Actor, request: Request, monitor: &dyn Monitor) -> Result<Value> {
        self.execute_with(actor, request, &Secret::new(Vec::new()), monitor)
    }

    /// As [`Self::execute`], with the secret that came with the request.
    pub fn execute_with(
        &self,
        actor: Actor,
        request: Request,
        secret: &Secret,
        monitor: &dyn Monitor,
    ) -> Result<Value> {
        let (action, object) = (request.action(), request.object());
        if let Err(denied) = actor.may_ask(request.kind()) {
            self.record(&actor, action, object, Outcome::Denied, &[])?;
            return Err(denied);
        }
        self.record(&actor, action, object, Outcome::Intent, &requests::about(self, &request))?;
        let performed = requests::perform(self, &actor, request, secret, monitor);
        match performed {
            Ok(done) if done.logged => Ok(done.answer),
            Ok(done) => {
                let object = done.object.or(object);
                self.record(&actor, action, object, Outcome::Done, &done.detail)
                    .map_err(|error| error.context("it was done, and that could not be recorded"))?;
                Ok(done.answer)
            }
            Err(error) => {
                self.record_failure(&actor, action, object, &error);
                Err(error)
            }
        }
    }

    /// The outcome of what had an intent. The failure itself is what the asker must hear, whether or not the log takes it.
    pub(super) fn record_failure(&self, actor: &Actor, action: Action, object: Option<Id>, error: &Error) {
        let outcome = match error.kind() {
            ErrorKind::Denied => Outcome::Denied,
            _ => Outcome::Failed,
        };
        let kind = format!("{:?}", error.kind()).to_lowercase();
        let _ = self.record(actor, action, object, outcome, &[("error", kind.into())]);
    }

    pub(super) fn record(
        &self,
        actor: &Actor,
        action: Action,
        object: Option<Id>,
        outcome: Outcome,
        detail: &[(&str, Value)],
    ) -> Result<u64> {
        let mut entry = Entry::new(actor.to_string(), action.as_str(), outcome);
        entry.object = object;
        entry.detail = detail.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        if let Actor::Remote(caller) = actor {
            entry = self.about(entry, caller)?;
        }
        self.audit(entry)
    }

    /// An entry with what is known of a caller: role, user, and sealed, since it is personal, from where.
    pub fn about(&self, entry: Entry, caller: &Caller) -> Result<Entry> {
        let mut entry = entry.detail("role", caller.role.as_str());
        if let Some(user) = caller.user {
            entry = entry.detail("user", user.to_string());
        }
        match caller.from {
            Some(from) => self.with_sealed(entry, "from", &from.to_string()),
            None => Ok(entry),
        }
    }

    /// An entry with a personal detail, sealed.
    pub fn with_sealed(&self, entry: Entry, name: &str, text: &str) -> Result<Entry> {
        entry.sealed(name, &self.details_key, text)
    }

    /// What an entry holds of a text: whoever has the text and this key can show that it was this one, and
    /// nobody can guess it from the log.
    pub fn text_mac(&self, text: &str) -> String {
        hex(&seal::hmac(&self.details_key, text.as_bytes()))
    }

    /// A detail as an auditor reads it: sealed ones are opened.
    pub(super) fn detail_text(&self, entry: &Entry, name: &str) -> String {
        let Some(value) = entry.detail.get(name) else { return String::new() };
        if value.get("sealed").is_some() {
            let opened = open_detail(entry, name, &self.details_key);
            return opened.unwrap_or_else(|_| "(sealed)".into());
        }
        value.as_str().map_or_else(|| value.to_string(), str::to_owned)
    }

    /// Writes an entry of the audit log, durable on return.
    pub fn audit(&self, entry: Entry) -> Result<u64> {
        self.log.append(entry).map_err(|error| {
            error
                .with_kind(ErrorKind::Unavailable)
                .context("the audit log cannot be written, and without it nothing is done")
        })
    }

    /// From now on somebody is answered beside the work.
    pub fn begin_serving(&self) {
        self.serving.store(true, Ordering::Release);
    }

    /// Who goes first where answers and documents meet.
    pub fn precedence(&self) -> &Arc<Precedence> {
        &self.precedence
    }

    /// Documents that are read at a time. Readers yield to everybody, and yet a kernel that finds no core idle may let whoever is
    /// answered wait for its next tick: one core is left to them.
    pub(super) fn readers(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let all = self.threads.unwrap_or(cores);
        if self.serving.load(Ordering::Acquire) { all.min(cores - 1).max(1) } else { all }
    }

    /// Whether the root key is a trial's, lying beside the data that it protects.
    pub fn has_trial_key(&self) -> bool {
        self.data_dir.join(TRIAL_KEY).exists()
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    pub fn install(&self) -> Id {
        self.vault.install()
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn depot(&self) -> &dyn Depot {
        &self.vault
    }

    /// Signs receipts.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// A key for one purpose of the server: "tls".
    pub fn purpose_key(&self, purpose: &str) -> Result<Key> {
        self.vault.purpose_key(Purpose::Identity)?.derive(purpose, b"")
    }

    /// What opening the data directory found out of order or unwise.
    pub fn notices(&self) -> impl Iterator<Item = &str> {
        self.store.warnings().iter().chain(&self.notices).map(String::as_str)
    }

    pub(super) fn now_ms(&self) -> u64 {
        now_ms()
    }
}

/// Takes the lock, or says who has it.
pub(super) fn hold(data_dir: &Path) -> Result<Arc<Lock>> {
    match lock::try_lock(data_dir)? {
        Attempt::Held(lock) => Ok(Arc::new(lock)),
        Attempt::Taken { pid } => match client::state(data_dir) {
            Ok(Some(DaemonState::Sealed(sealing))) => Err(sealing.refusal()),
            _ => Err(lock::taken(data_dir, pid)),
        },
    }
}

pub(super) fn now_ms() -> u64 {
    // A clock before 1970 says nothing better than its own zero.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_millis() as u64)
}
