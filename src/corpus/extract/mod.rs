//! Turning a file's bytes into text: what it is is decided by its content, its name only helps where content
//! cannot tell (a table from prose with commas). One file here per format. Everything in this module meets
//! hostile bytes and runs in the cage; it opens nothing and keeps nothing.

mod detect;
mod encoding;
mod text;

use serde::{Deserialize, Serialize};

use super::{Format, Reason, refusal::Refused};

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

impl Piece {
    /// A file that is one document.
    pub fn whole(format: Format, text: String) -> Self {
        Self { format, row: None, subjects: Vec::new(), text }
    }
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
pub type Sink<'s> = &'s mut dyn FnMut(Event) -> Result<(), Refused>;

/// Reads `source` and hands every document in it to `sink`.
///
/// # Errors
/// Why nothing, or nothing more, was taken from it.
pub fn extract(source: Vec<u8>, options: &Options, sink: Sink) -> Result<Format, Refused> {
    if source.is_empty() {
        return Err(Refused::new(Reason::Empty, ""));
    }
    let mut counted = Counted { sink, bytes: 0 };
    let format = match detect::detect(&source, options)? {
        detect::Kind::Text => text::read(source, &mut |event| counted.pass(event)).map(|()| Format::Txt)?,
    };
    Ok(format)
}

/// Keeps the output within its limit.
struct Counted<'s> {
    sink: Sink<'s>,
    bytes: u64,
}

impl Counted<'_> {
    fn pass(&mut self, event: Event) -> Result<(), Refused> {
        if let Event::Piece(piece) = &event {
            self.bytes += piece.text.len() as u64;
            if self.bytes > TEXT_BYTES_MAX {
                return Err(Refused::new(
                    Reason::TooMuch,
                    format!("more than {TEXT_BYTES_MAX} bytes of text"),
                ));
            }
        }
        (self.sink)(event)
    }
}
