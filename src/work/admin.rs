//! The admin socket: what a command asks of the daemon that holds the data directory. One connection carries
//! one question; the answer comes after any number of progress lines, notes and pieces of text, one JSON
//! document a line. Who may connect is settled twice: the socket lies in a directory that its owner alone may
//! enter, and the kernel says who connects. A connection that ends before its answer asks the work to stop. A secret
//! comes as it is, once the daemon is ready to take it into memory that is wiped: it is part of no message.

use std::{
    fs::{DirBuilder, File},
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::{
            fs::DirBuilderExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::question::Question;
use crate::{
    base::{Context, Error, Monitor, Progress, Result},
    seal::{Secret, WipedVec},
};

const SOCKET: &str = "admin.sock";
/// A question is a command's arguments: paths, a prompt, a run file.
const QUESTION_BYTES_MAX: u64 = 16 << 20;
/// The longest secret is a key file.
const SECRET_BYTES_MAX: u32 = 64 << 10;
/// From the moment that the daemon is ready for it.
const SECRET_WITHIN: Duration = Duration::from_secs(10);
/// How soon a stop is noticed by either end.
const TICK: Duration = Duration::from_millis(50);

/// Client to daemon.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Ask {
    Question {
        /// Of the asking binary: the two ends must read the same types.
        version: String,
        question: Question,
        /// Of the secret that comes with it; none has none. It follows when the daemon is ready for it, as it is, and is
        /// part of no message.
        secret_bytes: u32,
    },
    Stop,
}

/// Daemon to client; the last two end the connection.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Tell {
    /// For the secret that was announced.
    Ready,
    Progress(Progress),
    Note(String),
    Text(String),
    Answer(Value),
    Failed(Error),
}

/// Reaches the daemon; None where none listens.
pub fn connect(data_dir: &Path) -> Result<Option<UnixStream>> {
    let Ok(directory) = File::open(data_dir.join("run")) else { return Ok(None) };
    match UnixStream::connect(short_path(&directory)) {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => Ok(None),
        Err(error) => Err(error).context("connecting to the daemon's admin socket"),
    }
}

/// A socket's path may have 107 bytes, a data directory's more: this one is short however deep it lies.
fn short_path(directory: &File) -> PathBuf {
    format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()).into()
}

/// Asks a question, with the secret that comes with it, and relays what comes before its answer.
pub fn ask(
    stream: UnixStream,
    question: Question,
    secret: Option<&Secret>,
    monitor: &dyn Monitor,
) -> Result<Value> {
    let secret_bytes = u32::try_from(secret.map_or(0, Secret::len)).context("measuring a secret")?;
    let version = env!("CARGO_PKG_VERSION").into();
    send(&stream, &Ask::Question { version, question, secret_bytes })?;
    stream.set_read_timeout(Some(TICK)).context("waiting for the daemon")?;
    let mut lines = Lines::new(&stream, u64::MAX);
    let mut asked_to_stop = false;
    loop {
        match lines.next()? {
            Received::Line(Tell::Ready) => {
                let secret = secret.map_or(&[][..], Secret::danger_expose);
                (&stream).write_all(secret).context("writing to the admin socket")?;
            }
            Received::Line(Tell::Progress(progress)) => monitor.progress(&progress),
            Received::Line(Tell::Note(message)) => monitor.note(&message),
            Received::Line(Tell::Text(piece)) => monitor.text(&piece),
            Received::Line(Tell::Answer(answer)) => return Ok(answer),
            Received::Line(Tell::Failed(error)) => return Err(error),
            Received::Nothing => {}
            Received::End => return Err(Error::unavailable("the daemon ended before it answered")),
        }
        if monitor.stop_requested() && !asked_to_stop {
            send(&stream, &Ask::Stop)?;
            asked_to_stop = true;
        }
    }
}

/// Answers a question from the user with this number, and takes the secret that came with it.
pub type Answer<'a> = dyn Fn(u32, Question, Secret, &dyn Monitor) -> Result<Value> + Sync + 'a;

/// The admin socket, as the daemon has it. Its name goes when this does.
pub struct Listener {
    listener: UnixListener,
    name: PathBuf,
}

