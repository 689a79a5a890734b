use super::*;

type Read = (Format, Vec<Piece>, Vec<(u64, Reason)>);

/// Format, texts and refused rows that a source gives.
fn read_as(source: &[u8], options: &Options) -> Result<Read, Refused> {
    let (mut pieces, mut refused_rows) = (Vec::new(), Vec::new());
    let format = extract(source.to_vec(), options, &mut |event| {
        match event {
            Event::Piece(piece) => pieces.push(piece),
            Event::RowRefused { row, refused } => refused_rows.push((row, refused.reason)),
        }
        Ok(())
    })?;
    Ok((format, pieces, refused_rows))
}

fn read(source: &[u8]) -> Result<Read, Refused> {
    read_as(source, &Options::default())
}

fn named(extension: &str) -> Options {
    Options { extension: extension.to_owned(), ..Options::default() }
}

fn text(source: &[u8]) -> String {
    let (_, pieces, _) = read(source).expect("it is read");
    pieces.into_iter().map(|piece| piece.text).collect()
}

fn reason(source: &[u8]) -> Reason {
    read(source).expect_err("it is refused").reason
}

macro_rules! sample {
    ($name:literal) => {
        include_bytes!(concat!("../../../tests/data/documents/", $name))
    };
}

#[test]
fn formats_are_told_by_content() {
    let cases = [
        ("Just some words, with commas, and so on.\nAnd more, of them.\nAnd, again.", Format::Txt),
        ("<!DOCTYPE html><p>x", Format::Html),
        ("\u{FEFF}  \n<html><body>x", Format::Html),
        ("<p>a fragment</p>", Format::Html),
        ("a,b\n1,2\n3,4\n", Format::Csv),
        ("name;text\nx;y\nz;w", Format::Csv),
        ("{\"text\": \"x\"}\n{\"text\": \"y\"}", Format::Jsonl),
        ("[{\"a\": \"b\"}]", Format::Jsonl),
        ("{\n  \"a\": \"b\"\n}\n{\n  \"a\": \"c\"\n}", Format::Jsonl),
        ("# One\n\nsee [x](y)\n\n## Two\n\n**bold**", Format::Md),
        ("[1] See the annex.\n{not json}", Format::Txt),
        ("1 < 2 and 3 > 2", Format::Txt),
        ("<PAGE>\n<TABLE>\n<S> <C>\n1 2\n</TABLE>", Format::Txt),
    ];
    for (source, expected) in cases {
        assert_eq!(read(source.as_bytes()).expect("text").0, expected, "{source:?}");
    }
    // Where content cannot tell, the name may.
    assert_eq!(read_as(b"# One\n\ntext", &named("md")).expect("text").0, Format::Md);
    assert_eq!(read_as(b"text\nx\n", &named("csv")).expect("text").0, Format::Csv);
}

#[test]
fn what_is_not_read_is_called_by_its_name() {
    let mail = b"From: a@b\nTo: c@d\nSubject: x\nDate: today\n\nhello";
    let cases: [(&[u8], Reason); 14] = [
        (b"", Reason::Empty),
        (b" \n\t\n ", Reason::Empty),
        (b"\xEF\xBB\xBF", Reason::Empty),
        (b"%PDF-1.7 nope", Reason::Truncated),
        (b"%PDF-1.7\n\0\0\0nope\nstartxref\n%%EOF", Reason::Malformed),
        (b"PK\x03\x04 nope", Reason::Truncated),
        (b"\x7FELF\x02\x01\x01\0\0\0\0", Reason::Unsupported),
        (b"\x89PNG\r\n\x1A\n\0\0\0\rIHDR", Reason::Unsupported),
        (b"\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1\0\0", Reason::Unsupported),
        (b"{\\rtf1 hello}", Reason::Unsupported),
        (b"<?xml version='1.0'?><a>b</a>", Reason::Unsupported),
        (mail, Reason::Unsupported),
        (b"text \0\x01\x02\x03\x04\x05\x06 more", Reason::Binary),
        (b"<html><script>x()</script></html>", Reason::NoText),
    ];
    for (source, expected) in cases {
        assert_eq!(reason(source), expected, "{}", String::from_utf8_lossy(source));
    }
    let not_a_pdf = read_as(b"plain words", &named("pdf")).expect_err("it is refused");
    assert_eq!((not_a_pdf.reason, not_a_pdf.format), (Reason::Malformed, Some(Format::Pdf)));
    assert_eq!(text(b"a\r\nb\rc\x0C"), "a\nb\nc");
}

