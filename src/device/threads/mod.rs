//! A persistent pool of threads that runs numbered tasks. What a task is follows from the shape of the work
//! and never from the number of threads, so that results are the same bits on one thread and on sixty-four.
//! Which thread runs which task is left to chance: a core that is busy elsewhere holds up one task, not a share.

#![allow(unsafe_code)] // Closures are lent to threads that outlive the call, and slices are split between tasks.

mod split;

use std::any::Any;
use std::cell::Cell;
use std::hint::spin_loop;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

pub use split::Split;

/// Threads that this process may use: the cores, less what affinity and the container's quota take away.
pub fn available() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Spins before a thread parks. A pause takes some tens of nanoseconds: about 30 microseconds in all, which
/// covers the gaps between the operations of a training step and is soon over when there is nothing to do.
const SPINS_BEFORE_PARKING: u32 = 1000;
/// The low bits of a ticket count the tasks handed out, the high bits the jobs.
const TASK_BITS: u32 = 24;
/// More tasks than this are run as several jobs.
const TASKS_MAX: usize = 1 << (TASK_BITS - 1);
/// Reductions keep their partial sums on the stack, at most this many.
const PARTIALS_MAX: usize = 256;

thread_local! {
    /// Set while this thread runs a task: work started from within a task runs on that thread alone.
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
}

/// A pool of threads; the caller of [`Pool::run`] is one of them. Dropping it joins the others.
pub struct Pool {
    shared: Arc<Shared>,
    /// Held by the thread whose job is running: two callers take turns.
    turn: Mutex<()>,
    workers: Vec<JoinHandle<()>>,
}

type Task = unsafe fn(*const (), usize);

/// One on a cache line of its own, so that neighbours do not slow each other.
#[repr(align(128))]
struct Alone<T>(T);

struct Shared {
    /// Job number in the high bits, tasks handed out in the low ones. An odd job number is open; at an even
    /// one the three fields below may change. A worker claims a task by raising the ticket it read
    /// before them: if that succeeds, the job was open throughout, and what it read belongs together.
    ticket: Alone<AtomicU64>,
    call: AtomicPtr<()>,
    context: AtomicPtr<()>,
    tasks: AtomicUsize,
    finished: Alone<AtomicUsize>,
    panicked: AtomicBool,
    payload: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
    /// Workers parked, or about to be; and whether the caller is.
    parked: AtomicUsize,
    caller_parked: AtomicBool,
    parking: Mutex<()>,
    job_opened: Condvar,
    job_finished: Condvar,
}

impl Pool {
    /// A pool of `threads` threads, the caller's included; at least one.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            ticket: Alone(AtomicU64::new(0)),
            call: AtomicPtr::new(std::ptr::null_mut()),
            context: AtomicPtr::new(std::ptr::null_mut()),
            tasks: AtomicUsize::new(0),
            finished: Alone(AtomicUsize::new(0)),
            panicked: AtomicBool::new(false),
            payload: Mutex::new(None),
            stop: AtomicBool::new(false),
            parked: AtomicUsize::new(0),
            caller_parked: AtomicBool::new(false),
            parking: Mutex::new(()),
            job_opened: Condvar::new(),
            job_finished: Condvar::new(),
        });
        // A thread that the system refuses is one fewer to help: the results do not depend on it.
        let workers = (1..threads)
            .map_while(|index| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new().name(format!("compute-{index}")).spawn(move || shared.work()).ok()
            })
            .collect();
        Self { shared, turn: Mutex::new(()), workers }
    }

    /// Threads that work at once, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `task(0)` to `task(tasks - 1)`, each once, in any order and on any thread, and returns when all are
    /// done. A task must write only what no other task touches. Called from within a task it runs them all on
    /// this thread. A panic in a task is resumed here when the others have ended; some may not have been run.
    pub fn run(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        if tasks <= 1 || self.workers.is_empty() || IN_TASK.get() {
            return (0..tasks).for_each(task);
        }
        let _turn = lock(&self.turn);
        for first in (0..tasks).step_by(TASKS_MAX) {
            self.shared.run_job(TASKS_MAX.min(tasks - first), &|index| task(first + index));
        }
    }

    /// Runs `task` over `0..len` cut into ranges of `grain` (the last may be shorter).
    pub fn ranges(&self, len: usize, grain: usize, task: impl Fn(Range<usize>) + Sync) {
        let grain = grain.max(1);
        self.run(len.div_ceil(grain), |index| {
            let start = index * grain;
            task(start..len.min(start + grain));
        });
    }

    /// Runs `task(i, chunk)` over `data` cut into chunks of `chunk` elements (the last may be shorter).
    pub fn chunks_mut<T: Send>(&self, data: &mut [T], chunk: usize, task: impl Fn(usize, &mut [T]) + Sync) {
        let chunk = chunk.max(1);
        let len = data.len();
        let split = Split::new(data);
        self.ranges(len, chunk, |range| {
            let index = range.start / chunk;
            // SAFETY: the ranges of `ranges` do not overlap, and each is handed to one task.
            task(index, unsafe { split.slice(range) });
        });
    }

    /// The sum over `0..len` of what `partial` returns for ranges of at least `grain`, added in order.
    pub fn sum(&self, len: usize, grain: usize, partial: impl Fn(Range<usize>) -> f64 + Sync) -> f64 {
        let mut partials = [0.0; PARTIALS_MAX];
        let grain = grain.max(len.div_ceil(PARTIALS_MAX)).max(1);
        let used = len.div_ceil(grain);
        self.chunks_mut(&mut partials[..used], 1, |index, slot| {
            let start = index * grain;
            slot[0] = partial(start..len.min(start + grain));
        });
        partials[..used].iter().sum()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        {
            let _guard = lock(&self.shared.parking);
            self.shared.job_opened.notify_all();
        }
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its tasks: there is nothing to hear from it.
            let _ = worker.join();
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} threads)", self.threads())
    }
}

