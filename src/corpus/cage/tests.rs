use super::*;
use crate::corpus::extract::Piece;

/// Not a test of its own: [`Program::own`] starts the test binary with this one chosen, to be the child.
#[test]
fn plays_the_child() {
    if std::env::var_os("CLOISTER_TEST_CAGE").is_some() {
        child_main().expect("the cage runs");
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
    let mut cage = Cage::new(Program::own());
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
    let mut cage = Cage::new(Program::own());
    let line = "x".repeat(40 << 20);
    assert_eq!(only_text(&mut cage, line.as_bytes()).len(), line.len());
    let too_large = vec![b'x'; SOURCE_BYTES_MAX as usize + 1];
    assert_eq!(texts(&mut cage, &too_large).expect_err("refused").reason, Reason::TooLarge);
}

#[test]
fn a_child_that_dies_costs_one_document() {
    let mut cage = Cage::new(Program::own());
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
    let mut cage = Cage::new(Program::own());
    cage.wall_max = Duration::from_millis(20);
    // Nests so deeply that the tree alone takes longer than that.
    let page = format!("<!doctype html>{}", "<b><p>".repeat(400_000));
    assert_eq!(texts(&mut cage, page.as_bytes()).expect_err("too slow").reason, Reason::TimedOut);
    cage.wall_max = WALL_MAX;
    assert_eq!(only_text(&mut cage, b"after"), "after");
}

#[test]
fn a_document_that_eats_memory_is_refused_for_that() {
    use std::io::Write;
    let mut cage = Cage::new(Program::own());
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

#[test]
fn the_child_can_open_and_write_nothing() {
    let child = std::env::var_os("CLOISTER_TEST_CAGE");
    // Runs in a process of its own, because the limits cannot be taken back.
    if child.is_some_and(|kind| kind == "limits") {
        limits::lock_in().expect("locks");
        let written = std::fs::write("/tmp/cloister-cage-test", b"x");
        assert!(
            written.is_err()
                || std::fs::metadata("/tmp/cloister-cage-test").is_ok_and(|file| file.len() == 0)
        );
        std::process::abort();
    }
    let name = "corpus::cage::tests::the_child_can_open_and_write_nothing";
    let status = Command::new("/proc/self/exe")
        .args(["--exact", name])
        .env("CLOISTER_TEST_CAGE", "limits")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("starts");
    let _ = std::fs::remove_file("/tmp/cloister-cage-test");
    assert!(status.signal().is_some() && !status.core_dumped(), "{status:?}");
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
