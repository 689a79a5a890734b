//! A data directory of its own for every test, and the real binary run on it.

use std::{
    fmt::Write as _,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// Longer than any command of the first tier takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(240);

pub struct Site {
    directory: tempfile::TempDir,
}

/// How a command ended.
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Site {
    /// A folder with nothing in it yet.
    pub fn empty() -> Self {
        Self { directory: tempfile::tempdir().expect("a temporary directory") }
    }

    /// An initialised data directory, its root key in a key file.
    pub fn initialised() -> Self {
        let site = Self::empty();
        site.run(&["init", "--key-file", site.at("root.key").to_str().expect("UTF-8")]).done();
        site
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn data(&self) -> PathBuf {
        self.at("data")
    }

    /// Writes `content` to `name` below the site and returns its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.at(name);
        std::fs::create_dir_all(path.parent().expect("below the site")).expect("a folder");
        std::fs::write(&path, content).expect("a file");
        path.to_str().expect("UTF-8").to_owned()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cloister"));
        command.arg("--data-dir").arg(self.data()).args(arguments);
        command.current_dir(self.directory.path()).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CLOISTER_") {
                command.env_remove(name);
            }
        }
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Ran {
        finish(self.spawn(arguments))
    }

    pub fn spawn(&self, arguments: &[&str]) -> Child {
        spawn(self.command(arguments))
    }

    /// The one JSON document that a command prints.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let ran = self.run(&[arguments, &["--json"]].concat()).done();
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.stdout))
    }

    /// The JSON documents that a command prints, one a line.
    pub fn json_lines(&self, arguments: &[&str]) -> Vec<Value> {
        let ran = self.run(&[arguments, &["--json"]].concat()).done();
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        ran.stdout.lines().map(parse).collect()
    }
}

pub fn spawn(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs")
}

/// Waits for a command, reading all it says.
pub fn finish(mut child: Child) -> Ran {
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child of ours") {
            break status;
        }
        if started.elapsed() > PATIENCE {
            child.kill().expect("a child of ours");
            let said = stderr.join().expect("the reader");
            panic!("a command did not end within {} s; it said:\n{said}", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    Ran {
        code: status.code(),
        stdout: stdout.join().expect("the reader"),
        stderr: stderr.join().expect("the reader"),
    }
}

/// Waits until something is so; it must come to be.
#[track_caller]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub fn drain(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            pipe.read_to_end(&mut bytes).expect("a readable pipe");
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

impl Ran {
    /// It must have succeeded.
    #[track_caller]
    pub fn done(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.all());
        self
    }

    /// It must have failed with this exit code, naming each of `words`, and saying what to do.
    #[track_caller]
    pub fn refused(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.all());
        assert!(self.stderr.contains("error: "), "{}", self.all());
        assert!(!self.stderr.contains("panicked"), "{}", self.all());
        for word in words {
            assert!(self.stderr.contains(word), "no `{word}` in:\n{}", self.all());
        }
        self
    }

    pub fn all(&self) -> String {
        let mut all = String::new();
        let _ = write!(all, "exit {:?}\nstdout:\n{}\nstderr:\n{}", self.code, self.stdout, self.stderr);
        all
    }
}

/// Every file below a directory whose bytes contain one of `needles`, with the needle.
pub fn grep_files(directory: &Path, needles: &[&str]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    // Files come and go while work runs: one that vanished holds nothing.
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(grep_files(&path, needles));
        } else if path.is_file() {
            let bytes = std::fs::read(&path).unwrap_or_default();
            let name = path.to_string_lossy().into_owned();
            for needle in needles {
                let inside = bytes.windows(needle.len()).any(|window| window == needle.as_bytes());
                if inside || name.contains(needle) {
                    found.push((path.clone(), (*needle).to_owned()));
                }
            }
        }
    }
    found
}
