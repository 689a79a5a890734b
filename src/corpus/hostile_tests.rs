//! Documents that bite, made here: small builders, each with what must become of it.

use std::io::{Cursor, Write};

use crate::corpus::Reason::{self, Crashed, Malformed, NoText, OutOfMemory, TimedOut, TooMuch, Unsupported};

/// A name, the bytes, and the reasons that it may be refused for; none where it must be taken.
pub type Hostile = (&'static str, Vec<u8>, &'static [Reason]);

pub fn all() -> Vec<Hostile> {
    vec![
        ("bomb.docx", docx(&[("word/document.xml", &spaces(40 << 20))]), &[TooMuch]),
        ("bomb-in-parts.docx", bomb_in_parts(), &[TooMuch]),
        ("many-parts.docx", many_parts(), &[TooMuch]),
        ("deep.docx", docx(&[("word/document.xml", "<a>".repeat(100_000).as_bytes())]), &[TooMuch]),
        ("laughs.docx", docx(&[("word/document.xml", laughs("w:t").as_bytes())]), &[Malformed]),
        ("external.docx", docx(&[("word/document.xml", external().as_bytes())]), &[Malformed]),
        ("slip.docx", slip(), &[]),
        ("zip-of-zips.zip", zip_of_zips(), &[Unsupported]),
        ("laughs.xml", laughs("t").into_bytes(), &[Unsupported]),
        ("external.xml", external().into_bytes(), &[Unsupported]),
        ("external.html", external_html(), &[]),
        ("deep.html", deep_html(), &[Crashed, NoText, TimedOut, OutOfMemory]),
        ("deep.json", format!("{{\"text\": {}", "[".repeat(200_000)).into_bytes(), &[Malformed]),
        ("deep.md", format!("# a\n\n{} kept words", ">".repeat(50_000)).into_bytes(), &[]),
        ("bomb.pdf", pdf(&[("4", &flate(&spaces(900 << 20)))]), &[OutOfMemory, TooMuch]),
        ("deep.pdf", deep_pdf(), &[Malformed, NoText, Crashed]),
        ("own-parent.pdf", own_parent(), &[Malformed, NoText]),
        ("own-form.pdf", own_form(), &[Crashed, NoText, TimedOut, OutOfMemory]),
        ("own-table.pdf", own_table(), &[Malformed, NoText]),
    ]
}

fn spaces(bytes: usize) -> Vec<u8> {
    vec![b' '; bytes]
}

fn zip(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut package = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    for (name, bytes) in parts {
        package.start_file(*name, options).expect("a part");
        package.write_all(bytes).expect("written");
    }
    package.finish().expect("a package").into_inner()
}

pub fn docx(parts: &[(&str, &[u8])]) -> Vec<u8> {
    zip(parts)
}

fn paragraph(text: &str) -> String {
    format!("<w:document><w:body><w:p><w:r><w:t>{text}</w:t></w:r></w:p></w:body></w:document>")
}

/// Each part stays below what one may unfold to; all together do not.
fn bomb_in_parts() -> Vec<u8> {
    let part = spaces(1 << 20);
    let names: Vec<String> = (0..140).map(|number| format!("word/header{number}.xml")).collect();
    let mut parts: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &part[..])).collect();
    let body = paragraph("never reached");
    parts.push(("word/document.xml", body.as_bytes()));
    zip(&parts)
}

fn many_parts() -> Vec<u8> {
    let names: Vec<String> = (0..20_001).map(|number| format!("word/{number}")).collect();
    zip(&names.iter().map(|name| (name.as_str(), &b""[..])).collect::<Vec<_>>())
}

fn laughs(element: &str) -> String {
    let mut entities = "<!ENTITY a0 \"ha\">".to_owned();
    for level in 1..30 {
        let before = format!("&a{};", level - 1).repeat(10);
        entities.push_str(&format!("<!ENTITY a{level} \"{before}\">"));
    }
    format!("<?xml version=\"1.0\"?><!DOCTYPE x [{entities}]><x><{element}>&a29;</{element}></x>")
}

fn external() -> String {
    let declared = "<!DOCTYPE x [<!ENTITY e SYSTEM \"file:///etc/passwd\">]>";
    format!("<?xml version=\"1.0\"?>{declared}<x><w:t>&e;</w:t></x>")
}

fn external_html() -> Vec<u8> {
    b"<!DOCTYPE html [<!ENTITY e SYSTEM \"file:///etc/passwd\">]><p>kept words &e;\
      <iframe src=\"file:///etc/passwd\"></iframe><img src=\"http://127.0.0.1/x\">"
        .to_vec()
}

/// Parts that would climb out of a folder if anybody unpacked them into one.
fn slip() -> Vec<u8> {
    let body = paragraph("kept words");
    docx(&[
        ("../../../../../../tmp/cloister-slip", b"out"),
        ("/tmp/cloister-slip", b"out"),
        ("word/document.xml", body.as_bytes()),
    ])
}

fn zip_of_zips() -> Vec<u8> {
    (0..5).fold(spaces(1 << 20), |inside, _| zip(&[("a.zip", &inside), ("b.zip", &inside)]))
}

