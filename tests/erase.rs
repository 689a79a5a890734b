//! Erasing a person's documents through the real binary: nothing of them opens afterwards, everybody else's does, what
//! was made of them is listed with commands that work, and no kill leaves it half done.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    process::Command,
    time::Duration,
};

use cloister::{
    base::{Id, IdKind, Philox},
    vault::{Depot, Unsealer, Vault},
};
use serde_json::Value;

use crate::harness::{Site, finish, grep_files};

const WORDS: [&str; 12] =
    ["the", "miller", "counts", "sacks", "of", "grain", "while", "herons", "wait", "over", "the", "pond"];
/// Planted in every document of one person.
const DOES: &str = "doe keeps a zanzibar quokka in the attic";
/// How many erasures are killed.
const PEOPLE: u64 = 8;
const ROES: &str = "roe repairs a heliotrope barometer";

fn text(planted: &str, number: u64) -> String {
    let mut random = Philox::new(5, number);
    let words: Vec<&str> = (0..500).map(|_| WORDS[random.below(12) as usize]).collect();
    format!("{number}. {planted}. {}\n", words.join(" "))
}

/// Documents of two people, one of which both have.
fn plant(site: &Site) {
    for (person, planted) in [("doe", DOES), ("roe", ROES)] {
        for number in 0..6 {
            site.file(&format!("in/{person}/{number}.txt"), text(planted, number));
        }
        site.file(&format!("in/{person}/both.txt"), text("what both of them signed", 77));
    }
    for (person, subject) in [("doe", "J. Doe"), ("roe", "R. Roe")] {
        let folder = site.at("in").join(person);
        let folder = folder.to_str().expect("UTF-8");
        site.run(&["data", "ingest", folder, "--collection", "mill", "--subject", subject]).done();
    }
}

fn by_subject(site: &Site) -> BTreeMap<String, Vec<Id>> {
    let mut documents: BTreeMap<String, Vec<Id>> = BTreeMap::new();
    for row in site.json_lines(&["data", "ls"]) {
        let id = row["id"].as_str().expect("an id").parse().expect("an id");
        documents.entry(row["subjects"][0].as_str().expect("a subject").to_owned()).or_default().push(id);
    }
    documents
}

fn vault(site: &Site) -> Vault {
    let root =
        Vault::unseal(&site.data(), Some(&Unsealer::KeyFile(site.at("root.key")))).expect("the root key");
    Vault::open(&site.data(), root).expect("the vault")
}

fn run_file(site: &Site, steps: u32) -> String {
    site.file(
        &format!("run-{steps}.toml"),
        format!(
            "layers = 1\ndim = 32\nheads = 2\nkv_heads = 1\nffn = 64\ncontext = 64\nmicro_batch = 4\n\
             batch_tokens = 512\nsteps = {steps}\nlearning_rate = 1e-3\n\
             [purpose]\nfor_whom = \"the clerk's desk\"\nfor_what = \"tests\"\nnot_for_what = \"anything else\"\n"
        ),
    )
}

/// A run that Ctrl-C stops on the way.
fn stopped_run(site: &Site) -> String {
    let config = run_file(site, 20_000);
    let mut child =
        site.spawn(&["model", "pretrain", "--data", "mill", "--config", &config, "--name", "stopped"]);
    let stderr = BufReader::new(child.stderr.take().expect("piped"));
    let (begun, begins) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut said = String::new();
        for line in stderr.lines().map_while(Result::ok) {
            if line.contains("step ") {
                // Only the first is waited for.
                let _ = begun.send(());
            }
            said += &line;
        }
        said
    });
    let trains = begins.recv_timeout(Duration::from_secs(60));
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()), "kill");
    child.wait().expect("a child of ours");
    let said = reader.join().expect("the reader");
    trains.unwrap_or_else(|_| panic!("it never trained: {said}"));
    let (_, rest) = said.split_once("cloister model resume ").unwrap_or_else(|| panic!("no run in: {said}"));
    rest[..30].to_owned()
}

/// Runs a command as a certificate shows it.
fn shell(site: &Site, command: &str) {
    let ours = format!("{} --data-dir {}", env!("CARGO_BIN_EXE_cloister"), site.data().display());
    let line = command.replacen("cloister", &ours, 1);
    let ran = Command::new("sh").args(["-c", &line]).output().expect("a shell");
    assert!(ran.status.success(), "{line}: {}", String::from_utf8_lossy(&ran.stderr));
}

