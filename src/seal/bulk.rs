//! Much ciphertext at once. One thread reads, in the order in which the bytes lie, which is what disks and the kernel's
//! read-ahead are made for, and others open what it has read: on two cores that takes about as long as reading alone.
//! Where there are more cores than one reader can keep busy, there are several such teams, each with a stretch of its own.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use super::threads::{join, threads_max};
use crate::base::Result;

/// What is read at once: long enough that waking another thread for it costs nothing beside it, short enough to be in the
/// cache still when it is opened.
pub const PIECE_BYTES: usize = 2 << 20;
/// Pieces that may wait, for each thread that opens; when there are more, the reader opens what it has just read.
const WAITING_PER_OPENER: usize = 3;
/// A thread that opens is worth starting for this much.
const BYTES_PER_OPENER_MIN: usize = 4 << 20;
/// Reading is copying; three threads open faster than one reads.
const OPENERS_MAX: usize = 3;
/// A second reader is worth its disturbance of the disk for this much.
const BYTES_PER_TEAM_MIN: usize = 16 << 20;

/// Calls `read` for every piece and then `open`, and gives what `open` gave, in order. `bytes` is how much that is in all.
///
/// # Errors
/// The first that a piece failed with; pieces after it may have been read or not.
pub fn read_and_open<P: Send, T: Send>(
    mut pieces: Vec<P>,
    bytes: usize,
    read: impl Fn(&mut P) -> Result<()> + Sync,
    open: impl Fn(P) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let teams = (threads_max() / (OPENERS_MAX + 1)).min(bytes / BYTES_PER_TEAM_MIN).max(1);
    let openers = (threads_max() / teams - 1).min(bytes / teams / BYTES_PER_OPENER_MIN).min(OPENERS_MAX);
    let share = pieces.len().div_ceil(teams).max(1);
    let (read, open) = (&read, &open);
    thread::scope(|scope| {
        let mut others = Vec::new();
        while pieces.len() > share {
            let stretch = pieces.split_off((pieces.len() - 1) / share * share);
            others.push(scope.spawn(move || in_a_team(stretch, openers, read, open)));
        }
        let mut opened = in_a_team(pieces, openers, read, open)?;
        for other in others.into_iter().rev() {
            opened.extend(join(other)?);
        }
        Ok(opened)
    })
}

fn in_a_team<P: Send, T: Send>(
    pieces: Vec<P>,
    openers: usize,
    read: impl Fn(&mut P) -> Result<()>,
    open: impl Fn(P) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    if openers == 0 {
        let both = |mut piece| read(&mut piece).and_then(|()| open(piece));
        return pieces.into_iter().map(both).collect();
    }
    let work = Work { state: Mutex::default(), changed: Condvar::new() };
    thread::scope(|scope| {
        for _ in 0..openers {
            scope.spawn(|| work.open_all(&open));
        }
        let reading = Reading(&work);
        for (number, mut piece) in pieces.into_iter().enumerate() {
            let was_read = read(&mut piece);
            let mut state = work.lock();
            match was_read {
                Err(error) => state.settle(number, Err(error)),
                Ok(()) if state.waiting.len() < openers * WAITING_PER_OPENER => {
                    state.waiting.push_back((number, piece));
                    work.changed.notify_one();
                }
                Ok(()) => {
                    drop(state);
                    let outcome = open(piece);
                    state = work.lock();
                    state.settle(number, outcome);
                }
            }
            if state.failed.is_some() {
                break;
            }
        }
        drop(reading);
        work.open_all(&open);
    });
    let State { mut opened, failed, .. } = work.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, error)) = failed {
        return Err(error);
    }
    opened.sort_unstable_by_key(|&(number, _)| number);
    Ok(opened.into_iter().map(|(_, opened)| opened).collect())
}

/// What a reader and those who open have between them.
struct Work<P, T> {
    state: Mutex<State<P, T>>,
    changed: Condvar,
}

struct State<P, T> {
    /// Read and not yet opened, each with its number.
    waiting: VecDeque<(usize, P)>,
    opened: Vec<(usize, T)>,
    failed: Option<(usize, crate::base::Error)>,
    all_read: bool,
}

impl<P, T> Default for State<P, T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), opened: Vec::new(), failed: None, all_read: false }
    }
}

impl<P, T> Work<P, T> {
    fn lock(&self) -> MutexGuard<'_, State<P, T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens what waits, until all is read and none does.
    fn open_all(&self, open: impl Fn(P) -> Result<T>) {
        let mut state = self.lock();
        loop {
            if let Some((number, piece)) = state.waiting.pop_front() {
                drop(state);
                let outcome = open(piece);
                state = self.lock();
                state.settle(number, outcome);
            } else if state.all_read {
                return;
            } else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

/// However reading ends, those who open do not wait for more.
struct Reading<'w, P, T>(&'w Work<P, T>);

impl<P, T> Drop for Reading<'_, P, T> {
    fn drop(&mut self) {
        self.0.lock().all_read = true;
        self.0.changed.notify_all();
    }
}

impl<P, T> State<P, T> {
    fn settle(&mut self, number: usize, outcome: Result<T>) {
        match outcome {
            Ok(opened) => self.opened.push((number, opened)),
            Err(error) => {
                self.waiting.clear();
                if self.failed.as_ref().is_none_or(|(earlier, _)| number < *earlier) {
                    self.failed = Some((number, error));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Error;

    #[test]
    fn every_piece_is_read_before_it_is_opened_and_all_come_back_in_order() {
        for openers in 0..4 {
            let read = |piece: &mut (usize, bool)| {
                piece.1 = true;
                Ok(())
            };
            let open = |(number, was_read): (usize, bool)| {
                assert!(was_read);
                Ok(number * 2)
            };
            let pieces = |count| (0..count).map(|number| (number, false)).collect();
            for count in [0, 1, 7, 500] {
                let opened = in_a_team(pieces(count), openers, read, open).expect("no failure");
                assert_eq!(opened, (0..count).map(|number| number * 2).collect::<Vec<_>>());
                let opened =
                    read_and_open(pieces(count), count * PIECE_BYTES, read, open).expect("no failure");
                assert_eq!(opened, (0..count).map(|number| number * 2).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn the_first_failure_is_told() {
        let open = |number| if number == 5 { Err(Error::failed("opening 5")) } else { Ok(()) };
        let read = |number: &mut usize| if *number == 3 { Err(Error::failed("reading 3")) } else { Ok(()) };
        for openers in [0, 2] {
            let error = in_a_team((0..100).collect(), openers, |_| Ok(()), open).unwrap_err();
            assert_eq!(error.to_string(), "opening 5");
            let error = in_a_team((0..100).collect(), openers, read, open).unwrap_err();
            assert_eq!(error.to_string(), "reading 3");
        }
    }
}
