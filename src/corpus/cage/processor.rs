//! What the child has had of the processors, as its parent sees it: it yields to everybody, so that the clock alone
//! says nothing about how long a document takes.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

/// In which the kernel tells processor time, on every machine.
const TICKS_PER_S: u64 = 100;

/// A reader is stopped while somebody is answered, and let go long before this: who stays stopped has done it to itself.
const STOPPED_MAX: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// How a process stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// It computes, or waits for a processor to do so.
    pub is_runnable: bool,
    pub is_stopped: bool,
    pub used: Duration,
}

/// Nothing is used, and nothing wanted, by a process that is gone.
pub fn look(process: u32) -> Standing {
    let told = std::fs::read_to_string(format!("/proc/{process}/stat"));
    told.ok().and_then(|told| parse(&told)).unwrap_or_default()
}

/// What is left of its time to a process that may use the processor `until` so much in all; nothing where it waits for
/// something else.
pub fn owed(process: u32, until: Duration) -> Duration {
    let asked = Instant::now();
    let mut standing = look(process);
    while standing.is_stopped && asked.elapsed() < STOPPED_MAX {
        sleep(LOOK_AGAIN);
        standing = look(process);
    }
    if standing.is_runnable { until.saturating_sub(standing.used) } else { Duration::ZERO }
}

/// proc_pid_stat(5): the state is the third field, user and system time the fourteenth and fifteenth. The second is a
/// name in parentheses, which may hold anything.
fn parse(told: &str) -> Option<Standing> {
    let (_, after) = told.rsplit_once(") ")?;
    let fields: Vec<&str> = after.split(' ').collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    let used = Duration::from_millis(ticks * 1000 / TICKS_PER_S);
    let state = *fields.first()?;
    Some(Standing { is_runnable: state == "R", is_stopped: state == "T", used })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use rustix::process::{Pid, Signal, kill_process};

    use super::*;

    #[test]
    fn a_standing_is_read_whatever_the_name() {
        let told = "77 (a) R (b) S 1 77 77 0 -1 4194560 101 0 0 0 250 50 0 0 39 19 1 0 3 4 5";
        assert_eq!(parse(told), Some(Standing { used: Duration::from_secs(3), ..Standing::default() }));
        assert!(parse(&told.replace(") S", ") R")).expect("whole").is_runnable);
        assert!(parse(&told.replace(") S", ") T")).expect("whole").is_stopped);
        assert_eq!(parse("77 (a) R 1"), None);
        assert_eq!(look(u32::MAX), Standing::default());
        let own = std::process::id();
        while look(own).used == Duration::ZERO {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn who_is_stopped_for_a_while_keeps_its_time_and_who_stays_stopped_does_not() {
        let mut child = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().expect("a shell");
        let process = child.id();
        let tell = |signal| kill_process(Pid::from_child(&child), signal).expect("it is there");
        tell(Signal::STOP);
        while !look(process).is_stopped {
            sleep(LOOK_AGAIN);
        }
        assert_eq!(owed(process, Duration::from_secs(600)), Duration::ZERO);
        let owed = std::thread::scope(|scope| {
            let asked = scope.spawn(|| owed(process, Duration::from_secs(600)));
            sleep(STOPPED_MAX / 5);
            tell(Signal::CONT);
            asked.join().expect("an answer")
        });
        child.kill().expect("it runs");
        child.wait().expect("it ended");
        assert!(owed > Duration::from_secs(500), "{owed:?}");
    }
}
