#![allow(unsafe_code)]

use std::os::fd::AsFd;

use super::*;
use crate::{
    base::damage::{FIRST_TIER, again_and_again},
    corpus::{extract::Piece, hostile},
};

/// Not a test of its own: [`Program::own`] starts the test binary with this one chosen, to be the child.
#[test]
fn plays_the_child() {
    if let Some(walls) = std::env::var_os("CLOISTER_TEST_CAGE") {
        child_main(walls == ALLOW_WEAK).expect("the cage runs");
    }
}

fn texts(cage: &mut Cage, source: &[u8]) -> std::result::Result<Vec<String>, Refused> {
    let mut texts = Vec::new();
    let read = cage.extract(source, &Options::default(), &mut |event| {
        if let Event::Piece(Piece { text, .. }) = event {
            texts.push(text);
        }
        Ok(())
    });
    read.expect("the cage stands").map(|_| texts)
}

#[test]
fn reads_one_document_after_another() {
    let mut cage = Cage::new(Program::own(false));
    assert_eq!(texts(&mut cage, b"first").expect("text"), ["first"]);
    let process = cage.child.as_ref().map(|running| running.process.id());
    assert_eq!(texts(&mut cage, b"").expect_err("nothing").reason, Reason::Empty);
    assert_eq!(texts(&mut cage, "zweites é".as_bytes()).expect("text"), ["zweites é"]);
    assert_eq!(cage.child.as_ref().map(|running| running.process.id()), process, "one child for all");
}

fn only_text(cage: &mut Cage, source: &[u8]) -> String {
    texts(cage, source).expect("text").concat()
}

#[test]
fn a_large_document_passes_whole_and_one_above_the_limit_is_refused() {
    let mut cage = Cage::new(Program::own(false));
    let line = "x".repeat(40 << 20);
    assert_eq!(only_text(&mut cage, line.as_bytes()).len(), line.len());
    let too_large = vec![b'x'; SOURCE_BYTES_MAX as usize + 1];
    assert_eq!(texts(&mut cage, &too_large).expect_err("refused").reason, Reason::TooLarge);
}

#[test]
fn a_child_that_dies_costs_one_document() {
    let mut cage = Cage::new(Program::own(false));
    assert_eq!(only_text(&mut cage, b"before"), "before");
    if let Some(running) = &mut cage.child {
        running.process.kill().expect("it runs");
        running.process.wait().expect("it ends");
    }
    let refused = texts(&mut cage, b"meanwhile").expect_err("its reader is gone");
    assert_eq!((refused.reason, refused.detail.as_str()), (Reason::Crashed, "signal 9"));
    assert_eq!(only_text(&mut cage, b"after"), "after");
}

#[test]
fn a_child_that_takes_too_long_is_ended() {
    let mut cage = Cage::new(Program::own(false));
    cage.wall_max = Duration::from_millis(20);
    // Nests so deeply that the tree alone takes longer than that.
    let page = format!("<!doctype html>{}", "<b><p>".repeat(400_000));
    assert_eq!(texts(&mut cage, page.as_bytes()).expect_err("too slow").reason, Reason::TimedOut);
    cage.wall_max = WALL_MAX;
    assert_eq!(only_text(&mut cage, b"after"), "after");
}

#[test]
fn a_pdf_without_end_is_ended() {
    let mut cage = Cage::new(Program::own(false));
    cage.wall_max = Duration::from_secs(2);
    assert_eq!(texts(&mut cage, &hostile::long_loop()).expect_err("too slow").reason, Reason::TimedOut);
}

