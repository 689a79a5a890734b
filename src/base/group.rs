//! Group commit: many threads hand in what must become durable, one of them writes it all at once, and each
//! hears how its own part went. A disk that syncs in milliseconds then serves any number of threads.

use std::{
    collections::HashMap,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use super::{Error, Result};

/// A queue whose first thread in line writes for all who wait.
pub struct Group<T, R> {
    state: Mutex<State<T, R>>,
    turned: Condvar,
}

struct State<T, R> {
    next_ticket: u64,
    waiting: Vec<(u64, T)>,
    answers: HashMap<u64, Result<R>>,
    /// Whether a thread is writing at this moment.
    led: bool,
}

impl<T, R> Default for Group<T, R> {
    fn default() -> Self {
        let state = State { next_ticket: 0, waiting: Vec::new(), answers: HashMap::new(), led: false };
        Self { state: Mutex::new(state), turned: Condvar::new() }
    }
}

impl<T, R> Group<T, R> {
    /// Hands in `item` and returns when it has been written, by this thread or another. `write` gets all that
    /// waits, in the order of arrival, and answers each.
    ///
    /// # Errors
    /// What `write` answered for this item; `Unavailable` when it panicked or answered too few.
    pub fn submit(&self, item: T, write: impl FnOnce(Vec<T>) -> Vec<Result<R>>) -> Result<R> {
        let mut state = self.lock();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.waiting.push((ticket, item));
        while state.led {
            if let Some(answer) = state.answers.remove(&ticket) {
                return answer;
            }
            state = self.turned.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(answer) = state.answers.remove(&ticket) {
            return answer;
        }
        state.led = true;
        let (tickets, items) = std::mem::take(&mut state.waiting).into_iter().unzip();
        drop(state);
        let mut turn = Turn { group: self, tickets, answers: Vec::new() };
        turn.answers = write(items);
        drop(turn);
        self.lock()
            .answers
            .remove(&ticket)
            .expect("the turn answered every ticket it took, this one among them")
    }

    fn lock(&self) -> MutexGuard<'_, State<T, R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One thread's turn at writing. However it ends, everybody who waits on it gets an answer.
struct Turn<'a, T, R> {
    group: &'a Group<T, R>,
    tickets: Vec<u64>,
    answers: Vec<Result<R>>,
}

impl<T, R> Drop for Turn<'_, T, R> {
    fn drop(&mut self) {
        let mut state = self.group.lock();
        let mut answers = std::mem::take(&mut self.answers).into_iter();
        for &ticket in &self.tickets {
            let answer = answers
                .next()
                .unwrap_or_else(|| Err(Error::unavailable("the thread that wrote for this one gave up")));
            state.answers.insert(ticket, answer);
        }
        state.led = false;
        self.group.turned.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn many_share_one_write_and_each_hears_its_own() {
        let group = Group::default();
        let writes = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for item in 0..64u32 {
                let (group, writes) = (&group, &writes);
                scope.spawn(move || {
                    let answer = group.submit(item, |items: Vec<u32>| {
                        writes.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(std::time::Duration::from_millis(3));
                        let odd = |item| Error::failed(format!("{item} is odd"));
                        items.into_iter().map(|i| if i % 2 == 0 { Ok(i * 10) } else { Err(odd(i)) }).collect()
                    });
                    match answer {
                        Ok(tenfold) => assert_eq!(tenfold, item * 10),
                        Err(error) => assert_eq!(error.to_string(), format!("{item} is odd")),
                    }
                });
            }
        });
        assert!(writes.load(Ordering::Relaxed) < 64);
    }

    #[test]
    fn a_panic_while_writing_strands_nobody() {
        let group: Group<u32, u32> = Group::default();
        std::thread::scope(|scope| {
            let (started, start) = std::sync::mpsc::channel();
            let group = &group;
            let leader = scope.spawn(move || {
                let _ = group.submit(1, |_| {
                    started.send(()).expect("the test listens");
                    std::thread::sleep(std::time::Duration::from_millis(20));
                    panic!("as a test wants it");
                });
            });
            start.recv().expect("the leader leads");
            assert_eq!(group.submit(2, |items| items.into_iter().map(Ok).collect()).expect("later turn"), 2);
            assert!(leader.join().is_err());
        });
    }
}
