//! A daemon that starts sealed, is unsealed by several people, and is sealed again, through the real binary.

use std::{
    io::{Read, Write},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{
    daemon::Daemon,
    harness::{Ran, Site},
};

/// In a document, and in a prompt.
const PLANTED: [&str; 2] = ["cinnabar pelican covenant", "obsidian marmot subpoena"];
const PASSPHRASE: &str = "correct horse battery staple";

fn unseal(site: &Site, file: &str) -> Ran {
    site.run(&["unseal", "--json", "--share-file", file])
}

fn shares(site: &Site) -> Vec<String> {
    let rows = site.json_lines(&["init", "--shares", "5", "--threshold", "3"]);
    rows.iter().filter_map(|row| row["text"].as_str()).map(str::to_owned).collect()
}

#[test]
fn several_people_unseal_a_daemon_and_sealed_again_it_knows_nothing() {
    let site = Site::empty();
    let texts = shares(&site);
    let file = |at: usize| site.file(&format!("share-{at}"), &texts[at]);
    let mut daemon = Daemon::start(&site, &[]);
    assert_eq!(daemon.is_sealed(), true);
    assert_eq!(
        daemon.ask("/readyz", &[]),
        (503, serde_json::json!({"status": "not ready", "reason": "sealed"}))
    );
    assert_eq!(daemon.ask("/v1/models", &[]).1["error"]["code"], "sealed");
    site.run(&["data", "ls"]).refused(5, &["sealed", "cloister unseal"]);
    site.run(&["key", "status"]).refused(5, &["sealed", "3 shares"]);
    site.run(&["key", "rekey", "--new-key-file", "k"]).refused(5, &["sealed"]);
    assert!(site.run(&["doctor"]).stdout.contains("a sealed daemon holds it"));

    assert!(unseal(&site, &file(0)).done().stdout.contains("\"shares_given\":1"));
    unseal(&site, &file(0)).refused(2, &["share 1 was given already", "kept: 1"]);
    unseal(&site, &site.file("no-share", "hello")).refused(2, &["not a share"]);
    let others = Site::empty();
    unseal(&site, &site.file("foreign", &shares(&others)[0])).refused(5, &["another set", "kept: 1"]);
    assert!(site.run(&["unseal", "--share-file", &file(2)]).done().stdout.contains("2 of 3 shares"));
    let served: Value = serde_json::from_str(&unseal(&site, &file(4)).done().stdout).expect("JSON");
    assert_eq!(
        (&served["state"], daemon.url.strip_prefix("https://")),
        (&"serving".into(), served["address"].as_str())
    );
    daemon.line("fingerprint");
    assert_eq!(daemon.is_sealed(), false);

    let document = site.file("in/letter.txt", format!("{}. ", PLANTED[0]).repeat(40));
    site.run(&["data", "ingest", &document, "--collection", "letters"]).done();
    assert_eq!(site.json_lines(&["data", "ls"]).len(), 1);
    let token =
        site.json(&["token", "new", "--role", "service"])["token"].as_str().expect("a token").to_owned();
    let bearer = format!("Authorization: Bearer {token}");
    let own = site.data().join("keys/tls.pem");
    let trusted = ["--cacert", own.to_str().expect("UTF-8"), "--header", &bearer];
    assert_eq!(daemon.ask("/v1/models", &trusted).0, 200);
    let body = format!(r#"{{"model": "none", "prompt": "{}"}}"#, PLANTED[1]);
    let asking = ["--header", &bearer, "--json", &body];
    assert_eq!(daemon.ask("/v1/completions", &asking).0, 404);
    let needles: Vec<&str> = texts.iter().map(String::as_str).collect();
    let place = site.data();
    let control = place.to_str().expect("UTF-8");
    match daemon.in_memory(&[&needles[..], &[control]].concat()) {
        Some(found) => assert_eq!(found, [control], "while it serves"),
        None => eprintln!("skipped: this user may not read the memory of a process"),
    }

    let sealed = site.json(&["seal"]);
    assert_eq!((&sealed["state"], &sealed["shares_given"]), (&"sealed".into(), &0.into()));
    daemon.line("sealed");
    assert_eq!(daemon.is_sealed(), true);
    site.run(&["data", "ls"]).refused(5, &["sealed"]);
    if let Some(found) = daemon.in_memory(&[&needles[..], &PLANTED, &[token.as_str(), control]].concat()) {
        assert_eq!(found, [control], "sealed again");
    }
    site.json(&["seal"]);
    assert_eq!(daemon.stop().code, Some(0));

    let flags = [0, 2, 4].map(|at| ["--share-file".to_owned(), file(at)]).concat();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    site.run(&[&["audit", "verify"], &flags[..]].concat()).refused(5, &["cloister unseal"]);
    site.run(&[&["unseal"], &flags[..4]].concat()).refused(2, &["too few", "2 of 3 shares"]);
    assert_eq!(site.json(&[&["unseal"], &flags[..]].concat())["state"], "unsealed");
    site.run(&[&["audit", "verify"], &flags[..]].concat()).done();
    let rows = site.json_lines(&[&["audit", "ls"], &flags[..]].concat());
    let told = |action: &str, outcome: &str| {
        rows.iter().filter(|row| row["action"] == action && row["outcome"] == outcome).count()
    };
    assert_eq!((told("unseal", "done"), told("unseal", "failed")), (6, 3));
    assert_eq!((told("seal", "intent"), told("seal", "done")), (1, 1));
}

#[test]
fn a_key_file_that_is_there_unseals_at_the_start_and_not_after_a_seal() {
    let site = Site::initialised();
    let other = Site::initialised();
    let (key, wrong) = (site.at("root.key"), other.at("root.key"));
    let wrong = wrong.to_str().expect("UTF-8");
    site.run(&["serve", "--listen", "127.0.0.1:0", "--key-file", wrong]).refused(5, &["was made for"]);
    site.run(&["seal"]).refused(1, &["no daemon"]);

    let mut daemon = Daemon::start(&site, &[]);
    assert_eq!(daemon.is_sealed(), false);
    assert_eq!(site.json(&["unseal"])["state"], "serving", "there is nothing to do");
    site.run(&["seal"]).done();
    daemon.line("sealed");
    assert_eq!(daemon.is_sealed(), true);
    site.run(&["data", "ls"]).refused(5, &["root.key"]);
    site.run(&["unseal", "--key-file", wrong]).refused(5, &["was made for"]);
    assert_eq!(daemon.is_sealed(), true);
    assert_eq!(site.json(&["unseal"])["state"], "serving", "by the file that is remembered");
    site.run(&["data", "ls"]).done();
    assert_eq!(daemon.stop().code, Some(0));

    let away = site.at("away.key");
    std::fs::rename(&key, &away).expect("a file that is taken away");
    let daemon = Daemon::start(&site, &[]);
    assert_eq!(daemon.is_sealed(), true);
    site.run(&["unseal"]).refused(5, &["root.key", "is not there"]);
    site.run(&["unseal", "--key-file", away.to_str().expect("UTF-8")]).done();
    assert_eq!(daemon.is_sealed(), false);
    assert_eq!(daemon.stop().code, Some(0));
    std::fs::rename(&away, &key).expect("brought back");
    let daemon = Daemon::start(&site, &["--sealed"]);
    assert_eq!(daemon.is_sealed(), true, "because it was asked for");
    assert_eq!(daemon.stop().code, Some(0));
    site.run(&["serve", "--sealed", "--handed-over"]).refused(2, &["nothing was handed over"]);
}

#[test]
fn a_seal_outlives_the_daemon_until_somebody_unseals() {
    let site = Site::initialised();
    let (key, other) = (site.at("root.key"), Site::initialised());
    let (key, wrong) = (key.to_str().expect("UTF-8"), other.at("root.key"));
    let mut daemon = Daemon::start(&site, &[]);
    site.run(&["seal"]).done();
    daemon.line("sealed");
    assert_eq!(daemon.stop().code, Some(0));
    for arguments in [&["data", "ls"][..], &["data", "ls", "--key-file", key], &["key", "rotate"]] {
        site.run(arguments).refused(5, &["was sealed by `cloister seal`", "cloister unseal"]);
    }
    site.run(&["key", "rekey", "--new-passphrase-file", &site.file("words", PASSPHRASE)])
        .refused(5, &["sealed"]);
    assert!(site.run(&["doctor"]).stdout.contains("was sealed by `cloister seal`"));

    let daemon = Daemon::start(&site, &[]);
    assert_eq!(daemon.is_sealed(), true, "though the key file is there");
    daemon.kill();
    let daemon = Daemon::start(&site, &["--key-file", key]);
    assert_eq!(daemon.is_sealed(), true);
    assert_eq!(site.json(&["unseal"])["state"], "serving");
    assert_eq!(daemon.stop().code, Some(0));
    let mut daemon = Daemon::start(&site, &[]);
    assert_eq!(daemon.is_sealed(), false, "it was unsealed");

    site.run(&["seal"]).done();
    daemon.line("sealed");
    assert_eq!(daemon.stop().code, Some(0));
    site.run(&["unseal", "--key-file", wrong.to_str().expect("UTF-8")]).refused(5, &["was made for"]);
    site.run(&["data", "ls"]).refused(5, &["cloister unseal"]);
    assert_eq!(site.json(&["unseal"])["state"], "unsealed", "without a daemon");
    site.run(&["data", "ls"]).done();
    site.run(&["unseal"]).refused(1, &["no daemon"]);
    let daemon = Daemon::start(&site, &[]);
    assert_eq!(daemon.is_sealed(), false);
    assert_eq!(daemon.stop().code, Some(0));
}

/// A terminal of its own, on which `line` was typed at the prompt; gives what it showed.
#[allow(clippy::print_stderr)] // A skipped test says why.
fn typed(site: &Site, line: &[u8]) -> Option<String> {
    let data = site.data();
    let unseal = format!("{} --data-dir {} unseal", env!("CARGO_BIN_EXE_cloister"), data.display());
    // As in the background of a script, where an interrupt that nobody listens for is lost.
    let terminal = Command::new("script")
        .args(["-qfec", &format!("trap '' INT; {unseal}; stty -a"), "/dev/null"])
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut terminal) = terminal else {
        eprintln!("skipped: there is no `script` here, which makes a terminal");
        return None;
    };
    let (mut keyboard, mut screen) =
        (terminal.stdin.take().expect("piped"), terminal.stdout.take().expect("piped"));
    let mut shown = Vec::new();
    let mut letter = [0];
    while !shown.ends_with(b"passphrase: ") {
        assert_eq!(screen.read(&mut letter).expect("readable"), 1, "{}", String::from_utf8_lossy(&shown));
        shown.push(letter[0]);
    }
    keyboard.write_all(line).expect("typed");
    screen.read_to_end(&mut shown).expect("readable");
    terminal.wait().expect("a child of ours");
    Some(String::from_utf8_lossy(&shown).into_owned())
}

#[test]
fn what_is_typed_is_not_shown_and_the_terminal_is_left_as_it_was() {
    let site = Site::empty();
    let file = site.file("passphrase", PASSPHRASE);
    site.run(&["init", "--passphrase-file", &file]).done();
    let daemon = Daemon::start(&site, &[]);
    site.run(&["unseal"]).refused(2, &["no terminal", "--passphrase-file"]);
    if let Some(shown) = typed(&site, b"\x03") {
        assert!(shown.contains("nothing was typed") && shown.contains(" echo "), "{shown}");
        assert_eq!(daemon.is_sealed(), true);
        let shown = typed(&site, format!("{PASSPHRASE}\n").as_bytes()).expect("as before");
        assert!(shown.contains("serving") && shown.contains(" echo "), "{shown}");
        assert!(!shown.contains("horse"), "{shown}");
        assert_eq!(daemon.is_sealed(), false);
    }
    assert_eq!(daemon.stop().code, Some(0));
}
