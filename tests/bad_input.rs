//! What people really hand over: each gets a clear error or a row in the quarantine, the right exit code,
//! and nothing that was there before is lost.

use std::{
    collections::BTreeMap,
    io::Write,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::Command,
};

use crate::harness::{Site, finish, spawn, wait_until};

/// A twentieth of the long tier's 100 MB.
const ONE_LINE_BYTES: usize = 5_000_000;
const NOBODY: u32 = 65_534;

const LETTER: &str = "The registrar shall enter the title within ten days of the application.\n";

fn ingest(site: &Site, path: &str) -> crate::harness::Ran {
    site.run(&["data", "ingest", path, "--collection", "letters"])
}

/// Name (its last part) to reason, of everything in quarantine.
fn quarantined(site: &Site) -> BTreeMap<String, String> {
    let text = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let rows = site.json_lines(&["data", "quarantine"]);
    let last = |name: String| name.rsplit('/').next().unwrap_or_default().to_owned();
    rows.iter().map(|row| (last(text(row, "name")), text(row, "reason"))).collect()
}

fn documents(site: &Site) -> usize {
    site.json_lines(&["data", "ls"]).len()
}

/// A word-processor file with one paragraph, as a zip of one part.
fn docx(paragraph: &str) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default();
    for (name, content) in [
        (
            "[Content_Types].xml",
            r#"<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>"#.to_owned(),
        ),
        (
            "word/document.xml",
            format!(
                r#"<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body><w:p><w:r><w:t>{paragraph}</w:t></w:r></w:p></w:body></w:document>"#
            ),
        ),
    ] {
        zip.start_file(name, stored).expect("a zip entry");
        zip.write_all(content.as_bytes()).expect("into memory");
    }
    zip.finish().expect("into memory").into_inner()
}

#[test]
fn an_empty_folder_is_an_error_that_names_it() {
    let site = Site::initialised();
    std::fs::create_dir(site.at("nothing-here")).expect("a folder");
    let folder = site.at("nothing-here");
    ingest(&site, folder.to_str().expect("UTF-8")).refused(2, &["nothing-here", "help: "]);
    ingest(&site, "/no/such/folder").refused(1, &["/no/such/folder"]);
}

#[test]
fn what_cannot_be_read_is_quarantined_with_a_reason_and_stops_nothing() {
    let site = Site::initialised();
    site.file("in/good.txt", LETTER);
    site.file("in/good.docx", docx("The court heard the appeal."));
    site.file("in/not-a.pdf", b"%PDF-1.7\n\x00\x01\x02 this is no PDF \xff\xfe");
    let whole = docx(&LETTER.repeat(50));
    site.file("in/cut.docx", &whole[..whole.len() * 6 / 10]);
    let noise: Vec<u8> = (0..40_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    site.file("in/binary.txt", noise);
    site.file("in/empty.txt", "");
    let ran = ingest(&site, site.at("in").to_str().expect("UTF-8")).done();

    let refused = quarantined(&site);
    for name in ["not-a.pdf", "cut.docx", "binary.txt", "empty.txt"] {
        assert!(refused.get(name).is_some_and(|reason| !reason.is_empty()), "{name}: {refused:?}");
        assert!(ran.all().contains(name), "{name} was refused in silence:\n{}", ran.all());
    }
    assert_eq!((documents(&site), refused.len()), (2, 4));
}

#[test]
fn one_very_long_line_is_a_document_like_any_other() {
    one_long_line(ONE_LINE_BYTES);
}

pub fn one_long_line(length_bytes: usize) {
    let site = Site::initialised();
    let path = site.file("in/line.txt", LETTER.trim().repeat(length_bytes / LETTER.len()));
    ingest(&site, &path).done();
    assert_eq!(documents(&site), 1);
}

#[test]
fn loops_pipes_and_dangling_links_do_not_hang_it() {
    let site = Site::initialised();
    site.file("in/good.txt", LETTER);
    let link = |to: &str, name: &str| {
        std::os::unix::fs::symlink(to, site.at("in").join(name)).expect("a symbolic link");
    };
    link(".", "itself");
    link("pong", "ping");
    link("ping", "pong");
    link("/no/such/file", "dangling.txt");
    let made = Command::new("mkfifo").arg(site.at("in/pipe.txt")).status();
    assert!(made.is_ok_and(|status| status.success()), "mkfifo");

    ingest(&site, site.at("in").to_str().expect("UTF-8")).done();
    assert_eq!(documents(&site), 1);
    let refused = quarantined(&site);
    assert!(refused.contains_key("dangling.txt") && refused.contains_key("pipe.txt"), "{refused:?}");
}

#[test]
fn a_file_without_permission_is_quarantined() {
    let site = Site::empty();
    site.file("in/good.txt", LETTER);
    let secret = site.file("in/locked.txt", "never read");
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o000)).expect("chmod");
    // Root reads everything, so the command must run as somebody else.
    let as_root = std::fs::read(&secret).is_ok();
    let binary = site.at("cloister");
    std::fs::copy(env!("CARGO_BIN_EXE_cloister"), &binary).expect("a copy that anybody may run");
    if as_root {
        let status = Command::new("chown").args(["-R", "65534:65534"]).arg(site.at(".")).status();
        assert!(status.is_ok_and(|status| status.success()), "chown");
    }
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&binary);
        command.arg("--data-dir").arg(site.data()).args(arguments).current_dir(site.at("."));
        if as_root {
            command.uid(NOBODY).gid(NOBODY);
        }
        finish(spawn(command))
    };
    run(&["init", "--key-file", site.at("root.key").to_str().expect("UTF-8")]).done();
    let ran = run(&["data", "ingest", site.at("in").to_str().expect("UTF-8"), "--collection", "c"]).done();
    assert!(ran.all().contains("locked.txt"), "{}", ran.all());
    let refused = run(&["data", "quarantine", "--json"]).done();
    assert!(refused.stdout.contains("locked.txt"), "{}", refused.all());
}

