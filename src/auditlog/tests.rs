//! The log under attack: everything that can be done to its files, and the number that verify names.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{log::CHECKPOINT_FILE, segment::segment_path, *};
use crate::{
    base::{
        ErrorKind, Id, IdKind, Result,
        damage::{FIRST_TIER, again_and_again},
        fs::SECTOR_BYTES,
    },
    seal::{Key, PublicKey, Signer},
};

/// Small, so that a test sees many.
const SEGMENT_BYTES: u64 = 2500;

fn install() -> Id {
    Id::from_parts(IdKind::Install, 1_790_000_000_000, [7; 10])
}

fn signer() -> Signer {
    Signer::new(Key::from_bytes(&[42; 32]).expect("key"))
}

fn key() -> LogKey {
    LogKey::new(install(), signer().public_key())
}

fn open(directory: &Path) -> Result<AuditLog> {
    AuditLog::open(directory, install(), signer(), None)
}

fn entry(number: u64) -> Entry {
    let mut entry = Entry::new("local:0", "test.act", Outcome::Done).detail("step", number);
    entry.at_ms = 1_790_000_000_000 + number;
    entry
}

fn append(log: &AuditLog, numbers: std::ops::Range<u64>) {
    for number in numbers {
        assert_eq!(log.append(entry(number)).expect("append"), number);
    }
}

/// A log and its files as they were written, to be damaged and put back.
struct Written {
    directory: tempfile::TempDir,
    files: Vec<(PathBuf, Vec<u8>)>,
    entries: u64,
}

impl Written {
    /// Six entries, each a group of its own.
    fn singly() -> Self {
        Self::make(6, u64::MAX, |log| append(log, 0..6))
    }

    /// Twelve entries in two groups of six.
    fn grouped() -> Self {
        Self::make(12, u64::MAX, |log| {
            log.append_together(&(0..6).map(entry).collect::<Vec<_>>());
            log.append_together(&(6..12).map(entry).collect::<Vec<_>>());
        })
    }

    /// Twenty entries over several segments.
    fn segmented() -> Self {
        Self::make(20, SEGMENT_BYTES, |log| append(log, 0..20))
    }

    fn make(entries: u64, segment_bytes: u64, fill: impl FnOnce(&AuditLog)) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        fill(&open(directory.path()).expect("open").with_segment_bytes(segment_bytes));
        let mut files: Vec<_> = fs::read_dir(directory.path())
            .expect("list")
            .map(|file| file.expect("file").path())
            .map(|path| (path.clone(), fs::read(path).expect("read")))
            .collect();
        files.sort();
        Self { directory, files, entries }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn segment(&self) -> PathBuf {
        segment_path(self.path(), 1)
    }

    fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(self.segment()).expect("read");
        text.lines().map(str::to_owned).collect()
    }

    /// Puts the files back and writes the segment anew from `lines`.
    fn write(&self, lines: &[String]) {
        self.restore();
        fs::write(self.segment(), lines.join("\n") + "\n").expect("write");
    }

    fn restore(&self) {
        fs::remove_dir_all(self.path()).expect("remove");
        fs::create_dir(self.path()).expect("make");
        self.files.iter().for_each(|(path, bytes)| fs::write(path, bytes).expect("write"));
    }

    fn report(&self) -> VerifyReport {
        verify(self.path(), &key(), &[]).expect("verify runs")
    }

    /// That verify finds one thing, at entry `number`, in words that contain `said`.
    fn names(&self, number: u64, said: &str) {
        let report = self.report();
        let found = |problem: &Problem| problem.entry == number && problem.what.contains(said);
        assert!(
            report.problems.len() == 1 && found(&report.problems[0]),
            "{number} {said}: {:?}",
            report.problems
        );
        let error = report.into_result().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity);
        assert!(error.to_string().contains(said), "{error}");
    }
}

fn is_entry(line: &str) -> bool {
    line.starts_with("{\"n\":")
}

// Trees and notes.