/// Everything that any key of the installation still opens.
fn opened(site: &Site) -> Vec<u8> {
    let vault = vault(site);
    let read = |id| vault.open(id).expect("it opens").read_all().expect("it reads").to_vec();
    vault.objects().into_iter().flat_map(read).collect()
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn one_persons_documents_go_with_all_that_opens_them_and_the_others_stay() {
    let site = Site::initialised();
    plant(&site);
    let small = run_file(&site, 20);
    let pretrain = ["model", "pretrain", "--data", "mill", "--vocab-size", "300", "--config", &small];
    site.run(&[&pretrain[..], &["--name", "letters"]].concat()).done();
    let stopped = stopped_run(&site);
    let documents = by_subject(&site);
    let (doe, roe) = (&documents["J. Doe"], &documents["R. Roe"]);
    assert_eq!((doe.len(), roe.len()), (7, 7));
    let before = opened(&site);
    assert!(holds(&before, DOES) && holds(&before, ROES));

    let erase = ["data", "erase", "--subject", "J. Doe"];
    let plan = site.json(&[&erase[..], &["--plan"]].concat());
    site.run(&erase).refused(2, &["nobody confirmed it", "--yes"]);
    assert_eq!(site.run(&["data", "erase"]).code, Some(2), "nothing is named");
    assert_eq!(by_subject(&site), documents, "nothing was changed yet");

    let file = site.at("certificate.json");
    let file = file.to_str().expect("UTF-8");
    let signed = site.json(&[&erase[..], &["--yes", "--certificate", file]].concat());
    let certificate = &signed["certificate"];
    assert_eq!(certificate["documents"].as_object().map(serde_json::Map::len), Some(7));
    assert_eq!(plan["reached"], certificate["reached"]);
    whole(&site);

    // What is gone, and what is not.
    assert_eq!(by_subject(&site), BTreeMap::from([("R. Roe".to_owned(), roe.clone())]));
    let after = opened(&site);
    assert!(!holds(&after, DOES) && holds(&after, ROES));
    assert!(holds(&after, "what both of them signed"), "the other one's copy stays");
    {
        let vault = vault(&site);
        assert!(doe.iter().all(|&id| vault.extent_key(id).is_err() && vault.open(id).is_err()));
        assert!(roe.iter().all(|&id| vault.extent_key(id).is_ok()));
    }
    assert_eq!(grep_files(&site.data(), &[DOES, "J. Doe", "doe/0.txt"]), []);
    let gone = site.json(&["lineage", "show", &doe[0].to_string()]);
    assert_eq!(gone["labels"][doe[0].to_string()], "(erased)");

    the_certificate_checks(&site, file, certificate["erasure"].as_str().expect("an id"));
    site.run(&[&erase[..], &["--yes"]].concat()).refused(1, &["nothing is left of subject 'J. Doe'"]);
    what_it_reached_is_made_anew(&site, certificate, &stopped);
    whole(&site);
}

fn whole(site: &Site) {
    site.run(&["data", "verify"]).done();
    site.run(&["audit", "verify"]).done();
}

fn the_certificate_checks(site: &Site, file: &str, erasure: &str) {
    let key = site.data().join("keys/receipts.pub");
    let key = key.to_str().expect("UTF-8");
    let nowhere = Site::empty();
    let check = |file: &str| nowhere.run(&["data", "certificate", "--check", file, "--public-key", key]);
    check(file).done();
    let text = std::fs::read_to_string(file).expect("the certificate");
    assert!(!text.contains("Doe") && !text.contains(".txt"), "{text}");
    let forged = nowhere.file("forged.json", text.replacen("\"jobs\":1", "\"jobs\":0", 1));
    check(&forged).refused(4, &["signature"]);
    check(&nowhere.file("none.json", "{}")).refused(4, &["is no certificate"]);
    let again = site.json(&["data", "certificate", erasure, "--subject", "J. Doe"]);
    assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), again);
    site.run(&["data", "certificate", erasure, "--subject", "R. Roe"]).refused(1, &["not asked for"]);
    site.run(&["data", "erase", "--subject", "R. Roe", "--yes", "--certificate", file])
        .refused(1, &["making"]);
}

