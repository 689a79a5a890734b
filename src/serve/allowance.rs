//! What one token may take of the appliance: requests and tokens a minute, answers at once, tokens an answer.
//! Kept in memory alone: a restart forgives. It bounds what a program does by mistake or with a stolen token;
//! what all may take together is in [`super::Limits`].

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::base::Id;

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

/// What every token has taken.
#[derive(Debug)]
pub struct Allowances {
    pub each: Allowance,
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

    /// Counts a request.
    ///
    /// # Errors
    /// The bound that the token has reached; the request is not counted then.
    pub fn admit(&self, token: Id, now: Instant) -> Result<(), Exceeded> {
        let mut used = self.used();
        if used.len() >= REMEMBERED_MAX {
            used.retain(|_, used| used.running > 0 || now.duration_since(used.since) < MINUTE);
        }
        let used = current(&mut used, token, now);
        let what = match () {
            () if used.requests >= self.each.requests_a_minute => "requests per minute",
            () if used.tokens >= self.each.tokens_a_minute => "tokens per minute",
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
    pub fn answer(self: &Arc<Self>, token: Id, now: Instant) -> Result<Place, Exceeded> {
        let mut used = self.used();
        let used = current(&mut used, token, now);
        if used.running >= self.each.answers_at_once {
            return Err(Exceeded { what: "answers at once", retry_after_s: 1 });
        }
        used.running += 1;
        Ok(Place { of: Arc::clone(self), token })
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
    use crate::base::IdKind;

    fn token(number: u8) -> Id {
        Id::from_parts(IdKind::Token, 1, [number; 10])
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
        (0..3).for_each(|_| all.admit(token(1), start).expect("within"));
        let late = start + Duration::from_secs(45);
        let exceeded = Exceeded { what: "requests per minute", retry_after_s: 16 };
        assert_eq!(all.admit(token(1), late), Err(exceeded));
        assert_eq!(all.admit(token(2), late), Ok(()), "another's are its own");
        assert_eq!(all.admit(token(1), start + MINUTE), Ok(()));
    }

    #[test]
    fn tokens_are_counted_as_they_are_spent() {
        let (all, start) = (allowances(), Instant::now());
        all.admit(token(1), start).expect("within");
        let place = all.answer(token(1), start).expect("a place");
        place.spend(99);
        all.admit(token(1), start).expect("one is left");
        place.spend(1);
        assert_eq!(all.admit(token(1), start).unwrap_err().what, "tokens per minute");
        assert_eq!(all.admit(token(1), start + MINUTE), Ok(()));
    }

    #[test]
    fn a_place_comes_back_however_an_answer_ends_and_over_the_minute() {
        let (all, start) = (allowances(), Instant::now());
        let first = all.answer(token(1), start).expect("a place");
        let second = all.answer(token(1), start + 2 * MINUTE).expect("a place");
        assert_eq!(all.answer(token(1), start + 2 * MINUTE).unwrap_err().what, "answers at once");
        drop(first);
        let third = all.answer(token(1), start).expect("came back");
        drop((second, third));
        assert_eq!(all.used()[&token(1)].running, 0);
    }
}