/// The test vectors of the Certificate Transparency reference implementation for RFC 6962.
#[test]
fn roots_are_those_of_the_reference_implementation() {
    let hex = |text: &str| -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
    };
    let cases = [
        ("", "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
        ("00", "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
        ("10", "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"),
        ("2021", "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"),
        ("3031", "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4"),
        ("40414243", "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef"),
        ("5051525354555657", "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c"),
        (
            "606162636465666768696a6b6c6d6e6f",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ),
    ];
    let mut tree = Frontier::default();
    assert_eq!(tree.root()[..], hex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"));
    for (leaf, root) in cases {
        tree.push(leaf_hash(&hex(leaf)));
        assert_eq!(tree.root()[..], hex(root), "{} leaves", tree.size());
    }
    let parts = tree.subtrees().to_vec();
    assert_eq!(Frontier::from_parts(8, parts.clone()), Some(tree));
    assert_eq!(Frontier::from_parts(7, parts), None);
}

#[test]
fn a_public_key_is_its_text() {
    let text = key().to_string();
    assert_eq!(LogKey::parse(&format!("{text}\n")).expect("parse"), key());
    let (name, rest) = text.split_once('+').expect("name");
    assert_eq!(name, format!("cloister/{}/audit", install()));
    let (hash, material) = rest.split_once('+').expect("hash");
    for wrong in [
        "",
        name,
        &format!("{name}+{hash}"),
        &format!("{name}+00000000+{material}"),
        &format!("another+{hash}+{material}"),
        &format!("{name}+{hash}+{}", &material[..material.len() - 4]),
        &format!("{name}+{hash}+B{}", &material[1..]),
        &format!("{name}+{hash}+!!"),
    ] {
        assert_eq!(LogKey::parse(wrong).unwrap_err().kind(), ErrorKind::Usage, "{wrong}");
    }
}

#[test]
fn a_checkpoint_is_refused_when_anything_in_it_changes() {
    let written = Written::singly();
    let note = fs::read_to_string(written.path().join(CHECKPOINT_FILE)).expect("checkpoint");
    assert_eq!(key().open_checkpoint(&note).expect("its own").size, 6);
    for at in 0..note.len() {
        let mut bytes = note.clone().into_bytes();
        bytes[at] ^= 1;
        let Ok(changed) = String::from_utf8(bytes) else { continue };
        // Some of the last letter's bits stand for nothing; a lax decoder would take them.
        assert!(key().open_checkpoint(&changed).is_err(), "byte {at}: {changed}");
    }
    let stranger = LogKey::new(install(), PublicKey([9; 32]));
    assert!(stranger.open_checkpoint(&note).is_err());
}

// The log at work.

#[test]
fn entries_come_back_and_verify() {
    let written = Written::singly();
    let log = open(written.path()).expect("again");
    assert_eq!((log.size(), log.recovered()), (6, Recovered::default()));
    assert_eq!(log.append(entry(6)).expect("append"), 6);
    let report = verify(written.path(), &key(), &[&log.checkpoint()]).expect("verify");
    assert_eq!((report.entries, report.problems), (7, vec![]));
    for from in [0, 2, 6, 7, 100] {
        let back: Vec<_> =
            read(written.path(), from).expect("read").map(|entry| entry.expect("entry")).collect();
        assert_eq!(back, (from..7).map(|number| (number, entry(number))).collect::<Vec<_>>());
    }
}

#[test]
fn segments_follow_one_another() {
    let written = Written::segmented();
    let segments = written.files.len() - 1;
    assert!(segments >= 4, "{segments}");
    let report = written.report();
    assert_eq!((report.entries, report.problems, report.bytes_unfinished), (20, vec![], 0));
    for from in 0..=20 {
        let back: Vec<_> =
            read(written.path(), from).expect("read").map(|entry| entry.expect("entry").0).collect();
        assert_eq!(back, (from..20).collect::<Vec<_>>());
    }
    let log = open(written.path()).expect("again").with_segment_bytes(SEGMENT_BYTES);
    append(&log, 20..30);
    assert_eq!(written.report().entries, 30);
}

#[test]
fn many_threads_append_and_each_gets_its_number() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let log = open(directory.path()).expect("open");
    let mut numbers: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16u64)
            .map(|thread| {
                let log = &log;
                scope.spawn(move || {
                    (0..10)
                        .map(|step| log.append(entry(thread * 100 + step)).expect("append"))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("thread")).collect()
    });
    numbers.sort_unstable();
    assert_eq!(numbers, (0..160).collect::<Vec<_>>());
    let report = verify(directory.path(), &key(), &[]).expect("verify");
    assert_eq!((report.entries, report.problems), (160, vec![]));
}

#[test]
fn sealed_details_open_with_their_key_alone() {
    let secret = Key::generate().expect("key");
    let sealed = entry(0).sealed("name", &secret, "Ada Lovelace").expect("seal");
    let line = serde_json::to_string(&sealed).expect("json");
    assert!(!line.contains("Ada") && !line.contains("Lovelace"), "{line}");
    assert_eq!(open_detail(&sealed, "name", &secret).expect("open"), "Ada Lovelace");
    assert!(open_detail(&sealed, "name", &Key::generate().expect("key")).is_err());
    assert!(open_detail(&sealed, "step", &secret).is_err());
    let mut moved = sealed.clone();
    moved.action = "another.act".into();
    assert!(open_detail(&moved, "name", &secret).is_err());
}

#[test]
fn an_entry_that_is_too_long_harms_nobody_else() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let log = open(directory.path()).expect("open");
    let error = log.append(entry(0).detail("text", "x".repeat(20_000))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert_eq!(log.append(entry(0)).expect("append"), 0);
}

#[test]
fn a_log_that_cannot_be_written_says_so_every_time() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let log = open(directory.path()).expect("open");
    log.append(entry(0)).expect("append");
    log.fail();
    for _ in 0..3 {
        let error = log.append(entry(1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.remedy_text().is_some());
    }
    drop(log);
    assert_eq!(open(directory.path()).expect("again").append(entry(1)).expect("append"), 1);
    assert_eq!(verify(directory.path(), &key(), &[]).expect("verify").problems, []);
}

#[test]
fn a_log_that_can_be_written_again_says_since_when_and_why_it_could_not() {
    let written = Written::singly();
    let log = open(written.path()).expect("open");
    let away = written.path().join("moved");
    fs::rename(written.segment(), &away).expect("moved away");
    for _ in 0..3 {
        assert_eq!(log.append(entry(6)).unwrap_err().kind(), ErrorKind::Unavailable);
    }
    fs::rename(&away, written.segment()).expect("put back");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(log.append(entry(7)).expect("goes on"), 7);
    let entries: Vec<_> =
        read(written.path(), 6).expect("read").map(|entry| entry.expect("entry").1).collect();
    assert_eq!(
        (entries[0].action.as_str(), &entries[0].detail["entries_refused"]),
        ("audit.unavailable", &3.into())
    );
    assert!(entries[0].detail["reason"].as_str().is_some_and(|reason| reason.contains("looking at")));
    assert_eq!((entries.len(), &entries[1]), (2, &entry(7)));
    assert_eq!(written.report().problems, []);
}

#[test]
fn a_log_that_is_cut_or_replaced_while_it_is_in_use_takes_nothing_more() {
    let cut: fn(&Path) = |path| {
        let bytes = fs::read(path).expect("read");
        fs::write(path, &bytes[..bytes.len() - 1]).expect("cut");
    };
    let removed: fn(&Path) = |path| fs::remove_file(path).expect("removed");
    let replaced: fn(&Path) = |path| {
        let bytes = fs::read(path).expect("read");
        fs::remove_file(path).expect("removed");
        fs::write(path, [bytes, b"{}".to_vec()].concat()).expect("replaced");
    };
    for harm in [cut, removed, replaced] {
        let written = Written::singly();
        let log = open(written.path()).expect("open");
        harm(&written.segment());
        assert_eq!(log.append(entry(6)).unwrap_err().kind(), ErrorKind::Unavailable);
    }
}

fn exported(directory: &Path) -> String {
    let mut text = String::new();
    export(&open(directory).expect("open").extent().expect("whole"), &mut |lines| {
        text.push_str(lines);
        Ok(())
    })
    .expect("exports");
    text
}

fn verify_text(text: &str, kept: &[&str]) -> VerifyReport {
    verify_export(text.as_bytes(), &key(), kept).expect("verify runs")
}

#[test]
fn an_export_proves_itself_and_every_line_of_it_counts() {
    let written = Written::segmented();
    let text = exported(written.path());
    assert!(text.matches("{\"segment\":").count() > 2, "{text}");
    let report = verify_text(&text, &[]);
    assert_eq!((report.entries, report.problems), (20, vec![]));
    let lines: Vec<&str> = text.lines().collect();
    let join = |lines: &[&str]| lines.join("\n") + "\n";
    for at in 0..lines.len() - 1 {
        let without = [&lines[..at], &lines[at + 1..]].concat();
        assert!(!verify_text(&join(&without), &[]).problems.is_empty(), "without line {at}");
        let mut edited = lines.clone();
        let line = lines[at].replacen("e", "f", 1);
        edited[at] = &line;
        assert!(!verify_text(&join(&edited), &[]).problems.is_empty(), "line {at} edited");
        let mut swapped = lines.clone();
        swapped.swap(at, at + 1);
        assert!(!verify_text(&join(&swapped), &[]).problems.is_empty(), "lines {at} and the next");
    }
    // Whole groups left out at the end are what a kept checkpoint shows, and nothing else.
    let log = open(written.path()).expect("open");
    let kept = log.checkpoint();
    let cut = join(&lines[..lines.len() - 2]);
    assert_eq!(verify_text(&cut, &[]).problems, []);
    assert!(verify_text(&cut, &[&kept]).problems[0].what.contains("entry 19 is missing"));
    assert_eq!(verify_text(&text, &[&kept]).problems, []);
    assert_eq!(verify_text("", &[&kept]).problems.len(), 1);
    let other = LogKey::new(install(), Signer::new(Key::from_bytes(&[1; 32]).expect("key")).public_key());
    assert!(!verify_export(text.as_bytes(), &other, &[]).expect("runs").problems.is_empty());
}

#[test]
fn a_log_is_proved_to_begin_with_an_earlier_one_and_another_is_not() {
    let written = Written::segmented();
    let log = open(written.path()).expect("open");
    let earlier = log.checkpoint();
    append(&log, 20..33);
    let proof = Consistency::prove(written.path(), &key(), 20, log.checkpoint()).expect("proves");
    assert_eq!(proof.verify(&key(), &earlier).expect("holds"), 33);
    let mut other = proof.clone();
    other.hashes.swap(0, 1);
    assert_eq!(other.verify(&key(), &earlier).unwrap_err().kind(), ErrorKind::Integrity);
    assert!(Consistency { from: 19, ..proof.clone() }.verify(&key(), &earlier).is_err());
    assert!(Consistency { hashes: vec![], ..proof.clone() }.verify(&key(), &earlier).is_err());
    let forged = Consistency { checkpoint: proof.checkpoint.replace("33", "34"), ..proof.clone() };
    assert!(forged.verify(&key(), &earlier).is_err());
    // Put back to the twenty, and gone on otherwise.
    drop(log);
    written.restore();
    let log = open(written.path()).expect("open");
    append(&log, 20..25);
    let late = log.checkpoint();
    append(&log, 25..33);
    let honest = Consistency::prove(written.path(), &key(), 25, log.checkpoint()).expect("proves");
    assert!(honest.verify(&key(), &late).is_ok());
    assert!(Consistency { from: 20, ..honest }.verify(&key(), &earlier).is_err());
    assert!(Consistency::prove(written.path(), &key(), 34, log.checkpoint()).is_err());
}

#[test]
fn a_table_runs_nothing_and_tells_what_the_log_does() {
    let line = |cells: &[&str]| table_line(&cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>());
    assert_eq!(line(&["=1+1", "a,b", "-2", "@x"]).expect("a line"), "'=1+1,\"a,b\",'-2,'@x\n");
    let cells = table_cells(3, &entry(3).detail("role", "auditor")).expect("cells");
    let expected = ["3", "1790000000003", "local:0", "auditor", "test.act", "", "done", "{\"step\":3}"];
    assert_eq!(cells, expected);
    assert_eq!(cells.len(), COLUMNS.len());
}

#[test]
fn an_append_torn_at_any_byte_is_cut_and_that_is_recorded() {
    let written = Written::singly();
    let whole = fs::read(written.segment()).expect("segment");
    // Five entries were acknowledged, and the sixth was being written.
    let lines = written.lines();
    let before: usize = lines[..11].iter().map(|line| line.len() + 1).sum();
    let five = Written::make(5, u64::MAX, |log| append(log, 0..5));
    let checkpoint = fs::read(five.path().join(CHECKPOINT_FILE)).expect("checkpoint");
    let line_end = before + lines[11].len();
    for end in
        (before..whole.len()).step_by(29).chain([line_end - 1, line_end, line_end + 1, whole.len() - 1])
    {
        written.restore();
        fs::write(written.segment(), &whole[..end]).expect("tear");
        fs::write(written.path().join(CHECKPOINT_FILE), &checkpoint).expect("older checkpoint");
        let torn = written.report();
        assert_eq!((torn.problems, torn.bytes_unfinished), (vec![], (end - before) as u64));
        let log = open(written.path()).expect("opens");
        let entries_cut = u64::from(end > line_end);
        assert_eq!(log.recovered(), Recovered { entries_cut, bytes_cut: (end - before) as u64 });
        let said = u64::from(end > before);
        assert_eq!(log.size(), 5 + said, "a cut that nobody would know of");
        if said == 1 {
            let (number, last) = read(written.path(), 5).expect("read").next().expect("one").expect("entry");
            assert_eq!((number, last.action.as_str()), (5, "audit.recover"));
        }
        log.append(entry(9)).expect("append");
        assert_eq!(written.report().problems, []);
    }
}

#[test]
fn an_append_of_which_the_disk_has_some_sectors_is_cut_and_that_is_recorded() {
    let written = Written::singly();
    let whole = fs::read(written.segment()).expect("segment");
    let before: usize = written.lines()[..11].iter().map(|line| line.len() + 1).sum();
    let five = Written::make(5, u64::MAX, |log| append(log, 0..5));
    let checkpoint = fs::read(five.path().join(CHECKPOINT_FILE)).expect("checkpoint");
    let without = |sector: usize, from: usize| {
        written.restore();
        let mut torn = whole.clone();
        torn[from.max(sector * SECTOR_BYTES)..whole.len().min((sector + 1) * SECTOR_BYTES)].fill(0);
        fs::write(written.segment(), torn).expect("tear");
    };
    let sectors = before / SECTOR_BYTES..whole.len().div_ceil(SECTOR_BYTES);
    assert!(sectors.len() > 1, "{sectors:?}");
    for sector in sectors {
        without(sector, before);
        fs::write(written.path().join(CHECKPOINT_FILE), &checkpoint).expect("older checkpoint");
        assert_eq!(written.report().problems, []);
        let log = open(written.path()).expect("opens");
        assert_eq!((log.size(), log.recovered().bytes_cut), (6, (whole.len() - before) as u64));
        let (_, last) = read(written.path(), 5).expect("read").next().expect("one").expect("entry");
        assert_eq!(last.action, "audit.recover");
    }
    // What was signed is missed, zeros or not.
    without(2, 0);
    let error = open(written.path()).map(|log| log.size()).unwrap_err();
    assert!(error.kind() == ErrorKind::Integrity && error.to_string().contains("was cut"), "{error}");
}

#[test]
fn the_newest_checkpoint_gets_another_length_only_in_another_file() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let log = open(directory.path()).expect("opens");
    let look = || {
        let found = fs::metadata(directory.path().join(CHECKPOINT_FILE)).expect("checkpoint");
        assert!(found.len() <= SECTOR_BYTES as u64, "it does not fit a sector");
        (found.len(), found.ino())
    };
    let mut replaced = 0;
    for number in 0..12 {
        let (length, file) = look();
        append(&log, number..number + 1);
        assert_eq!(look().0 != length, look().1 != file, "entry {number}");
        replaced += u32::from(look().1 != file);
    }
    assert_eq!(replaced, 1, "from nine entries to ten");
}

