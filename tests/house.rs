//! The plan of the house, kept: rooms import only rooms on lower floors, what must be absent is absent, and
//! no file has grown past reading. `docs/architecture.md` says why; this says when it stops being true.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Every room and its floor. A room imports only rooms on lower floors.
const FLOORS: [(&str, u32); 20] = [
    ("base", 0),
    ("seal", 1),
    ("tensor", 1),
    ("text", 1),
    ("store", 2),
    ("auditlog", 2),
    ("device", 2),
    ("vault", 3),
    ("ops", 3),
    ("corpus", 4),
    ("nn", 4),
    ("model", 5),
    ("train", 6),
    ("infer", 6),
    ("evaluate", 7),
    ("qualify", 7),
    ("improve", 8),
    ("work", 9),
    ("serve", 10),
    ("cli", 11),
];

/// Pairs that must not meet though the floors would let the upper one look down.
const STRANGERS: [(&str, &str); 2] = [("train", "infer"), ("serve", "train")];

/// Where `unsafe` may be allowed: a room, or one file of it.
const UNSAFE: [&str; 5] = ["src/device", "src/ops", "src/seal", "src/tensor/arena.rs", "src/corpus/cage"];

/// Lines of a file without its tests.
const FILE_LINES_MAX: usize = 800;

struct Source {
    /// Relative to the repository, with `/`.
    path: String,
    /// None for `lib.rs` and `main.rs`.
    room: Option<String>,
    text: String,
    /// The text without comments and string literals.
    code: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a readable directory").flatten() {
        let path = entry.path();
        if path.is_dir() { files_below(&path, found) } else { found.push(path) }
    }
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned()
}

fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    files_below(&root().join("src"), &mut paths);
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    paths.iter().map(|path| source(path)).collect()
}

fn source(path: &Path) -> Source {
    let text = fs::read_to_string(path).expect("a readable source file");
    let path = relative(path);
    let first = path.trim_start_matches("src/").split('/').next().unwrap_or_default();
    let room = Some(first.trim_end_matches(".rs")).filter(|&name| name != "lib" && name != "main");
    Source { room: room.map(str::to_owned), code: without_comments_and_strings(&text), text, path }
}