#[test]
fn a_row_is_a_document_where_a_column_holds_text() {
    let table = b"id,Text,owner\n1,\"first, with\nlines\",Ann\n2,second,Ann; Bob\n3,,Eve\n4,too,many,cells\n";
    let options = Options { subject_field: Some("OWNER".into()), ..named("csv") };
    let (format, pieces, refused) = read_as(table, &options).expect("a table");
    assert_eq!(format, Format::Csv);
    let rows: Vec<_> =
        pieces.iter().map(|piece| (piece.row, piece.text.as_str(), piece.subjects.join("+"))).collect();
    assert_eq!(rows, [(Some(1), "first, with\nlines", "Ann".into()), (Some(2), "second", "Ann+Bob".into())]);
    assert_eq!(refused, [(3, Reason::Empty), (4, Reason::Malformed)]);

    let without = b"a,b\n1,2\n3,4\n";
    assert_eq!(read(without).expect("one document").1.len(), 1);
    let options = Options { text_fields: vec!["b".into(), "a".into()], ..Options::default() };
    let (_, pieces, _) = read_as(without, &options).expect("two");
    assert_eq!(pieces.iter().map(|piece| piece.text.as_str()).collect::<Vec<_>>(), ["2\n\n1", "4\n\n3"]);
    let options = Options { text_fields: vec!["nowhere".into()], ..Options::default() };
    assert_eq!(read_as(without, &options).expect_err("refused").reason, Reason::Malformed);
}

#[test]
fn a_broken_line_costs_that_line() {
    let (format, pieces, refused) = read(sample!("broken-lines.jsonl")).expect("the others are read");
    let texts: Vec<&str> = pieces.iter().map(|piece| piece.text.as_str()).collect();
    assert_eq!(format, Format::Jsonl);
    assert_eq!((texts[0], texts[texts.len() - 1]), ("good line one", "good line two"));
    let malformed: Vec<u64> =
        refused.iter().filter(|(_, reason)| *reason == Reason::Malformed).map(|(row, _)| *row).collect();
    assert_eq!(malformed, [2, 4, 5, 7, 8]);

    let subjects = br#"{"body": ["a", "b"], "who": ["X", "Y"]}"#;
    let options = Options { subject_field: Some("who".into()), ..Options::default() };
    let (_, pieces, _) = read_as(subjects, &options).expect("one");
    assert_eq!((pieces[0].text.as_str(), pieces[0].subjects.join("+")), ("a\n\nb", "X+Y".to_owned()));
    assert_eq!(reason(b"{\"text\": \"cut o"), Reason::Truncated);
}

#[test]
fn hidden_things_of_a_page_stay_hidden() {
    let text = text(sample!("hidden-injection.html"));
    assert!(text.contains("Visible policy paragraph number one"), "{text}");
    for hidden in ["never show", "display:none", "comment text", "alert"] {
        assert!(!text.contains(hidden), "{hidden}: {text}");
    }
}

#[test]
fn word_documents_give_tables_notes_and_headers() {
    assert_eq!(text(sample!("table_footnotes.docx")).trim(), "Pole 1\tPole 2\nslove\t\n\nsnoska");
    let various = text(sample!("testWORD_various.docx"));
    for words in ["This is the header text", "Here is a text box", "Footnote appears here", "Number bullet 3"]
    {
        assert_eq!(various.matches(words).count(), 1, "{words}: {various}");
    }
}

#[test]
fn hostile_word_documents_are_refused() {
    assert_eq!(reason(sample!("truncated.docx")), Reason::Truncated);
    assert_eq!(reason(sample!("billion-laughs.docx")), Reason::Malformed);
    assert_eq!(reason(sample!("xxe-local-file.docx")), Reason::Malformed);
    assert_eq!(reason(sample!("protected_normal_case.docx")), Reason::Encrypted);
}

#[test]
fn a_package_cannot_unfold_without_end() {
    use std::io::Write;
    let mut package = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    package.start_file("word/document.xml", options).expect("a part");
    for _ in 0..300 {
        package.write_all(&[b' '; 1 << 20]).expect("zeroes");
    }
    let bomb = package.finish().expect("a package").into_inner();
    assert!(bomb.len() < 1 << 20);
    assert_eq!(reason(&bomb), Reason::TooMuch);

    let mut package = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    package.start_file("word/document.xml", options).expect("a part");
    package.write_all("<a>".repeat(100_000).as_bytes()).expect("tags");
    let deep = package.finish().expect("a package").into_inner();
    assert_eq!(reason(&deep), Reason::TooMuch);
}

#[test]
fn pdfs_are_read_repaired_or_refused_with_the_reason() {
    assert_eq!(text(sample!("bad-startxref.pdf")), "Clause seven survives termination");
    assert!(!text(sample!("javascript-launch.pdf")).is_empty());
    assert_eq!(reason(sample!("testPDF_no_extract_yes_accessibility_owner_user.pdf")), Reason::Encrypted);
    let whole = sample!("javascript-launch.pdf");
    for cut in (6..whole.len()).step_by(13) {
        // Whatever is left of it: an outcome, not a panic.
        let _ = read(&whole[..cut]);
    }
}

#[test]
fn invalid_sequences_cost_no_more_than_themselves() {
    let text = text(sample!("invalid-utf8.txt"));
    assert_eq!(text.matches("end of file sentinel").count(), 20);
}

#[test]
fn output_without_end_is_stopped() {
    let row = format!("{{\"text\": \"{}\"}}\n", "x".repeat(1 << 20));
    let mut passed = 0;
    let mut finish_early = |event| {
        if let Event::Piece(_) = event {
            passed += 1;
        }
        if passed == 3 { Err(Refused::new(Reason::TooMuch, "")) } else { Ok(()) }
    };
    let outcome = extract(row.repeat(10).into_bytes(), &Options::default(), &mut finish_early);
    assert_eq!((outcome.expect_err("stopped").reason, passed), (Reason::TooMuch, 3));
}