// Tampering.

const SAMPLED_EVERY: usize = 5;

#[test]
fn every_byte_of_the_log_counts() {
    for written in [Written::singly(), Written::grouped(), Written::segmented()] {
        for (path, bytes) in &written.files {
            for at in 0..bytes.len() {
                // Every byte of the small log; of the larger ones a sample.
                if written.entries > 6 && at % SAMPLED_EVERY != 0 {
                    continue;
                }
                let mut changed = bytes.clone();
                changed[at] ^= 1 << (at % 7);
                fs::write(path, &changed).expect("write");
                let problems = written.report().problems;
                assert!(!problems.is_empty(), "byte {at} of {}", path.display());
                assert!(problems.iter().all(|problem| problem.entry < written.entries));
            }
            fs::write(path, bytes).expect("write");
        }
        assert_eq!(written.report().problems, []);
    }
}

#[test]
fn an_edited_entry_is_named() {
    for written in [Written::singly(), Written::grouped()] {
        let lines = written.lines();
        for (at, number) in (0..lines.len()).filter(|&at| is_entry(&lines[at])).zip(0..) {
            let mut edited = lines.clone();
            edited[at] = edited[at].replace("test.act", "nice.act");
            written.write(&edited);
            written.names(number, &format!("entry {number} was edited"));
        }
    }
}