impl Listener {
    /// Takes the name over from a daemon that was killed: whoever holds the lock owns it.
    pub(super) fn bind(data_dir: &Path) -> Result<Self> {
        let run = data_dir.join("run");
        DirBuilder::new().recursive(true).mode(0o700).create(&run).context("making the run directory")?;
        let directory = File::open(&run).context("opening the run directory")?;
        let name = run.join(SOCKET);
        let _ = std::fs::remove_file(&name);
        let listener = UnixListener::bind(short_path(&directory)).context("listening on the admin socket")?;
        listener.set_nonblocking(true).context("listening on the admin socket")?;
        Ok(Self { listener, name })
    }

    /// That of an earlier life of this process.
    pub(super) fn handed_over(listener: UnixListener, data_dir: &Path) -> Self {
        Self { listener, name: data_dir.join("run").join(SOCKET) }
    }

    /// Answers until told to stop; work that is asked for is told to stop then too.
    pub fn serve(&self, stop: &AtomicBool, answer: &Answer<'_>) {
        std::thread::scope(|connections| {
            while !stop.load(Ordering::Relaxed) {
                match self.listener.accept() {
                    Ok((stream, _)) => {
                        connections.spawn(move || {
                            if let Err(error) = answer_one(&stream, stop, answer) {
                                tracing::debug!("admin socket: {error}");
                            }
                        });
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(TICK),
                    Err(error) => {
                        tracing::warn!("admin socket: {error}");
                        std::thread::sleep(TICK);
                    }
                }
            }
        });
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // A stale name would only cost the next client a refused connection.
        let _ = std::fs::remove_file(&self.name);
    }
}

fn answer_one(stream: &UnixStream, stop: &AtomicBool, answer: &Answer<'_>) -> Result<()> {
    stream.set_nonblocking(false).context("reading a question")?;
    stream.set_read_timeout(Some(TICK)).context("reading a question")?;
    let uid = rustix::net::sockopt::socket_peercred(stream)
        .map_err(std::io::Error::from)
        .context("asking who connects")?
        .uid
        .as_raw();
    if !may_ask(uid) {
        let refused = Error::denied(format!("user {uid} may not ask this daemon"));
        return send(stream, &Tell::Failed(refused.remedy("ask as the user that it runs under, or as root")));
    }
    let mut lines = Lines::new(stream, QUESTION_BYTES_MAX);
    let (question, secret_bytes) = loop {
        match lines.next()? {
            Received::Line(Ask::Question { version, question, secret_bytes })
                if version == env!("CARGO_PKG_VERSION") =>
            {
                break (question, secret_bytes);
            }
            Received::Line(Ask::Question { version, .. }) => {
                let refused = Error::unavailable(format!(
                    "the daemon is version {}, this command is {version}",
                    env!("CARGO_PKG_VERSION")
                ));
                return send(stream, &Tell::Failed(refused.remedy("restart the daemon, or use its binary")));
            }
            Received::Nothing if !stop.load(Ordering::Relaxed) => {}
            Received::Nothing | Received::Line(Ask::Stop) | Received::End => return Ok(()),
        }
    };
    let secret = match secret_bytes {
        0 => Secret::new(Vec::new()),
        bytes => receive_secret(stream, &lines, bytes, stop)?,
    };
    let relay = Relay { stream: Mutex::new(stream), hung_up: AtomicBool::new(false), stop };
    let finished = AtomicBool::new(false);
    let outcome = std::thread::scope(|threads| {
        threads.spawn(|| {
            while !finished.load(Ordering::Relaxed) {
                if !matches!(lines.next::<Ask>(), Ok(Received::Nothing)) {
                    relay.hung_up.store(true, Ordering::Relaxed);
                    return;
                }
            }
        });
        let outcome = answer(uid, question, secret, &relay);
        finished.store(true, Ordering::Relaxed);
        outcome
    });
    relay.tell(&outcome.map_or_else(Tell::Failed, Tell::Answer));
    Ok(())
}

/// Takes a secret past every buffer but its own. The sender waits until it hears that it should send: what came
/// before lies in a buffer that nobody wipes, and is refused.
fn receive_secret(
    mut stream: &UnixStream,
    lines: &Lines<'_>,
    bytes: u32,
    stop: &AtomicBool,
) -> Result<Secret> {
    if bytes > SECRET_BYTES_MAX || !lines.reader.buffer().is_empty() {
        return Err(Error::usage("a secret that is too long, or came before it was asked for"));
    }
    send(stream, &Tell::Ready)?;
    let (mut secret, mut arrived) = (WipedVec::zeroed(bytes as usize), 0);
    let until = Instant::now() + SECRET_WITHIN;
    while arrived < secret.len() {
        match stream.read(&mut secret[arrived..]) {
            Ok(0) => return Err(Error::interrupted("the connection ended before the secret did")),
            Ok(more) => arrived += more,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if stop.load(Ordering::Relaxed) || Instant::now() > until {
                    return Err(Error::interrupted("stopped before the secret came"));
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("reading a secret"),
        }
    }
    Ok(secret.into())
}

/// The user that the daemon runs under, who holds the data directory, and root, who holds everything.
fn may_ask(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

/// The monitor of work that is watched over the socket.
struct Relay<'a> {
    stream: Mutex<&'a UnixStream>,
    hung_up: AtomicBool,
    stop: &'a AtomicBool,
}

impl Relay<'_> {
    fn tell(&self, message: &Tell) {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        if send(&stream, message).is_err() {
            self.hung_up.store(true, Ordering::Relaxed);
        }
    }
}

impl Monitor for Relay<'_> {
    fn progress(&self, progress: &Progress) {
        self.tell(&Tell::Progress(progress.clone()));
    }

