//! The whole road through the real binary, small: documents in, a trained model served, stopped and killed on
//! the way, with planted sentences that must never be found unsealed.

use std::{
    io::{BufRead, BufReader},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::harness::{Ran, Site, finish, grep_files};

/// Planted in a document's text, in a document's name, and in a prompt.
const PLANTED: [&str; 3] = ["zanzibar quokka ledger", "heliotrope-badger", "umbrella octopus treaty"];
/// A short training: some hundred milliseconds to seconds on any machine.
const BRIEF: &str = "0.05";

/// About 200 KB of text with something to learn in it, and what was planted.
fn documents(site: &Site) -> String {
    let offices = ["registrar", "court", "ministry", "notary", "council", "agency"];
    let verbs = ["shall record", "may refuse", "shall publish", "must answer", "shall keep"];
    let things = ["the application", "every title", "the decision", "a complaint", "the register"];
    for file in 0..40u32 {
        let mut text = String::new();
        for line in 0..80u32 {
            let pick = |words: &[&'static str], salt: u32| {
                words[(file * 7919 + line * 104_729 + salt * 1_299_709) as usize % words.len()]
            };
            text += &format!(
                "Section {line}. The {} {} {} within {} days.\n",
                pick(&offices, 1),
                pick(&verbs, 2),
                pick(&things, 3),
                (file * 31 + line * 17) % 90
            );
        }
        site.file(&format!("in/statute-{file}.txt"), text);
    }
    site.file(&format!("in/{}.txt", PLANTED[1]), format!("{}. ", PLANTED[0]).repeat(40));
    site.file("in/broken.pdf", "%PDF-1.7\nthis is no PDF");
    site.at("in").to_str().expect("UTF-8").to_owned()
}

fn quickstart<'a>(documents: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["quickstart", documents, "--minutes", BRIEF], more].concat()
}

fn held_out(ran: &Ran) -> f64 {
    let last = ran.stdout.lines().last().unwrap_or_default();
    let number = last.strip_prefix("held-out ").and_then(|rest| rest.strip_suffix(" bits per byte"));
    number.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("last line `{last}`:\n{}", ran.all()))
}

#[test]
fn quickstart_goes_the_whole_road_and_a_second_one_goes_on_from_there() {
    let site = Site::empty();
    let folder = documents(&site);
    let first = site.run(&quickstart(&folder, &["--no-serve"])).done();
    let bits = held_out(&first);
    assert!((0.1..8.5).contains(&bits), "{bits}");
    for said in ["TRIAL", "41 new", "broken.pdf", "vocabulary", "gzip", "this model", "it writes"] {
        assert!(first.stdout.contains(said), "no `{said}`:\n{}", first.all());
    }

    let again = site.run(&["quickstart", "--minutes", BRIEF, "--no-serve"]).done();
    assert!(again.stdout.contains("already here"), "{}", again.all());
    assert_eq!(held_out(&again), bits, "nothing was trained anew");

    site.run(&["data", "verify"]).done();
    site.run(&["audit", "verify"]).done();
    the_lineage_leads_from_the_model_to_its_documents(&site);
    same_seed_same_text(&site);
}

fn the_lineage_leads_from_the_model_to_its_documents(site: &Site) {
    let models = site.json_lines(&["model", "ls"]);
    assert_eq!(models.len(), 1);
    let model = models[0]["id"].as_str().expect("an id");
    let lineage = site.json(&["lineage", "show", model]);
    let parents: Vec<&str> =
        lineage["up"].as_array().expect("edges").iter().filter_map(|edge| edge["parent"].as_str()).collect();
    for kind in ["run_", "ds_", "tok_"] {
        assert!(parents.iter().any(|parent| parent.starts_with(kind)), "no {kind} in {parents:?}");
    }
    let document = &site.json_lines(&["data", "ls"])[0];
    let down = site.json(&["lineage", "show", document["id"].as_str().expect("an id")]);
    let children = down["down"].as_array().expect("edges");
    assert!(children.iter().any(|edge| edge["child"] == model), "{down}");
}

fn same_seed_same_text(site: &Site) {
    let write = |seed: &str| {
        let arguments = ["model", "generate", "trial", "--prompt", "The court", "--max-tokens", "12"];
        site.json(&[&arguments[..], &["--seed", seed, "--ignore-eos", "--dtype", "f32"]].concat())
    };
    let (one, same, other) = (write("7"), write("7"), write("8"));
    assert_eq!(one["token_ids"].as_array().map(Vec::len), Some(12));
    assert_eq!(one["text"], same["text"]);
    assert_ne!(one["token_ids"], other["token_ids"]);
    assert!(one["prompt_tokens"].as_u64().is_some_and(|tokens| tokens > 0));
    assert_eq!(one["finish_reason"], "length");
}

#[test]
fn killed_on_the_way_it_goes_on_and_loses_nothing_reported_done() {
    killed_again_and_again(&[400, 1500, 4000]);
}

/// Kills a quickstart after each of these times, each a little further: whatever step it dies in, the next run
/// goes on, and what was reported done is there.
pub fn killed_again_and_again(after_ms: &[u64]) {
    let site = Site::empty();
    let folder = documents(&site);
    for &patience_ms in after_ms {
        let mut child = site.spawn(&["quickstart", &folder, "--minutes", "0.4", "--no-serve"]);
        std::thread::sleep(Duration::from_millis(patience_ms));
        child.kill().expect("a child of ours");
        let ran = finish(child);
        if !ran.stdout.contains("certificate") {
            continue;
        }
        site.run(&["audit", "verify"]).done();
        site.run(&["data", "verify"]).done();
        if ran.stdout.contains("taken") {
            assert_eq!(site.json_lines(&["data", "ls"]).len(), 41, "{}", ran.all());
        }
    }
    held_out(&site.run(&quickstart(&folder, &["--no-serve"])).done());
    site.run(&["data", "verify"]).done();
    site.run(&["audit", "verify"]).done();
}

