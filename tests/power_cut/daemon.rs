//! A daemon that loses its power while clients ask, rate, review and ingest.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command},
};

use serde_json::{Value, json};

use crate::harness::{Ran, Site, drain, finish, spawn};

/// How often they do.
const ROUNDS: u64 = 3;

/// Starts the daemon, asks it as long as it answers, and tells it to end. What was acknowledged stands in place of
/// standard output, a JSON document a line.
pub fn drive(site: &Site, command: Command) -> Ran {
    let mut child = spawn(command);
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    let mut acknowledged = String::new();
    let stdout = match address(&mut stdout) {
        Some(url) => {
            // It goes on speaking, and must not wait for somebody to listen.
            let rest = drain(Some(stdout));
            converse(site, &url, &mut |done| acknowledged += &format!("{done}\n"));
            terminate(&child);
            Some(rest)
        }
        None => None,
    };
    let ran = finish(child);
    if let Some(rest) = stdout {
        rest.join().expect("the reader");
    }
    Ran { stdout: acknowledged, ..ran }
}

/// What comes before the address, and None where it ends before it serves.
fn address(stdout: &mut impl BufRead) -> Option<String> {
    let mut lines = stdout.lines().map_while(Result::ok);
    let line = lines.find(|line| line.contains("https://"))?;
    line.split_whitespace().last().map(str::to_owned)
}

fn terminate(child: &Child) {
    // It may have ended just now, which the caller finds out.
    let _ = Command::new("kill").args(["-TERM", &child.id().to_string()]).output();
}

/// Until something is not acknowledged: then nobody is there any more.
fn converse(site: &Site, url: &str, acknowledge: &mut dyn FnMut(Value)) -> Option<()> {
    let token = std::fs::read_to_string(site.at("token")).expect("prepared");
    for round in 0..ROUNDS {
        let body = json!({"model": "tiny", "prompt": format!("round {round}"), "max_tokens": 3});
        let answer = post(url, &token, "/v1/completions", &body)?["id"].clone();
        acknowledge(json!({"answer": answer}));
        let body = json!({"answer": answer, "rating": 1, "comment": format!("comment {round}")});
        let feedback = post(url, &token, "/v1/feedback", &body)?["id"].clone();
        acknowledge(json!({"feedback": feedback, "comment": body["comment"]}));
        let ran = site.run(&["feedback", "accept", feedback.as_str().expect("an id")]);
        (ran.code == Some(0)).then(|| acknowledge(json!({"accepted": feedback})))?;
        let file = site.file(&format!("late/{round}.txt"), format!("{round}: the heron waits until dusk.\n"));
        let ran = site.run(&["data", "ingest", &file, "--collection", "late"]);
        (ran.code == Some(0)).then(|| acknowledge(json!({"ingested": file})))?;
    }
    Some(())
}

fn post(url: &str, token: &str, path: &str, body: &Value) -> Option<Value> {
    let body = body.to_string();
    ask(url, token, path, &["--json", &body])
}

/// The body of a 200.
fn ask(url: &str, token: &str, path: &str, arguments: &[&str]) -> Option<Value> {
    let output = Command::new("curl")
        .args(["--silent", "--insecure", "--fail", "--max-time", "60", "--header"])
        .arg(format!("Authorization: Bearer {token}"))
        .args(arguments)
        .arg(format!("{url}{path}"))
        .output()
        .expect("curl runs");
    let whole = output.status.success();
    whole.then(|| serde_json::from_slice(&output.stdout).expect("a 200 with a whole body"))
}

/// What had a 200 is there, and whatever else was begun has ended.
pub fn must_remember(site: &Site, acknowledged: &str) {
    let done: Vec<Value> =
        acknowledged.lines().map(|line| serde_json::from_str(line).expect("written above")).collect();
    let rated = site.json_lines(&["feedback", "ls"]);
    let documents = site.json_lines(&["data", "ls"]);
    for done in &done {
        let of = |id: &Value| rated.iter().find(|row| row["id"] == *id);
        if let Some(id) = done.get("feedback") {
            let row = of(id).unwrap_or_else(|| panic!("{id} is not among {rated:?}"));
            assert_eq!(row["comment"], done["comment"]);
        }
        if let Some(id) = done.get("accepted") {
            assert_eq!(of(id).expect("it was acknowledged before")["state"], "accepted");
        }
        if let Some(file) = done.get("ingested") {
            assert!(documents.iter().any(|row| row["name"] == *file), "{file} is not among {documents:?}");
        }
    }
    let answers: Vec<&Value> = done.iter().filter_map(|done| done.get("answer")).collect();
    every_answer_has_its_receipt(site, &answers);
    let entries = site.json_lines(&["audit", "ls", "--limit", "100000"]);
    for id in answers {
        let ended = entries.iter().any(|row| row["object"] == *id && row["outcome"] == "done");
        assert!(ended, "the log does not say how {id} ended");
    }
}

fn every_answer_has_its_receipt(site: &Site, answers: &[&Value]) {
    let token = std::fs::read_to_string(site.at("token")).expect("prepared");
    let mut child = spawn(site.command(&["serve", "--listen", "127.0.0.1:0", "--device", "cpu"]));
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    let url = address(&mut stdout);
    let receipts: Vec<Option<Value>> = answers
        .iter()
        .map(|id| {
            let path = format!("/v1/receipts/{}", id.as_str().expect("an id"));
            url.as_deref().and_then(|url| ask(url, &token, &path, &[]))
        })
        .collect();
    let rest = drain(Some(stdout));
    terminate(&child);
    let ran = finish(child);
    rest.join().expect("the reader");
    assert!(url.is_some() && ran.code == Some(0), "{}", ran.all());
    for (id, receipt) in answers.iter().zip(receipts) {
        let receipt = receipt.unwrap_or_else(|| panic!("{id} has no receipt"));
        assert_eq!(receipt["receipt"]["answer"], **id);
    }
}