    fn note(&self, message: &str) {
        self.tell(&Tell::Note(message.into()));
    }

    fn text(&self, piece: &str) {
        self.tell(&Tell::Text(piece.into()));
    }

    fn stop_requested(&self) -> bool {
        self.hung_up.load(Ordering::Relaxed) || self.stop.load(Ordering::Relaxed)
    }
}

fn send(mut stream: &UnixStream, message: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(message).context("writing to the admin socket")?;
    line.push(b'\n');
    stream.write_all(&line).context("writing to the admin socket")
}

enum Received<T> {
    Line(T),
    /// The tick passed; what has come so far is kept.
    Nothing,
    End,
}

/// Whole lines from a stream with a read timeout.
struct Lines<'a> {
    reader: BufReader<&'a UnixStream>,
    partial: Vec<u8>,
    bytes_max: u64,
}

impl<'a> Lines<'a> {
    fn new(stream: &'a UnixStream, bytes_max: u64) -> Self {
        Self { reader: BufReader::new(stream), partial: Vec::new(), bytes_max }
    }

    fn next<T: DeserializeOwned>(&mut self) -> Result<Received<T>> {
        let room = self.bytes_max.saturating_sub(self.partial.len() as u64);
        match (&mut self.reader).take(room).read_until(b'\n', &mut self.partial) {
            Ok(_) if self.partial.ends_with(b"\n") => {
                let line = std::mem::take(&mut self.partial);
                // serde's own text quotes what it could not read.
                serde_json::from_slice(&line).map(Received::Line).map_err(|error| {
                    Error::failed(format!(
                        "a line over the admin socket does not read (column {})",
                        error.column()
                    ))
                })
            }
            Ok(_) if self.partial.len() as u64 >= self.bytes_max => {
                Err(Error::usage(format!("a question may have {} bytes", self.bytes_max)))
            }
            Ok(_) => Ok(Received::End),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Ok(Received::Nothing)
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(Received::End),
            Err(error) => Err(error).context("reading from the admin socket"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::{
            ErrorKind as Kind, Silent,
            damage::{FIRST_TIER, again_and_again},
        },
        work::{question::SecretKind, request::Request},
    };

    /// Runs `client` against a daemon that answers with `answer`.
    fn with_daemon<T>(answer: &Answer<'_>, client: impl FnOnce(&Path) -> T) -> T {
        // Longer than a socket's path may be.
        let directory = tempfile::tempdir().expect("temporary directory");
        let data_dir = directory.path().join("d".repeat(120));
        let stop = AtomicBool::new(false);
        let said = std::thread::scope(|threads| {
            let listener = Listener::bind(&data_dir).expect("a socket");
            threads.spawn({
                let stop = &stop;
                move || listener.serve(stop, answer)
            });
            let said = client(&data_dir);
            stop.store(true, Ordering::Relaxed);
            said
        });
        assert!(connect(&data_dir).expect("readable").is_none(), "the name went with the daemon");
        said
    }

    fn status() -> Question {
        Question::Warden(Box::new(Request::Status))
    }

    #[derive(Default)]
    struct Heard {
        lines: Mutex<Vec<String>>,
        stop: AtomicBool,
    }

    impl Monitor for Heard {
        fn progress(&self, progress: &Progress) {
            self.lines.lock().expect("unpoisoned").push(progress.stage.clone());
        }
        fn note(&self, message: &str) {
            self.lines.lock().expect("unpoisoned").push(message.into());
        }
        fn text(&self, piece: &str) {
            self.lines.lock().expect("unpoisoned").push(piece.into());
        }
        fn stop_requested(&self) -> bool {
            self.stop.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn what_is_said_on_the_way_comes_in_order_before_the_answer() {
        let answer = |_: u32, question: Question, _: Secret, monitor: &dyn Monitor| {
            assert!(matches!(question, Question::Warden(request) if matches!(*request, Request::Status)));
            monitor.note("one\ntwo");
            monitor.progress(&Progress { stage: "three".into(), ..Progress::default() });
            monitor.text("vier — ✓");
            Ok(Value::from(5))
        };
        with_daemon(&answer, |data_dir| {
            let heard = Heard::default();
            let daemon = connect(data_dir).expect("readable").expect("listening");
            assert_eq!(ask(daemon, status(), None, &heard).expect("answered"), Value::from(5));
            assert_eq!(*heard.lines.lock().expect("unpoisoned"), ["one\ntwo", "three", "vier — ✓"]);
        });
    }

    #[test]
    fn the_owner_and_root_may_ask_and_nobody_else() {
        let own = rustix::process::geteuid().as_raw();
        assert!(may_ask(own) && may_ask(0));
        assert!(!may_ask(own + 1) && !may_ask(u32::MAX));
    }

    #[test]
    fn an_error_keeps_its_kind_and_remedy() {
        let answer = |_: u32, _: Question, _: Secret, _: &dyn Monitor| {
            Err(Error::integrity("object cut").remedy("restore it"))
        };
        with_daemon(&answer, |data_dir| {
            let daemon = connect(data_dir).expect("readable").expect("listening");
            let error = ask(daemon, status(), None, &Silent).expect_err("it failed");
            assert_eq!((error.kind(), error.remedy_text()), (Kind::Integrity, Some("restore it")));
        });
    }

    #[test]
    fn a_stop_and_a_hang_up_reach_the_work() {
        let until_stopped = |_: u32, _: Question, _: Secret, monitor: &dyn Monitor| {
            while !monitor.stop_requested() {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(Error::interrupted("stopped"))
        };
        with_daemon(&until_stopped, |data_dir| {
            let heard = Heard { stop: true.into(), ..Heard::default() };
            let daemon = connect(data_dir).expect("readable").expect("listening");
            assert_eq!(ask(daemon, status(), None, &heard).expect_err("stopped").kind(), Kind::Interrupted);
            // with_daemon joins every connection: this returns only if the hang-up was heard.
            let left = connect(data_dir).expect("readable").expect("listening");
            let version = env!("CARGO_PKG_VERSION").into();
            let question = Ask::Question { version, question: status(), secret_bytes: 0 };
            send(&left, &question).expect("sent");
        });
    }

    #[test]
    fn what_is_no_question_ends_its_own_connection_alone() {
        let answer = |_: u32, _: Question, _: Secret, _: &dyn Monitor| Ok(Value::Null);
        with_daemon(&answer, |data_dir| {
            for bad in
                [&b"GET / HTTP/1.1\n"[..], b"\xff\xfe\n", b"{}\n", b"{\"question\":{}}\n", b"\"stop\"\n"]
            {
                let mut stream = connect(data_dir).expect("readable").expect("listening");
                stream.write_all(bad).expect("sent");
                let mut said = String::new();
                stream.read_to_string(&mut said).expect("closed");
                assert_eq!(said, "");
            }
            let older = Ask::Question { version: "0.0.1".into(), question: status(), secret_bytes: 0 };
            let stream = connect(data_dir).expect("readable").expect("listening");
            send(&stream, &older).expect("sent");
            let mut said = String::new();
            (&stream).read_to_string(&mut said).expect("closed");
            assert!(said.contains("0.0.1"), "{said}");
            let daemon = connect(data_dir).expect("readable").expect("listening");
            ask(daemon, status(), None, &Silent).expect("it still answers");
        });
    }

    #[test]
    fn a_secret_comes_when_it_is_asked_for_and_not_before() {
        let answer = |_: u32, question: Question, secret: Secret, _: &dyn Monitor| {
            assert!(matches!(question, Question::Unseal(SecretKind::Share)));
            Ok(Value::from(secret.danger_expose()))
        };
        let unseal = || Question::Unseal(SecretKind::Share);
        with_daemon(&answer, |data_dir| {
            let daemon = || connect(data_dir).expect("readable").expect("listening");
            // Not a word of JSON, and a line's end in it.
            let secret = Secret::new(b"\xff\n{\0".to_vec());
            let echoed = ask(daemon(), unseal(), Some(&secret), &Silent).expect("answered");
            assert_eq!(echoed, Value::from(secret.danger_expose()));
            let long = Secret::new(vec![7; SECRET_BYTES_MAX as usize + 1]);
            let error = ask(daemon(), unseal(), Some(&long), &Silent).expect_err("too long");
            assert_eq!(error.kind(), Kind::Unavailable);
            let hasty = daemon();
            let version = env!("CARGO_PKG_VERSION").into();
            let question = Ask::Question { version, question: unseal(), secret_bytes: 4 };
            let mut line = serde_json::to_vec(&question).expect("JSON");
            line.extend(b"\n1234");
            (&hasty).write_all(&line).expect("sent");
            let mut said = String::new();
            (&hasty).read_to_string(&mut said).expect("closed");
            assert_eq!(said, "");
        });
    }

    #[test]
    fn what_does_not_read_is_not_quoted() {
        for line in
            ["{\"planted\": 1}\n", "{\"question\": {\"version\": \"planted\", \"question\": \"planted\"}}\n"]
        {
            let (mut client, daemon) = UnixStream::pair().expect("a pair");
            client.write_all(line.as_bytes()).expect("it fits the socket's buffer");
            let answer = |_: u32, _: Question, _: Secret, _: &dyn Monitor| Ok(Value::Null);
            let error = answer_one(&daemon, &AtomicBool::new(false), &answer).expect_err("no question");
            assert!(!error.to_string().contains("planted"), "{error}");
        }
    }

    /// Of questions over the admin socket, in the long tier.
    const MUTATIONS: u64 = 60_000;

    #[test]
    fn random_damage_to_a_question_costs_that_question() {
        withstands_damage(MUTATIONS / FIRST_TIER);
    }

    #[test]
    #[ignore = "the long tier: a minute"]
    fn random_damage_to_a_question_always_costs_that_question() {
        withstands_damage(MUTATIONS);
    }

    /// Whatever comes, the daemon answers or hangs up, at once.
    fn withstands_damage(mutations: u64) {
        let questions = [
            status(),
            Question::Warden(Box::new(Request::AuditLs { from: Some(3), limit: 50 })),
            Question::Unseal(SecretKind::Passphrase),
        ];
        let wholes = questions.map(|question| {
            let version = env!("CARGO_PKG_VERSION").to_owned();
            let ask = Ask::Question { version, question, secret_bytes: 3 };
            let mut line = serde_json::to_vec(&ask).expect("plain data");
            line.extend(b"\nabc");
            line
        });
        let stop = AtomicBool::new(false);
        let answer = |_: u32, _: Question, secret: Secret, _: &dyn Monitor| {
            Ok(Value::from(secret.danger_expose().len()))
        };
        again_and_again(mutations, 12, &wholes, |_, damaged| {
            let (mut client, daemon) = UnixStream::pair().expect("a pair");
            client.write_all(damaged).expect("it fits the socket's buffer");
            client.shutdown(std::net::Shutdown::Write).expect("the end");
            if let Err(error) = answer_one(&daemon, &stop, &answer) {
                assert!(!error.to_string().contains("abc"), "a secret is quoted: {error}");
            }
        });
    }
}
