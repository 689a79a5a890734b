//! The same work on many items over several threads, with the outcomes in order: what is done to documents
//! one by one must not depend on how many cores there are.

use std::{
    sync::{
        Mutex, PoisonError,
        mpsc::{Receiver, sync_channel},
    },
    time::Instant,
};

use crate::base::{Error, Monitor, Progress, Result};

/// Outcomes that may wait for an earlier one, per thread.
const AHEAD_PER_THREAD: usize = 4;

/// The cores that there are, where the caller has not said how many to use.
pub fn threads_or_all(threads: usize) -> usize {
    match threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        given => given,
    }
}

/// Calls `work` for every item in parallel and `take` with the outcomes, in order, on the calling thread.
/// The first failure, in order, ends it.
pub fn in_order<I: Send, T: Send>(
    threads: usize,
    items: impl Iterator<Item = I> + Send,
    work: impl Fn(I) -> Result<T> + Sync,
    mut take: impl FnMut(T) -> Result<()>,
) -> Result<()> {
    let threads = threads_or_all(threads);
    let (enqueue, queue) = sync_channel::<Receiver<Result<T>>>(threads * AHEAD_PER_THREAD);
    let next = Mutex::new((items, Some(enqueue)));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    // The item and its place in the queue are taken in one breath.
                    let (item, outcome) = {
                        let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
                        let Some(item) = next.0.next() else {
                            next.1 = None;
                            return;
                        };
                        let (outcome, receiver) = sync_channel(1);
                        if next.1.as_ref().is_none_or(|queue| queue.send(receiver).is_err()) {
                            return;
                        }
                        (item, outcome)
                    };
                    if outcome.send(work(item)).is_err() {
                        return;
                    }
                }
            });
        }
        let outcome = queue.iter().flatten().try_for_each(|outcome| take(outcome?));
        // Threads that wait for room are let go.
        drop(queue);
        outcome
    })
}

/// A stage of a job that counts things of which the total is known.
pub struct Stage {
    name: &'static str,
    unit: &'static str,
    done: u64,
    total: u64,
    started: Instant,
}

impl Stage {
    pub fn new(name: &'static str, unit: &'static str, total: u64) -> Self {
        Self { name, unit, done: 0, total, started: Instant::now() }
    }

    /// Reports that `more` is done.
    ///
    /// # Errors
    /// `Interrupted` when the work should stop.
    pub fn advance(&mut self, more: u64, monitor: &dyn Monitor) -> Result<()> {
        self.done += more;
        let elapsed_s = self.started.elapsed().as_secs_f64();
        let left = self.total.saturating_sub(self.done) as f64;
        monitor.progress(&Progress {
            stage: self.name.to_owned(),
            done: self.done,
            total: self.total,
            unit: self.unit.to_owned(),
            elapsed_s,
            remaining_s: (self.done > 0).then(|| left * elapsed_s / self.done as f64),
            gauges: Vec::new(),
        });
        if monitor.stop_requested() {
            return Err(Error::interrupted(format!(
                "stopped at {} {} of {}",
                self.unit, self.done, self.total
            ))
            .remedy("start it again: this stage is short and begins anew"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_order_and_stops_at_the_first_failure() {
        let mut taken = Vec::new();
        in_order(
            4,
            0..1000,
            |n| Ok(n * 2),
            |n| {
                taken.push(n);
                Ok(())
            },
        )
        .expect("no failure");
        assert_eq!(taken, (0..1000).map(|n| n * 2).collect::<Vec<_>>());

        let mut taken = 0;
        let fails = |n| if n == 500 { Err(Error::failed("at 500")) } else { Ok(n) };
        let error = in_order(3, 0..1_000_000, fails, |_| {
            taken += 1;
            Ok(())
        })
        .unwrap_err();
        assert_eq!((error.to_string().as_str(), taken), ("at 500", 500));
    }
}
