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