/// Good enough for formatted Rust: line and block comments, plain and raw strings, character literals.
fn without_comments_and_strings(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let skipped = if rest.starts_with(b"//") {
            rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            find(rest, b"*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(hashes) = raw_string(rest, code.last().copied()) {
            let close = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
            let open = hashes + 2;
            find(&rest[open..], &close).map_or(rest.len(), |end| open + end + close.len())
        } else if rest[0] == b'"' {
            quoted(rest)
        } else if rest[0] == b'\'' && (rest.get(1) == Some(&b'\\') || rest.get(2) == Some(&b'\'')) {
            2 + rest[2..].iter().position(|&b| b == b'\'').map_or(rest.len() - 2, |end| end + 1)
        } else {
            code.push(rest[0]);
            at += 1;
            continue;
        };
        code.extend(rest[..skipped].iter().filter(|&&b| b == b'\n'));
        at += skipped;
    }
    String::from_utf8_lossy(&code).into_owned()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// The number of `#` where a raw string begins.
fn raw_string(rest: &[u8], before: Option<u8>) -> Option<usize> {
    if rest[0] != b'r' || before.is_some_and(|b| is_word(b) && b != b'b') {
        return None;
    }
    let hashes = rest[1..].iter().take_while(|&&b| b == b'#').count();
    (rest.get(1 + hashes) == Some(&b'"')).then_some(hashes)
}

fn quoted(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != b'"' {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The names that follow each `prefix` in the code: one, or all of a brace group.
fn names_after(code: &str, prefix: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (start, _) in code.match_indices(prefix) {
        let before = code[..start].bytes().last();
        if before.is_some_and(|b| is_word(b) || b == b':' || b == b'$') {
            continue;
        }
        let rest = &code[start + prefix.len()..];
        match rest.strip_prefix('{') {
            Some(group) => names.extend(group_heads(group)),
            None => names.extend(first_word(rest)),
        }
    }
    names
}

fn first_word(text: &str) -> Option<String> {
    let word: String = text.trim_start().bytes().take_while(|&b| is_word(b)).map(char::from).collect();
    (!word.is_empty()).then_some(word)
}

/// The first word of each member of `a::b, c::{d, e}, f}`.
fn group_heads(group: &str) -> Vec<String> {
    let (mut depth, mut head, mut heads) = (0, String::new(), Vec::new());
    for letter in group.chars() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.extend(first_word(&std::mem::take(&mut head))),
            _ if depth == 0 => head.push(letter),
            _ => {}
        }
    }
    heads.extend(first_word(&head));
    heads
}

fn floor(room: &str) -> Option<u32> {
    FLOORS.iter().find(|(name, _)| *name == room).map(|&(_, floor)| floor)
}

/// The rooms that a source file reaches: by `crate::room`, or by enough `super::` to leave its own.
fn rooms_reached(source: &Source) -> BTreeSet<String> {
    let mut names = names_after(&source.code, "crate::");
    let depth = source.path.split('/').count() - 1 - usize::from(source.path.ends_with("/mod.rs"));
    names.extend(names_after(&source.code, &"super::".repeat(depth.max(1))));
    names.retain(|name| floor(name).is_some());
    names
}

#[test]
fn imports_point_down_the_floors() {
    let mut wrong = Vec::new();
    for source in sources() {
        let Some(room) = &source.room else { continue };
        let Some(own) = floor(room) else {
            wrong.push(format!("{}: the room `{room}` stands on no floor", source.path));
            continue;
        };
        for reached in rooms_reached(&source) {
            let strangers =
                STRANGERS.iter().any(|&(a, b)| (room == a && reached == b) || (room == b && reached == a));
            if reached != *room && (floor(&reached) >= Some(own) || strangers) {
                wrong.push(format!("{}: `{room}` must not import `{reached}`", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_source_file_is_reachable() {
    let mut reached = BTreeSet::new();
    for start in ["src/lib.rs", "src/main.rs", "tests/tests.rs"] {
        reach(Path::new(start), true, &mut reached);
    }
    let mut paths = Vec::new();
    files_below(&root().join("src"), &mut paths);
    files_below(&root().join("tests"), &mut paths);
    let lost: Vec<String> = paths
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| relative(path))
        .filter(|path| !reached.contains(path))
        .collect();
    assert!(lost.is_empty(), "no `mod` leads to {lost:?}");
}

/// Follows `mod name;` from a file to the files it declares.
fn reach(path: &Path, is_root: bool, reached: &mut BTreeSet<String>) {
    let Ok(text) = fs::read_to_string(root().join(path)) else { return };
    if !reached.insert(path.to_string_lossy().into_owned()) {
        return;
    }
    let directory = match path.file_name().and_then(|name| name.to_str()) {
        Some("mod.rs") => path.parent().expect("inside src").to_owned(),
        _ if is_root => path.parent().expect("inside src").to_owned(),
        _ => path.with_extension(""),
    };
    let paths = text.lines().filter_map(|line| line.trim().strip_prefix("#[path = \"")?.strip_suffix("\"]"));
    for named in paths {
        reach(&path.with_file_name(named), false, reached);
    }
    for line in without_comments_and_strings(&text).lines() {
        let line = line.trim();
        let declared = line.rsplit_once("mod ").and_then(|(_, name)| name.strip_suffix(';'));
        if let Some(name) = declared {
            reach(&directory.join(format!("{name}.rs")), false, reached);
            reach(&directory.join(name).join("mod.rs"), false, reached);
        }
    }
}

#[test]
fn cryptography_is_imported_in_seal_alone() {
    let wrong: Vec<String> = sources()
        .into_iter()
        .filter(|source| source.room.as_deref() != Some("seal"))
        .filter(|source| !names_after(&source.code, "ring::").is_empty() || source.code.contains("use ring;"))
        .map(|source| source.path)
        .collect();
    assert!(wrong.is_empty(), "`ring` outside seal: {wrong:?}");
}

#[test]
fn lints_are_relaxed_only_where_the_plan_says() {
    let mut wrong = Vec::new();
    for Source { path, room, code, .. } in sources() {
        let mut forbid = |lint: &str, allowed: bool| {
            if !allowed && code.contains(lint) {
                wrong.push(format!("{path} relaxes {lint}"));
            }
        };
        let in_cli = room.as_deref() == Some("cli");
        forbid("unsafe_code", UNSAFE.iter().any(|place| path.starts_with(place)));
        forbid("clippy::print_stdout", in_cli);
        forbid("clippy::print_stderr", in_cli);
        forbid("clippy::exit", in_cli);
        for never in ["clippy::unwrap_used", "clippy::todo", "clippy::dbg_macro", "allow(dead_code"] {
            forbid(never, false);
        }
    }
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    for lint in ["unsafe_code = \"deny\"", "print_stdout = \"deny\"", "unwrap_used = \"deny\""] {
        assert!(manifest.contains(lint), "Cargo.toml no longer says {lint}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_must_be_absent_is_absent() {
    // No outbound network client, no temporary folder for what is sealed, nothing from outside the repository.
    let banned = ["TcpStream::connect", "env::temp_dir", "tempfile::", "reqwest", "ureq"];
    let outside = ["..", "/shared"].concat();
    let mut wrong = Vec::new();
    for source in sources() {
        let production = source.code.split("#[cfg(test)]").next().unwrap_or_default();
        let is_test = source.path.ends_with("tests.rs") || source.path.contains("/tests/");
        for name in banned.iter().filter(|_| !is_test) {
            if production.contains(name) {
                wrong.push(format!("{}: {name}", source.path));
            }
        }
        if source.text.contains(&outside) {
            wrong.push(format!("{}: {outside}", source.path));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_file_has_grown_past_reading() {
    let long: Vec<String> = sources()
        .iter()
        .filter(|source| !source.path.ends_with("tests.rs"))
        .map(|source| {
            let lines = source.text.lines().take_while(|line| !line.starts_with("mod tests {")).count();
            (&source.path, lines)
        })
        .filter(|&(_, lines)| lines > FILE_LINES_MAX)
        .map(|(path, lines)| format!("{path}: {lines} lines"))
        .collect();
    assert!(long.is_empty(), "{long:?}");
}

#[test]
fn the_reader_of_sources_reads_them() {
    let code = "use crate::{base::{Error, Id}, // crate::cli\n work::Warden};\nlet a = \"crate::serve\";\
                let b = r#\"crate::train \" \"#; let c = '\"'; x(crate::vault::open, $crate::model)";
    let code = without_comments_and_strings(code);
    let expected = ["base", "vault", "work"].map(str::to_owned);
    assert_eq!(names_after(&code, "crate::"), BTreeSet::from(expected));
}