#[test]
fn a_document_that_eats_memory_is_refused_for_that() {
    use std::io::Write;
    let mut cage = Cage::new(Program::own(false));
    // A page whose content unfolds to more than the child may have.
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..700 {
        packed.write_all(&[b' '; 1 << 20]).expect("packs");
    }
    let packed = packed.finish().expect("packs");
    let mut pdf = b"%PDF-1.4\n1 0 obj <</Type/Catalog/Pages 2 0 R>> endobj\n\
        2 0 obj <</Type/Pages/Kids[3 0 R]/Count 1>> endobj\n\
        3 0 obj <</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Contents 4 0 R>> endobj\n"
        .to_vec();
    pdf.extend(format!("4 0 obj <</Length {}/Filter/FlateDecode>> stream\n", packed.len()).as_bytes());
    pdf.extend(&packed);
    pdf.extend(b"\nendstream endobj\nstartxref\n0\n%%EOF");
    assert_eq!(texts(&mut cage, &pdf).expect_err("a bomb").reason, Reason::OutOfMemory);
    assert_eq!(only_text(&mut cage, b"after"), "after");
}

/// Runs one test of this binary in a process of its own, because what it does to itself cannot be taken back.
fn alone(test: &str, what: &str) -> std::process::ExitStatus {
    Command::new("/proc/self/exe")
        .args(["--exact", &format!("corpus::cage::tests::{test}")])
        .env("CLOISTER_TEST_CAGE", what)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("starts")
}

fn told_to() -> Option<String> {
    std::env::var("CLOISTER_TEST_CAGE").ok()
}

#[test]
fn the_limits_alone_let_not_one_byte_be_written() {
    if told_to().is_some() {
        limits::lock_in().expect("locks");
        let path = "/tmp/cloister-cage-test";
        let written = std::fs::write(path, b"x");
        assert!(written.is_err() || std::fs::metadata(path).is_ok_and(|file| file.len() == 0));
        std::process::abort();
    }
    let status = alone("the_limits_alone_let_not_one_byte_be_written", "limits");
    let _ = std::fs::remove_file("/tmp/cloister-cage-test");
    assert!(status.signal().is_some() && !status.core_dumped(), "{status:?}");
}

/// What a reader that was taken over would try, and whether the kernel ends it for that or says no.
const ATTEMPTS: &[(&str, Kept, fn())] = &[
    ("read a file", Kept::Refused, || assert!(std::fs::read("/etc/passwd").is_err())),
    ("read itself", Kept::Refused, || assert!(std::fs::read("/proc/self/environ").is_err())),
    ("write a file", Kept::Refused, || assert!(std::fs::write("/tmp/cloister-cage-try", b"x").is_err())),
    ("look at a file", Kept::Refused, || assert!(std::fs::metadata("/etc/passwd").is_err())),
    ("list a folder", Kept::Refused, || assert!(std::fs::read_dir("/").is_err())),
    ("remove a file", Kept::Killed, || drop(std::fs::remove_file("/tmp/cloister-cage-try"))),
    ("connect", Kept::Killed, || drop(std::net::TcpStream::connect("127.0.0.1:9"))),
    ("listen", Kept::Killed, || drop(std::net::TcpListener::bind("127.0.0.1:0"))),
    ("send a datagram", Kept::Killed, || drop(std::net::UdpSocket::bind("127.0.0.1:0"))),
    ("reach a local service", Kept::Killed, || drop(UnixStream::connect("/run/dbus/system_bus_socket"))),
    ("run a program", Kept::Killed, || drop(Command::new("/bin/true").status())),
    ("start a thread", Kept::Killed, || drop(std::thread::Builder::new().spawn(|| {}))),
    // SAFETY: none of these touches memory of ours; whatever they answer, the process ends after.
    ("fork", Kept::Killed, || _ = unsafe { libc::fork() }),
    ("trace itself", Kept::Killed, || _ = unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) }),
    ("signal its parent", Kept::Killed, || _ = unsafe { libc::kill(libc::getppid(), libc::SIGTERM) }),
    ("signal another", Kept::Killed, || _ = unsafe { libc::syscall(libc::SYS_tgkill, 1, 1, libc::SIGTERM) }),
    ("make code", Kept::Killed, || _ = unsafe { map(libc::PROT_READ | libc::PROT_EXEC) }),
    ("make a file in memory", Kept::Killed, || _ = unsafe { libc::memfd_create(c"x".as_ptr(), 0) }),
    ("leave its namespaces", Kept::Killed, || _ = unsafe { libc::unshare(libc::CLONE_NEWUSER) }),
    ("go round the filter", Kept::Killed, || _ = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, 0) }),
    ("use numbers of another table", Kept::Killed, || _ = unsafe { libc::syscall(0x4000_0000 | 2) }),
    ("raise its memory", Kept::Killed, || _ = unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const MORE) }),
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kept {
    Refused,
    Killed,
}

