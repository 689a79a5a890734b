use super::*;

/// Texts of the whole documents and rows that a source gives, and the refused rows.
fn read_as(source: &[u8], options: &Options) -> Result<(Format, Vec<Piece>, Vec<(u64, Reason)>), Refused> {
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

fn read(source: &[u8]) -> Result<(Format, Vec<Piece>, Vec<(u64, Reason)>), Refused> {
    read_as(source, &Options::default())
}

fn format_of(source: &str) -> Format {
    read(source.as_bytes()).expect("text").0
}

#[test]
fn formats_are_told_by_content() {
    let cases = [
        ("Just some words, with commas, and so on.\nAnd more, of them.\nAnd, again.", Format::Txt),
        ("<!DOCTYPE html><p>x", Format::Html),
        ("\u{FEFF}  \n<html><body>x", Format::Html),
        ("a,b\n1,2\n3,4\n", Format::Csv),
        ("name;text\nx;y\nz;w", Format::Csv),
        ("{\"text\": \"x\"}\n{\"text\": \"y\"}", Format::Jsonl),
        ("[{\"a\": \"b\"}]", Format::Jsonl),
        ("# One\n\nsee [x](y)\n\n## Two\n\n**bold**", Format::Md),
        ("[1] See the annex.\n{not json}", Format::Txt),
        ("1 < 2 and 3 > 2", Format::Txt),
    ];
    for (source, expected) in cases {
        assert_eq!(format_of(source), expected, "{source:?}");
    }
}
