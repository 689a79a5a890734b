//! A daemon of the real binary, asked by curl.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    os::unix::fs::FileExt,
    process::{Child, Command},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::Duration,
};

use serde_json::Value;

use crate::harness::{Ran, Site, finish};

/// A daemon, and the lines that it prints.
pub struct Daemon {
    child: Child,
    lines: Receiver<String>,
    pub url: String,
}

impl Daemon {
    pub fn start(site: &Site, arguments: &[&str]) -> Self {
        let mut child =
            site.spawn(&[&["serve", "--listen", "127.0.0.1:0", "--device", "cpu"], arguments].concat());
        let stdout = child.stdout.take().expect("piped");
        let (say, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // The test may have ended: nobody reads any more.
                let _ = say.send(line);
            }
        });
        let mut daemon = Self { child, lines, url: String::new() };
        let first = daemon.line("https://");
        daemon.url = first.split_whitespace().last().expect("an address").to_owned();
        daemon
    }

    /// The next line with `what` in it.
    pub fn line(&mut self, what: &str) -> String {
        loop {
            match self.lines.recv_timeout(Duration::from_secs(60)) {
                Ok(line) if line.contains(what) => return line,
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    self.child.kill().expect("a child of ours");
                    let mut said = String::new();
                    let mut stderr = self.child.stderr.take().expect("piped");
                    stderr.read_to_string(&mut said).expect("text");
                    panic!("no line with `{what}`: {said}");
                }
            }
        }
    }

    /// Status and body, whatever certificate it shows.
    pub fn ask(&self, path: &str, arguments: &[&str]) -> (u16, Value) {
        let output = Command::new("curl")
            .args([
                "--silent",
                "--show-error",
                "--insecure",
                "--max-time",
                "60",
                "--write-out",
                "\n%{http_code}",
            ])
            .args(arguments)
            .arg(format!("{}{path}", self.url))
            .output()
            .expect("curl runs");
        let said = String::from_utf8_lossy(&output.stdout);
        let (body, status) = said.rsplit_once('\n').expect("a status");
        let body = serde_json::from_str(body)
            .unwrap_or_else(|error| panic!("{error}: {said}{}", String::from_utf8_lossy(&output.stderr)));
        (status.parse().expect("a number"), body)
    }

    pub fn is_sealed(&self) -> Value {
        self.ask("/healthz", &[]).1["sealed"].clone()
    }

    /// As a machine that stops.
    pub fn kill(mut self) {
        self.child.kill().expect("a child of ours");
        self.child.wait().expect("a child of ours");
    }

    pub fn stop(self) -> Ran {
        let told = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(told.is_ok_and(|status| status.success()), "kill");
        finish(self.child)
    }

    /// Which of `needles` lie in its memory; None where this user may not look.
    pub fn in_memory<'a>(&self, needles: &[&'a str]) -> Option<Vec<&'a str>> {
        let process = format!("/proc/{}", self.child.id());
        let (maps, memory) =
            (std::fs::read_to_string(format!("{process}/maps")), File::open(format!("{process}/mem")));
        let (Ok(maps), Ok(memory)) = (maps, memory) else { return None };
        let mut found = Vec::new();
        for line in maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|may| may.starts_with('r')))
        {
            let (from, to) = line.split(' ').next()?.split_once('-')?;
            let bound = |text| u64::from_str_radix(text, 16).expect("an address");
            let mut region = vec![0; (bound(to) - bound(from)) as usize];
            // What the kernel itself keeps there does not read.
            if memory.read_exact_at(&mut region, bound(from)).is_ok() {
                let lies =
                    |needle: &str| region.windows(needle.len()).any(|bytes| bytes == needle.as_bytes());
                found.extend(needles.iter().filter(|needle| lies(needle)));
            }
        }
        found.dedup();
        Some(found)
    }
}
