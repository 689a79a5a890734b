//! Processes that end when nobody expects it: Ctrl-C, a killed worker, a killed warden. What was reported done
//! stays, what was half-done is nowhere, and a run that goes on ends where it would have ended.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use cloister::base::Philox;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{Ran, Site, finish, grep_files, spawn};

const PLANTED: &str = "the heron stands over the mill pond at dusk";
const WORDS: [&str; 16] = [
    "the", "miller", "counts", "sacks", "of", "grain", "and", "heron", "waits", "over", "pond", "until",
    "dusk", "when", "water", "falls",
];
const WITHIN: Duration = Duration::from_secs(60);

/// Documents that are the same every time.
fn plant(site: &Site, documents: u64) {
    for number in 0..documents {
        let mut random = Philox::new(7, number);
        let words: Vec<&str> = (0..400).map(|_| WORDS[random.below(16) as usize]).collect();
        site.file(&format!("in/{number}.txt"), format!("{number}. {PLANTED}. {}\n", words.join(" ")));
    }
}

fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a process number")).expect("not zero");
    // It may have ended just now, which the caller finds out.
    let _ = kill_process(pid, signal);
}

/// The child processes of a process.
fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// Waits until a command says `word` on standard error, and goes on listening so that it never blocks.
fn wait_until_it_says(child: &mut Child, word: &str) -> std::thread::JoinHandle<String> {
    let stderr = child.stderr.take().expect("piped");
    let (heard, hear) = std::sync::mpsc::channel();
    let listener = std::thread::spawn(move || {
        let mut said = String::new();
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            said.push_str(&line);
            said.push('\n');
            let _ = heard.send(line);
        }
        said
    });
    let started = Instant::now();
    while started.elapsed() < WITHIN {
        match hear.recv_timeout(WITHIN) {
            Ok(line) if line.contains(word) => return listener,
            Ok(_) => {}
            Err(_) => break,
        }
    }
    let _ = child.kill();
    panic!("it never said `{word}`:\n{}", listener.join().expect("the listener"));
}

fn end(child: Child, listener: std::thread::JoinHandle<String>) -> Ran {
    let ran = finish(child);
    Ran { stderr: listener.join().expect("the listener"), ..ran }
}

fn whole(site: &Site) {
    site.run(&["data", "verify"]).done();
    site.run(&["audit", "verify"]).done();
    assert_eq!(grep_files(&site.data(), &[PLANTED, "miller counts"]), []);
}

#[test]
fn an_ingest_killed_anywhere_loses_nothing_that_it_said_and_keeps_nothing_by_halves() {
    let site = Site::initialised();
    plant(&site, 150);
    let folder = site.at("in");
    let arguments = ["data", "ingest", folder.to_str().expect("UTF-8"), "--collection", "mill"];
    let mut random = Philox::new(11, 0);
    let mut listed = 0;
    for _ in 0..8 {
        let child = site.spawn(&arguments);
        std::thread::sleep(Duration::from_millis(5 + random.below(250)));
        let pid = child.id();
        // Now and then the worker alone.
        match children(pid).first() {
            Some(&worker) if random.below(3) == 0 => signal(worker, Signal::KILL),
            _ => signal(pid, Signal::KILL),
        }
        let ran = finish(child);
        assert!(!ran.stderr.contains("panicked"), "{}", ran.all());
        let now = site.json_lines(&["data", "ls"]).len();
        assert!(now >= listed, "{listed} documents were listed, and now {now}");
        listed = now;
        whole(&site);
    }
    site.run(&arguments).done();
    assert_eq!(site.json_lines(&["data", "ls"]).len(), 150);
    whole(&site);
    let leftovers = grep_names(&site, ".tmp");
    assert!(leftovers.is_empty(), "{leftovers:?}");
}

fn grep_names(site: &Site, suffix: &str) -> Vec<std::path::PathBuf> {
    let shelves = fs::read_dir(site.data().join("objects")).expect("objects").flatten();
    let files = shelves.flat_map(|shelf| fs::read_dir(shelf.path()).into_iter().flatten().flatten());
    files.map(|file| file.path()).filter(|path| path.to_string_lossy().ends_with(suffix)).collect()
}

fn run_file(site: &Site) -> String {
    site.file(
        "run.toml",
        "layers = 1\ndim = 32\nheads = 2\nkv_heads = 1\nffn = 64\ncontext = 64\nmicro_batch = 4\n\
         batch_tokens = 512\nsteps = 600\nlearning_rate = 1e-3\n\
         [purpose]\nfor_whom = \"tests\"\nfor_what = \"tests\"\nnot_for_what = \"anything else\"\n",
    )
}

/// What a finished run measured, to the last bit.
fn measured(site: &Site, model: &str) -> Value {
    site.json(&["model", "show", model])["evaluation"].clone()
}