static MORE: libc::rlimit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };

/// # Safety
/// The memory belongs to nobody.
unsafe fn map(protection: i32) -> *mut libc::c_void {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a mapping where the kernel likes, over nothing.
    unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) }
}

#[test]
fn what_a_reader_never_does_ends_it_and_what_libraries_try_is_refused() {
    if let Some(what) = told_to() {
        limits::lock_in().expect("locks");
        walls::raise(false).expect("stands");
        let (_, _, attempt) = ATTEMPTS.iter().find(|(name, ..)| *name == what).expect("in the table");
        attempt();
        return;
    }
    for (what, kept, _) in ATTEMPTS {
        let status = alone("what_a_reader_never_does_ends_it_and_what_libraries_try_is_refused", what);
        match kept {
            Kept::Refused => assert!(status.success(), "{what}: {status:?}"),
            Kept::Killed => assert_eq!(status.signal(), Some(libc::SIGSYS), "{what}: {status:?}"),
        }
    }
}

/// The second wall by itself, as if the first had a hole.
#[test]
fn landlock_alone_keeps_files_and_networks_away() {
    if told_to().is_some() {
        walls::forbid_files_and_networks().expect("stands");
        let denied = |error: std::io::Error| error.kind() == std::io::ErrorKind::PermissionDenied;
        assert!(std::fs::read("/etc/passwd").is_err_and(denied));
        assert!(std::fs::write("/tmp/cloister-cage-try", b"x").is_err_and(denied));
        return;
    }
    if !Walls::of_this_kernel().landlock {
        eprintln!("skipped: this kernel has no landlock");
        return;
    }
    assert!(alone("landlock_alone_keeps_files_and_networks_away", "landlock").success());
}

/// Stands for a parser with a hole: it runs a program as soon as a document tells it to.
#[test]
fn a_document_that_takes_its_reader_over_is_called_forbidden() {
    const NAME: &str = "corpus::cage::tests::a_document_that_takes_its_reader_over_is_called_forbidden";
    if told_to().is_some() {
        limits::lock_in().expect("locks");
        let socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().expect("a socket"));
        walls::raise(false).expect("stands");
        while let Some((_, source)) = wire::receive_request(&socket).expect("is asked") {
            if source == b"attack" {
                drop(Command::new("/bin/true").status());
            }
            wire::send_answer(&mut &socket, &Answer::Done(Format::Txt)).expect("answers");
        }
        return;
    }
    let mut cage = Cage::new(Program {
        path: "/proc/self/exe".into(),
        arguments: vec!["--exact".into(), NAME.into()],
        variables: vec![("CLOISTER_TEST_CAGE".into(), "open".into())],
    });
    assert_eq!(texts(&mut cage, b"attack").expect_err("ended").reason, Reason::Forbidden);
    assert!(texts(&mut cage, b"another").is_ok());
    assert_eq!(texts(&mut cage, b"attack").expect_err("ended").reason, Reason::Forbidden);
}

