//! What is going on when the power goes, and what must be so afterwards.

use serde_json::Value;

use super::daemon;
use crate::harness::Site;

pub struct Scenario {
    pub name: &'static str,
    pub prepare: fn(&Site),
    /// The command that is cut off.
    pub command: fn(&Site) -> Vec<String>,
    /// Holds the site to what the command had reported on standard output; empty where it had not come so far.
    pub check: fn(&Site, &str),
    /// Whether the command can be repeated when it had come to its end.
    pub repeats: bool,
}

pub const INIT: Scenario = Scenario {
    name: "init",
    prepare: |_| {},
    command: |_| words("init --key-file root.key"),
    check: |site, _| assert!(documents(site).is_empty()),
    repeats: false,
};

pub const INGEST: Scenario = Scenario {
    name: "data ingest",
    prepare: |site| {
        init(site);
        write(site, "old", "the heron stands over the mill pond. ");
        site.run(&["data", "ingest", "in", "--collection", "mill"]).done();
        write(site, "old", "and another version of it. ");
        ["a", "b", "c", "d", "e"].iter().for_each(|name| write(site, name, "the miller counts sacks. "));
    },
    command: |_| words("data ingest in --collection mill --json"),
    check: |site, reported| {
        let names: Vec<Value> = documents(site).iter().map(|row| row["name"].clone()).collect();
        assert!(names.iter().any(|name| name.as_str().is_some_and(|name| name.contains("old"))), "{names:?}");
        if let Some(done) = document(reported) {
            assert_eq!((done["refused"].as_array().map(Vec::len), names.len()), (Some(0), 6), "{done}");
        }
    },
    repeats: true,
};

pub const ROTATE: Scenario = Scenario {
    name: "key rotate",
    prepare: with_documents,
    command: |_| words("key rotate --json"),
    check: |site, reported| {
        let now = site.json(&["key", "status"]);
        if let Some(status) = document(reported) {
            assert_eq!(status["versions"], now["versions"]);
        }
        assert_eq!(documents(site).len(), 2);
    },
    repeats: true,
};

pub const REKEY: Scenario = Scenario {
    name: "key rekey",
    prepare: with_documents,
    command: |_| words("key rekey --new-key-file new.key --json"),
    check: |site, reported| {
        let now = site.json(&["key", "status"]);
        if let Some(status) = document(reported) {
            assert_eq!(status["unsealed_by"], now["unsealed_by"]);
            assert!(now["unsealed_by"].to_string().contains("new.key"), "{now}");
        }
        assert_eq!(documents(site).len(), 2);
    },
    repeats: true,
};

pub const TOKEN: Scenario = Scenario {
    name: "token new",
    prepare: init,
    command: |_| words("token new --role user --json"),
    check: |site, reported| {
        let tokens = site.json_lines(&["token", "ls"]);
        if let Some(token) = document(reported) {
            assert!(tokens.iter().any(|row| row["id"] == token["id"]), "{token} is not among {tokens:?}");
        }
    },
    repeats: true,
};

pub const REVOKE: Scenario = Scenario {
    name: "token revoke",
    prepare: |site| {
        init(site);
        let token = site.json(&["token", "new", "--role", "user"]);
        site.file("token", token["id"].as_str().expect("an id"));
    },
    command: |site| {
        let token = std::fs::read_to_string(site.at("token")).expect("prepared");
        [words("token revoke --json"), vec![token]].concat()
    },
    check: |site, reported| {
        let tokens = site.json_lines(&["token", "ls"]);
        assert_eq!(tokens.len(), 1);
        if document(reported).is_some() {
            assert_eq!(tokens[0]["state"], "revoked");
        }
    },
    repeats: true,
};

pub const BACKUP: Scenario = Scenario {
    name: "backup create",
    prepare: |site| {
        with_documents(site);
        back_up(site);
        write(site, "late", "it came after the first backup. ");
        site.run(&["data", "ingest", "in", "--collection", "mill"]).done();
    },
    command: |_| words("backup create disk --keys stick --json"),
    check: |site, reported| {
        let listed = whole_backups(site);
        assert!(!listed.is_empty(), "the first backup is gone");
        if let Some(backup) = document(reported) {
            assert!(listed.contains(&backup["id"]), "{backup} is not among {listed:?}");
        }
        let keys = || std::fs::read_dir(site.at("stick")).expect("the stick").flatten();
        let stray =
            keys().filter(|entry| !listed.iter().any(|id| *id == *entry.file_name().to_string_lossy()));
        // One at most, of the backup that was cut off; the next one sweeps it.
        assert!(stray.count() <= usize::from(document(reported).is_none()), "keys of no backup");
    },
    repeats: true,
};

