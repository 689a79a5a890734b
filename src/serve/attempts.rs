//! How fast log-ins may be tried. Each try takes its turn in three lanes: that of its account from its network, that of
//! its account from everywhere, and that of its network; a lane's turns lie the further apart the more tries of it failed
//! in a row. Nobody is locked out: whoever logged in from a network before waits there for nobody else's failures.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::strangers::{network, pause};
use crate::seal::{Digest, sha256};

const PAUSE_MAX_SHARED: Duration = Duration::from_secs(2);
/// Of one account from one network.
const PAUSE_MAX_OWN: Duration = Duration::from_secs(10);
/// Whoever would have to wait longer is told to come back.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// A lane in which nobody tried for so long begins anew.
const FORGIVEN_AFTER: Duration = Duration::from_secs(15 * 60);
/// Lanes that are told apart; all others are one.
const LANES_MAX: usize = 8192;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Lane {
    /// Accounts by the hash of their name, whether there is one or not.
    Own(Digest, IpAddr),
    Account(Digest),
    Network(IpAddr),
    Rest,
}

#[derive(Clone, Copy, Debug)]
struct Turns {
    /// In a row, those under way among them: many at once are no way around the pause.
    failures: u32,
    next: Instant,
    last: Instant,
    /// Whether somebody logged in by it.
    welcome: bool,
}

#[derive(Debug, Default)]
pub struct Attempts(Mutex<HashMap<Lane, Turns>>);

/// A try that has its turn. It counts as failed until it is said to have succeeded.
#[derive(Debug)]
pub struct Attempt {
    /// Until its turn comes.
    pub wait: Duration,
    own: Lane,
    shared: Vec<Lane>,
}