#[test]
fn a_dropped_entry_is_named() {
    for written in [Written::singly(), Written::grouped()] {
        let lines = written.lines();
        for (at, number) in (0..lines.len()).filter(|&at| is_entry(&lines[at])).zip(0..) {
            let mut dropped = lines.clone();
            dropped.remove(at);
            written.write(&dropped);
            written.names(number, &format!("entry {number} is missing"));
        }
    }
}

#[test]
fn a_dropped_group_is_named_by_its_first_entry() {
    let written = Written::singly();
    let lines = written.lines();
    for number in 0..6 {
        let mut dropped = lines.clone();
        dropped.drain(1 + 2 * number..3 + 2 * number);
        written.write(&dropped);
        written.names(number as u64, &format!("entry {number} is missing"));
    }
}

#[test]
fn a_log_cut_anywhere_names_the_first_entry_that_is_gone() {
    let written = Written::singly();
    let whole = fs::read(written.segment()).expect("segment");
    let mut ends = vec![0];
    for line in whole.split_inclusive(|&byte| byte == b'\n') {
        ends.push(ends.last().expect("one") + line.len());
    }
    for length in ends[1]..whole.len() {
        fs::write(written.segment(), &whole[..length]).expect("cut");
        let left = ends[1..].iter().filter(|&&end| end <= length).count().saturating_sub(1) as u64 / 2;
        written.names(left, &format!("entry {left} is missing"));
        let error = open(written.path()).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity);
        assert!(error.to_string().contains(&format!("entry {left} is missing")), "{error}");
    }
    for length in 0..ends[1] {
        fs::write(written.segment(), &whole[..length]).expect("cut");
        written.names(0, "has no header");
        assert_eq!(open(written.path()).map(|_| ()).unwrap_err().kind(), ErrorKind::Integrity);
    }
}

