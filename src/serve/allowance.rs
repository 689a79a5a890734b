//! What one token may take of the appliance: requests and tokens a minute, answers at once, tokens an answer.
//! Kept in memory alone: a restart forgives. It bounds what a program does by mistake or with a stolen token;
//! what all may take together is in [`super::Limits`].

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    base::Id,
    work::{Caller, Scope},
};

const MINUTE: Duration = Duration::from_secs(60);
/// Tokens whose use is remembered; beyond it, those that are idle are forgotten.
const REMEMBERED_MAX: usize = 4096;

/// The bounds of one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    pub requests_a_minute: u64,
    /// Of prompts and answers together.
    pub tokens_a_minute: u64,
    pub answers_at_once: u64,
    /// The most that one answer may have; more that is asked for is refused.
    pub answer_tokens_max: u64,
}

impl Default for Allowance {
    fn default() -> Self {
        Self {
            requests_a_minute: 6_000,
            tokens_a_minute: 2_000_000,
            answers_at_once: 128,
            answer_tokens_max: 1 << 20,
        }
    }
}

impl Allowance {
    /// With the limits that a token has of its own.
    fn of(self, scope: &Scope) -> Self {
        Self {
            requests_a_minute: scope.requests_a_minute.unwrap_or(self.requests_a_minute),
            tokens_a_minute: scope.tokens_a_minute.unwrap_or(self.tokens_a_minute),
            answers_at_once: scope.answers_at_once.unwrap_or(self.answers_at_once),
            answer_tokens_max: scope.answer_tokens_max.unwrap_or(self.answer_tokens_max),
        }
    }
}

/// What every token has taken.
#[derive(Debug)]
pub struct Allowances {
    /// Of tokens that have no limits of their own.
    each: Allowance,
    used: Mutex<HashMap<Id, Used>>,
}

#[derive(Clone, Copy, Debug)]
struct Used {
    /// When the minute began.
    since: Instant,
    requests: u64,
    tokens: u64,
    running: u64,
}

/// Which bound is reached, and when to ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    pub what: &'static str,
    pub retry_after_s: u64,
}

impl Allowances {
    pub fn new(each: Allowance) -> Self {
        Self { each, used: Mutex::default() }
    }

    /// What this caller may take.
    pub fn of(&self, caller: &Caller) -> Allowance {
        self.each.of(&caller.scope)
    }

    /// Counts a request.
    ///
    /// # Errors
    /// The bound that the token has reached; the request is not counted then.
    pub fn admit(&self, caller: &Caller, now: Instant) -> Result<(), Exceeded> {
        let most = self.of(caller);
        let mut used = self.used();
        if used.len() >= REMEMBERED_MAX {
            used.retain(|_, used| used.running > 0 || now.duration_since(used.since) < MINUTE);
        }
        let used = current(&mut used, caller.token, now);
        let what = match () {
            () if used.requests >= most.requests_a_minute => "requests per minute",
            () if used.tokens >= most.tokens_a_minute => "tokens per minute",
            () => {
                used.requests += 1;
                return Ok(());
            }
        };
        let left = MINUTE.saturating_sub(now.duration_since(used.since));
        Err(Exceeded { what, retry_after_s: left.as_secs() + 1 })
    }

    /// A place for one answer, given back when it is dropped.
    ///
    /// # Errors
    /// As many as allowed are running.
    pub fn answer(self: &Arc<Self>, caller: &Caller, now: Instant) -> Result<Place, Exceeded> {
        let most = self.of(caller).answers_at_once;
        let mut used = self.used();
        let used = current(&mut used, caller.token, now);
        if used.running >= most {
            return Err(Exceeded { what: "answers at once", retry_after_s: 1 });
        }
        used.running += 1;
        Ok(Place { of: Arc::clone(self), token: caller.token })
    }

    fn used(&self) -> MutexGuard<'_, HashMap<Id, Used>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a token took in the minute that runs.
fn current(used: &mut HashMap<Id, Used>, token: Id, now: Instant) -> &mut Used {
    let fresh = Used { since: now, requests: 0, tokens: 0, running: 0 };
    let used = used.entry(token).or_insert(fresh);
    if now.duration_since(used.since) >= MINUTE {
        *used = Used { running: used.running, ..fresh };
    }
    used
}

/// The place of a running answer.
#[derive(Debug)]
pub struct Place {
    of: Arc<Allowances>,
    token: Id,
}

impl Place {
    /// Counts tokens that were read or written.
    pub fn spend(&self, tokens: u64) {
        if let Some(used) = self.of.used().get_mut(&self.token) {
            used.tokens += tokens;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(used) = self.of.used().get_mut(&self.token) {
            used.running -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{base::IdKind, work::Role};

    fn caller(number: u8) -> Caller {
        let token = Id::from_parts(IdKind::Token, 1, [number; 10]);
        Caller { token, user: None, role: Role::Service, scope: Arc::default(), from: None }
    }

    fn allowances() -> Arc<Allowances> {
        Arc::new(Allowances::new(Allowance {
            requests_a_minute: 3,
            tokens_a_minute: 100,
            answers_at_once: 2,
            answer_tokens_max: 10,
        }))
    }

    #[test]
    fn requests_are_counted_by_the_minute_and_by_the_token() {
        let (all, start) = (allowances(), Instant::now());
        (0..3).for_each(|_| all.admit(&caller(1), start).expect("within"));
        let late = start + Duration::from_secs(45);
        let exceeded = Exceeded { what: "requests per minute", retry_after_s: 16 };
        assert_eq!(all.admit(&caller(1), late), Err(exceeded));
        assert_eq!(all.admit(&caller(2), late), Ok(()), "another's are its own");
        assert_eq!(all.admit(&caller(1), start + MINUTE), Ok(()));
    }

    #[test]
    fn a_tokens_own_limits_stand_in_the_place_of_everybodys() {
        let (all, start) = (allowances(), Instant::now());
        let scope = Scope { requests_a_minute: Some(1), answers_at_once: Some(3), ..Scope::default() };
        let own = Caller { scope: Arc::new(scope), ..caller(1) };
        all.admit(&own, start).expect("within");
        assert_eq!(all.admit(&own, start).unwrap_err().what, "requests per minute");
        let places = [(); 3].map(|()| all.answer(&own, start).expect("a place"));
        assert_eq!(all.answer(&own, start).unwrap_err().what, "answers at once");
        assert_eq!((all.of(&own).answer_tokens_max, places.len()), (10, 3));
    }

    #[test]
    fn tokens_are_counted_as_they_are_spent() {
        let (all, start) = (allowances(), Instant::now());
        all.admit(&caller(1), start).expect("within");
        let place = all.answer(&caller(1), start).expect("a place");
        place.spend(99);
        all.admit(&caller(1), start).expect("one is left");
        place.spend(1);
        assert_eq!(all.admit(&caller(1), start).unwrap_err().what, "tokens per minute");
        assert_eq!(all.admit(&caller(1), start + MINUTE), Ok(()));
    }

    #[test]
    fn a_place_comes_back_however_an_answer_ends_and_over_the_minute() {
        let (all, start) = (allowances(), Instant::now());
        let first = all.answer(&caller(1), start).expect("a place");
        let second = all.answer(&caller(1), start + 2 * MINUTE).expect("a place");
        assert_eq!(all.answer(&caller(1), start + 2 * MINUTE).unwrap_err().what, "answers at once");
        drop(first);
        let third = all.answer(&caller(1), start).expect("came back");
        drop((second, third));
        assert_eq!(all.used()[&caller(1).token].running, 0);
    }
}
