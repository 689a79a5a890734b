//! Keys as people hold them: shares that are shown once, a root key that is replaced, versions that are counted.

use crate::harness::{Site, grep_files};

fn shares(site: &Site, arguments: &[&str], last: &str) -> Vec<String> {
    let rows = site.json_lines(arguments);
    assert!(rows.last().expect("the result")[last].is_object() || rows.last().expect("it")[last].is_string());
    rows.iter().filter_map(|row| row["text"].as_str()).map(str::to_owned).collect()
}

fn with_shares<'a>(files: &'a [String], command: &[&'a str]) -> Vec<&'a str> {
    let flags = files.iter().flat_map(|file| ["--share-file", file.as_str()]);
    flags.chain(command.iter().copied()).collect()
}

#[test]
fn shares_are_shown_once_and_unseal_until_a_rekey() {
    let site = Site::empty();
    let texts = shares(&site, &["init", "--shares", "5", "--threshold", "3"], "install");
    assert_eq!(texts.len(), 5);
    let needles: Vec<&str> = texts.iter().map(String::as_str).collect();
    assert_eq!(grep_files(&site.data(), &needles), []);
    let files: Vec<String> =
        texts.iter().enumerate().map(|(at, text)| site.file(&format!("share-{at}"), text)).collect();

    let status = site.json(&with_shares(&files[1..4], &["key", "status"]));
    assert_eq!(status["unsealed_by"][0], "3 shares");
    site.run(&["key", "status"]).refused(5, &["3 shares", "--share-file"]);
    site.run(&with_shares(&files[..2], &["key", "status"])).refused(2, &["3 different shares"]);
    site.run(&with_shares(&files[..4], &["key", "status"])).refused(2, &["3 different shares"]);
    let typo = site.file("typo", texts[0].replace('-', "").replacen(|c| c != '0', "0", 1));
    let said = site.run(&with_shares(&[typo, files[1].clone(), files[2].clone()], &["key", "status"]));
    let said = said.refused(2, &["checksum"]);
    assert!(!texts[0].split('-').any(|group| said.stderr.contains(group)), "{}", said.all());

    let new_key = site.at("new.key");
    let rekey = ["key", "rekey", "--new-key-file", new_key.to_str().expect("UTF-8")];
    site.run(&with_shares(&files[..3], &rekey)).done();
    site.run(&with_shares(&files[..3], &["key", "status"])).refused(5, &["has no shares", "new.key"]);
    // The new key file's place is remembered.
    let rotated = site.json(&["key", "rotate"]);
    assert_eq!((&rotated["versions"]["objects"], &rotated["versions"]["signing"]), (&2.into(), &1.into()));
    site.run(&["audit", "verify"]).done();
    site.run(&["data", "verify"]).done();
}

#[test]
fn shares_and_rekeys_that_make_no_sense_are_refused() {
    let site = Site::empty();
    for (shares, threshold) in [("0", "0"), ("5", "1"), ("2", "3"), ("33", "2"), ("-1", "2"), ("256", "3")] {
        let ran = site.run(&["init", &format!("--shares={shares}"), &format!("--threshold={threshold}")]);
        assert_eq!(ran.code, Some(2), "{}", ran.all());
        assert!(!site.data().exists(), "{}", ran.all());
    }
    assert_eq!(site.run(&["init", "--shares", "5"]).code, Some(2));
    let both = ["init", "--shares", "5", "--threshold", "3", "--key-file", "k"];
    assert_eq!(site.run(&both).code, Some(2));
    let site = Site::initialised();
    assert_eq!(site.run(&["key", "rekey"]).code, Some(2));
    let short = site.file("short", "1234567\n");
    site.run(&["key", "rekey", "--new-passphrase-file", &short]).refused(2, &["7 bytes"]);
    site.run(&["key", "rekey", "--new-passphrase-file", "gone"]).refused(5, &["gone"]);
    site.run(&["key", "status"]).done();
}
