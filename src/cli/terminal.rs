//! Asking for a secret at the terminal. What is typed is not shown, goes into memory that is wiped, and the terminal
//! is what it was before, whether the question was answered or broken off.

use std::{
    io::{IsTerminal, Stdin, Write, stdin},
    sync::atomic::Ordering,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr},
};

use super::signals;
use crate::{
    base::{Context, Error, Result},
    seal::{Secret, WipedVec},
};

/// A terminal's line has no more.
const LINE_BYTES_MAX: usize = 4096;
/// How soon Ctrl-C is noticed.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// The line that somebody types at `prompt`; `instead` says what to do where nobody can.
///
/// # Errors
/// `Usage` where standard input is no terminal, `Interrupted` where nothing was typed.
pub fn ask_secret(prompt: &str, instead: &str) -> Result<Secret> {
    let stdin = stdin();
    if !stdin.is_terminal() {
        return Err(Error::usage("there is no terminal to ask for a secret at").remedy(instead));
    }
    // Before the terminal is changed: a signal that nobody listens for would leave it so.
    let stop = signals::listen();
    let _quiet = Quiet::new(&stdin)?;
    let mut stderr = std::io::stderr();
    write!(stderr, "{prompt}: ").and_then(|()| stderr.flush()).context("writing to the terminal")?;
    let (mut typed, mut length) = (WipedVec::zeroed(LINE_BYTES_MAX), 0);
    while !typed[..length].contains(&b'\n') {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::interrupted("nothing was typed"));
        }
        if length == typed.len() {
            return Err(Error::usage(format!("a line has {LINE_BYTES_MAX} bytes at most")));
        }
        length += read_some(&stdin, &mut typed[length..])?;
    }
    let line = typed.split(|&byte| byte == b'\n').next().unwrap_or_default();
    Ok(Secret::new(line.to_vec()))
}

/// What has come within the tick. It is read past the buffer of standard input, which nobody wipes.
fn read_some(stdin: &Stdin, into: &mut [u8]) -> Result<usize> {
    let mut waiting = [PollFd::new(stdin, PollFlags::IN)];
    match poll(&mut waiting, Some(&TICK)) {
        Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(0),
        outcome => outcome.map_err(std::io::Error::from).context("waiting for the terminal")?,
    };
    match rustix::io::read(stdin, into).map_err(std::io::Error::from).context("reading the terminal")? {
        0 => Err(Error::interrupted("nothing was typed")),
        more => Ok(more),
    }
}

/// The terminal without its echo, until this goes.
struct Quiet<'a> {
    stdin: &'a Stdin,
    before: Termios,
}

impl<'a> Quiet<'a> {
    fn new(stdin: &'a Stdin) -> Result<Self> {
        let before = tcgetattr(stdin).map_err(std::io::Error::from).context("asking the terminal")?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        quiet.local_modes.insert(LocalModes::ECHONL);
        // What was typed too early was shown, and is no secret.
        tcsetattr(stdin, OptionalActions::Flush, &quiet)
            .map_err(std::io::Error::from)
            .context("silencing the terminal")?;
        Ok(Self { stdin, before })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        // The terminal may be gone.
        let _ = tcsetattr(self.stdin, OptionalActions::Now, &self.before);
    }
}
