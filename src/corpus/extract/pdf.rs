//! PDF: the text layer, page by page. `pdf-extract` interprets the pages and we set the lines; a page on which
//! it gives up is read once more by `lopdf`'s plainer method, and a file whose table of objects is broken gets
//! a new one. Pictures of text stay pictures: a scan is reported as one.

use std::panic::AssertUnwindSafe;

use lopdf::Document;
use pdf_extract::{MediaBox, OutputDev, OutputError, Transform, output_doc_page};

use super::Refused;
use crate::corpus::Reason;

const PAGES_MAX: usize = 20_000;

/// The text of all pages.
pub fn read(source: &[u8]) -> Result<String, Refused> {
    let document = load(source)?;
    let pages = document.get_pages();
    if pages.len() > PAGES_MAX {
        return Err(Refused::new(Reason::TooMuch, format!("{} pages", pages.len())));
    }
    let mut text = String::new();
    for &page in pages.keys() {
        let page_text = laid_out(&document, page).or_else(|| plainly(&document, page)).unwrap_or_default();
        append_page(&page_text, &mut text);
        if text.len() as u64 > super::TEXT_BYTES_MAX {
            return Err(Refused::new(Reason::TooMuch, "more text than the limit"));
        }
    }
    Ok(text)
}

fn load(source: &[u8]) -> Result<Document, Refused> {
    let parse = |source: &[u8]| quietly(|| Document::load_mem(source).ok());
    let holds_pages = |document: &Document| !document.get_pages().is_empty();
    let mut document = match parse(source) {
        Some(document) if document.is_encrypted() || holds_pages(&document) => document,
        // The new table knows nothing of keys.
        _ if find(source, b"/Encrypt").is_some() => return Err(Refused::new(Reason::Encrypted, "")),
        _ => with_new_table(source)
            .and_then(|repaired| parse(&repaired))
            .filter(holds_pages)
            .ok_or_else(|| explain(source))?,
    };
    // Many are encrypted under the empty password, only to forbid printing.
    if document.is_encrypted() && quietly(|| document.decrypt("").ok()).is_none() {
        return Err(Refused::new(Reason::Encrypted, ""));
    }
    Ok(document)
}

/// Why a file that begins as a PDF cannot be loaded.
fn explain(source: &[u8]) -> Refused {
    let tail = &source[source.len().saturating_sub(2048)..];
    let holds = |needle: &[u8]| find(tail, needle).is_some();
    if !holds(b"%%EOF") && !holds(b"startxref") {
        return Refused::new(Reason::Truncated, "its end is missing");
    }
    Refused::new(Reason::Malformed, "its structure cannot be read")
}

fn laid_out(document: &Document, page: u32) -> Option<String> {
    quietly(|| {
        let mut lines = Lines::default();
        output_doc_page(document, &mut lines, page).ok()?;
        Some(lines.text)
    })
    .filter(|text| !text.trim().is_empty())
}

fn plainly(document: &Document, page: u32) -> Option<String> {
    quietly(|| document.extract_text(&[page]).ok())
}

/// Whether a hyphen at the end of `text` only stands there because the line ended.
fn is_cut(text: &str, next_line: &str) -> bool {
    let mut last = text.chars().rev();
    last.next() == Some('-')
        && last.next().is_some_and(char::is_lowercase)
        && next_line.starts_with(char::is_lowercase)
}

/// Both libraries panic on pages that they do not understand; that costs the page, not the document.
fn quietly<T>(read: impl FnOnce() -> Option<T>) -> Option<T> {
    std::panic::catch_unwind(AssertUnwindSafe(read)).ok().flatten()
}

/// Sets the glyphs of a page in lines. Distances are in units of the glyph's size, along its base line and
/// across it, so that turned text reads like any other.
#[derive(Default)]
struct Lines {
    text: String,
    /// Where the glyph before ended.
    end: (f64, f64),
    /// The next glyph begins a string: only there can a space or a line's end be meant.
    at_string_start: bool,
}

/// A gap that is a space. A font's own space has 0.2 to 0.3; kerning moves letters by less than 0.1.
const SPACE_GAP: f64 = 0.12;
const UNKNOWN_WIDTH: f64 = 0.6;
const LINE_STEP: f64 = 0.5;
const PARAGRAPH_STEP: f64 = 1.6;

impl OutputDev for Lines {
    fn begin_page(
        &mut self,
        _: u32,
        _: &MediaBox,
        _: Option<(f64, f64, f64, f64)>,
    ) -> Result<(), OutputError> {
        Ok(())
    }

    fn end_page(&mut self) -> Result<(), OutputError> {
        Ok(())
    }