pub const FORGET: Scenario = Scenario {
    name: "backup forget",
    prepare: |site| {
        with_documents(site);
        back_up(site);
        back_up(site);
        write(site, "late", "it came after the second backup. ");
        site.run(&["data", "ingest", "in", "--collection", "mill"]).done();
        back_up(site);
    },
    command: |_| words("backup forget disk --keep 1 --keys stick --json"),
    check: |site, reported| {
        let listed: Vec<Value> =
            site.json_lines(&["backup", "ls", "disk"]).iter().map(|row| row["id"].clone()).collect();
        // Their keys go first, their files last.
        for id in &listed {
            site.run(&["backup", "verify", "disk", "--backup", id.as_str().expect("an id")]).done();
        }
        let newest = listed.last().and_then(Value::as_str).expect("a backup");
        site.run(&["backup", "verify", "disk", "--backup", newest, "--keys", "stick"]).done();
        if !reported.is_empty() {
            assert_eq!(listed.len(), 1, "{listed:?} after {reported}");
            assert_eq!(std::fs::read_dir(site.at("stick")).expect("the stick").count(), 1);
        }
    },
    repeats: true,
};

pub const RESTORE: Scenario = Scenario {
    name: "backup restore",
    prepare: |site| {
        with_documents(site);
        back_up(site);
        std::fs::remove_dir_all(site.data()).expect("the machine is lost");
    },
    command: |_| words("backup restore disk --keys stick --no-later-erasures --key-file root.key --json"),
    check: |site, _| assert_eq!(documents(site).len(), 2),
    repeats: false,
};

pub const PRETRAIN: Scenario = Scenario {
    name: "model pretrain",
    prepare: before_training,
    command: |_| words(TRAIN),
    check: |site, reported| {
        let models = site.json_lines(&["model", "ls"]);
        if !reported.is_empty() {
            assert!(models.iter().any(|model| model["name"] == "tiny"), "{models:?} after {reported}");
        }
        for model in &models {
            site.run(&["model", "show", model["id"].as_str().expect("an id")]).done();
        }
        let jobs = site.json_lines(&["job", "ls"]);
        assert!(jobs.iter().all(|job| job["state"] != "running"), "{jobs:?}");
        assert_eq!(documents(site).len(), 6);
    },
    repeats: true,
};

/// A model that was approved, and the next version that is proposed.
pub const DEPLOY: Scenario = Scenario {
    name: "deploy approve",
    prepare: |site| {
        before_training(site);
        for version in ["first", "second"] {
            train(site);
            let proposed = site.json(&["deploy", "propose", "tiny", "--reason", version]);
            let id = proposed["id"].as_str().expect("an id");
            if version == "first" {
                site.run(&["deploy", "approve", id, "--alone", "nobody else"]).done();
            }
            site.file("proposed", id);
        }
    },
    command: |site| {
        let proposed = std::fs::read_to_string(site.at("proposed")).expect("prepared");
        [words("deploy approve --json --alone alone"), vec![proposed]].concat()
    },
    check: |site, reported| {
        let proposed = std::fs::read_to_string(site.at("proposed")).expect("prepared");
        let listed = site.json(&["deploy", "ls", "--all"]);
        let rows = listed["deployments"].as_array().expect("rows");
        let active: Vec<&Value> = rows.iter().filter(|row| row["state"] == "active").collect();
        assert_eq!(active.len(), 1, "{listed}");
        let approved = active[0]["id"] == proposed.as_str();
        assert!(approved || document(reported).is_none(), "{listed} after {reported}");
        let row = rows.iter().find(|row| row["id"] == proposed.as_str()).expect("what was proposed");
        assert_eq!(row["state"], if approved { "active" } else { "proposed" });
    },
    repeats: false,
};

/// One of two subjects' documents, of which a snapshot, a tokenizer, tokens and a model were made.
pub const ERASE: Scenario = Scenario {
    name: "data erase",
    prepare: |site| {
        before_training(site);
        for name in ["x", "y", "z"] {
            let text = "doe owes the miller nine sacks. ".repeat(30);
            site.file(&format!("doe/{name}.txt"), format!("{name}. {text}\n"));
        }
        site.run(&["data", "ingest", "doe", "--collection", "mill", "--subject", "doe"]).done();
        train(site);
    },
    command: |_| words("data erase --subject doe --yes --json"),
    check: |site, reported| {
        let of_doe = documents(site).iter().filter(|row| row["subjects"][0] == "doe").count();
        assert!(of_doe == 0 || of_doe == 3, "{of_doe} of three are left");
        let erase = ["data", "erase", "--subject", "doe", "--yes"];
        if of_doe == 3 {
            assert_eq!(reported, "", "what was reported erased is there");
            assert!(erasures(site).is_empty(), "what is there has an outcome in the log");
            site.run(&erase).done();
        }
        let done = erasures(site);
        assert_eq!(done.len(), 1, "one outcome: {done:?}");
        let certificate = site.json(&["data", "certificate", done[0].as_str().expect("an id")]);
        assert_eq!(certificate["certificate"]["documents"].as_object().map(serde_json::Map::len), Some(3));
        if let Some(signed) = document(reported) {
            assert_eq!(signed, certificate);
        }
        let gone = site.run(&erase);
        assert!(gone.code == Some(1) && gone.stderr.contains("nothing is left"), "{}", gone.all());
        assert_eq!(documents(site).len(), 6);
    },
    repeats: false,
};

