//! Answers go before documents. Readers of documents take of a core only what nobody else wants, and yet, where the processor
//! answers too, they take its caches, and the units of a core that hardware threads share: so they are stopped for as long as an
//! answer is under way. A worker names its readers; that they are its children is asked of the kernel.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use tokio::sync::Notify;

/// How long readers are held at a stretch, and how long they are then let go: where there is always somebody to answer, they
/// get on all the same.
const HELD_MAX: Duration = Duration::from_millis(80);
const LET_GO: Duration = Duration::from_millis(20);
/// How long they are still held after the last answer: it has to reach who asked, who may ask again.
const GRACE: Duration = Duration::from_millis(2);

#[derive(Default)]
pub struct Precedence {
    state: Mutex<State>,
    /// Readers were held.
    held: Notify,
}

#[derive(Default)]
struct State {
    /// Whether answers are computed by the cores that readers take.
    applies: bool,
    answers: usize,
    /// Those who read documents: their numbers, and what cannot come to mean another process.
    readers: BTreeMap<u32, OwnedFd>,
    held_since: Option<Instant>,
    /// Until when readers are not held again.
    spared_until: Option<Instant>,
    /// When the last answer was given.
    answered_at: Option<Instant>,
}

#[derive(Debug, PartialEq)]
enum Relenting {
    NotYet,
    ForAWhile,
    /// Nobody is answered any more.
    Done,
}

impl Precedence {
    /// Answers are computed by this machine's processor from now on.
    pub fn apply(&self) {
        self.state().applies = true;
    }

    /// Lets readers go in time, for as long as it is awaited.
    pub async fn tend(&self) {
        loop {
            self.held.notified().await;
            loop {
                tokio::time::sleep(GRACE).await;
                match self.relent() {
                    Relenting::NotYet => {}
                    Relenting::Done => break,
                    Relenting::ForAWhile => {
                        tokio::time::sleep(LET_GO).await;
                        self.insist();
                    }
                }
            }
        }
    }

    /// An answer is under way until what is returned is dropped.
    pub fn answer(self: &Arc<Self>) -> Ahead {
        let mut state = self.state();
        state.answers += 1;
        self.hold(&mut state);
        Ahead(Arc::clone(self))
    }

    fn relent(&self) -> Relenting {
        let mut state = self.state();
        let is_over = state.answers == 0 && state.answered_at.is_none_or(|at| at.elapsed() >= GRACE);
        let is_long = state.held_since.is_some_and(|since| since.elapsed() >= HELD_MAX);
        if is_over || is_long {
            state.let_go();
        }
        if is_long && !is_over {
            state.spared_until = Some(Instant::now() + LET_GO);
        }
        match (is_over, is_long) {
            (true, _) => Relenting::Done,
            (false, true) => Relenting::ForAWhile,
            (false, false) => Relenting::NotYet,
        }
    }

    /// Holds readers again, if an answer is still under way.
    fn insist(&self) {
        let mut state = self.state();
        if state.answers > 0 {
            self.hold(&mut state);
        }
    }

    fn hold(&self, state: &mut State) {
        let now = Instant::now();
        let is_spared = state.spared_until.is_some_and(|until| now < until);
        if state.applies && !is_spared && !state.readers.is_empty() && state.held_since.is_none() {
            state.held_since = Some(now);
            state.tell(Signal::STOP);
            self.held.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn let_go(&mut self) {
        if self.held_since.take().is_some() {
            self.tell(Signal::CONT);
        }
    }

    fn tell(&self, signal: Signal) {
        self.readers.values().for_each(|reader| tell(reader, signal));
    }
}

/// Who has ended does not hear it, and need not.
fn tell(process: &OwnedFd, signal: Signal) {
    let _ = pidfd_send_signal(process, signal);
}

fn has_ended(process: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(process, PollFlags::IN)];
    poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ended| ended > 0)
}

/// proc_pid_stat(5): the parent is the fourth field. The second is a name in parentheses, which may hold anything.
fn parent(process: u32) -> Option<u32> {
    let told = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    told.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// An answer that is under way.
#[must_use]
pub struct Ahead(Arc<Precedence>);

impl Drop for Ahead {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.answers -= 1;
        state.answered_at = Some(Instant::now());
    }
}

/// The readers of one worker. Dropping it lets them go for good.
pub(super) struct Readers {
    precedence: Arc<Precedence>,
    worker: u32,
    own: Vec<u32>,
}

impl Readers {
    pub fn of(precedence: &Arc<Precedence>, worker: u32) -> Self {
        Self { precedence: Arc::clone(precedence), worker, own: Vec::new() }
    }

