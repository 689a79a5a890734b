//! Builds the library that takes a process's power away, and runs commands with it.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use crate::harness::Ran;

const LANGUAGE: [&str; 8] =
    ["-std=c++20", "-O2", "-fPIC", "-shared", "-pthread", "-Wall", "-Wextra", "-Werror"];
const SOURCES: [&str; 4] = ["calls.cpp", "disk.cpp", "process.cpp", "real.cpp"];
const HEADERS: [&str; 3] = ["disk.h", "process.h", "real.h"];

/// When the power goes, and what is lost with it.
#[derive(Clone, Copy)]
pub struct Cut {
    /// Just before this call, counted from one.
    pub at: u64,
    pub seed: u64,
}

/// Runs a command with `root` as its disk, as `drive` does. Says how it ended, and by which calls it and its workers
/// changed the disk.
pub fn run(
    mut command: Command,
    root: &Path,
    cut: Option<Cut>,
    drive: impl FnOnce(Command) -> Ran,
) -> (Ran, Vec<String>) {
    let outside = tempfile::tempdir().expect("a temporary directory");
    let (aside, log) = (outside.path().join("aside"), outside.path().join("log"));
    fs::create_dir(&aside).expect("a folder");
    command.env("LD_PRELOAD", library()).env("POWER_CUT_ASIDE", aside).env("POWER_CUT_LOG", &log);
    command.env("POWER_CUT_ROOT", fs::canonicalize(root).expect("a folder"));
    command.env("POWER_CUT_SOCKET", outside.path().join("disk"));
    if let Some(Cut { at, seed }) = cut {
        command.env("POWER_CUT_AT", at.to_string()).env("POWER_CUT_SEED", seed.to_string());
    }
    // The disk's process holds what the command says it on until the log is written.
    let ran = drive(command);
    // A static binary would not load it.
    let log = fs::read_to_string(log)
        .unwrap_or_else(|error| panic!("the library was not loaded, or gave up ({error}):\n{}", ran.all()));
    assert_eq!(ran.code.is_none(), cut.is_some(), "{}", ran.all());
    (ran, log.lines().map(str::to_owned).collect())
}

/// The library, compiled where it is not there yet.
fn library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/power_cut");
        let mut hasher = DefaultHasher::new();
        LANGUAGE.hash(&mut hasher);
        for name in SOURCES.iter().chain(&HEADERS) {
            fs::read(sources.join(name)).expect("a source").hash(&mut hasher);
        }
        let name = format!("libpower_cut-{:016x}.so", hasher.finish());
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        if !library.exists() {
            compile(&sources, &library);
        }
        library
    })
}

/// Another process may be doing the same: the name comes last.
fn compile(sources: &Path, library: &Path) {
    let partial = library.with_extension(std::process::id().to_string());
    let mut compiler = Command::new("g++");
    compiler.args(LANGUAGE).args(SOURCES.map(|name| sources.join(name))).arg("-o").arg(&partial);
    let output = compiler
        .output()
        .unwrap_or_else(|error| panic!("g++ is needed to build the tests' library: {error}"));
    assert!(output.status.success(), "{compiler:?}\n{}", String::from_utf8_lossy(&output.stderr));
    fs::rename(&partial, library).expect("the library's name");
}