#[test]
fn a_wrong_passphrase_is_told_from_a_missing_one() {
    let site = Site::empty();
    let right = site.file("right.txt", "correct horse battery staple\n");
    let wrong = site.file("wrong.txt", "incorrect horse\n");
    site.run(&["init", "--passphrase-file", &right]).done();
    let with = |file: &str| {
        let mut command = site.command(&["data", "ls"]);
        command.env("CLOISTER_PASSPHRASE_FILE", file);
        finish(spawn(command))
    };
    with(&right).done();
    with(&wrong).refused(5, &["passphrase", "help: "]);
    with("/no/such/file").refused(5, &["/no/such/file"]);
    with(&right).done();
}

#[test]
fn another_installations_keys_and_objects_are_refused() {
    let (ours, theirs) = (Site::initialised(), Site::initialised());
    for site in [&ours, &theirs] {
        let path = site.file("in/a.txt", LETTER);
        ingest(site, &path).done();
    }
    let mut command = ours.command(&["data", "ls"]);
    command.env("CLOISTER_KEY_FILE", theirs.at("root.key"));
    finish(spawn(command)).refused(5, &["key"]);

    // Their keys and audit log under our objects.
    for part in ["keys", "audit"] {
        let copied =
            Command::new("cp").arg("-rT").args([theirs.data().join(part), ours.data().join(part)]).status();
        assert!(copied.is_ok_and(|status| status.success()), "cp");
    }
    let mut command = ours.command(&["data", "verify"]);
    command.env("CLOISTER_KEY_FILE", theirs.at("root.key"));
    let ran = finish(spawn(command));
    assert!(matches!(ran.code, Some(4 | 5)), "{}", ran.all());
    assert!(ran.stderr.contains("error: ") && !ran.stderr.contains("panicked"), "{}", ran.all());
    ingest(&theirs, &theirs.file("in/b.txt", "A second letter.")).done();
}

#[test]
fn a_missing_data_directory_is_told_from_a_broken_one() {
    let site = Site::empty();
    site.run(&["data", "ls"]).refused(1, &["data", "cloister init"]);
    std::fs::create_dir(site.data()).expect("a folder");
    std::fs::write(site.data().join("holiday.jpg"), "not ours").expect("a file");
    site.run(&["data", "ls"]).refused(1, &["data"]);
    site.run(&["init", "--key-file", site.at("k").to_str().expect("UTF-8")]).refused(2, &["holiday.jpg"]);
    assert_eq!(std::fs::read(site.data().join("holiday.jpg")).expect("still there"), b"not ours");
}

