//! People who log in, programs that show a certificate, and what both manage over the network, through the real binary.

use std::process::Command;

use serde_json::Value;

use crate::{daemon::Daemon, harness::Site};

const PASSWORD: &str = "verdigris otter tribunal";
const JSON: &str = "Content-Type: application/json";

fn log_in(daemon: &Daemon, user: &str, password: &str) -> (u16, Value) {
    let body = serde_json::json!({"user": user, "password": password}).to_string();
    daemon.ask("/v1/sessions", &["--header", JSON, "--data", &body])
}

/// Status and body of a request of the management API.
pub fn manage(daemon: &Daemon, token: &str, name: &str, body: &str) -> (u16, Value) {
    let bearer = format!("Authorization: Bearer {token}");
    let asking = ["--header", JSON, "--header", bearer.as_str(), "--data", body];
    daemon.ask(&format!("/admin/v1/{name}"), &asking)
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}"))
}

#[test]
#[allow(clippy::print_stderr)] // A skipped test says why.
fn a_password_is_set_over_the_socket_and_lies_nowhere() {
    let site = Site::initialised();
    site.run(&["user", "add", "alice", "--role", "data-steward"]).done();
    site.run(&["user", "add", "robot", "--role", "service"]).done();
    let daemon = Daemon::start(&site, &["--session-hours", "1"]);
    let set = |name: &str, password: &str| {
        let file = site.file("password", format!("{password}\n"));
        let ran = site.run(&["user", "password", name, "--password-file", &file]);
        std::fs::remove_file(file).expect("a file");
        ran
    };
    set("alice", "too short").refused(2, &["at least 12 characters"]);
    set("alice", "Password1234").refused(2, &["first that anybody would try"]);
    set("robot", PASSWORD).refused(2, &["service", "cloister token new"]);
    set("bob", PASSWORD).refused(1, &["no user 'bob'"]);
    site.run(&["user", "password", "alice", "--password-file", "nowhere"])
        .refused(1, &["nowhere is not there"]);
    site.run(&["user", "password", "alice"]).refused(2, &["no terminal", "--password-file"]);
    assert_eq!(log_in(&daemon, "alice", PASSWORD).0, 401);
    set("alice", PASSWORD).done();
    let place = site.data();
    let control = place.to_str().expect("UTF-8");
    let other = "ochre lapwing affidavit";
    set("alice", other).done();
    match daemon.in_memory(&[other, control]) {
        Some(found) => assert_eq!(found, [control]),
        None => eprintln!("skipped: this user may not read the memory of a process"),
    }
    let (status, session) = log_in(&daemon, "alice", other);
    assert_eq!(status, 200, "{session}");
    assert_eq!(text(&session, "role"), "data_steward");
    let token = text(&session, "token").to_owned();
    assert_eq!(manage(&daemon, &token, "data_ls", "{}"), (200, serde_json::json!([])));
    let rows = site.json_lines(&["token", "ls"]);
    assert_eq!((rows.len(), &rows[0]["session"]), (1, &true.into()));
    site.run(&["user", "password", "alice", "--remove"]).done();
    assert_eq!(manage(&daemon, &token, "data_ls", "{}").0, 401);
    assert_eq!(log_in(&daemon, "alice", other).0, 401);
    assert_eq!(site.json_lines(&["token", "ls"]).len(), 0);
    assert_eq!(daemon.stop().code, Some(0));
    let found = crate::harness::grep_files(&site.data(), &[PASSWORD, other, &token]);
    assert!(found.is_empty(), "{found:?}");
    site.run(&["audit", "verify"]).done();
}

