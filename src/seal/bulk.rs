//! Much ciphertext at once. One thread reads, in the order in which the bytes lie, which is what disks and the kernel's
//! read-ahead are made for, and others open what it has read: on two cores that takes about as long as reading alone. Who
//! has nothing to open takes from the kernel the memory that will be read into next: its zeroing costs as much as the copy.
//! Where there are more cores than one reader can keep busy, there are several such teams, each with a stretch of its own.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use super::{
    pages,
    threads::{join, threads_max},
};
use crate::base::Result;

/// What is read at once at most: as much as a kernel reads ahead of who reads in order, so that the disk is not kept waiting.
const PIECE_BYTES_MAX: usize = 8 << 20;
/// And at least, unless there is less: waking another thread for it costs nothing beside it.
const PIECE_BYTES_MIN: usize = 1 << 20;
/// The last piece is opened when nothing is left to read: it should be little of the whole.
const PIECES_MIN: usize = 16;
/// Pieces that may wait, for each thread that opens; when there are more, the reader opens what it has just read.
const WAITING_PER_OPENER: usize = 3;
/// Pieces beyond the one that is read for which memory is taken ahead.
const READIED_AHEAD: usize = 2;
/// A thread that opens is worth starting for this much.
const BYTES_PER_OPENER_MIN: usize = 4 << 20;
/// Reading is copying; three threads open faster than one reads.
const OPENERS_MAX: usize = 3;
/// A second reader is worth its disturbance of the disk for this much.
const BYTES_PER_TEAM_MIN: usize = 16 << 20;

/// Bytes that are read to one place.
pub trait Piece: Send {
    /// The place.
    fn room(&self) -> &[u8];
}

/// How long the pieces should be of that many bytes.
pub fn piece_bytes(bytes: usize) -> usize {
    (bytes / PIECES_MIN).clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX)
}

/// Calls `read` for every piece and then `open`, and gives what `open` gave, in order.
///
/// # Errors
/// The first that a piece failed with; pieces after it may have been read or not.
pub fn read_and_open<P: Piece, T: Send>(
    mut pieces: Vec<P>,
    read: impl Fn(&mut P) -> Result<()> + Sync,
    open: impl Fn(P) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let bytes: usize = pieces.iter().map(|piece| piece.room().len()).sum();
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

fn in_a_team<P: Piece, T: Send>(
    pieces: Vec<P>,
    openers: usize,
    read: impl Fn(&mut P) -> Result<()>,
    open: impl Fn(P) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    if openers == 0 {
        let both = |mut piece| read(&mut piece).and_then(|()| open(piece));
        return pieces.into_iter().map(both).collect();
    }
    let rooms = pieces.iter().map(|piece| pages::place_of(piece.room())).collect();
    let work = Work { rooms, state: Mutex::default(), changed: Condvar::new() };
    thread::scope(|scope| {
        for _ in 0..openers {
            scope.spawn(|| work.open_all(&open));
        }
        let reading = Reading(&work);
        for (number, mut piece) in pieces.into_iter().enumerate() {
            let was_read = read(&mut piece);
            let mut state = work.lock();
            state.was_read = number + 1;
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
    /// Where the bytes of each piece go.
    rooms: Vec<Range<usize>>,
    state: Mutex<State<P, T>>,
    changed: Condvar,
}

struct State<P, T> {
    /// Read and not yet opened, each with its number.
    waiting: VecDeque<(usize, P)>,
    opened: Vec<(usize, T)>,
    failed: Option<(usize, crate::base::Error)>,
    /// How many pieces are read; the next is being read.
    was_read: usize,
    /// Up to which piece memory is taken.
    readied: usize,
    all_read: bool,
}

impl<P, T> Default for State<P, T> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            opened: Vec::new(),
            failed: None,
            was_read: 0,
            readied: 0,
            all_read: false,
        }
    }
}

impl<P, T> Work<P, T> {
    fn lock(&self) -> MutexGuard<'_, State<P, T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens what waits, and readies memory when none does, until all is read.
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
            } else if let Some(next) = state.next_to_ready(self.rooms.len()) {
                drop(state);
                pages::take(&self.rooms[next]);
                state = self.lock();
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
    /// The piece whose memory nobody has taken and that is read soon, of `count`.
    fn next_to_ready(&mut self, count: usize) -> Option<usize> {
        let next = self.readied.max(self.was_read + 1);
        let soon = next < count && next <= self.was_read + READIED_AHEAD;
        soon.then(|| {
            self.readied = next + 1;
            next
        })
    }

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

    struct Marked<'b> {
        number: usize,
        room: &'b mut [u8],
    }

    impl Piece for Marked<'_> {
        fn room(&self) -> &[u8] {
            self.room
        }
    }

    fn pieces(memory: &mut [u8], count: usize) -> Vec<Marked<'_>> {
        let rooms = memory.chunks_mut(LENGTH).take(count).enumerate();
        rooms.map(|(number, room)| Marked { number, room }).collect()
    }

    /// Long enough for several openers, and of no whole number of pages.
    const LENGTH: usize = 70_001;
    const COUNT_MAX: usize = 300;

    #[test]
    fn every_piece_is_read_before_it_is_opened_and_all_come_back_in_order() {
        let mut memory = vec![0; COUNT_MAX * LENGTH];
        let read = |piece: &mut Marked<'_>| {
            piece.room.fill(piece.number as u8 + 1);
            Ok(())
        };
        let open = |piece: Marked<'_>| {
            assert!(piece.room.iter().all(|&byte| byte == piece.number as u8 + 1));
            piece.room.fill(0);
            Ok(piece.number * 2)
        };
        for count in [0, 1, 7, COUNT_MAX] {
            let expected: Vec<usize> = (0..count).map(|number| number * 2).collect();
            for openers in 0..4 {
                let opened = in_a_team(pieces(&mut memory, count), openers, read, open);
                assert_eq!(opened.expect("no failure"), expected);
            }
            assert_eq!(read_and_open(pieces(&mut memory, count), read, open).expect("no failure"), expected);
        }
    }

    #[test]
    fn the_first_failure_is_told() {
        let mut memory = vec![0; 100 * LENGTH];
        let open =
            |piece: Marked<'_>| if piece.number == 5 { Err(Error::failed("opening 5")) } else { Ok(()) };
        let read =
            |piece: &mut Marked<'_>| if piece.number == 3 { Err(Error::failed("reading 3")) } else { Ok(()) };
        for openers in [0, 2] {
            let error = in_a_team(pieces(&mut memory, 100), openers, |_| Ok(()), open).unwrap_err();
            assert_eq!(error.to_string(), "opening 5");
            let error = in_a_team(pieces(&mut memory, 100), openers, read, open).unwrap_err();
            assert_eq!(error.to_string(), "reading 3");
        }
    }
}
