//! How parent and child speak: frames of a kind, a length and a payload. Each side checks every length
//! before it takes memory for it, because the child may have been taken over by what it read.

use std::{
    io::{self, ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::corpus::{
    Format,
    extract::{Event, Options, Piece, SOURCE_BYTES_MAX, TEXT_BYTES_MAX},
    refusal::Refused,
};

const HEAD_BYTES_MAX: u64 = 1 << 20;

/// What precedes a document's bytes.
#[derive(Serialize, Deserialize)]
pub struct Request {
    pub options: Options,
}

/// What comes back: any number of events, then one `Done` or `Refused`.
pub enum Answer {
    Event(Event),
    Done(Format),
    Refused(Refused),
}

/// How long a stop may go unnoticed while a child is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Why a conversation cannot go on.
#[derive(Debug)]
pub enum Broken {
    Late,
    Gone,
    /// By our own side.
    Stopped,
    Nonsense(&'static str),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Self::Late,
            ErrorKind::ConnectionAborted => Self::Stopped,
            _ => Self::Gone,
        }
    }
}

/// The parent's end of the socket, with a clock that runs only while the parent waits for the child.
pub struct Timed<'s> {
    socket: &'s UnixStream,
    left: Duration,
    /// Asked when the time is up: what the child has not had of it.
    owed: &'s dyn Fn() -> Duration,
    /// Set by whoever no longer wants the answer.
    stop: &'s AtomicBool,
}

impl<'s> Timed<'s> {
    pub fn new(
        socket: &'s UnixStream,
        left: Duration,
        owed: &'s dyn Fn() -> Duration,
        stop: &'s AtomicBool,
    ) -> Self {
        Self { socket, left, owed, stop }
    }

    fn waiting<T>(
        &mut self,
        mut action: impl FnMut(&UnixStream, Duration) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            if self.left.is_zero() {
                self.left = (self.owed)();
            }
            if self.left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            if self.stop.load(Ordering::Relaxed) {
                return Err(ErrorKind::ConnectionAborted.into());
            }
            let started = Instant::now();
            let outcome = action(self.socket, self.left.min(LOOK_EVERY));
            self.left = self.left.saturating_sub(started.elapsed());
            match outcome {
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                outcome => return outcome,
            }
        }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.waiting(|mut socket, left| {
            socket.set_read_timeout(Some(left))?;
            socket.read(buffer)
        })
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.waiting(|mut socket, left| {
            socket.set_write_timeout(Some(left))?;
            socket.write(bytes)
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub fn send_request(line: &mut impl Write, request: &Request, source: &[u8]) -> Result<(), Broken> {
    send(line, b'Q', request, source)?;
    Ok(())
}

/// The next document; `None` when the parent has hung up.
pub fn receive_request(mut line: &UnixStream) -> Result<Option<(Request, Vec<u8>)>, ()> {
    match receive(&mut line, SOURCE_BYTES_MAX) {
        Ok((b'Q', head, source)) => Ok(Some((parse(&head).map_err(|_| ())?, source))),
        Err(Broken::Gone) => Ok(None),
        Ok(_) | Err(_) => Err(()),
    }
}

pub fn send_answer(line: &mut impl Write, answer: &Answer) -> io::Result<()> {
    match answer {
        Answer::Event(Event::Piece(piece)) => send(line, b'P', piece, piece.text.as_bytes()),
        Answer::Event(Event::RowRefused { row, refused }) => send(line, b'r', &(row, refused), &[]),
        Answer::Done(format) => send(line, b'D', format, &[]),
        Answer::Refused(refused) => send(line, b'R', refused, &[]),
    }
}

pub fn receive_answer(line: &mut impl Read) -> Result<Answer, Broken> {
    let (kind, head, body) = receive(line, TEXT_BYTES_MAX)?;
    Ok(match kind {
        b'P' => {
            let text = String::from_utf8(body).map_err(|_| Broken::Nonsense("text that is not UTF-8"))?;
            Answer::Event(Event::Piece(Piece { text, ..parse(&head)? }))
        }
        b'r' => {
            let (row, refused) = parse(&head)?;
            Answer::Event(Event::RowRefused { row, refused })
        }
        b'D' => Answer::Done(parse(&head)?),
        b'R' => Answer::Refused(parse(&head)?),
        _ => return Err(Broken::Nonsense("an unknown kind of frame")),
    })
}

fn parse<T: DeserializeOwned>(head: &[u8]) -> Result<T, Broken> {
    serde_json::from_slice(head).map_err(|_| Broken::Nonsense("a frame that does not parse"))
}

/// A frame: kind, length of the head, length of the body, head (JSON), body.
fn send(line: &mut impl Write, kind: u8, head: &impl Serialize, body: &[u8]) -> io::Result<()> {
    let head = serde_json::to_vec(head)?;
    let mut start = Vec::with_capacity(17 + head.len());
    start.push(kind);
    start.extend((head.len() as u64).to_le_bytes());
    start.extend((body.len() as u64).to_le_bytes());
    start.extend(&head);
    line.write_all(&start)?;
    line.write_all(body)
}

fn receive(line: &mut impl Read, body_bytes_max: u64) -> Result<(u8, Vec<u8>, Vec<u8>), Broken> {
    let mut start = [0; 17];
    line.read_exact(&mut start)?;
    let [kind, lengths @ ..] = start;
    let (head, body) = lengths.split_at(8);
    let length = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |length, &byte| length << 8 | u64::from(byte));
    let (head_bytes, body_bytes) = (length(head), length(body));
    if head_bytes > HEAD_BYTES_MAX || body_bytes > body_bytes_max {
        return Err(Broken::Nonsense("a frame that is too long"));
    }
    Ok((kind, exactly(line, head_bytes)?, exactly(line, body_bytes)?))
}

fn exactly(line: &mut impl Read, bytes: u64) -> Result<Vec<u8>, Broken> {
    let mut filled =
        vec![0; usize::try_from(bytes).map_err(|_| Broken::Nonsense("a frame that is too long"))?];
    line.read_exact(&mut filled)?;
    Ok(filled)
}
