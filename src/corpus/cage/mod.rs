//! The cage: documents are read in a child process that holds nothing worth stealing and can do nothing but
//! turn bytes into text. Bytes go in and text comes out over one inherited socket, never by a file; a
//! document that crashes the reader, fills its memory or never ends costs that document alone. The child is
//! reused from document to document and replaced when it fails.

mod child;
mod limits;
mod processor;
mod walls;
mod wire;

use std::{
    ffi::OsString,
    io::Read,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt, process::ExitStatusExt},
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

pub use child::child_main;
pub use walls::Walls;

use super::{
    Format, Reason,
    extract::{Event, Options, SOURCE_BYTES_MAX, TEXT_BYTES_MAX},
    refusal::Refused,
};
use crate::base::{Context, Error, Result};
use wire::{Answer, Request};

/// The longest that one document may take: processor time of the child, and time on the clock while it waits for anything
/// but a processor.
pub const WALL_MAX: Duration = Duration::from_secs(30);
/// A child is replaced after this many documents: what a parser leaks does not pile up.
const DOCUMENTS_PER_CHILD: u32 = 1000;
/// A document above this leaves a heap behind that is not worth keeping.
const LARGE_SOURCE_BYTES: usize = 16 << 20;

/// What the child is told where its walls may be missing.
pub const ALLOW_WEAK: &str = "allow-weak";

/// The command that starts a child which calls [`child_main`].
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
}

impl Program {
    /// This very binary: `cloister worker extract`, and whether its walls may be missing.
    #[cfg(not(test))]
    pub fn own(allow_weak: bool) -> Self {
        let mut arguments = vec!["worker".into(), "extract".into()];
        arguments.extend(allow_weak.then(|| ALLOW_WEAK.into()));
        Self { path: PathBuf::from("/proc/self/exe"), arguments, variables: Vec::new() }
    }

    /// The test binary, told to run the one test that plays the child.
    #[cfg(test)]
    pub fn own(allow_weak: bool) -> Self {
        let walls = if allow_weak { ALLOW_WEAK } else { "strict" };
        Self {
            path: PathBuf::from("/proc/self/exe"),
            arguments: vec!["--exact".into(), "corpus::cage::tests::plays_the_child".into()],
            variables: vec![("CLOISTER_TEST_CAGE".into(), walls.into())],
        }
    }
}

/// One cage; each thread that reads documents has its own.
pub struct Cage<'a> {
    program: Program,
    child: Option<Running>,
    wall_max: Duration,
    /// A child of this program has answered before: if one ends, it is a document's doing.
    is_proven: bool,
    stop: Arc<AtomicBool>,
    /// Is told of every child by its process number.
    started: &'a (dyn Fn(u32) + Sync),
}

#[derive(Debug)]
struct Running {
    process: Child,
    socket: UnixStream,
    /// What the child complains of when it dies.
    complaints: UnixStream,
    documents: u32,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have died by itself; either way it is collected and leaves no zombie.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl<'a> Cage<'a> {
    pub fn new(program: Program) -> Self {
        Self::until(Arc::default(), program, &|_| ())
    }

    /// A cage that is of no use once `stop` is set: a document that is being read is given up at once. `started` is told of
    /// every child by its process number.
    pub fn until(stop: Arc<AtomicBool>, program: Program, started: &'a (dyn Fn(u32) + Sync)) -> Self {
        Self { program, child: None, wall_max: WALL_MAX, is_proven: false, stop, started }
    }

    /// Reads one document. What is found goes to `sink` as it comes; the outcome says what the file was, or
    /// why it was refused.
    ///
    /// # Errors
    /// The outer error is ours (no child can be started, `sink` failed, or a stop was asked for) and ends the ingest; the
    /// inner one is the document's.
    pub fn extract(
        &mut self,
        source: &[u8],
        options: &Options,
        sink: &mut dyn FnMut(Event) -> Result<()>,
    ) -> Result<std::result::Result<Format, Refused>> {
        if source.len() as u64 > SOURCE_BYTES_MAX {
            return Ok(Err(Refused::new(Reason::TooLarge, format!("more than {SOURCE_BYTES_MAX} bytes"))));
        }
        let (wall_max, stop) = (self.wall_max, &self.stop);
        let running = match &mut self.child {
            Some(running) => running,
            none => {
                let running = none.insert(start(&self.program)?);
                (self.started)(running.process.id());
                if !self.is_proven {
                    running.rehearse(stop)?;
                    self.is_proven = true;
                }
                running
            }
        };
        running.documents += 1;
        let outcome = running.converse(source, options, wall_max, stop, sink);
        let keep = matches!(&outcome, Ok(Ok(_)) | Ok(Err(Refusing::Said(_))))
            && running.documents < DOCUMENTS_PER_CHILD
            && source.len() < LARGE_SOURCE_BYTES;
        let refused = match outcome? {
            Ok(format) => Ok(format),
            Err(Refusing::Said(refused)) => Err(refused),
            Err(Refusing::Late) => {
                Err(Refused::new(Reason::TimedOut, format!("after {} s", wall_max.as_secs())))
            }
            Err(Refusing::Nonsense(what)) => Err(Refused::new(Reason::Crashed, what)),
            Err(Refusing::Gone) => Err(running.post_mortem()),
            Err(Refusing::Stopped) => return Err(Error::interrupted("reading documents was stopped")),
        };
        if !keep {
            self.child = None;
        }
        Ok(refused)
    }
}

fn start(program: &Program) -> Result<Running> {
    let (socket, childs_end) = UnixStream::pair().context("making the cage's socket")?;
    let (complaints, childs_complaints) = UnixStream::pair().context("making the cage's socket")?;
    // A child that complains at length must not wait for us to listen.
    childs_complaints.set_nonblocking(true).context("setting up the cage's socket")?;
    complaints.set_nonblocking(true).context("setting up the cage's socket")?;
    let process = Command::new(&program.path)
        .args(&program.arguments)
        .env_clear()
        .envs(program.variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::from(OwnedFd::from(childs_end)))
        .stdout(Stdio::null())
        .stderr(Stdio::from(OwnedFd::from(childs_complaints)))
        .current_dir("/")
        // Ctrl-C on the terminal is for the warden to hear, not for the child.
        .process_group(0)
        .spawn()
        .context("starting the process that reads documents")?;
    Ok(Running { process, socket, complaints, documents: 0 })
}

/// Why a conversation ended without a format.
enum Refusing {
    /// The child said so itself.
    Said(Refused),
    Late,
    Gone,
    Stopped,
    /// The child said what no child of ours says: it is no longer ours.
    Nonsense(&'static str),
}

impl From<wire::Broken> for Refusing {
    fn from(broken: wire::Broken) -> Self {
        match broken {
            wire::Broken::Late => Self::Late,
            wire::Broken::Gone => Self::Gone,
            wire::Broken::Stopped => Self::Stopped,
            wire::Broken::Nonsense(what) => Self::Nonsense(what),
        }
    }
}

impl Running {
    /// Has the first child of a program read one letter: if that ends it, it is the reader that is at fault,
    /// and refusing document after document would say the wrong thing.
    fn rehearse(&mut self, stop: &AtomicBool) -> Result<()> {
        let ended = match self.converse(b"x", &Options::default(), WALL_MAX, stop, &mut |_| Ok(()))? {
            Ok(_) => return Ok(()),
            Err(Refusing::Gone) => ending(wait_a_moment(&mut self.process)),
            Err(Refusing::Stopped) => return Err(Error::interrupted("reading documents was stopped")),
            Err(_) => "it does not answer as it should".to_owned(),
        };
        Err(Error::failed(format!("the process that reads documents ends at once ({ended})"))
            .remedy("run `cloister doctor`: the kernel may refuse it its limits"))
    }