#[test]
fn entries_out_of_order_are_named() {
    let written = Written::grouped();
    let lines = written.lines();
    for a in 1..=6 {
        for b in a + 1..=6 {
            let mut swapped = lines.clone();
            swapped.swap(a, b);
            written.write(&swapped);
            let (first, other) = (a as u64 - 1, b as u64 - 1);
            written.names(first, &format!("entry {first} is out of order: entry {other} stands there"));
        }
    }
    // Whole groups, each with its own good signature.
    let written = Written::singly();
    let lines = written.lines();
    for number in 0..5usize {
        let mut swapped = lines.clone();
        swapped[1 + 2 * number..5 + 2 * number].rotate_left(2);
        written.write(&swapped);
        written.names(number as u64, &format!("entry {number} is missing: entry {} follows", number + 1));
    }
}

#[test]
fn repeated_and_added_entries_are_named() {
    let written = Written::grouped();
    let lines = written.lines();
    for at in 1..=6usize {
        let mut repeated = lines.clone();
        repeated.insert(at, lines[at].clone());
        written.write(&repeated);
        assert_eq!(written.report().problems.len(), 1);
        let mut added = lines.clone();
        added.insert(at, lines[at].replace("test.act", "fake.act"));
        written.write(&added);
        written.names(at as u64 - 1, "another was added there");
    }
    let written = Written::singly();
    let lines = written.lines();
    let mut replayed = lines.clone();
    replayed.splice(5..5, lines[1..3].to_vec());
    written.write(&replayed);
    written.names(0, "entry 0 stands again after entry 1");
}