    fn output_character(
        &mut self,
        place: &Transform,
        width: f64,
        spacing: f64,
        font_size: f64,
        letter: &str,
    ) -> Result<(), OutputError> {
        let along = place.m11.hypot(place.m12);
        let size = (place.m11 * place.m22 - place.m12 * place.m21).abs().sqrt() * font_size.abs();
        let (x, y) = (place.m31, place.m32);
        if along > 0.0 && size > 0.0 {
            let (right, up) = (place.m11 / along, place.m12 / along);
            if self.at_string_start && !self.text.is_empty() {
                let (dx, dy) = (x - self.end.0, y - self.end.1);
                let gap = (dx * right + dy * up) / size;
                let step = (dy * right - dx * up).abs() / size;
                self.separate(gap, step, letter);
            }
            // A font whose widths cannot be read gives none; letters take about this much.
            let width = if width == 0.0 && !letter.trim().is_empty() { UNKNOWN_WIDTH } else { width };
            let advance = (width * font_size + spacing) * along;
            self.end = (x + advance * right, y + advance * up);
        }
        self.at_string_start = false;
        self.text.push_str(letter);
        Ok(())
    }

    fn begin_word(&mut self) -> Result<(), OutputError> {
        self.at_string_start = true;
        Ok(())
    }

    fn end_word(&mut self) -> Result<(), OutputError> {
        Ok(())
    }

    fn end_line(&mut self) -> Result<(), OutputError> {
        Ok(())
    }
}

impl Lines {
    fn separate(&mut self, gap: f64, step: f64, letter: &str) {
        if step > PARAGRAPH_STEP {
            self.text.push_str("\n\n");
        } else if step > LINE_STEP && gap < SPACE_GAP {
            self.text.push('\n');
        } else if !(-1.0..=SPACE_GAP).contains(&gap) && !self.text.ends_with([' ', '\n']) && letter != " " {
            self.text.push(' ');
        }
    }
}

/// The file with a new table of objects behind it, made by looking for every object there is; `None` where
/// there is no catalogue among them.
fn with_new_table(source: &[u8]) -> Option<Vec<u8>> {
    let mut objects = std::collections::BTreeMap::new();
    let mut catalogue = None;
    let mut at = 0;
    while let Some(found) = find(&source[at..], b" obj") {
        let end = at + found;
        if let Some((number, from)) = object_head(source, end) {
            objects.insert(number, from);
            let body = &source[end..source.len().min(end + 512)];
            let body = &body[..find(body, b"endobj").unwrap_or(body.len())];
            if find(body, b"/Catalog").is_some() {
                catalogue = Some(number);
            }
        }
        at = end + 4;
    }
    let root = catalogue?;
    let mut repaired = source.to_vec();
    let table_at = repaired.len() + 1;
    repaired.extend_from_slice(b"\nxref\n0 1\n0000000000 65535 f \n");
    for (number, from) in &objects {
        repaired.extend_from_slice(format!("{number} 1\n{from:010} 00000 n \n").as_bytes());
    }
    let size = objects.keys().last().map_or(1, |last| last + 1);
    let trailer = format!("trailer\n<< /Size {size} /Root {root} 0 R >>\nstartxref\n{table_at}\n%%EOF\n");
    repaired.extend_from_slice(trailer.as_bytes());
    Some(repaired)
}

/// The object's number, and where its head begins, when `12 0` stands before ` obj` at `end`.
fn object_head(source: &[u8], end: usize) -> Option<(u32, usize)> {
    let digits_before = |end: usize| {
        let digits = source[..end].iter().rev().take_while(|byte| byte.is_ascii_digit()).take(10).count();
        (digits > 0).then_some(end - digits)
    };
    let generation = digits_before(end)?;
    let number_end = generation.checked_sub(1).filter(|&at| source[at] == b' ')?;
    let from = digits_before(number_end)?;
    let number = std::str::from_utf8(&source[from..number_end]).ok()?.parse().ok()?;
    Some((number, from))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// A page's lines without the margins that layout leaves, words rejoined that a line's end had cut.
fn append_page(page: &str, text: &mut String) {
    if page.trim().is_empty() {
        return;
    }
    if !text.is_empty() {
        text.push_str("\n\n");
    }
    let mut empty_lines = 0;
    let mut first = true;
    for line in page.trim().lines().map(str::trim) {
        if line.is_empty() {
            empty_lines += 1;
            continue;
        }
        if !first && empty_lines == 0 && is_cut(text, line) {
            text.pop();
        } else if !first {
            text.push_str(if empty_lines > 0 { "\n\n" } else { "\n" });
        }
        (first, empty_lines) = (false, 0);
        text.push_str(line);
    }
}