/// A run of a fixed number of small steps: some seconds.
const SMALL_RUN: &str = "steps = 150\ndim = 64\nlayers = 2\nheads = 2\nkv_heads = 1\nffn = 128\ncontext = 64\n\
    batch_tokens = 512\nevaluate_every = 50\nseed = 3\n\
    [purpose]\nfor_whom = 'tests'\nfor_what = 'being interrupted'\nnot_for_what = 'answers'\n";

#[test]
fn ctrl_c_keeps_the_run_and_resume_ends_where_an_unbroken_run_ends() {
    let site = Site::initialised();
    let folder = documents(&site);
    site.run(&["data", "ingest", &folder, "--collection", "law"]).done();
    site.run(&["tokenizer", "train", "--data", "law", "--vocab-size", "400"]).done();
    let file = site.file("run.toml", SMALL_RUN);
    let pretrain =
        |name| ["model", "pretrain", "--data", "law", "--config", &file, "--name", name].map(str::to_owned);

    let broken = pretrain("broken");
    let broken: Vec<&str> = broken.iter().map(String::as_str).collect();
    let mut child = site.spawn(&broken);
    let stderr = wait_for_line(&mut child, "pretrain");
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()), "kill");
    let status = child.wait().expect("a child of ours");
    let said = stderr.join().expect("the reader");
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("error: ") && said.contains("model resume"), "{said}");
    let resumed = site.run(&["--threads", "1", "model", "resume"]).done();

    let whole = pretrain("whole");
    let whole = site.run(&whole.iter().map(String::as_str).collect::<Vec<_>>()).done();
    assert_eq!(held_out(&resumed), held_out(&whole));
    site.run(&["model", "resume"]).refused(2, &["no run"]);
}

/// Waits until standard error has a line that begins so; the rest of it comes from the handle.
fn wait_for_line(child: &mut std::process::Child, start: &'static str) -> std::thread::JoinHandle<String> {
    let stderr = child.stderr.take().expect("piped");
    let (found, seen) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut all = String::new();
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if line.starts_with(start) {
                // Only the first is waited for.
                let _ = found.send(());
            }
            all += &line;
            all.push('\n');
        }
        all
    });
    if seen.recv_timeout(Duration::from_secs(60)).is_err() {
        child.kill().expect("a child of ours");
        panic!("no line began with `{start}`:\n{}", reader.join().expect("the reader"));
    }
    reader
}

#[test]
fn it_serves_and_nothing_planted_is_ever_found_unsealed() {
    let site = Site::empty();
    let folder = documents(&site);
    let child = site.spawn(&quickstart(&folder, &["--listen", "127.0.0.1:0"]));
    let served = watch_until_it_serves(&site, child);
    let answer = ask(&served.curl, PLANTED[2]);
    assert!(answer["choices"][0]["text"].is_string(), "{answer}");
    assert!(answer["usage"]["prompt_tokens"].as_u64().is_some_and(|tokens| tokens > 0), "{answer}");
    assert_eq!(grep_files(&site.data(), &PLANTED), [], "while it serves");

    // Other commands reach the daemon and read the same.
    assert_eq!(site.json_lines(&["data", "ls"]).len(), 41);
    site.run(&["audit", "verify"]).done();

    let stopped = Command::new("kill").args(["-TERM", &served.child.id().to_string()]).status();
    assert!(stopped.is_ok_and(|status| status.success()), "kill");
    let ran = finish(served.child);
    assert_eq!(ran.code, Some(0), "{}", ran.all());
    assert_eq!(grep_files(&site.data(), &PLANTED), [], "when it has stopped");
}

struct Served {
    child: std::process::Child,
    curl: String,
}

/// Greps the data directory again and again while the road is gone, until the curl line is printed.
fn watch_until_it_serves(site: &Site, mut child: std::process::Child) -> Served {
    let stdout = child.stdout.take().expect("piped");
    let (lines, said) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            // The test may have ended: nobody reads any more.
            let _ = lines.send(line);
        }
    });
    let started = Instant::now();
    loop {
        while let Ok(line) = said.try_recv() {
            if line.starts_with("curl ") {
                return Served { child, curl: line };
            }
        }
        assert_eq!(grep_files(&site.data(), &PLANTED), [], "while it runs");
        if child.try_wait().expect("a child of ours").is_some()
            || started.elapsed() > Duration::from_secs(180)
        {
            child.kill().expect("a child of ours");
            panic!("it never served:\n{}", finish(child).all());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Runs the line that was printed, with a prompt of our own.
fn ask(curl: &str, prompt: &str) -> Value {
    let line = curl.replace(r#""prompt":"The""#, &format!(r#""prompt":"{prompt}""#));
    assert_ne!(line, curl, "the prompt was put in: {curl}");
    let output = Command::new("sh").args(["-c", &format!("{line} --silent --show-error")]).output();
    let output = output.expect("a shell");
    let said = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&said)
        .unwrap_or_else(|error| panic!("{error}: {said}{}", String::from_utf8_lossy(&output.stderr)))
}