#[test]
fn a_second_init_keeps_the_first() {
    let site = Site::initialised();
    let key = std::fs::read(site.at("root.key")).expect("the key file");
    site.run(&["init", "--key-file", site.at("root.key").to_str().expect("UTF-8")]).refused(2, &["already"]);
    assert_eq!(std::fs::read(site.at("root.key")).expect("the key file"), key);
    site.run(&["data", "ls"]).done();
}

#[test]
fn two_processes_on_one_data_directory_do_not_meet() {
    let site = Site::initialised();
    for number in 0..300 {
        site.file(&format!("in/{number}.txt"), format!("Letter number {number}. {}", LETTER.repeat(40)));
    }
    let folder = site.at("in");
    let first = site.spawn(&["data", "ingest", folder.to_str().expect("UTF-8"), "--collection", "letters"]);
    let process = first.id().to_string();
    let lock = site.data().join("run/lock");
    wait_until("the first holds the lock", || {
        std::fs::read_to_string(&lock).is_ok_and(|holder| holder.trim() == process)
    });
    // Stopped, it cannot end while the second asks.
    let signal =
        |name: &str| assert!(Command::new("kill").args([name, &process]).status().expect("kill").success());
    signal("-STOP");
    let second = site.run(&["data", "ls"]);
    signal("-CONT");
    second.refused(1, &["in use", &process]);
    finish(first).done();
    assert_eq!(documents(&site), 300);
}

/// A file system of a few megabytes at a path, unmounted on drop.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(at: &'a Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(at).expect("a folder");
        let options = format!("size={size}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(at))
    }

    fn grow(&self, size: &str) {
        let options = format!("remount,size={size}");
        let grown = Command::new("mount").args(["-o", &options]).arg(self.0).status();
        assert!(grown.is_ok_and(|status| status.success()), "growing the disk");
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        // Lazily: a failed test may leave a process behind that still holds it.
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_says_so_and_loses_nothing() {
    let site = Site::empty();
    let data = site.data();
    let Some(disk) = SmallDisk::mount(&data, "6m") else {
        eprintln!("skipped a_full_disk_says_so_and_loses_nothing: mounting a small tmpfs needs root");
        return;
    };
    site.run(&["init", "--key-file", site.at("root.key").to_str().expect("UTF-8")]).done();
    ingest(&site, &site.file("first.txt", LETTER)).done();
    for number in 0..40 {
        site.file(&format!("in/{number}.txt"), format!("Letter {number}. {}", LETTER.repeat(3_000)));
    }
    let folder = site.at("in");
    let full = ingest(&site, folder.to_str().expect("UTF-8"));
    full.refused(1, &["space", "help: "]);

    disk.grow("200m");
    site.run(&["audit", "verify"]).done();
    site.run(&["data", "verify"]).done();
    assert!(documents(&site) >= 1);
    ingest(&site, folder.to_str().expect("UTF-8")).done();
    assert_eq!(documents(&site), 41);
    site.run(&["data", "verify"]).done();
}

#[test]
fn usage_is_refused_by_name_with_exit_code_two() {
    let site = Site::initialised();
    for arguments in [
        &["frobnicate"][..],
        &["data", "ingest"],
        &["data", "ls", "--colour"],
        &["--threads", "0", "data", "ls"],
        &["--device", "tpu", "data", "ls"],
        &["model", "pretrain", "--data", "letters", "--params", "many"],
        &["lineage", "show", "not-an-id"],
        &["token", "new", "--role", "emperor"],
        &["init"],
    ] {
        let ran = site.run(arguments);
        assert_eq!(ran.code, Some(2), "{arguments:?}: {}", ran.all());
        assert!(ran.stdout.is_empty(), "{arguments:?} printed on standard output: {}", ran.stdout);
    }
    site.run(&["data", "ls", "--collection", "unknown"]).refused(1, &["unknown"]);
    site.run(&["model", "show", "unknown"]).refused(1, &["unknown"]);
}

#[test]
fn a_run_file_with_an_unknown_key_is_refused_by_name() {
    let site = Site::initialised();
    let run = site.file("run.toml", "learning_rat = 0.1\n");
    site.run(&["model", "pretrain", "--data", "letters", "--config", &run]).refused(2, &["learning_rat"]);
}
