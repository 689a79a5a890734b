//! The progress line: redrawn in place on a terminal, printed sparsely where standard error is a file or a
//! pipe. It shows what the work measured and nothing that it did not.

use std::{
    fmt::Write as _,
    io::{IsTerminal, Write},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{
    screen::{Screen, printable},
    signals,
};
use crate::base::{Monitor, Progress, units::Seconds};

const REDRAW_EVERY: Duration = Duration::from_millis(100);
/// Between lines that stay: the first at once, the next soon enough to show life, then rarely enough for a log.
const PRINT_EVERY_MIN: Duration = Duration::from_secs(5);
const PRINT_EVERY_MAX: Duration = Duration::from_secs(60);
const BAR_CELLS: usize = 16;
const WIDTH_WHERE_UNKNOWN: usize = 100;

/// The monitor of a foreground command.
#[derive(Debug)]
pub struct Line<'a> {
    terminal: bool,
    /// Where text goes as a model writes it; None where the whole of it is awaited.
    aloud: Option<&'a Screen>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    stage: String,
    /// The last line of this stage, kept so that its end is always shown.
    latest: Option<String>,
    shown: Option<Instant>,
    pause: Duration,
    /// Whether an unfinished line stands on the terminal.
    open: bool,
}

impl<'a> Line<'a> {
    /// Starts listening for Ctrl-C too: work that is watched can be stopped.
    pub fn new() -> Self {
        Self::with(None)
    }

    /// Prints text as a model writes it.
    pub fn aloud(screen: &'a Screen) -> Self {
        Self::with(Some(screen))
    }

    fn with(aloud: Option<&'a Screen>) -> Self {
        signals::listen();
        Self { terminal: std::io::stderr().is_terminal(), aloud, state: Mutex::default() }
    }

    /// Ends the line, so that what follows starts on a fresh one.
    pub fn finish(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.end_stage(self.terminal);
        state.stage.clear();
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Monitor for Line<'_> {
    fn progress(&self, progress: &Progress) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.stage != progress.stage {
            state.end_stage(self.terminal);
            state.stage.clone_from(&progress.stage);
        }
        state.latest = Some(describe(progress));
        if self.terminal {
            state.redraw();
        } else {
            state.print_if_due();
        }
    }

    fn note(&self, message: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let clear = if std::mem::take(&mut state.open) { "\r\x1b[K" } else { "" };
        say(&format!("{clear}{}\n", printable(message)));
        if self.terminal && state.latest.is_some() {
            state.shown = None;
            state.redraw();
        }
    }

    fn text(&self, piece: &str) {
        if let Some(screen) = self.aloud {
            // Text that cannot be shown is not lost: it comes once more with the answer.
            let _ = screen.piece(piece);
        }
    }

    fn stop_requested(&self) -> bool {
        signals::stop_requested()
    }
}

impl State {
    fn redraw(&mut self) {
        if self.shown.is_some_and(|at| at.elapsed() < REDRAW_EVERY) {
            return;
        }
        let Some(line) = &self.latest else { return };
        let width = terminal_size::terminal_size_of(std::io::stderr())
            .map_or(WIDTH_WHERE_UNKNOWN, |(width, _)| usize::from(width.0));
        let fitting: String = line.chars().take(width.saturating_sub(1)).collect();
        say(&format!("\r{fitting}\x1b[K"));
        self.open = true;
        self.shown = Some(Instant::now());
    }

    fn print_if_due(&mut self) {
        if self.shown.is_some_and(|at| at.elapsed() < self.pause) {
            return;
        }
        if let Some(line) = self.latest.take() {
            say(&format!("{line}\n"));
        }
        self.pause = (self.pause * 2).clamp(PRINT_EVERY_MIN, PRINT_EVERY_MAX);
        self.shown = Some(Instant::now());
    }

    /// The last word of a stage stays, on a terminal and off it.
    fn end_stage(&mut self, terminal: bool) {
        if terminal && self.latest.is_some() {
            self.shown = None;
            self.redraw();
            say("\n");
        } else if let Some(line) = &self.latest {
            say(&format!("{line}\n"));
        }
        *self = Self::default();
    }
}

/// Progress that cannot be written (a closed pipe, a full disk) must not stop the work.
fn say(text: &str) {
    let mut out = std::io::stderr().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// `pretrain  ██████░░░░  step 340/1000  loss 3.214  elapsed 1m02s  left 2m01s`
fn describe(progress: &Progress) -> String {
    let Progress { stage, done, total, unit, elapsed_s, remaining_s, gauges } = progress;
    let mut line = stage.clone();
    if *total > 0 {
        let share = (*done as f64 / *total as f64).clamp(0.0, 1.0);
        let full = (share * BAR_CELLS as f64) as usize;
        let _ =
            write!(line, "  {}{} {:>3.0}%", "█".repeat(full), "░".repeat(BAR_CELLS - full), share * 100.0);
        let _ = write!(line, "  {unit} {done}/{total}");
    } else {
        let _ = write!(line, "  {unit} {done}");
    }
    for (name, value) in gauges {
        let _ = write!(line, "  {name} {value}");
    }
    let _ = write!(line, "  elapsed {}", Seconds(*elapsed_s));
    if let Some(remaining_s) = remaining_s {
        let _ = write!(line, "  left {}", Seconds(*remaining_s));
    }
    printable(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_was_measured_and_no_more() {
        let mut progress = Progress {
            stage: "pretrain".into(),
            done: 250,
            total: 1000,
            unit: "step".into(),
            elapsed_s: 62.0,
            remaining_s: Some(186.0),
            gauges: vec![("loss".into(), "3.214".into())],
        };
        assert_eq!(
            describe(&progress),
            "pretrain  ████░░░░░░░░░░░░  25%  step 250/1000  loss 3.214  elapsed 1m02s  left 3m06s"
        );
        progress = Progress { total: 0, remaining_s: None, gauges: Vec::new(), ..progress };
        assert_eq!(describe(&progress), "pretrain  step 250  elapsed 1m02s");
    }
}
