//! A data directory that is held and not open. People bring what unseals it, alone or share by share over hours, and
//! the root key comes of it or a clear refusal does. Nothing given is lost by somebody's mistake; secrets that do not
//! open make the next attempt wait; and what was tried stands in the audit log as soon as that can be written.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    client::Site,
    doors::Doors,
    lock::Lock,
    policy::Actor,
    question::{Sealing, SecretKind},
    seal_mark,
    warden::{Warden, hold},
};
use crate::{
    auditlog::{Entry, Outcome},
    base::{Error, ErrorKind, Monitor, Result},
    seal::{Secret, Share, ShareSet, join_shares},
    vault::{RootKey, UnsealedBy, Unsealer, Vault},
};

/// After the first secret that does not open; each further one doubles it.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
/// Somebody who comes with the right secret waits no longer than this for those who guessed.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How soon somebody who waits is let go when the daemon stops.
const TICK: Duration = Duration::from_millis(50);
/// Attempts that are told one by one; of those beyond, the number.
const ATTEMPTS_TOLD_MAX: usize = 256;

/// A held data directory.
pub struct Sealed {
    site: Site,
    lock: Arc<Lock>,
    /// Secrets are tried one after the other: many at once would get around the pause.
    trying: Mutex<()>,
    given: Mutex<Given>,
}

#[derive(Default)]
struct Given {
    shares: Vec<Share>,
    failures: u32,
    /// No secret is tried before.
    not_before: Option<Instant>,
    /// For the audit log.
    attempts: Vec<Entry>,
    attempts_untold: u64,
}

impl Sealed {
    /// Takes hold of a data directory, and opens nothing.
    ///
    /// # Errors
    /// `NotFound` where there is none, `Unavailable` where another process holds it, `Sealed` where that is a
    /// sealed daemon.
    pub fn hold(site: &Site) -> Result<Self> {
        let data_dir = &site.data_dir;
        if !Vault::exists(data_dir) {
            return Err(Error::not_found(format!("there is no installation in {}", data_dir.display()))
                .remedy("make one with `cloister init`, or name the right place with --data-dir"));
        }
        Ok(Self::of(site, hold(data_dir)?))
    }

    /// Goes on with what an earlier life of this process held.
    ///
    /// # Errors
    /// `Usage` where there was none.
    pub fn handed_over(site: &Site) -> Result<(Self, Doors)> {
        let (lock, doors) = Doors::handed_over(&site.data_dir)?;
        Ok((Self::of(site, lock), doors))
    }

    fn of(site: &Site, lock: Arc<Lock>) -> Self {
        Self { site: site.clone(), lock, trying: Mutex::default(), given: Mutex::default() }
    }

    /// What a daemon needs to be spoken to.
    pub fn doors(&self, listen: std::net::SocketAddr) -> Result<Doors> {
        Doors::open(Arc::clone(&self.lock), &self.site.data_dir, listen)
    }

    /// Why nothing here unseals it; None where something might.
    pub fn out_of_reach(&self) -> Result<Option<Error>> {
        if seal_mark::is_set(&self.site.data_dir) {
            return Ok(Some(seal_mark::refusal()));
        }
        Vault::out_of_reach(&self.site.data_dir, self.unsealer_at_hand().as_ref())
    }

    /// Opens it with what the site names, or with the key file that is remembered.
    ///
    /// # Errors
    /// `Sealed` where that does not open it, or `cloister seal` was the last word; `Integrity` where its parts do not
    /// belong together.
    pub fn open_with_what_is_at_hand(&self) -> Result<Warden> {
        if seal_mark::is_set(&self.site.data_dir) {
            return Err(seal_mark::refusal());
        }
        self.open(Vault::unseal(&self.site.data_dir, self.unsealer_at_hand().as_ref())?)
    }

    fn unsealer_at_hand(&self) -> Option<Unsealer> {
        self.site.unsealer.as_ref().map(Into::into)
    }

    /// Opens it, and records who brought what.
    ///
    /// # Errors
    /// `Integrity` where its parts do not belong together, `Unavailable` where the audit log cannot be written.
    pub fn open(&self, root: RootKey) -> Result<Warden> {
        let vault = Vault::open(&self.site.data_dir, root)?;
        let warden = Warden::assemble(&self.site, Arc::clone(&self.lock), vault)?;
        let mut given = lock(&self.given);
        for attempt in &given.attempts {
            warden.audit(attempt.clone())?;
        }
        given.attempts.clear();
        let untold = std::mem::take(&mut given.attempts_untold);
        if untold > 0 {
            let more = Entry::new("cloister", "unseal", Outcome::Failed).detail("attempts_untold", untold);
            warden.audit(more)?;
        }
        Ok(warden)
    }

    /// From now on it may be opened with what is at hand again. For whoever has seen that it opens.
    pub fn lift(&self) -> Result<()> {
        seal_mark::lift(&self.site.data_dir)
    }