/// Whoever changes an entry can make everything around it anew but the signature.
#[test]
fn a_forger_without_the_key_is_found_out() {
    let written = Written::singly();
    let forger = Signer::new(Key::generate().expect("key"));
    let forged = tempfile::tempdir().expect("temporary directory");
    let log = AuditLog::open(forged.path(), install(), forger, None).expect("open");
    for number in [0, 1, 2, 99, 4, 5] {
        log.append(entry(number)).expect("append");
    }
    for name in ["000001.log", CHECKPOINT_FILE] {
        fs::copy(forged.path().join(name), written.path().join(name)).expect("copy");
    }
    assert!(!written.report().problems.is_empty());
    assert_eq!(open(written.path()).map(|_| ()).unwrap_err().kind(), ErrorKind::Integrity);
    // One group of the forged log in the true one.
    let theirs: Vec<String> = fs::read_to_string(forged.path().join("000001.log"))
        .expect("read")
        .lines()
        .map(str::to_owned)
        .collect();
    let lines = {
        written.restore();
        written.lines()
    };
    let mut mixed = lines.clone();
    mixed[7..9].clone_from_slice(&theirs[7..9]);
    written.write(&mixed);
    written.names(3, "the checkpoint over entry 3 was altered");
    // The entry alone: the true signature tells.
    let mut mixed = lines.clone();
    mixed[7].clone_from(&theirs[7]);
    written.write(&mixed);
    written.names(3, "entry 3 was edited");
}