pub const PROPOSE: Scenario = Scenario {
    name: "deploy propose",
    prepare: with_model,
    // Each time for another name: the same twice is refused.
    command: |site| {
        let rows = site.json(&["deploy", "ls", "--all"])["deployments"].as_array().map_or(0, Vec::len);
        [words("deploy propose tiny --reason better --json --as"), vec![format!("name-{rows}")]].concat()
    },
    check: |site, reported| {
        let listed = site.json(&["deploy", "ls", "--all"]);
        if let Some(proposed) = document(reported) {
            assert!(listed.to_string().contains(proposed["id"].as_str().expect("an id")), "{listed}");
        }
    },
    repeats: true,
};

/// The daemon, asked by a client that keeps what was acknowledged.
pub const SERVE: Scenario = Scenario {
    name: "serve",
    prepare: |site| {
        with_model(site);
        let token = site.json(&["token", "new", "--role", "validator"]);
        site.file("token", token["token"].as_str().expect("a token"));
    },
    command: |_| words("serve --listen 127.0.0.1:0 --device cpu"),
    check: daemon::must_remember,
    repeats: true,
};

const TRAIN: &str =
    "--threads 1 model pretrain --data mill --vocab-size 264 --config run.toml --name tiny --json";

/// Documents, and a file for a run of a second.
pub fn before_training(site: &Site) {
    init(site);
    for name in ["a", "b", "c", "d", "e", "f"] {
        write(site, name, &format!("{name}: the miller counts sacks and the heron waits until dusk. "));
    }
    site.run(&["data", "ingest", "in", "--collection", "mill"]).done();
    site.file(
        "run.toml",
        "layers = 1\ndim = 16\nheads = 1\nkv_heads = 1\nffn = 32\ncontext = 32\nmicro_batch = 2\n\
         batch_tokens = 64\nsteps = 6\ncheckpoint_minutes = 1e-6\nlearning_rate = 1e-3\n\
         [purpose]\nfor_whom = \"tests\"\nfor_what = \"tests\"\nnot_for_what = \"anything else\"\n",
    );
}

fn with_model(site: &Site) {
    before_training(site);
    train(site);
}

/// A run by that file, whose model is called `tiny`.
pub fn train(site: &Site) {
    site.run(&words(TRAIN).iter().map(String::as_str).collect::<Vec<_>>()).done();
}

/// Of which the audit log says that they were done.
fn erasures(site: &Site) -> Vec<Value> {
    let entries = site.json_lines(&["audit", "ls", "--limit", "100000"]);
    let done = entries.iter().filter(|row| row["action"] == "data.erase" && row["outcome"] == "done");
    done.map(|row| row["object"].clone()).collect()
}

fn words(command: &str) -> Vec<String> {
    command.split(' ').map(str::to_owned).collect()
}

/// What was reported, where it is one JSON document.
fn document(reported: &str) -> Option<Value> {
    (!reported.is_empty()).then(|| serde_json::from_str(reported).expect("one JSON document, whole"))
}

fn init(site: &Site) {
    site.run(&["init", "--key-file", "root.key"]).done();
}

fn write(site: &Site, name: &str, text: &str) {
    site.file(&format!("in/{name}.txt"), format!("{name}. {}\n", text.repeat(30)));
}

fn with_documents(site: &Site) {
    init(site);
    write(site, "a", "the heron stands over the mill pond. ");
    write(site, "b", "the miller counts sacks. ");
    site.run(&["data", "ingest", "in", "--collection", "mill"]).done();
}

fn documents(site: &Site) -> Vec<Value> {
    site.json_lines(&["data", "ls"])
}

fn back_up(site: &Site) {
    site.run(&["backup", "create", "disk", "--keys", "stick"]).done();
}

/// The backups that are listed, each of them read again.
fn whole_backups(site: &Site) -> Vec<Value> {
    let listed: Vec<Value> =
        site.json_lines(&["backup", "ls", "disk"]).iter().map(|row| row["id"].clone()).collect();
    for id in &listed {
        let id = id.as_str().expect("an id");
        site.run(&["backup", "verify", "disk", "--backup", id, "--keys", "stick"]).done();
    }
    listed
}