#[test]
fn a_person_changes_the_own_password_over_the_network() {
    let site = Site::initialised();
    site.run(&["user", "add", "alice", "--role", "auditor"]).done();
    let file = site.file("password", format!("{PASSWORD}\n"));
    site.run(&["user", "password", "alice", "--password-file", &file]).done();
    std::fs::remove_file(file).expect("a file");
    let daemon = Daemon::start(&site, &[]);
    let next = "ochre lapwing affidavit";
    let enter = || text(&log_in(&daemon, "alice", PASSWORD).1, "token").to_owned();
    let (token, elsewhere) = (enter(), enter());
    let change = |present: &str, next: &str| {
        let bearer = format!("Authorization: Bearer {token}");
        let body = serde_json::json!({"password": present, "new_password": next}).to_string();
        let asking = ["--request", "PUT", "--header", JSON, "--header", bearer.as_str(), "--data", &body];
        daemon.ask("/v1/password", &asking)
    };
    let (status, refused) = change("verdigris otter", next);
    assert_eq!((status, text(&refused["error"], "code")), (401, "invalid_credentials"));
    let (status, refused) = change(PASSWORD, "too short");
    assert_eq!((status, text(&refused["error"], "param")), (400, "new_password"));
    let (status, changed) = change(PASSWORD, next);
    assert_eq!((status, &changed["sessions_ended"]), (200, &true.into()), "{changed}");
    for ended in [&token, &elsewhere] {
        assert_eq!(manage(&daemon, ended, "audit_verify", "{}").0, 401);
    }
    assert_eq!(log_in(&daemon, "alice", PASSWORD).0, 401);
    assert_eq!(log_in(&daemon, "alice", next).0, 200);
    assert_eq!(daemon.stop().code, Some(0));
    let rows = site.json_lines(&["audit", "ls"]);
    let changes = rows.iter().filter(|row| row["action"] == "password.change");
    let mut outcomes: Vec<&str> = changes.map(|row| text(row, "outcome")).collect();
    outcomes.sort_unstable();
    assert_eq!(outcomes, ["denied", "done", "failed", "intent", "intent", "intent"]);
    let found = crate::harness::grep_files(&site.data(), &[PASSWORD, next, &token]);
    assert!(found.is_empty(), "{found:?}");
    site.run(&["audit", "verify"]).done();
}