#[test]
fn a_run_stopped_and_killed_again_and_again_ends_where_it_would_have_ended() {
    let site = Site::initialised();
    plant(&site, 40);
    let folder = site.at("in");
    site.run(&["data", "ingest", folder.to_str().expect("UTF-8"), "--collection", "mill"]).done();
    let config = run_file(&site);
    let pretrain = |name| {
        ["model", "pretrain", "--data", "mill", "--vocab-size", "300", "--config", &config, "--name", name]
    };
    site.run(&pretrain("straight")).done();

    // Ctrl-C: the worker writes its checkpoint first.
    let mut child = site.spawn(&pretrain("crooked"));
    let listener = wait_until_it_says(&mut child, "step ");
    let held = site.run(&["data", "ls"]).refused(1, &["in use by process"]);
    assert!(held.stderr.contains(&child.id().to_string()), "{}", held.all());
    signal(child.id(), Signal::INT);
    end(child, listener).refused(1, &["stopped after step", "cloister model resume run_"]);
    whole(&site);

    // The worker killed: the warden says so, and the checkpoint stands.
    let mut child = site.spawn(&["--threads", "1", "model", "resume"]);
    let listener = wait_until_it_says(&mut child, "going on from step");
    let worker = children(child.id());
    assert_eq!(worker.len(), 1, "{worker:?}");
    let environment = fs::read(format!("/proc/{}/environ", worker[0])).expect("ours");
    // Where CUDA's libraries are is no secret, and nothing else is handed over.
    let handed = String::from_utf8_lossy(&environment);
    let mut names = handed.split('\0').filter_map(|variable| variable.split_once('=')).map(|(name, _)| name);
    assert!(names.all(|name| name == "LD_LIBRARY_PATH" || name.contains("CUDA")), "{handed}");
    signal(worker[0], Signal::KILL);
    end(child, listener).refused(1, &["the worker process was killed", "cloister model resume run_"]);
    whole(&site);

    // The warden killed: the worker goes with it.
    let mut child = site.spawn(&["model", "resume"]);
    let listener = wait_until_it_says(&mut child, "going on from step");
    let worker = children(child.id());
    signal(child.id(), Signal::KILL);
    end(child, listener);
    let started = Instant::now();
    while worker.iter().any(|pid| fs::exists(format!("/proc/{pid}/exe")).unwrap_or(false)) {
        assert!(started.elapsed() < WITHIN, "a worker outlived its warden");
        std::thread::sleep(Duration::from_millis(10));
    }
    let jobs = site.json_lines(&["job", "ls"]);
    assert!(jobs.iter().any(|job| job["state"] == "interrupted"), "{jobs:?}");
    assert!(jobs.iter().all(|job| job["state"] != "running"), "{jobs:?}");

    site.run(&["--threads", "3", "model", "resume"]).done();
    site.run(&["model", "resume"]).refused(2, &["no run was stopped"]);
    let straight = measured(&site, "straight");
    assert!(straight["held_out_bits_per_byte"].is_f64(), "{straight}");
    assert_eq!(measured(&site, "crooked"), straight);
    whole(&site);
}

/// A command that may leave a core as large as it likes, as far as its parent is concerned.
fn with_cores(site: &Site, arguments: &[&str]) -> Child {
    let command = site.command(arguments);
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -c unlimited; exec \"$@\"", "sh"]).arg(command.get_program());
    shell.args(command.get_args()).current_dir(site.at("")).stdin(Stdio::null());
    spawn(shell)
}

/// Whether a process that asks for nothing else leaves a core here, in the folder that it runs in.
fn cores_are_written(site: &Site) -> bool {
    let folder = site.at("control");
    fs::create_dir_all(&folder).expect("a folder");
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -c unlimited; kill -ABRT $$"]).current_dir(&folder);
    let status = shell.status().expect("a shell");
    let written = fs::read_dir(&folder).expect("a folder").count() > 0;
    fs::remove_dir_all(&folder).expect("a folder of ours");
    status.core_dumped() && written
}

/// Soft and hard limit of the size of a core.
fn core_limits(pid: u32) -> Vec<String> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("a process of ours");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).expect("a limit");
    line.split_whitespace().take(2).map(str::to_owned).collect()
}

/// Files below the folder that begin as a core does.
fn cores(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(cores(&path));
        } else if fs::read(&path).is_ok_and(|bytes| bytes.starts_with(b"\x7fELF")) {
            found.push(path);
        }
    }
    found
}

/// Signals until the process is gone: Rust's own handler lets the first SIGSEGV pass that no access caused.
fn crash(pid: u32, sign: Signal) {
    let started = Instant::now();
    while fs::exists(format!("/proc/{pid}/exe")).unwrap_or(false) {
        assert!(started.elapsed() < WITHIN, "it outlived {sign:?}");
        signal(pid, sign);
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
#[allow(clippy::print_stderr)] // A test that shows less says so.
fn nobody_who_holds_keys_leaves_a_core() {
    let site = Site::initialised();
    if !cores_are_written(&site) {
        eprintln!("this machine leaves no core of any process: only limits and exit statuses are looked at");
    }
    plant(&site, 8);
    let folder = site.at("in");
    site.run(&["data", "ingest", folder.to_str().expect("UTF-8"), "--collection", "mill"]).done();
    let config = run_file(&site);
    let pretrain =
        ["model", "pretrain", "--data", "mill", "--vocab-size", "300", "--config", &config, "--name", "m"];
    let ended_by = |mut child: Child, sign: Signal| {
        assert_eq!(core_limits(child.id()), ["0", "0"]);
        crash(child.id(), sign);
        let status = child.wait().expect("a child of ours");
        assert_eq!((status.signal(), status.core_dumped()), (Some(sign.as_raw()), false));
    };
    for sign in [Signal::ABORT, Signal::SEGV] {
        let mut daemon = with_cores(&site, &["serve", "--listen", "127.0.0.1:0", "--device", "cpu"]);
        let mut said = BufReader::new(daemon.stdout.take().expect("piped")).lines();
        assert!(said.any(|line| line.is_ok_and(|line| line.contains("serving"))), "it never served");
        ended_by(daemon, sign);

        let mut command = with_cores(&site, &pretrain);
        let listener = wait_until_it_says(&mut command, "step ");
        let worker = children(command.id())[0];
        assert_eq!(core_limits(worker), ["0", "0"]);
        crash(worker, sign);
        end(command, listener).refused(1, &["the worker process crashed (signal"]);

        let mut command = with_cores(&site, &pretrain);
        wait_until_it_says(&mut command, "step ");
        ended_by(command, sign);
    }
    assert!(cores(&site.at("")).is_empty(), "{:?}", cores(&site.at("")));
    whole(&site);
}