impl Shared {
    /// Opens a job, works on it, waits for its end and closes it. The caller holds the pool's turn.
    fn run_job<F: Fn(usize) + Sync>(&self, tasks: usize, task: &F) {
        unsafe fn call<F: Fn(usize)>(context: *const (), index: usize) {
            // SAFETY: `context` is the `&F` that `run_job` published, and it waits for every task before it
            // returns, so the closure is alive.
            unsafe { (*context.cast::<F>())(index) }
        }
        let closed = self.ticket.0.load(Ordering::Relaxed);
        self.call.store(call::<F> as Task as *mut (), Ordering::Release);
        self.context.store(std::ptr::from_ref(task).cast_mut().cast(), Ordering::Release);
        self.tasks.store(tasks, Ordering::Release);
        self.finished.0.store(0, Ordering::Relaxed);
        let job = (closed >> TASK_BITS) + 1;
        self.ticket.0.store(job << TASK_BITS, Ordering::SeqCst);
        if self.parked.load(Ordering::SeqCst) > 0 {
            let _guard = lock(&self.parking);
            self.job_opened.notify_all();
        }
        self.claim_and_run();
        self.wait_for(tasks);
        self.ticket.0.store((job + 1) << TASK_BITS, Ordering::SeqCst);
        if self.panicked.swap(false, Ordering::Relaxed)
            && let Some(payload) = lock(&self.payload).take()
        {
            resume_unwind(payload);
        }
    }

    /// Takes tasks of the open job until there are none. Returns the ticket at which there were none.
    fn claim_and_run(&self) -> u64 {
        let mut ticket = self.ticket.0.load(Ordering::SeqCst);
        loop {
            let index = (ticket & ((1 << TASK_BITS) - 1)) as usize;
            let call = self.call.load(Ordering::Acquire);
            let context = self.context.load(Ordering::Acquire);
            let tasks = self.tasks.load(Ordering::Acquire);
            let open = (ticket >> TASK_BITS) & 1 == 1;
            if !open || index >= tasks {
                return ticket;
            }
            match self.ticket.0.compare_exchange_weak(ticket, ticket + 1, Ordering::SeqCst, Ordering::SeqCst)
            {
                Ok(_) => {
                    self.run_task(call, context, index, tasks);
                    ticket = self.ticket.0.load(Ordering::SeqCst);
                }
                Err(now) => ticket = now,
            }
        }
    }

    fn run_task(&self, call: *mut (), context: *mut (), index: usize, tasks: usize) {
        // After a panic the rest is only counted: the result is lost anyway.
        if !self.panicked.load(Ordering::Relaxed) {
            // SAFETY: `call` was made from a `Task` in `run_job`; the claim proved that it and `context`
            // belong to the open job.
            let call = unsafe { std::mem::transmute::<*mut (), Task>(call) };
            let was = IN_TASK.replace(true);
            // SAFETY: as above; each index is claimed once.
            let outcome = catch_unwind(AssertUnwindSafe(|| unsafe { call(context, index) }));
            IN_TASK.set(was);
            if let Err(payload) = outcome {
                lock(&self.payload).get_or_insert(payload);
                self.panicked.store(true, Ordering::Relaxed);
            }
        }
        let last = self.finished.0.fetch_add(1, Ordering::SeqCst) + 1 == tasks;
        if last && self.caller_parked.load(Ordering::SeqCst) {
            let _guard = lock(&self.parking);
            self.job_finished.notify_one();
        }
    }

    fn wait_for(&self, tasks: usize) {
        let done = || self.finished.0.load(Ordering::SeqCst) == tasks;
        if spin_until(done) {
            return;
        }
        self.caller_parked.store(true, Ordering::SeqCst);
        let mut guard = lock(&self.parking);
        while !done() {
            guard = self.job_finished.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.caller_parked.store(false, Ordering::SeqCst);
    }

    /// A worker's life: help with each job, spin for the next, then park.
    fn work(&self) {
        loop {
            let seen = self.claim_and_run();
            let news = || self.ticket.0.load(Ordering::SeqCst) != seen || self.stop.load(Ordering::SeqCst);
            if !spin_until(news) {
                let mut guard = lock(&self.parking);
                self.parked.fetch_add(1, Ordering::SeqCst);
                while !news() {
                    guard = self.job_opened.wait(guard).unwrap_or_else(PoisonError::into_inner);
                }
                self.parked.fetch_sub(1, Ordering::SeqCst);
            }
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
        }
    }
}

fn spin_until(condition: impl Fn() -> bool) -> bool {
    for _ in 0..SPINS_BEFORE_PARKING {
        if condition() {
            return true;
        }
        spin_loop();
    }
    false
}

/// Nothing is left half done under these locks, so a panic elsewhere does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
