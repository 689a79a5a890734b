//! The power goes, at seeded places among all at which the unmodified product changes or syncs a file, and with it whatever
//! was not synced (`disk.h` says what that may be). Then the product is started again, without the library: what it had
//! reported done is there, nothing is half done, nothing temporary is left, and the same command succeeds.
//!
//! The warden and its workers lose their power together; the caged readers of documents die with them, and reach no disk.

mod daemon;
mod library;
pub mod scenarios;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use cloister::base::Philox;

use self::{
    library::{Cut, run},
    scenarios::Scenario,
};
use crate::harness::{Ran, Site, finish, spawn};

/// Of each scenario. The long tier makes more.
const CUTS: u64 = 3;

/// The library itself, by a program that overwrites a file in one write and syncs it where it is asked to.
#[test]
fn what_was_not_synced_may_be_lost_and_what_was_is_not() {
    const BYTES: usize = 2000;
    let folder = tempfile::tempdir().expect("a temporary directory");
    let place = folder.path().join("file");
    let write = |how: &str, seed| {
        let mut command = Command::new("dd");
        command.args(["if=/dev/zero", "bs=2000", "count=1", how]).arg(format!("of={}", place.display()));
        let cut = Some(Cut { at: 1000, seed });
        let (_, places) = run(command, folder.path(), cut, |command| finish(spawn(command)));
        assert_eq!(places.last().map(String::as_str), Some("the end"));
        fs::read(&place).ok()
    };
    let (mut lost, mut kept, mut torn, mut gone) = (0, 0, 0, 0);
    for seed in 0..40 {
        fs::write(&place, [7; BYTES]).expect("a file");
        assert_eq!(write("conv=notrunc,fsync", seed).expect("it was there"), [0; BYTES]);
        fs::write(&place, [7; BYTES]).expect("a file");
        let bytes = write("conv=notrunc", seed).expect("it was there");
        assert!(bytes.chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0])), "{bytes:?}");
        match bytes.iter().filter(|&&byte| byte == 0).count() {
            0 => lost += 1,
            BYTES => kept += 1,
            _ => torn += 1,
        }
        fs::remove_file(&place).expect("removed");
        // Its bytes are durable, its name is not.
        match write("conv=fsync", seed) {
            Some(bytes) => assert_eq!(bytes, [0; BYTES]),
            None => gone += 1,
        }
    }
    assert!(lost > 0 && kept > 0 && torn > 0, "{lost} lost, {kept} kept, {torn} torn");
    assert!((1..40).contains(&gone), "{gone} gone");
}

#[test]
fn an_installation_that_is_being_made() {
    cut_again_and_again(&scenarios::INIT, CUTS, 1);
}

#[test]
fn an_ingest() {
    cut_again_and_again(&scenarios::INGEST, CUTS, 1);
}

#[test]
fn keys_that_are_rotated() {
    cut_again_and_again(&scenarios::ROTATE, CUTS, 1);
}

#[test]
fn a_root_key_that_is_replaced() {
    cut_again_and_again(&scenarios::REKEY, CUTS, 1);
}

#[test]
fn a_token_that_is_made() {
    cut_again_and_again(&scenarios::TOKEN, CUTS, 1);
}

#[test]
fn a_token_that_is_revoked() {
    cut_again_and_again(&scenarios::REVOKE, CUTS, 1);
}

#[test]
fn a_backup() {
    cut_again_and_again(&scenarios::BACKUP, CUTS, 1);
}

#[test]
fn backups_that_are_forgotten() {
    cut_again_and_again(&scenarios::FORGET, CUTS, 1);
}

#[test]
fn a_backup_that_is_restored() {
    cut_again_and_again(&scenarios::RESTORE, CUTS, 1);
}

#[test]
fn a_model_that_is_trained() {
    cut_again_and_again(&scenarios::PRETRAIN, CUTS, 1);
}

#[test]
fn a_model_that_is_proposed() {
    cut_again_and_again(&scenarios::PROPOSE, CUTS, 1);
}

#[test]
fn a_model_that_is_approved() {
    cut_again_and_again(&scenarios::DEPLOY, CUTS, 1);
}

#[test]
fn documents_that_are_erased() {
    cut_again_and_again(&scenarios::ERASE, CUTS, 1);
}

#[test]
fn a_daemon_that_answers() {
    cut_again_and_again(&scenarios::SERVE, CUTS, 1);
}

/// What a worker wrote is lost with what the warden wrote.
#[test]
fn workers_have_places_of_their_own() {
    let (ran, places) = Stage::set(&scenarios::INGEST).run(None);
    ran.done();
    let written =
        places.iter().filter(|place| place.starts_with("fsync data/objects/") && place.ends_with(".tmp"));
    assert_eq!(written.count(), 6, "{places:?}");
}

/// With the root file an installation exists: it must never be found without its content.
#[test]
fn the_root_file_is_durable_before_it_has_its_name() {
    for scenario in [&scenarios::INIT, &scenarios::REKEY, &scenarios::RESTORE] {
        let (ran, places) = Stage::set(scenario).run(None);
        ran.done();
        let named = places.iter().position(|place| place == "rename data/keys/root.json");
        let named = named.unwrap_or_else(|| panic!("{}: {places:?}", scenario.name));
        assert!(places[named - 1].starts_with("fsync data/keys/root.json."), "{places:?}");
    }
}