/// The list names each thing once, resuming is refused, and the commands beside the list work.
fn what_it_reached_is_made_anew(site: &Site, certificate: &Value, stopped: &str) {
    let reached = certificate["reached"].as_array().expect("a list");
    let of = |kind: &str| -> Vec<&Value> {
        let prefixed = |row: &&Value| row["id"].as_str().is_some_and(|id| id.starts_with(kind));
        reached.iter().filter(prefixed).collect()
    };
    let counts = ["ds_", "tok_", "shd_", "run_", "mdl_"].map(|kind| of(kind).len());
    assert_eq!(counts, [1, 1, 1, 2, 1], "{certificate}");
    assert!(!of("ckp_").is_empty(), "{certificate}");

    let resumed =
        site.run(&["model", "resume", stopped]).refused(2, &["was erased", "cloister model pretrain"]);
    let command = of("run_").into_iter().find(|row| row["id"] == stopped).expect("the stopped run");
    let command = command["retrain"].as_str().expect("a command");
    assert!(resumed.stderr.contains(command), "{}", resumed.all());

    let old = &site.json_lines(&["model", "ls"])[0];
    assert_eq!(old["erased"], 7, "both's older copy was the one that counted: {old}");
    shell(site, of("tok_")[0]["retrain"].as_str().expect("a command"));
    shell(site, of("mdl_")[0]["retrain"].as_str().expect("a command"));
    let new = site.json(&["model", "show", "letters"]);
    assert_ne!(new["id"], old["id"]);
    assert_ne!(new["tokenizer"], old["tokenizer"], "a tokenizer that was trained on it is passed over");
    assert_eq!((&new["erased"], &new["parameters"]), (&Value::from(0), &old["parameters"]));
    let lineage = site.json(&["lineage", "show", new["id"].as_str().expect("an id")]).to_string();
    let old_snapshot = of("ds_")[0]["id"].as_str().expect("an id");
    assert!(lineage.contains("ds_") && lineage.contains(old_snapshot), "it follows the old one: {lineage}");
}

#[test]
fn erasures_killed_anywhere_are_whole_or_never_began_and_success_is_final() {
    let site = Site::initialised();
    for person in 0..PEOPLE {
        for number in 0..4 {
            site.file(&format!("in/{person}/{number}.txt"), text(DOES, 100 * person + number));
        }
        let folder = site.at("in").join(person.to_string());
        let folder = folder.to_str().expect("UTF-8");
        site.run(&["data", "ingest", folder, "--collection", "mill", "--subject", &person.to_string()])
            .done();
    }
    let mut random = Philox::new(13, 0);
    for person in 0..PEOPLE {
        let erase = ["data", "erase", "--subject", &person.to_string(), "--yes"];
        let mut child = site.spawn(&erase);
        std::thread::sleep(Duration::from_millis(random.below(120)));
        // It may have ended just now, which is as good.
        let _ = child.kill();
        let ran = finish(child);
        let left = by_subject(&site).get(&person.to_string()).map_or(0, Vec::len);
        assert!(left == 0 || left == 4, "{left} of 4 are left: {}", ran.all());
        assert!(left == 0 || ran.code != Some(0), "{}", ran.all());
        whole(&site);
        if left == 4 {
            site.run(&erase).done();
        }
        site.run(&erase).refused(1, &["nothing is left"]);
        let kinds = vault(&site).objects();
        let documents = kinds.iter().filter(|id| id.kind() == IdKind::Document).count() as u64;
        assert_eq!(documents, 4 * (PEOPLE - 1 - person));
    }
    whole(&site);
    assert!(!holds(&opened(&site), DOES));
    let stones = std::fs::read_to_string(site.data().join("keys/tombstones")).expect("tombstones");
    assert_eq!(stones.lines().count() as u64, PEOPLE);
    let done = site.json_lines(&["audit", "ls", "--limit", "100000"]);
    let done = done.iter().filter(|row| row["action"] == "data.erase" && row["outcome"] == "done");
    assert_eq!(done.count() as u64, PEOPLE, "one outcome each");
}