impl Attempts {
    /// # Errors
    /// How long to wait before it makes sense to ask again.
    pub fn begin(&self, name: &str, from: Option<IpAddr>, now: Instant) -> Result<Attempt, Duration> {
        let account = sha256(name.as_bytes());
        let from = network(from.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
        let mut lanes = self.lanes();
        if lanes.len() >= LANES_MAX {
            lanes.retain(|_, turns| !turns.is_forgiven(now));
        }
        let is_full = lanes.len() >= LANES_MAX;
        let known = |lane: Lane| if is_full && !lanes.contains_key(&lane) { Lane::Rest } else { lane };
        let own = known(Lane::Own(account, from));
        let is_welcome = lanes.get(&own).is_some_and(|turns| turns.welcome);
        let shared = if is_welcome {
            Vec::new()
        } else {
            vec![known(Lane::Account(account)), known(Lane::Network(from))]
        };
        let all = || shared.iter().chain([&own]);
        let turn = all().filter_map(|lane| lanes.get(lane)).map(|turns| turns.next).max();
        let wait = turn.map_or(Duration::ZERO, |turn| turn.saturating_duration_since(now));
        if wait > WAIT_MAX {
            return Err(wait);
        }
        for lane in all() {
            let fresh = Turns { failures: 0, next: now, last: now, welcome: false };
            lanes.entry(*lane).or_insert(fresh).take(now, lane.pause_max());
        }
        Ok(Attempt { wait, own, shared })
    }

    /// What it was counted as is taken back; the account's own lane begins anew.
    pub fn succeeded(&self, attempt: &Attempt, now: Instant) {
        let mut lanes = self.lanes();
        for lane in &attempt.shared {
            if let Some(turns) = lanes.get_mut(lane) {
                turns.failures = turns.failures.saturating_sub(1);
            }
        }
        if let Some(turns) = lanes.get_mut(&attempt.own).filter(|_| attempt.own != Lane::Rest) {
            *turns = Turns { failures: 0, next: now, last: now, welcome: true };
        }
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<Lane, Turns>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
    fn pause_max(self) -> Duration {
        match self {
            Self::Own(..) => PAUSE_MAX_OWN,
            Self::Account(_) | Self::Network(_) | Self::Rest => PAUSE_MAX_SHARED,
        }
    }
}

impl Turns {
    fn take(&mut self, now: Instant, pause_max: Duration) {
        if self.is_forgiven(now) {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        self.next = self.next.max(now) + pause(self.failures, pause_max);
        self.last = now;
    }

    fn is_forgiven(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) >= FORGIVEN_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    /// Milliseconds that each of so many tries waits, all of them asked for at one moment.
    fn waits(attempts: &Attempts, name: &str, from: Option<IpAddr>, now: Instant, tries: usize) -> Vec<u128> {
        let wait = |_| attempts.begin(name, from, now).map_or(u128::MAX, |attempt| attempt.wait.as_millis());
        (0..tries).map(wait).collect()
    }

    #[test]
    fn tries_at_one_moment_take_their_turns_and_too_many_are_sent_away() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        let waits = waits(&attempts, "alice", address("10.0.0.1"), now, 14);
        // A pause behind the sixth, of 100 ms, and twice as long behind each further one.
        let expected = [0, 0, 0, 0, 0, 0, 100, 300, 700, 1500, 3100, 6300];
        assert_eq!(waits[..12], expected);
        assert_eq!(waits[12..], [u128::MAX; 2]);
    }

    #[test]
    fn whoever_logged_in_from_there_before_waits_for_nobody_else() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        let home = attempts.begin("alice", address("10.0.0.7"), now).unwrap();
        attempts.succeeded(&home, now);
        for stranger in 0..50u8 {
            for _ in 0..10 {
                let _ = attempts.begin("alice", Some(IpAddr::from([192, 168, 0, stranger])), now);
            }
        }
        assert_eq!(waits(&attempts, "alice", address("10.0.0.7"), now, 1), [0]);
        let elsewhere = waits(&attempts, "alice", address("10.0.0.8"), now, 1);
        assert!(elsewhere[0] > 0, "{elsewhere:?}");
    }

    #[test]
    fn one_network_that_tries_many_accounts_is_slowed_as_well() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        for number in 0..7 {
            let _ = attempts.begin(&format!("user{number}"), address("10.0.0.1"), now);
        }
        assert!(waits(&attempts, "user99", address("10.0.0.1"), now, 1)[0] > 0);
        assert_eq!(waits(&attempts, "user99", address("10.0.0.2"), now, 1), [0], "another's are its own");
        assert_eq!(waits(&attempts, "user99", address("10.0.0.1"), now + FORGIVEN_AFTER, 1), [0]);
    }

    #[test]
    fn a_success_takes_back_its_own_count_and_no_other() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        for _ in 0..30 {
            let attempt = attempts.begin("alice", address("10.0.0.1"), now).unwrap();
            attempts.succeeded(&attempt, now);
        }
        assert_eq!(waits(&attempts, "bob", address("10.0.0.1"), now, 1), [0]);
        // Somebody with an account of their own gains nothing for the next guess.
        let guesses = waits(&attempts, "bob", address("10.0.0.1"), now, 7);
        assert!(guesses.last().is_some_and(|wait| *wait > 0), "{guesses:?}");
        let attempt = attempts.begin("carol", address("10.0.0.1"), now).unwrap();
        attempts.succeeded(&attempt, now);
        assert!(waits(&attempts, "dave", address("10.0.0.1"), now, 1)[0] > 0);
    }

    #[test]
    fn more_lanes_than_are_told_apart_are_one() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        for number in 0..LANES_MAX as u32 {
            let _ = attempts.begin(&number.to_string(), Some(IpAddr::from(number.to_be_bytes())), now);
        }
        assert!(attempts.lanes().len() <= LANES_MAX + 3);
        let attempt = attempts.begin("new", address("192.0.2.1"), now).map(|attempt| attempt.own);
        assert!(!matches!(attempt, Ok(Lane::Own(..))), "{attempt:?}");
        let later = now + 2 * FORGIVEN_AFTER;
        assert_eq!(waits(&attempts, "new", address("192.0.2.1"), later, 1), [0]);
        assert!(attempts.lanes().len() < 10, "the forgiven were forgotten");
    }
}
