//! The machine is lost, and what was backed up is not: with the real binary, while a daemon serves.

use std::{path::Path, process::Command};

use crate::harness::{Site, finish, grep_files, wait_until};

const LETTER: &str = "The registrar shall enter the title within ten days of the application.\n";

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn ingest(site: &Site, name: &str, words: &str) {
    let path = site.file(name, words.repeat(50));
    site.run(&["data", "ingest", &path, "--collection", "letters"]).done();
}

#[test]
fn what_was_backed_up_outlives_the_machine() {
    let site = Site::initialised();
    ingest(&site, "first.txt", LETTER);
    let (disk, stick) = (site.at("disk"), site.at("stick"));
    let create = ["backup", "create", text(&disk), "--keys", text(&stick)];

    let daemon = site.spawn(&["serve", "--listen", "127.0.0.1:0"]);
    wait_until("the daemon answers", || site.data().join("run/admin.sock").exists());
    let first = site.json(&create);
    ingest(&site, "second.txt", "It came in while the daemon served.\n");
    let second = site.json(&create);
    let stopped = Command::new("kill").args(["-TERM", &daemon.id().to_string()]).status();
    assert!(stopped.is_ok_and(|status| status.success()), "kill");
    finish(daemon).done();
    assert_eq!((first["new_objects"].as_u64(), second["new_objects"].as_u64()), (Some(1), Some(1)));
    assert_eq!(grep_files(&disk, &["registrar", "first.txt", "letters"]), []);
    assert_eq!(grep_files(&stick, &["registrar", "first.txt", "letters"]), []);

    let key = site.at("receipts.pub");
    std::fs::copy(site.data().join("keys/receipts.pub"), &key).expect("made when it served");
    let documents = site.json_lines(&["data", "ls"]);
    std::fs::remove_dir_all(site.data()).expect("the machine is lost");

    let verify = ["backup", "verify", text(&disk), "--keys", text(&stick), "--public-key", text(&key)];
    let verified = site.json(&verify);
    assert_eq!(verified["backup"], second["id"]);
    let restore = ["backup", "restore", text(&disk), "--keys", text(&stick), "--no-later-erasures"];
    let key_file = site.at("root.key");
    site.run(&restore[..5]).refused(2, &["--tombstones", "--no-later-erasures"]);
    site.run(&[&restore[..], &["--key-file", text(&key_file)]].concat()).done();
    assert_eq!(site.json_lines(&["data", "ls"]), documents);
    site.run(&["data", "verify"]).done();
    site.run(&["audit", "verify"]).done();
    site.run(&restore).refused(2, &["not empty", "--data-dir"]);

    let listed = site.json_lines(&["backup", "ls", text(&disk)]);
    assert_eq!(listed.iter().map(|row| &row["id"]).collect::<Vec<_>>(), [&first["id"], &second["id"]]);
    let forget = ["backup", "forget", text(&disk), "--keep", "1", "--keys", text(&stick)];
    assert_eq!(site.json_lines(&forget), [first["id"].clone()]);
    site.run(&verify).done();
}

#[test]
fn a_backup_that_is_not_what_was_signed_is_refused() {
    let site = Site::initialised();
    ingest(&site, "first.txt", LETTER);
    let (disk, stick) = (site.at("disk"), site.at("stick"));
    let row = site.json(&["backup", "create", text(&disk), "--keys", text(&stick)]);
    let id = row["id"].as_str().expect("an id");
    let database = disk.join("backups").join(id).join("cloister.db");
    let mut bytes = std::fs::read(&database).expect("it is there");
    *bytes.last_mut().expect("a page") ^= 1;
    std::fs::write(&database, bytes).expect("altered");
    std::fs::rename(site.data(), site.at("old")).expect("moved away");
    site.run(&["backup", "verify", text(&disk)]).refused(4, &["cloister.db", id]);
    let restore = ["backup", "restore", text(&disk), "--keys", text(&stick), "--no-later-erasures"];
    let key_file = site.at("root.key");
    let with_key = [&restore[..], &["--key-file", text(&key_file)]].concat();
    site.run(&with_key).refused(4, &["cloister.db", "backup verify"]);
    let other_key = site.file("other.key", [7; 64]);
    let wrong = [&restore[..], &["--key-file", &other_key]].concat();
    site.run(&wrong).refused(5, &["key"]);
    site.run(&["data", "ls"]).refused(1, &["no installation"]);
    site.run(&["backup", "ls", text(&site.at("nowhere"))]).refused(1, &["holds no backups"]);
}
