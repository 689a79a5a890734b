//! Two versions of a model, a proposal, an approval by whoever trained it that is refused, one that goes without a second
//! person, an answer by the new version, and the way back, through the real binary and a daemon.

use serde_json::{Value, json};

use crate::{
    daemon::Daemon,
    harness::{Site, wait_until},
    people::manage,
    power_cut::scenarios,
};

/// The version that answers to the name; None where nothing does.
fn version(daemon: &Daemon, bearer: &str) -> Option<String> {
    let (status, said) = daemon.ask("/v1/models/tiny", &["--header", bearer]);
    (status == 200).then(|| said["version"].as_str().expect("a version").to_owned())
}

fn newest(site: &Site) -> String {
    let models = site.json_lines(&["model", "ls"]);
    models.last().and_then(|model| model["id"].as_str()).expect("a model").to_owned()
}

fn states(site: &Site) -> Vec<(Value, Value)> {
    let listed = site.json(&["deploy", "ls", "--all"]);
    let rows = listed["deployments"].as_array().expect("rows");
    rows.iter().map(|row| (row["model"].clone(), row["state"].clone())).collect()
}

#[test]
fn the_next_version_is_proposed_refused_to_its_maker_approved_alone_and_rolled_back() {
    let site = Site::empty();
    scenarios::before_training(&site);
    let train = || scenarios::train(&site);
    let id = |row: Value| row["id"].as_str().expect("an id").to_owned();
    let propose = || id(site.json(&["deploy", "propose", "tiny", "--reason", "bits per byte fell"]));
    let alone = |deployment: &str| {
        site.run(&["deploy", "approve", deployment, "--alone", "nobody else is here"]).done();
    };
    train();
    let first = newest(&site);
    let token = site.json(&["token", "new", "--role", "user"])["token"].as_str().expect("text").to_owned();
    let bearer = format!("authorization: Bearer {token}");
    let daemon = Daemon::start(&site, &[]);
    assert_eq!(version(&daemon, &bearer).as_ref(), Some(&first), "without a word said");
    alone(&propose());

    train();
    let second = newest(&site);
    assert_ne!(first, second);
    let deployment = propose();
    let refused =
        site.run(&["deploy", "approve", &deployment]).refused(3, &["you (local:", "proposed", "--alone"]);
    assert!(refused.stdout.is_empty());
    assert_eq!(version(&daemon, &bearer).as_ref(), Some(&first), "the newest waits for its approval");
    alone(&deployment);
    wait_until("the new version serves", || version(&daemon, &bearer).as_ref() == Some(&second));
    let body = r#"{"model":"tiny","prompt":"The miller","max_tokens":4}"#;
    let arguments = ["--header", &bearer, "--header", "content-type: application/json", "--data", body];
    let (status, answer) = daemon.ask("/v1/completions", &arguments);
    assert_eq!(status, 200, "{answer}");
    let path = format!("/v1/receipts/{}", answer["id"].as_str().expect("an id"));
    let receipt = daemon.ask(&path, &["--header", &bearer]).1["receipt"].clone();
    assert_eq!(
        (&receipt["model"], &receipt["deployment"]),
        (&json!(second), &json!(deployment)),
        "{receipt}"
    );
    assert_eq!(receipt["deployed_by"], "approved alone");

    site.run(&["deploy", "rollback", "tiny", "--reason", "it forgot the heron"]).done();
    wait_until("the former version serves", || version(&daemon, &bearer).as_ref() == Some(&first));
    let (active, retired) = (json!("active"), json!("retired"));
    let wanted = [(&first, &retired), (&first, &active), (&second, &retired)];
    let mut found = states(&site);
    found.sort_by_key(|(model, state)| (model.to_string(), state != "retired"));
    assert_eq!(found, wanted.map(|(model, state)| (json!(model), state.clone())));
    site.run(&["deploy", "rollback", "tiny", "--reason", "further"])
        .refused(2, &["nothing that was approved"]);

    site.run(&["deploy", "policy", "approved-only"]).done();
    assert!(site.run(&["doctor"]).stdout.contains("approved-only: a name serves what was approved"));
    site.run(&["deploy", "retire", "tiny", "--reason", "the desk closed"]).done();
    wait_until("nothing serves", || version(&daemon, &bearer).is_none());
    let page = site.run(&["deploy", "ls", "--all"]).done().stdout;
    for said in ["approved alone by local:", "it forgot the heron", "policy approved-only"] {
        assert!(page.contains(said), "no `{said}` in {page}");
    }
    let lineage = site.run(&["lineage", "show", &second]).done().stdout;
    assert!(lineage.contains("deployed alone as"), "{lineage}");
    let log = site.run(&["audit", "ls"]).done().stdout;
    for said in ["deploy.approve_alone", "deploy.rollback", "deploy.retire", "deploy.policy"] {
        assert!(log.contains(said), "no {said} in {log}");
    }
    site.run(&["audit", "verify"]).done();
    assert_eq!(daemon.stop().code, Some(0));
}