#[test]
fn a_missing_or_exchanged_segment_is_named() {
    let written = Written::segmented();
    let segments: Vec<_> = written.files.iter().filter(|(path, _)| path.extension().is_some()).collect();
    let firsts: Vec<u64> = (1..=segments.len() as u64)
        .map(|number| {
            let text = fs::read_to_string(segment_path(written.path(), number)).expect("read");
            segment::first_entry(text.lines().next().expect("header").as_bytes()).expect("first")
        })
        .collect();
    for (place, (path, _)) in segments.iter().enumerate() {
        written.restore();
        fs::remove_file(path).expect("remove");
        let problems = written.report().problems;
        assert_eq!(problems[0].entry, firsts[place], "{problems:?}");
        written.restore();
        fs::copy(&segments[(place + 1) % segments.len()].0, path).expect("copy");
        let problems = written.report().problems;
        assert_eq!(problems[0].entry, firsts[place], "{problems:?}");
    }
}

/// A header with nothing behind it is covered by no signature: opening must not build on one that was forged.
#[test]
fn a_forged_segment_without_entries_is_refused() {
    let written = Written::singly();
    let mut place = segment::Place::default();
    (0..9u8).for_each(|n| place.tree.push([n; 32]));
    let forged = segment::header_line(key().name(), 2, &mut place).expect("header");
    fs::write(segment_path(written.path(), 2), forged).expect("write");
    written.names(6, "entry 6 is missing: segment 2 begins with entry 9");
    let opened = open(written.path()).map(|_| ()).unwrap_err();
    assert!(
        opened.kind() == ErrorKind::Integrity && opened.to_string().contains("does not follow"),
        "{opened}"
    );
    // The one that a crash leaves, between beginning a segment and writing to it, is not refused.
    let (_, rest) = segment::split_line(&written.files[0].1).expect("header");
    let last = rest.split(|&byte| byte == b'\n').rfind(|line| !line.is_empty()).expect("checkpoint");
    let mut place = segment::Place { chain: crate::seal::sha256(last), ..Default::default() };
    for line in rest.split(|&byte| byte == b'\n').filter(|line| line.starts_with(b"{\"n\":")) {
        place.tree.push(leaf_hash(line));
    }
    let honest = segment::header_line(key().name(), 2, &mut place).expect("header");
    fs::write(segment_path(written.path(), 2), honest).expect("write");
    assert_eq!(written.report().problems, []);
    assert_eq!(open(written.path()).expect("opens").append(entry(6)).expect("append"), 6);
    assert_eq!(written.report().problems, []);
}

#[test]
fn the_newest_checkpoint_must_be_there_and_be_reached() {
    let written = Written::singly();
    let place = written.path().join(CHECKPOINT_FILE);
    fs::remove_file(&place).expect("remove");
    written.names(0, "the newest checkpoint is missing");
    assert_eq!(open(written.path()).map(|_| ()).unwrap_err().kind(), ErrorKind::Integrity);
    fs::write(&place, "nonsense").expect("write");
    written.names(0, "the newest checkpoint was altered");
    assert_eq!(open(written.path()).map(|_| ()).unwrap_err().kind(), ErrorKind::Integrity);
}