    pub fn state(&self) -> Result<Sealing> {
        let by = Vault::unsealed_by(&self.site.data_dir)?;
        Ok(Sealing {
            unsealed_by: by.iter().map(UnsealedBy::to_string).collect(),
            shares_given: lock(&self.given).shares.len() as u8,
            shares_needed: sets(&by).next().map(|set| set.threshold),
        })
    }

    /// Takes one secret that the user `uid` brought. None: it is a share, and it takes more of them.
    ///
    /// # Errors
    /// `Sealed` where it does not open, `Usage` where it cannot be used, `Interrupted` where somebody who had to
    /// wait went away.
    pub fn bring(
        &self,
        uid: u32,
        kind: SecretKind,
        secret: Secret,
        monitor: &dyn Monitor,
    ) -> Result<Option<RootKey>> {
        let _one_at_a_time = lock(&self.trying);
        self.wait_for_the_pause(monitor)?;
        let actor = Actor::Local { uid }.to_string();
        let mut entry = Entry::new(actor, "unseal", Outcome::Done).detail("with", kind.to_string());
        let outcome = self.attempt(kind, secret, &mut entry);
        if let Err(error) = &outcome {
            entry.outcome = Outcome::Failed;
            entry = entry.detail("error", format!("{:?}", error.kind()).to_lowercase());
        }
        let mut given = lock(&self.given);
        given.remember(entry);
        match &outcome {
            Ok(Some(_)) => given.failures = 0,
            Err(error) if error.kind() == ErrorKind::Sealed => given.slow_down(),
            Ok(None) | Err(_) => {}
        }
        outcome
    }

    /// Forgets the shares that were given so far.
    pub fn forget_shares(&self, uid: u32) {
        let mut given = lock(&self.given);
        given.shares.clear();
        given.remember(Entry::new(Actor::Local { uid }.to_string(), "unseal.reset", Outcome::Done));
    }

    fn wait_for_the_pause(&self, monitor: &dyn Monitor) -> Result<()> {
        let left = || lock(&self.given).not_before?.checked_duration_since(Instant::now());
        let mut said = false;
        while let Some(left) = left() {
            if monitor.stop_requested() {
                return Err(Error::interrupted("stopped before the secret was tried"));
            }
            if !said {
                let seconds = left.as_secs() + 1;
                monitor.note(&format!("a secret before this one did not open: waiting {seconds} s"));
                said = true;
            }
            std::thread::sleep(left.min(TICK));
        }
        Ok(())
    }

    fn attempt(&self, kind: SecretKind, secret: Secret, entry: &mut Entry) -> Result<Option<RootKey>> {
        let unsealer = match kind {
            SecretKind::Passphrase => Unsealer::Passphrase(secret),
            SecretKind::KeyFile => Unsealer::Key(secret),
            SecretKind::Share => {
                let share = Share::parse(secret.danger_expose())?;
                entry.detail.insert("share".into(), share.number().into());
                match self.add(share)? {
                    Some(shares) => Unsealer::Shares { set: shares[0].set(), key: join_shares(&shares)? },
                    None => return Ok(None),
                }
            }
        };
        let opened = Vault::unseal(&self.site.data_dir, Some(&unsealer));
        match (&unsealer, opened) {
            (Unsealer::Shares { set, .. }, Err(error)) => {
                Err(error.context(format!("all {} shares are forgotten, to be given anew", set.threshold)))
            }
            (_, opened) => opened.map(Some),
        }
    }

    /// Puts a share to the others; all of them once they are enough.
    fn add(&self, share: Share) -> Result<Option<Vec<Share>>> {
        let by = Vault::unsealed_by(&self.site.data_dir)?;
        let mut given = lock(&self.given);
        let kept = format!("the shares given before it are kept: {}", given.shares.len());
        if !sets(&by).any(|set| set == share.set()) {
            let known: Vec<String> = by.iter().map(UnsealedBy::to_string).collect();
            let why = match sets(&by).next() {
                Some(_) => "this share is of another set than this vault's".to_owned(),
                None => format!("no share unseals this vault: it is unsealed by {}", known.join(" or ")),
            };
            return Err(Error::sealed(why).remedy(format!(
                "a share from before a rekey, or of another installation, opens nothing here; {kept}"
            )));
        }
        if given.shares.iter().any(|other| other.number() == share.number()) {
            let why = format!("share {} was given already", share.number());
            return Err(Error::usage(why).remedy(format!("give another one; {kept}")));
        }
        let needed = usize::from(share.set().threshold);
        given.shares.push(share);
        Ok((given.shares.len() >= needed).then(|| std::mem::take(&mut given.shares)))
    }
}

impl Given {
    fn remember(&mut self, attempt: Entry) {
        if self.attempts.len() < ATTEMPTS_TOLD_MAX {
            self.attempts.push(attempt);
        } else {
            self.attempts_untold += 1;
        }
    }

    fn slow_down(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(Instant::now() + pause(self.failures));
    }
}

/// How long the next attempt waits after so many that failed.
fn pause(failures: u32) -> Duration {
    let doubled = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    PAUSE_FIRST.saturating_mul(doubled).min(PAUSE_MAX)
}