fn deep_html() -> Vec<u8> {
    format!("<!doctype html>{}", "<div>".repeat(300_000)).into_bytes()
}

fn flate(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes).expect("packs");
    packed.finish().expect("packs")
}

/// A page whose content is the packed stream `4 0 R`, and more objects before it.
fn pdf(streams: &[(&str, &[u8])]) -> Vec<u8> {
    let mut file = b"%PDF-1.4\n1 0 obj <</Type/Catalog/Pages 2 0 R>> endobj\n\
        2 0 obj <</Type/Pages/Kids[3 0 R]/Count 1>> endobj\n\
        3 0 obj <</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Contents 4 0 R>> endobj\n"
        .to_vec();
    for (number, packed) in streams {
        let head = format!("{number} 0 obj <</Length {}/Filter/FlateDecode>> stream\n", packed.len());
        file.extend_from_slice(head.as_bytes());
        file.extend_from_slice(packed);
        file.extend_from_slice(b"\nendstream endobj\n");
    }
    file.extend_from_slice(b"startxref\n0\n%%EOF");
    file
}

fn plain_pdf(objects: &str) -> Vec<u8> {
    format!("%PDF-1.4\n1 0 obj <</Type/Catalog/Pages 2 0 R>> endobj\n{objects}startxref\n0\n%%EOF")
        .into_bytes()
}

/// A page with a line of text, nothing of it packed.
pub fn words_pdf() -> Vec<u8> {
    let content = "BT /F1 12 Tf 1 0 0 1 10 10 Tm (kept words) Tj 0 -14 Td [(and) -250 (more)] TJ ET";
    plain_pdf(&format!(
        "2 0 obj <</Type/Pages/Kids[3 0 R]/Count 1>> endobj\n\
         3 0 obj <</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]/Contents 4 0 R\
         /Resources<</Font<</F1 5 0 R>>>>>> endobj\n\
         4 0 obj <</Length {}>> stream\n{content}\nendstream endobj\n\
         5 0 obj <</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>> endobj\n",
        content.len(),
    ))
}

/// Arrays within arrays, ten thousand deep, where the page's box should be.
fn deep_pdf() -> Vec<u8> {
    let nested = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    plain_pdf(&format!(
        "2 0 obj <</Type/Pages/Kids[3 0 R]/Count 1>> endobj\n\
         3 0 obj <</Type/Page/Parent 2 0 R/MediaBox {nested}>> endobj\n"
    ))
}

/// A tree of pages whose root is its own leaf.
fn own_parent() -> Vec<u8> {
    plain_pdf("2 0 obj <</Type/Pages/Kids[2 0 R 2 0 R]/Count 2/Parent 2 0 R>> endobj\n")
}

/// A form that draws itself.
fn own_form() -> Vec<u8> {
    let (form, page) = ("/F Do", "/F Do");
    plain_pdf(&format!(
        "2 0 obj <</Type/Pages/Kids[3 0 R]/Count 1>> endobj\n\
         3 0 obj <</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Contents 4 0 R\
         /Resources<</XObject<</F 5 0 R>>>>>> endobj\n\
         4 0 obj <</Length {}>> stream\n{page}\nendstream endobj\n\
         5 0 obj <</Type/XObject/Subtype/Form/BBox[0 0 9 9]/Length {}\
         /Resources<</XObject<</F 5 0 R>>>>>> stream\n{form}\nendstream endobj\n",
        page.len(),
        form.len(),
    ))
}

/// A table of objects that says its predecessor is itself.
fn own_table() -> Vec<u8> {
    let body = "%PDF-1.4\n1 0 obj <</Type/Catalog/Pages 2 0 R>> endobj\n\
                2 0 obj <</Type/Pages/Kids[]/Count 0>> endobj\n";
    let at = body.len();
    format!(
        "{body}xref\n0 1\n0000000000 65535 f \ntrailer\n<</Size 3/Root 1 0 R/Prev {at}>>\nstartxref\n{at}\n%%EOF"
    )
    .into_bytes()
}

/// Thousands of pages that share one long content: many minutes of drawing nothing.
pub fn long_loop() -> Vec<u8> {
    const PAGES: std::ops::Range<u32> = 10..5010;
    let kids: String = PAGES.map(|number| format!("{number} 0 R ")).collect();
    let content = flate("q 1 0 0 1 0 0 cm Q ".repeat(20_000).as_bytes());
    let mut file = format!(
        "%PDF-1.4\n1 0 obj <</Type/Catalog/Pages 2 0 R>> endobj\n\
         2 0 obj <</Type/Pages/Kids[{kids}]/Count {}>> endobj\n",
        PAGES.len()
    );
    for number in PAGES {
        file.push_str(&format!(
            "{number} 0 obj <</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Contents 4 0 R>> endobj\n"
        ));
    }
    file.push_str(&format!("4 0 obj <</Length {}/Filter/FlateDecode>> stream\n", content.len()));
    let mut file = file.into_bytes();
    file.extend_from_slice(&content);
    file.extend_from_slice(b"\nendstream endobj\nstartxref\n0\n%%EOF");
    file
}