/// The whole log put back in time with all its files is beyond what they can show. A checkpoint that was kept
/// elsewhere shows it.
#[test]
fn a_kept_checkpoint_finds_a_log_that_was_put_back() {
    let written = Written::singly();
    let log = open(written.path()).expect("open");
    log.append(entry(6)).expect("append");
    let kept = log.checkpoint();
    drop(log);
    written.restore();
    assert_eq!(written.report().problems, []);
    let report = verify(written.path(), &key(), &[&kept]).expect("verify");
    assert_eq!(report.problems.len(), 1);
    assert!(report.problems[0].entry == 6 && report.problems[0].what.contains("entry 6 is missing"));
    let opened = AuditLog::open(written.path(), install(), signer(), Some(&kept)).map(|_| ());
    assert!(opened.unwrap_err().to_string().contains("entry 6 is missing"));
    // Put back, and continued otherwise: as long as the kept one, and not the same.
    open(written.path()).expect("open").append(entry(77)).expect("append");
    let report = verify(written.path(), &key(), &[&kept]).expect("verify");
    assert!(report.problems.len() == 1 && report.problems[0].what.contains("not those of a checkpoint"));
    let opened = AuditLog::open(written.path(), install(), signer(), Some(&kept)).map(|_| ());
    assert_eq!(opened.unwrap_err().kind(), ErrorKind::Integrity);
}

#[test]
fn the_log_of_another_installation_is_refused() {
    let written = Written::singly();
    let other = Id::from_parts(IdKind::Install, 1_790_000_000_000, [8; 10]);
    let error = AuditLog::open(written.path(), other, signer(), None).map(|_| ()).unwrap_err();
    assert!(error.kind() == ErrorKind::Integrity && error.to_string().contains("belongs to"), "{error}");
    let theirs = LogKey::new(other, signer().public_key());
    assert!(!verify(written.path(), &theirs, &[]).expect("runs").problems.is_empty());
}

/// Of the segments of a log, in the long tier.
const MUTATIONS: u64 = 150_000;

#[test]
fn random_damage_is_named() {
    withstands_damage(MUTATIONS / FIRST_TIER);
}

#[test]
#[ignore = "the long tier: minutes"]
fn random_damage_is_always_named() {
    withstands_damage(MUTATIONS);
}

/// Where verify finds nothing wrong, every entry is there.
fn withstands_damage(mutations: u64) {
    for (seed, written) in [(4, Written::singly()), (5, Written::grouped()), (6, Written::segmented())] {
        let whole = written.report();
        let segments: Vec<_> =
            written.files.iter().filter(|(path, _)| !path.ends_with(CHECKPOINT_FILE)).collect();
        for (path, bytes) in &segments {
            let share = mutations / 3 / segments.len() as u64;
            again_and_again(share, seed, std::slice::from_ref(bytes), |_, damaged| {
                fs::write(path, damaged).expect("write");
                let report = written.report();
                let is_whole = (report.entries, report.root) == (whole.entries, whole.root);
                assert!(is_whole || !report.problems.is_empty(), "{report:?}");
            });
            fs::write(path, bytes).expect("write");
        }
    }
}

/// The long tier: `cargo test --release auditlog -- --ignored --nocapture` also says how fast.
const LONG_ENTRIES: u64 = 10_000_000;

#[test]
fn a_log_of_many_segments_verifies_and_one_edit_in_it_is_named() {
    verifies_and_names_one_edit(LONG_ENTRIES / FIRST_TIER);
}

#[test]
#[ignore = "the long tier: minutes and three gigabytes"]
fn a_long_log_verifies_and_one_edit_in_it_is_named() {
    verifies_and_names_one_edit(LONG_ENTRIES);
}

fn verifies_and_names_one_edit(entries: u64) {
    let directory = tempfile::tempdir().expect("temporary directory");
    let log = open(directory.path()).expect("open");
    for first in (0..entries).step_by(1 << 14) {
        log.append_together(&(first..entries.min(first + (1 << 14))).map(entry).collect::<Vec<_>>());
    }
    let start = std::time::Instant::now();
    let report = verify(directory.path(), &key(), &[]).expect("verify");
    let seconds = start.elapsed().as_secs_f64();
    assert_eq!((report.entries, report.problems), (entries, vec![]));
    println!("{:.1} million entries a minute", entries as f64 / seconds * 60.0 / 1e6);
    let path = segment_path(directory.path(), 2);
    let text = fs::read_to_string(&path).expect("read").replacen("test.act", "nice.act", 1);
    fs::write(&path, text).expect("write");
    let problems = verify(directory.path(), &key(), &[]).expect("verify").problems;
    let first = read(directory.path(), 0).expect("read").map(|entry| entry.expect("entry"));
    let edited = first.into_iter().find(|(_, entry)| entry.action == "nice.act").expect("edited").0;
    assert!(problems.len() == 1 && problems[0].entry == edited, "{problems:?} {edited}");
}