#[test]
fn a_reader_that_cannot_start_is_our_error_and_no_document_s() {
    let program = |path: &str, arguments: &[&str]| Program {
        path: path.into(),
        arguments: arguments.iter().map(Into::into).collect(),
        variables: Vec::new(),
    };
    let extract = |program| Cage::new(program).extract(b"text", &Options::default(), &mut |_| Ok(()));
    let missing = extract(program("/nonexistent/cloister", &[])).expect_err("no such program");
    assert!(missing.to_string().contains("starting the process"), "{missing}");
    let other = extract(program("/bin/false", &[])).expect_err("not a reader");
    assert!(other.to_string().contains("exit code 1"), "{other}");
}

/// A format's extension, its bytes, and what makes a document of them.
type Sample = (&'static str, Vec<u8>, fn(&[u8]) -> Vec<u8>);

fn samples() -> Vec<Sample> {
    macro_rules! sample {
        ($name:literal) => {
            include_bytes!(concat!("../../../tests/data/documents/", $name)).to_vec()
        };
    }
    let as_it_is: fn(&[u8]) -> Vec<u8> = <[u8]>::to_vec;
    let body = "<w:document><w:body><w:p><w:r><w:t xml:space=\"preserve\">kept words </w:t></w:r></w:p><w:tbl><w:tr><w:tc>\
                <w:p><w:r><w:t>a &amp; b</w:t><w:tab/></w:r></w:p></w:tc></w:tr></w:tbl></w:body></w:document>";
    let in_a_package = |body: &[u8]| hostile::docx(&[("word/document.xml", body)]);
    vec![
        ("txt", "Kept words, é and 😀.\r\nAnd more.\u{0}".repeat(5).into_bytes(), as_it_is),
        ("md", b"# One\n\nsee [x](y) | a |\n|---|\n\n> **bold** `code`\n\n1. two\n".repeat(3), as_it_is),
        ("html", sample!("hidden-injection.html"), as_it_is),
        ("csv", b"name;text\n\"a \"\"b\"\"\";\"two\nlines\"\nc;kept words\n".repeat(3), as_it_is),
        ("jsonl", sample!("broken-lines.jsonl"), as_it_is),
        ("pdf", hostile::words_pdf(), as_it_is),
        ("pdf", sample!("testPDF_no_extract_yes_accessibility_owner_user.pdf"), as_it_is),
        ("docx", body.into(), in_a_package),
        ("docx", in_a_package(body.as_bytes()), as_it_is),
    ]
}

/// Of documents of every format, in the long tier.
const MUTATIONS: u64 = 200_000;

#[test]
fn documents_damaged_at_random_harm_nothing_but_themselves() {
    withstands_damage(MUTATIONS / FIRST_TIER);
}

#[test]
#[ignore = "the long tier: minutes"]
fn documents_damaged_at_random_never_harm_anything_but_themselves() {
    withstands_damage(MUTATIONS);
}

/// Each is read or refused for what it is; its reader never asks for what it may not have, and the next one reads on.
fn withstands_damage(mutations: u64) {
    let mut cage = Cage::new(Program::own(false));
    cage.wall_max = Duration::from_secs(5);
    let mut ends = std::collections::BTreeMap::<String, u64>::new();
    let samples = samples();
    let share = mutations / samples.len() as u64;
    for (seed, (extension, whole, make)) in (40..).zip(samples) {
        let options = Options { extension: extension.to_owned(), ..Options::default() };
        again_and_again(share, seed, &[whole], |_, damaged| {
            let read = cage.extract(&make(damaged), &options, &mut |_| Ok(())).expect("the cage stands");
            let end = match read {
                Ok(_) => "read",
                Err(refused) => {
                    assert_ne!(refused.reason, Reason::Forbidden, "{refused:?}");
                    assert!(!refused.detail.starts_with("signal"), "{refused:?}");
                    refused.reason.name()
                }
            };
            *ends.entry(format!("{extension} {end}")).or_default() += 1;
        });
        assert_eq!(only_text(&mut cage, b"after"), "after");
    }
    println!("{ends:?}");
}