#[test]
fn a_proposal_is_taken_back_by_whoever_made_it_and_the_name_stays_governed() {
    let site = Site::empty();
    scenarios::before_training(&site);
    scenarios::train(&site);
    let first = newest(&site);
    let token = |role| {
        let made = site.json(&["token", "new", "--role", role]);
        made["token"].as_str().expect("text").to_owned()
    };
    let (builder, colleague) = (token("model-builder"), token("model-builder"));
    let bearer = format!("authorization: Bearer {}", token("user"));
    let daemon = Daemon::start(&site, &[]);
    let body = json!({"model": "tiny", "reason": "bits per byte fell"}).to_string();
    let (status, row) = manage(&daemon, &builder, "deploy_propose", &body);
    assert_eq!(status, 200, "{row}");
    let theirs = row["id"].as_str().expect("an id");
    let body = json!({"deployment": theirs, "reason": "it was the wrong run"}).to_string();
    let (status, said) = manage(&daemon, &colleague, "deploy_withdraw", &body);
    assert_eq!(status, 403, "{said}");
    assert!(said.to_string().contains("deploy reject"), "{said}");
    site.run(&["deploy", "withdraw", theirs])
        .refused(3, &["you (local:", "did not propose", "deploy reject"]);
    let (status, row) = manage(&daemon, &builder, "deploy_withdraw", &body);
    assert_eq!((status, &row["state"]), (200, &json!("withdrawn")), "{row}");

    scenarios::train(&site);
    let second = newest(&site);
    assert_ne!(first, second);
    let propose = || {
        let row = site.json(&["deploy", "propose", "tiny", "--reason", "bits per byte fell"]);
        row["id"].as_str().expect("an id").to_owned()
    };
    let ours = propose();
    site.run(&["deploy", "withdraw", &ours]).done();
    site.run(&["deploy", "withdraw", &ours]).refused(2, &["is withdrawn", "deploy propose"]);
    assert_eq!(version(&daemon, &bearer).as_ref(), Some(&first), "the newest waits for its approval");
    let again = propose();
    site.run(&["deploy", "approve", &again, "--alone", "nobody else is here"]).done();
    wait_until("the new version serves", || version(&daemon, &bearer).as_ref() == Some(&second));

    let standing = site.run(&["deploy", "ls"]).done().stdout;
    assert!(!standing.contains("withdrawn"), "{standing}");
    let page = site.run(&["deploy", "ls", "--all"]).done().stdout;
    for said in ["withdrawn by key_", "it was the wrong run", "withdrawn by local:"] {
        assert!(page.contains(said), "no `{said}` in {page}");
    }
    let log = site.run(&["audit", "ls"]).done().stdout;
    assert!(log.contains("deploy.withdraw"), "{log}");
    site.run(&["audit", "verify"]).done();
    assert_eq!(daemon.stop().code, Some(0));
}