/// A certificate and its key, in files: of an authority, or one that the authority signed.
fn certificate(site: &Site, name: &str, authority: Option<&(String, String)>) -> (String, String) {
    let at = |ending: &str| site.at(&format!("{name}.{ending}")).to_str().expect("UTF-8").to_owned();
    let (certificate, key) = (at("pem"), at("key"));
    let mut openssl = Command::new("openssl");
    openssl
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args(["-days", "1", "-subj", &format!("/CN={name}"), "-keyout", &key, "-out", &certificate]);
    if let Some((signer, signers_key)) = authority {
        openssl.args(["-CA", signer, "-CAkey", signers_key]);
        openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    }
    let made = openssl.output().expect("openssl runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (certificate, key)
}

#[test]
fn a_bound_token_goes_with_its_certificate_and_an_authority_shuts_the_rest_out() {
    let site = Site::initialised();
    let authority = certificate(&site, "authority", None);
    let (own, own_key) = certificate(&site, "search", Some(&authority));
    let (other, other_key) = certificate(&site, "other", None);
    site.run(&["token", "new", "--role", "service", "--certificate", &own_key])
        .refused(2, &["holds no certificate"]);
    let bound = site.json(&["token", "new", "--role", "service", "--certificate", &own]);
    let bearer = format!("Authorization: Bearer {}", text(&bound, "token"));
    let rows = site.json_lines(&["token", "ls"]);
    let printed = Command::new("openssl")
        .args(["x509", "-noout", "-fingerprint", "-sha256", "-in", &own])
        .output()
        .expect("openssl runs");
    let printed = String::from_utf8_lossy(&printed.stdout);
    assert!(printed.trim().ends_with(text(&rows[0], "certificate")), "{printed}: {rows:?}");
    let daemon = Daemon::start(&site, &[]);
    let asking = ["--header", bearer.as_str()];
    let with = |certificate, key| [&asking[..], &["--cert", certificate, "--key", key]].concat();
    assert_eq!(daemon.ask("/v1/models", &with(&own, &own_key)).0, 200);
    assert_eq!(daemon.ask("/v1/models", &with(&other, &other_key)).0, 401);
    assert_eq!(daemon.ask("/v1/models", &asking).0, 401);
    assert_eq!(daemon.stop().code, Some(0));

    let daemon = Daemon::start(&site, &["--client-ca", &authority.0]);
    assert_eq!(daemon.ask("/healthz", &["--cert", &own, "--key", &own_key]).0, 200);
    let is_let_in = |arguments: &[&str]| {
        let asked =
            Command::new("curl").args(["--silent", "--insecure", &daemon.url]).args(arguments).output();
        asked.expect("curl runs").status.success()
    };
    assert!(!is_let_in(&[]) && !is_let_in(&["--cert", &other, "--key", &other_key]));
    site.run(&["seal"]).done();
    site.run(&["unseal"]).done();
    assert_eq!(daemon.ask("/healthz", &["--cert", &own, "--key", &own_key]).0, 200);
    assert!(!is_let_in(&[]), "the flag is handed over");
    assert_eq!(daemon.stop().code, Some(0));
}

#[test]
fn roles_manage_over_the_network_and_hear_how_long_work_goes() {
    let site = Site::initialised();
    let document = site.file("in/letter.txt", "The heron waits until the water falls. ".repeat(400));
    site.run(&["data", "ingest", &document, "--collection", "letters"]).done();
    let token = |role: &str| text(&site.json(&["token", "new", "--role", role]), "token").to_owned();
    let (steward, builder) = (token("data_steward"), token("model_builder"));
    let daemon = Daemon::start(&site, &[]);
    let (status, rows) = manage(&daemon, &steward, "data_ls", r#"{"collection": "letters"}"#);
    assert_eq!((status, &rows[0]["collection"]), (200, &"letters".into()), "{rows}");
    assert_eq!(manage(&daemon, &builder, "data_ls", "{}").0, 403);
    let (status, refused) = manage(&daemon, &steward, "data_ingest", r#"{"paths": ["/etc/shadow"]}"#);
    assert_eq!((status, text(&refused["error"], "code")), (403, "insufficient_permissions"));
    let bearer = format!("Authorization: Bearer {builder}");
    let said = Command::new("curl")
        .args(["--silent", "--show-error", "--insecure", "--no-buffer", "--max-time", "120"])
        .args(["--header", JSON, "--header", &bearer, "--header", "Accept: application/x-ndjson"])
        .args(["--data", r#"{"collection": "letters", "vocab_size": 300}"#])
        .arg(format!("{}/admin/v1/tokenizer_train", daemon.url))
        .output()
        .expect("curl runs");
    let said = String::from_utf8_lossy(&said.stdout);
    let lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let last = lines.last().expect("an answer");
    assert!(text(&last["answer"], "id").starts_with("tok_"), "{said}");
    assert_eq!(manage(&daemon, &builder, "tokenizer_show", "{}").1[0]["id"], last["answer"]["id"]);
    let jobs = manage(&daemon, &builder, "job_ls", "{}").1;
    assert!(
        jobs.as_array().is_some_and(|jobs| jobs.iter().any(|job| text(job, "actor").starts_with("key_")))
    );
    assert_eq!(daemon.stop().code, Some(0));
    let rows = site.json_lines(&["audit", "ls"]);
    let told = |action: &str| -> Vec<&str> {
        let rows =
            rows.iter().filter(|row| row["action"] == action && text(row, "actor").starts_with("key_"));
        rows.map(|row| text(row, "outcome")).collect()
    };
    assert_eq!(told("tokenizer.train"), ["intent", "done"]);
    assert_eq!(told("data.ls"), ["intent", "done", "denied"]);
    assert_eq!(told("data.ingest"), ["denied"]);
}