    /// A child of the worker reads documents from now on.
    pub fn add(&mut self, process: u32) {
        let Some(number) = i32::try_from(process).ok().and_then(Pid::from_raw) else { return };
        let Ok(opened) = pidfd_open(number, PidfdFlags::empty()) else { return };
        // Its number may have come to mean another process before it was opened, but not afterwards.
        if parent(process) != Some(self.worker) {
            return;
        }
        let mut state = self.precedence.state();
        if state.held_since.is_some() {
            tell(&opened, Signal::STOP);
        }
        self.own.retain(|reader| {
            let ended = state.readers.get(reader).is_none_or(has_ended);
            if ended {
                state.readers.remove(reader);
            }
            !ended
        });
        state.readers.insert(process, opened);
        self.own.push(process);
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        let mut state = self.precedence.state();
        for reader in self.own.iter().filter_map(|reader| state.readers.remove(reader)).collect::<Vec<_>>() {
            tell(&reader, Signal::CONT);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        process::{Child, Command},
        thread::sleep,
    };

    use super::*;

    /// A child of this process.
    struct Reader(Child);

    impl Reader {
        fn start() -> Self {
            Self(Command::new("sleep").arg("600").spawn().expect("sleep"))
        }

        fn id(&self) -> u32 {
            self.0.id()
        }

        /// Whether the kernel comes to say so of it: T where it is stopped.
        fn stands(&self, wanted: char) -> bool {
            let state = || {
                let told = fs::read_to_string(format!("/proc/{}/stat", self.id())).expect("alive");
                told.rsplit_once(") ").and_then(|(_, after)| after.chars().next())
            };
            (0..200).any(|_| {
                state() == Some(wanted) || {
                    sleep(Duration::from_millis(10));
                    false
                }
            })
        }
    }

    impl Drop for Reader {
        fn drop(&mut self) {
            self.0.kill().expect("it runs, or is stopped");
            self.0.wait().expect("it ended");
        }
    }

    fn readers(precedence: &Arc<Precedence>) -> Readers {
        Readers::of(precedence, std::process::id())
    }

    /// As who tends it finds it after a while.
    fn after(precedence: &Precedence, wait: Duration) -> Relenting {
        sleep(wait);
        precedence.relent()
    }

    #[test]
    fn readers_stand_still_while_an_answer_is_under_way() {
        let precedence = Arc::new(Precedence::default());
        precedence.apply();
        let (first, second) = (Reader::start(), Reader::start());
        let (mut some, mut others) = (readers(&precedence), readers(&precedence));
        some.add(first.id());
        let (answer, another) = (precedence.answer(), precedence.answer());
        others.add(second.id());
        assert!(first.stands('T') && second.stands('T'), "also who comes meanwhile");
        drop(answer);
        drop(others);
        assert!(first.stands('T') && second.stands('S'), "whose worker is at its end goes on");
        assert_eq!(after(&precedence, HELD_MAX), Relenting::ForAWhile);
        assert!(first.stands('S'));
        precedence.insist();
        let third = precedence.answer();
        assert!(precedence.state().held_since.is_none(), "not at once");
        sleep(LET_GO);
        precedence.insist();
        assert!(first.stands('T'));
        drop((another, third));
        assert_eq!(after(&precedence, GRACE), Relenting::Done);
        assert!(first.stands('S'));
        precedence.insist();
        assert!(precedence.state().held_since.is_none(), "nobody is answered");
    }

    #[tokio::test]
    async fn who_tends_it_lets_readers_go_after_the_last_answer_and_in_between() {
        let precedence = Arc::new(Precedence::default());
        precedence.apply();
        let reader = Reader::start();
        let mut own = readers(&precedence);
        own.add(reader.id());
        let tended = Arc::clone(&precedence);
        let tending = tokio::spawn(async move { tended.tend().await });
        for _ in 0..2 {
            let answer = precedence.answer();
            let (mut held, mut free) = (0, 0);
            while held == 0 || free == 0 {
                tokio::time::sleep(GRACE).await;
                let is_held = precedence.state().held_since.is_some();
                (held, free) = (held + u32::from(is_held), free + u32::from(!is_held));
            }
            drop(answer);
            while precedence.state().held_since.is_some() {
                tokio::time::sleep(GRACE).await;
            }
        }
        tending.abort();
        assert!(reader.stands('S'));
    }

    #[test]
    fn only_children_of_the_worker_are_held_and_the_dead_forgotten() {
        let precedence = Arc::new(Precedence::default());
        precedence.apply();
        let (reader, stranger) = (Reader::start(), Reader::start());
        let mut own = readers(&precedence);
        let mut of_another = Readers::of(&precedence, reader.id());
        of_another.add(stranger.id());
        of_another.add(u32::MAX);
        own.add(reader.id());
        let answer = precedence.answer();
        assert!(reader.stands('T') && stranger.stands('S'));
        drop(answer);
        drop(reader);
        own.add(stranger.id());
        assert_eq!(own.own, [stranger.id()]);
        assert_eq!(precedence.state().readers.len(), 1);
    }

    #[test]
    fn readers_go_on_where_a_card_answers() {
        let precedence = Arc::new(Precedence::default());
        let reader = Reader::start();
        let mut own = readers(&precedence);
        own.add(reader.id());
        let _answer = precedence.answer();
        precedence.insist();
        assert_eq!(after(&precedence, HELD_MAX), Relenting::NotYet);
        assert!(reader.stands('S'));
    }
}