    fn converse(
        &mut self,
        source: &[u8],
        options: &Options,
        wall_max: Duration,
        stop: &AtomicBool,
        sink: &mut dyn FnMut(Event) -> Result<()>,
    ) -> Result<std::result::Result<Format, Refusing>> {
        self.hush();
        let process = self.process.id();
        let before = processor::look(process).used;
        let owed = || processor::owed(process, before + wall_max);
        let mut line = wire::Timed::new(&self.socket, wall_max, &owed, stop);
        if let Err(broken) = wire::send_request(&mut line, &Request { options: options.clone() }, source) {
            return Ok(Err(broken.into()));
        }
        let mut text_bytes = 0;
        loop {
            match wire::receive_answer(&mut line) {
                Ok(Answer::Event(event)) => {
                    if let Event::Piece(piece) = &event {
                        text_bytes += piece.text.len() as u64;
                    }
                    // The child counts too; a child that was taken over might not.
                    if text_bytes > TEXT_BYTES_MAX {
                        return Ok(Err(Refusing::Nonsense("more text than the limit")));
                    }
                    sink(event)?;
                }
                Ok(Answer::Done(format)) => return Ok(Ok(format)),
                // A reader that panicked may have left anything behind: it is replaced.
                Ok(Answer::Refused(refused)) if refused.reason == Reason::Crashed => {
                    self.documents = DOCUMENTS_PER_CHILD;
                    return Ok(Err(Refusing::Said(refused)));
                }
                Ok(Answer::Refused(refused)) => return Ok(Err(Refusing::Said(refused))),
                Err(broken) => return Ok(Err(broken.into())),
            }
        }
    }

    /// Forgets earlier complaints.
    fn hush(&mut self) {
        self.last_complaint();
    }

    fn last_complaint(&mut self) -> String {
        let mut last = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = self.complaints.read(&mut buffer) {
            last.clear();
            last.extend_from_slice(&buffer[..read]);
        }
        String::from_utf8_lossy(&last).into_owned()
    }

    /// Why the child is gone, as far as can be told. Its own words are looked at, not repeated: they may
    /// quote the document.
    fn post_mortem(&mut self) -> Refused {
        let status = wait_a_moment(&mut self.process);
        match status.and_then(|status| status.signal()) {
            Some(libc::SIGXCPU) => return Refused::new(Reason::TimedOut, "processor time"),
            Some(libc::SIGSYS) => return Refused::new(Reason::Forbidden, "the kernel ended the reader"),
            _ => {}
        }
        if self.last_complaint().contains("memory allocation of") {
            return Refused::new(Reason::OutOfMemory, format!("more than {}", limits::memory_words()));
        }
        Refused::new(Reason::Crashed, ending(status))
    }
}

fn ending(status: Option<std::process::ExitStatus>) -> String {
    match status.map(|status| (status.signal(), status.code())) {
        Some((Some(signal), _)) => format!("signal {signal}"),
        Some((None, Some(code))) => format!("exit code {code}"),
        Some((None, None)) | None => String::new(),
    }
}

/// The exit status of a child whose socket has closed; it is ending, so this takes no time worth naming.
fn wait_a_moment(process: &mut Child) -> Option<std::process::ExitStatus> {
    let until = Instant::now() + Duration::from_secs(2);
    loop {
        match process.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(2)),
            Ok(None) | Err(_) => return None,
        }
    }
}

/// For the child's own failures to start or to speak, which its parent sees as a child that is gone.
fn cage_error(message: &str) -> Error {
    Error::failed(message).remedy("this process is started by an ingest, not by hand")
}

#[cfg(test)]
mod tests;