fn sets(by: &[UnsealedBy]) -> impl Iterator<Item = ShareSet> {
    by.iter().filter_map(|by| match by {
        UnsealedBy::Shares(set) => Some(*set),
        UnsealedBy::KeyFile(_) | UnsealedBy::Passphrase => None,
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        auditlog,
        base::Silent,
        device::Choice,
        seal::{Key, split_key},
    };

    /// An installation under two of three shares, closed again, and the shares as they were shown.
    fn installed(directory: &std::path::Path) -> (Site, Vec<Vec<u8>>) {
        let data_dir = directory.to_owned();
        let site = Site { data_dir, unsealer: None, device: Choice::Cpu, threads: Some(1) };
        let key = Key::generate().expect("a key");
        let shares = split_key(&key, 3, 2).expect("shares");
        let texts = shares.iter().map(|share| share.danger_to_text().danger_expose().to_vec()).collect();
        Warden::init_under(&site, &Unsealer::Shares { set: shares[0].set(), key }).expect("an installation");
        (site, texts)
    }

    fn give(sealed: &Sealed, share: &[u8]) -> Result<Option<RootKey>> {
        sealed.bring(7, SecretKind::Share, Secret::new(share.to_vec()), &Silent)
    }

    fn refused(outcome: Result<Option<RootKey>>, kind: ErrorKind, words: &str) {
        let error = outcome.map(|root| root.is_some()).expect_err(words);
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }

    #[test]
    fn shares_gather_and_no_mistake_loses_them() {
        let (ours, theirs) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("two"));
        let (site, shares) = installed(ours.path());
        let (_, others) = installed(theirs.path());
        let sealed = Sealed::hold(&site).expect("held");
        assert!(sealed.out_of_reach().expect("reads").is_some());
        assert!(give(&sealed, &shares[2]).expect("taken").is_none());
        refused(give(&sealed, &shares[2]), ErrorKind::Usage, "share 3 was given already");
        refused(give(&sealed, b"no share"), ErrorKind::Usage, "not a share");
        refused(give(&sealed, &others[0]), ErrorKind::Sealed, "of another set");
        let state = sealed.state().expect("reads");
        assert_eq!((state.shares_given, state.shares_needed), (1, Some(2)));
        let root = give(&sealed, &shares[0]).expect("taken").expect("enough");
        let warden = sealed.open(root).expect("opens");
        let entries = auditlog::read(&warden.data_dir().join("audit"), 0).expect("a log");
        let told: Vec<String> = entries
            .map(|entry| entry.expect("an entry").1)
            .filter(|entry| entry.action == "unseal" && entry.actor == "local:7")
            .map(|entry| {
                format!("{:?} {:?}", entry.outcome, entry.detail.get("share").and_then(|n| n.as_u64()))
            })
            .collect();
        let expected = ["Done Some(3)", "Failed Some(3)", "Failed None", "Failed Some(1)", "Done Some(1)"];
        assert_eq!(told, expected);
    }

    #[test]
    fn shares_that_open_nothing_are_forgotten_and_so_are_all_when_asked() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (site, shares) = installed(directory.path());
        let sealed = Sealed::hold(&site).expect("held");
        // A root file that names another set: its shares are the right ones, and what they give is the wrong key.
        let root_file = directory.path().join("keys/root.json");
        let before = std::fs::read_to_string(&root_file).expect("reads");
        let other = tempfile::tempdir().expect("temporary directory");
        let (_, others) = installed(other.path());
        let set = |text: &str| -> String {
            let file: serde_json::Value = serde_json::from_str(text).expect("JSON");
            file["unsealers"][0]["set"].as_str().expect("a set").to_owned()
        };
        let other_set = set(&std::fs::read_to_string(other.path().join("keys/root.json")).expect("reads"));
        std::fs::write(&root_file, before.replace(&set(&before), &other_set)).expect("writes");
        assert!(give(&sealed, &others[0]).expect("taken").is_none());
        refused(give(&sealed, &others[1]), ErrorKind::Sealed, "forgotten");
        std::fs::write(&root_file, before).expect("writes");
        assert_eq!(sealed.state().expect("reads").shares_given, 0);
        assert!(give(&sealed, &shares[0]).expect("taken").is_none());
        sealed.forget_shares(7);
        assert_eq!(sealed.state().expect("reads").shares_given, 0);
        assert!(give(&sealed, &shares[1]).expect("taken").is_none());
        assert!(give(&sealed, &shares[0]).expect("taken").is_some());
    }

    #[test]
    fn guesses_are_slowed_within_bounds() {
        let seconds: Vec<u64> = (1..=8).map(|failures| pause(failures).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(pause(u32::MAX), PAUSE_MAX);
        let mut given = Given::default();
        (0..2 * ATTEMPTS_TOLD_MAX).for_each(|_| given.remember(Entry::new("a", "unseal", Outcome::Failed)));
        assert_eq!(
            (given.attempts.len(), given.attempts_untold),
            (ATTEMPTS_TOLD_MAX, ATTEMPTS_TOLD_MAX as u64)
        );
    }
}
