//! Turning a file's bytes into text: what it is is decided by its content, its name only helps where content
//! cannot tell (a table from prose with commas). One file here per format. Everything in this module meets
//! hostile bytes and runs in the cage; it opens nothing and keeps nothing.

mod detect;
mod docx;
mod encoding;
mod html;
mod json;
mod markdown;
mod office;
mod pdf;
mod rows;
mod table;

use serde::{Deserialize, Serialize};

use super::{Format, Reason, clean, refusal::Refused};
use detect::Kind;

/// A file larger than this is not read.
pub const SOURCE_BYTES_MAX: u64 = 128 << 20;
/// All text of one file together; above it the file is refused as one that unfolds without end.
pub const TEXT_BYTES_MAX: u64 = 256 << 20;

/// What a user can say about how a file is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Columns of a table or fields of JSON lines that hold the text, joined by an empty line. Empty: look
    /// for one of the usual names.
    pub text_fields: Vec<String>,
    /// Column or field that says whom a row concerns.
    pub subject_field: Option<String>,
    /// The file name's extension, in lower case, without the dot.
    pub extension: String,
}

/// One document found in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    pub format: Format,
    /// Which row of the file it is, from 1; `None` where the file is one document.
    pub row: Option<u64>,
    pub subjects: Vec<String>,
    #[serde(skip)]
    pub text: String,
}

/// What a file gives, piece by piece, while it is read.
pub enum Event {
    Piece(Piece),
    /// One row that was refused; the others go on.
    RowRefused {
        row: u64,
        refused: Refused,
    },
}

/// Where the events go. `Err` ends the reading.
pub type Sink<'s> = dyn FnMut(Event) -> Result<(), Refused> + 's;

/// Reads `source` and hands every document in it to `sink`.
///
/// # Errors
/// Why nothing, or nothing more, was taken from it.
pub fn extract(source: Vec<u8>, options: &Options, sink: &mut Sink) -> Result<Format, Refused> {
    if source.is_empty() {
        return Err(Refused::new(Reason::Empty, "no bytes"));
    }
    let mut text_bytes = 0;
    // What holds for every text that leaves here, whatever it was read from.
    let mut finish = |event| {
        let Event::Piece(mut piece) = event else { return sink(event) };
        piece.text = clean::plain(piece.text);
        text_bytes += piece.text.len() as u64;
        if text_bytes > TEXT_BYTES_MAX {
            return Err(Refused::new(Reason::TooMuch, format!("more than {TEXT_BYTES_MAX} bytes of text")));
        }
        match (piece.row, piece.text.trim().is_empty()) {
            (None, true) => Err(no_text(piece.format)),
            (Some(row), true) => {
                sink(Event::RowRefused { row, refused: no_text(piece.format).within(piece.format) })
            }
            (_, false) => sink(Event::Piece(piece)),
        }
    };
    let kind = detect::detect(source, options)?;
    let format = kind.format();
    let read = match kind {
        Kind::Pdf(source) => pdf::read(&source).and_then(|text| finish(whole(format, text))),
        Kind::Docx(package) => docx::read(package).and_then(|text| finish(whole(format, text))),
        Kind::Html(text) => finish(whole(format, html::to_text(&text))),
        Kind::Markdown(text) => finish(whole(format, markdown::to_text(&text))),
        Kind::Table(text, delimiter) => table::read(text, delimiter, options, &mut finish),
        Kind::Json(text) => json::read(text, options, &mut finish),
        Kind::Text(text) => finish(whole(format, text)),
    };
    read.map(|()| format).map_err(|refused| refused.within(format))
}

fn whole(format: Format, text: String) -> Event {
    Event::Piece(Piece { format, row: None, subjects: Vec::new(), text })
}

fn no_text(format: Format) -> Refused {
    match format {
        Format::Pdf => Refused::new(Reason::NoText, "its pages are images, or empty"),
        Format::Txt | Format::Csv | Format::Jsonl => Refused::new(Reason::Empty, "white space alone"),
        Format::Html | Format::Md | Format::Docx => Refused::new(Reason::NoText, ""),
    }
}

#[cfg(test)]
mod tests;
