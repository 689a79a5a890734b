//! Standard output: pages for people, JSON for scripts, tables whose columns line up.
//!
//! A reader that goes away (`| head`) is no failure: the rest is dropped and the work goes on to its end.

use std::{
    fmt::Display,
    io::{ErrorKind, Write},
};

use serde::Serialize;

use crate::base::{Context, Result};

#[derive(Debug)]
pub struct Screen {
    json: bool,
}

impl Screen {
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    pub fn is_json(&self) -> bool {
        self.json
    }

    /// One line of the result.
    pub fn line(&self, text: impl Display) -> Result<()> {
        written(writeln!(std::io::stdout().lock(), "{text}"))
    }

    /// A piece of the result that is still growing: text as a model says it.
    pub fn piece(&self, text: &str) -> Result<()> {
        let shown: String =
            text.chars().map(|letter| if letter == '\n' { letter } else { shown(letter) }).collect();
        let mut out = std::io::stdout().lock();
        written(out.write_all(shown.as_bytes()).and_then(|()| out.flush()))
    }

    /// One JSON document on one line.
    pub fn json(&self, value: &impl Serialize) -> Result<()> {
        self.line(serde_json::to_string(value).context("writing JSON")?)
    }

    /// The result as JSON if it was asked for, else as the page that `human` draws.
    pub fn show<T: Serialize>(&self, value: &T, human: impl FnOnce(&Self, &T) -> Result<()>) -> Result<()> {
        if self.json { self.json(value) } else { human(self, value) }
    }

    /// A list: one JSON document a line, or a table.
    pub fn rows<T: Serialize, const N: usize>(
        &self,
        rows: &[T],
        headings: [&str; N],
        cells: impl Fn(&T) -> [String; N],
    ) -> Result<()> {
        if self.json {
            return rows.iter().try_for_each(|row| self.json(row));
        }
        let mut table = Table::new(headings);
        rows.iter().for_each(|row| table.row(cells(row)));
        self.table(&table)
    }

    pub fn table(&self, table: &Table) -> Result<()> {
        table.lines().iter().try_for_each(|line| self.line(line))
    }
}

fn written(outcome: std::io::Result<()>) -> Result<()> {
    match outcome {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.context("writing to standard output"),
    }
}

/// Rows under a heading; a column of numbers is set to the right.
#[derive(Debug, Default)]
pub struct Table {
    headings: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new<const N: usize>(headings: [&str; N]) -> Self {
        Self { headings: headings.map(str::to_owned).to_vec(), rows: Vec::new() }
    }

    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.headings.len(), "a cell for each heading");
        self.rows.push(cells.map(|cell| printable(&cell)).to_vec());
    }

    fn lines(&self) -> Vec<String> {
        let widths: Vec<usize> = (0..self.headings.len())
            .map(|column| {
                let cells = self.rows.iter().map(|row| &row[column]).chain([&self.headings[column]]);
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        let right: Vec<bool> = (0..self.headings.len())
            .map(|column| !self.rows.is_empty() && self.rows.iter().all(|row| is_number(&row[column])))
            .collect();
        std::iter::once(&self.headings).chain(&self.rows).map(|row| lay_out(row, &widths, &right)).collect()
    }
}

fn lay_out(row: &[String], widths: &[usize], right: &[bool]) -> String {
    let cells = row.iter().zip(widths).zip(right).map(|((cell, &width), &right)| {
        if right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
    });
    cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
}

fn is_number(cell: &str) -> bool {
    cell.is_empty() || cell.starts_with(|first: char| first.is_ascii_digit() || first == '-')
}

/// A name out of somebody's file system must not move the cursor or forge a line, nor must a model's text.
pub fn printable(text: &str) -> String {
    text.chars().map(shown).collect()
}

fn shown(letter: char) -> char {
    match letter {
        '\t' => ' ',
        _ if letter.is_control() => '\u{FFFD}',
        _ => letter,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_numbers_stand_to_the_right() {
        let mut table = Table::new(["name", "bytes", "state"]);
        table.row(["é.txt".into(), "1200".into(), "new".into()]);
        table.row(["a\x1b[2J\nb".into(), "7".into(), "unchanged".into()]);
        assert_eq!(
            table.lines(),
            ["name     bytes  state", "é.txt     1200  new", "a\u{FFFD}[2J\u{FFFD}b      7  unchanged"]
        );
    }

    #[test]
    fn a_reader_that_left_is_no_failure_and_a_full_disk_is() {
        assert!(written(Err(ErrorKind::BrokenPipe.into())).is_ok());
        assert!(written(Err(ErrorKind::StorageFull.into())).is_err());
    }
}
