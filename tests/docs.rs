//! What the documents say is so: every command they show exists with the flags they show, every link leads
//! somewhere, and the table of roles is the one that the program keeps.

use std::{collections::BTreeMap, fs, path::Path};

use cloister::work::policy::{Action, Role};

use crate::harness::Site;

fn pages() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs")).expect("docs").flatten().map(|entry| entry.path());
    let markdown = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    markdown
        .chain([root.join("README.md"), root.join("CHANGELOG.md")])
        .map(|path| {
            let name = path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
            (name, fs::read_to_string(path).expect("a readable page"))
        })
        .collect()
}

/// The command lines of a page: indented ones that begin with `cloister`, and those between backquotes.
fn commands(page: &str) -> Vec<String> {
    let shown = page.lines().filter(|line| line.starts_with("    "));
    let shown = shown.map(|line| line.trim().trim_start_matches("$ ").to_owned());
    let quoted = page.split('`').skip(1).step_by(2).map(str::to_owned);
    shown
        .chain(quoted)
        .map(|line| line.replace("cargo run --release -- ", "cloister "))
        .filter(|line| line.starts_with("cloister "))
        .filter(|line| !line.contains('<') && !line.starts_with("cloister worker"))
        // Lines that are signed over, and no commands.
        .filter(|line| !["cloister receipt v1", "cloister erasure certificate v1"].contains(&line.as_str()))
        .map(|line| line.split(" # ").next().unwrap_or_default().trim().to_owned())
        .collect()
}

#[test]
fn every_command_shown_exists_with_its_flags() {
    let site = Site::empty();
    let mut help: BTreeMap<Vec<String>, Option<String>> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (name, page) in pages() {
        for line in commands(&page) {
            let words: Vec<&str> = line.split_whitespace().skip(1).collect();
            let verbs = command_words(&words);
            let said = help.entry(verbs.clone()).or_insert_with(|| {
                let mut arguments: Vec<&str> = verbs.iter().map(String::as_str).collect();
                arguments.push("--help");
                let ran = site.run(&arguments);
                (ran.code == Some(0)).then_some(ran.stdout)
            });
            let Some(said) = said else {
                wrong.push(format!("{name}: no such command: {line}"));
                continue;
            };
            let flags = words.iter().filter(|word| word.starts_with("--"));
            for flag in flags.map(|flag| flag.split('=').next().unwrap_or_default()) {
                let flag = flag.trim_end_matches([',', '.', ';', ':']);
                if !said.contains(flag) {
                    wrong.push(format!("{name}: no {flag} in: {line}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Noun and verb, past the flags that stand before them.
fn command_words(words: &[&str]) -> Vec<String> {
    const LONE: [&str; 8] = ["quickstart", "init", "unseal", "seal", "chat", "serve", "doctor", "help"];
    let mut rest = words;
    while rest.len() > 2 && rest[0].starts_with("--") {
        rest = &rest[if rest[0].contains('=') { 1 } else { 2 }..];
    }
    let length = if rest.first().is_some_and(|first| LONE.contains(first)) { 1 } else { 2 };
    rest.iter()
        .take(length)
        .take_while(|word| !word.starts_with('-'))
        .map(|word| (*word).to_owned())
        .collect()
}

#[test]
fn every_link_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut wrong = Vec::new();
    for (name, page) in pages() {
        let folder = root.join(&name).parent().expect("below the root").to_owned();
        for rest in page.split("](").skip(1) {
            let target = rest.split([')', '#']).next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") && !folder.join(target).exists() {
                wrong.push(format!("{name}: {target}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_of_roles_is_the_programs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/security.md")).expect("docs/security.md");
    let wanted: Vec<String> = Action::ALL
        .iter()
        .map(|&action| {
            let roles: Vec<&str> =
                Role::ALL.iter().filter(|role| role.may(action)).map(|role| role.as_str()).collect();
            format!("| `{action}` | {} |", roles.join(", "))
        })
        .collect();
    for row in &wanted {
        assert!(
            page.lines().any(|line| line == row),
            "docs/security.md should have, in full:\n{}",
            wanted.join("\n")
        );
    }
    let rows = page.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, wanted.len(), "docs/security.md has a row for what is no action");
}

#[test]
fn the_unit_that_ships_exposes_little() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd/cloister.service");
    let text = fs::read_to_string(&unit).expect("the unit");
    let said: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("ExecStart=/usr/bin/")).collect();
    assert_eq!(said, ["cloister --data-dir /var/lib/cloister serve"]);
    // In tenths: 2.0 of 10.
    let rated = std::process::Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=20", "--no-pager"])
        .arg(&unit)
        .output();
    match rated {
        Ok(rated) => assert!(rated.status.success(), "{}", String::from_utf8_lossy(&rated.stdout)),
        Err(_) => eprintln!("skipped: there is no systemd-analyze here"),
    }
}
