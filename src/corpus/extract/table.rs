//! Tables: CSV and its relatives. Where a column holds text, each row is a document; otherwise the file is one.

use csv::{ReaderBuilder, StringRecord};

use super::{
    Event, Options, Piece, Refused, Sink,
    rows::{self, Columns},
};
use crate::corpus::{Format, Reason};

const DELIMITERS: [u8; 4] = *b",;\t|";
/// Rows that are looked at to tell a table from prose.
const SAMPLE_ROWS: usize = 20;

/// The delimiter of a table; `None` where the text is none. `cut` says that `head` may end within a row.
pub fn delimiter(head: &str, cut: bool, options: &Options) -> Option<u8> {
    let is_named_so = matches!(options.extension.as_str(), "csv" | "tsv" | "tab");
    let fits =
        |&delimiter: &u8| columns(head, cut, delimiter, is_named_so).map(|columns| (columns, delimiter));
    let best = DELIMITERS.iter().filter_map(fits).max_by_key(|&(columns, delimiter)| {
        // The more columns the better; a comma where two delimiters explain as much.
        (columns, std::cmp::Reverse(delimiter))
    });
    match best {
        Some((_, delimiter)) => Some(delimiter),
        // One column is a table too, when its name says so.
        None if is_named_so => Some(b','),
        None => None,
    }
}

/// How many columns `delimiter` cuts the text into, where it does so evenly under a header.
fn columns(head: &str, cut: bool, delimiter: u8, is_named_so: bool) -> Option<usize> {
    let mut reader = reader(delimiter).from_reader(head.as_bytes());
    let mut rows: Vec<StringRecord> = reader.records().take(SAMPLE_ROWS).collect::<Result<_, _>>().ok()?;
    if cut && rows.len() > 1 && rows.len() < SAMPLE_ROWS {
        rows.pop();
    }
    let header = rows.first()?;
    let even = rows.iter().all(|row| row.len() == header.len());
    let is_header = |cell: &str| !cell.trim().is_empty() && cell.len() <= 64 && !cell.contains(['.', '\n']);
    let enough = if is_named_so { rows.len() >= 2 } else { rows.len() >= 3 && header.iter().all(is_header) };
    (header.len() >= 2 && enough && (even || is_named_so)).then_some(header.len())
}

fn reader(delimiter: u8) -> ReaderBuilder {
    let mut builder = ReaderBuilder::new();
    builder.delimiter(delimiter).has_headers(false).flexible(true);
    builder
}

/// Hands the rows over, or the file as one document.
pub fn read(text: String, delimiter: u8, options: &Options, sink: &mut Sink) -> Result<(), Refused> {
    let mut rows = reader(delimiter).from_reader(text.as_bytes()).into_records();
    let header = match rows.next() {
        Some(Ok(header)) => header,
        Some(Err(error)) => return Err(Refused::new(Reason::Malformed, row_words(&error))),
        None => return Err(Refused::new(Reason::Empty, "no row")),
    };
    let names: Vec<String> =
        header.iter().map(|name| name.trim_start_matches('\u{FEFF}').to_owned()).collect();
    let Some(chosen) = rows::choose(&names, options)? else {
        drop(rows);
        let piece = Piece { format: Format::Csv, row: None, subjects: Vec::new(), text };
        return sink(Event::Piece(piece));
    };
    let places = Places::new(&names, &chosen);
    for (number, row) in (1u64..).zip(rows) {
        sink(match row {
            Ok(row) if row.len() != names.len() => {
                row_refused(number, format!("{} cells under {} column names", row.len(), names.len()))
            }
            Ok(row) => places.piece(number, &row),
            Err(error) => row_refused(number, row_words(&error)),
        })?;
    }
    Ok(())
}

/// Where in a row the chosen columns stand.
struct Places {
    text: Vec<usize>,
    subject: Option<usize>,
}

impl Places {
    fn new(names: &[String], chosen: &Columns) -> Self {
        let place = |wanted: &String| names.iter().position(|name| name == wanted);
        Self {
            text: chosen.text.iter().filter_map(place).collect(),
            subject: chosen.subject.as_ref().and_then(place),
        }
    }

    fn piece(&self, number: u64, row: &StringRecord) -> Event {
        let cells: Vec<&str> =
            self.text.iter().filter_map(|&at| row.get(at)).filter(|cell| !cell.trim().is_empty()).collect();
        let subject = self.subject.and_then(|at| row.get(at)).unwrap_or_default();
        Event::Piece(Piece {
            format: Format::Csv,
            row: Some(number),
            subjects: rows::subjects(subject),
            text: cells.join("\n\n"),
        })
    }
}

fn row_refused(row: u64, detail: String) -> Event {
    Event::RowRefused { row, refused: Refused::new(Reason::Malformed, detail).within(Format::Csv) }
}

/// What is wrong with a row, without quoting it.
fn row_words(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::Utf8 { .. } => "not UTF-8".to_owned(),
        csv::ErrorKind::UnequalLengths { len, expected_len, .. } => {
            format!("{len} cells under {expected_len} column names")
        }
        _ => "not a row of a table".to_owned(),
    }
}
