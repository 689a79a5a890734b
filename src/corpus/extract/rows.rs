//! What tables and JSON lines have in common: which column holds the text, and whom a row concerns.

use super::{Options, Refused};
use crate::corpus::Reason;

/// Columns that are taken for the text where the user names none, in this order.
const USUAL_NAMES: [&str; 9] =
    ["text", "content", "body", "document", "passage", "article", "full_text", "fulltext", "plain_text"];

/// The columns that a file's rows are read by.
pub struct Columns {
    /// Not empty.
    pub text: Vec<String>,
    pub subject: Option<String>,
}

/// Chooses the columns among `present`; `None` where no column holds text, and the file is one document.
///
/// # Errors
/// `Malformed` where the user named a column that is not there.
pub fn choose(present: &[String], options: &Options) -> Result<Option<Columns>, Refused> {
    let find = |wanted: &str| present.iter().find(|name| name.trim().eq_ignore_ascii_case(wanted)).cloned();
    let named = |wanted: &String| {
        find(wanted.trim()).ok_or_else(|| {
            Refused::new(Reason::Malformed, format!("it has no column or field named '{wanted}'"))
        })
    };
    let text: Vec<String> = if options.text_fields.is_empty() {
        USUAL_NAMES.iter().find_map(|name| find(name)).into_iter().collect()
    } else {
        options.text_fields.iter().map(named).collect::<Result<_, _>>()?
    };
    let subject = options.subject_field.as_ref().map(named).transpose()?;
    match text.is_empty() {
        true if subject.is_some() => Err(Refused::new(
            Reason::Malformed,
            "it has a subject in each row, and no known text column: name one",
        )),
        true => Ok(None),
        false => Ok(Some(Columns { text, subject })),
    }
}

/// The subjects that a cell names: one, or several divided by semicolons.
pub fn subjects(cell: &str) -> Vec<String> {
    cell.split(';').map(str::trim).filter(|subject| !subject.is_empty()).map(str::to_owned).collect()
}
