//! Communication between ranks: sums over what each of them holds. Here ranks are threads of one process. Every
//! rank gets the same bits, because all add in the order of the ranks. A rank that goes away releases the others
//! with an error rather than leaving them to wait.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};

use half::bf16;

use super::host;
use crate::{
    base::{Error, Result},
    tensor::{DType, TensorMut},
};

/// One rank's end of the line. Clones are the same rank's.
#[derive(Clone)]
pub struct Comm {
    seat: Arc<Seat>,
    group: Arc<Group>,
}

/// Tells the others when the last clone of a rank's end is dropped.
struct Seat {
    rank: usize,
    group: Arc<Group>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.group.meeting().broken = true;
        self.group.all_here.notify_all();
    }
}

struct Group {
    /// What each rank brings, widened to f64: f32 and bf16 sums of a few ranks lose nothing in it.
    brought: Vec<RwLock<Vec<f64>>>,
    meeting: Mutex<Meeting>,
    all_here: Condvar,
}

#[derive(Default)]
struct Meeting {
    arrived: usize,
    number: u64,
    broken: bool,
}

impl Group {
    fn meeting(&self) -> MutexGuard<'_, Meeting> {
        // The few lines under the lock cannot panic.
        self.meeting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until every rank is here.
    fn meet(&self) -> Result<()> {
        let mut meeting = self.meeting();
        let number = meeting.number;
        meeting.arrived += 1;
        if meeting.arrived == self.brought.len() {
            meeting.arrived = 0;
            meeting.number += 1;
            self.all_here.notify_all();
            return Ok(());
        }
        while meeting.number == number {
            if meeting.broken {
                return Err(Error::unavailable("another rank of the run has stopped"));
            }
            meeting = self.all_here.wait(meeting).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }
}

impl Comm {
    /// The ends of `ranks` ranks, in their order.
    pub fn group(ranks: usize) -> Vec<Self> {
        let group = Arc::new(Group {
            brought: (0..ranks).map(|_| RwLock::default()).collect(),
            meeting: Mutex::default(),
            all_here: Condvar::new(),
        });
        let seat = |rank| Arc::new(Seat { rank, group: group.clone() });
        (0..ranks).map(|rank| Self { seat: seat(rank), group: group.clone() }).collect()
    }

    pub fn rank(&self) -> usize {
        self.seat.rank
    }

    pub fn ranks(&self) -> usize {
        self.group.brought.len()
    }

    /// Replaces every rank's numbers with their sum, rounded once. All ranks must call this in the same order with
    /// tensors of one shape.
    ///
    /// # Errors
    /// `Unavailable` when another rank has gone.
    pub fn all_reduce(&self, x: TensorMut) -> Result<()> {
        match x.as_ref().dtype() {
            DType::F32 => self.reduce(host::slice_mut::<f32>(x), |&x| f64::from(x), |sum| sum as f32),
            DType::F64 => self.reduce(host::slice_mut::<f64>(x), |&x| x, |sum| sum),
            DType::Bf16 => self.reduce(host::slice_mut::<bf16>(x), |x| x.to_f64(), bf16::from_f64),
            other => Err(Error::failed(format!("{other:?} numbers are not summed over ranks"))),
        }
    }

    /// As [`Comm::all_reduce`], for a few numbers of the caller's own.
    pub fn sum(&self, numbers: &mut [f64]) -> Result<()> {
        self.reduce(numbers, |&x| x, |sum| sum)
    }

    fn reduce<T>(&self, x: &mut [T], widen: impl Fn(&T) -> f64, narrow: impl Fn(f64) -> T) -> Result<()> {
        if self.ranks() == 1 {
            return Ok(());
        }
        let mut own = self.group.brought[self.rank()].write().unwrap_or_else(PoisonError::into_inner);
        own.clear();
        own.extend(x.iter().map(widen));
        drop(own);
        self.group.meet()?;
        let brought: Vec<_> =
            self.group.brought.iter().map(|one| one.read().unwrap_or_else(PoisonError::into_inner)).collect();
        for (i, x) in x.iter_mut().enumerate() {
            *x = narrow(brought.iter().map(|one| one[i]).sum());
        }
        drop(brought);
        // Nobody brings the next before everybody has read this one.
        self.group.meet()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn on_ranks<T: Send>(ranks: usize, work: impl Fn(Comm) -> T + Sync) -> Vec<T> {
        thread::scope(|scope| {
            let work = &work;
            let threads: Vec<_> =
                Comm::group(ranks).into_iter().map(|comm| scope.spawn(move || work(comm))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        })
    }

    #[test]
    fn every_rank_gets_the_sum_again_and_again() {
        let sums = on_ranks(3, |comm| {
            (0..200)
                .map(|round| {
                    let mut numbers = [comm.rank() as f64 + f64::from(round), 0.1];
                    comm.sum(&mut numbers).expect("nobody goes");
                    numbers
                })
                .collect::<Vec<_>>()
        });
        for (round, numbers) in sums[0].iter().enumerate() {
            assert_eq!(numbers[0], 3.0 + 3.0 * round as f64);
        }
        assert!(sums.iter().all(|rank| rank == &sums[0]));
    }

    #[test]
    fn one_rank_keeps_its_numbers() {
        let sums = on_ranks(1, |comm| {
            let mut numbers = [1.5];
            comm.sum(&mut numbers).map(|()| numbers)
        });
        assert_eq!(sums[0].as_ref().ok(), Some(&[1.5]));
    }

    #[test]
    fn a_rank_that_goes_releases_the_others() {
        let results = on_ranks(3, |comm| match comm.rank() {
            1 => Ok(()),
            _ => comm.sum(&mut [0.0]),
        });
        assert!(results[0].is_err() && results[2].is_err());
    }
}