/// Cuts a scenario's command at so many places, each time from the same beginning.
#[allow(clippy::print_stderr)] // Shown where the test fails.
pub fn cut_again_and_again(scenario: &Scenario, cuts: u64, seed: u64) {
    let stage = Stage::set(scenario);
    let (ran, places) = stage.run(None);
    ran.done();
    assert!(places.iter().any(|place| place.starts_with("fsync ")), "{places:?}");
    eprintln!("{}: {} places", scenario.name, places.len());
    for number in 0..cuts {
        let mut random = Philox::new(seed, number);
        let cut = Cut { at: choose(&places, &mut random), seed: random.below(1 << 32) };
        stage.put_back();
        let (ran, until) = stage.run(Some(cut));
        let place = until.last().expect("a place");
        eprintln!("{}: cut {number} before `{place}`, reported {:?}", scenario.name, ran.stdout);
        assert!(!ran.stderr.contains("error: "), "{}", ran.all());
        stage.must_stand(&ran.stdout);
    }
}

/// Most calls are of a few kinds, and the rare ones matter as much: a kind first, mostly, and then one of it.
fn choose(places: &[String], random: &mut Philox) -> u64 {
    let mut kinds: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (at, place) in (1..).zip(places) {
        kinds.entry(kind(place)).or_default().push(at);
    }
    let pick = |random: &mut Philox, count: usize| random.below(count as u64) as usize;
    if random.below(4) == 0 {
        return random.below(places.len() as u64) + 1;
    }
    let kind = pick(random, kinds.len());
    let of_kind = kinds.values().nth(kind).expect("a kind");
    of_kind[pick(random, of_kind.len())]
}

/// A place without the names that differ from file to file.
fn kind(place: &str) -> String {
    let differs = |name: &str| {
        name.contains(|letter: char| letter.is_ascii_digit())
            || (name.len() == 2 && name.chars().all(|letter| letter.is_ascii_uppercase()))
    };
    let names: Vec<&str> = place.split('/').map(|name| if differs(name) { "#" } else { name }).collect();
    names.join("/")
}

/// A scenario's site, and a copy of how it was when it was prepared.
struct Stage<'a> {
    scenario: &'a Scenario,
    site: Site,
    prepared: tempfile::TempDir,
}

impl<'a> Stage<'a> {
    fn set(scenario: &'a Scenario) -> Self {
        let site = Site::empty();
        (scenario.prepare)(&site);
        let prepared = tempfile::tempdir().expect("a temporary directory");
        copy_folder(&site.at(""), prepared.path());
        Self { scenario, site, prepared }
    }

    fn put_back(&self) {
        for entry in fs::read_dir(self.site.at("")).expect("the site").flatten() {
            let path = entry.path();
            if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.expect("removed");
        }
        copy_folder(self.prepared.path(), &self.site.at(""));
    }

    fn run(&self, cut: Option<Cut>) -> (Ran, Vec<String>) {
        run(self.command(), &self.site.at(""), cut, |command| self.drive(command))
    }

    fn command(&self) -> Command {
        let command = (self.scenario.command)(&self.site);
        self.site.command(&command.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// A command ends by itself; a daemon is asked until it is told to end.
    fn drive(&self, command: Command) -> Ran {
        if self.scenario.name == "serve" {
            daemon::drive(&self.site, command)
        } else {
            finish(spawn(command))
        }
    }

    /// What is to be so when the power is back.
    fn must_stand(&self, reported: &str) {
        let site = &self.site;
        let installed = site.data().join("keys/root.json").exists();
        if installed {
            self.must_be_in_order(reported);
        } else {
            assert_eq!(reported, "", "what was reported is not there");
        }
        if self.scenario.repeats || !installed {
            let again = self.drive(self.command()).done();
            self.must_be_in_order(&again.stdout);
            let left = files_below(&site.at("")).into_iter().filter(|path| is_temporary(path));
            assert_eq!(left.collect::<Vec<_>>(), Vec::<PathBuf>::new());
        }
    }

    fn must_be_in_order(&self, reported: &str) {
        let site = &self.site;
        let status = site.run(&["key", "status"]).done();
        assert!(!status.stderr.contains("have no key"), "{}", status.all());
        site.run(&["data", "verify"]).done();
        site.run(&["audit", "verify"]).done();
        let left = files_below(&site.data()).into_iter().filter(|path| is_temporary(path));
        assert_eq!(left.collect::<Vec<_>>(), Vec::<PathBuf>::new());
        (self.scenario.check)(site, reported);
    }
}

fn is_temporary(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "tmp" || extension == "next")
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let (path, place) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            fs::create_dir(&place).expect("a folder");
            copy_folder(&path, &place);
        } else if path.is_file() {
            fs::copy(&path, &place).expect("a copy");
        }
    }
}
